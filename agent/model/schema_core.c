/* SPDX-License-Identifier: Apache-2.0 */
/* v1 and discovery.k8s.io/v1: Namespace, Node, Pod, Service, EndpointSlice. Unknown fields are pruned. */
#include <string.h>

#include "agent/model/check.h"
#include "agent/model/schema.h"

static const struct schema dns_label = {SHAPE_STRING, .empty_absent = true, .wrong = dns_label_wrong};
static const struct schema node_name = {SHAPE_STRING, .empty_absent = true, .wrong = dns_subdomain_wrong};
static const struct schema optional_ip = {SHAPE_STRING, .empty_absent = true, .wrong = ip_wrong};
static const struct schema port_name = {SHAPE_STRING, .empty_absent = true, .wrong = port_name_wrong};
static const struct schema ips = {SHAPE_ARRAY, .items = &ip_text};

/* More than Kubernetes ever has of one thing; looking for doubles stays cheap. */
#define ADDRESSES_MAX 256

/* ---- Namespace ---- */

static const struct field namespace_fields[] = {OBJECT_FIELDS, {0}};
const struct schema namespace_schema = {SHAPE_OBJECT, .fields = namespace_fields};

/* ---- Node ---- */

static void node_address_check(struct walk *w, json_t *address)
{
	const char *type = json_string_value(json_object_get(address, "type"));
	const char *text = json_string_value(json_object_get(address, "address"));
	if (!type || !text)
		return;
	const char *why = strcmp(type, "InternalIP") && strcmp(type, "ExternalIP") ? NULL : ip_wrong(text);
	if (why)
		walk_error_key(w, "address", "\"%s\" %s", quote(text).text, why);
}

static const struct field node_address_fields[] = {
	REQUIRED("type", &any_string), REQUIRED("address", &any_string), {0}};
static const struct schema node_address = {SHAPE_OBJECT, .fields = node_address_fields, .check = node_address_check};
static const struct schema node_addresses = {SHAPE_ARRAY, .items = &node_address, .items_max = ADDRESSES_MAX};
static const struct field node_status_fields[] = {OPTIONAL("addresses", &node_addresses), {0}};
static const struct schema node_status = {SHAPE_OBJECT, .fields = node_status_fields};
static const struct field node_fields[] = {OBJECT_FIELDS, OPTIONAL("status", &node_status), {0}};
const struct schema node_schema = {SHAPE_OBJECT, .fields = node_fields};

/* ---- Pod ---- */

static const struct field container_port_fields[] = {
	OPTIONAL("name", &port_name), REQUIRED("containerPort", &port_number), OPTIONAL("protocol", &protocol_word), {0}};
static const struct schema container_port = {SHAPE_OBJECT, .fields = container_port_fields};
static const struct schema container_ports = {SHAPE_ARRAY, .items = &container_port};
static const struct field container_fields[] = {
	OPTIONAL("ports", &container_ports), OPTIONAL("restartPolicy", &any_string), {0}};
static const struct schema container = {SHAPE_OBJECT, .fields = container_fields};

/* Containers without ports say nothing. Of init containers only those that go on running do. */
static void containers_prune(json_t *list, bool init)
{
	for (size_t i = json_array_size(list); i-- > 0;) {
		json_t *one = json_array_get(list, i);
		const char *restart = json_string_value(json_object_get(one, "restartPolicy"));
		bool runs = !init || (restart && !strcmp(restart, "Always"));
		if (!runs || !json_array_size(json_object_get(one, "ports")))
			json_array_remove(list, i);
		else if (!init)
			json_object_del(one, "restartPolicy");
	}
}

static void pod_spec_check(struct walk *w, json_t *spec)
{
	static const char *const lists[] = {"containers", "initContainers"};
	for (int init = 0; init < 2; init++) {
		containers_prune(json_object_get(spec, lists[init]), init);
		if (!json_array_size(json_object_get(spec, lists[init])))
			json_object_del(spec, lists[init]);
	}
}

static void pod_status_check(struct walk *w, json_t *status)
{
	if (json_array_size(json_object_get(status, "podIPs")))
		json_object_del(status, "podIP"); /* the first of podIPs */
}

