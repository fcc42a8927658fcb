/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/observe/rule_list.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "agent/base/map.h"
#include "agent/base/mem.h"
#include "agent/observe/exposition.h"

static const char *const directions[DIRECTIONS] = {"Egress", "Ingress"};

/* Of an identity that lives only the rule's name can change. The sum does not depend on the book's order. */
static uint64_t book_mark(const struct rulebook *book, size_t *count)
{
	const struct rule_identity *rule;
	uint64_t mark = 0;
	size_t at = 0;
	*count = 0;
	while ((rule = rulebook_next(book, &at))) {
		if (!rule->live)
			continue;
		const char *name = rule->rule_name ? rule->rule_name : "";
		mark += hash_bytes(name, strlen(name), rule->id);
		++*count;
	}
	return mark;
}

static char *rule_labels(const struct rule_identity *rule)
{
	struct buffer b = {0};
	char index[16];
	snprintf(index, sizeof(index), "%d", rule->index);
	const char *name = rule->index < 0 ? "isolation" : rule->rule_name && rule->rule_name[0] ? rule->rule_name : index;
	metric_labels(&b, "kind", kinds[rule->kind].kind, "policy_namespace", rule->namespace, "policy", rule->name,
		"direction", directions[rule->direction], "rule", name, NULL);
	return buffer_take(&b);
}

static int item_order(const void *a, const void *b)
{
	const struct rule_item *x = a, *y = b;
	int order = strcmp(x->labels, y->labels);
	return order ? order : x->id < y->id ? -1 : x->id > y->id;
}

struct rule_list *rule_list_of(const struct rulebook *book, struct rule_list *current)
{
	const struct rule_identity *rule;
	size_t count, at = 0;
	uint64_t mark = book_mark(book, &count);
	if (current && current->mark == mark && current->count == count)
		return rule_list_get(current);

	struct rule_list *list = mem_alloc(sizeof(*list));
	list->references = 1;
	list->mark = mark;
	list->list = mem_array(count, sizeof(*list->list));
	while ((rule = rulebook_next(book, &at)))
		if (rule->live)
			list->list[list->count++] = (struct rule_item){rule->id, rule_labels(rule)};
	qsort(list->list, list->count, sizeof(*list->list), item_order);
	return list;
}

struct rule_list *rule_list_get(struct rule_list *list)
{
	if (list)
		__atomic_add_fetch(&list->references, 1, __ATOMIC_RELAXED);
	return list;
}

void rule_list_put(struct rule_list *list)
{
	if (!list || __atomic_sub_fetch(&list->references, 1, __ATOMIC_ACQ_REL))
		return;
	for (size_t i = 0; i < list->count; i++)
		free(list->list[i].labels);
	free(list->list);
	free(list);
}

void rule_list_render(
	const struct rule_list *list, uint64_t (*hits)(void *context, uint32_t rule), void *context, struct buffer *out)
{
	for (size_t i = 0; list && i < list->count;) {
		uint64_t sum = 0;
		size_t first = i;
		/* Rules of one policy may have one name: two samples of the same labels would make the whole page invalid. */
		for (; i < list->count && !strcmp(list->list[i].labels, list->list[first].labels); i++)
			sum += hits ? hits(context, list->list[i].id) : 0;
		metric_count_labelled(out, METRIC_RULE_HITS, list->list[first].labels, sum);
	}
}
