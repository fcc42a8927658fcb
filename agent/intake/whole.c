/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/intake/whole.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "agent/base/map.h"
#include "agent/base/mem.h"

void whole_items_add(struct whole_items *items, const struct object *object, const char *pointer)
{
	items->list = list_room(items->list, items->count, &items->capacity, sizeof(*items->list));
	struct whole_item *item = &items->list[items->count++];
	item->object = object;
	snprintf(item->pointer, sizeof(item->pointer), "%s", pointer);
}

void whole_items_clear(struct whole_items *items)
{
	free(items->list);
	memset(items, 0, sizeof(*items));
}

struct faults {
	struct whole_fault *list;
	size_t count, capacity;
};

static struct error *fault_add(struct faults *faults, struct whole_item *item, bool tolerable)
{
	faults->list = list_room(faults->list, faults->count, &faults->capacity, sizeof(*faults->list));
	struct whole_fault *fault = &faults->list[faults->count++];
	*fault = (struct whole_fault){.item = item, .tolerable = tolerable};
	return &fault->error;
}

/* ---- one address, one Workload ---- */

/* Addresses of the Workloads that stay as they are, and then of the body's, in its order: the later one is at fault. */
static void addresses_of_base(struct draft *draft, const struct snapshot *base, struct map *holders)
{
	size_t at, end;
	for (snapshot_range(base, KIND_WORKLOAD, NULL, &at, &end); at < end; at++) {
		const struct object *o = base->objects[at];
		const struct object *now = draft_find(draft, o->kind, o->namespace, o->name);
		if (!now || strcmp(now->json, o->json))
			continue;
		for (size_t i = 0; i < o->workload->ip_count; i++)
			map_put(holders, o->workload->ips[i].bytes, &o);
	}
}

static bool addresses_fault(const struct map *holders, struct whole_item *item, struct faults *faults)
{
	const struct workload *workload = item->object->workload;
	bool faulty = false;
	for (size_t i = 0; i < workload->ip_count; i++) {
		const struct object **holder = map_get(holders, workload->ips[i].bytes);
		if (!holder || object_compare(*holder, item->object) == 0)
			continue;
		char text[ADDR_TEXT_MAX], path[96];
		ip_format(&workload->ips[i], text);
		snprintf(path, sizeof(path), "%s/spec/ips/%zu", item->pointer, i);
		error_set(fault_add(faults, item, false), ERROR_INVALID, EINVAL, path, "%s is the address of Workload %s/%s",
			text, (*holder)->namespace, (*holder)->name);
		faulty = true;
	}
	return faulty;
}

static void addresses_check(struct draft *draft, const struct snapshot *base, const struct whole_items *items,
	bool set_aside, struct faults *faults)
{
	struct map holders;
	map_init(&holders, 16, sizeof(const struct object *));
	bool looked = false;
	for (size_t n = 0; n < items->count; n++) {
		const struct object *o = items->list[n].object;
		if (!o || o->kind != KIND_WORKLOAD)
			continue;
		if (!looked)
			addresses_of_base(draft, base, &holders);
		looked = true;
		if (addresses_fault(&holders, &items->list[n], faults) && set_aside)
			continue;
		for (size_t i = 0; i < o->workload->ip_count; i++)
			if (!map_get(&holders, o->workload->ips[i].bytes))
				map_put(&holders, o->workload->ips[i].bytes, &o);
	}
	map_clear(&holders);
}

/* ---- every proxy that a rule names is there, and takes what the rule names ---- */

static struct whole_item *items_find(const struct whole_items *items, const struct object *object)
{
	for (size_t n = 0; n < items->count; n++)
		if (items->list[n].object && object_compare(items->list[n].object, object) == 0)
			return &items->list[n];
	return NULL;
}

static void proxy_fault(
	const struct object *policy, const char *field, const char *proxy, struct whole_item *item, struct faults *faults)
{
	char path[128];
	struct error *e = fault_add(faults, item, true);
	snprintf(path, sizeof(path), "%s%s", item ? item->pointer : "", field);
	if (item)
		error_set(e, ERROR_INVALID, EINVAL, path, "there is no TransparentProxy \"%s\"", proxy);
	else
		error_set(e, ERROR_INVALID, EINVAL, "",
			"InterceptPolicy \"%s\" names TransparentProxy \"%s\" at %s, which would be gone", policy->name, proxy,
			field);
}

