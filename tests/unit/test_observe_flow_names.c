/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/flows_world.h"

static const char *workload_of(struct world *w, const struct ps_event *event, int end)
{
	static char name[300];
	add(w, event);
	json_t *flow = last(w);
	const char *found = text(flow, end ? "destination/workload" : "source/workload");
	snprintf(name, sizeof(name), "%s", found ? found : "null");
	json_decref(flow);
	return name;
}

static void names_are_those_of_the_moment(void **state)
{
	struct world w;
	world_start(&w, 100);
	struct ps_event event = event_make("10.0.0.1", "fd00::2", 6, 80);
	assert_string_equal(workload_of(&w, &event, 0), "null");

	struct draft *draft = draft_new(w.snapshot);
	workload_put(draft, "a", "1", "10.0.0.1");
	world_write(&w, draft);
	event.time = event.opened = now_ns();
	assert_string_equal(workload_of(&w, &event, 0), "shop/a");

	/* It changes, and keeps its address; another comes. */
	draft = draft_new(w.snapshot);
	workload_put(draft, "a", "2", "10.0.0.1");
	workload_put(draft, "b", "1", "10.0.0.3");
	world_write(&w, draft);
	assert_string_equal(workload_of(&w, &event, 0), "shop/a");

	/* It moves: a connection that it had is still its own, and one that begins now is nobody's. */
	draft = draft_new(w.snapshot);
	workload_put(draft, "a", "2", "10.0.0.4");
	world_write(&w, draft);
	flows_look(w.flows);
	event.event = PS_EVENT_CLOSED;
	assert_string_equal(workload_of(&w, &event, 0), "shop/a");
	struct ps_event fresh = event_make("10.0.0.1", "10.0.0.4", 6, 80);
	assert_string_equal(workload_of(&w, &fresh, 0), "null");
	assert_string_equal(workload_of(&w, &fresh, 1), "shop/a");

	/* Another has the address now, what the first had begun is not its own. */
	draft = draft_new(w.snapshot);
	workload_put(draft, "c", "1", "10.0.0.1");
	world_write(&w, draft);
	fresh = event_make("10.0.0.1", "10.0.0.4", 6, 80);
	assert_string_equal(workload_of(&w, &fresh, 0), "shop/c");
	assert_string_equal(workload_of(&w, &event, 0), "shop/a");

	/* What came keeps its name. */
	draft = draft_new(w.snapshot);
	assert_true(draft_delete(draft, KIND_WORKLOAD, "shop", "a"));
	assert_true(draft_delete(draft, KIND_WORKLOAD, "shop", "b"));
	assert_true(draft_delete(draft, KIND_WORKLOAD, "shop", "c"));
	world_write(&w, draft);
	char a[] = "shop/a", c[] = "shop/c";
	const struct feed_filter of_a = {.workload = a}, of_c = {.workload = c};
	assert_int_equal(count(&w, &of_a), 7);
	assert_int_equal(count(&w, &of_c), 1);
	world_stop(&w);
}

static void an_address_that_several_have(void **state)
{
	struct world w;
	world_start(&w, 100);
	struct draft *draft = draft_new(w.snapshot);
	pod_put(draft, "old", "2026-01-01T00:00:00Z", "Running", "10.0.0.1");
	world_write(&w, draft);
	struct ps_event event = event_make("10.0.0.1", "10.0.0.9", 6, 80);
	assert_string_equal(workload_of(&w, &event, 0), "shop/old");
	draft = draft_new(w.snapshot);
	pod_put(draft, "new", "2026-01-02T00:00:00Z", "Running", "10.0.0.1");
	world_write(&w, draft);
	event = event_make("10.0.0.1", "10.0.0.9", 6, 80);
	assert_string_equal(workload_of(&w, &event, 0), "shop/new");
	/* The younger ends: the elder has it again. */
	draft = draft_new(w.snapshot);
	pod_put(draft, "new", "2026-01-02T00:00:00Z", "Succeeded", "10.0.0.1");
	world_write(&w, draft);
	flows_look(w.flows);
	event = event_make("10.0.0.1", "10.0.0.9", 6, 80);
	assert_string_equal(workload_of(&w, &event, 0), "shop/old");
	draft = draft_new(w.snapshot);
	draft_delete(draft, KIND_POD, "shop", "old");
	world_write(&w, draft);
	flows_look(w.flows);
	event = event_make("10.0.0.1", "10.0.0.9", 6, 80);
	assert_string_equal(workload_of(&w, &event, 0), "null");
	world_stop(&w);
}

