/* SPDX-License-Identifier: Apache-2.0 */
#include "api/client/yaml_json.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <yaml.h>
#include "agent/base/map.h"
#include "agent/base/mem.h"

#define NESTING_MAX 100
#define ALIASES_MAX 1000000 /* values that aliases may expand to: a "billion laughs" ends here */

struct reader {
	yaml_parser_t parser;
	yaml_event_t event;   /* the current one; owned */
	struct names anchors; /* of this document: json_t, one reference each */
	size_t budget;
	struct place wrong;
	struct error *error;
	/* to find a place: the path of the current value, the wanted one, what was found */
	struct buffer path;
	const char *wanted;
	struct place found;
};

static struct place mark_place(const yaml_mark_t *from, const yaml_mark_t *to)
{
	bool within = to && to->line == from->line && to->column > from->column;
	return (struct place){from->line + 1, from->column + 1, within ? to->column - from->column : 1};
}

static struct place event_place(const struct reader *reader)
{
	return mark_place(&reader->event.start_mark, &reader->event.end_mark);
}

static int __attribute__((format(printf, 3, 4)))
refuse(struct reader *reader, struct place place, const char *format, ...)
{
	char what[512];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(what, sizeof what, format, arguments);
	va_end(arguments);
	reader->wrong = place;
	return error_set(reader->error, ERROR_SYNTAX, EINVAL, NULL, "%s", what);
}

static int next(struct reader *reader)
{
	const yaml_parser_t *parser = &reader->parser;
	yaml_event_delete(&reader->event);
	if (yaml_parser_parse(&reader->parser, &reader->event))
		return 0;
	if (parser->error == YAML_READER_ERROR) /* Before its first token libyaml knows no line, only an offset. */
		return refuse(
			reader, mark_place(&parser->mark, NULL), "%s (at byte %zu)", parser->problem, parser->problem_offset);
	if (strstr(parser->problem, "cannot start any token")) /* mostly it is a tab */
		return refuse(reader, mark_place(&parser->problem_mark, NULL),
			"a word cannot begin like that (a tab indents nothing: use spaces)");
	if (strstr(parser->problem, "did not find expected key"))
		return refuse(reader, mark_place(&parser->problem_mark, NULL),
			"no key is possible here: is it indented like the others?");
	return refuse(reader, mark_place(&parser->problem_mark, NULL), "%s%s%s", parser->problem,
		parser->context ? " " : "", parser->context ? parser->context : "");
}

/* ---- scalars ---- */

static bool one_of(const char *text, const char *const *list)
{
	for (; *list; list++)
		if (strcmp(text, *list) == 0)
			return true;
	return false;
}

/* [-+]? (digits [. digits?] | . digits) ([eE] [-+]? digits)? ; *integer says that it was digits alone */
static bool looks_numeric(const char *text, bool *integer)
{
	static const char decimal[] = "0123456789";
	text += *text == '-' || *text == '+';
	size_t whole = strspn(text, decimal), fraction = 0;
	text += whole;
	*integer = true;
	if (*text == '.') {
		*integer = false;
		fraction = strspn(++text, decimal);
		text += fraction;
	}
	if (!whole && !fraction)
		return false;
	if (*text == 'e' || *text == 'E') {
		*integer = false;
		text++;
		text += *text == '-' || *text == '+';
		size_t exponent = strspn(text, decimal);
		if (!exponent)
			return false;
		text += exponent;
	}
	return !*text;
}

static json_t *number(const char *text, int base)
{
	errno = 0;
	long long value = strtoll(base == 10 ? text : text + 2, NULL, base);
	return errno ? json_real(strtod(text, NULL)) : json_integer(value);
}

/* What a plain scalar is by the core schema; NULL for what JSON cannot say (.inf, .nan). */
static json_t *resolve(const char *text)
{
	static const char *const nulls[] = {"", "~", "null", "Null", "NULL", NULL};
	static const char *const trues[] = {"true", "True", "TRUE", NULL};
	static const char *const falses[] = {"false", "False", "FALSE", NULL};
	static const char *const infinite[] = {
		".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF", "-.inf", "-.Inf", "-.INF", ".nan", ".NaN", ".NAN", NULL};
	bool integer;
	if (one_of(text, nulls))
		return json_null();
	if (one_of(text, trues))
		return json_true();
	if (one_of(text, falses))
		return json_false();
	if (one_of(text, infinite))
		return NULL;
	if (text[0] == '0' && text[1] == 'x' && text[2] && !text[2 + strspn(text + 2, "0123456789abcdefABCDEF")])
		return number(text, 16);
	if (text[0] == '0' && text[1] == 'o' && text[2] && !text[2 + strspn(text + 2, "01234567")])
		return number(text, 8);
	if (!looks_numeric(text, &integer))
		return json_string(text);
	return integer ? number(text, 10) : json_real(strtod(text, NULL));
}

