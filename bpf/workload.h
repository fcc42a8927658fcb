/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What happens to one packet at a workload's interface, in this order:
 *
 *  1. an unclaimed interface that lets everything through does so, unread
 *  2. what is malformed, or a fragment without its first, is dropped
 *  3. what is unjudged passes
 *  4. on an unclaimed interface that denies only the node's own connections pass
 *  5. a source that is not the workload's is dropped
 *  6. an ICMP error about a connection that is allowed passes
 *  7. what is delivered here but addressed to somebody else (multicast, flooded frames), or only looks like a packet of
 *     the node's connection, is judged by itself
 *  8. a packet of a known connection passes if the connection is allowed in this revision; else it is judged anew
 *  9. anything else begins a connection, and is judged
 *
 * The last hook (to workload) judges both directions under the revision that it reads itself, and takes the first
 * hook's egress verdict only when it is of that revision.
 */
#ifndef PENSTOCK_WORKLOAD_H
#define PENSTOCK_WORKLOAD_H

#include "bpf/account.h"
#include "bpf/conntrack.h"
#include "bpf/maps.h"
#include "bpf/packet.h"
#include "bpf/steer.h"
#include "bpf/verdict.h"

#define NOT_DENIED (-1)

static __always_inline int work_pass(struct work *w, __u32 code, __u32 reason)
{
	w->code = code;
	w->reason = reason;
	return PS_PASS;
}

static __always_inline int work_drop(struct work *w, __u32 reason)
{
	w->code = PS_VERDICT_DROPPED;
	w->reason = reason;
	return PS_DROP;
}

/* The direction of judgment that belongs to this workload: egress of what it opened, ingress of what it was asked. */
static __always_inline __u32 own_direction(bool from, bool reply)
{
	return from == reply ? PS_INGRESS : PS_EGRESS;
}

/* ---- judgments ---- */

/* Each rule that decided, once; of a refusal only the one that refused. */
static __noinline void judgment_count(struct work *w, int denied)
{
	if (w->judged & 1 << PS_EGRESS && denied != PS_INGRESS)
		account_rule(w->verdict[PS_EGRESS].rule);
	if (w->judged & 1 << PS_INGRESS && denied != PS_EGRESS)
		account_rule(w->verdict[PS_INGRESS].rule);
	PS_RETURN_ZERO;
}

static __always_inline int work_denied(const struct work *w)
{
	if (w->bits[PS_EGRESS] & PS_JUDGED_DENY)
		return PS_EGRESS;
	return w->bits[PS_INGRESS] & PS_JUDGED_DENY ? PS_INGRESS : NOT_DENIED;
}

/*
 * Judges the connection whose originator is the packet's source (reverse: destination): the direction that belongs to
 * this workload; the other one at the last hook, and at the first only when nobody else will (the other end is not
 * local).
 */
PS_APART int work_judge(bool from, bool reverse)
{
	__u32 own = own_direction(from, reverse);
	struct work *w = work_get(from);

	if (!w)
		return own;
	w->judged = 0;
	w->bits[PS_EGRESS] = w->bits[PS_INGRESS] = 0;
	judge(from, own, reverse);
	if (!from || !w->destination.local)
		judge(from, !own, reverse);
	return work_denied(w);
}

/* The verdict and reason that a judged packet is counted with. */
static __always_inline int judgment_pass(struct work *w, __u32 own)
{
	const struct ps_verdict egress = w->verdict[PS_EGRESS], ingress = w->verdict[PS_INGRESS];

	if (w->judged & 1 << PS_EGRESS && egress.flags & PS_VERDICT_AUDIT && egress.action == PS_ACTION_DENY)
		return work_pass(w, PS_VERDICT_AUDITED, egress.reason);
	if (w->judged & 1 << PS_INGRESS && ingress.flags & PS_VERDICT_AUDIT && ingress.action == PS_ACTION_DENY)
		return work_pass(w, PS_VERDICT_AUDITED, ingress.reason);
	return work_pass(w, PS_VERDICT_FORWARDED, own == PS_EGRESS ? egress.reason : ingress.reason);
}

