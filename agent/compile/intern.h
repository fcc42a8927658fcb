/* SPDX-License-Identifier: Apache-2.0 */
/* Equal things are kept once: a chained hash of embedded members, and the small collections that go with it. */
#ifndef PENSTOCK_INTERN_H
#define PENSTOCK_INTERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct interned {
	struct interned *next;
	uint64_t hash;
};
struct intern {
	struct interned **buckets;
	size_t size, count;
};
/* NULL when there is none. `same` compares contents; the hashes are equal already. */
struct interned *intern_find(const struct intern *intern, uint64_t hash,
	bool (*same)(const struct interned *item, const void *key), const void *key);
void intern_add(struct intern *intern, struct interned *item, uint64_t hash);
void intern_remove(struct intern *intern, struct interned *item);
/* To take all out: size_t at = 0; while ((item = intern_first(intern, &at))) intern_remove(intern, item) … */
struct interned *intern_first(const struct intern *intern, size_t *at);
void intern_clear(struct intern *intern); /* the members are the caller's */

/* A growing array of ids. */
struct words {
	uint32_t *list;
	uint32_t count, room;
};
void words_add(struct words *words, uint32_t word);
void words_sort(struct words *words);                      /* ascending, unique */
bool words_have(const struct words *words, uint32_t word); /* sorted */
bool words_insert(struct words *words, uint32_t word);     /* sorted; false when it is there */
bool words_remove(struct words *words, uint32_t word);     /* sorted; false when it is not there */
/* Adds what both sorted lists have; where one is much longer, the other one is looked up in it. How many words were
 * looked at. */
uint32_t words_common(const struct words *words, const uint32_t *list, uint32_t count, struct words *ret);
bool words_meet(const struct words *words, const uint32_t *list, uint32_t count); /* both sorted: have they any? */
void words_free(struct words *words);

/* Numbers in use: the lowest free one is taken, so that arrays stay dense. */
struct ids {
	uint64_t *bits;
	size_t size, hint; /* words; all words before hint are full */
};
uint32_t ids_take(struct ids *ids);
/* The first free one in [first, end) from `from` on, round; or the lowest free one when all of them are taken. */
uint32_t ids_take_round(struct ids *ids, uint32_t first, uint32_t end, uint32_t from);
void ids_give(struct ids *ids, uint32_t id);
size_t ids_top(const struct ids *ids); /* highest in use + 1 */
void ids_free(struct ids *ids);

/* Pointers by id. */
struct slots {
	void **list;
	size_t size;
};
void slots_set(struct slots *slots, uint32_t id, void *value);
static inline void *slots_get(const struct slots *slots, uint32_t id)
{
	return id < slots->size ? slots->list[id] : NULL;
}
void slots_free(struct slots *slots);

#endif
