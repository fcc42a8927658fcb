/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/observe/alert_rates.h"

#include <netinet/in.h>

/* What is not closer in time than this is not worth a division. */
#define TICK_MIN (SECOND / 20)

void rates_flow(struct rates *rates, const struct flow *flow)
{
	if (flow->event.event != PS_EVENT_REFUSED)
		return;
	standout_add(&rates->sources, flow->event.reason == PS_REASON_SPOOFED ? NULL : flow->workload[0]);
	standout_add(&rates->destinations, flow->workload[1]);
}

static double per_second(double count, int64_t time)
{
	return count * SECOND / (double)time;
}

/* ---- SynFlood ---- */

struct half_open {
	struct standout destinations;
};

static bool half_open_each(void *argument, const struct flow *flow)
{
	struct half_open *half_open = argument;
	if (flow->event.protocol == IPPROTO_TCP && !flow->event.handshake && flow->event.packets[0] <= 8)
		standout_add(&half_open->destinations, flow->workload[1]);
	return true;
}

static void flood_tell(struct rates *rates, const struct alert_facts *facts, int64_t now, double rate)
{
	struct half_open half_open = {0};
	if (facts->half_open)
		facts->half_open(facts->context, half_open_each, &half_open);
	const char *target = standout_most(&half_open.destinations);
	const struct alert alert = {.kind = ALERT_SYN_FLOOD,
		.time = now,
		.since = rates->flood_since,
		.workload = target,
		.value = rate,
		.threshold = rates->thresholds->syn_flood};
	alert_list_raise(rates->list, &alert,
		"%.0f TCP connections a second begin%s%s and are not completed: `penstock connections%s%s` lists who begins "
		"them; "
		"turn on net.ipv4.tcp_syncookies where they end, and limit or filter them before the node.",
		rate, target ? ", most of them to " : "", target ? target : "", target ? " --workload " : "",
		target ? target : "");
}

static void flood_tick(
	struct rates *rates, const struct alert_facts *facts, const struct rate_sample *before, int64_t now)
{
	uint64_t begun = facts->begun - before->begun, opened = facts->opened - before->opened;
	double rate = per_second(begun > opened ? (double)(begun - opened) : 0, now - before->time);
	double threshold = rates->thresholds->syn_flood;
	if (!rates->thresholds->syn_flood)
		return;
	if (rate <= threshold) {
		rates->flood_since = 0;
		if (rate > threshold / 2)
			episode_goes_on(&rates->flood, now);
		return;
	}
	if (!rates->flood_since)
		rates->flood_since = before->time;
	if (now - rates->flood_since >= SYN_LASTS && episode_begins(&rates->flood, now, RATE_QUIET))
		flood_tell(rates, facts, now, rate);
}

/* ---- DenySpike ---- */

/* The youngest sample that is a window old, or the oldest there is. */
static const struct rate_sample *window_begin(const struct rates *rates, int64_t now)
{
	uint64_t at = rates->taken - 1, oldest = rates->taken > RATE_SAMPLES ? rates->taken - RATE_SAMPLES : 0;
	while (at > oldest && now - rates->samples[at % RATE_SAMPLES].time < DENY_WINDOW - TICK_MIN)
		at--;
	return &rates->samples[at % RATE_SAMPLES];
}

static void spike_tell(struct rates *rates, int64_t now, int64_t since, double rate, double level)
{
	const char *source = standout_most(&rates->sources), *destination = standout_most(&rates->destinations);
	const char *workload = source ? source : destination;
	const struct alert alert = {
		.kind = ALERT_DENY_SPIKE, .time = now, .since = since, .workload = workload, .value = rate, .threshold = level};
	alert_list_raise(rates->list, &alert,
		"%.0f packets a second are refused, %.0f are usual%s%s: `penstock flows --verdict Dropped%s%s` names the "
		"rules; see "
		"whether a policy is wrong or somebody tries what he must not.",
		rate, rates->usual,
		source        ? ", most of them from "
		: destination ? ", most of them to "
					  : "",
		workload ? workload : "", workload ? " --workload " : "", workload ? workload : "");
}

static void spike_tick(
	struct rates *rates, const struct alert_facts *facts, const struct rate_sample *before, int64_t now)
{
	const struct rate_sample *begin = window_begin(rates, now);
	int64_t window = now - begin->time;
	double refused = (double)(facts->refused - begin->refused);
	double rate = per_second(refused, window > DENY_WINDOW ? window : DENY_WINDOW);
	double floor = rates->thresholds->deny_spike, level = rates->usual * rates->thresholds->deny_factor;
	if (!rates->learnt) { /* what an agent finds when it starts again is usual */
		rates->usual = rate;
		rates->learnt = window >= DENY_WINDOW - TICK_MIN;
		return;
	}
	level = level > floor ? level : floor;
	if (rates->thresholds->deny_spike && rate > level) {
		if (episode_begins(&rates->spike, now, RATE_QUIET))
			spike_tell(rates, now, begin->time, rate, level);
	} else if (rate > level / 2) {
		episode_goes_on(&rates->spike, now);
	}
	double seconds = (double)(now - before->time) / SECOND;
	double latest = per_second((double)(facts->refused - before->refused), now - before->time);
	double memory = (double)(now - rates->started) / SECOND;
	memory = memory < USUAL_MIN ? USUAL_MIN : memory > USUAL_MAX ? USUAL_MAX : memory;
	rates->usual += (latest - rates->usual) * seconds / (memory + seconds);
	standout_age(&rates->sources);
	standout_age(&rates->destinations);
}

/* ---- both ---- */

void rates_tick(struct rates *rates, const struct alert_facts *facts, int64_t now)
{
	const struct rate_sample *before = rates->taken ? &rates->samples[(rates->taken - 1) % RATE_SAMPLES] : NULL;
	/* The clock was set back, or counters begin anew: so does this. */
	if (before && (now < before->time || facts->begun < before->begun || facts->opened < before->opened ||
					  facts->refused < before->refused)) {
		rates->taken = 0;
		rates->flood_since = 0;
		before = NULL;
	}
	if (before && now - before->time < TICK_MIN)
		return;
	if (!rates->started) {
		rates->started = now;
		rates->learnt = !facts->refused; /* nothing has been refused so far: there is nothing to learn from */
	}
	if (before) {
		flood_tick(rates, facts, before, now);
		spike_tick(rates, facts, before, now);
	}
	rates->samples[rates->taken++ % RATE_SAMPLES] =
		(struct rate_sample){now, facts->begun, facts->opened, facts->refused};
}
