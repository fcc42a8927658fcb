/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/compile/profile.h"
#include <string.h>
#include "agent/base/mem.h"
#include "agent/compile/holder.h"
#include "agent/compile/pair.h"
#include "agent/compile/renew.h"
#include "agent/compile/row.h"
#include "agent/compile/space.h"
#include "agent/compile/term.h"

bool profile_has(const struct profile *profile, const struct compiled *compiled)
{
	for (size_t i = 0; i < profile->count; i++)
		if (profile->list[i] == compiled)
			return true;
	return false;
}

struct profile_key {
	struct compiled **list;
	size_t count, room;
	struct group_port *ports;
	size_t port_count;
};

static void key_collect(struct profile_key *key, const struct link *scope, const struct group *group)
{
	LINKS_EACH(at, scope)
	{
		struct compiled *compiled = OWNER_OF(at, struct compiled, in_scope);
		if (!compiled_selects(compiled, group))
			continue;
		key->list = list_room(key->list, key->count, &key->room, sizeof(struct compiled *));
		key->list[key->count++] = compiled;
	}
}

static int compiled_order(const void *a, const void *b)
{
	return compiled_compare(*(struct compiled *const *)a, *(struct compiled *const *)b);
}

static bool key_names(const struct profile_key *key, const struct port_name *name)
{
	for (size_t i = 0; i < key->count; i++)
		for (size_t j = 0; j < key->list[i]->ingress_port_count; j++)
			if (key->list[i]->ingress_ports[j] == name)
				return true;
	return false;
}

static void key_make(struct compiler *c, struct profile_key *key, const struct group *group)
{
	if (group->space)
		key_collect(key, &group->space->compiled, group);
	key_collect(key, &c->global_compiled, group);
	if (key->count)
		qsort(key->list, key->count, sizeof(*key->list), compiled_order);
	key->ports = mem_array(group->port_count, sizeof(*key->ports));
	for (size_t i = 0; i < group->port_count; i++)
		if (key_names(key, group->ports[i].name))
			key->ports[key->port_count++] = group->ports[i];
}

static uint64_t key_hash(const struct profile_key *key)
{
	uint64_t hash = key->port_count;
	for (size_t i = 0; i < key->count; i++)
		hash = hash_bytes(&key->list[i]->serial, sizeof(uint32_t), hash);
	for (size_t i = 0; i < key->port_count; i++) {
		const struct group_port *port = &key->ports[i];
		uint32_t words[] = {port->name->id, (uint32_t)port->protocol << 16 | port->port};
		hash = hash_bytes(words, sizeof(words), hash);
	}
	return hash;
}

static bool profile_same(const struct interned *item, const void *context)
{
	const struct profile *profile = OWNER_OF(item, struct profile, interned);
	const struct profile_key *key = context;
	if (profile->count != key->count || profile->port_count != key->port_count)
		return false;
	for (size_t i = 0; i < key->count; i++)
		if (profile->list[i] != key->list[i])
			return false;
	for (size_t i = 0; i < key->port_count; i++) {
		const struct group_port *a = &profile->ports[i], *b = &key->ports[i];
		if (a->name != b->name || a->port != b->port || a->protocol != b->protocol)
			return false;
	}
	return true;
}

