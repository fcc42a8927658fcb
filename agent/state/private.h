/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of this room share about snapshots, and nobody else needs. */
#ifndef PENSTOCK_STATE_PRIVATE_H
#define PENSTOCK_STATE_PRIVATE_H

#include "agent/state/snapshot.h"

/* About this many objects a chunk: a write of one object copies so many references, and a pointer per chunk. */
#define CHUNK_OBJECTS 128
struct chunk {
	int references;
	size_t count;
	const struct object *objects[];
};
struct chunk *chunk_new(const struct object *const *objects, size_t count); /* takes references of its own */
struct chunk *chunk_get(struct chunk *chunk);

struct quarantine {
	int references;
	struct quarantined *list;
	size_t count, capacity;
};
struct quarantine *quarantine_new(void);
struct quarantine *quarantine_dup(const struct quarantine *from);
struct quarantine *quarantine_get(struct quarantine *quarantine);
void quarantine_put(struct quarantine *quarantine);
/* Only while nobody else has a reference. Of the key only kind, namespace and name are read. */
void quarantine_add(struct quarantine *quarantine, const struct quarantined *quarantined);
bool quarantine_remove(struct quarantine *quarantine, const struct quarantined *key);
bool quarantine_has(const struct quarantine *quarantine, const struct quarantined *key);
int quarantined_compare(const struct quarantined *a, const struct quarantined *b);
bool quarantined_equal(const struct quarantined *a, const struct quarantined *b);

/* Equal json and owner: no difference. */
bool object_same(const struct object *a, const struct object *b);
/* The first object that is not before the key. */
size_t snapshot_search(const struct snapshot *snapshot, enum kind kind, const char *namespace, const char *name);

/* draft_finish without giving changed objects the revision: they come from the database and have theirs. */
struct snapshot *draft_complete(struct draft *draft, uint64_t revision);

#endif
