/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections that nothing in the kernel ends: established ones without a timer (before Linux 5.15, and where the
 * kernel had no memory for one at the moment of promotion), and embryonic ones that were told of (an answer never came,
 * or was the last packet). They are looked for a piece at a time, so that a full table never holds a write up.
 */
#include <bpf/bpf.h>
#include <errno.h>
#include <string.h>
#include "agent/base/mem.h"
#include "agent/datapath/private.h"

#define BATCH 2048
#define ENTRIES_A_PASS 16384
/* The timer of an entry that has one is given this much time. */
#define AFTER_TIMER_NS 1000000000ull

struct sweep {
	struct datapath *datapath;
	int fd;
	bool ipv6, embryonic;
	size_t key_size, protocol_offset, value_size;
	struct sweep_cursor *cursor;
	uint64_t now;
};

static const struct ps_conn *entry_conn(const struct sweep *sweep, const void *value)
{
	return sweep->embryonic ? value : &((const struct ps_conn_live *)value)->conn;
}

/* Embryonic entries of which nobody heard are left to the kernel, which needs their room when it is short of it. */
static bool is_over(const struct sweep *sweep, const char *key, const struct ps_conn *conn)
{
	uint8_t protocol = (uint8_t)key[sweep->protocol_offset];
	uint64_t idle = PS_CONN_IDLE(protocol, conn->state) * 1000000000ull + AFTER_TIMER_NS;
	if (sweep->embryonic && (conn->service & (PS_CONN_TOLD | PS_CONN_QUIET)) != PS_CONN_TOLD)
		return false;
	if (sweep->embryonic)
		idle = EMBRYONIC_NS;
	return conn->seen < sweep->now && sweep->now - conn->seen > idle;
}

/* Its end was told when it closed, unless it never did. */
static void end_tell(const struct sweep *sweep, const char *key, const struct ps_conn *conn)
{
	struct ps_event event;
	if (conn->state == PS_CONN_CLOSING || (conn->service & (PS_CONN_TOLD | PS_CONN_QUIET)) != PS_CONN_TOLD)
		return;
	entry_tell(sweep->ipv6, key, conn, sweep->now, &event);
	event.event = PS_EVENT_CLOSED;
	event_ended(sweep->datapath, &event);
}

/* Looked at again right before: a packet may have come since. */
static bool entry_end(const struct sweep *sweep, const char *key)
{
	struct ps_conn_live value;
	const struct ps_conn *conn = entry_conn(sweep, &value);
	if (bpf_map_lookup_elem(sweep->fd, key, &value) < 0 || !is_over(sweep, key, conn) ||
		bpf_map_delete_elem(sweep->fd, key) < 0)
		return false;
	end_tell(sweep, key, conn);
	return true;
}

/* Returns how many were ended. */
static uint64_t map_sweep(const struct sweep *sweep)
{
	auto_free char *keys = mem_array(BATCH, sweep->key_size);
	auto_free char *values = mem_array(BATCH, sweep->value_size);
	uint64_t ended = 0;
	for (uint32_t seen = 0; seen < ENTRIES_A_PASS;) {
		uint32_t count = BATCH;
		uint32_t *from = sweep->cursor->under_way ? &sweep->cursor->at : NULL;
		int result = bpf_map_lookup_batch(sweep->fd, from, &sweep->cursor->at, keys, values, &count, NULL);
		sweep->cursor->under_way = result == 0;
		for (uint32_t i = 0; (result == 0 || result == -ENOENT) && i < count; i++) {
			const char *key = keys + i * sweep->key_size;
			ended += is_over(sweep, key, entry_conn(sweep, values + i * sweep->value_size)) && entry_end(sweep, key);
		}
		if (result < 0) /* -ENOENT: the end; anything else: from the beginning next time */
			break;
		seen += count;
	}
	return ended;
}

static struct sweep sweep_of(struct datapath *datapath, enum sweep_map map)
{
	static const enum other_map maps[SWEEP_MAPS] = {
		[SWEEP_CONN4] = OTHER_CONN4, [SWEEP_CONN6] = OTHER_CONN6, [SWEEP_NEW4] = OTHER_NEW4, [SWEEP_NEW6] = OTHER_NEW6};
	bool ipv6 = map == SWEEP_CONN6 || map == SWEEP_NEW6, embryonic = map >= SWEEP_NEW4;
	return (struct sweep){.datapath = datapath,
		.fd = datapath->loaded.other[maps[map]],
		.ipv6 = ipv6,
		.embryonic = embryonic,
		.key_size = ipv6 ? sizeof(struct ps_key_conn6) : sizeof(struct ps_key_conn4),
		.protocol_offset = ipv6 ? offsetof(struct ps_key_conn6, protocol) : offsetof(struct ps_key_conn4, protocol),
		.value_size = embryonic ? sizeof(struct ps_conn) : sizeof(struct ps_conn_live),
		.cursor = &datapath->sweeps[map],
		.now = monotonic_now()};
}

void datapath_expire(struct datapath *datapath)
{
	bool established = connections_open(datapath) > 0;
	for (enum sweep_map map = SWEEP_CONN4; map < SWEEP_MAPS; map++) {
		struct sweep sweep = sweep_of(datapath, map);
		if (!established && !sweep.embryonic)
			continue;
		uint64_t ended = map_sweep(&sweep);
		if (!sweep.embryonic)
			atomic_fetch_add(&datapath->connections->swept, ended);
	}
}
