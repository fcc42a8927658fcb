/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/intake.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include "agent/base/buffer.h"
#include "agent/base/gzip.h"
#include "agent/base/map.h"
#include "agent/base/mem.h"
#include "agent/model/body.h"
#include "agent/model/decode.h"
#include "agent/precondition.h"
#include "agent/whole.h"

/* One write being read. */
struct intake {
	const struct call *call;
	const struct snapshot *base;
	struct draft *draft;
	struct errors *errors;
	struct whole_items items; /* what the body brought, with pointers */
	struct map seen;          /* key text hash set, for duplicates */
	struct buffer set_aside;
};

static int intake_body(const struct call *call, uint64_t body_max, struct buffer *inflated, const char **text,
	size_t *length, struct error *e)
{
	*text = call->body ? call->body : "";
	*length = call->body_length;
	if (!call->gzip)
		return 0;
	int result = gzip_inflate(call->body, call->body_length, body_max, inflated, e);
	if (result < 0)
		return result;
	*text = inflated->data ? inflated->data : "";
	*length = inflated->length;
	return 0;
}

/* ---- ownership ---- */

/* An object in quarantine has its owner also when nothing stands in for it. */
static bool owner_allows(struct intake *in, const char *pointer, const struct object_key *key)
{
	int kind = kind_by_name(key->kind);
	const struct object *object = kind < 0 ? NULL : snapshot_find(in->base, kind, key->namespace, key->name);
	const struct quarantined *aside =
		kind < 0 || object ? NULL : snapshot_quarantined(in->base, key->kind, key->namespace, key->name);
	const char *owner = object ? object->owner : aside ? aside->owner : NULL;
	if (!owner || in->call->force || strcmp(owner, in->call->owner) == 0)
		return true;
	errors_add(in->errors, ERROR_CONFLICT, pointer, "%s %s%s%s belongs to owner \"%s\"; force=true takes it over",
		key->kind, key->namespace, key->namespace[0] ? "/" : "", key->name, owner);
	return false;
}

/* Whose objects it is about: DELETE /v1/owners/{name} names them in its path. */
static const char *owner_written(const struct call *call)
{
	return call->verb == CALL_DELETE_OWNER ? call->name : call->owner;
}

static int owner_term(struct intake *in)
{
	const char *written = owner_written(in->call);
	if (!in->call->has_term)
		return 0;
	for (size_t i = 0; i < in->base->owner_count; i++) {
		const struct owner *owner = &in->base->owners[i];
		if (strcmp(owner->name, written) || !owner->has_term || owner->term <= in->call->term)
			continue;
		errors_add(in->errors, ERROR_CONFLICT, "",
			"owner \"%s\" has written with term %" PRIu64 "; %" PRIu64 " is an old one", owner->name, owner->term,
			in->call->term);
		return -EINVAL;
	}
	return 0;
}

static bool owner_term_moves(const struct intake *in)
{
	const char *written = owner_written(in->call);
	if (!in->call->has_term)
		return false;
	for (size_t i = 0; i < in->base->owner_count; i++)
		if (!strcmp(in->base->owners[i].name, written))
			return !in->base->owners[i].has_term || in->base->owners[i].term != in->call->term;
	return true;
}

/* ---- objects ---- */

/* Adds an error when this body named the same object before. What has no name is wrong for that alone. */
static bool key_is_first(struct intake *in, const struct object_key *key, const char *pointer, struct errors *errors)
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
static void key_complete(struct object_key *key)
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

/* What is wrong with one object of the body, and where that stood. */
struct refusal {
	const struct object_key *key;
	const char *pointer;
	const struct errors *why;
};

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
static void object_set_aside(struct intake *in, const struct refusal *refusal, const struct object *partial)
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

static void intake_object(struct intake *in, const json_t *json, const struct object_key *key, const char *pointer)
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

static void intake_items(struct intake *in, const struct body_items *items, const char *prefix)
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

/* ---- verbs ---- */

