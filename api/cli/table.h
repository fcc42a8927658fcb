/* SPDX-License-Identifier: Apache-2.0 */
/* Columns for people. */
#ifndef PENSTOCK_TABLE_H
#define PENSTOCK_TABLE_H

#include <stddef.h>
#include "agent/base/buffer.h"

struct table {
	size_t columns, count, capacity; /* count and capacity in cells */
	char **cells;
};
void table_init(struct table *table, size_t columns);
/* The next cell, row by row; copied. NULL or "" is shown as "-", a line break as a space. */
void table_cell(struct table *table, const char *text);
/* Takes the buffer's text. */
void table_take(struct table *table, struct buffer *text);
/* Appends the rows, each column as wide as its widest cell, and frees the table. */
void table_render(struct table *table, const char *indent, struct buffer *out);

#endif
