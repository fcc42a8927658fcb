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

static bool owner_allows(struct intake *in, const char *pointer, const struct object *standing)
{
	if (!standing || in->call->force || strcmp(standing->owner, in->call->owner) == 0)
		return true;
	errors_add(in->errors, ERROR_CONFLICT, pointer, "%s %s%s%s belongs to owner \"%s\"; force=true takes it over",
		kinds[standing->kind].kind, standing->namespace, standing->namespace[0] ? "/" : "", standing->name,
		standing->owner);
	return false;
}

static int owner_term(struct intake *in)
{
	if (!in->call->has_term)
		return 0;
	for (size_t i = 0; i < in->base->owner_count; i++) {
		const struct owner *owner = &in->base->owners[i];
		if (strcmp(owner->name, in->call->owner) || !owner->has_term || owner->term <= in->call->term)
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
	if (!in->call->has_term)
		return false;
	for (size_t i = 0; i < in->base->owner_count; i++)
		if (!strcmp(in->base->owners[i].name, in->call->owner))
			return !in->base->owners[i].has_term || in->base->owners[i].term != in->call->term;
	return true;
}

/* ---- objects ---- */

/* False when this body named the same object before. */
static bool key_is_first(
	struct intake *in, const char *pointer, const char *kind, const char *namespace, const char *name)
{
	auto_free char *text = str_format("%s/%s/%s", kind, namespace, name);
	uint64_t hashes[2] = {hash_bytes(text, strlen(text), 1), hash_bytes(text, strlen(text), 2)};
	if (map_get(&in->seen, hashes)) {
		errors_add(in->errors, ERROR_INVALID, pointer, "%s %s%s%s is here twice", kind, namespace,
			namespace[0] ? "/" : "", name);
		return false;
	}
	map_put(&in->seen, hashes, NULL);
	return true;
}

static void set_aside_note(struct intake *in, const struct quarantined *q)
{
	buffer_puts(&in->set_aside, in->set_aside.length ? ",{\"kind\":" : "{\"kind\":");
	buffer_json_string(&in->set_aside, q->key.kind);
	buffer_puts(&in->set_aside, ",\"namespace\":");
	buffer_json_string(&in->set_aside, q->key.namespace);
	buffer_puts(&in->set_aside, ",\"name\":");
	buffer_json_string(&in->set_aside, q->key.name);
	buffer_printf(&in->set_aside, ",\"errors\":%s}", q->errors);
}

static char *errors_json(const struct errors *errors)
{
	struct buffer b = {0};
	buffer_puts(&b, "[");
	for (size_t i = 0; i < errors->count; i++) {
		buffer_puts(&b, i ? ",{\"pointer\":" : "{\"pointer\":");
		buffer_json_string(&b, errors->list[i].path);
		buffer_puts(&b, ",\"detail\":");
		buffer_json_string(&b, errors->list[i].detail);
		buffer_puts(&b, "}");
	}
	buffer_puts(&b, "]");
	return buffer_take(&b);
}

/* What cannot be used is set aside; its last good version, or a policy that isolates, stands in for it. */
static void object_set_aside(
	struct intake *in, const struct object_key *key, struct object *partial, const struct errors *why)
{
	int kind = kind_by_name(key->kind);
	const struct object *last = kind < 0 ? NULL : snapshot_find(in->base, kind, key->namespace, key->name);
	struct object *standing = NULL;
	if (last)
		standing = object_with(last, in->call->owner, last->revision);
	else if (partial)
		standing = object_with(partial, in->call->owner, 0);
	else if (kind >= 0)
		draft_delete(in->draft, kind, key->namespace, key->name);

	auto_free char *errors = errors_json(why);
	struct quarantined q = {
		.key = {(char *)key->kind, (char *)key->namespace, (char *)key->name},
		.owner = in->call->owner,
		.errors = errors,
		.standing = standing,
	};
	draft_quarantine(in->draft, &q);
	set_aside_note(in, &q);
	if (standing)
		draft_put(in->draft, standing);
}

static void object_take(struct intake *in, const char *pointer, struct object *object)
{
	struct object *owned = object_with(object, in->call->owner, 0);
	object_put(object);
	whole_items_add(&in->items, owned, pointer);
	draft_release(in->draft, kinds[owned->kind].kind, owned->namespace, owned->name);
	draft_put(in->draft, owned);
}

/* One object of the body; returns it (borrowed) when it went into the draft. */
static const struct object *intake_object(struct intake *in, const struct body_item *item, const char *pointer)
{
	struct error e = {0};
	json_t *json = NULL;
	if (body_item_parse(item, pointer, &json, &e) < 0) {
		errors_add_error(in->errors, &e);
		return NULL;
	}
	struct object_key key;
	object_key_read(json, &key);
	int kind = kind_by_name(key.kind);
	if (kind >= 0 && kinds[kind].namespaced && !key.namespace[0])
		snprintf(key.namespace, sizeof(key.namespace), "default");

	struct object *object = NULL, *partial = NULL;
	struct errors own = {0};
	if (key_is_first(in, pointer, key.kind, key.namespace, key.name) &&
		owner_allows(in, pointer, kind < 0 ? NULL : snapshot_find(in->base, kind, key.namespace, key.name))) {
		if (object_decode(json, pointer, &object, &partial, &own) == 0)
			object_take(in, pointer, object);
		else if (in->call->quarantine)
			object_set_aside(in, &key, partial, &own);
		else
			for (size_t i = 0; i < own.count; i++)
				errors_add_error(in->errors, &own.list[i]);
		if (partial)
			object_put(partial);
	}
	errors_clear(&own);
	json_decref(json);
	return object;
}

static void intake_items(struct intake *in, const struct body_items *items, const char *prefix)
{
	for (size_t i = 0; i < items->count; i++) {
		char pointer[64];
		snprintf(pointer, sizeof(pointer), "%s/%zu", prefix, i);
		intake_object(in, &items->list[i], pointer);
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

static void patch_delete(struct intake *in, const json_t *entry, const char *pointer)
{
	struct object_key key;
	if (!json_is_object(entry)) {
		errors_add(in->errors, ERROR_INVALID, pointer, "an object with kind, namespace and name is wanted here");
		return;
	}
	const char *member;
	json_t *value;
	json_object_foreach((json_t *)entry, member, value)
	{
		if (strcmp(member, "kind") && strcmp(member, "namespace") && strcmp(member, "name")) {
			errors_add(in->errors, ERROR_INVALID, pointer, "unknown field \"%s\": kind, namespace and name are wanted",
				member);
			return;
		}
		if (!json_is_string(value) && !json_is_null(value)) {
			errors_add(in->errors, ERROR_INVALID, pointer, "%s is not a string", member);
			return;
		}
	}
	const char *text = json_string_value(json_object_get(entry, "kind"));
	snprintf(key.kind, sizeof(key.kind), "%s", text ? text : "");
	text = json_string_value(json_object_get(entry, "namespace"));
	snprintf(key.namespace, sizeof(key.namespace), "%s", text ? text : "");
	text = json_string_value(json_object_get(entry, "name"));
	snprintf(key.name, sizeof(key.name), "%s", text ? text : "");

	int kind = kind_by_name(key.kind);
	if (kind < 0) {
		errors_add(in->errors, ERROR_INVALID, pointer, "\"%s\" is not a kind that is known here", key.kind);
		return;
	}
	if (!key.name[0]) {
		errors_add(in->errors, ERROR_INVALID, pointer, "a name is needed: nothing is deleted without one");
		return;
	}
	if (kinds[kind].namespaced && !key.namespace[0])
		snprintf(key.namespace, sizeof(key.namespace), "default");
	if (!kinds[kind].namespaced && key.namespace[0]) {
		errors_add(in->errors, ERROR_INVALID, pointer, "%s has no namespace", key.kind);
		return;
	}
	if (!key_is_first(in, pointer, key.kind, key.namespace, key.name) ||
		!owner_allows(in, pointer, draft_find(in->draft, kind, key.namespace, key.name)))
		return;
	draft_delete(in->draft, kind, key.namespace, key.name);
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
	int result = body_split(body, length, BODY_JSON, "apply", 0, &apply, e);
	if (result == 0)
		result = body_split(body, length, BODY_JSON, "delete", 0, &delete, e);
	if (result == 0) {
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
	}
	body_items_free(&apply);
	body_items_free(&delete);
	return result;
}

static void path_agrees(struct intake *in, const struct object_key *key)
{
	const struct call *call = in->call;
	if (key->kind[0] && strcmp(key->kind, kinds[call->kind].kind))
		errors_add(
			in->errors, ERROR_INVALID, "/kind", "the path says %s, the body %s", kinds[call->kind].kind, key->kind);
	if (key->name[0] && strcmp(key->name, call->name))
		errors_add(in->errors, ERROR_INVALID, "/metadata/name", "the path says \"%s\", the body \"%s\"", call->name,
			key->name);
	if (kinds[call->kind].namespaced && key->namespace[0] && strcmp(key->namespace, call->namespace))
		errors_add(in->errors, ERROR_INVALID, "/metadata/namespace", "the path says \"%s\", the body \"%s\"",
			call->namespace, key->namespace);
}

/* The path fills in what the body leaves out. */
static void path_completes(const struct call *call, json_t *json)
{
	json_t *metadata = json_object_get(json, "metadata");
	if (!metadata) {
		metadata = json_object();
		json_object_set_new(json, "metadata", metadata);
	}
	if (!json_is_object(metadata))
		return;
	if (!json_object_get(metadata, "name"))
		json_object_set_new(metadata, "name", json_string(call->name));
	if (kinds[call->kind].namespaced && !json_object_get(metadata, "namespace"))
		json_object_set_new(metadata, "namespace", json_string(call->namespace));
}

static int put_object(struct intake *in, const char *body, size_t length, struct error *e)
{
	int result = body_check(body, length, e);
	if (result < 0)
		return result;
	struct body_item item = {body, length};
	json_t *json = NULL;
	result = body_item_parse(&item, "", &json, e);
	if (result < 0)
		return result;
	struct object_key key;
	object_key_read(json, &key);
	path_agrees(in, &key);
	if (!in->errors->total && json_is_object(json)) {
		path_completes(in->call, json);
		auto_free char *text = json_dumps(json, JSON_COMPACT);
		struct body_item whole = {text, strlen(text)};
		intake_object(in, &whole, "");
	} else if (!json_is_object(json)) {
		errors_add(in->errors, ERROR_INVALID, "", "a JSON object is wanted");
	}
	json_decref(json);
	return 0;
}

static void delete_object(struct intake *in)
{
	const struct call *call = in->call;
	const struct object *standing = snapshot_find(in->base, call->kind, call->namespace, call->name);
	bool released = draft_release(in->draft, kinds[call->kind].kind, call->namespace, call->name);
	if (!standing && !released) {
		errors_add(in->errors, ERROR_NOT_FOUND, "", "there is no %s %s%s%s", kinds[call->kind].kind, call->namespace,
			call->namespace[0] ? "/" : "", call->name);
		return;
	}
	if (standing && owner_allows(in, "", standing))
		draft_delete(in->draft, call->kind, call->namespace, call->name);
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

/* Things that only the whole can say: two Workloads with one address, a rule that names an absent proxy. */
static void intake_whole(struct intake *in)
{
	struct whole_fault *faults = NULL;
	size_t count = whole_check(in->draft, in->base, &in->items, &faults);
	for (size_t i = 0; i < count; i++) {
		struct whole_fault *fault = &faults[i];
		if (in->call->quarantine && fault->tolerable)
			continue;
		if (!in->call->quarantine || !fault->object) {
			errors_add_error(in->errors, &fault->error);
			continue;
		}
		struct errors why = {0};
		struct object_key key = {0};
		errors_add_error(&why, &fault->error);
		snprintf(key.kind, sizeof(key.kind), "%s", kinds[fault->object->kind].kind);
		snprintf(key.namespace, sizeof(key.namespace), "%s", fault->object->namespace);
		snprintf(key.name, sizeof(key.name), "%s", fault->object->name);
		object_set_aside(in, &key, NULL, &why);
		errors_clear(&why);
	}
	free(faults);
}

static void candidate_make(struct intake *in, struct candidate *ret)
{
	const struct difference *differences;
	size_t count = draft_differences(in->draft, &differences);
	ret->changes = count || draft_quarantine_changed(in->draft);
	ret->durable = owner_term_moves(in);
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
			if (call->verb != CALL_DELETE_OWNER)
				draft_owner(in.draft, call->owner, call->has_term ? &call->term : NULL, now);
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
