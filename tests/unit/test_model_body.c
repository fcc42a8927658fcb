/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "agent/base/buffer.h"
#include "agent/base/mem.h"
#include "agent/model/body.h"

/* A copy on the heap without a NUL behind it: a read past the end is seen by the sanitizer. */
static int split(const char *text, size_t length, enum body_format format, int required, struct body_items *items,
	char **copy, struct error *e)
{
	*copy = mem_dup(text, length ? length : 1);
	return body_split(*copy, length, format, "items", required, items, e);
}

static void good_bodies(void **state)
{
	static const struct {
		const char *text;
		enum body_format format;
		int required;
		const char *items; /* joined by a space */
	} cases[] = {
		{"{\"items\":[]}", BODY_JSON, 1, ""},
		{"{\"items\":null}", BODY_JSON, 1, ""},
		{"{}", BODY_JSON, 0, ""},
		{" {\n} \n", BODY_JSON, 0, ""},
		{"{\"items\":[{},{\"a\":[1,{\"b\":\"}]\"}]}]}", BODY_JSON, 1, "{} {\"a\":[1,{\"b\":\"}]\"}]}"},
		{"{\"apiVersion\":\"v1\",\"kind\":\"List\",\"items\":[ {\"a\":1} , 5 ,\"x\" "
		 "],\"metadata\":{\"resourceVersion\":\"\"}}",
			BODY_JSON, 1, "{\"a\":1} 5 \"x\""},
		{"{\"\\u0069tems\":[{}]}", BODY_JSON, 1, "{}"},
		{"{\"items\":[{\"s\":\"\\\\\"},{\"s\":\"\\\"{\"}]}", BODY_JSON, 1, "{\"s\":\"\\\\\"} {\"s\":\"\\\"{\"}"},
		{"{\"a\":1}\n{\"b\":2}\n", BODY_NDJSON, 1, "{\"a\":1} {\"b\":2}"},
		{"\n\r\n {\"a\":1} \r\n\n\n{\"b\":2}", BODY_NDJSON, 1, "{\"a\":1} {\"b\":2}"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct body_items items = {0};
		struct error e = {0};
		auto_free char *copy = NULL;
		if (split(cases[i].text, strlen(cases[i].text), cases[i].format, cases[i].required, &items, &copy, &e))
			fail_msg("%s: %s", cases[i].text, e.detail);
		struct buffer joined = {0};
		buffer_puts(&joined, "");
		for (size_t j = 0; j < items.count; j++) {
			buffer_puts(&joined, j ? " " : "");
			buffer_add(&joined, items.list[j].text, items.list[j].length);
		}
		assert_string_equal(joined.data, cases[i].items);
		buffer_free(&joined);
		body_items_free(&items);
	}
}

static void bad_bodies(void **state)
{
	static const struct {
		const char *text;
		enum body_format format;
		enum error_kind kind;
		const char *path, *detail;
	} cases[] = {
		{"", BODY_JSON, ERROR_SYNTAX, "", "the body is empty"},
		{" \n\t ", BODY_JSON, ERROR_SYNTAX, "", "the body is empty"},
		{"\n\n", BODY_NDJSON, ERROR_SYNTAX, "", "the body is empty"},
		{"\xef\xbb\xbf{}", BODY_JSON, ERROR_SYNTAX, "", "line 1, column 1: a byte order mark"},
		{"\xef\xbb\xbf{}", BODY_NDJSON, ERROR_SYNTAX, "", "line 1, column 1: a byte order mark"},
		{"[]", BODY_JSON, ERROR_INVALID, "", "must be a JSON object"},
		{"\"x\"", BODY_JSON, ERROR_INVALID, "", "must be a JSON object"},
		{"nonsense", BODY_JSON, ERROR_SYNTAX, "", "invalid token near"},
		{"<html>", BODY_JSON, ERROR_SYNTAX, "", "line 1, column 1: a value is wanted here"},
		{"{\"items\":[]} x", BODY_JSON, ERROR_SYNTAX, "", "line 1, column 14: something follows"},
		{"{\"items\":[]}{}", BODY_JSON, ERROR_SYNTAX, "", "line 1, column 13: something follows"},
		{"{", BODY_JSON, ERROR_SYNTAX, "", "line 1, column 2: a member's name"},
		{"{\"items\"", BODY_JSON, ERROR_SYNTAX, "", "line 1, column 9: ':' is wanted"},
		{"{\"items\":", BODY_JSON, ERROR_SYNTAX, "", "it ends where a value is wanted"},
		{"{\"items\":[", BODY_JSON, ERROR_SYNTAX, "", "it ends where a value is wanted"},
		{"{\"items\":[{\"a\":1}", BODY_JSON, ERROR_SYNTAX, "", "',' or ']' is wanted"},
		{"{\"items\":[{\"a\":1}\n,\n{\"b\":", BODY_JSON, ERROR_SYNTAX, "",
			"line 3, column 1: this object is never closed"},
		{"{\"items\":[{\"a\":\"", BODY_JSON, ERROR_SYNTAX, "", "line 1, column 16: this string never ends"},
		{"{\"items\":[{\"a\":\"\\", BODY_JSON, ERROR_SYNTAX, "", "this string never ends"},
		{"{\"items", BODY_JSON, ERROR_SYNTAX, "", "this string never ends"},
		{"{\"items\":[{]}]}", BODY_JSON, ERROR_SYNTAX, "", "line 1, column 12: ']' closes nothing"},
		{"{\"items\":[{}", BODY_JSON, ERROR_SYNTAX, "", "',' or ']' is wanted"},
		{"{\"items\":[{},]}", BODY_JSON, ERROR_SYNTAX, "", "a value is wanted here"},
		{"{\"items\":[{}],}", BODY_JSON, ERROR_SYNTAX, "", "a member's name"},
		{"{\"items\":[{} {}]}", BODY_JSON, ERROR_SYNTAX, "", "line 1, column 14: ',' or ']' is wanted"},
		{"{\"items\":[],\"items\":[]}", BODY_JSON, ERROR_SYNTAX, "", "\"items\" is there twice"},
		{"{\"items\":{}}", BODY_JSON, ERROR_INVALID, "/items", "expected an array"},
		{"{\"apply\":[]}", BODY_JSON, ERROR_INVALID, "/items", "is required"},
		{"{\"items\":[],\"metadata\":{\"a\" 1}}", BODY_JSON, ERROR_SYNTAX, "", "line 1, column"},
		{"{\"items\":[],\"x\":tru}", BODY_JSON, ERROR_SYNTAX, "", "line 1, column"},
		{"{items:[]}", BODY_JSON, ERROR_SYNTAX, "", "line 1, column 2: a member's name"},
		{"{\"a\":1}\n\n{\"b\":1} x", BODY_NDJSON, ERROR_SYNTAX, "", "line 3, column 9: something follows"},
		{"{\"a\":1}\n{\"b\":\n1}", BODY_NDJSON, ERROR_SYNTAX, "", "line 2, column 1: this object is never closed"},
		{"{\"a\":1}{\"b\":1}", BODY_NDJSON, ERROR_SYNTAX, "", "line 1, column 8: something follows"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct body_items items = {0};
		struct error e = {0};
		auto_free char *copy = NULL;
		if (!split(cases[i].text, strlen(cases[i].text), cases[i].format, 1, &items, &copy, &e) || items.list)
			fail_msg("%s passes", cases[i].text);
		if (e.kind != cases[i].kind || strcmp(e.path, cases[i].path) || !strstr(e.detail, cases[i].detail))
			fail_msg("%s: kind %d, %s: %s", cases[i].text, e.kind, e.path, e.detail);
	}
}

static char *nested(int levels, char open, char close)
{
	struct buffer text = {0};
	for (int i = 0; i < levels; i++)
		buffer_add(&text, &open, 1);
	for (int i = 0; i < levels; i++)
		buffer_add(&text, &close, 1);
	return buffer_take(&text);
}

static void nesting(void **state)
{
	/* Inside an item two brackets are open already: the body's object and its array. */
	for (int more = 0; more < 2; more++) {
		auto_free char *deep = nested(BODY_NESTING_MAX - 2 + more, '[', ']');
		auto_free char *body = str_format("{\"items\":[%s]}", deep);
		struct body_items items = {0};
		struct error e = {0};
		assert_int_equal(body_split(body, strlen(body), BODY_JSON, "items", 1, &items, &e) != 0, more);
		assert_int_equal(e.kind, more ? ERROR_TOO_LARGE : ERROR_NONE);
		body_items_free(&items);
		auto_free char *line = nested(BODY_NESTING_MAX + more, '[', ']');
		assert_int_equal(body_check(line, strlen(line), &e) != 0, more);
		assert_int_equal(body_split(line, strlen(line), BODY_NDJSON, "items", 1, &items, &e) != 0, more);
		body_items_free(&items);
	}
	/* A skipped member counts as well, and a very deep one costs no stack. */
	auto_free char *abyss = nested(1000000, '[', ']');
	auto_free char *body = str_format("{\"items\":[],\"x\":%s}", abyss);
	struct body_items items = {0};
	struct error e = {0};
	assert_int_not_equal(body_split(body, strlen(body), BODY_JSON, "items", 1, &items, &e), 0);
	assert_int_equal(e.kind, ERROR_TOO_LARGE);
}

static void object_size(void **state)
{
	auto_free char *filling = mem_alloc(BODY_OBJECT_MAX + 1);
	for (int more = 0; more < 2; more++) {
		memset(filling, 'x', BODY_OBJECT_MAX - 2 + more);
		filling[BODY_OBJECT_MAX - 2 + more] = 0;
		auto_free char *item = str_format("\"%s\"", filling);
		auto_free char *body = str_format("{\"items\":[{},%s]}", item);
		auto_free char *lines = str_format("{}\n%s\n", item);
		struct body_items items = {0};
		struct error e = {0};
		assert_int_equal(body_split(body, strlen(body), BODY_JSON, "items", 1, &items, &e) != 0, more);
		assert_string_equal(e.path, more ? "/items/1" : "");
		assert_int_equal(e.kind, more ? ERROR_TOO_LARGE : ERROR_NONE);
		body_items_free(&items);
		assert_int_equal(body_split(lines, strlen(lines), BODY_NDJSON, "items", 1, &items, &e) != 0, more);
		assert_string_equal(e.path, more ? "/1" : "");
		body_items_free(&items);
		assert_int_equal(body_check(item, strlen(item), &e) != 0, more);
		assert_int_equal(e.kind, more ? ERROR_TOO_LARGE : ERROR_NONE);
	}
}

static void members(void **state)
{
	static const char body[] = "{\"apply\":[{}],\"delete\":[],\"x\\u0041\":{\"a\":1}}";
	struct body_member *list = NULL;
	size_t count = 0;
	struct error e = {0};
	assert_int_equal(body_members(body, strlen(body), &list, &count, &e), 0);
	assert_int_equal(count, 3);
	assert_string_equal(list[0].name, "apply");
	assert_string_equal(list[1].name, "delete");
	assert_string_equal(list[2].name, "xA");
	free(list);
	struct buffer many = {0};
	for (int i = 0; i < 2000; i++)
		buffer_printf(&many, "%c\"m%d\":1", i ? ',' : '{', i);
	buffer_puts(&many, "}");
	assert_int_not_equal(body_members(many.data, many.length, &list, &count, &e), 0);
	assert_int_equal(e.kind, ERROR_TOO_LARGE);
	buffer_free(&many);
	assert_int_not_equal(body_members("[]", 2, &list, &count, &e), 0);
	assert_int_equal(e.kind, ERROR_INVALID);
}

static void item_syntax(void **state)
{
	static const struct {
		const char *text, *detail;
	} bad[] = {{"{\"a\":1,\"a\":2}", "duplicate"}, {"{\"a\":nope}", "line 1, column 9"}, {"{\n\"a\":}", "line 2"},
		{"{\"a\":\"\xff\"}", "unable to decode byte 0xff"}, {"{\"a\":\"\x01\"}", "control character"},
		{"{\"a\":1 \"b\":2}", "line 1"}, {"{\"a\":\"\\u0000\"}", "\\u0000"}, {"{\"a\":01}", "line 1"},
		{"{\"a\":99999999999999999999}", "too big"}, {"", ""}};
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct body_item item = {bad[i].text, strlen(bad[i].text)};
		json_t *json = NULL;
		struct error e = {0};
		if (!body_item_parse(&item, "/items/3", &json, &e))
			fail_msg("%s passes", bad[i].text);
		assert_null(json);
		assert_int_equal(e.kind, ERROR_SYNTAX);
		assert_string_equal(e.path, "/items/3");
		if (!strstr(e.detail, bad[i].detail))
			fail_msg("%s: %s", bad[i].text, e.detail);
	}
	struct body_item item = {"{\"a\":1}...", 7};
	json_t *json = NULL;
	assert_int_equal(body_item_parse(&item, "", &json, NULL), 0);
	assert_int_equal(json_integer_value(json_object_get(json, "a")), 1);
	json_decref(json);
}

/* What a standard kind ignores is left out, but not before its syntax is looked at. */
static void ignored_is_checked(void **state)
{
	static const char *const good[] = {"{}", "[1,-2.5e+3,true,false,null]", "\"\\u00e9\\ud83d\\ude00\\n\"",
		"\"\xc3\xa9\xf0\x9f\x98\x80\"", "{\"a\":{\"b\":[ ]}}", "0", "-0.1", " 1e9 "};
	static const char *const bad[] = {"nope", "[1,]", "{\"a\":1,}", "{\"a\"}", "{a:1}", "01", "+1", "1.", "1e", ".5",
		"-", "tru", "\"\x01\"", "\"\\x\"", "\"\\u12g4\"", "\"\\ud83d\"", "\"\\ude00\"", "\"\\u0000\"", "\"\xff\"",
		"\"\xc0\x80\"", "\"\xed\xa0\x80\"", "\"\xf5\x80\x80\x80\"", "\"\xe2\x82\"", "[1 2]", "{\"a\":1 \"b\":2}", "'a'",
		"NaN", ""};
	for (int is_bad = 0; is_bad < 2; is_bad++) {
		size_t count = is_bad ? sizeof(bad) / sizeof(*bad) : sizeof(good) / sizeof(*good);
		for (size_t i = 0; i < count; i++) {
			auto_free char *text = str_format(
				"{\"kind\":\"Pod\",\"spec\":{\"ignored\":%s,\"nodeName\":\"n\"}}", is_bad ? bad[i] : good[i]);
			auto_free char *copy = mem_dup(text, strlen(text));
			struct body_item item = {copy, strlen(text)};
			json_t *json = NULL;
			struct error e = {0};
			if (!!body_item_parse(&item, "", &json, &e) != is_bad)
				fail_msg("%s: %s", text, is_bad ? "passes" : e.detail);
			const json_t *spec = json_object_get(json, "spec");
			if (json && (json_object_size(spec) != 1 || !json_object_get(spec, "nodeName")))
				fail_msg("%s: not left out, or too much", text);
			json_decref(json);
		}
	}
}

/* A PATCH's delete entry has a kind, too, and is no object. */
static void top_level_is_kept(void **state)
{
	static const char text[] = "{\"kind\":\"Pod\",\"namespace\":\"a\",\"name\":\"b\",\"more\":[{\"x\":1}]}";
	struct body_item item = {text, strlen(text)};
	json_t *json = NULL, *whole = json_loads(text, 0, NULL);
	assert_int_equal(body_item_parse(&item, "", &json, NULL), 0);
	assert_true(json_equal(json, whole));
	json_decref(json);
	json_decref(whole);
}

static void whole(void **state)
{
	static const char *const good[] = {"{}", " {\"a\":[1]} \n", "[1]", "5", "\"x\""};
	static const char *const bad[] = {"", " ", "{", "{} {}", "{}x", "\xef\xbb\xbf{}", "]", "\"x"};
	struct error e = {0};
	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++)
		assert_int_equal(body_check(good[i], strlen(good[i]), &e), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		assert_int_not_equal(body_check(bad[i], strlen(bad[i]), &e), 0);
}

/* Every prefix of a good body is a bad one, and is read without a step outside. */
static void cut_off(void **state)
{
	static const char body[] = "{\"kind\":\"List\",\"items\":[{\"a\":\"x\\\"y\",\"b\":[1,-2.5e3,true,null]},{}]}";
	for (size_t length = 0; length < sizeof(body) - 1; length++) {
		struct body_items items = {0};
		struct error e = {0};
		auto_free char *copy = NULL;
		if (!split(body, length, BODY_JSON, 1, &items, &copy, &e))
			fail_msg("%.*s passes", (int)length, body);
		assert_int_equal(e.kind, ERROR_SYNTAX);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(good_bodies), cmocka_unit_test(bad_bodies),
		cmocka_unit_test(nesting), cmocka_unit_test(object_size), cmocka_unit_test(members),
		cmocka_unit_test(item_syntax), cmocka_unit_test(ignored_is_checked), cmocka_unit_test(top_level_is_kept),
		cmocka_unit_test(whole), cmocka_unit_test(cut_off)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
