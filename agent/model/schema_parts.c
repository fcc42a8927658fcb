/* SPDX-License-Identifier: Apache-2.0 */
/* What several kinds have in common: metadata, labels, selectors, and the table of kinds. */
#include <string.h>

#include "agent/model/check.h"
#include "agent/model/schema.h"

const struct schema any_string = {.shape = SHAPE_STRING};
const struct schema optional_string = {SHAPE_STRING, .empty_absent = true};
const struct schema any_boolean = {.shape = SHAPE_BOOLEAN};
const struct schema port_number = {SHAPE_INTEGER, .low = 1, .high = 65535, .what = "a port"};
const struct schema protocol_word = {SHAPE_STRING, .words = WORDS("TCP", "UDP", "SCTP")};
const struct schema ip_text = {SHAPE_STRING, .wrong = ip_wrong};
const struct schema cidr_text = {SHAPE_STRING, .wrong = cidr_wrong};
const struct schema cidr_list = {SHAPE_ARRAY, .items = &cidr_text};

/* ---- selectors ---- */

static void expression_check(struct walk *w, json_t *expression)
{
	const char *operator= json_string_value(json_object_get(expression, "operator"));
	const json_t *list = json_object_get(expression, "values");
	size_t values = json_array_size(list);
	if (!operator|| json_is_null(list))
		return;
	bool sets = !strcmp(operator, "In") || !strcmp(operator, "NotIn");
	if (sets && !values)
		walk_error_key(w, "values", "is required with operator %s", operator);
	if (!sets && values)
		walk_error_key(w, "values", "must be absent with operator %s", operator);
}

static const struct schema operator_word = {SHAPE_STRING, .words = WORDS("In", "NotIn", "Exists", "DoesNotExist")};
static const struct schema label_key = {SHAPE_STRING, .wrong = label_key_wrong};
static const struct schema label_value = {SHAPE_STRING, .wrong = label_value_wrong};
static const struct schema label_values = {SHAPE_ARRAY, .items = &label_value};
static const struct field expression_fields[] = {
	REQUIRED("key", &label_key), REQUIRED("operator", &operator_word), OPTIONAL("values", &label_values), {0}};
static const struct schema expression = {SHAPE_OBJECT, .fields = expression_fields, .check = expression_check};
static const struct schema expressions = {SHAPE_ARRAY, .items = &expression};

const struct schema labels_schema = {SHAPE_MAP, .key_wrong = label_key_wrong, .wrong = label_value_wrong};
static const struct field selector_fields[] = {
	OPTIONAL("matchLabels", &labels_schema), OPTIONAL("matchExpressions", &expressions), {0}};
const struct schema selector_schema = {SHAPE_OBJECT, .fields = selector_fields};

/* ---- metadata ---- */

static bool is_policy(enum kind kind)
{
	return kind == KIND_NETWORK_POLICY || kind == KIND_CLUSTER_NETWORK_POLICY || kind == KIND_INTERCEPT_POLICY ||
		   kind == KIND_NODE_FILTER;
}

/* Keeps the annotations that are read for this kind. */
static void annotations_prune(struct walk *w, json_t *metadata)
{
	static const char *const bandwidth[] = {"kubernetes.io/egress-bandwidth", "kubernetes.io/ingress-bandwidth"};
	json_t *all = json_object_get(metadata, "annotations"), *kept = json_object();
	const json_t *mode = json_object_get(all, "penstock.dev/mode");
	size_t before = walk_key(w, "annotations");
	if (w->kind == KIND_POD) {
		for (size_t i = 0; i < sizeof(bandwidth) / sizeof(*bandwidth); i++) {
			json_t *value = json_object_get(all, bandwidth[i]);
			if (!value)
				continue;
			const char *why = bandwidth_wrong(json_string_value(value));
			if (why)
				walk_error_key(w, bandwidth[i], "\"%s\" %s", quote(json_string_value(value)).text, why);
			json_object_set(kept, bandwidth[i], value);
		}
	}
	if (mode && is_policy(w->kind)) {
		if (strcmp(json_string_value(mode), "audit"))
			walk_error_key(w, "penstock.dev/mode", "\"%s\" is not a mode: only audit is, or no annotation at all",
				quote(json_string_value(mode)).text);
		json_object_set_new(kept, "penstock.dev/mode", json_string(json_string_value(mode)));
	}
	walk_leave(w, before);
	if (json_object_size(kept))
		json_object_set(metadata, "annotations", kept);
	else
		json_object_del(metadata, "annotations");
	json_decref(kept);
}

