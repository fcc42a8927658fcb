/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All Pods and Workloads of one namespace with the same labels and named ports: policy cannot tell them apart but by
 * address, so selectors are evaluated once for all of them. Node objects are in groups without a namespace.
 */
#ifndef PENSTOCK_GROUP_H
#define PENSTOCK_GROUP_H

#include "agent/compile/compiler.h"

/* A port name that some group or rule uses: compared by pointer. */
struct port_name {
	char *text;
	uint32_t id;
	unsigned references;
	struct term *term; /* while an egress rule in force uses it */
};
struct port_name *port_name_take(struct compiler *c, const char *text);
void port_name_drop(struct compiler *c, struct port_name *name);

struct group_port {
	struct port_name *name;
	uint16_t port;
	uint8_t protocol;
};

#define GROUP_TERMS 1u
#define GROUP_PROFILE 2u
#define GROUP_ENDED 4u /* look whether it still has members */

struct group {
	struct interned interned;
	struct space *space;         /* NULL: Nodes, processes */
	struct host *host;           /* processes of this node: no object, no addresses; or NULL */
	const struct object *source; /* whose labels and ports are everyone's; a reference of its own */
	struct group_port *ports;    /* sorted by name id, protocol, port */
	size_t port_count;
	struct link holders;
	size_t endpoints; /* members that are endpoints */
	struct words terms;
	struct words pairs; /* for each named port in use by egress rules: term id, protocol << 16 | port; sorted */
	struct link crossings;
	struct profile *profile; /* NULL without endpoints */
	struct link in_space, in_all, in_local, dirty;
	unsigned touched; /* GROUP_* */
	bool matched;     /* terms were looked up once */
};

/* The group of this object, made when there is none. */
struct group *group_take(struct compiler *c, const struct object *object);
void group_touch(struct compiler *c, struct group *group, unsigned what);
/* A member changed from one object to another one that is in the same group. */
void group_source_change(struct group *group, const struct object *old, const struct object *new);
void group_free(struct compiler *c, struct group *group);

/* Recomputes terms and pairs; the crossings become dirty when they changed. */
void group_match(struct compiler *c, struct group *group);
void group_content_changed(struct compiler *c, struct group *group);
/* terms or the ports' terms changed: pairs anew. */
void group_pairs(struct group *group, struct words *ret);

#endif
