/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/alerts_lab.h"

#include "agent/observe/alert_scan.h"

static void a_scan_begins_behind_the_threshold(void **state)
{
	scan("10.0.0.2", "shop/cart", 1, 100);
	assert_int_equal(raised(), 0);
	scan("10.0.0.2", "shop/cart", 1, 100); /* again the same */
	assert_int_equal(raised(), 0);
	now += 2 * SECOND;
	scan("10.0.0.2", "shop/cart", 101, 1);
	assert_int_equal(alerts_raised(alerts, ALERT_PORT_SCAN), 1);
	scan("10.0.0.2", "shop/cart", 1, 500); /* once */
	json_t *alert = only("PortScan");
	assert_string_equal(text_of(alert, "severity"), "warning");
	assert_string_equal(text_of(alert, "workload"), "shop/cart");
	assert_string_equal(text_of(alert, "time"), "2027-01-15T08:00:02.000000Z");
	assert_string_equal(text_of(alert, "since"), "2027-01-15T08:00:00.000000Z");
	assert_string_equal(text_of(alert, "detail"),
		"shop/cart at 10.0.0.2 was refused at 101 distinct ports or addresses in 10 s, at last 10.0.0.9 port 101: find "
		"out "
		"what runs there; `penstock flows --ip 10.0.0.2` lists its attempts.");
	assert_true(number_of(alert, "value") == 101 && number_of(alert, "threshold") == 100);
	assert_int_equal(json_object_size(alert), 8);
	json_decref(alert);
	assert_true(alerts_tick(alerts, &facts, now));
	assert_false(alerts_tick(alerts, &facts, now + 1));
}

static void addresses_are_targets_too(void **state)
{
	char target[32];
	for (int at = 0; at < 101; at++) {
		snprintf(target, sizeof(target), "fd00::%x", 1 + at);
		tell(refused("fd00:1::2", NULL, target, 443));
	}
	assert_only("PortScan", NULL, "fd00:1::2 was refused");
}

static void protocols_are_distinct_and_identifiers_are_not(void **state)
{
	for (int at = 0; at < 300; at++) {
		struct flow flow = refused("10.0.0.2", "shop/cart", "10.0.0.9", (uint16_t)at);
		flow.event.protocol = IPPROTO_ICMP;
		tell(flow);
	}
	scan("10.0.0.2", "shop/cart", 1, 50);
	assert_int_equal(raised(), 0);
	for (int at = 1; at <= 50; at++) { /* 1 of ICMP, 50 of TCP, 50 of UDP */
		struct flow flow = refused("10.0.0.2", "shop/cart", "10.0.0.9", (uint16_t)at);
		flow.event.protocol = IPPROTO_UDP;
		tell(flow);
		assert_int_equal(raised(), at == 50);
	}
}

static void ten_seconds_slide(void **state)
{
	for (int at = 0; at < 2000; at++) { /* ten a second: 101 within 10 s, both ends included */
		tell(refused("10.0.0.2", "shop/cart", "10.0.0.9", (uint16_t)(1 + at)));
		now += SECOND / 10 + SECOND / 500; /* a little slower: never */
	}
	assert_int_equal(raised(), 0);
	now += 20 * SECOND;
	for (int at = 0; at < 101; at++) {
		assert_int_equal(raised(), 0);
		tell(refused("10.0.0.2", "shop/cart", "10.0.0.9", (uint16_t)(5000 + at)));
		now += SECOND / 10 - SECOND / 500;
	}
	assert_int_equal(raised(), 1);
}

static void told_again_when_it_had_ended(void **state)
{
	scan("10.0.0.2", "shop/cart", 1, 200);
	for (int at = 0; at < 100; at++) { /* it goes on for minutes */
		now += 5 * SECOND;
		scan("10.0.0.2", "shop/cart", 1 + at * 200, 200);
	}
	assert_int_equal(raised(), 1);
	now += 31 * SECOND;
	scan("10.0.0.2", "shop/cart", 1, 200);
	assert_int_equal(raised(), 2);
	now += 31 * SECOND; /* the second time it has to be away for a minute */
	scan("10.0.0.2", "shop/cart", 1, 200);
	assert_int_equal(raised(), 2);
	now += 61 * SECOND;
	scan("10.0.0.2", "shop/cart", 1, 200);
	assert_int_equal(raised(), 3);
}

