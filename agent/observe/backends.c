/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/observe/backends.h"

#include <stdlib.h>
#include <string.h>
#include "agent/base/mem.h"

static bool service_has(const struct service *service, const struct ip *ip)
{
	for (size_t i = 0; i < service->ip_count; i++)
		if (ip_equal(&service->ips[i], ip))
			return true;
	return false;
}

/* By its own address, or (ip NULL) by its node port. */
static bool service_find(
	const struct snapshot *snapshot, const struct ip *ip, uint8_t protocol, uint16_t port, struct backends *ret)
{
	size_t at, end;
	for (snapshot_range(snapshot, KIND_SERVICE, NULL, &at, &end); at < end; at++) {
		const struct object *object = snapshot->objects[at];
		const struct service *service = object->service;
		for (size_t i = 0; service && i < service->port_count; i++) {
			const struct service_port *own = &service->ports[i];
			if (own->protocol != protocol || (ip ? own->port : own->node_port) != port ||
				(ip && !service_has(service, ip)))
				continue;
			ret->service = object;
			ret->port = own;
			ret->node_port = !ip;
			return true;
		}
	}
	return false;
}

/* As kube-proxy chooses: who is ready; if nobody is, who serves while it ends. */
static bool backend_usable(const struct backend *backend, bool terminating)
{
	return terminating ? backend->serving && backend->terminating : backend->ready;
}

static void slice_targets(const struct endpoint_slice *slice, uint8_t family, struct backends *ret, size_t *room)
{
	for (size_t i = 0; i < slice->port_count; i++) {
		const struct named_port *port = &slice->ports[i];
		if (strcmp(port->name ? port->name : "", ret->port->name ? ret->port->name : "") != 0 ||
			port->protocol != ret->port->protocol)
			continue;
		for (size_t j = 0; j < slice->backend_count; j++) {
			const struct backend *backend = &slice->backends[j];
			if (backend->ip.family != family || !backend_usable(backend, ret->terminating))
				continue;
			if (ret->count == *room) {
				*room = *room ? 2 * *room : 16;
				ret->targets = mem_resize(ret->targets, *room, sizeof(*ret->targets));
			}
			ret->targets[ret->count++] = (struct explain_target){.ip = backend->ip, .port = port->port};
		}
	}
}

static int target_order(const void *left, const void *right)
{
	const struct explain_target *a = left, *b = right;
	int order = ip_compare(&a->ip, &b->ip);
	return order ? order : (a->port > b->port) - (a->port < b->port);
}

static void targets_find(const struct snapshot *snapshot, uint8_t family, struct backends *ret)
{
	size_t room = 0, kept = 0, at, end;
	for (snapshot_range(snapshot, KIND_ENDPOINT_SLICE, ret->service->namespace, &at, &end); at < end; at++) {
		const struct endpoint_slice *slice = snapshot->objects[at]->slice;
		if (slice && strcmp(slice->service, ret->service->name) == 0)
			slice_targets(slice, family, ret, &room);
	}
	if (ret->count)
		qsort(ret->targets, ret->count, sizeof(*ret->targets), target_order);
	for (size_t i = 0; i < ret->count; i++)
		if (!kept || target_order(&ret->targets[kept - 1], &ret->targets[i]))
			ret->targets[kept++] = ret->targets[i];
	ret->total = kept;
	ret->count = kept < BACKENDS_LISTED ? kept : BACKENDS_LISTED;
}

bool backends_find(
	const struct snapshot *snapshot, const struct ip *ip, uint8_t protocol, uint16_t port, struct backends *ret)
{
	*ret = (struct backends){0};
	if (!service_find(snapshot, ip, protocol, port, ret) && !service_find(snapshot, NULL, protocol, port, ret))
		return false;
	targets_find(snapshot, ip->family, ret);
	if (!ret->count) {
		ret->terminating = true;
		targets_find(snapshot, ip->family, ret);
	}
	return true;
}

void backends_clear(struct backends *backends)
{
	free(backends->targets);
	*backends = (struct backends){0};
}
