/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/compile/network.h"
#include <string.h>
#include "agent/base/mem.h"
#include "agent/compile/class.h"
#include "agent/compile/holder.h"

static unsigned ip_bit(const struct ip *ip, unsigned at)
{
	at += ip->family == 4 ? 96 : 0;
	return ip->bytes[at / 8] >> (7 - at % 8) & 1;
}

/* How many leading bits both have in common, at most the shorter length. */
static unsigned common_length(const struct cidr *a, const struct cidr *b)
{
	unsigned limit = a->length < b->length ? a->length : b->length, at = 0;
	unsigned first = a->ip.family == 4 ? 12 : 0;
	while (at + 8 <= limit && a->ip.bytes[first + at / 8] == b->ip.bytes[first + at / 8])
		at += 8;
	while (at < limit && ip_bit(&a->ip, at) == ip_bit(&b->ip, at))
		at++;
	return at;
}

/* The first `length` bits of a longer one. */
static struct cidr cidr_shorten(const struct cidr *from, unsigned length)
{
	struct cidr cidr = *from;
	unsigned first = from->ip.family == 4 ? 96 : 0;
	for (unsigned at = first + length; at < 128; at++)
		cidr.ip.bytes[at / 8] &= (uint8_t) ~(0x80 >> at % 8);
	cidr.length = (uint8_t)length;
	return cidr;
}

static struct prefix *prefix_new(struct compiler *c, const struct cidr *cidr, struct prefix *parent)
{
	struct prefix *prefix = mem_alloc(sizeof(*prefix));
	prefix->cidr = *cidr;
	prefix->parent = parent;
	link_init(&prefix->crossings);
	link_init(&prefix->touched);
	link_init(&prefix->ended);
	link_init(&prefix->dirty);
	link_add(&c->touched_prefixes, &prefix->touched);
	return prefix;
}

static void prefix_adopt(struct prefix *parent, struct prefix *child)
{
	parent->child[ip_bit(&child->cidr.ip, parent->cidr.length)] = child;
	child->parent = parent;
}

/* The node of this network, put into the tree when there is none. */
static struct prefix *prefix_reach(struct compiler *c, const struct cidr *cidr)
{
	struct prefix *at = c->roots[cidr->ip.family == 6];
	while (at->cidr.length < cidr->length) {
		struct prefix *child = at->child[ip_bit(&cidr->ip, at->cidr.length)];
		if (!child) {
			child = prefix_new(c, cidr, at);
			prefix_adopt(at, child);
			return child;
		}
		unsigned common = common_length(&child->cidr, cidr);
		if (common < child->cidr.length) {
			struct cidr fork = cidr_shorten(cidr, common);
			struct prefix *between = prefix_new(c, &fork, at);
			prefix_adopt(at, between);
			prefix_adopt(between, child);
			child = between;
		}
		at = child;
	}
	return at;
}

static struct prefix *prefix_ancestor(const struct prefix *prefix)
{
	struct prefix *at = prefix->parent;
	while (at && !at->used)
		at = at->parent;
	return at;
}

static void address_move(struct compiler *c, const struct ip *ip)
{
	struct address *address = address_find(c, ip);
	if (address)
		address_touch(c, address, ADDRESS_PLACE);
}

/* One by one while that is less than placing all of them anew. */
static void addresses_move(struct compiler *c, const struct prefix *from, const struct cidr *inside)
{
	if (c->all_placed)
		return;
	if (c->moves > c->addresses.count) {
		addresses_touch_all(c);
		c->all_placed = true;
		return;
	}
	LINKS_EACH(at, &from->crossings)
	{
		struct crossing *crossing = OWNER_OF(at, struct crossing, in_prefix);
		LINKS_EACH(place, &crossing->addresses)
		{
			struct address *address = OWNER_OF(place, struct address, in_crossing);
			c->moves++;
			c->work.moves++;
			if (cidr_contains_ip(inside, &address->ip))
				address_touch(c, address, ADDRESS_PLACE);
		}
	}
}

