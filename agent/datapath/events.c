/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernel tells of connections: the ring of events, what the sweep ends (expire.c), and the tables themselves.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>
#include "agent/base/mem.h"
#include "agent/datapath/private.h"
#include "agent/datapath/ring.h"

/* A call gives no more than this, so that who called can do something else in between. */
#define EVENTS_A_CALL 8192
/* What the sweep has ended and nobody has taken; more are counted as lost. */
#define ENDED_MAX 65536

struct events {
	struct ring ring;
	int wakeups; /* epoll, at edges: the ring is looked at by the clock, and wakes nobody before it begins to fill */
	int waker;   /* eventfd, at edges: nobody reads it */
	bool more;   /* the last call ended before the ring did */
	/* of the call under way */
	unsigned int given;
	void (*each)(void *context, const struct ps_event *event);
	void *context;

	pthread_mutex_t lock; /* of what the sweep ended, and of generation and live_revision */
	struct ps_event *ended;
	size_t ended_count, ended_room;
	uint64_t lost;
};

int events_open(struct datapath *d, struct error *e)
{
	struct events *events = mem_alloc(sizeof(*events));
	struct epoll_event edge = {.events = EPOLLIN | EPOLLET};
	int ring = d->loaded.other[OTHER_EVENT], result;
	d->events = events;
	pthread_mutex_init(&events->lock, NULL);
	events->more = true; /* what an earlier agent left */
	events->wakeups = events->waker = -1;
	result = ring_open(&events->ring, ring, PS_EVENT_RING);
	if (result < 0)
		return error_system(e, -result, "map ps_event cannot be read");
	events->wakeups = epoll_create1(EPOLL_CLOEXEC);
	events->waker = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (events->wakeups < 0 || events->waker < 0 || epoll_ctl(events->wakeups, EPOLL_CTL_ADD, ring, &edge) < 0 ||
		epoll_ctl(events->wakeups, EPOLL_CTL_ADD, events->waker, &edge) < 0)
		return error_system(e, errno, "map ps_event cannot be waited for");
	return 0;
}

void events_close(struct datapath *d)
{
	struct events *events = d->events;
	if (!events)
		return;
	ring_close(&events->ring);
	if (events->wakeups >= 0)
		close(events->wakeups);
	if (events->waker >= 0)
		close(events->waker);
	pthread_mutex_destroy(&events->lock);
	free(events->ended);
	free(events);
	d->events = NULL;
}

/* ---- what the sweep ends ---- */

void event_ended(struct datapath *d, const struct ps_event *event)
{
	struct events *events = d->events;
	pthread_mutex_lock(&events->lock);
	if (events->ended_count >= ENDED_MAX) {
		events->lost++;
	} else {
		events->ended = list_room(events->ended, events->ended_count, &events->ended_room, sizeof(*events->ended));
		events->ended[events->ended_count++] = *event;
	}
	pthread_mutex_unlock(&events->lock);
}

uint64_t events_lost(const struct datapath *d)
{
	struct events *events = d->events;
	pthread_mutex_lock(&events->lock);
	uint64_t lost = events->lost;
	pthread_mutex_unlock(&events->lock);
	return lost;
}

/* ---- connections to Services ---- */

static const enum other_map entry_maps[2][2] = {{OTHER_CONN4, OTHER_CONN6}, {OTHER_NEW4, OTHER_NEW6}};

/* The entry of the event's connection, with this destination; false: there is none, or none any more. */
static bool entry_find(const struct datapath *d, const struct ps_event *event, const uint8_t destination[16],
	uint16_t port, struct ps_conn *ret)
{
	bool ipv6 = event->family == 6;
	int order = memcmp(event->addr[0], destination, ipv6 ? 16 : 4);
	bool high = order > 0 || (order == 0 && event->port[0] > port);
	struct ps_key_conn4 key4 = {.protocol = event->protocol};
	struct ps_key_conn6 key6 = {.protocol = event->protocol};
	struct ps_conn_live live;
	key4.port[high] = key6.port[high] = event->port[0];
	key4.port[!high] = key6.port[!high] = port;
	memcpy(&key4.addr[high], event->addr[0], sizeof(key4.addr[0]));
	memcpy(&key4.addr[!high], destination, sizeof(key4.addr[0]));
	memcpy(key6.addr[high], event->addr[0], sizeof(key6.addr[0]));
	memcpy(key6.addr[!high], destination, sizeof(key6.addr[0]));
	const void *key = ipv6 ? (const void *)&key6 : &key4;
	if (bpf_map_lookup_elem(d->loaded.other[entry_maps[0][ipv6]], key, &live) == 0) {
		*ret = live.conn;
		return true;
	}
	return bpf_map_lookup_elem(d->loaded.other[entry_maps[1][ipv6]], key, ret) == 0;
}

