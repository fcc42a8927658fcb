/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/model/reader.h"

#include <string.h>

#include "agent/model/body.h"
#include "agent/model/schema.h"

struct reader {
	const char *at, *end;
};

static json_t *value_read(struct reader *r, const struct schema *schema, unsigned depth);
static bool value_skip(struct reader *r, unsigned depth);

static void spaces(struct reader *r)
{
	while (r->at < r->end && (*r->at == ' ' || *r->at == '\n' || *r->at == '\t' || *r->at == '\r'))
		r->at++;
}

static bool accept(struct reader *r, char c)
{
	if (r->at >= r->end || *r->at != c)
		return false;
	r->at++;
	return true;
}

/* ---- strings ---- */

/* 1: neither plain ASCII nor allowed to pass unseen. */
static const uint8_t special[256] = {[0 ... 0x1f] = 1, ['"'] = 1, ['\\'] = 1, [0x80 ... 0xff] = 1};

static bool hex4(const char *at, const char *end, unsigned *ret)
{
	*ret = 0;
	for (int i = 0; i < 4; i++, at++) {
		if (at >= end)
			return false;
		unsigned c = (unsigned char)*at, low = c | 0x20;
		if (c >= '0' && c <= '9')
			*ret = *ret << 4 | (c - '0');
		else if (low >= 'a' && low <= 'f')
			*ret = *ret << 4 | (low - 'a' + 10);
		else
			return false;
	}
	return true;
}

/* At a backslash: the bytes of the escape, 0 when it is none. Surrogates come in pairs; no NUL, as in jansson. */
static size_t escape_length(const char *at, const char *end)
{
	unsigned unit, second;
	if (end - at < 2)
		return 0;
	if (at[1] != 'u')
		return strchr("\"\\/bfnrt", at[1]) && at[1] ? 2 : 0;
	if (!hex4(at + 2, end, &unit) || !unit || (unit >= 0xdc00 && unit <= 0xdfff))
		return 0;
	if (unit < 0xd800 || unit > 0xdbff)
		return 6;
	bool pair = end - at >= 12 && at[6] == '\\' && at[7] == 'u' && hex4(at + 8, end, &second) && second >= 0xdc00 &&
				second <= 0xdfff;
	return pair ? 12 : 0;
}

/* RFC 3629: the bytes of the character, 0 when it is none. */
static size_t utf8_length(const char *text, const char *end)
{
	const unsigned char *at = (const unsigned char *)text;
	size_t left = (size_t)(end - text), length = *at >= 0xf0 ? 4 : *at >= 0xe0 ? 3 : 2;
	if (*at < 0xc2 || *at > 0xf4 || left < length)
		return 0;
	for (size_t i = 1; i < length; i++)
		if ((at[i] & 0xc0) != 0x80)
			return 0;
	if ((*at == 0xe0 && at[1] < 0xa0) || (*at == 0xed && at[1] > 0x9f) || (*at == 0xf0 && at[1] < 0x90) ||
		(*at == 0xf4 && at[1] > 0x8f))
		return 0;
	return length;
}

/* From behind the opening quote to behind the closing one. *escaped: the bytes are not the text itself. */
static bool string_skip(struct reader *r, bool *escaped)
{
	*escaped = false;
	for (;;) {
		while (r->at < r->end && !special[(uint8_t)*r->at])
			r->at++;
		if (r->at >= r->end)
			return false;
		size_t length;
		if (*r->at == '"') {
			r->at++;
			return true;
		}
		if (*r->at == '\\') {
			*escaped = true;
			length = escape_length(r->at, r->end);
		} else {
			length = utf8_length(r->at, r->end);
		}
		if (!length)
			return false;
		r->at += length;
	}
}

static json_t *string_read(struct reader *r)
{
	const char *start = r->at;
	bool escaped;
	if (!accept(r, '"') || !string_skip(r, &escaped))
		return NULL;
	if (escaped)
		return json_loadb(start, (size_t)(r->at - start), JSON_DECODE_ANY, NULL);
	return json_stringn_nocheck(start + 1, (size_t)(r->at - start) - 2);
}

/* A member's name, as the bytes between the quotes, and the colon. One with an escape is left to jansson. */
static bool key_read(struct reader *r, const char **key, size_t *length)
{
	bool escaped;
	spaces(r);
	*key = r->at + 1;
	if (!accept(r, '"') || !string_skip(r, &escaped) || escaped)
		return false;
	*length = (size_t)(r->at - *key) - 1;
	spaces(r);
	if (!accept(r, ':'))
		return false;
	spaces(r);
	return true;
}

/* ---- numbers and words ---- */

static size_t digits_skip(struct reader *r)
{
	const char *start = r->at;
	while (r->at < r->end && *r->at >= '0' && *r->at <= '9')
		r->at++;
	return (size_t)(r->at - start);
}

static bool number_skip(struct reader *r)
{
	accept(r, '-');
	const char *start = r->at;
	size_t digits = digits_skip(r);
	if (!digits || (digits > 1 && *start == '0'))
		return false;
	if (accept(r, '.') && !digits_skip(r))
		return false;
	if (accept(r, 'e') || accept(r, 'E')) {
		if (!accept(r, '-'))
			accept(r, '+');
		return digits_skip(r);
	}
	return true;
}

