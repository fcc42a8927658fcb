/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/state/store.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "agent/base/mem.h"
#include "agent/state/store_private.h"

struct store {
	char *directory, *path;
	int lock;
	struct database db;
	struct snapshot *current; /* what the database holds */
	struct snapshot *staged;  /* what the open transaction wrote */
	struct rulebook *book;    /* read by store_open, handed out by store_load */
	struct map rules;         /* id → rule_mark, as the database, or the open transaction, has them */
	bool rules_known;
	bool rules_staged; /* the open transaction wrote them too */
	uint32_t next_rule;
	int log_pages; /* in the log since it was last moved into the file */
};

#define TIDY_PAGES 1000 /* SQLite's own default: 4 MiB */

/* ---- the directory ---- */

static int directory_make(const char *directory, struct error *e)
{
	auto_free char *path = str_dup(directory);
	for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (mkdir(path, 0755) < 0 && errno != EEXIST)
			return error_system(e, errno, "creating %s", path);
		*slash = '/';
	}
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return error_system(e, errno, "creating %s", path);
	return 0;
}

static int directory_lock(const char *directory, int *ret, struct error *e)
{
	auto_free char *path = str_format("%s/lock", directory);
	auto_close int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	char pid[32] = "";
	if (fd < 0)
		return error_system(e, errno, "opening %s", path);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK)
			return error_system(e, errno, "locking %s", path);
		ssize_t length = pread(fd, pid, sizeof(pid) - 1, 0);
		pid[length > 0 ? strcspn(pid, "\n") : 0] = '\0';
		return error_set(
			e, ERROR_BUSY, EBUSY, NULL, "%s is in use by another agent (pid %s)", directory, pid[0] ? pid : "unknown");
	}
	int length = snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
	if (ftruncate(fd, 0) < 0 || pwrite(fd, pid, length, 0) != length)
		return error_system(e, errno, "writing %s", path);
	*ret = steal_fd(&fd);
	return 0;
}

/* The file and its companions get one name, so that sqlite3 still opens what was set aside. */
static int set_aside(const struct store *store, char **name, struct error *e)
{
	static const char *const companions[] = {"", "-wal", "-shm"};
	char stamp[32];
	time_t now = time(NULL);
	struct tm utc;
	strftime(stamp, sizeof(stamp), "%Y%m%dT%H%M%SZ", gmtime_r(&now, &utc));
	auto_free char *target = str_format("%s.damaged-%s", store->path, stamp);
	for (int i = 1; access(target, F_OK) == 0; i++) {
		free(target);
		target = str_format("%s.damaged-%s.%d", store->path, stamp, i);
	}
	for (size_t i = 0; i < sizeof(companions) / sizeof(companions[0]); i++) {
		auto_free char *from = str_format("%s%s", store->path, companions[i]);
		auto_free char *to = str_format("%s%s", target, companions[i]);
		if (rename(from, to) < 0 && errno != ENOENT)
			return error_system(e, errno, "setting aside %s", from);
	}
	auto_close int fd = open(store->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd) < 0)
		return error_system(e, errno, "setting aside %s", store->path);
	*name = steal_pointer(&target);
	return 0;
}

/* ---- opening ---- */

static int meta_put(struct store *store, const char *key, const char *value, struct error *e)
{
	struct row row = row_start(&store->db, STATEMENT_META_PUT);
	row_text(&row, key);
	row_text(&row, value);
	row_sum(&row);
	return row_run(&row, e);
}

static int meta_put_number(struct store *store, const char *key, uint64_t value, struct error *e)
{
	char text[32];
	snprintf(text, sizeof(text), "%" PRIu64, value);
	return meta_put(store, key, text, e);
}

/* A new database: its epoch, and the first rule id. */
static int meta_create(struct store *store, bool after_damage, struct meta *meta, struct error *e)
{
	uint64_t random;
	if (getrandom(&random, sizeof(random), 0) != sizeof(random))
		return error_system(e, errno, "getrandom");
	*meta = (struct meta){.next_rule = 1};
	snprintf(meta->epoch, sizeof(meta->epoch), "%016" PRIx64, random);
	/*
	 * The ids that the lost file knew may live on in counters and connections: go on far from them, minutes apart. A
	 * quarter of the numbers is left out at most.
	 */
	if (after_damage)
		meta->next_rule = ((uint32_t)(time(NULL) / 60) & 0x3fff) << 16 | 1;
	int result = meta_put(store, "epoch", meta->epoch, e);
	if (result == 0)
		result = meta_put_number(store, "revision", 0, e);
	return result ? result : meta_put_number(store, "next_rule", meta->next_rule, e);
}

