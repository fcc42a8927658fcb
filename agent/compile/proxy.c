/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/compile/proxy.h"
#include "agent/base/mem.h"

static struct proxy_slot *proxy_reach(struct compiler *c, const char *name)
{
	struct proxy_slot *slot = names_get(&c->proxies, name);
	if (slot)
		return slot;
	uint32_t end = (uint32_t)table_infos[TABLE_proxy].entries;
	slot = mem_alloc(sizeof(*slot));
	slot->name = str_dup(name);
	slot->number = ids_take_round(&c->proxy_ids, 1, end, c->proxy_next);
	c->proxy_next = slot->number + 1 < end ? slot->number + 1 : 1;
	slots_set(&c->proxy_by_number, slot->number, slot);
	names_put(&c->proxies, name, slot);
	return slot;
}

static void proxy_release(struct compiler *c, struct proxy_slot *slot)
{
	if (slot->uses || slot->object)
		return;
	names_delete(&c->proxies, slot->name);
	slots_set(&c->proxy_by_number, slot->number, NULL);
	ids_give(&c->proxy_ids, slot->number);
	free(slot->name);
	free(slot);
}

struct proxy_slot *proxy_take(struct compiler *c, const char *name)
{
	struct proxy_slot *slot = proxy_reach(c, name);
	slot->uses++;
	return slot;
}

void proxy_drop(struct compiler *c, struct proxy_slot *slot)
{
	slot->uses--;
	proxy_release(c, slot);
}

bool proxy_takes(const struct proxy_slot *slot, uint8_t protocol)
{
	if (protocol == PROTOCOL_TCP)
		return !slot->object || slot->object->proxy->tcp;
	return protocol == PROTOCOL_UDP && slot->object && slot->object->proxy->udp;
}

bool proxy_update(struct compiler *c, const struct object *old, const struct object *new)
{
	struct proxy_slot *slot = proxy_reach(c, (new ? new : old)->name);
	bool tcp = proxy_takes(slot, PROTOCOL_TCP), udp = proxy_takes(slot, PROTOCOL_UDP);
	const struct object *before = slot->object;
	slot->object = new ? object_get(new) : NULL;
	if (before)
		object_put(before);
	struct ps_proxy value = {0};
	if (new) {
		value.port = new->proxy->port;
		value.chosen = proxy_chosen(new->proxy);
		value.flags = PS_PROXY_USED | (new->proxy->bypass ? PS_PROXY_BYPASS : 0);
	}
	tables_put(&c->tables, TABLE_proxy, &slot->number, &value);
	bool changed = tcp != proxy_takes(slot, PROTOCOL_TCP) || udp != proxy_takes(slot, PROTOCOL_UDP);
	proxy_release(c, slot);
	return changed;
}

const char *compiler_proxy_name(const struct compiler *c, uint8_t number)
{
	const struct proxy_slot *slot = slots_get(&c->proxy_by_number, number);
	return slot ? slot->name : NULL;
}
