/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/compile/class.h"
#include <string.h>
#include "agent/base/mem.h"
#include "agent/compile/holder.h"
#include "agent/compile/service.h"

struct crossing *crossing_take(struct compiler *c, struct group *group, struct prefix *prefix)
{
	LINKS_EACH(at, &group->crossings)
	{
		struct crossing *crossing = OWNER_OF(at, struct crossing, in_group);
		if (crossing->prefix == prefix)
			return crossing;
	}
	struct crossing *crossing = mem_alloc(sizeof(*crossing));
	crossing->group = group;
	crossing->prefix = prefix;
	crossing->class_id = NUMBER_NONE;
	link_add(&group->crossings, &crossing->in_group);
	link_add(&prefix->crossings, &crossing->in_prefix);
	link_init(&crossing->addresses);
	link_init(&crossing->dirty);
	crossing_touch(c, crossing);
	return crossing;
}

void crossing_touch(struct compiler *c, struct crossing *crossing)
{
	if (link_alone(&crossing->dirty))
		link_add(&c->dirty_crossings, &crossing->dirty);
}

struct class_key {
	struct words words;
	uint32_t term_count;
};

static bool class_same(const struct interned *item, const void *context)
{
	const struct class *class = OWNER_OF(item, struct class, interned);
	const struct class_key *key = context;
	return class->term_count == key->term_count && class->word_count == key->words.count &&
		   (!class->word_count || !memcmp(class->words, key->words.list, class->word_count * sizeof(*class->words)));
}

static void class_idle(struct compiler *c, struct class *class)
{
	if (link_alone(&class->waiting))
		link_add(&c->idle_classes, &class->waiting);
}

static struct class *class_intern(struct compiler *c, const struct class_key *key)
{
	uint64_t hash = hash_bytes(key->words.list, key->words.count * sizeof(uint32_t), key->term_count);
	struct interned *found = intern_find(&c->classes, hash, class_same, key);
	if (found)
		return OWNER_OF(found, struct class, interned);
	struct class *class = mem_alloc(sizeof(*class));
	class->id = NUMBER_NONE;
	class->term_count = key->term_count;
	class->word_count = key->words.count;
	class->words = mem_dup(key->words.list, key->words.count * sizeof(uint32_t));
	class->links = mem_array(key->term_count, sizeof(*class->links));
	for (uint32_t i = 0; i < class->term_count; i++) {
		struct term *term = slots_get(&c->term_by_id, class->words[i]);
		class->links[i].class = class;
		link_add(&term->classes, &class->links[i].in_term);
	}
	class->fresh = true;
	link_init(&class->waiting);
	link_add(&c->fresh_classes, &class->waiting);
	intern_add(&c->classes, &class->interned, hash);
	return class;
}

/* What a crossing (or, without a group, a prefix) is: both sets in one, sorted; then the ports. */
static void class_content(const struct group *group, const struct prefix *prefix, struct class_key *ret)
{
	const struct term_set *set = prefix->set;
	uint32_t left = 0, right = 0, left_count = group ? group->terms.count : 0;
	ret->words.count = 0;
	while (left < left_count || right < set->count) {
		bool from_left = right >= set->count || (left < left_count && group->terms.list[left] < set->ids[right]);
		words_add(&ret->words, from_left ? group->terms.list[left++] : set->ids[right++]);
	}
	ret->term_count = ret->words.count;
	for (uint32_t i = 0; group && i < group->pairs.count; i++)
		words_add(&ret->words, group->pairs.list[i]);
}

/* Points *place at the class of this content. */
static void class_move(struct compiler *c, struct class **place, const struct class_key *key)
{
	struct class *old = *place, *new = class_intern(c, key);
	c->work.classes++;
	if (new == old)
		return;
	new->references++;
	*place = new;
	if (!old)
		return;
	if (new->fresh && !new->predecessor)
		new->predecessor = old;
	if (!--old->references && !old->fresh)
		class_idle(c, old);
}

static void class_leave(struct compiler *c, struct class **place)
{
	struct class *old = *place;
	*place = NULL;
	if (old && !--old->references && !old->fresh)
		class_idle(c, old);
}

static void crossing_free(struct compiler *c, struct crossing *crossing)
{
	class_leave(c, &crossing->class);
	link_remove(&crossing->in_group);
	link_remove(&crossing->in_prefix);
	link_remove(&crossing->dirty);
	free(crossing);
}

static void class_end(struct compiler *c, struct class *class)
{
	intern_remove(&c->classes, &class->interned);
	class->ended = true;
}

