/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/alerts_lab.h"

/* ---- SynFlood ---- */

static void a_syn_flood(void **state)
{
	goes_on(5, 3000, 3000, 0);
	assert_int_equal(raised(), 0);
	int64_t begun = now;
	goes_on(2, 8000, 3000, 0);
	json_t *alert = only("SynFlood");
	assert_string_equal(text_of(alert, "severity"), "critical");
	assert_true(json_is_null(json_object_get(alert, "workload")));
	assert_true(number_of(alert, "value") == 5000 && number_of(alert, "threshold") == 1000);
	assert_string_equal(text_of(alert, "since"), "2027-01-15T08:00:05.000000Z");
	assert_string_equal(text_of(alert, "time"), "2027-01-15T08:00:06.000000Z");
	assert_true(now - begun == 2 * SECOND);
	json_decref(alert);
	goes_on(600, 8000, 3000, 0);
	assert_int_equal(raised(), 1);
	idle(40);
	goes_on(2, 8000, 3000, 0);
	assert_int_equal(raised(), 2);
}

static void half_open_ones(void *context, bool (*each)(void *argument, const struct flow *flow), void *argument)
{
	const char *const *names = context;
	for (int at = 0; at < 300; at++) {
		struct flow flow = refused("203.0.113.9", NULL, "10.0.0.9", 80);
		flow.workload[1] = names[at % 3];
		each(argument, &flow);
	}
}

static void whom_a_flood_is_for(void **state)
{
	const char *one[] = {"shop/web", "shop/web", NULL}, *none[] = {"shop/web", "shop/cart", NULL};
	facts.half_open = half_open_ones;
	facts.context = one;
	idle(1);
	goes_on(2, 2000, 0, 0);
	assert_only("SynFlood", "shop/web", "most of them to shop/web");
	facts.context = none;
	idle(100);
	goes_on(2, 2000, 0, 0);
	json_t *list = listed("shop/web", 0);
	assert_int_equal(json_array_size(list), 1);
	json_decref(list);
	assert_int_equal(raised(), 2);
}

static void load_is_no_flood(void **state)
{
	idle(2);
	for (int round = 0; round < 50; round++) { /* steps: what has begun is complete a round trip later */
		goes_on(0.5, 20000, 15000, 0);
		goes_on(3, 20000, 20000, 0);
		goes_on(0.5, 0, 5000, 0);
		idle(round % 3);
	}
	goes_on(60, 20900, 20000, 0); /* some never answer */
	facts.opened += 100000;       /* of before the agent: more are answered than begun */
	goes_on(10, 20000, 20000, 0);
	assert_int_equal(raised(), 0);
}

/* ---- DenySpike ---- */

static void a_spike(void **state)
{
	struct flow flow = refused("10.0.0.2", "shop/cart", "10.0.0.9", 80);
	goes_on(60, 0, 0, 20);
	now += TICK;
	for (int at = 0; at < 400; at++) {
		flow.workload[0] = at % 4 ? "shop/cart" : NULL;
		tell(flow);
	}
	facts.refused += 400;
	alerts_tick(alerts, &facts, now);
	json_t *alert = only("DenySpike");
	assert_string_equal(text_of(alert, "severity"), "warning");
	assert_string_equal(text_of(alert, "workload"), "shop/cart");
	assert_string_equal(text_of(alert, "time"), "2027-01-15T08:01:00.500000Z");
	assert_true(number_of(alert, "value") == 280 && number_of(alert, "threshold") > 190);
	json_decref(alert);
	goes_on(20, 0, 0, 800);
	assert_int_equal(raised(), 1);
}

static void just_over_the_floor_in_time(void **state)
{
	idle(10);
	goes_on(1.5, 0, 0, 102);
	assert_int_equal(alerts_raised(alerts, ALERT_DENY_SPIKE), 1);
}

