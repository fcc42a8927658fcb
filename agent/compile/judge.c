/* SPDX-License-Identifier: Apache-2.0 */
/* Reads the tables as the kernel does (bpf/verdict.h), so that a test can ask without a kernel. */
#include <string.h>
#include "agent/compile/compile.h"

/* Longest prefix: the tables are hashes here, so each length is tried, longest first. */
static uint32_t net_class(const struct tables *tables, const struct ip *ip)
{
	int longest = ip->family == 4 ? 32 : 128;
	for (int length = longest; length >= 0; length--) {
		struct ps_key_net6 key6 = {.prefix_length = 32 + (uint32_t)length};
		memcpy(key6.addr, ip->family == 4 ? ip->bytes + 12 : ip->bytes, (size_t)longest / 8);
		for (int bit = length; bit < longest; bit++)
			key6.addr[bit / 8] &= (uint8_t) ~(0x80 >> bit % 8);
		struct ps_key_net4 key4 = {.prefix_length = key6.prefix_length};
		memcpy(&key4.addr, key6.addr, 4);
		const uint32_t *class_id =
			ip->family == 4 ? tables_get(tables, TABLE_net4, &key4) : tables_get(tables, TABLE_net6, &key6);
		if (class_id)
			return *class_id;
	}
	return PS_CLASS_NONE;
}

static struct ps_addr addr_find(const struct tables *tables, const struct ip *ip)
{
	struct ps_key_addr4 key4 = {0};
	struct ps_key_addr6 key6 = {0};
	const struct ps_addr *found;
	if (ip->family == 4) {
		key4.addr = ip_v4(ip);
		found = tables_get(tables, TABLE_addr4, &key4);
	} else {
		memcpy(key6.addr, ip->bytes, 16);
		found = tables_get(tables, TABLE_addr6, &key6);
	}
	return found ? *found : (struct ps_addr){.class_id = net_class(tables, ip)};
}

static uint32_t port_class_of(const struct tables *tables, uint8_t protocol, uint16_t port)
{
	static const uint8_t protocols[PS_PORT_PROTO_COUNT] = {PROTOCOL_TCP, PROTOCOL_UDP, PROTOCOL_SCTP};
	for (uint32_t i = 0; i < PS_PORT_PROTO_COUNT; i++) {
		uint32_t index = i * 256 + (port >> 8);
		const struct ps_port_block *block = protocols[i] == protocol ? tables_get(tables, TABLE_port, &index) : NULL;
		if (block)
			return block->port_class[port & 255];
	}
	return PS_PORT_CLASS_NONE;
}

static struct ps_verdict verdict_find(
	const struct tables *tables, uint32_t profile, uint32_t class_id, enum ps_direction direction, uint32_t port_class)
{
	struct ps_key_row row_key = {.profile = profile, .class_id = class_id, .direction = direction};
	const struct ps_profile *base = tables_get(tables, TABLE_profile, &profile);
	const uint32_t *own = tables_get(tables, TABLE_peer_row, &row_key);
	uint32_t row = own ? *own : base ? base->default_row[direction] : 0;
	struct ps_key_cell cell_key = {.row = row, .port_class = port_class};
	const struct ps_verdict *verdict = tables_get(tables, TABLE_cell, &cell_key);
	if (!verdict)
		verdict = tables_get(tables, TABLE_row, &row);
	return verdict ? *verdict : (struct ps_verdict){0};
}

/* ---- Services (bpf/service.h) ---- */

/* A node port is every node's address'. */
static const struct ps_service *service_find(
	const struct tables *tables, const struct judge_query *query, const struct ps_addr *destination)
{
	struct ps_key_service4 key4 = {.port = query->port, .protocol = query->protocol};
	struct ps_key_service6 key6 = {.port = query->port, .protocol = query->protocol};
	bool four = query->destination.family == 4;
	enum table_id table = four ? TABLE_service4 : TABLE_service6;
	const void *key = four ? (const void *)&key4 : &key6;
	memcpy(&key4.addr, query->destination.bytes + 12, sizeof(key4.addr));
	memcpy(key6.addr, query->destination.bytes, sizeof(key6.addr));
	const struct ps_service *service = tables_get(tables, table, key);
	if (service || !(destination->flags & PS_ADDR_NODE))
		return service;
	key4.addr = 0;
	memset(key6.addr, 0, sizeof(key6.addr));
	return tables_get(tables, table, key);
}

struct opinions {
	struct ps_verdict allowed, refused; /* the first of each */
	bool allows, refuses;
	bool stuck;  /* a refused one is this node itself: no hook follows that could refuse */
	bool parted; /* allowed, but not by all means handed to the same proxy */
};

static void opinion_add(struct opinions *all, const struct ps_verdict *verdict, const struct ps_backend *kind)
{
	if (verdict->action == PS_ACTION_DENY) {
		if (!all->refuses)
			all->refused = *verdict;
		all->refuses = true;
		all->stuck |= kind->flags & PS_BACKEND_NODE;
		return;
	}
	if (!all->allows)
		all->allowed = *verdict;
	else if (all->allowed.proxy != verdict->proxy ||
			 (all->allowed.intercept_rule == PS_RULE_NONE) != (verdict->intercept_rule == PS_RULE_NONE))
		all->parted = true;
	all->allows = true;
}

