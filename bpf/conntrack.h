/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Track: which connection a packet belongs to.
 *
 *   NEW ──reply──► REPLIED ──originator──► ESTABLISHED ──FIN from both, RST──► CLOSING
 *   └───────── ps_new*, evictable ───────┘ └──────────── ps_conn*, never evicted ─────┘
 *
 * Two CPUs may meet at one entry. What must not part (revision and verdict) is one word; the counters may lose a packet
 * when both directions' packets of one connection are added at the same instant, which is cheaper than two locked adds
 * for each packet.
 */
#ifndef PENSTOCK_CONNTRACK_H
#define PENSTOCK_CONNTRACK_H

#include <linux/errno.h>
#include "bpf/account.h"
#include "bpf/event.h"
#include "bpf/maps.h"
#include "bpf/packet.h"
#include "bpf/verifier.h"

#define SECOND 1000000000ull
#define EMBRYONIC_TIMEOUT (60 * SECOND) /* idle for longer: as good as absent */

#define CLOCK_MONOTONIC 1

static __always_inline __u64 judged_word(__u32 generation, __u32 bits)
{
	return (__u64)generation << 32 | bits;
}

/* A tick is enough for idle times. The clock is of 5.11: have_timer, which means 5.15, stands for it too. */
static __always_inline __u64 coarse_now(void)
{
	return have_timer ? bpf_ktime_get_coarse_ns() : bpf_ktime_get_ns();
}

/* ---- lookup ---- */

/* *live: the established entry that holds the connection, or NULL when it is embryonic. */
static __always_inline struct ps_conn *conn_find(const struct packet *p, struct ps_conn_live **live, __u64 now)
{
	struct ps_conn *conn;

	if (p->v4) {
		*live = bpf_map_lookup_elem(&ps_conn4, &p->key4);
		if (*live)
			return &(*live)->conn;
		conn = bpf_map_lookup_elem(&ps_new4, &p->key4);
	} else {
		*live = bpf_map_lookup_elem(&ps_conn6, &p->key6);
		if (*live)
			return &(*live)->conn;
		conn = bpf_map_lookup_elem(&ps_new6, &p->key6);
	}
	if (conn && (__s64)(now - conn->seen) > (__s64)EMBRYONIC_TIMEOUT)
		return NULL;
	return conn;
}

static __always_inline bool conn_reply(const struct ps_conn *conn, bool high)
{
	return high != !!(conn->flags & PS_CONN_ORIGIN_HIGH);
}

/* Packets of this direction go to a proxy's socket. */
static __always_inline bool conn_marked(const struct ps_conn *conn, bool high)
{
	return conn->flags & (conn_reply(conn, high) ? PS_CONN_LEG : PS_CONN_INTERCEPTED);
}

/* A leg's entry says nothing of a client that sends from the same address and port itself. */
static __always_inline bool conn_foreign(const struct ps_conn *conn, bool high)
{
	return (conn->flags & (PS_CONN_LEG | PS_CONN_INTERCEPTED)) == PS_CONN_LEG && !conn_reply(conn, high);
}

/* Is this packet no packet of the entry with its addresses and ports, but an attempt to open a connection? */
static __always_inline bool conn_reopened(const struct packet *p, const struct ps_conn *conn)
{
	bool reply = conn_reply(conn, p->high);
	__u64 ingress;

	if (p->traits & PACKET_STARTS && (reply || conn->state == PS_CONN_CLOSING))
		return true;
	/* At its own addresses nothing of it is ever seen. */
	if (p->traits & PACKET_STARTS && (conn->service & (PS_CONN_BEHIND | PS_CONN_TRANSLATED)) == PS_CONN_BEHIND)
		return true;
	if (p->traits & PACKET_STARTS) /* what was first seen midstream, and not answered, was a late packet */
		return conn->flags & PS_CONN_MIDSTREAM && conn->state == PS_CONN_NEW;
	/* The other end of a refused attempt may open its own. TCP says so with a SYN. A leg that leaves this node was not
	 * judged: nobody on it is its responder. */
	ingress = PS_READ_ONCE(conn->judged[PS_INGRESS]);
	return reply && conn->state == PS_CONN_NEW && p->protocol != IPPROTO_TCP && !(p->traits & PACKET_ANSWER) &&
		   !(ingress & PS_JUDGED_ALLOW) && (ingress || !(conn->flags & PS_CONN_LEG));
}

