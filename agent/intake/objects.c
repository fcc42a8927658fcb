/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>
#include "agent/base/mem.h"
#include "agent/intake/private.h"

/* Adds an error when this body named the same object before. What has no name is wrong for that alone. */
bool key_is_first(struct intake *in, const struct object_key *key, const char *pointer, struct errors *errors)
{
	auto_free char *text = str_format("%s/%s/%s", key->kind, key->namespace, key->name);
	uint64_t hashes[2] = {hash_bytes(text, strlen(text), 1), hash_bytes(text, strlen(text), 2)};
	if (!key->kind[0] || !key->name[0])
		return true;
	if (map_get(&in->seen, hashes)) {
		errors_add(errors, ERROR_INVALID, pointer, "%s %s%s%s is here twice", key->kind, key->namespace,
			key->namespace[0] ? "/" : "", key->name);
		return false;
	}
	map_put(&in->seen, hashes, NULL);
	return true;
}

/* As the object itself will have it, once it is valid. */
void key_complete(struct object_key *key)
{
	int kind = kind_by_name(key->kind);
	if (kind >= 0 && !kinds[kind].namespaced)
		key->namespace[0] = '\0';
	else if (kind >= 0 && !key->namespace[0])
		snprintf(key->namespace, sizeof(key->namespace), "default");
}

/* For the answer, with pointers into the body. */
static void set_aside_note(struct intake *in, const struct quarantined *q, const char *errors)
{
	buffer_puts(&in->set_aside, in->set_aside.length ? ",{\"kind\":" : "{\"kind\":");
	buffer_json_string(&in->set_aside, q->key.kind);
	buffer_puts(&in->set_aside, ",\"namespace\":");
	buffer_json_string(&in->set_aside, q->key.namespace);
	buffer_puts(&in->set_aside, ",\"name\":");
	buffer_json_string(&in->set_aside, q->key.name);
	buffer_printf(&in->set_aside, ",\"errors\":%s}", errors);
}

/* Without the prefix, pointers are into the object. */
static char *errors_json(const struct errors *errors, const char *prefix)
{
	struct buffer b = {0};
	size_t length = strlen(prefix);
	buffer_puts(&b, "[");
	for (size_t i = 0; i < errors->count; i++) {
		buffer_puts(&b, i ? ",{\"pointer\":" : "{\"pointer\":");
		const char *path = errors->list[i].path;
		buffer_json_string(&b, strncmp(path, prefix, length) ? path : path + length);
		buffer_puts(&b, ",\"detail\":");
		buffer_json_string(&b, errors->list[i].detail);
		buffer_puts(&b, "}");
	}
	buffer_puts(&b, "]");
	return buffer_take(&b);
}

/*
 * Notes what is set aside and what stands in for it: takes the reference. What is remembered says nothing of the place
 * in the body: the same object elsewhere in the next body is no change.
 */
static void set_aside(struct intake *in, const struct refusal *refusal, struct object *standing, bool isolating)
{
	const struct object_key *key = refusal->key;
	auto_free char *errors = errors_json(refusal->why, refusal->pointer), *answer = errors_json(refusal->why, "");
	struct quarantined q = {
		.key = {(char *)key->kind, (char *)key->namespace, (char *)key->name},
		.owner = in->call->owner,
		.errors = errors,
		.standing = standing,
		.isolating = isolating,
	};
	draft_quarantine(in->draft, &q);
	set_aside_note(in, &q, answer);
	if (standing)
		draft_put(in->draft, standing);
}

/*
 * What cannot be used is set aside. In its place stands
 *   1. its last good version, else
 *   2. of a NetworkPolicy, one that isolates what it selects, else
 *   3. nothing.
 */
void object_set_aside(struct intake *in, const struct refusal *refusal, const struct object *partial)
{
	const struct object_key *key = refusal->key;
	int kind = kind_by_name(key->kind);
	const struct object *last = kind < 0 ? NULL : snapshot_find(in->base, kind, key->namespace, key->name);
	const struct quarantined *before = snapshot_quarantined(in->base, key->kind, key->namespace, key->name);
	bool isolating = last && before && before->isolating;
	if (last && !(isolating && partial)) { /* 1; or an isolating one of which nothing newer can be read */
		set_aside(in, refusal, object_with(last, in->call->owner, last->revision), isolating);
	} else if (partial) { /* 2 */
		set_aside(in, refusal, object_with(partial, in->call->owner, 0), true);
	} else { /* 3 */
		if (kind >= 0)
			draft_delete(in->draft, kind, key->namespace, key->name);
		set_aside(in, refusal, NULL, false);
	}
}

/* The same key once more: what the first one brought stays. */
static void double_set_aside(struct intake *in, const struct refusal *refusal)
{
	const struct object_key *key = refusal->key;
	int kind = kind_by_name(key->kind);
	const struct object *first = kind < 0 ? NULL : draft_find(in->draft, kind, key->namespace, key->name);
	set_aside(in, refusal, first ? object_get(first) : NULL, false);
}

static void object_take(struct intake *in, const char *pointer, struct object *object)
{
	struct object *owned = object_with(object, in->call->owner, 0);
	whole_items_add(&in->items, owned, pointer);
	draft_release(in->draft, kinds[owned->kind].kind, owned->namespace, owned->name);
	draft_put(in->draft, owned);
}

void intake_object(struct intake *in, const json_t *json, const struct object_key *key, const char *pointer)
{
	if (!owner_allows(in, pointer, key))
		return;

	struct object *object = NULL, *partial = NULL;
	struct errors own = {0};
	struct refusal refusal = {key, pointer, &own};
	bool first = key_is_first(in, key, pointer, &own);
	if (object_decode(json, pointer, &object, &partial, &own) == 0 && first)
		object_take(in, pointer, object);
	else if (!in->call->quarantine)
		for (size_t i = 0; i < own.count; i++)
			errors_add_error(in->errors, &own.list[i]);
	else if (first)
		object_set_aside(in, &refusal, partial);
	else
		double_set_aside(in, &refusal);
	if (object)
		object_put(object);
	if (partial)
		object_put(partial);
	errors_clear(&own);
}

void intake_items(struct intake *in, const struct body_items *items, const char *prefix)
{
	for (size_t i = 0; i < items->count; i++) {
		char pointer[64];
		json_t *json = NULL;
		struct error e = {0};
		snprintf(pointer, sizeof(pointer), "%s/%zu", prefix, i);
		if (body_item_parse(&items->list[i], pointer, &json, &e) < 0) {
			errors_add_error(in->errors, &e);
			continue;
		}
		struct object_key key;
		object_key_read(json, &key);
		key_complete(&key);
		intake_object(in, json, &key, pointer);
		json_decref(json);
	}
}
