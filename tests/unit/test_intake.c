/* SPDX-License-Identifier: Apache-2.0 */
/* Calls become candidates: one write after the other on what the one before left, without compiler, kernel and disk. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include "agent/base/mem.h"
#include "agent/intake/intake.h"

#define BODY_MAX (1u << 20)
#define EPOCH "0123456789abcdef"

struct bench {
	struct snapshot *base;
	struct errors errors;     /* of the last write */
	char *set_aside;          /* of the last write, or NULL */
	uint64_t etag;            /* of the last write */
	bool durable;             /* the last write has to be remembered, without a new revision */
	bool force, quarantine;   /* of the next write */
	uint64_t term;            /* of the next write; 0: none */
	const char *match, *none; /* of the next write */
	const char *owner;        /* NULL: local */
};

static int setup(void **state)
{
	struct bench *bench = mem_alloc(sizeof(*bench));
	bench->base = snapshot_new(EPOCH);
	*state = bench;
	return 0;
}

static int teardown(void **state)
{
	struct bench *bench = *state;
	errors_clear(&bench->errors);
	free(bench->set_aside);
	snapshot_put(bench->base);
	free(bench);
	return 0;
}

/* The error's kind, or ERROR_NONE; then the candidate is the next base. Text has ' for ". */
static enum error_kind call_read(struct bench *bench, struct call *call, const char *body)
{
	struct candidate candidate;
	auto_free char *text = str_dup(body ? body : "");
	for (char *at = text; *at; at++)
		*at = *at == '\'' ? '"' : *at;
	call->owner = (char *)(bench->owner ? bench->owner : "local");
	call->namespace = call->namespace ? call->namespace : "";
	call->name = call->name ? call->name : "";
	call->force = bench->force;
	call->quarantine = bench->quarantine;
	call->has_term = bench->term;
	call->term = bench->term;
	call->if_match = (char *)bench->match;
	call->if_none_match = (char *)bench->none;
	call->body = text;
	call->body_length = strlen(text);
	errors_clear(&bench->errors);
	free(steal_pointer(&bench->set_aside));
	if (intake_read(call, bench->base, BODY_MAX, 1000, &candidate, &bench->errors) < 0) {
		assert_null(candidate.snapshot);
		return bench->errors.list[0].kind;
	}
	assert_int_equal(candidate.snapshot->revision, bench->base->revision + candidate.changes);
	snapshot_put(bench->base);
	bench->base = snapshot_get(candidate.snapshot);
	bench->set_aside = steal_pointer(&candidate.set_aside);
	bench->etag = candidate.etag;
	bench->durable = candidate.durable && !candidate.changes;
	candidate_clear(&candidate);
	return ERROR_NONE;
}

static enum error_kind put_state(struct bench *bench, const char *items)
{
	auto_free char *body = str_format("{'items':[%s]}", items);
	return call_read(bench, &(struct call){.verb = CALL_PUT_STATE}, body);
}

static enum error_kind patch_state(struct bench *bench, const char *body)
{
	return call_read(bench, &(struct call){.verb = CALL_PATCH_STATE}, body);
}

static enum error_kind put_namespace(struct bench *bench, const char *name, const char *body)
{
	struct call call = {.verb = CALL_PUT_OBJECT, .kind = KIND_NAMESPACE, .name = (char *)name};
	return call_read(bench, &call, body);
}

static enum error_kind delete_namespace(struct bench *bench, const char *name)
{
	struct call call = {.verb = CALL_DELETE_OBJECT, .kind = KIND_NAMESPACE, .name = (char *)name};
	return call_read(bench, &call, NULL);
}

static enum error_kind delete_owner(struct bench *bench, const char *name)
{
	return call_read(bench, &(struct call){.verb = CALL_DELETE_OWNER, .name = (char *)name}, NULL);
}

#define SPACE(name) "{'apiVersion':'v1','kind':'Namespace','metadata':{'name':'" name "'}}"
#define WORKLOAD(name, ips) \
	"{'apiVersion':'penstock.dev/v1alpha1','kind':'Workload','metadata':{'name':'" name "'},'spec':{'ips':[" ips "]}}"
#define POLICY(selector, rest)                                                                                    \
	"{'apiVersion':'networking.k8s.io/v1','kind':'NetworkPolicy','metadata':{'name':'p'},'spec':{'podSelector':{" \
	"'matchLabels':{'app':'" selector "'}}" rest "}}"
#define BROKEN ",'ingress':[{'ports':[{'port':0}]}]"

