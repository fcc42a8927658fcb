/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/observe/flows.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "agent/base/mem.h"
#include "agent/observe/flow_names.h"
#include "agent/observe/rule_list.h"
#include "agent/state/snapshot.h"

/* The ring grows by chunks, so that an agent that sees little is small. */
#define CHUNK 1024
/* So many are there for those who follow, however few are kept. */
#define FOLLOW_MIN 1024
/* Looked at, or copied, while the lock is held. */
#define LOOK_AT_ONCE 4096
#define COPY_AT_ONCE 64
#define FLIPS 1024
/* An event may be here before the names of its revision: this long they are waited for. */
#define NAMES_TRIES 100
#define NAMES_PAUSE_NS 1000000

struct flip {
	uint32_t generation;
	uint64_t revision;
	uint64_t time; /* ns, CLOCK_MONOTONIC */
};

struct flows {
	struct metrics *metrics;
	uint32_t keep, size; /* listed; held */
	pthread_mutex_t lock;
	struct flow **chunks; /* flow N is at (N - 1) % size */
	uint64_t newest;      /* number; 0: none came */
	struct flow_names *names;
	struct flip flips[FLIPS]; /* the last is at (flip_count - 1) % FLIPS */
	uint64_t flip_count;
	uint32_t waited; /* for this generation's names, in vain */
	/* Of who adds: for which generation names were looked at last, and what was published then. */
	bool looked;
	uint32_t looked_for;
	unsigned long looked_at;
	uint64_t missed; /* records that were overwritten before somebody who follows had read them */
};

struct flows *flows_new(uint32_t keep, struct metrics *metrics)
{
	struct flows *flows = mem_alloc(sizeof(*flows));
	flows->metrics = metrics;
	flows->keep = keep;
	flows->size = keep > FOLLOW_MIN ? keep : FOLLOW_MIN;
	flows->chunks = mem_array(flows->size / CHUNK + 1, sizeof(*flows->chunks));
	flows->names = flow_names_new();
	pthread_mutex_init(&flows->lock, NULL);
	return flows;
}

static struct flow *flow_at(const struct flows *flows, uint64_t number)
{
	uint64_t place = (number - 1) % flows->size;
	return &flows->chunks[place / CHUNK][place % CHUNK];
}

/* The number of the oldest that is there; newest + 1: none. */
static uint64_t flow_oldest(const struct flows *flows, uint32_t kept)
{
	return flows->newest > kept ? flows->newest - kept + 1 : 1;
}

void flows_free(struct flows *flows)
{
	if (!flows)
		return;
	for (uint64_t number = flow_oldest(flows, flows->size); number <= flows->newest; number++)
		flow_names_drop(flows->names, flow_at(flows, number));
	for (size_t i = 0; i <= flows->size / CHUNK; i++)
		free(flows->chunks[i]);
	free(flows->chunks);
	flow_names_free(flows->names);
	pthread_mutex_destroy(&flows->lock);
	free(flows);
}

/* ---- revisions ---- */

void flows_flipped(struct flows *flows, uint32_t generation, uint64_t revision)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	uint64_t time = (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
	pthread_mutex_lock(&flows->lock);
	flows->flips[flows->flip_count++ % FLIPS] = (struct flip){generation, revision, time};
	pthread_mutex_unlock(&flows->lock);
}

void flows_interfaces(struct flows *flows, const struct flow_interface *list, size_t count)
{
	pthread_mutex_lock(&flows->lock);
	flow_names_interfaces(flows->names, list, count);
	pthread_mutex_unlock(&flows->lock);
}

static const struct flip *flip_last(const struct flows *flows)
{
	return flows->flip_count ? &flows->flips[(flows->flip_count - 1) % FLIPS] : NULL;
}

static uint64_t flip_revision(const struct flows *flows, uint32_t generation)
{
	uint64_t count = flows->flip_count < FLIPS ? flows->flip_count : FLIPS;
	for (uint64_t i = 1; i <= count; i++) {
		const struct flip *flip = &flows->flips[(flows->flip_count - i) % FLIPS];
		if (flip->generation == generation)
			return flip->revision;
	}
	return FLOW_REVISION_UNKNOWN;
}

/* When what this revision held was over; 0: not known. Under the lock. */
static uint64_t flip_after(const struct flows *flows, uint64_t revision)
{
	uint64_t count = flows->flip_count < FLIPS ? flows->flip_count : FLIPS, time = 0;
	for (uint64_t i = 1; i <= count; i++) {
		const struct flip *flip = &flows->flips[(flows->flip_count - i) % FLIPS];
		if (flip->revision <= revision)
			break;
		time = flip->time;
	}
	return time;
}

