/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>
#include "agent/base/gzip.h"
#include "agent/base/mem.h"

#define NO_LIMIT SIZE_MAX

static void there_and_back(void **state)
{
	static const size_t sizes[] = {0, 1, 17, 65535, 65536, 65537, 3000000};
	for (size_t at = 0; at < sizeof sizes / sizeof sizes[0]; at++) {
		auto_free uint8_t *data = mem_alloc(sizes[at] + 1);
		uint32_t x = 1;
		for (size_t byte = 0; byte < sizes[at]; byte++)
			data[byte] = (x = x * 1664525 + 1013904223) >> 29;
		struct buffer packed = {0}, plain = {0};
		buffer_puts(&plain, "before");
		gzip_deflate(data, sizes[at], &packed);
		struct error e = {0};
		assert_int_equal(gzip_inflate(packed.data, packed.length, sizes[at], &plain, &e), 0);
		assert_int_equal(plain.length, 6 + sizes[at]);
		assert_memory_equal(plain.data + 6, data, sizes[at]);
		assert_memory_equal(plain.data, "before", 6);
		buffer_free(&packed);
		buffer_free(&plain);
	}
}

static void members_in_a_row(void **state)
{
	struct buffer packed = {0}, plain = {0};
	struct error e = {0};
	gzip_deflate("one ", 4, &packed);
	gzip_deflate("", 0, &packed);
	gzip_deflate("two", 3, &packed);
	assert_int_equal(gzip_inflate(packed.data, packed.length, NO_LIMIT, &plain, &e), 0);
	assert_string_equal(plain.data, "one two");
	buffer_free(&packed);
	buffer_free(&plain);
}

static void the_limit_holds(void **state)
{
	/* 200 MB of zeros in 200 KB: a bomb */
	size_t size = 200u << 20;
	auto_free void *zeros = mem_alloc(size);
	struct buffer packed = {0}, plain = {0};
	struct error e = {0};
	gzip_deflate(zeros, size, &packed);
	assert_int_equal(gzip_inflate(packed.data, packed.length, 1 << 20, &plain, &e), -EFBIG);
	assert_int_equal(e.kind, ERROR_TOO_LARGE);
	assert_string_equal(e.detail, "the body is larger than 1048576 bytes after decompression");
	assert_int_equal(plain.length, 0);
	assert_true(plain.capacity < 4u << 20);
	buffer_free(&packed);
	buffer_free(&plain);
}

static void exactly_the_limit(void **state)
{
	struct buffer packed = {0}, plain = {0};
	struct error e = {0};
	gzip_deflate("12345678", 8, &packed);
	assert_int_equal(gzip_inflate(packed.data, packed.length, 7, &plain, &e), -EFBIG);
	assert_int_equal(gzip_inflate(packed.data, packed.length, 8, &plain, &e), 0);
	assert_string_equal(plain.data, "12345678");
	buffer_free(&packed);
	buffer_free(&plain);
}

static void every_cut_is_an_error(void **state)
{
	struct buffer packed = {0}, plain = {0};
	buffer_puts(&plain, "kept");
	gzip_deflate("{\"items\":[]}{\"items\":[1,2,3]}", 28, &packed);
	for (size_t length = 0; length < packed.length; length++) {
		struct error e = {0};
		auto_free char *cut = mem_dup(packed.data, length); /* its own allocation: a read beyond is seen by ASan */
		assert_int_equal(gzip_inflate(cut, length, NO_LIMIT, &plain, &e), -EINVAL);
		assert_int_equal(e.kind, ERROR_SYNTAX);
		assert_string_equal(e.detail, "the gzip stream is cut off");
		assert_string_equal(plain.data, "kept");
	}
	buffer_free(&packed);
	buffer_free(&plain);
}

static void damage_is_an_error(void **state)
{
	struct buffer packed = {0}, plain = {0};
	struct error e = {0};
	assert_int_equal(gzip_inflate("{}", 2, NO_LIMIT, &plain, &e), -EINVAL);
	assert_string_equal(e.detail, "the gzip stream is damaged: incorrect header check");
	gzip_deflate("abcdefgh", 8, &packed);
	packed.data[packed.length - 8] ^= 1; /* the checksum */
	assert_int_equal(gzip_inflate(packed.data, packed.length, NO_LIMIT, &plain, &e), -EINVAL);
	assert_string_equal(e.detail, "the gzip stream is damaged: incorrect data check");
	packed.data[packed.length - 8] ^= 1;
	buffer_puts(&packed, "tail");
	assert_int_equal(gzip_inflate(packed.data, packed.length, NO_LIMIT, &plain, &e), -EINVAL);
	assert_int_equal(e.kind, ERROR_SYNTAX);
	buffer_free(&packed);
	buffer_free(&plain);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(there_and_back),
		cmocka_unit_test(members_in_a_row),
		cmocka_unit_test(the_limit_holds),
		cmocka_unit_test(exactly_the_limit),
		cmocka_unit_test(every_cut_is_an_error),
		cmocka_unit_test(damage_is_an_error),
	};
	return cmocka_run_group_tests_name("base gzip", tests, NULL, NULL);
}
