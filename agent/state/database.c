/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/state/database.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include "agent/base/mem.h"

/* user_version. A build reads its own and older ones; a newer file is refused, not set aside. */
#define SCHEMA_VERSION 1
#define APPLICATION_ID 0x50656e73 /* "Pens" */
#define BUSY_MS 1000

static const char schema[] = "BEGIN;"
							 "CREATE TABLE meta (key TEXT PRIMARY KEY, value, checksum INTEGER NOT NULL);"
							 "CREATE TABLE objects (kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,"
							 " owner TEXT NOT NULL, revision INTEGER NOT NULL, json TEXT NOT NULL,"
							 " checksum INTEGER NOT NULL, PRIMARY KEY (kind, namespace, name));"
							 "CREATE TABLE quarantine (kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,"
							 " owner TEXT NOT NULL, errors TEXT NOT NULL, standing INTEGER NOT NULL,"
							 " checksum INTEGER NOT NULL, PRIMARY KEY (kind, namespace, name));"
							 "CREATE TABLE owners (name TEXT PRIMARY KEY, has_term INTEGER NOT NULL,"
							 " term INTEGER NOT NULL, last_write INTEGER NOT NULL, checksum INTEGER NOT NULL);"
							 "CREATE TABLE rules (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, namespace TEXT NOT NULL,"
							 " name TEXT NOT NULL, direction INTEGER NOT NULL, number INTEGER NOT NULL,"
							 " rule_name TEXT NOT NULL, checksum INTEGER NOT NULL);"
							 "PRAGMA application_id = 1348824691;" /* APPLICATION_ID */
							 "PRAGMA user_version = 1;"
							 "COMMIT;";
_Static_assert(APPLICATION_ID == 1348824691 && SCHEMA_VERSION == 1, "as in the schema");

static const char *const sql[STATEMENT_COUNT] = {
#define X(name, text) [STATEMENT_##name] = text,
	STATEMENTS(X)
#undef X
};

int database_error(const struct database *db, const char *what, struct error *e)
{
	int system = sqlite3_system_errno(db->handle), code = sqlite3_errcode(db->handle) & 0xff;
	if (!system) /* SQLite forgets it after a failed write; the callers cleared errno before they asked */
		system = errno;
	switch (code) {
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return error_set(e, ERROR_BUSY, EBUSY, NULL, "%s: %s is locked by another process", what, db->path);
	case SQLITE_FULL:
		return error_set(e, ERROR_SYSTEM, ENOSPC, NULL, "%s: no space left for %s", what, db->path);
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		error_set(e, ERROR_SYSTEM, EIO, NULL, "%s: %s is damaged: %s", what, db->path, sqlite3_errmsg(db->handle));
		return DATABASE_DAMAGED;
	case SQLITE_IOERR:
	case SQLITE_CANTOPEN:
	case SQLITE_PERM:
	case SQLITE_READONLY:
		return error_set(e, ERROR_SYSTEM, system ? system : EIO, NULL, "%s: %s: %s%s%s", what, db->path,
			sqlite3_errmsg(db->handle), system ? ": " : "", system ? strerror(system) : "");
	default:
		return error_set(e, ERROR_SYSTEM, EIO, NULL, "%s: %s: %s", what, db->path, sqlite3_errmsg(db->handle));
	}
}

/* ---- opening ---- */

/* The first column of the first row, as text in a buffer; "" when there is none. */
static int query_text(struct database *db, const char *query, char *text, size_t size, struct error *e)
{
	sqlite3_stmt *statement;
	text[0] = '\0';
	if (sqlite3_prepare_v2(db->handle, query, -1, &statement, NULL) != SQLITE_OK)
		return database_error(db, "opening the state", e);
	int code = sqlite3_step(statement), result = 0;
	if (code == SQLITE_ROW)
		sqlite3_snprintf(size, text, "%s", sqlite3_column_text(statement, 0));
	else if (code != SQLITE_DONE)
		result = database_error(db, "opening the state", e);
	sqlite3_finalize(statement);
	return result;
}

static int query_int(struct database *db, const char *query, long long *value, struct error *e)
{
	char text[32];
	int result = query_text(db, query, text, sizeof(text), e);
	*value = strtoll(text, NULL, 10);
	return result;
}

static int damaged(const struct database *db, const char *why, struct error *e)
{
	error_set(e, ERROR_SYSTEM, EIO, NULL, "%s is damaged: %s", db->path, why);
	return DATABASE_DAMAGED;
}

static int database_create(struct database *db, struct error *e)
{
	if (sqlite3_exec(db->handle, schema, NULL, NULL, NULL) != SQLITE_OK)
		return database_error(db, "creating the state", e);
	return 0;
}

/* Ours, of a version that we read, and whole. */
static int database_examine(struct database *db, struct error *e)
{
	long long version = 0, application = 0, tables = 0;
	char text[512];
	int result = query_int(db, "PRAGMA user_version", &version, e);
	if (result == 0)
		result = query_int(db, "PRAGMA application_id", &application, e);
	if (result == 0)
		result = query_int(db, "SELECT count(*) FROM sqlite_master", &tables, e);
	if (result < 0)
		return result;
	if (version == 0 && tables == 0) /* an agent was stopped while it created the file */
		return database_create(db, e);
	if (application != APPLICATION_ID)
		return damaged(db, "it is not a state database of penstock", e);
	if (version > SCHEMA_VERSION)
		return error_set(e, ERROR_SYSTEM, ENOTSUP, NULL,
			"%s was written by a newer penstock (schema %lld; this build reads up to %d): install that one again, or "
			"move the file away",
			db->path, version, SCHEMA_VERSION);
	result = query_text(db, "PRAGMA quick_check(1)", text, sizeof(text), e);
	if (result == 0 && strcmp(text, "ok") != 0)
		return damaged(db, text, e);
	return result;
}

