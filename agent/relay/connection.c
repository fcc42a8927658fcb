/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/relay/connection.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>
#include "agent/base/mem.h"
#include "agent/relay/listener.h"
#include "agent/relay/record.h"
#include "agent/relay/sniff.h"

/* So that a fast connection cannot starve the others. */
#define TURN_BYTES (8 * PIECE)
/* Bytes that come one by one are looked at so often. */
#define SNIFFS_MAX 32
#define ORIGINAL_DESTINATION 80 /* SO_ORIGINAL_DST, IP6T_SO_ORIGINAL_DST */

/* ---- the end ---- */

static void finish(struct context *context, struct connection *c, const char *outcome)
{
	if (c->finished)
		return;
	c->finished = true;
	const struct record record = {.client = &c->client,
		.destination = &c->destination,
		.up = c->sides[CLIENT].bytes,
		.down = c->sides[SERVER].bytes,
		.started_ns = c->started_ns,
		.source = c->source,
		.name = c->name};
	record_write(&record, outcome, context->options->json);
	totals_count(&context->totals.open, -1);
	totals_count(&context->totals.ended, 1);
	if (!c->connected && c->source != SOURCE_NONE)
		totals_count(&context->totals.failed, 1);
	for (int at = 0; at < 2; at++) {
		struct side *side = &c->sides[at];
		if (side->fd >= 0)
			close(side->fd);
		side->fd = -1;
		if (side->pipe.in >= 0)
			pipes_give(&context->pipes, &side->pipe, side->length == 0);
	}
}

