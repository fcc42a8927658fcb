/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "agent/base/mem.h"
#include "agent/intake/private.h"

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
	struct error e;
	size_t length = (size_t)snprintf(e.path, sizeof(e.path), "%s", pointer);
	pointer_add(e.path, length, sizeof(e.path), member);
	errors_add(in->errors, ERROR_INVALID, e.path, "unknown field: kind, namespace and name are wanted");
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
			char pointer[2 * sizeof(members[i].name)] = "";
			/* One that is cut off is nobody's name. */
			if (strlen(members[i].name) < sizeof(members[i].name) - 1)
				pointer_add(pointer, 0, sizeof(pointer), members[i].name);
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

void intake_verb(struct intake *in, const char *body, size_t length)
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
