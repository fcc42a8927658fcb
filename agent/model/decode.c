/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/model/decode.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/base/buffer.h"
#include "agent/base/mem.h"
#include "agent/model/check.h"
#include "agent/model/content.h"
#include "agent/model/read.h"
#include "agent/model/schema.h"

#define OWNER_ANNOTATION "penstock.dev/owner"
#define MODE_ANNOTATION "penstock.dev/mode"

/* ---- which kind ---- */

static const char *text_required(struct walk *w, const json_t *json, const char *field)
{
	const json_t *value = json_object_get(json, field);
	if (json_is_string(value))
		return json_string_value(value);
	walk_error_key(w, field, value && !json_is_null(value) ? "expected a string" : "is required");
	return NULL;
}

/* Kind and version decide how everything else is read; without them there is nothing more to say. */
static int kind_read(struct walk *w, const json_t *json, const struct schema **ret)
{
	if (!json_is_object(json)) {
		walk_error(w, "expected an object");
		return -EINVAL;
	}
	const char *kind = text_required(w, json, "kind");
	int found = kind ? kind_by_name(kind) : -1;
	const char *version = found < 0 ? text_required(w, json, "apiVersion") /* else its schema requires it */
									: json_string_value(json_object_get(json, "apiVersion"));
	if (!kind)
		return -EINVAL;
	if (found < 0) {
		struct buffer list = {0};
		for (int i = 0; i < KIND_COUNT; i++)
			buffer_printf(&list, "%s%s", i ? ", " : "", kinds[i].kind);
		walk_error_key(w, "kind", "\"%s\" is not a kind that is accepted: %s", quote(kind).text, list.data);
		buffer_free(&list);
		return -EINVAL;
	}
	if (!(*ret = schema_of((enum kind)found, version))) {
		walk_error_key(w, "apiVersion", "\"%s\" is not accepted for %s: only %s is", quote(version).text, kind,
			kinds[found].api_version);
		return -EINVAL; /* another version has other fields */
	}
	w->kind = (enum kind)found;
	return 0;
}

/* ---- from the pruned tree to an object ---- */

static int label_compare(const void *a, const void *b)
{
	return strcmp(((const struct label *)a)->key, ((const struct label *)b)->key);
}

static void labels_read(struct labels *labels, const json_t *json)
{
	const char *key;
	json_t *value;
	if (!json_object_size(json))
		return;
	labels->list = mem_array(json_object_size(json), sizeof(*labels->list));
	json_object_foreach((json_t *)json, key, value)
	{
		labels->list[labels->count++] = (struct label){str_dup(key), str_dup(json_string_value(value))};
	}
	qsort(labels->list, labels->count, sizeof(*labels->list), label_compare);
}

/* How canonical text has it: neither spaces nor anything else between. */
#define METADATA "\"metadata\":{"

/* jansson's own allocation becomes one of ours' kind: both end with free(). */
static char *dump(const json_t *json)
{
	char *text = json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS);
	if (!text)
		abort(); /* out of memory, as in mem_alloc */
	return text;
}

/* Takes its canonical text. */
static struct object *object_new(enum kind kind, const json_t *pruned, char *text)
{
	const json_t *metadata = json_object_get(pruned, "metadata");
	const char *namespace = json_string_value(json_object_get(metadata, "namespace"));
	const char *created = json_string_value(json_object_get(metadata, "creationTimestamp"));
	struct object *object = mem_alloc(sizeof(*object));
	object->kind = kind;
	object->namespace = str_dup(namespace ? namespace : "");
	object->name = str_dup(json_string_value(json_object_get(metadata, "name")));
	object->audit = json_object_get(json_object_get(metadata, "annotations"), MODE_ANNOTATION);
	object->owner = str_dup("");
	object->references = 1;
	object->json = text;
	labels_read(&object->labels, json_object_get(metadata, "labels"));
	if (created)
		timestamp_parse(created, &object->created);
	content_read(object, pruned);
	return object;
}

