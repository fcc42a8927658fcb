/* SPDX-License-Identifier: Apache-2.0 */
/* A growing byte buffer, always NUL-terminated behind `length`. */
#ifndef PENSTOCK_BUFFER_H
#define PENSTOCK_BUFFER_H

#include <stddef.h>

struct buffer {
	char *data;
	size_t length, capacity;
};

/* Room for `length` more bytes and the NUL; returns where they go. buffer_add and friends do it themselves. */
char *buffer_room(struct buffer *b, size_t length);
void buffer_add(struct buffer *b, const void *data, size_t length);
void buffer_puts(struct buffer *b, const char *text);
void buffer_printf(struct buffer *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* As a JSON string, quotes included. What is not UTF-8 becomes U+FFFD, so that the output always is. */
void buffer_json_string(struct buffer *b, const char *text);
/* Bytes of the UTF-8 character that begins there; 0 when none does. */
size_t utf8_bytes(const unsigned char *text);
char *buffer_take(struct buffer *b); /* the caller frees; never NULL */
void buffer_free(struct buffer *b);

#endif
