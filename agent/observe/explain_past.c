/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/observe/explain_past.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "agent/base/mem.h"
#include "agent/observe/explain_telling.h"

static const char *const verdicts[PS_VERDICT_COUNT] = {
#define X(name, text) text,
	PS_VERDICTS(X)
#undef X
};
static const char *const meanings[PS_REASON_COUNT] = {
#define X(name, text, doc) doc,
	PS_REASONS(X)
#undef X
};

/* ---- reading ---- */

static const json_t *member(const json_t *json, const char *name)
{
	const json_t *value = json_object_get(json, name);
	return json_is_null(value) ? NULL : value;
}

/* The word's place in the list; 0 after an error. */
static int word_read(const json_t *json, const char *name, const char *pointer, const char *const *words, int count,
	struct errors *errors)
{
	const json_t *value = member(json, name);
	const char *text = json_string_value(value);
	for (int i = 0; text && i < count; i++)
		if (strcmp(words[i], text) == 0)
			return i;
	if (!value)
		errors_add(errors, ERROR_INVALID, pointer, "required");
	else if (text)
		errors_add(errors, ERROR_INVALID, pointer, "\"%.100s\" is none of a flow record's", text);
	else
		errors_add(errors, ERROR_INVALID, pointer, "a string is wanted here");
	return 0;
}

static char *text_read(const json_t *json, const char *name, const char *pointer, bool required, struct errors *errors)
{
	const json_t *value = member(json, name);
	if (value && !json_is_string(value))
		errors_add(errors, ERROR_INVALID, pointer, "a string is wanted here");
	else if (!value && required)
		errors_add(errors, ERROR_INVALID, pointer, "required");
	return str_dup(json_is_string(value) ? json_string_value(value) : required ? "" : NULL);
}

static void rule_read(const json_t *flow, struct explain_past *ret, struct errors *errors)
{
	const json_t *rule = member(flow, "rule"), *index = member(rule, "index");
	if (rule && !json_is_object(rule))
		errors_add(errors, ERROR_INVALID, "/flow/rule", "an object is wanted here");
	if (!json_is_object(rule))
		return;
	const char *kind = json_string_value(member(rule, "kind"));
	int number = kind ? kind_by_name(kind) : -1;
	ret->ruled = true;
	ret->kind = number < 0 ? KIND_NETWORK_POLICY : (enum kind)number;
	if (number < 0 || !(strstr(kind, "Policy") || number == KIND_NODE_FILTER))
		errors_add(errors, ERROR_INVALID, "/flow/rule/kind", kind ? "\"%.100s\" has no rules" : "required", kind);
	ret->namespace = text_read(rule, "namespace", "/flow/rule/namespace", false, errors);
	ret->name = text_read(rule, "name", "/flow/rule/name", true, errors);
	ret->rule_name = text_read(rule, "ruleName", "/flow/rule/ruleName", false, errors);
	ret->rule_direction = member(rule, "direction")
							  ? (enum direction)word_read(rule, "direction", "/flow/rule/direction", explain_directions,
									PS_DIRECTION_COUNT, errors)
							  : (enum direction)ret->direction;
	json_int_t number_of = json_integer_value(index);
	if (!json_is_integer(index) || number_of < -1 || number_of > INT32_MAX)
		errors_add(
			errors, ERROR_INVALID, "/flow/rule/index", index ? "-1 or the place of a rule is wanted" : "required");
	else
		ret->index = (int)number_of;
}

static void revision_read(const json_t *flow, struct explain_past *ret, struct errors *errors)
{
	const json_t *revision = member(flow, "revision");
	if (revision && (!json_is_integer(revision) || json_integer_value(revision) < 0))
		errors_add(errors, ERROR_INVALID, "/flow/revision", "a revision is a number from 0");
	ret->dated = json_is_integer(revision);
	ret->revision = (uint64_t)json_integer_value(revision);
}

void past_read(const json_t *flow, struct explain_past *ret, struct errors *errors)
{
	ret->direction = word_read(flow, "direction", "/flow/direction", explain_directions, PS_DIRECTION_COUNT, errors);
	ret->verdict = word_read(flow, "verdict", "/flow/verdict", verdicts, PS_VERDICT_COUNT, errors);
	ret->reason = word_read(flow, "reason", "/flow/reason", explain_reasons, PS_REASON_COUNT, errors);
	rule_read(flow, ret, errors);
	revision_read(flow, ret, errors);
	ret->proxy = text_read(flow, "proxy", "/flow/proxy", false, errors);
	ret->workloads[0] = text_read(member(flow, "source"), "workload", "/flow/source/workload", false, errors);
	ret->workloads[1] = text_read(member(flow, "destination"), "workload", "/flow/destination/workload", false, errors);
}

void past_clear(struct explain_past *past)
{
	free(past->namespace);
	free(past->name);
	free(past->rule_name);
	free(past->proxy);
	free(past->workloads[0]);
	free(past->workloads[1]);
	*past = (struct explain_past){0};
}

/* ---- in words ---- */

