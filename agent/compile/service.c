/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/compile/service.h"
#include <string.h>
#include "agent/base/mem.h"
#include "agent/compile/holder.h"

/* An address that slices name. */
struct backend_address {
	struct ip ip;
	uint32_t class_id; /* as the entries say */
	bool own;          /* this node's */
	struct link uses, dirty;
	struct link loose; /* nobody holds it: networks alone say what it is */
};
struct backend_use {
	struct link in_address;
	struct slice_slot *slice;
	struct backend_address *address;
};
struct slice_slot {
	const struct object *object;
	struct service_slot *service;
	struct link in_service;
	struct backend_use *uses; /* one for each of the object's backends */
};
/* By "namespace/name"; slices may be there before their Service, and stay behind it. */
struct service_slot {
	char *key;
	const struct object *object; /* or NULL */
	struct link slices;
	struct service_use *uses;
	size_t use_count, use_room;
	struct link dirty;
};
struct service_key {
	uint8_t addr[16]; /* all zero: a node port */
	uint8_t family;
	uint8_t protocol;
	uint16_t port;
};
struct service_entry {
	struct service_key key;
	struct link uses, dirty;
};
/* What one port of one Service adds to an entry. */
struct service_use {
	struct link in_entry;
	struct service_entry *entry;
	struct service_slot *service;
	const struct service_port *port;
};

static char *slot_key(const char *namespace, const char *name)
{
	return str_format("%s/%s", namespace, name);
}

static void service_touch(struct compiler *c, struct service_slot *slot)
{
	if (link_alone(&slot->dirty))
		link_add(&c->dirty_services, &slot->dirty);
}

static void entry_touch(struct compiler *c, struct service_entry *entry)
{
	if (link_alone(&entry->dirty))
		link_add(&c->dirty_entries, &entry->dirty);
}

/* ---- addresses of backends ---- */

static void backend_address_touch(struct compiler *c, struct backend_address *address)
{
	if (link_alone(&address->dirty))
		link_add(&c->dirty_backends, &address->dirty);
}

void backend_touch(struct compiler *c, const uint8_t ip[16])
{
	struct backend_address **found = c->backends.count ? map_get(&c->backends, ip) : NULL;
	if (found)
		backend_address_touch(c, *found);
}

static struct backend_address *backend_address_reach(struct compiler *c, const struct ip *ip)
{
	struct backend_address **found = map_get(&c->backends, ip->bytes);
	if (found)
		return *found;
	struct backend_address *address = mem_alloc(sizeof(*address));
	address->ip = *ip;
	address->class_id = NUMBER_NONE;
	link_init(&address->uses);
	link_init(&address->dirty);
	link_init(&address->loose);
	backend_address_touch(c, address);
	map_put(&c->backends, ip->bytes, &address);
	return address;
}

static void backend_address_release(struct compiler *c, struct backend_address *address)
{
	if (!link_alone(&address->uses))
		return;
	map_delete(&c->backends, address->ip.bytes);
	link_remove(&address->dirty);
	link_remove(&address->loose);
	free(address);
}

static void backend_address_refresh(struct compiler *c, struct backend_address *address)
{
	bool held, own = map_get(&c->own_addresses, address->ip.bytes);
	uint32_t class_id = address_class(c, &address->ip, &held);
	c->work.backends++;
	link_remove(&address->loose);
	if (!held)
		link_add(&c->loose_backends, &address->loose);
	if (class_id == address->class_id && own == address->own)
		return;
	address->class_id = class_id;
	address->own = own;
	LINKS_EACH(at, &address->uses)
	service_touch(c, OWNER_OF(at, struct backend_use, in_address)->slice->service);
}

/* ---- addresses of this node ---- */

static void own_address_count(struct compiler *c, const uint8_t ip[16], bool more)
{
	unsigned *found = map_get(&c->own_addresses, ip), count = found ? *found : 0;
	if (!more && !count)
		return;
	count = more ? count + 1 : count - 1;
	if (count)
		map_put(&c->own_addresses, ip, &count);
	else
		map_delete(&c->own_addresses, ip);
	backend_touch(c, ip);
}

