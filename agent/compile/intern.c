/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/compile/intern.h"
#include <stdlib.h>
#include <string.h>
#include "agent/base/mem.h"

struct interned *intern_find(const struct intern *intern, uint64_t hash,
	bool (*same)(const struct interned *item, const void *key), const void *key)
{
	if (!intern->size)
		return NULL;
	for (struct interned *item = intern->buckets[hash & (intern->size - 1)]; item; item = item->next)
		if (item->hash == hash && same(item, key))
			return item;
	return NULL;
}

static void intern_grow(struct intern *intern)
{
	size_t size = intern->size ? intern->size * 2 : 8;
	struct interned **buckets = mem_array(size, sizeof(*buckets));
	for (size_t i = 0; i < intern->size; i++) {
		for (struct interned *item = intern->buckets[i], *next; item; item = next) {
			next = item->next;
			item->next = buckets[item->hash & (size - 1)];
			buckets[item->hash & (size - 1)] = item;
		}
	}
	free(intern->buckets);
	intern->buckets = buckets;
	intern->size = size;
}

void intern_add(struct intern *intern, struct interned *item, uint64_t hash)
{
	if (intern->count >= intern->size)
		intern_grow(intern);
	struct interned **bucket = &intern->buckets[hash & (intern->size - 1)];
	item->hash = hash;
	item->next = *bucket;
	*bucket = item;
	intern->count++;
}

void intern_remove(struct intern *intern, struct interned *item)
{
	struct interned **at = &intern->buckets[item->hash & (intern->size - 1)];
	while (*at != item)
		at = &(*at)->next;
	*at = item->next;
	intern->count--;
}

struct interned *intern_first(const struct intern *intern, size_t *at)
{
	while (*at < intern->size && !intern->buckets[*at])
		++*at;
	return *at < intern->size ? intern->buckets[*at] : NULL;
}

void intern_clear(struct intern *intern)
{
	free(intern->buckets);
	*intern = (struct intern){0};
}

void words_add(struct words *words, uint32_t word)
{
	if (words->count == words->room) {
		words->room = words->room ? words->room * 2 : 4;
		words->list = mem_resize(words->list, words->room, sizeof(*words->list));
	}
	words->list[words->count++] = word;
}

static int word_compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

void words_sort(struct words *words)
{
	if (words->count < 2)
		return;
	qsort(words->list, words->count, sizeof(*words->list), word_compare);
	uint32_t kept = 1;
	for (uint32_t i = 1; i < words->count; i++)
		if (words->list[i] != words->list[kept - 1])
			words->list[kept++] = words->list[i];
	words->count = kept;
}

/* The first place whose word is not smaller. */
static uint32_t words_place(const struct words *words, uint32_t word)
{
	uint32_t low = 0, high = words->count;
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		if (words->list[middle] < word)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

bool words_have(const struct words *words, uint32_t word)
{
	uint32_t at = words_place(words, word);
	return at < words->count && words->list[at] == word;
}

bool words_insert(struct words *words, uint32_t word)
{
	uint32_t at = words_place(words, word);
	if (at < words->count && words->list[at] == word)
		return false;
	words_add(words, word);
	memmove(words->list + at + 1, words->list + at, (words->count - 1 - at) * sizeof(*words->list));
	words->list[at] = word;
	return true;
}

bool words_remove(struct words *words, uint32_t word)
{
	uint32_t at = words_place(words, word);
	if (at >= words->count || words->list[at] != word)
		return false;
	words->count--;
	memmove(words->list + at, words->list + at + 1, (words->count - at) * sizeof(*words->list));
	return true;
}

#define WORDS_UNEVEN 16 /* times as long: looking up is cheaper than walking along */

/* Without a list to add to it stops at the first one. How many were looked at. */
static uint32_t words_find_common(const struct words *few, const struct words *many, struct words *ret, bool *found)
{
	bool uneven = few->count < many->count / WORDS_UNEVEN;
	uint32_t looked = 0;
	for (uint32_t i = 0, j = 0; i < few->count && j < many->count; i++, looked++) {
		if (uneven)
			j = words_place(many, few->list[i]);
		for (; j < many->count && many->list[j] < few->list[i]; j++)
			looked++;
		if (j == many->count || many->list[j] != few->list[i])
			continue;
		*found = true;
		if (!ret)
			break;
		words_add(ret, few->list[i]);
	}
	return looked;
}

static uint32_t words_compare(
	const struct words *words, const uint32_t *list, uint32_t count, struct words *ret, bool *found)
{
	struct words other = {.list = (uint32_t *)list, .count = count};
	bool longer = count < words->count;
	return words_find_common(longer ? &other : words, longer ? words : &other, ret, found);
}

uint32_t words_common(const struct words *words, const uint32_t *list, uint32_t count, struct words *ret)
{
	bool found = false;
	return words_compare(words, list, count, ret, &found);
}

bool words_meet(const struct words *words, const uint32_t *list, uint32_t count)
{
	bool found = false;
	words_compare(words, list, count, NULL, &found);
	return found;
}

void words_free(struct words *words)
{
	free(words->list);
	*words = (struct words){0};
}

static void ids_mark(struct ids *ids, size_t id)
{
	if (id / 64 >= ids->size) {
		size_t size = id / 64 + 1 + ids->size / 2;
		ids->bits = mem_resize(ids->bits, size, sizeof(*ids->bits));
		memset(ids->bits + ids->size, 0, (size - ids->size) * sizeof(*ids->bits));
		ids->size = size;
	}
	ids->bits[id / 64] |= 1ull << (id % 64);
}

static bool ids_taken(const struct ids *ids, size_t id)
{
	return id / 64 < ids->size && (ids->bits[id / 64] >> (id % 64) & 1);
}

uint32_t ids_take(struct ids *ids)
{
	while (ids->hint < ids->size && ids->bits[ids->hint] == UINT64_MAX)
		ids->hint++;
	size_t id = ids->hint * 64;
	if (ids->hint < ids->size)
		id += (size_t)__builtin_ctzll(~ids->bits[ids->hint]);
	ids_mark(ids, id);
	return (uint32_t)id;
}

uint32_t ids_take_round(struct ids *ids, uint32_t first, uint32_t end, uint32_t from)
{
	for (uint32_t i = 0; i < end - first; i++) {
		uint32_t id = first + (from - first + i) % (end - first);
		if (!ids_taken(ids, id)) {
			ids_mark(ids, id);
			return id;
		}
	}
	return ids_take(ids);
}

void ids_give(struct ids *ids, uint32_t id)
{
	ids->bits[id / 64] &= ~(1ull << (id % 64));
	if (id / 64 < ids->hint)
		ids->hint = id / 64;
}

size_t ids_top(const struct ids *ids)
{
	for (size_t i = ids->size; i-- > 0;)
		if (ids->bits[i])
			return i * 64 + 64 - (size_t)__builtin_clzll(ids->bits[i]);
	return 0;
}

void ids_free(struct ids *ids)
{
	free(ids->bits);
	*ids = (struct ids){0};
}

void slots_set(struct slots *slots, uint32_t id, void *value)
{
	if (id >= slots->size) {
		size_t size = (size_t)id + 1 + slots->size;
		slots->list = mem_resize(slots->list, size, sizeof(*slots->list));
		memset(slots->list + slots->size, 0, (size - slots->size) * sizeof(*slots->list));
		slots->size = size;
	}
	slots->list[id] = value;
}

void slots_free(struct slots *slots)
{
	free(slots->list);
	*slots = (struct slots){0};
}
