/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stream sleeps by suspending its connection inside libmicrohttpd's content reader. `asleep` is set, and the number
 * of the change compared for the last time, under follow_lock, which follow_changed takes after the change: no wake-up
 * is lost.
 */
#include "api/server/follow.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include "agent/base/mem.h"
#include "api/server/state.h"

struct stream {
	TAILQ_ENTRY(stream) link;
	struct server *server;
	struct request *request; /* valid until it is completed, which is before stream_end: not while awake */
	struct buffer line;      /* from `sent` on still to be sent */
	size_t sent;
	unsigned long change;
	bool first, asleep, ended;
};

struct stream *stream_new(struct request *request)
{
	struct stream *stream = mem_alloc(sizeof(*stream));
	stream->server = request->server;
	stream->request = request;
	stream->first = true;
	return stream;
}

void stream_free(struct stream *stream)
{
	if (!stream)
		return;
	buffer_free(&stream->line);
	free(stream);
}

/* The next line, if there is a change that was not sent. */
static bool stream_fill(struct stream *stream)
{
	unsigned long change;
	auto_free char *status = board_status(stream->server->options.board, &change);
	if (!status || (!stream->first && change == stream->change))
		return false;
	stream->line.length = stream->sent = 0;
	buffer_printf(&stream->line, "%s\n", status);
	stream->change = change;
	stream->first = false;
	return true;
}

static ssize_t stream_read(void *context, uint64_t position, char *out, size_t max)
{
	struct stream *stream = context;
	struct server *server = stream->server;
	(void)position;
	if (stream->sent == stream->line.length) {
		pthread_mutex_lock(&server->follow_lock);
		bool filled = stream_fill(stream), ended = stream->ended || atomic_load(&server->stopping);
		if (!filled && !ended) {
			stream->asleep = true;
			MHD_suspend_connection(stream->request->http);
		}
		pthread_mutex_unlock(&server->follow_lock);
		if (ended)
			return MHD_CONTENT_READER_END_OF_STREAM;
		if (!filled)
			return 0;
	}
	size_t length = stream->line.length - stream->sent;
	if (length > max)
		length = max;
	memcpy(out, stream->line.data + stream->sent, length);
	stream->sent += length;
	return (ssize_t)length;
}

static void stream_end(void *context)
{
	struct stream *stream = context;
	struct server *server = stream->server;
	pthread_mutex_lock(&server->follow_lock);
	TAILQ_REMOVE(&server->followers, stream, link);
	pthread_mutex_unlock(&server->follow_lock);
	stream_free(stream);
}

struct MHD_Response *stream_response(struct request *request, struct stream *stream)
{
	struct server *server = request->server;
	struct MHD_Response *response =
		MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, stream_read, stream, stream_end);
	if (!response) {
		stream_free(stream);
		return NULL;
	}
	request->followed = stream;
	pthread_mutex_lock(&server->follow_lock);
	TAILQ_INSERT_TAIL(&server->followers, stream, link);
	pthread_mutex_unlock(&server->follow_lock);
	return response;
}

/* With follow_lock held. */
static void stream_wake(struct stream *stream)
{
	if (!stream->asleep)
		return;
	stream->asleep = false;
	MHD_resume_connection(stream->request->http);
}

void follow_changed(void *argument)
{
	struct server *server = argument;
	struct stream *stream;
	pthread_mutex_lock(&server->follow_lock);
	for (stream = TAILQ_FIRST(&server->followers); stream; stream = TAILQ_NEXT(stream, link))
		stream_wake(stream);
	pthread_mutex_unlock(&server->follow_lock);
}

/* A suspended connection is not read, so nobody else would notice that its client is gone. */
void follow_sweep(struct server *server)
{
	struct stream *stream;
	pthread_mutex_lock(&server->follow_lock);
	for (stream = TAILQ_FIRST(&server->followers); stream; stream = TAILQ_NEXT(stream, link)) {
		if (!stream->asleep)
			continue;
		struct pollfd poll_fd = {.fd = stream->request->connection->fd};
		if (poll(&poll_fd, 1, 0) <= 0)
			continue;
		stream->ended = true;
		stream_wake(stream);
	}
	pthread_mutex_unlock(&server->follow_lock);
}
