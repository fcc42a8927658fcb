/* SPDX-License-Identifier: Apache-2.0 */
/* What the command line reads: YAML and JSON, files and directories, names of kinds. */
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <setjmp.h>
#include <cmocka.h>
#include "agent/base/mem.h"
#include "api/client/manifest.h"
#include "api/client/resource.h"
#include "api/client/yaml_json.h"

/* ---- YAML to JSON ---- */

static void collect(void *context, json_t *json, unsigned document, size_t line)
{
	struct buffer *out = context;
	auto_free char *text = json_dumps(json, JSON_ENCODE_ANY | JSON_COMPACT);
	buffer_printf(out, "%s%s", out->length ? " | " : "", text);
	json_decref(json);
}

/* The documents as compact JSON, or "! line N: what". The caller frees. */
static char *converted(const char *yaml)
{
	struct buffer out = {0};
	struct error e = {0};
	struct place wrong = {0};
	if (yaml_to_json(yaml, strlen(yaml), collect, &out, &wrong, &e) < 0) {
		buffer_free(&out);
		return str_format("! line %zu: %s", wrong.line, e.detail);
	}
	return buffer_take(&out);
}

static const struct {
	const char *yaml, *json;
} cases[] = {
	/* typing */
	{"a: 1", "{\"a\":1}"},
	{"a: '1'", "{\"a\":\"1\"}"},
	{"a: \"1\"", "{\"a\":\"1\"}"},
	{"a: |\n  1\n", "{\"a\":\"1\\n\"}"},
	{"[-5, +7, 010, 0x1F, 0o17, 1.5, -.5, 1e3, 1.]", "[-5,7,10,31,15,1.5,-0.5,1000.0,1.0]"},
	{"[true, True, FALSE, null, ~, Null]", "[true,true,false,null,null,null]"},
	{"[yes, no, on, off, y, n]", "[\"yes\",\"no\",\"on\",\"off\",\"y\",\"n\"]"},
	{"['true', \"null\", '~']", "[\"true\",\"null\",\"~\"]"},
	{"a:\nb:", "{\"a\":null,\"b\":null}"},
	{"[1.2.3, 10.0.0.1, 1:30, 2026-11-23, 0b1, 1_000, '', 0x, -, +, ., e5, 5e]",
		"[\"1.2.3\",\"10.0.0.1\",\"1:30\",\"2026-11-23\",\"0b1\",\"1_000\",\"\",\"0x\",\"-\",\"+\",\".\",\"e5\","
		"\"5e\"]"},
	{"[9223372036854775807, 9223372036854775808]", "[9223372036854775807,9.2233720368547758e18]"},
	{"!!str 123", "\"123\""},
	{"!!int '123'", "123"},
	{"80: http\ntrue: x", "{\"80\":\"http\",\"true\":\"x\"}"},
	{".inf", "! line 1: .inf cannot be said in JSON"},
	{"a: 1e999", "! line 1: 1e999 cannot be said in JSON"},
	{"!mine x", "! line 1: the tag !mine means nothing here"},
	/* streams */
	{"", ""},
	{"# nothing\n", ""},
	{"---\na: 1\n---\n# only a comment\n---\nb: 2\n...\n", "{\"a\":1} | null | {\"b\":2}"},
	{"{\"a\": [1, {\"b\": null}]}", "{\"a\":[1,{\"b\":null}]}"},
	/* anchors */
	{"a: &x {b: 1}\nc: *x", "{\"a\":{\"b\":1},\"c\":{\"b\":1}}"},
	{"a: &x 1\nb: &x 2\nc: *x", "{\"a\":1,\"b\":2,\"c\":2}"},
	{"a: &x {p: 1, q: 1}\nb:\n  <<: *x\n  q: 2", "{\"a\":{\"p\":1,\"q\":1},\"b\":{\"q\":2,\"p\":1}}"},
	{"<<: [{a: 1, b: 1}, {b: 2, c: 2}]\nc: 3", "{\"c\":3,\"a\":1,\"b\":1}"},
	{"'<<': {a: 1}", "{\"<<\":{\"a\":1}}"},
	{"<<: 5", "! line 1: << merges a mapping or a list of mappings"},
	{"a: *x", "! line 1: there is no anchor &x before this"},
	{"a: &x 1\n---\nb: *x", "! line 3: there is no anchor &x before this"},
	{"a: &x [*x]", "! line 1: there is no anchor &x before this"},
	/* mistakes */
	{"a: 1\nb: 2\na: 3", "! line 3: the key \"a\" is there twice"},
	{"a: [1", "! line 2: did not find expected ',' or ']' while parsing a flow sequence"},
	{"a:\n\t- 1", "! line 2: a word cannot begin like that (a tab indents nothing: use spaces)"},
	{"? [a]\n: 1", "! line 1: a key must be a plain word or a string"},
	{"\"a\\0b\": 1", "! line 1: a key contains a zero byte"},
};

