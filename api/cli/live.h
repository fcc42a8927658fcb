/* SPDX-License-Identifier: Apache-2.0 */
/* Commands that go on until somebody ends them. */
#ifndef PENSTOCK_CLI_LIVE_H
#define PENSTOCK_CLI_LIVE_H

#include <stdbool.h>

/* SIGINT, SIGTERM and SIGHUP no longer end the process but make the returned descriptor readable; the second of a kind
 * ends it. A write that is held up (EINTR) ends too. */
int live_begin(void);
bool live_ended(void); /* by one of them */

#endif
