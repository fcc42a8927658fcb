/* SPDX-License-Identifier: Apache-2.0 */
/* Services and where their backends are. */
#include <string.h>

#include "agent/base/mem.h"
#include "agent/model/content.h"

#define SERVICE_NAME_LABEL "kubernetes.io/service-name"

static const char *string_of(const json_t *object, const char *field)
{
	return json_string_value(json_object_get(object, field));
}

static uint16_t number_of(const json_t *object, const char *field)
{
	return (uint16_t)json_integer_value(json_object_get(object, field));
}

/* What has no cluster IP by intention is not translated, whatever else it says. */
static bool service_is_translated(const json_t *spec)
{
	const char *type = string_of(spec, "type"), *own = string_of(spec, "clusterIP");
	size_t i;
	json_t *value;
	if ((type && !strcmp(type, "ExternalName")) || (own && !strcmp(own, "None")))
		return false;
	json_array_foreach(json_object_get(spec, "clusterIPs"), i, value)
	{
		const char *text = json_string_value(value);
		if (text && !strcmp(text, "None"))
			return false;
	}
	return true;
}

/* As kube-proxy: of a family without cluster IP nothing is translated. */
static void service_add_address(struct service *service, size_t cluster_ips, const char *text)
{
	struct ip ip;
	if (!text || ip_parse(text, &ip))
		return;
	for (size_t i = 0; i < cluster_ips; i++)
		if (service->ips[i].family == ip.family) {
			ip_add(&service->ips, &service->ip_count, text);
			return;
		}
}

static void service_read_addresses(struct service *service, const json_t *spec, const json_t *status)
{
	size_t i;
	json_t *value;
	json_array_foreach(json_object_get(spec, "clusterIPs"), i, value)
	{
		ip_add(&service->ips, &service->ip_count, json_string_value(value));
	}
	if (!service->ip_count)
		ip_add(&service->ips, &service->ip_count, string_of(spec, "clusterIP"));
	size_t cluster_ips = service->ip_count;
	json_array_foreach(json_object_get(spec, "externalIPs"), i, value)
	{
		service_add_address(service, cluster_ips, json_string_value(value));
	}
	json_array_foreach(json_object_get(json_object_get(status, "loadBalancer"), "ingress"), i, value)
	{
		const char *mode = string_of(value, "ipMode");
		if (!mode || strcmp(mode, "Proxy"))
			service_add_address(service, cluster_ips, string_of(value, "ip"));
	}
}

struct service *service_read(const json_t *json)
{
	const json_t *spec = json_object_get(json, "spec"), *ports = json_object_get(spec, "ports");
	struct service *service = mem_alloc(sizeof(*service));
	size_t i;
	json_t *port;
	if (!service_is_translated(spec))
		return service;
	service_read_addresses(service, spec, json_object_get(json, "status"));
	service->ports = mem_array(json_array_size(ports), sizeof(*service->ports));
	json_array_foreach(ports, i, port)
	{
		service->ports[service->port_count++] = (struct service_port){
			.name = text_read(port, "name"),
			.port = number_of(port, "port"),
			.node_port = number_of(port, "nodePort"),
			.protocol = protocol_parse(string_of(port, "protocol")),
		};
	}
	return service;
}

void service_free(struct service *service)
{
	if (!service)
		return;
	for (size_t i = 0; i < service->port_count; i++)
		free(service->ports[i].name);
	free(service->ports);
	free(service->ips);
	free(service);
}

/* As kube-proxy: ready null and serving null are true, terminating null is false. */
static struct backend backend_read(const json_t *conditions)
{
	return (struct backend){
		.ready = !json_is_false(json_object_get(conditions, "ready")),
		.serving = !json_is_false(json_object_get(conditions, "serving")),
		.terminating = json_is_true(json_object_get(conditions, "terminating")),
	};
}

/* Addresses beyond an endpoint's first have no meaning. */
static void slice_read_backends(struct endpoint_slice *slice, const json_t *endpoints)
{
	size_t i;
	json_t *endpoint;
	slice->backends = mem_array(json_array_size(endpoints), sizeof(*slice->backends));
	json_array_foreach(endpoints, i, endpoint)
	{
		struct backend backend = backend_read(json_object_get(endpoint, "conditions"));
		const json_t *first = json_array_get(json_object_get(endpoint, "addresses"), 0);
		if (!ip_parse(json_string_value(first), &backend.ip))
			slice->backends[slice->backend_count++] = backend;
	}
}

/* A port without a number is every port, which no Service can mean. */
static void slice_read_ports(struct endpoint_slice *slice, const json_t *ports)
{
	size_t i;
	json_t *port;
	slice->ports = mem_array(json_array_size(ports), sizeof(*slice->ports));
	json_array_foreach(ports, i, port)
	{
		if (!json_object_get(port, "port"))
			continue;
		slice->ports[slice->port_count++] = (struct named_port){
			.name = text_read(port, "name"),
			.port = number_of(port, "port"),
			.protocol = protocol_parse(string_of(port, "protocol")),
		};
	}
}

struct endpoint_slice *slice_read(const json_t *json)
{
	const json_t *labels = json_object_get(json_object_get(json, "metadata"), "labels");
	struct endpoint_slice *slice = mem_alloc(sizeof(*slice));
	slice->service = text_read(labels, SERVICE_NAME_LABEL);
	slice_read_ports(slice, json_object_get(json, "ports"));
	if (strcmp(string_of(json, "addressType"), "FQDN") != 0)
		slice_read_backends(slice, json_object_get(json, "endpoints"));
	return slice;
}

void slice_free(struct endpoint_slice *slice)
{
	if (!slice)
		return;
	for (size_t i = 0; i < slice->port_count; i++)
		free(slice->ports[i].name);
	free(slice->ports);
	free(slice->backends);
	free(slice->service);
	free(slice);
}
