/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/state_objects.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include "agent/compile/rulebook.h"
#include "agent/state/store.h"

static char directory[64];

static int setup(void **state)
{
	snprintf(directory, sizeof(directory), "/tmp/penstock-store-XXXXXX");
	return mkdtemp(directory) ? 0 : -1;
}

static int teardown(void **state)
{
	auto_free char *command = str_format("rm -rf %s", directory);
	return system(command);
}

static char *path_of(const char *name)
{
	return str_format("%s/%s", directory, name);
}

/* An open store with what it had. */
struct opened {
	struct store *store;
	struct snapshot *snapshot;
	struct rulebook *book;
	char *damaged;
};

static void open_it(struct opened *o)
{
	struct error e = {0};
	if (store_open(directory, &o->store, &o->damaged, &e) < 0)
		fail_msg("store_open: %s", e.detail);
	assert_int_equal(store_load(o->store, &o->snapshot, &o->book, &e), 0);
}

static void close_it(struct opened *o)
{
	store_close(o->store);
	snapshot_put(o->snapshot);
	rulebook_free(o->book);
	free(o->damaged);
	*o = (struct opened){0};
}

static int stage_draft(
	struct opened *o, struct draft *draft, uint64_t revision, struct snapshot **next, struct error *e)
{
	const struct difference *differences;
	size_t count = draft_differences(draft, &differences);
	struct difference *copy = mem_dup(differences, count * sizeof(*copy));
	*next = draft_finish(draft, revision);
	int result = store_stage(o->store, *next, copy, count, o->book, e);
	free(copy);
	return result;
}

static void write_it(struct opened *o, struct draft *draft, uint64_t revision)
{
	struct snapshot *next;
	struct error e = {0};
	if (stage_draft(o, draft, revision, &next, &e) < 0 || store_commit(o->store, &e) < 0)
		fail_msg("write: %s", e.detail);
	snapshot_put(o->snapshot);
	o->snapshot = next;
}

static void write_one(struct opened *o, const char *name, const char *version)
{
	struct draft *draft = draft_new(o->snapshot);
	draft_put(draft, namespace_make(name, version, "local", 0));
	write_it(o, draft, o->snapshot->revision + 1);
}

