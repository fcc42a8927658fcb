/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/state_objects.h"

#include <pthread.h>
#include <stdatomic.h>
#include "agent/state/board.h"

static void facts(void **state)
{
	char why[256];
	unsigned long change, before;
	struct board *board = board_new();
	assert_null(board_snapshot(board));
	assert_false(board_ready(board, why));
	assert_true(why[0] != '\0');
	free(board_status(board, &before));
	board_set_status(board, str_dup("{\"a\":1}"));
	auto_free char *status = board_status(board, &change);
	assert_string_equal(status, "{\"a\":1}");
	assert_true(change > before);
	board_set_ready(board, false, "no kernel");
	assert_false(board_ready(board, why));
	assert_string_equal(why, "no kernel");
	board_set_ready(board, true, NULL);
	assert_true(board_ready(board, why));
	assert_string_equal(why, "");

	struct snapshot *snapshot = snapshot_new("0123456789abcdef");
	board_publish(board, snapshot_get(snapshot));
	struct snapshot *got = board_snapshot(board);
	assert_ptr_equal(got, snapshot);
	board_free(board);
	assert_string_equal(got->epoch, "0123456789abcdef"); /* a reader's reference outlives the board */
	snapshot_put(got);
	snapshot_put(snapshot);
}

static void watcher(void *context)
{
	struct board *board = ((void **)context)[0];
	auto_free char *status = board_status(board, NULL); /* who is woken may read */
	assert_memory_equal(status, "{\"revision\":", 12);
	++*(int *)((void **)context)[1];
}

static void watched(void **state)
{
	int calls = 0;
	struct board *board = board_new();
	void *context[] = {board, &calls};
	board_watch(board, watcher, context);
	board_set_status(board, str_dup("{\"revision\":1}"));
	board_set_status(board, str_dup("{\"revision\":1}")); /* no change: nobody is woken */
	board_set_status(board, str_dup("{\"revision\":2}"));
	assert_int_equal(calls, 2);
	board_free(board);
}

/* Readers take, read and put while one thread publishes: the sanitizer is the judge. */
static atomic_bool stop;
static void *reader(void *context)
{
	struct board *board = context;
	uint64_t last = 0;
	while (!atomic_load(&stop)) {
		struct snapshot *snapshot = board_snapshot(board);
		if (snapshot->revision < last || snapshot->object_count != 1 ||
			snapshot->objects[0]->revision != snapshot->revision)
			return "a reader saw a mixture";
		last = snapshot->revision;
		snapshot_put(snapshot);
		free(board_status(board, NULL));
	}
	return NULL;
}

static void readers_and_a_writer(void **state)
{
	pthread_t threads[4];
	struct board *board = board_new();
	struct snapshot *now = snapshot_new("0123456789abcdef");
	atomic_store(&stop, false);
	for (int i = 1; i <= 2000; i++) {
		char version[16];
		struct draft *draft = draft_new(now);
		snprintf(version, sizeof(version), "%d", i);
		draft_put(draft, namespace_make("n", version, "local", 0));
		snapshot_put(now);
		now = draft_finish(draft, i);
		board_publish(board, snapshot_get(now));
		board_set_status(board, str_format("{\"revision\":%d}", i));
		for (int j = 0; i == 1 && j < 4; j++)
			assert_int_equal(pthread_create(&threads[j], NULL, reader, board), 0);
	}
	atomic_store(&stop, true);
	for (int j = 0; j < 4; j++) {
		void *complaint;
		pthread_join(threads[j], &complaint);
		if (complaint)
			fail_msg("%s", (char *)complaint);
	}
	snapshot_put(now);
	board_free(board);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(facts),
		cmocka_unit_test(watched),
		cmocka_unit_test(readers_and_a_writer),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