/* canonical: the text that json was read from, when it is known to be that; NULL: it is made. */
static int read_one(const json_t *json, const char *pointer, bool all, const char *canonical, struct object **ret,
	struct errors *errors)
{
	struct walk w = {.errors = errors};
	w.length = (size_t)snprintf(w.path, sizeof(w.path), "%s", pointer);
	if (w.length >= sizeof(w.path))
		walk_leave(&w, sizeof(w.path) - 1);
	size_t before = errors->total;
	const struct schema *schema = NULL;
	int status = kind_read(&w, json, &schema);
	if (status)
		return status;
	json_t *pruned = schema_walk(&w, schema, json);
	if (errors->total == before && !all)
		unsupported_check(&w, pruned);
	if (errors->total == before)
		*ret = object_new(w.kind, pruned, canonical ? str_dup(canonical) : dump(pruned));
	else
		status = -EINVAL;
	json_decref(pruned);
	return status;
}

int object_read(const json_t *json, const char *pointer, bool all, struct object **ret, struct errors *errors)
{
	return read_one(json, pointer, all, NULL, ret, errors);
}

int object_restore(const char *text, struct object **ret, struct errors *errors)
{
	json_error_t wrong;
	json_t *json = json_loads(text, 0, &wrong);
	if (!json) {
		errors_add(errors, ERROR_INVALID, "", "%s", wrong.text);
		return -EINVAL;
	}
	int result = read_one(json, "", false, strstr(text, METADATA) ? text : NULL, ret, errors);
	json_decref(json);
	return result;
}

/* ---- what is left of a broken NetworkPolicy ---- */

static bool readable(const struct schema *schema, const json_t *value, json_t **pruned)
{
	struct errors errors = {0};
	struct walk w = {.errors = &errors, .kind = KIND_NETWORK_POLICY};
	if (pruned)
		*pruned = NULL;
	json_t *result = value && !json_is_null(value) ? schema_walk(&w, schema, value) : NULL;
	bool good = !errors.total;
	errors_clear(&errors);
	if (good && pruned)
		*pruned = result;
	else
		json_decref(result);
	return good;
}

static const struct schema policy_type = {SHAPE_STRING, .words = WORDS("Ingress", "Egress")};

/* Which directions it isolates: as it says when that can be read, else both. */
static json_t *partial_types(const json_t *spec)
{
	static const struct schema types = {SHAPE_ARRAY, .items = &policy_type, .items_max = 2};
	const json_t *egress = json_object_get(spec, "egress");
	json_t *pruned;
	if (!readable(&types, json_object_get(spec, "policyTypes"), &pruned))
		return json_pack("[ss]", "Ingress", "Egress");
	if (json_array_size(pruned))
		return pruned;
	json_decref(pruned);
	bool has_egress = egress && !json_is_null(egress) && (!json_is_array(egress) || json_array_size(egress));
	return has_egress ? json_pack("[ss]", "Ingress", "Egress") : json_pack("[s]", "Ingress");
}

/* In audit mode it does not isolate, broken or not. NULL: it is in no mode, or in one that is not known. */
static json_t *partial_annotations(const json_t *metadata)
{
	const char *mode = json_string_value(json_object_get(json_object_get(metadata, "annotations"), MODE_ANNOTATION));
	return mode && !strcmp(mode, "audit") ? json_pack("{s:s}", MODE_ANNOTATION, mode) : NULL;
}

static struct object *partial_read(const json_t *json)
{
	const json_t *spec = json_object_get(json, "spec"), *metadata = json_object_get(json, "metadata");
	const char *kind = json_string_value(json_object_get(json, "kind"));
	json_t *pods;
	if (!kind || strcmp(kind, kinds[KIND_NETWORK_POLICY].kind) ||
		(spec && !json_is_object(spec) && !json_is_null(spec)) ||
		!readable(&selector_schema, json_object_get(spec, "podSelector"), &pods))
		return NULL;
	/* Whether name and namespace can be read as well, decoding tells. */
	json_t *whole = json_pack("{s:s,s:s,s:{s:O?,s:O?,s:o?},s:{s:o?,s:o}}", "apiVersion", KUBE_NETWORKING, "kind", kind,
		"metadata", "name", json_object_get(metadata, "name"), "namespace", json_object_get(metadata, "namespace"),
		"annotations", partial_annotations(metadata), "spec", "podSelector", pods, "policyTypes", partial_types(spec));
	struct errors errors = {0};
	struct object *object = NULL;
	object_read(whole, "", false, &object, &errors);
	errors_clear(&errors);
	json_decref(whole);
	return object;
}