/* Its terms changed: whether it counts, and what it means. */
static void prefix_changed(struct compiler *c, struct prefix *prefix)
{
	bool used = prefix->adds.count || prefix->cuts.count || !prefix->parent;
	if (link_alone(&prefix->touched))
		link_add(&c->touched_prefixes, &prefix->touched);
	if (used == prefix->used)
		return;
	if (prefix_is_address(prefix))
		address_move(c, &prefix->cidr.ip);
	else
		addresses_move(c, used ? prefix_ancestor(prefix) : prefix, &prefix->cidr);
	prefix->used = used;
	if (!used && link_alone(&prefix->ended))
		link_add(&c->ended_prefixes, &prefix->ended);
}

void network_add(struct compiler *c, const struct term *term)
{
	const struct peer *peer = term->peer;
	struct prefix *prefix = prefix_reach(c, &peer->cidr);
	words_insert(&prefix->adds, term->id);
	prefix_changed(c, prefix);
	for (size_t i = 0; i < peer->except_count; i++) {
		if (!cidr_contains(&peer->cidr, &peer->except[i]))
			continue;
		prefix = prefix_reach(c, &peer->except[i]);
		words_insert(&prefix->cuts, term->id);
		prefix_changed(c, prefix);
	}
}

void network_remove(struct compiler *c, const struct term *term)
{
	const struct peer *peer = term->peer;
	struct prefix *prefix = prefix_reach(c, &peer->cidr);
	words_remove(&prefix->adds, term->id);
	prefix_changed(c, prefix);
	for (size_t i = 0; i < peer->except_count; i++) {
		if (!cidr_contains(&peer->cidr, &peer->except[i]))
			continue;
		prefix = prefix_reach(c, &peer->except[i]);
		words_remove(&prefix->cuts, term->id);
		prefix_changed(c, prefix);
	}
}

/* ---- sets ---- */

static bool term_set_same(const struct interned *item, const void *context)
{
	const struct term_set *set = OWNER_OF(item, struct term_set, interned);
	const struct words *words = context;
	return set->count == words->count &&
		   (!set->count || !memcmp(set->ids, words->list, set->count * sizeof(*set->ids)));
}

static struct term_set *term_set_take(struct compiler *c, const struct words *words)
{
	uint64_t hash = hash_bytes(words->list, words->count * sizeof(*words->list), 0);
	struct interned *found = intern_find(&c->term_sets, hash, term_set_same, words);
	struct term_set *set = found ? OWNER_OF(found, struct term_set, interned) : NULL;
	if (!set) {
		set = mem_alloc(sizeof(*set) + words->count * sizeof(*set->ids));
		set->count = words->count;
		if (words->count)
			memcpy(set->ids, words->list, words->count * sizeof(*set->ids));
		intern_add(&c->term_sets, &set->interned, hash);
	}
	set->references++;
	return set;
}

static void term_set_drop(struct compiler *c, struct term_set *set)
{
	if (!set || --set->references)
		return;
	intern_remove(&c->term_sets, &set->interned);
	free(set);
}

/* What holds at the parent, and what begins and ends here. An exception wins over its own network. */
static struct term_set *prefix_set(struct compiler *c, const struct prefix *prefix)
{
	const struct term_set *above = prefix->parent ? prefix->parent->set : NULL;
	struct words ids = {0};
	for (uint32_t i = 0; above && i < above->count; i++)
		words_add(&ids, above->ids[i]);
	for (uint32_t i = 0; i < prefix->adds.count; i++)
		words_insert(&ids, prefix->adds.list[i]);
	for (uint32_t i = 0; i < prefix->cuts.count; i++)
		words_remove(&ids, prefix->cuts.list[i]);
	struct term_set *set = term_set_take(c, &ids);
	words_free(&ids);
	return set;
}