static void yaml_becomes_json(void **state)
{
	for (size_t at = 0; at < sizeof cases / sizeof cases[0]; at++) {
		auto_free char *got = converted(cases[at].yaml);
		assert_string_equal(got, cases[at].json);
	}
}

static void nesting_and_aliases_are_bounded(void **state)
{
	char deep[401];
	memset(deep, '[', 200);
	memset(deep + 200, ']', 200);
	deep[400] = 0;
	auto_free char *got = converted(deep);
	assert_string_equal(got, "! line 1: nested deeper than 100");
	struct buffer laughs = {0};
	buffer_puts(&laughs, "- &a0 [x, x, x, x, x, x, x, x, x, x]\n");
	for (int at = 1; at < 10; at++)
		buffer_printf(&laughs, "- &a%d [*a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d]\n", at, at - 1,
			at - 1, at - 1, at - 1, at - 1, at - 1, at - 1, at - 1, at - 1, at - 1);
	auto_free char *bomb = converted(laughs.data);
	assert_string_equal(bomb, "! line 6: the aliases expand to too much");
	buffer_free(&laughs);
}

static void places_are_found(void **state)
{
	static const char yaml[] = "kind: A\n"
							   "---\n"
							   "kind: NetworkPolicy\n"
							   "metadata:\n"
							   "  name: x\n"
							   "  labels: {a/b: c}\n"
							   "spec:\n"
							   "  ingress:\n"
							   "  - ports:\n"
							   "    - port: 80\n"
							   "    - protocol: TCP\n"
							   "      port: 70000\n";
	static const struct {
		const char *pointer;
		size_t line, column, width;
	} wanted[] = {{"", 3, 1, 1}, {"/kind", 3, 7, 13}, {"/metadata/name", 5, 9, 1}, {"/metadata/labels/a~1b", 6, 17, 1},
		{"/spec/ingress", 8, 3, 7}, {"/spec/ingress/0", 9, 5, 1}, {"/spec/ingress/0/ports/1", 11, 7, 1},
		{"/spec/ingress/0/ports/1/port", 12, 13, 5}, {"/spec/ingress/0/ports/1/port/x", 12, 13, 5},
		{"/spec/ingress/0/absent", 9, 5, 1}, {"/spec/in", 7, 1, 4}};
	for (size_t at = 0; at < sizeof wanted / sizeof wanted[0]; at++) {
		struct place got = yaml_find(yaml, strlen(yaml), 2, wanted[at].pointer);
		assert_int_equal(got.line, wanted[at].line);
		assert_int_equal(got.column, wanted[at].column);
		assert_int_equal(got.width, wanted[at].width);
	}
	assert_int_equal(yaml_find(yaml, strlen(yaml), 1, "/kind").line, 1);
	assert_int_equal(yaml_find(yaml, strlen(yaml), 3, "/kind").line, 0);
	assert_int_equal(yaml_find("a: 1\nb: [", 9, 1, "/a").line, 1);
}