static __always_inline int judgment_drop(struct work *w, int denied)
{
	judgment_count(w, denied);
	return work_drop(w, denied == PS_EGRESS ? w->verdict[PS_EGRESS].reason : w->verdict[PS_INGRESS].reason);
}

/* ---- entries ---- */

/* What was judged now goes into the entry; each word at once. */
static __noinline void conn_judged(struct ps_conn *conn, const struct work *w)
{
	if (w->judged & 1 << PS_EGRESS) {
		conn->rule[PS_EGRESS] = w->verdict[PS_EGRESS].rule;
		conn->reason[PS_EGRESS] = w->verdict[PS_EGRESS].reason;
		PS_WRITE_ONCE(conn->judged[PS_EGRESS], judged_word(w->generation, w->bits[PS_EGRESS]));
	}
	if (w->judged & 1 << PS_INGRESS) {
		conn->rule[PS_INGRESS] = w->verdict[PS_INGRESS].rule;
		conn->reason[PS_INGRESS] = w->verdict[PS_INGRESS].reason;
		PS_WRITE_ONCE(conn->judged[PS_INGRESS], judged_word(w->generation, w->bits[PS_INGRESS]));
	}
	PS_RETURN_ZERO;
}

/* What cannot be seen again at a reply: who the originator was. The address stands before the flag that says so. */
static __always_inline void conn_remember(struct ps_conn *conn, const struct work *w)
{
	if (w->known & WORK_ORIGIN) {
		__builtin_memcpy(conn->origin, w->origin.word, sizeof(conn->origin));
		conn->flags |= PS_CONN_REWRITTEN;
	} else {
		conn->flags &= ~PS_CONN_REWRITTEN;
		conn->entered = w->entered;
	}
}

static __always_inline void conn_recall(const struct ps_conn *conn, struct work *w)
{
	if (conn->flags & PS_CONN_REWRITTEN) {
		__builtin_memcpy(w->origin.word, conn->origin, sizeof(conn->origin));
		w->known |= WORK_ORIGIN;
	} else {
		w->entered = conn->entered;
	}
}

PS_APART int conn_create(bool from, bool reverse, __u32 flags)
{
	const struct work *w = work_get(from);
	const struct packet *p;
	struct ps_conn conn = {};

	if (!w)
		return 0;
	p = &w->packet;
	conn.opened = conn.seen = w->now;
	conn_judged(&conn, w);
	if (p->high != reverse)
		flags |= PS_CONN_ORIGIN_HIGH;
	if (p->protocol == IPPROTO_TCP && !(p->traits & PACKET_STARTS))
		flags |= PS_CONN_MIDSTREAM;
	if (w->known & WORK_NODE)
		flags |= PS_CONN_NODE;
	if (w->known & WORK_LEG)
		flags |= PS_CONN_LEG;
	if (p->traits & PACKET_RST)
		conn.state = PS_CONN_CLOSING;
	if (p->traits & PACKET_FIN)
		flags |= reverse ? PS_CONN_FIN_REPLY : PS_CONN_FIN_ORIGIN;
	if (flags & PS_CONN_INTERCEPTED) {
		conn.proxy = w->proxy;
		conn.intercept_rule = w->intercept_rule;
	}
	conn.flags = flags;
	conn_remember(&conn, w);
	if (from == reverse)
		conn.ifindex[1] = w->ifindex;
	else
		conn.ifindex[0] = w->ifindex;
	conn_count(&conn, reverse, from, p->bytes, w->now);
	if (p->v4)
		bpf_map_update_elem(&ps_new4, &p->key4, &conn, BPF_ANY);
	else
		bpf_map_update_elem(&ps_new6, &p->key6, &conn, BPF_ANY);
	return 0;
}

