/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/observe/metrics.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include "agent/base/mem.h"
#include "agent/observe/alerts.h"
#include "agent/observe/exposition.h"
#include "agent/observe/process.h"
#include "agent/observe/rule_list.h"
#include "agent/observe/watch.h"

#define PROXIES 256

static const double apply_bounds[] = {
	0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5};
#define APPLY_BOUNDS (sizeof(apply_bounds) / sizeof(apply_bounds[0]))

static const char *const apply_stages[APPLY_STAGES] = {
#define X(name, label) label,
	APPLY_STAGE_LIST(X)
#undef X
};

struct apply_times {
	uint64_t buckets[APPLY_BOUNDS + 1]; /* not cumulative */
	double sum;
	uint64_t failures;
};

/* One number of table proxy. Numbers are used again: what was counted before the present name had it is left out. */
struct proxy_slot {
	char *name; /* that has it now, or had it last */
	bool used;
	uint64_t before;              /* counted when the present name or engine began */
	uint64_t other[ENGINE_COUNT]; /* of this name, by engines before the present one */
};

struct facts {
	struct snapshot *snapshot;
	struct rule_list *rules;
	uint64_t enforced;
	size_t attached, pending;
	enum engine engine;
	struct proxy_slot proxies[PROXIES];
	struct apply_times apply[APPLY_STAGES];
};

struct metrics {
	struct metrics_source source;
	atomic_ulong publications;
	pthread_mutex_t lock; /* of facts; held for copies of pointers and numbers only */
	struct facts facts;
};

struct metrics *metrics_new(void)
{
	struct metrics *metrics = mem_alloc(sizeof(*metrics));
	pthread_mutex_init(&metrics->lock, NULL);
	return metrics;
}

static void facts_clear(struct facts *facts)
{
	snapshot_put(facts->snapshot);
	rule_list_put(facts->rules);
	for (int i = 0; i < PROXIES; i++)
		free(facts->proxies[i].name);
}

void metrics_free(struct metrics *metrics)
{
	if (!metrics)
		return;
	facts_clear(&metrics->facts);
	pthread_mutex_destroy(&metrics->lock);
	free(metrics);
}

void metrics_source(struct metrics *metrics, const struct metrics_source *source)
{
	metrics->source = *source;
}

/* ---- from the applying thread ---- */

static uint64_t proxy_count(const struct metrics *metrics, int number)
{
	const struct metrics_source *source = &metrics->source;
	return source->proxy_connections ? source->proxy_connections(source->context, number) : 0;
}

static void proxy_publish(struct metrics *metrics, int number, const char *name)
{
	struct proxy_slot *slot = &metrics->facts.proxies[number];
	if (name && (!slot->name || strcmp(slot->name, name))) {
		if (slot->name)
			slot->before = proxy_count(metrics, number);
		memset(slot->other, 0, sizeof(slot->other));
		free(slot->name);
		slot->name = str_dup(name);
	}
	slot->used = name;
}

static uint64_t slot_count(const struct proxy_slot *slot, uint64_t count)
{
	return count >= slot->before ? count - slot->before : count;
}

/* What was counted so far is the engine's that went. */
static void engine_publish(struct metrics *metrics, enum engine engine)
{
	enum engine was = metrics->facts.engine;
	metrics->facts.engine = engine;
	for (int i = 1; engine != was && i < PROXIES; i++) {
		struct proxy_slot *slot = &metrics->facts.proxies[i];
		uint64_t count = proxy_count(metrics, i);
		if (!slot->name)
			continue;
		slot->other[was] += slot_count(slot, count);
		slot->before = count;
	}
}

