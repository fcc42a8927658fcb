/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the compiler makes and the datapath writes: for each table of PS_TABLES (bpf/abi.h) the wanted entries, keys and
 * values as in the kernel with side = 0, and the keys that each kernel side still has to catch up with.
 */
#ifndef PENSTOCK_TABLES_H
#define PENSTOCK_TABLES_H

#include "agent/base/map.h"
#include "bpf/abi.h"

enum table_id {
#define X(name, type, key, value, entries) TABLE_##name,
	PS_TABLES(X)
#undef X
		TABLE_COUNT
};
enum table_type { TABLE_HASH, TABLE_LPM, TABLE_ARRAY };

struct table_info {
	const char *name; /* the kernel map is "ps_" name */
	enum table_type type;
	size_t key_size, value_size;
	size_t entries; /* a side */
};
extern const struct table_info table_infos[TABLE_COUNT];

struct table {
	struct map wanted;     /* key → value; an array's absent index is all zero */
	struct map pending[2]; /* set of keys by side: differs, or may differ, from the kernel's side */
};
struct tables {
	struct table table[TABLE_COUNT];
};

void tables_init(struct tables *tables);
void tables_clear(struct tables *tables);
/* Change what is wanted, and note the key as pending on both sides if that changes anything. */
void tables_put(struct tables *tables, enum table_id id, const void *key, const void *value);
void tables_delete(struct tables *tables, enum table_id id, const void *key);
const void *tables_get(const struct tables *tables, enum table_id id, const void *key); /* or NULL */

#endif
