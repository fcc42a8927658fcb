/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Interception: which connections go to a proxy, in what order policy and InterceptPolicies are asked, and what happens
 * to connections of a proxy whose entry is gone. How a packet is handed over is steer.h's.
 */
#ifndef PENSTOCK_INTERCEPT_H
#define PENSTOCK_INTERCEPT_H

#include "bpf/judgment.h"
#include "bpf/leg.h"
#include "bpf/steer.h"

/* ---- a known connection ---- */

/*
 * Its backend's rule gave it to a proxy (behind.h). What has no socket yet goes on to the last hook, and comes back
 * from there. The rest is for the stack, behind NAT; but the answer to a SYN cookie has no socket. Whether that is one
 * can be seen only where the source stays as it is.
 */
static __noinline int known_behind(
	struct __sk_buff *skb, struct work *w, struct ps_conn *conn, const struct ps_conn_live *live)
{
	const struct address destination = w->packet.destination;
	__u16 port = w->packet.destination_port;

	if (w->packet.traits & PACKET_STARTS || w->packet.protocol == IPPROTO_UDP) {
		mark_clear(skb);
		if (w->packet.protocol == IPPROTO_TCP && conn->state == PS_CONN_NEW)
			conn->flags &= ~PS_CONN_INTERCEPTED; /* unless it comes back */
		return PS_PASS;
	}
	if (!live && !(conn->service & PS_CONN_MASKED)) {
		__builtin_memcpy(w->packet.destination.word, conn->backend, sizeof(conn->backend));
		w->packet.destination_port = conn->backend_port;
		steer_tcp(skb, conn->proxy);
		w->packet.destination = destination;
		w->packet.destination_port = port;
	}
	mark_set(skb);
	return work_pass(w, PS_VERDICT_INTERCEPTED, PS_REASON_INTERCEPT);
}

/* An intercepted connection's packet to the proxy. Once TCP is established the mark is enough: the local stack finds
 * the socket, or answers with a reset. */
static __always_inline int known_steer(
	struct __sk_buff *skb, struct work *w, struct ps_conn *conn, const struct ps_conn_live *live)
{
	const struct ps_proxy *proxy;

	bool datagram = w->packet.protocol == IPPROTO_UDP;

	if (conn->service & PS_CONN_BEHIND)
		return known_behind(skb, w, conn, live);
	if ((datagram || !live || w->packet.traits & PACKET_STARTS) && steer(skb, w, conn->proxy) == STEER_NOBODY)
		goto nobody;
	mark_set(skb);
	return work_pass(w, PS_VERDICT_INTERCEPTED, PS_REASON_INTERCEPT);
nobody:
	w->proxy = conn->proxy;
	w->intercept_rule = conn->intercept_rule;
	proxy = proxy_find(conn->proxy, w->side);
	if (!proxy || !(proxy->flags & PS_PROXY_BYPASS) || (conn->state != PS_CONN_NEW && !datagram))
		return work_drop(w, PS_REASON_NO_LISTENER);
	/* Nobody has answered yet, or nobody's state is lost: it goes where it was going. */
	conn->flags &= ~PS_CONN_INTERCEPTED;
	mark_clear(skb);
	return PS_PASS;
}

/* An intercepted connection's own addresses and ports, sent by a socket of this node: the proxy goes on with them. */
static __noinline void conn_leg(struct __sk_buff *skb, struct work *w, struct ps_conn *conn)
{
	if (!skb->ingress_ifindex && conn->flags & PS_CONN_INTERCEPTED && !(conn->flags & PS_CONN_LEG) && leg_find(skb, w))
		conn->flags |= PS_CONN_LEG;
	PS_RETURN_ZERO;
}

/*
 * A flow whose proxy is no more ends: the next datagram begins one, for the proxy that policy names now, or for none.
 * It stays intercepted until that one is made: refused, it is asked again. (TCP has a socket that goes on without its
 * TransparentProxy.)
 */
static __always_inline bool conn_bereft(const struct work *w, struct ps_conn *conn)
{
	if (w->packet.protocol != IPPROTO_UDP || !(conn->flags & PS_CONN_INTERCEPTED) || conn_reply(conn, w->packet.high) ||
		proxy_find(conn->proxy, w->side))
		return false;
	conn->state = PS_CONN_NEW;
	return true;
}

/* ---- a new connection ---- */

static __always_inline bool verdict_intercepts(const struct ps_verdict *verdict)
{
	return verdict->action == PS_ACTION_INTERCEPT;
}

/*
 * Does an InterceptPolicy want the connection that this packet of its originator begins or belongs to?
 *  1. an egress rule of its source, when that is local; also if that says Bypass
 *  2. else an ingress rule of its destination, when that is local
 * Sets w->proxy and w->intercept_rule. What 2 judged is kept only if it wants it: else it is the last hook's to say.
 */
static __noinline bool work_intercepts(struct __sk_buff *skb, struct work *w)
{
	struct ps_verdict verdict = w->verdict[PS_EGRESS];

	if (!verdict_intercepts(&verdict)) {
		if (verdict.intercept_rule != PS_RULE_NONE) /* 1: Bypass */
			return false;
		if (!w->destination.local || !w->destination.steered)
			return false;
		judge(skb, true, PS_INGRESS, false); /* 2 */
		verdict = w->verdict[PS_INGRESS];
		if (!verdict_intercepts(&verdict)) {
			w->judged &= 1 << PS_EGRESS;
			w->bits[PS_INGRESS] = 0;
			return false;
		}
	}
	w->proxy = verdict.proxy;
	w->intercept_rule = verdict.intercept_rule;
	return true;
}

