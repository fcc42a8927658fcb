/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/relay/connection.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>
#include "agent/base/addr.h"
#include "agent/base/buffer.h"
#include "agent/base/mem.h"

/* ---- addresses ---- */

/* An IPv4 client of a dual-stack listener comes as ::ffff:a.b.c.d; the onward socket is IPv4 then. */
static void unmap(struct sockaddr_storage *address)
{
	struct sockaddr_in6 six;
	memcpy(&six, address, sizeof six);
	if (six.sin6_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&six.sin6_addr))
		return;
	struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = six.sin6_port};
	memcpy(&four.sin_addr, six.sin6_addr.s6_addr + 12, 4);
	memset(address, 0, sizeof *address);
	memcpy(address, &four, sizeof four);
}

static socklen_t address_size(const struct sockaddr_storage *address)
{
	return address->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

static uint16_t address_port(const struct sockaddr_storage *address)
{
	/* at the same place in both families */
	return ntohs(((const struct sockaddr_in *)address)->sin_port);
}

static void format_address(struct buffer *out, const struct sockaddr_storage *address)
{
	char text[ADDR_TEXT_MAX] = "?";
	if (address->ss_family == AF_INET) {
		inet_ntop(AF_INET, &((const struct sockaddr_in *)address)->sin_addr, text, sizeof text);
		buffer_printf(out, "%s:%u", text, address_port(address));
	} else {
		inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)address)->sin6_addr, text, sizeof text);
		buffer_printf(out, "[%s]:%u", text, address_port(address));
	}
}