/* Midstream was a guess: the other end is the originator. */
static __noinline void conn_turn(struct ps_conn *conn)
{
	__u64 packets = conn->packets[0], bytes = conn->bytes[0];
	__u32 ifindex = conn->ifindex[0];
	__u8 flags = (conn->flags ^ PS_CONN_ORIGIN_HIGH) & ~(PS_CONN_REWRITTEN | PS_CONN_INTERCEPTED | PS_CONN_LEG);

	/* What went to a proxy goes on doing so. */
	if (conn->flags & PS_CONN_INTERCEPTED)
		flags |= PS_CONN_LEG;
	if (conn->flags & PS_CONN_LEG)
		flags |= PS_CONN_INTERCEPTED;
	conn->flags = flags;
	conn->packets[0] = conn->packets[1];
	conn->packets[1] = packets;
	conn->bytes[0] = conn->bytes[1];
	conn->bytes[1] = bytes;
	conn->ifindex[0] = conn->ifindex[1];
	conn->ifindex[1] = ifindex;
	conn->entered = 0;
	PS_WRITE_ONCE(conn->judged[PS_EGRESS], 0);
	PS_WRITE_ONCE(conn->judged[PS_INGRESS], 0);
	PS_RETURN_ZERO;
}

/* ---- 8: a known connection ---- */

static __always_inline bool word_current(__u64 word, __u32 generation)
{
	return word >> 32 == generation && word & (PS_JUDGED_ALLOW | PS_JUDGED_DENY);
}

/*
 * The direction that denies, or NOT_DENIED; judges what this revision has not judged. What an entry says of this
 * workload as "not local" was said elsewhere, and does not count here. A packet on its way to a proxy meets no last
 * hook, so both directions count.
 */
static __noinline int known_judge(struct __sk_buff *skb, struct work *w, struct ps_conn *conn, bool from)
{
	bool reply = conn_reply(conn, w->packet.high);
	bool both = !from || (!reply && conn->flags & PS_CONN_INTERCEPTED);
	__u32 own = own_direction(from, reply);
	__u64 mine = PS_READ_ONCE(conn->judged[own & 1]), other = PS_READ_ONCE(conn->judged[!own]);
	bool other_end = !from && !reply && !(w->known & WORK_RELATED) && !origin_same(skb, conn, w->packet.v4);
	bool ask_own = !word_current(mine, w->generation) || mine & PS_JUDGED_NOT_LOCAL || other_end;
	bool ask_other = both && (!word_current(other, w->generation) || other_end);
	int denied = NOT_DENIED;

	w->judged = 0;
	if (!ask_own && mine & PS_JUDGED_DENY)
		denied = own;
	else if (both && !ask_other && other & PS_JUDGED_DENY)
		denied = !own;
	if (denied != NOT_DENIED) {
		w->reason = conn->reason[denied & 1];
		account_rule(conn->rule[denied & 1]);
		return denied;
	}
	if (!ask_own && !ask_other) {
		w->reason = PS_REASON_ESTABLISHED;
		return NOT_DENIED;
	}
	w->reply = reply;
	w->entered = 0;
	if (!from && !reply && conn->flags & PS_CONN_LEG && !skb->ingress_ifindex)
		w->known |= WORK_LEG;
	if (from ? reply : w->known & (WORK_RELATED | WORK_LEG))
		conn_recall(conn, w);
	if (conn->flags & PS_CONN_NODE && (from ? reply : w->known & WORK_RELATED || !skb->ingress_ifindex))
		w->known |= WORK_NODE;
	parties_find(skb, from);
	w->bits[PS_EGRESS] = w->bits[PS_INGRESS] = 0;
	if (ask_own)
		judge(from, own, reply);
	if (ask_other)
		judge(from, !own, reply);
	denied = work_denied(w);
	if (denied != NOT_DENIED && conn->flags & PS_CONN_MIDSTREAM && !(w->known & WORK_ORIGIN)) {
		struct ps_verdict verdict = denied == PS_EGRESS ? w->verdict[PS_EGRESS] : w->verdict[PS_INGRESS];

		if (work_judge(from, !reply) == NOT_DENIED) {
			conn_turn(conn);
			reply = !reply;
			own = !own;
			denied = NOT_DENIED;
		} else {
			/* Refused as what it was taken for. */
			w->judged = 1 << denied;
			w->bits[PS_EGRESS] = w->bits[PS_INGRESS] = PS_JUDGED_DENY;
			if (denied == PS_EGRESS)
				w->verdict[PS_EGRESS] = verdict;
			else
				w->verdict[PS_INGRESS] = verdict;
		}
	}
	if (w->known & WORK_NODE && !reply)
		conn->flags |= PS_CONN_NODE;
	if (w->known & WORK_LEG && !reply)
		conn->flags |= PS_CONN_LEG;
	if (!from && !reply)
		conn_remember(conn, w);
	conn_judged(conn, w);
	judgment_count(w, denied);
	if (denied == NOT_DENIED)
		judgment_pass(w, own);
	else
		w->reason = denied == PS_EGRESS ? w->verdict[PS_EGRESS].reason : w->verdict[PS_INGRESS].reason;
	return denied;
}

