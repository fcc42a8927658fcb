/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>
#include "agent/base/map.h"
#include "agent/base/mem.h"
#include "agent/state/private.h"

/* One key that the draft touched. */
struct entry {
	const struct object *old; /* in the base, borrowed; or NULL */
	struct object *new;       /* one reference; NULL: deleted */
	size_t at;                /* of old in the base, or where new belongs */
};

struct note {
	char *name;
	bool has_term;
	uint64_t term;
	int64_t at;
	bool forget;
};

struct draft {
	struct snapshot *base;
	struct entry *entries;
	size_t entry_count, entry_capacity;
	struct names index; /* key text → position in entries, plus one */
	struct quarantine *quarantine;
	bool quarantine_own; /* a copy, not the base's */
	struct note *notes;
	size_t note_count, note_capacity;
	/* made on demand, gone with the next change */
	const struct entry **changed; /* sorted by key */
	struct difference *differences;
	size_t changed_count;
};

struct draft *draft_new(const struct snapshot *base)
{
	struct draft *draft = mem_alloc(sizeof(*draft));
	draft->base = snapshot_get(base);
	draft->quarantine = quarantine_get(base->quarantine);
	return draft;
}

static void draft_touched(struct draft *draft)
{
	free(draft->changed);
	free(draft->differences);
	draft->changed = NULL;
	draft->differences = NULL;
}

void draft_free(struct draft *draft)
{
	if (!draft)
		return;
	draft_touched(draft);
	for (size_t i = 0; i < draft->entry_count; i++)
		if (draft->entries[i].new)
			object_put(draft->entries[i].new);
	for (size_t i = 0; i < draft->note_count; i++)
		free(draft->notes[i].name);
	free(draft->entries);
	free(draft->notes);
	names_clear(&draft->index);
	quarantine_put(draft->quarantine);
	snapshot_put(draft->base);
	free(draft);
}

/* ---- objects ---- */

static struct entry *entry_find(const struct draft *draft, enum kind kind, const char *namespace, const char *name)
{
	if (!draft->entry_count)
		return NULL;
	auto_free char *key = str_format("%d/%s/%s", kind, namespace, name);
	size_t place = (size_t)names_get(&draft->index, key);
	return place ? &draft->entries[place - 1] : NULL;
}

static struct entry *entry_make(struct draft *draft, enum kind kind, const char *namespace, const char *name)
{
	struct entry *entry = entry_find(draft, kind, namespace, name);
	if (entry)
		return entry;
	draft->entries = list_room(draft->entries, draft->entry_count, &draft->entry_capacity, sizeof(*draft->entries));
	entry = &draft->entries[draft->entry_count++];
	*entry = (struct entry){.at = snapshot_search(draft->base, kind, namespace, name)};
	if (entry->at < draft->base->object_count) {
		const struct object *object = draft->base->objects[entry->at];
		if (object->kind == kind && !strcmp(object->namespace, namespace) && !strcmp(object->name, name))
			entry->old = object;
	}
	auto_free char *key = str_format("%d/%s/%s", kind, namespace, name);
	names_put(&draft->index, key, (void *)draft->entry_count);
	return entry;
}

void draft_put(struct draft *draft, struct object *object)
{
	struct entry *entry = entry_make(draft, object->kind, object->namespace, object->name);
	draft_touched(draft);
	if (entry->new)
		object_put(entry->new);
	entry->new = object;
}

bool draft_delete(struct draft *draft, enum kind kind, const char *namespace, const char *name)
{
	if (!draft_find(draft, kind, namespace, name))
		return false;
	struct entry *entry = entry_make(draft, kind, namespace, name);
	draft_touched(draft);
	if (entry->new)
		object_put(entry->new);
	entry->new = NULL;
	return true;
}

const struct object *draft_find(const struct draft *draft, enum kind kind, const char *namespace, const char *name)
{
	const struct entry *entry = entry_find(draft, kind, namespace, name);
	return entry ? entry->new : snapshot_find(draft->base, kind, namespace, name);
}

static const struct object *entry_object(const struct entry *entry)
{
	return entry->new ? entry->new : entry->old;
}

static bool entry_differs(const struct entry *entry)
{
	if (!entry->old || !entry->new)
		return entry->old || entry->new;
	return !object_same(entry->old, entry->new);
}

static int entry_order(const void *a, const void *b)
{
	return object_compare(entry_object(*(const struct entry *const *)a), entry_object(*(const struct entry *const *)b));
}

size_t draft_differences(struct draft *draft, const struct difference **ret)
{
	if (!draft->changed) {
		draft->changed = mem_array(draft->entry_count, sizeof(*draft->changed));
		draft->changed_count = 0;
		for (size_t i = 0; i < draft->entry_count; i++)
			if (entry_differs(&draft->entries[i]))
				draft->changed[draft->changed_count++] = &draft->entries[i];
		qsort(draft->changed, draft->changed_count, sizeof(*draft->changed), entry_order);
		draft->differences = mem_array(draft->changed_count, sizeof(*draft->differences));
		for (size_t i = 0; i < draft->changed_count; i++)
			draft->differences[i] = (struct difference){draft->changed[i]->old, draft->changed[i]->new};
	}
	*ret = draft->differences;
	return draft->changed_count;
}

