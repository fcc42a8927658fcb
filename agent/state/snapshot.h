/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Everything that is wanted at one revision: immutable, shared by reference count between the applying thread and
 * HTTP's threads.
 */
#ifndef PENSTOCK_SNAPSHOT_H
#define PENSTOCK_SNAPSHOT_H

#include "agent/base/error.h"
#include "agent/model/object.h"

/* An object that could not be used and was set aside (?invalid=quarantine). */
struct quarantined {
	struct object_key_text {
		char *kind, *namespace, *name;
	} key;
	char *owner;
	char *errors;            /* JSON array of {"pointer","detail"} */
	struct object *standing; /* what stands in for it: its last good version, or a policy that isolates, or NULL */
	bool isolating;          /* the latter: there was no good version */
};

struct owner {
	char *name;
	bool has_term;
	uint64_t term;
	int64_t last_write; /* seconds since 1970 */
	size_t objects;
};

struct snapshot {
	uint64_t revision;
	char epoch[17];                /* hex, random per database */
	const struct object **objects; /* sorted by object_compare; one reference each */
	size_t object_count;
	struct quarantined *quarantined; /* sorted by kind, namespace, name; a stand-in is also in `objects` */
	size_t quarantined_count;
	struct owner *owners; /* sorted by name */
	size_t owner_count;
	/* private */
	int references;
	struct chunk **chunks; /* hold the references of `objects`; shared between revisions */
	size_t chunk_count;
	struct quarantine *quarantine; /* holds `quarantined`; shared between revisions */
};

/* Revision 0: nothing is wanted. */
struct snapshot *snapshot_new(const char epoch[17]);
struct snapshot *snapshot_get(const struct snapshot *snapshot);
void snapshot_put(const struct snapshot *snapshot);
const struct object *snapshot_find(
	const struct snapshot *snapshot, enum kind kind, const char *namespace, const char *name);
/* NULL when it is not in quarantine. */
const struct quarantined *snapshot_quarantined(
	const struct snapshot *snapshot, const char *kind, const char *namespace, const char *name);
/* The first object of a kind (and namespace, unless NULL), as an index; and the index behind the last. */
void snapshot_range(const struct snapshot *snapshot, enum kind kind, const char *namespace, size_t *first, size_t *end);

/*
 * A draft is a snapshot under construction by one thread: what changed, over a base that it holds a reference to. A
 * write costs one copy of the pointers and the chunks that it touches, whatever the number of objects.
 */
struct draft;
struct draft *draft_new(const struct snapshot *base);
void draft_free(struct draft *draft);
/* Takes the reference. Replaces an object with the same key. */
void draft_put(struct draft *draft, struct object *object);
bool draft_delete(struct draft *draft, enum kind kind, const char *namespace, const char *name);
const struct object *draft_find(const struct draft *draft, enum kind kind, const char *namespace, const char *name);
/* Copies; replaces the same key. Does not touch the objects: the caller puts the stand-in, or deletes. */
void draft_quarantine(struct draft *draft, const struct quarantined *quarantined);
bool draft_release(
	struct draft *draft, const char *kind, const char *namespace, const char *name);        /* out of quarantine */
void draft_owner(struct draft *draft, const char *name, const uint64_t *term, int64_t now); /* notes a write */
/* Unless objects, quarantine or a term remain, the owner is not listed any more. */
void draft_owner_forget(struct draft *draft, const char *name);
/*
 * What differs from the base; pairs sorted by key; borrowed from draft and base, until the next change of the draft.
 * Equal json and owner is no difference.
 */
struct difference {
	const struct object *old, *new;
};
/* False: nothing but the resourceVersion differs. That is kept, and shown by GET; it is no change, and nobody has to do
 * anything about it. */
bool difference_matters(const struct difference *difference);
size_t draft_differences(struct draft *draft, const struct difference **ret);
bool draft_quarantine_changed(const struct draft *draft);
/*
 * The finished snapshot with this revision. Objects that differ get their revision in place (this one, or that of the
 * old object where the difference does not matter), so nobody else may know them yet. Owners' object counts are made
 * here; an owner without objects, quarantine and term is forgotten, unless it has just written. The draft is freed; the
 * base stays alive as long as the caller's own reference.
 */
struct snapshot *draft_finish(struct draft *draft, uint64_t revision);

#endif
