/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/compile/term.h"
#include <stdio.h>
#include <string.h>
#include "agent/base/mem.h"
#include "agent/compile/group.h"
#include "agent/compile/network.h"
#include "agent/compile/space.h"

/* With more new terms than this that are not about one namespace, all groups look up all terms: that costs each group
 * as much as some comparisons. */
#define FRESH_TERMS_SINGLE 24

/* Where a term is found by what the group must have. */
struct term_anchor {
	struct names *table;
	char *key;
	struct link terms;
};

#define ANCHOR_KEY_MAX 512

static bool anchor_key(char text[ANCHOR_KEY_MAX], const char *key, const char *value)
{
	int length = snprintf(text, ANCHOR_KEY_MAX, "%s=%s", key, value);
	return length > 0 && length < ANCHOR_KEY_MAX;
}

/* The first "key is exactly this value" of a selector, or NULL. */
static const struct requirement *selector_anchor(const struct selector *selector)
{
	char text[ANCHOR_KEY_MAX];
	for (size_t i = 0; selector && i < selector->count; i++) {
		const struct requirement *requirement = &selector->list[i];
		if (requirement->operator== SELECTOR_IN && requirement->value_count == 1 &&
			anchor_key(text, requirement->key, requirement->values[0]))
			return requirement;
	}
	return NULL;
}

static const char *selector_namespace(const struct selector *selector)
{
	for (size_t i = 0; selector && i < selector->count; i++) {
		const struct requirement *requirement = &selector->list[i];
		if (requirement->operator== SELECTOR_IN &&
			requirement->value_count == 1 && !strcmp(requirement->key, LABEL_SPACE_NAME))
			return requirement->values[0];
	}
	return NULL;
}

static void term_anchor_at(struct term *term, struct names *table, const struct requirement *requirement)
{
	char text[ANCHOR_KEY_MAX];
	anchor_key(text, requirement->key, requirement->values[0]);
	struct term_anchor *anchor = names_get(table, text);
	if (!anchor) {
		anchor = mem_alloc(sizeof(*anchor));
		anchor->table = table;
		anchor->key = str_dup(text);
		link_init(&anchor->terms);
		names_put(table, text, anchor);
	}
	term->anchor = anchor;
	link_add(&anchor->terms, &term->anchored);
}

/* The narrowest place first: one namespace, one label of the pod, one label of the namespace. */
static void term_anchor_pods(struct compiler *c, struct term *term)
{
	const struct peer *peer = term->peer;
	const char *namespace = peer->namespaces ? selector_namespace(peer->namespaces) : NULL;
	const struct requirement *requirement;
	if (term->space || namespace) {
		term->anchor_space = space_take(c, term->space ? term->space->name : namespace);
		link_add(&term->anchor_space->terms, &term->anchored);
	} else if ((requirement = selector_anchor(peer->pods))) {
		term_anchor_at(term, &c->pod_anchors, requirement);
	} else if ((requirement = selector_anchor(peer->namespaces))) {
		term_anchor_at(term, &c->space_anchors, requirement);
	} else {
		link_add(&c->generic_terms, &term->anchored);
	}
}

static void term_unanchor(struct compiler *c, struct term *term)
{
	link_remove(&term->anchored);
	if (term->anchor_space)
		space_drop(c, term->anchor_space);
	term->anchor_space = NULL;
	struct term_anchor *anchor = term->anchor;
	if (anchor && link_alone(&anchor->terms)) {
		names_delete(anchor->table, anchor->key);
		free(anchor->key);
		free(anchor);
	}
	term->anchor = NULL;
}

static char *selector_key(const struct selector *selector)
{
	return selector && selector->count ? selector_text(selector) : str_dup("");
}

static int text_compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The order in which exceptions are written does not matter. */
static char *network_key(const struct peer *peer)
{
	char text[ADDR_TEXT_MAX];
	cidr_format(&peer->cidr, text);
	char *key = str_format("network\n%s", text);
	char **excepts = mem_array(peer->except_count + 1, sizeof(*excepts));
	for (size_t i = 0; i < peer->except_count; i++) {
		cidr_format(&peer->except[i], text);
		excepts[i] = str_dup(text);
	}
	qsort(excepts, peer->except_count, sizeof(*excepts), text_compare);
	for (size_t i = 0; i < peer->except_count; i++) {
		char *longer = str_format("%s\n%s", key, excepts[i]);
		free(key);
		free(excepts[i]);
		key = longer;
	}
	free(excepts);
	return key;
}