void connection_abort(struct context *context, struct connection *c, const char *outcome)
{
	/* No FIN for what did not end well: the other side must not take it for the whole. */
	struct linger reset = {.l_onoff = 1};
	for (int at = 0; at < 2; at++)
		if (c->sides[at].fd >= 0)
			setsockopt(c->sides[at].fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
	finish(context, c, outcome);
}

static void abort_errno(struct context *context, struct connection *c, const char *what, int errnum)
{
	char reason[64], text[128];
	snprintf(text, sizeof text, "%s: %s", what, strerror_r(errnum, reason, sizeof reason));
	connection_abort(context, c, text);
}

void connection_free(struct connection *c)
{
	for (int at = 0; at < 2; at++)
		free(c->sides[at].held);
	free(c->head);
	free(c->name);
	free(c);
}

/* ---- moving bytes ---- */

static struct side *other(struct side *side)
{
	return &side->connection->sides[side == &side->connection->sides[CLIENT] ? SERVER : CLIENT];
}

static const char *side_name(const struct side *side)
{
	return side == &side->connection->sides[CLIENT] ? "client" : "server";
}

static int socket_error(int fd)
{
	int errnum = 0;
	socklen_t size = sizeof errnum;
	return getsockopt(fd, SOL_SOCKET, SO_ERROR, &errnum, &size) < 0 ? errno : errnum;
}

/* Looks for a name in the client's first bytes, on their way. What has come is kept only while it may become one. */
static void look(struct connection *c, const char *data, size_t length)
{
	char name[SNIFF_NAME_MAX];
	size_t room = SNIFF_BYTES_MAX - c->head_length, taken = length < room ? length : room;
	c->head = mem_resize(c->head, c->head_length + taken, 1);
	memcpy(c->head + c->head_length, data, taken);
	c->head_length += (uint16_t)taken;
	enum sniff known = sniff(c->head, c->head_length, name);
	if (known == SNIFF_NAME)
		c->name = str_dup(name);
	c->sniffing = known == SNIFF_MORE && ++c->sniffed < SNIFFS_MAX;
	if (!c->sniffing) {
		free(c->head);
		c->head = NULL;
	}
}

/* Hands on as much as the other side takes; returns it, or -errno. */
static ssize_t hand_on(struct side *side, const char *data, size_t length)
{
	struct side *to = other(side);
	size_t sent = 0;
	while (sent < length) {
		ssize_t now = data ? send(to->fd, data + sent, length - sent, MSG_NOSIGNAL)
						   : splice(side->pipe.out, NULL, to->fd, NULL, length - sent, SPLICE_F_NONBLOCK);
		if (now < 0 && errno == EINTR)
			continue;
		if (now < 0 && errno == EAGAIN) {
			to->writable = false;
			break;
		}
		if (now <= 0)
			return now < 0 ? -errno : -EPIPE;
		sent += (size_t)now;
	}
	side->bytes += sent;
	return (ssize_t)sent;
}

/*
 * What is held goes first. 0 or -errno. The thread's buffer is lent for one piece: what is left of it is kept, a copy
 * of its own.
 */
static int flush(struct context *context, struct side *side)
{
	bool lent = side->held == context->piece;
	ssize_t sent = hand_on(side, side->held ? side->held + side->from : NULL, side->length);
	if (sent > 0) {
		side->from += (uint32_t)sent;
		side->length -= (uint32_t)sent;
	}
	char *rest = lent && sent >= 0 && side->length ? mem_dup(side->held + side->from, side->length) : NULL;
	if (!lent && !side->length)
		free(side->held);
	if (lent || !side->length) {
		side->held = rest;
		side->from = 0;
	}
	return sent < 0 ? (int)sent : 0;
}

/* Into the thread's buffer; a name is looked for on the way. */
static ssize_t read_copied(struct context *context, struct side *side)
{
	struct connection *c = side->connection;
	ssize_t got = recv(side->fd, context->piece, PIECE, 0);
	if (got <= 0)
		return got < 0 ? -errno : 0;
	if (c->sniffing && side == &c->sides[CLIENT])
		look(c, context->piece, (size_t)got);
	side->held = context->piece;
	side->bulk = got == PIECE;
	return got;
}

/* Into a pipe: no copy of ours. */
static ssize_t read_spliced(struct side *side)
{
	ssize_t got = splice(side->fd, NULL, side->pipe.in, NULL, PIPE_BYTES, SPLICE_F_NONBLOCK);
	if (got <= 0)
		return got < 0 ? -errno : 0;
	side->bulk = got >= (ssize_t)PIECE / 4; /* small pieces are cheaper to copy */
	return got;
}

static bool has_pipe(struct context *context, struct side *side)
{
	return side->pipe.in >= 0 || pipes_take(&context->pipes, &side->pipe);
}

/* Reads once. False: it failed, and that is the end. */
static bool read_side(struct context *context, struct side *side)
{
	ssize_t got = side->bulk && has_pipe(context, side) ? read_spliced(side) : read_copied(context, side);
	if (got > 0) {
		side->length = (uint32_t)got;
		side->from = 0;
	} else if (got == 0) {
		side->ended = true;
		shutdown(other(side)->fd, SHUT_WR); /* all that came before has been handed on */
	} else if (got == -EAGAIN) {
		side->readable = false;
	} else if (got != -EINTR) {
		abort_errno(context, side->connection, side_name(side), (int)-got);
		return false;
	}
	return true;
}

/* From this side to the other until one has had enough. *more: the turn was over before. False: it is the end. */
static bool pump(struct context *context, struct side *side, bool *more)
{
	struct side *to = other(side);
	for (uint64_t end = side->bytes + TURN_BYTES;;) {
		if (side->length && to->writable) {
			int result = flush(context, side);
			if (result < 0) {
				abort_errno(context, side->connection, side_name(to), -result);
				return false;
			}
		}
		if (side->length || side->ended || !side->readable || !to->writable)
			break;
		if (side->bytes >= end) {
			*more = true;
			break;
		}
		if (!read_side(context, side))
			return false;
	}
	if (side->pipe.in >= 0 && !side->length && !*more)
		pipes_give(&context->pipes, &side->pipe, true);
	return true;
}

/* An error that reading and writing did not meet, because there is nothing to read or to write just now. */
static bool told_error(struct context *context, struct side *side)
{
	if (!side->broken)
		return false;
	side->broken = false;
	int errnum = socket_error(side->fd);
	if (errnum)
		abort_errno(context, side->connection, side_name(side), errnum);
	return errnum != 0;
}

static bool check_connected(struct context *context, struct connection *c)
{
	struct side *client = &c->sides[CLIENT], *server = &c->sides[SERVER];
	if (told_error(context, client))
		return false;
	if (!server->broken) {
		c->connected = server->writable;
		return c->connected;
	}
	server->broken = false;
	int errnum = socket_error(server->fd);
	if (errnum) {
		abort_errno(context, c, "connect", errnum);
		return false;
	}
	c->connected = true;
	return true;
}

bool connection_run(struct context *context, struct connection *c)
{
	struct side *client = &c->sides[CLIENT], *server = &c->sides[SERVER];
	bool more = false;
	if (c->finished || (!c->connected && !check_connected(context, c)))
		return false;
	if (!pump(context, client, &more) || !pump(context, server, &more))
		return false;
	if (client->ended && server->ended && !client->length && !server->length) {
		finish(context, c, "closed");
		return false;
	}
	if (!more && !told_error(context, client))
		told_error(context, server);
	return more;
}

void connection_event(struct side *side, uint32_t events)
{
	bool broken = events & (EPOLLERR | EPOLLHUP);
	side->broken = side->broken || broken;
	side->readable = side->readable || broken || (events & (EPOLLIN | EPOLLRDHUP));
	side->writable = side->writable || broken || (events & EPOLLOUT);
}

/* ---- the beginning ---- */

/*
 * Where the client wanted to go: the accepted socket's own address. Who comes to a listener's address was sent there by
 * an address translation, which knows more, or dialled it: carried on, such a connection would come back for ever.
 */
static bool find_destination(const struct context *context, struct connection *c)
{
	union address original;
	int fd = c->sides[CLIENT].fd;
	socklen_t size = sizeof c->destination;
	getsockname(fd, &c->destination.any, &size);
	address_unmap(&c->destination);
	if (!listener_is(context->options, context->routes, &c->destination))
		return true;
	size = sizeof original;
	int level = c->destination.any.sa_family == AF_INET ? SOL_IP : SOL_IPV6;
	if (getsockopt(fd, level, ORIGINAL_DESTINATION, &original, &size) < 0)
		return false;
	address_unmap(&original);
	if (address_equal(&original, &c->destination))
		return false;
	c->destination = original;
	return true;
}

static int watch(const struct context *context, struct side *side)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = side};
	return epoll_ctl(context->epoll, EPOLL_CTL_ADD, side->fd, &event) < 0 ? -errno : 0;
}

