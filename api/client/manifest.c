/* SPDX-License-Identifier: Apache-2.0 */
#include "api/client/manifest.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "agent/base/mem.h"

#define READ_PIECE (1u << 16)

/* While one source is read. */
struct adding {
	struct manifests *manifests;
	struct manifest_source *source;
	size_t start; /* of the document, when it is JSON */
	int result;   /* of the first document that is no object */
	struct error *error;
};

static int __attribute__((format(printf, 3, 4)))
refuse(const struct adding *adding, unsigned document, const char *format, ...)
{
	char what[512];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(what, sizeof what, format, arguments);
	va_end(arguments);
	return error_set(
		adding->error, ERROR_INVALID, EINVAL, NULL, "%s: document %u: %s", adding->source->name, document, what);
}

/* ---- documents and lists ---- */

static void add_object(struct adding *adding, json_t *json, unsigned document, const char *inside)
{
	struct manifests *m = adding->manifests;
	m->objects = list_room(m->objects, m->object_count, &m->object_capacity, sizeof *m->objects);
	struct manifest_object *object = &m->objects[m->object_count++];
	*object = (struct manifest_object){
		.json = json_incref(json), .source = adding->source, .document = document, .start = adding->start};
	snprintf(object->inside, sizeof object->inside, "%s", inside);
}

/* The items of a list like PodList do not say again what they are. */
static void complete(json_t *item, const json_t *list)
{
	const char *kind = json_string_value(json_object_get(list, "kind"));
	size_t length = kind ? strlen(kind) : 0;
	if (length <= 4 || strcmp(kind + length - 4, "List") != 0)
		return;
	if (!json_object_get(item, "kind"))
		json_object_set_new(item, "kind", json_stringn(kind, length - 4));
	if (!json_object_get(item, "apiVersion"))
		json_object_set(item, "apiVersion", json_object_get(list, "apiVersion"));
}

static int add_list(struct adding *adding, const json_t *list, const json_t *items, unsigned document)
{
	json_t *item;
	size_t index;
	if (!json_is_array(items))
		return refuse(adding, document, "items is not a list");
	json_array_foreach(items, index, item)
	{
		char inside[32];
		snprintf(inside, sizeof inside, "/items/%zu", index);
		if (!json_is_object(item))
			return refuse(adding, document, "item %zu is not an object", index + 1);
		complete(item, list);
		add_object(adding, item, document, inside);
	}
	return 0;
}

static void add_document(void *context, json_t *json, unsigned document, size_t line)
{
	struct adding *adding = context;
	const json_t *items = json_object_get(json, "items");
	const char *kind = json_string_value(json_object_get(json, "kind"));
	adding->source->documents = document;
	if (adding->result < 0 || json_is_null(json)) {
		json_decref(json); /* nothing but comments */
		return;
	}
	size_t length = kind ? strlen(kind) : 0;
	if (!json_is_object(json))
		adding->result = refuse(adding, document, "not an object");
	else if (items && (!kind || (length >= 4 && strcmp(kind + length - 4, "List") == 0)))
		adding->result = add_list(adding, json, items, document);
	else
		add_object(adding, json, document, "");
	json_decref(json);
}

/* ---- formats ---- */

static bool ends_with(const char *text, const char *end)
{
	size_t length = strlen(text), end_length = strlen(end);
	return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

static int refuse_text(struct adding *adding, const struct place *place, const char *what)
{
	adding->manifests->wrong_source = adding->source;
	adding->manifests->wrong = *place;
	return error_set(adding->error, ERROR_SYNTAX, EINVAL, NULL, "%s:%zu:%zu: %s", adding->source->name, place->line,
		place->column, what);
}

struct document {
	json_t *json;
	size_t start;
};

/* Where jansson stopped, in a text that begins at `start` of the source. */
static struct place json_place(const struct manifest_source *source, size_t start, const json_error_t *wrong)
{
	struct place place = {wrong->line > 0 ? wrong->line : 1, wrong->column > 0 ? wrong->column : 1, 1};
	for (size_t at = start; place.line == 1 && at > 0 && source->text[at - 1] != '\n'; at--)
		place.column++;
	for (size_t at = 0; at < start; at++)
		place.line += source->text[at] == '\n';
	return place;
}

/* One JSON text after the other. Adds nothing on failure. */
static int read_json(struct adding *adding)
{
	const struct manifest_source *source = adding->source;
	size_t at = 0, count = 0, capacity = 0;
	auto_free struct document *documents = NULL;
	json_error_t wrong;
	for (;;) {
		while (at < source->length && isspace((unsigned char)source->text[at]))
			at++;
		if (at == source->length)
			break;
		json_t *json = json_loadb(source->text + at, source->length - at,
			JSON_DISABLE_EOF_CHECK | JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &wrong);
		if (!json) {
			struct place place = json_place(source, at, &wrong);
			while (count)
				json_decref(documents[--count].json);
			return refuse_text(adding, &place, wrong.text);
		}
		documents = list_room(documents, count, &capacity, sizeof *documents);
		documents[count++] = (struct document){json, at};
		at += wrong.position;
	}
	for (size_t document = 0; document < count; document++) {
		adding->start = documents[document].start;
		add_document(adding, documents[document].json, (unsigned)document + 1, 0);
	}
	return adding->result;
}

static int read_yaml(struct adding *adding)
{
	struct error e;
	struct place place;
	adding->start = 0;
	if (yaml_to_json(adding->source->text, adding->source->length, add_document, adding, &place, &e) < 0)
		return refuse_text(adding, &place, e.detail);
	adding->manifests->wrong_source = NULL; /* a YAML flow mapping that was taken for JSON */
	return adding->result;
}

static int read_source(struct adding *adding)
{
	const struct manifest_source *source = adding->source;
	size_t at = 0;
	while (at < source->length && isspace((unsigned char)source->text[at]))
		at++;
	bool named_json = ends_with(source->name, ".json");
	if (named_json || (at < source->length && source->text[at] == '{')) {
		int result = read_json(adding);
		/* A YAML flow mapping begins like JSON. */
		if (named_json || result == 0 || adding->result < 0)
			return result;
	}
	return read_yaml(adding);
}

/* ---- files ---- */

static int read_all(int fd, struct buffer *out)
{
	for (;;) {
		ssize_t got = read(fd, buffer_room(out, READ_PIECE), READ_PIECE);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? -errno : 0;
		out->length += got;
		out->data[out->length] = 0;
	}
}

static int add_stream(struct manifests *m, int fd, const char *name, struct error *e)
{
	struct buffer text = {0};
	int result = read_all(fd, &text);
	if (result < 0) {
		buffer_free(&text);
		return error_system(e, -result, "%s", name);
	}
	struct manifest_source *source = mem_alloc(sizeof *source);
	source->name = str_dup(name);
	source->length = text.length;
	source->text = buffer_take(&text);
	m->sources = list_room(m->sources, m->source_count, &m->source_capacity, sizeof(struct manifest_source *));
	m->sources[m->source_count++] = source;
	struct adding adding = {.manifests = m, .source = source, .error = e};
	return read_source(&adding);
}

static int add_file(struct manifests *m, const char *path, struct error *e)
{
	auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return error_system(e, errno, "%s", path);
	return add_stream(m, fd, path, e);
}

static int is_manifest(const struct dirent *entry)
{
	return entry->d_name[0] != '.' &&
		   (ends_with(entry->d_name, ".yaml") || ends_with(entry->d_name, ".yml") || ends_with(entry->d_name, ".json"));
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name); /* alphasort's order depends on the locale */
}