/* Its Node says so, and so do its Pods that have no other address. */
static void own_addresses_count(struct compiler *c, const struct object *object, bool more)
{
	const struct node *node = object->kind == KIND_NODE ? object->node : NULL;
	const struct workload *workload = object->kind == KIND_POD ? object->workload : NULL;
	for (size_t i = 0; node && !strcmp(object->name, c->node_name) && i < node->ip_count; i++)
		own_address_count(c, node->ips[i].bytes, more);
	if (!workload || !workload->host_network || workload->ended || !*workload->node ||
		strcmp(workload->node, c->node_name) != 0)
		return;
	for (size_t i = 0; i < workload->ip_count; i++)
		own_address_count(c, workload->ips[i].bytes, more);
}

void node_addresses_update(struct compiler *c, const struct object *old, const struct object *new)
{
	if (new)
		own_addresses_count(c, new, true);
	if (old)
		own_addresses_count(c, old, false);
}

bool compiler_locals(struct compiler *c, const struct map *locals)
{
	bool changed = false;
	size_t at = 0;
	const void *key;
	void *value;
	while (map_next(&c->locals, &at, &key, &value)) {
		if (map_get(locals, key))
			continue;
		own_address_count(c, key, false);
		map_delete(&c->locals, key);
		changed = true;
	}
	for (at = 0; map_next(locals, &at, &key, &value);) {
		if (map_get(&c->locals, key))
			continue;
		own_address_count(c, key, true);
		map_put(&c->locals, key, NULL);
		changed = true;
	}
	if (changed)
		services_emit(c);
	return changed;
}

/* ---- Services and their entries ---- */

static struct service_slot *service_reach(struct compiler *c, const char *namespace, const char *name)
{
	auto_free char *key = slot_key(namespace, name);
	struct service_slot *slot = names_get(&c->services, key);
	if (slot)
		return slot;
	slot = mem_alloc(sizeof(*slot));
	slot->key = steal_pointer(&key);
	link_init(&slot->slices);
	link_init(&slot->dirty);
	names_put(&c->services, slot->key, slot);
	return slot;
}

static void service_release(struct compiler *c, struct service_slot *slot)
{
	if (slot->object || !link_alone(&slot->slices))
		return;
	names_delete(&c->services, slot->key);
	link_remove(&slot->dirty);
	free(slot->key);
	free(slot);
}

static struct service_entry *entry_reach(struct compiler *c, const struct service_key *key)
{
	struct service_entry **found = map_get(&c->service_entries, key);
	if (found)
		return *found;
	struct service_entry *entry = mem_alloc(sizeof(*entry));
	entry->key = *key;
	link_init(&entry->uses);
	link_init(&entry->dirty);
	map_put(&c->service_entries, key, &entry);
	return entry;
}

static bool ip_is_zero(const struct ip *ip)
{
	static const uint8_t zero[16];
	return ip->family == 4 ? !ip_v4(ip) : !memcmp(ip->bytes, zero, sizeof(zero));
}

/* `ip` NULL: at every address of a node. */
static void use_add(
	struct compiler *c, struct service_slot *slot, const struct service_port *port, uint8_t family, const struct ip *ip)
{
	struct service_key key = {.family = family, .protocol = port->protocol, .port = ip ? port->port : port->node_port};
	if (ip)
		memcpy(key.addr, ip->bytes, sizeof(key.addr));
	slot->uses = list_room(slot->uses, slot->use_count, &slot->use_room, sizeof(*slot->uses));
	slot->uses[slot->use_count++] = (struct service_use){.entry = entry_reach(c, &key), .service = slot, .port = port};
}

static bool service_has_family(const struct service *service, uint8_t family)
{
	for (size_t i = 0; i < service->ip_count; i++)
		if (service->ips[i].family == family)
			return true;
	return false;
}

static void port_add(struct compiler *c, struct service_slot *slot, const struct service_port *port)
{
	const struct service *service = slot->object->service;
	for (size_t i = 0; i < service->ip_count; i++)
		if (!ip_is_zero(&service->ips[i]))
			use_add(c, slot, port, service->ips[i].family, &service->ips[i]);
	for (uint8_t family = 4; port->node_port && family <= 6; family += 2)
		if (service_has_family(service, family))
			use_add(c, slot, port, family, NULL);
}

/* The list grows no more once its members are linked. */
static void uses_make(struct compiler *c, struct service_slot *slot)
{
	const struct service *service = slot->object->service;
	for (size_t i = 0; i < service->port_count; i++)
		port_add(c, slot, &service->ports[i]);
	for (size_t i = 0; i < slot->use_count; i++) {
		link_add(&slot->uses[i].entry->uses, &slot->uses[i].in_entry);
		entry_touch(c, slot->uses[i].entry);
	}
}

