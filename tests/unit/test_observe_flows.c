/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/flows_world.h"

/* ---- tests ---- */

static void a_record_is_whole(void **state)
{
	struct world w;
	world_start(&w, 100);
	uint32_t rule = rulebook_take(w.book, KIND_INTERCEPT_POLICY, "", "llm", EGRESS, 0, "openai");
	struct draft *draft = draft_new(w.snapshot);
	workload_put(draft, "chat", "1", "10.77.0.2");
	pod_put(draft, "web", "2026-01-01T00:00:00Z", "Running", "10.77.0.9");
	intercept_put(draft, "ai-gateway");
	world_write(&w, draft);
	flows_flipped(w.flows, 5, 1);

	struct ps_event event = event_make("10.77.0.2", "203.0.113.9", 6, 443);
	event.event = PS_EVENT_CLOSED;
	event.verdict = PS_VERDICT_INTERCEPTED;
	event.reason = PS_REASON_INTERCEPT;
	event.direction = PS_INGRESS; /* the rule's own is what counts */
	event.intercept_rule = rule;
	event.generation = 5;
	event.opened = event.time - 120000000;
	event.packets[0] = 8;
	event.packets[1] = 4;
	event.bytes[0] = 4000;
	event.bytes[1] = 96;
	event.handshake = 400000;
	event.round_trip = 1500;
	event.retransmits = 2;
	event.process = 77;
	memcpy(event.command, "sixteen bytes\"\xff!", 16);
	event.flags = PS_EVENT_BACKEND | PS_EVENT_LEG;
	address_set(event.backend, "10.77.0.9");
	event.backend_port = 8443;
	add(&w, &event);

	json_t *flow = last(&w);
	assert_string_equal(text(flow, "event"), "Closed");
	assert_string_equal(text(flow, "verdict"), "Intercepted");
	assert_string_equal(text(flow, "reason"), "Intercept");
	assert_string_equal(text(flow, "direction"), "Egress");
	assert_string_equal(text(flow, "family"), "IPv4");
	assert_string_equal(text(flow, "protocol"), "TCP");
	assert_string_equal(text(flow, "source/ip"), "10.77.0.2");
	assert_int_equal(json_integer_value(at(flow, "source/port")), 40000);
	assert_string_equal(text(flow, "source/workload"), "shop/chat");
	assert_string_equal(text(flow, "destination/ip"), "203.0.113.9");
	assert_int_equal(json_integer_value(at(flow, "destination/port")), 443);
	assert_true(json_is_null(at(flow, "destination/workload")));
	assert_int_equal(json_array_size(at(flow, "destination/names")), 0);
	assert_true(json_is_array(at(flow, "destination/names")));
	assert_string_equal(text(flow, "rule/kind"), "InterceptPolicy");
	assert_string_equal(text(flow, "rule/namespace"), "");
	assert_string_equal(text(flow, "rule/name"), "llm");
	assert_string_equal(text(flow, "rule/direction"), "Egress");
	assert_int_equal(json_integer_value(at(flow, "rule/index")), 0);
	assert_string_equal(text(flow, "rule/ruleName"), "openai");
	assert_string_equal(text(flow, "proxy"), "ai-gateway");
	assert_int_equal(json_integer_value(at(flow, "revision")), 1);
	assert_int_equal(json_integer_value(at(flow, "packets")), 12);
	assert_int_equal(json_integer_value(at(flow, "bytes")), 4096);
	assert_float_equal(json_real_value(at(flow, "durationSeconds")), 0.12, 1e-12);
	assert_float_equal(json_real_value(at(flow, "handshakeSeconds")), 0.0004, 1e-12);
	assert_float_equal(json_real_value(at(flow, "roundTripSeconds")), 0.0015, 1e-12);
	assert_int_equal(json_integer_value(at(flow, "retransmits")), 2);
	assert_int_equal(json_integer_value(at(flow, "process/pid")), 77);
	assert_string_equal(text(flow, "process/name"), "sixteen bytes\"\xef\xbf\xbd!");
	assert_string_equal(text(flow, "backend/workload"), "shop/web");
	assert_string_equal(text(flow, "backend/ip"), "10.77.0.9");
	assert_int_equal(json_integer_value(at(flow, "backend/port")), 8443);
	assert_true(json_is_true(at(flow, "onward")));
	json_decref(flow);
	world_stop(&w);
}

