/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "agent/model/check.h"

#define A10 "aaaaaaaaaa"
#define A60 A10 A10 A10 A10 A10 A10
#define A250 A60 A60 A60 A60 A10

struct rule {
	const char *(*wrong)(const char *);
	const char *const *good, *const *bad;
};
#define LIST(...)         \
	(const char *const[]) \
	{                     \
		__VA_ARGS__, NULL \
	}

static void strings(void **state)
{
	const struct rule rules[] = {
		{dns_label_wrong, LIST("a", "0", "a-b", A60 "aaa"), LIST("", "-a", "a-", "A", "a.b", "a_b", A60 "aaaa", "é")},
		{dns_subdomain_wrong, LIST("a", "a.b", "a-1.b-2", A250 "aaa", A60 A60 ".a"),
			LIST("", ".", "a.", ".a", "a..b", "a-.b", "a.-b", "A", "a_b", A250 "aaaa")},
		{label_key_wrong, LIST("a", "A_b.c-1", "example.com/a", "kubernetes.io/metadata.name", A60 "aaa"),
			LIST("", "/a", "a/", "a/b/c", "-a", "a-", "a b", "Example.com/a", A60 "aaaa", "a/" A60 "aaaa")},
		{label_value_wrong, LIST("", "a", "A.b_c-1", A60 "aaa"), LIST("-a", "a-", "a b", "a/b", A60 "aaaa")},
		{port_name_wrong, LIST("http", "a", "1a", "a-b-c", "fifteen-letters"),
			LIST("", "80", "HTTP", "-a", "a-", "a--b", "a_b", "sixteen-letters1")},
		{domain_name_wrong, LIST("a.b", "*.a.b", "A.B", "a.b.", "a_b.c", "xn--a.b"),
			LIST("", "a", "*", "*.", "*.a", "a.*.b", "*a.b", "a..b", "-a.b", "a-.b", ".a.b", A60 "aaaa.b")},
		{interface_wrong, LIST("eth0", "a.b", "veth@1", "fifteen_letters"),
			LIST("", ".", "..", "a/b", "a:b", "a b", "sixteen_letters_")},
		{cgroup_wrong, LIST("a", "system.slice/foo.service", "/a/b", "a/"), LIST("", "..", "a/../b", "a//b", "./a")},
		{cgroup_subject_wrong, LIST("a", "system.slice/foo.service"),
			LIST("", "/", "/a", "a/", "..", "a/../b", "a//b", ".", "a/.")},
		{executable_wrong, LIST("/usr/bin/x"), LIST("", "x", "bin/x")},
		{bandwidth_wrong, LIST("1k", "1P", "10M", "1.5Gi", "1e6"), LIST("", "999", "1.1P", "-1M", "10X", "M", "1 M")},
		{ip_wrong, LIST("10.0.0.1", "fd00::1"), LIST("", "10.0.0", "10.0.0.1/8")},
		{cidr_wrong, LIST("10.0.0.0/8", "fd00::/8", "10.1.2.3/8"), LIST("", "10.0.0.0", "10.0.0.0/33", "fd00::/129")},
	};
	for (size_t i = 0; i < sizeof(rules) / sizeof(*rules); i++) {
		for (const char *const *text = rules[i].good; *text; text++)
			if (rules[i].wrong(*text))
				fail_msg("rule %zu: \"%s\" %s", i, *text, rules[i].wrong(*text));
		for (const char *const *text = rules[i].bad; *text; text++)
			if (!rules[i].wrong(*text))
				fail_msg("rule %zu: \"%s\" passes", i, *text);
	}
}

static void quantities(void **state)
{
	static const struct {
		const char *text;
		uint64_t value;
	} good[] = {{"0", 0}, {"10", 10}, {"+10", 10}, {"10M", 10000000}, {"1Ki", 1024}, {"1.5Gi", 1610612736},
		{"2e3", 2000}, {"2E3", 2000}, {"25e-1", 3}, {"100m", 1}, {"1000m", 1}, {"1001m", 2}, {"0.3k", 300},
		{".5k", 500}, {"5.", 5}, {"1n", 1}, {"1E", 1000000000000000000}, {"4Ei", 4611686018427387904}, {"0e99", 0}};
	static const char *const bad[] = {
		"", "-1", "k", ".", "1.2.3", "1kk", "1ki", "1 ", "1e", "1e+", "8Ei", "1e30", "0x10", "1m5", "10 M", "1mi"};
	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
		uint64_t value = 77;
		if (quantity_parse(good[i].text, &value) || value != good[i].value)
			fail_msg("%s gives %llu", good[i].text, (unsigned long long)value);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		uint64_t value;
		if (!quantity_parse(bad[i], &value))
			fail_msg("%s passes", bad[i]);
	}
}

static void timestamps(void **state)
{
	static const struct {
		const char *text;
		int64_t value;
	} good[] = {{"1970-01-01T00:00:00Z", 0}, {"2024-05-31T12:00:00Z", 1717156800},
		{"2024-05-31T14:00:00+02:00", 1717156800}, {"2024-05-31T12:00:00.123456Z", 1717156800},
		{"2020-02-29T23:59:59Z", 1583020799}};
	static const char *const bad[] = {"", "now", "2024-05-31", "2024-05-31T12:00:00", "2024-05-31 12:00:00Z",
		"2024-02-30T12:00:00Z", "2023-02-29T12:00:00Z", "2024-13-01T12:00:00Z", "2024-00-01T12:00:00Z",
		"2024-01-00T12:00:00Z", "2024-01-01T24:00:00Z", "2024-01-01T12:60:00Z", "2024-01-01T12:00:00.Z",
		"2024-01-01T12:00:00Zx", "2024-01-01T12:00:00+0200"};
	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
		int64_t value = 77;
		if (timestamp_parse(good[i].text, &value) || value != good[i].value)
			fail_msg("%s gives %lld", good[i].text, (long long)value);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		int64_t value;
		if (!timestamp_parse(bad[i], &value))
			fail_msg("%s passes", bad[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(strings), cmocka_unit_test(quantities), cmocka_unit_test(timestamps)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
