/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A class is a set of terms with what its members' named ports mean. Where a group meets a prefix is a crossing: all
 * addresses there are of one class, so a changed label or network is looked at once for all of them.
 */
#ifndef PENSTOCK_CLASS_H
#define PENSTOCK_CLASS_H

#include "agent/compile/group.h"
#include "agent/compile/network.h"

struct class_link {
	struct link in_term;
	struct class *class;
};
struct class
{
	struct interned interned;
	uint32_t id;
	unsigned references;
	uint32_t term_count, word_count;
	uint32_t *words;           /* term ids, sorted; then pairs of (port-name term, protocol << 16 | port) */
	struct class_link *links;  /* a term each */
	struct class *predecessor; /* whose members came here first: its number is taken over when it ends */
	bool fresh, ended;
	struct link waiting;
	uint64_t stamp;
};
struct crossing {
	struct group *group;
	struct prefix *prefix;
	struct class *class;
	uint32_t class_id; /* as its addresses were told */
	struct link in_group, in_prefix, addresses, dirty;
};

struct crossing *crossing_take(struct compiler *c, struct group *group, struct prefix *prefix);
void crossing_touch(struct compiler *c, struct crossing *crossing);

void classes_init(struct compiler *c);
/* Dirty crossings and prefixes find their classes; classes without members end. */
void classes_refresh(struct compiler *c);
void classes_number(struct compiler *c);
/* Tells addresses of crossings whose class has another number; writes the networks. */
void classes_emit(struct compiler *c);
void classes_sweep(struct compiler *c);
void classes_free(struct compiler *c);

#endif
