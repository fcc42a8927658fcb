/* SPDX-License-Identifier: Apache-2.0 */
/* mem, buffer, error, log. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <setjmp.h>
#include <cmocka.h>
#include "agent/base/buffer.h"
#include "agent/base/error.h"
#include "agent/base/log.h"
#include "agent/base/mem.h"

static void memory_is_zeroed_and_never_null(void **state)
{
	auto_free char *some = mem_array(7, 3);
	for (size_t at = 0; at < 21; at++)
		assert_int_equal(some[at], 0);
	auto_free void *none = mem_alloc(0);
	assert_non_null(none);
	assert_null(str_dup(NULL));
	auto_free char *text = str_format("%d-%s", 7, "x");
	assert_string_equal(text, "7-x");
	char *stolen = steal_pointer(&text);
	assert_null(text);
	free(stolen);
}

static void exhaustion_aborts(void **state)
{
	pid_t child = fork();
	if (child == 0) {
		int null = open("/dev/null", O_WRONLY);
		dup2(null, STDERR_FILENO);
		signal(SIGABRT, SIG_DFL);
		free(mem_resize(NULL, SIZE_MAX / 2, 16));
		_exit(0);
	}
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static void lists_grow_and_keep(void **state)
{
	int *list = NULL;
	size_t capacity = 0;
	for (int at = 0; at < 1000; at++) {
		list = list_room(list, at, &capacity, sizeof *list);
		assert_true(capacity > (size_t)at);
		list[at] = at;
	}
	for (int at = 0; at < 1000; at++)
		assert_int_equal(list[at], at);
	assert_true(capacity < 2000);
	free(list);
}

static void buffers_are_terminated(void **state)
{
	struct buffer b = {0};
	for (int at = 0; at < 500; at++) {
		buffer_printf(&b, "%d,", at);
		assert_int_equal(b.data[b.length], 0);
		assert_int_equal(strlen(b.data), b.length);
	}
	assert_non_null(strstr(b.data, ",498,499,"));
	char *text = buffer_take(&b);
	assert_null(b.data);
	free(text);
	text = buffer_take(&b);
	assert_string_equal(text, "");
	free(text);

	/* longer than what printf finds room for at first */
	char wide[1000];
	memset(wide, 'w', sizeof wide - 1);
	wide[sizeof wide - 1] = 0;
	buffer_printf(&b, "<%s>", wide);
	assert_int_equal(b.length, 1001);
	assert_int_equal(b.data[1000], '>');
	buffer_free(&b);
}

