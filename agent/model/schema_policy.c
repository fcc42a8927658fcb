/* SPDX-License-Identifier: Apache-2.0 */
/* Every policy kind: NetworkPolicy, and those of ClusterNetworkPolicy's shape. */
#include <stdint.h>
#include <string.h>

#include "agent/model/check.h"
#include "agent/model/schema.h"

/* ---- NetworkPolicy: pkg/apis/networking/validation of Kubernetes ---- */

static void policy_port_check(struct walk *w, json_t *pruned)
{
	const json_t *port = json_object_get(pruned, "port"), *end = json_object_get(pruned, "endPort");
	if (json_is_null(end) || json_is_null(port))
		return;
	if (end && !port)
		walk_error_key(w, "endPort", "must be absent when there is no port");
	else if (end && !json_is_integer(port))
		walk_error_key(w, "endPort", "must be absent when port is a name");
	else if (end && json_integer_value(end) < json_integer_value(port))
		walk_error_key(w, "endPort", "%lld is less than port %lld", (long long)json_integer_value(end),
			(long long)json_integer_value(port));
}

static void ip_block_check(struct walk *w, json_t *pruned)
{
	struct cidr outer, inner;
	const char *text = json_string_value(json_object_get(pruned, "cidr"));
	if (!text || cidr_parse(text, &outer))
		return;
	size_t i, before = walk_key(w, "except");
	json_t *except;
	json_array_foreach(json_object_get(pruned, "except"), i, except)
	{
		text = json_string_value(except);
		if (text && !cidr_parse(text, &inner) && (!cidr_contains(&outer, &inner) || cidr_equal(&outer, &inner)))
			walk_error_index(w, i, "\"%s\" is not a strict subset of cidr", quote(text).text);
	}
	walk_leave(w, before);
}

static void policy_peer_check(struct walk *w, json_t *peer)
{
	size_t count = json_object_size(peer);
	if (!count)
		walk_error(w, "must have a podSelector, a namespaceSelector or an ipBlock");
	else if (count > 1 && json_object_get(peer, "ipBlock"))
		walk_error(w, "must not have both an ipBlock and a selector");
}

static const struct schema port_or_name = {.shape = SHAPE_PORT};
static const struct field policy_port_fields[] = {
	OPTIONAL("protocol", &protocol_word), OPTIONAL("port", &port_or_name), OPTIONAL("endPort", &port_number), {0}};
static const struct schema policy_port = {SHAPE_OBJECT, .fields = policy_port_fields, .check = policy_port_check};
static const struct schema policy_ports = {SHAPE_ARRAY, .items = &policy_port};
static const struct field ip_block_fields[] = {REQUIRED("cidr", &cidr_text), OPTIONAL("except", &cidr_list), {0}};
static const struct schema ip_block = {SHAPE_OBJECT, .fields = ip_block_fields, .check = ip_block_check};
static const struct field policy_peer_fields[] = {OPTIONAL("podSelector", &selector_schema),
	OPTIONAL("namespaceSelector", &selector_schema), OPTIONAL("ipBlock", &ip_block), {0}};
static const struct schema policy_peer = {SHAPE_OBJECT, .fields = policy_peer_fields, .check = policy_peer_check};
static const struct schema policy_peers = {SHAPE_ARRAY, .items = &policy_peer};
static const struct field policy_ingress_fields[] = {
	OPTIONAL("ports", &policy_ports), OPTIONAL("from", &policy_peers), {0}};
static const struct field policy_egress_fields[] = {
	OPTIONAL("ports", &policy_ports), OPTIONAL("to", &policy_peers), {0}};
static const struct schema policy_ingress = {SHAPE_OBJECT, .fields = policy_ingress_fields};
static const struct schema policy_egress = {SHAPE_OBJECT, .fields = policy_egress_fields};
static const struct schema policy_ingresses = {SHAPE_ARRAY, .items = &policy_ingress};
static const struct schema policy_egresses = {SHAPE_ARRAY, .items = &policy_egress};
static const struct schema policy_type = {SHAPE_STRING, .words = WORDS("Ingress", "Egress")};
static const struct schema policy_types = {SHAPE_ARRAY, .items = &policy_type, .items_max = 2};
static const struct field policy_spec_fields[] = {OPTIONAL("podSelector", &selector_schema),
	OPTIONAL("policyTypes", &policy_types), OPTIONAL("ingress", &policy_ingresses),
	OPTIONAL("egress", &policy_egresses), {0}};
