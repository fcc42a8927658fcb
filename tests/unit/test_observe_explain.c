/* SPDX-License-Identifier: Apache-2.0 */
/* What explain makes of a kernel's answer; the kernel is a variable here. */
#include "tests/unit/state_objects.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>
#include "agent/compile/rulebook.h"
#include "agent/observe/explain.h"

#define PENSTOCK(kind, name) \
	"{\"apiVersion\":\"penstock.dev/v1alpha1\",\"kind\":\"" kind "\",\"metadata\":{\"name\":\"" name "\"},\"spec\":"
#define PROXY PENSTOCK("TransparentProxy", "gw") "{\"port\":15001,\"protocols\":[\"TCP\"]}}"
#define INTERCEPT                                                                                                    \
	PENSTOCK("InterceptPolicy", "llm")                                                                               \
	"{\"priority\":1,\"subject\":{\"namespaces\":{}},\"egress\":[{\"name\":\"one\",\"action\":\"Bypass\",\"to\":[{"  \
	"\"networks\":[\"10.0.0.0/8\"]}]},{\"name\":\"a \\\"b\\\"\",\"action\":\"Intercept\",\"proxy\":\"gw\",\"to\":[{" \
	"\"networks\":[\"0.0.0.0/0\"]}]}]}}"
#define POD(name, ip, created)                                                                                   \
	"{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"namespace\":\"shop\",\"name\":\"" name              \
	"\",\"creationTimestamp\":\"2026-01-01T00:00:0" created "Z\"},\"spec\":{\"nodeName\":\"here\"},\"status\":{" \
	"\"phase\":\"Running\",\"podIPs\":[{\"ip\":\"" ip "\"}]}}"
#define QUESTION "{\"source\":{\"workload\":\"shop/chat\"},\"destination\":{\"ip\":\"203.0.113.9\"},\"port\":443}"

/* ---- a kernel, listeners and an agent of our own ---- */

static struct {
	struct explain_answer answer;
	struct explain_query query; /* the last one */
	int result, asked;
	struct listener_status listeners[2];
	size_t listener_count;
} kernel;

static int kernel_ask(void *context, const struct explain_query *query, struct explain_answer *ret, struct error *e)
{
	kernel.query = *query;
	__atomic_add_fetch(&kernel.asked, 1, __ATOMIC_RELAXED);
	if (kernel.result < 0)
		return error_set(e, ERROR_BUSY, -kernel.result, NULL, "not now");
	*ret = kernel.answer;
	return 0;
}

static size_t kernel_listeners(void *context, struct listener_status **ret)
{
	*ret = mem_dup(kernel.listeners, sizeof(kernel.listeners));
	return kernel.listener_count;
}

struct world {
	struct metrics *metrics;
	struct rulebook *book;
	struct compiler *compiler;
	struct snapshot *snapshot;
	uint32_t isolation, bypass, handed;
};

static void world_publish(struct world *w)
{
	struct metrics_facts facts = {w->snapshot, w->compiler, w->book, true, ENGINE_EBPF};
	metrics_publish(w->metrics, &facts);
}

static int world_start(void **state)
{
	static struct world w;
	memset(&kernel, 0, sizeof(kernel));
	w.metrics = metrics_new();
	w.book = rulebook_new(1);
	w.compiler = compiler_new("here", w.book);
	struct snapshot *empty = snapshot_new("0123456789abcdef");
	struct draft *draft = draft_new(empty);
	static const char *const objects[] = {PROXY, INTERCEPT, POD("chat", "10.0.0.2", "1"), POD("heir", "10.0.0.2", "2"),
		POD("heir2", "10.0.0.2", "1"), POD("api", "fd00::3", "1")};
	for (size_t i = 0; i < sizeof(objects) / sizeof(objects[0]); i++)
		draft_put(draft, object_make(objects[i], "local", 0));
	w.snapshot = draft_finish(draft, 7);
	snapshot_put(empty);
	w.isolation = rulebook_take(w.book, KIND_NETWORK_POLICY, "shop", "quiet", INGRESS, -1, "");
	w.bypass = rulebook_take(w.book, KIND_INTERCEPT_POLICY, "", "llm", EGRESS, 0, "one");
	w.handed = rulebook_take(w.book, KIND_INTERCEPT_POLICY, "", "llm", EGRESS, 1, "a \"b\"");
	kernel.answer.revision = 7;
	world_publish(&w);
	*state = &w;
	return 0;
}