static void backend_tell(const struct ps_conn *conn, struct ps_event *event)
{
	if (!(conn->service & PS_CONN_TRANSLATED) || conn->flags & PS_CONN_REWRITTEN)
		return;
	event->flags |= PS_EVENT_BACKEND;
	event->backend_port = conn->backend_port;
	memcpy(event->backend, conn->backend, sizeof(event->backend));
}

/*
 * Datagrams are told before it is known where they go. And when no rule decided what the sender may, the one that did
 * is the backend's: the far half's entry has it.
 */
static void event_complete(const struct datapath *d, struct ps_event *event)
{
	struct ps_event far = {0};
	struct ps_conn conn;
	if (event->event == PS_EVENT_REFUSED || event->verdict != PS_VERDICT_FORWARDED)
		return;
	if (event->event == PS_EVENT_OPENED && event->protocol == IPPROTO_UDP && !(event->flags & PS_EVENT_BACKEND) &&
		entry_find(d, event, event->addr[1], event->port[1], &conn))
		backend_tell(&conn, event);
	if (!(event->flags & PS_EVENT_BACKEND) || event->rule != PS_RULE_NONE ||
		!entry_find(d, event, event->backend, event->backend_port, &conn) || !(conn.service & PS_CONN_QUIET))
		return;
	conn_tell(&conn, &far);
	if (far.verdict != PS_VERDICT_FORWARDED || far.rule == PS_RULE_NONE)
		return;
	event->rule = far.rule;
	event->reason = far.reason;
	event->direction = far.direction;
	event->generation = far.generation;
}

/* ---- taking them ---- */

struct taker {
	const struct datapath *datapath;
	void (*each)(void *context, const struct ps_event *event);
	void *context;
};

static void event_give(const struct taker *taker, const struct ps_event *from)
{
	struct ps_event event = *from;
	event_complete(taker->datapath, &event);
	taker->each(taker->context, &event);
}

static int ended_give(struct events *events, const struct taker *taker)
{
	pthread_mutex_lock(&events->lock);
	auto_free struct ps_event *ended = steal_pointer(&events->ended);
	size_t count = events->ended_count;
	events->ended_count = events->ended_room = 0;
	pthread_mutex_unlock(&events->lock);
	for (size_t i = 0; i < count; i++)
		event_give(taker, &ended[i]);
	return (int)count;
}

static void record_give(void *context, const void *record, size_t size)
{
	const struct taker *taker = context;
	if (size >= sizeof(struct ps_event))
		event_give(taker, record);
}

int datapath_events(
	struct datapath *datapath, int wait, void (*each)(void *context, const struct ps_event *event), void *context)
{
	struct events *events = datapath->events;
	struct epoll_event ready;
	int result = epoll_wait(events->wakeups, &ready, 1, events->more ? 0 : wait);
	if (result < 0 && errno != EINTR)
		return -errno;
	struct taker taker = {datapath, each, context};
	int ended = ended_give(events, &taker);
	result = ring_read(&events->ring, EVENTS_A_CALL, record_give, &taker);
	events->more = result == EVENTS_A_CALL;
	return result < 0 ? result : ended + result;
}

void datapath_events_wake(struct datapath *datapath)
{
	eventfd_write(datapath->events->waker, 1);
}

/* ---- the tables ---- */

static void ends_tell4(const struct ps_key_conn4 *key, const struct ps_conn *conn, struct ps_event *ret)
{
	bool high = conn->flags & PS_CONN_ORIGIN_HIGH;
	ret->family = 4;
	ret->protocol = key->protocol;
	for (int end = 0; end < 2; end++) {
		memcpy(ret->addr[end], &key->addr[end ^ high], sizeof(key->addr[0]));
		ret->port[end] = key->port[end ^ high];
	}
}

