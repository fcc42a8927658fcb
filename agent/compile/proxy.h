/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TransparentProxies by name and number. A name that rules use though no object has it keeps a number whose table entry
 * is empty: nobody listens there. Numbers are reused as late as possible, for connections that remember one.
 */
#ifndef PENSTOCK_PROXY_H
#define PENSTOCK_PROXY_H

#include "agent/compile/compiler.h"

struct proxy_slot {
	char *name;
	uint32_t number;
	const struct object *object; /* or NULL */
	unsigned uses;               /* by rules in force */
};

struct proxy_slot *proxy_take(struct compiler *c, const char *name);
void proxy_drop(struct compiler *c, struct proxy_slot *slot);
/* The object of this name changed; true when the protocols that it takes are others now. */
bool proxy_update(struct compiler *c, const struct object *old, const struct object *new);
/* Whether it takes this protocol; an absent one is taken to have the default of the kind, TCP. */
bool proxy_takes(const struct proxy_slot *slot, uint8_t protocol);

#endif
