/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What happens to one packet at an interface that no workload is behind: uplinks, tunnels, bridges. Hardly anything is
 * refused here; that is for the workload's own hooks. What enters, in this order:
 *
 *  1. what is marked already goes on: it comes from a bridge's port (steer_out) or from the last hook (behind.h), and
 *     may have to be handed over here
 *  2. an ICMP error about a connection that a proxy has goes to the proxy's socket
 *  3. a packet of a connection that a proxy has, or a reply to one that it opened with a client's address, goes there
 *  4. a packet that belongs to no connection, and ends at a local workload: handed over if an ingress rule says so; or
 *     to a socket that has it although its entry is gone
 *
 * What leaves: the beginning and the end of connections of this node's own stack, and transparent sockets' datagrams
 * are looked at, to know which replies are a proxy's. Of what is forwarded, the first packet of a connection to a
 * Service's address, whose backend is known now.
 */
#ifndef PENSTOCK_NETWORK_H
#define PENSTOCK_NETWORK_H

#include "bpf/behind.h"
#include "bpf/intercept.h"
#include "bpf/judgment.h"
#include "bpf/reject.h"
#include "bpf/tell.h"
#include "bpf/translated.h"
#include "bpf/usual.h"

static __always_inline struct work *network_begin(struct __sk_buff *skb, bool from)
{
	struct work *w = work_get(from);
	__u32 zero = 0;
	const struct ps_control *control = bpf_map_lookup_elem(&ps_control, &zero);

	if (!w)
		return NULL;
	__builtin_memset(w, 0, sizeof(*w));
	w->generation = control ? PS_READ_ONCE(control->generation) : 0;
	w->side = w->generation & 1;
	w->control = control ? control->flags : 0;
	w->now = bpf_ktime_get_ns();
	return w;
}

static __always_inline bool network_l3(const struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	const struct ps_iface *iface = bpf_map_lookup_elem(&ps_iface, &ifindex);

	return iface && iface->flags & PS_IFACE_L3;
}

static __always_inline void network_account(const struct work *w)
{
	account_packet(PS_INGRESS, w->code, w->reason, w->packet.bytes);
}

/* Refused: counted, and answered the way it came. */
static __always_inline int network_refuse(struct __sk_buff *skb, struct work *w)
{
	int action = PS_DROP;

	if (deny_with_reject && reason_answered(w->reason))
		action = reject_packet(skb, true, false);
	network_account(w);
	return action;
}

/* 2 */
static __always_inline int network_error(struct __sk_buff *skb, struct work *w)
{
	struct ps_conn_live *live;
	struct ps_conn *conn;

	if (packet_embedded(skb, &w->packet))
		return PS_PASS;
	conn = conn_find(&w->packet, &live, w->now);
	if (conn && conn_marked(conn, w->packet.high))
		mark_set(skb);
	return PS_PASS;
}

/* 3, with the client as originator: policy is asked here, for no workload's hook sees it. */
static __always_inline int network_intercepted(
	struct __sk_buff *skb, struct work *w, struct ps_conn *conn, struct ps_conn_live *live)
{
	int action = PS_DROP;

	w->code = PS_VERDICT_FORWARDED;
	if (known_judge(skb, w, conn, true) == NOT_DENIED)
		action = known_steer(skb, w, conn, live);
	else
		w->code = PS_VERDICT_DROPPED;
	if (action == PS_PASS) {
		conn_count(conn, false, true, w->packet.bytes, w->now);
		conn_advance(&w->packet, conn, live, false, w->now);
	}
	if (action == PS_DROP)
		return network_refuse(skb, w);
	if (w->code != PS_VERDICT_FORWARDED)
		network_account(w);
	return action;
}

/* 3, a reply to a proxy's socket. The originator's packets are not seen on their way out, so that the second reply must
 * stand for the exchange. */
