/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Established connections that have no timer: before Linux 5.15, and where the kernel had no memory for one at the
 * moment of promotion. They are looked for a piece at a time, so that a full table never holds a write up.
 */
#include <bpf/bpf.h>
#include <errno.h>
#include <string.h>
#include <time.h>
#include "agent/base/mem.h"
#include "agent/datapath/private.h"

#define BATCH 2048
#define ENTRIES_A_PASS 16384
/* The timer of an entry that has one is given this much time. */
#define AFTER_TIMER_NS 1000000000ull

struct sweep {
	int fd;
	size_t key_size, protocol_offset;
	struct sweep_cursor *cursor;
	uint64_t now;
};

static bool is_over(const struct sweep *sweep, const char *key, const struct ps_conn *conn)
{
	uint8_t protocol = (uint8_t)key[sweep->protocol_offset];
	uint64_t idle = PS_CONN_IDLE(protocol, conn->state) * 1000000000ull + AFTER_TIMER_NS;
	return conn->seen < sweep->now && sweep->now - conn->seen > idle;
}

/* Looked at again right before: a packet may have come since. */
static bool entry_end(const struct sweep *sweep, const char *key)
{
	struct ps_conn_live live;
	return bpf_map_lookup_elem(sweep->fd, key, &live) == 0 && is_over(sweep, key, &live.conn) &&
		   bpf_map_delete_elem(sweep->fd, key) == 0;
}

/* Returns how many were ended. */
static uint64_t map_sweep(const struct sweep *sweep)
{
	auto_free char *keys = mem_array(BATCH, sweep->key_size);
	auto_free struct ps_conn_live *values = mem_array(BATCH, sizeof(*values));
	uint64_t ended = 0;
	for (uint32_t seen = 0; seen < ENTRIES_A_PASS;) {
		uint32_t count = BATCH;
		uint32_t *from = sweep->cursor->under_way ? &sweep->cursor->at : NULL;
		int result = bpf_map_lookup_batch(sweep->fd, from, &sweep->cursor->at, keys, values, &count, NULL);
		sweep->cursor->under_way = result == 0;
		for (uint32_t i = 0; (result == 0 || result == -ENOENT) && i < count; i++) {
			const char *key = keys + i * sweep->key_size;
			ended += is_over(sweep, key, &values[i].conn) && entry_end(sweep, key);
		}
		if (result < 0) /* -ENOENT: the end; anything else: from the beginning next time */
			break;
		seen += count;
	}
	return ended;
}

void datapath_expire(struct datapath *datapath)
{
	struct timespec now;
	if (connections_open(datapath) == 0)
		return;
	clock_gettime(CLOCK_MONOTONIC, &now);
	struct sweep sweeps[] = {
		{.fd = datapath->loaded.other[OTHER_CONN4],
			.key_size = sizeof(struct ps_key_conn4),
			.protocol_offset = offsetof(struct ps_key_conn4, protocol)},
		{.fd = datapath->loaded.other[OTHER_CONN6],
			.key_size = sizeof(struct ps_key_conn6),
			.protocol_offset = offsetof(struct ps_key_conn6, protocol)},
	};
	for (size_t i = 0; i < 2; i++) {
		sweeps[i].cursor = &datapath->sweeps[i];
		sweeps[i].now = (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
		atomic_fetch_add(&datapath->connections->swept, map_sweep(&sweeps[i]));
	}
}
