/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>
#include "agent/relay/sniff.h"

/* ---- a ClientHello, made by hand ---- */

struct bytes {
	uint8_t data[20000];
	size_t length;
};

static void put(struct bytes *b, const void *data, size_t length)
{
	memcpy(b->data + b->length, data, length);
	b->length += length;
}

static void put_number(struct bytes *b, size_t value, unsigned bytes)
{
	while (bytes--) {
		uint8_t byte = (uint8_t)(value >> (8 * bytes));
		put(b, &byte, 1);
	}
}

static void put_part(struct bytes *b, const struct bytes *part, unsigned bytes)
{
	put_number(b, part->length, bytes);
	put(b, part->data, part->length);
}

/* In records of `record` bytes; `before` bytes of another extension stand before the name. */
static void make_hello(struct bytes *ret, const char *name, size_t before, size_t record)
{
	static struct bytes list, extension, extensions, hello, message;
	list.length = extension.length = extensions.length = hello.length = message.length = ret->length = 0;
	put_number(&extensions, 21, 2);
	put_number(&extensions, before, 2);
	for (size_t at = 0; at < before; at++)
		put_number(&extensions, 0, 1);
	if (name) {
		put_number(&list, 0, 1);
		put_number(&list, strlen(name), 2);
		put(&list, name, strlen(name));
		put_part(&extension, &list, 2);
		put_number(&extensions, 0, 2);
		put_part(&extensions, &extension, 2);
	}
	put_number(&hello, 0x0303, 2);
	put(&hello, "random random random random rand", 32);
	put_number(&hello, 0, 1);
	put(&hello, "\0\2\x13\1", 4);
	put(&hello, "\1\0", 2);
	put_part(&hello, &extensions, 2);
	put_number(&message, 1, 1);
	put_part(&message, &hello, 3);
	for (size_t at = 0; at < message.length; at += record) {
		size_t here = message.length - at < record ? message.length - at : record;
		put(ret, "\x16\3\1", 3);
		put_number(ret, here, 2);
		put(ret, message.data + at, here);
	}
}

/* Exactly these bytes, so that a sanitizer sees what reads beyond. */
static enum sniff sniff_copy(const void *data, size_t length, char name[SNIFF_NAME_MAX])
{
	void *copy = malloc(length ? length : 1);
	memcpy(copy, data, length);
	enum sniff known = sniff(copy, length, name);
	free(copy);
	return known;
}

static void client_hello(void **state)
{
	static struct bytes hello;
	char name[SNIFF_NAME_MAX];
	const size_t records[] = {16384, 100, 7, 1};
	for (size_t at = 0; at < sizeof records / sizeof records[0]; at++) {
		make_hello(&hello, "API.openai.com", 30, records[at]);
		assert_int_equal(sniff_copy(hello.data, hello.length, name), SNIFF_NAME);
		assert_string_equal(name, "api.openai.com");
		/* Any beginning of it is one, until the name is there. */
		enum sniff last = SNIFF_MORE;
		for (size_t cut = 0; cut < hello.length; cut++) {
			enum sniff known = sniff_copy(hello.data, cut, name);
			assert_true(known == SNIFF_MORE || known == SNIFF_NAME);
			assert_true(known >= last);
			last = known;
		}
	}
}

static void client_hello_without_a_name(void **state)
{
	static struct bytes hello;
	char name[SNIFF_NAME_MAX];
	const char *const bad[] = {NULL, "", "evil name", "a\nb", "caf\xc3\xa9.example", "a/b", "\x1b[2J"};
	for (size_t at = 0; at < sizeof bad / sizeof bad[0]; at++) {
		make_hello(&hello, bad[at], 4, 16384);
		assert_int_equal(sniff_copy(hello.data, hello.length, name), SNIFF_NONE);
	}
	char longest[300];
	memset(longest, 'a', sizeof longest);
	longest[SNIFF_NAME_MAX] = 0;
	make_hello(&hello, longest, 0, 16384);
	assert_int_equal(sniff_copy(hello.data, hello.length, name), SNIFF_NONE);
	longest[SNIFF_NAME_MAX - 1] = 0;
	make_hello(&hello, longest, 0, 16384);
	assert_int_equal(sniff_copy(hello.data, hello.length, name), SNIFF_NAME);
}

static void lengths_that_contradict(void **state)
{
	static struct bytes hello;
	char name[SNIFF_NAME_MAX];
	make_hello(&hello, "a.example", 0, 16384);
	size_t of_name = hello.length - 9 - 2;
	/* the name's, the list's, the extension's, all extensions': each longer than what holds it */
	const size_t places[] = {of_name, of_name - 3, of_name - 5, of_name - 13};
	for (size_t at = 0; at < sizeof places / sizeof places[0]; at++) {
		hello.data[places[at]] ^= 0x40;
		assert_int_equal(sniff_copy(hello.data, hello.length, name), SNIFF_NONE);
		hello.data[places[at]] ^= 0x40;
	}
	assert_int_equal(sniff_copy(hello.data, hello.length, name), SNIFF_NAME);
	hello.data[0] = 23;
	assert_int_equal(sniff_copy(hello.data, hello.length, name), SNIFF_NONE);
}

