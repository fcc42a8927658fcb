/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compiles objects and asks the tables. Standard input is one JSON document:
 *
 *   {"node": "node-1", "items": [OBJECT…], "bind": ["ns/name"…], "queries": [QUERY…]}
 *
 * QUERY is {"source", "destination", "protocol", "port"}; an end is an address or "ns/name" (its first address, or the
 * first of "family": "IPv6"). Without "bind" every endpoint has its interface. Prints one document: how much there is
 * in each table, and an answer a query. Bad objects are printed as errors, exit status 1.
 *
 * --ndjson: each line is such a document and is answered by one line. "items" replaces everything; "apply" and "delete"
 * ([{"kind", "namespace", "name"}…]) change what the line before left.
 */
#include <stdio.h>
#include <string.h>
#include "agent/base/map.h"
#include "agent/base/mem.h"
#include "agent/compile/class.h"
#include "agent/compile/compiler.h"
#include "agent/compile/profile.h"
#include "agent/model/decode.h"
#include "agent/model/read.h"

struct session {
	struct rulebook *book;
	struct compiler *compiler;
	struct names objects; /* "Kind/ns/name" → struct object * */
};

struct batch {
	struct change *list;
	size_t count, room;
};

static void batch_add(struct batch *batch, struct object *old, struct object *new)
{
	batch->list = list_room(batch->list, batch->count, &batch->room, sizeof(*batch->list));
	batch->list[batch->count++] = (struct change){old, new};
}

static void session_reset(struct session *session, const char *node)
{
	size_t at = 0;
	const char *key;
	void *object;
	compiler_free(session->compiler);
	rulebook_free(session->book);
	while (names_next(&session->objects, &at, &key, &object))
		object_put(object);
	names_clear(&session->objects);
	session->book = rulebook_new(1);
	session->compiler = compiler_new(node, session->book);
}

static void session_free(struct session *session)
{
	session_reset(session, "");
	compiler_free(session->compiler);
	rulebook_free(session->book);
}

/* ---- changes ---- */

static void apply_one(
	struct session *session, const json_t *json, const char *pointer, struct batch *batch, struct errors *errors)
{
	struct object *object;
	if (object_read(json, pointer, true, &object, errors))
		return;
	auto_free char *key = str_format("%s/%s/%s", kinds[object->kind].kind, object->namespace, object->name);
	struct object *old = names_get(&session->objects, key);
	names_put(&session->objects, key, object);
	batch_add(batch, old, object);
}

static void delete_one(struct session *session, const json_t *json, struct batch *batch)
{
	struct object_key key;
	object_key_read(json, &key);
	const char *namespace = json_string_value(json_object_get(json, "namespace"));
	const char *name = json_string_value(json_object_get(json, "name"));
	auto_free char *text = str_format("%s/%s/%s", key.kind, namespace ? namespace : "", name ? name : "");
	struct object *old = names_delete(&session->objects, text);
	if (old)
		batch_add(batch, old, NULL);
}

static void bind_all(struct session *session, const json_t *bind)
{
	size_t at = 0, i;
	const struct endpoint *endpoint;
	json_t *name;
	while ((endpoint = compiler_endpoint_next(session->compiler, &at))) {
		auto_free char *text = str_format("%s/%s", endpoint->namespace, endpoint->name);
		bool bound = !json_is_array(bind);
		json_array_foreach(bind, i, name) bound |= !strcmp(text, json_string_value(name));
		compiler_bind(session->compiler, endpoint->id, bound);
	}
}

