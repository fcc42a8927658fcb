/* SPDX-License-Identifier: Apache-2.0 */
#include "api/cli/table.h"

#include <string.h>
#include "agent/base/mem.h"

#define GAP 3

void table_init(struct table *table, size_t columns)
{
	*table = (struct table){.columns = columns};
}

void table_cell(struct table *table, const char *text)
{
	table->cells = list_room(table->cells, table->count, &table->capacity, sizeof(char *));
	char *cell = str_dup(text && *text ? text : "-");
	for (char *at = cell; *at; at++)
		if ((unsigned char)*at < 0x20)
			*at = ' ';
	table->cells[table->count++] = cell;
}

void table_take(struct table *table, struct buffer *text)
{
	table_cell(table, text->data);
	buffer_free(text);
}

/* Code points: wide enough for the names of objects, which are ASCII, and for labels' occasional umlauts. */
static size_t width(const char *text)
{
	size_t points = 0;
	for (; *text; text++)
		points += (*text & 0xc0) != 0x80;
	return points;
}

void table_render(struct table *table, const char *indent, struct buffer *out)
{
	auto_free size_t *widths = mem_array(table->columns, sizeof *widths);
	for (size_t at = 0; at < table->count; at++) {
		size_t wide = width(table->cells[at]);
		if (wide > widths[at % table->columns])
			widths[at % table->columns] = wide;
	}
	for (size_t at = 0; at < table->count; at++) {
		size_t column = at % table->columns;
		if (column == 0)
			buffer_puts(out, indent);
		buffer_puts(out, table->cells[at]);
		if (column + 1 < table->columns)
			buffer_printf(out, "%*s", (int)(widths[column] - width(table->cells[at]) + GAP), "");
		else
			buffer_puts(out, "\n");
		free(table->cells[at]);
	}
	free(table->cells);
	table_init(table, table->columns);
}