static void excerpts_point_to_it(void **state)
{
	static const struct {
		const char *text;
		struct place place;
		const char *excerpt;
	} wanted[] = {
		{"a: 1\nport: 70000\nb: 2\n", {2, 7, 5}, ">    2 | port: 70000\n>      |       ^~~~~\n"},
		{"{\t\"gr\u00fcn\": 5}", {1, 11, 1}, ">    1 | { \"gr\u00fcn\": 5}\n>      |           ^\n"},
		{"a: 1\r\n", {1, 4, 1}, ">    1 | a: 1\n>      |    ^\n"},
		{"a: 1", {3, 1, 1}, ""},
		{"a: 1", {0, 0, 0}, ""},
		{"a: [", {2, 1, 1}, ""},
	};
	for (size_t at = 0; at < sizeof wanted / sizeof wanted[0]; at++) {
		struct buffer out = {0};
		place_excerpt(wanted[at].text, strlen(wanted[at].text), &wanted[at].place, ">", &out);
		assert_string_equal(out.length ? out.data : "", wanted[at].excerpt);
		buffer_free(&out);
	}
	/* of a long line what is around the place */
	char longer[1001];
	struct buffer out = {0};
	memset(longer, 'x', 1000);
	longer[500] = 'Y', longer[1000] = 0;
	place_excerpt(longer, 1000, &(struct place){1, 501, 1}, "", &out);
	assert_true(out.length < 220);
	const char *mark = strchr(out.data, '^'), *second = strchr(out.data, '\n') + 1;
	assert_int_equal(out.data[mark - second], 'Y');
	buffer_free(&out);
}

static void json_becomes_yaml_and_comes_back(void **state)
{
	static const char *const texts[] = {
		"{\"kind\":\"Pod\",\"metadata\":{\"labels\":{},\"name\":\"a\"},\"spec\":{\"list\":[],\"n\":null}}",
		"{\"a\":[1,-2,1.5,true,false,null,[[]],{\"b\":[{\"c\":1}]}]}",
		"[\"1\",\"true\",\"null\",\"~\",\"\",\"yes\",\"no\",\"on\",\"0x1\",\"1e3\",\".5\",\"<<\",\"- a\",\"a: "
		"b\",\"#c\",\"*x\"]",
		"[\" lead\",\"trail "
		"\",\"two\\nlines\\n\",\"tab\\t\",\"quote\\\"'\",\"\\u0001\",\"grün\",\"back\\\\slash\",\"%x\",\"@y\"]",
		"{\"1\":1,\"true\":2,\"a b\":3,\"a: b\":4,\"\":5}",
		"\"word\"",
		"12345678901234",
	};
	for (size_t at = 0; at < sizeof texts / sizeof texts[0]; at++) {
		json_t *json = json_loads(texts[at], JSON_DECODE_ANY, NULL);
		assert_non_null(json);
		struct buffer yaml = {0};
		json_to_yaml(json, &yaml);
		auto_free char *back = converted(yaml.data);
		assert_string_equal(back, texts[at]);
		buffer_free(&yaml);
		json_decref(json);
	}
	json_t *json = json_loads("{\"spec\":{\"port\":80,\"cidr\":\"10.0.0.0/8\",\"v\":\"yes\",\"l\":[\"a\"]}}", 0, NULL);
	struct buffer yaml = {0};
	json_to_yaml(json, &yaml);
	assert_string_equal(yaml.data, "spec:\n  port: 80\n  cidr: 10.0.0.0/8\n  v: \"yes\"\n  l:\n  - a\n");
	buffer_free(&yaml);
	json_decref(json);

	/* YAML 1.1 readers would make dates and numbers of some. */
	json = json_loads(
		"[\"2026-01-01T00:00:00Z\",\"2026-01-01\",\"12:30\",\"1_000\",\"10.0.0.1\",\"fd00::1\",\"web-1\"]", 0, NULL);
	json_to_yaml(json, &yaml);
	assert_string_equal(yaml.data,
		"- \"2026-01-01T00:00:00Z\"\n- \"2026-01-01\"\n- \"12:30\"\n- \"1_000\"\n- 10.0.0.1\n"
		"- fd00::1\n- web-1\n");
	buffer_free(&yaml);
	json_decref(json);
}

/* ---- manifests ---- */

static void put(const char *name, const char *text)
{
	FILE *file = fopen(name, "w");
	assert_non_null(file);
	fputs(text, file);
	fclose(file);
}

/* "kind/name …", or "! error". The caller frees. */
static char *names_in(const char *path)
{
	struct manifests m = {0};
	struct error e = {0};
	struct buffer out = {0};
	if (manifests_add(&m, path, &e) < 0) {
		buffer_printf(&out, "! %s", e.detail);
	} else {
		for (size_t at = 0; at < m.object_count; at++)
			buffer_printf(&out, "%s%s/%s", at ? " " : "",
				json_string_value(json_object_get(m.objects[at].json, "kind")),
				manifest_metadata(m.objects[at].json, "name"));
	}
	manifests_clear(&m);
	return buffer_take(&out);
}