static void what_is_no_scan(void **state)
{
	static const uint8_t reasons[] = {
		PS_REASON_NO_LISTENER, PS_REASON_LIMIT, PS_REASON_TABLE_FULL, PS_REASON_FRAGMENT, PS_REASON_RELATED};
	for (int at = 0; at < 1000; at++) {
		struct flow flow = refused("10.0.0.2", "shop/cart", "10.0.0.9", (uint16_t)(1 + at));
		flow.event.reason = reasons[at % 5]; /* nobody's policy */
		tell(flow);
		flow.event.reason = PS_REASON_DEFAULT;
		flow.event.event = PS_EVENT_OPENED;
		tell(flow);
		flow.event.event = PS_EVENT_CLOSED; /* a good connection's end */
		flow.event.packets[0] = flow.event.packets[1] = 5;
		flow.event.handshake = 1000;
		tell(flow);
		flow = refused("10.0.0.3", "shop/web", "10.0.0.9", (uint16_t)(32768 + at));
		flow.event.port[0] = 443; /* answers to one client's connections, which a new policy denies */
		tell(flow);
		flow = refused("10.0.0.4", "shop/chatty", "10.0.0.9", 53); /* from ever other ports */
		flow.event.port[0] = (uint16_t)(32768 + at);
		tell(flow);
	}
	assert_int_equal(raised(), 0);
}

static struct flow closed(const char *source, const char *workload, const char *destination, uint16_t port)
{
	struct flow flow = refused(source, workload, destination, port);
	flow.event.event = PS_EVENT_CLOSED;
	flow.event.verdict = PS_VERDICT_FORWARDED;
	flow.event.reason = PS_REASON_DEFAULT;
	flow.event.packets[1] = 1;
	return flow;
}

static void closed_ports_of_one_address(void **state)
{
	char target[32];
	for (int at = 0; at < 3000; at++) { /* servers that restart: many addresses */
		snprintf(target, sizeof(target), "10.1.%d.%d", at / 250, 1 + at % 250);
		tell(closed("10.0.0.2", "shop/cart", target, 80));
		struct flow flow = closed("10.0.0.1", NULL, "10.0.0.9", (uint16_t)(1 + at));
		flow.event.flags = PS_EVENT_NODE; /* the node asks its containers' ports */
		tell(flow);
	}
	assert_int_equal(raised(), 0);
	for (int at = 0; at < 101; at++)
		tell(closed("10.0.0.2", "shop/cart", "10.0.0.9", (uint16_t)(1 + at)));
	assert_only("PortScan", "shop/cart",
		"shop/cart at 10.0.0.2 tried 101 distinct ports of one address in 10 s where nobody listens, at last 10.0.0.9 "
		"port 101");
}

static void made_up_sources_blame_who_sends_them(void **state)
{
	char source[32];
	for (int at = 0; at < 101; at++) {
		snprintf(source, sizeof(source), "10.0.1.%d", 1 + at);
		struct flow flow = refused(source, "shop/forger", "10.0.0.9", (uint16_t)(1 + at));
		flow.event.reason = PS_REASON_SPOOFED;
		flow.event.ifindex = 17;
		tell(flow);
	}
	assert_only("PortScan", "shop/forger", "shop/forger behind interface 17 sends with addresses that are not its own");
}

/* Strangers by the hundred thousand, who all ask for one port, push neither a pod nor each other's scanner out
 * unnoticed, and are no scan themselves. */
static void a_flood_of_sources_hides_nobody(void **state)
{
	size_t told = 0;
	dice = 1;
	for (int at = 0; at < 200000; at++) { /* 20,000 a second */
		tell(flood_packet(false));
		now += SECOND / 20000;
		if (at % 1000 == 0) /* 20 a second: a pod, and one from outside */
			tell(refused("10.0.0.2", "shop/cart", "10.0.0.9", (uint16_t)(1 + told)));
		if (at % 1000 == 500)
			tell(refused("203.0.113.9", NULL, "10.0.0.9", (uint16_t)(1 + told++)));
	}
	json_t *list = listed(NULL, 0);
	assert_int_equal(json_array_size(list), 2);
	json_decref(list);
	list = listed("shop/cart", 0);
	assert_int_equal(json_array_size(list), 1);
	json_decref(list);
}

