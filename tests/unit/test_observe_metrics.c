/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/state_objects.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>
#include "agent/base/map.h"
#include "agent/compile/rulebook.h"
#include "agent/observe/exposition.h"
#include "agent/observe/metrics.h"
#include "agent/observe/metrics_list.h"
#include "agent/observe/watch.h"

/* ---- a kernel and a server of our own ---- */

static uint64_t proxy_connections_now[256];

static int fake_counts(void *context, struct datapath_counts *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->counts[PS_COUNT_INDEX(PS_EGRESS, PS_VERDICT_DROPPED, PS_REASON_ISOLATED)] = (struct ps_count){7, 420};
	ret->counts[PS_COUNT_INDEX(PS_INGRESS, PS_VERDICT_FORWARDED, PS_REASON_RELATED)] =
		(struct ps_count){UINT64_MAX, UINT64_MAX};
	ret->stats[PS_STAT_LEG_CLIENT] = 11;
	ret->stats[PS_STAT_LEG_NODE] = 2;
	ret->stats[PS_STAT_LOST] = 6;
	ret->stats[PS_STAT_LOST_REFUSED] = 8;
	return 0;
}

static uint64_t fake_rule_hits(void *context, uint32_t rule)
{
	return rule * 100;
}

static bool fake_fill(void *context, size_t *at, struct map_fill *ret)
{
	static const struct map_fill fills[] = {{"ps_addr4", 12, 131072}, {"ps_conn4", 5, 1000}, {"ps_conn6", 6, 1000}};
	if (*at == 3)
		return false;
	*ret = fills[(*at)++];
	return true;
}

static void fake_api(void *context, void (*each_count)(void *, const struct api_count *),
	void (*each_latency)(void *, const struct api_latency *), void *argument)
{
	static const double bounds[] = {0.001, 0.5};
	static const uint64_t buckets[] = {1, 2, 4};
	const struct api_count count = {"GET", "/v1/pods/{namespace}/{name}", 404, 3};
	const struct api_latency latency = {"/v1/pods/{namespace}/{name}", bounds, buckets, 2, 1.25};
	const struct api_count second = {"PUT", "/v1/state", 200, 1};
	each_count(argument, &count);
	each_latency(argument, &latency);
	each_count(argument, &second);
}

static uint64_t fake_proxy_connections(void *context, uint8_t proxy)
{
	return proxy_connections_now[proxy];
}

static bool fake_proxy_up(void *context, const char *name, const struct proxy *proxy)
{
	return proxy->tcp && strcmp(name, "gateway") == 0;
}

static bool fake_drop(void *context, size_t *at, struct kernel_drop *ret)
{
	static const struct kernel_drop drops[] = {{"TCP_CSUM", 3}, {"NO_SOCKET", 9}};
	if (*at == 2)
		return false;
	*ret = drops[(*at)++];
	return true;
}

static uint64_t fake_drift(void *context, enum drift what)
{
	return what == DRIFT_NFTABLES ? 4 : 0;
}

static const double *fake_handshakes(void *context, struct handshakes *ret)
{
	static double bounds[HANDSHAKE_BOUNDS];
	for (int i = 0; i < HANDSHAKE_BOUNDS; i++)
		bounds[i] = 0.25 * (1 << i);
	*ret = (struct handshakes){.sum = 12.5};
	ret->buckets[0] = 2;
	ret->buckets[1] = 1;
	ret->buckets[HANDSHAKE_BOUNDS] = 1;
	return bounds;
}

static uint64_t fake_alerts(void *context, unsigned int kind)
{
	return kind == ALERT_PROXY_DOWN ? 5 : 0;
}

static uint64_t fake_missed(void *context)
{
	return 17;
}

static const struct metrics_source everything = {NULL, fake_counts, fake_rule_hits, fake_fill, fake_api,
	fake_proxy_connections, fake_proxy_up, fake_drop, fake_drift, fake_handshakes, fake_alerts, fake_missed};

/* ---- an agent's state ---- */

