/* SPDX-License-Identifier: Apache-2.0 */
/* Objects as text: what is written, compared, and read back; and who holds them. */
#include "model_json.h"

#include <stdlib.h>

/* ---- text and references ---- */

static void same_object_same_text(void **state)
{
	static const char *const same[][2] = {
		{NETWORK_POLICY("{'podSelector':{'matchLabels':null},'ingress':null}"), NETWORK_POLICY("{'podSelector':{}}")},
		{POD(",'status':{'podIP':'10.0.0.1','podIPs':[{'ip':'10.0.0.1'}]}"),
			POD(",'status':{'podIPs':[{'ip':'10.0.0.1'}],'hostIP':'1.2.3.4'}")},
		{POD(",'spec':{'containers':[{'name':'x'},{'ports':[{'containerPort':1}]}]}"),
			POD(",'spec':{'initContainers':[{'name':'i','ports':[{'containerPort':9}]}],"
				"'containers':[{'ports':[{'containerPort':1,'hostPort':3}],'image':'y'}]}")},
		{"{'kind':'Pod','apiVersion':'v1','metadata':{'name':'a','labels':{},'annotations':{'x':'y'},'uid':''}}",
			"{'metadata':{'name':'a','namespace':'default','creationTimestamp':null},'apiVersion':'v1','kind':'Pod'}"},
	};
	for (size_t i = 0; i < sizeof(same) / sizeof(*same); i++) {
		struct object *a = object_of(same[i][0]), *b = object_of(same[i][1]);
		assert_string_equal(a->json, b->json);
		object_put(a);
		object_put(b);
	}
}