static void what_was_written_is_there_again(void **state)
{
	struct opened o = {0};
	char epoch[17];
	uint64_t term = UINT64_MAX - 1;
	open_it(&o);
	assert_null(o.damaged);
	assert_int_equal(o.snapshot->revision, 0);
	assert_int_equal(strlen(o.snapshot->epoch), 16);
	strcpy(epoch, o.snapshot->epoch);

	struct draft *draft = draft_new(o.snapshot);
	struct object *standing = policy_make("shop", "broken", "ctl", 0);
	struct quarantined q = {{"NetworkPolicy", "shop", "broken"}, "ctl", "[{\"pointer\":\"/x\"}]", standing, false};
	draft_put(draft, namespace_make("shop", "1", "ctl", 0));
	draft_put(draft, namespace_make("other", "1", "local", 0));
	draft_quarantine(draft, &q);
	draft_put(draft, standing);
	draft_owner(draft, "ctl", &term, 1000);
	uint32_t first = rulebook_take(o.book, KIND_NETWORK_POLICY, "shop", "broken", INGRESS, -1, "");
	uint32_t second = rulebook_take(o.book, KIND_INTERCEPT_POLICY, "", "llm", EGRESS, 0, "openai");
	write_it(&o, draft, 1);
	write_one(&o, "other", "2");
	draft = draft_new(o.snapshot);
	draft_delete(draft, KIND_NAMESPACE, "", "shop");
	write_it(&o, draft, 3);
	close_it(&o);

	open_it(&o);
	assert_null(o.damaged);
	assert_string_equal(o.snapshot->epoch, epoch);
	assert_int_equal(o.snapshot->revision, 3);
	assert_int_equal(o.snapshot->object_count, 2);
	const struct object *other = snapshot_find(o.snapshot, KIND_NAMESPACE, "", "other");
	assert_int_equal(other->revision, 2);
	assert_string_equal(other->owner, "local");
	assert_non_null(strstr(other->json, "\"v\":\"2\""));
	assert_int_equal(o.snapshot->quarantined_count, 1);
	assert_string_equal(o.snapshot->quarantined[0].errors, "[{\"pointer\":\"/x\"}]");
	assert_ptr_equal(
		o.snapshot->quarantined[0].standing, snapshot_find(o.snapshot, KIND_NETWORK_POLICY, "shop", "broken"));
	assert_string_equal(o.snapshot->owners[0].name, "ctl");
	assert_true(o.snapshot->owners[0].term == term);
	assert_int_equal(o.snapshot->owners[0].last_write, 1000);
	assert_int_equal(o.snapshot->owners[0].objects, 1);
	assert_int_equal(rulebook_find(o.book, first)->index, -1);
	assert_string_equal(rulebook_find(o.book, second)->rule_name, "openai");
	assert_int_equal(rulebook_find(o.book, second)->direction, EGRESS);
	assert_int_equal(rulebook_take(o.book, KIND_INTERCEPT_POLICY, "", "llm", EGRESS, 0, "openai"), second);

	/* out of quarantine, and gone */
	draft = draft_new(o.snapshot);
	draft_release(draft, "NetworkPolicy", "shop", "broken");
	draft_delete(draft, KIND_NETWORK_POLICY, "shop", "broken");
	write_it(&o, draft, 4);
	close_it(&o);
	open_it(&o);
	assert_int_equal(o.snapshot->quarantined_count, 0);
	assert_int_equal(o.snapshot->object_count, 1);
	close_it(&o);
}

static void rule_ids_are_never_used_again(void **state)
{
	struct opened o = {0};
	open_it(&o);
	uint32_t a = rulebook_take(o.book, KIND_NETWORK_POLICY, "x", "a", INGRESS, 0, "");
	uint32_t b = rulebook_take(o.book, KIND_NETWORK_POLICY, "x", "b", INGRESS, 0, "");
	write_one(&o, "n", "1");
	rulebook_drop(o.book, b);
	write_one(&o, "n", "2");
	close_it(&o);
	open_it(&o);
	assert_non_null(rulebook_find(o.book, a));
	assert_null(rulebook_find(o.book, b)); /* only what is live is stored */
	assert_true(rulebook_take(o.book, KIND_NETWORK_POLICY, "x", "c", INGRESS, 0, "") > b);
	close_it(&o);
}

static void a_rollback_leaves_no_trace(void **state)
{
	struct opened o = {0};
	struct error e = {0};
	struct snapshot *next;
	open_it(&o);
	write_one(&o, "n", "1");
	uint32_t rule = rulebook_take(o.book, KIND_NETWORK_POLICY, "x", "a", INGRESS, 0, "");
	struct draft *draft = draft_new(o.snapshot);
	draft_put(draft, namespace_make("n", "2", "new", 0));
	draft_owner(draft, "new", NULL, 5);
	assert_int_equal(stage_draft(&o, draft, 2, &next, &e), 0);
	store_rollback(o.store);
	store_rollback(o.store); /* twice is none */
	assert_true(store_commit(o.store, &e) < 0);
	snapshot_put(next);
	close_it(&o);

	open_it(&o);
	assert_int_equal(o.snapshot->revision, 1);
	assert_non_null(strstr(snapshot_find(o.snapshot, KIND_NAMESPACE, "", "n")->json, "\"v\":\"1\""));
	assert_null(rulebook_find(o.book, rule));

	/* the rules that a rolled back transaction had written are written by the next one */
	rule = rulebook_take(o.book, KIND_NETWORK_POLICY, "x", "a", INGRESS, 0, "");
	draft = draft_new(o.snapshot);
	draft_put(draft, namespace_make("n", "3", "local", 0));
	assert_int_equal(stage_draft(&o, draft, 2, &next, &e), 0);
	store_rollback(o.store);
	snapshot_put(next);
	write_one(&o, "n", "4");
	close_it(&o);
	open_it(&o);
	assert_non_null(rulebook_find(o.book, rule));
	close_it(&o);
}