struct agent {
	struct metrics *metrics;
	struct rulebook *book;
	struct compiler *compiler;
	struct snapshot *snapshot;
};

static void agent_start(struct agent *a)
{
	memset(proxy_connections_now, 0, sizeof(proxy_connections_now));
	a->metrics = metrics_new();
	metrics_source(a->metrics, &everything);
	a->book = rulebook_new(1);
	a->compiler = compiler_new("here", a->book);
	a->snapshot = snapshot_new("0123456789abcdef");
}

static void agent_stop(struct agent *a)
{
	metrics_free(a->metrics);
	compiler_free(a->compiler);
	rulebook_free(a->book);
	snapshot_put(a->snapshot);
}

/* The draft becomes the state, the compiler follows. */
static void agent_write(struct agent *a, struct draft *draft, bool live)
{
	const struct difference *differences;
	size_t count = draft_differences(draft, &differences);
	struct change *changes = mem_array(count + 1, sizeof(*changes));
	for (size_t i = 0; i < count; i++)
		changes[i] = (struct change){differences[i].old, differences[i].new};
	struct snapshot *next = draft_finish(draft, a->snapshot->revision + 1);
	compiler_update(a->compiler, changes, count, NULL);
	free(changes);
	snapshot_put(a->snapshot);
	a->snapshot = next;
	const struct metrics_facts facts = {next, a->compiler, a->book, live, ENGINE_EBPF};
	metrics_publish(a->metrics, &facts);
}

static void agent_publish(struct agent *a, enum engine engine)
{
	const struct metrics_facts facts = {a->snapshot, a->compiler, a->book, true, engine};
	metrics_publish(a->metrics, &facts);
}

static char *render(struct agent *a)
{
	struct buffer out = {0};
	metrics_render(a->metrics, &out);
	return buffer_take(&out);
}

static void expect(const char *page, const char *line)
{
	auto_free char *whole = str_format("\n%s\n", line);
	if (!strstr(page, whole))
		fail_msg("no line %s in:\n%s", line, page);
}

static void put(struct draft *draft, const char *json)
{
	draft_put(draft, object_make(json, "local", 0));
}

#define PROXY(name, port)                                                                                    \
	"{\"apiVersion\":\"penstock.dev/v1alpha1\",\"kind\":\"TransparentProxy\",\"metadata\":{\"name\":\"" name \
	"\"},\"spec\":{\"port\":" port ",\"protocols\":[\"TCP\"]}}"
#define WORKLOAD(name, ip, node)                                                             \
	"{\"apiVersion\":\"penstock.dev/"                                                        \
	"v1alpha1\",\"kind\":\"Workload\",\"metadata\":{\"namespace\":\"shop\",\"name\":\"" name \
	"\"},\"spec\":{\"ips\":[\"" ip "\"],\"node\":\"" node "\"}}"

/* ---- tests ---- */

static void every_metric_is_there(void **state)
{
	struct agent a;
	agent_start(&a);
	auto_free char *page = render(&a);
#define X(id, name, type, labels, help) expect(page, "# TYPE " name " " type);
	METRICS(X)
#undef X
	agent_stop(&a);
}