static void connect_onward(struct context *context, struct connection *c)
{
	if (!find_destination(context, c)) {
		totals_count(&context->totals.refused, 1);
		connection_abort(context, c, "direct: refused");
		return;
	}
	int fd = onward_connect(&(struct onward){SOCK_STREAM, context->options->keep_source, context->routes}, &c->client,
		&c->destination, &c->source);
	totals_count(&context->totals.sources[c->source], 1);
	c->sides[SERVER].fd = fd < 0 ? -1 : fd;
	int result = fd < 0 ? fd : watch(context, &c->sides[SERVER]);
	if (result == 0)
		result = watch(context, &c->sides[CLIENT]);
	if (result < 0)
		abort_errno(context, c, "connect", -result);
}

struct connection *connection_new(struct context *context, int fd, const union address *client)
{
	struct connection *c = mem_alloc(sizeof *c);
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	for (int at = 0; at < 2; at++)
		c->sides[at] = (struct side){.connection = c, .fd = -1, .pipe = {-1, -1}};
	c->sides[CLIENT].fd = fd;
	c->started_ns = now.tv_sec * 1000000000ll + now.tv_nsec;
	c->since_ms = c->started_ns / 1000000;
	c->sniffing = true;
	c->client = *client;
	address_unmap(&c->client);
	totals_count(&context->totals.open, 1);
	connect_onward(context, c);
	return c;
}
