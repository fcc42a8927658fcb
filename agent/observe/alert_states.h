/* SPDX-License-Identifier: Apache-2.0 */
/* ProxyDown, TableNearlyFull, EventsLost: something is or is not as it should be. */
#ifndef PENSTOCK_ALERT_STATES_H
#define PENSTOCK_ALERT_STATES_H

#include "agent/observe/alert_list.h"

/* A proxy that is back within a second was not down; the rest is what listeners and ticks are late by. */
#define PROXY_DOWN_LASTS (11 * SECOND / 10)
#define PROXY_QUIET (10 * SECOND)
/* A table's alert ends so many percent below the threshold. */
#define TABLE_SLACK 10
#define TABLE_QUIET (30 * SECOND)
#define LOST_QUIET (60 * SECOND)

struct state_named;
struct state_list {
	struct state_named *named;
	size_t count, capacity;
};
struct states {
	const struct alert_thresholds *thresholds;
	struct alert_list *list;
	struct state_list proxies, maps;
	bool counted; /* lost and lost_at are known */
	uint64_t lost;
	int64_t lost_at;
	struct episode losing;
};
void states_clear(struct states *states);
void states_tick(struct states *states, const struct alert_facts *facts, int64_t now);

#endif
