/* SPDX-License-Identifier: Apache-2.0 */
/* Columns for people. */
#ifndef PENSTOCK_TABLE_H
#define PENSTOCK_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include "agent/base/buffer.h"
#include "api/cli/style.h"

struct table {
	size_t columns, count, capacity; /* count and capacity in cells */
	struct cell {
		char *text;
		enum style style;
	} * cells;
	/* Set after table_init where they should be other than that: */
	size_t gap;     /* blanks between columns: 3 */
	size_t widest;  /* a longer cell stands out of its column and widens no other row; 0: any */
	size_t *widths; /* of the columns, kept from render to render: they only grow; NULL: each for itself */
	bool colours;   /* styles are shown: no */
	size_t fit;     /* columns of a terminal: those of `flexible` (bits) shrink to it, and longer cells are cut in their
					   middle; 0: any */
	unsigned flexible;
};
void table_init(struct table *table, size_t columns);
/* The next cell, row by row; copied. NULL or "" is shown as "-", a control character as a blank. */
void table_cell(struct table *table, const char *text);
/* Takes the buffer's text. */
void table_take(struct table *table, struct buffer *text);
/* Of the last cell. */
void table_style(struct table *table, enum style style);
/* Appends the rows, each column as wide as its widest cell, and frees them; what was set stays. */
void table_render(struct table *table, const char *indent, struct buffer *out);

#endif
