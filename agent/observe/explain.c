/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/observe/explain.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "agent/base/mem.h"
#include "agent/observe/explain_request.h"
#include "agent/observe/rule_list.h"

/* The names are published right after the flip: this long they are waited for. */
#define NAMES_TRIES 1000
#define NAMES_PAUSE_NS 1000000

static const char *const reasons[PS_REASON_COUNT] = {
#define X(name, text, doc) text,
	PS_REASONS(X)
#undef X
};
static const char *const directions[PS_DIRECTION_COUNT] = {
#define X(name, text) text,
	PS_DIRECTIONS(X)
#undef X
};
static const char *const actions[PS_ACTION_COUNT] = {
#define X(name, text) text,
	PS_ACTIONS(X)
#undef X
};
static const char *const direction_words[PS_DIRECTION_COUNT] = {"egress", "ingress"};

/* One answer under construction. */
struct telling {
	const struct explain_source *source;
	const struct explain_request *request;
	const struct snapshot *snapshot;
	const struct rule_list *rules;
	struct explain_subject subjects[EXPLAIN_ENDS];
	struct explain_query query;
	struct explain_answer answer;
	struct buffer steps; /* JSON strings, with commas */
	struct buffer *out;
};

__attribute__((format(printf, 2, 3))) static void step(struct telling *t, const char *format, ...)
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

static const char *reason_text(uint8_t reason)
{
	return reason < PS_REASON_COUNT ? reasons[reason] : "Unknown";
}

static bool refuses(const struct explain_side *side)
{
	return side->local && side->verdict.action == PS_ACTION_DENY;
}

/* ---- rules ---- */

static void json_member(struct buffer *out, const char *name, const char *value)
{
	buffer_printf(out, ",\"%s\":", name);
	if (value)
		buffer_json_string(out, value);
	else
		buffer_puts(out, "null");
}

static void rule_render(const struct rule_item *rule, struct buffer *out)
{
	if (!rule) {
		buffer_puts(out, "null");
		return;
	}
	buffer_printf(out, "{\"kind\":\"%s\"", kinds[rule->kind].kind);
	json_member(out, "namespace", rule->namespace);
	json_member(out, "name", rule->name);
	json_member(out, "direction", directions[rule->direction]);
	buffer_printf(out, ",\"index\":%d", rule->index);
	json_member(out, "ruleName", rule->rule_name);
	buffer_puts(out, "}");
}

/* " of the Admin tier, priority 10," behind a ClusterNetworkPolicy's name; the caller frees. */
static char *tier_text(const struct telling *t, const struct rule_item *rule)
{
	const struct object *object = rule->kind == KIND_CLUSTER_NETWORK_POLICY
									  ? snapshot_find(t->snapshot, rule->kind, rule->namespace, rule->name)
									  : NULL;
	if (!object)
		return str_dup("");
	return str_format(
		" of the %s tier, priority %d", object->policy->tier ? "Baseline" : "Admin", object->policy->priority);
}

/* "NetworkPolicy shop/web, ingress rule 0 (from-web)"; the caller frees. */
static char *rule_text(const struct telling *t, uint32_t id)
{
	const struct rule_item *rule = rule_list_find(t->rules, id);
	if (id == PS_RULE_NONE)
		return str_dup("no policy");
	if (!rule)
		return str_format("rule %u, whose name is not known any more", id);
	auto_free char *tier = tier_text(t, rule);
	auto_free char *policy = str_format(
		"%s %s%s%s%s", kinds[rule->kind].kind, rule->namespace, *rule->namespace ? "/" : "", rule->name, tier);
	if (rule->index < 0)
		return str_format("%s, which isolates in this direction", policy);
	return str_format("%s, %s rule %d%s%s%s", policy, direction_words[rule->direction], rule->index,
		*rule->rule_name ? " (" : "", rule->rule_name, *rule->rule_name ? ")" : "");
}

/* ---- who they are ---- */

static void end_step(struct telling *t, enum explain_end_name end)
{
	const struct explain_subject *subject = &t->subjects[end];
	const struct explain_answer *a = &t->answer;
	bool source = end == EXPLAIN_SOURCE;
	const struct explain_side *own = source ? &a->egress : &a->ingress;
	uint32_t class_id = source ? a->ingress.class_id : a->egress.class_id; /* it is the other side's peer */
	char ip[ADDR_TEXT_MAX];
	ip_format(&subject->ip, ip);
	auto_free char *name = subject->object ? str_format(", %s %s/%s", kinds[subject->object->kind].kind,
												 subject->object->namespace, subject->object->name)
										   : str_dup(", an address that no object has");
	if (source && a->node)
		free(steal_pointer(&name));
	step(t, "%s: %s%s, %s; class %u%s", explain_end_names[end], ip, name ? name : "",
		source && a->node ? "this node itself"
		: own->local      ? "local"
						  : "not local: it has no interface on this node",
		class_id, class_id == PS_CLASS_NONE ? " (no peer of a rule matches it)" : "");
}

