/* SPDX-License-Identifier: Apache-2.0 */
/* Text for people: colours, how wide it is on a terminal, quantities in words. */
#ifndef PENSTOCK_CLI_STYLE_H
#define PENSTOCK_CLI_STYLE_H

#include <stdbool.h>
#include <stddef.h>
#include "agent/base/buffer.h"

enum style { STYLE_PLAIN, STYLE_BOLD, STYLE_DIM, STYLE_RED, STYLE_GREEN, STYLE_YELLOW, STYLE_CYAN, STYLE_REVERSE };

/* "auto" (or NULL), "always", "never". Auto: standard output is a terminal that is not dumb, and NO_COLOR is not set
 * (https://no-color.org). */
bool style_wanted(const char *when);
/* What switches it on; "" for plain. style_end switches everything off. */
const char *style_begin(enum style style);
#define STYLE_END "\033[0m"

/* Columns of a terminal: code points; what style_begin gives takes none. */
size_t text_width(const char *text);
/* Appends at most `width` columns of it, and blanks up to `width` if `fill`. A cut ends with "…". */
void text_fit(struct buffer *out, const char *text, size_t width, bool fill);
/* Appends `width` columns of what is longer: its begin, "…", its end. Plain text only. */
void text_middle(struct buffer *out, const char *text, size_t width);
/* Appends it without control characters: what others named must not talk to the terminal. */
void text_clean(struct buffer *out, const char *text);

/* "812 B", "4.1 kB", "98 MB"; "812", "4.1k", "98M"; "0.40 ms", "1.2 s", "3m12s", "2h05m", "3d04h". */
void text_bytes(struct buffer *out, double bytes);
void text_count(struct buffer *out, double count);
void text_duration(struct buffer *out, double seconds);

#endif
