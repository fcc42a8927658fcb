/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "agent/relay/flow.h"

static union address address(const char *ip, uint16_t port)
{
	union address a;
	memset(&a, 0xa5, sizeof a); /* what is not the address must not matter */
	if (inet_pton(AF_INET, ip, &a.four.sin_addr) == 1) {
		a.any.sa_family = AF_INET;
	} else {
		assert_int_equal(inet_pton(AF_INET6, ip, &a.six.sin6_addr), 1);
		a.any.sa_family = AF_INET6;
		a.six.sin6_scope_id = 0;
	}
	address_port_set(&a, port);
	return a;
}

static struct flow_key key(const char *client, uint16_t client_port, const char *server, uint16_t server_port)
{
	union address from = address(client, client_port), to = address(server, server_port);
	struct flow_key made;
	flow_key_make(&made, &from, &to);
	return made;
}

static struct flows table(void)
{
	struct flows flows = {.timeout_ms = {[FLOW_ASKING] = 30, [FLOW_ANSWERED] = 60, [FLOW_REFUSED] = 10}};
	flows_init(&flows);
	return flows;
}

static struct flow *find(const struct flows *flows, const char *client, uint16_t port)
{
	struct flow_key wanted = key(client, port, "192.0.2.1", 443);
	return flows_find(flows, &wanted);
}

static void add(struct flows *flows, struct flow *flow, uint16_t port, enum flow_state state, int64_t now)
{
	flow->key = key("10.0.0.1", port, "192.0.2.1", 443);
	flows_add(flows, flow, state, now);
}

static void test_each_address_and_port_tells_flows_apart(void **unused)
{
	(void)unused;
	const struct flow_key keys[] = {key("10.0.0.1", 1, "192.0.2.1", 443), key("10.0.0.2", 1, "192.0.2.1", 443),
		key("10.0.0.1", 2, "192.0.2.1", 443), key("10.0.0.1", 1, "192.0.2.2", 443),
		key("10.0.0.1", 1, "192.0.2.1", 444), key("fd00::1", 1, "2001:db8::1", 443),
		key("fd00::2", 1, "2001:db8::1", 443), key("fd00::1", 1, "2001:db8::2", 443)};
	enum { COUNT = sizeof keys / sizeof *keys };
	struct flow list[COUNT];
	struct flows flows = table();
	for (int at = 0; at < COUNT; at++) {
		assert_null(flows_find(&flows, &keys[at]));
		list[at].key = keys[at];
		flows_add(&flows, &list[at], FLOW_ASKING, 0);
	}
	assert_int_equal(flows_count(&flows), COUNT);
	for (int at = 0; at < COUNT; at++)
		assert_ptr_equal(flows_find(&flows, &keys[at]), &list[at]);
	for (int at = 0; at < COUNT; at += 2)
		flows_remove(&flows, &list[at]);
	for (int at = 0; at < COUNT; at++)
		assert_ptr_equal(flows_find(&flows, &keys[at]), at % 2 ? &list[at] : NULL);
	flows_clear(&flows);
}

static void test_the_same_link_local_client_behind_two_links(void **unused)
{
	(void)unused;
	union address client = address("fe80::1", 1), server = address("2001:db8::1", 443);
	struct flow_key one, two;
	client.six.sin6_scope_id = 3;
	flow_key_make(&one, &client, &server);
	client.six.sin6_flowinfo = 77;
	flow_key_make(&two, &client, &server);
	assert_memory_equal(&one, &two, sizeof one);
	client.six.sin6_scope_id = 4;
	flow_key_make(&two, &client, &server);
	assert_memory_not_equal(&one, &two, sizeof one);
}

