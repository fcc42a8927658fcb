/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/compile/holder.h"
#include <string.h>
#include "agent/base/mem.h"
#include "agent/compile/class.h"
#include "agent/compile/endpoint.h"
#include "agent/compile/host.h"
#include "agent/compile/service.h"

static uint64_t holder_hash(const struct object *object)
{
	uint64_t hash = hash_bytes(object->namespace, strlen(object->namespace), object->kind);
	return hash_bytes(object->name, strlen(object->name), hash);
}

static bool holder_same(const struct interned *item, const void *context)
{
	const struct object *a = OWNER_OF(item, struct holder, interned)->object, *b = context;
	return a->kind == b->kind && !strcmp(a->name, b->name) && !strcmp(a->namespace, b->namespace);
}

static struct holder *holder_find(const struct compiler *c, const struct object *object)
{
	struct interned *found = intern_find(&c->holders, holder_hash(object), holder_same, object);
	return found ? OWNER_OF(found, struct holder, interned) : NULL;
}

/* hostNetwork Pods and Pods that have ended are nobody. */
static bool object_counts(const struct object *object)
{
	return object && (object->kind == KIND_NODE || !(object->workload->host_network || object->workload->ended));
}

static bool object_is_endpoint(const struct compiler *c, const struct object *object)
{
	if (object->kind == KIND_NODE)
		return false;
	const char *node = object->workload->node ? object->workload->node : "";
	return (object->kind == KIND_WORKLOAD && !node[0]) || (node[0] && !strcmp(node, c->node_name));
}

void address_touch(struct compiler *c, struct address *address, unsigned what)
{
	address->touched |= what;
	if (link_alone(&address->dirty))
		link_add(&c->dirty_addresses, &address->dirty);
}

static const struct ip *object_ips(const struct object *object, size_t *count)
{
	*count = object->kind == KIND_NODE ? object->node->ip_count : object->workload->ip_count;
	return object->kind == KIND_NODE ? object->node->ips : object->workload->ips;
}

struct address *address_find(const struct compiler *c, const struct ip *ip)
{
	struct address **found = map_get(&c->addresses, ip->bytes);
	return found ? *found : NULL;
}

void addresses_touch_all(struct compiler *c)
{
	size_t at = 0;
	const void *key;
	void *value;
	while (map_next(&c->addresses, &at, &key, &value))
		address_touch(c, *(struct address **)value, ADDRESS_PLACE);
}

static struct address *address_reach(struct compiler *c, const struct ip *ip)
{
	struct address *address = address_find(c, ip);
	if (address)
		return address;
	address = mem_alloc(sizeof(*address));
	address->ip = *ip;
	link_init(&address->claims);
	link_init(&address->in_crossing);
	link_init(&address->dirty);
	map_put(&c->addresses, ip->bytes, &address);
	return address;
}

/* Whoever has it, the entry says whether it is a Node's. */
static void address_node_changed(struct compiler *c, const struct claim *claim)
{
	if (claim->holder->object->kind == KIND_NODE)
		address_touch(c, claim->address, ADDRESS_EMIT);
}

/* Whoever claims an address twice has one claim. */
static void claims_make(struct compiler *c, struct holder *holder)
{
	size_t count;
	const struct ip *ips = object_ips(holder->object, &count);
	holder->claims = mem_array(count, sizeof(*holder->claims));
	holder->claim_count = 0;
	for (size_t i = 0; i < count; i++) {
		bool repeated = false;
		for (size_t j = 0; j < i && !repeated; j++)
			repeated = ip_equal(&ips[i], &ips[j]);
		if (repeated)
			continue;
		struct claim *claim = &holder->claims[holder->claim_count++];
		claim->holder = holder;
		claim->address = address_reach(c, &ips[i]);
		link_add(&claim->address->claims, &claim->in_address);
		address_touch(c, claim->address, ADDRESS_PLACE | ADDRESS_CLAIMED);
		address_node_changed(c, claim);
	}
}