/*
 * A SYN of the originator in a connection that was answered, and that no proxy has: it has forgotten that one, and
 * begins another. Only where the source is proved: else anybody could end a connection by a SYN.
 */
static __always_inline bool conn_forgotten(const struct packet *p, const struct ps_conn *conn)
{
	return p->protocol == IPPROTO_TCP && p->traits & PACKET_STARTS && conn->state != PS_CONN_NEW &&
		   !conn_reply(conn, p->high) && !(conn->flags & (PS_CONN_INTERCEPTED | PS_CONN_LEG | PS_CONN_NODE));
}

/* ---- expiry ---- */

static __always_inline __u64 conn_timeout(__u8 protocol, __u8 state)
{
	return PS_CONN_IDLE(protocol, state) * SECOND;
}

/* The timer is not touched by packets: it looks how long the connection has been idle, and ends or waits for the rest.
 */
static __always_inline bool conn_expires(struct ps_conn_live *live, __u8 protocol, __u64 now)
{
	__s64 idle = now - live->conn.seen;
	__s64 timeout = conn_timeout(protocol, live->conn.state);

	if (idle < timeout) {
		bpf_timer_start(&live->timer, timeout - idle, 0);
		return false;
	}
	return true;
}

static int conn_expire4(void *map, struct ps_key_conn4 *key, struct ps_conn_live *live)
{
	__u64 now = bpf_ktime_get_ns();

	if (!conn_expires(live, key->protocol, now))
		return 0;
	event_gone4(key, &live->conn, now);
	if (!bpf_map_delete_elem(map, key))
		account_stat(PS_STAT_CLOSED);
	return 0;
}

static int conn_expire6(void *map, struct ps_key_conn6 *key, struct ps_conn_live *live)
{
	__u64 now = bpf_ktime_get_ns();

	if (!conn_expires(live, key->protocol, now))
		return 0;
	event_gone6(key, &live->conn, now);
	if (!bpf_map_delete_elem(map, key))
		account_stat(PS_STAT_CLOSED);
	return 0;
}

/* Another connection takes the place of an established one. */
static __noinline void conn_delete(const struct packet *p, __u64 now)
{
	const struct ps_conn_live *live;
	long error;

	if (p->v4) {
		live = bpf_map_lookup_elem(&ps_conn4, &p->key4);
		if (live)
			event_gone4(&p->key4, &live->conn, now);
		error = bpf_map_delete_elem(&ps_conn4, &p->key4);
	} else {
		live = bpf_map_lookup_elem(&ps_conn6, &p->key6);
		if (live)
			event_gone6(&p->key6, &live->conn, now);
		error = bpf_map_delete_elem(&ps_conn6, &p->key6);
	}
	if (!error)
		account_stat(PS_STAT_CLOSED);
	PS_RETURN_ZERO;
}

/* ---- promotion ---- */

/*
 * The exchange is complete: from ps_new* to ps_conn*. With NOEXIST, so that of two CPUs one wins, starts the timer and
 * counts. False: the table is full, and the connection stays where it is. The kernel may have no memory for a timer at
 * this moment (6.18 takes it without waiting for a lock, and in a burst fails often): such an entry is the agent's to
 * end.
 */