static int world_stop(void **state)
{
	struct world *w = *state;
	metrics_free(w->metrics);
	compiler_free(w->compiler);
	rulebook_free(w->book);
	snapshot_put(w->snapshot);
	return 0;
}

/* The document, or what is wrong as "POINTER: detail" lines in *errors. */
static json_t *explain(struct world *w, const char *body, char **errors)
{
	const struct explain_source source = {NULL, kernel_ask, kernel_listeners, w->metrics};
	struct buffer out = {0}, text = {0};
	struct errors list = {0};
	explain_body(&source, body, strlen(body), &out, &list);
	for (size_t i = 0; i < list.count; i++)
		buffer_printf(&text, "%s: %s\n", list.list[i].path, list.list[i].detail);
	json_t *json = out.length ? json_loads(out.data, 0, NULL) : NULL;
	if (!list.total && !json)
		fail_msg("not JSON: %s", out.data);
	if (errors)
		*errors = buffer_take(&text);
	else if (!json)
		fail_msg("refused: %s", text.data);
	buffer_free(&text);
	buffer_free(&out);
	errors_clear(&list);
	return json;
}

static void expect(json_t *json, const char *members)
{
	json_t *wanted = json_loads(members, 0, NULL), *value;
	const char *name;
	assert_non_null(wanted);
	json_object_foreach(wanted, name, value)
	{
		auto_free char *found = json_dumps(json_object_get(json, name), JSON_ENCODE_ANY | JSON_SORT_KEYS);
		if (!json_equal(value, json_object_get(json, name)))
			fail_msg("%s is %s", name, found);
	}
	json_decref(wanted);
}

static void expect_step(const json_t *json, const char *part)
{
	const json_t *steps = json_object_get(json, "steps");
	for (size_t i = 0; i < json_array_size(steps); i++)
		if (strstr(json_string_value(json_array_get(steps, i)), part))
			return;
	auto_free char *found = json_dumps(steps, JSON_INDENT(1));
	fail_msg("no step says \"%s\": %s", part, found);
}

/* ---- tests ---- */

static void nobody_here(void **state)
{
	json_t *json = explain(*state, QUESTION, NULL);
	expect(json,
		"{\"verdict\":\"Allow\",\"proxy\":null,\"egress\":null,\"ingress\":null,\"intercept\":null,\"pending\":false,"
		"\"backends\":[],\"revision\":7}");
	assert_int_equal(kernel.query.protocol, 6);
	assert_int_equal(kernel.query.port, 443);
	assert_int_equal(kernel.query.source.family, 4);
	json_decref(json);
}

#define RULE                                                                                                  \
	"{\"kind\":\"InterceptPolicy\",\"namespace\":\"\",\"name\":\"llm\",\"direction\":\"Egress\",\"index\":1," \
	"\"ruleName\":\"a \\\"b\\\"\"}"

