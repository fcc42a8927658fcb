/* SPDX-License-Identifier: Apache-2.0 */
/* Who holds addresses: Pods, Workloads, Nodes; which address is whose; and endpoints, those that can be local. */
#ifndef PENSTOCK_HOLDER_H
#define PENSTOCK_HOLDER_H

#include "agent/compile/group.h"

/* Endpoint numbers are reused as late as possible: table iface has no sides, so an interface must never be told a
 * number that meant another workload a moment ago. */
struct endpoint_slot {
	struct endpoint public;
	struct holder *holder; /* NULL: `group` is of processes */
	struct group *group;
	struct link dirty;
};
struct claim {
	struct link in_address;
	struct holder *holder;
	struct address *address;
};
struct holder {
	struct interned interned;
	const struct object *object;
	struct group *group;
	struct link in_group;
	struct claim *claims;
	size_t claim_count;
	struct endpoint_slot *endpoint; /* or NULL */
};

#define ADDRESS_PLACE 1u /* who has it, and where it is, is to be looked up */
#define ADDRESS_EMIT 2u
#define ADDRESS_CLAIMED 4u /* somebody new wants it: warn when there are several */

struct address {
	struct ip ip;
	struct link claims;
	struct holder *owner;
	struct crossing *crossing; /* NULL until it is placed */
	struct link in_crossing, dirty;
	unsigned touched;
};

/* The object behind (kind, namespace, name) changed; NULL: it did not exist, does not exist any more. */
void holder_update(struct compiler *c, const struct object *old, const struct object *new);
void address_touch(struct compiler *c, struct address *address, unsigned what);
struct address *address_find(const struct compiler *c, const struct ip *ip); /* or NULL */
void addresses_touch_all(struct compiler *c);                                /* to be placed anew */
/* The number of its class, by the longest network when nobody holds it; once classes are numbered. */
uint32_t address_class(const struct compiler *c, const struct ip *ip, bool *held);
/* The entry of an address that is a network of its own and that nobody holds; class NULL: no entry. */
void address_write_network(struct compiler *c, const struct ip *ip, const struct class *class);
/* The profile of this group is another one. */
void holders_profile_changed(struct compiler *c, struct group *group);
/* Settles who has which address and where it is. */
void addresses_place(struct compiler *c);
/* Writes addresses and endpoints that changed. */
void addresses_emit(struct compiler *c);
void holders_free(struct compiler *c);

#endif