/* An address of this node is one that a socket without IP_TRANSPARENT may be bound to. */
static bool address_is_own(const struct sockaddr_storage *address)
{
	struct sockaddr_storage any_port = *address;
	((struct sockaddr_in *)&any_port)->sin_port = 0;
	auto_close int fd = socket(address->ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	return fd >= 0 && bind(fd, (struct sockaddr *)&any_port, address_size(address)) == 0;
}

/* ---- the end ---- */

static void report(const struct connection *c, const char *outcome)
{
	struct buffer line = {0};
	struct timespec now, wall;
	struct tm utc;
	char time[32];
	clock_gettime(CLOCK_MONOTONIC, &now);
	clock_gettime(CLOCK_REALTIME, &wall);
	gmtime_r(&wall.tv_sec, &utc);
	strftime(time, sizeof time, "%Y-%m-%dT%H:%M:%S", &utc);
	double seconds = now.tv_sec - c->started.tv_sec + (now.tv_nsec - c->started.tv_nsec) / 1e9;
	buffer_printf(&line, "%s.%03ldZ ", time, wall.tv_nsec / 1000000);
	format_address(&line, &c->client);
	buffer_puts(&line, " -> ");
	format_address(&line, &c->destination);
	buffer_printf(&line, " up=%llu down=%llu seconds=%.3f outcome=\"%s\"\n", (unsigned long long)c->sides[CLIENT].bytes,
		(unsigned long long)c->sides[SERVER].bytes, seconds, outcome);
	ssize_t written = write(STDOUT_FILENO, line.data, line.length);
	(void)written;
	buffer_free(&line);
}

static void finish(struct connection *c, const char *outcome)
{
	if (c->finished)
		return;
	c->finished = true;
	report(c, outcome);
	for (int at = 0; at < 2; at++) {
		if (c->sides[at].fd >= 0)
			close(c->sides[at].fd);
		c->sides[at].fd = -1;
	}
}

void connection_abort(struct connection *c, const char *outcome)
{
	/* No FIN for what did not end well: the other side must not take it for the whole. */
	struct linger reset = {.l_onoff = 1};
	for (int at = 0; at < 2; at++)
		if (c->sides[at].fd >= 0)
			setsockopt(c->sides[at].fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
	finish(c, outcome);
}

static void abort_errno(struct connection *c, const char *what, int errnum)
{
	char reason[64], text[128];
	snprintf(text, sizeof text, "%s: %s", what, strerror_r(errnum, reason, sizeof reason));
	connection_abort(c, text);
}

void connection_free(struct connection *c)
{
	for (int at = 0; at < 2; at++)
		free(c->sides[at].held);
	free(c);
}

/* ---- moving bytes ---- */

static struct side *other(struct side *side)
{
	return &side->connection->sides[side == &side->connection->sides[CLIENT] ? SERVER : CLIENT];
}

/* Level-triggered, armed for what can be used now. Nothing: not in the set at all, as EPOLLHUP cannot be masked. */
static void arm(struct side *side, int epoll)
{
	struct connection *c = side->connection;
	uint32_t wanted = 0;
	if (c->connected && !side->ended && !side->length)
		wanted |= EPOLLIN;
	if (c->connected ? other(side)->length != 0 : side == &c->sides[SERVER])
		wanted |= EPOLLOUT;
	if (wanted == side->armed)
		return;
	struct epoll_event event = {.events = wanted, .data.ptr = side};
	epoll_ctl(epoll, !side->armed ? EPOLL_CTL_ADD : wanted ? EPOLL_CTL_MOD : EPOLL_CTL_DEL, side->fd, &event);
	side->armed = wanted;
}

/* Hands on as much as the other side takes; returns it, or -errno. */
static ssize_t hand_on(struct side *side, const char *data, size_t length)
{
	size_t sent = 0;
	while (sent < length) {
		ssize_t now = send(other(side)->fd, data + sent, length - sent, MSG_NOSIGNAL);
		if (now < 0 && errno == EINTR)
			continue;
		if (now < 0 && errno == EAGAIN)
			break;
		if (now < 0)
			return -errno;
		sent += now;
	}
	side->bytes += sent;
	return sent;
}

static const char *name(const struct side *side)
{
	return side == &side->connection->sides[CLIENT] ? "client" : "server";
}

static bool flush_held(struct side *side)
{
	ssize_t sent = hand_on(side, side->held + side->from, side->length);
	if (sent < 0) {
		abort_errno(side->connection, name(other(side)), -sent);
		return false;
	}
	side->from += sent;
	side->length -= sent;
	if (!side->length) {
		free(side->held);
		side->held = NULL;
		if (side->ended)
			shutdown(other(side)->fd, SHUT_WR);
	}
	return true;
}

/* One piece, so that a fast connection cannot starve the others. */
static bool read_side(struct side *side)
{
	static char piece[PIECE];
	ssize_t got = recv(side->fd, piece, sizeof piece, 0);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return true;
	if (got < 0) {
		abort_errno(side->connection, name(side), errno);
		return false;
	}
	if (got == 0) {
		side->ended = true;
		shutdown(other(side)->fd, SHUT_WR);
		return true;
	}
	ssize_t sent = hand_on(side, piece, got);
	if (sent < 0) {
		abort_errno(side->connection, name(other(side)), -sent);
		return false;
	}
	side->from = 0;
	side->length = got - sent;
	if (side->length)
		side->held = mem_dup(piece + sent, side->length);
	return true;
}

static bool check_connected(struct connection *c)
{
	int errnum = 0;
	socklen_t size = sizeof errnum;
	getsockopt(c->sides[SERVER].fd, SOL_SOCKET, SO_ERROR, &errnum, &size);
	if (errnum)
		abort_errno(c, "connect", errnum);
	else
		c->connected = true;
	return c->connected;
}

void connection_ready(struct connection *c, int epoll, struct side *side, uint32_t events)
{
	if (c->finished)
		return; /* by the other side's event of the same round */
	if (!c->connected) {
		if (!check_connected(c))
			return;
	} else {
		if (other(side)->length && (events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) && !flush_held(other(side)))
			return;
		bool readable = !side->ended && !side->length;
		if (readable && (events & (EPOLLIN | EPOLLERR | EPOLLHUP)) && !read_side(side))
			return;
	}
	struct side *client = &c->sides[CLIENT], *server = &c->sides[SERVER];
	if (client->ended && server->ended && !client->length && !server->length) {
		finish(c, "closed");
		return;
	}
	arm(client, epoll);
	arm(server, epoll);
}

/* ---- the beginning ---- */

static void set_options(int fd)
{
	int on = 1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
}

static void connect_onward(struct connection *c, uint16_t own_port)
{
	/* Who asks for the relay itself was not intercepted: carried on it would come back here for ever. */
	if (address_port(&c->destination) == own_port && address_is_own(&c->destination)) {
		connection_abort(c, "refused: the relay itself is the destination");
		return;
	}
	int fd = socket(c->destination.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0) {
		abort_errno(c, "socket", errno);
		return;
	}
	c->sides[SERVER].fd = fd;
	set_options(fd);
	if (connect(fd, (struct sockaddr *)&c->destination, address_size(&c->destination)) < 0 && errno != EINPROGRESS)
		abort_errno(c, "connect", errno);
}

struct connection *connection_new(int epoll, int fd, int64_t deadline_ms, uint16_t own_port)
{
	struct connection *c = mem_alloc(sizeof *c);
	socklen_t size = sizeof c->client;
	c->sides[CLIENT] = (struct side){.connection = c, .fd = fd};
	c->sides[SERVER] = (struct side){.connection = c, .fd = -1};
	c->deadline_ms = deadline_ms;
	clock_gettime(CLOCK_MONOTONIC, &c->started);
	/* Fails when the client is gone already; the line then shows "?". */
	getpeername(fd, (struct sockaddr *)&c->client, &size);
	size = sizeof c->destination;
	getsockname(fd, (struct sockaddr *)&c->destination, &size);
	unmap(&c->client);
	unmap(&c->destination);
	set_options(fd);
	connect_onward(c, own_port);
	if (!c->finished)
		arm(&c->sides[SERVER], epoll);
	return c;
}