static void what_is_watched(void **state)
{
	struct agent a;
	agent_start(&a);
	auto_free char *page = render(&a);
	expect(page, "penstock_events_lost_total{stream=\"connections\"} 6");
	expect(page, "penstock_events_lost_total{stream=\"refusals\"} 8");
	expect(page, "penstock_events_lost_total{stream=\"followers\"} 17");
	expect(page, "penstock_kernel_drops_total{reason=\"TCP_CSUM\"} 3");
	expect(page, "penstock_kernel_drops_total{reason=\"NO_SOCKET\"} 9");
#define X(name, text, severity, help)                                                             \
	expect(page, ALERT_##name == ALERT_PROXY_DOWN ? "penstock_alerts_total{alert=\"" text "\"} 5" \
												  : "penstock_alerts_total{alert=\"" text "\"} 0");
	ALERTS(X)
#undef X
#define X(name, label, help)                                                                           \
	expect(page, DRIFT_##name == DRIFT_NFTABLES ? "penstock_drift_repairs_total{what=\"" label "\"} 4" \
												: "penstock_drift_repairs_total{what=\"" label "\"} 0");
	DRIFTS(X)
#undef X
	expect(page, "penstock_handshake_duration_seconds_bucket{le=\"0.25\"} 2");
	expect(page, "penstock_handshake_duration_seconds_bucket{le=\"0.5\"} 3");
	expect(page, "penstock_handshake_duration_seconds_bucket{le=\"2048\"} 3");
	expect(page, "penstock_handshake_duration_seconds_bucket{le=\"+Inf\"} 4");
	expect(page, "penstock_handshake_duration_seconds_sum 12.5");
	expect(page, "penstock_handshake_duration_seconds_count 4");
	agent_stop(&a);

	/* Nobody there to say anything: the head stands, and nothing is made up. */
	agent_start(&a);
	metrics_source(a.metrics, &(struct metrics_source){0});
	free(page);
	page = render(&a);
	expect(page, "# TYPE penstock_handshake_duration_seconds histogram");
	assert_null(strstr(page, "penstock_handshake_duration_seconds_bucket"));
	assert_null(strstr(page, "alert=\""));
	agent_stop(&a);
}

static void facts(void **state)
{
	struct agent a;
	uint64_t term = 1;
	agent_start(&a);
	struct draft *draft = draft_new(a.snapshot);
	put(draft, WORKLOAD("cart", "10.77.0.2", ""));
	put(draft, WORKLOAD("till", "10.77.0.3", "here"));
	put(draft, WORKLOAD("away", "10.77.0.4", "there"));
	draft_put(draft, policy_make("shop", "isolate", "local", 0));
	draft_owner(draft, "o\"w\\n\ner", &term, 1234567890);
	draft_quarantine(draft, &(struct quarantined){{"Pod", "x", "y"}, "local", "[]", NULL, false});
	draft_quarantine(draft, &(struct quarantined){{"Rubbish", "x", "y"}, "local", "[]", NULL, false});
	draft_quarantine(draft, &(struct quarantined){{"Garbage", "x", "y"}, "local", "[]", NULL, false});
	agent_write(&a, draft, true);
	auto_free char *page = render(&a);
	expect(page, "penstock_revision{stage=\"wanted\"} 1");
	expect(page, "penstock_revision{stage=\"enforced\"} 1");
	expect(page, "penstock_objects{kind=\"Workload\"} 3");
	expect(page, "penstock_objects{kind=\"NetworkPolicy\"} 1");
	expect(page, "penstock_objects{kind=\"Pod\"} 0");
	expect(page, "penstock_workloads{state=\"attached\"} 0");
	expect(page, "penstock_workloads{state=\"pending\"} 2");
	expect(page, "penstock_workloads{state=\"remote\"} 1");
	expect(page, "penstock_quarantined{kind=\"Pod\"} 1");
	expect(page, "penstock_quarantined{kind=\"Unknown\"} 2");
	expect(page, "penstock_last_write_timestamp_seconds{owner=\"o\\\"w\\\\n\\ner\"} 1234567890");
	expect(page, "penstock_packets_total{direction=\"Egress\",verdict=\"Dropped\",reason=\"Isolated\"} 7");
	expect(page, "penstock_bytes_total{direction=\"Egress\",verdict=\"Dropped\",reason=\"Isolated\"} 420");
	expect(page,
		"penstock_packets_total{direction=\"Ingress\",verdict=\"Forwarded\",reason=\"Related\"} 18446744073709551615");
	expect(page, "penstock_packets_total{direction=\"Ingress\",verdict=\"Dropped\",reason=\"Policy\"} 0");
	expect(page, "penstock_map_entries{map=\"ps_conn6\"} 6");
	expect(page, "penstock_map_capacity{map=\"ps_addr4\"} 131072");
	expect(page, "penstock_connections 11");
	expect(page, "penstock_api_requests_total{method=\"GET\",route=\"/v1/pods/{namespace}/{name}\",code=\"404\"} 3");
	expect(page, "penstock_api_request_duration_seconds_bucket{route=\"/v1/pods/{namespace}/{name}\",le=\"0.001\"} 1");
	expect(page, "penstock_api_request_duration_seconds_bucket{route=\"/v1/pods/{namespace}/{name}\",le=\"+Inf\"} 4");
	expect(page, "penstock_api_request_duration_seconds_sum{route=\"/v1/pods/{namespace}/{name}\"} 1.25");
	expect(page, "penstock_api_request_duration_seconds_count{route=\"/v1/pods/{namespace}/{name}\"} 4");

	const struct endpoint *endpoint;
	size_t at = 0;
	while ((endpoint = compiler_endpoint_next(a.compiler, &at)))
		if (!strcmp(endpoint->name, "till"))
			compiler_bind(a.compiler, endpoint->id, true);
	draft = draft_new(a.snapshot);
	draft_release(draft, "Pod", "x", "y");
	agent_write(&a, draft, false); /* not enforced yet */
	auto_free char *later = render(&a);
	expect(later, "penstock_revision{stage=\"wanted\"} 2");
	expect(later, "penstock_revision{stage=\"enforced\"} 1");
	expect(later, "penstock_workloads{state=\"attached\"} 1");
	expect(later, "penstock_workloads{state=\"pending\"} 1");
	expect(later, "penstock_quarantined{kind=\"Pod\"} 0");
	agent_stop(&a);
}

