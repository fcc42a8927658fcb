/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/compile/compiled.h"
#include <string.h>
#include "agent/base/mem.h"
#include "agent/compile/host.h"
#include "agent/compile/profile.h"
#include "agent/compile/proxy.h"
#include "agent/compile/rulebook.h"
#include "agent/compile/space.h"
#include "agent/compile/term.h"

static const struct policy *policy_of(const struct compiled *compiled)
{
	return compiled->object->policy;
}

static enum stage stage_of(const struct object *object)
{
	switch (object->kind) {
	case KIND_NETWORK_POLICY:
		return STAGE_NETWORK_POLICY;
	case KIND_CLUSTER_NETWORK_POLICY:
		return object->policy->tier ? STAGE_BASELINE : STAGE_ADMIN;
	default:
		return STAGE_INTERCEPT;
	}
}

/* A NetworkPolicy says nothing about a direction that is not among its policyTypes. */
static size_t rules_in_force(const struct object *object, enum direction direction)
{
	const struct policy *policy = object->policy;
	bool silent = object->kind == KIND_NETWORK_POLICY && !policy->isolates[direction];
	return silent ? 0 : policy->rule_count[direction];
}

int compiled_compare(const struct compiled *a, const struct compiled *b)
{
	int order;
	if (a->stage != b->stage)
		return a->stage < b->stage ? -1 : 1;
	if (policy_of(a)->priority != policy_of(b)->priority)
		return policy_of(a)->priority < policy_of(b)->priority ? -1 : 1;
	if ((order = strcmp(a->object->namespace, b->object->namespace)))
		return order;
	if ((order = strcmp(a->object->name, b->object->name)))
		return order;
	return (a->serial > b->serial) - (a->serial < b->serial);
}

bool compiled_selects(const struct compiled *compiled, const struct group *group)
{
	const struct policy *policy = policy_of(compiled);
	if (group->host)
		return policy->cgroup && host_below(group->host, policy->cgroup);
	if (!group->space || policy->cgroup)
		return false;
	if (policy->namespaces ? !selector_matches(policy->namespaces, &group->space->labels)
						   : compiled->space && compiled->space != group->space)
		return false;
	return !policy->pods || selector_matches(policy->pods, &group->source->labels);
}

/* ---- rules, while somebody needs them ---- */

static void port_compile(
	struct compiler *c, const struct port_match *match, enum direction direction, struct compiled_port *ret)
{
	*ret = (struct compiled_port){.protocol = match->protocol, .first = match->first, .last = match->last};
	if (!match->name)
		return;
	ret->name = port_name_take(c, match->name);
	if (direction == EGRESS)
		ret->term = term_take_port_name(c, ret->name);
}

static bool peers_known(const struct rule *rule)
{
	for (size_t i = 0; i < rule->peer_count; i++)
		if (rule->peers[i].type == PEER_UNKNOWN)
			return false;
	return true;
}

/* A rule with an unknown peer fails closed as a whole: Accept matches nothing, Deny and Pass deny everything. */
static void rule_close(struct compiled_rule *ret)
{
	if (ret->action != RULE_DENY && ret->action != RULE_PASS)
		return;
	ret->action = RULE_DENY;
	ret->any_peer = ret->any_port = true;
}

static void peers_compile(
	struct compiler *c, const struct compiled *compiled, const struct rule *rule, struct compiled_rule *ret)
{
	ret->terms = mem_array(rule->peer_count, sizeof(struct term *));
	for (size_t i = 0; i < rule->peer_count; i++) {
		struct term *term = term_take(c, compiled->object, &rule->peers[i], compiled->space);
		if (term)
			ret->terms[ret->term_count++] = term;
	}
}

static void rule_compile(struct compiler *c, const struct compiled *compiled, enum direction direction, size_t index,
	struct compiled_rule *ret)
{
	const struct object *object = compiled->object;
	const struct rule *rule = &object->policy->rules[direction][index];
	ret->id = rulebook_take(
		c->book, object->kind, object->namespace, object->name, direction, (int)index, rule->name ? rule->name : "");
	ret->action = rule->action;
	ret->any_peer = rule->any_peer;
	ret->any_port = rule->any_port;
	if (peers_known(rule))
		peers_compile(c, compiled, rule, ret);
	else
		rule_close(ret);
	ret->port_count = ret->any_port ? 0 : rule->port_count;
	ret->ports = mem_array(ret->port_count, sizeof(*ret->ports));
	for (size_t i = 0; i < ret->port_count; i++)
		port_compile(c, &rule->ports[i], direction, &ret->ports[i]);
	if (rule->action == RULE_INTERCEPT)
		ret->proxy = proxy_take(c, rule->proxy);
}

static void rule_release(struct compiler *c, struct compiled_rule *rule)
{
	rulebook_drop(c->book, rule->id);
	for (size_t i = 0; i < rule->term_count; i++)
		term_drop(c, rule->terms[i]);
	for (size_t i = 0; i < rule->port_count; i++) {
		if (rule->ports[i].term)
			term_drop(c, rule->ports[i].term);
		if (rule->ports[i].name)
			port_name_drop(c, rule->ports[i].name);
	}
	if (rule->proxy)
		proxy_drop(c, rule->proxy);
	free(rule->terms);
	free(rule->ports);
}

static void compiled_free(struct compiler *c, struct compiled *compiled)
{
	for (size_t i = 0; i < compiled->ingress_port_count; i++)
		port_name_drop(c, compiled->ingress_ports[i]);
	free(compiled->ingress_ports);
	link_remove(&compiled->in_scope);
	space_drop(c, compiled->space);
	object_put(compiled->object);
	free(compiled);
}

