/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>
#include "agent/base/addr.h"

static void addresses(void **state)
{
	static const struct {
		const char *in, *out;
		int family;
	} good[] = {
		{"10.0.0.1", "10.0.0.1", 4},
		{"255.255.255.255", "255.255.255.255", 4},
		{"::ffff:10.1.2.3", "10.1.2.3", 4},
		{"::ffff:0a01:0203", "10.1.2.3", 4},
		{"FD00:77:0:0::2", "fd00:77::2", 6},
		{"::", "::", 6},
		{"::1", "::1", 6},
	};
	static const char *const bad[] = {"", "10.0.0", "10.0.0.01", "10.0.0.256", "10.0.0.1 ", " 10.0.0.1", "10.0.0.1/32",
		"fe80::1%eth0", "1::2::3", "g::", "10.0.0.1.2", "0x0a.0.0.1", "::ffff:10.1.2.03"};
	char text[ADDR_TEXT_MAX];
	for (size_t at = 0; at < sizeof good / sizeof good[0]; at++) {
		struct ip ip;
		assert_int_equal(ip_parse(good[at].in, &ip), 0);
		assert_int_equal(ip.family, good[at].family);
		ip_format(&ip, text);
		assert_string_equal(text, good[at].out);
	}
	for (size_t at = 0; at < sizeof bad / sizeof bad[0]; at++) {
		struct ip ip;
		assert_int_equal(ip_parse(bad[at], &ip), -EINVAL);
	}
}

static void words(void **state)
{
	struct ip ip;
	assert_int_equal(ip_parse("1.2.3.4", &ip), 0);
	static const uint8_t bytes[4] = {1, 2, 3, 4};
	uint32_t word = ip_v4(&ip);
	assert_memory_equal(&word, bytes, 4);
	struct ip again = ip_from_v4(word);
	assert_true(ip_equal(&ip, &again));
	/* given as IPv6 it stays that: what came in an IPv6 header */
	struct ip six = ip_from_v6(ip.bytes);
	assert_int_equal(six.family, 6);
	assert_false(ip_equal(&ip, &six));
	assert_true(ip_compare(&ip, &six) < 0 && ip_compare(&six, &ip) > 0 && ip_compare(&ip, &again) == 0);
}

static void networks(void **state)
{
	static const struct {
		const char *in, *out;
	} good[] = {
		{"10.1.2.3/8", "10.0.0.0/8"},
		{"10.1.2.3/32", "10.1.2.3/32"},
		{"10.1.2.3/0", "0.0.0.0/0"},
		{"10.255.255.255/13", "10.248.0.0/13"},
		{"fd00:77::ff/64", "fd00:77::/64"},
		{"ffff:ffff::/31", "ffff:fffe::/31"},
		{"::/0", "::/0"},
		{"::1/128", "::1/128"},
		{"::ffff:10.1.2.3/104", "10.0.0.0/8"},
		{"::ffff:10.1.2.3/96", "0.0.0.0/0"},
	};
	static const char *const bad[] = {"", "/", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/08", "10.0.0.0/+8",
		"10.0.0.0/-1", "10.0.0.0/8 ", "10.0.0.0/8/8", "::/129", "::/1000", "10.0.0/8", "/8"};
	char text[ADDR_TEXT_MAX];
	for (size_t at = 0; at < sizeof good / sizeof good[0]; at++) {
		struct cidr cidr;
		assert_int_equal(cidr_parse(good[at].in, &cidr), 0);
		cidr_format(&cidr, text);
		assert_string_equal(text, good[at].out);
	}
	for (size_t at = 0; at < sizeof bad / sizeof bad[0]; at++) {
		struct cidr cidr;
		assert_int_equal(cidr_parse(bad[at], &cidr), -EINVAL);
	}
}

static void containment(void **state)
{
	static const struct {
		const char *outer, *inner;
		int contains;
	} cases[] = {
		{"10.0.0.0/8", "10.2.0.0/16", 1},
		{"10.2.0.0/16", "10.0.0.0/8", 0},
		{"10.0.0.0/8", "10.0.0.0/8", 1},
		{"10.0.0.0/8", "11.0.0.0/16", 0},
		{"0.0.0.0/0", "255.0.0.0/8", 1},
		{"::/0", "10.0.0.0/8", 0},
		{"0.0.0.0/0", "::/0", 0},
		{"fd00::/9", "fd7f::/16", 1},
		{"fd00::/9", "fd80::/16", 0},
	};
	for (size_t at = 0; at < sizeof cases / sizeof cases[0]; at++) {
		struct cidr outer, inner;
		assert_int_equal(cidr_parse(cases[at].outer, &outer), 0);
		assert_int_equal(cidr_parse(cases[at].inner, &inner), 0);
		assert_int_equal(cidr_contains(&outer, &inner), cases[at].contains);
		if (inner.length >= outer.length)
			assert_int_equal(cidr_contains_ip(&outer, &inner.ip), cases[at].contains);
	}
	struct cidr a, b;
	assert_int_equal(cidr_parse("10.0.0.0/8", &a), 0);
	assert_int_equal(cidr_parse("10.0.0.0/9", &b), 0);
	assert_false(cidr_equal(&a, &b));
	assert_true(cidr_equal(&a, &a));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(addresses),
		cmocka_unit_test(words),
		cmocka_unit_test(networks),
		cmocka_unit_test(containment),
	};
	return cmocka_run_group_tests_name("base addr", tests, NULL, NULL);
}
