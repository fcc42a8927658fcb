/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/observe/matching.h"

#include <stdlib.h>
#include <string.h>
#include "agent/base/mem.h"

#define LABEL_SPACE_NAME "kubernetes.io/metadata.name"

/* ---- whose address ---- */

static const struct ip *object_ips(const struct object *object, size_t *count)
{
	if (object->kind == KIND_NODE) {
		*count = object->node->ip_count;
		return object->node->ips;
	}
	*count = object->workload->host_network || object->workload->ended ? 0 : object->workload->ip_count;
	return object->workload->ips;
}

static bool object_has(const struct object *object, const struct ip *ip)
{
	size_t count;
	const struct ip *ips = object_ips(object, &count);
	for (size_t i = 0; i < count; i++)
		if (ip_equal(&ips[i], ip))
			return true;
	return false;
}

const struct object *address_owner(const struct snapshot *snapshot, const struct ip *ip)
{
	static const enum kind kinds_by_rank[] = {KIND_WORKLOAD, KIND_POD, KIND_NODE};
	const struct object *owner = NULL;
	for (size_t i = 0; !owner && i < sizeof(kinds_by_rank) / sizeof(*kinds_by_rank); i++) {
		size_t at, end;
		for (snapshot_range(snapshot, kinds_by_rank[i], NULL, &at, &end); at < end; at++) {
			const struct object *object = snapshot->objects[at];
			if ((!owner || object->created > owner->created) && object_has(object, ip))
				owner = object;
		}
	}
	return owner;
}

/* ---- selectors ---- */

/* The namespace's labels with the one that every namespace has, whatever its object says that one is. */
static bool namespace_matches(const struct snapshot *snapshot, const struct selector *selector, const char *name)
{
	const struct object *object = snapshot_find(snapshot, KIND_NAMESPACE, "", name);
	size_t count = object ? object->labels.count : 0, kept = 0;
	struct label own = {(char *)(uintptr_t)LABEL_SPACE_NAME, (char *)(uintptr_t)name};
	struct labels labels = {mem_array(count + 1, sizeof(struct label)), 0};
	bool placed = false;
	for (size_t i = 0; i < count; i++) {
		int order = strcmp(object->labels.list[i].key, LABEL_SPACE_NAME);
		if (order >= 0 && !placed) {
			labels.list[kept++] = own;
			placed = true;
		}
		if (order)
			labels.list[kept++] = object->labels.list[i];
	}
	if (!placed)
		labels.list[kept++] = own;
	labels.count = kept;
	bool matches = selector_matches(selector, &labels);
	free(labels.list);
	return matches;
}

static bool pods_match(const struct matching *q, const struct object *policy, const struct selector *namespaces,
	const struct selector *pods, const struct object *object)
{
	if (!object || object->kind == KIND_NODE)
		return false;
	if (namespaces ? !namespace_matches(q->snapshot, namespaces, object->namespace)
				   : *policy->namespace && strcmp(policy->namespace, object->namespace) != 0)
		return false;
	return !pods || selector_matches(pods, &object->labels);
}

static bool policy_selects(const struct matching *q, const struct object *policy)
{
	const struct policy *spec = policy->policy;
	return !spec->cgroup && pods_match(q, policy, spec->namespaces, spec->pods, q->subject.object);
}

/* ---- peers and ports ---- */

static bool network_matches(const struct peer *peer, const struct ip *ip)
{
	if (!cidr_contains_ip(&peer->cidr, ip))
		return false;
	for (size_t i = 0; i < peer->except_count; i++)
		if (cidr_contains_ip(&peer->except[i], ip))
			return false;
	return true;
}

static bool peer_matches(const struct matching *q, const struct object *policy, const struct peer *peer)
{
	const struct object *object = q->peer.object;
	switch (peer->type) {
	case PEER_PODS:
	case PEER_NAMESPACES:
		return pods_match(q, policy, peer->namespaces, peer->pods, object);
	case PEER_NODES:
		return object && object->kind == KIND_NODE && (!peer->nodes || selector_matches(peer->nodes, &object->labels));
	case PEER_NETWORK:
		return network_matches(peer, &q->peer.ip);
	default:
		return false;
	}
}

static bool port_named(const struct matching *q, const struct port_match *match)
{
	const struct object *object = q->direction == EGRESS ? q->peer.object : q->subject.object;
	size_t count = object && object->kind != KIND_NODE ? object->workload->port_count : 0;
	for (size_t i = 0; i < count; i++) {
		const struct named_port *port = &object->workload->ports[i];
		if (port->name && *port->name && strcmp(port->name, match->name) == 0 && port->port == q->port &&
			port->protocol == q->protocol)
			return true;
	}
	return false;
}

static bool port_matches(const struct matching *q, const struct port_match *match)
{
	if (match->protocol != PROTOCOL_ANY && match->protocol != q->protocol)
		return false;
	if (match->name)
		return port_named(q, match);
	return match->first <= q->port && q->port <= match->last;
}

/* A proxy that there is none of takes TCP: such a rule is one whose proxy is unavailable. */
static bool proxy_takes(const struct matching *q, const char *name)
{
	const struct object *object = snapshot_find(q->snapshot, KIND_TRANSPARENT_PROXY, "", name);
	if (q->protocol == PROTOCOL_TCP)
		return !object || object->proxy->tcp;
	return q->protocol == PROTOCOL_UDP && object && object->proxy->udp;
}

/* Where the rule names no protocol it is about those of its proxy; one that it names it is about in any case. */
static bool intercept_port_matches(const struct matching *q, const struct rule *rule)
{
	bool taken = proxy_takes(q, rule->proxy);
	for (size_t i = 0; i < rule->port_count; i++)
		if (port_matches(q, &rule->ports[i]) && (taken || rule->ports[i].protocol != PROTOCOL_ANY))
			return true;
	return rule->any_port && taken;
}

