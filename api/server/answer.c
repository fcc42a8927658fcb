/* SPDX-License-Identifier: Apache-2.0 */
#include "api/server/answer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include "agent/base/gzip.h"
#include "agent/base/mem.h"
#include "api/server/audit.h"
#include "api/server/follow.h"
#include "api/server/refusal.h"
#include "api/server/state.h"
#include "api/server/ui.h"

#define COMPRESS_FROM 1024
#define WINDOW (64u << 10) /* a text that ends within it is sent whole, with its length */

struct answer *answer_new(int status, const char *content_type)
{
	struct answer *answer = mem_alloc(sizeof(*answer));
	answer->status = status;
	answer->content_type = content_type;
	return answer;
}

static void source_free(struct text_source *source)
{
	if (source)
		source->free(source);
}

void answer_free(struct answer *answer)
{
	if (!answer)
		return;
	buffer_free(&answer->text);
	source_free(answer->source);
	stream_free(answer->stream);
	free(answer->allow);
	free(answer->why);
	free(answer);
}

void answer_set(struct request *request, struct answer *answer)
{
	answer_free(request->answer);
	request->answer = answer;
}

/* ---- a text that is made while it is sent ---- */

struct pump {
	struct request *request; /* outlives its answer */
	struct text_source *source;
	struct buffer ready; /* made, and from `sent` on not sent yet */
	size_t sent;
	bool ended; /* the source, and with it the compression */
	bool compress;
	z_stream zip;
	uint64_t total;
};

static void pump_compress(struct pump *pump, const struct buffer *text)
{
	pump->zip.next_in = (unsigned char *)text->data;
	pump->zip.avail_in = (unsigned)text->length;
	do {
		pump->zip.next_out = (unsigned char *)buffer_room(&pump->ready, 16384);
		pump->zip.avail_out = 16384;
		deflate(&pump->zip, pump->ended ? Z_FINISH : Z_NO_FLUSH);
		pump->ready.length += 16384 - pump->zip.avail_out;
	} while (!pump->zip.avail_out);
}

/* Makes text until some is ready or the source ends. */
static void pump_fill(struct pump *pump)
{
	struct buffer text = {0};
	pump->ready.length = pump->sent = 0;
	while (!pump->ready.length && !pump->ended) {
		struct buffer *out = pump->compress ? &text : &pump->ready;
		while (!pump->ended && out->length < WINDOW)
			pump->ended = !pump->source->next(pump->source, out);
		if (pump->compress)
			pump_compress(pump, &text);
		text.length = 0;
	}
	buffer_free(&text);
}

static ssize_t pump_read(void *context, uint64_t position, char *out, size_t max)
{
	struct pump *pump = context;
	(void)position;
	if (pump->sent == pump->ready.length)
		pump_fill(pump);
	size_t length = pump->ready.length - pump->sent;
	if (!length)
		return MHD_CONTENT_READER_END_OF_STREAM;
	if (length > max)
		length = max;
	memcpy(out, pump->ready.data + pump->sent, length);
	pump->sent += length;
	pump->total += length;
	struct request *request = pump->request;
	connection_deadline(
		&request->server->connections, request->connection, request->began, CONNECTION_GRACE_SECONDS, pump->total);
	return (ssize_t)length;
}

static void pump_free(void *context)
{
	struct pump *pump = context;
	source_free(pump->source);
	buffer_free(&pump->ready);
	if (pump->compress)
		deflateEnd(&pump->zip);
	free(pump);
}

/* Takes the source and what of its text is there already. */
static struct MHD_Response *pump_response(struct request *request, struct text_source *source, struct buffer *text)
{
	struct pump *pump = mem_alloc(sizeof(*pump));
	pump->request = request;
	pump->source = source;
	pump->compress =
		request->accepts_gzip && deflateInit2(&pump->zip, 1, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK;
	if (pump->compress)
		pump_compress(pump, text);
	else
		buffer_add(&pump->ready, text->data, text->length);
	buffer_free(text);
	struct MHD_Response *response =
		MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, WINDOW, pump_read, pump, pump_free);
	if (!response)
		pump_free(pump);
	else if (pump->compress)
		MHD_add_response_header(response, "Content-Encoding", "gzip");
	return response;
}

/* ---- a text that is there ---- */

static struct MHD_Response *text_response(struct request *request, struct answer *answer)
{
	struct buffer zipped = {0};
	const char *text = answer->fixed ? answer->fixed : answer->text.data;
	size_t length = answer->fixed ? strlen(answer->fixed) : answer->text.length;
	bool compress = request->accepts_gzip && length > COMPRESS_FROM;
	struct MHD_Response *response;
	if (compress) {
		gzip_deflate(text, length, &zipped);
		buffer_free(&answer->text);
		length = zipped.length;
		response = MHD_create_response_from_buffer(length, buffer_take(&zipped), MHD_RESPMEM_MUST_FREE);
	} else if (answer->fixed) {
		response = MHD_create_response_from_buffer(length, (void *)(uintptr_t)text, MHD_RESPMEM_PERSISTENT);
	} else {
		response = MHD_create_response_from_buffer(length, buffer_take(&answer->text), MHD_RESPMEM_MUST_FREE);
	}
	if (response && compress)
		MHD_add_response_header(response, "Content-Encoding", "gzip");
	return response;
}

static struct MHD_Response *source_response(struct request *request, struct answer *answer)
{
	bool more = true;
	while (more && answer->text.length < WINDOW)
		more = answer->source->next(answer->source, &answer->text);
	if (more)
		return pump_response(request, steal_pointer(&answer->source), &answer->text);
	return text_response(request, answer);
}

static void headers_add(struct MHD_Response *response, const struct answer *answer)
{
	char number[16];
	if (answer->content_type) {
		MHD_add_response_header(response, "Content-Type", answer->content_type);
		MHD_add_response_header(response, "Vary", "Accept-Encoding");
	}
	if (answer->etag[0])
		MHD_add_response_header(response, "ETag", answer->etag);
	if (answer->location)
		MHD_add_response_header(response, "Location", answer->location);
	if (answer->allow)
		MHD_add_response_header(response, "Allow", answer->allow);
	if (answer->authenticate)
		MHD_add_response_header(response, "WWW-Authenticate", answer->authenticate);
	if (answer->accept_encoding)
		MHD_add_response_header(response, "Accept-Encoding", answer->accept_encoding);
	if (answer->close)
		MHD_add_response_header(response, "Connection", "close");
	if (answer->retry_after) {
		snprintf(number, sizeof(number), "%u", answer->retry_after);
		MHD_add_response_header(response, "Retry-After", number);
	}
}

enum MHD_Result answer_queue(struct request *request)
{
	struct answer *answer = request->answer;
	struct MHD_Response *response;
	size_t length = answer->text.length;
	/* Written down before anybody learns of it. */
	if (!request->submitted && !request->listener->public && audit_wants(request))
		audit_refused(request);
	if (answer->stream)
		response = stream_response(request, steal_pointer(&answer->stream));
	else if (answer->source)
		response = source_response(request, answer);
	else
		response = text_response(request, answer);
	if (!response)
		return MHD_NO;
	headers_add(response, answer);
	if (ui_route(request->route))
		ui_headers(response);
	request->queued = true;
	connection_deadline(&request->server->connections, request->connection, clock_now(),
		request->followed ? 0 : CONNECTION_GRACE_SECONDS, length);
	enum MHD_Result result = response_queue(request->http, (unsigned)answer->status, response);
	MHD_destroy_response(response);
	return result;
}
