/* SPDX-License-Identifier: Apache-2.0 */
/* A Service's address: its backends, and what becomes of a connection whose backend is chosen later. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "agent/base/mem.h"
#include "agent/observe/explain_telling.h"

#define BACKENDS_TOLD 32 /* in the steps; the list holds all */

static bool target_refuses(const struct explain_target *target)
{
	return explain_refuses(&target->egress) || explain_refuses(&target->ingress);
}

/* Does an ingress rule of the backend hand it over, where this node's translation has shown who that is? What an egress
 * rule is about, also if it says Bypass, is not asked any more. */
static bool target_handed(const struct telling *t, const struct explain_target *target)
{
	const struct explain_side *egress = &t->answer.egress;
	return t->answer.action == PS_ACTION_ALLOW && target->steered && !target_refuses(target) &&
		   !(egress->local && egress->verdict.intercept_rule);
}

/* The backend that a side of the answer speaks for. */
static const struct explain_target *target_of(const struct telling *t, enum ps_direction direction)
{
	const struct explain_side *side = &t->answer.egress;
	for (size_t i = 0; i < t->backends.count; i++) {
		const struct explain_target *target = &t->backends.targets[i];
		if (direction == PS_INGRESS ? target->ingress.local
									: side->local && target->egress.verdict.rule == side->verdict.rule &&
										  target->egress.verdict.action == side->verdict.action)
			return target;
	}
	return NULL;
}

/*
 * What the first hook says stands in the answer. It has no say about the backends' ingress: 1 refused by all is
 * refused; 2 refused by some depends on the backend; 3 where they agree, their side is the answer's; 4 and where each
 * gives it to the same proxy, that has it.
 */
void explain_service_conclude(struct telling *t)
{
	struct explain_answer *a = &t->answer;
	size_t refusing = 0, count = t->backends.count, local = 0, shut = 0, handed = 0;
	const struct explain_target *first = t->backends.targets;
	for (size_t i = 0; i < count; i++) {
		struct explain_target *target = &t->backends.targets[i];
		refusing += target_refuses(target);
		local += target->ingress.local;
		shut += explain_refuses(&target->ingress);
		target->steered = target_handed(t, target);
		handed += target->steered && target->ingress.verdict.proxy == first->ingress.verdict.proxy;
	}
	t->about[PS_EGRESS] = a->pending ? NULL : target_of(t, PS_EGRESS);
	t->about[PS_INGRESS] = target_of(t, PS_INGRESS);
	if (local && (!shut || shut == local)) /* 3 */
		a->ingress = t->about[PS_INGRESS]->ingress;
	if (a->action == PS_ACTION_ALLOW && count && refusing == count) /* 1 */
		a->action = PS_ACTION_DENY;
	t->pending = a->action == PS_ACTION_ALLOW && (count ? refusing > 0 : a->pending); /* 2 */
	if (count && handed == count) {                                                   /* 4 */
		a->action = PS_ACTION_INTERCEPT;
		a->direction = PS_INGRESS;
		a->proxy = first->proxy;
	}
}

static const char *where_text(const struct explain_target *target)
{
	return target->node ? ", this node itself" : target->ingress.local ? ", local" : "";
}

static void target_step(struct telling *t, const struct explain_target *target, const struct object *owner)
{
	char ip[ADDR_TEXT_MAX];
	struct buffer text = {0};
	const struct explain_side *sides[] = {&target->egress, &target->ingress};
	ip_format(&target->ip, ip);
	for (int direction = 0; direction < PS_DIRECTION_COUNT; direction++) {
		const struct explain_side *side = sides[direction];
		if (!side->local)
			continue;
		auto_free char *rule = rule_text(t, side->verdict.rule);
		buffer_printf(&text, "%s %s %s (%s, %s)", text.length ? "," : ":", explain_direction_words[direction],
			explain_refuses(side) ? "Deny" : "Allow", explain_reason(side->verdict.reason), rule);
	}
	explain_step(t, "backend %s port %u%s%s%s%s%s%s", ip, target->port, owner ? ", " : "",
		owner ? owner->namespace : "", owner && *owner->namespace ? "/" : "", owner ? owner->name : "",
		where_text(target), text.length ? text.data : ": not judged here");
	buffer_free(&text);
}

