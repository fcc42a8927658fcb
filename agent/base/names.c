/* SPDX-License-Identifier: Apache-2.0 */
/* The string-keyed half of map.h: the same probing, over pairs of pointers. */
#include <string.h>
#include <sys/types.h>
#include "agent/base/map.h"
#include "agent/base/mem.h"

struct pair {
	char *key;   /* NULL: never used, or deleted when value is the tombstone */
	void *value; /* NULL: never used */
	uint64_t hash;
};
struct table {
	size_t used; /* slots that are not empty, tombstones too */
	struct pair pairs[];
};
static char tombstone;

static uint64_t hash_key(const char *key)
{
	return hash_bytes(key, strlen(key), 0);
}

static ssize_t find(const struct names *names, const char *key, uint64_t hash)
{
	const struct table *table = names->buckets;
	if (!table)
		return -1;
	for (size_t slot = hash & (names->size - 1);; slot = (slot + 1) & (names->size - 1)) {
		const struct pair *pair = &table->pairs[slot];
		if (!pair->value)
			return -1;
		if (pair->key && pair->hash == hash && strcmp(pair->key, key) == 0)
			return slot;
	}
}

static void rebuild(struct names *names)
{
	struct table *old = names->buckets;
	size_t size = 16;
	while (size / 2 < names->count + 1)
		size *= 2;
	struct table *table = mem_alloc(sizeof *table + size * sizeof table->pairs[0]);
	table->used = names->count;
	for (size_t at = 0; at < names->size; at++) {
		if (!old->pairs[at].key)
			continue;
		size_t slot = old->pairs[at].hash & (size - 1);
		while (table->pairs[slot].value)
			slot = (slot + 1) & (size - 1);
		table->pairs[slot] = old->pairs[at];
	}
	free(old);
	names->buckets = table;
	names->size = size;
}

void *names_get(const struct names *names, const char *key)
{
	ssize_t slot = names->count ? find(names, key, hash_key(key)) : -1;
	return slot < 0 ? NULL : ((struct table *)names->buckets)->pairs[slot].value;
}

void names_put(struct names *names, const char *key, void *value)
{
	uint64_t hash = hash_key(key);
	ssize_t found = find(names, key, hash);
	struct table *table = names->buckets;
	if (found >= 0) {
		table->pairs[found].value = value;
		return;
	}
	if (!table || table->used + 1 > names->size / 4 * 3) {
		rebuild(names);
		table = names->buckets;
	}
	size_t slot = hash & (names->size - 1);
	while (table->pairs[slot].key)
		slot = (slot + 1) & (names->size - 1);
	table->used += table->pairs[slot].value == NULL;
	names->count++;
	table->pairs[slot] = (struct pair){str_dup(key), value, hash};
}

void *names_delete(struct names *names, const char *key)
{
	ssize_t slot = names->count ? find(names, key, hash_key(key)) : -1;
	if (slot < 0)
		return NULL;
	struct pair *pair = &((struct table *)names->buckets)->pairs[slot];
	void *value = pair->value;
	free(pair->key);
	*pair = (struct pair){.value = &tombstone};
	names->count--;
	return value;
}

bool names_next(const struct names *names, size_t *at, const char **key, void **value)
{
	const struct table *table = names->buckets;
	for (; *at < names->size; ++*at) {
		const struct pair *pair = &table->pairs[*at];
		if (!pair->key)
			continue;
		if (key)
			*key = pair->key;
		if (value)
			*value = pair->value;
		++*at;
		return true;
	}
	return false;
}

void names_clear(struct names *names)
{
	struct table *table = names->buckets;
	for (size_t at = 0; at < names->size; at++)
		free(table->pairs[at].key);
	free(table);
	*names = (struct names){0};
}
