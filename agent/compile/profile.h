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
/* A rule of the profile, found by a term that it names. */
struct side_rule {
	uint32_t term;
	uint32_t rank; /* of its policy in the profile */
	const struct compiled *compiled;
	const struct compiled_rule *rule;
};
/* What closes the workload in this direction to what no rule allows. */
struct side_isolation {
	uint32_t rule;
	bool audit;
};
struct profile_side {
	struct profile *profile;
	enum direction direction;
	struct words terms;       /* of all its rules, sorted */
	struct side_link **links; /* a term each */
	/* By term, then in the order in which they decide: what is asked about a peer are the rules that name a term of
	 * his, however many there are. */
	struct side_rule *rules;
	size_t rule_count;
	struct side_rule *always; /* rules about any peer, in the order in which they decide; without a term */
	size_t always_count;
	/* The first policy in audit mode, if it is before the first that is enforced; then that one. */
	struct side_isolation isolation[2];
	size_t isolation_count;
	struct words changed; /* terms whose rules are others since this update began, sorted */
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
	bool steered; /* an ingress rule of it hands connections to a proxy */
	struct profile_side sides[DIRECTIONS];
	struct profile *predecessor; /* which a group had before this one: its number is taken over when it ends */
	bool fresh, ended;
	struct link waiting;
};

/* For renew.c. */
int side_rule_compare(const void *left, const void *right); /* as struct profile_side says */
/* Adds the rules and terms of the policy at this place in the profile's list. */
void side_add_policy(struct profile_side *side, uint32_t rank, size_t room[2]);
void side_isolate(struct profile_side *side);
struct side_link *side_link_new(struct compiler *c, struct profile_side *side, uint32_t term);

/* The first of its rules that names this term. */
size_t side_rule_first(const struct profile_side *side, uint32_t term);
bool profile_has(const struct profile *profile, const struct compiled *compiled);
void profiles_init(struct compiler *c);
/* Touched groups find their profiles; those that nobody has end, and let their policies go. */
void profiles_refresh(struct compiler *c);
void profiles_number(struct compiler *c);
void profiles_emit(struct compiler *c);
void profiles_sweep(struct compiler *c);
void profiles_free(struct compiler *c);

#endif
