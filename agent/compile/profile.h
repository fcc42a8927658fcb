/* SPDX-License-Identifier: Apache-2.0 */
/* Which policies select a local workload, and what their named ports are on it: those who agree share a profile. */
#ifndef PENSTOCK_PROFILE_H
#define PENSTOCK_PROFILE_H

#include "agent/compile/compiled.h"

struct side_link {
	struct link in_term;
	struct profile_side *side;
};
/* What a peer's class comes down to for one direction of one profile: the terms that both have. */
struct peer_case {
	struct interned interned;
	struct row *row;
	unsigned references;
	uint32_t term_count, word_count;
	uint32_t words[]; /* as in struct class */
};
struct profile_side {
	struct profile *profile;
	enum direction direction;
	struct words terms; /* of all its rules, sorted */
	struct side_link *links;
	struct intern cases;
	struct peer_case *base; /* no terms: the default row */
	uint64_t stamp;
};
struct profile {
	struct interned interned;
	uint32_t id;
	unsigned references;    /* groups */
	struct compiled **list; /* in the order in which they decide */
	size_t count;
	struct group_port *ports; /* of the workload, those that ingress rules name */
	size_t port_count;
	struct profile_side sides[DIRECTIONS];
	struct profile *predecessor; /* which a group had before this one: its number is taken over when it ends */
	bool fresh, ended;
	struct link waiting;
};

bool profile_has(const struct profile *profile, const struct compiled *compiled);
void profiles_init(struct compiler *c);
/* Touched groups find their profiles; those that nobody has end, and let their policies go. */
void profiles_refresh(struct compiler *c);
void profiles_number(struct compiler *c);
void profiles_emit(struct compiler *c);
void profiles_sweep(struct compiler *c);
void profiles_free(struct compiler *c);

#endif