/* An intercepted connection's packet to the proxy. Once it is established the mark is enough: the local stack finds the
 * socket, or answers with a reset. */
static __always_inline int known_steer(
	struct __sk_buff *skb, struct work *w, struct ps_conn *conn, const struct ps_conn_live *live)
{
	const struct ps_proxy *proxy;

	if (!(live && !(w->packet.traits & PACKET_STARTS)) && steer_tcp(skb, conn->proxy) == STEER_NOBODY)
		goto nobody;
	mark_set(skb);
	return work_pass(w, PS_VERDICT_INTERCEPTED, PS_REASON_INTERCEPT);
nobody:
	proxy = proxy_find(conn->proxy, w->side);
	if (!proxy || !(proxy->flags & PS_PROXY_BYPASS) || conn->state != PS_CONN_NEW)
		return work_drop(w, PS_REASON_NO_LISTENER);
	/* Nobody has answered yet: it goes where it was going. */
	conn->flags &= ~PS_CONN_INTERCEPTED;
	mark_clear(skb);
	return PS_PASS;
}

/* An intercepted connection's own addresses and ports, sent by a socket of this node: the proxy goes on with them. */
static __noinline void conn_leg(struct __sk_buff *skb, struct work *w, struct ps_conn *conn)
{
	if (!skb->ingress_ifindex && conn->flags & PS_CONN_INTERCEPTED && !(conn->flags & PS_CONN_LEG) &&
		leg_find(skb, w)) {
		conn->flags |= PS_CONN_LEG;
		account_stat(PS_STAT_LEG_CLIENT);
	}
	PS_RETURN_ZERO;
}

static __always_inline int work_known(
	struct __sk_buff *skb, struct work *w, struct ps_conn *conn, struct ps_conn_live *live, bool from)
{
	bool reply;

	w->code = PS_VERDICT_FORWARDED;
	if (known_judge(skb, w, conn, from) != NOT_DENIED) {
		w->code = PS_VERDICT_DROPPED;
		return PS_DROP;
	}
	reply = conn_reply(conn, w->packet.high);
	/* Learnt after the source was proved. */
	if (from == reply)
		conn->ifindex[1] = w->ifindex;
	else
		conn->ifindex[0] = w->ifindex;
	if (from && !reply && conn->flags & PS_CONN_INTERCEPTED) {
		if (known_steer(skb, w, conn, live) == PS_DROP)
			return PS_DROP;
	} else if (from && reply && conn->flags & PS_CONN_LEG) {
		mark_set(skb);
	} else if (from) {
		mark_clear(skb);
	} else if (!reply && w->packet.traits & PACKET_STARTS) {
		conn_leg(skb, w, conn);
	}
	conn_count(conn, reply, from, w->packet.bytes, w->now);
	if (!conn_advance(&w->packet, conn, live, reply, w->now) && w->code == PS_VERDICT_FORWARDED)
		w->reason = PS_REASON_TABLE_FULL;
	return PS_PASS;
}