static char *peer_key(const struct peer *peer, const struct space *own)
{
	if (peer->type == PEER_NETWORK)
		return network_key(peer);
	if (peer->type == PEER_NODES) {
		auto_free char *nodes = selector_key(peer->nodes);
		return str_format("nodes\n%s", nodes);
	}
	auto_free char *namespaces = selector_key(peer->namespaces), *pods = selector_key(peer->pods);
	return str_format("pods\n%s\n%s\n%s", own ? own->name : "", namespaces, pods);
}

static struct term *term_new(struct compiler *c, enum term_type type, char *key)
{
	struct term *term = mem_alloc(sizeof(*term));
	term->type = type;
	term->key = key;
	term->references = 1;
	term->id = ids_take(&c->term_ids);
	slots_set(&c->term_by_id, term->id, term);
	link_init(&term->classes);
	link_init(&term->users);
	link_init(&term->anchored);
	link_init(&term->waiting);
	names_put(&c->terms, key, term);
	if (type != TERM_NETWORK)
		link_add(&c->fresh_terms, &term->waiting);
	return term;
}

struct term *term_take(struct compiler *c, const struct object *policy, const struct peer *peer, struct space *space)
{
	enum term_type type;
	switch (peer->type) {
	case PEER_PODS:
	case PEER_NAMESPACES:
		type = TERM_PODS;
		break;
	case PEER_NODES:
		type = TERM_NODES;
		break;
	case PEER_NETWORK:
		type = TERM_NETWORK;
		break;
	default:
		return NULL;
	}
	struct space *own = type == TERM_PODS && !peer->namespaces ? space : NULL;
	char *key = peer_key(peer, own);
	struct term *term = names_get(&c->terms, key);
	if (term) {
		free(key);
		term->references++;
		return term;
	}
	term = term_new(c, type, key);
	term->source = object_get(policy);
	term->peer = peer;
	term->space = own ? space_take(c, own->name) : NULL;
	if (type == TERM_PODS)
		term_anchor_pods(c, term);
	else if (type == TERM_NODES)
		link_add(&c->node_terms, &term->anchored);
	else
		network_add(c, term);
	return term;
}

struct term *term_take_port_name(struct compiler *c, struct port_name *name)
{
	if (name->term) {
		name->term->references++;
		return name->term;
	}
	struct term *term = term_new(c, TERM_PORT_NAME, str_format("port\n%s", name->text));
	term->port_name = port_name_take(c, name->text);
	name->term = term;
	return term;
}

void term_drop(struct compiler *c, struct term *term)
{
	if (--term->references)
		return;
	names_delete(&c->terms, term->key);
	term_unanchor(c, term);
	if (term->type == TERM_NETWORK)
		network_remove(c, term);
	if (term->port_name)
		term->port_name->term = NULL;
	link_remove(&term->waiting);
	link_add(&c->ended_terms, &term->waiting);
}

static bool selector_fits(const struct selector *selector, const struct labels *labels)
{
	return !selector || selector_matches(selector, labels);
}

static bool term_matches(const struct term *term, const struct group *group)
{
	const struct labels *labels = &group->source->labels;
	switch (term->type) {
	case TERM_PODS:
		if (!group->space || (term->space && term->space != group->space))
			return false;
		return selector_fits(term->peer->namespaces, &group->space->labels) && selector_fits(term->peer->pods, labels);
	case TERM_NODES:
		return !group->space && selector_fits(term->peer->nodes, labels);
	case TERM_PORT_NAME:
		for (size_t i = 0; i < group->port_count; i++)
			if (group->ports[i].name == term->port_name)
				return true;
		return false;
	case TERM_NETWORK:
		break;
	}
	return false;
}

static void terms_collect(const struct link *terms, const struct group *group, struct words *ret)
{
	LINKS_EACH(at, terms)
	{
		const struct term *term = OWNER_OF(at, struct term, anchored);
		if (term_matches(term, group))
			words_add(ret, term->id);
	}
}

