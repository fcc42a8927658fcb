/* SPDX-License-Identifier: Apache-2.0 */
/* JSON → objects: checks every field, prunes what is not read, reports every error with its JSON pointer. Pure. */
#ifndef PENSTOCK_DECODE_H
#define PENSTOCK_DECODE_H

#include <jansson.h>
#include "agent/base/error.h"
#include "agent/model/object.h"

/*
 * One object. `pointer` prefixes the errors ("/items/3" or ""). Adds to errors and returns -EINVAL, or sets *ret (one
 * reference, owner and revision empty). An object of a kind that this build does not enforce is decoded and validated
 * first, then refused. On failure *partial (may be NULL) is set for a NetworkPolicy whose podSelector can be read: a
 * policy that isolates and allows nothing, for quarantine; otherwise NULL.
 */
int object_decode(
	const json_t *json, const char *pointer, struct object **ret, struct object **partial, struct errors *errors);

/* An object from the `json` of one, which it keeps as it is: nothing is pruned or sorted anew. Fails as object_decode
 * does. */
int object_restore(const char *text, struct object **ret, struct errors *errors);

/* The key of an object that may be broken elsewhere: kind, namespace, name as far as they are strings; missing ones are
 * "". */
struct object_key {
	char kind[64], namespace[64], name[256];
};
void object_key_read(const json_t *json, struct object_key *ret);

/* What GET returns: json plus the annotation penstock.dev/owner. The caller frees. */
char *object_encode(const struct object *object);

/*
 * Equal but for metadata.resourceVersion: the API server gives an object another one for what nobody here reads, a
 * Node every five minutes. Another uid is a difference: it is another object of that name, and comes with another
 * creationTimestamp, which decides who of two Pods has an address.
 */
bool object_alike(const struct object *a, const struct object *b);

/* A list's labelSelector parameter ("a=b,c!=d,e in (x,y),!f"). */
int selector_parse(const char *text, struct selector **ret, struct error *e);
void selector_free(struct selector *selector);

#endif