static const struct schema policy_spec = {SHAPE_OBJECT, .fields = policy_spec_fields};
static const struct field policy_fields[] = {OBJECT_FIELDS, OPTIONAL("spec", &policy_spec), {0}};
const struct schema network_policy_schema = {SHAPE_OBJECT, .fields = policy_fields};

/* ---- ClusterNetworkPolicy's shapes: apis/v1alpha2 of kubernetes-sigs/network-policy-api ---- */

static void one_of(struct walk *w, const json_t *pruned, const struct field *fields)
{
	if (json_object_size(pruned) == 1)
		return;
	char list[256] = "";
	for (const struct field *field = fields; field->name; field++) {
		if (*list)
			strncat(list, ", ", sizeof(list) - strlen(list) - 1);
		strncat(list, field->name, sizeof(list) - strlen(list) - 1);
	}
	walk_error(w, "must have exactly one of %s", list);
}

static const struct field namespaced_pod_fields[] = {
	OPTIONAL("namespaceSelector", &selector_schema), OPTIONAL("podSelector", &selector_schema), {0}};
static const struct schema namespaced_pod = {SHAPE_OBJECT, .fields = namespaced_pod_fields};

static const struct field subject_fields[] = {
	OPTIONAL("namespaces", &selector_schema), OPTIONAL("pods", &namespaced_pod), {0}};
static void subject_check(struct walk *w, json_t *pruned)
{
	one_of(w, pruned, subject_fields);
}
static const struct schema subject = {SHAPE_OBJECT, .fields = subject_fields, .check = subject_check};

static const struct schema cgroup = {SHAPE_STRING, .wrong = cgroup_subject_wrong};
static const struct field process_subject_fields[] = {
	OPTIONAL("namespaces", &selector_schema), OPTIONAL("pods", &namespaced_pod), OPTIONAL("cgroup", &cgroup), {0}};
static void process_subject_check(struct walk *w, json_t *pruned)
{
	one_of(w, pruned, process_subject_fields);
}
static const struct schema process_subject = {
	SHAPE_OBJECT, .fields = process_subject_fields, .check = process_subject_check};

static const struct field range_fields[] = {REQUIRED("start", &port_number), REQUIRED("end", &port_number), {0}};
static void range_check(struct walk *w, json_t *pruned)
{
	const json_t *start = json_object_get(pruned, "start"), *end = json_object_get(pruned, "end");
	if (json_is_integer(start) && json_is_integer(end) && json_integer_value(start) >= json_integer_value(end))
		walk_error_key(w, "end", "%lld is not greater than start %lld", (long long)json_integer_value(end),
			(long long)json_integer_value(start));
}
static const struct schema range = {SHAPE_OBJECT, .fields = range_fields, .check = range_check};

static const struct field port_fields[] = {OPTIONAL("number", &port_number), OPTIONAL("range", &range), {0}};
static void port_check(struct walk *w, json_t *pruned)
{
	one_of(w, pruned, port_fields);
}
static const struct schema port = {SHAPE_OBJECT, .fields = port_fields, .check = port_check};

static const struct field transport_fields[] = {OPTIONAL("destinationPort", &port), {0}};
static const struct schema transport = {SHAPE_OBJECT, .fields = transport_fields};
static const struct schema named_port = {SHAPE_STRING, .empty_absent = true, .wrong = port_name_wrong};
static const struct field protocol_fields[] = {OPTIONAL("tcp", &transport), OPTIONAL("udp", &transport),
	OPTIONAL("sctp", &transport), OPTIONAL("destinationNamedPort", &named_port), {0}};
static void protocol_check(struct walk *w, json_t *pruned)
{
	one_of(w, pruned, protocol_fields);
}
static const struct schema protocol = {SHAPE_OBJECT, .fields = protocol_fields, .check = protocol_check};
static const struct schema protocols = {SHAPE_ARRAY, .items = &protocol, .items_min = 1};
static const struct schema protocols_25 = {SHAPE_ARRAY, .items = &protocol, .items_min = 1, .items_max = 25};