static int read_scalar(struct reader *reader, json_t **ret)
{
	const char *text = (const char *)reader->event.data.scalar.value;
	const char *tag = (const char *)reader->event.data.scalar.tag;
	size_t length = reader->event.data.scalar.length;
	bool typed = tag && strcmp(tag, YAML_STR_TAG) != 0 && strcmp(tag, "!") != 0;
	if (typed && strncmp(tag, "tag:yaml.org,2002:", 18) != 0)
		return refuse(reader, event_place(reader), "the tag %s means nothing here", tag);
	if (reader->event.data.scalar.plain_implicit || typed) {
		*ret = strlen(text) == length ? resolve(text) : NULL;
		if (!*ret)
			return refuse(reader, event_place(reader), "%s cannot be said in JSON", text);
	} else {
		*ret = json_stringn(text, length);
	}
	return 0;
}

/* ---- collections ---- */

static int read_value(struct reader *reader, unsigned depth, json_t **ret);

static bool spend(const json_t *json, size_t *budget)
{
	const char *key;
	json_t *value;
	size_t index;
	if (!*budget)
		return false;
	--*budget;
	if (json_is_object(json)) {
		json_object_foreach((json_t *)json, key, value) if (!spend(value, budget)) return false;
	} else {
		json_array_foreach(json, index, value) if (!spend(value, budget)) return false;
	}
	return true;
}

static int read_alias(struct reader *reader, json_t **ret)
{
	const char *name = (const char *)reader->event.data.alias.anchor;
	const json_t *target = names_get(&reader->anchors, name);
	if (!target)
		return refuse(reader, event_place(reader), "there is no anchor &%s before this", name);
	if (!spend(target, &reader->budget))
		return refuse(reader, event_place(reader), "the aliases expand to too much");
	*ret = json_deep_copy(target);
	return 0;
}

/* Mappings of a merge key stand behind the mapping's own keys, and the first of several before the later. */
static int merge(struct reader *reader, struct place place, json_t *into, json_t *from)
{
	json_t *element;
	size_t index;
	if (json_is_object(from)) {
		json_object_update_missing(into, from);
		return 0;
	}
	if (!json_is_array(from))
		return refuse(reader, place, "<< merges a mapping or a list of mappings");
	json_array_foreach(from, index, element)
	{
		if (!json_is_object(element))
			return refuse(reader, place, "<< merges a mapping or a list of mappings");
		json_object_update_missing(into, element);
	}
	return 0;
}

static void enter(struct reader *reader, const char *name)
{
	if (!reader->wanted)
		return;
	buffer_add(&reader->path, "/", 1);
	for (; *name; name++) /* RFC 6901 */
		buffer_puts(&reader->path, *name == '~' ? "~0" : *name == '/' ? "~1" : (char[]){*name, 0});
}

static void leave(struct reader *reader, size_t length)
{
	if (!reader->wanted)
		return;
	reader->path.length = length;
	reader->path.data[length] = 0;
}

/* Every value around the wanted one is noted; the innermost comes last. */
static void note(struct reader *reader, struct place place)
{
	size_t length = reader->path.length;
	if (!reader->wanted || (length && strncmp(reader->path.data, reader->wanted, length) != 0))
		return;
	if (!reader->wanted[length] || reader->wanted[length] == '/')
		reader->found = place;
}

static int read_pair(struct reader *reader, unsigned depth, json_t *object, json_t *merged)
{
	struct place place = event_place(reader);
	if (reader->event.type != YAML_SCALAR_EVENT)
		return refuse(reader, place, "a key must be a plain word or a string");
	bool is_merge =
		reader->event.data.scalar.plain_implicit && strcmp((char *)reader->event.data.scalar.value, "<<") == 0;
	auto_free char *key = str_dup((char *)reader->event.data.scalar.value);
	if (strlen(key) != reader->event.data.scalar.length)
		return refuse(reader, place, "a key contains a zero byte");
	if (json_object_get(object, key))
		return refuse(reader, place, "the key \"%s\" is there twice", key);
	json_t *value = NULL;
	size_t length = reader->path.length;
	enter(reader, key);
	note(reader, place);
	int result = next(reader);
	if (!result && reader->event.type == YAML_SCALAR_EVENT &&
		reader->event.end_mark.index > reader->event.start_mark.index)
		note(reader, event_place(reader));
	if (!result)
		result = read_value(reader, depth, &value);
	leave(reader, length);
	if (result)
		return result;
	if (!is_merge) {
		json_object_set_new_nocheck(object, key, value);
		return 0;
	}
	result = merge(reader, place, merged, value);
	json_decref(value);
	return result;
}

