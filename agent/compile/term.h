/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One thing that a peer can say, kept once however many rules say it. Only rules of policies that select an endpoint of
 * this node are terms: what concerns nobody here splits no class.
 */
#ifndef PENSTOCK_TERM_H
#define PENSTOCK_TERM_H

#include "agent/compile/group.h"

enum term_type {
	TERM_PODS,      /* a pod selector in a namespace selector */
	TERM_NODES,     /* a node selector */
	TERM_NETWORK,   /* a network with its exceptions */
	TERM_PORT_NAME, /* has a port of that name: egress rules mean the peer's own number */
};
struct term {
	uint32_t id;
	enum term_type type;
	unsigned references;
	char *key;
	const struct object *source; /* keeps `peer` alive */
	const struct peer *peer;
	struct space *space; /* the policy's own namespace, when that is what the peer means */
	struct space *anchor_space;
	struct term_anchor *anchor;
	struct port_name *port_name;
	struct link classes; /* struct class_link */
	struct link users;   /* struct side_link: profiles whose rules say it */
	struct link anchored, waiting;
	uint64_t stamp;
};

/* The term of this peer in a policy of this namespace (NULL: cluster-scoped); NULL when it matches nothing. */
struct term *term_take(struct compiler *c, const struct object *policy, const struct peer *peer, struct space *space);
struct term *term_take_port_name(struct compiler *c, struct port_name *name);
void term_drop(struct compiler *c, struct term *term);

/* All terms that match, ids sorted. */
void terms_of_group(struct compiler *c, const struct group *group, struct words *ret);
/* Brings groups up to date with terms that began or ended, and those groups that changed with all terms. */
void terms_refresh(struct compiler *c);
/* Frees what ended; nothing refers to it any more. */
void terms_sweep(struct compiler *c);

#endif
