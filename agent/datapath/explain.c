/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the programs would say about a connection: the lookups of bpf/party.h, policy.h and service.h, in their order,
 * in the same maps. Any thread: nothing but the maps, options that never change and the kernel's own addresses is read.
 */
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <errno.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <string.h>
#include "agent/datapath/private.h"

/* Each try is some twenty system calls; a flip takes much longer. */
#define TRIES 64

struct asking {
	const struct datapath *datapath;
	const struct explain_query *query;
	uint32_t side, flags; /* PS_CONTROL_* */
	int error;            /* the first lookup that failed otherwise than by finding nothing */
};

static bool look(struct asking *a, int fd, const void *key, void *value)
{
	int result = bpf_map_lookup_elem(fd, key, value);
	if (result < 0 && result != -ENOENT && !a->error)
		a->error = result;
	return result == 0;
}

static bool look_table(struct asking *a, enum table_id id, const void *key, void *value)
{
	return look(a, a->datapath->loaded.table[id], key, value);
}

/* An array, by its index on this side. */
static bool look_array(struct asking *a, enum table_id id, uint32_t index, void *value)
{
	if (index >= table_infos[id].entries)
		return false;
	index += a->side * (uint32_t)table_infos[id].entries;
	return look_table(a, id, &index, value);
}

/* party_find: the exact address, else the longest prefix. */
static struct ps_addr party_find(struct asking *a, const struct ip *ip)
{
	struct ps_addr found = {0};
	if (ip->family == 4) {
		struct ps_key_addr4 exact = {.side = a->side, .addr = ip_v4(ip)};
		struct ps_key_net4 prefix = {.prefix_length = 64, .side = a->side, .addr = ip_v4(ip)};
		if (!look_table(a, TABLE_addr4, &exact, &found))
			look_table(a, TABLE_net4, &prefix, &found.class_id);
	} else {
		struct ps_key_addr6 exact = {.side = a->side};
		struct ps_key_net6 prefix = {.prefix_length = 160, .side = a->side};
		memcpy(exact.addr, ip->bytes, sizeof(exact.addr));
		memcpy(prefix.addr, ip->bytes, sizeof(prefix.addr));
		if (!look_table(a, TABLE_addr6, &exact, &found))
			look_table(a, TABLE_net6, &prefix, &found.class_id);
	}
	return found;
}

static uint32_t port_class(struct asking *a, uint16_t port)
{
	static const uint8_t protocols[PS_PORT_PROTO_COUNT] = {IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP};
	struct ps_port_block block;
	for (uint32_t i = 0; i < PS_PORT_PROTO_COUNT; i++)
		if (protocols[i] == a->query->protocol && look_array(a, TABLE_port, i * 256 + (port >> 8), &block))
			return block.port_class[port & 255];
	return PS_PORT_CLASS_NONE;
}

/* verdict_find: the peer's row or the profile's own; the port's cell or the row's own. */
static void verdict_find(struct asking *a, enum ps_direction direction, uint16_t port, struct explain_side *side)
{
	struct ps_key_row peer = {
		.side = a->side, .profile = side->profile, .class_id = side->class_id, .direction = direction};
	struct ps_profile profile;
	side->verdict = (struct ps_verdict){.action = PS_ACTION_ALLOW, .reason = PS_REASON_DEFAULT};
	if (side->profile == PS_PROFILE_NONE)
		return;
	side->verdict.action = PS_ACTION_DENY;
	side->peer_row = look_table(a, TABLE_peer_row, &peer, &side->row);
	if (!side->peer_row) {
		if (!look_array(a, TABLE_profile, side->profile, &profile))
			return;
		side->row = profile.default_row[direction];
	}
	side->port_class = port_class(a, port);
	struct ps_key_cell cell = {.side = a->side, .row = side->row, .port_class = side->port_class};
	side->cell = side->port_class != PS_PORT_CLASS_NONE && look_table(a, TABLE_cell, &cell, &side->verdict);
	if (!side->cell)
		look_array(a, TABLE_row, side->row, &side->verdict);
}

static bool node_has(const struct ip *ip)
{
	struct ifaddrs *all, *at;
	bool found = false;
	if (getifaddrs(&all) < 0)
		return false;
	for (at = all; at && !found; at = at->ifa_next) {
		struct ip own = {0};
		if (at->ifa_addr && at->ifa_addr->sa_family == AF_INET)
			own = ip_from_v4(((struct sockaddr_in *)(void *)at->ifa_addr)->sin_addr.s_addr);
		else if (at->ifa_addr && at->ifa_addr->sa_family == AF_INET6)
			own = ip_from_v6(((struct sockaddr_in6 *)(void *)at->ifa_addr)->sin6_addr.s6_addr);
		found = own.family && ip_equal(&own, ip);
	}
	freeifaddrs(all);
	return found;
}

static enum ps_action enforced(const struct explain_side *side)
{
	return side->local ? (enum ps_action)side->verdict.action : PS_ACTION_ALLOW;
}