static void rules(void **state)
{
	struct agent a;
	agent_start(&a);
	uint32_t isolation = rulebook_take(a.book, KIND_NETWORK_POLICY, "shop", "p", INGRESS, -1, "");
	uint32_t index = rulebook_take(a.book, KIND_NETWORK_POLICY, "shop", "p", INGRESS, 2, "");
	uint32_t one = rulebook_take(a.book, KIND_INTERCEPT_POLICY, "", "llm", EGRESS, 0, "openai");
	uint32_t two = rulebook_take(a.book, KIND_INTERCEPT_POLICY, "", "llm", EGRESS, 1, "openai");
	uint32_t gone = rulebook_take(a.book, KIND_INTERCEPT_POLICY, "", "old", EGRESS, 1, "x");
	rulebook_drop(a.book, gone);
	agent_write(&a, draft_new(a.snapshot), true);
	auto_free char *page = render(&a);
	auto_free char *line =
		str_format("penstock_rule_hits_total{kind=\"NetworkPolicy\",policy_namespace=\"shop\",policy="
				   "\"p\",direction=\"Ingress\",rule=\"isolation\"} %u",
			isolation * 100);
	expect(page, line);
	free(line);
	line =
		str_format("penstock_rule_hits_total{kind=\"NetworkPolicy\",policy_namespace=\"shop\",policy=\"p\",direction="
				   "\"Ingress\",rule=\"2\"} %u",
			index * 100);
	expect(page, line);
	free(line);
	line =
		str_format("penstock_rule_hits_total{kind=\"InterceptPolicy\",policy_namespace=\"\",policy=\"llm\",direction="
				   "\"Egress\",rule=\"openai\"} %u",
			(one + two) * 100);
	expect(page, line);
	assert_null(strstr(page, "policy=\"old\""));

	/* the list follows the book */
	rulebook_take(a.book, KIND_INTERCEPT_POLICY, "", "llm", EGRESS, 1, "anthropic");
	agent_write(&a, draft_new(a.snapshot), true);
	auto_free char *later = render(&a);
	assert_non_null(strstr(later, "rule=\"anthropic\""));
	agent_stop(&a);
}