static void what_is_not_known_is_left_out(void **state)
{
	static const char *const optional[] = {"packets", "bytes", "durationSeconds", "handshakeSeconds",
		"roundTripSeconds", "retransmits", "process", "backend", "onward"};
	struct world w;
	world_start(&w, 100);
	struct ps_event event = event_make("fd00::1", "fd00::2", 47, 0);
	event.port[0] = 0;
	event.generation = 9;
	add(&w, &event);
	json_t *flow = last(&w);
	assert_string_equal(text(flow, "event"), "Opened");
	assert_string_equal(text(flow, "family"), "IPv6");
	assert_string_equal(text(flow, "protocol"), "47");
	assert_int_equal(json_integer_value(at(flow, "source/port")), 0);
	assert_true(json_is_null(at(flow, "source/workload")));
	assert_true(json_is_null(at(flow, "rule")));
	assert_true(json_is_null(at(flow, "proxy")));
	assert_true(json_is_null(at(flow, "revision")));
	for (size_t i = 0; i < sizeof(optional) / sizeof(*optional); i++)
		assert_null(at(flow, optional[i]));
	json_decref(flow);

	/* Closed, of a connection without a beginning, and a code of a newer build. */
	event.event = PS_EVENT_CLOSED;
	event.opened = 0;
	event.reason = 250;
	add(&w, &event);
	flow = last(&w);
	assert_int_equal(json_integer_value(at(flow, "packets")), 0);
	assert_null(at(flow, "durationSeconds"));
	assert_string_equal(text(flow, "reason"), "Unknown");
	json_decref(flow);
	world_stop(&w);
}

static void its_time_is_the_time_of_day(void **state)
{
	struct world w;
	struct tm utc = {0};
	world_start(&w, 100);
	struct ps_event event = event_make("10.0.0.1", "10.0.0.2", 6, 80);
	event.time -= 3600000000000ull; /* it lay in the ring */
	add(&w, &event);
	json_t *flow = last(&w);
	const char *written = text(flow, "time"), *rest = strptime(written, "%Y-%m-%dT%H:%M:%S", &utc);
	assert_int_equal(strlen(written), strlen("2026-11-23T10:00:00.000001Z"));
	assert_non_null(rest);
	assert_int_equal(*rest, '.');
	assert_string_equal(rest + 7, "Z");
	int64_t ago = time(NULL) - timegm(&utc);
	assert_in_range(ago, 3599, 3660);
	json_decref(flow);
	world_stop(&w);
}

static void filters(void **state)
{
	struct world w;
	struct feed_filter filter;
	world_start(&w, 100);
	struct draft *draft = draft_new(w.snapshot);
	workload_put(draft, "a", "1", "10.0.0.1");
	workload_put(draft, "b", "1", "10.0.0.2");
	world_write(&w, draft);
	struct ps_event event = event_make("10.0.0.1", "10.0.0.2", 6, 80);
	add(&w, &event);
	event = event_make("10.0.0.2", "198.51.100.9", 17, 53);
	event.event = PS_EVENT_REFUSED;
	event.verdict = PS_VERDICT_DROPPED;
	add(&w, &event);
	event = event_make("fd00::1", "fd00::2", 58, 0);
	event.verdict = PS_VERDICT_AUDITED;
	add(&w, &event);
	assert_int_equal(count(&w, &everything), 3);

#define FOUND(number, ...)                      \
	filter = (struct feed_filter){__VA_ARGS__}; \
	assert_int_equal(count(&w, &filter), number);
	char a[] = "shop/a", b[] = "shop/b", nobody[] = "shop/", dropped[] = "Dropped", audited[] = "Audited",
		 tcp[] = "TCP", udp[] = "UDP", icmp[] = "ICMP", icmp6[] = "ICMPv6";
	struct ip outside, six;
	assert_int_equal(ip_parse("198.51.100.9", &outside), 0);
	assert_int_equal(ip_parse("fd00::1", &six), 0);
	FOUND(1, .workload = a)
	FOUND(2, .workload = b)
	FOUND(0, .workload = nobody)
	FOUND(1, .verdict = dropped)
	FOUND(1, .verdict = audited)
	FOUND(1, .protocol = tcp)
	FOUND(1, .protocol = udp)
	FOUND(0, .protocol = icmp)
	FOUND(1, .protocol = icmp6)
	FOUND(1, .has_port = true, .port = 80)
	FOUND(0, .has_port = true, .port = 40000) /* the source's */
	FOUND(1, .has_ip = true, .ip = outside)
	FOUND(1, .has_ip = true, .ip = six)
	FOUND(1, .workload = b, .verdict = dropped, .protocol = udp, .has_port = true, .port = 53, .has_ip = true,
		.ip = outside)
	FOUND(0, .workload = a, .verdict = dropped)
	FOUND(2, .limit = 2)
	FOUND(1, .limit = 2, .protocol = udp)
	world_stop(&w);
}

