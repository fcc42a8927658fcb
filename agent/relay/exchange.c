/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/relay/exchange.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>
#include "agent/base/mem.h"
#include "agent/relay/listener.h"
#include "agent/relay/onward.h"
#include "agent/relay/record.h"

/* Beside the sockets' own buffers; datagrams that come through the listener cannot wait there. */
#define HELD_BYTES_MAX (256u << 10)

struct held {
	struct held *next;
	size_t size;
	struct datagram datagram; /* what is left of it */
	char data[];
};

/* ---- the end ---- */

static void lose(struct exchanges *all, struct exchange *x, uint64_t count)
{
	x->lost += count;
	totals_count(&all->totals.lost, (int64_t)count);
}

static void write_record(const struct exchanges *all, const struct exchange *x, const char *outcome)
{
	const struct end *client = &x->ends[AT_CLIENT], *server = &x->ends[AT_SERVER];
	const struct record record = {.client = &x->flow.key.client,
		.destination = &x->flow.key.destination,
		.up = client->bytes,
		.down = server->bytes,
		.started_ns = x->started_ns,
		.source = x->source,
		.udp = true,
		.datagrams_up = client->datagrams,
		.datagrams_down = server->datagrams,
		.lost = x->lost};
	record_write(&record, outcome, all->options->json);
}

static void close_ends(struct exchange *x)
{
	for (int at = 0; at < 2; at++) {
		struct end *end = &x->ends[at];
		cleanup_close(&end->fd);
		end->fd = -1;
		while (end->first) {
			struct held *next = end->first->next;
			free(end->first);
			end->first = next;
		}
	}
}

void exchange_close(struct exchanges *all, struct exchange *x, const char *outcome)
{
	if (!x->refused) {
		write_record(all, x, outcome);
		totals_count(&all->totals.open, -1);
		totals_count(&all->totals.ended, 1);
	}
	close_ends(x);
	x->closed = true;
}

static void refuse(struct exchanges *all, struct exchange *x, const char *what, int errnum, _Atomic uint64_t *counter)
{
	char reason[64], text[128];
	snprintf(text, sizeof text, "%s: %s", what, errnum ? strerror_r(errnum, reason, sizeof reason) : "refused");
	totals_count(counter, 1);
	exchange_close(all, x, text);
	x->refused = true;
	x->closed = false;
}

/* ---- the beginning ---- */

static int watch(const struct exchanges *all, struct end *end, int operation, uint32_t events)
{
	struct epoll_event event = {.events = events | EPOLLET, .data.ptr = end};
	return epoll_ctl(all->epoll, operation, end->fd, &event) < 0 ? -errno : 0;
}

/*
 * Between bind() and connect() the socket may be given what others send to the destination. Nobody's but clients', who
 * are told apart by the sender: at an address of the node's it would be anybody's, so no socket is made there.
 */
