/* SPDX-License-Identifier: Apache-2.0 */
/* GET /v1/status for people. */
#ifndef PENSTOCK_CLI_STATUS_SHOW_H
#define PENSTOCK_CLI_STATUS_SHOW_H

#include <jansson.h>
#include <stdbool.h>
#include "agent/base/buffer.h"

/* What is known of is told in words; members that this program does not know come last, as they are. wide: also what
 * only matters when something is wrong (every map, every trial). */
void status_show(const json_t *status, bool wide, bool colours, struct buffer *out);

#endif