/* SQLite alone would take both for a new database, and what was stored would be gone without a word. */
static int database_presence(struct database *db, bool *present, struct error *e)
{
	struct stat file, log;
	auto_free char *log_path = str_format("%s-wal", db->path);
	*present = stat(db->path, &file) == 0;
	if (!*present && errno != ENOENT)
		return error_system(e, errno, "%s", db->path);
	if (*present && file.st_size == 0)
		return damaged(db, "the file is empty", e);
	if (!*present && stat(log_path, &log) == 0 && log.st_size > 0)
		return damaged(db, "the file is gone, its write-ahead log is there", e);
	return 0;
}

static int database_prepare(struct database *db, struct error *e)
{
	for (int i = 0; i < STATEMENT_COUNT; i++) {
		if (sqlite3_prepare_v3(db->handle, sql[i], -1, SQLITE_PREPARE_PERSISTENT, &db->statements[i], NULL) ==
			SQLITE_OK)
			continue;
		if (sqlite3_errcode(db->handle) == SQLITE_ERROR) /* a table or a column is missing */
			return damaged(db, sqlite3_errmsg(db->handle), e);
		return database_error(db, "opening the state", e);
	}
	return 0;
}

static int database_connect(struct database *db, struct error *e)
{
	bool present;
	char mode[16];
	int result = database_presence(db, &present, e);
	if (result < 0)
		return result;
	if (!present) { /* by ourselves, for the mode; the log and the index file get the same */
		auto_close int fd = open(db->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (fd < 0)
			return error_system(e, errno, "creating %s", db->path);
	}
	if (sqlite3_open_v2(db->path, &db->handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK)
		return database_error(db, "opening the state", e);
	sqlite3_busy_timeout(db->handle, BUSY_MS);
	sqlite3_db_config(db->handle, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
	sqlite3_db_config(db->handle, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
	result = query_text(db, "PRAGMA journal_mode = WAL", mode, sizeof(mode), e);
	if (result == 0 && strcmp(mode, "wal") != 0)
		return error_set(e, ERROR_SYSTEM, ENOTSUP, NULL,
			"%s: the file system cannot hold a write-ahead log (no shared memory or locks?)", db->path);
	if (result == 0)
		result = query_text(db, "PRAGMA synchronous = FULL", mode, sizeof(mode), e);
	if (result == 0)
		result = present ? database_examine(db, e) : database_create(db, e);
	return result ? result : database_prepare(db, e);
}

int database_open(struct database *db, const char *path, struct error *e)
{
	*db = (struct database){.path = path};
	int result = database_connect(db, e);
	if (result < 0)
		database_close(db, false);
	return result;
}

void database_close(struct database *db, bool clean)
{
	for (int i = 0; i < STATEMENT_COUNT; i++)
		sqlite3_finalize(db->statements[i]);
	if (clean)
		sqlite3_db_config(db->handle, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
	sqlite3_close(db->handle);
	*db = (struct database){.path = db->path};
}

/* ---- rows ---- */

struct row row_start(const struct database *db, enum statement statement)
{
	return (struct row){.db = db, .statement = db->statements[statement], .sum = crc32(0, NULL, 0)};
}

static void row_add(struct row *row, const void *data, size_t size)
{
	row->sum = crc32_z(row->sum, data, size);
}

void row_text(struct row *row, const char *text)
{
	sqlite3_bind_text(row->statement, ++row->column, text, -1, SQLITE_STATIC);
	row_add(row, text, strlen(text) + 1);
}

void row_int(struct row *row, int64_t value)
{
	sqlite3_bind_int64(row->statement, ++row->column, value);
	row_add(row, &value, sizeof(value));
}

void row_sum(struct row *row)
{
	sqlite3_bind_int64(row->statement, ++row->column, row->sum);
}

int row_run(struct row *row, struct error *e)
{
	errno = 0;
	int code = sqlite3_step(row->statement);
	int result = code == SQLITE_DONE || code == SQLITE_ROW ? 0 : database_error(row->db, "writing the state", e);
	row_end(row);
	return result;
}

int row_next(struct row *row, struct error *e)
{
	row->column = 0;
	row->sum = crc32(0, NULL, 0);
	row->bad = false;
	errno = 0;
	int code = sqlite3_step(row->statement);
	if (code == SQLITE_ROW)
		return 1;
	int result = code == SQLITE_DONE ? 0 : database_error(row->db, "reading the state", e);
	row_end(row);
	return result;
}

const char *row_take_text(struct row *row)
{
	int column = row->column++;
	if (sqlite3_column_type(row->statement, column) != SQLITE_TEXT) {
		row->bad = true;
		return "";
	}
	const char *text = (const char *)sqlite3_column_text(row->statement, column);
	if (!text || strlen(text) != (size_t)sqlite3_column_bytes(row->statement, column)) {
		row->bad = true;
		return "";
	}
	row_add(row, text, strlen(text) + 1);
	return text;
}

int64_t row_take_int(struct row *row)
{
	int column = row->column++;
	if (sqlite3_column_type(row->statement, column) != SQLITE_INTEGER)
		row->bad = true;
	int64_t value = sqlite3_column_int64(row->statement, column);
	row_add(row, &value, sizeof(value));
	return value;
}

bool row_take_sum(struct row *row)
{
	if ((unsigned long)sqlite3_column_int64(row->statement, row->column) != row->sum)
		row->bad = true;
	return !row->bad;
}

void row_end(struct row *row)
{
	sqlite3_reset(row->statement);
	sqlite3_clear_bindings(row->statement);
}