static int open_reply(const union address *destination, const union address *client, int *ret)
{
	int on = 1;
	auto_close int fd = socket(destination->any.sa_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (setsockopt(fd, SOL_IP, IP_TRANSPARENT, &on, sizeof on) < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on); /* all flows to one destination have this address */
	datagram_carry(fd);
	if (bind(fd, &destination->any, address_size(destination)) < 0)
		return -errno;
	if (connect(fd, &client->any, address_size(client)) < 0)
		return -errno;
	*ret = steal_fd(&fd);
	return 0;
}

static int open_client_end(struct exchanges *all, struct exchange *x)
{
	const struct flow_key *key = &x->flow.key;
	struct end *end = &x->ends[AT_CLIENT];
	bool own = address_is_own(all->routes, &key->destination);
	int result = own ? -EADDRINUSE : open_reply(&key->destination, &key->client, &end->fd);
	if (result == -EADDRINUSE || result == -EACCES) /* EACCES: a port that takes CAP_NET_BIND_SERVICE */
		return raw_open(&all->raw, key->client.any.sa_family);
	return result < 0 ? result : watch(all, end, EPOLL_CTL_ADD, EPOLLIN);
}

static int open_server_end(struct exchanges *all, struct exchange *x)
{
	const struct flow_key *key = &x->flow.key;
	const struct onward how = {SOCK_DGRAM, all->options->keep_source, all->routes};
	int fd = onward_connect(&how, &key->client, &key->destination, &x->source);
	totals_count(&all->totals.sources[x->source], 1);
	if (fd < 0)
		return fd;
	x->ends[AT_SERVER].fd = fd;
	datagram_carry(fd);
	return watch(all, &x->ends[AT_SERVER], EPOLL_CTL_ADD, EPOLLIN);
}

struct exchange *exchange_new(struct exchanges *all, const struct flow_key *key)
{
	struct exchange *x = mem_alloc(sizeof *x);
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	x->started_ns = now.tv_sec * 1000000000ll + now.tv_nsec;
	x->flow.key = *key;
	for (int at = 0; at < 2; at++)
		x->ends[at] = (struct end){.exchange = x, .fd = -1};
	totals_count(&all->totals.open, 1);
	int result;
	if (listener_is(all->options, all->routes, &key->destination))
		refuse(all, x, "direct", 0, &all->totals.refused);
	else if ((result = open_server_end(all, x)) < 0) /* first: the kernel side asks for whom */
		refuse(all, x, "connect", -result, &all->totals.failed);
	else if ((result = open_client_end(all, x)) < 0)
		refuse(all, x, "answer", -result, &all->totals.failed);
	return x;
}

/* ---- datagrams ---- */

static struct end *other(struct end *end)
{
	return &end->exchange->ends[end == &end->exchange->ends[AT_CLIENT] ? AT_SERVER : AT_CLIENT];
}

static void sent(struct exchanges *all, struct end *from, int result, const struct datagram *d)
{
	if (result < 0) {
		from->exchange->error = -result;
		lose(all, from->exchange, datagram_count(d));
	} else {
		from->datagrams += datagram_count(d);
		from->bytes += d->length;
	}
}

/* Takes away what has been sent of a train, or what is known not to go. False: that was all. */
static bool advance(struct datagram *d, size_t length)
{
	d->data += length;
	d->length -= length;
	return d->length > 0;
}

static void send_raw(struct exchanges *all, struct end *from, struct datagram left)
{
	const struct flow_key *key = &from->exchange->flow.key;
	struct datagram first;
	do {
		first = datagram_first(&left);
		sent(all, from, raw_send(&all->raw, &key->destination, &key->client, &first), &first);
	} while (advance(&left, first.length));
}

/* Of a train all, or one after the other. False: there is no room, for what is left. */
static bool send_some(struct exchanges *all, struct end *to, struct datagram *left)
{
	int family = to->exchange->flow.key.destination.any.sa_family;
	struct datagram now;
	do {
		now = to->apart ? datagram_first(left) : *left;
		int result = datagram_send(to->fd, family, &now);
		if (result == -EAGAIN)
			return false;
		if (result < 0 && now.segment) {
			to->apart = true;
			now.length = 0;
			continue;
		}
		sent(all, other(to), result, &now);
	} while (advance(left, now.length));
	return true;
}

static void hold(struct exchanges *all, struct end *to, const struct datagram *d)
{
	if (to->held_bytes + d->length > HELD_BYTES_MAX) {
		lose(all, to->exchange, datagram_count(d));
		return;
	}
	struct held *held = mem_alloc(sizeof *held + d->length);
	held->size = sizeof *held + d->length;
	held->datagram = *d;
	held->datagram.data = held->data;
	memcpy(held->data, d->data, d->length);
	*(to->last ? &to->last->next : &to->first) = held;
	to->last = held;
	to->held_bytes += held->size;
	if (to->first == held)
		watch(all, to, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
}

void exchange_take(struct exchanges *all, struct exchange *x, enum end_index index, const struct datagram *d)
{
	struct end *from = &x->ends[index], *to = other(from);
	struct datagram left = *d;
	if (x->refused)
		lose(all, x, datagram_count(d));
	else if (to->fd < 0)
		send_raw(all, from, left);
	else if (to->first || !send_some(all, to, &left))
		hold(all, to, &left);
}

bool exchange_flush(struct exchanges *all, struct end *end)
{
	if (!end->first)
		return true;
	while (end->first) {
		struct held *held = end->first;
		if (!send_some(all, end, &held->datagram))
			return false;
		end->first = held->next;
		end->last = end->first ? end->last : NULL;
		end->held_bytes -= held->size;
		free(held);
	}
	watch(all, end, EPOLL_CTL_MOD, EPOLLIN);
	return true;
}

void exchange_overflow(struct exchanges *all, struct end *end, const struct datagram *d)
{
	if (d->overflowed == end->overflowed)
		return;
	lose(all, end->exchange, d->overflowed - end->overflowed);
	end->overflowed = d->overflowed;
}
