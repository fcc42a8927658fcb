/* SPDX-License-Identifier: Apache-2.0 */
/* Commands that go on until somebody ends them. */
#ifndef PENSTOCK_CLI_LIVE_H
#define PENSTOCK_CLI_LIVE_H

#include <stdbool.h>

/* SIGINT, SIGTERM and SIGHUP no longer end the process but make the returned descriptor readable, and interrupt a write
 * that is held up (EINTR). */
int live_begin(void);
bool live_ended(void); /* by one of them */

#endif
