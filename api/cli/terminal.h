/* SPDX-License-Identifier: Apache-2.0 */
/* A terminal's other screen: what was on it before is back when it is left. */
#ifndef PENSTOCK_CLI_TERMINAL_H
#define PENSTOCK_CLI_TERMINAL_H

#include <stdbool.h>
#include <stddef.h>

/* Keys come one by one and are not shown; SIGWINCH and SIGTSTP are heard of. `ends`: a descriptor (live_begin). */
void terminal_enter(int ends);
void terminal_leave(void);

/* Of standard output; what COLUMNS and LINES say, or 100 by 40, when it is none. */
void terminal_size(size_t *columns, size_t *lines);
/* Replaces what is shown by lines that end with '\n', in one write. */
void terminal_show(const char *text);

enum terminal_event { TERMINAL_TIME, TERMINAL_RESIZED, TERMINAL_KEY, TERMINAL_END };
/* Waits for at most `seconds`. A stop by SIGTSTP is one more TERMINAL_RESIZED. */
enum terminal_event terminal_wait(double seconds, int *key);

#endif