static uint16_t port_at(json_t *all, size_t place)
{
	return (uint16_t)json_integer_value(at(json_array_get(all, place), "destination/port"));
}

static void the_oldest_go_first(void **state)
{
	struct world w;
	world_start(&w, 3000);
	add_ports(&w, 1, 10000);
	json_t *all = list(&w, &everything);
	assert_int_equal(json_array_size(all), 3000);
	for (size_t i = 0; i < 3000; i++)
		assert_int_equal(port_at(all, i), 7001 + i);
	json_decref(all);
	struct feed_filter filter = {.limit = 2};
	all = list(&w, &filter);
	assert_int_equal(json_array_size(all), 2);
	assert_int_equal(port_at(all, 0), 9999);
	assert_int_equal(port_at(all, 1), 10000);
	json_decref(all);
	world_stop(&w);
}

static void few_are_kept(void **state)
{
	static const uint32_t keeps[] = {0, 1, 5};
	for (size_t i = 0; i < 3; i++) {
		struct world w;
		struct buffer out = {0};
		uint64_t after = 0;
		world_start(&w, keeps[i]);
		flows_follow(w.flows, &everything, &after, 1 << 20, &out);
		add_ports(&w, 1, 20);
		assert_int_equal(count(&w, &everything), keeps[i]);
		/* Who follows misses nothing for that. */
		flows_follow(w.flows, &everything, &after, 1 << 20, &out);
		size_t lines = 0;
		for (char *line = out.data; (line = strchr(line, '\n')); line++)
			lines++;
		assert_int_equal(lines, 20);
		buffer_free(&out);
		world_stop(&w);
	}
}

/* One call's lines: their ports, space-separated, or "lost N". */
static char *follow(struct world *w, const struct feed_filter *filter, uint64_t *after, size_t most)
{
	struct buffer out = {0}, ports = {0};
	flows_follow(w->flows, filter, after, most, &out);
	char *rest = out.data;
	for (char *line; rest && (line = strsep(&rest, "\n")) && *line;) {
		json_t *json = json_loads(line, 0, NULL);
		assert_non_null(json);
		if (json_object_get(json, "lost"))
			buffer_printf(&ports, "lost %d ", (int)json_integer_value(at(json, "lost")));
		else
			buffer_printf(&ports, "%d ", (int)json_integer_value(at(json, "destination/port")));
		json_decref(json);
	}
	buffer_free(&out);
	return buffer_take(&ports);
}

#define FOLLOWED(expected, filter, after, most)                         \
	do {                                                                \
		auto_free char *followed_ = follow(&w, filter, &(after), most); \
		assert_string_equal(followed_, expected);                       \
	} while (0)