void metrics_publish(struct metrics *metrics, const struct metrics_facts *facts)
{
	const struct endpoint *endpoint;
	size_t at = 0, count[2] = {0};
	while ((endpoint = compiler_endpoint_next(facts->compiler, &at)))
		count[endpoint->bound]++;
	/* Only this thread changes facts, so it may read them without the lock. */
	struct rule_list *rules = rule_list_of(facts->book, metrics->facts.rules), *rules_before;
	struct snapshot *snapshot = snapshot_get(facts->snapshot), *snapshot_before;

	pthread_mutex_lock(&metrics->lock);
	snapshot_before = metrics->facts.snapshot;
	rules_before = metrics->facts.rules;
	metrics->facts.snapshot = snapshot;
	metrics->facts.rules = rules;
	metrics->facts.attached = count[true];
	metrics->facts.pending = count[false];
	if (facts->live)
		metrics->facts.enforced = snapshot->revision;
	engine_publish(metrics, facts->engine);
	for (int i = 1; i < PROXIES; i++)
		proxy_publish(metrics, i, compiler_proxy_name(facts->compiler, i));
	pthread_mutex_unlock(&metrics->lock);
	atomic_fetch_add(&metrics->publications, 1);
	snapshot_put(snapshot_before);
	rule_list_put(rules_before);
}

void metrics_apply(struct metrics *metrics, enum apply_stage stage, double seconds, bool failed)
{
	size_t bucket = 0;
	while (bucket < APPLY_BOUNDS && seconds > apply_bounds[bucket])
		bucket++;
	pthread_mutex_lock(&metrics->lock);
	metrics->facts.apply[stage].buckets[bucket]++;
	metrics->facts.apply[stage].sum += seconds;
	metrics->facts.apply[stage].failures += failed;
	pthread_mutex_unlock(&metrics->lock);
}

void metrics_published(struct metrics *metrics, struct snapshot **snapshot, struct rule_list **rules)
{
	pthread_mutex_lock(&metrics->lock);
	*snapshot = metrics->facts.snapshot ? snapshot_get(metrics->facts.snapshot) : NULL;
	*rules = rule_list_get(metrics->facts.rules);
	pthread_mutex_unlock(&metrics->lock);
}

unsigned long metrics_publications(const struct metrics *metrics)
{
	return atomic_load(&metrics->publications);
}

/* ---- rendering ---- */

static void facts_copy(struct metrics *metrics, struct facts *copy)
{
	pthread_mutex_lock(&metrics->lock);
	*copy = metrics->facts;
	if (copy->snapshot)
		snapshot_get(copy->snapshot);
	rule_list_get(copy->rules);
	for (int i = 0; i < PROXIES; i++)
		copy->proxies[i].name = str_dup(copy->proxies[i].name);
	pthread_mutex_unlock(&metrics->lock);
}

static void render_build(struct buffer *out)
{
	struct utsname kernel;
	uname(&kernel);
	metric_head(out, METRIC_BUILD_INFO);
	metric_count(out, METRIC_BUILD_INFO, 1, "version", PENSTOCK_VERSION, "commit", PENSTOCK_COMMIT, "kernel",
		kernel.release, NULL);
}

/* Pods and Workloads that have addresses and no endpoint here are another node's. */
static size_t workloads_count(const struct snapshot *snapshot)
{
	static const enum kind with_addresses[] = {KIND_POD, KIND_WORKLOAD};
	size_t count = 0, first, end;
	for (int i = 0; snapshot && i < 2; i++)
		for (snapshot_range(snapshot, with_addresses[i], NULL, &first, &end); first < end; first++) {
			const struct workload *workload = snapshot->objects[first]->workload;
			count += !workload->host_network && !workload->ended;
		}
	return count;
}

