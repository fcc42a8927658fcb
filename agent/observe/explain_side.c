/* SPDX-License-Identifier: Apache-2.0 */
/* One direction: the live tables' verdict, and what it hides. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "agent/base/mem.h"
#include "agent/observe/explain_telling.h"

bool explain_refuses(const struct explain_side *side)
{
	return side->local && side->verdict.action == PS_ACTION_DENY;
}

static const char *verdict_text(const struct explain_side *side)
{
	return explain_refuses(side) ? "Deny" : "Allow";
}

static void side_place(const struct explain_side *side, char *text, size_t size)
{
	if (side->profile == PS_PROFILE_NONE)
		snprintf(text, size, "no policy selects it");
	else
		snprintf(text, size, "profile %u, row %u (%s), port class %u (%s)", side->profile, side->row,
			side->peer_row ? "the peer's own" : "of all other peers", side->port_class,
			side->cell ? "a cell of its own" : "the row's verdict");
}

/* ---- audit mode: what it has to do with the connection; it changes nothing ---- */

static bool side_audited(const struct explain_side *side)
{
	return side->local && (side->verdict.flags & PS_VERDICT_AUDIT || side->verdict.audit_rule != PS_RULE_NONE);
}

static void audit_step(struct telling *t, enum ps_direction direction, const struct explain_side *side)
{
	auto_free char *rule = rule_text(t, side->verdict.audit_rule);
	const char *word = explain_direction_words[direction];
	if (side->verdict.flags & PS_VERDICT_AUDIT)
		explain_step(t, "%s, audit: %s if %s, which is in audit mode, were enforced", word,
			explain_actions[verdict_audit_action(&side->verdict)], rule);
	else
		explain_step(t, "%s, audit: the same by %s, which is in audit mode", word, rule);
}

static void audit_render(struct telling *t, const struct explain_side *side)
{
	struct rule_name rule = rule_named(t, side->verdict.audit_rule);
	buffer_printf(
		t->out, ",\"audit\":{\"verdict\":\"%s\",\"rule\":", explain_actions[verdict_audit_action(&side->verdict)]);
	rule_name_render(&rule, t->out);
	buffer_puts(t->out, "}");
}

/* ---- shadows: rules that match too ---- */

/* The policies that isolate the workload, when none of them allows the connection. */
static void isolation_step(struct telling *t, enum ps_direction direction, const struct matched *list, size_t count)
{
	struct buffer names = {0};
	for (size_t i = 0; i < count; i++)
		if (list[i].stage == MATCHED_NETWORK_POLICY && list[i].index < 0)
			buffer_printf(&names, "%s%s/%s", names.length ? ", " : "", list[i].policy->namespace, list[i].policy->name);
	if (names.length)
		explain_step(t, "%s: isolated by NetworkPolicy %s; no rule of theirs allows this",
			explain_direction_words[direction], names.data);
	buffer_free(&names);
}

/* The isolation would only decide where no NetworkPolicy allows. */
static bool isolation_moot(const struct matched *list, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (list[i].stage == MATCHED_NETWORK_POLICY && (list[i].index >= 0 || list[i].decides))
			return true;
	return false;
}

static bool agrees(const struct telling *t, const struct explain_side *side, const struct matched *list, size_t count)
{
	struct rule_name said = rule_named(t, side->verdict.rule), found = {.kind = KIND_COUNT};
	for (size_t i = 0; i < count; i++)
		if (list[i].decides && list[i].stage != MATCHED_INTERCEPT && list[i].action != RULE_PASS)
			found = rule_matched(&list[i]);
	return rule_name_equal(&said, &found);
}

/* Is it the rule that hands over, or the Bypass that says nobody shall? Else policy, or an earlier rule, was before it.
 */
static bool steers(const struct telling *t, const struct explain_side *side, const struct matched *matched)
{
	struct rule_name rule = rule_matched(matched), said = rule_named(t, side->verdict.intercept_rule);
	const struct explain_answer *a = &t->answer;
	bool other = side == &a->ingress && a->egress.local && a->egress.verdict.intercept_rule != PS_RULE_NONE;
	return a->action != PS_ACTION_DENY && !other && rule_name_equal(&rule, &said);
}

static void shadows_list(struct telling *t, enum ps_direction direction, const struct explain_side *side,
	const struct matched *list, size_t count)
{
	bool moot = isolation_moot(list, count), first = true;
	for (size_t i = 0; i < count; i++) {
		const struct matched *matched = &list[i];
		struct rule_name rule = rule_matched(matched);
		bool decides = matched->stage == MATCHED_INTERCEPT ? steers(t, side, matched) : matched->decides;
		if (decides || (matched->index < 0 && moot))
			continue;
		auto_free char *text = rule_name_text(t, &rule);
		buffer_printf(t->out, "%s{\"rule\":", first ? "" : ",");
		first = false;
		rule_name_render(&rule, t->out);
		explain_member(t->out, "action", matched_action(matched));
		buffer_puts(t->out, "}");
		explain_step(
			t, "%s: shadowed, it would say %s: %s", explain_direction_words[direction], matched_action(matched), text);
	}
}