static void a_proxy_that_inherits_a_number_starts_at_zero(void **state)
{
	struct agent a;
	agent_start(&a);
	proxy_connections_now[1] = 40; /* of an earlier process: pinned maps go on */
	struct draft *draft = draft_new(a.snapshot);
	put(draft, PROXY("gateway", "15001"));
	agent_write(&a, draft, true);
	proxy_connections_now[1] = 42;
	auto_free char *page = render(&a);
	expect(page, "penstock_intercepted_connections_total{proxy=\"gateway\",engine=\"ebpf\"} 42");
	expect(page, "penstock_proxy_up{proxy=\"gateway\"} 1");
	expect(page, "penstock_onward_connections_total{source=\"client\"} 11");
	expect(page, "penstock_onward_connections_total{source=\"node\"} 2");

	/* each engine keeps what it handed over */
	agent_publish(&a, ENGINE_TPROXY);
	proxy_connections_now[1] = 45;
	free(page);
	page = render(&a);
	expect(page, "penstock_intercepted_connections_total{proxy=\"gateway\",engine=\"ebpf\"} 42");
	expect(page, "penstock_intercepted_connections_total{proxy=\"gateway\",engine=\"tproxy\"} 3");
	agent_publish(&a, ENGINE_EBPF);
	proxy_connections_now[1] = 47;
	free(page);
	page = render(&a);
	expect(page, "penstock_intercepted_connections_total{proxy=\"gateway\",engine=\"ebpf\"} 44");
	expect(page, "penstock_intercepted_connections_total{proxy=\"gateway\",engine=\"tproxy\"} 3");

	draft = draft_new(a.snapshot);
	draft_delete(draft, KIND_TRANSPARENT_PROXY, "", "gateway");
	agent_write(&a, draft, true);
	free(page);
	page = render(&a);
	assert_null(strstr(page, "gateway"));

	draft = draft_new(a.snapshot);
	put(draft, PROXY("other", "15002"));
	agent_write(&a, draft, true);
	uint8_t number = 1;
	while (!compiler_proxy_name(a.compiler, number))
		number++;
	proxy_connections_now[number] += 3;
	free(page);
	page = render(&a);
	expect(page, "penstock_intercepted_connections_total{proxy=\"other\",engine=\"ebpf\"} 3");
	expect(page, "penstock_proxy_up{proxy=\"other\"} 0");
	agent_stop(&a);
}

static void durations(void **state)
{
	struct agent a;
	agent_start(&a);
	metrics_apply(a.metrics, APPLY_COMPILE, 0.00005, false);
	metrics_apply(a.metrics, APPLY_COMPILE, 0.001, false); /* a bound belongs to its bucket */
	metrics_apply(a.metrics, APPLY_COMPILE, 60, true);
	auto_free char *page = render(&a);
	expect(page, "penstock_apply_duration_seconds_bucket{stage=\"compile\",le=\"0.0001\"} 1");
	expect(page, "penstock_apply_duration_seconds_bucket{stage=\"compile\",le=\"0.0005\"} 1");
	expect(page, "penstock_apply_duration_seconds_bucket{stage=\"compile\",le=\"0.001\"} 2");
	expect(page, "penstock_apply_duration_seconds_bucket{stage=\"compile\",le=\"5\"} 2");
	expect(page, "penstock_apply_duration_seconds_bucket{stage=\"compile\",le=\"+Inf\"} 3");
	expect(page, "penstock_apply_duration_seconds_count{stage=\"compile\"} 3");
	expect(page, "penstock_apply_duration_seconds_sum{stage=\"compile\"} 60.00105");
	expect(page, "penstock_apply_failures_total{stage=\"compile\"} 1");
	expect(page, "penstock_apply_failures_total{stage=\"flip\"} 0");
	agent_stop(&a);
}

