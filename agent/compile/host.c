/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/compile/host.h"
#include <string.h>
#include "agent/base/mem.h"
#include "agent/compile/endpoint.h"

/* Without members, labels or terms: all that policy asks about it is its path. */
static struct host *host_new(struct compiler *c, const char *cgroup)
{
	struct host *host = mem_alloc(sizeof(*host));
	struct group *group = &host->group;
	host->cgroup = str_dup(cgroup);
	group->host = host;
	link_init(&group->holders);
	link_init(&group->crossings);
	link_init(&group->in_space);
	link_init(&group->in_all);
	link_init(&group->in_local);
	link_init(&group->dirty);
	names_put(&c->hosts, cgroup, host);
	return host;
}

void host_take(struct compiler *c, const char *cgroup)
{
	struct host *host = names_get(&c->hosts, cgroup);
	if (!host)
		host = host_new(c, cgroup);
	if (host->references++)
		return;
	host->endpoint = endpoint_new_cgroup(c, &host->group, host->cgroup);
	host->group.endpoints = 1;
	link_add(&c->local_groups, &host->group.in_local);
	group_touch(c, &host->group, GROUP_PROFILE);
}

void host_drop(struct compiler *c, const char *cgroup)
{
	struct host *host = names_get(&c->hosts, cgroup);
	if (--host->references)
		return;
	endpoint_end(c, host->endpoint);
	host->endpoint = NULL;
	host->group.endpoints = 0;
	link_remove(&host->group.in_local);
	group_touch(c, &host->group, GROUP_PROFILE);
}

bool host_below(const struct host *host, const char *top)
{
	size_t length = strlen(top);
	return strncmp(host->cgroup, top, length) == 0 && (!host->cgroup[length] || host->cgroup[length] == '/');
}

void host_profile_changed(struct compiler *c, struct host *host)
{
	if (host->endpoint)
		endpoint_touch(c, host->endpoint);
}

void host_sweep(struct compiler *c, struct host *host)
{
	if (host->references)
		return;
	names_delete(&c->hosts, host->cgroup);
	free(host->cgroup);
	free(host);
}