static void a_closed_transaction_is_not_kept(void **state)
{
	struct opened o = {0};
	struct error e = {0};
	struct snapshot *next;
	open_it(&o);
	write_one(&o, "n", "1");
	struct draft *draft = draft_new(o.snapshot);
	draft_put(draft, namespace_make("m", "1", "local", 0));
	assert_int_equal(stage_draft(&o, draft, 2, &next, &e), 0);
	snapshot_put(next);
	close_it(&o);
	open_it(&o);
	assert_int_equal(o.snapshot->object_count, 1);
	close_it(&o);
}

static void one_agent_a_directory(void **state)
{
	struct opened o = {0};
	struct store *second = NULL;
	struct error e = {0};
	char *damaged, pid[32];
	open_it(&o);
	assert_int_equal(store_open(directory, &second, &damaged, &e), -EBUSY);
	assert_int_equal(e.kind, ERROR_BUSY);
	snprintf(pid, sizeof(pid), "pid %d", (int)getpid());
	assert_non_null(strstr(e.detail, pid));
	assert_null(second);
	close_it(&o);
	open_it(&o);
	close_it(&o);
}

static void the_directory_is_made(void **state)
{
	struct stat st;
	auto_free char *deep = path_of("a/b");
	auto_free char *file = path_of("a/b/penstock.db");
	struct store *store;
	struct error e = {0};
	char *damaged;
	assert_int_equal(store_open(deep, &store, &damaged, &e), 0);
	assert_int_equal(stat(deep, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	assert_int_equal(stat(file, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	store_close(store);

	auto_free char *below_a_file = path_of("a/b/penstock.db/c");
	assert_int_equal(store_open(below_a_file, &store, &damaged, &e), -ENOTDIR);
	assert_int_equal(e.kind, ERROR_SYSTEM);
}

/* ---- damage ---- */

static size_t set_aside_count(void)
{
	glob_t found;
	auto_free char *pattern = path_of("penstock.db.damaged-*Z*");
	size_t count = glob(pattern, 0, NULL, &found) == 0 ? found.gl_pathc : 0;
	if (count)
		globfree(&found);
	return count;
}

static void file_write(const char *name, const char *text)
{
	auto_free char *path = path_of(name);
	FILE *file = fopen(path, "w");
	fputs(text, file);
	fclose(file);
}

/* Opens what was damaged: set aside, named, empty, another epoch; and works. */
static void expect_set_aside(const char *epoch)
{
	struct opened o = {0};
	open_it(&o);
	assert_non_null(o.damaged);
	assert_non_null(strstr(o.damaged, "penstock.db.damaged-"));
	assert_true(set_aside_count() > 0);
	assert_int_equal(o.snapshot->revision, 0);
	assert_int_equal(o.snapshot->object_count, 0);
	assert_true(rulebook_next_id(o.book) > 60000); /* far from the ids that were lost */
	if (epoch)
		assert_string_not_equal(o.snapshot->epoch, epoch);
	write_one(&o, "after", "1");
	close_it(&o);
	open_it(&o);
	assert_null(o.damaged);
	assert_int_equal(o.snapshot->object_count, 1);
	close_it(&o);
}

static void fill(char epoch[17])
{
	struct opened o = {0};
	open_it(&o);
	for (int i = 0; i < 50; i++) {
		char name[16];
		snprintf(name, sizeof(name), "n%d", i);
		write_one(&o, name, "needle-in-the-file");
	}
	strcpy(epoch, o.snapshot->epoch);
	close_it(&o);
}

/* Replaces the first `from` in the file, or everything behind offset `from_offset` by 0xa5. */
static void file_damage(const char *from, const char *to, long from_offset)
{
	static char content[1 << 20];
	auto_free char *path = path_of("penstock.db");
	FILE *file = fopen(path, "r+");
	size_t length = fread(content, 1, sizeof(content), file);
	if (from) {
		char *place = memmem(content, length, from, strlen(from));
		assert_non_null(place);
		memcpy(place, to, strlen(to));
	} else {
		assert_true(length > (size_t)from_offset);
		memset(content + from_offset, 0xa5, length - from_offset);
	}
	rewind(file);
	fwrite(content, 1, length, file);
	fclose(file);
}

static void statement_run(const char *sql)
{
	sqlite3 *db;
	auto_free char *path = path_of("penstock.db");
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
}

static void no_database(void **state)
{
	file_write("penstock.db", "this is not a database, and it is long enough to be looked at by everybody");
	expect_set_aside(NULL);
}

static void torn_header(void **state)
{
	char epoch[17];
	fill(epoch);
	file_damage("SQLite format 3", "SQLite format X", 0);
	expect_set_aside(epoch);
}

static void torn_pages(void **state)
{
	char epoch[17];
	fill(epoch);
	file_damage(NULL, NULL, 4096 * 3);
	expect_set_aside(epoch);
}

static void truncated(void **state)
{
	char epoch[17];
	fill(epoch);
	auto_free char *path = path_of("penstock.db");
	assert_int_equal(truncate(path, 8192), 0);
	expect_set_aside(epoch);
}

static void emptied(void **state)
{
	char epoch[17];
	fill(epoch);
	auto_free char *path = path_of("penstock.db");
	assert_int_equal(truncate(path, 0), 0);
	expect_set_aside(epoch);
}

static void gone_but_for_its_log(void **state)
{
	file_write("penstock.db-wal", "something");
	expect_set_aside(NULL);
	assert_int_equal(set_aside_count(), 1);
}

static void flipped_bit_in_a_policy(void **state)
{
	char epoch[17];
	fill(epoch);
	file_damage("needle-in-the-file", "needle-in-the-fild", 0); /* still an object, but not the one that was wanted */
	expect_set_aside(epoch);
}

static void undecodable_row(void **state)
{
	char epoch[17];
	fill(epoch);
	statement_run("UPDATE objects SET json = '{}' WHERE name = 'n3'");
	expect_set_aside(epoch);
}

static void missing_table(void **state)
{
	char epoch[17];
	fill(epoch);
	statement_run("DROP TABLE owners");
	expect_set_aside(epoch);
}

static void lost_meta(void **state)
{
	char epoch[17];
	fill(epoch);
	statement_run("DELETE FROM meta");
	expect_set_aside(epoch);
}

static void somebody_elses(void **state)
{
	statement_run("CREATE TABLE cookies (a)");
	expect_set_aside(NULL);
}

static void of_a_newer_build(void **state)
{
	char epoch[17];
	struct error e = {0};
	struct store *store;
	char *damaged = NULL;
	fill(epoch);
	statement_run("PRAGMA user_version = 2");
	assert_int_equal(store_open(directory, &store, &damaged, &e), -ENOTSUP);
	assert_non_null(strstr(e.detail, "newer"));
	assert_null(damaged);
	assert_int_equal(set_aside_count(), 0);
	statement_run("PRAGMA user_version = 1");
	struct opened o = {0};
	open_it(&o);
	assert_string_equal(o.snapshot->epoch, epoch);
	assert_int_equal(o.snapshot->object_count, 50);
	close_it(&o);
}

/* ---- trouble while running ---- */

static void expect_refusal(struct opened *o, enum error_kind kind, const char *says)
{
	struct error e = {0};
	struct snapshot *next;
	struct draft *draft = draft_new(o->snapshot);
	for (int i = 0; i < 200; i++) {
		char name[16];
		snprintf(name, sizeof(name), "big%d", i);
		draft_put(draft, namespace_make(name, "1", "local", 0));
	}
	int result = stage_draft(o, draft, o->snapshot->revision + 1, &next, &e);
	if (result == 0)
		result = store_commit(o->store, &e);
	assert_true(result < 0);
	assert_int_equal(e.kind, kind);
	if (!strstr(e.detail, says))
		fail_msg("\"%s\" does not say \"%s\"", e.detail, says);
	snapshot_put(next);
}

static void locked_by_another_process(void **state)
{
	struct opened o = {0};
	sqlite3 *other;
	auto_free char *path = path_of("penstock.db");
	open_it(&o);
	write_one(&o, "n", "1");
	assert_int_equal(sqlite3_open(path, &other), SQLITE_OK);
	assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
	expect_refusal(&o, ERROR_BUSY, "locked");
	sqlite3_close(other);
	write_one(&o, "n", "2");
	assert_int_equal(o.snapshot->revision, 2);
	close_it(&o);
}

/* A full disk, by the limit on file sizes: the write fails as a whole, and the next one works when there is room. */
static void disk_full(void **state)
{
	struct opened o = {0};
	struct rlimit before, small;
	signal(SIGXFSZ, SIG_IGN);
	open_it(&o);
	write_one(&o, "n", "1");
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
	small = (struct rlimit){32768, before.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	expect_refusal(&o, ERROR_SYSTEM, strerror(EFBIG));
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	write_one(&o, "n", "2");
	close_it(&o);
	open_it(&o);
	assert_null(o.damaged);
	assert_int_equal(o.snapshot->revision, 2);
	assert_int_equal(o.snapshot->object_count, 1);
	close_it(&o);
}

static void removed_while_running(void **state)
{
	struct opened o = {0};
	auto_free char *path = path_of("penstock.db");
	open_it(&o);
	write_one(&o, "n", "1");
	assert_int_equal(unlink(path), 0);
	expect_refusal(&o, ERROR_SYSTEM, "removed");
	close_it(&o);
}

static off_t file_size(const char *path)
{
	struct stat status;
	assert_int_equal(stat(path, &status), 0);
	return status.st_size;
}

/* No commit waits for the log to be moved into the file; between writes it is moved, once there is enough. */
static void the_log_is_tidied_between_writes(void **state)
{
	struct opened o = {0};
	auto_free char *path = path_of("penstock.db"), *log = path_of("penstock.db-wal");
	open_it(&o);
	off_t before = file_size(path);
	write_one(&o, "few", "1");
	store_tidy(o.store);
	assert_int_equal(file_size(path), before);
	for (int i = 0; file_size(log) < 1100 * 4096; i++) {
		char name[16];
		snprintf(name, sizeof(name), "n-%d", i);
		write_one(&o, name, "1");
	}
	assert_int_equal(file_size(path), before);
	store_tidy(o.store);
	assert_true(file_size(path) > before);
	uint64_t revision = o.snapshot->revision;
	close_it(&o);
	open_it(&o);
	assert_int_equal(o.snapshot->revision, revision);
	close_it(&o);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(what_was_written_is_there_again),
		TEST(rule_ids_are_never_used_again),
		TEST(a_rollback_leaves_no_trace),
		TEST(a_closed_transaction_is_not_kept),
		TEST(one_agent_a_directory),
		TEST(the_directory_is_made),
		TEST(no_database),
		TEST(torn_header),
		TEST(torn_pages),
		TEST(truncated),
		TEST(emptied),
		TEST(gone_but_for_its_log),
		TEST(flipped_bit_in_a_policy),
		TEST(undecodable_row),
		TEST(missing_table),
		TEST(lost_meta),
		TEST(somebody_elses),
		TEST(of_a_newer_build),
		TEST(locked_by_another_process),
		TEST(disk_full),
		TEST(removed_while_running),
		TEST(the_log_is_tidied_between_writes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
