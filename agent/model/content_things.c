/* SPDX-License-Identifier: Apache-2.0 */
/* What has addresses, and proxies. */
#include <string.h>

#include "agent/base/map.h"
#include "agent/base/mem.h"
#include "agent/model/check.h"
#include "agent/model/content.h"

enum content content_of(enum kind kind)
{
	static const enum content contents[KIND_COUNT] = {
		[KIND_NODE] = CONTENT_NODE,
		[KIND_POD] = CONTENT_WORKLOAD,
		[KIND_WORKLOAD] = CONTENT_WORKLOAD,
		[KIND_NETWORK_POLICY] = CONTENT_POLICY,
		[KIND_CLUSTER_NETWORK_POLICY] = CONTENT_POLICY,
		[KIND_SERVICE] = CONTENT_SERVICE,
		[KIND_ENDPOINT_SLICE] = CONTENT_SLICE,
		[KIND_TRANSPARENT_PROXY] = CONTENT_PROXY,
		[KIND_INTERCEPT_POLICY] = CONTENT_POLICY,
		[KIND_NODE_FILTER] = CONTENT_POLICY,
	};
	return contents[kind];
}

void content_read(struct object *object, const json_t *pruned)
{
	const json_t *spec = json_object_get(pruned, "spec");
	switch (content_of(object->kind)) {
	case CONTENT_WORKLOAD:
		object->workload = object->kind == KIND_POD ? pod_read(pruned) : workload_read(spec);
		break;
	case CONTENT_POLICY:
		object->policy = policy_read(object->kind, spec);
		break;
	case CONTENT_NODE:
		object->node = node_read(pruned);
		break;
	case CONTENT_PROXY:
		object->proxy = proxy_read(spec);
		break;
	case CONTENT_SERVICE:
		object->service = service_read(pruned);
		break;
	case CONTENT_SLICE:
		object->slice = slice_read(pruned);
		break;
	case CONTENT_NONE:
		break;
	}
}

char *text_read(const json_t *object, const char *field)
{
	const char *text = json_string_value(json_object_get(object, field));
	return str_dup(text ? text : "");
}

void ip_add(struct ip **list, size_t *count, const char *text)
{
	struct ip ip;
	if (!text || ip_parse(text, &ip))
		return;
	for (size_t i = 0; i < *count; i++)
		if (ip_equal(&(*list)[i], &ip))
			return;
	*list = mem_resize(*list, *count + 1, sizeof(**list));
	(*list)[(*count)++] = ip;
}

uint8_t protocol_parse(const char *text)
{
	if (!text || !strcmp(text, "TCP"))
		return PROTOCOL_TCP;
	return strcmp(text, "UDP") ? PROTOCOL_SCTP : PROTOCOL_UDP;
}

/* Ports without a name say nothing that a policy could use. The first port of a name is the one that counts. */
static void ports_add(struct workload *workload, const json_t *ports, const char *number)
{
	size_t i;
	json_t *port;
	json_array_foreach(ports, i, port)
	{
		const char *name = json_string_value(json_object_get(port, "name"));
		if (!name)
			continue;
		workload->ports = mem_resize(workload->ports, workload->port_count + 1, sizeof(*workload->ports));
		workload->ports[workload->port_count++] = (struct named_port){
			.name = str_dup(name),
			.port = (uint16_t)json_integer_value(json_object_get(port, number)),
			.protocol = protocol_parse(json_string_value(json_object_get(port, "protocol"))),
		};
	}
}

struct workload *workload_read(const json_t *spec)
{
	struct workload *workload = mem_alloc(sizeof(*workload));
	size_t i;
	json_t *value;
	json_array_foreach(json_object_get(spec, "ips"), i, value)
	{
		ip_add(&workload->ips, &workload->ip_count, json_string_value(value));
	}
	const json_t *sources = json_object_get(spec, "allowedSources");
	if (json_array_size(sources))
		workload->sources = mem_array(json_array_size(sources), sizeof(*workload->sources));
	json_array_foreach(sources, i, value)
	{
		cidr_parse(json_string_value(value), &workload->sources[workload->source_count++]);
	}
	workload->node = text_read(spec, "node");
	workload->interface = text_read(spec, "interface");
	ports_add(workload, json_object_get(spec, "ports"), "port");
	return workload;
}

static uint64_t bandwidth_read(const json_t *pod, const char *annotation)
{
	const json_t *annotations = json_object_get(json_object_get(pod, "metadata"), "annotations");
	const char *text = json_string_value(json_object_get(annotations, annotation));
	uint64_t bits = 0;
	return text && !quantity_parse(text, &bits) ? bits : 0;
}

struct workload *pod_read(const json_t *pod)
{
	const json_t *spec = json_object_get(pod, "spec"), *status = json_object_get(pod, "status");
	struct workload *workload = mem_alloc(sizeof(*workload));
	static const char *const lists[] = {"containers", "initContainers"};
	size_t i;
	json_t *value;
	json_array_foreach(json_object_get(status, "podIPs"), i, value)
	{
		ip_add(&workload->ips, &workload->ip_count, json_string_value(json_object_get(value, "ip")));
	}
	if (!workload->ip_count)
		ip_add(&workload->ips, &workload->ip_count, json_string_value(json_object_get(status, "podIP")));
	for (size_t list = 0; list < sizeof(lists) / sizeof(*lists); list++)
		json_array_foreach(json_object_get(spec, lists[list]), i, value)
		{
			ports_add(workload, json_object_get(value, "ports"), "containerPort");
		}
	workload->node = text_read(spec, "nodeName");
	workload->interface = str_dup("");
	workload->host_network = json_is_true(json_object_get(spec, "hostNetwork"));
	const char *phase = json_string_value(json_object_get(status, "phase"));
	workload->ended = phase && (!strcmp(phase, "Succeeded") || !strcmp(phase, "Failed"));
	workload->bandwidth[EGRESS] = bandwidth_read(pod, "kubernetes.io/egress-bandwidth");
	workload->bandwidth[INGRESS] = bandwidth_read(pod, "kubernetes.io/ingress-bandwidth");
	return workload;
}

struct node *node_read(const json_t *json)
{
	struct node *node = mem_alloc(sizeof(*node));
	size_t i;
	json_t *address;
	json_array_foreach(json_object_get(json_object_get(json, "status"), "addresses"), i, address)
	{
		const char *type = json_string_value(json_object_get(address, "type"));
		if (!strcmp(type, "InternalIP") || !strcmp(type, "ExternalIP"))
			ip_add(&node->ips, &node->ip_count, json_string_value(json_object_get(address, "address")));
	}
	return node;
}

struct proxy *proxy_read(const json_t *spec)
{
	struct proxy *proxy = mem_alloc(sizeof(*proxy));
	const json_t *protocols = json_object_get(spec, "protocols"), *process = json_object_get(spec, "process");
	const char *unavailable = json_string_value(json_object_get(spec, "onUnavailable"));
	const json_t *uid = json_object_get(process, "uid");
	size_t i;
	json_t *protocol;
	proxy->port = (uint16_t)json_integer_value(json_object_get(spec, "port"));
	proxy->tcp = !protocols;
	json_array_foreach(protocols, i, protocol)
	{
		*(strcmp(json_string_value(protocol), "TCP") ? &proxy->udp : &proxy->tcp) = true;
	}
	proxy->bypass = unavailable && !strcmp(unavailable, "Bypass");
	proxy->uid = uid ? json_integer_value(uid) : -1;
	proxy->cgroup = text_read(process, "cgroup");
	proxy->executable = text_read(process, "executable");
	return proxy;
}