static int add_directory(struct manifests *m, const char *path, struct error *e)
{
	struct dirent **entries;
	int count = scandir(path, &entries, is_manifest, by_bytes), result = 0;
	if (count < 0)
		return error_system(e, errno, "%s", path);
	for (int at = 0; at < count; at++) {
		auto_free char *file = str_format("%s%s%s", path, ends_with(path, "/") ? "" : "/", entries[at]->d_name);
		struct stat status;
		if (result == 0 && (stat(file, &status) < 0 || S_ISREG(status.st_mode)))
			result = add_file(m, file, e);
		free(entries[at]);
	}
	free(entries);
	if (!count)
		return error_set(e, ERROR_INVALID, EINVAL, NULL, "%s: no *.yaml, *.yml or *.json in this directory", path);
	return result;
}

int manifests_add(struct manifests *m, const char *path, struct error *e)
{
	struct stat status;
	if (strcmp(path, "-") == 0)
		return add_stream(m, STDIN_FILENO, "standard input", e);
	if (stat(path, &status) < 0)
		return error_system(e, errno, "%s", path);
	return S_ISDIR(status.st_mode) ? add_directory(m, path, e) : add_file(m, path, e);
}

void manifests_clear(struct manifests *m)
{
	for (size_t at = 0; at < m->object_count; at++)
		json_decref(m->objects[at].json);
	for (size_t at = 0; at < m->source_count; at++) {
		free(m->sources[at]->name);
		free(m->sources[at]->text);
		free(m->sources[at]);
	}
	free(m->objects);
	free(m->sources);
	*m = (struct manifests){0};
}

/* ---- where something stands ---- */

const char *manifest_metadata(const json_t *object, const char *member)
{
	const char *text = json_string_value(json_object_get(json_object_get(object, "metadata"), member));
	return text ? text : "";
}

/* A text of JSON is looked through alone: many in one file are not one YAML stream. */
static struct place find(const struct manifest_object *object, const char *pointer)
{
	const struct manifest_source *source = object->source;
	auto_free char *whole = str_format("%s%s", object->inside, pointer);
	const char *text = source->text + object->start;
	bool alone = object->start || *text == '{';
	struct place place = yaml_find(text, source->length - object->start, alone ? 1 : object->document, whole);
	bool first = place.line == 1;
	for (size_t at = 0; place.line && at < object->start; at++)
		place.line += source->text[at] == '\n';
	for (size_t at = object->start; first && at > 0 && source->text[at - 1] != '\n'; at--)
		place.column++;
	return place;
}

void manifest_place(const struct manifest_object *object, const char *pointer, struct buffer *out)
{
	const char *kind = json_string_value(json_object_get(object->json, "kind"));
	const char *namespace = manifest_metadata(object->json, "namespace"),
			   *name = manifest_metadata(object->json, "name");
	struct place place = find(object, pointer);
	buffer_puts(out, object->source->name);
	if (place.line)
		buffer_printf(out, ":%zu:%zu", place.line, place.column);
	else if (object->source->documents > 1)
		buffer_printf(out, ": document %u", object->document);
	buffer_printf(
		out, ": %s %s%s%s", kind ? kind : "object", namespace, *namespace ? "/" : "", *name ? name : "without a name");
}

void manifest_excerpt(const struct manifest_object *object, const char *pointer, const char *indent, struct buffer *out)
{
	struct place place = find(object, pointer);
	place_excerpt(object->source->text, object->source->length, &place, indent, out);
}