static const struct object *find(struct bench *bench, enum kind kind, const char *name)
{
	return snapshot_find(bench->base, kind, kinds[kind].namespaced ? "default" : "", name);
}

static const struct quarantined *aside(struct bench *bench, enum kind kind, const char *name)
{
	return snapshot_quarantined(bench->base, kinds[kind].kind, kinds[kind].namespaced ? "default" : "", name);
}

static void owners_and_force(void **state)
{
	struct bench *bench = *state;
	assert_int_equal(put_state(bench, SPACE("a")), ERROR_NONE);
	bench->owner = "other";
	assert_int_equal(put_state(bench, SPACE("a")), ERROR_CONFLICT);
	assert_int_equal(patch_state(bench, "{'delete':[{'kind':'Namespace','name':'a'}]}"), ERROR_CONFLICT);
	bench->quarantine = true;
	assert_int_equal(put_state(bench, SPACE("a")), ERROR_CONFLICT);
	bench->force = true;
	assert_int_equal(put_state(bench, SPACE("a")), ERROR_NONE);
	assert_string_equal(find(bench, KIND_NAMESPACE, "a")->owner, "other");
	bench->owner = "local";
	assert_int_equal(put_state(bench, ""), ERROR_NONE);
	assert_non_null(find(bench, KIND_NAMESPACE, "a"));
	assert_int_equal(bench->base->revision, 2);
}

static void terms_of_those_whose_objects_are_written(void **state)
{
	struct bench *bench = *state;
	bench->owner = "lease";
	bench->term = 5;
	assert_int_equal(put_state(bench, SPACE("a")), ERROR_NONE);
	bench->term = 4;
	bench->force = true;
	assert_int_equal(put_state(bench, ""), ERROR_CONFLICT);
	bench->owner = "local";
	assert_int_equal(delete_owner(bench, "lease"), ERROR_CONFLICT);
	bench->term = 6;
	assert_int_equal(delete_owner(bench, "lease"), ERROR_NONE);
	assert_null(find(bench, KIND_NAMESPACE, "a"));
	bench->term = 5;
	bench->owner = "lease";
	assert_int_equal(put_state(bench, ""), ERROR_CONFLICT);
}

static void conditions(void **state)
{
	static const struct {
		const char *match, *none;
		enum error_kind here, absent;
	} cases[] = {
		{"\"" EPOCH "-1\"", NULL, ERROR_NONE, ERROR_PRECONDITION},
		{"\"x\" , \"" EPOCH "-1\"", NULL, ERROR_NONE, ERROR_PRECONDITION},
		{"W/\"" EPOCH "-1\"", NULL, ERROR_PRECONDITION, ERROR_PRECONDITION},
		{"\"" EPOCH "-11\"", NULL, ERROR_PRECONDITION, ERROR_PRECONDITION},
		{"", NULL, ERROR_PRECONDITION, ERROR_PRECONDITION},
		{" *", NULL, ERROR_NONE, ERROR_PRECONDITION},
		{NULL, "*", ERROR_PRECONDITION, ERROR_NONE},
		{NULL, "W/\"" EPOCH "-1\"", ERROR_PRECONDITION, ERROR_NONE},
		{NULL, "\"other\"", ERROR_NONE, ERROR_NONE},
	};
	struct bench *bench = *state;
	assert_int_equal(put_namespace(bench, "here", SPACE("here")), ERROR_NONE);
	assert_int_equal(put_namespace(bench, "later", SPACE("later")), ERROR_NONE);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		bench->match = cases[i].match;
		bench->none = cases[i].none;
		assert_int_equal(put_namespace(bench, "here", SPACE("here")), cases[i].here);
		assert_int_equal(bench->etag, 1);
		auto_free char *name = str_format("n%zu", i);
		assert_int_equal(put_namespace(bench, name, "{'kind':'Namespace','apiVersion':'v1'}"), cases[i].absent);
		bench->match = bench->none = NULL;
		bench->etag = 1;
	}
}

