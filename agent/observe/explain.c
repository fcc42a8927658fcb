/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/observe/explain.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "agent/base/mem.h"
#include "agent/observe/explain_telling.h"

/* The names are published right after the flip: this long they are waited for. */
#define NAMES_TRIES 1000
#define NAMES_PAUSE_NS 1000000

/* ---- who they are ---- */

/* ", Pod shop/web", or what else it is; the caller frees. */
static char *end_text(const struct telling *t, enum explain_end_name end)
{
	const struct object *object = t->subjects[end].object;
	if (end == EXPLAIN_SOURCE && t->answer.node)
		return str_dup("");
	if (end == EXPLAIN_DESTINATION && t->answer.service && t->backends.use_count) {
		const struct backends_use *use = &t->backends.uses[0];
		return str_format(", %s port of Service %s/%s%s%s", t->answer.node_port ? "a node" : "a",
			use->service->namespace, use->service->name, *use->port->name ? ", " : "", use->port->name);
	}
	if (object)
		return str_format(
			", %s %s%s%s", kinds[object->kind].kind, object->namespace, *object->namespace ? "/" : "", object->name);
	return str_dup(", an address that no object has");
}

static void end_step(struct telling *t, enum explain_end_name end)
{
	const struct explain_answer *a = &t->answer;
	bool source = end == EXPLAIN_SOURCE;
	const struct explain_side *own = source ? &a->egress : &a->ingress;
	uint32_t class_id = source ? a->ingress.class_id : a->egress.class_id; /* it is the other side's peer */
	char ip[ADDR_TEXT_MAX];
	ip_format(&t->subjects[end].ip, ip);
	auto_free char *name = end_text(t, end);
	if (!source && a->service) {
		explain_step(t, "%s: %s%s", explain_end_names[end], ip, name);
		return;
	}
	explain_step(t, "%s: %s%s, %s; class %u%s", explain_end_names[end], ip, name,
		source && a->node ? "this node itself"
		: own->local      ? "local"
						  : "not local: it has no interface on this node",
		class_id, class_id == PS_CLASS_NONE ? " (no peer of a rule matches it)" : "");
}

/* ---- the whole ---- */

static void answer_render(struct telling *t)
{
	const struct explain_answer *a = &t->answer;
	struct rule_name rule;
	if (a->service)
		explain_service_conclude(t);
	end_step(t, EXPLAIN_SOURCE);
	end_step(t, EXPLAIN_DESTINATION);
	buffer_printf(t->out, "{\"verdict\":\"%s\"", explain_actions[a->action]);
	const char *proxy = explain_proxy(t, &rule);
	explain_side(t, PS_EGRESS, &a->egress);
	explain_side(t, PS_INGRESS, &a->ingress);
	explain_intercept(t, &rule, proxy);
	explain_backends(t);
	if (t->request->of_past)
		explain_past(t);
	explain_step(t, "revision %" PRIu64 ", generation %u of the kernel's tables", a->revision, a->generation);
	buffer_printf(t->out, ",\"revision\":%" PRIu64 ",\"steps\":[%s]}\n", a->revision, t->steps.data);
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
	backends_find(t->snapshot, &t->query.destination, t->query.protocol, t->query.port, &t->backends);
	t->query.targets = t->backends.targets;
	t->query.target_count = t->backends.count;
	if (t->source->ask(t->source->context, &t->query, &t->answer, &e) < 0)
		errors_add_error(errors, &e);
	t->same = t->answer.revision == t->snapshot->revision;
	return errors->total || last || t->same;
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
		backends_clear(&t.backends);
		snapshot_put(snapshot);
		rule_list_put(rules);
		if (!done)
			nanosleep(&pause, NULL);
	}
	explain_request_clear(&request);
}
