/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Ingress interception behind a Service: only the last hook sees which backend this node's NAT has chosen, and there no
 * socket can be given to a packet. If an ingress rule of the backend wants the connection, the packet gets back the
 * addresses and ports with which it entered, and enters once more by the interface by which it came, marked. There it
 * is handed over; NAT does to it what it did before, and so the proxy's socket has the backend's address and port, as
 * the backend's own would.
 *
 *   TCP   only what has no socket yet goes this way: SYNs. The entry that has the Service's address (first hook) learns
 *         that it is intercepted, and later packets are only marked: NAT and the stack find the socket.
 *   UDP   every datagram: NAT may send the next one somewhere else, and nothing here would notice.
 *
 * Two entries know of it, both with PS_CONN_BEHIND: that of the Service's address (TRANSLATED), by which packets are
 * judged and marked; and that of the proxy's socket's own addresses, which tells programs on sockets whose connection
 * it is, and which a packet meets at the last hook alone.
 *
 * Not handed over, and so the backend's own: what enters or leaves by an interface without a link layer.
 */
#ifndef PENSTOCK_BEHIND_H
#define PENSTOCK_BEHIND_H

#include "bpf/intercept.h"
#include "bpf/judgment.h"
#include "bpf/nfct.h"
#include "bpf/steer.h"

#define BEHIND_NOT (-3) /* no action: the packet is none of these */

#define BEHIND_HOST 0 /* PACKET_HOST */
#define BEHIND_IP4_SUM 10
#define BEHIND_IP4_ENDS 12
#define BEHIND_IP6_ENDS 8
#define BEHIND_TCP_SUM 16
#define BEHIND_UDP_SUM 6

/* ---- at the last hook: as it entered ---- */

/* Gives the packet of work_get(false) the addresses and ports of aside->entered. */
PS_APART int behind_restore(struct __sk_buff *skb)
{
	struct work *w = work_get(false);
	struct aside *aside = aside_get();
	__u32 network, sum, flags;
	struct ports now, then;
	__be32 ends[2];
	__s64 change;

	if (!w || !aside)
		return -1;
	network = w->packet.end - w->packet.bytes;
	change = bpf_csum_diff(
		w->packet.source.word, 2 * sizeof(struct address), aside->entered.source.word, 2 * sizeof(struct address), 0);
	if (change < 0)
		return -1;
	if (!(w->packet.traits & PACKET_LATER)) {
		sum = w->packet.transport + (w->packet.protocol == IPPROTO_TCP ? BEHIND_TCP_SUM : BEHIND_UDP_SUM);
		flags = w->packet.protocol == IPPROTO_TCP ? 0 : BPF_F_MARK_MANGLED_0;
		now.source = bpf_htons(w->packet.source_port);
		now.destination = bpf_htons(w->packet.destination_port);
		then.source = bpf_htons(aside->entered.source_port);
		then.destination = bpf_htons(aside->entered.destination_port);
		if (bpf_l4_csum_replace(skb, sum, 0, change, BPF_F_PSEUDO_HDR | flags) ||
			bpf_l4_csum_replace(skb, sum, now.source, then.source, sizeof(then.source) | flags) ||
			bpf_l4_csum_replace(skb, sum, now.destination, then.destination, sizeof(then.destination) | flags) ||
			bpf_skb_store_bytes(skb, w->packet.transport, &then, sizeof(then), 0))
			return -1;
	}
	if (!w->packet.v4)
		return bpf_skb_store_bytes(
			skb, network + BEHIND_IP6_ENDS, aside->entered.source.word, 2 * sizeof(struct address), 0);
	ends[0] = aside->entered.source.v4;
	ends[1] = aside->entered.destination.v4;
	if (bpf_l3_csum_replace(skb, network + BEHIND_IP4_SUM, 0, change, 0))
		return -1;
	return bpf_skb_store_bytes(skb, network + BEHIND_IP4_ENDS, ends, sizeof(ends), 0);
}

/* ---- at the last hook: which ---- */

/* Programs of ours see what enters there, and a frame of this interface can enter there. */
static __always_inline bool behind_returns(struct __sk_buff *skb, const struct work *w)
{
	__u32 ifindex = skb->ingress_ifindex;
	const struct ps_iface *iface = bpf_map_lookup_elem(&ps_iface, &ifindex);

	return iface && !(iface->flags & PS_IFACE_L3) && !(w->ifindex & PS_CONN_L3);
}

