/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of this room share. */
#ifndef PENSTOCK_INTAKE_PRIVATE_H
#define PENSTOCK_INTAKE_PRIVATE_H

#include <jansson.h>
#include "agent/base/buffer.h"
#include "agent/base/map.h"
#include "agent/intake/intake.h"
#include "agent/intake/whole.h"
#include "agent/model/body.h"
#include "agent/model/decode.h"

/* One write being read. */
struct intake {
	const struct call *call;
	const struct snapshot *base;
	struct draft *draft;
	struct errors *errors;
	struct whole_items items; /* what the body brought, with pointers */
	struct map seen;          /* key text hash set, for duplicates */
	struct buffer set_aside;
};

/* ---- owners (owner.c) ---- */

/* False, and a 409, when another owner has the object (or what was set aside of it). */
bool owner_allows(struct intake *in, const char *pointer, const struct object_key *key);
/* An old term is a 409. */
int owner_term(struct intake *in);
/* A new owner, or another term: has to be remembered although nothing else changes. */
bool owner_moves(const struct intake *in);
/* Whose write the call is. */
const char *owner_written(const struct call *call);

/* ---- objects of a body, one by one (objects.c) ---- */

/* False when this body named the same object before. */
bool key_is_first(struct intake *in, const struct object_key *key, const char *pointer, struct errors *errors);
/* A namespaced object without a namespace is in "default". */
void key_complete(struct object_key *key);
/* What is wrong with one object of the body, and where that stood. */
struct refusal {
	const struct object_key *key;
	const char *pointer;
	const struct errors *why;
};
/* partial: a policy that isolates what the broken one selects, or NULL. */
void object_set_aside(struct intake *in, const struct refusal *refusal, const struct object *partial);
/* Into the draft, into quarantine, or into the errors. */
void intake_object(struct intake *in, const json_t *json, const struct object_key *key, const char *pointer);
void intake_items(struct intake *in, const struct body_items *items, const char *prefix);

/* ---- what each call does with its body (verbs.c) ---- */

void intake_verb(struct intake *in, const char *body, size_t length);

#endif
