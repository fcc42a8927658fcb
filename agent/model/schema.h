/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Objects described as data. One walk over a schema checks every type and word, reports each error with its JSON
 * pointer (RFC 6901), and copies what is read: the pruned tree. Only for agent/model.
 *
 * An explicit null is an absent field, as in Go's decoder: kubectl prints `matchLabels: null`.
 */
#ifndef PENSTOCK_SCHEMA_H
#define PENSTOCK_SCHEMA_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "agent/base/error.h"
#include "agent/model/object.h"

enum shape {
	SHAPE_STRING,
	SHAPE_INTEGER,
	SHAPE_BOOLEAN,
	SHAPE_PORT, /* IntOrString: a port number or a port name */
	SHAPE_OBJECT,
	SHAPE_ARRAY,
	SHAPE_MAP /* of strings */
};

struct walk {
	struct errors *errors;
	enum kind kind;
	size_t length;
	char path[sizeof(((struct error *)0)->path)]; /* where the walk is */
};

struct schema {
	enum shape shape;
	bool empty_absent;                         /* "" is as good as absent */
	const char *(*wrong)(const char *text);    /* a string; a map's values */
	const char *(*key_wrong)(const char *key); /* a map's keys */
	const char *const *words;                  /* a string: the only ones, NULL-terminated */
	long long low, high;                       /* an integer */
	const char *what;                          /* an integer: "70000 is not WHAT" */
	const struct field *fields;                /* an object: ended by a NULL name */
	const struct schema *items;                /* an array */
	size_t items_min, items_max;               /* an array; items_max 0 = no bound */
	/* What a shape cannot say, called with the pruned value; may change it. What was wrong below is there as null: its
	 * error is told already. */
	void (*check)(struct walk *w, json_t *pruned);
};

struct field {
	const char *name;
	const struct schema *schema; /* NULL: known, not read */
	bool required;
};

#define REQUIRED(name, schema) \
	{                          \
		name, schema, true     \
	}
#define OPTIONAL(name, schema) \
	{                          \
		name, schema, false    \
	}
#define IGNORED(name)     \
	{                     \
		name, NULL, false \
	}
#define WORDS(...)        \
	(const char *const[]) \
	{                     \
		__VA_ARGS__, NULL \
	}

/* A new reference, or NULL: wrong (errors were added), or absent. Unknown fields are errors in strict kinds. */
json_t *schema_walk(struct walk *w, const struct schema *schema, const json_t *value);

/* Going down and up: length = walk_key(w, "spec"); …; walk_leave(w, length). */
size_t walk_key(struct walk *w, const char *key);
size_t walk_index(struct walk *w, size_t index);
void walk_leave(struct walk *w, size_t length);
/* ERROR_INVALID where the walk is, or at one key or index below. */
void walk_error(struct walk *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
void walk_error_key(struct walk *w, const char *key, const char *format, ...) __attribute__((format(printf, 3, 4)));
void walk_error_index(struct walk *w, size_t index, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* A foreign string for a message: cut to a bearable length, never inside a character. */
#define QUOTE_MAX 80
struct quote {
	char text[QUOTE_MAX];
};
struct quote quote(const char *text);

/* The schema of a whole object in a version that is accepted (NULL: the kind's own), or NULL. An older version's leaves
 * an object of the kind's own one. */
const struct schema *schema_of(enum kind kind, const char *version);
/* Of all versions the one with the most fields: what a reader that does not know the version yet must keep. */
const struct schema *schema_widest(enum kind kind);

/* Pieces that several kinds share (schema_parts.c). */
extern const struct schema any_string, optional_string, any_boolean, port_number, protocol_word, ip_text, cidr_text,
	cidr_list, selector_schema, labels_schema, metadata_schema;
extern const struct schema pod_schema, node_schema, namespace_schema, service_schema, endpoint_slice_schema,
	endpoint_slice_v1beta1_schema;
extern const struct schema network_policy_schema, cluster_network_policy_schema;
extern const struct schema workload_schema, transparent_proxy_schema, intercept_policy_schema, node_filter_schema,
	cidr_set_schema;
#define OBJECT_FIELDS                                                   \
	REQUIRED("apiVersion", &any_string), REQUIRED("kind", &any_string), \
	{                                                                   \
		"metadata", &metadata_schema, true                              \
	}

/* Errors for every field that this build decodes but does not enforce yet (unsupported.c). `pruned` is valid. */
void unsupported_check(struct walk *w, const json_t *pruned);

#endif
