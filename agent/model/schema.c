/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/model/schema.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "agent/base/buffer.h"
#include "agent/base/mem.h"
#include "agent/model/check.h"

/* ---- where the walk is ---- */

size_t walk_key(struct walk *w, const char *key)
{
	size_t before = w->length;
	w->length = pointer_add(w->path, w->length, sizeof(w->path), key);
	return before;
}

size_t walk_index(struct walk *w, size_t index)
{
	char text[24];
	snprintf(text, sizeof(text), "%zu", index);
	return walk_key(w, text);
}

void walk_leave(struct walk *w, size_t length)
{
	w->length = length;
	w->path[length] = 0;
}

/* ---- errors ---- */

struct quote quote(const char *text)
{
	struct quote ret = {0};
	size_t length = strlen(text);
	if (length < sizeof(ret.text)) {
		memcpy(ret.text, text, length);
		return ret;
	}
	length = sizeof(ret.text) - 4;
	while (length && ((unsigned char)text[length] & 0xc0) == 0x80)
		length--;
	memcpy(ret.text, text, length);
	memcpy(ret.text + length, "...", 3);
	return ret;
}

static void error_add(struct walk *w, const char *format, va_list arguments)
{
	char text[sizeof(((struct error *)0)->detail)];
	vsnprintf(text, sizeof(text), format, arguments);
	errors_add(w->errors, ERROR_INVALID, w->path, "%s", text);
}

void walk_error(struct walk *w, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	error_add(w, format, arguments);
	va_end(arguments);
}

void walk_error_key(struct walk *w, const char *key, const char *format, ...)
{
	size_t before = walk_key(w, key);
	va_list arguments;
	va_start(arguments, format);
	error_add(w, format, arguments);
	va_end(arguments);
	walk_leave(w, before);
}

void walk_error_index(struct walk *w, size_t index, const char *format, ...)
{
	size_t before = walk_index(w, index);
	va_list arguments;
	va_start(arguments, format);
	error_add(w, format, arguments);
	va_end(arguments);
	walk_leave(w, before);
}

static const char *type_text(const json_t *value)
{
	switch (json_typeof(value)) {
	case JSON_OBJECT:
		return "an object";
	case JSON_ARRAY:
		return "an array";
	case JSON_STRING:
		return "a string";
	case JSON_INTEGER:
		return "a number";
	case JSON_REAL:
		return "a number with a fraction or exponent";
	case JSON_NULL:
		return "null";
	default:
		return "a boolean";
	}
}

static json_t *wrong_type(struct walk *w, const char *wanted, const json_t *value)
{
	walk_error(w, "expected %s, got %s", wanted, type_text(value));
	return NULL;
}

/* ---- shapes ---- */

static json_t *share(const json_t *value)
{
	/* Values are never changed once parsed; only the count is. */
	return json_incref((json_t *)(uintptr_t)value);
}

static json_t *walk_words(struct walk *w, const struct schema *s, const json_t *value)
{
	const char *text = json_string_value(value);
	for (const char *const *word = s->words; *word; word++)
		if (!strcmp(*word, text))
			return share(value);
	struct buffer list = {0};
	for (const char *const *word = s->words; *word; word++)
		buffer_printf(&list, "%s%s", word == s->words ? "" : ", ", *word);
	walk_error(w, "\"%s\" is not one of %s", quote(text).text, list.data);
	buffer_free(&list);
	return NULL;
}

static json_t *walk_string(struct walk *w, const struct schema *s, const json_t *value)
{
	if (!json_is_string(value))
		return wrong_type(w, "a string", value);
	const char *text = json_string_value(value), *why;
	if (s->empty_absent && !*text)
		return NULL;
	if (s->words)
		return walk_words(w, s, value);
	if (s->wrong && (why = s->wrong(text))) {
		walk_error(w, "\"%s\" %s", quote(text).text, why);
		return NULL;
	}
	return share(value);
}

static json_t *walk_integer(struct walk *w, const struct schema *s, const json_t *value)
{
	if (!json_is_integer(value))
		return wrong_type(w, "an integer", value);
	long long number = json_integer_value(value);
	if (number >= s->low && number <= s->high)
		return share(value);
	if (s->what)
		walk_error(w, "%lld is not %s", number, s->what);
	else
		walk_error(w, "%lld is not between %lld and %lld", number, s->low, s->high);
	return NULL;
}

