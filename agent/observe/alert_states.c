/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/observe/alert_states.h"

#include <string.h>
#include "agent/base/mem.h"

/* Forgotten after an hour in which it was well. */
#define FORGET (3600 * SECOND)

struct state_named {
	char *name;
	int64_t since; /* not well since; 0: well */
	int64_t seen;  /* not well at that time, last */
	struct episode episode;
};

static struct state_named *state_find(struct state_list *list, const char *name)
{
	for (size_t at = 0; at < list->count; at++) {
		if (strcmp(list->named[at].name, name) == 0)
			return &list->named[at];
	}
	list->named = list_room(list->named, list->count, &list->capacity, sizeof(*list->named));
	list->named[list->count] = (struct state_named){.name = str_dup(name)};
	return &list->named[list->count++];
}

/* Who was not named in this tick is well; names that nobody has spoken of for long go. */
static void states_sweep(struct state_list *list, int64_t now)
{
	for (size_t at = 0; at < list->count;) {
		struct state_named *named = &list->named[at];
		if (named->seen != now)
			named->since = 0;
		if (now - named->seen <= FORGET) {
			at++;
			continue;
		}
		free(named->name);
		*named = list->named[--list->count];
	}
}

static void state_list_clear(struct state_list *list)
{
	for (size_t at = 0; at < list->count; at++)
		free(list->named[at].name);
	free(list->named);
}

void states_clear(struct states *states)
{
	state_list_clear(&states->proxies);
	state_list_clear(&states->maps);
}

/* ---- ProxyDown ---- */

static void proxy_tick(struct states *states, const char *name, int64_t now)
{
	struct state_named *proxy = state_find(&states->proxies, name);
	if (!proxy->since || now < proxy->since)
		proxy->since = now;
	proxy->seen = now;
	if (now - proxy->since < PROXY_DOWN_LASTS || !episode_begins(&proxy->episode, now, PROXY_QUIET))
		return;
	const struct alert alert = {.kind = ALERT_PROXY_DOWN,
		.time = now,
		.since = proxy->since,
		.value = (double)(now - proxy->since) / SECOND,
		.threshold = 1};
	alert_list_raise(states->list, &alert,
		"TransparentProxy %s has no listener that connections can be handed to: start its process; if it runs, "
		"`penstock "
		"status` says why its listeners are ignored.",
		name);
}

/* ---- TableNearlyFull ---- */

static void map_tick(struct states *states, const struct map_fill *map, int64_t now)
{
	uint32_t threshold = states->thresholds->table_full;
	double percent = map->capacity ? 100. * (double)map->entries / (double)map->capacity : 0;
	bool connections = strncmp(map->map, "ps_conn", strlen("ps_conn")) == 0;
	if (percent + TABLE_SLACK <= threshold)
		return;
	struct state_named *named = state_find(&states->maps, map->map);
	named->seen = now;
	if (percent < threshold) {
		episode_goes_on(&named->episode, now);
		return;
	}
	if (!episode_begins(&named->episode, now, TABLE_QUIET))
		return;
	const struct alert alert = {
		.kind = ALERT_TABLE_NEARLY_FULL, .time = now, .since = now, .value = percent, .threshold = threshold};
	alert_list_raise(states->list, &alert, "The kernel map %s holds %llu of %llu entries: %s", map->map,
		(unsigned long long)map->entries, (unsigned long long)map->capacity,
		connections
			? "see in `penstock connections` who has them, or raise datapath.connectionsMax and restart; when it is "
			  "full, new connections pass but may be forgotten."
			: "push fewer or simpler objects; what does not fit any more is refused with 507.");
}

/* ---- EventsLost ---- */

static void lost_tick(struct states *states, const struct alert_facts *facts, int64_t now)
{
	uint64_t lost = states->counted && facts->lost > states->lost ? facts->lost - states->lost : 0;
	int64_t since = states->lost_at;
	states->counted = true;
	states->lost = facts->lost;
	states->lost_at = now;
	if (!lost || !episode_begins(&states->losing, now, LOST_QUIET))
		return;
	const struct alert alert = {
		.kind = ALERT_EVENTS_LOST, .time = now, .since = since, .value = (double)lost, .threshold = 0};
	alert_list_raise(states->list, &alert,
		"%llu events of connections were lost, so flows and alerts are not complete: `penstock top` shows who opens or "
		"is "
		"refused so many; penstock_events_lost_total counts on. If the node is merely busy, give the agent more CPU.",
		(unsigned long long)lost);
}

void states_tick(struct states *states, const struct alert_facts *facts, int64_t now)
{
	for (size_t at = 0; at < facts->proxies_down_count; at++)
		proxy_tick(states, facts->proxies_down[at], now);
	for (size_t at = 0; states->thresholds->table_full && at < facts->map_count; at++)
		map_tick(states, &facts->maps[at], now);
	states_sweep(&states->proxies, now);
	states_sweep(&states->maps, now);
	lost_tick(states, facts, now);
}