void prefix_touch(struct compiler *c, struct prefix *prefix)
{
	if (link_alone(&prefix->dirty))
		link_add(&c->dirty_prefixes, &prefix->dirty);
}

static void prefix_touch_class(struct compiler *c, struct prefix *prefix)
{
	prefix_touch(c, prefix);
	LINKS_EACH(at, &prefix->crossings)
	crossing_touch(c, OWNER_OF(at, struct crossing, in_prefix));
}

/* Down the tree as far as something changes. At most 129 deep. */
static void prefix_refresh(struct compiler *c, struct prefix *prefix)
{
	struct term_set *set = prefix_set(c, prefix), *old = prefix->set;
	prefix->set = set;
	if (set != old) {
		prefix_touch_class(c, prefix);
		for (int i = 0; i < 2; i++)
			if (prefix->child[i])
				prefix_refresh(c, prefix->child[i]);
	}
	term_set_drop(c, old);
}

void networks_refresh(struct compiler *c)
{
	c->moves = 0;
	c->all_placed = false;
	LINKS_EACH_SAFE(at, after, &c->touched_prefixes)
	{
		struct prefix *prefix = OWNER_OF(at, struct prefix, touched);
		link_remove(at);
		prefix_touch(c, prefix); /* used or not is part of what is emitted, though the set may be the same */
		prefix_refresh(c, prefix);
	}
}

/* A node that forks nothing and means nothing goes; its parent may have been a fork only for its sake. */
static void prefix_prune(struct compiler *c, struct prefix *prefix)
{
	while (prefix->parent && !prefix->used && !(prefix->child[0] && prefix->child[1])) {
		struct prefix *parent = prefix->parent, *child = prefix->child[prefix->child[0] ? 0 : 1];
		parent->child[ip_bit(&prefix->cidr.ip, parent->cidr.length)] = NULL;
		if (child)
			prefix_adopt(parent, child);
		link_remove(&prefix->touched);
		link_remove(&prefix->ended);
		link_remove(&prefix->dirty);
		term_set_drop(c, prefix->set);
		words_free(&prefix->adds);
		words_free(&prefix->cuts);
		free(prefix);
		prefix = parent;
	}
}

void networks_sweep(struct compiler *c)
{
	while (!link_alone(&c->ended_prefixes)) {
		struct prefix *prefix = OWNER_OF(c->ended_prefixes.next, struct prefix, ended);
		link_remove(&prefix->ended);
		prefix_prune(c, prefix);
	}
}

struct prefix *prefix_of(const struct compiler *c, const struct ip *ip)
{
	struct prefix *at = c->roots[ip->family == 6], *found = at;
	unsigned longest = ip->family == 4 ? 32 : 128;
	while (at && cidr_contains_ip(&at->cidr, ip)) {
		if (at->used)
			found = at;
		if (at->cidr.length == longest)
			break;
		at = at->child[ip_bit(ip, at->cidr.length)];
	}
	return found;
}

void networks_init(struct compiler *c)
{
	for (int i = 0; i < 2; i++) {
		struct cidr all = {.ip.family = i ? 6 : 4};
		if (!i)
			all.ip.bytes[10] = all.ip.bytes[11] = 0xff;
		c->roots[i] = prefix_new(c, &all, NULL);
		c->roots[i]->used = true;
	}
	networks_refresh(c);
}

static void prefix_free(struct compiler *c, struct prefix *prefix)
{
	for (int i = 0; i < 2; i++)
		if (prefix->child[i])
			prefix_free(c, prefix->child[i]);
	term_set_drop(c, prefix->set);
	words_free(&prefix->adds);
	words_free(&prefix->cuts);
	free(prefix);
}

void networks_free(struct compiler *c)
{
	for (int i = 0; i < 2; i++)
		prefix_free(c, c->roots[i]);
	intern_clear(&c->term_sets);
}
