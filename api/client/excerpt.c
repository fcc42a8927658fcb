/* SPDX-License-Identifier: Apache-2.0 */
/* A line of a file and what in it is meant, as compilers show it. */
#include <stdbool.h>
#include <string.h>
#include "api/client/yaml_json.h"

#define BEFORE 60 /* characters of a long line */
#define SHOWN 90

static bool begins_character(char c)
{
	return ((unsigned char)c & 0xc0) != 0x80;
}

static const char *line_find(const char *text, size_t length, size_t line, size_t *ret)
{
	const char *end = text + length, *stop;
	for (; line > 1 && (stop = memchr(text, '\n', (size_t)(end - text))); line--)
		text = stop + 1;
	if (line > 1)
		return NULL;
	stop = memchr(text, '\n', (size_t)(end - text));
	*ret = (size_t)((stop ? stop : end) - text);
	return text;
}

/* `count` characters on, within the line. */
static const char *skip(const char *at, const char *end, size_t count)
{
	while (at < end && count--)
		for (at++; at < end && !begins_character(*at);)
			at++;
	return at;
}

void place_excerpt(const char *text, size_t length, const struct place *place, const char *indent, struct buffer *out)
{
	size_t width, shown = SHOWN;
	const char *at = place->line ? line_find(text, length, place->line, &width) : NULL;
	if (!at || !place->column)
		return;
	const char *end = at + width;
	size_t column = place->column - 1, from = column > BEFORE ? column - BEFORE : 0;
	at = skip(at, end, from);
	const char *stop = skip(at, end, shown);
	buffer_printf(out, "%s%5zu | ", indent, place->line);
	for (const char *c = at; c < stop; c++)
		buffer_add(out, (unsigned char)*c < 0x20 || *c == 0x7f ? " " : c, 1);
	while (out->data[out->length - 1] == ' ')
		out->data[--out->length] = 0;
	buffer_printf(out, "\n%s      | %*s^", indent, (int)(column - from), "");
	for (size_t more = 1; more < place->width && column - from + more < shown; more++)
		buffer_puts(out, "~");
	buffer_puts(out, "\n");
}