static const char *name_wrong(enum kind kind, const char *name)
{
	return kind == KIND_NAMESPACE || kind == KIND_SERVICE ? dns_label_wrong(name) : dns_subdomain_wrong(name);
}

static void metadata_check(struct walk *w, json_t *metadata)
{
	const char *name = json_string_value(json_object_get(metadata, "name"));
	const char *namespace = json_string_value(json_object_get(metadata, "namespace")), *why;
	if (name && (why = name_wrong(w->kind, name)))
		walk_error_key(w, "name", "\"%s\" %s", quote(name).text, why);
	if (!kinds[w->kind].namespaced && namespace)
		walk_error_key(w, "namespace", "must be absent: a %s belongs to no namespace", kinds[w->kind].kind);
	else if (namespace && (why = dns_label_wrong(namespace)))
		walk_error_key(w, "namespace", "\"%s\" %s", quote(namespace).text, why);
	else if (kinds[w->kind].namespaced && !json_object_get(metadata, "namespace"))
		json_object_set_new(metadata, "namespace", json_string("default")); /* as kubectl does */
	if (w->kind == KIND_NAMESPACE && name) {
		/* Set by the API server whatever a user writes there. */
		json_t *labels = json_copy(json_object_get(metadata, "labels"));
		labels = labels ? labels : json_object();
		json_object_set_new(labels, "kubernetes.io/metadata.name", json_string(name));
		json_object_set_new(metadata, "labels", labels);
	}
	annotations_prune(w, metadata);
	if (!json_object_size(json_object_get(metadata, "labels")))
		json_object_del(metadata, "labels");
}

static const struct schema annotations = {.shape = SHAPE_MAP};
static const struct schema timestamp = {SHAPE_STRING, .wrong = timestamp_wrong};
/* The names without a schema are ObjectMeta's others: known to be there, not read. */
static const struct field metadata_fields[] = {REQUIRED("name", &any_string), OPTIONAL("namespace", &optional_string),
	OPTIONAL("labels", &labels_schema), OPTIONAL("annotations", &annotations), OPTIONAL("uid", &optional_string),
	OPTIONAL("resourceVersion", &optional_string), OPTIONAL("creationTimestamp", &timestamp),
	IGNORED("deletionTimestamp"), IGNORED("deletionGracePeriodSeconds"), IGNORED("finalizers"), IGNORED("generateName"),
	IGNORED("generation"), IGNORED("managedFields"), IGNORED("ownerReferences"), IGNORED("selfLink"), {0}};
const struct schema metadata_schema = {SHAPE_OBJECT, .fields = metadata_fields, .check = metadata_check};

/* ---- kinds ---- */

static const struct schema *const schemas[KIND_COUNT] = {
	[KIND_NAMESPACE] = &namespace_schema,
	[KIND_NODE] = &node_schema,
	[KIND_POD] = &pod_schema,
	[KIND_SERVICE] = &service_schema,
	[KIND_ENDPOINT_SLICE] = &endpoint_slice_schema,
	[KIND_WORKLOAD] = &workload_schema,
	[KIND_NETWORK_POLICY] = &network_policy_schema,
	[KIND_CLUSTER_NETWORK_POLICY] = &cluster_network_policy_schema,
	[KIND_TRANSPARENT_PROXY] = &transparent_proxy_schema,
	[KIND_INTERCEPT_POLICY] = &intercept_policy_schema,
	[KIND_NODE_FILTER] = &node_filter_schema,
	[KIND_CIDR_SET] = &cidr_set_schema,
};

/*
 * Older versions that clusters still answer `kubectl get` with. Kubernetes from 1.20 on, which the chart wants, has
 * one: EndpointSlice is v1beta1 alone before 1.21.
 */
static const struct {
	enum kind kind;
	const char *version;
	const struct schema *schema;
} older[] = {
	{KIND_ENDPOINT_SLICE, "discovery.k8s.io/v1beta1", &endpoint_slice_v1beta1_schema},
};
#define OLDER (sizeof(older) / sizeof(*older))

const struct schema *schema_of(enum kind kind, const char *version)
{
	if (!version || !strcmp(version, kinds[kind].api_version))
		return schemas[kind];
	for (size_t i = 0; i < OLDER; i++)
		if (older[i].kind == kind && !strcmp(older[i].version, version))
			return older[i].schema;
	return NULL;
}

const struct schema *schema_widest(enum kind kind)
{
	for (size_t i = 0; i < OLDER; i++)
		if (older[i].kind == kind)
			return older[i].schema;
	return schemas[kind];
}
