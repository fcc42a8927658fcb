/* SPDX-License-Identifier: Apache-2.0 */
/* Entries into and out of the kernel's maps: many by one call, and what was written is read back. */
#include <bpf/bpf.h>
#include <errno.h>
#include <string.h>
#include "agent/base/mem.h"
#include "agent/datapath/private.h"

#define BATCH_FROM 64 /* fewer go one by one */
#define BATCH_BYTES (1u << 20)
#define ENOTSUPP 524 /* the kernel's own, "this map type has no batches" */

static bool no_batches(int result)
{
	return result == -ENOTSUPP || result == -EINVAL || result == -EOPNOTSUPP;
}

int write_failed(struct error *e, int errnum, const char *map, const char *verb)
{
	if (errnum == E2BIG || errnum == ENOSPC || errnum == ENOMEM)
		return error_set(e, ERROR_NO_SPACE, ENOSPC, NULL, "map %s is full (%s)", map, strerror(errnum));
	return error_system(e, errnum, "map %s: an entry cannot be %s", map, verb);
}

static const char *map_name(enum table_id id, char name[32])
{
	strcpy(name, "ps_");
	strncat(name, table_infos[id].name, 28);
	return name;
}

static int write_each(
	int fd, const char *keys, const char *values, size_t from, size_t count, size_t key_size, size_t value_size)
{
	for (size_t i = from; i < count; i++) {
		int result = bpf_map_update_elem(fd, keys + i * key_size, values + i * value_size, BPF_ANY);
		if (result < 0)
			return result;
	}
	return 0;
}

static int check_written(enum table_id id, int fd, const char *keys, const char *values, size_t count, struct error *e)
{
	size_t key_size = table_infos[id].key_size, value_size = table_infos[id].value_size;
	char name[32], value[sizeof(struct ps_port_block)];
	for (size_t i = 0; i < count; i++) {
		int result = bpf_map_lookup_elem(fd, keys + i * key_size, value);
		if (result < 0)
			return error_system(e, -result, "map %s: an entry cannot be read back", map_name(id, name));
		if (memcmp(value, values + i * value_size, value_size) != 0)
			return error_set(
				e, ERROR_SYSTEM, EIO, NULL, "map %s: an entry reads back as something else", map_name(id, name));
	}
	return 0;
}

int write_entries(enum table_id id, int fd, const void *keys, const void *values, size_t count, struct error *e)
{
	size_t key_size = table_infos[id].key_size, value_size = table_infos[id].value_size, from = 0;
	char name[32];
	int result = 0;
	if (count >= BATCH_FROM) {
		uint32_t done = count;
		DECLARE_LIBBPF_OPTS(bpf_map_batch_opts, options, .elem_flags = BPF_ANY);
		result = bpf_map_update_batch(fd, keys, values, &done, &options);
		from = result == 0 ? count : 0;
		if (result < 0 && !no_batches(result))
			return write_failed(e, -result, map_name(id, name), "written");
	}
	result = write_each(fd, keys, values, from, count, key_size, value_size);
	if (result < 0)
		return write_failed(e, -result, map_name(id, name), "written");
	return check_written(id, fd, keys, values, count, e);
}

/* What is absent already is fine. */
int delete_entries(enum table_id id, int fd, const void *keys, size_t count, struct error *e)
{
	size_t key_size = table_infos[id].key_size;
	const char *key = keys;
	char name[32], value[sizeof(struct ps_port_block)];
	for (size_t i = 0; i < count; i++) {
		if (count - i >= BATCH_FROM) {
			uint32_t done = count - i;
			int result = bpf_map_delete_batch(fd, key + i * key_size, &done, NULL);
			if (result == 0)
				break;
			if (result == -ENOENT) { /* stopped at one that is absent */
				i += done;
				continue;
			}
		}
		int result = bpf_map_delete_elem(fd, key + i * key_size);
		if (result < 0 && result != -ENOENT)
			return write_failed(e, -result, map_name(id, name), "deleted");
	}
	/* A look-up in a trie would find the wider prefix: there, nothing left to delete is the proof. */
	bool trie = table_infos[id].type == TABLE_LPM;
	for (size_t i = 0; i < count; i++)
		if ((trie ? bpf_map_delete_elem(fd, key + i * key_size) : bpf_map_lookup_elem(fd, key + i * key_size, value)) !=
			-ENOENT)
			return error_set(e, ERROR_SYSTEM, EIO, NULL, "map %s: a deleted entry is still there", map_name(id, name));
	return 0;
}

