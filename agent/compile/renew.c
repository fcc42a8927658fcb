/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/compile/renew.h"
#include <string.h>
#include "agent/base/mem.h"
#include "agent/compile/pair.h"
#include "agent/compile/term.h"

/* Stamps on policies: in both profiles, in the new one only. Those that go have neither. */
struct marks {
	uint64_t kept, comes;
};

static struct marks policies_mark(struct compiler *c, const struct profile *old, const struct profile *new)
{
	uint64_t were = ++c->stamp;
	struct marks marks = {.kept = ++c->stamp, .comes = ++c->stamp};
	for (size_t i = 0; i < old->count; i++)
		old->list[i]->stamp = were;
	for (size_t i = 0; i < new->count; i++)
		new->list[i]->stamp = new->list[i]->stamp == were ? marks.kept : marks.comes;
	return marks;
}

static bool ports_equal(const struct profile *a, const struct profile *b)
{
	if (a->port_count != b->port_count)
		return false;
	for (size_t i = 0; i < a->port_count; i++)
		if (a->ports[i].name != b->ports[i].name || a->ports[i].port != b->ports[i].port ||
			a->ports[i].protocol != b->ports[i].protocol)
			return false;
	return true;
}

static bool isolation_equal(const struct profile_side *side, const struct profile *new)
{
	struct profile_side other = {.profile = (struct profile *)new, .direction = side->direction};
	side_isolate(&other);
	if (side->isolation_count != other.isolation_count)
		return false;
	for (size_t i = 0; i < other.isolation_count; i++)
		if (side->isolation[i].rule != other.isolation[i].rule || side->isolation[i].audit != other.isolation[i].audit)
			return false;
	return true;
}

/* Its rules are about peers that they name, and found by them alone. */
static bool policy_is_selective(const struct compiled *compiled)
{
	for (enum direction direction = 0; direction < DIRECTIONS; direction++)
		for (size_t i = 0; i < compiled->rule_count[direction]; i++) {
			const struct compiled_rule *rule = &compiled->rules[direction][i];
			if (rule->any_peer)
				return false;
			for (size_t j = 0; j < rule->port_count; j++)
				if (rule->ports[j].term)
					return false;
		}
	return true;
}

static bool profile_can_renew(const struct profile *old, const struct profile *new, const struct marks *marks)
{
	for (size_t i = 0; i < old->count; i++)
		if (old->list[i]->stamp != marks->kept && !policy_is_selective(old->list[i]))
			return false;
	for (size_t i = 0; i < new->count; i++)
		if (new->list[i]->stamp != marks->kept && !policy_is_selective(new->list[i]))
			return false;
	return ports_equal(old, new) && isolation_equal(&old->sides[EGRESS], new) &&
		   isolation_equal(&old->sides[INGRESS], new);
}

/* ---- one side ---- */

/* All terms of rules that come or go, sorted; the rules that come in `ret`. */
static void side_changes(const struct profile_side *side, struct marks marks, struct profile_side *ret)
{
	const struct profile *old = side->profile, *new = ret->profile;
	size_t room[2] = {0};
	for (size_t i = 0; i < new->count; i++) {
		new->list[i]->rank = (uint32_t)i;
		if (new->list[i]->stamp == marks.comes)
			side_add_policy(ret, (uint32_t)i, room);
	}
	if (ret->rule_count)
		qsort(ret->rules, ret->rule_count, sizeof(*ret->rules), side_rule_compare);
	for (size_t i = 0; i < old->count; i++) {
		const struct compiled *compiled = old->list[i];
		for (size_t j = 0; compiled->stamp != marks.kept && j < compiled->rule_count[side->direction]; j++) {
			const struct compiled_rule *rule = &compiled->rules[side->direction][j];
			for (size_t k = 0; k < rule->term_count; k++)
				words_add(&ret->terms, rule->terms[k]->id);
		}
	}
	words_sort(&ret->terms);
}

