/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>
#include "agent/base/map.h"
#include "agent/base/mem.h"

static uint64_t state_of_random = 88172645463325252u;
static uint32_t random_below(uint32_t limit)
{
	state_of_random ^= state_of_random << 13;
	state_of_random ^= state_of_random >> 7;
	state_of_random ^= state_of_random << 17;
	return (uint32_t)(state_of_random >> 32) % limit;
}

static void put_get_delete(void **state)
{
	struct map map;
	map_init(&map, 5, 3); /* sizes that are not aligned */
	assert_null(map_get(&map, "aaaaa"));
	assert_false(map_delete(&map, "aaaaa"));
	assert_memory_equal(map_put(&map, "aaaaa", "111"), "111", 3);
	map_put(&map, "bbbbb", "222");
	map_put(&map, "aaaaa", "333");
	assert_int_equal(map.count, 2);
	assert_memory_equal(map_get(&map, "aaaaa"), "333", 3);
	assert_int_equal((uintptr_t)map_get(&map, "aaaaa") % 8, 0);
	assert_true(map_delete(&map, "aaaaa"));
	assert_false(map_delete(&map, "aaaaa"));
	assert_null(map_get(&map, "aaaaa"));
	assert_memory_equal(map_get(&map, "bbbbb"), "222", 3);
	assert_memory_equal(map_put(&map, "ccccc", NULL), "\0\0\0", 3);
	map_clear(&map);
	assert_int_equal(map.count, 0);
	assert_null(map_get(&map, "bbbbb"));
	map_put(&map, "bbbbb", "444"); /* usable again */
	assert_memory_equal(map_get(&map, "bbbbb"), "444", 3);
	map_clear(&map);
}

static void sets(void **state)
{
	struct map map;
	map_init(&map, 4, 0);
	for (uint32_t key = 0; key < 1000; key += 2)
		assert_non_null(map_put(&map, &key, NULL));
	for (uint32_t key = 0; key < 1000; key++)
		assert_int_equal(map_get(&map, &key) != NULL, key % 2 == 0);
	map_clear(&map);
}

/* Against a plain array, with puts and deletes mixed. */
static void random_against_a_model(void **state)
{
	enum { KEYS = 3000 };
	static uint64_t model[KEYS];
	static bool there[KEYS];
	struct map map;
	map_init(&map, sizeof(uint32_t), sizeof(uint64_t));
	size_t count = 0;
	for (int step = 0; step < 400000; step++) {
		uint32_t key = random_below(KEYS);
		if (random_below(5) < 3) {
			uint64_t value = state_of_random;
			map_put(&map, &key, &value);
			count += !there[key];
			there[key] = true;
			model[key] = value;
		} else {
			assert_int_equal(map_delete(&map, &key), there[key]);
			count -= there[key];
			there[key] = false;
		}
	}
	assert_int_equal(map.count, count);
	for (uint32_t key = 0; key < KEYS; key++) {
		const uint64_t *value = map_get(&map, &key);
		assert_int_equal(value != NULL, there[key]);
		if (value)
			assert_int_equal(*value, model[key]);
	}
	map_clear(&map);
}

static void a_walk_may_delete(void **state)
{
	struct map map;
	map_init(&map, sizeof(uint32_t), sizeof(uint32_t));
	for (uint32_t key = 0; key < 5000; key++)
		map_put(&map, &key, &key);
	static bool seen[5000];
	size_t at = 0, walked = 0;
	const void *key;
	void *value;
	while (map_next(&map, &at, &key, &value)) {
		uint32_t number = *(const uint32_t *)key;
		assert_int_equal(number, *(uint32_t *)value);
		assert_false(seen[number]);
		seen[number] = true;
		walked++;
		if (number % 3 == 0)
			assert_true(map_delete(&map, &number));
	}
	assert_int_equal(walked, 5000);
	assert_int_equal(map.count, 3333);
	at = walked = 0;
	while (map_next(&map, &at, &key, NULL)) {
		assert_int_not_equal(*(const uint32_t *)key % 3, 0);
		walked++;
	}
	assert_int_equal(walked, 3333);
	map_clear(&map);
}