static void terms_collect_anchored(
	const struct names *table, const struct labels *labels, const struct group *group, struct words *ret)
{
	char text[ANCHOR_KEY_MAX];
	for (size_t i = 0; table->count && i < labels->count; i++) {
		if (!anchor_key(text, labels->list[i].key, labels->list[i].value))
			continue;
		const struct term_anchor *anchor = names_get(table, text);
		if (anchor)
			terms_collect(&anchor->terms, group, ret);
	}
}

void terms_of_group(struct compiler *c, const struct group *group, struct words *ret)
{
	if (!group->space) {
		terms_collect(&c->node_terms, group, ret);
		words_sort(ret);
		return;
	}
	terms_collect(&group->space->terms, group, ret);
	terms_collect_anchored(&c->pod_anchors, &group->source->labels, group, ret);
	terms_collect_anchored(&c->space_anchors, &group->space->labels, group, ret);
	terms_collect(&c->generic_terms, group, ret);
	for (size_t i = 0; i < group->port_count; i++)
		if (group->ports[i].name->term)
			words_add(ret, group->ports[i].name->term->id);
	words_sort(ret);
}

/* A term began or ended: what that means for one group that is otherwise up to date. */
static void term_apply(struct compiler *c, struct term *term, struct group *group)
{
	if (group->touched & GROUP_TERMS)
		return;
	c->work.terms_matched++;
	bool changed = term->references ? term_matches(term, group) && words_insert(&group->terms, term->id)
									: words_remove(&group->terms, term->id);
	if (!changed)
		return;
	if (term->type == TERM_PORT_NAME)
		group_pairs(group, &group->pairs);
	group_content_changed(c, group);
}

static void term_apply_space(struct compiler *c, struct term *term, struct space *space)
{
	LINKS_EACH(at, &space->groups)
	term_apply(c, term, OWNER_OF(at, struct group, in_space));
}

static void term_apply_all(struct compiler *c, struct term *term)
{
	if (term->type != TERM_PODS) {
		LINKS_EACH(at, &c->all_groups)
		term_apply(c, term, OWNER_OF(at, struct group, in_all));
		return;
	}
	if (term->space) {
		term_apply_space(c, term, term->space);
		return;
	}
	size_t at = 0;
	const char *name;
	void *space;
	while (names_next(&c->spaces, &at, &name, &space))
		if (selector_fits(term->peer->namespaces, &((struct space *)space)->labels))
			term_apply_space(c, term, space);
}

static size_t fresh_terms_wide(const struct compiler *c)
{
	size_t count = 0;
	LINKS_EACH(at, &c->fresh_terms)
	count += !OWNER_OF(at, struct term, waiting)->anchor_space;
	return count;
}

void terms_refresh(struct compiler *c)
{
	if (fresh_terms_wide(c) > FRESH_TERMS_SINGLE) {
		LINKS_EACH(at, &c->all_groups)
		group_touch(c, OWNER_OF(at, struct group, in_all), GROUP_TERMS);
	}
	LINKS_EACH_SAFE(at, after, &c->fresh_terms)
	{
		struct term *term = OWNER_OF(at, struct term, waiting);
		term_apply_all(c, term);
		link_remove(at);
	}
	LINKS_EACH(at, &c->ended_terms)
	{
		struct term *term = OWNER_OF(at, struct term, waiting);
		if (term->type != TERM_NETWORK)
			term_apply_all(c, term);
	}
	LINKS_EACH(at, &c->dirty_groups)
	{
		struct group *group = OWNER_OF(at, struct group, dirty);
		if (group->touched & GROUP_TERMS && !link_alone(&group->holders))
			group_match(c, group);
	}
}

void terms_sweep(struct compiler *c)
{
	LINKS_EACH_SAFE(at, after, &c->ended_terms)
	{
		struct term *term = OWNER_OF(at, struct term, waiting);
		link_remove(at);
		ids_give(&c->term_ids, term->id);
		slots_set(&c->term_by_id, term->id, NULL);
		if (term->port_name)
			port_name_drop(c, term->port_name);
		space_drop(c, term->space);
		if (term->source)
			object_put(term->source);
		free(term->key);
		free(term);
	}
}