static int put_state(struct intake *in, const char *body, size_t length, struct error *e)
{
	struct body_items items = {0};
	int result = body_split(body, length, in->call->ndjson ? BODY_NDJSON : BODY_JSON, "items", 1, &items, e);
	if (result < 0)
		return result;
	/* Exactly these objects are wanted of this owner: first everything of it goes, then comes what the body has. */
	for (size_t i = 0; i < in->base->object_count; i++) {
		const struct object *o = in->base->objects[i];
		if (!strcmp(o->owner, in->call->owner))
			draft_delete(in->draft, o->kind, o->namespace, o->name);
	}
	for (size_t i = 0; i < in->base->quarantined_count; i++) {
		const struct quarantined *q = &in->base->quarantined[i];
		if (!strcmp(q->owner, in->call->owner))
			draft_release(in->draft, q->key.kind, q->key.namespace, q->key.name);
	}
	intake_items(in, &items, in->call->ndjson ? "" : "/items");
	body_items_free(&items);
	return 0;
}

/* What is wrong with one member of a key, as an error at its own place. */
static void key_member(
	struct intake *in, const json_t *entry, const char *pointer, const char *member, char *ret, size_t size)
{
	const json_t *value = json_object_get(entry, member);
	ret[0] = '\0';
	if (json_is_string(value)) {
		snprintf(ret, size, "%s", json_string_value(value));
	} else if (value && !json_is_null(value)) {
		auto_free char *path = str_format("%s/%s", pointer, member);
		errors_add(in->errors, ERROR_INVALID, path, "expected a string");
	}
}

static void delete_member_unknown(struct intake *in, const char *pointer, const char *member)
{
	struct buffer path = {0};
	buffer_printf(&path, "%s/", pointer);
	for (; *member && path.length < 200; member++)
		buffer_printf(&path, *member == '~' ? "~0" : *member == '/' ? "~1" : "%c", *member);
	errors_add(in->errors, ERROR_INVALID, path.data, "unknown field: kind, namespace and name are wanted");
	buffer_free(&path);
}

/* 0 and the key, or -EINVAL with every error of the entry. */
static int delete_key_read(struct intake *in, const json_t *entry, const char *pointer, struct object_key *ret)
{
	size_t before = in->errors->total;
	const char *member;
	json_t *value;
	if (!json_is_object(entry)) {
		errors_add(in->errors, ERROR_INVALID, pointer, "expected an object with kind, namespace and name");
		return -EINVAL;
	}
	json_object_foreach((json_t *)entry, member, value)
	{
		if (strcmp(member, "kind") && strcmp(member, "namespace") && strcmp(member, "name"))
			delete_member_unknown(in, pointer, member);
	}
	key_member(in, entry, pointer, "kind", ret->kind, sizeof(ret->kind));
	key_member(in, entry, pointer, "namespace", ret->namespace, sizeof(ret->namespace));
	key_member(in, entry, pointer, "name", ret->name, sizeof(ret->name));
	if (in->errors->total > before)
		return -EINVAL;

	auto_free char *kind_path = str_format("%s/kind", pointer), *name_path = str_format("%s/name", pointer);
	auto_free char *namespace_path = str_format("%s/namespace", pointer);
	int kind = kind_by_name(ret->kind);
	if (!ret->kind[0])
		errors_add(in->errors, ERROR_INVALID, kind_path, "is required");
	else if (kind < 0)
		errors_add(in->errors, ERROR_INVALID, kind_path, "\"%s\" is not a kind that is accepted", ret->kind);
	else if (!kinds[kind].namespaced && ret->namespace[0])
		errors_add(
			in->errors, ERROR_INVALID, namespace_path, "must be absent: a %s belongs to no namespace", ret->kind);
	if (!ret->name[0])
		errors_add(in->errors, ERROR_INVALID, name_path, "is required");
	return in->errors->total > before ? -EINVAL : 0;
}

