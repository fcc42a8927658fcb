/* SPDX-License-Identifier: Apache-2.0 */
/* One side of the kernel's tables becomes what is wanted: by what is pending, or by comparing entry by entry. */
#include <errno.h>
#include <string.h>
#include "agent/base/mem.h"
#include "agent/datapath/private.h"

/* Entries of one table on their way to one side. */
struct batch {
	enum table_id id;
	int fd;
	unsigned int side;
	char *keys, *values, *gone;
	size_t count, capacity, gone_count, gone_capacity;
};

/* Where a key carries the side: LPM keys begin with the prefix length. */
static size_t side_offset(const struct table_info *info)
{
	return info->type == TABLE_LPM ? sizeof(uint32_t) : 0;
}

/* The kernel's key from the compiler's (side 0). */
void key_for_side(const struct table_info *info, unsigned int side, char *key)
{
	uint32_t word;
	if (info->type == TABLE_ARRAY) {
		memcpy(&word, key, sizeof(word));
		word += side * info->entries;
		memcpy(key, &word, sizeof(word));
		return;
	}
	word = side;
	memcpy(key + side_offset(info), &word, sizeof(word));
}

unsigned int key_plain(const struct table_info *info, const void *key, void *plain)
{
	uint32_t word, side;
	memcpy(plain, key, info->key_size);
	memcpy(&word, (char *)plain + side_offset(info), sizeof(word));
	side = info->type == TABLE_ARRAY ? word / (uint32_t)info->entries : word;
	word = info->type == TABLE_ARRAY ? word % (uint32_t)info->entries : 0;
	memcpy((char *)plain + side_offset(info), &word, sizeof(word));
	return side;
}

bool value_same(const struct table_info *info, const void *wanted, const void *value)
{
	static const char zero[sizeof(struct ps_port_block)];
	if (!wanted && info->type != TABLE_ARRAY)
		return false;
	return memcmp(wanted ? wanted : zero, value, info->value_size) == 0;
}

/* wanted NULL: not there any more. Keys of side 0. */
static void batch_add(struct batch *b, const void *key, const void *wanted)
{
	const struct table_info *info = &table_infos[b->id];
	if (!wanted && info->type != TABLE_ARRAY) {
		b->gone = list_room(b->gone, b->gone_count, &b->gone_capacity, info->key_size);
		char *gone = b->gone + b->gone_count++ * info->key_size;
		memcpy(gone, key, info->key_size);
		key_for_side(info, b->side, gone);
		return;
	}
	if (b->count == b->capacity) {
		b->capacity = b->capacity ? 2 * b->capacity : 16;
		b->keys = mem_resize(b->keys, b->capacity, info->key_size);
		b->values = mem_resize(b->values, b->capacity, info->value_size);
	}
	char *to = b->keys + b->count * info->key_size, *value = b->values + b->count * info->value_size;
	memcpy(to, key, info->key_size);
	key_for_side(info, b->side, to);
	if (wanted)
		memcpy(value, wanted, info->value_size);
	else
		memset(value, 0, info->value_size);
	b->count++;
}

/* Deletions first: they make room. */
static int batch_write(struct batch *b, struct error *e)
{
	int result = b->gone_count ? delete_entries(b->id, b->fd, b->gone, b->gone_count, e) : 0;
	if (result == 0 && b->count)
		result = write_entries(b->id, b->fd, b->keys, b->values, b->count, e);
	return result;
}

static void batch_free(struct batch *b)
{
	free(b->keys);
	free(b->values);
	free(b->gone);
}

/* ---- by what is pending ---- */

static void collect_pending(struct batch *b, const struct table *table)
{
	size_t at = 0;
	const void *key;
	void *none;
	while (map_next(&table->pending[b->side], &at, &key, &none))
		batch_add(b, key, map_get(&table->wanted, key));
}

/* ---- by comparing ---- */

struct comparison {
	struct batch *batch;
	const struct table *table;
	struct map seen; /* keys that the kernel has, side 0 */
};

static int compare_entry(void *context, const void *key, const void *value)
{
	struct comparison *c = context;
	const struct table_info *info = &table_infos[c->batch->id];
	char plain[KEY_MAX];
	if (key_plain(info, key, plain) != c->batch->side)
		return 0;
	const void *wanted = map_get(&c->table->wanted, plain);
	if (wanted)
		map_put(&c->seen, plain, NULL);
	if (!value_same(info, wanted, value))
		batch_add(c->batch, plain, wanted);
	return 0;
}

static int collect_differences(struct batch *b, const struct table *table, struct error *e)
{
	const struct table_info *info = &table_infos[b->id];
	struct comparison c = {.batch = b, .table = table};
	map_init(&c.seen, info->key_size, 0);
	int result = read_entries(b->fd, info->key_size, info->value_size, true, compare_entry, &c);
	size_t at = 0;
	const void *key;
	void *wanted;
	while (result == 0 && map_next(&table->wanted, &at, &key, &wanted))
		if (!map_get(&c.seen, key))
			batch_add(b, key, wanted);
	map_clear(&c.seen);
	return result < 0 ? error_system(e, -result, "map ps_%s cannot be read", info->name) : 0;
}

static int table_catch_up(struct datapath *d, struct table *table, enum table_id id, unsigned int side, struct error *e)
{
	bool compare = d->resync[side] && !(d->loaded.table_fresh[id] && d->untouched[side]);
	if (!compare && table->pending[side].count == 0)
		return 0;
	struct batch batch = {.id = id, .fd = d->loaded.table[id], .side = side};
	int result = 0;
	if (compare)
		result = collect_differences(&batch, table, e);
	else
		collect_pending(&batch, table);
	if (result == 0)
		result = batch_write(&batch, e);
	batch_free(&batch);
	return result;
}

int side_catch_up(struct datapath *d, struct tables *tables, unsigned int side, struct error *e)
{
	int result = 0;
	for (int id = 0; result == 0 && id < TABLE_COUNT; id++)
		result = table_catch_up(d, &tables->table[id], id, side, e);
	d->untouched[side] = false;
	if (result == 0)
		result = interfaces_write_side(d, side, e);
	if (result == 0)
		result = hosts_write_side(d, side, e);
	d->resync[side] = result < 0;
	if (result < 0)
		return result;
	for (int id = 0; id < TABLE_COUNT; id++) {
		map_clear(&tables->table[id].pending[side]);
		atomic_store(&d->fill[id], tables->table[id].wanted.count);
	}
	return 0;
}