/* ---- one direction ---- */

static void side_place(const struct explain_side *side, char *text, size_t size)
{
	if (side->profile == PS_PROFILE_NONE)
		snprintf(text, size, "no policy selects it");
	else
		snprintf(text, size, "profile %u, row %u (%s), port class %u (%s)", side->profile, side->row,
			side->peer_row ? "the peer's own" : "of all other peers", side->port_class,
			side->cell ? "a cell of its own" : "the row's verdict");
}

/* What policies in audit mode have to do with it; they change nothing. */
static bool side_audited(const struct explain_side *side)
{
	return side->local && (side->verdict.flags & PS_VERDICT_AUDIT || side->verdict.audit_rule != PS_RULE_NONE);
}

static void audit_step(struct telling *t, enum ps_direction direction, const struct explain_side *side)
{
	auto_free char *rule = rule_text(t, side->verdict.audit_rule);
	const char *word = direction_words[direction];
	if (side->verdict.flags & PS_VERDICT_AUDIT)
		step(t, "%s, audit: %s if %s, which is in audit mode, were enforced", word,
			actions[verdict_audit_action(&side->verdict)], rule);
	else
		step(t, "%s, audit: the same by %s, which is in audit mode", word, rule);
}

static void audit_render(struct telling *t, const struct explain_side *side)
{
	buffer_printf(t->out, ",\"audit\":{\"verdict\":\"%s\",\"rule\":", actions[verdict_audit_action(&side->verdict)]);
	rule_render(rule_list_find(t->rules, side->verdict.audit_rule), t->out);
	buffer_puts(t->out, "}");
}

static void side_step(struct telling *t, enum ps_direction direction, const struct explain_side *side)
{
	const char *word = direction_words[direction];
	char place[160];
	if (!side->local) {
		step(t, "%s: not judged here, the %s is not local", word, direction == PS_EGRESS ? "source" : "destination");
	} else if (side->verdict.reason == PS_REASON_NODE) {
		step(t, "%s: Allow, the node itself may always reach its workloads (datapath.allowLocalHost)", word);
	} else {
		auto_free char *rule = rule_text(t, side->verdict.rule);
		side_place(side, place, sizeof(place));
		step(t, "%s: %s, %s, by %s; %s", word, refuses(side) ? "Deny" : "Allow", reason_text(side->verdict.reason),
			rule, place);
		if (side_audited(side))
			audit_step(t, direction, side);
	}
}

static void side_render(struct telling *t, enum ps_direction direction, const struct explain_side *side)
{
	buffer_printf(t->out, ",\"%s\":", direction_words[direction]);
	if (side->local) {
		buffer_printf(t->out, "{\"verdict\":\"%s\",\"rule\":", refuses(side) ? "Deny" : "Allow");
		rule_render(rule_list_find(t->rules, side->verdict.rule), t->out);
		json_member(t->out, "reason", reason_text(side->verdict.reason));
		if (side_audited(side))
			audit_render(t, side);
		buffer_puts(t->out, "}");
	} else {
		buffer_puts(t->out, "null");
	}
	side_step(t, direction, side);
}

/* ---- interception ---- */

/* The proxy that the rule names: a proxy's number belongs to the compiler, the rule's text to everybody. */
static const char *rule_proxy(const struct telling *t, const struct rule_item *rule)
{
	const struct object *object = rule ? snapshot_find(t->snapshot, rule->kind, rule->namespace, rule->name) : NULL;
	if (!object || rule->kind != KIND_INTERCEPT_POLICY || rule->index < 0 ||
		(size_t)rule->index >= object->policy->rule_count[rule->direction])
		return NULL;
	return object->policy->rules[rule->direction][rule->index].proxy;
}

static bool listener_serves(const struct listener_status *listener, uint8_t family)
{
	static const struct ip any6 = {.family = 6};
	return listener->ip.family == family || (!listener->v6only && ip_equal(&listener->ip, &any6));
}

