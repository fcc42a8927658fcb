/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The audit: what the maps hold is compared with what should be there, a slice at a time, so that nobody who writes
 * waits longer than for a slice. What differs in a policy table becomes pending on its side: the next stage, flip and
 * settle mend it as they bring any change.
 *
 * A table is read from its begin to its end. What is there and should not be, or is another, shows at once; that
 * something is missing shows when fewer were found than are wanted (or when that cannot be said, because the tables
 * changed meanwhile): then each wanted entry is looked up. In a trie a look-up that finds a wider prefix with the same
 * value is content: so are packets.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <string.h>
#include "agent/base/buffer.h"
#include "agent/base/log.h"
#include "agent/base/mem.h"
#include "agent/datapath/private.h"

#define SLICE_ENTRIES 4096
#define SLICE_SLOW 1024 /* walking a trie, or entry by entry */
#define SLICE_BYTES (256u << 10)

static const struct table_info *info_of(const struct audit *audit)
{
	return &table_infos[audit->table];
}

/* ---- what is found ---- */

/* Key of side 0. What is pending already is known to differ. */
static void found(struct audit *audit, struct table *table, unsigned int side, const void *key, uint32_t *count)
{
	if (map_get(&table->pending[side], key))
		return;
	map_put(&table->pending[side], key, NULL);
	++*count;
	audit->repair = true;
}

struct scan {
	struct audit *audit;
	struct table *table;
};

static int scan_entry(void *context, const void *key, const void *value)
{
	struct scan *scan = context;
	struct audit *audit = scan->audit;
	const struct table_info *info = info_of(audit);
	struct audit_found *count = &audit->found[audit->table];
	char plain[KEY_MAX];
	unsigned int side = key_plain(info, key, plain);
	audit->visited++;
	if (side > 1) /* nobody's: no program reads it */
		return 0;
	const void *wanted = map_get(&scan->table->wanted, plain);
	audit->matched[side] += wanted != NULL;
	if (!value_same(info, wanted, value))
		found(audit, scan->table, side, plain, wanted || info->type == TABLE_ARRAY ? &count->changed : &count->foreign);
	return 0;
}

/* ---- one table after the other ---- */

/* Beyond what is wanted an array is not read by any program, but for the ports. */
static uint32_t array_used(const struct table *table, enum table_id id)
{
	size_t at = 0;
	const void *key;
	void *value;
	uint32_t used = 1;
	if (id == TABLE_port)
		return table_infos[id].entries;
	while (map_next(&table->wanted, &at, &key, &value))
		if (*(const uint32_t *)key >= used)
			used = *(const uint32_t *)key + 1;
	return used;
}

static void side_begin(struct audit *audit, unsigned int side)
{
	const struct table_info *info = info_of(audit);
	uint32_t before = side * (uint32_t)info->entries - 1;
	audit->side = side;
	audit->place = (struct piece){info->key_size, info->value_size, .begun = info->type == TABLE_ARRAY && side};
	memcpy(audit->place.at, &before, sizeof(before));
	audit->left = info->type == TABLE_ARRAY ? audit->used : 0;
}

static void table_begin(struct audit *audit, const struct datapath *d, struct tables *tables, int table)
{
	audit->table = table;
	if (table == TABLE_COUNT)
		return;
	audit->generation = d->generation;
	audit->visited = audit->matched[0] = audit->matched[1] = 0;
	audit->walking = false;
	audit->at = 0;
	if (info_of(audit)->type == TABLE_ARRAY)
		audit->used = array_used(&tables->table[table], table);
	side_begin(audit, 0);
}

static uint32_t slice_size(const struct audit *audit)
{
	const struct table_info *info = info_of(audit);
	uint32_t most = info->type == TABLE_LPM ? SLICE_SLOW : SLICE_ENTRIES;
	if (most > SLICE_BYTES / (info->key_size + info->value_size))
		most = SLICE_BYTES / (info->key_size + info->value_size);
	return info->type == TABLE_ARRAY && most > audit->left ? audit->left : most;
}

