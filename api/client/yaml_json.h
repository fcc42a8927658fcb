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

/*
 * Calls each() for every document of a stream with its number (from 1) and first line; an empty document is JSON null.
 * each() takes the reference. Aliases and merge keys (<<) are expanded, within bounds. Error: "line N: what".
 */
int yaml_to_json(
	const char *text, size_t length, void (*each)(void *, json_t *, unsigned, size_t), void *context, struct error *e);
/* The line of the value at a JSON pointer in a document, or of the nearest value around it; 0 when that fails. */
size_t yaml_find_line(const char *text, size_t length, unsigned document, const char *pointer);
/* Appends block-style YAML that yaml_to_json reads back to the same value. */
void json_to_yaml(const json_t *json, struct buffer *out);

#endif