static void patch_delete(struct intake *in, const json_t *entry, const char *pointer)
{
	struct object_key key;
	if (delete_key_read(in, entry, pointer, &key) < 0)
		return;
	key_complete(&key);
	if (!key_is_first(in, &key, pointer, in->errors) || !owner_allows(in, pointer, &key))
		return;
	draft_delete(in->draft, kind_by_name(key.kind), key.namespace, key.name);
	draft_release(in->draft, key.kind, key.namespace, key.name);
}

static int patch_members_check(const char *body, size_t length, struct errors *errors)
{
	static const char *const known[] = {"apply", "delete"};
	struct body_member *members = NULL;
	size_t count = 0;
	struct error e = {0};
	int result = body_members(body, length, &members, &count, &e);
	if (result < 0) {
		errors_add_error(errors, &e);
		return result;
	}
	bool found = false;
	for (size_t i = 0; i < count; i++) {
		bool is_known = false;
		for (size_t k = 0; k < 2; k++)
			is_known |= !strcmp(members[i].name, known[k]);
		found |= is_known;
		if (!is_known) {
			char pointer[80];
			snprintf(pointer, sizeof(pointer), "/%.64s", members[i].name);
			errors_add(errors, ERROR_INVALID, pointer, "unknown field: \"apply\" and \"delete\" are wanted");
		}
	}
	if (!found && count == 0)
		errors_add(errors, ERROR_INVALID, "", "\"apply\" or \"delete\" is wanted");
	free(members);
	return errors->total ? -EINVAL : 0;
}

static int patch_state(struct intake *in, const char *body, size_t length, struct error *e)
{
	if (patch_members_check(body, length, in->errors) < 0)
		return 0;
	struct body_items apply = {0}, delete = {0};
	if (body_split(body, length, BODY_JSON, "apply", 0, &apply, e) < 0)
		errors_add_error(in->errors, e);
	else if (body_split(body, length, BODY_JSON, "delete", 0, &delete, e) < 0)
		errors_add_error(in->errors, e);
	intake_items(in, &apply, "/apply");
	for (size_t i = 0; i < delete.count; i++) {
		char pointer[64];
		json_t *json = NULL;
		snprintf(pointer, sizeof(pointer), "/delete/%zu", i);
		if (body_item_parse(&delete.list[i], pointer, &json, e) < 0) {
			errors_add_error(in->errors, e);
			continue;
		}
		patch_delete(in, json, pointer);
		json_decref(json);
	}
	body_items_free(&apply);
	body_items_free(&delete);
	return 0;
}

static void path_agrees(struct intake *in, const struct object_key *key)
{
	const struct call *call = in->call;
	if (key->name[0] && strcmp(key->name, call->name))
		errors_add(in->errors, ERROR_INVALID, "/metadata/name", "the path says \"%s\", the body \"%s\"", call->name,
			key->name);
	if (kinds[call->kind].namespaced && key->namespace[0] && strcmp(key->namespace, call->namespace))
		errors_add(in->errors, ERROR_INVALID, "/metadata/namespace", "the path says \"%s\", the body \"%s\"",
			call->namespace, key->namespace);
}

/* Absent, null and "" are the same, as everywhere in Kubernetes. */
static bool is_left_out(const json_t *value)
{
	return !value || json_is_null(value) || (json_is_string(value) && !json_string_length(value));
}

/* The path fills in what the body leaves out. */
static void path_completes(const struct call *call, json_t *json)
{
	if (is_left_out(json_object_get(json, "metadata")))
		json_object_set_new(json, "metadata", json_object());
	json_t *metadata = json_object_get(json, "metadata");
	if (!json_is_object(metadata))
		return;
	if (is_left_out(json_object_get(metadata, "name")))
		json_object_set_new(metadata, "name", json_string(call->name));
	if (kinds[call->kind].namespaced && is_left_out(json_object_get(metadata, "namespace")))
		json_object_set_new(metadata, "namespace", json_string(call->namespace));
}

static void path_key(const struct call *call, struct object_key *ret)
{
	snprintf(ret->kind, sizeof(ret->kind), "%s", kinds[call->kind].kind);
	snprintf(ret->namespace, sizeof(ret->namespace), "%s", call->namespace);
	snprintf(ret->name, sizeof(ret->name), "%s", call->name);
}

