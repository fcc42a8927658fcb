/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/base/buffer.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include "agent/base/mem.h"

char *buffer_room(struct buffer *b, size_t length)
{
	size_t wanted = b->length + length + 1;
	if (wanted > b->capacity) {
		size_t capacity = b->capacity + b->capacity / 2;
		b->capacity = capacity > wanted ? capacity : wanted + 63;
		b->data = mem_resize(b->data, b->capacity, 1);
	}
	return b->data + b->length;
}

void buffer_add(struct buffer *b, const void *data, size_t length)
{
	char *place = buffer_room(b, length);
	if (length)
		memcpy(place, data, length);
	b->length += length;
	b->data[b->length] = 0;
}

void buffer_puts(struct buffer *b, const char *text)
{
	buffer_add(b, text, strlen(text));
}

void buffer_printf(struct buffer *b, const char *format, ...)
{
	va_list arguments;
	char *place = buffer_room(b, 120);
	size_t room = b->capacity - b->length;
	va_start(arguments, format);
	int length = vsnprintf(place, room, format, arguments);
	va_end(arguments);
	if (length < 0)
		abort(); /* a format that is wrong in the source */
	if ((size_t)length >= room) {
		place = buffer_room(b, length);
		va_start(arguments, format);
		vsnprintf(place, (size_t)length + 1, format, arguments);
		va_end(arguments);
	}
	b->length += length;
}

/* Bytes of the UTF-8 sequence at text (RFC 3629: no overlong forms, no surrogates), or 0. Stops at the NUL. */
size_t utf8_bytes(const unsigned char *text)
{
	unsigned char first = text[0], low = 0x80, high = 0xbf;
	size_t length;
	if (first < 0x80)
		return 1;
	if (first >= 0xc2 && first <= 0xdf)
		length = 2;
	else if (first >= 0xe0 && first <= 0xef)
		length = 3;
	else if (first >= 0xf0 && first <= 0xf4)
		length = 4;
	else
		return 0;
	if (first == 0xe0)
		low = 0xa0;
	if (first == 0xed)
		high = 0x9f;
	if (first == 0xf0)
		low = 0x90;
	if (first == 0xf4)
		high = 0x8f;
	if (text[1] < low || text[1] > high)
		return 0;
	for (size_t at = 2; at < length; at++)
		if ((text[at] & 0xc0) != 0x80)
			return 0;
	return length;
}

static void json_escape(struct buffer *b, unsigned char c)
{
	switch (c) {
	case '"':
		buffer_add(b, "\\\"", 2);
		break;
	case '\\':
		buffer_add(b, "\\\\", 2);
		break;
	case '\n':
		buffer_add(b, "\\n", 2);
		break;
	case '\r':
		buffer_add(b, "\\r", 2);
		break;
	case '\t':
		buffer_add(b, "\\t", 2);
		break;
	default:
		buffer_printf(b, "\\u%04x", c);
	}
}

void buffer_json_string(struct buffer *b, const char *text)
{
	const unsigned char *at = (const unsigned char *)text, *plain = at;
	buffer_add(b, "\"", 1);
	while (*at) {
		size_t length = utf8_bytes(at);
		bool c1 = length == 2 && *at == 0xc2 && at[1] < 0xa0; /* a terminal may obey it */
		if (length && !c1 && *at >= 0x20 && *at != '"' && *at != '\\' && *at != 0x7f) {
			at += length;
			continue;
		}
		buffer_add(b, plain, at - plain);
		if (length)
			json_escape(b, c1 ? at[1] : *at);
		else
			buffer_puts(b, "\xef\xbf\xbd");
		plain = at += length ? length : 1;
	}
	buffer_add(b, plain, at - plain);
	buffer_add(b, "\"", 1);
}

char *buffer_take(struct buffer *b)
{
	char *text = b->data ? b->data : mem_alloc(1);
	*b = (struct buffer){0};
	return text;
}

void buffer_free(struct buffer *b)
{
	free(b->data);
	*b = (struct buffer){0};
}