void classes_refresh(struct compiler *c)
{
	struct class_key key = {0};
	LINKS_EACH_SAFE(at, after, &c->dirty_crossings)
	{
		struct crossing *crossing = OWNER_OF(at, struct crossing, dirty);
		if (link_alone(&crossing->addresses)) {
			crossing_free(c, crossing);
			continue;
		}
		class_content(crossing->group, crossing->prefix, &key);
		class_move(c, &crossing->class, &key);
	}
	LINKS_EACH(at, &c->dirty_prefixes)
	{
		struct prefix *prefix = OWNER_OF(at, struct prefix, dirty);
		if (!prefix->adds.count && !prefix->cuts.count) {
			class_leave(c, &prefix->class);
			continue;
		}
		class_content(NULL, prefix, &key);
		class_move(c, &prefix->class, &key);
	}
	words_free(&key.words);
	LINKS_EACH_SAFE(at, after, &c->idle_classes)
	{
		struct class *class = OWNER_OF(at, struct class, waiting);
		if (class->references)
			link_remove(at);
		else
			class_end(c, class);
	}
}

void classes_number(struct compiler *c)
{
	LINKS_EACH(at, &c->fresh_classes)
	{
		struct class *class = OWNER_OF(at, struct class, waiting), *before = class->predecessor;
		if (before && before->ended && slots_get(&c->class_by_id, before->id) == before) {
			class->id = before->id;
			slots_set(&c->class_by_id, class->id, class);
		}
	}
	LINKS_EACH(at, &c->idle_classes)
	{
		struct class *class = OWNER_OF(at, struct class, waiting);
		if (slots_get(&c->class_by_id, class->id) == class) {
			ids_give(&c->class_ids, class->id);
			slots_set(&c->class_by_id, class->id, NULL);
		}
	}
	LINKS_EACH(at, &c->fresh_classes)
	{
		struct class *class = OWNER_OF(at, struct class, waiting);
		class->predecessor = NULL;
		if (class->id != NUMBER_NONE)
			continue;
		class->id = ids_take(&c->class_ids);
		slots_set(&c->class_by_id, class->id, class);
	}
}

/* A network of one address is in the hash of addresses, as it costs the same however many there are; the trie does
 * not. A workload that has the address has its own entry there. */
static void prefix_emit(struct compiler *c, struct prefix *prefix)
{
	if (prefix_is_address(prefix)) {
		if (!address_find(c, &prefix->cidr.ip))
			address_write_network(c, &prefix->cidr.ip, prefix->class);
		return;
	}
	bool four = prefix->cidr.ip.family == 4;
	struct ps_key_net4 key4 = {.prefix_length = 32 + prefix->cidr.length};
	struct ps_key_net6 key6 = {.prefix_length = 32 + prefix->cidr.length};
	memcpy(&key4.addr, prefix->cidr.ip.bytes + 12, 4);
	memcpy(key6.addr, prefix->cidr.ip.bytes, 16);
	const void *key = four ? (const void *)&key4 : &key6;
	enum table_id table = four ? TABLE_net4 : TABLE_net6;
	if (prefix->class)
		tables_put(&c->tables, table, key, &prefix->class->id);
	else
		tables_delete(&c->tables, table, key);
}

void classes_emit(struct compiler *c)
{
	LINKS_EACH_SAFE(at, after, &c->dirty_crossings)
	{
		struct crossing *crossing = OWNER_OF(at, struct crossing, dirty);
		link_remove(at);
		if (crossing->class_id == crossing->class->id)
			continue;
		crossing->class_id = crossing->class->id;
		LINKS_EACH(place, &crossing->addresses)
		address_touch(c, OWNER_OF(place, struct address, in_crossing), ADDRESS_EMIT);
	}
	LINKS_EACH_SAFE(at, after, &c->dirty_prefixes)
	{
		link_remove(at);
		prefix_emit(c, OWNER_OF(at, struct prefix, dirty));
		c->networks_touched = true;
	}
}

static void class_free(struct class *class)
{
	for (uint32_t i = 0; i < class->term_count; i++)
		link_remove(&class->links[i].in_term);
	free(class->links);
	free(class->words);
	free(class);
}

void classes_sweep(struct compiler *c)
{
	LINKS_EACH_SAFE(at, after, &c->fresh_classes)
	{
		OWNER_OF(at, struct class, waiting)->fresh = false;
		link_remove(at);
	}
	LINKS_EACH_SAFE(at, after, &c->idle_classes)
	{
		link_remove(at);
		class_free(OWNER_OF(at, struct class, waiting));
	}
}

/* The class of no terms always exists, with number 0. */
void classes_init(struct compiler *c)
{
	struct class_key key = {0};
	c->class_none = class_intern(c, &key);
	c->class_none->references = 1;
	classes_number(c);
	classes_sweep(c);
}

void classes_free(struct compiler *c)
{
	size_t at = 0;
	struct interned *item;
	while ((item = intern_first(&c->classes, &at))) {
		intern_remove(&c->classes, item);
		class_free(OWNER_OF(item, struct class, interned));
	}
	intern_clear(&c->classes);
	ids_free(&c->class_ids);
	slots_free(&c->class_by_id);
}
