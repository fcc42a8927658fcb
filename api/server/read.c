/* SPDX-License-Identifier: Apache-2.0 */
/* GETs of objects, from one snapshot each: a list is made while it is sent, and holds the snapshot that long. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "agent/base/mem.h"
#include "agent/model/decode.h"
#include "api/server/answer.h"
#include "api/server/problem.h"
#include "api/server/state.h"

/* The snapshot to answer from, or NULL with the answer set: none yet, or the client has this one already. */
static struct snapshot *snapshot_for(struct request *request)
{
	struct snapshot *snapshot = board_snapshot(request->server->options.board);
	if (!snapshot)
		problem_answer(request, 503, "the agent has not read its state yet");
	return snapshot;
}

/* Sets the answer's ETag, and makes it a 304 or 412 where the request's conditions say so; false then. */
static bool conditions_hold(struct request *request, const char *epoch, uint64_t revision)
{
	char etag[ETAG_TEXT_MAX];
	const char *match = MHD_lookup_connection_value(request->http, MHD_HEADER_KIND, "If-Match");
	const char *none = MHD_lookup_connection_value(request->http, MHD_HEADER_KIND, "If-None-Match");
	etag_format(etag, epoch, revision);
	if (match && !etag_listed(match, etag, false))
		problem_answer(request, 412, "If-Match does not list the current %s", etag);
	else if (none && etag_listed(none, etag, true))
		answer_set(request, answer_new(304, NULL));
	else
		answer_set(request, answer_new(200, "application/json"));
	memcpy(request->answer->etag, etag, sizeof(etag));
	return request->answer->status == 200;
}

/* ---- lists ---- */

struct list {
	struct text_source source;
	struct request *request; /* alive while pieces are asked for */
	struct snapshot *snapshot;
	size_t at, end, sent;
	bool opened;
};

static bool list_takes(const struct list *list, const struct object *object)
{
	const struct parameters *wanted = &list->request->parameters;
	return (!wanted->owner || !strcmp(object->owner, wanted->owner)) &&
		   (!wanted->selector || selector_matches(wanted->selector, &object->labels));
}

static void list_close(struct list *list, struct buffer *out)
{
	const struct object *last = list->at < list->end ? list->snapshot->objects[list->at - 1] : NULL;
	buffer_puts(out, "]");
	if (last) {
		struct buffer token = {0};
		continue_token(&token, list->snapshot->revision, last->namespace, last->name);
		/* Also where the Kubernetes API has it. */
		buffer_printf(out, ",\"continue\":\"%s\",\"metadata\":{\"continue\":\"%s\"}", token.data, token.data);
		buffer_free(&token);
	}
	buffer_puts(out, "}\n");
}

static bool list_next(struct text_source *source, struct buffer *out)
{
	struct list *list = (struct list *)source;
	uint64_t limit = list->request->parameters.limit;
	if (!list->opened) {
		buffer_printf(out, "{\"revision\":%" PRIu64 ",\"items\":[", list->snapshot->revision);
		list->opened = true;
	}
	while (list->at < list->end && !list_takes(list, list->snapshot->objects[list->at]))
		list->at++;
	if (list->at == list->end || (limit && list->sent == limit)) {
		list_close(list, out);
		return false;
	}
	auto_free char *text = object_encode(list->snapshot->objects[list->at++]);
	if (list->sent++)
		buffer_puts(out, ",");
	buffer_puts(out, text);
	return true;
}

static void list_free(struct text_source *source)
{
	struct list *list = (struct list *)source;
	snapshot_put(list->snapshot);
	free(list);
}

/* The first of [first, end) behind the key; all are of one kind. */
static size_t list_behind(
	const struct snapshot *snapshot, size_t first, size_t end, const char *namespace, const char *name)
{
	while (first < end) {
		size_t middle = first + (end - first) / 2;
		const struct object *object = snapshot->objects[middle];
		int order = strcmp(object->namespace, namespace);
		if (!order)
			order = strcmp(object->name, name);
		if (order <= 0)
			first = middle + 1;
		else
			end = middle;
	}
	return first;
}

static void list_answer(struct request *request, struct snapshot *snapshot, size_t first, size_t end)
{
	if (!conditions_hold(request, snapshot->epoch, snapshot->revision)) {
		snapshot_put(snapshot);
		return;
	}
	struct list *list = mem_alloc(sizeof(*list));
	*list = (struct list){{list_next, list_free}, request, snapshot, first, end, 0, false};
	request->answer->source = &list->source;
}

void read_state(struct request *request)
{
	struct snapshot *snapshot = snapshot_for(request);
	if (snapshot)
		list_answer(request, snapshot, 0, snapshot->object_count);
}

void read_list(struct request *request)
{
	struct snapshot *snapshot = snapshot_for(request);
	const struct parameters *parameters = &request->parameters;
	size_t first, end;
	if (!snapshot)
		return;
	snapshot_range(snapshot, request->kind, request->namespace, &first, &end);
	if (parameters->after_name)
		first = list_behind(snapshot, first, end, parameters->after_namespace, parameters->after_name);
	list_answer(request, snapshot, first, end);
}

/* For the page: policies and proxies, which stand side by side in the order of kinds. */
void read_policies(struct request *request)
{
	struct snapshot *snapshot = snapshot_for(request);
	size_t first, end, none;
	if (!snapshot)
		return;
	snapshot_range(snapshot, KIND_NETWORK_POLICY, NULL, &first, &none);
	snapshot_range(snapshot, KIND_NODE_FILTER, NULL, &none, &end);
	list_answer(request, snapshot, first, end);
}

/* ---- one object, owners ---- */

void read_object(struct request *request)
{
	struct snapshot *snapshot = snapshot_for(request);
	const char *namespace = request->namespace ? request->namespace : "";
	if (!snapshot)
		return;
	const struct object *object = snapshot_find(snapshot, request->kind, namespace, request->name);
	if (!object) {
		problem_answer(request, 404, "there is no %s %s%s%s", kinds[request->kind].kind, namespace,
			*namespace ? "/" : "", request->name);
	} else if (conditions_hold(request, snapshot->epoch, object->revision)) {
		auto_free char *text = object_encode(object);
		buffer_printf(&request->answer->text, "%s\n", text);
	}
	snapshot_put(snapshot);
}

void read_owners(struct request *request)
{
	struct snapshot *snapshot = snapshot_for(request);
	if (!snapshot)
		return;
	/* No ETag: a write that changes nothing moves lastWrite, and leaves the revision. */
	answer_set(request, answer_new(200, "application/json"));
	struct buffer *out = &request->answer->text;
	buffer_printf(out, "{\"revision\":%" PRIu64 ",\"items\":[", snapshot->revision);
	for (size_t at = 0; at < snapshot->owner_count; at++) {
		const struct owner *owner = &snapshot->owners[at];
		char time[32];
		time_t last_write = owner->last_write;
		struct tm parts;
		buffer_puts(out, at ? ",{\"name\":" : "{\"name\":");
		buffer_json_string(out, owner->name);
		buffer_printf(out, ",\"objects\":%zu,\"term\":", owner->objects);
		if (owner->has_term)
			buffer_printf(out, "%" PRIu64, owner->term);
		else
			buffer_puts(out, "null");
		strftime(time, sizeof(time), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&last_write, &parts));
		buffer_printf(out, ",\"lastWrite\":\"%s\"}", time);
	}
	buffer_puts(out, "]}\n");
	snapshot_put(snapshot);
}
