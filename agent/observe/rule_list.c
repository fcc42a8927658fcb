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

static int id_order(const void *a, const void *b, void *context)
{
	const struct rule_item *items = context;
	uint32_t x = items[*(const uint32_t *)a].id, y = items[*(const uint32_t *)b].id;
	return (x > y) - (x < y);
}

static struct rule_item item_of(const struct rule_identity *rule)
{
	return (struct rule_item){
		.id = rule->id,
		.labels = rule_labels(rule),
		.kind = rule->kind,
		.direction = rule->direction,
		.index = rule->index,
		.namespace = str_dup(rule->namespace),
		.name = str_dup(rule->name),
		.rule_name = str_dup(rule->rule_name ? rule->rule_name : ""),
	};
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
			list->list[list->count++] = item_of(rule);
	qsort(list->list, list->count, sizeof(*list->list), item_order);
	list->by_id = mem_array(count, sizeof(*list->by_id));
	for (size_t i = 0; i < count; i++)
		list->by_id[i] = (uint32_t)i;
	qsort_r(list->by_id, count, sizeof(*list->by_id), id_order, list->list);
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
	for (size_t i = 0; i < list->count; i++) {
		free(list->list[i].labels);
		free(list->list[i].namespace);
		free(list->list[i].name);
		free(list->list[i].rule_name);
	}
	free(list->list);
	free(list->by_id);
	free(list);
}

const struct rule_item *rule_list_find(const struct rule_list *list, uint32_t id)
{
	size_t first = 0, end = list ? list->count : 0;
	while (first < end) {
		size_t middle = first + (end - first) / 2;
		const struct rule_item *item = &list->list[list->by_id[middle]];
		if (item->id == id)
			return item;
		if (item->id < id)
			first = middle + 1;
		else
			end = middle;
	}
	return NULL;
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