/* ---- reading all of a map ---- */

typedef int each_entry(void *context, const void *key, const void *value);

static int read_one_by_one(int fd, size_t key_size, size_t value_size, each_entry *each, void *context)
{
	auto_free char *key = mem_alloc(key_size);
	auto_free char *next = mem_alloc(key_size);
	auto_free char *value = mem_alloc(value_size);
	bool first = true;
	for (;;) {
		int result = bpf_map_get_next_key(fd, first ? NULL : key, next);
		if (result < 0)
			return result == -ENOENT ? 0 : result;
		memcpy(key, next, key_size);
		first = false;
		if (bpf_map_lookup_elem(fd, key, value) < 0)
			continue;
		result = each(context, key, value);
		if (result != 0)
			return result;
	}
}

static int read_batches(int fd, size_t key_size, size_t value_size, each_entry *each, void *context)
{
	uint32_t chunk = BATCH_BYTES / (key_size + value_size), count;
	auto_free char *keys = mem_array(chunk, key_size);
	auto_free char *values = mem_array(chunk, value_size);
	char at[64], next[64]; /* a bucket's number, or a key */
	for (bool first = true;; first = false) {
		count = chunk;
		int result = bpf_map_lookup_batch(fd, first ? NULL : at, next, keys, values, &count, NULL);
		if (result < 0 && result != -ENOENT)
			return result;
		for (uint32_t i = 0; i < count; i++) {
			int stop = each(context, keys + i * key_size, values + i * value_size);
			if (stop != 0)
				return stop;
		}
		if (result == -ENOENT)
			return 0;
		memcpy(at, next, sizeof(at));
	}
}

int read_entries(int fd, size_t key_size, size_t value_size, bool batch, each_entry *each, void *context)
{
	int result = batch ? read_batches(fd, key_size, value_size, each, context) : -EINVAL;
	return no_batches(result) ? read_one_by_one(fd, key_size, value_size, each, context) : result;
}

/* ---- reading a piece of it ---- */

static int piece_one_by_one(struct piece *piece, int fd, uint32_t most, each_entry *each, void *context)
{
	char next[KEY_MAX];
	auto_free char *value = mem_alloc(piece->value_size);
	for (; most; most--) {
		int result = bpf_map_get_next_key(fd, piece->begun ? piece->at : NULL, next);
		if (result < 0)
			return result == -ENOENT ? 0 : result;
		memcpy(piece->at, next, piece->key_size);
		piece->begun = true;
		if (bpf_map_lookup_elem(fd, next, value) == 0)
			each(context, next, value);
	}
	return 1;
}

int piece_read(struct piece *piece, int fd, uint32_t most, each_entry *each, void *context)
{
	auto_free char *keys = mem_array(most, piece->key_size);
	auto_free char *values = mem_array(most, piece->value_size);
	char next[KEY_MAX];
	uint32_t count = most;
	int result = bpf_map_lookup_batch(fd, piece->begun ? piece->at : NULL, next, keys, values, &count, NULL);
	if (no_batches(result))
		return piece_one_by_one(piece, fd, most, each, context);
	if (result < 0 && result != -ENOENT)
		return result;
	for (uint32_t i = 0; i < count; i++)
		each(context, keys + i * piece->key_size, values + i * piece->value_size);
	memcpy(piece->at, next, sizeof(next));
	piece->begun = true;
	return result == 0;
}
