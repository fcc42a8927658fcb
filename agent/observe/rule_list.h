/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The live rules with their names and labels, immutable and shared: the applying thread makes a new list only when the
 * rulebook's live rules changed, HTTP's threads read the one they hold.
 */
#ifndef PENSTOCK_RULE_LIST_H
#define PENSTOCK_RULE_LIST_H

#include "agent/base/buffer.h"
#include "agent/compile/compile.h"

struct rule_item {
	uint32_t id;
	char *labels; /* rendered: {kind="…",…} */
	enum kind kind;
	enum direction direction;
	int index; /* -1: the isolation */
	char *namespace, *name, *rule_name;
};
struct rule_list {
	struct rule_item *list; /* sorted by labels, then id */
	size_t count;
	/* private */
	uint32_t *by_id; /* places in the list, sorted by id */
	uint64_t mark;   /* of ids and names, to see a change */
	int references;
};

/* The list of the book: `current` itself (may be NULL) with one reference more, when nothing changed. */
struct rule_list *rule_list_of(const struct rulebook *book, struct rule_list *current);
struct rule_list *rule_list_get(struct rule_list *list); /* NULL gives NULL */
void rule_list_put(struct rule_list *list);
const struct rule_item *rule_list_find(const struct rule_list *list, uint32_t id); /* or NULL; list may be NULL */

/* Samples of penstock_rule_hits_total. */
void rule_list_render(
	const struct rule_list *list, uint64_t (*hits)(void *context, uint32_t rule), void *context, struct buffer *out);

#endif
