/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All networks and exceptions that terms name, in one prefix tree a family. The set of a prefix is what holds for an
 * address whose longest prefix it is: terms of its ancestors and its own, without those that it is an exception of.
 * Addresses of Pods hang on the longest prefix that contains them, so that a changed network finds them.
 */
#ifndef PENSTOCK_NETWORK_H
#define PENSTOCK_NETWORK_H

#include "agent/compile/term.h"

struct term_set {
	struct interned interned;
	unsigned references;
	uint32_t count;
	uint32_t ids[]; /* sorted */
};
struct prefix {
	struct cidr cidr;
	struct prefix *parent, *child[2];
	struct words adds, cuts; /* terms whose network, whose exception this is */
	bool used;               /* adds or cuts, or the root; otherwise only a fork of the tree */
	struct term_set *set;    /* NULL until it is first computed */
	struct link crossings;
	struct class *class; /* of the addresses that nobody holds; NULL: no entry */
	struct link touched, ended, dirty;
};

void networks_init(struct compiler *c);
void networks_free(struct compiler *c);
void network_add(struct compiler *c, const struct term *term);
void network_remove(struct compiler *c, const struct term *term);
static inline bool prefix_is_address(const struct prefix *prefix)
{
	return prefix->cidr.length == (prefix->cidr.ip.family == 4 ? 32 : 128);
}
/* Its entry is written at the end of this update, whether it changed or not. */
void prefix_touch(struct compiler *c, struct prefix *prefix);
/* Brings the sets up to date; crossings and prefixes whose set changed become dirty. */
void networks_refresh(struct compiler *c);
/* Takes unused prefixes out of the tree; no address hangs on them any more. */
void networks_sweep(struct compiler *c);
struct prefix *prefix_of(const struct compiler *c, const struct ip *ip);

#endif
