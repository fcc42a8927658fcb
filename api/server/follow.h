/* SPDX-License-Identifier: Apache-2.0 */
/* GET /v1/status?follow=true: a line now, and one after each change. */
#ifndef PENSTOCK_FOLLOW_H
#define PENSTOCK_FOLLOW_H

#include <microhttpd.h>

struct request;
struct stream;
struct stream *stream_new(struct request *request);
void stream_free(struct stream *stream); /* NULL is fine */
/* Takes the stream. */
struct MHD_Response *stream_response(struct request *request, struct stream *stream);

#endif
