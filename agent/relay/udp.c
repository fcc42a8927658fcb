/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/relay/udp.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>
#include "agent/base/mem.h"

#define EVENTS_MAX 64
#define TURN 64 /* datagrams in a row: then others have their turn */
#define ASKING_MS_MAX 30000
#define REFUSED_MS 1000
#define DRAINED_MS 1000
#define DRAIN_MAX 4096 /* of a flood there is no last one */

/* ---- the life of flows ---- */

static struct exchange *of(struct flow *flow)
{
	return (struct exchange *)flow; /* its first member */
}

static void end(struct udp *udp, struct exchange *x, const char *outcome)
{
	flows_remove(&udp->flows, &x->flow);
	share_release(udp->share, &x->flow.key);
	exchange_close(&udp->all, x, outcome);
	x->next_closed = udp->closed;
	udp->closed = x;
}

static void make_room(struct udp *udp)
{
	while (flows_count(&udp->flows) >= udp->flows_max) {
		struct exchange *oldest = of(flows_oldest(&udp->flows));
		if (!oldest->refused)
			totals_count(&udp->all.totals.evicted, 1);
		end(udp, oldest, "evicted: too many flows");
	}
}

/*
 * NULL: another thread has it, and *owner is which. The onward socket is connected by the thread that has just received
 * the client's datagram, and nothing else since: the kernel side may ask whose it is.
 */
static struct exchange *find(struct udp *udp, const struct flow_key *key, unsigned *owner)
{
	struct flow *flow = flows_find(&udp->flows, key);
	if (flow)
		return of(flow);
	*owner = share_claim(udp->share, key, udp->thread);
	if (*owner != udp->thread)
		return NULL;
	make_room(udp);
	struct exchange *x = exchange_new(&udp->all, key);
	flows_add(&udp->flows, &x->flow, x->refused ? FLOW_REFUSED : FLOW_ASKING, udp->now_ms);
	return x;
}

static void enqueue(struct udp *udp, struct exchange *x)
{
	if (x->queued)
		return;
	x->queued = true;
	x->next_queued = NULL;
	*udp->queue_end = x;
	udp->queue_end = &x->next_queued;
}

static void free_closed(struct udp *udp)
{
	struct exchange **place = &udp->closed, *x;
	while ((x = *place)) {
		if (x->queued) {
			place = &x->next_closed;
		} else {
			*place = x->next_closed;
			free(x);
		}
	}
}

/* ---- datagrams ---- */

static void lose(struct udp *udp, uint64_t count)
{
	totals_count(&udp->all.totals.lost, (int64_t)count);
}

static void give(struct udp *udp, const struct flow_key *key, const struct datagram *d)
{
	unsigned owner;
	struct exchange *x = find(udp, key, &owner);
	if (!x) {
		if (!share_send(udp->share, owner, key, d))
			lose(udp, 1);
		return;
	}
	flows_touch(&udp->flows, &x->flow, false, udp->now_ms);
	exchange_take(&udp->all, x, AT_CLIENT, d);
}

static void from_client(struct udp *udp, const struct datagram *d, const union address *destination)
{
	struct flow_key key;
	flow_key_make(&key, &d->from, destination);
	give(udp, &key, d);
}

static void from_others(struct udp *udp)
{
	struct parcel *parcel = share_take(udp->share, udp->thread), *next;
	for (; parcel; parcel = next) {
		next = parcel->next;
		give(udp, &parcel->key, &parcel->datagram);
		free(parcel);
	}
}

/* False: there is none any more. */
static bool listen_one(struct udp *udp, unsigned at)
{
	struct datagram d;
	int result = datagram_receive(udp->listeners[at], udp->buffer, &d);
	if (result < 0)
		return result != -EAGAIN;
	lose(udp, d.overflowed - udp->overflowed[at]);
	udp->overflowed[at] = d.overflowed;
	if (d.to.any.sa_family == d.from.any.sa_family)
		from_client(udp, &d, &d.to);
	else
		lose(udp, 1);
	return true;
}

static void listen_some(struct udp *udp, unsigned at)
{
	for (int turn = 0; turn < TURN && listen_one(udp, at); turn++)
		;
}

/* What the socket was given before it was connected is another flow's. */
static void take(struct udp *udp, struct exchange *x, enum end_index index, const struct datagram *d)
{
	const struct flow_key *key = &x->flow.key;
	exchange_overflow(&udp->all, &x->ends[index], d);
	if (!address_equal(&d->from, index == AT_CLIENT ? &key->client : &key->destination)) {
		if (index == AT_CLIENT) {
			const union address destination = key->destination;
			from_client(udp, d, &destination);
		}
		return;
	}
	flows_touch(&udp->flows, &x->flow, index == AT_SERVER, udp->now_ms);
	exchange_take(&udp->all, x, index, d);
}

