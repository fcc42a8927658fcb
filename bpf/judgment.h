/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a hook concludes about a connection, and what of it goes into the entry: verdict.h's answers, put together for
 * both directions and both orientations.
 */
#ifndef PENSTOCK_JUDGMENT_H
#define PENSTOCK_JUDGMENT_H

#include "bpf/account.h"
#include "bpf/conntrack.h"
#include "bpf/verdict.h"
#include "bpf/work.h"

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

/* Each rule that decided, or would have, once; of a refusal only those of the direction that refused. */
static __noinline void judgment_count(struct work *w, int denied)
{
	if (w->judged & 1 << PS_EGRESS && denied != PS_INGRESS && !(w->known & WORK_COUNTED)) {
		account_rule(w->verdict[PS_EGRESS].rule);
		account_rule(w->verdict[PS_EGRESS].audit_rule);
	}
	if (w->judged & 1 << PS_INGRESS && denied != PS_EGRESS) {
		account_rule(w->verdict[PS_INGRESS].rule);
		account_rule(w->verdict[PS_INGRESS].audit_rule);
	}
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
PS_APART int work_judge(struct __sk_buff *skb, bool from, bool reverse)
{
	__u32 own = own_direction(from, reverse);
	struct work *w = work_get(from);

	if (!w)
		return own;
	w->judged = 0;
	w->bits[PS_EGRESS] = w->bits[PS_INGRESS] = 0;
	judge(skb, from, own, reverse);
	if (!from || !w->destination.local)
		judge(skb, from, !own, reverse);
	return work_denied(w);
}

/* What passes, but would not if policies in audit mode were enforced. */
static __always_inline bool verdict_audited(const struct ps_verdict *verdict)
{
	return verdict->action == PS_ACTION_ALLOW && verdict->flags & (PS_VERDICT_AUDIT_DENY | PS_VERDICT_AUDIT_INTERCEPT);
}

static __always_inline __u32 audit_reason(const struct ps_verdict *verdict)
{
	if (verdict->flags & PS_VERDICT_AUDIT_INTERCEPT)
		return PS_REASON_INTERCEPT;
	return verdict->flags & PS_VERDICT_AUDIT_ISOLATED ? PS_REASON_ISOLATED : PS_REASON_POLICY;
}

/* The verdict and reason that a judged packet is counted with. */
static __always_inline int judgment_pass(struct work *w, __u32 own)
{
	const struct ps_verdict egress = w->verdict[PS_EGRESS], ingress = w->verdict[PS_INGRESS];

	if (w->judged & 1 << PS_EGRESS && verdict_audited(&egress))
		return work_pass(w, PS_VERDICT_AUDITED, audit_reason(&egress));
	if (w->judged & 1 << PS_INGRESS && verdict_audited(&ingress))
		return work_pass(w, PS_VERDICT_AUDITED, audit_reason(&ingress));
	return work_pass(w, PS_VERDICT_FORWARDED, own == PS_EGRESS ? egress.reason : ingress.reason);
}

static __always_inline int judgment_drop(struct work *w, int denied)
{
	judgment_count(w, denied);
	w->told_direction = denied == PS_EGRESS ? PS_EGRESS : PS_INGRESS;
	w->told_rule = denied == PS_EGRESS ? w->verdict[PS_EGRESS].rule : w->verdict[PS_INGRESS].rule;
	return work_drop(w, denied == PS_EGRESS ? w->verdict[PS_EGRESS].reason : w->verdict[PS_INGRESS].reason);
}

/* ---- connections to Services ---- */

static __always_inline bool translated_late(void)
{
	const __u32 zero = 0, *late = bpf_map_lookup_elem(&ps_pending, &zero);

	return late && *late;
}

/* From now on not only first packets are looked at where they leave: this one's backend was chosen before anybody
 * looked.
 */
static __always_inline void translated_later(void)
{
	__u32 zero = 0, one = 1;

	if (!translated_late())
		bpf_map_update_elem(&ps_pending, &zero, &one, BPF_ANY);
}

/* ---- entries ---- */

/* What was judged now goes into the entry; each word at once. */
static __noinline void conn_judged(struct ps_conn *conn, const struct work *w)
{
	if (w->judged & 1 << PS_EGRESS) {
		conn->rule[PS_EGRESS] = w->verdict[PS_EGRESS].rule;
		conn->reason[PS_EGRESS] = w->verdict[PS_EGRESS].reason;
		conn->service =
			w->service |
			(conn->service & (PS_CONN_BEHIND | PS_CONN_OWN | PS_CONN_MASKED | PS_CONN_TOLD | PS_CONN_QUIET));
		if (w->verdict[PS_EGRESS].intercept_rule != PS_RULE_NONE)
			conn->service |= PS_CONN_ASKED;
		PS_WRITE_ONCE(conn->judged[PS_EGRESS], judged_word(w->generation, w->bits[PS_EGRESS]));
	}
	if (w->judged & 1 << PS_INGRESS) {
		conn->rule[PS_INGRESS] = w->verdict[PS_INGRESS].rule;
		conn->reason[PS_INGRESS] = w->verdict[PS_INGRESS].reason;
		PS_WRITE_ONCE(conn->judged[PS_INGRESS], judged_word(w->generation, w->bits[PS_INGRESS]));
	}
	PS_RETURN_ZERO;
}

/* Of a connection to a Service's address: where it is sent. The address stands before the flag that says so. */
static __always_inline void conn_translated(struct ps_conn *conn, const struct work *w)
{
	if (conn->flags & PS_CONN_REWRITTEN)
		return;
	__builtin_memcpy(conn->backend, w->backend.word, sizeof(conn->backend));
	conn->backend_port = w->backend_port;
	conn->service = PS_CONN_TRANSLATED | (conn->service & ~PS_CONN_PENDING);
}

static __always_inline void conn_backend(const struct ps_conn *conn, struct work *w)
{
	w->service = conn->service & PS_CONN_TRANSLATED;
	__builtin_memcpy(w->backend.word, conn->backend, sizeof(conn->backend));
	w->backend_port = conn->backend_port;
}

/* A proxy has it because of where it is sent: both directions ask about the backend, for no last hook will. */
static __noinline void party_behind(struct work *w, bool reply)
{
	party_find(reply ? &w->source : &w->destination, &w->backend, w->packet.v4, w->side);
	w->known |= WORK_TRANSLATED;
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

static __always_inline long conn_insert(const struct packet *p, const struct ps_conn *conn, __u64 flags)
{
	return p->v4 ? bpf_map_update_elem(&ps_new4, &p->key4, conn, flags)
				 : bpf_map_update_elem(&ps_new6, &p->key6, conn, flags);
}

/*
 * A client and a proxy that speaks for one of its other connections may choose the same port at the same moment, on two
 * CPUs: then one entry is both the intercepted connection and the leg. True: the entry that is there has learnt of the
 * fresh one; else the fresh one has, and replaces it.
 */
static __noinline bool conn_shares(const struct packet *p, struct ps_conn *fresh, __u64 now)
{
	const __u8 both = PS_CONN_LEG | PS_CONN_INTERCEPTED;
	struct ps_conn *there;

	there = p->v4 ? bpf_map_lookup_elem(&ps_new4, &p->key4) : bpf_map_lookup_elem(&ps_new6, &p->key6);
	if (!there || there->state == PS_CONN_CLOSING || (__s64)(now - there->seen) > (__s64)EMBRYONIC_TIMEOUT)
		return false;
	if ((there->flags ^ fresh->flags) & PS_CONN_ORIGIN_HIGH)
		return false;
	if ((fresh->flags & both) == PS_CONN_LEG && there->flags & PS_CONN_INTERCEPTED) {
		there->flags |= PS_CONN_LEG;
		return true;
	}
	if ((fresh->flags & both) == PS_CONN_INTERCEPTED)
		fresh->flags |= there->flags & PS_CONN_LEG;
	return false;
}

/* For the programs on sockets: whose flow it is that a proxy receives by its listener. */
static __noinline void asker_note(const struct packet *p)
{
	struct aside *aside = aside_get();

	if (!aside)
		PS_RETURN_ZERO;
	__builtin_memset(&aside->asker, 0, sizeof(aside->asker));
	__builtin_memset(&aside->flow, 0, sizeof(aside->flow));
	__builtin_memcpy(aside->asker.addr, p->source.word, sizeof(aside->asker.addr));
	aside->asker.port = p->source_port;
	aside->asker.family = aside->flow.family = p->v4 ? 4 : 6;
	if (p->v4)
		aside->flow.key4 = p->key4;
	else
		aside->flow.key6 = p->key6;
	bpf_map_update_elem(&ps_asker, &aside->asker, &aside->flow, BPF_ANY);
	PS_RETURN_ZERO;
}

PS_APART int conn_create(bool from, bool reverse, __u32 flags)
{
	struct work *w = work_get(from);
	struct packet *p;
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
		if (p->protocol == IPPROTO_UDP)
			asker_note(p);
	}
	conn.flags = flags;
	if (w->service & PS_CONN_BEHIND)
		conn.backend_port = w->backend_port;
	conn_remember(&conn, w);
	if (w->known & WORK_QUIET)
		conn.service |= PS_CONN_QUIET | PS_CONN_TOLD;
	else if (p->protocol != IPPROTO_TCP) {
		/* What the last hook has to judge is told there. */
		if (!from || !w->destination.local || w->code != PS_VERDICT_FORWARDED) {
			conn.service |= PS_CONN_TOLD;
			p->told |= PACKET_OPENED;
		}
	} else if (p->traits & PACKET_STARTS) {
		account_stat(PS_STAT_BEGUN);
	}
	if (from == reverse)
		conn.ifindex[1] = w->ifindex;
	else
		conn.ifindex[0] = w->ifindex;
	conn_count(&conn, reverse, from, p->bytes, w->now);
	if (conn_insert(p, &conn, BPF_NOEXIST) == -EEXIST && !conn_shares(p, &conn, w->now))
		conn_insert(p, &conn, BPF_ANY);
	return 0;
}

/* The same for datagrams of which an established leg has the addresses and ports already. */
static __always_inline void conn_joins(const struct work *w, struct ps_conn *there)
{
	if (w->packet.protocol != IPPROTO_UDP || w->code != PS_VERDICT_INTERCEPTED || conn_reply(there, w->packet.high) ||
		(there->flags & (PS_CONN_LEG | PS_CONN_INTERCEPTED)) != PS_CONN_LEG)
		return;
	there->proxy = w->proxy;
	there->intercept_rule = w->intercept_rule;
	there->flags |= PS_CONN_INTERCEPTED;
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

/* ---- a known connection ---- */

static __always_inline bool word_current(__u64 word, __u32 generation)
{
	return word >> 32 == generation && word & (PS_JUDGED_ALLOW | PS_JUDGED_DENY);
}

/*
 * An attempt that nobody has answered is made again under a later revision: an InterceptPolicy may want it now, as it
 * wants any connection that begins. direction: that of the hook which asks.
 */
static __always_inline bool conn_retried(const struct work *w, const struct ps_conn *conn, __u32 direction)
{
	if (w->packet.protocol != IPPROTO_TCP || !(w->packet.traits & PACKET_STARTS) || conn->state != PS_CONN_NEW)
		return false;
	if (conn->flags & (PS_CONN_INTERCEPTED | PS_CONN_LEG | PS_CONN_NODE) || conn_reply(conn, w->packet.high))
		return false;
	return !word_current(PS_READ_ONCE(conn->judged[direction & 1]), w->generation);
}

/* What the entry says of the direction that denies. */
static __noinline void known_refuse(struct work *w, const struct ps_conn *conn, int denied)
{
	w->reason = conn->reason[denied & 1];
	w->told_direction = denied & 1;
	w->told_rule = conn->rule[denied & 1];
	PS_RETURN_ZERO;
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
	w->reply = reply;
	if (!ask_own && mine & PS_JUDGED_DENY)
		denied = own;
	else if (both && !ask_other && other & PS_JUDGED_DENY)
		denied = !own;
	if (denied != NOT_DENIED) {
		known_refuse(w, conn, denied);
		account_rule(w->told_rule);
		return denied;
	}
	if (!ask_own && !ask_other) {
		w->reason = PS_REASON_ESTABLISHED;
		return NOT_DENIED;
	}
	w->entered = 0;
	if (!from && !reply && conn->flags & PS_CONN_LEG && !skb->ingress_ifindex)
		w->known |= WORK_LEG;
	if (from ? reply : w->known & (WORK_RELATED | WORK_LEG))
		conn_recall(conn, w);
	if (conn->flags & PS_CONN_NODE && (from ? reply : w->known & WORK_RELATED || !skb->ingress_ifindex))
		w->known |= WORK_NODE;
	parties_find(skb, from);
	if (from || reply)
		conn_backend(conn, w);
	if (conn->service & PS_CONN_BEHIND && w->service & PS_CONN_TRANSLATED)
		party_behind(w, reply);
	w->bits[PS_EGRESS] = w->bits[PS_INGRESS] = 0;
	if (ask_own)
		judge(skb, from, own, reply);
	if (ask_other)
		judge(skb, from, !own, reply);
	denied = work_denied(w);
	if (denied != NOT_DENIED && conn->flags & PS_CONN_MIDSTREAM && !(w->known & WORK_ORIGIN)) {
		struct ps_verdict verdict = denied == PS_EGRESS ? w->verdict[PS_EGRESS] : w->verdict[PS_INGRESS];

		if (work_judge(skb, from, !reply) == NOT_DENIED) {
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
	if (from && w->known & WORK_SERVICE && conn->state != PS_CONN_NEW)
		translated_later();
	judgment_count(w, denied);
	if (denied == NOT_DENIED)
		judgment_pass(w, own);
	else
		known_refuse(w, conn, denied);
	return denied;
}

#endif