static void ends_tell6(const struct ps_key_conn6 *key, const struct ps_conn *conn, struct ps_event *ret)
{
	bool high = conn->flags & PS_CONN_ORIGIN_HIGH;
	ret->family = 6;
	ret->protocol = key->protocol;
	for (int end = 0; end < 2; end++) {
		memcpy(ret->addr[end], key->addr[end ^ high], sizeof(key->addr[0]));
		ret->port[end] = key->port[end ^ high];
	}
}

void entry_tell(bool ipv6, const void *key, const struct ps_conn *conn, uint64_t now, struct ps_event *ret)
{
	*ret = (struct ps_event){.time = now};
	conn_tell(conn, ret);
	backend_tell(conn, ret);
	if (ipv6)
		ends_tell6(key, conn, ret);
	else
		ends_tell4(key, conn, ret);
	if ((conn->flags & (PS_CONN_REWRITTEN | PS_CONN_LEG)) == PS_CONN_REWRITTEN) /* as event_origin */
		memcpy(ret->addr[0], conn->origin, sizeof(ret->addr[0]));
}

uint64_t monotonic_now(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

/* Open, and one that events tell of: not the far half of another, nor a note about a proxy's own socket. */
static bool entry_listed(const struct ps_conn *conn, bool embryonic, uint64_t now)
{
	uint64_t both = conn->judged[PS_EGRESS] | conn->judged[PS_INGRESS];
	if (conn->state == PS_CONN_CLOSING || conn->service & PS_CONN_QUIET ||
		(conn->service & (PS_CONN_BEHIND | PS_CONN_TRANSLATED)) == PS_CONN_BEHIND)
		return false;
	if (embryonic && conn->seen < now && now - conn->seen > EMBRYONIC_NS)
		return false;
	return both & PS_JUDGED_ALLOW && !(both & PS_JUDGED_DENY);
}

struct listing {
	const struct datapath *datapath;
	bool ipv6, embryonic;
	uint64_t now;
	bool (*each)(void *context, const struct ps_event *event);
	void *context;
};

static int entry_list(void *context, const void *key, const void *value)
{
	const struct listing *listing = context;
	const struct ps_conn *conn = listing->embryonic ? value : &((const struct ps_conn_live *)value)->conn;
	struct ps_event event;
	if (!entry_listed(conn, listing->embryonic, listing->now))
		return 0;
	entry_tell(listing->ipv6, key, conn, listing->now, &event);
	event.event = listing->embryonic && event.protocol == IPPROTO_TCP ? PS_EVENT_COUNT : PS_EVENT_OPENED;
	event_complete(listing->datapath, &event);
	return listing->each(listing->context, &event) ? 0 : 1;
}

void datapath_connections(
	struct datapath *datapath, bool (*each)(void *context, const struct ps_event *event), void *context)
{
	struct listing listing = {.datapath = datapath, .now = monotonic_now(), .each = each, .context = context};
	/* Those that become established meanwhile are missed rather than told twice. */
	for (int i = 0; i < 4; i++) {
		listing.ipv6 = i & 1;
		listing.embryonic = i >> 1;
		size_t key = listing.ipv6 ? sizeof(struct ps_key_conn6) : sizeof(struct ps_key_conn4);
		size_t value = listing.embryonic ? sizeof(struct ps_conn) : sizeof(struct ps_conn_live);
		int map = datapath->loaded.other[entry_maps[listing.embryonic][listing.ipv6]];
		if (read_entries(map, key, value, true, entry_list, &listing) > 0)
			return;
	}
}

/* ---- which revision is live, for every thread ---- */

void generation_set(struct datapath *d, uint32_t generation, uint64_t revision)
{
	pthread_mutex_lock(&d->events->lock);
	d->generation = generation;
	d->live_revision = revision;
	pthread_mutex_unlock(&d->events->lock);
}

void datapath_generation(const struct datapath *datapath, uint32_t *generation, uint64_t *revision)
{
	pthread_mutex_lock(&datapath->events->lock);
	*generation = datapath->generation;
	*revision = datapath->live_revision;
	pthread_mutex_unlock(&datapath->events->lock);
}