/* True: there may be more. */
static bool pump(struct udp *udp, struct exchange *x, enum end_index index)
{
	struct end *from = &x->ends[index], *to = &x->ends[!index];
	if (x->closed || !exchange_flush(&udp->all, to))
		return false;
	for (int turn = 0; turn < TURN; turn++) {
		struct datagram d;
		if (x->closed || !from->readable || to->first)
			return false;
		int result = datagram_receive(from->fd, udp->buffer, &d);
		if (result == 0)
			take(udp, x, index, &d);
		else if (result == -EAGAIN)
			from->readable = false;
		else if (result != -EINTR)
			x->error = -result; /* ICMP: the next datagram may do better */
	}
	return true;
}

static void run_queue(struct udp *udp)
{
	struct exchange *x = udp->queue, *next;
	udp->queue = NULL;
	udp->queue_end = &udp->queue;
	for (; x; x = next) {
		next = x->next_queued;
		x->queued = false;
		bool more = pump(udp, x, AT_CLIENT);
		if (pump(udp, x, AT_SERVER) || more)
			enqueue(udp, x);
	}
}

static void take_event(struct udp *udp, const struct epoll_event *event)
{
	int *listener = event->data.ptr;
	if (listener >= udp->listeners && listener < udp->listeners + LISTEN_MAX) {
		listen_some(udp, (unsigned)(listener - udp->listeners));
		return;
	}
	if (event->data.ptr == udp->share) {
		from_others(udp);
		return;
	}
	struct end *side = event->data.ptr;
	if (side->exchange->closed)
		return;
	side->readable = side->readable || (event->events & ~(uint32_t)EPOLLOUT);
	enqueue(udp, side->exchange);
}

void udp_serve(struct udp *udp, int64_t now_ms)
{
	struct epoll_event events[EVENTS_MAX];
	udp->now_ms = now_ms;
	int count = epoll_wait(udp->all.epoll, events, EVENTS_MAX, 0);
	for (int at = 0; at < count; at++)
		take_event(udp, &events[at]);
	run_queue(udp);
	free_closed(udp);
}

/* ---- time ---- */

static void expire_one(struct udp *udp, struct exchange *x)
{
	char reason[64], text[128];
	if (x->flow.state == FLOW_ANSWERED) {
		end(udp, x, "idle: timeout");
	} else if (x->error) {
		snprintf(text, sizeof text, "no answer: %s", strerror_r(x->error, reason, sizeof reason));
		end(udp, x, text);
	} else {
		end(udp, x, "no answer: timeout");
	}
}

int64_t udp_expire(struct udp *udp, int64_t now_ms)
{
	struct flow *flow;
	int64_t wait;
	while ((flow = flows_expired(&udp->flows, now_ms, &wait)))
		expire_one(udp, of(flow));
	free_closed(udp);
	return udp->queue ? 0 : wait;
}

/* ---- start and end ---- */

static int64_t least(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static int watch(const struct udp *udp, int fd, void *what)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = what};
	return epoll_ctl(udp->all.epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

int udp_open(struct udp *udp)
{
	const struct options *options = udp->all.options;
	int64_t timeout = (int64_t)options->udp_timeout_s * 1000;
	udp->queue_end = &udp->queue;
	udp->all.raw = (struct raw){-1, -1};
	udp->flows_max = options->udp_flows / options->threads;
	if (!udp->flows_max)
		udp->flows_max = 1;
	flows_init(&udp->flows);
	udp->flows.timeout_ms[FLOW_ASKING] = least(timeout, ASKING_MS_MAX);
	udp->flows.timeout_ms[FLOW_ANSWERED] = timeout;
	udp->flows.timeout_ms[FLOW_REFUSED] = REFUSED_MS;
	udp->all.epoll = epoll_create1(EPOLL_CLOEXEC);
	if (udp->all.epoll < 0)
		return -errno;
	int result = watch(udp, udp->share->inboxes[udp->thread].event, udp->share);
	for (unsigned at = 0; at < udp->listener_count && result == 0; at++)
		result = watch(udp, udp->listeners[at], &udp->listeners[at]);
	return result;
}

/* What has come already is carried: who sends again is another process's client. */
void udp_drain(struct udp *udp)
{
	for (unsigned at = 0; at < udp->listener_count; at++) {
		for (int turn = 0; turn < DRAIN_MAX && listen_one(udp, at); turn++)
			;
		close(udp->listeners[at]);
	}
	udp->listener_count = 0;
	for (int state = 0; state < FLOW_STATES; state++)
		udp->flows.timeout_ms[state] = least(udp->flows.timeout_ms[state], DRAINED_MS);
}

void udp_stop(struct udp *udp)
{
	for (struct flow *flow; (flow = flows_oldest(&udp->flows));)
		end(udp, of(flow), "stopped");
}

bool udp_is_busy(const struct udp *udp)
{
	return flows_count(&udp->flows) > 0;
}

void udp_close(struct udp *udp)
{
	run_queue(udp); /* what is closed leaves it */
	free_closed(udp);
	flows_clear(&udp->flows);
	raw_close(&udp->all.raw);
	close(udp->all.epoll);
}