/* The proxy stands before the last hook: a local destination is asked now. */
static __always_inline int steer_denied(struct __sk_buff *skb, struct work *w)
{
	if (w->destination.local && !(w->judged & 1 << PS_INGRESS))
		judge(skb, true, PS_INGRESS, false);
	return work_denied(w);
}

/*
 * A SYN whose addresses and ports a proxy's socket has: most often TIME_WAIT, of the connection before. It answers, the
 * client resets that, and the SYN that it sends again is the one that begins something (PACKET_ALONE: not this one).
 */
static __always_inline int syn_resting(struct work *w, __u32 code, __u32 reason)
{
	w->packet.traits |= PACKET_ALONE;
	return work_pass(w, code, reason);
}

/*
 * Policy allows it, and an InterceptPolicy wants it. PS_DROP: refused; else `w->code` tells whether a proxy has it or,
 * with Bypass, it goes on.
 */
static __noinline int new_steer(struct __sk_buff *skb, struct work *w)
{
	int denied = steer_denied(skb, w), steered;
	const struct ps_proxy *proxy;

	if (denied != NOT_DENIED)
		return judgment_drop(w, denied);
	steered = steer(skb, w, w->proxy);
	if (steered == STEER_TAKEN && w->packet.protocol == IPPROTO_TCP)
		return syn_resting(w, PS_VERDICT_INTERCEPTED, PS_REASON_INTERCEPT);
	account_rule(w->intercept_rule);
	if (steered != STEER_NOBODY) {
		account_proxy(w->proxy);
		return work_pass(w, PS_VERDICT_INTERCEPTED, PS_REASON_INTERCEPT);
	}
	proxy = proxy_find(w->proxy, w->side);
	if (proxy && proxy->flags & PS_PROXY_BYPASS)
		return PS_PASS;
	return work_drop(w, PS_REASON_NO_LISTENER);
}

/*
 * A direct connection begins with addresses and ports that a proxy had before. The entry is that connection's, as good
 * as over: the client's reset goes the same way, and the SYN that it sends again begins anew.
 */
static __noinline bool new_rests(struct __sk_buff *skb, struct work *w, bool live)
{
	if (!(w->packet.traits & PACKET_STARTS) || !steer_resting(skb, w))
		return false;
	if (live)
		conn_delete(&w->packet, w->now);
	w->packet.traits |= PACKET_RST;
	w->proxy = PS_PROXY_NONE;
	w->intercept_rule = PS_RULE_NONE;
	conn_create(true, false, PS_CONN_INTERCEPTED);
	return true;
}

/* A reply to a direct connection whose client has the addresses and ports that a proxy had before, and the server's
 * reset of what the proxy's socket says to it. */
static __always_inline bool known_rests(struct __sk_buff *skb, const struct work *w, const struct ps_conn *conn)
{
	return conn->state == PS_CONN_NEW && w->packet.traits & (PACKET_SYN | PACKET_RST) &&
		   !(conn->flags & (PS_CONN_LEG | PS_CONN_INTERCEPTED)) && conn_reply(conn, w->packet.high) &&
		   steer_resting(skb, w);
}

/*
 * A connection that a proxy has, but whose entry is gone (evicted before it was established, or with the maps): its
 * socket tells. PS_DROP: refused; else `w->code` tells whether a proxy has it.
 */
static __noinline int orphan_steer(struct __sk_buff *skb, struct work *w)
{
	int denied;

	if (steer_socket(skb, SOCKET_ANY) != STEER_TAKEN)
		return PS_PASS;
	denied = steer_denied(skb, w);
	if (denied != NOT_DENIED)
		return judgment_drop(w, denied);
	return work_pass(w, PS_VERDICT_INTERCEPTED, PS_REASON_INTERCEPT);
}

/*
 * A socket of this node answers, without an entry, what policy would have handed to a proxy: that is the proxy. An
 * entry made of this packet would have the wrong originator; the workload's next packet makes the right one.
 */
static __noinline bool orphan_answered(struct __sk_buff *skb, struct work *w)
{
	struct ps_verdict egress, ingress;
	__u8 known = w->known;
	bool allowed;

	w->known &= ~(WORK_NODE | WORK_LEG); /* which would be the originator otherwise */
	judge(skb, false, PS_EGRESS, true);
	judge(skb, false, PS_INGRESS, true);
	w->known = known;
	egress = w->verdict[PS_EGRESS];
	ingress = w->verdict[PS_INGRESS];
	allowed = !((w->bits[PS_EGRESS] | w->bits[PS_INGRESS]) & PS_JUDGED_DENY);
	w->judged = 0;
	w->bits[PS_EGRESS] = w->bits[PS_INGRESS] = 0;
	if (!allowed || !(verdict_intercepts(&egress) || verdict_intercepts(&ingress)))
		return false;
	w->known &= ~WORK_LEG;
	return true;
}

/*
 * A packet without an entry, of a connection that a transparent socket has. Usually the workload answers a proxy's
 * onward connection; or it goes on with one that was intercepted by a rule of an earlier revision. Either way it goes
 * to the socket. True: allowed, and made an entry.
 */
static __noinline bool orphan_claimed(struct __sk_buff *skb, struct work *w)
{
	bool reverse = true;

	if (steer_socket(skb, SOCKET_FULL) != STEER_TAKEN)
		return false;
	w->known |= WORK_LEG;
	if (work_judge(skb, true, true) != NOT_DENIED) {
		w->known &= ~WORK_LEG;
		reverse = false;
		if (work_judge(skb, true, false) != NOT_DENIED) {
			mark_clear(skb);
			return false;
		}
	}
	judgment_pass(w, own_direction(true, reverse));
	judgment_count(w, NOT_DENIED);
	conn_create(true, reverse, reverse ? 0 : PS_CONN_INTERCEPTED);
	return true;
}

#endif