static void uses_end(struct compiler *c, struct service_slot *slot)
{
	for (size_t i = 0; i < slot->use_count; i++) {
		link_remove(&slot->uses[i].in_entry);
		entry_touch(c, slot->uses[i].entry);
	}
	free(slot->uses);
	slot->uses = NULL;
	slot->use_count = slot->use_room = 0;
}

void service_update(struct compiler *c, const struct object *either, const struct object *new)
{
	struct service_slot *slot = service_reach(c, either->namespace, either->name);
	const struct object *old = slot->object;
	uses_end(c, slot);
	slot->object = new ? object_get(new) : NULL;
	if (new)
		uses_make(c, slot);
	if (old)
		object_put(old);
	service_release(c, slot);
}

/* ---- slices ---- */

static struct slice_slot *slice_new(struct compiler *c, const struct object *object)
{
	const struct endpoint_slice *content = object->slice;
	struct slice_slot *slice = mem_alloc(sizeof(*slice));
	slice->object = object_get(object);
	slice->service = service_reach(c, object->namespace, content->service);
	link_add(&slice->service->slices, &slice->in_service);
	slice->uses = mem_array(content->backend_count, sizeof(*slice->uses));
	for (size_t i = 0; i < content->backend_count; i++) {
		struct backend_use *use = &slice->uses[i];
		use->slice = slice;
		use->address = backend_address_reach(c, &content->backends[i].ip);
		link_add(&use->address->uses, &use->in_address);
	}
	service_touch(c, slice->service);
	return slice;
}

static void slice_end(struct compiler *c, struct slice_slot *slice)
{
	for (size_t i = 0; i < slice->object->slice->backend_count; i++) {
		link_remove(&slice->uses[i].in_address);
		backend_address_release(c, slice->uses[i].address);
	}
	link_remove(&slice->in_service);
	service_touch(c, slice->service);
	service_release(c, slice->service);
	object_put(slice->object);
	free(slice->uses);
	free(slice);
}

void slice_update(struct compiler *c, const struct object *either, const struct object *new)
{
	auto_free char *key = slot_key(either->namespace, either->name);
	struct slice_slot *old = names_delete(&c->slices, key);
	if (new &&*new->slice->service)
		names_put(&c->slices, key, slice_new(c, new));
	if (old)
		slice_end(c, old);
}

/* ---- tables service4 and service6 ---- */

/* Those of this node first; then by class and port, so that equal sets are equal entries. */
static int kind_compare(const struct ps_backend *a, const struct ps_backend *b)
{
	if (a->flags != b->flags)
		return a->flags > b->flags ? -1 : 1;
	if (a->class_id != b->class_id)
		return a->class_id < b->class_id ? -1 : 1;
	return (a->port > b->port) - (a->port < b->port);
}

static void kind_add(struct ps_service *service, struct ps_backend kind)
{
	uint32_t at = 0;
	while (at < service->count && kind_compare(&service->backend[at], &kind) < 0)
		at++;
	if (at < service->count && !kind_compare(&service->backend[at], &kind))
		return;
	if (service->count < PS_BACKENDS_MAX)
		service->count++;
	else
		service->flags |= PS_SERVICE_MORE;
	if (at == PS_BACKENDS_MAX)
		return;
	memmove(&service->backend[at + 1], &service->backend[at], (service->count - 1 - at) * sizeof(kind));
	service->backend[at] = kind;
}

static bool backend_usable(const struct backend *backend, bool ending)
{
	return ending ? backend->serving && backend->terminating : backend->ready;
}

/* Backends of one port of a slice; whether there was any. */
static bool kinds_add(struct compiler *c, const struct slice_slot *slice, const struct named_port *port, bool ending,
	struct ps_service *ret)
{
	const struct endpoint_slice *content = slice->object->slice;
	bool any = false;
	c->work.backends += content->backend_count;
	for (size_t i = 0; i < content->backend_count; i++) {
		const struct backend_address *address = slice->uses[i].address;
		if (!backend_usable(&content->backends[i], ending))
			continue;
		any = true;
		kind_add(
			ret, (struct ps_backend){
					 .class_id = address->class_id, .port = port->port, .flags = address->own ? PS_BACKEND_NODE : 0});
	}
	return any;
}

/* All backends of a slice are of one family. */
static bool slice_has_family(const struct slice_slot *slice, uint8_t family)
{
	const struct endpoint_slice *content = slice->object->slice;
	return content->backend_count && content->backends[0].ip.family == family;
}

