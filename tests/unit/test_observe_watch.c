/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/state_objects.h"

#include <errno.h>
#include <stdatomic.h>
#include <time.h>
#include "agent/observe/watch.h"

/* ---- a kernel of our own ---- */

#define EVENTS 600

static struct kernel {
	atomic_int fails; /* so many calls */
	atomic_int due;   /* events that the next calls give, a hundred each */
	atomic_int calls;
	atomic_int news[FEED_COUNT];
	atomic_ullong refused, begun;
	atomic_bool down;
	atomic_int half_open_asked;
} kernel;

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

static void pause_ms(long ms)
{
	const struct timespec pause = {0, ms * 1000000};
	nanosleep(&pause, NULL);
}

static int give_events(
	void *context, int wait, void (*each)(void *argument, const struct ps_event *event), void *argument)
{
	atomic_fetch_add(&kernel.calls, 1);
	assert_in_range(wait, 0, 100);
	if (atomic_load(&kernel.fails) > 0 && atomic_fetch_sub(&kernel.fails, 1) > 0)
		return -EIO;
	int count = 0;
	for (; count < 100 && atomic_load(&kernel.due) > 0; count++) {
		int number = atomic_fetch_sub(&kernel.due, 1);
		/* Each third is no handshake. */
		struct ps_event event = {.time = now_ns(),
			.opened = now_ns(),
			.family = 4,
			.protocol = 6,
			.event = number % 3 == 0 ? PS_EVENT_CLOSED : PS_EVENT_OPENED,
			.handshake = number % 3 == 1 ? 2000000 : 3000000000u};
		each(argument, &event);
	}
	if (!count)
		pause_ms(wait ? 2 : 0);
	return count;
}

static int give_counts(void *context, struct datapath_counts *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->stats[PS_STAT_BEGUN] = atomic_load(&kernel.begun);
	return 0;
}

static bool give_fill(void *context, size_t *at, struct map_fill *ret)
{
	if (*at)
		return false;
	++*at;
	*ret = (struct map_fill){"ps_conn4", 95, 100};
	return true;
}

static size_t give_down(void *context, char ***ret)
{
	*ret = NULL;
	if (!atomic_load(&kernel.down))
		return 0;
	*ret = mem_array(1, sizeof(**ret));
	(*ret)[0] = str_dup("gw");
	return 1;
}

static void give_connections(void *context, bool (*each)(void *argument, const struct ps_event *event), void *argument)
{
	struct ps_event event = {.time = now_ns(), .family = 4, .protocol = 6, .event = PS_EVENT_COUNT};
	atomic_fetch_add(&kernel.half_open_asked, 1);
	for (int i = 0; i < 20000 && each(argument, &event); i++)
		;
}

static void hear_news(void *context, enum feed feed)
{
	atomic_fetch_add(&kernel.news[feed], 1);
}

static const struct watch_source source = {
	NULL, give_events, NULL, give_counts, give_fill, give_down, give_connections, hear_news};

/* ---- an agent ---- */

static struct agent {
	struct metrics *metrics;
	struct flows *flows;
	struct alerts *alerts;
	struct watch *watch;
} agent;

static void agent_start(const struct alert_thresholds *thresholds)
{
	struct error e = {0};
	memset(&kernel, 0, sizeof(kernel));
	agent.metrics = metrics_new();
	agent.flows = flows_new(1000, agent.metrics);
	agent.alerts = alerts_new(thresholds);
	assert_int_equal(watch_start(&source, agent.flows, agent.alerts, &agent.watch, &e), 0);
}

static void agent_stop(void)
{
	watch_stop(agent.watch);
	watch_free(agent.watch);
	alerts_free(agent.alerts);
	flows_free(agent.flows);
	metrics_free(agent.metrics);
}

static size_t flows_count(void)
{
	const struct feed_filter none = {0};
	struct buffer out = {0};
	size_t count = 0;
	flows_list(agent.flows, &none, &out);
	for (const char *at = out.data; at && (at = strstr(at, "\"event\"")); at++)
		count++;
	buffer_free(&out);
	return count;
}