static int store_read(struct store *store, bool after_damage, struct error *e)
{
	struct meta meta;
	int result = store_read_meta(&store->db, &meta, e);
	if (result == 0 && !meta.epoch[0]) {
		struct row begin = row_start(&store->db, STATEMENT_BEGIN), commit = row_start(&store->db, STATEMENT_COMMIT);
		result = row_run(&begin, e);
		if (result == 0)
			result = meta_create(store, after_damage, &meta, e);
		if (result == 0)
			result = row_run(&commit, e);
	}
	if (result == 0)
		result = store_read_snapshot(&store->db, &meta, &store->current, e);
	if (result < 0)
		return result;
	if (!meta.revision && store->current->object_count) {
		error_set(e, ERROR_SYSTEM, EIO, NULL, "%s is damaged: it holds objects and no revision", store->path);
		return DATABASE_DAMAGED;
	}
	store->next_rule = meta.next_rule;
	store->book = rulebook_new(meta.next_rule);
	store->rules_known = true;
	return store_read_rules(&store->db, &meta, store->book, &store->rules, e);
}

static void store_forget(struct store *store)
{
	snapshot_put(store->current);
	rulebook_free(steal_pointer(&store->book));
	map_clear(&store->rules);
	store->current = NULL;
}

static int store_try(struct store *store, bool after_damage, struct error *e)
{
	int result = database_open(&store->db, store->path, e);
	if (result < 0)
		return result;
	result = store_read(store, after_damage, e);
	if (result < 0) {
		store_forget(store);
		database_close(&store->db, false);
	}
	return result;
}

/* Takes the place of SQLite's checkpoint within the commit. */
static int log_grew(void *context, sqlite3 *handle, const char *name, int pages)
{
	((struct store *)context)->log_pages = pages;
	return SQLITE_OK;
}

int store_open(const char *directory, struct store **ret, char **damaged, struct error *e)
{
	struct error why = {0};
	int lock = -1;
	*damaged = NULL;
	int result = directory_make(directory, e);
	if (result == 0)
		result = directory_lock(directory, &lock, e);
	if (result < 0)
		return result;

	struct store *store = mem_alloc(sizeof(*store));
	store->directory = str_dup(directory);
	store->path = str_format("%s/penstock.db", directory);
	store->lock = lock;
	map_init(&store->rules, sizeof(uint32_t), sizeof(uint64_t));
	result = store_try(store, false, &why);
	if (result == DATABASE_DAMAGED) {
		auto_free char *name = NULL;
		result = set_aside(store, &name, &why);
		if (result == 0) {
			*damaged = str_format("%s; it is set aside as %s", why.detail, name);
			result = store_try(store, true, &why);
		}
	}
	if (result < 0) {
		if (e)
			*e = why;
		free(steal_pointer(damaged));
		store_close(store);
		return result;
	}
	sqlite3_wal_hook(store->db.handle, log_grew, store);
	*ret = store;
	return 0;
}

void store_close(struct store *store)
{
	if (!store)
		return;
	store_rollback(store);
	store_forget(store);
	if (store->db.handle)
		database_close(&store->db, true);
	close(store->lock); /* the lock ends with it; the file stays, so that nobody locks a removed one */
	free(store->directory);
	free(store->path);
	free(store);
}

int store_load(struct store *store, struct snapshot **ret, struct rulebook **book, struct error *e)
{
	if (!store->book)
		return error_set(e, ERROR_SYSTEM, EALREADY, NULL, "the state was loaded before");
	*ret = snapshot_get(store->current);
	*book = steal_pointer(&store->book);
	return 0;
}

/* ---- writing ---- */

static int write_key(struct store *store, enum statement statement, const char *kind, const char *namespace,
	const char *name, struct error *e)
{
	struct row row = row_start(&store->db, statement);
	row_text(&row, kind);
	row_text(&row, namespace);
	row_text(&row, name);
	return row_run(&row, e);
}

