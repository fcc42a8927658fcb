/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state database: SQLite, WAL, synchronous=FULL. One transaction a revision. Used by the applying thread only.
 */
#ifndef PENSTOCK_STORE_H
#define PENSTOCK_STORE_H

#include "agent/compile/compile.h"
#include "agent/state/snapshot.h"

struct store;

/*
 * Takes a lock on the directory (another agent there: ERROR_BUSY naming its pid) and opens DIRECTORY/penstock.db.
 * A damaged file is set aside as penstock.db.damaged-TIME; then *damaged holds the sentence to show (the caller frees)
 * and the store starts empty with a new epoch; otherwise *damaged is NULL. Another failure (no space, no permission):
 * error, nothing touched.
 */
int store_open(const char *directory, struct store **ret, char **damaged, struct error *e);
void store_close(struct store *store);

/* What was persisted last, and the rule identities with it. */
int store_load(struct store *store, struct snapshot **ret, struct rulebook **book, struct error *e);

/* Begin writing `snapshot` (differences against the one before), and the live rules; then commit or roll back. */
int store_stage(struct store *store, const struct snapshot *snapshot, const struct difference *differences,
	size_t count, const struct rulebook *book, struct error *e);
int store_commit(struct store *store, struct error *e); /* durable when it returns 0 */
void store_rollback(struct store *store);
/* Between writes: moves what was committed from the log into the database file once enough has gathered. A commit would
 * do that on its own account, and keep its client waiting for two more fsyncs. Failure is no loss: the log has it all.
 */
void store_tidy(struct store *store);

#endif