static struct rule_name past_rule(const struct explain_past *past)
{
	if (!past->ruled)
		return (struct rule_name){.kind = KIND_COUNT};
	return (struct rule_name){past->kind, past->namespace ? past->namespace : "", past->name, past->rule_direction,
		past->index, past->rule_name ? past->rule_name : ""};
}

static const struct object *rule_policy(const struct telling *t, const struct rule_name *rule)
{
	return rule->kind < KIND_COUNT ? snapshot_find(t->snapshot, rule->kind, rule->namespace, rule->name) : NULL;
}

/* Is the rule still what it was called? */
static bool rule_exists(const struct object *policy, const struct rule_name *rule)
{
	if (!policy || policy->kind == KIND_NODE_FILTER)
		return policy != NULL;
	if (rule->index < 0)
		return policy->policy->isolates[rule->direction];
	return (size_t)rule->index < policy->policy->rule_count[rule->direction] &&
		   strcmp(policy->policy->rules[rule->direction][rule->index].name, rule->rule_name) == 0;
}

static bool past_refused(const struct explain_past *past)
{
	return past->verdict == PS_VERDICT_DROPPED || past->verdict == PS_VERDICT_REJECTED;
}

static const char *verdict_words(const struct explain_past *past)
{
	switch (past->verdict) {
	case PS_VERDICT_FORWARDED:
		return "It passed";
	case PS_VERDICT_INTERCEPTED:
		return "It was handed to a proxy";
	case PS_VERDICT_REJECTED:
		return "It was refused with an answer (a TCP reset, or ICMP \"administratively prohibited\")";
	case PS_VERDICT_AUDITED:
		return "It passed, though a policy in audit mode would have decided otherwise";
	default:
		return "It was dropped without an answer";
	}
}

/* What a reason means for whoever asks why; NULL: what it is called in the list says it. */
static const char *reason_advice(int reason)
{
	switch (reason) {
	case PS_REASON_POLICY:
		return "Another rule before it, or a change of it, is what would change that.";
	case PS_REASON_ISOLATED:
		return "A NetworkPolicy that selects a workload refuses what no NetworkPolicy allows; a rule that allows this "
			   "connection, in any of them, would let it pass.";
	case PS_REASON_DEFAULT:
		return "Without a policy everything passes.";
	case PS_REASON_INTERCEPT:
		return "Policy allowed it, and the proxy answers for it from then on.";
	case PS_REASON_NO_LISTENER:
		return "Policy allowed it, and an InterceptPolicy rule handed it to a proxy that nobody was listening for, "
			   "with "
			   "onUnavailable Deny.";
	case PS_REASON_SPOOFED:
		return "Policy was not asked: a workload may send from its own addresses, its link-local one and its "
			   "allowedSources.";
	case PS_REASON_MALFORMED:
		return "Policy was not asked: what cannot be read cannot be judged.";
	case PS_REASON_LIMIT:
		return "Policy was not asked: the packet came over the rate before the stack saw it.";
	case PS_REASON_TABLE_FULL:
		return "Policy is not the reason: connectionsMax is too small for what is open, or somebody floods.";
	case PS_REASON_NODE_FILTER:
		return "Policy was not asked: NodeFilters decide before the stack sees a packet.";
	case PS_REASON_FRAGMENT:
		return "Policy was not asked: only the first fragment says which ports the packet is for, and it was lost, "
			   "late or "
			   "refused itself.";
	case PS_REASON_NODE:
		return "Policy was not asked: allowLocalHost is on, for probes.";
	case PS_REASON_RELATED:
		return "It was let through with the connection that it is about.";
	case PS_REASON_UNJUDGED:
		return "Such packets are never judged.";
	case PS_REASON_UNCLAIMED:
		return "No Pod or Workload of the agent's had this interface yet: unclaimed (allow or deny) decides until one "
			   "has.";
	case PS_REASON_ESTABLISHED:
		return "The verdict of the connection's first packet still held.";
	default:
		return NULL;
	}
}

static bool reason_is_policy(int reason)
{
	return reason == PS_REASON_POLICY || reason == PS_REASON_ISOLATED || reason == PS_REASON_DEFAULT ||
		   reason == PS_REASON_INTERCEPT || reason == PS_REASON_NO_LISTENER || reason == PS_REASON_ESTABLISHED;
}

static char *explanation_make(const struct telling *t, const struct explain_past *past, const struct rule_name *rule)
{
	struct buffer text = {0};
	auto_free char *name = rule_name_text(t, rule);
	const char *advice = reason_advice(past->reason);
	buffer_printf(&text, "%s when its %s was judged. %s: %s", verdict_words(past),
		explain_direction_words[past->direction], explain_reasons[past->reason], meanings[past->reason]);
	if (past->ruled)
		buffer_printf(&text, "; the rule is %s", name);
	if (past->proxy)
		buffer_printf(&text, "; the proxy is %s", past->proxy);
	buffer_puts(&text, ".");
	if (advice)
		buffer_printf(&text, " %s", advice);
	return buffer_take(&text);
}

/* ---- beside today ---- */

