/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the agent is told of connections, through the ring. Nobody is woken for an event: the agent looks several times
 * a second, and is woken when the ring begins to fill.
 */
#ifndef PENSTOCK_EVENT_H
#define PENSTOCK_EVENT_H

#include <stdbool.h>

#include "bpf/account.h"
#include "bpf/maps.h"

/* NULL: no room, and counted. */
static __always_inline struct ps_event *event_new(__u8 code, __u64 now)
{
	bool refusal = code == PS_EVENT_REFUSED;
	struct ps_event *event = NULL;

	if (!refusal || bpf_ringbuf_query(&ps_event, BPF_RB_AVAIL_DATA) < PS_EVENT_RING / 2)
		event = bpf_ringbuf_reserve(&ps_event, sizeof(*event), 0);
	if (!event) {
		account_stat(refusal ? PS_STAT_LOST_REFUSED : PS_STAT_LOST);
		return NULL;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->event = code;
	event->time = now;
	return event;
}

static __always_inline void event_send(struct ps_event *event)
{
	bool filling = bpf_ringbuf_query(&ps_event, BPF_RB_AVAIL_DATA) > PS_EVENT_RING / 4;

	bpf_ringbuf_submit(event, filling ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
}

static __always_inline void event_conn(struct ps_event *event, const struct ps_conn *conn)
{
	conn_tell(conn, event);
	if ((conn->service & PS_CONN_TRANSLATED) && !(conn->flags & PS_CONN_REWRITTEN)) {
		event->flags |= PS_EVENT_BACKEND;
		event->backend_port = conn->backend_port;
		__builtin_memcpy(event->backend, conn->backend, sizeof(event->backend));
	}
}

/* Its sender as it was before this node rewrote it; the port is the one that it was given. A leg is its proxy's. */
static __always_inline void event_origin(struct ps_event *event, const struct ps_conn *conn)
{
	if ((conn->flags & (PS_CONN_REWRITTEN | PS_CONN_LEG)) == PS_CONN_REWRITTEN)
		__builtin_memcpy(event->addr[0], conn->origin, sizeof(event->addr[0]));
}

static __always_inline void event_ends4(
	struct ps_event *event, const struct ps_key_conn4 *key, const struct ps_conn *conn)
{
	bool high = conn->flags & PS_CONN_ORIGIN_HIGH;
	__be32 origin = high ? key->addr[1] : key->addr[0], other = high ? key->addr[0] : key->addr[1];

	event->family = 4;
	event->protocol = key->protocol;
	__builtin_memcpy(event->addr[0], &origin, sizeof(origin));
	__builtin_memcpy(event->addr[1], &other, sizeof(other));
	event->port[0] = high ? key->port[1] : key->port[0];
	event->port[1] = high ? key->port[0] : key->port[1];
	event_origin(event, conn);
}

static __always_inline void event_ends6(
	struct ps_event *event, const struct ps_key_conn6 *key, const struct ps_conn *conn)
{
	event->family = 6;
	event->protocol = key->protocol;
	if (conn->flags & PS_CONN_ORIGIN_HIGH) {
		__builtin_memcpy(event->addr[0], key->addr[1], sizeof(event->addr[0]));
		__builtin_memcpy(event->addr[1], key->addr[0], sizeof(event->addr[1]));
		event->port[0] = key->port[1];
		event->port[1] = key->port[0];
	} else {
		__builtin_memcpy(event->addr, key->addr, sizeof(event->addr));
		event->port[0] = key->port[0];
		event->port[1] = key->port[1];
	}
	event_origin(event, conn);
}

/* Somebody heard of it, or would hear of it now for the first time. */
static __always_inline bool conn_tells_end(const struct ps_conn *conn)
{
	return conn->state != PS_CONN_CLOSING && (conn->service & (PS_CONN_TOLD | PS_CONN_QUIET)) == PS_CONN_TOLD;
}

/* An entry that goes before its connection has closed. */
static __always_inline void event_gone4(const struct ps_key_conn4 *key, const struct ps_conn *conn, __u64 now)
{
	struct ps_event *event;

	if (!conn_tells_end(conn))
		return;
	event = event_new(PS_EVENT_CLOSED, now);
	if (!event)
		return;
	event_conn(event, conn);
	event_ends4(event, key, conn);
	event_send(event);
}

static __always_inline void event_gone6(const struct ps_key_conn6 *key, const struct ps_conn *conn, __u64 now)
{
	struct ps_event *event;

	if (!conn_tells_end(conn))
		return;
	event = event_new(PS_EVENT_CLOSED, now);
	if (!event)
		return;
	event_conn(event, conn);
	event_ends6(event, key, conn);
	event_send(event);
}

#endif
