/* SPDX-License-Identifier: Apache-2.0 */
/* gzip (RFC 1952) in memory: request bodies in, answers out. */
#ifndef PENSTOCK_GZIP_H
#define PENSTOCK_GZIP_H

#include <stddef.h>
#include "agent/base/buffer.h"
#include "agent/base/error.h"

/*
 * Appends the inflated bytes to out. More than `limit` bytes of output: ERROR_TOO_LARGE, -EFBIG, found without
 * inflating the rest. Not gzip, damaged, cut off or with something behind it: ERROR_SYNTAX, -EINVAL. Several members
 * in a row are one stream, as the RFC says. out is as before on failure.
 */
int gzip_inflate(const void *data, size_t length, size_t limit, struct buffer *out, struct error *e);
/* Appends data as one gzip member; fast rather than small. */
void gzip_deflate(const void *data, size_t length, struct buffer *out);

#endif
