/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/feeds.h"

#include <string.h>
#include "agent/base/mem.h"
#include "agent/observe/rule_list.h"

struct feeds {
	struct datapath *datapath;
	struct metrics *metrics;
	struct flows *flows;
	struct alerts *alerts;
	struct watch *watch;
	struct server *server;
};

struct feeds *feeds_new(const struct config *config, struct datapath *datapath, struct metrics *metrics)
{
	struct feeds *feeds = mem_alloc(sizeof(*feeds));
	uint32_t generation;
	uint64_t revision;
	*feeds = (struct feeds){.datapath = datapath,
		.metrics = metrics,
		.flows = flows_new(config->flows.keep, metrics),
		.alerts = alerts_new(&config->alerts)};
	/* What an earlier agent left live is what the first events speak of. */
	datapath_generation(datapath, &generation, &revision);
	if (generation)
		flows_flipped(feeds->flows, generation, revision);
	return feeds;
}

void feeds_free(struct feeds *feeds)
{
	if (!feeds)
		return;
	watch_free(feeds->watch);
	alerts_free(feeds->alerts);
	flows_free(feeds->flows);
	free(feeds);
}

struct flows *feeds_flows(struct feeds *feeds)
{
	return feeds->flows;
}

/* ---- what is watched ---- */

static int source_events(
	void *context, int wait, void (*each)(void *argument, const struct ps_event *event), void *argument)
{
	return datapath_events(((struct feeds *)context)->datapath, wait, each, argument);
}

static void source_wake(void *context)
{
	datapath_events_wake(((struct feeds *)context)->datapath);
}

static int source_counts(void *context, struct datapath_counts *ret)
{
	return datapath_read_counts(((struct feeds *)context)->datapath, ret);
}

static bool source_map_fill(void *context, size_t *at, struct map_fill *ret)
{
	return datapath_fill_next(((struct feeds *)context)->datapath, at, ret);
}

static void source_connections(
	void *context, bool (*each)(void *argument, const struct ps_event *event), void *argument)
{
	datapath_connections(((struct feeds *)context)->datapath, each, argument);
}

static size_t source_proxies_down(void *context, char ***ret)
{
	struct feeds *feeds = context;
	struct snapshot *snapshot;
	struct rule_list *rules;
	auto_free struct listener_status *listeners = NULL;
	size_t at = 0, end = 0, count = 0, room = 0, listener_count = datapath_listeners(feeds->datapath, &listeners);
	metrics_published(feeds->metrics, &snapshot, &rules);
	rule_list_put(rules);
	*ret = NULL;
	if (snapshot)
		snapshot_range(snapshot, KIND_TRANSPARENT_PROXY, NULL, &at, &end);
	for (; at < end; at++) {
		const struct object *object = snapshot->objects[at];
		if (listeners_serve(listeners, listener_count, object->name, object->proxy))
			continue;
		*ret = list_room(*ret, count, &room, sizeof(**ret));
		(*ret)[count++] = str_dup(object->name);
	}
	snapshot_put(snapshot);
	return count;
}

static void source_news(void *context, enum feed feed)
{
	server_news(((struct feeds *)context)->server, feed);
}

int feeds_start(struct feeds *feeds, struct server *server, struct error *e)
{
	const struct watch_source source = {
		.context = feeds,
		.events = source_events,
		.wake = source_wake,
		.counts = source_counts,
		.map_fill = source_map_fill,
		.proxies_down = source_proxies_down,
		.connections = source_connections,
		.news = source_news,
	};
	struct watch *watch = NULL;
	feeds->server = server;
	int result = watch_start(&source, feeds->flows, feeds->alerts, &watch, e);
	__atomic_store_n(&feeds->watch, watch, __ATOMIC_RELEASE); /* HTTP's threads are asking for metrics already */
	return result;
}

void feeds_stop(struct feeds *feeds)
{
	if (feeds)
		watch_stop(feeds->watch);
}

/* ---- reading ---- */

static void connections_walk(void *walker, bool (*each)(void *context, const struct ps_event *event), void *context)
{
	datapath_connections(walker, each, context);
}

void feeds_list(struct feeds *feeds, enum feed feed, const struct feed_filter *filter, struct buffer *out)
{
	struct watch *watch = __atomic_load_n(&feeds->watch, __ATOMIC_ACQUIRE);
	if (feed == FEED_FLOWS && watch)
		watch_hurry(watch);
	if (feed == FEED_FLOWS)
		flows_list(feeds->flows, filter, out);
	else
		alerts_list(feeds->alerts, filter, out);
}

struct text_source *feeds_connections(struct feeds *feeds, const struct feed_filter *filter, size_t *held)
{
	return flows_connections(feeds->flows, filter, connections_walk, feeds->datapath, held);
}

void feeds_follow(struct feeds *feeds, enum feed feed, const struct feed_filter *filter, uint64_t *after, size_t most,
	struct buffer *out)
{
	if (feed == FEED_FLOWS)
		flows_follow(feeds->flows, filter, after, most, out);
	else if (feed == FEED_ALERTS)
		alerts_follow(feeds->alerts, filter, after, most, out);
}

const double *feeds_handshakes(struct feeds *feeds, struct handshakes *ret)
{
	struct watch *watch = __atomic_load_n(&feeds->watch, __ATOMIC_ACQUIRE);
	*ret = (struct handshakes){0};
	if (watch)
		watch_handshakes(watch, ret);
	return watch_bounds;
}

uint64_t feeds_alerts(struct feeds *feeds, unsigned int kind)
{
	return alerts_raised(feeds->alerts, (enum alert_kind)kind);
}