/* ---- 9: a new connection ---- */

static __always_inline bool verdict_intercepts(const struct ps_verdict *verdict)
{
	return verdict->action == PS_ACTION_INTERCEPT && !(verdict->flags & PS_VERDICT_AUDIT);
}

/*
 * Does an InterceptPolicy want the connection that this packet of its originator begins or belongs to?
 *  1. an egress rule of its source, when that is local
 *  2. else an ingress rule of its destination, when that is local
 * Sets w->proxy and w->intercept_rule. What 2 judged is kept only if it wants it: else it is the last hook's to say.
 */
static __noinline bool work_intercepts(struct work *w)
{
	struct ps_verdict verdict = w->verdict[PS_EGRESS];

	if (!verdict_intercepts(&verdict)) { /* 1 */
		if (!w->destination.local || !w->destination.steered)
			return false;
		judge(true, PS_INGRESS, false); /* 2 */
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
static __always_inline int steer_denied(struct work *w)
{
	if (w->destination.local && !(w->judged & 1 << PS_INGRESS))
		judge(true, PS_INGRESS, false);
	return work_denied(w);
}

/*
 * Policy allows it, and an InterceptPolicy wants it. PS_DROP: refused; else `w->code` tells whether a proxy has it or,
 * with Bypass, it goes on.
 */
static __noinline int new_steer(struct __sk_buff *skb, struct work *w)
{
	int denied = steer_denied(w);
	const struct ps_proxy *proxy;

	if (denied != NOT_DENIED)
		return judgment_drop(w, denied);
	account_rule(w->intercept_rule);
	if (steer_tcp(skb, w->proxy) == STEER_TAKEN) {
		account_proxy(w->proxy);
		return work_pass(w, PS_VERDICT_INTERCEPTED, PS_REASON_INTERCEPT);
	}
	proxy = proxy_find(w->proxy, w->side);
	if (proxy && proxy->flags & PS_PROXY_BYPASS)
		return PS_PASS;
	return work_drop(w, PS_REASON_NO_LISTENER);
}

/*
 * A connection that a proxy has, but whose entry is gone (evicted before it was established, or with the maps): its
 * socket tells. PS_DROP: refused; else `w->code` tells whether a proxy has it.
 */
static __noinline int orphan_steer(struct __sk_buff *skb, struct work *w)
{
	int denied;

	if (steer_socket(skb, false) != STEER_TAKEN)
		return PS_PASS;
	denied = steer_denied(w);
	if (denied != NOT_DENIED)
		return judgment_drop(w, denied);
	return work_pass(w, PS_VERDICT_INTERCEPTED, PS_REASON_INTERCEPT);
}

/*
 * A socket of this node answers, without an entry, what policy would have handed to a proxy: that is the proxy. An
 * entry made of this packet would have the wrong originator; the workload's next packet makes the right one.
 */
static __noinline bool orphan_answered(struct work *w)
{
	struct ps_verdict egress, ingress;
	__u8 known = w->known;
	bool allowed;

	w->known &= ~(WORK_NODE | WORK_LEG); /* which would be the originator otherwise */
	judge(false, PS_EGRESS, true);
	judge(false, PS_INGRESS, true);
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

	if (steer_socket(skb, true) != STEER_TAKEN)
		return false;
	w->known |= WORK_LEG;
	if (work_judge(true, true) != NOT_DENIED) {
		w->known &= ~WORK_LEG;
		reverse = false;
		if (work_judge(true, false) != NOT_DENIED) {
			mark_clear(skb);
			return false;
		}
	}
	judgment_pass(w, own_direction(true, reverse));
	judgment_count(w, NOT_DENIED);
	conn_create(true, reverse, reverse ? 0 : PS_CONN_INTERCEPTED);
	return true;
}

/* `old`: the entry with these addresses and ports that this packet does not belong to, or NULL. */
static __always_inline int work_new(
	struct __sk_buff *skb, struct work *w, const struct ps_conn *old, const struct ps_conn_live *live, bool from)
{
	const struct packet *p = &w->packet;
	bool midstream = p->protocol == IPPROTO_TCP && !(p->traits & PACKET_STARTS);
	bool lonely = p->traits & (PACKET_LONELY | PACKET_ANSWER | PACKET_LATER | PACKET_ALONE);
	bool reverse = false, orphan = false;
	int denied;

	w->reply = 0;
	w->entered = 0;
	parties_find(skb, from);
	if (!from && midstream && !lonely && !skb->ingress_ifindex)
		orphan = orphan_answered(w);
	denied = work_judge(from, false);
	if (from && midstream && !lonely && !old) {
		const struct ps_verdict egress = w->verdict[PS_EGRESS];

		if (!verdict_intercepts(&egress) && orphan_claimed(skb, w))
			return PS_PASS;
	}
	if (denied != NOT_DENIED && midstream && !lonely && !(w->known & WORK_ORIGIN)) {
		/* Either orientation will do, its own first; a refusal is that of its own. */
		struct ps_verdict verdict = denied == PS_EGRESS ? w->verdict[PS_EGRESS] : w->verdict[PS_INGRESS];

		if (work_judge(from, true) != NOT_DENIED) {
			account_rule(verdict.rule);
			return work_drop(w, verdict.reason);
		}
		w->known &= ~WORK_LEG;
		reverse = true;
	} else if (denied != NOT_DENIED) {
		return judgment_drop(w, denied);
	}
	judgment_pass(w, own_direction(from, reverse));
	if (from && !reverse && !lonely && work_intercepts(w) &&
		(midstream ? orphan_steer(skb, w) : new_steer(skb, w)) == PS_DROP)
		return PS_DROP;
	if (from && w->code != PS_VERDICT_INTERCEPTED)
		mark_clear(skb);
	if (w->known & WORK_LEG && w->packet.traits & PACKET_STARTS)
		account_stat(w->known & WORK_ORIGIN ? PS_STAT_LEG_NODE : PS_STAT_LEG_CLIENT);
	judgment_count(w, NOT_DENIED);
	/* A connection that lives is not disturbed by an attempt to open it from the other end. */
	if (lonely || orphan || (old && old->state != PS_CONN_NEW && old->state != PS_CONN_CLOSING))
		return PS_PASS;
	if (live)
		conn_delete(&w->packet);
	conn_create(from, reverse, w->code == PS_VERDICT_INTERCEPTED ? PS_CONN_INTERCEPTED : 0);
	return PS_PASS;
}

/* ---- 6: errors ---- */

/* The answer to an embedded packet is a packet of the connection, but moves nothing in it. */
static __noinline bool work_related(struct __sk_buff *skb, struct work *w, bool from)
{
	struct packet *p = &w->packet;
	struct address outer = p->source;
	struct ps_conn_live *live;
	struct ps_conn *conn;
	struct party inner;

	if (packet_embedded(skb, p))
		goto unrelated;
	if (from) {
		/* Only the workload that the packet was sent to may complain about it. */
		party_find(&inner, &p->source, p->v4, w->side);
		if (w->endpoint != PS_ENDPOINT_NONE && !address_own(w, &p->source, inner.endpoint))
			goto unrelated;
	}
	conn = conn_find(p, &live, w->now);
	w->known = WORK_RELATED;
	if (!conn || known_judge(skb, w, conn, from) != NOT_DENIED)
		goto unrelated;
	if (from && conn_marked(conn, p->high))
		mark_set(skb);
	else if (from)
		mark_clear(skb);
	return true;
unrelated:
	p->source = outer;
	p->protocol = p->v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6;
	p->source_port = p->destination_port = 0;
	w->known = 0;
	return false;
}

/* ---- the order ---- */

/* Is this packet no packet of the entry with its addresses and ports, but an attempt to open a connection? */
static __always_inline bool conn_reopened(const struct packet *p, const struct ps_conn *conn)
{
	bool reply = conn_reply(conn, p->high);

	if (p->traits & PACKET_STARTS)
		return reply || conn->state == PS_CONN_CLOSING;
	/* The other end of a refused attempt may open its own. TCP says so with a SYN. */
	return reply && conn->state == PS_CONN_NEW && p->protocol != IPPROTO_TCP && !(p->traits & PACKET_ANSWER) &&
		   !(PS_READ_ONCE(conn->judged[PS_INGRESS]) & PS_JUDGED_ALLOW);
}

/* A leg's entry says nothing of a workload that sends from the same address and port itself. */
static __always_inline bool conn_foreign(const struct ps_conn *conn, bool high)
{
	return (conn->flags & (PS_CONN_LEG | PS_CONN_INTERCEPTED)) == PS_CONN_LEG && !conn_reply(conn, high);
}

/* Has the entry seen this source on this interface, under this revision? */
static __always_inline bool conn_proves(const struct ps_conn *conn, const struct work *w)
{
	bool reply = conn_reply(conn, w->packet.high);
	__u32 own = own_direction(true, reply);

	return (reply ? conn->ifindex[1] : conn->ifindex[0]) == w->ifindex &&
		   word_current(PS_READ_ONCE(conn->judged[own & 1]), w->generation);
}

static __noinline bool source_proved(struct work *w)
{
	party_find(&w->source, &w->packet.source, w->packet.v4, w->side);
	w->known |= WORK_SOURCE;
	return address_own(w, &w->packet.source, w->source.endpoint);
}

/*
 * Is what is about to be delivered here for this workload? Multicast, and what a bridge floods, is not: it is judged,
 * but its entry, if it has one, is about somebody else, and must not learn this interface as the end of a connection.
 */
static __noinline bool destination_own(struct work *w)
{
	if (!(w->known & WORK_DESTINATION))
		party_find(&w->destination, &w->packet.destination, w->packet.v4, w->side);
	w->known |= WORK_DESTINATION;
	return address_own(w, &w->packet.destination, w->destination.endpoint);
}

/* Does the entry know this interface as the end that the packet goes to? */
static __always_inline bool conn_ends_here(const struct ps_conn *conn, const struct work *w)
{
	return (conn_reply(conn, w->packet.high) ? conn->ifindex[0] : conn->ifindex[1]) == w->ifindex;
}

/* 4: on an interface that nobody claims yet and that denies. */
static __always_inline bool unclaimed_passes(
	struct __sk_buff *skb, struct work *w, const struct ps_conn *conn, bool from)
{
	if (from)
		return conn && conn->flags & PS_CONN_NODE && conn_reply(conn, w->packet.high) &&
			   !(w->packet.traits & PACKET_STARTS);
	if (skb->ingress_ifindex || !allow_local_host)
		return false;
	party_find(&w->source, &w->packet.source, w->packet.v4, w->side);
	w->known |= WORK_SOURCE;
	return w->source.endpoint == PS_ENDPOINT_NONE;
}

static __always_inline int work_judged(struct __sk_buff *skb, struct work *w, bool from)
{
	const struct packet *p = &w->packet;
	struct ps_conn_live *live = NULL;
	struct ps_conn *conn = NULL;

	if (!(p->traits & PACKET_LONELY)) {
		packet_key(&w->packet);
		conn = conn_find(p, &live, w->now);
	}
	if (w->endpoint == PS_ENDPOINT_NONE) {
		if (!unclaimed_passes(skb, w, conn, from)) /* 4 */
			return work_drop(w, PS_REASON_UNCLAIMED);
	} else if (from && !(conn && conn_proves(conn, w)) && !source_proved(w)) {
		return work_drop(w, PS_REASON_SPOOFED); /* 5 */
	}
	if (p->traits & PACKET_ERROR && work_related(skb, w, from)) /* 6 */
		return work_pass(w, PS_VERDICT_FORWARDED, PS_REASON_RELATED);
	if (!from && !(conn && conn_ends_here(conn, w)) && !destination_own(w)) {
		w->packet.traits |= PACKET_ALONE;
		return work_new(skb, w, NULL, NULL, from); /* 7 */
	}
	if (!conn || conn_reopened(p, conn) || (from && conn_foreign(conn, p->high)))
		return work_new(skb, w, conn, live, from); /* 9 */
	/* The node's connection is the node's: an address of its own does not make somebody else the node. */
	if (!from && conn->flags & PS_CONN_NODE && skb->ingress_ifindex && !conn_reply(conn, p->high)) {
		w->packet.traits |= PACKET_ALONE;
		return work_new(skb, w, NULL, NULL, from); /* 7 */
	}
	return work_known(skb, w, conn, live, from); /* 8 */
}

static __always_inline int workload_packet(struct __sk_buff *skb, bool from)
{
	__u32 ifindex = skb->ifindex, zero = 0, hook = from ? 0 : 1;
	struct work *w = bpf_map_lookup_elem(&scratch, &hook);
	const struct ps_iface *iface = bpf_map_lookup_elem(&ps_iface, &ifindex);
	const struct ps_control *control = bpf_map_lookup_elem(&ps_control, &zero);
	__u32 flags = iface ? iface->flags : unclaimed_deny ? PS_IFACE_DENY : 0;
	int action;

	if (!w)
		return PS_DROP; /* cannot be */
	__builtin_memset(w, 0, sizeof(*w));
	w->packet.bytes = skb->len;
	w->ifindex = flags & PS_IFACE_L3 ? ifindex | PS_CONN_L3 : ifindex;
	w->generation = control ? PS_READ_ONCE(control->generation) : 0;
	w->side = w->generation & 1;
	w->endpoint = iface ? iface_endpoint(iface, w->side) : PS_ENDPOINT_NONE;
	w->now = bpf_ktime_get_ns();
	if (w->endpoint == PS_ENDPOINT_NONE && !(flags & PS_IFACE_DENY)) {
		action = work_pass(w, PS_VERDICT_FORWARDED, PS_REASON_UNCLAIMED); /* 1 */
		goto account;
	}
	switch (work_parse(skb, flags & PS_IFACE_L3, from)) {
	case PACKET_MALFORMED:
		action = work_drop(w, PS_REASON_MALFORMED); /* 2 */
		break;
	case PACKET_ORPHAN:
		action = work_drop(w, PS_REASON_FRAGMENT); /* 2 */
		break;
	case PACKET_UNJUDGED:
		if (from)
			mark_clear(skb);
		action = work_pass(w, PS_VERDICT_FORWARDED, PS_REASON_UNJUDGED); /* 3 */
		break;
	case PACKET_FOREIGN:
		w->known = WORK_SOURCE | WORK_DESTINATION;
		w->packet.traits = PACKET_LONELY;
		if (w->endpoint == PS_ENDPOINT_NONE && (from || skb->ingress_ifindex))
			action = work_drop(w, PS_REASON_UNCLAIMED);
		else
			action = work_new(skb, w, NULL, NULL, from);
		break;
	default:
		action = work_judged(skb, w, from);
		if (action == PS_PASS && w->packet.traits & PACKET_FIRST)
			fragment_remember(&w->packet, from);
		if (from && action == PS_PASS && (skb->mark & mark_mask) == mark_intercept)
			action = steer_out(skb);
	}
account:
	account_packet(from ? PS_EGRESS : PS_INGRESS, w->code, w->reason, w->packet.bytes);
	return action;
}

#endif