void compiled_take(struct compiler *c, struct compiled *compiled)
{
	const struct object *object = compiled->object;
	if (compiled->references++)
		return;
	for (enum direction direction = 0; direction < DIRECTIONS; direction++) {
		compiled->isolation[direction] = PS_RULE_NONE;
		if (compiled->stage == STAGE_NETWORK_POLICY && object->policy->isolates[direction])
			compiled->isolation[direction] =
				rulebook_take(c->book, object->kind, object->namespace, object->name, direction, -1, "");
		size_t count = rules_in_force(object, direction);
		compiled->rule_count[direction] = count;
		compiled->rules[direction] = mem_array(count, sizeof(struct compiled_rule));
		for (size_t i = 0; i < count; i++)
			rule_compile(c, compiled, direction, i, &compiled->rules[direction][i]);
	}
}

void compiled_drop(struct compiler *c, struct compiled *compiled)
{
	if (--compiled->references)
		return;
	for (enum direction direction = 0; direction < DIRECTIONS; direction++) {
		if (compiled->isolation[direction] != PS_RULE_NONE)
			rulebook_drop(c->book, compiled->isolation[direction]);
		for (size_t i = 0; i < compiled->rule_count[direction]; i++)
			rule_release(c, &compiled->rules[direction][i]);
		free(compiled->rules[direction]);
		compiled->rules[direction] = NULL;
		compiled->rule_count[direction] = 0;
	}
	if (compiled->withdrawn)
		compiled_free(c, compiled);
}

/* ---- which policies there are ---- */

static void ingress_ports_read(struct compiler *c, struct compiled *compiled)
{
	const struct policy *policy = policy_of(compiled);
	size_t room = 0;
	for (size_t i = 0; i < rules_in_force(compiled->object, INGRESS); i++)
		room += policy->rules[INGRESS][i].port_count;
	compiled->ingress_ports = mem_array(room, sizeof(struct port_name *));
	for (size_t i = 0; i < rules_in_force(compiled->object, INGRESS); i++) {
		const struct rule *rule = &policy->rules[INGRESS][i];
		for (size_t j = 0; j < rule->port_count; j++)
			if (rule->ports[j].name)
				compiled->ingress_ports[compiled->ingress_port_count++] = port_name_take(c, rule->ports[j].name);
	}
}

/* Local groups that this policy selects, or whose profile holds it. */
static void compiled_touch(struct compiler *c, const struct compiled *compiled)
{
	bool own = compiled->space && !policy_of(compiled)->namespaces;
	const struct link *groups = own ? &compiled->space->groups : &c->local_groups;
	LINKS_EACH(at, groups)
	{
		struct group *group = own ? OWNER_OF(at, struct group, in_space) : OWNER_OF(at, struct group, in_local);
		if (group->endpoints && !(group->touched & GROUP_PROFILE) &&
			(compiled_selects(compiled, group) || (group->profile && profile_has(group->profile, compiled))))
			group_touch(c, group, GROUP_PROFILE);
	}
}

static void compiled_withdraw(struct compiler *c, struct compiled *compiled)
{
	compiled_touch(c, compiled);
	if (policy_of(compiled)->cgroup)
		host_drop(c, policy_of(compiled)->cgroup);
	link_remove(&compiled->in_scope);
	compiled->withdrawn = true;
	if (!compiled->references)
		compiled_free(c, compiled);
}

static struct compiled *compiled_new(struct compiler *c, const struct object *object)
{
	struct compiled *compiled = mem_alloc(sizeof(*compiled));
	compiled->serial = ++c->next_serial;
	compiled->stage = stage_of(object);
	compiled->object = object_get(object);
	if (object->namespace[0])
		compiled->space = space_take(c, object->namespace);
	bool own = compiled->space && !object->policy->namespaces;
	link_add(own ? &compiled->space->compiled : &c->global_compiled, &compiled->in_scope);
	ingress_ports_read(c, compiled);
	if (object->policy->cgroup)
		host_take(c, object->policy->cgroup);
	compiled_touch(c, compiled);
	return compiled;
}

void compiled_update(struct compiler *c, const struct object *old, const struct object *new)
{
	const struct object *either = new ? new : old;
	auto_free char *key = str_format("%d/%s/%s", (int)either->kind, either->namespace, either->name);
	struct compiled *before = names_delete(&c->compiled, key);
	if (new)
		names_put(&c->compiled, key, compiled_new(c, new));
	if (before)
		compiled_withdraw(c, before);
}

static bool policy_names_proxy(const struct policy *policy, const char *proxy)
{
	for (enum direction direction = 0; direction < DIRECTIONS; direction++)
		for (size_t i = 0; i < policy->rule_count[direction]; i++) {
			const struct rule *rule = &policy->rules[direction][i];
			if (rule->action == RULE_INTERCEPT && !strcmp(rule->proxy, proxy))
				return true;
		}
	return false;
}

void compiled_proxy_changed(struct compiler *c, const char *proxy)
{
	struct words serials = {0}; /* the walk must not meet what it adds */
	LINKS_EACH(at, &c->global_compiled)
	{
		const struct compiled *compiled = OWNER_OF(at, struct compiled, in_scope);
		if (compiled->stage == STAGE_INTERCEPT && policy_names_proxy(policy_of(compiled), proxy))
			words_add(&serials, compiled->serial);
	}
	words_sort(&serials);
	LINKS_EACH_SAFE(at, after, &c->global_compiled)
	{
		struct compiled *compiled = OWNER_OF(at, struct compiled, in_scope);
		if (!words_have(&serials, compiled->serial))
			continue;
		auto_object struct object *object = object_get(compiled->object);
		compiled_update(c, object, object);
	}
	words_free(&serials);
}
