/* SPDX-License-Identifier: Apache-2.0 */
#include "model_json.h"

#include "agent/model/selector.h"

static struct selector *parsed(const char *text)
{
	struct selector *selector = NULL;
	struct error e = {0};
	if (selector_parse(text, &selector, &e))
		fail_msg("%s: %s", text, e.detail);
	return selector;
}

static void matching(void **state)
{
	struct label list[] = {{"app", "web"}, {"empty", ""}, {"tier", "front"}};
	const struct labels labels = {list, 3}, none = {0};
	static const struct {
		const char *text;
		bool labelled, bare;
	} cases[] = {
		{"", true, true},
		{"app=web", true, false},
		{"app==web", true, false},
		{"app=other", false, false},
		{"app!=web", false, true}, /* also when the key is absent */
		{"app!=other", true, true},
		{"app in (other,web)", true, false},
		{"app in (other)", false, false},
		{"app notin (other,web)", false, true},
		{"app notin (other)", true, true},
		{"app", true, false},
		{"!app", false, true},
		{"missing", false, false},
		{"!missing", true, true},
		{"empty=", true, false},
		{"empty", true, false},
		{"app=web,tier=front", true, false},
		{"app=web,tier=back", false, false},
		{"app=web,app=other", false, false},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct selector *selector = parsed(cases[i].text);
		if (selector_matches(selector, &labels) != cases[i].labelled ||
			selector_matches(selector, &none) != cases[i].bare)
			fail_msg("\"%s\" is judged wrongly", cases[i].text);
		selector_free(selector);
	}
}

static void text_is_canonical(void **state)
{
	static const struct {
		const char *json, *text;
	} cases[] = {
		{"{}", ""},
		{"{'matchLabels':{'b':'2','a':'1'}}", "a in (1),b in (2)"},
		{"{'matchLabels':{'a':''}}", "a in ()"},
		{"{'matchExpressions':[{'key':'b','operator':'DoesNotExist'},{'key':'a','operator':'Exists'}]}", "a,!b"},
		{"{'matchExpressions':[{'key':'a','operator':'NotIn','values':['z','y','z']}]}", "a notin (y,z)"},
		{"{'matchLabels':{'a':'1'},'matchExpressions':[{'key':'a','operator':'In','values':['1']}]}", "a in (1)"},
		{"{'matchExpressions':[{'key':'a','operator':'In','values':['2']},{'key':'a','operator':'In','values':['1','2']"
		 "}]}",
			"a in (1,2),a in (2)"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		json_t *json = json_of(cases[i].json);
		struct selector *selector = selector_from_json(json);
		auto_free char *text = selector_text(selector);
		assert_string_equal(text, cases[i].text);
		struct selector *again = parsed(text);
		auto_free char *twice = selector_text(again);
		assert_string_equal(twice, text);
		selector_free(again);
		selector_free(selector);
		json_decref(json);
	}
}

static void parse_same_meaning(void **state)
{
	static const char *const same[][2] = {{"a=1,b!=2", " b notin (2) , a == 1 "}, {"a in (x)", "a=x"},
		{"x.io/a in (2,1,2)", "x.io/a in(1 , 2)"}, {"!a", "! a"}, {"in", " in "}, {"notin in (in)", "notin=in"}};
	for (size_t i = 0; i < sizeof(same) / sizeof(*same); i++) {
		struct selector *a = parsed(same[i][0]), *b = parsed(same[i][1]);
		auto_free char *x = selector_text(a), *y = selector_text(b);
		assert_string_equal(x, y);
		selector_free(a);
		selector_free(b);
	}
}

static void parse_errors(void **state)
{
	static const struct {
		const char *text;
		int at;
	} bad[] = {{",", 1}, {"a,", 3}, {"a,,b", 3}, {"=x", 1}, {"a b", 3}, {"a in", 5}, {"a in x", 6}, {"a in (x", 8},
		{"a in (x y)", 9}, {"a=b c", 5}, {"-a", 1}, {"a=-x", 3}, {"a>1", 2}, {"a!b", 2}, {"!", 2}, {"a/b/c=1", 1},
		{"a)", 2}};
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct selector *selector = NULL;
		struct error e = {0};
		char where[32];
		snprintf(where, sizeof(where), "character %d:", bad[i].at);
		if (!selector_parse(bad[i].text, &selector, &e) || selector)
			fail_msg("\"%s\" passes", bad[i].text);
		assert_int_equal(e.kind, ERROR_INVALID);
		if (!strstr(e.detail, where))
			fail_msg("\"%s\": %s", bad[i].text, e.detail);
	}
	char big[2000];
	memset(big, 'a', sizeof(big) - 1);
	big[sizeof(big) - 1] = 0;
	struct selector *selector = NULL;
	struct error e = {0};
	assert_int_not_equal(selector_parse(big, &selector, &e), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(matching), cmocka_unit_test(text_is_canonical),
		cmocka_unit_test(parse_same_meaning), cmocka_unit_test(parse_errors)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