static void quarantine_stands_in(void **state)
{
	struct bench *bench = *state;
	bench->quarantine = true;
	assert_int_equal(put_state(bench, POLICY("x", BROKEN)), ERROR_NONE);
	assert_true(aside(bench, KIND_NETWORK_POLICY, "p")->isolating);
	assert_int_equal(put_state(bench, POLICY("y", BROKEN) "," SPACE("a")), ERROR_NONE);
	assert_non_null(strstr(find(bench, KIND_NETWORK_POLICY, "p")->json, "\"y\""));
	/* Nothing newer can be read: what isolates goes on. */
	assert_int_equal(put_state(bench, "{'apiVersion':'networking.k8s.io/v1','kind':'NetworkPolicy','metadata':"
									  "{'name':'p'},'spec':{'podSelector':7}}"),
		ERROR_NONE);
	assert_non_null(strstr(find(bench, KIND_NETWORK_POLICY, "p")->json, "\"y\""));
	assert_int_equal(put_state(bench, POLICY("z", "")), ERROR_NONE);
	assert_null(aside(bench, KIND_NETWORK_POLICY, "p"));
	assert_int_equal(put_state(bench, POLICY("y", BROKEN)), ERROR_NONE);
	assert_false(aside(bench, KIND_NETWORK_POLICY, "p")->isolating);
	assert_non_null(strstr(find(bench, KIND_NETWORK_POLICY, "p")->json, "\"z\""));
	assert_int_equal(put_state(bench, ""), ERROR_NONE);
	assert_null(find(bench, KIND_NETWORK_POLICY, "p"));
	assert_int_equal(bench->base->quarantined_count, 0);
}

static void quarantine_takes_everything(void **state)
{
	struct bench *bench = *state;
	static const char items[] = SPACE("a") ",7,null,[],{},{'kind':'Pod'},{'kind':'Pod'}," SPACE("a");
	assert_int_equal(put_state(bench, items), ERROR_INVALID);
	assert_int_equal(bench->base->revision, 0);
	bench->quarantine = true;
	assert_int_equal(put_state(bench, items), ERROR_NONE);
	assert_non_null(find(bench, KIND_NAMESPACE, "a"));
	assert_non_null(strstr(bench->set_aside, "/items/7"));
	assert_int_equal(put_state(bench, items), ERROR_NONE);
	assert_int_equal(bench->base->revision, 1);
}

/* one's last good version comes back with an address that two wants, and two's with three's. */
static void quarantine_settles(void **state)
{
	struct bench *bench = *state;
	assert_int_equal(put_state(bench, WORKLOAD("one", "'192.0.2.1'") "," WORKLOAD("two", "'192.0.2.2'")), ERROR_NONE);
	bench->quarantine = true;
	static const char items[] = WORKLOAD("three", "'192.0.2.2'") "," WORKLOAD(
		"two", "'192.0.2.1','2001:db8::1'") "," WORKLOAD("four", "'192.0.2.4'") "," WORKLOAD("one", "'192.0.2.4'");
	assert_int_equal(put_state(bench, items), ERROR_NONE);
	assert_non_null(strstr(find(bench, KIND_WORKLOAD, "one")->json, "192.0.2.1"));
	assert_non_null(strstr(find(bench, KIND_WORKLOAD, "two")->json, "192.0.2.2"));
	assert_null(find(bench, KIND_WORKLOAD, "three"));
	assert_non_null(find(bench, KIND_WORKLOAD, "four"));
	assert_int_equal(bench->base->quarantined_count, 3);
}

static void what_is_set_aside_has_an_owner(void **state)
{
	struct bench *bench = *state;
	bench->quarantine = true;
	assert_int_equal(put_namespace(bench, "a", "{'apiVersion':'v1'}"), ERROR_NONE);
	assert_non_null(aside(bench, KIND_NAMESPACE, "a"));
	bench->owner = "other";
	assert_int_equal(put_namespace(bench, "a", SPACE("a")), ERROR_CONFLICT);
	assert_int_equal(patch_state(bench, "{'delete':[{'kind':'Namespace','name':'a'}]}"), ERROR_CONFLICT);
	assert_int_equal(delete_namespace(bench, "a"), ERROR_CONFLICT);
	bench->force = true;
	assert_int_equal(put_namespace(bench, "a", SPACE("a")), ERROR_NONE);
	assert_null(aside(bench, KIND_NAMESPACE, "a"));
	assert_int_equal(delete_namespace(bench, "a"), ERROR_NONE);
	assert_int_equal(delete_namespace(bench, "a"), ERROR_NOT_FOUND);
}