static int write_objects(struct store *store, const struct difference *differences, size_t count, struct error *e)
{
	int result = 0;
	for (size_t i = 0; result == 0 && i < count; i++) {
		const struct object *old = differences[i].old, *new = differences[i].new;
		if (!new) {
			result = write_key(store, STATEMENT_OBJECT_DELETE, kinds[old->kind].kind, old->namespace, old->name, e);
			continue;
		}
		struct row row = row_start(&store->db, STATEMENT_OBJECT_PUT);
		row_text(&row, kinds[new->kind].kind);
		row_text(&row, new->namespace);
		row_text(&row, new->name);
		row_text(&row, new->owner);
		row_int(&row, new->revision);
		row_text(&row, new->json);
		row_sum(&row);
		result = row_run(&row, e);
	}
	return result;
}

static int write_quarantined(struct store *store, const struct quarantined *q, struct error *e)
{
	struct row row = row_start(&store->db, STATEMENT_QUARANTINE_PUT);
	row_text(&row, q->key.kind);
	row_text(&row, q->key.namespace);
	row_text(&row, q->key.name);
	row_text(&row, q->owner);
	row_text(&row, q->errors);
	row_int(&row, q->isolating ? QUARANTINE_ISOLATING : q->standing ? QUARANTINE_LAST_GOOD : QUARANTINE_ABSENT);
	row_sum(&row);
	return row_run(&row, e);
}

static int write_quarantine(
	struct store *store, const struct snapshot *before, const struct snapshot *now, struct error *e)
{
	size_t i = 0, j = 0;
	int result = 0;
	if (before->quarantine == now->quarantine)
		return 0;
	while (result == 0 && (i < before->quarantined_count || j < now->quarantined_count)) {
		const struct quarantined *old = &before->quarantined[i], *new = &now->quarantined[j];
		int order = i == before->quarantined_count ? 1
					: j == now->quarantined_count  ? -1
												   : quarantined_compare(old, new);
		if (order < 0)
			result = write_key(store, STATEMENT_QUARANTINE_DELETE, old->key.kind, old->key.namespace, old->key.name, e);
		else if (order > 0 || !quarantined_equal(old, new))
			result = write_quarantined(store, new, e);
		i += order <= 0;
		j += order >= 0;
	}
	return result;
}

static int write_owner(struct store *store, const struct owner *owner, struct error *e)
{
	struct row row = row_start(&store->db, STATEMENT_OWNER_PUT);
	row_text(&row, owner->name);
	row_int(&row, owner->has_term);
	row_int(&row, owner->term);
	row_int(&row, owner->last_write);
	row_sum(&row);
	return row_run(&row, e);
}

static int write_owners(struct store *store, const struct snapshot *before, const struct snapshot *now, struct error *e)
{
	size_t i = 0, j = 0;
	int result = 0;
	while (result == 0 && (i < before->owner_count || j < now->owner_count)) {
		const struct owner *old = &before->owners[i], *new = &now->owners[j];
		int order = i == before->owner_count ? 1 : j == now->owner_count ? -1 : strcmp(old->name, new->name);
		if (order < 0) {
			struct row row = row_start(&store->db, STATEMENT_OWNER_DELETE);
			row_text(&row, old->name);
			result = row_run(&row, e);
		} else if (order > 0 || old->has_term != new->has_term || old->term != new->term ||
				   old->last_write != new->last_write) {
			result = write_owner(store, new, e);
		}
		i += order <= 0;
		j += order >= 0;
	}
	return result;
}

uint64_t rule_mark(const struct rule_identity *identity)
{
	const char *name = identity->rule_name ? identity->rule_name : "";
	return hash_bytes(name, strlen(name), 0);
}

static int write_rule(struct store *store, const struct rule_identity *rule, struct error *e)
{
	struct row row = row_start(&store->db, STATEMENT_RULE_PUT);
	row_int(&row, rule->id);
	row_text(&row, kinds[rule->kind].kind);
	row_text(&row, rule->namespace);
	row_text(&row, rule->name);
	row_int(&row, rule->direction);
	row_int(&row, rule->index);
	row_text(&row, rule->rule_name ? rule->rule_name : "");
	row_sum(&row);
	return row_run(&row, e);
}

