/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of ps_listener: which sockets a proxy's connections may be handed to. */
#include <bpf/bpf.h>
#include <pthread.h>
#include "agent/datapath/listeners_look.h"

/* Rows that nobody wants stay this long: the live side may still ask for them until a flip. */
#define ROW_STAYS_MS 2000

/* ps_listener: {cookie, chosen} for programs; {cookie, 0} is for the next agent: this one was adopted. */
struct row {
	int64_t wanted; /* ms, last */
	uint32_t value;
};

static struct ps_key_listener row_key(const struct listener *l, uint32_t chosen)
{
	return (struct ps_key_listener){.cookie = l->heard.cookie, .chosen = chosen};
}

bool listener_row_want(struct listeners *ls, const struct listener *l, uint32_t chosen, uint32_t value, int64_t now)
{
	struct ps_key_listener key = row_key(l, chosen);
	struct row *row = map_get(&ls->rows, &key), fresh = {now, value};
	if (row && row->value == value) {
		row->wanted = now;
		return true;
	}
	if (bpf_map_update_elem(ls->datapath->loaded.other[OTHER_LISTENER], &key, &value, BPF_ANY) < 0)
		return false;
	map_put(&ls->rows, &key, &fresh);
	return true;
}

void listener_row_drop(struct listeners *ls, const struct listener *l, uint32_t chosen)
{
	struct ps_key_listener key = row_key(l, chosen);
	if (!map_get(&ls->rows, &key))
		return;
	bpf_map_delete_elem(ls->datapath->loaded.other[OTHER_LISTENER], &key);
	map_delete(&ls->rows, &key);
}

bool listener_row_there(const struct listeners *ls, const struct listener *l, uint32_t chosen)
{
	struct ps_key_listener key = row_key(l, chosen);
	return map_get(&ls->rows, &key);
}

void listener_rows_expire(struct listeners *ls, int64_t now)
{
	const void *key;
	void *value;
	size_t at = 0;
	while (map_next(&ls->rows, &at, &key, &value)) {
		if (now - ((struct row *)value)->wanted < ROW_STAYS_MS)
			continue;
		bpf_map_delete_elem(ls->datapath->loaded.other[OTHER_LISTENER], key);
		map_delete(&ls->rows, key);
	}
}

uint64_t listeners_rows(struct datapath *d)
{
	struct listeners *ls = d->listeners;
	int fd = d->loaded.other[OTHER_LISTENER];
	const void *key;
	void *value;
	size_t at = 0;
	uint64_t count = 0;
	if (pthread_mutex_trylock(&ls->look) != 0)
		return 0;
	while (map_next(&ls->rows, &at, &key, &value))
		count += audit_row(fd, key, &((struct row *)value)->value, sizeof(uint32_t));
	count += audit_strangers(fd, sizeof(uint32_t), &ls->rows, NULL);
	pthread_mutex_unlock(&ls->look);
	return count;
}

void listener_rows_open(struct listeners *ls)
{
	map_init(&ls->rows, sizeof(struct ps_key_listener), sizeof(struct row));
}

struct heir {
	struct map *rows;
	int64_t now;
};

static int row_take_over(void *context, const void *key, const void *value)
{
	const struct heir *heir = context;
	struct row row = {heir->now, *(const uint32_t *)value};
	map_put(heir->rows, key, &row);
	return 0;
}

void listener_rows_take_over(struct listeners *ls, int64_t now)
{
	struct heir heir = {&ls->rows, now};
	read_entries(ls->datapath->loaded.other[OTHER_LISTENER], sizeof(struct ps_key_listener), sizeof(uint32_t), false,
		row_take_over, &heir);
}