/* Whether a usable listener of the family is there; *why of one that is not usable, if there is one. */
static bool proxy_available(const struct telling *t, const char *proxy, char why[256])
{
	struct listener_status *listeners = NULL;
	size_t count = t->source->listeners ? t->source->listeners(t->source->context, &listeners) : 0;
	bool available = false;
	*why = 0;
	for (size_t i = 0; i < count; i++) {
		const struct listener_status *listener = &listeners[i];
		if (strcmp(listener->proxy, proxy) || !listener_serves(listener, t->query.source.family))
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
	step(t, "interception: handed to proxy %s by %s", proxy ? proxy : "?", rule);
	if (available)
		return;
	if (!(t->answer.proxy.flags & PS_PROXY_USED)) {
		step(t, "interception: there is no such TransparentProxy: it would be denied (NoListener)");
		return;
	}
	step(t, "interception: nobody that could take it listens on port %u over IPv%d%s%s: %s", t->answer.proxy.port,
		t->query.source.family, *why ? ", " : "", why,
		bypass ? "it would go where it was going (Bypass)" : "it would be denied (NoListener)");
}

/* Why nobody gets what policy allows. */
static void no_intercept_step(struct telling *t)
{
	const struct explain_answer *a = &t->answer;
	const struct explain_side *side = a->egress.local && a->egress.verdict.intercept_rule ? &a->egress : &a->ingress;
	if (a->action == PS_ACTION_DENY) {
		step(t, "interception: not asked, what policy denies is not handed over");
	} else if (side->local && side->verdict.intercept_rule) {
		auto_free char *rule = rule_text(t, side->verdict.intercept_rule);
		step(t, "interception: %s, by %s", side->verdict.action == PS_ACTION_INTERCEPT ? "not here" : "Bypass", rule);
	} else {
		step(t, "interception: no rule matches");
	}
}

/* "proxy" stands in front for those who want no more, and with it the side whose rule it is. */
static const char *proxy_render(struct telling *t, const struct rule_item **rule)
{
	const struct explain_answer *a = &t->answer;
	const struct explain_side *side = a->direction == PS_EGRESS ? &a->egress : &a->ingress;
	bool handed = a->action == PS_ACTION_INTERCEPT;
	*rule = handed ? rule_list_find(t->rules, side->verdict.intercept_rule) : NULL;
	const char *proxy = rule_proxy(t, *rule);
	json_member(t->out, "proxy", proxy);
	return proxy;
}

static void intercept_render(struct telling *t, const struct rule_item *rule, const char *proxy)
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
	rule_render(rule, t->out);
	json_member(t->out, "proxy", proxy);
	buffer_printf(t->out, ",\"available\":%s,\"onUnavailable\":\"%s\"}", available ? "true" : "false",
		bypass ? "Bypass" : "Deny");
	intercept_step(t, proxy, available, bypass, why);
}

/* ---- the whole ---- */

static void answer_render(struct telling *t)
{
	const struct explain_answer *a = &t->answer;
	const struct rule_item *rule;
	end_step(t, EXPLAIN_SOURCE);
	end_step(t, EXPLAIN_DESTINATION);
	buffer_printf(t->out, "{\"verdict\":\"%s\"", actions[a->action]);
	const char *proxy = proxy_render(t, &rule);
	side_render(t, PS_EGRESS, &a->egress);
	side_render(t, PS_INGRESS, &a->ingress);
	intercept_render(t, rule, proxy);
	step(t, "revision %" PRIu64 ", generation %u of the kernel's tables", a->revision, a->generation);
	buffer_printf(t->out, ",\"backends\":[],\"revision\":%" PRIu64 ",\"steps\":[%s]}\n", a->revision, t->steps.data);
	buffer_free(&t->steps);
}

/* True: names and tables are of one revision, or there is an error. */
static bool telling_try(struct telling *t, bool last, struct errors *errors)
{
	struct error e = {0};
	explain_request_resolve(t->request, t->snapshot, t->subjects, errors);
	if (errors->total)
		return true;
	t->query = (struct explain_query){
		.source = t->subjects[EXPLAIN_SOURCE].ip,
		.destination = t->subjects[EXPLAIN_DESTINATION].ip,
		.protocol = explain_protocol_number(t->request->protocol, t->subjects[EXPLAIN_SOURCE].ip.family),
		.port = t->request->port,
	};
	if (t->source->ask(t->source->context, &t->query, &t->answer, &e) < 0)
		errors_add_error(errors, &e);
	return errors->total || last || t->answer.revision == t->snapshot->revision;
}

void explain_body(
	const struct explain_source *source, const char *body, size_t length, struct buffer *out, struct errors *errors)
{
	const struct timespec pause = {0, NAMES_PAUSE_NS};
	struct explain_request request;
	bool done = false;
	explain_request_read(body, length, &request, errors);
	for (int i = 1; !done; i++) {
		struct snapshot *snapshot;
		struct rule_list *rules;
		metrics_published(source->metrics, &snapshot, &rules);
		struct telling t = {.source = source, .request = &request, .snapshot = snapshot, .rules = rules, .out = out};
		if (!snapshot)
			errors_add(errors, ERROR_BUSY, "", "the agent has not read its state yet");
		done = !snapshot || telling_try(&t, i == NAMES_TRIES, errors);
		if (done && !errors->total)
			answer_render(&t);
		snapshot_put(snapshot);
		rule_list_put(rules);
		if (!done)
			nanosleep(&pause, NULL);
	}
	explain_request_clear(&request);
}
