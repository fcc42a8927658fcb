/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/base/gzip.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <zlib.h>

#define GZIP_WINDOW (MAX_WBITS + 16) /* zlib's way to say: a gzip header, no other */
#define OUT_PIECE (64u << 10)
#define IN_PIECE (1u << 30) /* zlib counts in 32 bits */
#define LEVEL 2

/* Hands zlib the next piece of input; false when all of it has been taken. */
static bool feed(z_stream *stream, size_t *left)
{
	if (!stream->avail_in) {
		stream->avail_in = *left < IN_PIECE ? *left : IN_PIECE;
		*left -= stream->avail_in;
	}
	return stream->avail_in;
}

/* One piece of output. Returns zlib's code. */
static int inflate_piece(z_stream *stream, struct buffer *out)
{
	stream->next_out = (uint8_t *)buffer_room(out, OUT_PIECE);
	stream->avail_out = OUT_PIECE;
	int code = inflate(stream, Z_NO_FLUSH);
	out->length += OUT_PIECE - stream->avail_out;
	out->data[out->length] = 0;
	return code;
}

static int inflate_all(z_stream *stream, size_t left, size_t limit, struct buffer *out, struct error *e)
{
	size_t before = out->length;
	for (;;) {
		bool more = feed(stream, &left);
		int code = inflate_piece(stream, out);
		if (out->length - before > limit)
			return error_set(
				e, ERROR_TOO_LARGE, EFBIG, NULL, "the body is larger than %zu bytes after decompression", limit);
		if (code == Z_STREAM_END) {
			if (!feed(stream, &left))
				return 0;
			inflateReset(stream); /* the next member */
		} else if (code == Z_BUF_ERROR && !more) {
			return error_set(e, ERROR_SYNTAX, EINVAL, NULL, "the gzip stream is cut off");
		} else if (code == Z_MEM_ERROR) {
			abort();
		} else if (code != Z_OK) {
			return error_set(
				e, ERROR_SYNTAX, EINVAL, NULL, "the gzip stream is damaged: %s", stream->msg ? stream->msg : "no end");
		}
	}
}

int gzip_inflate(const void *data, size_t length, size_t limit, struct buffer *out, struct error *e)
{
	z_stream stream = {.next_in = (uint8_t *)data};
	size_t before = out->length;
	if (inflateInit2(&stream, GZIP_WINDOW) != Z_OK)
		abort();
	int result = inflate_all(&stream, length, limit, out, e);
	inflateEnd(&stream);
	if (result < 0) {
		out->length = before;
		if (out->data)
			out->data[before] = 0;
	}
	return result;
}

void gzip_deflate(const void *data, size_t length, struct buffer *out)
{
	z_stream stream = {.next_in = (uint8_t *)data};
	if (deflateInit2(&stream, LEVEL, Z_DEFLATED, GZIP_WINDOW, 8, Z_DEFAULT_STRATEGY) != Z_OK)
		abort();
	int code;
	do {
		feed(&stream, &length);
		stream.next_out = (uint8_t *)buffer_room(out, OUT_PIECE);
		stream.avail_out = OUT_PIECE;
		code = deflate(&stream, length ? Z_NO_FLUSH : Z_FINISH);
		out->length += OUT_PIECE - stream.avail_out;
		out->data[out->length] = 0;
	} while (code != Z_STREAM_END);
	deflateEnd(&stream);
}
