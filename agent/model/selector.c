/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/model/selector.h"

#include <errno.h>
#include <string.h>

#include "agent/base/buffer.h"
#include "agent/base/mem.h"
#include "agent/model/check.h"
#include "agent/model/decode.h"

/* ---- building ---- */

struct selector *selector_new(void)
{
	return mem_alloc(sizeof(struct selector));
}

struct requirement *selector_add(struct selector *selector, const char *key, enum selector_operator operator)
{
	selector->list = mem_resize(selector->list, selector->count + 1, sizeof(*selector->list));
	struct requirement *requirement = &selector->list[selector->count++];
	*requirement = (struct requirement){.key = str_dup(key), .operator= operator};
	return requirement;
}

void requirement_value(struct requirement *requirement, const char *value)
{
	requirement->values = mem_resize(requirement->values, requirement->value_count + 1, sizeof(*requirement->values));
	requirement->values[requirement->value_count++] = str_dup(value);
}

static void requirement_clear(struct requirement *requirement)
{
	for (size_t i = 0; i < requirement->value_count; i++)
		free(requirement->values[i]);
	free(requirement->values);
	free(requirement->key);
}

static int value_compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void values_finish(struct requirement *requirement)
{
	size_t kept = 0;
	if (requirement->value_count)
		qsort(requirement->values, requirement->value_count, sizeof(*requirement->values), value_compare);
	for (size_t i = 0; i < requirement->value_count; i++) {
		if (kept && !strcmp(requirement->values[kept - 1], requirement->values[i]))
			free(requirement->values[i]);
		else
			requirement->values[kept++] = requirement->values[i];
	}
	requirement->value_count = kept;
}

static int requirement_compare(const void *a, const void *b)
{
	const struct requirement *x = a, *y = b;
	int order = strcmp(x->key, y->key);
	if (!order)
		order = (x->operator> y->operator) - (x->operator<y->operator);
	for (size_t i = 0; !order && i < x->value_count && i < y->value_count; i++)
		order = strcmp(x->values[i], y->values[i]);
	return order ? order : (x->value_count > y->value_count) - (x->value_count < y->value_count);
}

void selector_finish(struct selector *selector)
{
	size_t kept = 0;
	for (size_t i = 0; i < selector->count; i++)
		values_finish(&selector->list[i]);
	if (selector->count)
		qsort(selector->list, selector->count, sizeof(*selector->list), requirement_compare);
	for (size_t i = 0; i < selector->count; i++) {
		if (kept && !requirement_compare(&selector->list[kept - 1], &selector->list[i]))
			requirement_clear(&selector->list[i]);
		else
			selector->list[kept++] = selector->list[i];
	}
	selector->count = kept;
}

void selector_free(struct selector *selector)
{
	if (!selector)
		return;
	for (size_t i = 0; i < selector->count; i++)
		requirement_clear(&selector->list[i]);
	free(selector->list);
	free(selector);
}

/* ---- from a LabelSelector ---- */

static enum selector_operator operator_read(const char *text)
{
	if (!strcmp(text, "In"))
		return SELECTOR_IN;
	if (!strcmp(text, "NotIn"))
		return SELECTOR_NOT_IN;
	return strcmp(text, "Exists") ? SELECTOR_DOES_NOT_EXIST : SELECTOR_EXISTS;
}

struct selector *selector_from_json(const json_t *json)
{
	struct selector *selector = selector_new();
	const char *key;
	json_t *value;
	json_object_foreach(json_object_get(json, "matchLabels"), key, value)
	{
		requirement_value(selector_add(selector, key, SELECTOR_IN), json_string_value(value));
	}
	size_t i, j;
	json_t *expression;
	json_array_foreach(json_object_get(json, "matchExpressions"), i, expression)
	{
		struct requirement *requirement = selector_add(selector, json_string_value(json_object_get(expression, "key")),
			operator_read(json_string_value(json_object_get(expression, "operator"))));
		json_array_foreach(json_object_get(expression, "values"), j, value)
		{
			requirement_value(requirement, json_string_value(value));
		}
	}
	selector_finish(selector);
	return selector;
}

/* ---- using ---- */

static bool requirement_holds(const struct requirement *requirement, const char *value)
{
	bool among =
		value && requirement->value_count &&
		bsearch(&value, requirement->values, requirement->value_count, sizeof(*requirement->values), value_compare);
	switch (requirement->operator) {
	case SELECTOR_IN:
		return among;
	case SELECTOR_NOT_IN: /* also without the key */
		return !among;
	case SELECTOR_EXISTS:
		return value;
	case SELECTOR_DOES_NOT_EXIST:
		return !value;
	}
	return false;
}

bool selector_matches(const struct selector *selector, const struct labels *labels)
{
	for (size_t i = 0; i < selector->count; i++)
		if (!requirement_holds(&selector->list[i], labels_get(labels, selector->list[i].key)))
			return false;
	return true;
}

/* kubectl's syntax, so that selector_parse reads it again. Keys and values cannot hold its separators. */
char *selector_text(const struct selector *selector)
{
	struct buffer text = {0};
	buffer_puts(&text, "");
	for (size_t i = 0; i < selector->count; i++) {
		const struct requirement *requirement = &selector->list[i];
		bool sets = requirement->operator== SELECTOR_IN || requirement->operator== SELECTOR_NOT_IN;
		buffer_printf(&text, "%s%s%s", i ? "," : "", requirement->operator== SELECTOR_DOES_NOT_EXIST ? "!" : "",
			requirement->key);
		if (!sets)
			continue;
		buffer_puts(&text, requirement->operator== SELECTOR_IN ? " in (" : " notin (");
		for (size_t j = 0; j < requirement->value_count; j++)
			buffer_printf(&text, "%s%s", j ? "," : "", requirement->values[j]);
		buffer_puts(&text, ")");
	}
	return buffer_take(&text);
}