static void encode_adds_the_owner(void **state)
{
	static const struct {
		const char *text, *annotations;
	} cases[] = {
		{POD(""), "{\"penstock.dev/owner\":\"o\\\"1\"}"},
		{"{'apiVersion':'v1','kind':'Pod','metadata':{'name':'a','annotations':{'kubernetes.io/"
		 "egress-bandwidth':'1M'}}}",
			"{\"kubernetes.io/egress-bandwidth\":\"1M\",\"penstock.dev/owner\":\"o\\\"1\"}"},
		{"{'apiVersion':'discovery.k8s.io/v1','kind':'EndpointSlice','metadata':{'name':'a'},'addressType':'FQDN',"
		 "'endpoints':[{'addresses':['\\'metadata\\':{']}]}",
			"{\"penstock.dev/owner\":\"o\\\"1\"}"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct object *object = NULL;
		if (i < 2) {
			object = object_of(cases[i].text);
		} else {
			/* A string that looks like the place where the annotation goes. */
			json_t *json = json_pack("{s:s,s:s,s:{s:s},s:s,s:[{s:[s]}]}", "apiVersion", "discovery.k8s.io/v1", "kind",
				"EndpointSlice", "metadata", "name", "a", "addressType", "FQDN", "endpoints", "addresses",
				"\"metadata\":{");
			struct errors errors = {0};
			assert_int_equal(object_read(json, "", true, &object, &errors), 0);
			json_decref(json);
		}
		struct object *owned = object_with(object, "o\"1", 5);
		auto_free char *plain = object_encode(object), *text = object_encode(owned);
		assert_string_equal(plain, object->json);
		json_t *json = json_loads(text, 0, NULL);
		assert_non_null(json);
		auto_free char *annotations = json_dumps(
			json_object_get(json_object_get(json, "metadata"), "annotations"), JSON_COMPACT | JSON_SORT_KEYS);
		assert_string_equal(annotations, cases[i].annotations);
		struct errors errors = {0};
		struct object *again = NULL;
		assert_int_equal(object_read(json, "", true, &again, &errors), 0);
		assert_string_equal(again->json, object->json); /* what GET answers can be put back */
		json_decref(json);
		object_put(again);
		object_put(owned);
		object_put(object);
	}
}

static void references(void **state)
{
	struct object *first = object_of(POD(""));
	struct object *owned = object_with(first, "a", 3), *other = object_with(owned, "b", 4);
	assert_ptr_equal(object_get(first), first);
	object_put(first);
	object_put(first);
	object_put(owned); /* the copies still stand */
	assert_string_equal(other->owner, "b");
	assert_string_equal(other->name, "a");
	assert_int_equal(other->revision, 4);
	assert_int_equal(other->workload->ip_count, 0);
	object_put(other);
	object_put(NULL);
}

static void order(void **state)
{
	struct object *a = object_of(POD("")), *b = object_of(OURS("Workload", "{'ips':['10.0.0.1']}"));
	struct object *c = object_of("{'apiVersion':'v1','kind':'Pod','metadata':{'name':'b','namespace':'n'}}");
	assert_true(object_compare(a, b) < 0 && object_compare(b, a) > 0);
	assert_true(object_compare(a, c) < 0);
	assert_int_equal(object_compare(a, a), 0);
	object_put(a);
	object_put(b);
	object_put(c);
}

static void kinds_by_name(void **state)
{
	for (int i = 0; i < KIND_COUNT; i++) {
		assert_int_equal(kind_by_name(kinds[i].kind), i);
		assert_int_equal(kind_by_plural(kinds[i].plural), i);
	}
	assert_int_equal(kind_by_name("pods"), -1);
	assert_int_equal(kind_by_plural("Pod"), -1);
}

static void keys(void **state)
{
	struct object_key key;
	json_t *json = json_of("{'kind':'Pod','metadata':{'name':'a','namespace':5}}");
	object_key_read(json, &key);
	assert_string_equal(key.kind, "Pod");
	assert_string_equal(key.namespace, "");
	assert_string_equal(key.name, "a");
	json_decref(json);
	json = json_of("[1]");
	object_key_read(json, &key);
	assert_string_equal(key.kind, "");
	json_decref(json);
}

/* ---- what is no change ---- */

#define VERSIONED(label, rest) \
	"{'apiVersion':'v1','kind':'Namespace','metadata':{'name':'a','labels':{'resourceVersion':'" label "'}" rest "}}"

static void alike_but_for_the_version(void **state)
{
	static const struct {
		const char *one, *other;
		bool alike;
	} cases[] = {
		{VERSIONED("1", ",'resourceVersion':'9'"), VERSIONED("1", ",'resourceVersion':'9'"), true},
		{VERSIONED("1", ",'resourceVersion':'9'"), VERSIONED("1", ",'resourceVersion':'10'"), true},
		{VERSIONED("1", ",'resourceVersion':'9','uid':'u'"), VERSIONED("1", ",'uid':'u'"), true},
		{VERSIONED("1", ",'resourceVersion':'9'"), VERSIONED("1", ""), true},
		{VERSIONED("1", ",'resourceVersion':'\\',\\'x\\':\\'}\\\\'"), VERSIONED("1", ",'resourceVersion':'9'"), true},
		{VERSIONED("1", ",'resourceVersion':'9'"), VERSIONED("2", ",'resourceVersion':'9'"), false}, /* a label */
		{VERSIONED("1", ",'resourceVersion':'9'"), VERSIONED("11", ",'resourceVersion':'9'"), false},
		{VERSIONED("1", ",'resourceVersion':'9'"), VERSIONED("11", ""), false},
		{VERSIONED("1", ""), VERSIONED("2", ""), false},
		{VERSIONED("1", ",'uid':'u'"), VERSIONED("1", ",'uid':'v'"), false},
		{VERSIONED("1", ",'uid':'u'"), VERSIONED("1", ",'resourceVersion':'u'"), false},
		{VERSIONED("1", ",'resourceVersion':'9','uid':'u'"), VERSIONED("1", ",'resourceVersion':'9'"), false},
		{VERSIONED("1", ""), VERSIONED("1", ",'creationTimestamp':'2026-01-01T00:00:00Z'"), false},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		auto_object struct object *one = object_of(cases[i].one), *other = object_of(cases[i].other);
		if (object_alike(one, other) != cases[i].alike || object_alike(other, one) != cases[i].alike)
			fail_msg("%s and %s", one->json, other->json);
		auto_object struct object *elses = object_with(one, "somebody", 1);
		assert_false(object_alike(one, elses));
	}
}

/* ---- what was stored ---- */

static void restored_as_it_was(void **state)
{
	static const char spaced[] = "{ \"kind\":\"Namespace\", \"apiVersion\":\"v1\", \"metadata\": {\"name\":\"a\"} }";
	auto_object struct object *one = object_of(VERSIONED("1", ",'resourceVersion':'9'"));
	auto_object struct object *same = NULL, *canonical = NULL, *none = NULL;
	struct errors errors = {0};
	assert_int_equal(object_restore(one->json, &same, &errors), 0);
	assert_string_equal(same->json, one->json);
	assert_int_equal(same->labels.count, one->labels.count);
	assert_int_equal(object_restore(spaced, &canonical, &errors), 0);
	assert_string_equal(canonical->json, "{\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\"metadata\":{\"labels\":"
										 "{\"kubernetes.io/metadata.name\":\"a\"},\"name\":\"a\"}}");
	static const char *const broken[] = {"", "{", "[]", "{\"kind\":\"Pod\"}", "{\"metadata\":{}}"};
	for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); i++) {
		assert_int_not_equal(object_restore(broken[i], &none, &errors), 0);
		assert_null(none);
		assert_int_equal(errors.total > i, 1);
	}
	errors_clear(&errors);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(same_object_same_text), cmocka_unit_test(encode_adds_the_owner),
		cmocka_unit_test(references), cmocka_unit_test(order), cmocka_unit_test(kinds_by_name), cmocka_unit_test(keys),
		cmocka_unit_test(alike_but_for_the_version), cmocka_unit_test(restored_as_it_was)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