static void it_is_bounded(void **state)
{
	static struct bytes hello;
	char name[SNIFF_NAME_MAX], line[SNIFF_BYTES_MAX];
	make_hello(&hello, "a.example", 8000, 16384);
	assert_int_equal(sniff_copy(hello.data, hello.length, name), SNIFF_NAME);
	make_hello(&hello, "a.example", SNIFF_BYTES_MAX, 16384);
	assert_int_equal(sniff_copy(hello.data, SNIFF_BYTES_MAX - 1, name), SNIFF_MORE);
	assert_int_equal(sniff_copy(hello.data, hello.length, name), SNIFF_NONE);
	memset(line, 'x', sizeof line);
	memcpy(line, "GET /", 5);
	assert_int_equal(sniff_copy(line, sizeof line - 1, name), SNIFF_MORE);
	assert_int_equal(sniff_copy(line, sizeof line, name), SNIFF_NONE);
}

static void requests(void **state)
{
	static const struct {
		const char *bytes;
		enum sniff known;
		const char *name;
	} cases[] = {
		{"GET / HTTP/1.1\r\nHost: Example.com\r\n\r\n", SNIFF_NAME, "example.com"},
		{"GET / HTTP/1.1\r\nHost: example.com:8080\r\n", SNIFF_NAME, "example.com"},
		{"GET / HTTP/1.0\nhOsT:\t a_b.example \n", SNIFF_NAME, "a_b.example"},
		{"M-SEARCH * HTTP/1.1\r\nA: b\r\nHost: x\r\n", SNIFF_NAME, "x"},
		{"GET / HTTP/1.1\r\nHost: 192.0.2.1:80\r\n", SNIFF_NAME, "192.0.2.1"},
		{"GET / HTTP/1.1\r\nHost: [2001:DB8::1]:80\r\n", SNIFF_NAME, "[2001:db8::1]"},
		{"GET / HTTP/1.1\r\nHost: [::1]\r\n", SNIFF_NAME, "[::1]"},
		{"GET / HTTP/1.1\r\nHost: first\r\nHost: second\r\n\r\n", SNIFF_NAME, "first"},
		{"GET / HTTP/1.1\r\nHost: ::1\r\n", SNIFF_NONE, NULL},
		{"GET / HTTP/1.1\r\nHost: [evil]\r\n", SNIFF_NONE, NULL},
		{"GET / HTTP/1.1\r\nHost: []\r\n", SNIFF_NONE, NULL},
		{"GET / HTTP/1.1\r\nHost: a b\r\n", SNIFF_NONE, NULL},
		{"GET / HTTP/1.1\r\nHost: a\x1b[1m\r\n", SNIFF_NONE, NULL},
		{"GET / HTTP/1.1\r\nHost: a\" x=\"b\r\n", SNIFF_NONE, NULL},
		{"GET / HTTP/1.1\r\nHost:\r\n\r\n", SNIFF_NONE, NULL},
		{"GET / HTTP/1.1\r\nHost: :80\r\n\r\n", SNIFF_NONE, NULL},
		{"GET / HTTP/1.1\r\n\r\nHost: body\r\n", SNIFF_NONE, NULL},
		{"GET / HTTP/1.1\r\nX-Host: no\r\n\r\n", SNIFF_NONE, NULL},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", SNIFF_NONE, NULL},
		{"GET /\r\n", SNIFF_NONE, NULL},
		{"EHLO example.com\r\n", SNIFF_NONE, NULL},
		{"\r\n", SNIFF_NONE, NULL},
		{" GET / HTTP/1.1\r\n", SNIFF_NONE, NULL},
		{"SSH-2.0-OpenSSH_9.2\r\n", SNIFF_NONE, NULL},
		{"AMETHODWITHFARTOOMANYLETTERS", SNIFF_NONE, NULL},
		{"\1\2\3", SNIFF_NONE, NULL},
		{"", SNIFF_MORE, NULL},
		{"GE", SNIFF_MORE, NULL},
		{"GET / HT", SNIFF_MORE, NULL},
		{"GET / HTTP/1.1\r", SNIFF_MORE, NULL},
		{"GET / HTTP/1.1\r\nHost: exam", SNIFF_MORE, NULL},
		{"GET / HTTP/1.1\r\nAccept: x\r\n", SNIFF_MORE, NULL},
	};
	for (size_t at = 0; at < sizeof cases / sizeof cases[0]; at++) {
		char name[SNIFF_NAME_MAX] = "untouched";
		assert_int_equal(sniff_copy(cases[at].bytes, strlen(cases[at].bytes), name), cases[at].known);
		assert_string_equal(name, cases[at].name ? cases[at].name : "untouched");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(client_hello),
		cmocka_unit_test(client_hello_without_a_name),
		cmocka_unit_test(lengths_that_contradict),
		cmocka_unit_test(it_is_bounded),
		cmocka_unit_test(requests),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
