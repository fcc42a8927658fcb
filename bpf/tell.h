/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Tell: what the agent hears of a packet's way, once it is at its end. Refused: always. Passed: if a connection was
 * opened or closed by it, or would not have passed if policies in audit mode were enforced.
 */
#ifndef PENSTOCK_TELL_H
#define PENSTOCK_TELL_H

#include "bpf/conntrack.h"
#include "bpf/event.h"
#include "bpf/judgment.h"
#include "bpf/work.h"

static __always_inline void event_process(struct __sk_buff *skb, struct ps_event *event)
{
	const struct ps_process *process;
	__u64 cookie;

	if (skb->ingress_ifindex || !skb->sk)
		return;
	cookie = bpf_get_socket_cookie(skb);
	process = bpf_map_lookup_elem(&ps_process, &cookie);
	if (!process)
		return;
	event->process = process->process;
	__builtin_memcpy(event->command, process->command, sizeof(event->command));
}

static __always_inline void event_packet(struct ps_event *event, const struct work *w, bool from)
{
	const struct packet *p = &w->packet;
	__u32 reply = w->reply;

	event->family = p->protocol || p->source.word[0] || p->source.word[3] ? (p->v4 ? 4 : 6) : 0;
	event->protocol = p->protocol;
	__builtin_memcpy(event->addr[0], reply ? p->destination.word : p->source.word, sizeof(event->addr[0]));
	__builtin_memcpy(event->addr[1], reply ? p->source.word : p->destination.word, sizeof(event->addr[1]));
	if ((w->known & (WORK_ORIGIN | WORK_LEG)) == WORK_ORIGIN)
		__builtin_memcpy(event->addr[0], w->origin.word, sizeof(event->addr[0]));
	event->port[0] = reply ? p->destination_port : p->source_port;
	event->port[1] = reply ? p->source_port : p->destination_port;
	event->packets[0] = 1;
	event->bytes[0] = p->bytes;
	event->verdict = w->code;
	event->reason = w->reason;
	event->generation = w->generation;
	event->rule = w->told_rule;
	event->direction = w->told_rule == PS_RULE_NONE ? (from ? PS_EGRESS : PS_INGRESS) : w->told_direction;
	if (w->reason != PS_REASON_NO_LISTENER)
		return;
	event->rule = PS_RULE_NONE;
	event->intercept_rule = w->intercept_rule;
	event->proxy = w->proxy;
}

/* The rule in audit mode that would have decided. */
static __always_inline void event_audited(struct ps_event *event, const struct work *w)
{
	const struct ps_verdict egress = w->verdict[PS_EGRESS], ingress = w->verdict[PS_INGRESS];
	bool first = w->judged & 1 << PS_EGRESS && verdict_audited(&egress);

	event->verdict = PS_VERDICT_AUDITED;
	event->reason = w->reason;
	event->direction = first ? PS_EGRESS : PS_INGRESS;
	event->rule = first ? egress.audit_rule : ingress.audit_rule;
	event->intercept_rule = PS_RULE_NONE;
	event->proxy = PS_PROXY_NONE;
}

static __always_inline bool work_refused(const struct work *w)
{
	return w->code == PS_VERDICT_DROPPED || w->code == PS_VERDICT_REJECTED;
}

static __always_inline bool work_audited(const struct work *w)
{
	return w->code == PS_VERDICT_AUDITED && (w->packet.told & PACKET_OPENED || w->packet.traits & PACKET_STARTS);
}

/* Of the packet that work_get(from) describes, if there is anything to tell. */
PS_APART int work_tell(struct __sk_buff *skb, bool from)
{
	struct work *w = work_get(from);
	struct ps_conn *conn = NULL;
	struct ps_conn_live *live;
	struct ps_event *event;
	__u8 code = PS_EVENT_REFUSED;

	if (!w || !(w->packet.told || work_refused(w) || work_audited(w)))
		return 0;
	if (!work_refused(w)) {
		conn = conn_find(&w->packet, &live, w->now);
		if (!conn || conn->service & PS_CONN_QUIET)
			return 0;
		code = w->packet.told & PACKET_CLOSED ? PS_EVENT_CLOSED : PS_EVENT_OPENED;
		conn->service |= PS_CONN_TOLD;
	}
	event = event_new(code, w->now);
	if (!event)
		return 0;
	event->ifindex = skb->ifindex;
	if (conn) {
		event_conn(event, conn);
		if (w->packet.v4)
			event_ends4(event, &w->packet.key4, conn);
		else
			event_ends6(event, &w->packet.key6, conn);
		if (code == PS_EVENT_OPENED && w->reason == PS_REASON_TABLE_FULL)
			event->reason = PS_REASON_TABLE_FULL;
		if (work_audited(w))
			event_audited(event, w);
		if (conn->flags & (PS_CONN_NODE | PS_CONN_LEG))
			event_process(skb, event);
	} else {
		event_packet(event, w, from);
	}
	event_send(event);
	return 0;
}

#endif
