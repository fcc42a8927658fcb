/* SPDX-License-Identifier: Apache-2.0 */
/* Interception: who gets the connection, and what happens when nobody listens. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "agent/base/mem.h"
#include "agent/observe/explain_telling.h"

const char *explain_rule_proxy(const struct telling *t, const struct rule_name *rule)
{
	const struct object *object = rule->kind == KIND_INTERCEPT_POLICY
									  ? snapshot_find(t->snapshot, rule->kind, rule->namespace, rule->name)
									  : NULL;
	if (!object || rule->index < 0 || (size_t)rule->index >= object->policy->rule_count[rule->direction])
		return NULL;
	return object->policy->rules[rule->direction][rule->index].proxy;
}

/* Whether a usable listener of the protocol and family is there; *why of one that is not usable, if there is one. */
static bool proxy_available(const struct telling *t, const char *proxy, char why[256])
{
	struct listener_status *listeners = NULL;
	size_t count = t->source->listeners ? t->source->listeners(t->source->context, &listeners) : 0;
	const struct object *object = snapshot_find(t->snapshot, KIND_TRANSPARENT_PROXY, "", proxy);
	bool available = false;
	*why = 0;
	if (object && !(t->query.protocol == PROTOCOL_UDP ? object->proxy->udp : object->proxy->tcp))
		snprintf(why, 256, "which is not among the proxy's protocols");
	for (size_t i = 0; i < count; i++) {
		const struct listener_status *listener = &listeners[i];
		if (strcmp(listener->proxy, proxy) || !listener_hears(listener, t->query.protocol, t->query.source.family))
			continue;
		if (listener->state == LISTENER_IGNORED)
			snprintf(why, 256, "%s", listener->why);
		else
			available = true;
	}
	free(listeners);
	return available;
}

static void intercept_step(struct telling *t, const char *proxy, bool available, bool bypass, const char *why)
{
	enum ps_direction direction = t->answer.direction;
	const struct explain_side *side = direction == PS_EGRESS ? &t->answer.egress : &t->answer.ingress;
	auto_free char *rule = rule_text(t, side->verdict.intercept_rule);
	explain_step(t, "interception: handed to proxy %s by %s", proxy ? proxy : "?", rule);
	if (available)
		return;
	if (!(t->answer.proxy.flags & PS_PROXY_USED)) {
		explain_step(t, "interception: there is no such TransparentProxy: it would be denied (NoListener)");
		return;
	}
	explain_step(t, "interception: nobody that could take it listens on %s port %u over IPv%d%s%s: %s",
		t->query.protocol == PROTOCOL_UDP ? "UDP" : "TCP", t->answer.proxy.port, t->query.source.family,
		*why ? ", " : "", why, bypass ? "it would go where it was going (Bypass)" : "it would be denied (NoListener)");
}

/* Why nobody gets what policy allows. */
static void no_intercept_step(struct telling *t)
{
	const struct explain_answer *a = &t->answer;
	const struct explain_side *side = a->egress.local && a->egress.verdict.intercept_rule ? &a->egress : &a->ingress;
	if (a->action == PS_ACTION_DENY) {
		explain_step(t, "interception: not asked, what policy denies is not handed over");
	} else if (side->local && side->verdict.intercept_rule) {
		auto_free char *rule = rule_text(t, side->verdict.intercept_rule);
		explain_step(
			t, "interception: %s, by %s", side->verdict.action == PS_ACTION_INTERCEPT ? "not here" : "Bypass", rule);
	} else {
		explain_step(t, "interception: no rule matches");
	}
}

/* "proxy" stands in front for those who want no more, and with it the side whose rule it is. */
const char *explain_proxy(struct telling *t, struct rule_name *rule)
{
	const struct explain_answer *a = &t->answer;
	const struct explain_side *side = a->direction == PS_EGRESS ? &a->egress : &a->ingress;
	bool handed = a->action == PS_ACTION_INTERCEPT;
	*rule = rule_named(t, handed ? side->verdict.intercept_rule : PS_RULE_NONE);
	const char *proxy = explain_rule_proxy(t, rule);
	explain_member(t->out, "proxy", proxy);
	return proxy;
}

void explain_intercept(struct telling *t, const struct rule_name *rule, const char *proxy)
{
	const struct explain_answer *a = &t->answer;
	char why[256] = "";
	if (a->action != PS_ACTION_INTERCEPT) {
		buffer_puts(t->out, ",\"intercept\":null");
		no_intercept_step(t);
		return;
	}
	bool available = proxy && proxy_available(t, proxy, why), bypass = a->proxy.flags & PS_PROXY_BYPASS;
	buffer_puts(t->out, ",\"intercept\":{\"rule\":");
	rule_name_render(rule, t->out);
	explain_member(t->out, "proxy", proxy);
	buffer_printf(t->out, ",\"available\":%s,\"onUnavailable\":\"%s\"}", available ? "true" : "false",
		bypass ? "Bypass" : "Deny");
	intercept_step(t, proxy, available, bypass, why);
}