/* Each metric's lines stand together behind one head, and no sample comes twice. */
static void the_page_is_well_formed(void **state)
{
	struct agent a;
	agent_start(&a);
	rulebook_take(a.book, KIND_INTERCEPT_POLICY, "", "llm", EGRESS, 0, "x");
	rulebook_take(a.book, KIND_INTERCEPT_POLICY, "", "llm", EGRESS, 1, "x");
	agent_write(&a, draft_new(a.snapshot), true);
	auto_free char *page = render(&a);
	struct names heads = {0}, samples = {0};
	char current[128] = "";
	char *rest = page, *line;
	while ((line = strsep(&rest, "\n"))) {
		if (!line[0])
			continue;
		if (!strncmp(line, "# HELP ", 7)) {
			snprintf(current, sizeof(current), "%.*s", (int)strcspn(line + 7, " "), line + 7);
			assert_null(names_get(&heads, current));
			names_put(&heads, current, &heads);
			continue;
		}
		if (!strncmp(line, "# TYPE ", 7)) {
			assert_int_equal(strncmp(line + 7, current, strlen(current)), 0);
			continue;
		}
		if (strncmp(line, current, strlen(current)))
			fail_msg("%s stands behind the head of %s", line, current);
		*strrchr(line, ' ') = '\0';
		if (names_get(&samples, line))
			fail_msg("%s is there twice", line);
		names_put(&samples, line, &samples);
	}
	names_clear(&heads);
	names_clear(&samples);
	agent_stop(&a);
}

static void nothing_to_ask(void **state)
{
	struct metrics *metrics = metrics_new();
	struct buffer out = {0};
	metrics_render(metrics, &out);
	assert_non_null(strstr(out.data, "penstock_build_info{version=\""));
	assert_non_null(strstr(out.data, "process_resident_memory_bytes"));
	buffer_free(&out);
	metrics_free(metrics);
}

static void the_process(void **state)
{
	struct metrics *metrics = metrics_new();
	struct buffer out = {0};
	metrics_render(metrics, &out);
	double resident = strtod(strstr(out.data, "\nprocess_resident_memory_bytes ") + 31, NULL);
	double virtual = strtod(strstr(out.data, "\nprocess_virtual_memory_bytes ") + 30, NULL);
	double start = strtod(strstr(out.data, "\nprocess_start_time_seconds ") + 28, NULL);
	double fds = strtod(strstr(out.data, "\nprocess_open_fds ") + 18, NULL);
	double cpu = strtod(strstr(out.data, "\nprocess_cpu_seconds_total ") + 27, NULL);
	assert_true(resident > 1e6 && resident < virtual);
	assert_true(start > time(NULL) - 600. && start < time(NULL) + 5.);
	assert_true(fds >= 3 && fds < 100);
	assert_true(cpu >= 0 && cpu < 600);
	buffer_free(&out);
	metrics_free(metrics);
}

static atomic_bool stop;
static void *scraper(void *context)
{
	while (!atomic_load(&stop)) {
		struct buffer out = {0};
		metrics_render(context, &out);
		buffer_free(&out);
	}
	return NULL;
}

/* Scrapes beside writes: the sanitizer is the judge. */
static void scrapes_and_writes(void **state)
{
	struct agent a;
	pthread_t threads[2];
	agent_start(&a);
	atomic_store(&stop, false);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, scraper, a.metrics), 0);
	for (int i = 0; i < 300; i++) {
		char name[16];
		struct draft *draft = draft_new(a.snapshot);
		snprintf(name, sizeof(name), "n%d", i % 7);
		if (i % 2)
			put(draft, PROXY("gateway", "15001"));
		else
			draft_delete(draft, KIND_TRANSPARENT_PROXY, "", "gateway");
		draft_put(draft, namespace_make(name, i % 3 ? "1" : "2", "local", 0));
		rulebook_take(a.book, KIND_NETWORK_POLICY, "shop", name, INGRESS, i, "");
		agent_write(&a, draft, true);
		metrics_apply(a.metrics, APPLY_FLIP, 0.001 * i, i % 2);
	}
	atomic_store(&stop, true);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	agent_stop(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_metric_is_there),
		cmocka_unit_test(what_is_watched),
		cmocka_unit_test(facts),
		cmocka_unit_test(rules),
		cmocka_unit_test(a_proxy_that_inherits_a_number_starts_at_zero),
		cmocka_unit_test(durations),
		cmocka_unit_test(the_page_is_well_formed),
		cmocka_unit_test(nothing_to_ask),
		cmocka_unit_test(the_process),
		cmocka_unit_test(scrapes_and_writes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
