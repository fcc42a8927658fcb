/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/compile/endpoint.h"
#include <string.h>
#include "agent/base/mem.h"
#include "agent/compile/class.h"
#include "agent/compile/profile.h"

/* The object's namespace, name and workload are borrowed: they are set anew with each version of the object. */
static void endpoint_read(struct endpoint_slot *slot)
{
	const struct object *object = slot->holder->object;
	slot->public.namespace = object->namespace;
	slot->public.name = object->name;
	slot->public.kind = object->kind;
	slot->public.workload = object->workload;
}

static void source_key(const struct endpoint_slot *slot, const struct cidr *cidr, struct ps_key_source *ret)
{
	*ret = (struct ps_key_source){.endpoint = slot->public.id};
	ret->prefix_length = 64 + cidr->length + (cidr->ip.family == 4 ? 96 : 0);
	memcpy(ret->addr, cidr->ip.bytes, 16);
}

static void sources_put(struct compiler *c, const struct endpoint_slot *slot)
{
	const struct workload *workload = slot->public.workload;
	uint32_t one = 1;
	struct ps_key_source key;
	for (size_t i = 0; i < workload->source_count; i++) {
		source_key(slot, &workload->sources[i], &key);
		tables_put(&c->tables, TABLE_source, &key, &one);
	}
}

static void sources_delete(struct compiler *c, const struct endpoint_slot *slot, const struct workload *workload)
{
	struct ps_key_source key;
	for (size_t i = 0; i < workload->source_count; i++) {
		source_key(slot, &workload->sources[i], &key);
		tables_delete(&c->tables, TABLE_source, &key);
	}
}

static struct endpoint_slot *endpoint_number(struct compiler *c)
{
	struct endpoint_slot *slot = mem_alloc(sizeof(*slot));
	uint32_t end = (uint32_t)table_infos[TABLE_endpoint].entries;
	slot->public.id = ids_take_round(&c->endpoint_ids, 1, end, c->endpoint_next);
	c->endpoint_next = slot->public.id + 1 < end ? slot->public.id + 1 : 1;
	slots_set(&c->endpoints, slot->public.id, slot);
	link_init(&slot->dirty);
	return slot;
}

struct endpoint_slot *endpoint_new(struct compiler *c, struct holder *holder)
{
	struct endpoint_slot *slot = endpoint_number(c);
	slot->holder = holder;
	endpoint_read(slot);
	sources_put(c, slot);
	endpoint_touch(c, slot);
	return slot;
}

struct endpoint_slot *endpoint_new_cgroup(struct compiler *c, struct group *group, const char *cgroup)
{
	struct endpoint_slot *slot = endpoint_number(c);
	slot->group = group;
	slot->public.cgroup = slot->public.name = cgroup;
	slot->public.namespace = "";
	slot->public.kind = KIND_INTERCEPT_POLICY;
	endpoint_touch(c, slot);
	return slot;
}

void endpoint_change(struct compiler *c, struct endpoint_slot *slot, const struct object *old)
{
	const struct workload *before = old->workload;
	endpoint_read(slot);
	const struct workload *now = slot->public.workload;
	bool same = before->source_count == now->source_count;
	for (size_t i = 0; same && i < now->source_count; i++)
		same = cidr_equal(&before->sources[i], &now->sources[i]);
	if (same)
		return;
	sources_delete(c, slot, before);
	sources_put(c, slot);
	endpoint_touch(c, slot);
}

void endpoint_end(struct compiler *c, struct endpoint_slot *slot)
{
	uint32_t id = slot->public.id;
	if (slot->holder)
		sources_delete(c, slot, slot->public.workload);
	tables_delete(&c->tables, TABLE_endpoint, &id);
	slots_set(&c->endpoints, id, NULL);
	ids_give(&c->endpoint_ids, id);
	link_remove(&slot->dirty);
	free(slot);
}

void endpoint_touch(struct compiler *c, struct endpoint_slot *slot)
{
	if (link_alone(&slot->dirty))
		link_add(&c->dirty_endpoints, &slot->dirty);
}

static uint32_t endpoint_profile(const struct endpoint_slot *slot)
{
	const struct profile *profile = (slot->holder ? slot->holder->group : slot->group)->profile;
	return profile ? profile->id : PS_PROFILE_NONE;
}

void endpoint_describe(const struct endpoint_slot *slot, struct ps_addr *ret)
{
	ret->endpoint = slot->public.id;
	ret->profile = endpoint_profile(slot);
	ret->flags = slot->public.bound ? PS_ADDR_LOCAL : 0;
	if (slot->holder->group->profile && slot->holder->group->profile->steered)
		ret->flags |= PS_ADDR_STEERED;
}

static void endpoint_emit(struct compiler *c, struct endpoint_slot *slot)
{
	const struct holder *holder = slot->holder;
	struct ps_endpoint value = {.profile = endpoint_profile(slot), .flags = PS_ENDPOINT_USED};
	for (size_t i = 0; holder && i < holder->claim_count; i++) {
		const struct address *address = holder->claims[i].address;
		if (address->owner != holder)
			continue;
		value.class_id = address->crossing->class->id;
		break;
	}
	if (holder && slot->public.workload->source_count)
		value.flags |= PS_ENDPOINT_SOURCES;
	slot->public.selected = value.profile != PS_PROFILE_NONE;
	tables_put(&c->tables, TABLE_endpoint, &slot->public.id, &value);
}

void endpoints_emit(struct compiler *c)
{
	LINKS_EACH_SAFE(at, after, &c->dirty_endpoints)
	{
		link_remove(at);
		endpoint_emit(c, OWNER_OF(at, struct endpoint_slot, dirty));
	}
}

void compiler_bind(struct compiler *c, uint32_t id, bool bound)
{
	struct endpoint_slot *slot = slots_get(&c->endpoints, id);
	if (!slot || slot->public.bound == bound)
		return;
	slot->public.bound = bound;
	if (!slot->holder)
		return;
	for (size_t i = 0; i < slot->holder->claim_count; i++)
		if (slot->holder->claims[i].address->owner == slot->holder)
			address_touch(c, slot->holder->claims[i].address, ADDRESS_EMIT);
	addresses_emit(c);
}

static const struct endpoint *endpoint_walk(const struct compiler *c, size_t *at, bool cgroups)
{
	while (*at < c->endpoints.size) {
		const struct endpoint_slot *slot = slots_get(&c->endpoints, (uint32_t)(*at)++);
		if (slot && cgroups == !!slot->public.cgroup)
			return &slot->public;
	}
	return NULL;
}

const struct endpoint *compiler_endpoint_next(const struct compiler *c, size_t *at)
{
	return endpoint_walk(c, at, false);
}

const struct endpoint *compiler_cgroup_next(const struct compiler *c, size_t *at)
{
	return endpoint_walk(c, at, true);
}

const struct endpoint *compiler_endpoint_find(const struct compiler *c, uint32_t id)
{
	const struct endpoint_slot *slot = slots_get(&c->endpoints, id);
	return slot ? &slot->public : NULL;
}
