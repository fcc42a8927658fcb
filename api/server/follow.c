/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stream sleeps by suspending its connection inside libmicrohttpd's content reader. Before it looks for something to
 * send it clears `news`; it goes to sleep under follow_lock, unless `news` was set again meanwhile: no wake-up is lost,
 * and nobody who brings news waits for a reader. What its client does not take stays one chunk: a slow one reads the
 * feed later, and learns how much was overwritten.
 */
#include "api/server/follow.h"

#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include "agent/base/mem.h"
#include "api/server/answer.h"
#include "api/server/auth.h"
#include "api/server/problem.h"
#include "api/server/state.h"

#define CHUNK (64u << 10)

struct stream {
	TAILQ_ENTRY(stream) link;
	struct server *server;
	struct request *request; /* valid until it is completed, which is before stream_end: not while awake */
	int what;                /* a feed, or STREAM_STATUS */
	struct buffer text;      /* from `sent` on still to be sent */
	size_t sent;
	unsigned long change; /* of the status; the last one sent */
	uint64_t after;       /* of a feed: what was looked at */
	bool first, news, asleep, ended;
};

static void stream_forget(struct stream *stream)
{
	struct server *server = stream->server;
	pthread_mutex_lock(&server->follow_lock);
	TAILQ_REMOVE(&server->followers, stream, link);
	server->follower_count--;
	pthread_mutex_unlock(&server->follow_lock);
}

void stream_free(struct stream *stream)
{
	if (!stream)
		return;
	stream_forget(stream);
	buffer_free(&stream->text);
	free(stream);
}

/* ---- reading ---- */

static bool status_fill(struct stream *stream)
{
	unsigned long change;
	auto_free char *status = board_status(stream->server->options.board, &change);
	if (!status || (!stream->first && change == stream->change))
		return false;
	buffer_printf(&stream->text, "%s\n", status);
	stream->change = change;
	return true;
}

/* Until there is text, or nothing more to look at. */
static bool feed_fill(struct stream *stream)
{
	const struct server_options *options = &stream->server->options;
	struct feed_filter *filter = &stream->request->parameters.feed;
	uint64_t before;
	do {
		before = stream->after;
		options->feed_follow(options->context, (enum feed)stream->what, filter, &stream->after, CHUNK, &stream->text);
		filter->limit = 0;
	} while (!stream->text.length && stream->after != before);
	return stream->text.length;
}

/* The next text, if there is something that was not sent. */
static bool stream_fill(struct stream *stream)
{
	pthread_mutex_lock(&stream->server->follow_lock);
	stream->news = false;
	pthread_mutex_unlock(&stream->server->follow_lock);
	stream->text.length = stream->sent = 0;
	bool filled = stream->what == STREAM_STATUS ? status_fill(stream) : feed_fill(stream);
	stream->first = false;
	if (!filled)
		buffer_free(&stream->text);
	return filled;
}

void stream_answer(struct request *request, int what)
{
	struct server *server = request->server;
	struct stream *stream = mem_alloc(sizeof(*stream));
	*stream = (struct stream){.server = server, .request = request, .what = what, .first = true};
	const unsigned most = STREAMS_MAX - (request->listener->remote ? STREAMS_LOCAL : 0);
	pthread_mutex_lock(&server->follow_lock);
	bool taken = server->follower_count < most;
	if (taken) {
		TAILQ_INSERT_TAIL(&server->followers, stream, link);
		server->follower_count++;
	}
	pthread_mutex_unlock(&server->follow_lock);
	if (!taken) {
		free(stream);
		problem_answer(request, 429, "%u answers are followed already, and more are not taken", most);
		return;
	}
	/* Looked at before the head is sent: whoever has seen that misses nothing that comes later. */
	stream_fill(stream);
	answer_set(request, answer_new(200, "application/x-ndjson"));
	request->answer->stream = stream;
}

/* Suspends the connection, unless there is a reason to look again. */
static bool stream_sleep(struct stream *stream)
{
	struct server *server = stream->server;
	pthread_mutex_lock(&server->follow_lock);
	bool sleeps = !stream->news && !stream->ended && !atomic_load(&server->stopping);
	if (sleeps) {
		stream->asleep = true;
		MHD_suspend_connection(stream->request->http);
	}
	pthread_mutex_unlock(&server->follow_lock);
	return sleeps;
}

static bool stream_ends(struct stream *stream)
{
	pthread_mutex_lock(&stream->server->follow_lock);
	bool ends = stream->ended || atomic_load(&stream->server->stopping);
	pthread_mutex_unlock(&stream->server->follow_lock);
	return ends;
}

static ssize_t stream_read(void *context, uint64_t position, char *out, size_t max)
{
	struct stream *stream = context;
	(void)position;
	while (stream->sent == stream->text.length) {
		if (stream_ends(stream))
			return MHD_CONTENT_READER_END_OF_STREAM;
		if (!stream_fill(stream)) {
			if (stream_sleep(stream))
				return 0;
		} else if (!auth_holds(stream->request)) {
			return MHD_CONTENT_READER_END_OF_STREAM;
		}
	}
	size_t length = stream->text.length - stream->sent;
	if (length > max)
		length = max;
	memcpy(out, stream->text.data + stream->sent, length);
	stream->sent += length;
	return (ssize_t)length;
}

static void stream_end(void *context)
{
	stream_free(context);
}

struct MHD_Response *stream_response(struct request *request, struct stream *stream)
{
	struct MHD_Response *response =
		MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, stream_read, stream, stream_end);
	if (!response) {
		stream_free(stream);
		return NULL;
	}
	request->followed = stream;
	/* Who reads slowly, or stops for a while, is no idle client: hang-ups are noticed otherwise. */
	MHD_set_connection_option(request->http, MHD_CONNECTION_OPTION_TIMEOUT, 0u);
	return response;
}

/* ---- waking ---- */

/* With follow_lock held. */
static void stream_wake(struct stream *stream)
{
	stream->news = true;
	if (!stream->asleep)
		return;
	stream->asleep = false;
	MHD_resume_connection(stream->request->http);
}

static void streams_wake(struct server *server, int what)
{
	struct stream *stream;
	pthread_mutex_lock(&server->follow_lock);
	for (stream = TAILQ_FIRST(&server->followers); stream; stream = TAILQ_NEXT(stream, link))
		if (stream->what == what)
			stream_wake(stream);
	pthread_mutex_unlock(&server->follow_lock);
}

void follow_changed(void *argument)
{
	streams_wake(argument, STREAM_STATUS);
}

void server_news(struct server *server, enum feed feed)
{
	if (server)
		streams_wake(server, feed);
}

void follow_stop(struct server *server)
{
	for (int what = 0; what <= STREAM_STATUS; what++)
		streams_wake(server, what);
}

/* A suspended connection is not read, so nobody else would notice that its client is gone. Over TCP one that only ends
 * its own side is taken for gone as well: which of the two it is shows when it is too late. */
void follow_sweep(struct server *server)
{
	struct stream *stream;
	pthread_mutex_lock(&server->follow_lock);
	for (stream = TAILQ_FIRST(&server->followers); stream; stream = TAILQ_NEXT(stream, link)) {
		if (!stream->asleep)
			continue;
		const struct connection *connection = stream->request->connection;
		struct pollfd poll_fd = {.fd = connection->fd, .events = connection->caller ? POLLRDHUP : 0};
		if (poll(&poll_fd, 1, 0) <= 0)
			continue;
		stream->ended = true;
		stream_wake(stream);
	}
	pthread_mutex_unlock(&server->follow_lock);
}
