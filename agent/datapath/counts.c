/* SPDX-License-Identifier: Apache-2.0 */
/* What programs count, summed over CPUs; and which rules have a counter. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <string.h>
#include <time.h>
#include "agent/base/log.h"
#include "agent/base/mem.h"
#include "agent/datapath/private.h"

/* Per-CPU values stand 8-byte aligned, one for each possible CPU. All maps here hold 64-bit words. */
static int read_words(int fd, const void *key, uint64_t *sum, size_t words)
{
	int cpus = libbpf_num_possible_cpus();
	if (cpus < 0)
		return cpus;
	auto_free uint64_t *values = mem_array(cpus * words, sizeof(uint64_t));
	int result = bpf_map_lookup_elem(fd, key, values);
	if (result < 0)
		return result;
	for (size_t word = 0; word < words; word++) {
		sum[word] = 0;
		for (int cpu = 0; cpu < cpus; cpu++)
			sum[word] += values[cpu * words + word];
	}
	return 0;
}

int datapath_read_counts(const struct datapath *datapath, struct datapath_counts *ret)
{
	memset(ret, 0, sizeof(*ret));
	for (uint32_t direction = 0; direction < PS_DIRECTION_COUNT; direction++)
		for (uint32_t verdict = 0; verdict < PS_VERDICT_COUNT; verdict++)
			for (uint32_t reason = 0; reason < PS_REASON_COUNT; reason++) {
				uint32_t index = PS_COUNT_INDEX(direction, verdict, reason);
				uint64_t words[2];
				int result = read_words(datapath->loaded.other[OTHER_COUNT_MAP], &index, words, 2);
				if (result < 0)
					return result;
				ret->counts[index] = (struct ps_count){.packets = words[0], .bytes = words[1]};
			}
	for (uint32_t stat = 0; stat < PS_STAT_COUNT; stat++) {
		int result = read_words(datapath->loaded.other[OTHER_STAT], &stat, &ret->stats[stat], 1);
		if (result < 0)
			return result;
	}
	ret->stats[PS_STAT_LOST] += events_lost(datapath);
	return 0;
}

static uint64_t read_word(int fd, uint32_t key)
{
	uint64_t sum = 0;
	return read_words(fd, &key, &sum, 1) == 0 ? sum : 0;
}

uint64_t datapath_read_rule(const struct datapath *datapath, uint32_t rule)
{
	return read_word(datapath->loaded.other[OTHER_RULE_HITS], rule);
}

uint64_t datapath_read_proxy(const struct datapath *datapath, uint8_t proxy)
{
	return read_word(datapath->loaded.other[OTHER_PROXY_COUNT], proxy);
}

/* ---- which rules are counted ---- */

int rules_take_over(struct datapath *d, struct error *e)
{
	uint32_t key, next;
	int fd = d->loaded.other[OTHER_RULE_HITS], result;
	for (result = bpf_map_get_next_key(fd, NULL, &next); result == 0; result = bpf_map_get_next_key(fd, &key, &next)) {
		key = next;
		map_put(&d->rules, &key, NULL);
	}
	return result == -ENOENT ? 0 : error_system(e, -result, "map ps_rule_hits cannot be read");
}

static int rule_count(struct datapath *d, uint32_t rule, const void *zeros)
{
	int result = bpf_map_update_elem(d->loaded.other[OTHER_RULE_HITS], &rule, zeros, BPF_NOEXIST);
	if (result == 0 || result == -EEXIST)
		map_put(&d->rules, &rule, NULL);
	return result == -EEXIST ? 0 : result;
}

/* Too many rules for the map: those are not counted, everything else goes on. */
int datapath_rules(struct datapath *datapath, const struct rulebook *book, struct error *e)
{
	int cpus = libbpf_num_possible_cpus();
	auto_free void *zeros = mem_array(cpus > 0 ? cpus : 1, sizeof(uint64_t));
	size_t at = 0, uncounted = 0;
	const struct rule_identity *identity;
	while ((identity = rulebook_next(book, &at))) {
		uint32_t rule = identity->id;
		bool counted = map_get(&datapath->rules, &rule) != NULL;
		if (!identity->live && counted)
			map_put(&datapath->rules_gone, &rule, NULL);
		else if (identity->live) {
			map_delete(&datapath->rules_gone, &rule);
			int result = counted ? 0 : rule_count(datapath, rule, zeros);
			if (result < 0 && result != -E2BIG && result != -ENOMEM)
				return write_failed(e, -result, "ps_rule_hits", "written");
			uncounted += result < 0;
		}
	}
	atomic_store(&datapath->fill_rules, datapath->rules.count);
	if (uncounted)
		log_warn(ROOM, "map ps_rule_hits is full: hits of %zu rules are not counted", uncounted);
	return 0;
}

