/* SPDX-License-Identifier: Apache-2.0 */
/* penstock.dev/v1alpha1 besides the policies: Workload, TransparentProxy, CIDRSet. Unknown fields are errors. */
#include <stdint.h>
#include <string.h>

#include "agent/model/check.h"
#include "agent/model/schema.h"

/* ---- Workload ---- */

/* The pairwise checks stay cheap: nothing real has more. */
#define WORKLOAD_LIST_MAX 256

static void ips_check(struct walk *w, json_t *list)
{
	size_t count = json_array_size(list);
	for (size_t i = 1; i < count && count <= WORKLOAD_LIST_MAX; i++) {
		const char *text = json_string_value(json_array_get(list, i));
		struct ip ip, earlier;
		bool twice = false;
		for (size_t j = 0; text && !ip_parse(text, &ip) && j < i && !twice; j++) {
			const char *other = json_string_value(json_array_get(list, j));
			twice = other && !ip_parse(other, &earlier) && ip_equal(&ip, &earlier);
		}
		if (twice)
			walk_error_index(w, i, "\"%s\" is already there", quote(text).text);
	}
}

static const char *port_protocol(const json_t *port)
{
	const char *protocol = json_string_value(json_object_get(port, "protocol"));
	return protocol ? protocol : "TCP";
}

/* A name with a protocol means one number. */
static void ports_check(struct walk *w, json_t *list)
{
	size_t count = json_array_size(list);
	for (size_t i = 1; i < count && count <= WORKLOAD_LIST_MAX; i++) {
		const json_t *port = json_array_get(list, i);
		const char *name = json_string_value(json_object_get(port, "name"));
		for (size_t j = 0; name && j < i; j++) {
			const json_t *other = json_array_get(list, j);
			const char *earlier = json_string_value(json_object_get(other, "name"));
			if (!earlier || strcmp(name, earlier) || strcmp(port_protocol(port), port_protocol(other)))
				continue;
			size_t before = walk_index(w, i);
			walk_error_key(w, "name", "\"%s\" already names a %s port", quote(name).text, port_protocol(port));
			walk_leave(w, before);
			break;
		}
	}
}

static const struct schema ips = {
	SHAPE_ARRAY, .items = &ip_text, .items_min = 1, .items_max = WORKLOAD_LIST_MAX, .check = ips_check};
static const struct schema interface = {SHAPE_STRING, .empty_absent = true, .wrong = interface_wrong};
static const struct schema node_name = {SHAPE_STRING, .empty_absent = true, .wrong = dns_subdomain_wrong};
static const struct schema port_name = {SHAPE_STRING, .empty_absent = true, .wrong = port_name_wrong};
static const struct field port_fields[] = {
	OPTIONAL("name", &port_name), REQUIRED("port", &port_number), OPTIONAL("protocol", &protocol_word), {0}};
static const struct schema port = {SHAPE_OBJECT, .fields = port_fields};
static const struct schema ports = {SHAPE_ARRAY, .items = &port, .items_max = WORKLOAD_LIST_MAX, .check = ports_check};
static const struct field workload_spec_fields[] = {REQUIRED("ips", &ips), OPTIONAL("interface", &interface),
	OPTIONAL("node", &node_name), OPTIONAL("allowedSources", &cidr_list), OPTIONAL("ports", &ports), {0}};
static const struct schema workload_spec = {SHAPE_OBJECT, .fields = workload_spec_fields};
static const struct field workload_fields[] = {OBJECT_FIELDS, REQUIRED("spec", &workload_spec), IGNORED("status"), {0}};
const struct schema workload_schema = {SHAPE_OBJECT, .fields = workload_fields};

/* ---- TransparentProxy ---- */

static void protocols_check(struct walk *w, json_t *list)
{
	const json_t *second = json_array_get(list, 1);
	if (json_is_string(second) && json_equal((json_t *)json_array_get(list, 0), (json_t *)second))
		walk_error_index(w, 1, "%s is already there", json_string_value(second));
}

static const struct schema proxy_protocol = {SHAPE_STRING, .words = WORDS("TCP", "UDP")};
static const struct schema proxy_protocols = {
	SHAPE_ARRAY, .items = &proxy_protocol, .items_min = 1, .items_max = 2, .check = protocols_check};
static const struct schema uid = {SHAPE_INTEGER, .high = UINT32_MAX - 1, .what = "a user id"};
static const struct schema cgroup = {SHAPE_STRING, .empty_absent = true, .wrong = cgroup_wrong};
static const struct schema executable = {SHAPE_STRING, .empty_absent = true, .wrong = executable_wrong};
static const struct field process_fields[] = {
	OPTIONAL("uid", &uid), OPTIONAL("cgroup", &cgroup), OPTIONAL("executable", &executable), {0}};
static const struct schema process = {SHAPE_OBJECT, .fields = process_fields};
static const struct schema unavailable = {SHAPE_STRING, .words = WORDS("Deny", "Bypass")};
static const struct field proxy_spec_fields[] = {REQUIRED("port", &port_number),
	OPTIONAL("protocols", &proxy_protocols), OPTIONAL("process", &process), OPTIONAL("onUnavailable", &unavailable),
	{0}};
static const struct schema proxy_spec = {SHAPE_OBJECT, .fields = proxy_spec_fields};
static const struct field proxy_fields[] = {OBJECT_FIELDS, REQUIRED("spec", &proxy_spec), IGNORED("status"), {0}};
const struct schema transparent_proxy_schema = {SHAPE_OBJECT, .fields = proxy_fields};

/* ---- CIDRSet ---- */

static const struct schema cidrs = {SHAPE_ARRAY, .items = &cidr_text, .items_max = 1000000};
static const struct field set_spec_fields[] = {REQUIRED("cidrs", &cidrs), {0}};
static const struct schema set_spec = {SHAPE_OBJECT, .fields = set_spec_fields};
static const struct field set_fields[] = {OBJECT_FIELDS, REQUIRED("spec", &set_spec), IGNORED("status"), {0}};
const struct schema cidr_set_schema = {SHAPE_OBJECT, .fields = set_fields};
