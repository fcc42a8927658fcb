/* SPDX-License-Identifier: Apache-2.0 */
/* SynFlood and DenySpike: what is counted, a second. */
#ifndef PENSTOCK_ALERT_RATES_H
#define PENSTOCK_ALERT_RATES_H

#include "agent/observe/alert_list.h"
#include "agent/observe/standout.h"

/* DenySpike looks at the mean of so long: a burst of few packets is none, and 101 a second are noticed in time. */
#define DENY_WINDOW (3 * SECOND / 2)
/* SynFlood has to last for so long: a step up in load is half open for one round trip. */
#define SYN_LASTS (9 * SECOND / 10)
#define RATE_QUIET (30 * SECOND)
/* Seconds, in which what is usual follows what is: more, the longer the agent has looked. */
#define USUAL_MIN 60.
#define USUAL_MAX 300.
#define RATE_SAMPLES 16

struct rate_sample {
	int64_t time;
	uint64_t begun, opened, refused;
};
struct rates {
	const struct alert_thresholds *thresholds;
	struct alert_list *list;
	struct rate_sample samples[RATE_SAMPLES]; /* by `taken`; the newest is at taken - 1 */
	uint64_t taken;

	int64_t flood_since; /* 0: no more half-open ones than the threshold */
	struct episode flood;

	int64_t started;
	bool learnt;
	double usual; /* refusals a second */
	struct episode spike;
	struct standout sources, destinations; /* workloads of refusals */
};
void rates_flow(struct rates *rates, const struct flow *flow);
void rates_tick(struct rates *rates, const struct alert_facts *facts, int64_t now);

#endif