static void claims_end(struct compiler *c, struct holder *holder)
{
	for (size_t i = 0; i < holder->claim_count; i++) {
		struct claim *claim = &holder->claims[i];
		link_remove(&claim->in_address);
		if (claim->address->owner == holder)
			claim->address->owner = NULL;
		address_touch(c, claim->address, ADDRESS_PLACE);
		address_node_changed(c, claim);
	}
	free(holder->claims);
	holder->claims = NULL;
	holder->claim_count = 0;
}

static void holder_leave_group(struct compiler *c, struct holder *holder)
{
	struct group *group = holder->group;
	link_remove(&holder->in_group);
	if (holder->endpoint && !--group->endpoints) {
		link_remove(&group->in_local);
		group_touch(c, group, GROUP_PROFILE);
	}
	if (link_alone(&group->holders))
		group_touch(c, group, GROUP_ENDED);
	else
		group_source_change(group, holder->object, OWNER_OF(group->holders.next, struct holder, in_group)->object);
	holder->group = NULL;
}

static void holder_join_group(struct compiler *c, struct holder *holder, struct group *group)
{
	holder->group = group;
	link_add(&group->holders, &holder->in_group);
	for (size_t i = 0; i < holder->claim_count; i++)
		address_touch(c, holder->claims[i].address, ADDRESS_PLACE | ADDRESS_EMIT);
	if (!holder->endpoint)
		return;
	if (!group->endpoints++) {
		link_add(&c->local_groups, &group->in_local);
		group_touch(c, group, GROUP_PROFILE);
	}
	endpoint_touch(c, holder->endpoint);
}

static void holder_add(struct compiler *c, const struct object *object)
{
	struct holder *holder = mem_alloc(sizeof(*holder));
	holder->object = object_get(object);
	link_init(&holder->in_group);
	intern_add(&c->holders, &holder->interned, holder_hash(object));
	claims_make(c, holder);
	if (object_is_endpoint(c, object))
		holder->endpoint = endpoint_new(c, holder);
	holder_join_group(c, holder, group_take(c, object));
}

static void holder_remove(struct compiler *c, struct holder *holder)
{
	intern_remove(&c->holders, &holder->interned);
	claims_end(c, holder);
	holder_leave_group(c, holder);
	if (holder->endpoint)
		endpoint_end(c, holder->endpoint);
	object_put(holder->object);
	free(holder);
}

static bool ips_equal(const struct object *a, const struct object *b)
{
	size_t left, right;
	const struct ip *x = object_ips(a, &left), *y = object_ips(b, &right);
	if (left != right)
		return false;
	for (size_t i = 0; i < left; i++)
		if (!ip_equal(&x[i], &y[i]))
			return false;
	return true;
}

/* Group and endpoint first leave or come, under the count that the group keeps of endpoints. */
static void holder_change(struct compiler *c, struct holder *holder, const struct object *new)
{
	const struct object *old = holder->object;
	struct group *group = group_take(c, new);
	bool local = object_is_endpoint(c, new), moves = group != holder->group || local != !!holder->endpoint;
	if (moves)
		holder_leave_group(c, holder);
	else
		group_source_change(group, old, new);
	if (!local && holder->endpoint) {
		endpoint_end(c, holder->endpoint);
		holder->endpoint = NULL;
	}
	holder->object = object_get(new);
	if (!ips_equal(old, new)) {
		claims_end(c, holder);
		claims_make(c, holder);
		if (holder->endpoint)
			memset(holder->endpoint->public.lost, 0, sizeof(holder->endpoint->public.lost));
	} else if (old->created != new->created) {
		for (size_t i = 0; i < holder->claim_count; i++)
			address_touch(c, holder->claims[i].address, ADDRESS_PLACE);
	}
	if (local && !holder->endpoint)
		holder->endpoint = endpoint_new(c, holder);
	else if (local)
		endpoint_change(c, holder->endpoint, old);
	if (moves)
		holder_join_group(c, holder, group);
	object_put(old);
}

void holder_update(struct compiler *c, const struct object *old, const struct object *new)
{
	struct holder *holder = holder_find(c, old ? old : new);
	bool counts = object_counts(new);
	if (holder && counts)
		holder_change(c, holder, new);
	else if (holder)
		holder_remove(c, holder);
	else if (counts)
		holder_add(c, new);
}