static bool word_skip(struct reader *r)
{
	static const char *const words[] = {"true", "false", "null"};
	for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++) {
		size_t length = strlen(words[i]);
		if ((size_t)(r->end - r->at) >= length && !memcmp(r->at, words[i], length)) {
			r->at += length;
			return true;
		}
	}
	return false;
}

/* ---- what is not read ---- */

/* Behind the opening bracket, to behind the closing one. */
static bool entries_skip(struct reader *r, bool object, unsigned depth)
{
	const char close = object ? '}' : ']';
	bool escaped;
	spaces(r);
	if (accept(r, close))
		return true;
	do {
		spaces(r);
		if (object) {
			if (!accept(r, '"') || !string_skip(r, &escaped))
				return false;
			spaces(r);
			if (!accept(r, ':'))
				return false;
			spaces(r);
		}
		if (!value_skip(r, depth))
			return false;
		spaces(r);
	} while (accept(r, ','));
	return accept(r, close);
}

static bool value_skip(struct reader *r, unsigned depth)
{
	bool escaped;
	if (r->at >= r->end || depth >= BODY_NESTING_MAX)
		return false;
	switch (*r->at) {
	case '{':
	case '[':
		return entries_skip(r, *r->at++ == '{', depth + 1);
	case '"':
		r->at++;
		return string_skip(r, &escaped);
	case 't':
	case 'f':
	case 'n':
		return word_skip(r);
	default:
		return number_skip(r);
	}
}

/* ---- what is read ---- */

static json_t *any_read(struct reader *r, unsigned depth)
{
	const char *start = r->at;
	if (r->at < r->end && *r->at == '"')
		return string_read(r);
	if (!value_skip(r, depth))
		return NULL;
	return json_loadb(start, (size_t)(r->at - start), JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
}

static const struct field *field_find(const struct schema *schema, const char *key, size_t length)
{
	const struct field *field = schema->fields;
	while (field->name && (strncmp(field->name, key, length) || field->name[length]))
		field++;
	return field->name ? field : NULL;
}

/* Takes the value; false when the key is there already. */
static bool member_put(json_t *object, const char *key, size_t length, json_t *value)
{
	bool new = value && !json_object_getn(object, key, length);
	if (!new)
		json_decref(value);
	return new && !json_object_setn_new_nocheck(object, key, length, value);
}

/* Behind the opening brace. On the top level everything is kept: what stands there may be no object of Kubernetes. */
static bool members_read(struct reader *r, const struct schema *schema, unsigned depth, json_t *object)
{
	spaces(r);
	if (accept(r, '}'))
		return true;
	do {
		const char *key;
		size_t length;
		if (!key_read(r, &key, &length))
			return false;
		const struct field *field = schema->shape == SHAPE_OBJECT ? field_find(schema, key, length) : NULL;
		if (field && field->schema) {
			if (!member_put(object, key, length, value_read(r, field->schema, depth)))
				return false;
		} else if (schema->shape == SHAPE_MAP || depth == 1) {
			if (!member_put(object, key, length, any_read(r, depth)))
				return false;
		} else if (!value_skip(r, depth)) {
			return false;
		}
		spaces(r);
	} while (accept(r, ','));
	return accept(r, '}');
}

static bool entries_read(struct reader *r, const struct schema *schema, unsigned depth, json_t *array)
{
	spaces(r);
	if (accept(r, ']'))
		return true;
	do {
		spaces(r);
		json_t *entry = value_read(r, schema->items, depth);
		if (!entry)
			return false;
		json_array_append_new(array, entry);
		spaces(r);
	} while (accept(r, ','));
	return accept(r, ']');
}

static json_t *value_read(struct reader *r, const struct schema *schema, unsigned depth)
{
	bool members = r->at < r->end && *r->at == '{' && (schema->shape == SHAPE_OBJECT || schema->shape == SHAPE_MAP);
	bool entries = r->at < r->end && *r->at == '[' && schema->shape == SHAPE_ARRAY;
	if ((!members && !entries) || depth >= BODY_NESTING_MAX)
		return any_read(r, depth);
	json_t *value = members ? json_object() : json_array();
	r->at++;
	if (members ? members_read(r, schema, depth + 1, value) : entries_read(r, schema, depth + 1, value))
		return value;
	json_decref(value);
	return NULL;
}

/* The kind, if it can be found without trouble. */
static int kind_find(struct reader r)
{
	const char *key;
	size_t length;
	if (!accept(&r, '{'))
		return -1;
	do {
		if (!key_read(&r, &key, &length))
			return -1;
		if (length == 4 && !memcmp(key, "kind", 4)) {
			json_t *value = string_read(&r);
			int kind = json_is_string(value) ? kind_by_name(json_string_value(value)) : -1;
			json_decref(value);
			return kind;
		}
		if (!value_skip(&r, 1))
			return -1;
		spaces(&r);
	} while (accept(&r, ','));
	return -1;
}

json_t *reader_object(const char *text, size_t length)
{
	struct reader r = {text, text + length};
	spaces(&r);
	int kind = kind_find(r);
	if (kind < 0 || kinds[kind].strict)
		return NULL;
	json_t *value = value_read(&r, schema_widest((enum kind)kind), 0);
	spaces(&r);
	if (value && r.at == r.end)
		return value;
	json_decref(value);
	return NULL;
}
