/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/state/snapshot.h"

#include <stdlib.h>
#include <string.h>
#include "agent/base/mem.h"
#include "agent/model/decode.h"
#include "agent/state/private.h"

/* ---- chunks: runs of references, shared by the snapshots that did not change them ---- */

struct chunk *chunk_new(const struct object *const *objects, size_t count)
{
	struct chunk *chunk = mem_alloc(sizeof(*chunk) + count * sizeof(chunk->objects[0]));
	chunk->references = 1;
	chunk->count = count;
	for (size_t i = 0; i < count; i++)
		chunk->objects[i] = object_get(objects[i]);
	return chunk;
}

struct chunk *chunk_get(struct chunk *chunk)
{
	__atomic_add_fetch(&chunk->references, 1, __ATOMIC_RELAXED);
	return chunk;
}

static void chunk_put(struct chunk *chunk)
{
	if (__atomic_sub_fetch(&chunk->references, 1, __ATOMIC_ACQ_REL))
		return;
	for (size_t i = 0; i < chunk->count; i++)
		object_put(chunk->objects[i]);
	free(chunk);
}

/* ---- quarantine ---- */

static void quarantined_clear(struct quarantined *q)
{
	free(q->key.kind);
	free(q->key.namespace);
	free(q->key.name);
	free(q->owner);
	free(q->errors);
	if (q->standing)
		object_put(q->standing);
}

static struct quarantined quarantined_dup(const struct quarantined *from)
{
	return (struct quarantined){
		.key = {str_dup(from->key.kind), str_dup(from->key.namespace), str_dup(from->key.name)},
		.owner = str_dup(from->owner),
		.errors = str_dup(from->errors),
		.standing = from->standing ? object_get(from->standing) : NULL,
		.isolating = from->isolating,
	};
}

int quarantined_compare(const struct quarantined *a, const struct quarantined *b)
{
	int order = strcmp(a->key.kind, b->key.kind);
	if (!order)
		order = strcmp(a->key.namespace, b->key.namespace);
	return order ? order : strcmp(a->key.name, b->key.name);
}

bool quarantined_equal(const struct quarantined *a, const struct quarantined *b)
{
	return quarantined_compare(a, b) == 0 && !strcmp(a->owner, b->owner) && !strcmp(a->errors, b->errors) &&
		   a->isolating == b->isolating && !a->standing == !b->standing &&
		   (!a->standing || object_alike(a->standing, b->standing));
}

struct quarantine *quarantine_new(void)
{
	struct quarantine *quarantine = mem_alloc(sizeof(*quarantine));
	quarantine->references = 1;
	return quarantine;
}

struct quarantine *quarantine_dup(const struct quarantine *from)
{
	struct quarantine *quarantine = quarantine_new();
	quarantine->count = quarantine->capacity = from->count;
	quarantine->list = mem_array(from->count, sizeof(quarantine->list[0]));
	for (size_t i = 0; i < from->count; i++)
		quarantine->list[i] = quarantined_dup(&from->list[i]);
	return quarantine;
}

struct quarantine *quarantine_get(struct quarantine *quarantine)
{
	__atomic_add_fetch(&quarantine->references, 1, __ATOMIC_RELAXED);
	return quarantine;
}

void quarantine_put(struct quarantine *quarantine)
{
	if (__atomic_sub_fetch(&quarantine->references, 1, __ATOMIC_ACQ_REL))
		return;
	for (size_t i = 0; i < quarantine->count; i++)
		quarantined_clear(&quarantine->list[i]);
	free(quarantine->list);
	free(quarantine);
}

/* Where the key is, or belongs. */
static bool quarantine_search(const struct quarantine *quarantine, const struct quarantined *key, size_t *at)
{
	size_t low = 0, high = quarantine->count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		int order = quarantined_compare(&quarantine->list[middle], key);
		if (order == 0) {
			*at = middle;
			return true;
		}
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	*at = low;
	return false;
}