/* A chatty pod that policy denies from now on: once. It becomes what is usual. */
static void steady_refusals_are_told_once(void **state)
{
	idle(10);
	goes_on(4 * 3600, 0, 0, 500);
	assert_int_equal(raised(), 1);
	goes_on(2, 0, 0, 4000); /* less than ten times that */
	assert_int_equal(raised(), 1);
	goes_on(2, 0, 0, 8000);
	assert_int_equal(raised(), 2);
}

static void bursts_become_quiet(void **state)
{
	idle(10);
	for (int burst = 0; burst < 8 * 40; burst++) { /* 300 packets, every 90 s, for 8 hours */
		goes_on(0.5, 0, 0, 600);
		idle(89.5);
	}
	assert_in_range(raised(), 1, 9);
}

static void the_first_refusals_of_all_may_be_a_spike(void **state)
{
	idle(0.5);
	goes_on(2, 0, 0, 500);
	assert_int_equal(raised(), 1);
}

static void what_the_agent_finds_is_usual(void **state)
{
	facts.refused = 1000000; /* it was there before */
	goes_on(600, 0, 0, 700);
	assert_int_equal(raised(), 0);
	goes_on(2, 0, 0, 9000);
	assert_int_equal(raised(), 1);
}

static void small_bursts_are_no_spike(void **state)
{
	idle(5);
	for (int round = 0; round < 100; round++) {
		goes_on(0.5, 0, 0, 290); /* 145 at once */
		idle(2 + round % 5);
	}
	assert_int_equal(raised(), 0);
}

static void the_destination_of_a_spike(void **state)
{
	idle(5);
	for (int at = 0; at < 400; at++) {
		struct flow flow = flood_packet(false);
		flow.workload[1] = "shop/web";
		tell(flow);
	}
	goes_on(1, 0, 0, 800);
	assert_only("DenySpike", "shop/web", "most of them to shop/web");
}

/* ---- ProxyDown ---- */

static void proxy(const char *name)
{
	down[0] = name;
	facts.proxies_down_count = name != NULL;
}

static void a_proxy_that_stays_away(void **state)
{
	idle(10);
	proxy("gateway");
	idle(1.5);
	assert_int_equal(raised(), 0);
	idle(0.5);
	json_t *alert = only("ProxyDown");
	assert_string_equal(text_of(alert, "severity"), "critical");
	assert_non_null(strstr(text_of(alert, "detail"), "TransparentProxy gateway has no listener"));
	assert_string_equal(text_of(alert, "since"), "2027-01-15T08:00:10.500000Z");
	assert_true(number_of(alert, "value") == 1.5 && number_of(alert, "threshold") == 1);
	json_decref(alert);
	idle(3600);
	assert_int_equal(raised(), 1);
	proxy(NULL);
	idle(15);
	assert_int_equal(raised(), 1);
	proxy("gateway");
	idle(2);
	assert_int_equal(raised(), 2);
}

static void a_proxy_that_restarts(void **state)
{
	for (int round = 0; round < 200; round++) {
		proxy("gateway");
		idle(1);
		proxy(NULL);
		idle(round % 4);
		if (round % 4 == 0)
			idle(0.5);
	}
	assert_int_equal(raised(), 0);
	for (int round = 0; round < 200; round++) { /* one that crashes and crashes */
		proxy("gateway");
		idle(3);
		proxy(NULL);
		idle(3);
	}
	assert_int_equal(raised(), 1);
}

static void two_proxies_are_two_alerts(void **state)
{
	proxy("one");
	idle(1);
	down[1] = "two";
	facts.proxies_down_count = 2;
	idle(5);
	assert_int_equal(alerts_raised(alerts, ALERT_PROXY_DOWN), 2);
	down[0] = "two"; /* in another order */
	down[1] = "one";
	idle(60);
	assert_int_equal(raised(), 2);
}

/* ---- TableNearlyFull, EventsLost ---- */

