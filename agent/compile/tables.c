/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/compile/tables.h"
#include <string.h>

const struct table_info table_infos[TABLE_COUNT] = {
#define X(name, type, key, value, entries) {#name, TABLE_##type, sizeof(key), sizeof(value), entries},
	PS_TABLES(X)
#undef X
};

void tables_init(struct tables *tables)
{
	for (int id = 0; id < TABLE_COUNT; id++) {
		const struct table_info *info = &table_infos[id];
		map_init(&tables->table[id].wanted, info->key_size, info->value_size);
		for (int side = 0; side < 2; side++)
			map_init(&tables->table[id].pending[side], info->key_size, 0);
	}
}

void tables_clear(struct tables *tables)
{
	for (int id = 0; id < TABLE_COUNT; id++) {
		map_clear(&tables->table[id].wanted);
		for (int side = 0; side < 2; side++)
			map_clear(&tables->table[id].pending[side]);
	}
}

static void tables_note(struct table *table, const void *key)
{
	for (int side = 0; side < 2; side++)
		map_put(&table->pending[side], key, NULL);
}

static bool all_zero(const uint8_t *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (bytes[i])
			return false;
	return true;
}

void tables_put(struct tables *tables, enum table_id id, const void *key, const void *value)
{
	const struct table_info *info = &table_infos[id];
	struct table *table = &tables->table[id];
	if (info->type == TABLE_ARRAY && all_zero(value, info->value_size)) {
		tables_delete(tables, id, key);
		return;
	}
	const void *old = map_get(&table->wanted, key);
	if (old && !memcmp(old, value, info->value_size))
		return;
	map_put(&table->wanted, key, value);
	tables_note(table, key);
}

void tables_delete(struct tables *tables, enum table_id id, const void *key)
{
	struct table *table = &tables->table[id];
	if (map_delete(&table->wanted, key))
		tables_note(table, key);
}

const void *tables_get(const struct tables *tables, enum table_id id, const void *key)
{
	return map_get(&tables->table[id].wanted, key);
}