void quarantine_add(struct quarantine *quarantine, const struct quarantined *quarantined)
{
	struct quarantined copy = quarantined_dup(quarantined);
	size_t at;
	if (quarantine_search(quarantine, quarantined, &at)) {
		quarantined_clear(&quarantine->list[at]);
	} else {
		quarantine->list =
			list_room(quarantine->list, quarantine->count, &quarantine->capacity, sizeof(quarantine->list[0]));
		memmove(
			&quarantine->list[at + 1], &quarantine->list[at], (quarantine->count - at) * sizeof(quarantine->list[0]));
		quarantine->count++;
	}
	quarantine->list[at] = copy;
}

bool quarantine_has(const struct quarantine *quarantine, const struct quarantined *key)
{
	size_t at;
	return quarantine_search(quarantine, key, &at);
}

const struct quarantined *snapshot_quarantined(
	const struct snapshot *snapshot, const char *kind, const char *namespace, const char *name)
{
	const struct quarantined key = {.key = {(char *)kind, (char *)namespace, (char *)name}};
	size_t at;
	return quarantine_search(snapshot->quarantine, &key, &at) ? &snapshot->quarantined[at] : NULL;
}

bool quarantine_remove(struct quarantine *quarantine, const struct quarantined *key)
{
	size_t at;
	if (!quarantine_search(quarantine, key, &at))
		return false;
	quarantined_clear(&quarantine->list[at]);
	quarantine->count--;
	memmove(&quarantine->list[at], &quarantine->list[at + 1], (quarantine->count - at) * sizeof(quarantine->list[0]));
	return true;
}

/* ---- snapshots ---- */

struct snapshot *snapshot_new(const char epoch[17])
{
	struct snapshot *snapshot = mem_alloc(sizeof(*snapshot));
	snapshot->references = 1;
	memcpy(snapshot->epoch, epoch, strnlen(epoch, sizeof(snapshot->epoch) - 1));
	snapshot->quarantine = quarantine_new();
	return snapshot;
}

struct snapshot *snapshot_get(const struct snapshot *snapshot)
{
	struct snapshot *shared = (struct snapshot *)snapshot;
	__atomic_add_fetch(&shared->references, 1, __ATOMIC_RELAXED);
	return shared;
}

void snapshot_put(const struct snapshot *snapshot)
{
	struct snapshot *shared = (struct snapshot *)snapshot;
	if (!shared || __atomic_sub_fetch(&shared->references, 1, __ATOMIC_ACQ_REL))
		return;
	for (size_t i = 0; i < shared->chunk_count; i++)
		chunk_put(shared->chunks[i]);
	for (size_t i = 0; i < shared->owner_count; i++)
		free(shared->owners[i].name);
	quarantine_put(shared->quarantine);
	free(shared->chunks);
	free(shared->owners);
	free(shared->objects);
	free(shared);
}

bool object_same(const struct object *a, const struct object *b)
{
	return a == b || (!strcmp(a->owner, b->owner) && !strcmp(a->json, b->json));
}

bool difference_matters(const struct difference *difference)
{
	return !difference->old || !difference->new || !object_alike(difference->old, difference->new);
}

/* The first object that is not before (kind, namespace, name); a NULL text is before, a text of "\xff" behind all. */
size_t snapshot_search(const struct snapshot *snapshot, enum kind kind, const char *namespace, const char *name)
{
	const struct object key = {.kind = kind, .namespace = (char *)namespace, .name = (char *)name};
	size_t low = 0, high = snapshot->object_count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (object_compare(snapshot->objects[middle], &key) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

const struct object *snapshot_find(
	const struct snapshot *snapshot, enum kind kind, const char *namespace, const char *name)
{
	size_t at = snapshot_search(snapshot, kind, namespace, name);
	if (at == snapshot->object_count)
		return NULL;
	const struct object *object = snapshot->objects[at];
	return object->kind == kind && !strcmp(object->namespace, namespace) && !strcmp(object->name, name) ? object : NULL;
}

void snapshot_range(const struct snapshot *snapshot, enum kind kind, const char *namespace, size_t *first, size_t *end)
{
	*first = snapshot_search(snapshot, kind, namespace ? namespace : "", "");
	/* No valid UTF-8 text holds the byte 0xff: it is behind every name. */
	*end = namespace ? snapshot_search(snapshot, kind, namespace, "\xff") : snapshot_search(snapshot, kind + 1, "", "");
}