/* The entry of the packet as it entered; it had none if no workload sent it. */
static __always_inline struct ps_conn *behind_entry(struct work *w, struct aside *aside)
{
	struct packet *p = &aside->entered;
	struct ps_conn_live *live;
	struct ps_conn *conn = conn_find(p, &live, w->now);

	if (conn && !conn_reply(conn, p->high) && conn->state != PS_CONN_CLOSING)
		return conn;
	if (live)
		conn_delete(p, w->now);
	__builtin_memset(&aside->fresh, 0, sizeof(aside->fresh));
	aside->fresh.opened = aside->fresh.seen = w->now;
	aside->fresh.flags = p->high ? PS_CONN_ORIGIN_HIGH : 0;
	aside->fresh.service = p->protocol == IPPROTO_TCP ? 0 : PS_CONN_TOLD;
	conn_insert(p, &aside->fresh, BPF_ANY);
	return p->v4 ? bpf_map_lookup_elem(&ps_new4, &p->key4) : bpf_map_lookup_elem(&ps_new6, &p->key6);
}

/*
 * Who takes the packet of work_get(false), and w->proxy: a socket that has these very addresses and ports, or a
 * listener. Nothing is assigned here, so that both engines ask in the same way; and a TIME_WAIT is left to answer, as
 * nobody can find it by the addresses with which the packet enters.
 */
PS_APART int behind_taker(struct __sk_buff *skb, bool starts)
{
	const struct work *w = work_get(false);
	struct work *first = work_get(true);

	if (!w || !first)
		return STEER_NOBODY;
	first->packet = w->packet;
	first->side = w->side;
	first->control = (w->control | PS_CONTROL_TPROXY) & ~PS_CONTROL_TABLE;
	if (!starts)
		return steer_socket(skb, SOCKET_ANY);
	return steer(skb, first, w->proxy);
}

/* Both entries learn of it. again: the connection is known to be the proxy's. */
static __always_inline void behind_note(struct work *w, struct ps_conn *conn, struct aside *aside, bool own, bool again)
{
	__u32 ifindex = w->ifindex;
	bool rewritten = !address_equal(&w->packet.source, &aside->entered.source);

	conn_judged(conn, w);
	conn_translated(conn, w);
	conn->service = PS_CONN_TRANSLATED | PS_CONN_BEHIND | (own ? PS_CONN_OWN : 0) | (rewritten ? PS_CONN_MASKED : 0) |
					(conn->service & (PS_CONN_TOLD | PS_CONN_QUIET));
	conn->proxy = w->proxy;
	conn->intercept_rule = w->intercept_rule;
	conn->flags |= PS_CONN_INTERCEPTED;
	if (again)
		return;
	/* Without an interface: no packet takes the short way past a proxy by it. */
	w->service = PS_CONN_BEHIND;
	w->known |= WORK_QUIET;
	w->backend_port = aside->entered.source_port;
	w->ifindex = 0;
	conn_create(false, false, PS_CONN_INTERCEPTED);
	w->ifindex = ifindex;
}

/* The entry of a Service's address whose connection begins anew, and goes to the backend itself. */
static __always_inline void behind_forget(struct ps_conn *conn)
{
	conn->flags &= ~PS_CONN_INTERCEPTED;
	conn->service &= ~(PS_CONN_BEHIND | PS_CONN_OWN | PS_CONN_MASKED);
}

/*
 * w->proxy is to have it. PS_PASS: the backend gets it, w->code and reason as they were; PS_DROP: nobody does; else it
 * is on its way back. known: its own entry, if that is one of these.
 */
static __always_inline int behind_send(struct __sk_buff *skb, struct work *w, bool known)
{
	bool starts = w->packet.traits & PACKET_STARTS || w->packet.protocol == IPPROTO_UDP;
	struct aside *aside = aside_get();
	const struct ps_proxy *proxy;
	struct ps_conn_live *live;
	struct ps_conn *conn;
	bool again;
	int taker;

	if (!aside || !behind_returns(skb, w) ||
		!nfct_translation(skb, NFCT_ORIGINATORS, &aside->entered, &w->backend, &w->backend_port))
		return PS_PASS;
	conn = conn_find(&aside->entered, &live, w->now);
	if (conn && (conn->service & PS_CONN_ASKED || conn->flags & PS_CONN_REWRITTEN))
		return PS_PASS;
	again = conn && conn->service & PS_CONN_BEHIND && !conn_reply(conn, aside->entered.high) &&
			conn->state != PS_CONN_CLOSING;
	taker = behind_taker(skb, starts);
	if (taker == STEER_NOBODY && !starts)
		return PS_PASS;
	if (taker != STEER_TAKEN && !again)
		account_rule(w->intercept_rule);
	if (taker == STEER_NOBODY) {
		proxy = proxy_find(w->proxy, w->side);
		if (!proxy || !(proxy->flags & PS_PROXY_BYPASS))
			return work_drop(w, PS_REASON_NO_LISTENER);
		if (conn)
			behind_forget(conn);
		return PS_PASS;
	}
	conn = behind_entry(w, aside);
	if (!conn)
		return work_drop(w, PS_REASON_TABLE_FULL);
	if (taker != STEER_TAKEN && !again)
		account_proxy(w->proxy);
	behind_note(w, conn, aside, taker == STEER_TAKEN, known && again);
	if (behind_restore(skb))
		return work_drop(w, PS_REASON_MALFORMED);
	work_pass(w, PS_VERDICT_INTERCEPTED, PS_REASON_INTERCEPT);
	mark_set(skb);
	return bpf_redirect(skb->ingress_ifindex, BPF_F_INGRESS);
}

