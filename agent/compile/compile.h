/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Objects → tables. Pure: no descriptor, clock or log. Incremental: it is told what changed and touches what follows
 * from that.
 *
 *   term     one thing a peer can say: a pod selector in a namespace selector, a network with its exceptions
 *   class    a set of terms (and named ports): every address belongs to exactly one
 *   profile  what selects a local workload, in both directions, with its own named ports
 *   row      (profile, direction, class) → verdict by port class; equal rows are stored once
 */
#ifndef PENSTOCK_COMPILE_H
#define PENSTOCK_COMPILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "agent/base/error.h"
#include "agent/compile/tables.h"
#include "agent/model/object.h"

/*
 * Rule identities: (kind, namespace, name, direction, index) → id, 32 bit, never reused; survives updates of the policy
 * and, through the state database, restarts. index -1 is the isolation of a NetworkPolicy.
 */
struct rule_identity {
	uint32_t id;
	enum kind kind;
	char *namespace, *name;
	enum direction direction;
	int index;
	char *rule_name;
	bool live; /* named by the current tables */
};
struct rulebook;
struct rulebook *rulebook_new(uint32_t next_id);
void rulebook_free(struct rulebook *book);
void rulebook_seed(struct rulebook *book, const struct rule_identity *identity);     /* copies; from the database */
const struct rule_identity *rulebook_find(const struct rulebook *book, uint32_t id); /* or NULL */
/* Walk all: size_t at = 0; while ((identity = rulebook_next(book, &at))) … */
const struct rule_identity *rulebook_next(const struct rulebook *book, size_t *at);
uint32_t rulebook_next_id(const struct rulebook *book);

/* Something that may have an interface here: a Workload of this node or of none, a Pod of this node. The datapath binds
 * it. */
struct endpoint {
	uint32_t id; /* index in table endpoint; stable while the object lives */
	const char *namespace, *name;
	enum kind kind;
	const struct workload *workload; /* addresses, wanted interface, sources */
	bool bound;                      /* has an interface now: local */
	bool selected;                   /* some policy selects it */
	const char *cgroup; /* processes of this node, by a path that subjects name; then there is no workload, and `bound`
						   means that the cgroup is there */
	uint64_t lost[4];   /* a bit for each of the workload's addresses: another endpoint has it */
};
static inline bool endpoint_lost(const struct endpoint *endpoint, size_t ip)
{
	return ip < 64 * sizeof(endpoint->lost) / sizeof(endpoint->lost[0]) && endpoint->lost[ip / 64] >> ip % 64 & 1;
}

struct compiler;
/* node_name decides which Pods are this node's. The rulebook is borrowed. */
struct compiler *compiler_new(const char *node_name, struct rulebook *book);
void compiler_free(struct compiler *c);

struct change {
	const struct object *old, *new; /* NULL: created, deleted. The compiler takes its own references. */
};
/* Applies the changes; cannot fail on valid objects. Addresses are unique among Workloads (checked before); between
 * running Pods the younger has it: `warnings` (may be NULL) get a sentence each. */
void compiler_update(struct compiler *c, const struct change *changes, size_t count, struct errors *warnings);
/* The endpoint got or lost its interface. */
void compiler_bind(struct compiler *c, uint32_t endpoint, bool bound);
/* The node has these addresses too, whatever its Node object says: a set of keys of 16 bytes of address and 4 that are
 * the caller's. True: they are others than they were. */
#define LOCAL_KEY_SIZE 20
bool compiler_locals(struct compiler *c, const struct map *locals);

struct tables *compiler_tables(struct compiler *c); /* the datapath clears what is pending */
/* What does not fit: 0, or -ENOSPC with ERROR_NO_SPACE naming the table, what is needed and what there is. */
int compiler_fits(const struct compiler *c, struct error *e);

/* Walk workloads: size_t at = 0; while ((endpoint = compiler_endpoint_next(c, &at))) … */
const struct endpoint *compiler_endpoint_next(const struct compiler *c, size_t *at);
/* The same for the cgroups that subjects name. */
const struct endpoint *compiler_cgroup_next(const struct compiler *c, size_t *at);
const struct endpoint *compiler_endpoint_find(const struct compiler *c, uint32_t id);
/* proxy number ↔ TransparentProxy name; NULL when unused */
const char *compiler_proxy_name(const struct compiler *c, uint8_t number);

/* The compiled verdict of a packet, read from the tables as the kernel reads them: for tests. */
struct judge_query {
	struct ip source, destination;
	uint8_t protocol;
	uint16_t port; /* destination */
};
struct judge_answer {
	struct ps_verdict egress, ingress; /* of a local source, of a local destination */
	bool egress_local, ingress_local;
	bool service;          /* egress is about the backends of a Service */
	bool pending;          /* … which differ: passes, and the hook where it leaves judges the one that was chosen */
	enum ps_action action; /* what becomes of a new connection */
	enum ps_direction direction; /* INTERCEPT: whose rule and proxy */
};
void tables_judge(const struct tables *tables, const struct judge_query *query, struct judge_answer *ret);
/* Of a connection that a process of this endpoint opens (its source is not asked), which is to no Service. */
void tables_judge_process(
	const struct tables *tables, uint32_t endpoint, const struct judge_query *query, struct ps_verdict *ret);

#endif