static void a_flood_of_sources_and_targets_is_one_alert(void **state)
{
	dice = 2;
	for (int at = 0; at < 100000; at++) {
		tell(flood_packet(true));
		now += SECOND / 10000;
	}
	assert_only("PortScan", NULL, "More sources than can be told apart");
}

/* Each of very many sources scans: some are named, the rest is told once. */
static void a_flood_of_scanners_is_few_alerts(void **state)
{
	for (int source = 0; source < 500; source++) {
		char text[32];
		snprintf(text, sizeof(text), "198.51.%d.%d", source / 250, 1 + source % 250);
		scan(text, NULL, 1, 150);
		now += SECOND / 100;
	}
	assert_in_range(raised(), SCAN_TOLD_MAX, SCAN_TOLD_MAX + 5);
	json_t *list = listed(NULL, 0);
	size_t at, rest = 0;
	json_t *alert;
	json_array_foreach(list, at, alert)
	{
		rest += strstr(text_of(alert, "detail"), "More sources than can be told apart") != NULL;
	}
	assert_int_equal(rest, 1);
	json_decref(list);
	scan("10.0.0.2", "shop/cart", 1, 150); /* a workload has its own place */
	list = listed("shop/cart", 0);
	assert_int_equal(json_array_size(list), 1);
	json_decref(list);
}

static void memory_is_bounded(void **state)
{
	struct alert_list *list = alert_list_new();
	struct scans *scans = scans_new(100, list);
	const size_t bound = scans_memory(scans) + 3 * (SCAN_SOURCES + 1) * 101 * 8;
	dice = 3;
	for (int at = 0; at < 400000; at++) {
		struct flow flow = flood_packet(true);
		flow.event.addr[0][2] = flow.event.addr[0][3] = 0; /* 65,536 sources, so that sets grow */
		flow.workload[0] = at % 3 ? NULL : "shop/cart";
		if (at % 5 == 0)
			flow.event.event = PS_EVENT_CLOSED, flow.event.packets[1] = 1;
		flow.event.port[1] = (uint16_t)throw_dice();
		scans_flow(scans, &flow);
		assert_true(at % 1000 || scans_memory(scans) <= bound);
		now += SECOND / 100000;
	}
	scans_free(scans);
	alert_list_free(list);
}

/* Against a model that forgets nothing: one source, any times and targets. */
static void as_a_model_counts(void **state)
{
	static int64_t seen[400];
	for (dice = 100; dice < 140;) {
		uint64_t seed = dice;
		struct alert_thresholds few = {.port_scan = 5 + throw_dice() % 60};
		struct alerts *one = alerts_new(&few);
		bool expected = false;
		memset(seen, 0, sizeof(seen));
		for (int at = 0; at < 400 && !expected; at++) {
			unsigned target = throw_dice() % 400;
			int64_t step = throw_dice() % (throw_dice() % 50 ? 400 : 20000);
			now += step * (SECOND / 1000);
			seen[target] = now;
			size_t count = 0;
			for (size_t other = 0; other < 400; other++)
				count += seen[other] && now - seen[other] <= SCAN_WINDOW;
			expected = count > few.port_scan;
			struct flow flow = refused("10.0.0.2", "shop/cart", "10.0.0.9", (uint16_t)(1 + target));
			alerts_flow(one, &flow);
			if (alerts_raised(one, ALERT_PORT_SCAN) != expected)
				fail_msg("seed %llu, step %d: %zu targets", (unsigned long long)seed, at, count);
		}
		alerts_free(one);
		dice = seed + 1;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_scan_begins_behind_the_threshold),
		TEST(addresses_are_targets_too),
		TEST(protocols_are_distinct_and_identifiers_are_not),
		TEST(ten_seconds_slide),
		TEST(told_again_when_it_had_ended),
		TEST(what_is_no_scan),
		TEST(closed_ports_of_one_address),
		TEST(made_up_sources_blame_who_sends_them),
		TEST(a_flood_of_sources_hides_nobody),
		TEST(a_flood_of_sources_and_targets_is_one_alert),
		TEST(a_flood_of_scanners_is_few_alerts),
		TEST(memory_is_bounded),
		TEST(as_a_model_counts),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