/* Does a rule want what begins here, or is seen here for the first time? */
static __always_inline bool behind_wanted(struct __sk_buff *skb, const struct work *w)
{
	const struct ps_verdict ingress = w->verdict[PS_INGRESS];

	return skb->ingress_ifindex && !mark_is_set(skb) && w->control & PS_CONTROL_STEERING && w->destination.steered &&
		   verdict_intercepts(&ingress) && !(w->known & (WORK_NODE | WORK_LEG));
}

static __noinline int behind_new(struct __sk_buff *skb, struct work *w)
{
	if (!behind_wanted(skb, w))
		return PS_PASS;
	w->proxy = w->verdict[PS_INGRESS].proxy;
	w->intercept_rule = w->verdict[PS_INGRESS].intercept_rule;
	return behind_send(skb, w, false);
}

/* A datagram of a flow that a proxy has. */
static __noinline int behind_again(struct __sk_buff *skb, struct work *w, const struct ps_conn *conn)
{
	if (mark_is_set(skb))
		return PS_PASS;
	w->proxy = conn->proxy;
	w->intercept_rule = conn->intercept_rule;
	return behind_send(skb, w, true);
}

/* Does the packet at the last hook meet the entry of a proxy's socket? A TCP one does only if it begins something. */
static __always_inline bool behind_owns(struct __sk_buff *skb, const struct ps_conn *conn)
{
	return skb->ingress_ifindex && conn->service & PS_CONN_BEHIND && !(conn->service & PS_CONN_TRANSLATED);
}

/* ---- where it enters again ---- */

/* BEHIND_NOT, PS_DROP, or PS_PASS: marked, and handed over. */
PS_APART int behind_enter(struct __sk_buff *skb, bool l3)
{
	struct work *w = work_get(true);
	__u32 zero = 0;
	const struct ps_control *control = bpf_map_lookup_elem(&ps_control, &zero);
	struct ps_conn_live *live;
	struct ps_conn *conn;

	if (!w || !control)
		return BEHIND_NOT;
	__builtin_memset(w, 0, sizeof(*w));
	w->generation = PS_READ_ONCE(control->generation);
	w->side = w->generation & 1;
	w->control = control->flags;
	w->now = bpf_ktime_get_ns();
	if (work_parse(skb, l3, true) != PACKET_JUDGED || w->packet.traits & PACKET_LONELY)
		return BEHIND_NOT;
	packet_key(&w->packet);
	conn = conn_find(&w->packet, &live, w->now);
	if (!conn || !(conn->flags & PS_CONN_INTERCEPTED) || conn_reply(conn, w->packet.high) ||
		(conn->service & (PS_CONN_BEHIND | PS_CONN_TRANSLATED)) != (PS_CONN_BEHIND | PS_CONN_TRANSLATED))
		return BEHIND_NOT;
	if (w->packet.traits & PACKET_FIRST)
		fragment_remember(&w->packet, true);
	/* Its frame is one to the backend. */
	bpf_skb_change_type(skb, BEHIND_HOST);
	if (conn->service & PS_CONN_OWN || !(w->packet.protocol == IPPROTO_UDP || w->packet.traits & PACKET_STARTS)) {
		mark_set(skb);
		return PS_PASS;
	}
	__builtin_memcpy(w->packet.destination.word, conn->backend, sizeof(conn->backend));
	w->packet.destination_port = conn->backend_port;
	if (steer(skb, w, conn->proxy) == STEER_NOBODY) {
		w->proxy = conn->proxy;
		w->intercept_rule = conn->intercept_rule;
		work_drop(w, PS_REASON_NO_LISTENER);
		account_packet(PS_INGRESS, PS_VERDICT_DROPPED, PS_REASON_NO_LISTENER, w->packet.bytes);
		return PS_DROP;
	}
	return PS_PASS;
}

#endif