static __always_inline int network_answer(
	struct __sk_buff *skb, struct work *w, struct ps_conn *conn, struct ps_conn_live *live)
{
	if (steer_reply(skb, w, conn) != STEER_TAKEN) {
		work_drop(w, PS_REASON_NO_LISTENER);
		return network_refuse(skb, w);
	}
	conn_count(conn, true, true, w->packet.bytes, w->now);
	if (w->packet.protocol == IPPROTO_TCP && !live && conn->state == PS_CONN_REPLIED &&
		!(w->packet.traits & (PACKET_RST | PACKET_SYN))) {
		conn->state = PS_CONN_ESTABLISHED;
		if (!conn_promote(&w->packet, conn))
			conn->state = PS_CONN_REPLIED;
		return PS_PASS;
	}
	conn_advance(&w->packet, conn, live, true, w->now);
	return PS_PASS;
}

/* 4, its first packet. */
static __always_inline int network_new(struct __sk_buff *skb, struct work *w, struct ps_conn *old, bool live)
{
	if (!w->destination.steered)
		return PS_PASS;
	parties_find(skb, true);
	judge(skb, true, PS_EGRESS, false);
	if (!work_intercepts(skb, w) || work_denied(w) != NOT_DENIED)
		return PS_PASS; /* the last hook's to refuse */
	w->code = PS_VERDICT_FORWARDED;
	if (new_steer(skb, w) == PS_DROP)
		return network_refuse(skb, w);
	if (w->code != PS_VERDICT_INTERCEPTED)
		return PS_PASS;
	network_account(w);
	if (w->packet.traits & PACKET_ALONE)
		return PS_PASS;
	judgment_count(w, NOT_DENIED);
	if (old && old->state != PS_CONN_NEW && old->state != PS_CONN_CLOSING) {
		conn_joins(w, old);
		return PS_PASS;
	}
	if (live)
		conn_delete(&w->packet, w->now);
	conn_create(true, false, PS_CONN_INTERCEPTED);
	return PS_PASS;
}

/* 4, TCP without SYN: the socket tells whose it is. What ends there is a client's packet, or a reply to a leg. */
static __always_inline int network_orphan(struct __sk_buff *skb, struct work *w)
{
	if (steer_socket(skb, SOCKET_FULL) != STEER_TAKEN)
		return PS_PASS;
	parties_find(skb, true);
	judge(skb, true, PS_EGRESS, false);
	if (work_intercepts(skb, w)) {
		if (work_denied(w) != NOT_DENIED) {
			mark_clear(skb);
			return PS_PASS;
		}
		conn_create(true, false, PS_CONN_INTERCEPTED);
		return PS_PASS;
	}
	w->judged = 0;
	w->known |= WORK_LEG;
	conn_create(true, true, 0);
	return PS_PASS;
}

static __always_inline int network_transport(struct __sk_buff *skb, struct work *w)
{
	struct packet *p = &w->packet;
	bool datagram = p->protocol == IPPROTO_UDP;
	struct ps_conn_live *live;
	struct ps_conn *conn;

	packet_key(p);
	conn = conn_find(p, &live, w->now);
	if (conn && !conn_foreign(conn, p->high) && !conn_reopened(p, conn) && !conn_retried(w, conn, PS_INGRESS) &&
		!conn_bereft(w, conn)) {
		if (!conn_marked(conn, p->high)) {
			known_rests(skb, w, conn);
			return PS_PASS;
		}
		if (conn_reply(conn, p->high))
			return network_answer(skb, w, conn, live);
		return network_intercepted(skb, w, conn, live);
	}
	/* Of a Service's address: only the last hook says what becomes of it this time. */
	if (conn && conn->service & PS_CONN_BEHIND)
		behind_forget(conn);
	party_find(&w->destination, &p->destination, p->v4, w->side);
	w->known |= WORK_DESTINATION;
	if (!w->destination.local || p->traits & PACKET_LATER)
		return PS_PASS;
	return datagram || p->traits & PACKET_STARTS ? network_new(skb, w, conn, live) : network_orphan(skb, w);
}

