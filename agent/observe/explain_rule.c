/* SPDX-License-Identifier: Apache-2.0 */
/* Rules by name: as JSON, and in words. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "agent/base/mem.h"
#include "agent/observe/explain_telling.h"

const char *const explain_reasons[PS_REASON_COUNT] = {
#define X(name, text, doc) text,
	PS_REASONS(X)
#undef X
};
const char *const explain_directions[PS_DIRECTION_COUNT] = {
#define X(name, text) text,
	PS_DIRECTIONS(X)
#undef X
};
const char *const explain_actions[PS_ACTION_COUNT] = {
#define X(name, text) text,
	PS_ACTIONS(X)
#undef X
};
const char *const explain_direction_words[PS_DIRECTION_COUNT] = {"egress", "ingress"};

void explain_step(struct telling *t, const char *format, ...)
{
	char *text = NULL;
	va_list arguments;
	va_start(arguments, format);
	if (vasprintf(&text, format, arguments) < 0)
		text = NULL;
	va_end(arguments);
	buffer_puts(&t->steps, t->steps.length ? "," : "");
	buffer_json_string(&t->steps, text ? text : "");
	free(text);
}

const char *explain_reason(uint8_t reason)
{
	return reason < PS_REASON_COUNT ? explain_reasons[reason] : "Unknown";
}

void explain_member(struct buffer *out, const char *name, const char *value)
{
	buffer_printf(out, ",\"%s\":", name);
	if (value)
		buffer_json_string(out, value);
	else
		buffer_puts(out, "null");
}

struct rule_name rule_named(const struct telling *t, uint32_t id)
{
	const struct rule_item *rule = rule_list_find(t->rules, id);
	if (!rule)
		return (struct rule_name){.kind = KIND_COUNT};
	return (struct rule_name){rule->kind, rule->namespace, rule->name, rule->direction, rule->index, rule->rule_name};
}

struct rule_name rule_matched(const struct matched *matched)
{
	const struct object *policy = matched->policy;
	return (struct rule_name){
		policy->kind, policy->namespace, policy->name, matched->direction, matched->index, matched_rule_name(matched)};
}

bool rule_name_equal(const struct rule_name *a, const struct rule_name *b)
{
	if (a->kind != b->kind || a->kind == KIND_COUNT)
		return a->kind == b->kind;
	return a->direction == b->direction && a->index == b->index && strcmp(a->name, b->name) == 0 &&
		   strcmp(a->namespace, b->namespace) == 0;
}

void rule_name_render(const struct rule_name *rule, struct buffer *out)
{
	if (rule->kind == KIND_COUNT) {
		buffer_puts(out, "null");
		return;
	}
	buffer_printf(out, "{\"kind\":\"%s\"", kinds[rule->kind].kind);
	explain_member(out, "namespace", rule->namespace);
	explain_member(out, "name", rule->name);
	explain_member(out, "direction", explain_directions[rule->direction]);
	buffer_printf(out, ",\"index\":%d", rule->index);
	explain_member(out, "ruleName", rule->rule_name);
	buffer_puts(out, "}");
}

/* " of the Admin tier, priority 10," behind a ClusterNetworkPolicy's name; the caller frees. */
static char *tier_text(const struct telling *t, const struct rule_name *rule)
{
	const struct object *object = rule->kind == KIND_CLUSTER_NETWORK_POLICY
									  ? snapshot_find(t->snapshot, rule->kind, rule->namespace, rule->name)
									  : NULL;
	if (!object)
		return str_dup("");
	return str_format(
		" of the %s tier, priority %d", object->policy->tier ? "Baseline" : "Admin", object->policy->priority);
}

char *rule_name_text(const struct telling *t, const struct rule_name *rule)
{
	if (rule->kind == KIND_COUNT)
		return str_dup("no policy");
	auto_free char *tier = tier_text(t, rule);
	auto_free char *policy = str_format(
		"%s %s%s%s%s", kinds[rule->kind].kind, rule->namespace, *rule->namespace ? "/" : "", rule->name, tier);
	if (rule->index < 0)
		return str_format("%s, which isolates in this direction", policy);
	return str_format("%s, %s rule %d%s%s%s", policy, explain_direction_words[rule->direction], rule->index,
		*rule->rule_name ? " (" : "", rule->rule_name, *rule->rule_name ? ")" : "");
}

char *rule_text(const struct telling *t, uint32_t id)
{
	struct rule_name rule = rule_named(t, id);
	if (rule.kind == KIND_COUNT && id != PS_RULE_NONE)
		return str_format("rule %u, whose name is not known any more", id);
	return rule_name_text(t, &rule);
}
