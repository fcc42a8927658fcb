/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What happens to one packet at a workload's interface, in this order:
 *
 *  1. an unclaimed interface that lets everything through is one that no workload is behind (network.h)
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
 * With denyWith: reject what 8 and 9 refuse becomes its answer, and answers pass before all of these (reject.h).
 *
 * The last hook (to workload) judges both directions under the revision that it reads itself, and takes the first
 * hook's egress verdict only when it is of that revision.
 */
#ifndef PENSTOCK_WORKLOAD_H
#define PENSTOCK_WORKLOAD_H

#include "bpf/account.h"
#include "bpf/behind.h"
#include "bpf/intercept.h"
#include "bpf/judgment.h"
#include "bpf/maps.h"
#include "bpf/packet.h"
#include "bpf/reject.h"
#include "bpf/translated.h"

/* ---- 8: a known connection ---- */

static __always_inline int work_known(
	struct __sk_buff *skb, struct work *w, struct ps_conn *conn, struct ps_conn_live *live, bool from)
{
	bool reply;

	w->code = PS_VERDICT_FORWARDED;
	if (known_judge(skb, w, conn, from) != NOT_DENIED) {
		if (deny_with_reject && conn_marked(conn, !w->packet.high))
			w->known |= WORK_TAKEN;
		w->code = PS_VERDICT_DROPPED;
		return PS_DROP;
	}
	reply = conn_reply(conn, w->packet.high);
	if (!from && !reply && behind_owns(skb, conn))
		return behind_again(skb, w, conn);
	/* Learnt after the source was proved. */
	if (from == reply)
		conn->ifindex[1] = w->ifindex;
	else
		conn->ifindex[0] = w->ifindex;
	if (from && !reply && conn->flags & PS_CONN_INTERCEPTED) {
		if (known_steer(skb, w, conn, live) == PS_DROP)
			return PS_DROP;
	} else if (from && reply && conn->flags & PS_CONN_LEG) {
		if (steer_reply(skb, w, conn) != STEER_TAKEN)
			return work_drop(w, PS_REASON_NO_LISTENER);
	} else if (from && known_rests(skb, w, conn)) {
		return PS_PASS;
	} else if (from) {
		mark_clear(skb);
	} else if (reply) {
		translated_answered(skb, w, conn);
	} else if (w->packet.traits & PACKET_STARTS || (w->packet.protocol == IPPROTO_UDP && !skb->ingress_ifindex)) {
		conn_leg(skb, w, conn);
	} else if (translated_late()) {
		translated_learn(skb, w);
	}
	if (!from && !reply && w->packet.protocol != IPPROTO_TCP && !(conn->service & PS_CONN_TOLD)) {
		conn->service |= PS_CONN_TOLD;
		w->packet.told |= PACKET_OPENED;
	}
	conn_count(conn, reply, from, w->packet.bytes, w->now);
	if (!conn_advance(&w->packet, conn, live, reply, w->now) && w->code == PS_VERDICT_FORWARDED)
		w->reason = PS_REASON_TABLE_FULL;
	return PS_PASS;
}

/* ---- 9: a new connection ---- */