size_t side_rule_first(const struct profile_side *side, uint32_t term)
{
	size_t low = 0, high = side->rule_count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (side->rules[middle].term < term)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

int side_rule_compare(const void *left, const void *right)
{
	const struct side_rule *a = left, *b = right;
	if (a->term != b->term)
		return a->term < b->term ? -1 : 1;
	if (a->rank != b->rank)
		return a->rank < b->rank ? -1 : 1;
	return (a->rule > b->rule) - (a->rule < b->rule);
}

void side_add_policy(struct profile_side *side, uint32_t rank, size_t room[2])
{
	const struct compiled *compiled = side->profile->list[rank];
	for (size_t i = 0; i < compiled->rule_count[side->direction]; i++) {
		const struct compiled_rule *rule = &compiled->rules[side->direction][i];
		struct side_rule entry = {.rank = rank, .compiled = compiled, .rule = rule};
		for (size_t j = 0; j < rule->term_count; j++) {
			entry.term = rule->terms[j]->id;
			words_add(&side->terms, entry.term);
			side->rules = list_room(side->rules, side->rule_count, &room[0], sizeof(entry));
			side->rules[side->rule_count++] = entry;
		}
		entry.term = NUMBER_NONE;
		if (rule->any_peer) {
			side->always = list_room(side->always, side->always_count, &room[1], sizeof(entry));
			side->always[side->always_count++] = entry;
		}
		for (size_t j = 0; j < rule->port_count; j++)
			if (rule->ports[j].term)
				words_add(&side->terms, rule->ports[j].term->id);
	}
}

/* The first policy by name is said to be the reason, and the first that is not in audit mode when that is another one.
 */
void side_isolate(struct profile_side *side)
{
	for (size_t i = 0; i < side->profile->count; i++) {
		const struct compiled *compiled = side->profile->list[i];
		uint32_t rule = compiled->isolation[side->direction];
		bool audit = compiled->object->audit;
		if (compiled->stage != STAGE_NETWORK_POLICY || rule == PS_RULE_NONE || (audit && side->isolation_count))
			continue;
		side->isolation[side->isolation_count++] = (struct side_isolation){rule, audit};
		if (!audit)
			return;
	}
}

struct side_link *side_link_new(struct compiler *c, struct profile_side *side, uint32_t term)
{
	struct side_link *link = mem_alloc(sizeof(*link));
	link->side = side;
	link_add(&((struct term *)slots_get(&c->term_by_id, term))->users, &link->in_term);
	return link;
}

static void side_make(struct compiler *c, struct profile *profile, enum direction direction)
{
	struct profile_side *side = &profile->sides[direction];
	size_t room[2] = {0};
	side->profile = profile;
	side->direction = direction;
	for (size_t i = 0; i < profile->count; i++)
		side_add_policy(side, (uint32_t)i, room);
	if (side->rule_count)
		qsort(side->rules, side->rule_count, sizeof(*side->rules), side_rule_compare);
	side_isolate(side);
	words_sort(&side->terms);
	side->links = mem_array(side->terms.count, sizeof(*side->links));
	for (uint32_t i = 0; i < side->terms.count; i++)
		side->links[i] = side_link_new(c, side, side->terms.list[i]);
}

static bool policy_steers(const struct object *object)
{
	const struct policy *policy = object->policy;
	if (object->kind != KIND_INTERCEPT_POLICY || object->audit)
		return false;
	for (size_t i = 0; i < policy->rule_count[INGRESS]; i++)
		if (policy->rules[INGRESS][i].action == RULE_INTERCEPT)
			return true;
	return false;
}

static bool profile_steers(const struct profile *profile)
{
	for (size_t i = 0; i < profile->count; i++)
		if (policy_steers(profile->list[i]->object))
			return true;
	return false;
}

/* Its sides are made when it is known that no other profile can go on in its place. */
static struct profile *profile_new(struct compiler *c, struct profile_key *key, uint64_t hash)
{
	struct profile *profile = mem_alloc(sizeof(*profile));
	profile->id = NUMBER_NONE;
	profile->list = mem_dup(key->list, key->count * sizeof(*key->list));
	profile->count = key->count;
	profile->ports = mem_dup(key->ports, key->port_count * sizeof(*key->ports));
	profile->port_count = key->port_count;
	for (size_t i = 0; i < profile->port_count; i++)
		profile->ports[i].name->references++;
	for (size_t i = 0; i < profile->count; i++)
		compiled_take(c, profile->list[i]);
	profile->steered = profile_steers(profile);
	profile->fresh = true;
	link_init(&profile->waiting);
	link_add(&c->fresh_profiles, &profile->waiting);
	intern_add(&c->profiles, &profile->interned, hash);
	return profile;
}

static struct profile *profile_of(struct compiler *c, const struct group *group)
{
	struct profile_key key = {0};
	c->work.profiles++;
	key_make(c, &key, group);
	struct profile *profile = c->profile_none;
	if (key.count) {
		uint64_t hash = key_hash(&key);
		struct interned *found = intern_find(&c->profiles, hash, profile_same, &key);
		profile = found ? OWNER_OF(found, struct profile, interned) : profile_new(c, &key, hash);
	}
	free(key.list);
	free(key.ports);
	return profile;
}

static void group_profile_refresh(struct compiler *c, struct group *group)
{
	struct profile *old = group->profile, *new = group->endpoints ? profile_of(c, group) : NULL;
	if (old == new)
		return;
	if (new) {
		new->references++;
		if (new->fresh && !new->predecessor)
			new->predecessor = old;
	}
	group->profile = new;
	if (old && !--old->references && link_alone(&old->waiting))
		link_add(&c->idle_profiles, &old->waiting);
	holders_profile_changed(c, group);
}

void profiles_refresh(struct compiler *c)
{
	LINKS_EACH(at, &c->dirty_groups)
	{
		struct group *group = OWNER_OF(at, struct group, dirty);
		if (group->touched & GROUP_PROFILE)
			group_profile_refresh(c, group);
	}
	LINKS_EACH_SAFE(at, after, &c->fresh_profiles)
	{
		struct profile *profile = OWNER_OF(at, struct profile, waiting), *before = profile->predecessor;
		if (before && before != c->profile_none && !before->references && profile_renew(c, before, profile))
			continue;
		for (enum direction direction = 0; direction < DIRECTIONS; direction++)
			side_make(c, profile, direction);
	}
	LINKS_EACH_SAFE(at, after, &c->idle_profiles)
	{
		struct profile *profile = OWNER_OF(at, struct profile, waiting);
		if (profile->references) {
			link_remove(at);
			continue;
		}
		intern_remove(&c->profiles, &profile->interned);
		profile->ended = true;
		for (size_t i = 0; i < profile->count; i++)
			compiled_drop(c, profile->list[i]);
	}
}

void profiles_number(struct compiler *c)
{
	LINKS_EACH(at, &c->fresh_profiles)
	{
		struct profile *profile = OWNER_OF(at, struct profile, waiting), *before = profile->predecessor;
		if (before && before->ended && slots_get(&c->profile_by_id, before->id) == before) {
			profile->id = before->id;
			slots_set(&c->profile_by_id, profile->id, profile);
		}
	}
	LINKS_EACH(at, &c->idle_profiles)
	{
		struct profile *profile = OWNER_OF(at, struct profile, waiting);
		if (slots_get(&c->profile_by_id, profile->id) == profile) {
			ids_give(&c->profile_ids, profile->id);
			slots_set(&c->profile_by_id, profile->id, NULL);
		}
	}
	LINKS_EACH(at, &c->fresh_profiles)
	{
		struct profile *profile = OWNER_OF(at, struct profile, waiting);
		profile->predecessor = NULL;
		if (profile->id != NUMBER_NONE)
			continue;
		profile->id = ids_take(&c->profile_ids);
		slots_set(&c->profile_by_id, profile->id, profile);
	}
}

void profiles_emit(struct compiler *c)
{
	LINKS_EACH(at, &c->idle_profiles)
	{
		struct profile *profile = OWNER_OF(at, struct profile, waiting);
		if (!slots_get(&c->profile_by_id, profile->id))
			tables_delete(&c->tables, TABLE_profile, &profile->id);
	}
	LINKS_EACH(at, &c->fresh_profiles)
	{
		struct profile *profile = OWNER_OF(at, struct profile, waiting);
		struct ps_profile value;
		for (enum direction direction = 0; direction < DIRECTIONS; direction++)
			value.default_row[direction] = profile->sides[direction].base->row->id;
		tables_put(&c->tables, TABLE_profile, &profile->id, &value);
	}
}

/* Cases were let go with the pairs. */
static void profile_free(struct compiler *c, struct profile *profile)
{
	for (enum direction direction = 0; direction < DIRECTIONS; direction++) {
		struct profile_side *side = &profile->sides[direction];
		for (uint32_t i = 0; i < side->terms.count; i++) {
			link_remove(&side->links[i]->in_term);
			free(side->links[i]);
		}
		free(side->links);
		free(side->rules);
		free(side->always);
		words_free(&side->terms);
		intern_clear(&side->cases);
	}
	for (size_t i = 0; i < profile->port_count; i++)
		port_name_drop(c, profile->ports[i].name);
	free(profile->ports);
	free(profile->list);
	free(profile);
}

void profiles_sweep(struct compiler *c)
{
	LINKS_EACH_SAFE(at, after, &c->fresh_profiles)
	{
		OWNER_OF(at, struct profile, waiting)->fresh = false;
		link_remove(at);
	}
	LINKS_EACH_SAFE(at, after, &c->idle_profiles)
	{
		link_remove(at);
		profile_free(c, OWNER_OF(at, struct profile, waiting));
	}
}

/* Profile 0 is selected by nothing; it is never numbered, emitted or ended. */
void profiles_init(struct compiler *c)
{
	c->profile_none = mem_alloc(sizeof(*c->profile_none));
	c->profile_none->references = 1;
	c->profile_none->id = ids_take(&c->profile_ids);
	link_init(&c->profile_none->waiting);
	slots_set(&c->profile_by_id, c->profile_none->id, c->profile_none);
}

void profiles_free(struct compiler *c)
{
	free(c->profile_none);
	intern_clear(&c->profiles);
	ids_free(&c->profile_ids);
	slots_free(&c->profile_by_id);
}