/* Rows of identities that are no longer live. */
static int write_rules_dead(struct store *store, const struct rulebook *book, struct error *e)
{
	const void *key;
	void *value;
	size_t at = 0;
	int result = 0;
	while (result == 0 && map_next(&store->rules, &at, &key, &value)) {
		uint32_t id = *(const uint32_t *)key;
		const struct rule_identity *rule = rulebook_find(book, id);
		if (rule && rule->live)
			continue;
		struct row row = row_start(&store->db, STATEMENT_RULE_DELETE);
		row_int(&row, id);
		result = row_run(&row, e);
		map_delete(&store->rules, &id);
	}
	return result;
}

static int write_rules(struct store *store, const struct rulebook *book, struct error *e)
{
	const struct rule_identity *rule;
	size_t at = 0, live = 0;
	int result = 0;
	if (!store->rules_known) { /* after a rollback: the map is ahead of the table */
		struct row row = row_start(&store->db, STATEMENT_RULES_CLEAR);
		map_clear(&store->rules);
		result = row_run(&row, e);
	}
	while (result == 0 && (rule = rulebook_next(book, &at))) {
		if (!rule->live)
			continue;
		live++;
		uint64_t mark = rule_mark(rule);
		const uint64_t *stored = map_get(&store->rules, &rule->id);
		if (stored && *stored == mark)
			continue;
		result = write_rule(store, rule, e);
		map_put(&store->rules, &rule->id, &mark);
	}
	if (result == 0 && live != store->rules.count)
		result = write_rules_dead(store, book, e);
	if (result == 0 && (rulebook_next_id(book) != store->next_rule || !store->rules_known))
		result = meta_put_number(store, "next_rule", rulebook_next_id(book), e);
	return result;
}

/* SQLite would go on writing into a file that nobody finds after a restart. */
static int store_in_place(const struct store *store, struct error *e)
{
	int moved = 0;
	sqlite3_file_control(store->db.handle, "main", SQLITE_FCNTL_HAS_MOVED, &moved);
	if (moved)
		return error_set(e, ERROR_SYSTEM, ESTALE, NULL,
			"%s was removed or replaced while this agent runs: nothing written would last", store->path);
	return 0;
}

int store_stage(struct store *store, const struct snapshot *snapshot, const struct difference *differences,
	size_t count, const struct rulebook *book, struct error *e)
{
	store_rollback(store);
	int result = store_in_place(store, e);
	if (result < 0)
		return result;
	struct row begin = row_start(&store->db, STATEMENT_BEGIN);
	result = row_run(&begin, e);
	if (result < 0)
		return result == DATABASE_DAMAGED ? -EIO : result;
	store->staged = snapshot_get(snapshot);
	store->rules_staged = book != NULL;
	result = write_objects(store, differences, count, e);
	if (result == 0)
		result = write_quarantine(store, store->current, snapshot, e);
	if (result == 0)
		result = write_owners(store, store->current, snapshot, e);
	if (result == 0 && book)
		result = write_rules(store, book, e);
	if (result == 0)
		result = meta_put_number(store, "revision", snapshot->revision, e);
	if (result == 0) {
		if (book)
			store->next_rule = rulebook_next_id(book);
		return 0;
	}
	store_rollback(store);
	return result == DATABASE_DAMAGED ? -EIO : result;
}

int store_commit(struct store *store, struct error *e)
{
	if (!store->staged)
		return error_set(e, ERROR_SYSTEM, EINVAL, NULL, "nothing is staged");
	struct row commit = row_start(&store->db, STATEMENT_COMMIT);
	int result = row_run(&commit, e);
	if (result < 0) {
		store_rollback(store);
		return result == DATABASE_DAMAGED ? -EIO : result;
	}
	snapshot_put(store->current);
	store->current = steal_pointer(&store->staged);
	store->rules_known |= store->rules_staged;
	return 0;
}

void store_tidy(struct store *store)
{
	if (store->log_pages < TIDY_PAGES)
		return;
	store->log_pages = 0;
	sqlite3_wal_checkpoint_v2(store->db.handle, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
}

void store_rollback(struct store *store)
{
	if (!store->staged)
		return;
	/* After some failures SQLite has rolled back by itself. */
	if (!sqlite3_get_autocommit(store->db.handle)) {
		struct row rollback = row_start(&store->db, STATEMENT_ROLLBACK);
		row_run(&rollback, NULL);
	}
	snapshot_put(steal_pointer(&store->staged));
	store->rules_known = false;
}