static bool complete(const struct audit *audit, const struct datapath *d, const struct table *table)
{
	return audit->generation == d->generation && !table->pending[0].count && !table->pending[1].count &&
		   audit->matched[0] == table->wanted.count && audit->matched[1] == table->wanted.count;
}

/* Entries of a trie that changes may be met again and again. */
static bool endless(const struct audit *audit)
{
	return audit->visited > 4 * info_of(audit)->entries;
}

static void table_scan(struct audit *audit, struct datapath *d, struct tables *tables)
{
	struct table *table = &tables->table[audit->table];
	struct scan scan = {audit, table};
	bool array = info_of(audit)->type == TABLE_ARRAY;
	uint32_t most = slice_size(audit);
	int result = piece_read(&audit->place, d->loaded.table[audit->table], most, scan_entry, &scan);
	if (result < 0)
		log_debug(ROOM, "audit: map ps_%s cannot be read: %s", info_of(audit)->name, strerror(-result));
	if (array && result > 0 && audit->left > most) {
		audit->left -= most;
		return;
	}
	if (array && audit->side == 0 && result > 0)
		side_begin(audit, 1);
	else if (!array && result > 0 && !endless(audit))
		return;
	else if (!array && result == 0 && !complete(audit, d, table))
		audit->walking = true;
	else
		table_begin(audit, d, tables, audit->table + 1);
}

/* The wanted entries that are not there, on either side. */
static void table_walk(struct audit *audit, struct datapath *d, struct tables *tables)
{
	const struct table_info *info = info_of(audit);
	struct table *table = &tables->table[audit->table];
	char sided[KEY_MAX];
	auto_free char *value = mem_alloc(info->value_size);
	const void *key;
	void *wanted;
	for (int i = 0; i < SLICE_SLOW; i++) {
		if (!map_next(&table->wanted, &audit->at, &key, &wanted)) {
			table_begin(audit, d, tables, audit->table + 1);
			return;
		}
		for (unsigned int side = 0; side < 2; side++) {
			memcpy(sided, key, info->key_size);
			key_for_side(info, side, sided);
			if (bpf_map_lookup_elem(d->loaded.table[audit->table], sided, value) < 0 ||
				!value_same(info, wanted, value))
				found(audit, table, side, key, &audit->found[audit->table].missing);
		}
	}
}

static uint64_t found_count(const struct audit_found *found)
{
	return (uint64_t)found->changed + found->missing + found->foreign;
}

static void found_print(struct buffer *what, const char *table, const struct audit_found *found)
{
	const struct {
		uint32_t count;
		const char *text;
	} parts[] = {{found->changed, "changed"}, {found->missing, "missing"}, {found->foreign, "that nobody wants"}};
	const char *before = "";
	buffer_printf(what, "%s ps_%s (", what->length ? "," : "", table);
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		if (!parts[i].count)
			continue;
		buffer_printf(what, "%s%u %s", before, parts[i].count, parts[i].text);
		before = ", ";
	}
	buffer_puts(what, ")");
}

/* Once a round. */
static void audit_tell(struct audit *audit)
{
	struct buffer what = {0};
	for (int id = 0; id < TABLE_COUNT; id++)
		if (found_count(&audit->mended[id]))
			found_print(&what, table_infos[id].name, &audit->mended[id]);
	if (what.length)
		log_warn(ROOM, "audit: entries of maps were not as they should be, and were put right:%s", what.data);
	buffer_free(&what);
	memset(audit->mended, 0, sizeof(audit->mended));
}

bool datapath_audit(struct datapath *datapath, struct tables *tables, bool *repair)
{
	struct datapath *d = datapath;
	struct audit *audit = &d->audit;
	audit->repair = false;
	if (d->resync[0] || d->resync[1]) { /* a side may hold anything: all of it is compared */
		*repair = true;
		audit->under_way = false;
		return false;
	}
	if (!audit->under_way) {
		audit_rows(d);
		table_begin(audit, d, tables, 0);
		audit->under_way = true;
	} else if (audit->walking) {
		table_walk(audit, d, tables);
	} else {
		table_scan(audit, d, tables);
	}
	audit->under_way = audit->table < TABLE_COUNT;
	*repair = audit->repair;
	if (!audit->under_way && !audit->repair)
		audit_tell(audit);
	return audit->under_way;
}