/* ---- what comes ---- */

/* The tables that an event speaks of, or what is live by now; 0: nobody said. Under the lock. */
static uint32_t names_wanted(const struct flows *flows, const struct snapshot *snapshot, uint32_t generation)
{
	const struct flip *last = flip_last(flows);
	if (!last || !snapshot)
		return 0;
	if ((int32_t)(generation - last->generation) > 0)
		return generation;
	return snapshot->revision < last->revision ? last->generation : 0;
}

/* Takes the names that are published. True: they are as new as what the event speaks of, or will not be. */
static bool names_look(struct flows *flows, uint32_t generation, bool last_time)
{
	struct snapshot *snapshot;
	struct rule_list *rules;
	metrics_published(flows->metrics, &snapshot, &rules);
	pthread_mutex_lock(&flows->lock);
	flow_names_update(flows->names, snapshot, rules, flip_after(flows, flow_names_revision(flows->names)));
	uint32_t wanted = names_wanted(flows, snapshot, generation);
	bool waits = wanted && wanted != flows->waited && !last_time;
	if (wanted && last_time)
		flows->waited = wanted;
	pthread_mutex_unlock(&flows->lock);
	snapshot_put(snapshot);
	rule_list_put(rules);
	return !waits;
}

/*
 * Once for each generation at most: one who does not publish holds nobody up for long. The next event of the same
 * generation needs no look, unless something was published. Only who adds comes here.
 */
static void names_wait(struct flows *flows, uint32_t generation)
{
	const struct timespec pause = {0, NAMES_PAUSE_NS};
	unsigned long publications = metrics_publications(flows->metrics);
	if (flows->looked && flows->looked_for == generation && flows->looked_at == publications)
		return;
	for (int tries = 1; !names_look(flows, generation, tries == NAMES_TRIES); tries++)
		nanosleep(&pause, NULL);
	flows->looked = true;
	flows->looked_for = generation;
	flows->looked_at = publications;
}

void flows_look(struct flows *flows)
{
	names_look(flows, 0, false);
}

/* The event's clock stops in suspend and is never set; what the user reads is the time of day. */
static int64_t time_of_day(uint64_t monotonic)
{
	struct timespec day, since;
	clock_gettime(CLOCK_MONOTONIC, &since);
	clock_gettime(CLOCK_REALTIME, &day);
	int64_t ago = (int64_t)since.tv_sec * 1000000000 + since.tv_nsec - (int64_t)monotonic;
	return (int64_t)day.tv_sec * 1000000000 + day.tv_nsec - ago;
}

/* Under the lock. */
static struct flow flow_make(struct flows *flows, const struct ps_event *event)
{
	struct flow flow = {.event = *event, .time = time_of_day(event->time)};
	flow.revision = flip_revision(flows, event->generation);
	flow_names_give(flows->names, &flow);
	return flow;
}

void flows_add(struct flows *flows, const struct ps_event *event, void (*each)(void *context, const struct flow *flow),
	void *context)
{
	names_wait(flows, event->generation);
	pthread_mutex_lock(&flows->lock);
	struct flow flow = flow_make(flows, event);
	flow.number = flows->newest + 1;
	uint64_t place = (flow.number - 1) % flows->size;
	if (!flows->chunks[place / CHUNK])
		flows->chunks[place / CHUNK] = mem_array(CHUNK, sizeof(struct flow));
	struct flow *slot = flow_at(flows, flow.number);
	flow_names_drop(flows->names, slot); /* of a slot that was never used: none */
	*slot = flow;
	flows->newest = flow.number;
	pthread_mutex_unlock(&flows->lock);
	/* Only who adds takes it out again. */
	if (each)
		each(context, &flow);
}

/* ---- reading: the lock is never held while something is rendered ---- */

/* The first from which on `limit` match, or `first`. */
static uint64_t limit_find(
	struct flows *flows, const struct feed_filter *filter, uint64_t first, uint64_t last, uint64_t limit)
{
	uint64_t at = last + 1, found = 0;
	while (limit && at > first && found < limit) {
		pthread_mutex_lock(&flows->lock);
		uint64_t oldest = flow_oldest(flows, flows->size);
		if (first < oldest)
			first = oldest;
		for (int looked = 0; looked < LOOK_AT_ONCE && at > first && found < limit; looked++)
			found += flow_matches(flow_at(flows, --at), filter);
		pthread_mutex_unlock(&flows->lock);
	}
	return limit ? at : first;
}