/* ---- quarantine ---- */

static void quarantine_unshare(struct draft *draft)
{
	if (draft->quarantine_own)
		return;
	struct quarantine *own = quarantine_dup(draft->quarantine);
	quarantine_put(draft->quarantine);
	draft->quarantine = own;
	draft->quarantine_own = true;
}

void draft_quarantine(struct draft *draft, const struct quarantined *quarantined)
{
	quarantine_unshare(draft);
	quarantine_add(draft->quarantine, quarantined);
}

bool draft_release(struct draft *draft, const char *kind, const char *namespace, const char *name)
{
	const struct quarantined key = {.key = {(char *)kind, (char *)namespace, (char *)name}};
	if (!quarantine_has(draft->quarantine, &key))
		return false;
	quarantine_unshare(draft);
	return quarantine_remove(draft->quarantine, &key);
}

bool draft_quarantine_changed(const struct draft *draft)
{
	const struct quarantine *before = draft->base->quarantine, *now = draft->quarantine;
	if (before == now)
		return false;
	if (before->count != now->count)
		return true;
	for (size_t i = 0; i < now->count; i++)
		if (!quarantined_equal(&before->list[i], &now->list[i]))
			return true;
	return false;
}

/* ---- owners ---- */

void draft_owner(struct draft *draft, const char *name, const uint64_t *term, int64_t now)
{
	draft->notes = list_room(draft->notes, draft->note_count, &draft->note_capacity, sizeof(*draft->notes));
	draft->notes[draft->note_count++] =
		(struct note){.name = str_dup(name), .has_term = term, .term = term ? *term : 0, .at = now};
}

void draft_owner_forget(struct draft *draft, const char *name)
{
	draft->notes = list_room(draft->notes, draft->note_count, &draft->note_capacity, sizeof(*draft->notes));
	draft->notes[draft->note_count++] = (struct note){.name = str_dup(name), .forget = true};
}

struct owner_list {
	struct owner *list;
	size_t count, capacity;
	size_t last; /* where the one before was found: objects of one owner come in runs */
};

static struct owner *owner_make(struct owner_list *owners, const char *name)
{
	if (owners->last < owners->count && !strcmp(owners->list[owners->last].name, name))
		return &owners->list[owners->last];
	size_t at = 0;
	while (at < owners->count && strcmp(owners->list[at].name, name) < 0)
		at++;
	owners->last = at;
	if (at == owners->count || strcmp(owners->list[at].name, name)) {
		owners->list = list_room(owners->list, owners->count, &owners->capacity, sizeof(*owners->list));
		memmove(&owners->list[at + 1], &owners->list[at], (owners->count - at) * sizeof(*owners->list));
		owners->count++;
		owners->list[at] = (struct owner){.name = str_dup(name)};
	}
	return &owners->list[at];
}

static const struct note *owner_noted(const struct draft *draft, const char *name)
{
	for (size_t i = 0; i < draft->note_count; i++)
		if (!strcmp(draft->notes[i].name, name))
			return &draft->notes[i];
	return NULL;
}

static bool owner_quarantines(const struct quarantine *quarantine, const char *name)
{
	for (size_t i = 0; i < quarantine->count; i++)
		if (!strcmp(quarantine->list[i].owner, name))
			return true;
	return false;
}

static size_t owner_count_before(const struct draft *draft, const char *name)
{
	for (size_t i = 0; i < draft->base->owner_count; i++)
		if (!strcmp(draft->base->owners[i].name, name))
			return draft->base->owners[i].objects;
	return 0;
}

/* An owner whose last object went without a write of its own (DELETE /v1/owners, force=true of another) is forgotten,
 * unless a term has to be remembered. One that writes an empty state stays. */
static void owners_make(const struct draft *draft, struct snapshot *snapshot)
{
	const struct snapshot *base = draft->base;
	struct owner_list owners = {0};
	for (size_t i = 0; i < base->owner_count; i++) {
		struct owner *owner = owner_make(&owners, base->owners[i].name);
		char *name = owner->name;
		*owner = base->owners[i];
		owner->name = name;
	}
	for (size_t i = 0; i < draft->note_count; i++) {
		const struct note *note = &draft->notes[i];
		if (note->forget)
			continue;
		struct owner *owner = owner_make(&owners, note->name);
		owner->last_write = note->at;
		if (note->has_term) {
			owner->has_term = true;
			owner->term = note->term;
		}
	}
	for (size_t i = 0; i < draft->changed_count; i++) {
		if (draft->differences[i].old)
			owner_make(&owners, draft->differences[i].old->owner)->objects--;
		if (draft->differences[i].new)
			owner_make(&owners, draft->differences[i].new->owner)->objects++;
	}
	snapshot->owners = mem_array(owners.count, sizeof(*snapshot->owners));
	for (size_t i = 0; i < owners.count; i++) {
		const struct owner *owner = &owners.list[i];
		const struct note *note = owner_noted(draft, owner->name);
		bool ends = note ? note->forget : owner_count_before(draft, owner->name) > 0;
		if (ends && !owner->objects && !owner->has_term && !owner_quarantines(snapshot->quarantine, owner->name))
			free(owner->name);
		else
			snapshot->owners[snapshot->owner_count++] = *owner;
	}
	free(owners.list);
}