static __noinline bool conn_promote(struct packet *p, const struct ps_conn *conn)
{
	struct ps_conn_live fresh = {}, *live;
	__u64 timeout = conn_timeout(p->protocol, PS_CONN_ESTABLISHED);
	long error;

	fresh.conn = *conn;
	fresh.conn.service |= PS_CONN_TOLD;
	if (p->v4)
		error = bpf_map_update_elem(&ps_conn4, &p->key4, &fresh, BPF_NOEXIST);
	else
		error = bpf_map_update_elem(&ps_conn6, &p->key6, &fresh, BPF_NOEXIST);
	if (error && error != -EEXIST) {
		account_stat(PS_STAT_TABLE_FULL);
		return false;
	}
	if (!error) {
		account_stat(PS_STAT_OPENED);
		if (!(conn->service & PS_CONN_TOLD))
			p->told |= PACKET_OPENED;
		if (p->protocol == IPPROTO_TCP)
			account_stat(PS_STAT_ANSWERED);
		if (have_timer && p->v4) {
			live = bpf_map_lookup_elem(&ps_conn4, &p->key4);
			if (live) {
				bpf_timer_init(&live->timer, &ps_conn4, CLOCK_MONOTONIC);
				bpf_timer_set_callback(&live->timer, conn_expire4);
				bpf_timer_start(&live->timer, timeout, 0);
			}
		} else if (have_timer) {
			live = bpf_map_lookup_elem(&ps_conn6, &p->key6);
			if (live) {
				bpf_timer_init(&live->timer, &ps_conn6, CLOCK_MONOTONIC);
				bpf_timer_set_callback(&live->timer, conn_expire6);
				bpf_timer_start(&live->timer, timeout, 0);
			}
		}
	}
	if (p->v4)
		bpf_map_delete_elem(&ps_new4, &p->key4);
	else
		bpf_map_delete_elem(&ps_new6, &p->key6);
	return true;
}

/* ---- a packet that passes ---- */

/*
 * A connection between two workloads crosses two hooks. It is counted where it leaves its sender; at the last hook only
 * when the sender has no interface here.
 */
static __always_inline void conn_count(struct ps_conn *conn, bool reply, bool from, __u32 bytes, __u64 now)
{
	conn->seen = now;
	if (from || !(reply ? conn->ifindex[1] : conn->ifindex[0])) {
		if (reply) {
			conn->packets[1]++;
			conn->bytes[1] += bytes;
		} else {
			conn->packets[0]++;
			conn->bytes[0] += bytes;
		}
	}
}

static __always_inline void conn_closing(struct packet *p, struct ps_conn *conn, struct ps_conn_live *live)
{
	if (conn->state == PS_CONN_CLOSING)
		return;
	conn->state = PS_CONN_CLOSING;
	p->told |= PACKET_CLOSED;
	if (!live)
		account_stat(PS_STAT_ANSWERED);
	if (live && have_timer)
		bpf_timer_start(&live->timer, PS_CONN_IDLE_CLOSING * SECOND, 0);
}

/* Moves the state on; idempotent, because both hooks see the packet. False: established, but the table is full. */
static __always_inline bool conn_advance(
	struct packet *p, struct ps_conn *conn, struct ps_conn_live *live, bool reply, __u64 now)
{
	__u64 handshake;

	if (p->traits & PACKET_LATER)
		return true;
	if (p->traits & PACKET_RST) {
		conn_closing(p, conn, live);
	} else if (p->traits & PACKET_FIN) {
		conn->flags |= reply ? PS_CONN_FIN_REPLY : PS_CONN_FIN_ORIGIN;
		if (conn->flags & PS_CONN_FIN_REPLY && conn->flags & PS_CONN_FIN_ORIGIN)
			conn_closing(p, conn, live);
	}
	if (live)
		return true;
	if (reply && conn->state == PS_CONN_NEW) {
		conn->state = PS_CONN_REPLIED;
	} else if (!reply && conn->state == PS_CONN_REPLIED) {
		handshake = now - conn->opened;
		conn->state = PS_CONN_ESTABLISHED;
		if (p->protocol == IPPROTO_TCP && !(conn->flags & PS_CONN_MIDSTREAM) && !conn->handshake)
			conn->handshake = handshake > 0xffffffff ? 0xffffffff : handshake;
		if (!conn_promote(p, conn)) {
			conn->state = PS_CONN_REPLIED;
			if (!(conn->service & PS_CONN_TOLD))
				p->told |= PACKET_OPENED;
			return false;
		}
	}
	return true;
}

#endif
