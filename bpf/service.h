/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A connection to a Service's address. Which backend it is sent to is decided after the first hook, by somebody else's
 * NAT; so that one asks policy about every kind of ready backend, and where they differ leaves the connection PENDING:
 * the hook where it leaves judges the backend that was chosen (translated.h), and tells the entry. From then on the
 * connection is judged by that, whatever becomes of the Service.
 */
#ifndef PENSTOCK_SERVICE_H
#define PENSTOCK_SERVICE_H

#include "bpf/leg.h"
#include "bpf/maps.h"
#include "bpf/party.h"
#include "bpf/policy.h"
#include "bpf/verifier.h"
#include "bpf/work.h"

static __always_inline const struct ps_service *service_at(const struct aside *aside, bool v4)
{
	return v4 ? bpf_map_lookup_elem(&ps_service4, &aside->service4)
			  : bpf_map_lookup_elem(&ps_service6, &aside->service6);
}

/* Of this address and port; a node port is every node's address'. */
static __always_inline const struct ps_service *service_find(struct __sk_buff *skb, const struct work *w,
	struct aside *aside, const struct address *address, __u16 port, const struct party *party)
{
	bool v4 = w->packet.v4;
	const struct ps_service *service;

	__builtin_memset(&aside->service6, 0, sizeof(aside->service6));
	if (v4) {
		aside->service4.side = w->side;
		aside->service4.addr = address->v4;
		aside->service4.port = port;
		aside->service4.protocol = w->packet.protocol;
	} else {
		aside->service6.side = w->side;
		__builtin_memcpy(aside->service6.addr, address->word, sizeof(aside->service6.addr));
		aside->service6.port = port;
		aside->service6.protocol = w->packet.protocol;
	}
	service = service_at(aside, v4);
	if (service)
		return service;
	if (v4)
		aside->service4.addr = 0;
	else
		__builtin_memset(aside->service6.addr, 0, sizeof(aside->service6.addr));
	service = service_at(aside, v4);
	return service && (party->node || address_is_node(skb, address, v4)) ? service : NULL;
}

static __always_inline void opinion_add(struct opinions *all, const struct ps_verdict *verdict, __u16 flags)
{
	if (verdict->action == PS_ACTION_DENY) {
		if (!all->refuses)
			all->refused = *verdict;
		all->refuses = 1;
		all->stuck |= flags & PS_BACKEND_NODE;
		return;
	}
	if (!all->allows)
		all->allowed = *verdict;
	else if (all->allowed.proxy != verdict->proxy ||
			 (all->allowed.intercept_rule == PS_RULE_NONE) != (verdict->intercept_rule == PS_RULE_NONE))
		all->parted = 1;
	all->allows = 1;
}

/*
 * InterceptPolicy is about the address that the proxy will see; only where that matches no rule, about the backends.
 * `own`: what the tables say of the Service's address, of which only that part counts.
 */
static __always_inline void verdict_steer(struct ps_verdict *ret, const struct ps_verdict *own, bool parted)
{
	if (own->intercept_rule != PS_RULE_NONE) {
		ret->intercept_rule = own->intercept_rule;
		ret->proxy = own->proxy;
		ret->action = own->proxy != PS_PROXY_NONE ? PS_ACTION_INTERCEPT : PS_ACTION_ALLOW;
	} else if (parted) {
		ret->intercept_rule = PS_RULE_NONE;
		ret->proxy = PS_PROXY_NONE;
		ret->action = PS_ACTION_ALLOW;
	}
}

/* Would a proxy take it, if all backends were allowed? What cannot be handed over then does not go past the proxy. */
static __always_inline bool verdict_wants(const struct opinions *all)
{
	if (all->own.intercept_rule != PS_RULE_NONE)
		return all->own.proxy != PS_PROXY_NONE;
	return all->allows && !all->parted && all->allowed.action == PS_ACTION_INTERCEPT;
}

static __always_inline void service_ask(const struct ps_service *service, struct question *q, struct opinions *ret)
{
	ret->allows = ret->refuses = ret->stuck = ret->parted = 0;
	ret->allowed = ret->refused = VERDICT_DEFAULT;
	ret->refused.action = PS_ACTION_DENY; /* where none is known to be refused, but some may be */
	ret->refused.reason = PS_REASON_POLICY;
	for (__u32 i = 0; i < PS_BACKENDS_MAX && i < service->count; i++) {
		q->row.class_id = service->backend[i].class_id;
		q->port = service->backend[i].port;
		verdict_find(q, &ret->next);
		opinion_add(ret, &ret->next, service->backend[i].flags);
	}
}

/* Where this node sends the connection is known. */
static __always_inline void service_translated(struct work *w, struct aside *aside)
{
	party_find(&aside->party, &w->backend, w->packet.v4, w->side);
	aside->question.row.class_id = aside->party.class_id;
	aside->question.port = w->backend_port;
	verdict_find(&aside->question, &w->verdict[PS_EGRESS]);
}

/*
 * Egress of a connection whose responder may be a Service; reverse: the packet goes to the originator. Not 0: it is,
 * and w->verdict[PS_EGRESS] and w->service are set.
 */
PS_APART int service_judge(struct __sk_buff *skb, bool from, bool reverse)
{
	struct work *w = work_get(from);
	const struct ps_service *service;
	struct aside *aside = aside_get();
	struct question *q;
	struct opinions *all;
	const struct address *address;
	const struct party *responder;
	bool wanted, nobody, unsure;

	if (!w || !aside || !(w->control & PS_CONTROL_SERVICES))
		return 0;
	q = &aside->question;
	q->row.side = w->side;
	q->row.direction = PS_EGRESS;
	q->row.profile = reverse ? w->destination.profile : w->source.profile;
	q->protocol = w->packet.protocol;
	if (w->service & PS_CONN_TRANSLATED) {
		service_translated(w, aside);
		return 1;
	}
	w->service = 0;
	all = &aside->backends;
	address = reverse ? &w->packet.source : &w->packet.destination;
	responder = reverse ? &w->source : &w->destination;
	q->port = reverse ? w->packet.source_port : w->packet.destination_port;
	service = service_find(skb, w, aside, address, q->port, responder);
	if (!service)
		return 0;
	w->known |= WORK_SERVICE;
	q->row.class_id = responder->class_id;
	verdict_find(q, &all->own);
	service_ask(service, q, all);
	wanted = verdict_wants(all);
	nobody = !service->count && !wanted; /* that is known here */
	unsure = nobody || service->flags & PS_SERVICE_MORE || (all->allows && all->refuses);
	if (all->stuck || (all->refuses && !unsure) || (unsure && wanted))
		goto refuse;
	if (unsure && nfct_reply_offset) {
		w->service = PS_CONN_PENDING;
		w->verdict[PS_EGRESS] = VERDICT_DEFAULT;
		/* Bypass: what else has a rule is not unsure. */
		w->verdict[PS_EGRESS].intercept_rule = all->own.intercept_rule ? all->own.intercept_rule
											   : all->parted           ? PS_RULE_NONE
																	   : all->allowed.intercept_rule;
		return 1;
	}
	if (nobody)
		return 0;
	if (unsure) /* and nobody sees what is chosen */
		goto refuse;
	verdict_steer(&all->allowed, &all->own, all->parted);
	w->verdict[PS_EGRESS] = all->allowed;
	return 1;
refuse:
	w->verdict[PS_EGRESS] = all->refused;
	return 1;
}

#endif