/* Those that stay with their new ranks, and those that come. */
static void side_merge_rules(struct profile_side *side, const struct profile_side *come, struct marks marks)
{
	struct side_rule *rules = mem_array(side->rule_count + come->rule_count, sizeof(*rules));
	size_t count = 0, at = 0;
	for (size_t i = 0; i < side->rule_count; i++) {
		struct side_rule rule = side->rules[i];
		if (rule.compiled->stamp != marks.kept)
			continue;
		rule.rank = rule.compiled->rank;
		while (at < come->rule_count && side_rule_compare(&come->rules[at], &rule) < 0)
			rules[count++] = come->rules[at++];
		rules[count++] = rule;
	}
	while (at < come->rule_count)
		rules[count++] = come->rules[at++];
	free(side->rules);
	side->rules = rules;
	side->rule_count = count;
	for (size_t i = 0; i < side->always_count; i++)
		side->always[i].rank = side->always[i].compiled->rank;
}

static bool side_names(const struct profile_side *side, uint32_t term)
{
	size_t at = side_rule_first(side, term);
	return at < side->rule_count && side->rules[at].term == term;
}

/* Terms that no rule names any more go, others come. */
static void side_merge_terms(struct compiler *c, struct profile_side *side, const struct words *changed)
{
	struct words terms = {0};
	struct side_link **links = mem_array(side->terms.count + changed->count, sizeof(struct side_link *));
	for (uint32_t i = 0, j = 0; i < side->terms.count || j < changed->count;) {
		bool here = i < side->terms.count && (j == changed->count || side->terms.list[i] <= changed->list[j]);
		uint32_t term = here ? side->terms.list[i] : changed->list[j];
		bool touched = j < changed->count && changed->list[j] == term;
		struct side_link *link = here ? side->links[i] : NULL;
		i += here;
		j += touched;
		if (!touched || side_names(side, term)) {
			words_add(&terms, term);
			links[terms.count - 1] = link ? link : side_link_new(c, side, term);
		} else if (link) {
			link_remove(&link->in_term);
			free(link);
		}
	}
	words_free(&side->terms);
	free(side->links);
	side->terms = terms;
	side->links = links;
}

static void side_renew(struct compiler *c, struct profile_side *side, struct profile *new, struct marks marks)
{
	struct profile_side come = {.profile = new, .direction = side->direction};
	side_changes(side, marks, &come);
	pairs_part(c, side, &come.terms);
	side_merge_rules(side, &come, marks);
	side_merge_terms(c, side, &come.terms);
	side->changed = come.terms;
	free(come.rules);
}

/* ---- the profile ---- */

static void groups_take(struct compiler *c, struct profile *old, const struct profile *new)
{
	LINKS_EACH(at, &c->dirty_groups)
	{
		struct group *group = OWNER_OF(at, struct group, dirty);
		if (group->profile == new)
			group->profile = old;
	}
	old->references = new->references;
}

bool profile_renew(struct compiler *c, struct profile *old, struct profile *new)
{
	struct marks marks = policies_mark(c, old, new);
	if (!profile_can_renew(old, new, &marks))
		return false;
	for (enum direction direction = 0; direction < DIRECTIONS; direction++)
		side_renew(c, &old->sides[direction], new, marks);
	groups_take(c, old, new);
	intern_remove(&c->profiles, &old->interned);
	intern_remove(&c->profiles, &new->interned);
	for (size_t i = 0; i < old->count; i++)
		compiled_drop(c, old->list[i]);
	free(old->list);
	old->list = new->list;
	old->count = new->count;
	old->steered = new->steered; /* the addresses of its groups are told anew: the groups had changed profiles */
	intern_add(&c->profiles, &old->interned, new->interned.hash);
	link_remove(&old->waiting);
	link_add(&c->renewed_profiles, &old->waiting);
	for (size_t i = 0; i < new->port_count; i++)
		port_name_drop(c, new->ports[i].name);
	link_remove(&new->waiting);
	free(new->ports);
	free(new);
	return true;
}