static void test_each_state_has_its_timeout(void **unused)
{
	(void)unused;
	struct flow asking, answered, refused;
	struct flows flows = table();
	int64_t wait = 7;
	assert_null(flows_expired(&flows, 100, &wait));
	assert_int_equal(wait, -1);
	add(&flows, &asking, 1, FLOW_ASKING, 100);
	add(&flows, &answered, 2, FLOW_ASKING, 100);
	add(&flows, &refused, 3, FLOW_REFUSED, 100);
	flows_touch(&flows, &answered, true, 100);
	assert_null(flows_expired(&flows, 101, &wait));
	assert_int_equal(wait, 9);
	assert_ptr_equal(flows_expired(&flows, 110, &wait), &refused);
	flows_remove(&flows, &refused);
	assert_null(flows_expired(&flows, 129, &wait));
	assert_int_equal(wait, 1);
	assert_ptr_equal(flows_expired(&flows, 130, &wait), &asking);
	flows_remove(&flows, &asking);
	assert_null(flows_expired(&flows, 159, &wait));
	assert_ptr_equal(flows_expired(&flows, 160, &wait), &answered);
	flows_clear(&flows);
}

static void test_what_moves_lives_on_and_what_is_refused_does_not(void **unused)
{
	(void)unused;
	struct flow flow, refused;
	struct flows flows = table();
	int64_t wait;
	add(&flows, &flow, 1, FLOW_ASKING, 0);
	add(&flows, &refused, 2, FLOW_REFUSED, 0);
	flows_touch(&flows, &refused, false, 9);
	flows_touch(&flows, &flow, false, 25);
	assert_ptr_equal(flows_expired(&flows, 54, &wait), &refused);
	flows_remove(&flows, &refused);
	assert_null(flows_expired(&flows, 54, &wait));
	flows_touch(&flows, &flow, true, 54);
	flows_touch(&flows, &flow, false, 100); /* a question does not take the answer back */
	assert_null(flows_expired(&flows, 159, &wait));
	assert_int_equal(wait, 1);
	assert_ptr_equal(flows_expired(&flows, 160, &wait), &flow);
	flows_clear(&flows);
}

static void test_the_oldest_of_all_states(void **unused)
{
	(void)unused;
	struct flow list[4];
	struct flows flows = table();
	assert_null(flows_oldest(&flows));
	for (uint16_t at = 0; at < 4; at++)
		add(&flows, &list[at], at, FLOW_ASKING, at);
	flows_touch(&flows, &list[1], true, 4);
	flows_touch(&flows, &list[0], false, 5);
	static const int order[] = {2, 3, 1, 0};
	for (int at = 0; at < 4; at++) {
		assert_ptr_equal(flows_oldest(&flows), &list[order[at]]);
		flows_remove(&flows, &list[order[at]]);
	}
	assert_null(find(&flows, "10.0.0.1", 0));
	flows_clear(&flows);
}

/* Beside a plain array. */
static void test_random_changes(void **unused)
{
	(void)unused;
	enum { COUNT = 300 };
	static struct flow list[COUNT];
	bool there[COUNT] = {false};
	int64_t since[COUNT] = {0};
	struct flows flows = table();
	unsigned seed = 1;
	for (int64_t now = 0; now < 20000; now++) {
		seed = seed * 1103515245 + 12345;
		unsigned at = (seed >> 16) % COUNT, what = (seed >> 8) % 3;
		if (!there[at]) {
			add(&flows, &list[at], (uint16_t)at, FLOW_ASKING, now);
			there[at] = true;
			since[at] = now;
		} else if (what == 0) {
			flows_remove(&flows, &list[at]);
			there[at] = false;
		} else {
			flows_touch(&flows, &list[at], what == 1, now);
			since[at] = now;
		}
		int oldest = -1;
		for (int i = 0; i < COUNT && now % 50 == 0; i++) {
			assert_ptr_equal(find(&flows, "10.0.0.1", (uint16_t)i), there[i] ? &list[i] : NULL);
			if (there[i] && (oldest < 0 || since[i] < since[oldest]))
				oldest = i;
		}
		if (oldest >= 0)
			assert_ptr_equal(flows_oldest(&flows), &list[oldest]);
	}
	flows_clear(&flows);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_address_and_port_tells_flows_apart),
		cmocka_unit_test(test_the_same_link_local_client_behind_two_links),
		cmocka_unit_test(test_each_state_has_its_timeout),
		cmocka_unit_test(test_what_moves_lives_on_and_what_is_refused_does_not),
		cmocka_unit_test(test_the_oldest_of_all_states),
		cmocka_unit_test(test_random_changes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