static void a_put_of_its_own_cell(void **state)
{
	struct map map;
	map_init(&map, sizeof(uint32_t), sizeof(uint32_t));
	uint32_t first = 7, marker = 4711;
	map_put(&map, &first, &marker);
	/* the value stands in cells that a growth replaces on the way */
	for (uint32_t key = 1000; key < 3000; key++)
		assert_int_equal(*(uint32_t *)map_put(&map, &key, map_get(&map, &first)), marker);
	map_clear(&map);
}

static void churn_does_not_grow_it(void **state)
{
	struct map map;
	map_init(&map, sizeof(uint64_t), sizeof(uint64_t));
	for (uint64_t key = 0; key < 1000000; key++) {
		map_put(&map, &key, &key);
		if (key >= 100) {
			uint64_t old = key - 100;
			assert_true(map_delete(&map, &old));
		}
	}
	assert_int_equal(map.count, 100);
	assert_true(map.slots <= 512);
	map_clear(&map);
}

static void a_million(void **state)
{
	struct map map;
	map_init(&map, sizeof(uint64_t), sizeof(uint32_t));
	for (uint64_t key = 0; key < 1000000; key++) {
		uint64_t spread = key << 32; /* only the upper bits differ */
		uint32_t value = (uint32_t)key;
		map_put(&map, &spread, &value);
	}
	assert_int_equal(map.count, 1000000);
	assert_true(map.slots <= 1 << 21);
	for (uint64_t key = 0; key < 1000000; key += 7) {
		uint64_t spread = key << 32;
		assert_int_equal(*(uint32_t *)map_get(&map, &spread), key);
	}
	map_clear(&map);
}

static void hashes_tell_sizes_apart(void **state)
{
	static const uint8_t zero[64];
	for (size_t a = 0; a < 64; a++)
		for (size_t b = a + 1; b < 64; b++)
			assert_true(hash_bytes(zero, a, 0) != hash_bytes(zero, b, 0));
	assert_true(hash_bytes("abc", 3, 0) != hash_bytes("abc", 3, 1));
	assert_true(hash_bytes("abc", 3, 0) == hash_bytes("abc", 3, 0));
}

static void names_of_pointers(void **state)
{
	struct names names = {0};
	static int values[5000];
	char key[32];
	assert_null(names_get(&names, "0"));
	assert_null(names_delete(&names, "0"));
	for (int round = 0; round < 3; round++) {
		for (int at = 0; at < 5000; at++) {
			snprintf(key, sizeof key, "%d", at);
			names_put(&names, key, &values[at]);
		}
		assert_int_equal(names.count, 5000);
		for (int at = 0; at < 5000; at += 2) {
			snprintf(key, sizeof key, "%d", at);
			assert_ptr_equal(names_delete(&names, key), &values[at]);
			assert_null(names_delete(&names, key));
		}
	}
	names_put(&names, "1", &values[2]);
	assert_ptr_equal(names_get(&names, "1"), &values[2]);
	assert_null(names_get(&names, "2"));
	size_t at = 0, walked = 0;
	const char *name;
	void *value;
	while (names_next(&names, &at, &name, &value)) {
		walked++;
		if (strcmp(name, "1") != 0)
			assert_ptr_equal(value, &values[atoi(name)]);
		names_delete(&names, name);
	}
	assert_int_equal(walked, 2500);
	assert_int_equal(names.count, 0);
	names_clear(&names);
	assert_null(names_get(&names, "1"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(put_get_delete),
		cmocka_unit_test(sets),
		cmocka_unit_test(random_against_a_model),
		cmocka_unit_test(a_walk_may_delete),
		cmocka_unit_test(a_put_of_its_own_cell),
		cmocka_unit_test(churn_does_not_grow_it),
		cmocka_unit_test(a_million),
		cmocka_unit_test(hashes_tell_sizes_apart),
		cmocka_unit_test(names_of_pointers),
	};
	return cmocka_run_group_tests_name("base map", tests, NULL, NULL);
}