/* InterceptPolicy is about the address that the proxy will see; only where that matches no rule, about the backends.
 * Then all of them must go the same way. */
static struct ps_verdict opinions_steer(const struct opinions *all, const struct ps_verdict *own)
{
	struct ps_verdict verdict = all->allowed;
	if (own->intercept_rule == PS_RULE_NONE && !all->parted)
		return verdict;
	verdict.intercept_rule = own->intercept_rule;
	verdict.proxy = own->intercept_rule == PS_RULE_NONE ? PS_PROXY_NONE : own->proxy;
	verdict.action = verdict.proxy == PS_PROXY_NONE ? PS_ACTION_ALLOW : PS_ACTION_INTERCEPT;
	return verdict;
}

/* Would a proxy take it, if all backends were allowed? What cannot be handed over then does not go past the proxy. */
static bool opinions_want(const struct opinions *all, const struct ps_verdict *own)
{
	if (own->intercept_rule != PS_RULE_NONE)
		return own->proxy != PS_PROXY_NONE;
	return all->allows && !all->parted && all->allowed.action == PS_ACTION_INTERCEPT;
}

/* answer->egress is what the tables say of the Service's own address. Where nf_conntrack can be read. */
static void service_judge(const struct tables *tables, const struct judge_query *query,
	const struct ps_service *service, uint32_t profile, struct judge_answer *answer)
{
	struct opinions all = {.allowed = {.action = PS_ACTION_ALLOW, .reason = PS_REASON_DEFAULT},
		/* where none is known to be refused, but some may be */
		.refused = {.action = PS_ACTION_DENY, .reason = PS_REASON_POLICY}};
	for (uint32_t i = 0; i < service->count; i++) {
		const struct ps_backend *kind = &service->backend[i];
		uint32_t port_class = port_class_of(tables, query->protocol, kind->port);
		struct ps_verdict verdict = verdict_find(tables, profile, kind->class_id, PS_EGRESS, port_class);
		opinion_add(&all, &verdict, kind);
	}
	bool wanted = opinions_want(&all, &answer->egress), nobody = !service->count && !wanted;
	bool unsure = nobody || service->flags & PS_SERVICE_MORE || (all.allows && all.refuses);
	answer->service = true;
	if (all.stuck || (all.refuses && !unsure) || (unsure && wanted)) {
		answer->egress = all.refused;
	} else if (unsure) {
		answer->pending = true;
		answer->egress = (struct ps_verdict){.action = PS_ACTION_ALLOW, .reason = PS_REASON_DEFAULT};
	} else {
		answer->egress = opinions_steer(&all, &answer->egress);
	}
}

/*
 * 1 what policy denies in either direction is not handed over
 * 2 egress rules of a local source
 * 3 ingress rules of a local destination, when none of 2 matched; asked of steered addresses only
 */
static void answer_conclude(struct judge_answer *answer, bool steered)
{
	enum ps_action out = (enum ps_action)answer->egress.action, in = (enum ps_action)answer->ingress.action;
	if (out == PS_ACTION_DENY || in == PS_ACTION_DENY) { /* 1 */
		answer->action = PS_ACTION_DENY;
	} else if (out == PS_ACTION_INTERCEPT) { /* 2 */
		answer->action = PS_ACTION_INTERCEPT;
		answer->direction = PS_EGRESS;
	} else if (answer->egress.intercept_rule == PS_RULE_NONE && in == PS_ACTION_INTERCEPT && steered) { /* 3 */
		answer->action = PS_ACTION_INTERCEPT;
		answer->direction = PS_INGRESS;
	}
}

void tables_judge(const struct tables *tables, const struct judge_query *query, struct judge_answer *ret)
{
	struct ps_addr source = addr_find(tables, &query->source), destination = addr_find(tables, &query->destination);
	uint32_t port_class = port_class_of(tables, query->protocol, query->port);
	*ret = (struct judge_answer){
		.egress_local = source.flags & PS_ADDR_LOCAL,
		.ingress_local = destination.flags & PS_ADDR_LOCAL,
	};
	if (ret->egress_local) {
		const struct ps_service *service = service_find(tables, query, &destination);
		ret->egress = verdict_find(tables, source.profile, destination.class_id, PS_EGRESS, port_class);
		if (service)
			service_judge(tables, query, service, source.profile, ret);
	}
	if (ret->ingress_local)
		ret->ingress = verdict_find(tables, destination.profile, source.class_id, PS_INGRESS, port_class);
	answer_conclude(ret, destination.flags & PS_ADDR_STEERED);
}

void tables_judge_process(
	const struct tables *tables, uint32_t endpoint, const struct judge_query *query, struct ps_verdict *ret)
{
	const struct ps_endpoint *own = tables_get(tables, TABLE_endpoint, &endpoint);
	struct ps_addr destination = addr_find(tables, &query->destination);
	*ret = (struct ps_verdict){.reason = PS_REASON_DEFAULT};
	if (own && own->profile != PS_PROFILE_NONE)
		*ret = verdict_find(
			tables, own->profile, destination.class_id, PS_EGRESS, port_class_of(tables, query->protocol, query->port));
}