/* ---- whose address, and where ---- */

static int holder_rank(const struct holder *holder)
{
	return holder->object->kind == KIND_WORKLOAD ? 2 : holder->object->kind == KIND_POD ? 1 : 0;
}

/*
 * 1 a Workload before a Pod before a Node
 * 2 the younger
 * 3 the first by namespace and name
 */
static bool holder_beats(const struct holder *a, const struct holder *b)
{
	if (holder_rank(a) != holder_rank(b)) /* 1 */
		return holder_rank(a) > holder_rank(b);
	if (a->object->created != b->object->created) /* 2 */
		return a->object->created > b->object->created;
	int order = strcmp(a->object->namespace, b->object->namespace); /* 3 */
	return order ? order < 0 : strcmp(a->object->name, b->object->name) < 0;
}

static void address_warn(struct compiler *c, const struct address *address, const struct holder *loser)
{
	char text[ADDR_TEXT_MAX];
	const struct object *has = address->owner->object, *lost = loser->object;
	const char *why = has->kind != lost->kind        ? kinds[has->kind].kind
					  : has->created > lost->created ? "the younger"
													 : "the first by name";
	if (!c->warnings || lost->kind == KIND_NODE)
		return;
	ip_format(&address->ip, text);
	errors_add(c->warnings, ERROR_CONFLICT, "", "%s is an address of %s %s/%s and of %s %s/%s: %s/%s has it (%s)", text,
		kinds[has->kind].kind, has->namespace, has->name, kinds[lost->kind].kind, lost->namespace, lost->name,
		has->namespace, has->name, why);
}

/* The datapath must not look for a workload where another one of this node has its address. Who lost it to one of
 * another node is still where it was: unknown there it would be unguarded. */
static void lost_note(struct holder *holder, const struct ip *ip, bool lost)
{
	if (!holder->endpoint)
		return;
	struct endpoint *endpoint = &holder->endpoint->public;
	size_t most = 64 * sizeof(endpoint->lost) / sizeof(endpoint->lost[0]);
	for (size_t i = 0; i < endpoint->workload->ip_count && i < most; i++) {
		uint64_t bit = UINT64_C(1) << i % 64;
		if (ip_equal(&endpoint->workload->ips[i], ip))
			endpoint->lost[i / 64] = lost ? endpoint->lost[i / 64] | bit : endpoint->lost[i / 64] & ~bit;
	}
}

static void address_choose(struct compiler *c, struct address *address)
{
	struct holder *best = NULL, *before = address->owner;
	LINKS_EACH(at, &address->claims)
	{
		struct holder *holder = OWNER_OF(at, struct claim, in_address)->holder;
		if (!best || holder_beats(holder, best))
			best = holder;
	}
	address->owner = best;
	if (before != best) {
		address->touched |= ADDRESS_EMIT;
		if (before && before->endpoint)
			endpoint_touch(c, before->endpoint);
	}
	LINKS_EACH(at, &address->claims)
	{
		struct holder *holder = OWNER_OF(at, struct claim, in_address)->holder;
		lost_note(holder, &address->ip, holder != best && best->endpoint);
	}
	if (!(address->touched & ADDRESS_CLAIMED))
		return;
	LINKS_EACH(at, &address->claims)
	{
		struct holder *holder = OWNER_OF(at, struct claim, in_address)->holder;
		if (holder != best)
			address_warn(c, address, holder);
	}
}

static void address_leave(struct compiler *c, struct address *address)
{
	if (!address->crossing)
		return;
	link_remove(&address->in_crossing);
	if (link_alone(&address->crossing->addresses))
		crossing_touch(c, address->crossing);
	address->crossing = NULL;
}

