/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Linear probing over a power of two of slots. One allocation: a 32-bit tag for each slot (what probing reads), then
 * the cells, keys and values each at a multiple of 8. At most 3/4 of the slots are used, tombstones counted; a table
 * that is full is written anew at the size that its living entries need, so that churn alone never grows it.
 */
#include "agent/base/map.h"

#include <string.h>
#include <sys/types.h>
#include "agent/base/mem.h"

enum { TAG_EMPTY = 0, TAG_DELETED = 1, TAG_FIRST = 2 };
#define SLOTS_MIN 16

static uint64_t mix(uint64_t a, uint64_t b)
{
	unsigned __int128 product = (unsigned __int128)a * b;
	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint64_t load(const uint8_t *from, size_t size)
{
	uint64_t word = 0;
	memcpy(&word, from, size);
	return word;
}

uint64_t hash_bytes(const void *data, size_t size, uint64_t seed)
{
	static const uint64_t odd[] = {0xa0761d6478bd642f, 0xe7037ed1a0b428db, 0x8ebc6af09c88c6e3};
	const uint8_t *at = data;
	uint64_t hash = seed ^ odd[0] ^ mix(size ^ odd[1], odd[2]);
	size_t left = size;
	for (; left >= 16; at += 16, left -= 16)
		hash = mix(load(at, 8) ^ odd[1], load(at + 8, 8) ^ hash);
	if (left) {
		uint64_t low = load(at, left < 8 ? left : 8);
		uint64_t high = left > 8 ? load(at + 8, left - 8) : 0;
		hash = mix(low ^ odd[2], high ^ hash);
	}
	return mix(hash ^ odd[0], odd[1]);
}

static uint32_t tag_of(const struct map *map, const void *key)
{
	uint64_t hash = hash_bytes(key, map->key_size, 0);
	uint32_t tag = (uint32_t)(hash ^ hash >> 32);
	return tag < TAG_FIRST ? tag + TAG_FIRST : tag;
}

static size_t round8(size_t size)
{
	return (size + 7) & ~(size_t)7;
}

static uint32_t *tags(const struct map *map)
{
	return (uint32_t *)map->cells;
}

static uint8_t *cell_key(const struct map *map, size_t slot)
{
	size_t cell = round8(map->key_size) + round8(map->value_size);
	return map->cells + map->slots * sizeof(uint32_t) + slot * cell;
}

static uint8_t *cell_value(const struct map *map, size_t slot)
{
	return cell_key(map, slot) + round8(map->key_size);
}

void map_init(struct map *map, size_t key_size, size_t value_size)
{
	*map = (struct map){.key_size = key_size, .value_size = value_size};
}

void map_clear(struct map *map)
{
	free(map->cells);
	map_init(map, map->key_size, map->value_size);
}

/* The slot of the key, or -1. */
static ssize_t find(const struct map *map, const void *key, uint32_t tag)
{
	if (!map->slots)
		return -1;
	for (size_t slot = tag & (map->slots - 1);; slot = (slot + 1) & (map->slots - 1)) {
		uint32_t here = tags(map)[slot];
		if (here == TAG_EMPTY)
			return -1;
		if (here == tag && memcmp(cell_key(map, slot), key, map->key_size) == 0)
			return slot;
	}
}

/* Returns the old cells, for the caller to free. */
static uint8_t *rebuild(struct map *map)
{
	struct map new = *map;
	new.slots = SLOTS_MIN;
	while (new.slots / 2 < map->count + 1)
		new.slots *= 2;
	size_t cell = round8(map->key_size) + round8(map->value_size);
	new.cells = mem_array(new.slots, sizeof(uint32_t) + cell);
	new.used = map->count;
	for (size_t old = 0; old < map->slots; old++) {
		uint32_t tag = tags(map)[old];
		if (tag < TAG_FIRST)
			continue;
		size_t slot = tag & (new.slots - 1);
		while (tags(&new)[slot])
			slot = (slot + 1) & (new.slots - 1);
		tags(&new)[slot] = tag;
		memcpy(cell_key(&new, slot), cell_key(map, old), cell);
	}
	uint8_t *old_cells = map->cells;
	*map = new;
	return old_cells;
}

void *map_get(const struct map *map, const void *key)
{
	if (!map->count)
		return NULL;
	ssize_t slot = find(map, key, tag_of(map, key));
	return slot < 0 ? NULL : cell_value(map, slot);
}

static size_t insert(struct map *map, const void *key, uint32_t tag)
{
	size_t slot = tag & (map->slots - 1);
	while (tags(map)[slot] >= TAG_FIRST)
		slot = (slot + 1) & (map->slots - 1);
	map->used += tags(map)[slot] == TAG_EMPTY;
	map->count++;
	tags(map)[slot] = tag;
	memcpy(cell_key(map, slot), key, map->key_size);
	return slot;
}

void *map_put(struct map *map, const void *key, const void *value)
{
	uint32_t tag = tag_of(map, key);
	ssize_t slot = find(map, key, tag);
	uint8_t *old = NULL; /* key and value may point into the cells that are replaced */
	if (slot < 0) {
		if (map->used + 1 > map->slots / 4 * 3)
			old = rebuild(map);
		slot = insert(map, key, tag);
	}
	uint8_t *place = cell_value(map, slot);
	if (value)
		memmove(place, value, map->value_size);
	else
		memset(place, 0, map->value_size);
	free(old);
	return place;
}

bool map_delete(struct map *map, const void *key)
{
	ssize_t slot = map->count ? find(map, key, tag_of(map, key)) : -1;
	if (slot < 0)
		return false;
	map->count--;
	/* Nothing probes beyond an empty slot: before one, no tombstone is needed. */
	if (tags(map)[(slot + 1) & (map->slots - 1)] == TAG_EMPTY) {
		tags(map)[slot] = TAG_EMPTY;
		map->used--;
	} else {
		tags(map)[slot] = TAG_DELETED;
	}
	return true;
}

bool map_next(const struct map *map, size_t *at, const void **key, void **value)
{
	for (; *at < map->slots; ++*at) {
		if (tags(map)[*at] < TAG_FIRST)
			continue;
		if (key)
			*key = cell_key(map, *at);
		if (value)
			*value = cell_value(map, *at);
		++*at;
		return true;
	}
	return false;
}
