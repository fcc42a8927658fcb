/* SPDX-License-Identifier: Apache-2.0 */
/* Every policy kind into the one shape. */
#include <string.h>

#include "agent/base/mem.h"
#include "agent/model/content.h"
#include "agent/model/selector.h"

static struct selector *selector_optional(const json_t *object, const char *field)
{
	const json_t *json = json_object_get(object, field);
	return json ? selector_from_json(json) : NULL;
}

static char **strings_read(const json_t *array)
{
	if (!array)
		return NULL;
	char **list = mem_array(json_array_size(array) + 1, sizeof(*list));
	size_t i;
	json_t *value;
	json_array_foreach(array, i, value)
	{
		list[i] = str_dup(json_string_value(value));
	}
	return list;
}

static struct peer *peer_add(struct rule *rule, enum peer_type type)
{
	rule->peers = mem_resize(rule->peers, rule->peer_count + 1, sizeof(*rule->peers));
	struct peer *peer = &rule->peers[rule->peer_count++];
	*peer = (struct peer){.type = type};
	return peer;
}

static struct port_match *port_add(struct rule *rule, uint8_t protocol, long long first, long long last)
{
	rule->ports = mem_resize(rule->ports, rule->port_count + 1, sizeof(*rule->ports));
	struct port_match *port = &rule->ports[rule->port_count++];
	*port = (struct port_match){.protocol = protocol, .first = (uint16_t)first, .last = (uint16_t)last};
	return port;
}

/* ---- NetworkPolicy ---- */

static void np_peer_read(struct rule *rule, const json_t *json)
{
	const json_t *block = json_object_get(json, "ipBlock"), *pods = json_object_get(json, "podSelector");
	if (!block) {
		struct peer *peer = peer_add(rule, pods ? PEER_PODS : PEER_NAMESPACES);
		peer->namespaces = selector_optional(json, "namespaceSelector");
		peer->pods = selector_optional(json, "podSelector");
		return;
	}
	struct peer *peer = peer_add(rule, PEER_NETWORK);
	const json_t *except = json_object_get(block, "except");
	cidr_parse(json_string_value(json_object_get(block, "cidr")), &peer->cidr);
	if (json_array_size(except))
		peer->except = mem_array(json_array_size(except), sizeof(*peer->except));
	size_t i;
	json_t *value;
	json_array_foreach(except, i, value)
	{
		cidr_parse(json_string_value(value), &peer->except[peer->except_count++]);
	}
}

static void np_port_read(struct rule *rule, const json_t *json)
{
	const char *text = json_string_value(json_object_get(json, "protocol"));
	uint8_t protocol = !text || !strcmp(text, "TCP") ? PROTOCOL_TCP
					   : !strcmp(text, "UDP")        ? PROTOCOL_UDP
													 : PROTOCOL_SCTP;
	const json_t *port = json_object_get(json, "port"), *end = json_object_get(json, "endPort");
	if (!port) {
		port_add(rule, protocol, 0, UINT16_MAX);
	} else if (json_is_string(port)) {
		port_add(rule, protocol, 0, 0)->name = str_dup(json_string_value(port));
	} else {
		long long first = json_integer_value(port);
		port_add(rule, protocol, first, end ? json_integer_value(end) : first);
	}
}

static void np_rule_read(struct rule *rule, const json_t *json, enum direction direction)
{
	const json_t *peers = json_object_get(json, direction == EGRESS ? "to" : "from");
	const json_t *ports = json_object_get(json, "ports");
	size_t i;
	json_t *value;
	rule->name = str_dup("");
	rule->action = RULE_ALLOW;
	rule->any_peer = !json_array_size(peers);
	rule->any_port = !json_array_size(ports);
	json_array_foreach(peers, i, value)
	{
		np_peer_read(rule, value);
	}
	json_array_foreach(ports, i, value)
	{
		np_port_read(rule, value);
	}
}

/* SetDefaults_NetworkPolicy of Kubernetes. */
static void np_isolates(struct policy *policy, const json_t *spec)
{
	const json_t *types = json_object_get(spec, "policyTypes");
	size_t i;
	json_t *type;
	json_array_foreach(types, i, type)
	{
		policy->isolates[strcmp(json_string_value(type), "Egress") ? INGRESS : EGRESS] = true;
	}
	if (json_array_size(types))
		return;
	policy->isolates[INGRESS] = true;
	policy->isolates[EGRESS] = json_array_size(json_object_get(spec, "egress"));
}

static void np_read(struct policy *policy, const json_t *spec)
{
	policy->pods = selector_from_json(json_object_get(spec, "podSelector"));
	np_isolates(policy, spec);
	for (int d = 0; d < DIRECTIONS; d++) {
		const json_t *rules = json_object_get(spec, d == EGRESS ? "egress" : "ingress");
		size_t i, count = json_array_size(rules);
		/* Rules of a direction that policyTypes leaves out mean nothing. */
		if (!count || !policy->isolates[d])
			continue;
		policy->rules[d] = mem_array(count, sizeof(*policy->rules[d]));
		policy->rule_count[d] = count;
		for (i = 0; i < count; i++)
			np_rule_read(&policy->rules[d][i], json_array_get(rules, i), d);
	}
}

/* ---- ClusterNetworkPolicy's shape ---- */

/* {"namespaceSelector", "podSelector"}: an absent one selects everything. */
static void namespaced_pod_read(const json_t *json, struct selector **namespaces, struct selector **pods)
{
	*namespaces = selector_from_json(json_object_get(json, "namespaceSelector"));
	*pods = selector_from_json(json_object_get(json, "podSelector"));
}