/*
 * 1 what policy denies in either direction is not handed over
 * 2 egress rules of a local source
 * 3 ingress rules of a local destination, when none of 2 matched; not for the node itself, and of steered addresses
 * only
 */
static void answer_conclude(struct explain_answer *answer, bool steered)
{
	enum ps_action out = enforced(&answer->egress), in = enforced(&answer->ingress);
	answer->action = PS_ACTION_ALLOW;
	if (out == PS_ACTION_DENY || in == PS_ACTION_DENY) { /* 1 */
		answer->action = PS_ACTION_DENY;
	} else if (out == PS_ACTION_INTERCEPT) { /* 2 */
		answer->action = PS_ACTION_INTERCEPT;
		answer->direction = PS_EGRESS;
	} else if (in == PS_ACTION_INTERCEPT && steered && !answer->node &&
			   !(answer->egress.local && answer->egress.verdict.intercept_rule)) { /* 3 */
		answer->action = PS_ACTION_INTERCEPT;
		answer->direction = PS_INGRESS;
	}
}

/* ---- Services ---- */

/* service_find: of this address and port; a node port is every node's address'. */
static bool service_find(struct asking *a, const struct ps_addr *destination, struct explain_answer *answer)
{
	const struct ip *ip = &a->query->destination;
	struct ps_key_service4 key4 = {.side = a->side, .port = a->query->port, .protocol = a->query->protocol};
	struct ps_key_service6 key6 = {.side = a->side, .port = a->query->port, .protocol = a->query->protocol};
	if (!(a->flags & PS_CONTROL_SERVICES))
		return false;
	for (int at_node = 0; at_node < 2; at_node++) {
		if (!at_node && ip->family == 4)
			key4.addr = ip_v4(ip);
		else if (!at_node)
			memcpy(key6.addr, ip->bytes, sizeof(key6.addr));
		else
			key4.addr = 0;
		if (at_node)
			memset(key6.addr, 0, sizeof(key6.addr));
		bool found = ip->family == 4 ? look_table(a, TABLE_service4, &key4, &answer->kinds)
									 : look_table(a, TABLE_service6, &key6, &answer->kinds);
		if (!found)
			continue;
		answer->node_port = at_node;
		return !at_node || destination->flags & PS_ADDR_NODE || node_has(ip);
	}
	return false;
}

/* What policy says of the kinds of backends, put together: struct opinions of bpf/service.h. */
struct opinions {
	struct explain_side allowed, refused; /* the first of each */
	bool allows, refuses, stuck, parted;
};

static void opinion_add(struct opinions *all, const struct explain_side *side, uint16_t flags)
{
	const struct ps_verdict *verdict = &side->verdict, *first = &all->allowed.verdict;
	if (verdict->action == PS_ACTION_DENY) {
		if (!all->refuses)
			all->refused = *side;
		all->refuses = true;
		all->stuck |= flags & PS_BACKEND_NODE;
		return;
	}
	if (!all->allows)
		all->allowed = *side;
	else if (first->proxy != verdict->proxy ||
			 (first->intercept_rule == PS_RULE_NONE) != (verdict->intercept_rule == PS_RULE_NONE))
		all->parted = true;
	all->allows = true;
}

/* The Service's own address is asked first, then its backends; `own` is of the first. */
static void verdict_steer(struct ps_verdict *ret, const struct ps_verdict *own, bool parted)
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

/* Would a proxy take it, if all backends were allowed? */
static bool verdict_wants(const struct opinions *all, const struct ps_verdict *own)
{
	if (own->intercept_rule != PS_RULE_NONE)
		return own->proxy != PS_PROXY_NONE;
	return all->allows && !all->parted && all->allowed.verdict.action == PS_ACTION_INTERCEPT;
}

static void service_ask(struct asking *a, const struct ps_service *service, uint32_t profile, struct opinions *ret)
{
	struct explain_side side = {.local = true, .profile = profile};
	*ret = (struct opinions){.allowed = side, .refused = side};
	ret->allowed.verdict.reason = PS_REASON_DEFAULT;
	ret->refused.verdict.action = PS_ACTION_DENY; /* where none is known to be refused, but some may be */
	ret->refused.verdict.reason = PS_REASON_POLICY;
	for (uint32_t i = 0; i < PS_BACKENDS_MAX && i < service->count; i++) {
		side.class_id = service->backend[i].class_id;
		verdict_find(a, PS_EGRESS, service->backend[i].port, &side);
		opinion_add(ret, &side, service->backend[i].flags);
	}
}