static const struct schema containers = {SHAPE_ARRAY, .items = &container};
static const struct field pod_spec_fields[] = {OPTIONAL("nodeName", &node_name), OPTIONAL("hostNetwork", &any_boolean),
	OPTIONAL("containers", &containers), OPTIONAL("initContainers", &containers), {0}};
static const struct schema pod_spec = {SHAPE_OBJECT, .fields = pod_spec_fields, .check = pod_spec_check};
static const struct field pod_ip_fields[] = {REQUIRED("ip", &ip_text), {0}};
static const struct schema pod_ip = {SHAPE_OBJECT, .fields = pod_ip_fields};
static const struct schema pod_ips = {SHAPE_ARRAY, .items = &pod_ip, .items_max = ADDRESSES_MAX};
static const struct schema phase = {
	SHAPE_STRING, .empty_absent = true, .words = WORDS("Pending", "Running", "Succeeded", "Failed", "Unknown")};
static const struct field pod_status_fields[] = {
	OPTIONAL("phase", &phase), OPTIONAL("podIP", &optional_ip), OPTIONAL("podIPs", &pod_ips), {0}};
static const struct schema pod_status = {SHAPE_OBJECT, .fields = pod_status_fields, .check = pod_status_check};
static const struct field pod_fields[] = {
	OBJECT_FIELDS, OPTIONAL("spec", &pod_spec), OPTIONAL("status", &pod_status), {0}};
const struct schema pod_schema = {SHAPE_OBJECT, .fields = pod_fields};

/* ---- Service ---- */

static const char *cluster_ip_wrong(const char *text)
{
	return strcmp(text, "None") && ip_wrong(text) ? "is neither an IP address nor None" : NULL;
}

static const struct schema cluster_ip = {SHAPE_STRING, .empty_absent = true, .wrong = cluster_ip_wrong};
static const struct schema cluster_ips = {SHAPE_ARRAY, .items = &cluster_ip};
static const struct schema service_type = {
	SHAPE_STRING, .empty_absent = true, .words = WORDS("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")};
static const struct schema node_port = {SHAPE_INTEGER, .high = 65535, .what = "a port"}; /* 0 = none */
static const struct field service_port_fields[] = {OPTIONAL("name", &dns_label), OPTIONAL("protocol", &protocol_word),
	REQUIRED("port", &port_number), OPTIONAL("nodePort", &node_port), {0}};
static const struct schema service_port = {SHAPE_OBJECT, .fields = service_port_fields};
static const struct schema service_ports = {SHAPE_ARRAY, .items = &service_port};
static const struct field service_spec_fields[] = {OPTIONAL("type", &service_type), OPTIONAL("clusterIP", &cluster_ip),
	OPTIONAL("clusterIPs", &cluster_ips), OPTIONAL("externalIPs", &ips), OPTIONAL("ports", &service_ports), {0}};
static const struct schema service_spec = {SHAPE_OBJECT, .fields = service_spec_fields};
static const struct schema ip_mode = {SHAPE_STRING, .empty_absent = true, .words = WORDS("VIP", "Proxy")};
static const struct field ingress_fields[] = {OPTIONAL("ip", &optional_ip), OPTIONAL("ipMode", &ip_mode), {0}};
static const struct schema ingress = {SHAPE_OBJECT, .fields = ingress_fields};
static const struct schema ingresses = {SHAPE_ARRAY, .items = &ingress};
static const struct field balancer_fields[] = {OPTIONAL("ingress", &ingresses), {0}};
static const struct schema balancer = {SHAPE_OBJECT, .fields = balancer_fields};
static const struct field service_status_fields[] = {OPTIONAL("loadBalancer", &balancer), {0}};
static const struct schema service_status = {SHAPE_OBJECT, .fields = service_status_fields};
static const struct field service_fields[] = {
	OBJECT_FIELDS, OPTIONAL("spec", &service_spec), OPTIONAL("status", &service_status), {0}};
const struct schema service_schema = {SHAPE_OBJECT, .fields = service_fields};

/* ---- EndpointSlice ---- */