static void a_table_fills(void **state)
{
	facts.map_count = 2;
	maps[1].entries = 79;
	maps[0].entries = 799;
	idle(5);
	assert_int_equal(raised(), 0);
	maps[0].entries = 800;
	idle(0.5);
	json_t *alert = only("TableNearlyFull");
	assert_true(number_of(alert, "value") == 80 && number_of(alert, "threshold") == 80);
	assert_non_null(strstr(text_of(alert, "detail"), "ps_conn4 holds 800 of 1000 entries"));
	assert_non_null(strstr(text_of(alert, "detail"), "connectionsMax"));
	json_decref(alert);
	for (int round = 0; round < 200; round++) { /* to and fro */
		maps[0].entries = 701 + round % 10 * 33;
		idle(1);
	}
	assert_int_equal(raised(), 1);
	maps[1].entries = 100;
	idle(1);
	assert_int_equal(raised(), 2);
	maps[0].entries = 10;
	idle(61);
	maps[0].entries = 900;
	idle(1);
	assert_int_equal(raised(), 3);
}

static void events_that_are_lost(void **state)
{
	facts.lost = 1000; /* before the agent looked */
	idle(10);
	assert_int_equal(raised(), 0);
	facts.lost += 7;
	idle(0.5);
	json_t *alert = only("EventsLost");
	assert_true(number_of(alert, "value") == 7 && number_of(alert, "threshold") == 0);
	json_decref(alert);
	for (int at = 0; at < 100; at++) {
		facts.lost += 7;
		idle(1);
	}
	assert_int_equal(raised(), 1);
}

/* ---- all of them ---- */

static void zero_switches_one_off(void **state)
{
	struct alert_thresholds none = {.deny_factor = 10};
	alerts_free(alerts);
	alerts = alerts_new(&none);
	facts.map_count = 2;
	maps[0].entries = 1000;
	idle(5);
	scan("10.0.0.2", "shop/cart", 1, 5000);
	goes_on(10, 100000, 0, 100000);
	assert_int_equal(raised(), 0);
}

static void a_clock_that_jumps(void **state)
{
	goes_on(5, 5000, 5000, 50);
	now -= 3600 * SECOND;
	goes_on(5, 5000, 5000, 50);
	now += 30 * 86400 * SECOND;
	goes_on(5, 5000, 5000, 50);
	facts.begun = facts.opened = facts.refused = facts.lost = 0; /* and counters that begin anew */
	goes_on(5, 5000, 5000, 50);
	assert_int_equal(raised(), 0);
	now -= 3600 * SECOND;
	scan("10.0.0.2", "shop/cart", 1, 200);
	assert_int_equal(raised(), 1);
	now += 40 * 86400 * SECOND; /* more than half of what 32 bits of ms hold */
	scan("10.0.0.2", "shop/cart", 1001, 100);
	assert_int_equal(raised(), 1);
	scan("10.0.0.2", "shop/cart", 2001, 1);
	assert_int_equal(raised(), 2);
}

/* Ticks at any distance: late ones and early ones. */
static void ticks_may_be_uneven(void **state)
{
	dice = 7;
	for (int at = 0; at < 5000; at++) {
		int64_t step = (1 + throw_dice() % 3000) * (SECOND / 1000);
		now += step;
		uint64_t begun = 20000 * (uint64_t)step / SECOND;
		facts.begun += begun;
		facts.opened += begun;
		facts.refused += 60 * (uint64_t)step / SECOND;
		alerts_tick(alerts, &facts, now);
		alerts_tick(alerts, &facts, now);
	}
	assert_int_equal(raised(), 0);
}

/* ---- reading ---- */

static void many(unsigned count)
{
	for (unsigned at = 0; at < count; at++) {
		char name[32], source[32];
		snprintf(name, sizeof(name), "shop/pod-%u", at % 10);
		snprintf(source, sizeof(source), "10.%u.%u.1", 1 + at / 250, at % 250);
		scan(source, name, 1, 101);
		now += 3 * SECOND;
	}
	assert_int_equal(raised(), count);
}

