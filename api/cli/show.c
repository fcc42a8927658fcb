/* SPDX-License-Identifier: Apache-2.0 */
#include "api/cli/show.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include "agent/base/mem.h"
#include "api/cli/table.h"
#include "api/client/manifest.h"

/* ---- values as text ---- */

void value_text(const json_t *json, struct buffer *out)
{
	const char *key, *separator = "";
	json_t *value;
	size_t index;
	if (json_is_string(json)) {
		buffer_puts(out, json_string_value(json));
	} else if (json_is_object(json)) {
		json_object_foreach((json_t *)json, key, value)
		{
			buffer_printf(out, "%s%s=", separator, key);
			value_text(value, out);
			separator = ",";
		}
	} else if (json_is_array(json)) {
		json_array_foreach(json, index, value)
		{
			buffer_puts(out, separator);
			value_text(value, out);
			separator = ",";
		}
	} else if (json && !json_is_null(json)) {
		auto_free char *text = json_dumps(json, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
		buffer_puts(out, text);
	}
}

static const json_t *at_path(const json_t *json, const char *path)
{
	while (json && *path) {
		char name[64];
		size_t length = strcspn(path, ".");
		snprintf(name, sizeof name, "%.*s", (int)length, path);
		json = json_object_get(json, name);
		path += length + (path[length] == '.');
	}
	return json;
}

/* A member of every element, once each: the ip of podIPs. */
static void members(const json_t *array, const char *member, struct buffer *out)
{
	json_t *element;
	size_t index;
	json_array_foreach(array, index, element)
	{
		buffer_puts(out, index ? "," : "");
		value_text(json_object_get(element, member), out);
	}
}

static void selector(const json_t *json, struct buffer *out)
{
	json_t *expression;
	size_t index;
	if (!json_object_size(json)) {
		buffer_puts(out, "(all)");
		return;
	}
	value_text(json_object_get(json, "matchLabels"), out);
	json_array_foreach(json_object_get(json, "matchExpressions"), index, expression)
	{
		const json_t *values = json_object_get(expression, "values");
		buffer_puts(out, out->length ? "," : "");
		value_text(json_object_get(expression, "key"), out);
		buffer_puts(out, " ");
		value_text(json_object_get(expression, "operator"), out);
		if (json_array_size(values)) {
			buffer_puts(out, " (");
			value_text(values, out);
			buffer_puts(out, ")");
		}
	}
}

static void policy_types(const json_t *object, struct buffer *out)
{
	const json_t *types = at_path(object, "spec.policyTypes");
	if (json_array_size(types))
		value_text(types, out);
	else /* the API's defaulting */
		buffer_puts(out, json_array_size(at_path(object, "spec.egress")) ? "Ingress,Egress" : "Ingress");
}

static void rule_counts(const json_t *object, struct buffer *out)
{
	buffer_printf(out, "%zu in, %zu out", json_array_size(at_path(object, "spec.ingress")),
		json_array_size(at_path(object, "spec.egress")));
}

static void proxies_of(const json_t *object, struct buffer *out)
{
	json_t *rule, *seen = json_object();
	const char *name;
	size_t index;
	for (int direction = 0; direction < 2; direction++) {
		json_array_foreach(at_path(object, direction ? "spec.ingress" : "spec.egress"), index, rule)
		{
			name = json_string_value(json_object_get(rule, "proxy"));
			if (name && !json_object_get(seen, name)) {
				buffer_printf(out, "%s%s", json_object_size(seen) ? "," : "", name);
				json_object_set_new(seen, name, json_true());
			}
		}
	}
	json_decref(seen);
}

static void subject(const json_t *object, struct buffer *out)
{
	const json_t *s = at_path(object, "spec.subject");
	const json_t *pods = json_object_get(s, "pods"), *namespaces = json_object_get(s, "namespaces");
	if (json_object_get(s, "cgroup")) {
		value_text(json_object_get(s, "cgroup"), out);
	} else if (pods) {
		struct buffer inner = {0};
		selector(json_object_get(pods, "podSelector"), &inner);
		buffer_printf(out, "pods %s", inner.data);
		buffer_free(&inner);
	} else if (namespaces) {
		struct buffer inner = {0};
		selector(namespaces, &inner);
		buffer_printf(out, "namespaces %s", inner.data);
		buffer_free(&inner);
	}
}

static void pod_ips(const json_t *object, struct buffer *out)
{
	const json_t *ips = at_path(object, "status.podIPs");
	if (ips)
		members(ips, "ip", out);
	else
		value_text(at_path(object, "status.podIP"), out);
}

static void node_ips(const json_t *object, struct buffer *out)
{
	members(at_path(object, "status.addresses"), "address", out);
}

static void pod_selector(const json_t *object, struct buffer *out)
{
	selector(at_path(object, "spec.podSelector"), out);
}

static void cidr_count(const json_t *object, struct buffer *out)
{
	buffer_printf(out, "%zu", json_array_size(at_path(object, "spec.cidrs")));
}

static void ports(const json_t *list, const char *number, struct buffer *out)
{
	json_t *port;
	size_t index;
	json_array_foreach(list, index, port)
	{
		const char *protocol = json_string_value(json_object_get(port, "protocol"));
		const json_t *node = json_object_get(port, "nodePort");
		buffer_puts(out, out->length ? "," : "");
		value_text(json_object_get(port, number), out);
		if (node)
			buffer_printf(out, ":%lld", (long long)json_integer_value(node));
		buffer_printf(out, "/%s", protocol ? protocol : "TCP");
	}
}

static void spec_ports(const json_t *object, struct buffer *out)
{
	ports(at_path(object, "spec.ports"), "port", out);
}

static void slice_ports(const json_t *object, struct buffer *out)
{
	ports(json_object_get(object, "ports"), "port", out);
}

static void pod_ports(const json_t *object, struct buffer *out)
{
	static const char *const lists[] = {"spec.containers", "spec.initContainers"};
	json_t *container;
	size_t index;
	for (int at = 0; at < 2; at++)
		json_array_foreach(at_path(object, lists[at]), index, container)
			ports(json_object_get(container, "ports"), "containerPort", out);
}

static void slice_service(const json_t *object, struct buffer *out)
{
	value_text(json_object_get(at_path(object, "metadata.labels"), "kubernetes.io/service-name"), out);
}

static void endpoint_count(const json_t *object, struct buffer *out)
{
	json_t *endpoint;
	size_t index, ready = 0, all = json_array_size(json_object_get(object, "endpoints"));
	json_array_foreach(json_object_get(object, "endpoints"), index, endpoint) ready +=
		!json_is_false(at_path(endpoint, "conditions.ready"));
	buffer_printf(out, "%zu of %zu ready", ready, all);
}

static void load_balancers(const json_t *object, struct buffer *out)
{
	members(at_path(object, "status.loadBalancer.ingress"), "ip", out);
}

static void mode(const json_t *object, struct buffer *out)
{
	value_text(json_object_get(at_path(object, "metadata.annotations"), "penstock.dev/mode"), out);
}

/* Of a creationTimestamp: the largest unit that there are two of, as kubectl has it. */
static void age(const json_t *object, struct buffer *out)
{
	static const struct unit {
		long seconds;
		char name;
	} units[] = {{86400, 'd'}, {3600, 'h'}, {60, 'm'}, {1, 's'}};
	const char *created = json_string_value(at_path(object, "metadata.creationTimestamp"));
	struct tm utc = {0};
	if (!created || !strptime(created, "%Y-%m-%dT%H:%M:%S", &utc))
		return;
	long seconds = (long)(time(NULL) - timegm(&utc));
	for (size_t at = 0; at < sizeof units / sizeof units[0]; at++) {
		if (seconds < 2 * units[at].seconds && units[at].seconds > 1)
			continue;
		buffer_printf(out, "%ld%c", seconds < 0 ? 0 : seconds / units[at].seconds, units[at].name);
		return;
	}
}

static void proxy_protocols(const json_t *object, struct buffer *out)
{
	const json_t *protocols = at_path(object, "spec.protocols");
	if (json_array_size(protocols))
		value_text(protocols, out);
	else /* the API's default */
		buffer_puts(out, "TCP");
}

static void proxy_unavailable(const json_t *object, struct buffer *out)
{
	const char *action = json_string_value(at_path(object, "spec.onUnavailable"));
	buffer_puts(out, action ? action : "Deny");
}

/* ---- columns ---- */

struct column {
	const char *title;
	const char *path; /* or: */
	void (*render)(const json_t *object, struct buffer *out);
};
#define COLUMNS_MAX 5

#define LABELS                            \
	{                                     \
		"LABELS", "metadata.labels", NULL \
	}
#define MODE               \
	{                      \
		"MODE", NULL, mode \
	}
static const struct column columns[KIND_COUNT][COLUMNS_MAX] = {
	[KIND_NAMESPACE] = {LABELS},
	[KIND_NODE] = {{"ADDRESSES", NULL, node_ips}, LABELS},
	[KIND_POD] = {{"IPS", NULL, pod_ips}, {"NODE", "spec.nodeName", NULL}, {"PHASE", "status.phase", NULL}, LABELS},
	[KIND_SERVICE] = {{"CLUSTER-IPS", "spec.clusterIPs", NULL}, {"PORTS", NULL, spec_ports}},
	[KIND_ENDPOINT_SLICE] = {{"SERVICE", NULL, slice_service}, {"ENDPOINTS", NULL, endpoint_count}},
	[KIND_WORKLOAD] = {{"IPS", "spec.ips", NULL}, {"INTERFACE", "spec.interface", NULL}, {"NODE", "spec.node", NULL},
		LABELS},
	[KIND_NETWORK_POLICY] = {{"POD-SELECTOR", NULL, pod_selector}, {"TYPES", NULL, policy_types},
		{"RULES", NULL, rule_counts}, MODE},
	[KIND_CLUSTER_NETWORK_POLICY] = {{"TIER", "spec.tier", NULL}, {"PRIORITY", "spec.priority", NULL},
		{"SUBJECT", NULL, subject}, {"RULES", NULL, rule_counts}, MODE},
	[KIND_TRANSPARENT_PROXY] = {{"PORT", "spec.port", NULL}, {"PROTOCOLS", NULL, proxy_protocols},
		{"ON-UNAVAILABLE", NULL, proxy_unavailable}},
	[KIND_INTERCEPT_POLICY] = {{"PRIORITY", "spec.priority", NULL}, {"SUBJECT", NULL, subject},
		{"PROXIES", NULL, proxies_of}, {"RULES", NULL, rule_counts}, MODE},
	[KIND_NODE_FILTER] = {{"PRIORITY", "spec.priority", NULL}, {"INTERFACES", "spec.interfaces", NULL},
		{"RULES", NULL, rule_counts}, MODE},
	[KIND_CIDR_SET] = {{"CIDRS", NULL, cidr_count}},
};

/* Besides those, before what every kind has then: */
static const struct column wide_columns[KIND_COUNT][COLUMNS_MAX] = {
	[KIND_POD] = {{"PORTS", NULL, pod_ports}},
	[KIND_SERVICE] = {{"EXTERNAL-IPS", "spec.externalIPs", NULL}, {"LOAD-BALANCER", NULL, load_balancers}, LABELS},
	[KIND_ENDPOINT_SLICE] = {{"PORTS", NULL, slice_ports}, LABELS},
	[KIND_WORKLOAD] = {{"PORTS", NULL, spec_ports}, {"ALLOWED-SOURCES", "spec.allowedSources", NULL}},
	[KIND_NETWORK_POLICY] = {LABELS},
	[KIND_CLUSTER_NETWORK_POLICY] = {LABELS},
	[KIND_TRANSPARENT_PROXY] = {{"UID", "spec.process.uid", NULL}, {"CGROUP", "spec.process.cgroup", NULL},
		{"EXECUTABLE", "spec.process.executable", NULL}, LABELS},
	[KIND_INTERCEPT_POLICY] = {LABELS},
	[KIND_NODE_FILTER] = {LABELS},
	[KIND_CIDR_SET] = {LABELS},
};
static const struct column every_column[COLUMNS_MAX] = {{"AGE", NULL, age}};

/* Whatever stands between the name and the owner. */
static size_t columns_of(const struct resource *resource, bool wide, const struct column *ret[3 * COLUMNS_MAX])
{
	const struct column *const lists[] = {columns[resource->id], wide_columns[resource->id], every_column};
	size_t count = 0;
	for (int list = 0; list < (wide ? 3 : 1); list++)
		for (const struct column *c = lists[list]; c < lists[list] + COLUMNS_MAX && c->title; c++)
			ret[count++] = c;
	return count;
}

static void add_object(struct table *table, const struct resource *resource, const json_t *object,
	const struct column *const *shown, size_t count)
{
	const json_t *annotations = at_path(object, "metadata.annotations");
	if (resource->namespaced)
		table_cell(table, manifest_metadata(object, "namespace"));
	table_cell(table, manifest_metadata(object, "name"));
	for (size_t at = 0; at < count; at++) {
		struct buffer text = {0};
		if (shown[at]->render)
			shown[at]->render(object, &text);
		else
			value_text(at_path(object, shown[at]->path), &text);
		table_take(table, &text);
	}
	table_cell(table, json_string_value(json_object_get(annotations, "penstock.dev/owner")));
}

void show_objects(const struct resource *resource, const json_t *items, bool wide)
{
	const struct column *shown[3 * COLUMNS_MAX];
	struct table table;
	struct buffer out = {0};
	json_t *object;
	size_t index, count = columns_of(resource, wide, shown);
	table_init(&table, count + 2 + resource->namespaced);
	if (resource->namespaced)
		table_cell(&table, "NAMESPACE");
	table_cell(&table, "NAME");
	for (size_t at = 0; at < count; at++)
		table_cell(&table, shown[at]->title);
	table_cell(&table, "OWNER");
	json_array_foreach(items, index, object) add_object(&table, resource, object, shown, count);
	table_render(&table, "", &out);
	fputs(out.data, stdout);
	buffer_free(&out);
}
