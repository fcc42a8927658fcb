/* SPDX-License-Identifier: Apache-2.0 */
/* Two texts, line by line. */
#ifndef PENSTOCK_CLI_COMPARE_H
#define PENSTOCK_CLI_COMPARE_H

#include <stdbool.h>
#include "agent/base/buffer.h"

/* Appends the hunks of a unified diff with three lines of context; nothing when they are equal. Texts end in "\n" or
 * are empty. Beyond a few thousand differences what differs is told as one piece, which is correct and not the
 * shortest. */
void compare_lines(const char *old, const char *new, bool colours, struct buffer *out);

#endif