static void the_last_ones_are_kept(void **state)
{
	many(1500);
	json_t *list = listed(NULL, 0);
	assert_int_equal(json_array_size(list), ALERTS_KEPT);
	assert_non_null(strstr(text_of(json_array_get(list, ALERTS_KEPT - 1), "detail"), "10.6.249.1 was"));
	for (size_t at = 1; at < ALERTS_KEPT; at++)
		assert_true(
			strcmp(text_of(json_array_get(list, at - 1), "time"), text_of(json_array_get(list, at), "time")) < 0);
	json_decref(list);
	list = listed("shop/pod-3", 5);
	assert_int_equal(json_array_size(list), 5);
	for (size_t at = 0; at < 5; at++)
		assert_string_equal(text_of(json_array_get(list, at), "workload"), "shop/pod-3");
	assert_non_null(strstr(text_of(json_array_get(list, 4), "detail"), "10.6.243.1 was"));
	json_decref(list);
	list = listed("shop/none", 0);
	assert_int_equal(json_array_size(list), 0);
	json_decref(list);
}

/* How many lines; each is one JSON object. */
static size_t followed(const char *workload, uint64_t limit, uint64_t *after, size_t most)
{
	struct buffer out = {0};
	struct feed_filter filter = {.workload = (char *)workload, .limit = limit};
	size_t lines = 0;
	alerts_follow(alerts, &filter, after, most, &out);
	for (char *rest = out.data, *line; rest && (line = strsep(&rest, "\n")) && *line; lines++) {
		json_t *alert = json_loads(line, 0, NULL);
		assert_non_null(alert);
		json_decref(alert);
	}
	buffer_free(&out);
	return lines;
}

static void who_follows_gets_each_once(void **state)
{
	uint64_t after = 0;
	assert_int_equal(followed(NULL, 0, &after, 65536), 0);
	many(10);
	size_t sum = 0, calls = 0;
	for (size_t lines; (lines = followed(NULL, 0, &after, 600)); calls++)
		sum += lines;
	assert_int_equal(sum, 10);
	assert_true(calls >= 5);
	assert_int_equal(after, 10);
	scan("10.200.0.1", "shop/late", 1, 101);
	assert_int_equal(followed("shop/other", 0, &after, 65536), 0);
	assert_int_equal(after, 11);
	after = 0;
	assert_int_equal(followed(NULL, 3, &after, 65536), 3);
	assert_int_equal(followed(NULL, 3, &after, 65536), 0);
	after = 0;
	assert_int_equal(followed("shop/late", 3, &after, 65536), 1);
}

static void who_is_too_slow_hears_it(void **state)
{
	uint64_t after = 2;
	struct buffer out = {0};
	struct feed_filter filter = {0};
	many(ALERTS_KEPT + 10);
	alerts_follow(alerts, &filter, &after, 1, &out);
	assert_memory_equal(out.data, "{\"lost\":8}\n", 11);
	alerts_follow(alerts, &filter, &after, SIZE_MAX, &out);
	size_t lines = 0;
	for (const char *at = out.data; (at = strchr(at, '\n')); at++)
		lines++;
	assert_int_equal(lines, 1 + ALERTS_KEPT);
	buffer_free(&out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_syn_flood),
		TEST(whom_a_flood_is_for),
		TEST(load_is_no_flood),
		TEST(a_spike),
		TEST(just_over_the_floor_in_time),
		TEST(steady_refusals_are_told_once),
		TEST(bursts_become_quiet),
		TEST(the_first_refusals_of_all_may_be_a_spike),
		TEST(what_the_agent_finds_is_usual),
		TEST(small_bursts_are_no_spike),
		TEST(the_destination_of_a_spike),
		TEST(a_proxy_that_stays_away),
		TEST(a_proxy_that_restarts),
		TEST(two_proxies_are_two_alerts),
		TEST(a_table_fills),
		TEST(events_that_are_lost),
		TEST(zero_switches_one_off),
		TEST(a_clock_that_jumps),
		TEST(ticks_may_be_uneven),
		TEST(the_last_ones_are_kept),
		TEST(who_follows_gets_each_once),
		TEST(who_is_too_slow_hears_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