static void patches_are_one_transaction(void **state)
{
	struct bench *bench = *state;
	assert_int_equal(put_state(bench, WORKLOAD("one", "'192.0.2.1'")), ERROR_NONE);
	assert_int_equal(patch_state(bench, "{'apply':[" WORKLOAD("two", "'192.0.2.1'") "]}"), ERROR_INVALID);
	assert_string_equal(bench->errors.list[0].path, "/apply/0/spec/ips/0");
	assert_int_equal(
		patch_state(bench, "{'apply':[" WORKLOAD(
							   "two", "'192.0.2.1'") "],'delete':[{'kind':'Workload',"
													 "'name':'one'},{'kind':'Pod','namespace':'s','name':'absent'}]}"),
		ERROR_NONE);
	assert_int_equal(bench->base->object_count, 1);
	assert_int_equal(patch_state(bench, "{'apply':[" WORKLOAD("two", "'192.0.2.1'") "],'delete':[{'kind':'Workload',"
																					"'name':'two'}]}"),
		ERROR_INVALID);
	assert_string_equal(bench->errors.list[0].path, "/delete/0");
}

#define PROXY(protocols)                                                                                         \
	"{'apiVersion':'penstock.dev/v1alpha1','kind':'TransparentProxy','metadata':{'name':'gw'},'spec':{'port':1," \
	"'protocols':[" protocols "]}}"
#define HANDS(protocols)                                                                                           \
	"{'apiVersion':'penstock.dev/v1alpha1','kind':'InterceptPolicy','metadata':{'name':'p'},'spec':{'priority':1," \
	"'subject':{'namespaces':{}},'egress':[{'action':'Bypass','to':[{'namespaces':{}}]},{'action':'Intercept',"    \
	"'proxy':'gw','to':[{'namespaces':{}}]" protocols "}]}}"

static void first_error(struct bench *bench, const char *path, const char *detail)
{
	assert_int_equal(bench->errors.total, 1);
	assert_string_equal(bench->errors.list[0].path, path);
	assert_string_equal(bench->errors.list[0].detail, detail);
}

static void proxies_take_what_rules_name(void **state)
{
	struct bench *bench = *state;
	assert_int_equal(put_state(bench, PROXY("'TCP'") "," HANDS(",'protocols':[{'tcp':{}},{'udp':{}}]")), ERROR_INVALID);
	first_error(bench, "/items/1/spec/egress/1/protocols/1/udp", "TransparentProxy \"gw\" takes TCP only");
	assert_int_equal(put_state(bench, PROXY("'UDP'") "," HANDS(",'protocols':[{'tcp':{}},{'udp':{}}]")), ERROR_INVALID);
	first_error(bench, "/items/1/spec/egress/1/protocols/0/tcp", "TransparentProxy \"gw\" takes UDP only");
	assert_int_equal(put_state(bench, PROXY("'UDP'") "," HANDS("")), ERROR_NONE);
	assert_int_equal(
		put_state(bench, PROXY("'UDP','TCP'") "," HANDS(",'protocols':[{'tcp':{}},{'udp':{}}]")), ERROR_NONE);

	/* The proxy changes under the rule, which another has. */
	bench->owner = "gateway";
	bench->force = true;
	assert_int_equal(patch_state(bench, "{'apply':[" PROXY("'UDP'") "]}"), ERROR_INVALID);
	first_error(
		bench, "/apply/0/spec/protocols", "InterceptPolicy \"p\" hands it TCP, at /spec/egress/1/protocols/0/tcp");
	bench->quarantine = true;
	assert_int_equal(patch_state(bench, "{'apply':[" PROXY("'UDP'") "]}"), ERROR_NONE);
	assert_int_equal(bench->base->quarantined_count, 0);
	bench->quarantine = false;
	assert_int_equal(patch_state(bench, "{'apply':[" PROXY("'UDP'") "," SPACE("a") "]}"), ERROR_NONE);
	assert_int_equal(patch_state(bench, "{'apply':[" PROXY("'TCP'") "]}"), ERROR_INVALID); /* nor the other now */
	first_error(
		bench, "/apply/0/spec/protocols", "InterceptPolicy \"p\" hands it UDP, at /spec/egress/1/protocols/1/udp");
}

static void pointers_lead_into_the_patch(void **state)
{
	struct bench *bench = *state;
	assert_int_equal(patch_state(bench, "{'apply':[],'a/b~':1}"), ERROR_INVALID);
	assert_string_equal(bench->errors.list[0].path, "/a~1b~0");
	assert_int_equal(patch_state(bench, "{'delete':[{'kind':'Namespace','name':'a','x/y':''}]}"), ERROR_INVALID);
	assert_string_equal(bench->errors.list[0].path, "/delete/0/x~1y");
	auto_free char *name = mem_alloc(301);
	memset(name, 'x', 300);
	auto_free char *member = str_format("{'apply':[],'%s':1}", name);
	assert_int_equal(patch_state(bench, member), ERROR_INVALID);
	assert_string_equal(bench->errors.list[0].path, "");
	auto_free char *of_key = str_format("{'delete':[{'kind':'Namespace','name':'a','%s':''}]}", name);
	assert_int_equal(patch_state(bench, of_key), ERROR_INVALID);
	assert_string_equal(bench->errors.list[0].path, "/delete/0");
}