#define EVENTUALLY(condition)                                      \
	do {                                                           \
		for (int tries = 0; tries < 5000 && !(condition); tries++) \
			pause_ms(2);                                           \
		assert_true(condition);                                    \
	} while (0)

/* ---- tests ---- */

static void events_become_flows(void **state)
{
	struct handshakes handshakes;
	agent_start(&(struct alert_thresholds){0});
	atomic_store(&kernel.due, EVENTS);
	EVENTUALLY(flows_count() == EVENTS);
	EVENTUALLY(atomic_load(&kernel.news[FEED_FLOWS]) > 0);
	watch_stop(agent.watch);
	int calls = atomic_load(&kernel.calls), news = atomic_load(&kernel.news[FEED_FLOWS]);
	watch_handshakes(agent.watch, &handshakes); /* also when it has stopped */
	for (size_t i = 0; i <= HANDSHAKE_BOUNDS; i++) {
		bool small = i < HANDSHAKE_BOUNDS && watch_bounds[i] >= 0.002 && (!i || watch_bounds[i - 1] < 0.002);
		assert_int_equal(handshakes.buckets[i], small || i == HANDSHAKE_BOUNDS ? EVENTS / 3 : 0);
	}
	assert_float_equal(handshakes.sum, EVENTS / 3 * 3.002, 1e-6);
	pause_ms(20);
	assert_int_equal(atomic_load(&kernel.calls), calls);
	assert_int_equal(atomic_load(&kernel.news[FEED_FLOWS]), news);
	agent_stop();
}

static void nothing_comes_and_nobody_is_woken(void **state)
{
	agent_start(&(struct alert_thresholds){0});
	EVENTUALLY(atomic_load(&kernel.calls) > 50);
	assert_int_equal(atomic_load(&kernel.news[FEED_FLOWS]), 0);
	agent_stop();
}

static void a_failure_passes(void **state)
{
	agent_start(&(struct alert_thresholds){0});
	atomic_store(&kernel.due, 100);
	atomic_store(&kernel.fails, 1);
	EVENTUALLY(flows_count() == 100);
	agent_stop();
}

static void who_asks_sees_what_was_before(void **state)
{
	agent_start(&(struct alert_thresholds){0});
	for (size_t i = 1; i <= 20; i++) {
		atomic_fetch_add(&kernel.due, 10);
		watch_hurry(agent.watch);
		assert_int_equal(flows_count(), i * 10);
	}
	watch_stop(agent.watch);
	watch_hurry(agent.watch); /* nobody is there: it returns */
	agent_stop();
}

static void alerts_are_fed(void **state)
{
	agent_start(&(struct alert_thresholds){.table_full = 80, .syn_flood = 1000});
	EVENTUALLY(alerts_raised(agent.alerts, ALERT_TABLE_NEARLY_FULL) == 1);
	EVENTUALLY(atomic_load(&kernel.news[FEED_ALERTS]) > 0);
	atomic_store(&kernel.down, true);
	EVENTUALLY(alerts_raised(agent.alerts, ALERT_PROXY_DOWN) == 1);
	for (int i = 0; i < 5000 && !alerts_raised(agent.alerts, ALERT_SYN_FLOOD); i++) {
		atomic_fetch_add(&kernel.begun, 50);
		pause_ms(2);
	}
	assert_int_equal(alerts_raised(agent.alerts, ALERT_SYN_FLOOD), 1);
	assert_int_equal(atomic_load(&kernel.half_open_asked), 1);
	agent_stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(events_become_flows),
		cmocka_unit_test(nothing_comes_and_nobody_is_woken),
		cmocka_unit_test(a_failure_passes),
		cmocka_unit_test(who_asks_sees_what_was_before),
		cmocka_unit_test(alerts_are_fed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
