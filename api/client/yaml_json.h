/* SPDX-License-Identifier: Apache-2.0 */
/*
 * YAML to JSON and back, with YAML 1.2's core typing: what is quoted is a string; plain true, false, null and numbers
 * are what they look like; everything else is a string ("yes" and "2026-11-23" too).
 */
#ifndef PENSTOCK_YAML_JSON_H
#define PENSTOCK_YAML_JSON_H

#include <jansson.h>
#include <stddef.h>
#include "agent/base/buffer.h"
#include "agent/base/error.h"

/* Where something stands in a text. */
struct place {
	size_t line, column; /* from 1, columns in characters; 0: not known */
	size_t width;        /* characters, at least 1; 0: not known */
};

/*
 * Calls each() for every document of a stream with its number (from 1) and first line; an empty document is JSON null.
 * each() takes the reference. Aliases and merge keys (<<) are expanded, within bounds. On failure *wrong says where.
 */
int yaml_to_json(const char *text, size_t length, void (*each)(void *, json_t *, unsigned, size_t), void *context,
	struct place *wrong, struct error *e);
/*
 * Where the value at a JSON pointer stands in a document, or the nearest one around it: a scalar itself, of an object
 * or a list the key that it belongs to. JSON is YAML enough for this. Line 0 when there is no such document.
 */
struct place yaml_find(const char *text, size_t length, unsigned document, const char *pointer);
/* Appends the place's line with its number, and a line that points to it; of a long line a piece. */
void place_excerpt(const char *text, size_t length, const struct place *place, const char *indent, struct buffer *out);
/* Appends block-style YAML that yaml_to_json reads back to the same value. */
void json_to_yaml(const json_t *json, struct buffer *out);

#endif
