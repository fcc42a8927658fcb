/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hash map of fixed-size keys to fixed-size values (both by copy, compared as bytes): the compiler's tables hold the
 * same keys and values as the kernel's, so that the two are compared with memcmp. Open addressing; pointers into it end
 * with the next put or delete.
 */
#ifndef PENSTOCK_MAP_H
#define PENSTOCK_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct map {
	size_t key_size, value_size;
	size_t count;
	/* private */
	size_t used, slots;
	uint8_t *cells;
};

void map_init(struct map *map, size_t key_size, size_t value_size); /* value_size may be 0: a set */
void map_clear(struct map *map);                                    /* empty, memory freed, usable again */
void *map_get(const struct map *map, const void *key);              /* the value in place, or NULL */
void *map_put(struct map *map, const void *key, const void *value); /* insert or replace; the value in place */
bool map_delete(struct map *map, const void *key);
/* Walk: size_t at = 0; while (map_next(map, &at, &key, &value)) … ; deleting the current key is allowed. */
bool map_next(const struct map *map, size_t *at, const void **key, void **value);

uint64_t hash_bytes(const void *data, size_t size, uint64_t seed);

/* String-keyed pointers, keys copied. */
struct names {
	/* private */
	void *buckets;
	size_t count, size;
};
void *names_get(const struct names *names, const char *key);
void names_put(struct names *names, const char *key, void *value); /* value must not be NULL */
void *names_delete(struct names *names, const char *key);          /* the value, or NULL */
bool names_next(const struct names *names, size_t *at, const char **key, void **value);
void names_clear(struct names *names); /* values are the caller's */

#endif
