/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Splits a request body into its objects without building one tree of the whole: a state of 10,000 pods is parsed one
 * object at a time. Checks well-formedness of the frame, nesting (64) and the size of one object (4 MiB). Pure.
 */
#ifndef PENSTOCK_BODY_H
#define PENSTOCK_BODY_H

#include <jansson.h>
#include <stddef.h>
#include "agent/base/error.h"

#define BODY_NESTING_MAX 64
#define BODY_OBJECT_MAX (4u << 20)
#define BODY_ITEMS_MAX (1u << 20) /* objects in one body */

struct body_item {
	const char *text; /* inside the body */
	size_t length;
};
struct body_items {
	struct body_item *list;
	size_t count;
};
enum body_format { BODY_JSON, BODY_NDJSON };
/*
 * The array `member` of a JSON object (a Kubernetes List fits: other members are skipped but must be well-formed), or
 * the lines of NDJSON (blank ones are skipped). A missing array: with `required` an error, else none; null is an empty
 * one. ERROR_SYNTAX with line and column, ERROR_TOO_LARGE, or ERROR_INVALID for JSON of another shape. *ret unchanged
 * on failure.
 */
int body_split(const char *body, size_t length, enum body_format format, const char *member, int required,
	struct body_items *ret, struct error *e);
void body_items_free(struct body_items *items);
/*
 * One item's inner syntax: any JSON value, without duplicate keys. ERROR_SYNTAX at `pointer`, with line and column
 * inside the item. *ret is the caller's. Of an object of a standard kind, what is ignored there (managedFields,
 * volumes …) is checked and left out.
 */
int body_item_parse(const struct body_item *item, const char *pointer, json_t **ret, struct error *e);

/* The names of the body's top-level members, in order: a body that is not an object is an error. The caller frees the
 * list. */
struct body_member {
	char name[64]; /* cut off when longer */
};
int body_members(const char *body, size_t length, struct body_member **ret, size_t *count, struct error *e);
/* One JSON value and nothing behind it: frame, nesting and size (BODY_OBJECT_MAX) are looked at, as for an item. */
int body_check(const char *body, size_t length, struct error *e);

#endif