void rules_leave(struct datapath *d)
{
	size_t at = 0;
	const void *key;
	void *none;
	while (map_next(&d->rules_gone, &at, &key, &none)) {
		uint32_t rule = *(const uint32_t *)key;
		bpf_map_delete_elem(d->loaded.other[OTHER_RULE_HITS], &rule);
		map_delete(&d->rules, &rule);
	}
	map_clear(&d->rules_gone);
	atomic_store(&d->fill_rules, d->rules.count);
}

/* ---- fill ---- */

static int count_entry(void *context, const void *key, const void *value)
{
	++*(uint64_t *)context;
	return 0;
}

/* Counting a large hash takes tens of milliseconds, so IPv6's is counted now and then; promotions minus ends give both
 * families together. */
#define COUNT_SECONDS 10
static uint64_t connections6(const struct datapath *d)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	int64_t due = atomic_load(&d->connections->due);
	if (now.tv_sec >= due && atomic_compare_exchange_strong(&d->connections->due, &due, now.tv_sec + COUNT_SECONDS)) {
		uint64_t count = 0;
		if (read_entries(d->loaded.other[OTHER_CONN6], sizeof(struct ps_key_conn6), sizeof(struct ps_conn_live), true,
				count_entry, &count) == 0)
			atomic_store(&d->connections->ipv6, count);
	}
	return atomic_load(&d->connections->ipv6);
}

static uint64_t opened_not_closed(const struct datapath *d)
{
	uint64_t opened = read_word(d->loaded.other[OTHER_STAT], PS_STAT_OPENED),
			 closed = read_word(d->loaded.other[OTHER_STAT], PS_STAT_CLOSED);
	return opened > closed ? opened - closed : 0;
}

uint64_t connections_open(const struct datapath *d)
{
	uint64_t open = opened_not_closed(d), swept = atomic_load(&d->connections->swept);
	return open > swept ? open - swept : 0;
}

void connections_take_over(struct datapath *d)
{
	uint64_t open = opened_not_closed(d), there = 0;
	if (open == 0)
		return;
	if (read_entries(d->loaded.other[OTHER_CONN4], sizeof(struct ps_key_conn4), sizeof(struct ps_conn_live), true,
			count_entry, &there) == 0 &&
		read_entries(d->loaded.other[OTHER_CONN6], sizeof(struct ps_key_conn6), sizeof(struct ps_conn_live), true,
			count_entry, &there) == 0 &&
		there < open)
		atomic_store(&d->connections->swept, open - there);
}

static uint64_t connections_count(const struct datapath *d, bool ipv6)
{
	uint64_t both = connections_open(d), six = connections6(d);
	if (six > both)
		six = both;
	return ipv6 ? six : both - six;
}

/* Tables: what is wanted, known without asking the kernel. */
bool datapath_fill_next(const struct datapath *datapath, size_t *at, struct map_fill *ret)
{
	static const char *const names[] = {
#define X(name, type, key, value, entries) "ps_" #name,
		PS_TABLES(X)
#undef X
	};
	const struct loaded *loaded = &datapath->loaded;
	size_t i = (*at)++;
	switch (i) {
	case TABLE_COUNT:
		*ret = (struct map_fill){"ps_conn4", connections_count(datapath, false), loaded->connections};
		return true;
	case TABLE_COUNT + 1:
		*ret = (struct map_fill){"ps_conn6", connections_count(datapath, true), loaded->connections};
		return true;
	case TABLE_COUNT + 2:
		*ret = (struct map_fill){"ps_rule_hits", atomic_load(&datapath->fill_rules), loaded->rules};
		return true;
	case TABLE_COUNT + 3:
		*ret = (struct map_fill){"ps_iface", atomic_load(&datapath->fill_interfaces), PS_IFACES_MAX};
		return true;
	default:
		if (i >= TABLE_COUNT)
			return false;
		*ret = (struct map_fill){names[i], atomic_load(&datapath->fill[i]), table_infos[i].entries};
		return true;
	}
}
