/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A structural scanner: it knows strings, brackets and what separates the frame's own members and entries. What stands
 * inside an item is looked at only for its brackets; jansson reads it when its turn comes.
 */
#include "agent/model/body.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "agent/base/mem.h"
#include "agent/model/reader.h"

struct scan {
	const char *begin, *at, *end;
	size_t line; /* of begin, from 1 */
	struct error *e;
};

static int fail(const struct scan *s, enum error_kind kind, const char *at, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
static int fail(const struct scan *s, enum error_kind kind, const char *at, const char *format, ...)
{
	size_t line = s->line;
	const char *start = s->begin, *newline;
	while ((newline = memchr(start, '\n', (size_t)(at - start)))) {
		line++;
		start = newline + 1;
	}
	char what[160];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(what, sizeof(what), format, arguments);
	va_end(arguments);
	return error_set(s->e, kind, EINVAL, "", "line %zu, column %zu: %s", line, (size_t)(at - start) + 1, what);
}

static void spaces(struct scan *s)
{
	while (s->at < s->end && (*s->at == ' ' || *s->at == '\n' || *s->at == '\t' || *s->at == '\r'))
		s->at++;
}

static bool next_is(const struct scan *s, char c)
{
	return s->at < s->end && *s->at == c;
}

/* Behind the closing quote of the string that begins at `at`; NULL when it never ends. */
static const char *string_end(const char *at, const char *end)
{
	for (at++; at < end; at++) {
		if (*at == '"')
			return at + 1;
		if (*at == '\\')
			at++;
	}
	return NULL;
}

/* The bytes at which the scanner has to look inside a value. */
static const uint8_t structural[256] = {['"'] = 1, ['{'] = 1, ['}'] = 1, ['['] = 1, [']'] = 1};

/* Skips from an opening bracket to behind the one that closes it. `depth` brackets are open outside. */
static int brackets_skip(struct scan *s, unsigned depth)
{
	uint64_t objects = 0; /* a bit for each open bracket: set when it is a brace */
	unsigned open = 0;
	const char *at = s->at, *end = s->end;
	for (;;) {
		while (at < end && !structural[(uint8_t)*at])
			at++;
		if (at >= end)
			return fail(s, ERROR_SYNTAX, s->at, "this %s is never closed", *s->at == '{' ? "object" : "array");
		switch (*at) {
		case '"': {
			const char *behind = string_end(at, end);
			if (!behind)
				return fail(s, ERROR_SYNTAX, at, "this string never ends");
			at = behind;
			continue;
		}
		case '{':
		case '[':
			if (depth + ++open > BODY_NESTING_MAX)
				return fail(s, ERROR_TOO_LARGE, at, "nested deeper than %d levels", BODY_NESTING_MAX);
			objects = objects << 1 | (*at == '{');
			break;
		default:
			if ((objects & 1) != (*at == '}'))
				return fail(s, ERROR_SYNTAX, at, "'%c' closes nothing", *at);
			objects >>= 1;
			open--;
		}
		at++;
		if (!open) {
			s->at = at;
			return 0;
		}
	}
}

/* Skips one value of any type. */
static int value_skip(struct scan *s, unsigned depth)
{
	if (s->at >= s->end)
		return fail(s, ERROR_SYNTAX, s->at, "it ends where a value is wanted");
	if (*s->at == '{' || *s->at == '[')
		return brackets_skip(s, depth);
	if (*s->at == '"') {
		const char *behind = string_end(s->at, s->end);
		if (!behind)
			return fail(s, ERROR_SYNTAX, s->at, "this string never ends");
		s->at = behind;
		return 0;
	}
	const char *start = s->at;
	while (s->at < s->end && ((*s->at >= '0' && *s->at <= '9') || (*s->at >= 'a' && *s->at <= 'z') || *s->at == '-' ||
								 *s->at == '+' || *s->at == '.' || *s->at == 'E'))
		s->at++;
	return s->at > start ? 0 : fail(s, ERROR_SYNTAX, start, "a value is wanted here");
}

/* jansson's own judgement of a piece of the frame. */
static int piece_check(struct scan *s, const char *from, json_t **ret)
{
	json_error_t error;
	size_t length = (size_t)(s->at - from);
	json_t *json = json_loadb(from, length, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &error);
	if (!json) {
		size_t position = error.position > 0 ? (size_t)error.position - 1 : 0;
		return fail(s, ERROR_SYNTAX, from + (position < length ? position : length), "%.100s", error.text);
	}
	if (ret)
		*ret = json;
	else
		json_decref(json);
	return 0;
}

/* Consumes the value of a top-level member; the scanner stands at its first byte. */
typedef int (*member_function)(struct scan *s, const char *name, void *context);

static int member_read(struct scan *s, member_function member, void *context)
{
	const char *start = s->at;
	json_t *name = NULL;
	if (!next_is(s, '"'))
		return fail(s, ERROR_SYNTAX, s->at, "a member's name in quotes is wanted here");
	int status = value_skip(s, 1);
	if (!status)
		status = piece_check(s, start, &name);
	if (status)
		return status;
	spaces(s);
	if (next_is(s, ':')) {
		s->at++;
		spaces(s);
		status = member(s, json_string_value(name), context);
	} else {
		status = fail(s, ERROR_SYNTAX, s->at, "':' is wanted here");
	}
	json_decref(name);
	return status;
}

/* ',' (more follow), or `close`. */
static int separator(struct scan *s, char close, bool *more)
{
	spaces(s);
	*more = next_is(s, ',');
	if (!*more && !next_is(s, close))
		return fail(s, ERROR_SYNTAX, s->at, "',' or '%c' is wanted here", close);
	s->at++;
	spaces(s);
	return 0;
}

static int frame_begin(struct scan *s)
{
	if (s->end - s->at >= 3 && !memcmp(s->at, "\xef\xbb\xbf", 3))
		return fail(s, ERROR_SYNTAX, s->at, "a byte order mark is not JSON");
	spaces(s);
	return s->at < s->end ? 0 : error_set(s->e, ERROR_SYNTAX, EINVAL, "", "the body is empty");
}

static int frame_end(struct scan *s)
{
	spaces(s);
	return s->at == s->end ? 0 : fail(s, ERROR_SYNTAX, s->at, "something follows the end of the JSON value");
}

/* Walks the body's top-level members. */
static int frame_walk(struct scan *s, member_function member, void *context)
{
	int status = frame_begin(s);
	if (status)
		return status;
	if (!next_is(s, '{')) {
		const char *start = s->at;
		if (!(status = value_skip(s, 0)) && !(status = piece_check(s, start, NULL)) && !(status = frame_end(s)))
			status = error_set(s->e, ERROR_INVALID, EINVAL, "", "the body must be a JSON object");
		return status;
	}
	s->at++;
	spaces(s);
	bool more = !next_is(s, '}');
	s->at += !more;
	while (more) {
		if ((status = member_read(s, member, context)) || (status = separator(s, '}', &more)))
			return status;
	}
	return frame_end(s);
}

/* ---- splitting ---- */

struct split {
	const char *wanted;
	bool found;
	struct body_items items;
	size_t capacity;
};

static int item_add(struct scan *s, struct split *split, const char *start, const char *prefix)
{
	size_t length = (size_t)(s->at - start);
	if (length > BODY_OBJECT_MAX) {
		char pointer[96];
		snprintf(pointer, sizeof(pointer), "%s%.64s/%zu", *prefix ? "/" : "", prefix, split->items.count);
		return error_set(
			s->e, ERROR_TOO_LARGE, EINVAL, pointer, "%zu bytes: one object may have %u", length, BODY_OBJECT_MAX);
	}
	if (split->items.count >= BODY_ITEMS_MAX)
		return fail(s, ERROR_TOO_LARGE, start, "more than %u objects", BODY_ITEMS_MAX);
	split->items.list = list_room(split->items.list, split->items.count, &split->capacity, sizeof(*split->items.list));
	split->items.list[split->items.count++] = (struct body_item){start, length};
	return 0;
}

static int split_array(struct scan *s, struct split *split)
{
	s->at++;
	spaces(s);
	bool more = !next_is(s, ']');
	s->at += !more;
	while (more) {
		const char *start = s->at;
		int status = value_skip(s, 2);
		if (!status)
			status = item_add(s, split, start, split->wanted);
		if (!status)
			status = separator(s, ']', &more);
		if (status)
			return status;
	}
	return 0;
}

static int split_member(struct scan *s, const char *name, void *context)
{
	struct split *split = context;
	const char *start = s->at;
	bool wanted = !strcmp(name, split->wanted);
	if (wanted && split->found)
		return fail(s, ERROR_SYNTAX, start, "\"%.64s\" is there twice", name);
	split->found = split->found || wanted;
	if (wanted && next_is(s, '['))
		return split_array(s, split);
	int status = value_skip(s, 1);
	if (!status)
		status = piece_check(s, start, NULL);
	if (!status && wanted && strncmp(start, "null", 4)) {
		char pointer[80];
		snprintf(pointer, sizeof(pointer), "/%.64s", name);
		status = error_set(s->e, ERROR_INVALID, EINVAL, pointer, "expected an array");
	}
	return status;
}

static int split_lines(struct scan *s, struct split *split)
{
	struct scan line = *s;
	int status = frame_begin(s);
	for (; !status && line.begin < s->end; line.begin = line.end + 1, line.line++) {
		const char *newline = memchr(line.begin, '\n', (size_t)(s->end - line.begin));
		line.end = newline ? newline : s->end;
		line.at = line.begin;
		spaces(&line);
		if (line.at == line.end)
			continue;
		const char *start = line.at;
		if (!(status = value_skip(&line, 0)) && !(status = item_add(&line, split, start, "")))
			status = frame_end(&line);
	}
	return status;
}

int body_split(const char *body, size_t length, enum body_format format, const char *member, int required,
	struct body_items *ret, struct error *e)
{
	struct scan s = {body, body, body + length, 1, e};
	struct split split = {.wanted = member};
	int status = format == BODY_NDJSON ? split_lines(&s, &split) : frame_walk(&s, split_member, &split);
	if (!status && format == BODY_JSON && required && !split.found) {
		char pointer[80];
		snprintf(pointer, sizeof(pointer), "/%.64s", member);
		status = error_set(e, ERROR_INVALID, EINVAL, pointer, "is required");
	}
	if (status)
		body_items_free(&split.items);
	else
		*ret = split.items;
	return status;
}

void body_items_free(struct body_items *items)
{
	free(items->list);
	*items = (struct body_items){0};
}

/* ---- members, and one value ---- */

#define MEMBERS_MAX 1024

struct members {
	struct body_member *list;
	size_t count, capacity;
};

static int members_member(struct scan *s, const char *name, void *context)
{
	struct members *members = context;
	if (members->count >= MEMBERS_MAX)
		return fail(s, ERROR_TOO_LARGE, s->at, "more than %d members", MEMBERS_MAX);
	members->list = list_room(members->list, members->count, &members->capacity, sizeof(*members->list));
	struct body_member *member = &members->list[members->count++];
	snprintf(member->name, sizeof(member->name), "%s", name);
	return value_skip(s, 1);
}

int body_members(const char *body, size_t length, struct body_member **ret, size_t *count, struct error *e)
{
	struct scan s = {body, body, body + length, 1, e};
	struct members members = {0};
	int status = frame_walk(&s, members_member, &members);
	if (status) {
		free(members.list);
		return status;
	}
	*ret = members.list;
	*count = members.count;
	return 0;
}

int body_check(const char *body, size_t length, struct error *e)
{
	struct scan s = {body, body, body + length, 1, e};
	int status = frame_begin(&s);
	if (status)
		return status;
	const char *start = s.at;
	if (!(status = value_skip(&s, 0)) && s.at - start > (ptrdiff_t)BODY_OBJECT_MAX)
		status = error_set(e, ERROR_TOO_LARGE, EINVAL, "", "%zu bytes: one object may have %u", (size_t)(s.at - start),
			BODY_OBJECT_MAX);
	return status ? status : frame_end(&s);
}

int body_item_parse(const struct body_item *item, const char *pointer, json_t **ret, struct error *e)
{
	json_error_t error;
	json_t *json = reader_object(item->text, item->length);
	if (!json)
		json = json_loadb(item->text, item->length, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &error);
	if (!json)
		return error_set(e, ERROR_SYNTAX, EINVAL, pointer, "not JSON: line %d, column %d of the object: %.160s",
			error.line, error.column, error.text);
	*ret = json;
	return 0;
}
