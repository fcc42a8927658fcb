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

/* A node port is there in the families of the Service's addresses. */
static bool service_has_family(const struct service *service, uint8_t family)
{
	for (size_t i = 0; i < service->ip_count; i++)
		if (service->ips[i].family == family)
			return true;
	return false;
}

static void uses_find(
	const struct snapshot *snapshot, const struct ip *ip, uint8_t protocol, uint16_t port, struct backends *ret)
{
	size_t at, end, room = 0;
	for (snapshot_range(snapshot, KIND_SERVICE, NULL, &at, &end); at < end; at++) {
		const struct object *object = snapshot->objects[at];
		const struct service *service = object->service;
		bool here = ret->node_port ? service_has_family(service, ip->family) : service_has(service, ip);
		for (size_t i = 0; here && i < service->port_count; i++) {
			const struct service_port *own = &service->ports[i];
			if (own->protocol != protocol || (ret->node_port ? own->node_port : own->port) != port)
				continue;
			ret->uses = list_room(ret->uses, ret->use_count, &room, sizeof(*ret->uses));
			ret->uses[ret->use_count++] = (struct backends_use){.service = object, .port = own};
		}
	}
}

/* As kube-proxy chooses: who is ready; if nobody is, who serves while it ends. */
static bool backend_usable(const struct backend *backend, bool terminating)
{
	return terminating ? backend->serving && backend->terminating : backend->ready;
}

static void slice_targets(const struct endpoint_slice *slice, uint8_t family, const struct backends_use *use,
	struct backends *ret, size_t *room)
{
	for (size_t i = 0; i < slice->port_count; i++) {
		const struct named_port *port = &slice->ports[i];
		if (strcmp(port->name, use->port->name) != 0 || port->protocol != use->port->protocol)
			continue;
		for (size_t j = 0; j < slice->backend_count; j++) {
			const struct backend *backend = &slice->backends[j];
			if (backend->ip.family != family || !backend_usable(backend, use->terminating))
				continue;
			ret->targets = list_room(ret->targets, ret->count, room, sizeof(*ret->targets));
			ret->targets[ret->count++] = (struct explain_target){.ip = backend->ip, .port = port->port, .context = use};
		}
	}
}

static void use_targets(
	const struct snapshot *snapshot, uint8_t family, const struct backends_use *use, struct backends *ret, size_t *room)
{
	size_t at, end;
	for (snapshot_range(snapshot, KIND_ENDPOINT_SLICE, use->service->namespace, &at, &end); at < end; at++) {
		const struct endpoint_slice *slice = snapshot->objects[at]->slice;
		if (strcmp(slice->service, use->service->name) == 0)
			slice_targets(slice, family, use, ret, room);
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
	size_t room = 0, kept = 0;
	for (size_t i = 0; i < ret->use_count; i++) {
		size_t before = ret->count;
		use_targets(snapshot, family, &ret->uses[i], ret, &room);
		if (ret->count > before)
			continue;
		ret->uses[i].terminating = true;
		use_targets(snapshot, family, &ret->uses[i], ret, &room);
	}
	if (ret->count)
		qsort(ret->targets, ret->count, sizeof(*ret->targets), target_order);
	for (size_t i = 0; i < ret->count; i++)
		if (!kept || target_order(&ret->targets[kept - 1], &ret->targets[i]))
			ret->targets[kept++] = ret->targets[i];
	ret->total = kept;
	ret->count = kept < BACKENDS_LISTED ? kept : BACKENDS_LISTED;
}

/* The first target of this address, as an index; count: there is none. */
static size_t target_search(const struct backends *backends, const struct ip *ip)
{
	size_t first = 0, end = backends->count;
	while (first < end) {
		size_t middle = first + (end - first) / 2;
		if (ip_compare(&backends->targets[middle].ip, ip) < 0)
			first = middle + 1;
		else
			end = middle;
	}
	return first < backends->count && ip_equal(&backends->targets[first].ip, ip) ? first : backends->count;
}

/* As address_owner says it, in one walk: of many backends each would be a walk of its own. */
static void object_owns(struct backends *backends, const struct object *object)
{
	const struct workload *workload = object->workload;
	for (size_t i = 0; !workload->host_network && !workload->ended && i < workload->ip_count; i++) {
		const struct ip *ip = &workload->ips[i];
		for (size_t at = target_search(backends, ip); at < backends->count && ip_equal(&backends->targets[at].ip, ip);
			 at++) {
			const struct object *owner = backends->owners[at];
			if (!owner || (owner->kind == object->kind && object->created > owner->created))
				backends->owners[at] = object;
		}
	}
}

static void owners_find(const struct snapshot *snapshot, struct backends *ret)
{
	static const enum kind by_rank[] = {KIND_WORKLOAD, KIND_POD};
	ret->owners = mem_array(ret->count, sizeof(*ret->owners));
	for (int i = 0; ret->count && i < 2; i++) {
		size_t at, end;
		for (snapshot_range(snapshot, by_rank[i], NULL, &at, &end); at < end; at++)
			object_owns(ret, snapshot->objects[at]);
	}
}

void backends_find(
	const struct snapshot *snapshot, const struct ip *ip, uint8_t protocol, uint16_t port, struct backends *ret)
{
	*ret = (struct backends){0};
	uses_find(snapshot, ip, protocol, port, ret);
	ret->node_port = !ret->use_count && port;
	if (ret->node_port)
		uses_find(snapshot, ip, protocol, port, ret);
	targets_find(snapshot, ip->family, ret);
	owners_find(snapshot, ret);
}

void backends_clear(struct backends *backends)
{
	free(backends->uses);
	free(backends->targets);
	free(backends->owners);
	*backends = (struct backends){0};
}