static void sides(void **state)
{
	struct world *w = *state;
	kernel.answer.egress.local = kernel.answer.ingress.local = true;
	kernel.answer.egress.verdict = (struct ps_verdict){.reason = PS_REASON_DEFAULT};
	kernel.answer.ingress.verdict =
		(struct ps_verdict){.action = PS_ACTION_DENY, .reason = PS_REASON_ISOLATED, .rule = w->isolation};
	kernel.answer.ingress.profile = 3;
	kernel.answer.ingress.row = 9;
	kernel.answer.action = PS_ACTION_DENY;
	json_t *json = explain(w, QUESTION, NULL);
	expect(json,
		"{\"verdict\":\"Deny\",\"egress\":{\"verdict\":\"Allow\",\"rule\":null,\"reason\":\"Default\",\"shadows\":["
		"{\"action\":\"Intercept\",\"rule\":" RULE "}]},"
		"\"ingress\":{\"verdict\":\"Deny\",\"reason\":\"Isolated\",\"shadows\":[],\"rule\":{\"kind\":\"NetworkPolicy\","
		"\"namespace\":"
		"\"shop\",\"name\":\"quiet\",\"direction\":\"Ingress\",\"index\":-1,\"ruleName\":\"\"}},\"intercept\":null}");
	expect_step(json,
		"ingress: Deny, Isolated, by NetworkPolicy shop/quiet, which isolates in this direction; profile 3, "
		"row 9 (of all other peers)");
	json_decref(json);

	/* what is only audited passes, and a rule that nobody remembers is no reason to fail */
	kernel.answer.action = PS_ACTION_ALLOW;
	kernel.answer.ingress.verdict = (struct ps_verdict){
		.reason = PS_REASON_DEFAULT, .flags = PS_VERDICT_AUDIT | PS_VERDICT_AUDIT_DENY, .audit_rule = w->isolation};
	json = explain(w, QUESTION, NULL);
	expect(json,
		"{\"verdict\":\"Allow\",\"ingress\":{\"verdict\":\"Allow\",\"rule\":null,\"reason\":\"Default\",\"shadows\":[],"
		"\"audit\":{\"verdict\":\"Deny\",\"rule\":{\"kind\":\"NetworkPolicy\",\"namespace\":\"shop\",\"name\":"
		"\"quiet\",\"direction\":\"Ingress\",\"index\":-1,\"ruleName\":\"\"}}}}");
	expect_step(
		json, "ingress, audit: Deny if NetworkPolicy shop/quiet, which isolates in this direction, which is in");
	json_decref(json);
	kernel.answer.ingress.verdict.flags = 0;
	kernel.answer.ingress.verdict.audit_rule = 4711;
	json = explain(w, QUESTION, NULL);
	expect_step(json, "ingress, audit: the same by rule 4711, whose name is not known");
	json_decref(json);
}

static void handed_over(struct world *w)
{
	kernel.answer.egress.local = true;
	kernel.answer.egress.verdict = (struct ps_verdict){
		.action = PS_ACTION_INTERCEPT, .reason = PS_REASON_DEFAULT, .proxy = 1, .intercept_rule = w->handed};
	kernel.answer.action = PS_ACTION_INTERCEPT;
	kernel.answer.proxy = (struct ps_proxy){.port = 15001, .flags = PS_PROXY_USED};
}

static void a_proxy_by_its_name(void **state)
{
	handed_over(*state);
	json_t *json = explain(*state, QUESTION, NULL);
	expect(json,
		"{\"verdict\":\"Intercept\",\"proxy\":\"gw\",\"egress\":{\"verdict\":\"Allow\",\"rule\":null,\"reason\":"
		"\"Default\",\"shadows\":[]},\"intercept\":{\"proxy\":\"gw\",\"available\":false,\"onUnavailable\":\"Deny\","
		"\"rule\":" RULE "}}");
	expect_step(json, "handed to proxy gw by InterceptPolicy llm, egress rule 1 (a \"b\")");
	expect_step(json, "port 15001 over IPv4: it would be denied (NoListener)");
	json_decref(json);
	kernel.answer.proxy.flags |= PS_PROXY_BYPASS;
	json = explain(*state, QUESTION, NULL);
	expect_step(json, "it would go where it was going (Bypass)");
	json_decref(json);
}

static bool available(struct world *w)
{
	json_t *json = explain(w, QUESTION, NULL);
	bool is = json_is_true(json_object_get(json_object_get(json, "intercept"), "available"));
	json_decref(json);
	return is;
}

