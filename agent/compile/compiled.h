/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One version of one policy. It costs nothing but its subject until a profile uses it, which means that it selects an
 * endpoint of this node; only then its rules get terms, numbers and counters.
 */
#ifndef PENSTOCK_COMPILED_H
#define PENSTOCK_COMPILED_H

#include "agent/compile/group.h"

/* In the order in which they decide; the numbers are those of row.c, where it is written. */
enum stage {
	STAGE_ADMIN,          /* 1 */
	STAGE_NETWORK_POLICY, /* 2 */
	STAGE_BASELINE,       /* 3 */
	STAGE_INTERCEPT,      /* 5 */
};

struct compiled_port {
	uint8_t protocol;
	uint16_t first, last;
	struct port_name *name; /* or NULL */
	struct term *term;      /* egress, with a name: peers that have such a port */
};
struct compiled_rule {
	uint32_t id;
	enum rule_action action;
	bool any_peer, any_port;
	struct term **terms;
	size_t term_count;
	struct compiled_port *ports;
	size_t port_count;
	struct proxy_slot *proxy;
};
struct compiled {
	uint32_t serial;
	enum stage stage;
	const struct object *object;
	struct space *space; /* NULL: cluster-scoped */
	struct link in_scope;
	unsigned references; /* profiles */
	uint64_t stamp;
	uint32_t rank;                    /* in the profile that is renewed */
	bool withdrawn;                   /* no longer wanted: goes with its last profile */
	struct port_name **ingress_ports; /* names that its ingress rules say */
	size_t ingress_port_count;
	/* with references: */
	struct compiled_rule *rules[DIRECTIONS];
	size_t rule_count[DIRECTIONS];
	uint32_t isolation[DIRECTIONS]; /* rule id, or PS_RULE_NONE */
};

void compiled_update(struct compiler *c, const struct object *old, const struct object *new);
/* Policies that hand over to this proxy are compiled anew. */
void compiled_proxy_changed(struct compiler *c, const char *proxy);
bool compiled_selects(const struct compiled *compiled, const struct group *group);
int compiled_compare(const struct compiled *a, const struct compiled *b);
void compiled_take(struct compiler *c, struct compiled *compiled);
void compiled_drop(struct compiler *c, struct compiled *compiled);

#endif