/*
 * 1: a redirect to the bridge lost the priority. What the table of nftables is to hand over gets it again; the entry
 * was made at the port.
 */
static __always_inline int network_bridged(struct __sk_buff *skb, struct work *w)
{
	struct ps_conn_live *live;
	const struct ps_conn *conn;

	if (!(w->control & (PS_CONTROL_TPROXY | PS_CONTROL_TABLE)))
		return PS_PASS;
	packet_key(&w->packet);
	conn = conn_find(&w->packet, &live, w->now);
	if (!conn || !(conn->flags & PS_CONN_INTERCEPTED) || conn_reply(conn, w->packet.high))
		return PS_PASS;
	if (w->packet.protocol == IPPROTO_TCP && live && !(w->packet.traits & PACKET_STARTS))
		return PS_PASS;
	return steer(skb, w, conn->proxy) == STEER_NOBODY ? PS_DROP : PS_PASS;
}

/* In a frame of its own: what goes on from there needs the stack. */
static __noinline bool network_usual(struct __sk_buff *skb)
{
	return usual_packet(skb, FROM_NETWORK);
}

PS_APART int network_in(struct __sk_buff *skb)
{
	bool l3 = network_l3(skb);
	struct work *w;

	bool bridged = mark_is_set(skb);
	int action;

	if (!bridged && !l3 && network_usual(skb))
		return PS_PASS;
	if (bridged) {
		action = behind_enter(skb, l3); /* 1 */
		if (action != BEHIND_NOT)
			return action;
		mark_set(skb); /* for the priority */
	}
	w = network_begin(skb, true);
	if (!w || work_parse(skb, l3, true) != PACKET_JUDGED)
		return PS_PASS;
	if (w->packet.traits & PACKET_ERROR)
		return bridged ? PS_PASS : network_error(skb, w);
	if (w->packet.protocol != IPPROTO_TCP && w->packet.protocol != IPPROTO_UDP)
		return PS_PASS;
	if (bridged)
		return network_bridged(skb, w); /* 1 */
	action = network_transport(skb, w);
	if (action == PS_PASS && w->packet.traits & PACKET_FIRST)
		fragment_remember(&w->packet, true);
	work_tell(skb, true);
	return action;
}

/* ---- what leaves ---- */

/* FIN, SYN, RST of plain TCP; 0 of anything else. */
static __always_inline __u8 network_flags(struct __sk_buff *skb, bool l3)
{
	__u32 at = l3 ? 0 : sizeof(struct ethhdr);
	__u8 first, protocol, flags;

	if (bpf_skb_load_bytes(skb, at, &first, 1))
		return 0;
	if (bpf_skb_load_bytes(skb, at + (first >> 4 == 4 ? 9 : 6), &protocol, 1) || protocol != IPPROTO_TCP)
		return 0;
	at += first >> 4 == 4 ? (first & 15) * 4 : sizeof(struct ipv6hdr);
	return bpf_skb_load_bytes(skb, at + 13, &flags, 1) ? 0 : flags & 7;
}

/* A connection of this node begins. A leg from the client's own address and port shares the intercepted connection's
 * entry; a live entry of the client's own with these addresses must not lose its replies to a proxy. */
static __always_inline int network_opens(
	struct __sk_buff *skb, struct work *w, struct ps_conn *conn, const struct ps_conn_live *live)
{
	/* Replies to the node's own address come home by themselves. */
	if (leg_find(skb, w) != LEG_CLIENT)
		return PS_PASS;
	if (conn && conn->flags & (PS_CONN_LEG | PS_CONN_INTERCEPTED) && !conn_reopened(&w->packet, conn)) {
		conn->flags |= PS_CONN_LEG;
		return PS_PASS;
	}
	if (live && live->conn.state != PS_CONN_CLOSING)
		return PS_DROP;
	if (live)
		conn_delete(&w->packet, w->now);
	conn_create(false, false, 0);
	return PS_PASS;
}

