/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Anomalies: detectors that are fed with flows and with what is counted, and say once when something begins. Pure but
 * for the lock: time is what the caller says. One thread feeds (watch.c), HTTP's threads read.
 *
 * An alert is raised when it begins, once. It has ended when its condition was not true for 30 s (ProxyDown 10 s,
 * EventsLost 60 s; TableNearlyFull: less than ten percent below its threshold counts as true, SynFlood and DenySpike:
 * more than half). Each time the same one returns it has to have been away twice as long, up to an hour, to be raised
 * again. The same: of the same source address, proxy or map.
 */
#ifndef PENSTOCK_ALERTS_H
#define PENSTOCK_ALERTS_H

#include <stdbool.h>
#include <stdint.h>
#include "agent/base/buffer.h"
#include "agent/observe/flows.h"
#include "api/server/server.h"

/* name, text, severity, what it means */
#define ALERTS(X)                                                                                                  \
	X(PORT_SCAN, "PortScan", "warning", "one source was refused at many distinct ports or addresses in 10 s")      \
	X(SYN_FLOOD, "SynFlood", "critical", "many TCP connections begin and are not completed")                       \
	X(DENY_SPIKE, "DenySpike", "warning", "far more connections are refused than usual")                           \
	X(PROXY_DOWN, "ProxyDown", "critical", "a TransparentProxy has no listener that connections can be handed to") \
	X(TABLE_NEARLY_FULL, "TableNearlyFull", "warning", "a kernel map is nearly full")                              \
	X(EVENTS_LOST, "EventsLost", "warning", "the ring of events was full: flows are missing")

enum alert_kind {
#define X(name, ...) ALERT_##name,
	ALERTS(X)
#undef X
		ALERT_COUNT
};

/* Configuration `alerts:`; 0 switches one off. */
#define SCAN_THRESHOLD_MAX 4096 /* 32 KiB a source at most */
struct alert_thresholds {
	uint32_t port_scan;   /* distinct ports or addresses refused in 10 s, of one source */
	uint32_t syn_flood;   /* half-open connections a second */
	uint32_t deny_spike;  /* refusals a second, at least, and … */
	uint32_t deny_factor; /* … this many times the usual */
	uint32_t table_full;  /* percent */
};

/* What is looked at twice a second or oftener. */
struct alert_facts {
	uint64_t begun, opened;      /* PS_STAT_BEGUN, PS_STAT_ANSWERED */
	uint64_t refused;            /* packets refused, all reasons */
	uint64_t lost;               /* events */
	const struct map_fill *maps; /* all that can run full */
	size_t map_count;
	const char *const *proxies_down; /* names */
	size_t proxies_down_count;
	/* May be NULL. Gives connections of TCP that are not complete, with their workloads, some thousands at most, while
	 * `each` says true. Asked when a flood begins, to find out whom it is for. */
	void (*half_open)(void *context, bool (*each)(void *argument, const struct flow *flow), void *argument);
	void *context;
};

struct alerts;
struct alerts *alerts_new(const struct alert_thresholds *thresholds);
void alerts_free(struct alerts *alerts);
void alerts_flow(struct alerts *alerts, const struct flow *flow);
/* now: ns since 1970, as in flows. True: something was noticed since the last call, by flows too. */
bool alerts_tick(struct alerts *alerts, const struct alert_facts *facts, int64_t now);

/* As flows_list and flows_follow. An alert:
 * {"time","alert","severity","workload","detail","value","threshold","since"}.
 */
void alerts_list(struct alerts *alerts, const struct feed_filter *filter, struct buffer *out);
void alerts_follow(
	struct alerts *alerts, const struct feed_filter *filter, uint64_t *after, size_t most, struct buffer *out);
/* How often each was raised, for penstock_alerts_total. */
uint64_t alerts_raised(struct alerts *alerts, enum alert_kind kind);

#endif
