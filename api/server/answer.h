/* SPDX-License-Identifier: Apache-2.0 */
/* Answers: a text that is there, or one that is made while it is sent. Either is compressed for clients that ask. */
#ifndef PENSTOCK_ANSWER_H
#define PENSTOCK_ANSWER_H

#include <stdbool.h>
#include <stdint.h>
#include "agent/base/buffer.h"
#include "api/server/request.h"

struct answer {
	int status;
	const char *content_type; /* NULL: no body */
	struct buffer text;
	const char *fixed;          /* instead of text: lives for ever */
	struct text_source *source; /* instead of text; owned */
	struct stream *stream;      /* instead of text: a status or feed that is followed; owned */
	char etag[ETAG_TEXT_MAX];
	char *allow;
	char *why;                /* a problem's detail, for the audit; may be NULL */
	const char *authenticate; /* WWW-Authenticate */
	const char *location;
	const char *accept_encoding;
	unsigned retry_after; /* seconds */
	bool close;           /* at once: where the next request begins cannot be known */
};

struct answer *answer_new(int status, const char *content_type);
void answer_free(struct answer *answer);
/* The request's answer from here on; a former one is freed. */
void answer_set(struct request *request, struct answer *answer);
/* Hands the answer to libmicrohttpd. */
enum MHD_Result answer_queue(struct request *request);

#endif