struct copies {
	struct flow list[COPY_AT_ONCE];
	size_t count;
};

/* Under the lock. */
static void copies_clear(struct flows *flows, struct copies *copies)
{
	for (size_t i = 0; i < copies->count; i++)
		flow_names_drop(flows->names, &copies->list[i]);
	copies->count = 0;
}

/* The next that match, up to `last`; *at is moved past what was looked at. How many were overwritten before. */
static uint64_t copies_take(
	struct flows *flows, const struct feed_filter *filter, uint64_t *at, uint64_t last, struct copies *copies)
{
	uint64_t lost = 0;
	pthread_mutex_lock(&flows->lock);
	copies_clear(flows, copies);
	uint64_t oldest = flow_oldest(flows, flows->size);
	if (*at < oldest) {
		lost = oldest - *at;
		*at = oldest;
	}
	for (int looked = 0; *at <= last && looked < LOOK_AT_ONCE && copies->count < COPY_AT_ONCE; looked++) {
		const struct flow *flow = flow_at(flows, (*at)++);
		if (!flow_matches(flow, filter))
			continue;
		copies->list[copies->count] = *flow;
		flow_names_keep(&copies->list[copies->count++]);
	}
	pthread_mutex_unlock(&flows->lock);
	return lost;
}

static void copies_free(struct flows *flows, struct copies *copies)
{
	pthread_mutex_lock(&flows->lock);
	copies_clear(flows, copies);
	pthread_mutex_unlock(&flows->lock);
	free(copies);
}

static void bounds_read(struct flows *flows, uint64_t *first, uint64_t *last)
{
	pthread_mutex_lock(&flows->lock);
	*first = flow_oldest(flows, flows->keep);
	*last = flows->newest;
	pthread_mutex_unlock(&flows->lock);
}

void flows_list(struct flows *flows, const struct feed_filter *filter, struct buffer *out)
{
	uint64_t first, last;
	size_t before = out->length;
	bounds_read(flows, &first, &last);
	uint64_t at = limit_find(flows, filter, first, last, filter->limit);
	struct copies *copies = mem_alloc(sizeof(*copies));
	while (at <= last) {
		copies_take(flows, filter, &at, last, copies);
		for (size_t i = 0; i < copies->count; i++) {
			buffer_puts(out, out->length > before ? "," : "");
			flow_render(&copies->list[i], out);
		}
	}
	copies_free(flows, copies);
}

/* *after is one more than the number of the last that was looked at; 0: nothing was. */
void flows_follow(
	struct flows *flows, const struct feed_filter *filter, uint64_t *after, size_t most, struct buffer *out)
{
	uint64_t first, last, at = *after, lost = 0;
	size_t before = out->length;
	bounds_read(flows, &first, &last);
	if (!at)
		at = limit_find(flows, filter, first, last, filter->limit);
	struct copies *copies = mem_alloc(sizeof(*copies));
	while (at <= last && out->length - before < most) {
		lost = copies_take(flows, filter, &at, last, copies);
		if (lost)
			buffer_printf(out, "{\"lost\":%llu}\n", (unsigned long long)lost);
		for (size_t i = 0; i < copies->count; i++) {
			flow_render(&copies->list[i], out);
			buffer_puts(out, "\n");
		}
		__atomic_add_fetch(&flows->missed, lost, __ATOMIC_RELAXED);
	}
	copies_free(flows, copies);
	*after = at;
}

uint64_t flows_missed(const struct flows *flows)
{
	return __atomic_load_n(&flows->missed, __ATOMIC_RELAXED);
}

/* ---- connections ---- */

bool flows_name(struct flows *flows, const struct ps_event *event, const struct feed_filter *filter, struct flow *ret)
{
	pthread_mutex_lock(&flows->lock);
	*ret = flow_make(flows, event);
	bool matches = flow_matches(ret, filter);
	if (!matches)
		flow_names_drop(flows->names, ret);
	pthread_mutex_unlock(&flows->lock);
	return matches;
}

void flows_forget(struct flows *flows, struct flow *flow)
{
	pthread_mutex_lock(&flows->lock);
	flow_names_drop(flows->names, flow);
	pthread_mutex_unlock(&flows->lock);
}