/* `old`: the entry with these addresses and ports that this packet does not belong to, or NULL. */
static __always_inline int work_new(
	struct __sk_buff *skb, struct work *w, struct ps_conn *old, const struct ps_conn_live *live, bool from)
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
		orphan = orphan_answered(skb, w);
	denied = work_judge(skb, from, false);
	if (from && midstream && !lonely && !old) {
		const struct ps_verdict egress = w->verdict[PS_EGRESS];

		if (!verdict_intercepts(&egress) && orphan_claimed(skb, w))
			return PS_PASS;
	}
	if (denied != NOT_DENIED && midstream && !lonely && !(w->known & WORK_ORIGIN)) {
		/* Either orientation will do, its own first; a refusal is that of its own. */
		struct ps_verdict verdict = denied == PS_EGRESS ? w->verdict[PS_EGRESS] : w->verdict[PS_INGRESS];

		if (work_judge(skb, from, true) != NOT_DENIED) {
			w->told_direction = denied == PS_EGRESS ? PS_EGRESS : PS_INGRESS;
			w->told_rule = verdict.rule;
			account_rule(verdict.rule);
			return work_drop(w, verdict.reason);
		}
		w->known &= ~WORK_LEG;
		reverse = true;
	} else if (denied != NOT_DENIED) {
		return judgment_drop(w, denied);
	}
	judgment_pass(w, own_direction(from, reverse));
	if (from && !reverse && !lonely && work_intercepts(skb, w) &&
		(midstream ? orphan_steer(skb, w) : new_steer(skb, w)) == PS_DROP)
		return PS_DROP;
	if (from && w->packet.traits & PACKET_ALONE && !lonely)
		return PS_PASS;
	if (from && w->code != PS_VERDICT_INTERCEPTED) {
		if (new_rests(skb, w, live))
			return PS_PASS;
		mark_clear(skb);
	}
	if (from && w->service & PS_CONN_PENDING && (midstream || p->protocol != IPPROTO_TCP))
		translated_later();
	else if (!from && !reverse && !lonely)
		translated_learn(skb, w);
	judgment_count(w, NOT_DENIED);
	if (lonely || orphan)
		return PS_PASS;
	if (!from && !reverse) {
		int action = behind_new(skb, w);

		if (action != PS_PASS)
			return action;
	}
	/* A connection that lives is not disturbed by an attempt to open it from the other end; one that its originator has
	 * forgotten makes room for one that goes to a proxy. */
	if (old && old->state != PS_CONN_NEW && old->state != PS_CONN_CLOSING &&
		!(w->code == PS_VERDICT_INTERCEPTED && conn_forgotten(p, old))) {
		if (from)
			conn_joins(w, old);
		return PS_PASS;
	}
	if (live)
		conn_delete(&w->packet, w->now);
	conn_create(from, reverse, w->code == PS_VERDICT_INTERCEPTED ? PS_CONN_INTERCEPTED : 0);
	return PS_PASS;
}

/* ---- 6: errors ---- */

/* The answer to an embedded packet is a packet of the connection, but moves nothing in it. */
static __noinline bool work_related(struct __sk_buff *skb, struct work *w, bool from)
{
	struct packet *p = &w->packet;
	struct aside *aside = aside_get();
	struct ps_conn_live *live;
	struct ps_conn *conn;

	if (!aside)
		return false;
	aside->outer = p->source;
	if (packet_embedded(skb, p))
		goto unrelated;
	if (from) {
		/* Only the workload that the packet was sent to may complain about it. */
		party_find(&aside->party, &p->source, p->v4, w->side);
		if (w->endpoint != PS_ENDPOINT_NONE && !address_own(w, &p->source, aside->party.endpoint))
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
	aside = aside_get(); /* again: kept, it would tell states apart (PS_SCRATCH) */
	if (aside)
		p->source = aside->outer;
	p->protocol = p->v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6;
	p->source_port = p->destination_port = 0;
	w->known = 0;
	return false;
}

/* ---- the order ---- */

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
	if (!conn || conn_reopened(p, conn) || ((from || !(conn->flags & PS_CONN_LEG)) && conn_bereft(w, conn)) ||
		(from && (conn_foreign(conn, p->high) || conn_forgotten(p, conn) || conn_retried(w, conn, PS_EGRESS))))
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
	work_silent(w);
	if (deny_with_reject && reject_passes(skb, flags & PS_IFACE_L3, from, &action))
		return action;
	if (from && mark_is_set(skb)) {
		action = behind_enter(skb, flags & PS_IFACE_L3);
		if (action != BEHIND_NOT)
			return action == PS_PASS ? steer_out(skb) : action;
	}
	__builtin_memset(w, 0, sizeof(*w));
	w->packet.bytes = skb->len;
	w->ifindex = flags & PS_IFACE_L3 ? ifindex | PS_CONN_L3 : ifindex;
	w->generation = control ? PS_READ_ONCE(control->generation) : 0;
	w->side = w->generation & 1;
	w->control = control ? control->flags : 0;
	w->endpoint = iface ? iface_endpoint(iface, w->side) : PS_ENDPOINT_NONE;
	w->now = bpf_ktime_get_ns();
	if (w->endpoint == PS_ENDPOINT_NONE && !(flags & PS_IFACE_DENY)) {
		account_packet(from ? PS_EGRESS : PS_INGRESS, PS_VERDICT_FORWARDED, PS_REASON_UNCLAIMED, w->packet.bytes);
		return PS_UNCLAIMED; /* 1 */
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
		if (action != PS_DROP && w->packet.traits & PACKET_FIRST)
			fragment_remember(&w->packet, from);
		if (from && action == PS_PASS && (skb->mark & mark_mask) == mark_intercept)
			action = steer_out(skb);
		if (deny_with_reject && action == PS_DROP && reason_answered(w->reason))
			action = reject_packet(skb, from, !from);
	}
	account_packet(from ? PS_EGRESS : PS_INGRESS, w->code, w->reason, w->packet.bytes);
	return action;
}

#endif