/* A port without a protocol is a name, and that of all protocols of the proxy. */
static bool proxy_takes(const struct proxy *proxy, uint8_t protocol)
{
	return protocol == PROTOCOL_TCP ? proxy->tcp : protocol != PROTOCOL_UDP || proxy->udp;
}

static void protocol_fault(const struct object *policy, const char *field, const struct object *proxy, uint8_t protocol,
	struct whole_item *item, struct faults *faults)
{
	const char *named = protocol == PROTOCOL_UDP ? "UDP" : "TCP", *taken = protocol == PROTOCOL_UDP ? "TCP" : "UDP";
	char path[192];
	struct error *e = fault_add(faults, item, true);
	if (item->object->kind == KIND_INTERCEPT_POLICY) {
		snprintf(path, sizeof(path), "%s%s", item->pointer, field);
		error_set(e, ERROR_INVALID, EINVAL, path, "TransparentProxy \"%s\" takes %s only", proxy->name, taken);
	} else {
		snprintf(path, sizeof(path), "%s/spec/protocols", item->pointer);
		error_set(
			e, ERROR_INVALID, EINVAL, path, "InterceptPolicy \"%s\" hands it %s, at %s", policy->name, named, field);
	}
}

/* item: the policy's in the body, else the proxy's, which was `before`. */
static void protocols_of(const struct object *policy, const char *field, const struct rule *rule,
	const struct object *proxy, const struct object *before, struct whole_item *item, struct faults *faults)
{
	for (size_t i = 0; item && i < rule->port_count; i++) {
		uint8_t protocol = rule->ports[i].protocol;
		char path[128];
		if (proxy_takes(proxy->proxy, protocol) || (before && !proxy_takes(before->proxy, protocol)))
			continue;
		snprintf(path, sizeof(path), "%s/protocols/%zu/%s", field, i, protocol == PROTOCOL_UDP ? "udp" : "tcp");
		protocol_fault(policy, path, proxy, protocol, item, faults);
	}
}

/* item: the policy is the body's; NULL: it stands already, and a proxy that was absent before, or did not take a
 * protocol (that came with ?invalid=quarantine), is no fault of this write. */
static void proxies_of(struct draft *draft, const struct snapshot *base, const struct whole_items *items,
	const struct object *policy, struct whole_item *item, struct faults *faults)
{
	for (int d = 0; d < DIRECTIONS; d++) {
		for (size_t i = 0; i < policy->policy->rule_count[d]; i++) {
			const struct rule *rule = &policy->policy->rules[d][i];
			const struct object *proxy, *before = NULL;
			char field[64], path[80];
			if (!rule->proxy || !rule->proxy[0])
				continue;
			proxy = draft_find(draft, KIND_TRANSPARENT_PROXY, "", rule->proxy);
			if (!item && !(before = snapshot_find(base, KIND_TRANSPARENT_PROXY, "", rule->proxy)))
				continue;
			snprintf(field, sizeof(field), "/spec/%s/%zu", d == EGRESS ? "egress" : "ingress", i);
			snprintf(path, sizeof(path), "%s/proxy", field);
			if (!proxy)
				proxy_fault(policy, path, rule->proxy, item, faults);
			else
				protocols_of(policy, field, rule, proxy, before, item ? item : items_find(items, proxy), faults);
		}
	}
}

static void proxies_check(
	struct draft *draft, const struct snapshot *base, const struct whole_items *items, struct faults *faults)
{
	for (size_t n = 0; n < items->count; n++)
		if (items->list[n].object && items->list[n].object->kind == KIND_INTERCEPT_POLICY)
			proxies_of(draft, base, items, items->list[n].object, &items->list[n], faults);
	size_t at, end;
	for (snapshot_range(base, KIND_INTERCEPT_POLICY, NULL, &at, &end); at < end; at++) {
		const struct object *o = base->objects[at];
		if (draft_find(draft, o->kind, "", o->name) && !items_find(items, o))
			proxies_of(draft, base, items, o, NULL, faults);
	}
}

size_t whole_check(struct draft *draft, const struct snapshot *base, const struct whole_items *items, bool set_aside,
	struct whole_fault **ret)
{
	struct faults faults = {0};
	addresses_check(draft, base, items, set_aside, &faults);
	proxies_check(draft, base, items, &faults);
	*ret = faults.list;
	return faults.count;
}