static void render_objects(const struct facts *facts, struct buffer *out)
{
	const struct snapshot *snapshot = facts->snapshot;
	size_t quarantined[KIND_COUNT + 1] = {0}, first = 0, end = 0;

	metric_head(out, METRIC_REVISION);
	metric_count(out, METRIC_REVISION, snapshot ? snapshot->revision : 0, "stage", "wanted", NULL);
	metric_count(out, METRIC_REVISION, facts->enforced, "stage", "enforced", NULL);

	metric_head(out, METRIC_OBJECTS);
	for (int kind = 0; kind < KIND_COUNT; kind++) {
		if (snapshot)
			snapshot_range(snapshot, kind, NULL, &first, &end);
		metric_count(out, METRIC_OBJECTS, end - first, "kind", kinds[kind].kind, NULL);
	}

	size_t here = facts->attached + facts->pending, all = workloads_count(snapshot);
	metric_head(out, METRIC_WORKLOADS);
	metric_count(out, METRIC_WORKLOADS, facts->attached, "state", "attached", NULL);
	metric_count(out, METRIC_WORKLOADS, facts->pending, "state", "pending", NULL);
	metric_count(out, METRIC_WORKLOADS, all > here ? all - here : 0, "state", "remote", NULL);

	for (size_t i = 0; snapshot && i < snapshot->quarantined_count; i++) {
		int kind = kind_by_name(snapshot->quarantined[i].key.kind);
		quarantined[kind < 0 ? KIND_COUNT : kind]++;
	}
	metric_head(out, METRIC_QUARANTINED);
	for (int kind = 0; kind <= KIND_COUNT; kind++) /* a kind that nobody knows must not become a label of its own */
		metric_count(
			out, METRIC_QUARANTINED, quarantined[kind], "kind", kind < KIND_COUNT ? kinds[kind].kind : "Unknown", NULL);

	metric_head(out, METRIC_LAST_WRITE);
	for (size_t i = 0; snapshot && i < snapshot->owner_count; i++)
		if (snapshot->owners[i].last_write)
			metric_count(
				out, METRIC_LAST_WRITE, snapshot->owners[i].last_write, "owner", snapshot->owners[i].name, NULL);
}

static const char *const directions[] = {
#define X(name, text) text,
	PS_DIRECTIONS(X)
#undef X
};
static const char *const verdicts[] = {
#define X(name, text) text,
	PS_VERDICTS(X)
#undef X
};
static const char *const reasons[] = {
#define X(name, text, doc) text,
	PS_REASONS(X)
#undef X
};

/* What every node sees sooner or later is there from the start, so that its first increase is not lost to rate(). */
static bool count_is_expected(int verdict, int reason)
{
	static const uint32_t expected[PS_VERDICT_COUNT] = {
		[PS_VERDICT_FORWARDED] = 1u << PS_REASON_POLICY | 1u << PS_REASON_DEFAULT | 1u << PS_REASON_ESTABLISHED,
		[PS_VERDICT_INTERCEPTED] = 1u << PS_REASON_INTERCEPT,
		[PS_VERDICT_DROPPED] = 1u << PS_REASON_POLICY | 1u << PS_REASON_ISOLATED | 1u << PS_REASON_SPOOFED |
							   1u << PS_REASON_MALFORMED | 1u << PS_REASON_NO_LISTENER,
	};
	return expected[verdict] >> reason & 1;
}

static void render_counts(const struct datapath_counts *counts, enum metric metric, size_t offset, struct buffer *out)
{
	metric_head(out, metric);
	for (int direction = 0; direction < PS_DIRECTION_COUNT; direction++)
		for (int verdict = 0; verdict < PS_VERDICT_COUNT; verdict++)
			for (int reason = 0; reason < PS_REASON_COUNT; reason++) {
				const struct ps_count *count = &counts->counts[PS_COUNT_INDEX(direction, verdict, reason)];
				if (count->packets || count_is_expected(verdict, reason))
					metric_count(out, metric, *(const __u64 *)((const char *)count + offset), "direction",
						directions[direction], "verdict", verdicts[verdict], "reason", reasons[reason], NULL);
			}
}