/* *action is another one than the rule's where that fails closed: Deny and Pass with an unknown peer deny everything.
 */
static bool rule_matches(
	const struct matching *q, const struct object *policy, const struct rule *rule, enum rule_action *action)
{
	bool peer = rule->any_peer, port = rule->any_port;
	*action = rule->action;
	for (size_t i = 0; i < rule->peer_count; i++)
		if (rule->peers[i].type == PEER_UNKNOWN) {
			*action = RULE_DENY;
			return rule->action == RULE_DENY || rule->action == RULE_PASS;
		}
	for (size_t i = 0; !peer && i < rule->peer_count; i++)
		peer = peer_matches(q, policy, &rule->peers[i]);
	if (peer && rule->action == RULE_INTERCEPT)
		return intercept_port_matches(q, rule);
	for (size_t i = 0; peer && !port && i < rule->port_count; i++)
		port = port_matches(q, &rule->ports[i]);
	return peer && port;
}

/* ---- in their order ---- */

struct matches {
	struct matched *list;
	size_t count, room;
};

static void matches_add(struct matches *matches, struct matched matched)
{
	if (matches->count == matches->room) {
		matches->room = matches->room ? 2 * matches->room : 16;
		matches->list = mem_resize(matches->list, matches->room, sizeof(*matches->list));
	}
	matches->list[matches->count++] = matched;
}

static enum matched_stage stage_of(const struct object *policy)
{
	switch (policy->kind) {
	case KIND_NETWORK_POLICY:
		return MATCHED_NETWORK_POLICY;
	case KIND_CLUSTER_NETWORK_POLICY:
		return policy->policy->tier ? MATCHED_BASELINE : MATCHED_ADMIN;
	default:
		return MATCHED_INTERCEPT;
	}
}

static void policy_match(const struct matching *q, const struct object *policy, struct matches *ret)
{
	const struct policy *spec = policy->policy;
	struct matched matched = {.policy = policy, .stage = stage_of(policy), .direction = q->direction};
	bool isolates = spec->isolates[q->direction];
	if (policy->audit || (policy->kind == KIND_NETWORK_POLICY && !isolates) || !policy_selects(q, policy))
		return;
	for (size_t i = 0; i < spec->rule_count[q->direction]; i++)
		if (rule_matches(q, policy, &spec->rules[q->direction][i], &matched.action)) {
			matched.index = (int)i;
			matches_add(ret, matched);
		}
	if (policy->kind != KIND_NETWORK_POLICY)
		return;
	matched.index = -1;
	matched.action = RULE_DENY;
	matches_add(ret, matched);
}

static int matched_order(const void *left, const void *right)
{
	const struct matched *a = left, *b = right;
	int order;
	if (a->stage != b->stage)
		return a->stage < b->stage ? -1 : 1;
	if ((a->index < 0) != (b->index < 0))
		return a->index < 0 ? 1 : -1;
	if (a->policy->policy->priority != b->policy->policy->priority)
		return a->policy->policy->priority < b->policy->policy->priority ? -1 : 1;
	if ((order = strcmp(a->policy->namespace, b->policy->namespace)) ||
		(order = strcmp(a->policy->name, b->policy->name)))
		return order;
	return (a->index > b->index) - (a->index < b->index);
}

/*
 * 1 in each tier, and among NetworkPolicies, the first decides; so does the isolation behind them
 * 2 Pass leads to the next stage, past the rest of its tier
 * 3 InterceptPolicies are asked about what is allowed; the first decides
 */
static void decisions_mark(struct matched *list, size_t count)
{
	bool decided = false, denied = false, taken = false;
	int passed = -1;
	for (size_t i = 0; i < count; i++) {
		struct matched *matched = &list[i];
		if (matched->stage == MATCHED_INTERCEPT) { /* 3 */
			matched->decides = !denied && !taken;
			taken = true;
		} else if (!decided && (int)matched->stage != passed) {
			matched->decides = true;
			if (matched->action == RULE_PASS) /* 2 */
				passed = matched->stage;
			else /* 1 */
				decided = true;
			denied = matched->action == RULE_DENY;
		}
	}
}

size_t matching_rules(const struct matching *question, struct matched **ret)
{
	static const enum kind policies[] = {KIND_NETWORK_POLICY, KIND_CLUSTER_NETWORK_POLICY, KIND_INTERCEPT_POLICY};
	struct matches matches = {0};
	for (size_t i = 0; i < sizeof(policies) / sizeof(*policies); i++) {
		const char *namespace =
			policies[i] == KIND_NETWORK_POLICY && question->subject.object ? question->subject.object->namespace : NULL;
		size_t at, end;
		for (snapshot_range(question->snapshot, policies[i], namespace, &at, &end); at < end; at++)
			policy_match(question, question->snapshot->objects[at], &matches);
	}
	if (matches.count)
		qsort(matches.list, matches.count, sizeof(*matches.list), matched_order);
	decisions_mark(matches.list, matches.count);
	*ret = matches.list;
	return matches.count;
}

const char *matched_rule_name(const struct matched *matched)
{
	return matched->index < 0 ? "" : matched->policy->policy->rules[matched->direction][matched->index].name;
}

const char *matched_action(const struct matched *matched)
{
	switch (matched->action) {
	case RULE_ALLOW:
		return matched->policy->kind == KIND_NETWORK_POLICY ? "Allow" : "Accept";
	case RULE_PASS:
		return "Pass";
	case RULE_INTERCEPT:
		return "Intercept";
	case RULE_BYPASS:
		return "Bypass";
	default:
		return "Deny";
	}
}
