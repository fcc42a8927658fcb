/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/observe/watch.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "agent/base/log.h"
#include "agent/base/mem.h"

#define ROOM "watch"
/* Events wait for no longer than this: a thread that is woken for each costs more than they do. */
#define WAIT_MS 50
/* Those who follow are woken no more often. */
#define NEWS_NS 50000000ll
#define TICK_NS 250000000ll
/* After a failure, so that one that stays does not keep a CPU busy. */
#define RETRY_NS 500000000ll
/* Who asks what there is waits for no longer. */
#define HURRY_NS 100000000ll
/* Of connections that are half open. */
#define HALF_OPEN_MAX 4096

const double watch_bounds[HANDSHAKE_BOUNDS] = {
	0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5};

struct watch {
	struct watch_source source;
	struct flows *flows;
	struct alerts *alerts;
	pthread_t thread;
	atomic_bool ends;
	atomic_uint hurried;  /* by so many */
	pthread_mutex_t lock; /* of handshakes and rounds */
	pthread_cond_t ended; /* a round */
	uint64_t rounds;      /* that have begun; the last may not have ended */
	bool round_ended;
	struct handshakes handshakes;
	bool failing; /* and it was said */
	bool came;    /* flows that nobody was told of */
	int64_t told, ticked;
};

static int64_t now_of(clockid_t clock)
{
	struct timespec now;
	clock_gettime(clock, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ---- events ---- */

static void handshake_note(struct watch *watch, uint32_t ns)
{
	double seconds = (double)ns / 1e9;
	size_t bucket = 0;
	while (bucket < HANDSHAKE_BOUNDS && seconds > watch_bounds[bucket])
		bucket++;
	pthread_mutex_lock(&watch->lock);
	watch->handshakes.buckets[bucket]++;
	watch->handshakes.sum += seconds;
	pthread_mutex_unlock(&watch->lock);
}

static void flow_see(void *context, const struct flow *flow)
{
	struct watch *watch = context;
	if (flow->event.event == PS_EVENT_OPENED && flow->event.handshake)
		handshake_note(watch, flow->event.handshake);
	alerts_flow(watch->alerts, flow);
}

static void event_see(void *context, const struct ps_event *event)
{
	struct watch *watch = context;
	flows_add(watch->flows, event, flow_see, watch);
	watch->came = true;
}

static void events_take(struct watch *watch)
{
	const struct timespec pause = {0, RETRY_NS};
	int wait = atomic_load(&watch->hurried) ? 0 : WAIT_MS;
	int result = watch->source.events(watch->source.context, wait, event_see, watch);
	if (result < 0 && !watch->failing)
		log_error(ROOM, "events cannot be read: %s", strerror(-result));
	watch->failing = result < 0;
	if (result < 0)
		nanosleep(&pause, NULL);
}

/* ---- facts ---- */

struct half_open {
	struct watch *watch;
	bool (*each)(void *argument, const struct flow *flow);
	void *argument;
	size_t given;
};

static bool half_open_give(void *context, const struct ps_event *event)
{
	struct half_open *half_open = context;
	const struct feed_filter none = {0};
	struct flow flow;
	if (event->protocol != PROTOCOL_TCP || event->event == PS_EVENT_OPENED)
		return true;
	flows_name(half_open->watch->flows, event, &none, &flow);
	bool more = half_open->each(half_open->argument, &flow);
	flows_forget(half_open->watch->flows, &flow);
	return more && ++half_open->given < HALF_OPEN_MAX;
}

static void half_open_list(void *context, bool (*each)(void *argument, const struct flow *flow), void *argument)
{
	struct watch *watch = context;
	struct half_open half_open = {watch, each, argument, 0};
	watch->source.connections(watch->source.context, half_open_give, &half_open);
}

static uint64_t refused_packets(const struct datapath_counts *counts)
{
	static const enum ps_verdict_code refusals[] = {PS_VERDICT_DROPPED, PS_VERDICT_REJECTED};
	uint64_t sum = 0;
	for (int direction = 0; direction < PS_DIRECTION_COUNT; direction++)
		for (int refusal = 0; refusal < 2; refusal++)
			for (int reason = 0; reason < PS_REASON_COUNT; reason++)
				sum += counts->counts[PS_COUNT_INDEX(direction, refusals[refusal], reason)].packets;
	return sum;
}

static struct map_fill *fills_list(const struct watch_source *source, size_t *count)
{
	struct map_fill *list = NULL, fill;
	size_t room = 0;
	*count = 0;
	for (size_t at = 0; source->map_fill(source->context, &at, &fill);) {
		list = list_room(list, *count, &room, sizeof(*list));
		list[(*count)++] = fill;
	}
	return list;
}

/* True: an alert was raised. */
static bool facts_tell(struct watch *watch, const struct datapath_counts *counts)
{
	const struct watch_source *source = &watch->source;
	struct alert_facts facts = {
		.begun = counts->stats[PS_STAT_BEGUN],
		.opened = counts->stats[PS_STAT_ANSWERED],
		.refused = refused_packets(counts),
		.lost = counts->stats[PS_STAT_LOST] + counts->stats[PS_STAT_LOST_REFUSED],
		.half_open = source->connections ? half_open_list : NULL,
		.context = watch,
	};
	char **down = NULL;
	auto_free struct map_fill *fills = fills_list(source, &facts.map_count);
	facts.maps = fills;
	facts.proxies_down_count = source->proxies_down(source->context, &down);
	facts.proxies_down = (const char *const *)down;
	bool news = alerts_tick(watch->alerts, &facts, now_of(CLOCK_REALTIME));
	for (size_t i = 0; i < facts.proxies_down_count; i++)
		free(down[i]);
	free(down);
	return news;
}

static void tick(struct watch *watch, int64_t now)
{
	struct datapath_counts counts;
	if (now - watch->ticked < TICK_NS)
		return;
	watch->ticked = now;
	flows_look(watch->flows);
	if (watch->source.counts(watch->source.context, &counts) == 0 && facts_tell(watch, &counts))
		watch->source.news(watch->source.context, FEED_ALERTS);
}

static void news_tell(struct watch *watch, int64_t now)
{
	if (!watch->came || now - watch->told < NEWS_NS)
		return;
	watch->came = false;
	watch->told = now;
	watch->source.news(watch->source.context, FEED_FLOWS);
}

/* ---- who cannot wait ---- */

static void round_note(struct watch *watch, bool ended)
{
	pthread_mutex_lock(&watch->lock);
	watch->rounds += !ended;
	watch->round_ended = ended;
	pthread_cond_broadcast(&watch->ended);
	pthread_mutex_unlock(&watch->lock);
}

/* The round under way may have read the ring already: the one behind it has not. */
void watch_hurry(struct watch *watch)
{
	struct timespec until;
	int64_t due = now_of(CLOCK_MONOTONIC) + HURRY_NS;
	until = (struct timespec){due / 1000000000, due % 1000000000};
	atomic_fetch_add(&watch->hurried, 1);
	if (watch->source.wake)
		watch->source.wake(watch->source.context);
	pthread_mutex_lock(&watch->lock);
	uint64_t wanted = watch->rounds + 1;
	int result = 0;
	while (result == 0 && (watch->rounds < wanted || (watch->rounds == wanted && !watch->round_ended)) &&
		   !atomic_load(&watch->ends))
		result = pthread_cond_timedwait(&watch->ended, &watch->lock, &until);
	pthread_mutex_unlock(&watch->lock);
	atomic_fetch_sub(&watch->hurried, 1);
}

/* ---- the thread ---- */

static void *watch_run(void *context)
{
	struct watch *watch = context;
	while (!atomic_load(&watch->ends)) {
		round_note(watch, false);
		events_take(watch);
		round_note(watch, true);
		int64_t now = now_of(CLOCK_MONOTONIC);
		news_tell(watch, now);
		tick(watch, now);
	}
	return NULL;
}

/* Signals are the main thread's. */
static int thread_start(struct watch *watch)
{
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int result = pthread_create(&watch->thread, NULL, watch_run, watch);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -result;
}

int watch_start(
	const struct watch_source *source, struct flows *flows, struct alerts *alerts, struct watch **ret, struct error *e)
{
	struct watch *watch = mem_alloc(sizeof(*watch));
	pthread_condattr_t monotonic;
	*watch = (struct watch){.source = *source, .flows = flows, .alerts = alerts};
	pthread_mutex_init(&watch->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&watch->ended, &monotonic);
	pthread_condattr_destroy(&monotonic);
	int result = thread_start(watch);
	if (result < 0) {
		free(watch);
		return error_system(e, -result, "a thread for events");
	}
	*ret = watch;
	return 0;
}

void watch_stop(struct watch *watch)
{
	if (!watch || atomic_exchange(&watch->ends, true))
		return;
	pthread_join(watch->thread, NULL);
}

void watch_free(struct watch *watch)
{
	if (!watch)
		return;
	watch_stop(watch);
	pthread_cond_destroy(&watch->ended);
	pthread_mutex_destroy(&watch->lock);
	free(watch);
}

void watch_handshakes(struct watch *watch, struct handshakes *ret)
{
	pthread_mutex_lock(&watch->lock);
	*ret = watch->handshakes;
	pthread_mutex_unlock(&watch->lock);
}
