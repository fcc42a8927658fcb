/* SPDX-License-Identifier: Apache-2.0 */
/* Commands that go on until somebody ends them. */
#ifndef PENSTOCK_CLI_LIVE_H
#define PENSTOCK_CLI_LIVE_H

#include <stdbool.h>
#include <stddef.h>

/* SIGINT, SIGTERM and SIGHUP no longer end the process but make the returned descriptor readable, and end a write that
 * is held up. */
int live_begin(void);
bool live_ended(void); /* by one of them */
/* To standard output, past stdio, which would begin again with what a signal has interrupted. 0 or a negative errno;
 * -EINTR: one of them came before all was written. */
int live_write(const char *data, size_t length);

#endif
