/* SPDX-License-Identifier: Apache-2.0 */
/* Alerts without a kernel or a clock: time is what the test says. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>
#include <jansson.h>
#include "agent/base/mem.h"
#include "agent/observe/alert_list.h"
#include "agent/observe/alert_scan.h"
#include "agent/observe/alerts.h"

#define START (INT64_C(1800000000) * SECOND) /* 2027-01-15T08:00:00Z */
#define TICK (SECOND / 2)

static const struct alert_thresholds usual = {100, 1000, 100, 10, 80};

/* ---- a watcher of our own ---- */

static struct alerts *alerts;
static int64_t now;
static struct alert_facts facts;
static const char *down[4];
static struct map_fill maps[2];

static int set_up(void **state)
{
	alerts = alerts_new(&usual);
	now = START;
	facts = (struct alert_facts){.maps = maps, .proxies_down = down};
	maps[0] = (struct map_fill){"ps_conn4", 0, 1000};
	maps[1] = (struct map_fill){"ps_addr4", 0, 100};
	return 0;
}

static int tear_down(void **state)
{
	alerts_free(alerts);
	return 0;
}

/* Time goes on by half seconds, in which so much is begun, opened and refused a second. */
static void goes_on(double seconds, unsigned begun, unsigned opened, unsigned refused)
{
	for (int64_t end = now + (int64_t)(seconds * SECOND); now < end;) {
		now += TICK;
		facts.begun += begun / 2;
		facts.opened += opened / 2;
		facts.refused += refused / 2;
		alerts_tick(alerts, &facts, now);
	}
}

static void idle(double seconds)
{
	goes_on(seconds, 0, 0, 0);
}

static uint64_t raised(void)
{
	uint64_t sum = 0;
	for (int kind = 0; kind < ALERT_COUNT; kind++)
		sum += alerts_raised(alerts, kind);
	return sum;
}

static void end_set(uint8_t addr[16], const char *text)
{
	memset(addr, 0, 16);
	assert_int_equal(inet_pton(strchr(text, ':') ? AF_INET6 : AF_INET, text, addr), 1);
}

/* A SYN from an ephemeral port that policy refused. */
static struct flow refused(const char *source, const char *workload, const char *destination, uint16_t port)
{
	struct flow flow = {.time = now, .workload = {workload, NULL}};
	flow.event = (struct ps_event){.event = PS_EVENT_REFUSED,
		.family = strchr(source, ':') ? 6 : 4,
		.protocol = IPPROTO_TCP,
		.verdict = PS_VERDICT_DROPPED,
		.reason = PS_REASON_ISOLATED,
		.port = {41000, port},
		.packets = {1}};
	end_set(flow.event.addr[0], source);
	end_set(flow.event.addr[1], destination);
	return flow;
}

static void tell(struct flow flow)
{
	alerts_flow(alerts, &flow);
}

static void scan(const char *source, const char *workload, unsigned from, unsigned count)
{
	for (unsigned at = 0; at < count; at++)
		tell(refused(source, workload, "10.0.0.9", (uint16_t)(from + at)));
}

/* All alerts that are kept; the caller's. */
static json_t *listed(const char *workload, uint64_t limit)
{
	struct buffer out = {0};
	struct feed_filter filter = {.workload = (char *)workload, .limit = limit};
	buffer_puts(&out, "[");
	alerts_list(alerts, &filter, &out);
	buffer_puts(&out, "]");
	json_t *list = json_loads(out.data, 0, NULL);
	assert_non_null(list);
	buffer_free(&out);
	return list;
}

static const char *text_of(const json_t *alert, const char *member)
{
	return json_string_value(json_object_get(alert, member));
}

static double number_of(const json_t *alert, const char *member)
{
	return json_number_value(json_object_get(alert, member));
}

/* The only one that was raised. */
static json_t *only(const char *name)
{
	json_t *list = listed(NULL, 0);
	if (json_array_size(list) != 1 || strcmp(text_of(json_array_get(list, 0), "alert"), name) != 0)
		fail_msg("not one %s: %s", name, json_dumps(list, 0));
	json_t *alert = json_incref(json_array_get(list, 0));
	json_decref(list);
	return alert;
}

static void assert_only(const char *name, const char *workload, const char *part)
{
	json_t *alert = only(name);
	const char *its = text_of(alert, "workload");
	if (workload)
		assert_string_equal(its, workload);
	else
		assert_true(json_is_null(json_object_get(alert, "workload")));
	if (!strstr(text_of(alert, "detail"), part))
		fail_msg("\"%s\" is not in: %s", part, text_of(alert, "detail"));
	json_decref(alert);
}

/* ---- PortScan ---- */

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

static void made_up_sources_blame_nobody(void **state)
{
	char source[32];
	for (int at = 0; at < 101; at++) {
		snprintf(source, sizeof(source), "10.0.1.%d", 1 + at);
		struct flow flow = refused(source, at % 2 ? "shop/victim" : NULL, "10.0.0.9", (uint16_t)(1 + at));
		flow.event.reason = PS_REASON_SPOOFED;
		flow.event.ifindex = 17;
		tell(flow);
	}
	assert_only("PortScan", NULL, "Somebody behind interface 17 sends with addresses that are not its own");
}

static uint64_t dice;
static uint32_t throw_dice(void)
{
	dice = dice * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(dice >> 33);
}

static struct flow flood_packet(bool many_targets)
{
	struct flow flow = refused("10.0.0.2", NULL, "10.0.0.9", 80);
	uint32_t source = throw_dice(), target = throw_dice();
	memcpy(flow.event.addr[0], &source, 4);
	if (many_targets)
		memcpy(flow.event.addr[1], &target, 4);
	return flow;
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

static void what_the_agent_finds_is_usual(void **state)
{
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

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

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
		TEST(made_up_sources_blame_nobody),
		TEST(a_flood_of_sources_hides_nobody),
		TEST(a_flood_of_sources_and_targets_is_one_alert),
		TEST(a_flood_of_scanners_is_few_alerts),
		TEST(memory_is_bounded),
		TEST(as_a_model_counts),
		TEST(a_syn_flood),
		TEST(whom_a_flood_is_for),
		TEST(load_is_no_flood),
		TEST(a_spike),
		TEST(just_over_the_floor_in_time),
		TEST(steady_refusals_are_told_once),
		TEST(bursts_become_quiet),
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