static void target_handed_step(struct telling *t, const struct explain_target *target, const char *proxy)
{
	char ip[ADDR_TEXT_MAX];
	auto_free char *rule = rule_text(t, target->ingress.verdict.intercept_rule);
	ip_format(&target->ip, ip);
	explain_step(t, "backend %s: what is sent there is handed to proxy %s by %s", ip, proxy ? proxy : "?", rule);
}

static void target_render(struct telling *t, size_t at)
{
	const char *proxy = NULL;
	const struct explain_target *target = &t->backends.targets[at];
	const struct object *owner = t->backends.owners[at];
	const struct backends_use *use = target->context;
	char ip[ADDR_TEXT_MAX];
	ip_format(&target->ip, ip);
	auto_free char *name = str_format("%s/%s", use->service->namespace, use->service->name);
	auto_free char *who = owner ? str_format("%s/%s", owner->namespace, owner->name) : NULL;
	buffer_puts(t->out, "{\"service\":");
	buffer_json_string(t->out, name);
	explain_member(t->out, "ip", ip);
	buffer_printf(t->out, ",\"port\":%u", target->port);
	explain_member(t->out, "workload", who);
	if (target->steered) {
		const struct rule_name rule = rule_named(t, target->ingress.verdict.intercept_rule);
		proxy = explain_rule_proxy(t, &rule);
	}
	explain_member(t->out, "proxy", proxy);
	buffer_printf(t->out, ",\"node\":%s,\"ready\":%s,\"egress\":", target->node ? "true" : "false",
		use->terminating ? "false" : "true");
	explain_side_brief(t, &target->egress);
	buffer_puts(t->out, ",\"ingress\":");
	explain_side_brief(t, &target->ingress);
	buffer_puts(t->out, "}");
	if (at >= BACKENDS_TOLD)
		return;
	target_step(t, target, owner);
	if (target->steered)
		target_handed_step(t, target, proxy);
}

static void outcome_step(struct telling *t, size_t refusing)
{
	const struct explain_answer *a = &t->answer;
	size_t count = t->backends.count;
	if (!count)
		explain_step(t, "Service: no backend is ready%s",
			t->pending ? ": this node's translation refuses it, or leaves it to the address itself" : "");
	else if (t->pending && a->pending)
		explain_step(t,
			"pending: the backend that this node's translation chooses is judged where the connection leaves; %zu of "
			"%zu would be refused",
			refusing, count);
	else if (t->pending)
		explain_step(t,
			"pending: the backend that this node's translation chooses is judged at its own interface; %zu of %zu "
			"would be refused",
			refusing, count);
	else if (a->action == PS_ACTION_DENY && refusing < count && a->wanted)
		explain_step(t, "Service: refused for all, because a proxy is to take it, and not every backend is allowed");
	else if (a->action == PS_ACTION_DENY && refusing < count)
		explain_step(t,
			"Service: refused for all, because it could not be refused later: a backend is this node itself, or what "
			"becomes of the address cannot be seen on this kernel");
}

/* ,"pending":…,"backends":[…] */
void explain_backends(struct telling *t)
{
	size_t refusing = 0;
	buffer_printf(t->out, ",\"pending\":%s,\"backends\":[", t->pending ? "true" : "false");
	for (size_t i = 0; t->answer.service && i < t->backends.count; i++) {
		buffer_puts(t->out, i ? "," : "");
		target_render(t, i);
		refusing += target_refuses(&t->backends.targets[i]);
	}
	buffer_puts(t->out, "]");
	if (!t->answer.service)
		return;
	if (t->backends.total > BACKENDS_TOLD)
		explain_step(t, "backends: %zu in all", t->backends.total);
	outcome_step(t, refusing);
}