/* ---- the finished snapshot ---- */

struct builder {
	struct snapshot *snapshot;
	size_t chunk_capacity;
	size_t open; /* first object that is in no chunk yet */
};

static void builder_chunk(struct builder *b, struct chunk *chunk)
{
	struct snapshot *s = b->snapshot;
	s->chunks = list_room(s->chunks, s->chunk_count, &b->chunk_capacity, sizeof(*s->chunks));
	s->chunks[s->chunk_count++] = chunk;
}

/* Cuts what is open into chunks of about the same size. */
static void builder_close(struct builder *b)
{
	struct snapshot *s = b->snapshot;
	size_t count = s->object_count - b->open;
	size_t pieces = count > 2 * CHUNK_OBJECTS ? (count + CHUNK_OBJECTS - 1) / CHUNK_OBJECTS : count > 0;
	for (size_t i = 0; i < pieces; i++) {
		size_t first = count * i / pieces, end = count * (i + 1) / pieces;
		builder_chunk(b, chunk_new(&s->objects[b->open + first], end - first));
	}
	b->open = s->object_count;
}

static void objects_make(const struct draft *draft, struct snapshot *snapshot)
{
	const struct snapshot *base = draft->base;
	struct builder b = {.snapshot = snapshot};
	size_t next = 0, start = 0;

	snapshot->objects = mem_array(base->object_count + draft->changed_count, sizeof(*snapshot->objects));
	for (size_t i = 0; i < base->chunk_count; i++) {
		struct chunk *chunk = base->chunks[i];
		size_t end = start + chunk->count, open = snapshot->object_count - b.open;
		bool touched = next < draft->changed_count && (draft->changed[next]->at < end || i + 1 == base->chunk_count);
		if (!touched && (open == 0 || open >= CHUNK_OBJECTS / 4)) {
			builder_close(&b);
			memcpy(&snapshot->objects[snapshot->object_count], chunk->objects, chunk->count * sizeof(*chunk->objects));
			snapshot->object_count += chunk->count;
			b.open = snapshot->object_count;
			builder_chunk(&b, chunk_get(chunk));
			start = end;
			continue;
		}
		/* Changed, or behind so few that they would make a tiny chunk: merged one by one. */
		for (size_t at = start; at < end; at++) {
			bool replaced = false;
			for (; next < draft->changed_count && draft->changed[next]->at == at && !replaced; next++) {
				const struct entry *entry = draft->changed[next];
				replaced = entry->old;
				if (entry->new)
					snapshot->objects[snapshot->object_count++] = entry->new;
			}
			if (!replaced)
				snapshot->objects[snapshot->object_count++] = base->objects[at];
		}
		start = end;
	}
	for (; next < draft->changed_count; next++)
		snapshot->objects[snapshot->object_count++] = draft->changed[next]->new;
	builder_close(&b);
}

/* A stand-in that equals what stood there before is the same object. */
static void quarantine_settle(struct draft *draft, struct snapshot *snapshot)
{
	struct quarantine *quarantine = draft_quarantine_changed(draft) ? draft->quarantine : draft->base->quarantine;
	quarantine_put(snapshot->quarantine);
	snapshot->quarantine = quarantine_get(quarantine);
	snapshot->quarantined = quarantine->list;
	snapshot->quarantined_count = quarantine->count;
	for (size_t i = 0; quarantine == draft->quarantine && draft->quarantine_own && i < quarantine->count; i++) {
		struct quarantined *q = &quarantine->list[i];
		int kind = kind_by_name(q->key.kind);
		if (!q->standing || kind < 0)
			continue;
		const struct object *object = snapshot_find(snapshot, kind, q->key.namespace, q->key.name);
		if (!object || object == q->standing)
			continue;
		object_put(q->standing);
		q->standing = object_get(object);
	}
}

struct snapshot *draft_complete(struct draft *draft, uint64_t revision)
{
	const struct difference *differences;
	draft_differences(draft, &differences);
	struct snapshot *snapshot = snapshot_new(draft->base->epoch);
	snapshot->revision = revision;
	objects_make(draft, snapshot);
	quarantine_settle(draft, snapshot);
	owners_make(draft, snapshot);
	draft_free(draft);
	return snapshot;
}

struct snapshot *draft_finish(struct draft *draft, uint64_t revision)
{
	const struct difference *differences;
	size_t count = draft_differences(draft, &differences);
	for (size_t i = 0; i < count; i++) {
		const struct difference *d = &differences[i];
		if (d->new)
			((struct object *)d->new)->revision = difference_matters(d) ? revision : d->old->revision;
	}
	return draft_complete(draft, revision);
}
