/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What no object can say alone: two Workloads with one address, a rule that names an absent TransparentProxy, or a
 * protocol that its proxy does not take. Looked at on the draft of a write, and only where the write could have broken
 * it.
 */
#ifndef PENSTOCK_WHOLE_H
#define PENSTOCK_WHOLE_H

#include "agent/state/snapshot.h"

/* What the body brought and where it stood in it. */
struct whole_item {
	const struct object *object; /* borrowed from the draft; NULL once it is set aside */
	char pointer[40];
};
struct whole_items {
	struct whole_item *list;
	size_t count, capacity;
};
void whole_items_add(struct whole_items *items, const struct object *object, const char *pointer);
void whole_items_clear(struct whole_items *items);

struct whole_fault {
	struct whole_item *item; /* of the body, to be set aside; NULL: the fault is a deletion's. Faults of one item stand
								together. */
	bool tolerable; /* enforced all the same under ?invalid=quarantine (an absent proxy is an unavailable one, as is one
					   that does not take the protocol) */
	struct error error;
};
/*
 * Returns how many; *ret is the caller's to free. With set_aside the faulty items will be: addresses that only such an
 * item has are free for others.
 */
size_t whole_check(struct draft *draft, const struct snapshot *base, const struct whole_items *items, bool set_aside,
	struct whole_fault **ret);

#endif