static void a_path_fills_in(void **state)
{
	static const char *const bodies[] = {
		"null", "{}", "{'namespace':null}", "{'name':'','namespace':''}", "{'name':'w'}"};
	struct bench *bench = *state;
	for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
		struct call call = {.verb = CALL_PUT_OBJECT, .kind = KIND_WORKLOAD, .namespace = "s", .name = "w"};
		auto_free char *body = str_format("{'apiVersion':'penstock.dev/v1alpha1','kind':'Workload','metadata':%s,"
										  "'spec':{'ips':['192.0.2.1']}}",
			bodies[i]);
		assert_int_equal(call_read(bench, &call, body), ERROR_NONE);
		assert_int_equal(bench->base->object_count, 1);
		assert_non_null(snapshot_find(bench->base, KIND_WORKLOAD, "s", "w"));
	}
}

#define VERSION(name, label, version)                                                           \
	"{'apiVersion':'v1','kind':'Namespace','metadata':{'name':'" name "','labels':{'l':'" label \
	"'},'resourceVersion':'" version "'}}"

static void assert_version(struct bench *bench, const char *name, const char *version, uint64_t revision)
{
	const struct object *object = find(bench, KIND_NAMESPACE, name);
	auto_free char *wanted = str_format("\"resourceVersion\":\"%s\"", version);
	assert_non_null(strstr(object->json, wanted));
	assert_int_equal(object->revision, revision);
}

static void another_resource_version_is_no_change(void **state)
{
	struct bench *bench = *state;
	assert_int_equal(put_state(bench, VERSION("a", "x", "1") "," VERSION("b", "x", "1")), ERROR_NONE);
	assert_int_equal(put_namespace(bench, "a", VERSION("a", "x", "2")), ERROR_NONE);
	assert_int_equal(bench->base->revision, 1);
	assert_int_equal(bench->etag, 1);
	assert_true(bench->durable);
	assert_version(bench, "a", "2", 1);
	assert_int_equal(put_namespace(bench, "a", VERSION("a", "x", "2")), ERROR_NONE);
	assert_false(bench->durable);

	/* Beside one that matters. */
	assert_int_equal(put_state(bench, VERSION("a", "x", "3") "," VERSION("b", "y", "3")), ERROR_NONE);
	assert_int_equal(bench->base->revision, 2);
	assert_version(bench, "a", "3", 1);
	assert_version(bench, "b", "3", 2);
	assert_int_equal(patch_state(bench, "{'apply':[" VERSION("b", "y", "4") "],'delete':[]}"), ERROR_NONE);
	assert_version(bench, "b", "4", 2);

	/* What stands in for a broken one, and who owns it. */
	bench->quarantine = true;
	assert_int_equal(put_state(bench, VERSION("a", "x", "5") "," VERSION("b", "-", "5")), ERROR_NONE);
	assert_int_equal(put_state(bench, VERSION("a", "x", "6") "," VERSION("b", "-", "6")), ERROR_NONE);
	assert_int_equal(bench->base->revision, 3);
	assert_version(bench, "a", "6", 1);
	assert_version(bench, "b", "4", 2);
	assert_int_equal(put_state(bench, VERSION("a", "x", "6") "," VERSION("a", "z", "6")), ERROR_NONE); /* a double */
	assert_int_equal(put_state(bench, VERSION("a", "x", "7") "," VERSION("a", "z", "7")), ERROR_NONE);
	assert_int_equal(bench->base->revision, 4);
	assert_version(bench, "a", "7", 1);
	bench->owner = "other";
	bench->force = true;
	assert_int_equal(put_namespace(bench, "a", VERSION("a", "x", "8")), ERROR_NONE);
	assert_version(bench, "a", "8", 5);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(owners_and_force),
		TEST(terms_of_those_whose_objects_are_written),
		TEST(conditions),
		TEST(quarantine_stands_in),
		TEST(quarantine_takes_everything),
		TEST(quarantine_settles),
		TEST(what_is_set_aside_has_an_owner),
		TEST(patches_are_one_transaction),
		TEST(proxies_take_what_rules_name),
		TEST(pointers_lead_into_the_patch),
		TEST(a_path_fills_in),
		TEST(another_resource_version_is_no_change),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