static void listeners(void **state)
{
	struct listener_status *one = &kernel.listeners[0];
	handed_over(*state);
	*one =
		(struct listener_status){.proxy = "gw", .protocol = PROTOCOL_TCP, .ip = {.family = 4}, .state = LISTENER_READY};
	kernel.listener_count = 1;
	assert_true(available(*state));
	one->state = LISTENER_ADOPTED;
	assert_true(available(*state));
	strcpy(one->proxy, "other");
	assert_false(available(*state));
	*one =
		(struct listener_status){.proxy = "gw", .protocol = PROTOCOL_TCP, .ip = {.family = 6}, .state = LISTENER_READY};
	assert_true(available(*state)); /* dual-stack */
	one->v6only = true;
	assert_false(available(*state));
	one->v6only = false;
	one->ip.bytes[15] = 1;
	assert_false(available(*state));
	*one = (struct listener_status){.proxy = "gw",
		.protocol = PROTOCOL_TCP,
		.ip = {.family = 4},
		.state = LISTENER_IGNORED,
		.why = "uid 3 is not 4"};
	json_t *json = explain(*state, QUESTION, NULL);
	expect_step(json, "listens on TCP port 15001 over IPv4, uid 3 is not 4: it would be denied");
	json_decref(json);
	/* Of another protocol; this proxy takes none of them. */
	*one =
		(struct listener_status){.proxy = "gw", .protocol = PROTOCOL_UDP, .ip = {.family = 4}, .state = LISTENER_READY};
	assert_false(available(*state));
	kernel.listener_count = 0;
	json = explain(*state,
		"{\"source\":{\"workload\":\"shop/chat\"},\"destination\":{\"ip\":\"203.0.113.9\"},\"protocol\":\"UDP\","
		"\"port\":443}",
		NULL);
	expect_step(json, "nobody that could take it listens on UDP port 15001 over IPv4, which is not among the proxy's "
					  "protocols: it would be denied");
	json_decref(json);
}

static void bypass_and_denial(void **state)
{
	struct world *w = *state;
	handed_over(w);
	kernel.answer.action = PS_ACTION_ALLOW;
	kernel.answer.egress.verdict.action = PS_ACTION_ALLOW;
	kernel.answer.egress.verdict.intercept_rule = w->bypass;
	json_t *json = explain(w, QUESTION, NULL);
	expect(json, "{\"verdict\":\"Allow\",\"proxy\":null,\"intercept\":null}");
	expect_step(json, "interception: Bypass, by InterceptPolicy llm, egress rule 0 (one)");
	json_decref(json);
	kernel.answer.action = PS_ACTION_DENY;
	json = explain(w, QUESTION, NULL);
	expect_step(json, "what policy denies is not handed over");
	json_decref(json);
}

static void the_node(void **state)
{
	kernel.answer.node = kernel.answer.ingress.local = true;
	kernel.answer.ingress.verdict.reason = PS_REASON_NODE;
	json_t *json = explain(*state, QUESTION, NULL);
	expect(json, "{\"ingress\":{\"verdict\":\"Allow\",\"rule\":null,\"reason\":\"Node\",\"shadows\":[]}}");
	expect_step(json, ", this node itself;");
	json_decref(json);
}

static void whose_address(void **state)
{
	json_t *json = explain(
		*state, "{\"source\":{\"ip\":\"10.0.0.2\"},\"destination\":{\"ip\":\"10.0.0.9\"},\"protocol\":\"ICMP\"}", NULL);
	expect_step(json, "source: 10.0.0.2, Pod shop/heir, "); /* the younger has it */
	expect_step(json, "destination: 10.0.0.9, an address that no object has");
	assert_int_equal(kernel.query.protocol, 1);
	json_decref(json);
	json = explain(*state,
		"{\"source\":{\"workload\":\"shop/api\"},\"destination\":{\"ip\":\"fd00::1\"},\"protocol\":\"ICMP\",\"family\":"
		"null,\"port\":null}",
		NULL);
	assert_int_equal(kernel.query.protocol, 58);
	assert_int_equal(kernel.query.source.family, 6);
	json_decref(json);
}