static const struct schema rule_name = {SHAPE_STRING, .empty_absent = true, .wrong = rule_name_wrong};
static const struct schema priority = {SHAPE_INTEGER, .high = 1000, .what = "a priority: 0 to 1000"};
static const struct schema domain = {SHAPE_STRING, .wrong = domain_name_wrong};
static const struct schema object_name = {SHAPE_STRING, .wrong = dns_subdomain_wrong};
static const struct schema networks = {SHAPE_ARRAY, .items = &cidr_text, .items_min = 1};
static const struct schema domains = {SHAPE_ARRAY, .items = &domain, .items_min = 1};
static const struct schema networks_25 = {SHAPE_ARRAY, .items = &cidr_text, .items_min = 1, .items_max = 25};
static const struct schema domains_25 = {SHAPE_ARRAY, .items = &domain, .items_min = 1, .items_max = 25};

/* Named ports belong to pods: with other peers they would never match, and the reader would not see why. */
static void named_port_check(struct walk *w, const json_t *rule)
{
	size_t i, before;
	json_t *one;
	bool elsewhere = false;
	json_array_foreach(json_object_get(rule, "to"), i, one)
	{
		elsewhere = elsewhere || json_object_get(one, "networks") || json_object_get(one, "nodes") ||
					json_object_get(one, "domainNames") || json_object_get(one, "cidrSet");
	}
	before = walk_key(w, "protocols");
	json_array_foreach(json_object_get(rule, "protocols"), i, one)
	{
		if (elsewhere && json_object_get(one, "destinationNamedPort"))
			walk_error_index(w, i, "a named port cannot stand with networks, nodes, domainNames or cidrSet");
	}
	walk_leave(w, before);
}

/* ---- ClusterNetworkPolicy ---- */

/* domainNames and cidrSet are known here only to be refused where they cannot stand. */
static const struct field cluster_source_fields[] = {OPTIONAL("namespaces", &selector_schema),
	OPTIONAL("pods", &namespaced_pod), OPTIONAL("domainNames", &domains_25), OPTIONAL("cidrSet", &object_name), {0}};
static const struct field cluster_target_fields[] = {OPTIONAL("namespaces", &selector_schema),
	OPTIONAL("pods", &namespaced_pod), OPTIONAL("nodes", &selector_schema), OPTIONAL("networks", &networks_25),
	OPTIONAL("domainNames", &domains_25), OPTIONAL("cidrSet", &object_name), {0}};
/* A peer without any known field comes from a newer version: it fails closed (PEER_UNKNOWN) and is no error. */
static void cluster_peer_check(struct walk *w, json_t *pruned)
{
	if (json_object_size(pruned) > 1)
		walk_error(w, "must have exactly one kind of peer");
	if (json_object_get(pruned, "cidrSet"))
		walk_error_key(w, "cidrSet", "is no peer of a ClusterNetworkPolicy");
}
static void cluster_source_check(struct walk *w, json_t *pruned)
{
	cluster_peer_check(w, pruned);
	if (json_object_get(pruned, "domainNames"))
		walk_error_key(w, "domainNames", "can stand in egress rules only");
}
static void cluster_rule_check(struct walk *w, json_t *rule)
{
	const char *action = json_string_value(json_object_get(rule, "action"));
	size_t i, before = walk_key(w, "to");
	json_t *one;
	json_array_foreach(json_object_get(rule, "to"), i, one)
	{
		if (action && json_object_get(one, "domainNames") && strcmp(action, "Accept")) {
			size_t entry = walk_index(w, i);
			walk_error_key(w, "domainNames", "can stand in Accept rules only");
			walk_leave(w, entry);
		}
	}
	walk_leave(w, before);
	named_port_check(w, rule);
}
static const struct schema cluster_source = {
	SHAPE_OBJECT, .fields = cluster_source_fields, .check = cluster_source_check};
static const struct schema cluster_target = {
	SHAPE_OBJECT, .fields = cluster_target_fields, .check = cluster_peer_check};