int object_decode(
	const json_t *json, const char *pointer, struct object **ret, struct object **partial, struct errors *errors)
{
	if (partial)
		*partial = NULL;
	int status = object_read(json, pointer, false, ret, errors);
	if (status && partial)
		*partial = partial_read(json);
	return status;
}

/* ---- keys, and back to JSON ---- */

static void key_part(const json_t *object, const char *field, char *ret, size_t size)
{
	const char *text = json_string_value(json_object_get(object, field));
	snprintf(ret, size, "%s", text ? text : "");
}

void object_key_read(const json_t *json, struct object_key *ret)
{
	const json_t *metadata = json_object_get(json, "metadata");
	key_part(json, "kind", ret->kind, sizeof(ret->kind));
	key_part(metadata, "namespace", ret->namespace, sizeof(ret->namespace));
	key_part(metadata, "name", ret->name, sizeof(ret->name));
}

/* The closing quote of a string that begins at `at`. */
static const char *string_end(const char *at)
{
	for (at++; *at != '"'; at++)
		at += *at == '\\';
	return at;
}

/* Behind the last member of an object of strings, of which `at` is behind the opening brace. */
static const char *strings_end(const char *at)
{
	for (; *at != '}'; at++)
		if (*at == '"')
			at = string_end(at);
	return at;
}

/* The first member of metadata. Canonical text has no other place that looks like it, for inside a string the quotes
 * are escaped. */
static const char *metadata_find(const char *json)
{
	return strstr(json, METADATA) + strlen(METADATA);
}

char *object_encode(const struct object *object)
{
	static const char annotations[] = "\"annotations\":{";
	const char *at = metadata_find(object->json);
	if (!*object->owner)
		return str_dup(object->json);
	bool others = !strncmp(at, annotations, strlen(annotations));
	if (others)
		at = strings_end(at + strlen(annotations)); /* ours sorts last */
	struct buffer text = {0};
	buffer_add(&text, object->json, (size_t)(at - object->json));
	buffer_printf(&text, "%s\"%s\":", others ? "," : annotations, OWNER_ANNOTATION);
	buffer_json_string(&text, object->owner);
	buffer_puts(&text, others ? "" : "},");
	buffer_puts(&text, at);
	return buffer_take(&text);
}

struct span {
	size_t at, length;
};

/* Where metadata.resourceVersion is, with the comma before it: the name is there always, and sorts first. A label may
 * have that name too. {0}: it is absent. */
static struct span version_find(const char *json)
{
	static const char version[] = ",\"resourceVersion\":";
	for (const char *at = metadata_find(json); *at != '}'; at++) {
		if (!strncmp(at, version, strlen(version)))
			return (struct span){(size_t)(at - json), (size_t)(string_end(at + strlen(version)) + 1 - at)};
		if (*at == '"')
			at = string_end(at);
		else if (*at == '{')
			at = strings_end(at + 1);
	}
	return (struct span){0};
}

bool object_alike(const struct object *a, const struct object *b)
{
	if (strcmp(a->owner, b->owner) != 0)
		return false;
	struct span one = version_find(a->json), other = version_find(b->json);
	size_t before = one.length ? one.at : other.at; /* both are equal around the place where one has it */
	if (one.length && other.length && one.at != other.at)
		return false;
	return !strncmp(a->json, b->json, before) &&
		   !strcmp(a->json + before + one.length, b->json + before + other.length);
}