static void files(void **state)
{
	static const struct {
		const char *name, *text, *expected;
	} in[] = {
		{"a.yaml", "kind: Pod\nmetadata: {name: a}\n---\n---\nkind: Node\nmetadata: {name: b}\n", "Pod/a Node/b"},
		{"a.json", "{\"kind\":\"Pod\",\"metadata\":{\"name\":\"a\"}}", "Pod/a"},
		{"a.json",
			"{\"kind\":\"Pod\",\"metadata\":{\"name\":\"a\"}}\n{\"kind\":\"Pod\",\"metadata\":{\"name\":\"b\"}}\n",
			"Pod/a Pod/b"},
		{"a.yaml", "{\"kind\":\"Pod\",\"metadata\":{\"name\":\"a\"}}", "Pod/a"},
		{"a.yaml", "{kind: Pod, metadata: {name: a}}", "Pod/a"},
		{"a.yaml", "kind: List\nitems:\n- {kind: Pod, metadata: {name: a}}\n- {kind: Node, metadata: {name: b}}\n",
			"Pod/a Node/b"},
		{"a.json", "{\"items\":[{\"kind\":\"Pod\",\"metadata\":{\"name\":\"a\"}}]}", "Pod/a"},
		{"a.json", "{\"kind\":\"PodList\",\"apiVersion\":\"v1\",\"items\":[{\"metadata\":{\"name\":\"a\"}}]}", "Pod/a"},
		{"a.yaml", "", ""},
		{"a.yaml", "# nothing\n---\n", ""},
		{"a.yaml", "kind: List\nitems: {}\n", "! a.yaml: document 1: items is not a list"},
		{"a.yaml", "kind: List\nitems: [5]\n", "! a.yaml: document 1: item 1 is not an object"},
		{"a.yaml", "kind: Pod\n---\n- 1\n", "! a.yaml: document 2: not an object"},
		{"a.yaml", "kind: Pod\nkind: Node\n", "! a.yaml:2:1: the key \"kind\" is there twice"},
		{"a.json", "{\"kind\":\"Pod\"}\n{\"kind\" \"Pod\"}", "! a.json:2:13: ':' expected near '\"Pod\"'"},
		{"a.json", "{\"a\":1,\"a\":2}", "! a.json:1:10: duplicate object key near '\"a\"'"},
	};
	for (size_t at = 0; at < sizeof in / sizeof in[0]; at++) {
		put(in[at].name, in[at].text);
		auto_free char *got = names_in(in[at].name);
		assert_string_equal(got, in[at].expected);
		unlink(in[at].name);
	}
	auto_free char *absent = names_in("absent.yaml");
	assert_string_equal(absent, "! absent.yaml: No such file or directory");
}

static void directories(void **state)
{
	assert_int_equal(mkdir("d", 0700), 0);
	auto_free char *none = names_in("d");
	assert_string_equal(none, "! d: no *.yaml, *.yml or *.json in this directory");
	put("d/b.yml", "kind: Pod\nmetadata: {name: b}\n");
	put("d/a.yaml", "kind: Pod\nmetadata: {name: a}\n");
	put("d/C.json", "{\"kind\":\"Pod\",\"metadata\":{\"name\":\"c\"}}");
	put("d/notes.txt", "not: [read");
	put("d/.hidden.yaml", "not: [read");
	auto_free char *got = names_in("d");
	assert_string_equal(got, "Pod/c Pod/a Pod/b");
	static const char *const made[] = {"d/b.yml", "d/a.yaml", "d/C.json", "d/notes.txt", "d/.hidden.yaml"};
	for (size_t at = 0; at < sizeof made / sizeof made[0]; at++)
		unlink(made[at]);
	rmdir("d");
}

