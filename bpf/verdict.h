/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Judge: what policy says of a connection, in one direction. */
#ifndef PENSTOCK_VERDICT_H
#define PENSTOCK_VERDICT_H

#include "bpf/party.h"
#include "bpf/policy.h"
#include "bpf/service.h"
#include "bpf/work.h"

/*
 * Judges one direction of the connection that this packet begins or belongs to; reverse: its destination is the
 * originator. Sets bits[] and verdict[] of the direction.
 */
PS_APART int judge(struct __sk_buff *skb, bool from, __u32 direction, bool reverse)
{
	struct work *w = work_get(from);
	struct question q = {};
	struct ps_verdict verdict;
	bool source_is_subject = (direction == PS_EGRESS) != reverse;
	__u32 bits = PS_JUDGED_ALLOW, local;

	if (!w)
		return 0;
	q.row.side = w->side;
	q.row.direction = direction;
	q.port = reverse ? w->packet.source_port : w->packet.destination_port;
	if (w->known & WORK_TRANSLATED)
		q.port = w->backend_port;
	q.protocol = w->packet.protocol;
	if (source_is_subject) {
		local = w->source.local;
		q.row.profile = w->source.profile;
		q.row.class_id = w->destination.class_id;
	} else {
		local = w->destination.local;
		q.row.profile = w->destination.profile;
		q.row.class_id = w->source.class_id;
	}
	verdict = VERDICT_DEFAULT;
	if (direction == PS_INGRESS && w->known & WORK_NODE) {
		verdict.reason = PS_REASON_NODE;
	} else if (!local || (direction == PS_EGRESS && w->known & (WORK_NODE | WORK_LEG))) {
		bits = PS_JUDGED_ALLOW | PS_JUDGED_NOT_LOCAL;
	} else {
		/* What is delivered here has been translated already. */
		if (direction == PS_EGRESS && (from || reverse) && !(w->known & WORK_TRANSLATED) &&
			service_judge(skb, from, reverse))
			verdict = w->verdict[PS_EGRESS];
		else
			verdict_find(&q, &verdict);
		if (verdict.action == PS_ACTION_DENY)
			bits = PS_JUDGED_DENY;
		/* An Intercept rule, in audit mode as well, is about connections that begin. */
		if (verdict.flags & PS_VERDICT_AUDIT_STEERS &&
			(reverse || !(w->packet.traits & PACKET_STARTS) || w->known & (WORK_NODE | WORK_LEG))) {
			verdict.flags = 0;
			verdict.audit_rule = PS_RULE_NONE;
		}
	}
	if (direction == PS_EGRESS) {
		w->verdict[PS_EGRESS] = verdict;
		w->bits[PS_EGRESS] = bits;
		w->judged |= 1 << PS_EGRESS;
	} else {
		w->verdict[PS_INGRESS] = verdict;
		w->bits[PS_INGRESS] = bits;
		w->judged |= 1 << PS_INGRESS;
	}
	return 0;
}

#endif
