/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/warn.h"

#include <string.h>
#include "agent/base/map.h"

static void endpoint_warn(
	const struct endpoint *endpoint, struct datapath *datapath, bool tried, struct errors *warnings)
{
	const char *kind = kinds[endpoint->kind].kind, *interface;
	char text[ADDR_TEXT_MAX];
	struct ip ip;
	if (!(tried ? datapath_locates(datapath, endpoint) : endpoint->bound)) {
		errors_add(warnings, ERROR_NONE, "", "%s %s/%s has no interface on this node yet: pending", kind,
			endpoint->namespace, endpoint->name);
	} else if ((interface = datapath_elsewhere(datapath, endpoint, &ip))) {
		ip_format(&ip, text);
		errors_add(warnings, ERROR_NONE, "",
			"%s %s/%s: %s is behind interface %s, where it is not enforced: a workload has one interface, and it is "
			"another",
			kind, endpoint->namespace, endpoint->name, text, interface);
	}
}

/* A local workload without an interface yet, or with a second one, is accepted, and said. */
static void interfaces_warn(const struct candidate *candidate, const struct compiler *compiler,
	struct datapath *datapath, bool tried, struct errors *warnings)
{
	const struct difference *differences = candidate->differences;
	const struct endpoint *endpoint;
	size_t at = 0;
	struct map names;
	if (!candidate->difference_count)
		return;
	map_init(&names, sizeof(const struct workload *), 0);
	for (size_t i = 0; i < candidate->difference_count; i++)
		if (differences[i].new && (differences[i].new->kind == KIND_POD || differences[i].new->kind == KIND_WORKLOAD))
			map_put(&names, &differences[i].new->workload, NULL);
	while ((endpoint = compiler_endpoint_next(compiler, &at)))
		if (map_get(&names, &endpoint->workload))
			endpoint_warn(endpoint, datapath, tried, warnings);
	map_clear(&names);
}

/* Nor is a subject's cgroup that is not there yet. */
static void cgroups_warn(const struct candidate *candidate, const struct compiler *compiler,
	const struct datapath *datapath, bool tried, struct errors *warnings)
{
	const struct endpoint *endpoint;
	for (size_t i = 0; i < candidate->difference_count; i++) {
		const struct object *new = candidate->differences[i].new;
		if (!new || new->kind != KIND_INTERCEPT_POLICY || !new->policy->cgroup)
			continue;
		for (size_t at = 0; (endpoint = compiler_cgroup_next(compiler, &at));)
			if (strcmp(endpoint->cgroup, new->policy->cgroup) == 0 &&
				!(tried ? datapath_cgroup_there(datapath, endpoint) : endpoint->bound))
				errors_add(warnings, ERROR_NONE, "",
					"InterceptPolicy %s: there is no cgroup %s on this node yet: pending", new->name,
					new->policy->cgroup);
	}
}

/* A Pod is taken as kubectl prints it; what of it is not enforced is said. */
static void bandwidth_warn(const struct candidate *candidate, struct errors *warnings)
{
	for (size_t i = 0; i < candidate->difference_count; i++) {
		const struct object *new = candidate->differences[i].new;
		if (new &&new->kind == KIND_POD && (new->workload->bandwidth[EGRESS] || new->workload->bandwidth[INGRESS]))
			errors_add(warnings, ERROR_NONE, "", "Pod %s/%s: bandwidth annotations are not enforced by this build",
				new->namespace, new->name);
	}
}

static bool rules_have_peer(const struct policy *policy, enum direction direction, enum peer_type type)
{
	for (size_t i = 0; i < policy->rule_count[direction]; i++)
		for (size_t j = 0; j < policy->rules[direction][i].peer_count; j++)
			if (policy->rules[direction][i].peers[j].type == type)
				return true;
	return false;
}

/* A peer of a newer API version is accepted, and what it does then may surprise; so do domain names. */
static void peers_warn(const struct candidate *candidate, struct errors *warnings)
{
	static const char *const words[DIRECTIONS] = {"egress", "ingress"};
	for (size_t i = 0; i < candidate->difference_count; i++) {
		const struct object *new = candidate->differences[i].new;
		if (!new || new->kind != KIND_CLUSTER_NETWORK_POLICY)
			continue;
		for (enum direction direction = 0; direction < DIRECTIONS; direction++)
			if (rules_have_peer(new->policy, direction, PEER_UNKNOWN))
				errors_add(warnings, ERROR_NONE, "",
					"ClusterNetworkPolicy %s: an %s rule has a peer without a field that is known there: it fails "
					"closed (Accept matches nothing, Deny and Pass deny everything)",
					new->name, words[direction]);
		if (rules_have_peer(new->policy, EGRESS, PEER_DOMAINS))
			errors_add(warnings, ERROR_NONE, "",
				"ClusterNetworkPolicy %s: domainNames match nothing in this build: the rule accepts nothing by them",
				new->name);
	}
}

void candidate_warn(const struct candidate *candidate, const struct compiler *compiler, struct datapath *datapath,
	bool tried, struct errors *warnings)
{
	interfaces_warn(candidate, compiler, datapath, tried, warnings);
	cgroups_warn(candidate, compiler, datapath, tried, warnings);
	bandwidth_warn(candidate, warnings);
	peers_warn(candidate, warnings);
}
