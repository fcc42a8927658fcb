/* SPDX-License-Identifier: Apache-2.0 */
/* Alerts without a kernel or a clock: time is what the test says. */
#ifndef PENSTOCK_ALERTS_LAB_H
#define PENSTOCK_ALERTS_LAB_H

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

static inline int set_up(void **state)
{
	alerts = alerts_new(&usual);
	now = START;
	facts = (struct alert_facts){.maps = maps, .proxies_down = down};
	maps[0] = (struct map_fill){"ps_conn4", 0, 1000};
	maps[1] = (struct map_fill){"ps_addr4", 0, 100};
	return 0;
}

static inline int tear_down(void **state)
{
	alerts_free(alerts);
	return 0;
}

/* Time goes on by half seconds, in which so much is begun, opened and refused a second. */
static inline void goes_on(double seconds, unsigned begun, unsigned opened, unsigned refused)
{
	for (int64_t end = now + (int64_t)(seconds * SECOND); now < end;) {
		now += TICK;
		facts.begun += begun / 2;
		facts.opened += opened / 2;
		facts.refused += refused / 2;
		alerts_tick(alerts, &facts, now);
	}
}

static inline void idle(double seconds)
{
	goes_on(seconds, 0, 0, 0);
}

static inline uint64_t raised(void)
{
	uint64_t sum = 0;
	for (int kind = 0; kind < ALERT_COUNT; kind++)
		sum += alerts_raised(alerts, kind);
	return sum;
}

static inline void end_set(uint8_t addr[16], const char *text)
{
	memset(addr, 0, 16);
	assert_int_equal(inet_pton(strchr(text, ':') ? AF_INET6 : AF_INET, text, addr), 1);
}

/* A SYN from an ephemeral port that policy refused. */
static inline struct flow refused(const char *source, const char *workload, const char *destination, uint16_t port)
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

static inline void tell(struct flow flow)
{
	alerts_flow(alerts, &flow);
}

static inline void scan(const char *source, const char *workload, unsigned from, unsigned count)
{
	for (unsigned at = 0; at < count; at++)
		tell(refused(source, workload, "10.0.0.9", (uint16_t)(from + at)));
}

/* All alerts that are kept; the caller's. */
static inline json_t *listed(const char *workload, uint64_t limit)
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

static inline const char *text_of(const json_t *alert, const char *member)
{
	return json_string_value(json_object_get(alert, member));
}

static inline double number_of(const json_t *alert, const char *member)
{
	return json_number_value(json_object_get(alert, member));
}

/* The only one that was raised. */
static inline json_t *only(const char *name)
{
	json_t *list = listed(NULL, 0);
	if (json_array_size(list) != 1 || strcmp(text_of(json_array_get(list, 0), "alert"), name) != 0)
		fail_msg("not one %s: %s", name, json_dumps(list, 0));
	json_t *alert = json_incref(json_array_get(list, 0));
	json_decref(list);
	return alert;
}

static inline void assert_only(const char *name, const char *workload, const char *part)
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

static uint64_t dice;
static inline uint32_t throw_dice(void)
{
	dice = dice * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(dice >> 33);
}

static inline struct flow flood_packet(bool many_targets)
{
	struct flow flow = refused("10.0.0.2", NULL, "10.0.0.9", 80);
	uint32_t source = throw_dice(), target = throw_dice();
	memcpy(flow.event.addr[0], &source, 4);
	if (many_targets)
		memcpy(flow.event.addr[1], &target, 4);
	return flow;
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

#endif