static void render_packets(const struct metrics_source *source, struct buffer *out)
{
	struct datapath_counts *counts = mem_alloc(sizeof(*counts));
	if (source->counts && source->counts(source->context, counts) == 0) {
		render_counts(counts, METRIC_PACKETS, offsetof(struct ps_count, packets), out);
		render_counts(counts, METRIC_BYTES, offsetof(struct ps_count, bytes), out);
		metric_head(out, METRIC_ONWARD);
		metric_count(out, METRIC_ONWARD, counts->stats[PS_STAT_LEG_CLIENT], "source", "client", NULL);
		metric_count(out, METRIC_ONWARD, counts->stats[PS_STAT_LEG_NODE], "source", "node", NULL);
		metric_head(out, METRIC_EVENTS_LOST);
		metric_count(out, METRIC_EVENTS_LOST, counts->stats[PS_STAT_LOST], "stream", "connections", NULL);
		metric_count(out, METRIC_EVENTS_LOST, counts->stats[PS_STAT_LOST_REFUSED], "stream", "refusals", NULL);
		if (source->missed)
			metric_count(out, METRIC_EVENTS_LOST, source->missed(source->context), "stream", "followers", NULL);
	}
	free(counts);
}

static void render_handshakes(const struct metrics_source *source, struct buffer *out)
{
	struct handshakes handshakes = {0};
	const double *bounds = source->handshakes ? source->handshakes(source->context, &handshakes) : NULL;
	metric_head(out, METRIC_HANDSHAKE);
	if (!bounds)
		return;
	for (size_t i = 1; i <= HANDSHAKE_BOUNDS; i++)
		handshakes.buckets[i] += handshakes.buckets[i - 1];
	metric_histogram(out, METRIC_HANDSHAKE, NULL, NULL, bounds, HANDSHAKE_BOUNDS, handshakes.buckets, handshakes.sum);
}

static void render_drops(const struct metrics_source *source, struct buffer *out)
{
	struct kernel_drop drop;
	size_t at = 0;
	metric_head(out, METRIC_KERNEL_DROPS);
	while (source->drop && source->drop(source->context, &at, &drop))
		metric_count(out, METRIC_KERNEL_DROPS, drop.packets, "reason", drop.reason, NULL);
}

/* What may happen is there from the start, so that its first increase is not lost to rate(). */
static void render_watched(const struct metrics_source *source, struct buffer *out)
{
	static const char *const alerts[] = {
#define X(name, text, severity, help) text,
		ALERTS(X)
#undef X
	};
	static const char *const drifts[] = {
#define X(name, label, help) label,
		DRIFTS(X)
#undef X
	};
	metric_head(out, METRIC_ALERTS);
	for (unsigned int kind = 0; source->alerts && kind < ALERT_COUNT; kind++)
		metric_count(out, METRIC_ALERTS, source->alerts(source->context, kind), "alert", alerts[kind], NULL);
	metric_head(out, METRIC_DRIFT);
	for (enum drift what = 0; source->drift && what < DRIFT_COUNT; what++)
		metric_count(out, METRIC_DRIFT, source->drift(source->context, what), "what", drifts[what], NULL);
}

/* A name that only rules use is nobody's. */
static bool proxy_up(const struct metrics_source *source, const struct snapshot *snapshot, const char *name)
{
	const struct object *object = snapshot ? snapshot_find(snapshot, KIND_TRANSPARENT_PROXY, "", name) : NULL;
	return object && source->proxy_up(source->context, name, object->proxy);
}

static void render_proxies(const struct metrics *metrics, const struct facts *facts, struct buffer *out)
{
	const struct metrics_source *source = &metrics->source;
	metric_head(out, METRIC_PROXY_UP);
	for (int i = 1; source->proxy_up && i < PROXIES; i++)
		if (facts->proxies[i].used)
			metric_count(out, METRIC_PROXY_UP, proxy_up(source, facts->snapshot, facts->proxies[i].name), "proxy",
				facts->proxies[i].name, NULL);
	metric_head(out, METRIC_INTERCEPTED);
	for (int i = 1; i < PROXIES; i++) {
		const struct proxy_slot *slot = &facts->proxies[i];
		if (!slot->used)
			continue;
		uint64_t present = slot_count(slot, proxy_count(metrics, i));
		for (enum engine engine = 0; engine < ENGINE_COUNT; engine++) {
			uint64_t count = slot->other[engine] + (engine == facts->engine ? present : 0);
			if (count || engine == facts->engine)
				metric_count(out, METRIC_INTERCEPTED, count, "proxy", slot->name, "engine", engine_name(engine), NULL);
		}
	}
}