static const struct schema cluster_sources = {SHAPE_ARRAY, .items = &cluster_source, .items_min = 1, .items_max = 25};
static const struct schema cluster_targets = {SHAPE_ARRAY, .items = &cluster_target, .items_min = 1, .items_max = 25};
static const struct schema cluster_action = {SHAPE_STRING, .words = WORDS("Accept", "Deny", "Pass")};
static const struct field cluster_ingress_fields[] = {OPTIONAL("name", &rule_name), REQUIRED("action", &cluster_action),
	REQUIRED("from", &cluster_sources), OPTIONAL("protocols", &protocols_25), {0}};
static const struct field cluster_egress_fields[] = {OPTIONAL("name", &rule_name), REQUIRED("action", &cluster_action),
	REQUIRED("to", &cluster_targets), OPTIONAL("protocols", &protocols_25), {0}};
static const struct schema cluster_ingress = {SHAPE_OBJECT, .fields = cluster_ingress_fields};
static const struct schema cluster_egress = {
	SHAPE_OBJECT, .fields = cluster_egress_fields, .check = cluster_rule_check};
static const struct schema cluster_ingresses = {SHAPE_ARRAY, .items = &cluster_ingress, .items_max = 25};
static const struct schema cluster_egresses = {SHAPE_ARRAY, .items = &cluster_egress, .items_max = 25};
static const struct schema tier = {SHAPE_STRING, .words = WORDS("Admin", "Baseline")};
static const struct field cluster_spec_fields[] = {REQUIRED("tier", &tier), REQUIRED("priority", &priority),
	REQUIRED("subject", &subject), OPTIONAL("ingress", &cluster_ingresses), OPTIONAL("egress", &cluster_egresses), {0}};
static const struct schema cluster_spec = {SHAPE_OBJECT, .fields = cluster_spec_fields};
static const struct field cluster_fields[] = {OBJECT_FIELDS, REQUIRED("spec", &cluster_spec), {0}};
const struct schema cluster_network_policy_schema = {SHAPE_OBJECT, .fields = cluster_fields};

/* ---- InterceptPolicy ---- */

static const struct field source_fields[] = {OPTIONAL("namespaces", &selector_schema),
	OPTIONAL("pods", &namespaced_pod), OPTIONAL("nodes", &selector_schema), OPTIONAL("networks", &networks),
	OPTIONAL("cidrSet", &object_name), {0}};
static const struct field target_fields[] = {OPTIONAL("namespaces", &selector_schema),
	OPTIONAL("pods", &namespaced_pod), OPTIONAL("nodes", &selector_schema), OPTIONAL("networks", &networks),
	OPTIONAL("domainNames", &domains), OPTIONAL("cidrSet", &object_name), {0}};
static void source_check(struct walk *w, json_t *pruned)
{
	one_of(w, pruned, source_fields);
}
static void target_check(struct walk *w, json_t *pruned)
{
	one_of(w, pruned, target_fields);
}
static const struct schema source = {SHAPE_OBJECT, .fields = source_fields, .check = source_check};
static const struct schema target = {SHAPE_OBJECT, .fields = target_fields, .check = target_check};
static const struct schema sources = {SHAPE_ARRAY, .items = &source, .items_min = 1};
static const struct schema targets = {SHAPE_ARRAY, .items = &target, .items_min = 1};

static void intercept_rule_check(struct walk *w, json_t *rule)
{
	const char *action = json_string_value(json_object_get(rule, "action"));
	bool intercept = action && !strcmp(action, "Intercept");
	bool proxy = json_object_get(rule, "proxy");
	if (intercept && !proxy)
		walk_error_key(w, "proxy", "is required with action Intercept");
	if (action && !intercept && proxy)
		walk_error_key(w, "proxy", "must be absent with action Bypass");
	named_port_check(w, rule);
}

static void intercept_check(struct walk *w, json_t *spec)
{
	if (json_object_get(json_object_get(spec, "subject"), "cgroup") &&
		json_array_size(json_object_get(spec, "ingress")))
		walk_error_key(w, "ingress", "must be empty when the subject is a cgroup");
}

