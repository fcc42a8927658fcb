/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processes of this node: each cgroup that subjects name is an endpoint without addresses, alone in its group. The
 * policies about it are those whose cgroup is this one or lies above it.
 */
#ifndef PENSTOCK_HOST_H
#define PENSTOCK_HOST_H

#include "agent/compile/group.h"

struct host {
	char *cgroup; /* no slash at either end */
	struct group group;
	struct endpoint_slot *endpoint; /* NULL: nobody names it any more */
	unsigned references;            /* policies */
};
void host_take(struct compiler *c, const char *cgroup);
void host_drop(struct compiler *c, const char *cgroup);
/* It is this cgroup, or lies below it. */
bool host_below(const struct host *host, const char *top);
void host_profile_changed(struct compiler *c, struct host *host);
/* At the end of an update in which it was touched. */
void host_sweep(struct compiler *c, struct host *host);

#endif