static void slice_check(struct walk *w, json_t *slice)
{
	const char *type = json_string_value(json_object_get(slice, "addressType"));
	if (!type || !strcmp(type, "FQDN"))
		return;
	size_t i, j;
	json_t *endpoint, *address;
	size_t top = walk_key(w, "endpoints");
	json_array_foreach(json_object_get(slice, "endpoints"), i, endpoint)
	{
		size_t before = walk_index(w, i);
		walk_key(w, "addresses");
		json_array_foreach(json_object_get(endpoint, "addresses"), j, address)
		{
			struct ip ip;
			const char *text = json_string_value(address);
			if (text && (ip_parse(text, &ip) || (ip.family == 4) != !strcmp(type, "IPv4")))
				walk_error_index(w, j, "\"%s\" is not an %s address", quote(text).text, type);
		}
		walk_leave(w, before);
	}
	walk_leave(w, top);
}

static const struct field conditions_fields[] = {
	OPTIONAL("ready", &any_boolean), OPTIONAL("serving", &any_boolean), OPTIONAL("terminating", &any_boolean), {0}};
static const struct schema conditions = {SHAPE_OBJECT, .fields = conditions_fields};
static const struct schema addresses = {SHAPE_ARRAY, .items = &any_string, .items_min = 1, .items_max = 100};
static const struct field endpoint_fields[] = {
	REQUIRED("addresses", &addresses), OPTIONAL("conditions", &conditions), OPTIONAL("nodeName", &node_name), {0}};
static const struct schema endpoint = {SHAPE_OBJECT, .fields = endpoint_fields};
static const struct schema endpoints = {SHAPE_ARRAY, .items = &endpoint, .items_max = 1000};
static const struct field slice_port_fields[] = {
	OPTIONAL("name", &dns_label), OPTIONAL("protocol", &protocol_word), OPTIONAL("port", &port_number), {0}};
static const struct schema slice_port = {SHAPE_OBJECT, .fields = slice_port_fields};
static const struct schema slice_ports = {SHAPE_ARRAY, .items = &slice_port};
static const struct schema address_type = {SHAPE_STRING, .words = WORDS("IPv4", "IPv6", "FQDN")};
static const struct field slice_fields[] = {OBJECT_FIELDS, REQUIRED("addressType", &address_type),
	OPTIONAL("endpoints", &endpoints), OPTIONAL("ports", &slice_ports), {0}};
const struct schema endpoint_slice_schema = {SHAPE_OBJECT, .fields = slice_fields, .check = slice_check};

/* v1beta1 has `topology` where v1 has nodeName, zone and deprecatedTopology, of which only the first is read. What the
 * field says counts more than what the map says. */
static void endpoint_v1beta1_check(struct walk *w, json_t *pruned)
{
	static const char hostname[] = "kubernetes.io/hostname";
	json_t *node = json_object_get(json_object_get(pruned, "topology"), hostname);
	const char *text = json_string_value(node), *why = NULL;
	if (text && *text && !json_object_get(pruned, "nodeName")) {
		size_t before = walk_key(w, "topology");
		if ((why = dns_subdomain_wrong(text)))
			walk_error_key(w, hostname, "\"%s\" %s", quote(text).text, why);
		walk_leave(w, before);
		json_object_set(pruned, "nodeName", node);
	}
	json_object_del(pruned, "topology");
}

static void slice_v1beta1_check(struct walk *w, json_t *slice)
{
	slice_check(w, slice);
	json_object_set_new(slice, "apiVersion", json_string(KUBE_DISCOVERY));
}

static const struct schema topology = {.shape = SHAPE_MAP};
static const struct field endpoint_v1beta1_fields[] = {REQUIRED("addresses", &addresses),
	OPTIONAL("conditions", &conditions), OPTIONAL("nodeName", &node_name), OPTIONAL("topology", &topology), {0}};
static const struct schema endpoint_v1beta1 = {
	SHAPE_OBJECT, .fields = endpoint_v1beta1_fields, .check = endpoint_v1beta1_check};
static const struct schema endpoints_v1beta1 = {SHAPE_ARRAY, .items = &endpoint_v1beta1, .items_max = 1000};
static const struct field slice_v1beta1_fields[] = {OBJECT_FIELDS, REQUIRED("addressType", &address_type),
	OPTIONAL("endpoints", &endpoints_v1beta1), OPTIONAL("ports", &slice_ports), {0}};
const struct schema endpoint_slice_v1beta1_schema = {
	SHAPE_OBJECT, .fields = slice_v1beta1_fields, .check = slice_v1beta1_check};