static void cluster_peer_read(struct rule *rule, const json_t *json)
{
	const json_t *value;
	if ((value = json_object_get(json, "namespaces"))) {
		peer_add(rule, PEER_NAMESPACES)->namespaces = selector_from_json(value);
	} else if ((value = json_object_get(json, "pods"))) {
		struct peer *peer = peer_add(rule, PEER_PODS);
		namespaced_pod_read(value, &peer->namespaces, &peer->pods);
	} else if ((value = json_object_get(json, "nodes"))) {
		peer_add(rule, PEER_NODES)->nodes = selector_from_json(value);
	} else if ((value = json_object_get(json, "networks"))) {
		for (size_t i = 0; i < json_array_size(value); i++)
			cidr_parse(json_string_value(json_array_get(value, i)), &peer_add(rule, PEER_NETWORK)->cidr);
	} else if ((value = json_object_get(json, "cidrSet"))) {
		peer_add(rule, PEER_CIDR_SET)->name = str_dup(json_string_value(value));
	} else if ((value = json_object_get(json, "domainNames"))) {
		peer_add(rule, PEER_DOMAINS)->domains = strings_read(value);
	} else {
		peer_add(rule, PEER_UNKNOWN);
	}
}

static void transport_read(struct rule *rule, uint8_t protocol, const json_t *json)
{
	const json_t *port = json_object_get(json, "destinationPort"), *range = json_object_get(port, "range");
	if (!port) {
		port_add(rule, protocol, 0, UINT16_MAX);
	} else if (range) {
		port_add(rule, protocol, json_integer_value(json_object_get(range, "start")),
			json_integer_value(json_object_get(range, "end")));
	} else {
		long long number = json_integer_value(json_object_get(port, "number"));
		port_add(rule, protocol, number, number);
	}
}

static void protocol_read(struct rule *rule, const json_t *json)
{
	const json_t *value;
	if ((value = json_object_get(json, "tcp")))
		transport_read(rule, PROTOCOL_TCP, value);
	else if ((value = json_object_get(json, "udp")))
		transport_read(rule, PROTOCOL_UDP, value);
	else if ((value = json_object_get(json, "sctp")))
		transport_read(rule, PROTOCOL_SCTP, value);
	else
		port_add(rule, PROTOCOL_ANY, 0, 0)->name =
			str_dup(json_string_value(json_object_get(json, "destinationNamedPort")));
}

static enum rule_action action_read(const char *text)
{
	static const struct {
		const char *text;
		enum rule_action action;
	} actions[] = {{"Accept", RULE_ALLOW}, {"Deny", RULE_DENY}, {"Pass", RULE_PASS}, {"Intercept", RULE_INTERCEPT},
		{"Bypass", RULE_BYPASS}, {"Limit", RULE_LIMIT}};
	for (size_t i = 0; i < sizeof(actions) / sizeof(*actions); i++)
		if (!strcmp(actions[i].text, text))
			return actions[i].action;
	return RULE_DENY;
}

static void limit_read(struct rule *rule, const json_t *limit)
{
	const json_t *burst = json_object_get(limit, "burst");
	rule->limit.packets_per_second = (uint32_t)json_integer_value(json_object_get(limit, "packetsPerSecond"));
	rule->limit.burst = burst ? (uint32_t)json_integer_value(burst) : rule->limit.packets_per_second;
	rule->limit.per_source = !strcmp(json_string_value(json_object_get(limit, "per")), "Source");
}

static void cluster_rule_read(struct rule *rule, const json_t *json, enum direction direction)
{
	const char *name = json_string_value(json_object_get(json, "name"));
	const char *proxy = json_string_value(json_object_get(json, "proxy"));
	const json_t *protocols = json_object_get(json, "protocols");
	size_t i;
	json_t *value;
	rule->name = str_dup(name ? name : "");
	rule->action = action_read(json_string_value(json_object_get(json, "action")));
	rule->proxy = str_dup(proxy);
	rule->any_port = !protocols;
	json_array_foreach(json_object_get(json, direction == EGRESS ? "to" : "from"), i, value)
	{
		cluster_peer_read(rule, value);
	}
	json_array_foreach(protocols, i, value)
	{
		protocol_read(rule, value);
	}
	if (json_object_get(json, "limit"))
		limit_read(rule, json_object_get(json, "limit"));
}

static void cluster_read(struct policy *policy, const json_t *spec)
{
	const json_t *subject = json_object_get(spec, "subject"), *pods = json_object_get(subject, "pods");
	const char *tier = json_string_value(json_object_get(spec, "tier"));
	policy->namespaces = selector_optional(subject, "namespaces");
	if (pods)
		namespaced_pod_read(pods, &policy->namespaces, &policy->pods);
	policy->cgroup = str_dup(json_string_value(json_object_get(subject, "cgroup")));
	policy->interfaces = strings_read(json_object_get(spec, "interfaces"));
	policy->tier = tier && !strcmp(tier, "Baseline");
	policy->priority = (int)json_integer_value(json_object_get(spec, "priority"));
	for (int d = 0; d < DIRECTIONS; d++) {
		const json_t *rules = json_object_get(spec, d == EGRESS ? "egress" : "ingress");
		size_t count = json_array_size(rules);
		if (!count)
			continue;
		policy->rules[d] = mem_array(count, sizeof(*policy->rules[d]));
		policy->rule_count[d] = count;
		for (size_t i = 0; i < count; i++)
			cluster_rule_read(&policy->rules[d][i], json_array_get(rules, i), d);
	}
}

struct policy *policy_read(enum kind kind, const json_t *spec)
{
	struct policy *policy = mem_alloc(sizeof(*policy));
	if (kind == KIND_NETWORK_POLICY)
		np_read(policy, spec);
	else
		cluster_read(policy, spec);
	return policy;
}