static void passes_step(struct telling *t, enum ps_direction direction, const struct matched *list, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (!list[i].decides || list[i].action != RULE_PASS)
			continue;
		struct rule_name rule = rule_matched(&list[i]);
		auto_free char *text = rule_name_text(t, &rule);
		explain_step(t, "%s: past the rest of its tier by %s (Pass)", explain_direction_words[direction], text);
	}
}

/* Of a Service the side speaks for one backend. False: there is none. */
static bool ends_find(const struct telling *t, enum ps_direction direction, struct matching *question)
{
	const struct explain_target *about = t->about[direction];
	struct ip ips[EXPLAIN_ENDS] = {t->query.source, about ? about->ip : t->query.destination};
	enum explain_end_name own = direction == PS_EGRESS ? EXPLAIN_SOURCE : EXPLAIN_DESTINATION;
	question->port = about ? about->port : t->query.port;
	question->subject.ip = ips[own];
	question->peer.ip = ips[EXPLAIN_DESTINATION - own];
	question->subject.object = address_owner(t->snapshot, &question->subject.ip);
	question->peer.object = address_owner(t->snapshot, &question->peer.ip);
	return about || !t->answer.service;
}

static void matching_tell(struct telling *t, enum ps_direction direction, const struct explain_side *side)
{
	const char *word = explain_direction_words[direction];
	struct matching question = {
		.snapshot = t->snapshot, .direction = (enum direction)direction, .protocol = t->query.protocol};
	auto_free struct matched *list = NULL;
	if (!ends_find(t, direction, &question))
		return;
	size_t count = matching_rules(&question, &list);
	passes_step(t, direction, list, count);
	if (side->verdict.reason == PS_REASON_ISOLATED && explain_refuses(side))
		isolation_step(t, direction, list, count);
	if (agrees(t, side, list, count))
		shadows_list(t, direction, side, list, count);
	else
		explain_step(t, "%s: not the rule that the objects would let decide; what it shadows is left out", word);
}

/* The node itself is asked nothing. */
static void shadows_render(struct telling *t, enum ps_direction direction, const struct explain_side *side)
{
	buffer_puts(t->out, ",\"shadows\":[");
	if (!t->same)
		explain_step(t, "%s: the tables change faster than the objects are read; what the rule shadows is left out",
			explain_direction_words[direction]);
	else if (side->verdict.reason != PS_REASON_NODE)
		matching_tell(t, direction, side);
	buffer_puts(t->out, "]");
}

/* ---- the whole ---- */

static void side_step(struct telling *t, enum ps_direction direction, const struct explain_side *side)
{
	const char *word = explain_direction_words[direction];
	char place[160];
	if (!side->local && direction == PS_INGRESS && t->answer.service && t->backends.count) {
		explain_step(t, "%s: each backend's own", word);
	} else if (!side->local) {
		explain_step(
			t, "%s: not judged here, the %s is not local", word, direction == PS_EGRESS ? "source" : "destination");
	} else if (direction == PS_EGRESS && t->pending && t->answer.pending) {
		explain_step(t, "%s: left to the hook where it leaves, no one answer holds for all backends", word);
	} else if (side->verdict.reason == PS_REASON_NODE) {
		explain_step(t, "%s: Allow, the node itself may always reach its workloads (datapath.allowLocalHost)", word);
	} else {
		auto_free char *rule = rule_text(t, side->verdict.rule);
		side_place(side, place, sizeof(place));
		explain_step(
			t, "%s: %s, %s, by %s; %s", word, verdict_text(side), explain_reason(side->verdict.reason), rule, place);
	}
}

void explain_side(struct telling *t, enum ps_direction direction, const struct explain_side *side)
{
	buffer_printf(t->out, ",\"%s\":", explain_direction_words[direction]);
	side_step(t, direction, side);
	if (!side->local) {
		buffer_puts(t->out, "null");
		return;
	}
	struct rule_name rule = rule_named(t, side->verdict.rule);
	buffer_printf(t->out, "{\"verdict\":\"%s\",\"rule\":", verdict_text(side));
	rule_name_render(&rule, t->out);
	explain_member(t->out, "reason", explain_reason(side->verdict.reason));
	if (side_audited(side)) {
		audit_step(t, direction, side);
		audit_render(t, side);
	}
	shadows_render(t, direction, side);
	buffer_puts(t->out, "}");
}

void explain_side_brief(struct telling *t, const struct explain_side *side)
{
	if (!side->local) {
		buffer_puts(t->out, "null");
		return;
	}
	struct rule_name rule = rule_named(t, side->verdict.rule);
	buffer_printf(t->out, "{\"verdict\":\"%s\",\"rule\":", verdict_text(side));
	rule_name_render(&rule, t->out);
	explain_member(t->out, "reason", explain_reason(side->verdict.reason));
	buffer_puts(t->out, "}");
}