static int read_mapping(struct reader *reader, unsigned depth, json_t **ret)
{
	json_t *object = json_object(), *merged = json_object();
	int result = next(reader);
	while (!result && reader->event.type != YAML_MAPPING_END_EVENT) {
		result = read_pair(reader, depth, object, merged);
		if (!result)
			result = next(reader);
	}
	if (!result)
		json_object_update_missing(object, merged);
	json_decref(merged);
	if (result)
		json_decref(object);
	else
		*ret = object;
	return result;
}

static int read_sequence(struct reader *reader, unsigned depth, json_t **ret)
{
	json_t *array = json_array();
	int result = next(reader);
	for (size_t index = 0; !result && reader->event.type != YAML_SEQUENCE_END_EVENT; index++) {
		json_t *value = NULL;
		char name[24];
		size_t length = reader->path.length;
		snprintf(name, sizeof name, "%zu", index);
		enter(reader, name);
		note(reader, event_place(reader));
		result = read_value(reader, depth, &value);
		leave(reader, length);
		if (!result) {
			json_array_append_new(array, value);
			result = next(reader);
		}
	}
	if (result)
		json_decref(array);
	else
		*ret = array;
	return result;
}

/* The value that begins with the current event; afterwards its last event is the current one. */
static int read_value(struct reader *reader, unsigned depth, json_t **ret)
{
	const yaml_event_t *event = &reader->event;
	const yaml_char_t *anchor = NULL;
	struct place place = event_place(reader);
	int result;
	if (depth == NESTING_MAX)
		return refuse(reader, place, "nested deeper than %d", NESTING_MAX);
	if (event->type == YAML_ALIAS_EVENT)
		return read_alias(reader, ret);
	if (event->type == YAML_SCALAR_EVENT)
		anchor = event->data.scalar.anchor;
	else
		anchor = event->type == YAML_MAPPING_START_EVENT ? event->data.mapping_start.anchor
														 : event->data.sequence_start.anchor;
	auto_free char *name = str_dup((const char *)anchor);
	if (event->type == YAML_SCALAR_EVENT)
		result = read_scalar(reader, ret);
	else if (event->type == YAML_MAPPING_START_EVENT)
		result = read_mapping(reader, depth + 1, ret);
	else
		result = read_sequence(reader, depth + 1, ret);
	if (!result && name) {
		json_decref(names_get(&reader->anchors, name));
		names_put(&reader->anchors, name, json_incref(*ret));
	}
	return result;
}

/* ---- documents ---- */

static void forget_anchors(struct reader *reader)
{
	size_t at = 0;
	void *value;
	while (names_next(&reader->anchors, &at, NULL, &value))
		json_decref(value);
	names_clear(&reader->anchors);
}

static int read_stream(
	struct reader *reader, unsigned only, void (*each)(void *, json_t *, unsigned, size_t), void *context)
{
	unsigned document = 0;
	const char *wanted = reader->wanted;
	for (;;) {
		int result = next(reader);
		if (result || reader->event.type == YAML_STREAM_END_EVENT)
			return result;
		if (reader->event.type != YAML_DOCUMENT_START_EVENT)
			continue;
		document++;
		reader->wanted = document == only ? wanted : NULL;
		reader->budget = ALIASES_MAX;
		json_t *json = NULL;
		result = next(reader);
		struct place place = event_place(reader);
		note(reader, place);
		if (!result)
			result = read_value(reader, 0, &json);
		forget_anchors(reader);
		if (result)
			return result;
		if (each)
			each(context, json, document, place.line);
		else
			json_decref(json);
		if (document == only)
			return 0;
	}
}

static int read_text(struct reader *reader, const char *text, size_t length, unsigned only,
	void (*each)(void *, json_t *, unsigned, size_t), void *context)
{
	if (!yaml_parser_initialize(&reader->parser))
		abort();
	yaml_parser_set_input_string(&reader->parser, (const unsigned char *)text, length);
	int result = read_stream(reader, only, each, context);
	yaml_event_delete(&reader->event);
	yaml_parser_delete(&reader->parser);
	buffer_free(&reader->path);
	return result;
}

int yaml_to_json(const char *text, size_t length, void (*each)(void *, json_t *, unsigned, size_t), void *context,
	struct place *wrong, struct error *e)
{
	struct reader reader = {.error = e};
	int result = read_text(&reader, text, length, 0, each, context);
	if (result < 0)
		*wrong = reader.wrong;
	return result;
}