static json_t *walk_port(struct walk *w, const json_t *value)
{
	static const struct schema name = {SHAPE_STRING, .wrong = port_name_wrong};
	if (json_is_integer(value))
		return walk_integer(w, &port_number, value);
	if (json_is_string(value))
		return walk_string(w, &name, value);
	return wrong_type(w, "a port number or a port name", value);
}

static void walk_unknown(struct walk *w, const struct schema *s, const json_t *value)
{
	const char *key;
	json_t *member;
	json_object_foreach((json_t *)(uintptr_t)value, key, member)
	{
		const struct field *field = s->fields;
		while (field->name && strcmp(field->name, key))
			field++;
		if (!field->name)
			walk_error_key(w, key, "unknown field");
	}
}

static json_t *walk_object(struct walk *w, const struct schema *s, const json_t *value)
{
	if (!json_is_object(value))
		return wrong_type(w, "an object", value);
	json_t *pruned = json_object();
	for (const struct field *field = s->fields; field->name; field++) {
		const json_t *member = field->schema ? json_object_get(value, field->name) : NULL;
		if (!member || json_is_null(member)) {
			if (field->required)
				walk_error_key(w, field->name, "is required");
			continue;
		}
		size_t before = walk_key(w, field->name);
		size_t errors = w->errors->total;
		json_t *child = schema_walk(w, field->schema, member);
		if (child)
			json_object_set_new_nocheck(pruned, field->name, child);
		else if (w->errors->total != errors)
			json_object_set_new_nocheck(pruned, field->name, json_null()); /* there, but wrong */
		else if (field->required)
			walk_error(w, "is required");
		walk_leave(w, before);
	}
	if (kinds[w->kind].strict)
		walk_unknown(w, s, value);
	return pruned;
}

static json_t *walk_array(struct walk *w, const struct schema *s, const json_t *value)
{
	if (!json_is_array(value))
		return wrong_type(w, "an array", value);
	size_t count = json_array_size(value);
	if (count < s->items_min)
		walk_error(w, "must have at least %zu %s", s->items_min, s->items_min == 1 ? "entry" : "entries");
	if (s->items_max && count > s->items_max)
		walk_error(w, "has %zu entries, at most %zu are accepted", count, s->items_max);
	json_t *pruned = json_array();
	for (size_t i = 0; i < count; i++) {
		size_t before = walk_index(w, i);
		size_t errors = w->errors->total;
		json_t *item = schema_walk(w, s->items, json_array_get(value, i));
		if (!item && w->errors->total == errors)
			walk_error(w, "must not be empty");
		/* A placeholder for a wrong entry keeps the others' indices. */
		json_array_append_new(pruned, item ? item : json_null());
		walk_leave(w, before);
	}
	return pruned;
}

static json_t *walk_map(struct walk *w, const struct schema *s, const json_t *value)
{
	if (!json_is_object(value))
		return wrong_type(w, "an object", value);
	json_t *pruned = json_object();
	const char *key, *why;
	json_t *member;
	json_object_foreach((json_t *)(uintptr_t)value, key, member)
	{
		size_t before = walk_key(w, key);
		if (s->key_wrong && (why = s->key_wrong(key)))
			walk_error(w, "\"%s\" %s", quote(key).text, why);
		if (json_is_null(member)) {
			json_object_set_new(pruned, key, json_string("")); /* as Go decodes it */
		} else if (!json_is_string(member)) {
			wrong_type(w, "a string", member);
		} else if (s->wrong && (why = s->wrong(json_string_value(member)))) {
			walk_error(w, "\"%s\" %s", quote(json_string_value(member)).text, why);
		} else {
			json_object_set_new(pruned, key, share(member));
		}
		walk_leave(w, before);
	}
	return pruned;
}

static json_t *walk_shape(struct walk *w, const struct schema *s, const json_t *value)
{
	switch (s->shape) {
	case SHAPE_STRING:
		return walk_string(w, s, value);
	case SHAPE_INTEGER:
		return walk_integer(w, s, value);
	case SHAPE_BOOLEAN:
		return json_is_boolean(value) ? share(value) : wrong_type(w, "a boolean", value);
	case SHAPE_PORT:
		return walk_port(w, value);
	case SHAPE_OBJECT:
		return walk_object(w, s, value);
	case SHAPE_ARRAY:
		return walk_array(w, s, value);
	case SHAPE_MAP:
		return walk_map(w, s, value);
	}
	return NULL;
}

json_t *schema_walk(struct walk *w, const struct schema *schema, const json_t *value)
{
	json_t *pruned = walk_shape(w, schema, value);
	if (pruned && schema->check)
		schema->check(w, pruned);
	return pruned;
}