static const struct schema intercept_action = {SHAPE_STRING, .words = WORDS("Intercept", "Bypass")};
static const struct field intercept_ingress_fields[] = {OPTIONAL("name", &rule_name),
	REQUIRED("action", &intercept_action), OPTIONAL("proxy", &object_name), REQUIRED("from", &sources),
	OPTIONAL("protocols", &protocols), {0}};
static const struct field intercept_egress_fields[] = {OPTIONAL("name", &rule_name),
	REQUIRED("action", &intercept_action), OPTIONAL("proxy", &object_name), REQUIRED("to", &targets),
	OPTIONAL("protocols", &protocols), {0}};
static const struct schema intercept_ingress = {
	SHAPE_OBJECT, .fields = intercept_ingress_fields, .check = intercept_rule_check};
static const struct schema intercept_egress = {
	SHAPE_OBJECT, .fields = intercept_egress_fields, .check = intercept_rule_check};
static const struct schema intercept_ingresses = {SHAPE_ARRAY, .items = &intercept_ingress};
static const struct schema intercept_egresses = {SHAPE_ARRAY, .items = &intercept_egress};
static const struct field intercept_spec_fields[] = {REQUIRED("priority", &priority),
	REQUIRED("subject", &process_subject), OPTIONAL("ingress", &intercept_ingresses),
	OPTIONAL("egress", &intercept_egresses), {0}};
static const struct schema intercept_spec = {SHAPE_OBJECT, .fields = intercept_spec_fields, .check = intercept_check};
static const struct field intercept_fields[] = {
	OBJECT_FIELDS, REQUIRED("spec", &intercept_spec), IGNORED("status"), {0}};
const struct schema intercept_policy_schema = {SHAPE_OBJECT, .fields = intercept_fields};

/* ---- NodeFilter ---- */

static void filter_rule_check(struct walk *w, json_t *rule)
{
	const char *action = json_string_value(json_object_get(rule, "action"));
	bool limits = action && !strcmp(action, "Limit");
	bool limit = json_object_get(rule, "limit");
	if (limits && !limit)
		walk_error_key(w, "limit", "is required with action Limit");
	if (action && !limits && limit)
		walk_error_key(w, "limit", "must be absent unless action is Limit");
	size_t i, before = walk_key(w, "protocols");
	json_t *one;
	json_array_foreach(json_object_get(rule, "protocols"), i, one)
	{
		if (json_object_get(one, "destinationNamedPort"))
			walk_error_index(w, i, "a node has no named ports");
	}
	walk_leave(w, before);
}

static const struct schema interface_name = {SHAPE_STRING, .wrong = interface_wrong};
static const struct schema interface_names = {SHAPE_ARRAY, .items = &interface_name};
static const struct schema rate = {SHAPE_INTEGER, .low = 1, .high = UINT32_MAX};
static const struct schema per = {SHAPE_STRING, .words = WORDS("Source", "Total")};
static const struct field limit_fields[] = {
	REQUIRED("packetsPerSecond", &rate), OPTIONAL("burst", &rate), REQUIRED("per", &per), {0}};
static const struct schema limit = {SHAPE_OBJECT, .fields = limit_fields};
static const struct schema filter_action = {SHAPE_STRING, .words = WORDS("Accept", "Deny", "Limit")};
static const struct field filter_rule_fields[] = {OPTIONAL("name", &rule_name), REQUIRED("action", &filter_action),
	REQUIRED("from", &sources), OPTIONAL("protocols", &protocols), OPTIONAL("limit", &limit), {0}};
static const struct schema filter_rule = {SHAPE_OBJECT, .fields = filter_rule_fields, .check = filter_rule_check};
static const struct schema filter_rules = {SHAPE_ARRAY, .items = &filter_rule};
static const struct field filter_spec_fields[] = {
	REQUIRED("priority", &priority), OPTIONAL("interfaces", &interface_names), OPTIONAL("ingress", &filter_rules), {0}};
static const struct schema filter_spec = {SHAPE_OBJECT, .fields = filter_spec_fields};
static const struct field filter_fields[] = {OBJECT_FIELDS, REQUIRED("spec", &filter_spec), IGNORED("status"), {0}};
const struct schema node_filter_schema = {SHAPE_OBJECT, .fields = filter_fields};