static void put_object_read(struct intake *in, json_t *json)
{
	struct object_key key;
	if (!json_is_object(json)) {
		errors_add(in->errors, ERROR_INVALID, "", "expected an object");
		return;
	}
	object_key_read(json, &key);
	bool same_kind = !key.kind[0] || !strcmp(key.kind, kinds[in->call->kind].kind);
	if (!same_kind)
		errors_add(
			in->errors, ERROR_INVALID, "/kind", "the path says %s, the body %s", kinds[in->call->kind].kind, key.kind);
	path_agrees(in, &key);
	path_completes(in->call, json);
	path_key(in->call, &key);
	if (same_kind)
		intake_object(in, json, &key, "");
}

static int put_object(struct intake *in, const char *body, size_t length, struct error *e)
{
	struct body_item item = {body, length};
	json_t *json = NULL;
	int result = body_check(body, length, e);
	if (result == 0)
		result = body_item_parse(&item, "", &json, e);
	if (result == 0)
		put_object_read(in, json);
	json_decref(json);
	return result;
}

static void delete_object(struct intake *in)
{
	const struct call *call = in->call;
	struct object_key key;
	path_key(call, &key);
	if (!owner_allows(in, "", &key))
		return;
	bool released = draft_release(in->draft, key.kind, call->namespace, call->name);
	if (!draft_delete(in->draft, call->kind, call->namespace, call->name) && !released)
		errors_add(in->errors, ERROR_NOT_FOUND, "", "there is no %s %s%s%s", key.kind, call->namespace,
			call->namespace[0] ? "/" : "", call->name);
}

static void delete_owner(struct intake *in)
{
	bool known = false;
	for (size_t i = 0; i < in->base->owner_count; i++)
		known |= !strcmp(in->base->owners[i].name, in->call->name);
	if (!known) {
		errors_add(in->errors, ERROR_NOT_FOUND, "", "there is no owner \"%s\"", in->call->name);
		return;
	}
	for (size_t i = 0; i < in->base->object_count; i++) {
		const struct object *o = in->base->objects[i];
		if (!strcmp(o->owner, in->call->name))
			draft_delete(in->draft, o->kind, o->namespace, o->name);
	}
	for (size_t i = 0; i < in->base->quarantined_count; i++) {
		const struct quarantined *q = &in->base->quarantined[i];
		if (!strcmp(q->owner, in->call->name))
			draft_release(in->draft, q->key.kind, q->key.namespace, q->key.name);
	}
}

static void intake_verb(struct intake *in, const char *body, size_t length)
{
	struct error e = {0};
	int result = 0;
	switch (in->call->verb) {
	case CALL_PUT_STATE:
		result = put_state(in, body, length, &e);
		break;
	case CALL_PATCH_STATE:
		result = patch_state(in, body, length, &e);
		break;
	case CALL_PUT_OBJECT:
		result = put_object(in, body, length, &e);
		break;
	case CALL_DELETE_OBJECT:
		delete_object(in);
		break;
	case CALL_PATCH_CIDR_SET:
		errors_add(in->errors, ERROR_INVALID, "", "CIDRSet is not enforced by this build");
		break;
	case CALL_DELETE_OWNER:
		delete_owner(in);
		break;
	}
	if (result < 0)
		errors_add_error(in->errors, &e);
}

/* All faults of one item, from the first one on; returns the index behind the last. */
static size_t item_set_aside(struct intake *in, const struct whole_fault *faults, size_t at, size_t count)
{
	struct whole_item *item = faults[at].item;
	struct errors why = {0};
	struct object_key key = {0};
	for (; at < count && faults[at].item == item; at++)
		errors_add_error(&why, &faults[at].error);
	snprintf(key.kind, sizeof(key.kind), "%s", kinds[item->object->kind].kind);
	snprintf(key.namespace, sizeof(key.namespace), "%s", item->object->namespace);
	snprintf(key.name, sizeof(key.name), "%s", item->object->name);
	item->object = NULL;
	object_set_aside(in, &(struct refusal){&key, item->pointer, &why}, NULL);
	errors_clear(&why);
	return at;
}

