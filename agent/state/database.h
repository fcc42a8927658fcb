/* SPDX-License-Identifier: Apache-2.0 */
/* The store's own view of SQLite: schema, prepared statements, rows with a checksum. Nobody else includes it. */
#ifndef PENSTOCK_STATE_DATABASE_H
#define PENSTOCK_STATE_DATABASE_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>
#include "agent/base/error.h"

/* Returned inside this room for a file that is to be set aside. */
#define DATABASE_DAMAGED (-117) /* -EUCLEAN */

/* name, SQL. Every row ends in a CRC-32 of its other columns: a flipped bit in a stored policy is damage, not policy.
 */
#define STATEMENTS(X)                                                                                                 \
	X(BEGIN, "BEGIN IMMEDIATE")                                                                                       \
	X(COMMIT, "COMMIT")                                                                                               \
	X(ROLLBACK, "ROLLBACK")                                                                                           \
	X(META_READ, "SELECT key, value, checksum FROM meta")                                                             \
	X(META_PUT, "INSERT OR REPLACE INTO meta (key, value, checksum) VALUES (?, ?, ?)")                                \
	X(OBJECTS_READ, "SELECT kind, namespace, name, owner, revision, json, checksum FROM objects")                     \
	X(OBJECT_PUT, "INSERT OR REPLACE INTO objects (kind, namespace, name, owner, revision, json, checksum) "          \
				  "VALUES (?, ?, ?, ?, ?, ?, ?)")                                                                     \
	X(OBJECT_DELETE, "DELETE FROM objects WHERE kind = ? AND namespace = ? AND name = ?")                             \
	X(QUARANTINE_READ, "SELECT kind, namespace, name, owner, errors, standing, checksum FROM quarantine")             \
	X(QUARANTINE_PUT, "INSERT OR REPLACE INTO quarantine (kind, namespace, name, owner, errors, standing, checksum) " \
					  "VALUES (?, ?, ?, ?, ?, ?, ?)")                                                                 \
	X(QUARANTINE_DELETE, "DELETE FROM quarantine WHERE kind = ? AND namespace = ? AND name = ?")                      \
	X(OWNERS_READ, "SELECT name, has_term, term, last_write, checksum FROM owners")                                   \
	X(OWNER_PUT, "INSERT OR REPLACE INTO owners (name, has_term, term, last_write, checksum) VALUES (?, ?, ?, ?, ?)") \
	X(OWNER_DELETE, "DELETE FROM owners WHERE name = ?")                                                              \
	X(RULES_READ, "SELECT id, kind, namespace, name, direction, number, rule_name, checksum FROM rules")              \
	X(RULE_PUT, "INSERT OR REPLACE INTO rules (id, kind, namespace, name, direction, number, rule_name, checksum) "   \
				"VALUES (?, ?, ?, ?, ?, ?, ?, ?)")                                                                    \
	X(RULE_DELETE, "DELETE FROM rules WHERE id = ?")                                                                  \
	X(RULES_CLEAR, "DELETE FROM rules")

enum statement {
#define X(name, sql) STATEMENT_##name,
	STATEMENTS(X)
#undef X
		STATEMENT_COUNT
};

struct database {
	sqlite3 *handle;
	sqlite3_stmt *statements[STATEMENT_COUNT];
	const char *path; /* borrowed */
};

/*
 * Opens or creates. DATABASE_DAMAGED with the sentence in e: closed, as it was, to be set aside. A file of a newer
 * build, a locked one, one that cannot be read: another error.
 */
int database_open(struct database *db, const char *path, struct error *e);
/* clean: the log is carried into the file. Otherwise the files stay as they are. */
void database_close(struct database *db, bool clean);
/* The last failure of SQLite as an error; `what` says what was tried. */
int database_error(const struct database *db, const char *what, struct error *e);

/* One row on its way in or out. Columns are passed in order, the checksum last. */
struct row {
	const struct database *db;
	sqlite3_stmt *statement;
	int column;
	unsigned long sum;
	bool bad; /* reading: a column is missing, of another type, or the checksum is wrong */
};
struct row row_start(const struct database *db, enum statement statement);
/* Writing. Texts are borrowed until row_run. */
void row_text(struct row *row, const char *text);
void row_int(struct row *row, int64_t value);
void row_sum(struct row *row);
int row_run(struct row *row, struct error *e);
/* Reading: 1 with a row, 0 at the end, an error otherwise; DATABASE_DAMAGED where the file is. */
int row_next(struct row *row, struct error *e);
const char *row_take_text(struct row *row); /* never NULL; until the next row */
int64_t row_take_int(struct row *row);
bool row_take_sum(struct row *row); /* false: bad */
void row_end(struct row *row);

#endif