static void places(void **state)
{
	struct manifests m = {0};
	struct error e = {0};
	struct buffer where = {0};
	put("p.yaml", "kind: List\nitems:\n- kind: Pod\n  metadata:\n    name: a\n- kind: Pod\n  metadata:\n    name: b\n");
	assert_int_equal(manifests_add(&m, "p.yaml", &e), 0);
	manifest_place(&m.objects[1], "/metadata/name", &where);
	assert_string_equal(where.data, "p.yaml:8:11: Pod b");
	manifests_clear(&m);
	buffer_free(&where);

	put("p.yaml", "kind: Node\n---\nkind: Pod\nmetadata: {namespace: s, name: a}\n");
	assert_int_equal(manifests_add(&m, "p.yaml", &e), 0);
	manifest_place(&m.objects[1], "", &where);
	assert_string_equal(where.data, "p.yaml:3:1: Pod s/a");
	where.length = 0;
	manifest_place(&m.objects[0], "/spec", &where);
	assert_string_equal(where.data, "p.yaml:1:1: Node without a name");
	manifests_clear(&m);
	buffer_free(&where);

	put("p.json", "{\n \"kind\": \"Pod\",\n \"metadata\": {\n\t\"name\": \"a\"\n }\n}\n");
	assert_int_equal(manifests_add(&m, "p.json", &e), 0);
	manifest_place(&m.objects[0], "/metadata/name", &where);
	assert_string_equal(where.data, "p.json:4:10: Pod a");
	manifests_clear(&m);
	buffer_free(&where);

	put("p.json", "{\"kind\": \"Pod\"}\n {\"kind\": \"Node\",\n \"metadata\": {\"name\": \"n\"}} {\"kind\": \"Pod\"}");
	assert_int_equal(manifests_add(&m, "p.json", &e), 0);
	manifest_place(&m.objects[1], "/kind", &where);
	buffer_puts(&where, "; ");
	manifest_place(&m.objects[1], "/metadata/name", &where);
	buffer_puts(&where, "; ");
	manifest_place(&m.objects[2], "/kind", &where);
	assert_string_equal(where.data, "p.json:2:11: Node n; p.json:3:23: Node n; p.json:3:38: Pod without a name");
	manifests_clear(&m);
	buffer_free(&where);
	unlink("p.yaml");
	unlink("p.json");
}

/* ---- names ---- */

static void kinds_by_any_name(void **state)
{
	static const struct {
		const char *name, *kind;
	} names[] = {{"pods", "Pod"}, {"pod", "Pod"}, {"Pod", "Pod"}, {"po", "Pod"}, {"ns", "Namespace"}, {"no", "Node"},
		{"svc", "Service"}, {"ep", "EndpointSlice"}, {"eps", "EndpointSlice"}, {"netpol", "NetworkPolicy"},
		{"NETPOL", "NetworkPolicy"}, {"networkpolicy", "NetworkPolicy"}, {"cnp", "ClusterNetworkPolicy"},
		{"wl", "Workload"}, {"tproxy", "TransparentProxy"}, {"proxies", "TransparentProxy"}, {"icp", "InterceptPolicy"},
		{"nf", "NodeFilter"}, {"cidrset", "CIDRSet"}};
	for (size_t at = 0; at < sizeof names / sizeof names[0]; at++) {
		const struct resource *resource = resource_find(names[at].name);
		assert_non_null(resource);
		assert_string_equal(resource->kind, names[at].kind);
	}
	static const char *const none[] = {"", "p", "pods ", "deployments", "tproxy proxy", "s"};
	for (size_t at = 0; at < sizeof none / sizeof none[0]; at++)
		assert_null(resource_find(none[at]));
}

static char directory[] = "/tmp/penstock-client-XXXXXX";
static int enter_directory(void **state)
{
	return mkdtemp(directory) ? chdir(directory) : -1;
}
static int leave_directory(void **state)
{
	return chdir("/") < 0 || rmdir(directory) < 0 ? -1 : 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(yaml_becomes_json),
		cmocka_unit_test(nesting_and_aliases_are_bounded),
		cmocka_unit_test(places_are_found),
		cmocka_unit_test(excerpts_point_to_it),
		cmocka_unit_test(json_becomes_yaml_and_comes_back),
		cmocka_unit_test(files),
		cmocka_unit_test(directories),
		cmocka_unit_test(places),
		cmocka_unit_test(kinds_by_any_name),
	};
	return cmocka_run_group_tests_name("client", tests, enter_directory, leave_directory);
}