static void rule_step(struct telling *t, const struct explain_past *past, const struct rule_name *rule, bool exists)
{
	const struct object *policy = rule_policy(t, rule);
	const char *kind = past->ruled ? kinds[rule->kind].kind : "";
	const char *slash = *rule->namespace ? "/" : "";
	if (!policy)
		explain_step(t, "then: %s %s%s%s is not there any more", kind, rule->namespace, slash, rule->name);
	else if (!exists)
		explain_step(t, "then: %s %s%s%s has no such rule any more; revision %" PRIu64 " changed it", kind,
			rule->namespace, slash, rule->name, policy->revision);
	else if (past->dated && policy->revision > past->revision)
		explain_step(t, "then: %s %s%s%s has been changed since, by revision %" PRIu64, kind, rule->namespace, slash,
			rule->name, policy->revision);
	else if (policy->audit && past_refused(past))
		explain_step(
			t, "then: %s %s%s%s is in audit mode now, and refuses nothing", kind, rule->namespace, slash, rule->name);
}

static void owner_steps(struct telling *t, const struct explain_past *past)
{
	for (int end = 0; end < EXPLAIN_ENDS; end++) {
		const struct object *object = t->subjects[end].object;
		char ip[ADDR_TEXT_MAX];
		auto_free char *now =
			object && object->kind != KIND_NODE ? str_format("%s/%s", object->namespace, object->name) : NULL;
		if (!past->workloads[end] || (now && strcmp(now, past->workloads[end]) == 0))
			continue;
		ip_format(&t->subjects[end].ip, ip);
		explain_step(t, "then: %s was an address of %s, today it is %s%s", ip, past->workloads[end],
			now ? "one of " : "nobody's", now ? now : "");
	}
}

/* By which rule today's verdict came; the caller frees. */
static char *today_text(const struct telling *t)
{
	const struct explain_answer *a = &t->answer;
	const struct explain_side *sides[] = {&a->egress, &a->ingress};
	struct buffer text = {0};
	for (int direction = 0; direction < PS_DIRECTION_COUNT; direction++) {
		if (!sides[direction]->local || (a->action == PS_ACTION_DENY) != explain_refuses(sides[direction]))
			continue;
		auto_free char *rule = rule_text(t, sides[direction]->verdict.rule);
		buffer_printf(&text, "%s%s %s (%s)", text.length ? ", " : "", explain_direction_words[direction],
			explain_reason(sides[direction]->verdict.reason), rule);
	}
	struct rule_name handed = rule_named(t, sides[a->direction]->verdict.intercept_rule);
	auto_free char *by = a->action == PS_ACTION_INTERCEPT ? rule_name_text(t, &handed) : NULL;
	if (by)
		buffer_printf(&text, "%shanded over by %s", text.length ? ", " : "", by);
	if (!text.length)
		buffer_puts(&text, a->action == PS_ACTION_DENY ? "every backend refuses" : "no policy of this node is asked");
	return buffer_take(&text);
}

static void compare_step(struct telling *t, const struct explain_past *past, const struct rule_name *rule)
{
	auto_free char *then = rule_name_text(t, rule), *today = today_text(t);
	auto_free char *at = past->dated ? str_format(" at revision %" PRIu64, past->revision) : str_dup("");
	explain_step(t, "then %s, %s%s%s%s; today %s: %s", verdicts[past->verdict], explain_reasons[past->reason],
		past->ruled ? " by " : "", past->ruled ? then : "", at,
		t->pending ? "Allow or Deny, by the backend" : explain_actions[t->answer.action], today);
	if (past_refused(past) && !reason_is_policy(past->reason))
		explain_step(
			t, "then: it was not policy that refused, and what policy says today does not say whether it would pass");
	if (past->portless)
		explain_step(t, "today: the record says no port, and is judged as one that no rule names");
}

void explain_past(struct telling *t)
{
	const struct explain_past *past = &t->request->past;
	const struct rule_name rule = past_rule(past);
	const struct object *policy = rule_policy(t, &rule);
	bool exists = rule_exists(policy, &rule);
	auto_free char *explanation = explanation_make(t, past, &rule);
	buffer_printf(t->out,
		",\"past\":{\"verdict\":\"%s\",\"reason\":\"%s\",\"direction\":\"%s\",\"rule\":", verdicts[past->verdict],
		explain_reasons[past->reason], explain_directions[past->direction]);
	rule_name_render(&rule, t->out);
	if (past->ruled) {
		t->out->length--; /* the brace goes behind what is known of the rule today */
		buffer_printf(t->out, ",\"exists\":%s,\"changedSince\":%s}", exists ? "true" : "false",
			!past->dated                                   ? "null"
			: !policy || policy->revision > past->revision ? "true"
														   : "false");
	}
	if (past->dated)
		buffer_printf(t->out, ",\"revision\":%" PRIu64, past->revision);
	else
		buffer_puts(t->out, ",\"revision\":null");
	explain_member(t->out, "explanation", explanation);
	buffer_puts(t->out, "}");
	owner_steps(t, past);
	if (past->ruled)
		rule_step(t, past, &rule, exists);
	compare_step(t, past, &rule);
}