static int session_apply(
	struct session *session, const json_t *document, struct errors *errors, struct errors *warnings)
{
	const json_t *items = json_object_get(document, "items");
	const char *node = json_string_value(json_object_get(document, "node"));
	struct batch batch = {0};
	size_t i;
	json_t *one;
	if (items || !session->compiler)
		session_reset(session, node ? node : "");
	if (!items)
		items = json_object_get(document, "apply");
	json_array_foreach(items, i, one)
	{
		auto_free char *pointer = str_format("/items/%zu", i);
		apply_one(session, one, pointer, &batch, errors);
	}
	json_array_foreach(json_object_get(document, "delete"), i, one) delete_one(session, one, &batch);
	compiler_update(session->compiler, batch.list, batch.count, warnings);
	for (i = 0; i < batch.count; i++)
		if (batch.list[i].old)
			object_put(batch.list[i].old);
	free(batch.list);
	bind_all(session, json_object_get(document, "bind"));
	return errors->total ? -1 : 0;
}

/* ---- answers ---- */

static json_t *rule_json(const struct session *session, uint32_t id)
{
	const struct rule_identity *rule = rulebook_find(session->book, id);
	if (!rule)
		return json_null();
	return json_pack("{s:s, s:s, s:s, s:s, s:i, s:s}", "kind", kinds[rule->kind].kind, "namespace", rule->namespace,
		"name", rule->name, "direction", rule->direction == EGRESS ? "Egress" : "Ingress", "index", rule->index,
		"ruleName", rule->rule_name);
}

static const char *const actions[] = {
#define X(name, text) text,
	PS_ACTIONS(X)
#undef X
};

static json_t *verdict_json(const struct session *session, bool local, const struct ps_verdict *verdict)
{
	static const char *const reasons[] = {
#define X(name, text, doc) text,
		PS_REASONS(X)
#undef X
	};
	if (!local)
		return json_null();
	enum ps_reason reason = verdict->action == PS_ACTION_INTERCEPT ? PS_REASON_INTERCEPT : verdict->reason;
	json_t *json = json_pack("{s:s, s:s, s:o}", "action", actions[verdict->action], "reason", reasons[reason], "rule",
		rule_json(session, verdict->rule));
	if (verdict->action == PS_ACTION_INTERCEPT) {
		const char *proxy = compiler_proxy_name(session->compiler, verdict->proxy);
		json_object_set_new(json, "proxy", proxy ? json_string(proxy) : json_null());
	}
	if (verdict->intercept_rule != PS_RULE_NONE && verdict->action != PS_ACTION_DENY)
		json_object_set_new(json, "interceptRule", rule_json(session, verdict->intercept_rule));
	if (verdict->flags & PS_VERDICT_AUDIT || verdict->audit_rule != PS_RULE_NONE)
		json_object_set_new(json, "audit",
			json_pack("{s:s, s:o}", "action", actions[verdict_audit_action(verdict)], "rule",
				rule_json(session, verdict->audit_rule)));
	return json;
}

/* An address, or whose it is. */
static bool end_read(const struct session *session, const char *text, uint8_t family, struct ip *ret)
{
	if (text && !ip_parse(text, ret))
		return true;
	static const char *const holders[] = {"Workload", "Pod"};
	for (size_t i = 0; text && i < 2; i++) {
		auto_free char *key = str_format("%s/%s", holders[i], text);
		const struct object *object = names_get(&session->objects, key);
		for (size_t j = 0; object && j < object->workload->ip_count; j++) {
			*ret = object->workload->ips[j];
			if (!family || ret->family == family)
				return true;
		}
	}
	return false;
}

static uint8_t protocol_read(const json_t *json)
{
	const char *text = json_string_value(json);
	if (!text || !strcmp(text, "TCP"))
		return PROTOCOL_TCP;
	if (!strcmp(text, "UDP"))
		return PROTOCOL_UDP;
	return !strcmp(text, "SCTP") ? PROTOCOL_SCTP : 1;
}

