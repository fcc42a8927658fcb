/* SPDX-License-Identifier: Apache-2.0 */
/* Answers that go on: a line for each change of the status, or for each record of a feed. */
#ifndef PENSTOCK_FOLLOW_H
#define PENSTOCK_FOLLOW_H

#include <microhttpd.h>
#include "api/server/server.h"

#define STREAM_STATUS FEED_COUNT /* what is followed: a feed, or this */
#define STREAMS_MAX 256          /* at once; each may hold a chunk that its client does not take */
#define STREAMS_LOCAL 64         /* of them not for clients over TCP: who is on the node can always look */

struct request;
struct stream;
/* Sets the request's answer: a stream, or 429 when there are too many. */
void stream_answer(struct request *request, int what);
void stream_free(struct stream *stream); /* one that was not handed on; NULL is fine */
/* Takes the stream. */
struct MHD_Response *stream_response(struct request *request, struct stream *stream);

#endif