static void rules_outlive_their_lists(void **state)
{
	struct world w;
	world_start(&w, 100);
	uint32_t rule = rulebook_take(w.book, KIND_NETWORK_POLICY, "shop", "p", INGRESS, 1, "first");
	world_publish(&w);
	struct ps_event event = event_make("10.0.0.1", "10.0.0.2", 6, 80);
	event.rule = rule;
	add(&w, &event);
	json_t *flow = last(&w);
	assert_string_equal(text(flow, "rule/ruleName"), "first");
	assert_string_equal(text(flow, "direction"), "Ingress");
	json_decref(flow);

	rulebook_take(w.book, KIND_NETWORK_POLICY, "shop", "p", INGRESS, 1, "second");
	world_publish(&w);
	add(&w, &event);
	rulebook_drop(w.book, rule);
	world_publish(&w);
	for (int i = 0; i < 3; i++) { /* many lists later */
		rulebook_take(w.book, KIND_NETWORK_POLICY, "shop", "q", INGRESS, i, "");
		world_publish(&w);
		flows_look(w.flows);
	}
	add(&w, &event);
	json_t *all = list(&w, &everything);
	assert_string_equal(text(json_array_get(all, 0), "rule/ruleName"), "first");
	assert_string_equal(text(json_array_get(all, 1), "rule/ruleName"), "second");
	assert_string_equal(text(json_array_get(all, 2), "rule/ruleName"), "second");
	json_decref(all);

	event.rule = 4711; /* never heard of */
	add(&w, &event);
	flow = last(&w);
	assert_true(json_is_null(at(flow, "rule")));
	json_decref(flow);
	world_stop(&w);
}

static void the_proxy_is_the_rules_or_was(void **state)
{
	struct world w;
	world_start(&w, 2);
	uint32_t rule = rulebook_take(w.book, KIND_INTERCEPT_POLICY, "", "llm", EGRESS, 0, "openai");
	struct draft *draft = draft_new(w.snapshot);
	intercept_put(draft, "one");
	world_write(&w, draft);
	struct ps_event event = event_make("10.0.0.1", "10.0.0.2", 6, 80);
	event.verdict = PS_VERDICT_DROPPED;
	event.reason = PS_REASON_NO_LISTENER;
	event.intercept_rule = rule;
	add(&w, &event);
	json_t *flow = last(&w);
	assert_string_equal(text(flow, "proxy"), "one");
	assert_string_equal(text(flow, "rule/name"), "llm");
	json_decref(flow);
	draft = draft_new(w.snapshot);
	draft_delete(draft, KIND_INTERCEPT_POLICY, "", "llm");
	world_write(&w, draft);
	add(&w, &event);
	flow = last(&w);
	assert_string_equal(text(flow, "proxy"), "one");
	json_decref(flow);
	/* With policy's own refusal it has nothing to do. */
	event.reason = PS_REASON_POLICY;
	add(&w, &event);
	flow = last(&w);
	assert_true(json_is_null(at(flow, "proxy")));
	assert_true(json_is_null(at(flow, "rule")));
	json_decref(flow);
	world_stop(&w);
}

static void revisions(void **state)
{
	struct world w;
	world_start(&w, 5000);
	struct ps_event event = event_make("10.0.0.1", "10.0.0.2", 6, 80);
	for (uint32_t generation = 10; generation < 10 + 1500; generation++)
		flows_flipped(w.flows, generation, generation / 2);
	static const struct {
		uint32_t generation;
		int64_t revision;
	} cases[] = {{1509, 754}, {1508, 754}, {1507, 753}, {486, 243}, {485, -1}, {10, -1}, {1, -1}, {0, -1}};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		event.generation = cases[i].generation;
		add(&w, &event);
		json_t *flow = last(&w);
		if (cases[i].revision < 0)
			assert_true(json_is_null(at(flow, "revision")));
		else
			assert_int_equal(json_integer_value(at(flow, "revision")), cases[i].revision);
		json_decref(flow);
	}
	world_stop(&w);
}

/* ---- names that are published right after the flip ---- */

static void *publish_late(void *context)
{
	struct world *w = context;
	const struct timespec pause = {0, 20000000};
	nanosleep(&pause, NULL);
	struct draft *draft = draft_new(w->snapshot);
	workload_put(draft, "late", "1", "10.0.0.1");
	world_write(w, draft);
	return NULL;
}

static void an_event_waits_for_its_names(void **state)
{
	struct world w;
	pthread_t thread;
	world_start(&w, 100);
	world_publish(&w);
	flows_flipped(w.flows, 2, 1); /* live, and nobody was told what it is */
	pthread_create(&thread, NULL, publish_late, &w);
	struct ps_event event = event_make("10.0.0.1", "10.0.0.2", 6, 80);
	event.generation = 2;
	add(&w, &event);
	pthread_join(thread, NULL);
	json_t *flow = last(&w);
	assert_string_equal(text(flow, "source/workload"), "shop/late");
	json_decref(flow);

	/* One that never comes holds up no more than once. */
	flows_flipped(w.flows, 3, 99);
	uint64_t begun = now_ns();
	for (uint32_t i = 0; i < 50; i++) {
		event.generation = 3 - i; /* of connections that were judged long ago, too */
		add(&w, &event);
	}
	assert_true(now_ns() - begun < 2000000000ull);
	world_stop(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_are_those_of_the_moment),
		cmocka_unit_test(an_address_that_several_have),
		cmocka_unit_test(rules_outlive_their_lists),
		cmocka_unit_test(the_proxy_is_the_rules_or_was),
		cmocka_unit_test(revisions),
		cmocka_unit_test(an_event_waits_for_its_names),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