static void json_strings(void **state)
{
	static const struct {
		const char *in, *out;
	} cases[] = {
		{"", "\"\""}, {"plain", "\"plain\""}, {"a\"b\\c/", "\"a\\\"b\\\\c/\""},
		{"\n\r\t\x01\x7f", "\"\\n\\r\\t\\u0001\\u007f\""}, {"grün €", "\"grün €\""},
		{"\xf0\x9f\x9a\xb0", "\"\xf0\x9f\x9a\xb0\""},
		{"a\xff"
		 "b",
			"\"a\xef\xbf\xbd"
			"b\""},
		{"\xc3", "\"\xef\xbf\xbd\""},                                 /* cut off */
		{"\xc0\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\""},                 /* overlong */
		{"\xed\xa0\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""}, /* a surrogate */
		{"\xf4\x90\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""}, /* beyond U+10FFFF */
	};
	for (size_t at = 0; at < sizeof cases / sizeof cases[0]; at++) {
		struct buffer b = {0};
		buffer_json_string(&b, cases[at].in);
		assert_string_equal(b.data, cases[at].out);
		json_t *json = json_loads(b.data, JSON_DECODE_ANY, NULL);
		assert_non_null(json);
		json_decref(json);
		buffer_free(&b);
	}
}

static void errors_carry_path_and_detail(void **state)
{
	struct error e = {0};
	assert_int_equal(error_set(&e, ERROR_INVALID, EINVAL, "/spec/port", "%d is not a port", 70000), -EINVAL);
	assert_int_equal(e.kind, ERROR_INVALID);
	assert_string_equal(e.path, "/spec/port");
	assert_string_equal(e.detail, "70000 is not a port");
	/* its own text as an argument */
	error_set(&e, e.kind, EINVAL, e.path, "wrapped: %s", e.detail);
	assert_string_equal(e.detail, "wrapped: 70000 is not a port");
	assert_string_equal(e.path, "/spec/port");
	assert_int_equal(error_system(&e, ENOSPC, "write %s", "db"), -ENOSPC);
	assert_string_equal(e.detail, "write db: No space left on device");
	assert_int_equal(e.kind, ERROR_SYSTEM);
	assert_string_equal(e.path, "");
	assert_int_equal(error_set(NULL, ERROR_BUSY, EBUSY, NULL, "nobody listens"), -EBUSY);
	char wide[2000];
	memset(wide, 'w', sizeof wide - 1);
	wide[sizeof wide - 1] = 0;
	error_set(&e, ERROR_INVALID, EINVAL, wide, "%s", wide);
	assert_int_equal(strlen(e.path), sizeof e.path - 1);
	assert_int_equal(strlen(e.detail), sizeof e.detail - 1);
}

/* A pointer leads to what the body has, or to its parent; never to half a name. */
static void pointers_are_escaped_or_left_out_whole(void **state)
{
	char pointer[16] = "/a";
	size_t length = pointer_add(pointer, 2, sizeof(pointer), "b/c~d");
	assert_string_equal(pointer, "/a/b~1c~0d");
	assert_int_equal(length, strlen(pointer));
	assert_int_equal(pointer_add(pointer, length, sizeof(pointer), "abcde"), length);
	assert_int_equal(pointer_add(pointer, length, sizeof(pointer), "ab~c"), length);
	assert_string_equal(pointer, "/a/b~1c~0d");
	assert_int_equal(pointer_add(pointer, length, sizeof(pointer), "abcd"), sizeof(pointer) - 1);
	assert_int_equal(pointer_add(pointer, sizeof(pointer) - 1, sizeof(pointer), ""), sizeof(pointer) - 1);
	assert_string_equal(pointer, "/a/b~1c~0d/abcd");
}

static void errors_stop_at_fifty_and_count_on(void **state)
{
	struct errors errors = {0};
	for (int at = 0; at < 120; at++) {
		if (at == 8) /* from the list that is about to move */
			errors_add_error(&errors, &errors.list[3]);
		else
			errors_add(&errors, ERROR_INVALID, "/x", "error %d", at);
	}
	assert_int_equal(errors.count, 50);
	assert_int_equal(errors.total, 120);
	assert_string_equal(errors.list[8].detail, "error 3");
	assert_string_equal(errors.list[49].detail, "error 49");
	errors_clear(&errors);
	assert_null(errors.list);
	assert_int_equal(errors.total, 0);
}

/* What log_write puts on standard error while the function runs; the caller frees. */
static char *captured(void (*function)(void))
{
	FILE *file = tmpfile();
	int saved = dup(STDERR_FILENO);
	dup2(fileno(file), STDERR_FILENO);
	function();
	dup2(saved, STDERR_FILENO);
	close(saved);
	rewind(file);
	char *text = mem_alloc(1 << 20);
	size_t got = fread(text, 1, (1 << 20) - 1, file);
	text[got] = 0;
	fclose(file);
	return text;
}

static void speak(void)
{
	log_debug("datapath", "hidden");
	log_info("datapath", "text %d", 5);
	log_error("api", "two\nlines\t\"x\"");
}

static void log_as_text(void **state)
{
	log_configure(LOG_LEVEL_INFO, LOG_TEXT);
	auto_free char *text = captured(speak);
	int year, month, day, hour, minute, second, ms, end = 0;
	assert_int_equal(sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2d.%3dZ INFO  datapath: text 5\n%n", &year, &month, &day, &hour,
						 &minute, &second, &ms, &end),
		7);
	assert_true(end > 0);
	assert_non_null(strstr(text + end, "Z ERROR api: two\\nlines\\x09\"x\"\n"));
	assert_null(strstr(text, "hidden"));
}

static void log_as_json(void **state)
{
	log_configure(LOG_LEVEL_DEBUG, LOG_JSON);
	auto_free char *text = captured(speak);
	log_configure(LOG_LEVEL_INFO, LOG_TEXT);
	static const char *const levels[] = {"debug", "info", "error"}, *rooms[] = {"datapath", "datapath", "api"};
	char *rest = text;
	for (int at = 0; at < 3; at++) {
		char *line = strsep(&rest, "\n");
		json_t *json = json_loads(line, 0, NULL);
		assert_non_null(json);
		assert_int_equal(json_object_size(json), 4);
		assert_string_equal(json_string_value(json_object_get(json, "level")), levels[at]);
		assert_string_equal(json_string_value(json_object_get(json, "room")), rooms[at]);
		assert_int_equal(strlen(json_string_value(json_object_get(json, "time"))), 24);
		if (at == 2)
			assert_string_equal(json_string_value(json_object_get(json, "message")), "two\nlines\t\"x\"");
		json_decref(json);
	}
	assert_string_equal(rest, "");
}

static void *chatter(void *context)
{
	for (int at = 0; at < 200; at++)
		log_info("thread", "%s end", (const char *)context);
	return NULL;
}

static void speak_together(void)
{
	pthread_t a, b;
	pthread_create(&a, NULL, chatter, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
	pthread_create(&b, NULL, chatter, "bbbb");
	pthread_join(a, NULL);
	pthread_join(b, NULL);
}

static void log_lines_stay_whole(void **state)
{
	auto_free char *text = captured(speak_together);
	int lines = 0;
	char *rest = text, *line;
	while ((line = strsep(&rest, "\n")) && *line) {
		assert_non_null(strstr(line, " INFO  thread: "));
		assert_string_equal(line + strlen(line) - 4, " end");
		lines++;
	}
	assert_int_equal(lines, 400);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(memory_is_zeroed_and_never_null),
		cmocka_unit_test(exhaustion_aborts),
		cmocka_unit_test(lists_grow_and_keep),
		cmocka_unit_test(buffers_are_terminated),
		cmocka_unit_test(json_strings),
		cmocka_unit_test(errors_carry_path_and_detail),
		cmocka_unit_test(pointers_are_escaped_or_left_out_whole),
		cmocka_unit_test(errors_stop_at_fifty_and_count_on),
		cmocka_unit_test(log_as_text),
		cmocka_unit_test(log_as_json),
		cmocka_unit_test(log_lines_stay_whole),
	};
	return cmocka_run_group_tests_name("base memory", tests, NULL, NULL);
}
