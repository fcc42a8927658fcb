/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PENSTOCK_ENDPOINT_H
#define PENSTOCK_ENDPOINT_H

#include "agent/compile/holder.h"

struct endpoint_slot *endpoint_new(struct compiler *c, struct holder *holder);
/* Processes; the path is borrowed. */
struct endpoint_slot *endpoint_new_cgroup(struct compiler *c, struct group *group, const char *cgroup);
/* The holder's object was `old` and is another one now. */
void endpoint_change(struct compiler *c, struct endpoint_slot *slot, const struct object *old);
void endpoint_end(struct compiler *c, struct endpoint_slot *slot);
void endpoint_touch(struct compiler *c, struct endpoint_slot *slot);
/* Fills all but the class. */
void endpoint_describe(const struct endpoint_slot *slot, struct ps_addr *ret);
void endpoints_emit(struct compiler *c);

#endif