/* service_judge, of a connection's first packet. */
static void service_judge(struct asking *a, struct explain_answer *answer)
{
	const struct ps_service *service = &answer->kinds;
	const struct ps_verdict own = answer->egress.verdict;
	struct opinions all;
	service_ask(a, service, answer->egress.profile, &all);
	answer->wanted = verdict_wants(&all, &own);
	bool nobody = !service->count && !answer->wanted;
	bool unsure = nobody || service->flags & PS_SERVICE_MORE || (all.allows && all.refuses);
	if (all.stuck || (all.refuses && !unsure) || (unsure && answer->wanted)) {
		answer->egress = all.refused;
	} else if (unsure && a->datapath->loaded.tuples) {
		answer->pending = true;
		answer->egress.verdict = (struct ps_verdict){.action = PS_ACTION_ALLOW, .reason = PS_REASON_DEFAULT};
		answer->egress.verdict.intercept_rule = own.intercept_rule ? own.intercept_rule
												: all.parted       ? PS_RULE_NONE
																   : all.allowed.verdict.intercept_rule;
	} else if (unsure && !nobody) {
		answer->egress = all.refused;
	} else if (!nobody) {
		verdict_steer(&all.allowed.verdict, &own, all.parted);
		answer->egress = all.allowed;
	}
}

static void ingress_find(
	struct asking *a, const struct explain_answer *answer, uint16_t port, struct explain_side *ingress)
{
	if (ingress->local && answer->node)
		ingress->verdict = (struct ps_verdict){.action = PS_ACTION_ALLOW, .reason = PS_REASON_NODE};
	else if (ingress->local)
		verdict_find(a, PS_INGRESS, port, ingress);
}

static void target_read(
	struct asking *a, const struct explain_answer *answer, uint32_t source_class, struct explain_target *target)
{
	struct ps_addr party = party_find(a, &target->ip);
	target->node = node_has(&target->ip);
	target->egress = (struct explain_side){
		.local = answer->egress.local, .profile = answer->egress.profile, .class_id = party.class_id};
	target->ingress =
		(struct explain_side){.local = party.flags & PS_ADDR_LOCAL, .profile = party.profile, .class_id = source_class};
	if (target->egress.local)
		verdict_find(a, PS_EGRESS, target->port, &target->egress);
	ingress_find(a, answer, target->port, &target->ingress);
	target->steered = enforced(&target->ingress) == PS_ACTION_INTERCEPT && party.flags & PS_ADDR_STEERED &&
					  !answer->node && a->datapath->loaded.tuples;
	if (target->steered && target->ingress.verdict.proxy != PS_PROXY_NONE)
		look_array(a, TABLE_proxy, target->ingress.verdict.proxy, &target->proxy);
}

/* ---- all together ---- */

static void answer_read(struct asking *a, struct explain_answer *answer)
{
	const struct explain_query *q = a->query;
	struct ps_addr source = party_find(a, &q->source), destination = party_find(a, &q->destination);
	answer->egress = (struct explain_side){
		.local = source.flags & PS_ADDR_LOCAL, .profile = source.profile, .class_id = destination.class_id};
	answer->ingress = (struct explain_side){
		.local = destination.flags & PS_ADDR_LOCAL, .profile = destination.profile, .class_id = source.class_id};
	answer->node = a->datapath->options.allow_local_host && source.endpoint == PS_ENDPOINT_NONE && node_has(&q->source);
	answer->service = service_find(a, &destination, answer);
	if (answer->egress.local) {
		verdict_find(a, PS_EGRESS, q->port, &answer->egress);
		if (answer->service)
			service_judge(a, answer);
	}
	ingress_find(a, answer, q->port, &answer->ingress);
	for (size_t i = 0; i < q->target_count; i++)
		target_read(a, answer, source.class_id, &q->targets[i]);
	answer_conclude(answer, destination.flags & PS_ADDR_STEERED);
	if (answer->action != PS_ACTION_INTERCEPT)
		return;
	const struct explain_side *side = answer->direction == PS_EGRESS ? &answer->egress : &answer->ingress;
	if (side->verdict.proxy != PS_PROXY_NONE)
		look_array(a, TABLE_proxy, side->verdict.proxy, &answer->proxy);
}

static uint32_t generation_read(struct asking *a)
{
	struct ps_control control = {0};
	uint32_t zero = 0;
	look(a, a->datapath->loaded.other[OTHER_CONTROL], &zero, &control);
	a->flags = control.flags;
	return control.generation;
}

int datapath_explain(
	const struct datapath *datapath, const struct explain_query *query, struct explain_answer *ret, struct error *e)
{
	if (!datapath)
		return error_set(e, ERROR_BUSY, EAGAIN, NULL, "there is no data path yet");
	for (int i = 0; i < TRIES; i++) {
		struct asking a = {.datapath = datapath, .query = query};
		struct explain_answer answer = {.generation = generation_read(&a)};
		struct ps_side held = {0};
		a.side = answer.generation & 1;
		look(&a, datapath->loaded.other[OTHER_SIDE], &a.side, &held);
		answer.revision = held.revision;
		answer_read(&a, &answer);
		/* A side that was live at both ends was live, and so not written to, all the time in between. */
		bool same = generation_read(&a) == answer.generation;
		if (a.error)
			return error_system(e, -a.error, "the kernel's tables cannot be read");
		if (!same)
			continue;
		*ret = answer;
		return 0;
	}
	return error_set(e, ERROR_BUSY, EAGAIN, NULL, "the tables change faster than they can be read");
}