static void followers_read_on(void **state)
{
	struct world w;
	struct feed_filter limited = {.limit = 2}, port = {.has_port = true, .port = 7};
	uint64_t all = 0, two = 0, seven = 0, late = 0;
	world_start(&w, 2000);
	FOLLOWED("", &everything, all, 1 << 20);
	FOLLOWED("", &limited, two, 1 << 20);
	add_ports(&w, 1, 3);
	FOLLOWED("1 2 3 ", &everything, all, 1 << 20);
	FOLLOWED("1 2 3 ", &limited, two, 1 << 20); /* the limit is of what was kept before */
	FOLLOWED("2 3 ", &limited, late, 1 << 20);
	FOLLOWED("", &port, seven, 1 << 20);
	uint64_t before = all;
	FOLLOWED("", &everything, all, 1 << 20);
	assert_int_equal(all, before);
	add_ports(&w, 4, 7);
	FOLLOWED("4 5 6 7 ", &limited, late, 1 << 20);
	FOLLOWED("7 ", &port, seven, 1 << 20);

	/* A little at a time. */
	auto_free char *some = follow(&w, &everything, &all, 1);
	assert_true(strlen(some) >= 2);
	auto_free char *rest = follow(&w, &everything, &all, 1 << 20);
	auto_free char *both = str_format("%s%s", some, rest);
	assert_string_equal(both, "4 5 6 7 ");

	/* Too slow: what was overwritten is counted, and told. */
	assert_int_equal(flows_missed(w.flows), 0);
	for (int i = 0; i < 3; i++)
		add_ports(&w, 1001, 2000);
	auto_free char *slow = follow(&w, &everything, &all, 1 << 30);
	assert_int_equal(strncmp(slow, "lost 1000 1001 1002 ", 20), 0);
	assert_int_equal(flows_missed(w.flows), 1000);
	world_stop(&w);
}

/* ---- connections ---- */

static struct ps_event entries[5000];
static size_t entry_count;

static void entries_walk(void *walker, bool (*each)(void *context, const struct ps_event *event), void *context)
{
	for (size_t i = 0; i < entry_count && each(context, &entries[i]); i++)
		;
}

static json_t *connections(struct world *w, const struct feed_filter *filter)
{
	struct buffer out = {0};
	size_t held, before;
	struct text_source *source = flows_connections(w->flows, filter, entries_walk, NULL, &held);
	bool more = true;
	while (more) {
		before = out.length;
		more = source->next(source, &out);
		assert_true(out.length > before && out.length - before < 2048); /* never the whole text at once */
	}
	source->free(source);
	json_t *document = json_loads(out.data, 0, NULL), *items = json_incref(at(document, "items"));
	assert_non_null(items);
	assert_true(held >= json_array_size(items) * sizeof(struct flow));
	json_decref(document);
	buffer_free(&out);
	return items;
}

static void connections_are_left_half_sent(void **state)
{
	struct world w;
	size_t held;
	struct buffer out = {0};
	world_start(&w, 10);
	struct draft *draft = draft_new(w.snapshot);
	workload_put(draft, "a", "1", "10.0.0.1");
	world_write(&w, draft);
	entry_count = 3;
	for (size_t i = 0; i < entry_count; i++)
		entries[i] = event_make("10.0.0.1", "10.0.0.2", 6, (uint16_t)(i + 1));
	struct text_source *source = flows_connections(w.flows, &everything, entries_walk, NULL, &held);
	assert_true(source->next(source, &out));
	source->free(source);
	buffer_free(&out);
	entry_count = 0;
	json_t *none = connections(&w, &everything);
	assert_int_equal(json_array_size(none), 0);
	json_decref(none);
	world_stop(&w);
}