/*
 * Things that only the whole can say: two Workloads with one address, a rule that names an absent proxy. What is set
 * aside brings its last good version back, which others of the body may be at odds with: looked at again until nothing
 * is. Each round has fewer items of the body left.
 */
static void intake_whole(struct intake *in)
{
	bool quarantine = in->call->quarantine, again = true;
	while (again) {
		struct whole_fault *faults = NULL;
		size_t count = whole_check(in->draft, in->base, &in->items, quarantine, &faults), i = 0;
		again = false;
		while (i < count) {
			if (quarantine && faults[i].tolerable) {
				i++;
			} else if (quarantine && faults[i].item) {
				i = item_set_aside(in, faults, i, count);
				again = true;
			} else {
				errors_add_error(in->errors, &faults[i++].error);
			}
		}
		free(faults);
	}
}

static void candidate_make(struct intake *in, struct candidate *ret)
{
	const struct difference *differences;
	size_t count = draft_differences(in->draft, &differences);
	ret->changes = count || draft_quarantine_changed(in->draft);
	ret->durable = owner_term_moves(in) || in->call->verb == CALL_DELETE_OWNER;
	ret->differences = count ? mem_dup(differences, count * sizeof(*differences)) : NULL;
	ret->difference_count = count;
	uint64_t revision = in->base->revision + ret->changes;
	ret->etag = revision;
	if (in->set_aside.length) {
		auto_free char *list = buffer_take(&in->set_aside);
		ret->set_aside = str_format("[%s]", list);
	}
	ret->snapshot = draft_finish(in->draft, revision);
	in->draft = NULL;
	/* draft_finish gives changed objects their revision by making them anew: take the pointers that last. */
	for (size_t i = 0; i < count; i++) {
		const struct object *new = ret->differences[i].new;
		if (new)
			ret->differences[i].new = snapshot_find(ret->snapshot, new->kind, new->namespace, new->name);
	}
	if (in->call->verb == CALL_PUT_OBJECT) {
		const struct object *o = snapshot_find(ret->snapshot, in->call->kind, in->call->namespace, in->call->name);
		ret->etag = o ? o->revision : revision;
	}
}

int intake_read(const struct call *call, const struct snapshot *base, uint64_t body_max, int64_t now,
	struct candidate *ret, struct errors *errors)
{
	struct intake in = {.call = call, .base = base, .errors = errors};
	struct buffer inflated = {0};
	struct error e = {0};
	const char *body;
	size_t length;

	memset(ret, 0, sizeof(*ret));
	map_init(&in.seen, 2 * sizeof(uint64_t), 0);
	if (precondition_check(call, base, &e) < 0 || intake_body(call, body_max, &inflated, &body, &length, &e) < 0) {
		errors_add_error(errors, &e);
	} else if (owner_term(&in) == 0) {
		in.draft = draft_new(base);
		intake_verb(&in, body, length);
		if (!errors->total)
			intake_whole(&in);
		if (!errors->total) {
			if (call->verb == CALL_DELETE_OWNER && !call->has_term)
				draft_owner_forget(in.draft, call->name);
			else
				draft_owner(in.draft, owner_written(call), call->has_term ? &call->term : NULL, now);
			candidate_make(&in, ret);
		}
	}
	if (in.draft)
		draft_free(in.draft);
	whole_items_clear(&in.items);
	map_clear(&in.seen);
	buffer_free(&in.set_aside);
	buffer_free(&inflated);
	return errors->total ? -EINVAL : 0;
}

void candidate_clear(struct candidate *candidate)
{
	if (candidate->snapshot)
		snapshot_put(candidate->snapshot);
	free(candidate->differences);
	free(candidate->set_aside);
	memset(candidate, 0, sizeof(*candidate));
}