static json_t *query_answer(const struct session *session, const json_t *json)
{
	const char *family = json_string_value(json_object_get(json, "family"));
	uint8_t number = !family ? 0 : !strcmp(family, "IPv6") ? 6 : 4;
	struct judge_query query = {.protocol = protocol_read(json_object_get(json, "protocol")),
		.port = (uint16_t)json_integer_value(json_object_get(json, "port"))};
	struct judge_answer answer;
	if (!end_read(session, json_string_value(json_object_get(json, "source")), number, &query.source) ||
		!end_read(session, json_string_value(json_object_get(json, "destination")), number, &query.destination))
		return json_pack("{s:s}", "error", "source or destination is neither an address nor a known workload");
	tables_judge(compiler_tables(session->compiler), &query, &answer);
	json_t *ret = json_pack("{s:s, s:o, s:o}", "verdict", actions[answer.action], "egress",
		verdict_json(session, answer.egress_local, &answer.egress), "ingress",
		verdict_json(session, answer.ingress_local, &answer.ingress));
	if (answer.service) {
		json_object_set_new(ret, "service", json_true());
		json_object_set_new(ret, "pending", json_boolean(answer.pending));
	}
	if (answer.action == PS_ACTION_INTERCEPT)
		json_object_set_new(ret, "direction", json_string(answer.direction == PS_EGRESS ? "Egress" : "Ingress"));
	return ret;
}

static json_t *errors_json(const struct errors *errors)
{
	json_t *list = json_array();
	for (size_t i = 0; i < errors->count; i++)
		json_array_append_new(
			list, json_pack("{s:s, s:s}", "pointer", errors->list[i].path, "detail", errors->list[i].detail));
	return list;
}

static json_t *session_answer(struct session *session, const json_t *document, int *status)
{
	struct errors errors = {0}, warnings = {0};
	struct error misfit = {0};
	json_t *ret = json_object(), *answers = json_array(), *tables = json_object(), *query;
	size_t i;
	if (session_apply(session, document, &errors, &warnings)) {
		json_object_set_new(ret, "errors", errors_json(&errors));
		*status = 1;
	}
	for (int id = 0; id < TABLE_COUNT; id++) {
		size_t count = compiler_tables(session->compiler)->table[id].wanted.count;
		json_object_set_new(tables, table_infos[id].name, json_integer((json_int_t)count));
	}
	json_array_foreach(json_object_get(document, "queries"), i, query)
		json_array_append_new(answers, query_answer(session, query));
	json_object_set_new(ret, "classes", json_integer((json_int_t)session->compiler->classes.count));
	json_object_set_new(ret, "profiles", json_integer((json_int_t)session->compiler->profiles.count + 1));
	json_object_set_new(ret, "tables", tables);
	json_object_set_new(ret, "answers", answers);
	if (warnings.count)
		json_object_set_new(ret, "warnings", errors_json(&warnings));
	if (compiler_fits(session->compiler, &misfit))
		json_object_set_new(ret, "fits", json_string(misfit.detail));
	errors_clear(&errors);
	errors_clear(&warnings);
	return ret;
}

static int document_run(struct session *session, json_t *document, const json_error_t *error, size_t flags)
{
	int status = 0;
	if (!document) {
		fprintf(stderr, "not JSON: line %d: %s\n", error->line, error->text);
		return 2;
	}
	json_t *answer = session_answer(session, document, &status);
	json_dumpf(answer, stdout, flags);
	putchar('\n');
	json_decref(answer);
	json_decref(document);
	return status;
}

int main(int argc, char **argv)
{
	struct session session = {0};
	json_error_t error;
	int status = 0;
	if (argc > 1 && !strcmp(argv[1], "--ndjson")) {
		char *line = NULL;
		size_t room = 0;
		while (getline(&line, &room, stdin) > 0) {
			status |= document_run(&session, json_loads(line, 0, &error), &error, JSON_COMPACT | JSON_SORT_KEYS);
			fflush(stdout);
		}
		free(line);
	} else {
		status = document_run(&session, json_loadf(stdin, 0, &error), &error, JSON_INDENT(2) | JSON_SORT_KEYS);
	}
	session_free(&session);
	return status;
}
