/* SPDX-License-Identifier: Apache-2.0 */
/* Objects from files, directories and standard input, each with the place where it stands. */
#ifndef PENSTOCK_MANIFEST_H
#define PENSTOCK_MANIFEST_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include "agent/base/buffer.h"
#include "agent/base/error.h"
#include "api/client/yaml_json.h"

struct manifest_source {
	char *name; /* as given; "standard input" for "-" */
	char *text;
	size_t length;
	unsigned documents;
};
struct manifest_object {
	json_t *json;
	const struct manifest_source *source;
	unsigned document; /* in the source, from 1 */
	size_t start;      /* byte: of JSON, which may stand behind other JSON, where its text begins */
	char inside[32];   /* pointer inside the document: "" or "/items/3" */
};
struct manifests {
	struct manifest_source **sources;
	size_t source_count, source_capacity;
	struct manifest_object *objects;
	size_t object_count, object_capacity;
	const struct manifest_source *wrong_source; /* the last, when manifests_add failed for its text; else NULL */
	struct place wrong;
};

/*
 * Adds the objects of a file (YAML stream, JSON, one JSON after the other), of a directory's *.yaml, *.yml and *.json
 * in order of their names, or of standard input ("-"). Lists are taken apart. Error detail:
 * "FILE: what", or "FILE:LINE:COLUMN: what".
 */
int manifests_add(struct manifests *manifests, const char *path, struct error *e);
void manifests_clear(struct manifests *manifests);

/* "FILE:LINE:COLUMN: NetworkPolicy shop/web", for a pointer into the object ("" for all of it). */
void manifest_place(const struct manifest_object *object, const char *pointer, struct buffer *out);
/* The line of that place, and below it what points to the field. */
void manifest_excerpt(
	const struct manifest_object *object, const char *pointer, const char *indent, struct buffer *out);
/* A member of metadata, or "". */
const char *manifest_metadata(const json_t *object, const char *member);

#endif