/* What was found before a part that cannot be read counts. */
struct place yaml_find(const char *text, size_t length, unsigned document, const char *pointer)
{
	struct reader reader = {.wanted = pointer};
	read_text(&reader, text, length, document, NULL, NULL);
	return reader.found;
}

/* ---- JSON to YAML ---- */

static int append(void *context, unsigned char *data, size_t size)
{
	buffer_add(context, data, size);
	return 1;
}

static void emit(yaml_emitter_t *emitter, yaml_event_t *event)
{
	if (!yaml_emitter_emit(emitter, event))
		abort(); /* only out of memory, or events in a wrong order */
}

static void emit_scalar(yaml_emitter_t *emitter, const char *text, size_t length, yaml_scalar_style_t style)
{
	yaml_event_t event;
	yaml_scalar_event_initialize(&event, NULL, NULL, (const yaml_char_t *)text, (int)length, 1, 1, style);
	emit(emitter, &event);
}

/* What YAML 1.1 takes for a time or a number besides the core schema's: 2026-01-01T00:00:00Z, 12:30, 1_000. */
static bool looks_like_yaml11_number(const char *text)
{
	return strchr("0123456789+-.", *text) && strpbrk(text, ":_-") &&
		   text[strspn(text, "0123456789:_.+-TtZz \t")] == '\0';
}

static void emit_string(yaml_emitter_t *emitter, const char *text, size_t length)
{
	static const char *const yaml11[] = {"y", "Y", "yes", "Yes", "YES", "n", "N", "no", "No", "NO", "on", "On", "ON",
		"off", "Off", "OFF", "<<", "=", NULL};
	json_t *plain = strlen(text) == length ? resolve(text) : NULL;
	/* Quoted when it would be read as something else, also by YAML 1.1 readers. */
	bool safe = json_is_string(plain) && !one_of(text, yaml11) && !looks_like_yaml11_number(text);
	json_decref(plain);
	bool lines = memchr(text, '\n', length) != NULL;
	emit_scalar(emitter, text, length, lines || !safe ? YAML_DOUBLE_QUOTED_SCALAR_STYLE : YAML_ANY_SCALAR_STYLE);
}

static void emit_value(yaml_emitter_t *emitter, const json_t *json);

static void emit_object(yaml_emitter_t *emitter, const json_t *json)
{
	yaml_event_t event;
	const char *key;
	json_t *value;
	yaml_mapping_start_event_initialize(&event, NULL, NULL, 1, YAML_BLOCK_MAPPING_STYLE);
	emit(emitter, &event);
	json_object_foreach((json_t *)json, key, value)
	{
		emit_string(emitter, key, strlen(key));
		emit_value(emitter, value);
	}
	yaml_mapping_end_event_initialize(&event);
	emit(emitter, &event);
}

static void emit_array(yaml_emitter_t *emitter, const json_t *json)
{
	yaml_event_t event;
	json_t *value;
	size_t index;
	yaml_sequence_start_event_initialize(&event, NULL, NULL, 1, YAML_BLOCK_SEQUENCE_STYLE);
	emit(emitter, &event);
	json_array_foreach(json, index, value) emit_value(emitter, value);
	yaml_sequence_end_event_initialize(&event);
	emit(emitter, &event);
}

static void emit_value(yaml_emitter_t *emitter, const json_t *json)
{
	if (json_is_object(json)) {
		emit_object(emitter, json);
	} else if (json_is_array(json)) {
		emit_array(emitter, json);
	} else if (json_is_string(json)) {
		emit_string(emitter, json_string_value(json), json_string_length(json));
	} else {
		auto_free char *text = json_dumps(json, JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
		emit_scalar(emitter, text, strlen(text), YAML_PLAIN_SCALAR_STYLE);
	}
}

void json_to_yaml(const json_t *json, struct buffer *out)
{
	yaml_emitter_t emitter;
	yaml_event_t event;
	if (!yaml_emitter_initialize(&emitter))
		abort();
	yaml_emitter_set_output(&emitter, append, out);
	yaml_emitter_set_unicode(&emitter, 1);
	yaml_emitter_set_width(&emitter, -1);
	yaml_stream_start_event_initialize(&event, YAML_UTF8_ENCODING);
	emit(&emitter, &event);
	yaml_document_start_event_initialize(&event, NULL, NULL, NULL, 1);
	emit(&emitter, &event);
	emit_value(&emitter, json);
	yaml_document_end_event_initialize(&event, 1);
	emit(&emitter, &event);
	yaml_stream_end_event_initialize(&event);
	emit(&emitter, &event);
	yaml_emitter_delete(&emitter);
}