/* A transparent socket of this node sends a datagram: a leg's, or a proxy's answer to a client that is not here. */
static __always_inline bool network_speaks(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct speaker socket = {};

	return sk && speaker_read(sk, &socket) && socket.datagrams && socket.transparent;
}

static __always_inline int network_datagram(struct __sk_buff *skb, struct work *w)
{
	struct packet *p = &w->packet;
	struct ps_conn_live *live;
	struct ps_conn *conn;
	bool reply;

	if (p->traits & PACKET_LATER)
		return PS_PASS;
	packet_key(p);
	conn = conn_find(p, &live, w->now);
	if (!conn) {
		if (leg_find(skb, w) == LEG_CLIENT)
			conn_create(false, false, 0);
		return PS_PASS;
	}
	if (!(conn->flags & (PS_CONN_LEG | PS_CONN_INTERCEPTED)))
		return PS_PASS;
	reply = conn_reply(conn, p->high);
	if (!reply)
		conn_leg(skb, w, conn);
	conn_count(conn, reply, false, p->bytes, w->now);
	conn_advance(p, conn, live, reply, w->now);
	return PS_PASS;
}

/* Forwarded. Nearly always one look at the kernel's own connection tracking is all: no first packet. */
static __always_inline int network_forwards(struct __sk_buff *skb)
{
	__u32 zero = 0;
	const struct ps_control *control = bpf_map_lookup_elem(&ps_control, &zero);
	struct work *w;
	int action;
	bool l3;

	if (!control || !(control->flags & PS_CONTROL_SERVICES) || !nfct_find(skb, translated_meant()))
		return PS_PASS;
	w = network_begin(skb, false);
	if (!w)
		return PS_PASS;
	l3 = network_l3(skb);
	w->packet.bytes = l3 || skb->len < sizeof(struct ethhdr) ? skb->len : skb->len - sizeof(struct ethhdr);
	action = translated_judge(skb, w);
	if (action != PS_DROP)
		return PS_PASS;
	if (deny_with_reject && work_parse(skb, l3, false) == PACKET_JUDGED)
		action = reject_packet(skb, false, true);
	account_packet(PS_EGRESS, w->code, w->reason, w->packet.bytes);
	work_tell(skb, false);
	return action;
}

static __always_inline int network_connection(struct __sk_buff *skb, struct work *w)
{
	struct ps_conn_live *live;
	struct ps_conn *conn;

	if (w->packet.protocol == IPPROTO_UDP)
		return network_datagram(skb, w);
	if (w->packet.protocol != IPPROTO_TCP)
		return PS_PASS;
	packet_key(&w->packet);
	conn = conn_find(&w->packet, &live, w->now);
	if (w->packet.traits & PACKET_STARTS)
		return network_opens(skb, w, conn, live);
	if (conn && conn->flags & (PS_CONN_LEG | PS_CONN_INTERCEPTED))
		conn_advance(&w->packet, conn, live, conn_reply(conn, w->packet.high), w->now);
	return PS_PASS;
}

PS_APART int network_out(struct __sk_buff *skb)
{
	struct work *w;
	int action;
	bool l3;

	if (skb->ingress_ifindex)
		return network_forwards(skb);
	if (!skb->sk)
		return PS_PASS;
	if (skb->protocol != bpf_htons(ETH_P_IP) && skb->protocol != bpf_htons(ETH_P_IPV6))
		return PS_PASS;
	l3 = network_l3(skb);
	if (!network_flags(skb, l3) && !network_speaks(skb))
		return PS_PASS;
	w = network_begin(skb, false);
	if (!w || work_parse(skb, l3, false) != PACKET_JUDGED)
		return PS_PASS;
	action = network_connection(skb, w);
	work_tell(skb, false);
	return action;
}

#endif