static void everything_wrong_at_once(void **state)
{
	auto_free char *errors = NULL;
	assert_null(explain(*state,
		"{\"source\":{\"workload\":\"shop/none\",\"x\":1},\"destination\":{\"workload\":\"shop/api\"},\"protocol\":6,"
		"\"port\":1.5,\"family\":\"4\"}",
		&errors));
	assert_string_equal(errors, "/source/x: unknown field\n"
								"/protocol: one of TCP, UDP, SCTP and ICMP is wanted\n"
								"/port: a number is wanted here\n"
								"/family: IPv4 or IPv6 is wanted\n"
								"/source/workload: there is no Workload or Pod shop/none\n");
	assert_int_equal(kernel.asked, 0);
}

static void no_common_family(void **state)
{
	auto_free char *errors = NULL;
	assert_null(explain(*state,
		"{\"source\":{\"workload\":\"shop/chat\"},\"destination\":{\"workload\":\"shop/api\"},\"port\":1}", &errors));
	assert_string_equal(
		errors, "/destination/workload: shop/api has no IPv4 address, and the other end has no other\n");
}

static void the_kernel_fails(void **state)
{
	auto_free char *errors = NULL;
	kernel.result = -EAGAIN;
	assert_null(explain(*state, QUESTION, &errors));
	assert_string_equal(errors, ": not now\n");
}

/* The tables are one revision ahead; the names come a moment later. */
static void *publish_late(void *argument)
{
	const struct timespec moment = {0, 30000000};
	struct world *w = argument;
	nanosleep(&moment, NULL);
	struct snapshot *next = draft_finish(draft_new(w->snapshot), 8);
	rulebook_take(w->book, KIND_NETWORK_POLICY, "shop", "fresh", INGRESS, 0, "");
	snapshot_put(w->snapshot);
	w->snapshot = next;
	world_publish(w);
	return NULL;
}

static void names_are_waited_for(void **state)
{
	struct world *w = *state;
	pthread_t thread;
	kernel.answer.revision = 8;
	kernel.answer.ingress.local = true;
	kernel.answer.ingress.verdict = (struct ps_verdict){.reason = PS_REASON_POLICY, .rule = w->handed + 1};
	assert_int_equal(pthread_create(&thread, NULL, publish_late, w), 0);
	json_t *json = explain(*state, QUESTION, NULL);
	pthread_join(thread, NULL);
	expect(json,
		"{\"revision\":8,\"ingress\":{\"verdict\":\"Allow\",\"reason\":\"Policy\",\"shadows\":[],\"rule\":{\"kind\":"
		"\"NetworkPolicy\","
		"\"namespace\":\"shop\",\"name\":\"fresh\",\"direction\":\"Ingress\",\"index\":0,\"ruleName\":\"\"}}}");
	assert_true(kernel.asked > 1);
	json_decref(json);
}

static void nothing_published(void **state)
{
	const struct explain_source source = {NULL, kernel_ask, NULL, metrics_new()};
	struct buffer out = {0};
	struct errors list = {0};
	explain_body(&source, QUESTION, strlen(QUESTION), &out, &list);
	assert_int_equal(list.total, 1);
	assert_int_equal(list.list[0].kind, ERROR_BUSY);
	errors_clear(&list);
	metrics_free(source.metrics);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, world_start, world_stop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(nobody_here),
		TEST(sides),
		TEST(a_proxy_by_its_name),
		TEST(listeners),
		TEST(bypass_and_denial),
		TEST(the_node),
		TEST(whose_address),
		TEST(everything_wrong_at_once),
		TEST(no_common_family),
		TEST(the_kernel_fails),
		TEST(names_are_waited_for),
		cmocka_unit_test(nothing_published),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