/* NULL: no entry. */
static void address_write(struct compiler *c, const struct ip *ip, const struct ps_addr *value)
{
	struct ps_key_addr4 key4 = {0};
	struct ps_key_addr6 key6 = {0};
	memcpy(&key4.addr, ip->bytes + 12, 4);
	memcpy(key6.addr, ip->bytes, 16);
	const void *key = ip->family == 4 ? (const void *)&key4 : &key6;
	enum table_id table = ip->family == 4 ? TABLE_addr4 : TABLE_addr6;
	if (value)
		tables_put(&c->tables, table, key, value);
	else
		tables_delete(&c->tables, table, key);
}

void address_write_network(struct compiler *c, const struct ip *ip, const struct class *class)
{
	struct ps_addr value = {.class_id = class ? class->id : PS_CLASS_NONE};
	address_write(c, ip, class ? &value : NULL);
}

uint32_t address_class(const struct compiler *c, const struct ip *ip, bool *held)
{
	const struct address *address = address_find(c, ip);
	const struct class *class = address ? address->crossing->class : prefix_of(c, ip)->class;
	*held = address;
	return class ? class->id : PS_CLASS_NONE;
}

/* The entry is the network's again, if one is of this address alone: it is written when classes have their numbers. */
static void address_free(struct compiler *c, struct address *address)
{
	struct prefix *prefix = prefix_of(c, &address->ip);
	address_leave(c, address);
	address_write(c, &address->ip, NULL);
	backend_touch(c, address->ip.bytes);
	if (prefix_is_address(prefix))
		prefix_touch(c, prefix);
	link_remove(&address->dirty);
	map_delete(&c->addresses, address->ip.bytes);
	free(address);
}

void addresses_place(struct compiler *c)
{
	LINKS_EACH_SAFE(at, after, &c->dirty_addresses)
	{
		struct address *address = OWNER_OF(at, struct address, dirty);
		if (!(address->touched & ADDRESS_PLACE))
			continue;
		address_choose(c, address);
		if (!address->owner) {
			address_free(c, address);
			continue;
		}
		struct group *group = address->owner->group;
		struct prefix *prefix = prefix_of(c, &address->ip);
		if (address->crossing && address->crossing->group == group && address->crossing->prefix == prefix)
			continue;
		address_leave(c, address);
		address->crossing = crossing_take(c, group, prefix);
		link_add(&address->crossing->addresses, &address->in_crossing);
		address->touched |= ADDRESS_EMIT;
	}
}

void holders_profile_changed(struct compiler *c, struct group *group)
{
	if (group->host)
		host_profile_changed(c, group->host);
	LINKS_EACH(at, &group->holders)
	{
		struct holder *holder = OWNER_OF(at, struct holder, in_group);
		if (!holder->endpoint)
			continue;
		endpoint_touch(c, holder->endpoint);
		for (size_t i = 0; i < holder->claim_count; i++)
			if (holder->claims[i].address->owner == holder)
				address_touch(c, holder->claims[i].address, ADDRESS_EMIT);
	}
}

static void address_emit(struct compiler *c, struct address *address)
{
	const struct holder *owner = address->owner;
	struct ps_addr value = {.class_id = address->crossing->class->id};
	c->work.addresses++;
	if (owner->endpoint) {
		endpoint_describe(owner->endpoint, &value);
		endpoint_touch(c, owner->endpoint);
	}
	LINKS_EACH(at, &address->claims)
	{
		if (OWNER_OF(at, struct claim, in_address)->holder->object->kind == KIND_NODE)
			value.flags |= PS_ADDR_NODE;
	}
	address_write(c, &address->ip, &value);
	backend_touch(c, address->ip.bytes);
}

void addresses_emit(struct compiler *c)
{
	LINKS_EACH_SAFE(at, after, &c->dirty_addresses)
	{
		struct address *address = OWNER_OF(at, struct address, dirty);
		link_remove(at);
		if (address->touched & ADDRESS_EMIT)
			address_emit(c, address);
		address->touched = 0;
	}
	endpoints_emit(c);
}

void holders_free(struct compiler *c)
{
	size_t at = 0;
	struct interned *item;
	while ((item = intern_first(&c->holders, &at)))
		holder_remove(c, OWNER_OF(item, struct holder, interned));
	intern_clear(&c->holders);
}
