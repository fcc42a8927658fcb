/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where a packet leaves this node, or reaches a workload: if it was sent to a Service's address, the backend is known
 * now. It is judged, and the entry that the first hook made with the Service's address learns it.
 */
#ifndef PENSTOCK_TRANSLATED_H
#define PENSTOCK_TRANSLATED_H

#include "bpf/behind.h"
#include "bpf/judgment.h"
#include "bpf/nfct.h"

static __always_inline __u32 translated_meant(void)
{
	return translated_late() ? NFCT_ORIGINATORS : NFCT_FIRST;
}

/* The first hook's entry of a translated packet, with w->backend and w->backend_port; NULL: it is none, or an answer.
 */
static __always_inline struct ps_conn *translated_find(struct __sk_buff *skb, struct work *w)
{
	struct aside *aside = aside_get();
	struct ps_conn_live *live;
	struct ps_conn *conn;

	if (!aside || !nfct_translation(skb, translated_meant(), &aside->entered, &w->backend, &w->backend_port))
		return NULL;
	conn = conn_find(&aside->entered, &live, w->now);
	return conn && !conn_reply(conn, aside->entered.high) ? conn : NULL;
}

/* At the last hook, for what has been judged there. */
static __noinline void translated_learn(struct __sk_buff *skb, struct work *w)
{
	struct ps_conn *conn;

	if (!(w->control & PS_CONTROL_SERVICES) || !skb->ingress_ifindex)
		PS_RETURN_ZERO;
	conn = translated_find(skb, w);
	if (!conn)
		PS_RETURN_ZERO;
	if (!(conn->service & PS_CONN_PENDING))
		w->known |= WORK_COUNTED;
	w->known |= WORK_QUIET;
	if (w->packet.traits & PACKET_STARTS && conn->service & PS_CONN_BEHIND && !behind_wanted(skb, w))
		behind_forget(conn);
	conn_translated(conn, w);
	PS_RETURN_ZERO;
}

/* This node itself answers: its own packet shows that it was chosen, and no hook saw the one that went there. */
static __noinline void translated_answered(struct __sk_buff *skb, struct work *w, struct ps_conn *conn)
{
	struct aside *aside = aside_get();

	if (!(w->control & PS_CONTROL_SERVICES) || skb->ingress_ifindex || conn->service & PS_CONN_TRANSLATED)
		PS_RETURN_ZERO;
	if (aside && nfct_translation(skb, NFCT_ANSWERS, &aside->entered, &w->backend, &w->backend_port))
		conn_translated(conn, w);
	PS_RETURN_ZERO;
}

/* Was it judged in this revision, for this backend? */
static __always_inline bool translated_judged(const struct ps_conn *conn, const struct work *w)
{
	const __u64 *backend = (const __u64 *)conn->backend;

	return conn->service & PS_CONN_TRANSLATED && conn->backend_port == w->backend_port &&
		   backend[0] == w->backend.half[0] && backend[1] == w->backend.half[1] &&
		   PS_READ_ONCE(conn->judged[PS_EGRESS]) == judged_word(w->generation, PS_JUDGED_ALLOW);
}

/* At an interface without a workload, for what is forwarded: the egress of its sender. */
static __noinline int translated_judge(struct __sk_buff *skb, struct work *w)
{
	struct ps_conn *conn = translated_find(skb, w);
	const struct aside *aside = aside_get();
	const struct packet *entered;

	if (!conn || !aside || translated_judged(conn, w))
		return PS_PASS;
	entered = &aside->entered;
	w->packet.v4 = entered->v4;
	w->packet.protocol = entered->protocol;
	w->packet.source = entered->source;
	w->packet.source_port = entered->source_port;
	w->packet.destination = w->backend;
	w->packet.destination_port = w->backend_port;
	w->known |= WORK_TRANSLATED;
	party_find(&w->source, &w->packet.source, w->packet.v4, w->side);
	party_entered(&w->source, w, skb->ingress_ifindex, &w->packet.source);
	party_find(&w->destination, &w->packet.destination, w->packet.v4, w->side);
	judge(skb, false, PS_EGRESS, false);
	if (work_denied(w) != NOT_DENIED)
		return judgment_drop(w, PS_EGRESS);
	if (conn->service & PS_CONN_PENDING)
		judgment_count(w, NOT_DENIED);
	conn_judged(conn, w);
	conn_translated(conn, w);
	return PS_PASS;
}

#endif