static void connections_are_sorted_and_limited(void **state)
{
	struct world w;
	world_start(&w, 10);
	struct draft *draft = draft_new(w.snapshot);
	workload_put(draft, "a", "1", "10.0.0.1");
	world_write(&w, draft);
	entry_count = 5000;
	uint64_t now = now_ns();
	for (size_t i = 0; i < entry_count; i++) {
		entries[i] = event_make(i % 2 ? "10.0.0.1" : "10.0.0.3", "10.0.0.2", 6, (uint16_t)(i * 7919 % 5000 + 1));
		entries[i].time = now;
		entries[i].opened = now - 1000000000 + entries[i].port[1];
		entries[i].packets[0] = 3;
	}
	json_t *all = connections(&w, &everything);
	assert_int_equal(json_array_size(all), 5000);
	for (size_t i = 0; i < 5000; i++)
		assert_int_equal(port_at(all, i), i + 1);
	assert_null(at(json_array_get(all, 0), "time"));
	assert_null(at(json_array_get(all, 0), "event"));
	assert_int_equal(json_integer_value(at(json_array_get(all, 0), "packets")), 3);
	assert_float_equal(json_number_value(at(json_array_get(all, 0), "durationSeconds")), 1, 0.001);
	json_decref(all);
	char a[] = "shop/a";
	const struct feed_filter filter = {.workload = a, .limit = 3};
	all = connections(&w, &filter);
	assert_int_equal(json_array_size(all), 3);
	for (size_t i = 0; i < 3; i++)
		assert_string_equal(text(json_array_get(all, i), "source/workload"), "shop/a");
	assert_true(port_at(all, 0) < port_at(all, 1) && port_at(all, 1) < port_at(all, 2) && port_at(all, 2) >= 4995);
	json_decref(all);
	assert_int_equal(count(&w, &everything), 0); /* they are no flows */
	world_stop(&w);
}

/* ---- many threads ---- */

static atomic_bool going;

static void *read_all(void *context)
{
	struct world *w = context;
	uint64_t after = 0;
	while (atomic_load(&going)) {
		struct buffer out = {0};
		flows_list(w->flows, &everything, &out);
		flows_follow(w->flows, &everything, &after, 1 << 16, &out);
		buffer_free(&out);
	}
	return NULL;
}

static void readers_and_writers(void **state)
{
	struct world w;
	pthread_t threads[2];
	world_start(&w, 2000);
	atomic_store(&going, true);
	for (int i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, read_all, &w);
	for (int i = 0; i < 50; i++) {
		struct draft *draft = draft_new(w.snapshot);
		auto_free char *name = str_format("w%d", i);
		workload_put(draft, name, "1", "10.0.0.1");
		if (i) {
			auto_free char *gone = str_format("w%d", i - 1);
			draft_delete(draft, KIND_WORKLOAD, "shop", gone);
		}
		world_write(&w, draft);
		flows_flipped(w.flows, (uint32_t)i + 1, w.snapshot->revision);
		add_ports(&w, 1, 200);
	}
	atomic_store(&going, false);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	json_t *flow = last(&w);
	assert_string_equal(text(flow, "source/workload"), "shop/w49");
	json_decref(flow);
	world_stop(&w);
}

static void see(void *context, const struct flow *flow)
{
	struct flow *seen = context;
	assert_non_null(flow->workload[0]);
	*seen = *flow;
}

static void who_adds_sees_it(void **state)
{
	struct world w;
	struct flow seen;
	world_start(&w, 10);
	struct draft *draft = draft_new(w.snapshot);
	workload_put(draft, "a", "1", "10.0.0.1");
	world_write(&w, draft);
	struct ps_event event = event_make("10.0.0.1", "10.0.0.2", 6, 80);
	for (uint64_t number = 1; number < 5000; number++) {
		flows_add(w.flows, &event, see, &seen);
		assert_int_equal(seen.number, number);
		assert_string_equal(seen.workload[0], "shop/a");
	}
	world_stop(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_record_is_whole),
		cmocka_unit_test(what_is_not_known_is_left_out),
		cmocka_unit_test(its_time_is_the_time_of_day),
		cmocka_unit_test(filters),
		cmocka_unit_test(the_oldest_go_first),
		cmocka_unit_test(few_are_kept),
		cmocka_unit_test(followers_read_on),
		cmocka_unit_test(connections_are_sorted_and_limited),
		cmocka_unit_test(connections_are_left_half_sent),
		cmocka_unit_test(readers_and_writers),
		cmocka_unit_test(who_adds_sees_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