static void render_maps(const struct metrics_source *source, struct buffer *out)
{
	struct buffer capacity = {0};
	struct map_fill fill;
	uint64_t connections = 0;
	size_t at = 0;
	metric_head(out, METRIC_MAP_ENTRIES);
	metric_head(&capacity, METRIC_MAP_CAPACITY);
	while (source->map_fill && source->map_fill(source->context, &at, &fill)) {
		metric_count(out, METRIC_MAP_ENTRIES, fill.entries, "map", fill.map, NULL);
		metric_count(&capacity, METRIC_MAP_CAPACITY, fill.capacity, "map", fill.map, NULL);
		if (strncmp(fill.map, "ps_conn", 7) == 0)
			connections += fill.entries;
	}
	buffer_add(out, capacity.data, capacity.length);
	buffer_free(&capacity);
	metric_head(out, METRIC_CONNECTIONS);
	metric_count(out, METRIC_CONNECTIONS, connections, NULL);
}

static void render_apply(const struct facts *facts, struct buffer *out)
{
	metric_head(out, METRIC_APPLY_DURATION);
	for (int stage = 0; stage < APPLY_STAGES; stage++) {
		uint64_t cumulative[APPLY_BOUNDS + 1], sum = 0;
		for (size_t i = 0; i <= APPLY_BOUNDS; i++)
			cumulative[i] = sum += facts->apply[stage].buckets[i];
		metric_histogram(out, METRIC_APPLY_DURATION, "stage", apply_stages[stage], apply_bounds, APPLY_BOUNDS,
			cumulative, facts->apply[stage].sum);
	}
	metric_head(out, METRIC_APPLY_FAILURES);
	for (int stage = 0; stage < APPLY_STAGES; stage++)
		metric_count(out, METRIC_APPLY_FAILURES, facts->apply[stage].failures, "stage", apply_stages[stage], NULL);
}

/* The server walks counts and latencies as it likes; on the page each metric stands together. */
struct api_pages {
	struct buffer requests, durations;
};

static void api_count_render(void *context, const struct api_count *count)
{
	struct api_pages *pages = context;
	char code[16];
	snprintf(code, sizeof(code), "%d", count->code);
	metric_count(&pages->requests, METRIC_API_REQUESTS, count->requests, "method", count->method, "route", count->route,
		"code", code, NULL);
}

static void api_latency_render(void *context, const struct api_latency *latency)
{
	struct api_pages *pages = context;
	metric_histogram(&pages->durations, METRIC_API_DURATION, "route", latency->route, latency->bounds,
		latency->bound_count, latency->buckets, latency->sum);
}

static void render_api(const struct metrics_source *source, struct buffer *out)
{
	struct api_pages pages = {0};
	metric_head(&pages.requests, METRIC_API_REQUESTS);
	metric_head(&pages.durations, METRIC_API_DURATION);
	if (source->api)
		source->api(source->context, api_count_render, api_latency_render, &pages);
	buffer_add(out, pages.requests.data, pages.requests.length);
	buffer_add(out, pages.durations.data, pages.durations.length);
	buffer_free(&pages.requests);
	buffer_free(&pages.durations);
}

void metrics_render(struct metrics *metrics, struct buffer *out)
{
	const struct metrics_source *source = &metrics->source;
	struct facts *facts = mem_alloc(sizeof(*facts));
	facts_copy(metrics, facts);
	render_build(out);
	render_objects(facts, out);
	render_packets(source, out);
	render_handshakes(source, out);
	render_drops(source, out);
	render_watched(source, out);
	metric_head(out, METRIC_RULE_HITS);
	rule_list_render(facts->rules, source->rule_hits, source->context, out);
	render_proxies(metrics, facts, out);
	render_maps(source, out);
	render_apply(facts, out);
	render_api(source, out);
	process_render(out);
	facts_clear(facts);
	free(facts);
}
