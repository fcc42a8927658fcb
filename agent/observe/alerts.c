/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/observe/alerts.h"

#include "agent/base/mem.h"
#include "agent/observe/alert_list.h"
#include "agent/observe/alert_rates.h"
#include "agent/observe/alert_scan.h"
#include "agent/observe/alert_states.h"

struct alerts {
	struct alert_thresholds thresholds;
	struct alert_list *list;
	struct scans *scans;
	struct rates rates;
	struct states states;
};

struct alerts *alerts_new(const struct alert_thresholds *thresholds)
{
	struct alerts *alerts = mem_alloc(sizeof(*alerts));
	alerts->thresholds = *thresholds;
	alerts->list = alert_list_new();
	alerts->scans = scans_new(thresholds->port_scan, alerts->list);
	alerts->rates = (struct rates){.thresholds = &alerts->thresholds, .list = alerts->list};
	alerts->states = (struct states){.thresholds = &alerts->thresholds, .list = alerts->list};
	return alerts;
}

void alerts_free(struct alerts *alerts)
{
	if (!alerts)
		return;
	states_clear(&alerts->states);
	scans_free(alerts->scans);
	alert_list_free(alerts->list);
	free(alerts);
}

void alerts_flow(struct alerts *alerts, const struct flow *flow)
{
	scans_flow(alerts->scans, flow);
	rates_flow(&alerts->rates, flow);
}

bool alerts_tick(struct alerts *alerts, const struct alert_facts *facts, int64_t now)
{
	rates_tick(&alerts->rates, facts, now);
	states_tick(&alerts->states, facts, now);
	return alert_list_news(alerts->list);
}

void alerts_list(struct alerts *alerts, const struct feed_filter *filter, struct buffer *out)
{
	alert_list_read(alerts->list, filter, out);
}

void alerts_follow(
	struct alerts *alerts, const struct feed_filter *filter, uint64_t *after, size_t most, struct buffer *out)
{
	alert_list_follow(alerts->list, filter, after, most, out);
}

uint64_t alerts_raised(struct alerts *alerts, enum alert_kind kind)
{
	return alert_list_count(alerts->list, kind);
}