static bool use_kinds(struct compiler *c, const struct service_use *use, bool ending, struct ps_service *ret)
{
	bool any = false;
	LINKS_EACH(at, &use->service->slices)
	{
		const struct slice_slot *slice = OWNER_OF(at, struct slice_slot, in_service);
		if (!slice_has_family(slice, use->entry->key.family))
			continue;
		for (size_t i = 0; i < slice->object->slice->port_count; i++) {
			const struct named_port *port = &slice->object->slice->ports[i];
			if (port->protocol == use->port->protocol && !strcmp(port->name, use->port->name))
				any |= kinds_add(c, slice, port, ending, ret);
		}
	}
	return any;
}

/* As kube-proxy chooses: ready ones; where there are none, those that end but still serve. */
static void entry_kinds(struct compiler *c, const struct service_entry *entry, struct ps_service *ret)
{
	c->work.services++;
	LINKS_EACH(at, &entry->uses)
	{
		const struct service_use *use = OWNER_OF(at, struct service_use, in_entry);
		if (!use_kinds(c, use, false, ret))
			use_kinds(c, use, true, ret);
	}
}

static void entry_write(struct compiler *c, const struct service_key *key, const struct ps_service *value)
{
	struct ps_key_service4 key4 = {.port = key->port, .protocol = key->protocol};
	struct ps_key_service6 key6 = {.port = key->port, .protocol = key->protocol};
	memcpy(&key4.addr, key->addr + 12, sizeof(key4.addr));
	memcpy(key6.addr, key->addr, sizeof(key6.addr));
	const void *place = key->family == 4 ? (const void *)&key4 : &key6;
	enum table_id table = key->family == 4 ? TABLE_service4 : TABLE_service6;
	if (value)
		tables_put(&c->tables, table, place, value);
	else
		tables_delete(&c->tables, table, place);
}

static void entry_emit(struct compiler *c, struct service_entry *entry)
{
	struct ps_service value = {0};
	if (!link_alone(&entry->uses)) {
		entry_kinds(c, entry, &value);
		entry_write(c, &entry->key, &value);
		return;
	}
	entry_write(c, &entry->key, NULL);
	map_delete(&c->service_entries, &entry->key);
	free(entry);
}

void services_emit(struct compiler *c)
{
	if (c->networks_touched) {
		LINKS_EACH(at, &c->loose_backends)
		backend_address_touch(c, OWNER_OF(at, struct backend_address, loose));
	}
	c->networks_touched = false;
	LINKS_EACH_SAFE(at, after, &c->dirty_backends)
	{
		link_remove(at);
		backend_address_refresh(c, OWNER_OF(at, struct backend_address, dirty));
	}
	LINKS_EACH_SAFE(at, after, &c->dirty_services)
	{
		struct service_slot *slot = OWNER_OF(at, struct service_slot, dirty);
		link_remove(at);
		for (size_t i = 0; i < slot->use_count; i++)
			entry_touch(c, slot->uses[i].entry);
	}
	LINKS_EACH_SAFE(at, after, &c->dirty_entries)
	{
		link_remove(at);
		entry_emit(c, OWNER_OF(at, struct service_entry, dirty));
	}
}

/* ---- begin and end ---- */

void services_init(struct compiler *c)
{
	map_init(&c->service_entries, sizeof(struct service_key), sizeof(struct service_entry *));
	map_init(&c->backends, 16, sizeof(struct backend_address *));
	map_init(&c->own_addresses, 16, sizeof(unsigned));
	map_init(&c->locals, LOCAL_KEY_SIZE, 0);
}

void services_free(struct compiler *c)
{
	size_t at = 0;
	const char *name;
	const void *key;
	void *value;
	while (names_next(&c->slices, &at, &name, &value))
		slice_end(c, value);
	for (at = 0; names_next(&c->services, &at, &name, &value);) {
		struct service_slot *slot = value;
		uses_end(c, slot);
		object_put(slot->object);
		free(slot->key);
		free(slot);
	}
	for (at = 0; map_next(&c->service_entries, &at, &key, &value);)
		free(*(struct service_entry **)value);
	names_clear(&c->slices);
	names_clear(&c->services);
	map_clear(&c->service_entries);
	map_clear(&c->backends);
	map_clear(&c->own_addresses);
	map_clear(&c->locals);
	link_init(&c->dirty_services);
	link_init(&c->dirty_entries);
}
