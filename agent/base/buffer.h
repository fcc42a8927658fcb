/* SPDX-License-Identifier: Apache-2.0 */
/* A growing byte buffer, always NUL-terminated behind `length`. */
#ifndef PENSTOCK_BUFFER_H
#define PENSTOCK_BUFFER_H

#include <stddef.h>

struct buffer {
	char *data;
	size_t length, capacity;
};

void buffer_add(struct buffer *b, const void *data, size_t length);
void buffer_puts(struct buffer *b, const char *text);
void buffer_printf(struct buffer *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* As a JSON string, quotes included; text must be UTF-8. */
void buffer_json_string(struct buffer *b, const char *text);
char *buffer_take(struct buffer *b); /* the caller frees; never NULL */
void buffer_free(struct buffer *b);

#endif
