/* SPDX-License-Identifier: Apache-2.0 */
#include "api/cli/table.h"

#include <string.h>
#include "agent/base/mem.h"

#define GAP 3

void table_init(struct table *table, size_t columns)
{
	*table = (struct table){.columns = columns, .gap = GAP};
}

void table_cell(struct table *table, const char *text)
{
	struct buffer clean = {0};
	table->cells = list_room(table->cells, table->count, &table->capacity, sizeof *table->cells);
	text_clean(&clean, text && *text ? text : "-");
	table->cells[table->count++] = (struct cell){.text = buffer_take(&clean)};
}

void table_take(struct table *table, struct buffer *text)
{
	table_cell(table, text->data);
	buffer_free(text);
}

void table_style(struct table *table, enum style style)
{
	table->cells[table->count - 1].style = style;
}

static void widths_measure(const struct table *table, size_t *widths)
{
	for (size_t at = 0; at < table->count; at++) {
		size_t wide = text_width(table->cells[at].text), *width = &widths[at % table->columns];
		if (wide > *width && (!table->widest || wide <= table->widest))
			*width = wide;
	}
}

/* Flexible columns give way, the widest first, as long as any is wider than this. */
#define FLEXIBLE_MIN 16
/* What follows is no reason to cut names further: a longer last cell goes on in the next line. */
#define LAST_MAX 36

static void widths_fit(const struct table *table, size_t *widths, size_t indent)
{
	size_t whole = indent + (table->columns - 1) * table->gap;
	for (size_t at = 0; at < table->columns; at++)
		whole += at + 1 == table->columns && widths[at] > LAST_MAX ? LAST_MAX : widths[at];
	while (whole > table->fit) {
		size_t widest = table->columns;
		for (size_t at = 0; at < table->columns; at++)
			if (table->flexible & 1u << at && (widest == table->columns || widths[at] > widths[widest]))
				widest = at;
		if (widest == table->columns || widths[widest] <= FLEXIBLE_MIN)
			return;
		widths[widest]--;
		whole--;
	}
}

static void cell_put(const struct table *table, const struct cell *cell, size_t width, bool last, struct buffer *out)
{
	size_t wide = text_width(cell->text);
	bool styled = table->colours && cell->style != STYLE_PLAIN;
	if (styled)
		buffer_puts(out, style_begin(cell->style));
	if (table->fit && !last && wide > width) {
		text_middle(out, cell->text, width);
		wide = width;
	} else {
		buffer_puts(out, cell->text);
	}
	if (styled)
		buffer_puts(out, STYLE_END);
	if (last)
		buffer_puts(out, "\n");
	else
		buffer_printf(out, "%*s", (int)((width > wide ? width - wide : 0) + table->gap), "");
}

void table_render(struct table *table, const char *indent, struct buffer *out)
{
	auto_free size_t *widths = mem_array(table->columns, sizeof *widths);
	if (table->widths)
		memcpy(widths, table->widths, table->columns * sizeof *widths);
	widths_measure(table, widths);
	if (table->widths)
		memcpy(table->widths, widths, table->columns * sizeof *widths);
	if (table->fit)
		widths_fit(table, widths, text_width(indent));
	for (size_t at = 0; at < table->count; at++) {
		size_t column = at % table->columns;
		if (column == 0)
			buffer_puts(out, indent);
		cell_put(table, &table->cells[at], widths[column], column + 1 == table->columns, out);
		free(table->cells[at].text);
	}
	free(table->cells);
	table->cells = NULL;
	table->count = table->capacity = 0;
}