void audit_settled(struct datapath *d)
{
	struct audit *audit = &d->audit;
	for (int id = 0; id < TABLE_COUNT; id++) {
		struct audit_found *found = &audit->found[id], *mended = &audit->mended[id];
		drift_note(d, DRIFT_MAP, found_count(found));
		mended->changed += found->changed;
		mended->missing += found->missing;
		mended->foreign += found->foreign;
		*found = (struct audit_found){0};
	}
	if (!audit->under_way)
		audit_tell(audit);
}

/* ---- rows that have no sides to be staged: each is put back by itself ---- */

struct strangers {
	const struct map *known;
	bool (*is)(const void *value);
	struct map keys;
};

static int note_stranger(void *context, const void *key, const void *value)
{
	struct strangers *s = context;
	const void *known = map_get(s->known, key);
	if (!known || (s->is && !s->is(known)))
		map_put(&s->keys, key, NULL);
	return 0;
}

uint64_t audit_strangers(int fd, size_t value_size, const struct map *known, bool (*is)(const void *known_value))
{
	struct strangers s = {.known = known, .is = is};
	size_t at = 0;
	const void *key;
	void *none;
	uint64_t count = 0;
	map_init(&s.keys, known->key_size, 0);
	read_entries(fd, known->key_size, value_size, false, note_stranger, &s);
	while (map_next(&s.keys, &at, &key, &none))
		count += bpf_map_delete_elem(fd, key) == 0;
	map_clear(&s.keys);
	return count;
}

uint64_t audit_row(int fd, const void *key, const void *wanted, size_t size)
{
	char value[KEY_MAX];
	if (bpf_map_lookup_elem(fd, key, value) == 0 && memcmp(value, wanted, size) == 0)
		return 0;
	return bpf_map_update_elem(fd, key, wanted, BPF_ANY) == 0;
}

static bool has_row(const void *attachment)
{
	return ((const struct attachment *)attachment)->row;
}

static bool has_bridge(const void *attachment)
{
	const struct attachment *a = attachment;
	return !a->bridge_known || a->bridge.ifindex;
}

static uint64_t interfaces_rows(struct datapath *d)
{
	int iface = d->loaded.other[OTHER_IFACE], bridge = d->loaded.other[OTHER_BRIDGE];
	size_t at = 0;
	const void *key;
	void *value;
	uint64_t count = 0;
	while (map_next(&d->attachments, &at, &key, &value)) {
		const struct attachment *a = value;
		if (a->row)
			count += audit_row(iface, key, &a->kernel, sizeof(a->kernel));
		if (a->bridge_known && a->bridge.ifindex)
			count += audit_row(bridge, key, &a->bridge, sizeof(a->bridge));
	}
	count += audit_strangers(iface, sizeof(struct ps_iface), &d->attachments, has_row);
	count += audit_strangers(bridge, sizeof(struct ps_bridge), &d->attachments, has_bridge);
	return count;
}

static uint64_t rule_rows(struct datapath *d)
{
	int fd = d->loaded.other[OTHER_RULE_HITS], cpus = libbpf_num_possible_cpus();
	auto_free void *zeros = mem_array(cpus > 0 ? cpus : 1, sizeof(uint64_t));
	size_t at = 0;
	const void *key;
	void *none;
	uint64_t count = 0;
	while (map_next(&d->rules, &at, &key, &none))
		count += bpf_map_update_elem(fd, key, zeros, BPF_NOEXIST) == 0;
	return count;
}

void audit_rows(struct datapath *d)
{
	uint64_t count = interfaces_rows(d) + hosts_rows(d) + rule_rows(d) + control_rows(d) + listeners_rows(d);
	if (!count)
		return;
	log_warn(ROOM,
		"audit: %lu rows of maps about interfaces, cgroups, listeners, counters or the live side were put right",
		(unsigned long)count);
	drift_note(d, DRIFT_MAP, count);
}
