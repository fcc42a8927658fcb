/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes: each becomes a call that waits for the applying thread, its connection suspended meanwhile. The call owns the
 * body and copies of everything it needs, so that it outlives a client that hangs up and even the server.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "agent/base/mem.h"
#include "api/server/answer.h"
#include "api/server/audit.h"
#include "api/server/problem.h"
#include "api/server/state.h"

struct pending_call {
	struct call call; /* first: callers hold its address */
	TAILQ_ENTRY(pending_call) link;
	struct server *server;   /* NULL once the server stopped */
	struct request *request; /* NULL once it is answered; suspended until then */
	uint64_t charged;        /* of the bodies' budget */
	char *audit;             /* its line, to be completed */
};

int queue_start(struct server *server)
{
	pthread_mutex_init(&server->queue_lock, NULL);
	TAILQ_INIT(&server->waiting);
	TAILQ_INIT(&server->taken);
	server->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return server->event < 0 ? -errno : 0;
}

static void pending_free(struct pending_call *pending)
{
	struct call *call = &pending->call;
	if (pending->server)
		atomic_fetch_sub(&pending->server->buffered, pending->charged);
	free(call->namespace);
	free(call->name);
	free(call->owner);
	free(call->if_match);
	free(call->if_none_match);
	free(call->body);
	free(pending->audit);
	free(pending);
}

/* With queue_lock held. The request's own thread sends it. */
static void pending_answer(struct pending_call *pending, struct answer *answer)
{
	if (!pending->request) {
		answer_free(answer);
		return;
	}
	answer_set(pending->request, answer);
	MHD_resume_connection(pending->request->http);
	pending->request = NULL;
}

struct header_list {
	const char *name;
	struct buffer text;
};

static enum MHD_Result header_add(void *context, enum MHD_ValueKind type, const char *name, const char *value)
{
	struct header_list *list = context;
	(void)type;
	if (!strcasecmp(name, list->name))
		buffer_printf(&list->text, "%s%s", list->text.length ? ", " : "", value ? value : "");
	return MHD_YES;
}

/* A list's lines as one (RFC 9110 section 5.3); NULL when there is none. */
static char *header_list_dup(struct request *request, const char *name)
{
	struct header_list list = {.name = name};
	if (!MHD_lookup_connection_value(request->http, MHD_HEADER_KIND, name))
		return NULL;
	MHD_get_connection_values(request->http, MHD_HEADER_KIND, header_add, &list);
	return buffer_take(&list.text);
}

static const char *owner_of(const struct request *request)
{
	if (request->parameters.owner)
		return request->parameters.owner;
	return *request->identity.name ? request->identity.name : "local";
}

void queue_submit(struct request *request, enum call_verb verb)
{
	struct server *server = request->server;
	struct pending_call *pending = mem_alloc(sizeof(*pending));
	const struct parameters *parameters = &request->parameters;
	pending->server = server;
	pending->request = request;
	pending->charged = request->body.length;
	pending->audit = audit_begin(request);
	pending->call = (struct call){
		.verb = verb,
		.kind = request->kind < 0 ? 0 : request->kind,
		.namespace = str_dup(request->namespace ? request->namespace : ""),
		.name = str_dup(request->name ? request->name : ""),
		.owner = str_dup(owner_of(request)),
		.force = parameters->force,
		.dry_run = parameters->dry_run,
		.diff = parameters->diff,
		.quarantine = parameters->quarantine,
		.has_term = request->has_term,
		.term = request->term,
		.if_match = header_list_dup(request, "If-Match"),
		.if_none_match = header_list_dup(request, "If-None-Match"),
		.ndjson = request->ndjson,
		.gzip = request->gzip,
		.body_length = request->body.length,
	};
	pending->call.body = buffer_take(&request->body);
	pthread_mutex_lock(&server->queue_lock);
	if (atomic_load(&server->stopping)) {
		problem_answer(request, 503, "the agent is stopping");
		pending_free(pending);
	} else {
		/* Before anyone can answer and resume it. */
		request->suspended = request->submitted = true;
		MHD_suspend_connection(request->http);
		TAILQ_INSERT_TAIL(&server->waiting, pending, link);
		eventfd_write(server->event, 1);
	}
	pthread_mutex_unlock(&server->queue_lock);
}

int server_fd(const struct server *server)
{
	return server->event;
}

struct call *server_next(struct server *server)
{
	eventfd_t count;
	pthread_mutex_lock(&server->queue_lock);
	struct pending_call *pending = TAILQ_FIRST(&server->waiting);
	if (pending) {
		TAILQ_REMOVE(&server->waiting, pending, link);
		TAILQ_INSERT_TAIL(&server->taken, pending, link);
	}
	if (TAILQ_EMPTY(&server->waiting))
		eventfd_read(server->event, &count);
	pthread_mutex_unlock(&server->queue_lock);
	return pending ? &pending->call : NULL;
}

/* ---- answers ---- */

static void warnings_render(struct buffer *out, const struct errors *warnings)
{
	buffer_puts(out, "\"warnings\":[");
	for (size_t at = 0; at < warnings->count; at++) {
		buffer_puts(out, at ? ",{\"pointer\":" : "{\"pointer\":");
		buffer_json_string(out, warnings->list[at].path);
		buffer_puts(out, ",\"detail\":");
		buffer_json_string(out, warnings->list[at].detail);
		buffer_puts(out, "}");
	}
	buffer_puts(out, "]");
}

static struct answer *write_answer(struct server *server, const struct reply *reply)
{
	if ((reply->status && reply->status != 200) || reply->errors.count)
		return problem_new(reply->status == 200 ? 0 : reply->status, NULL, &reply->errors);
	struct answer *answer = answer_new(200, "application/json");
	struct buffer *out = &answer->text;
	buffer_printf(out, "{\"revision\":%" PRIu64 ",", reply->revision);
	if (reply->dry_run)
		buffer_puts(out, "\"dryRun\":true,");
	if (reply->changes)
		buffer_printf(out, "\"changes\":%s,", reply->changes);
	warnings_render(out, &reply->warnings);
	buffer_printf(out, ",\"quarantined\":%s}\n", reply->quarantined ? reply->quarantined : "[]");
	struct snapshot *snapshot = !reply->dry_run ? board_snapshot(server->options.board) : NULL;
	if (snapshot) {
		etag_format(answer->etag, snapshot->epoch, reply->etag_revision);
		snapshot_put(snapshot);
	}
	return answer;
}

void call_reply(struct call *call, struct reply *reply)
{
	struct pending_call *pending = (struct pending_call *)call;
	struct server *server = pending->server;
	audit_reply(pending->audit, reply);
	if (server) {
		struct answer *answer = write_answer(server, reply);
		pthread_mutex_lock(&server->queue_lock);
		TAILQ_REMOVE(&server->taken, pending, link);
		pending_answer(pending, answer);
		pthread_mutex_unlock(&server->queue_lock);
	}
	errors_clear(&reply->errors);
	errors_clear(&reply->warnings);
	free(steal_pointer(&reply->quarantined));
	free(steal_pointer(&reply->changes));
	pending_free(pending);
}

void queue_stop(struct server *server)
{
	struct pending_call *pending;
	pthread_mutex_lock(&server->queue_lock);
	while ((pending = TAILQ_FIRST(&server->waiting))) {
		TAILQ_REMOVE(&server->waiting, pending, link);
		struct answer *answer = problem_new(503, "the agent is stopping; nothing of this was applied", NULL);
		audit_unanswered(pending->audit, answer);
		pending_answer(pending, answer);
		pending_free(pending);
	}
	while ((pending = TAILQ_FIRST(&server->taken))) {
		TAILQ_REMOVE(&server->taken, pending, link);
		pending_answer(pending, problem_new(503, "the agent is stopping; this may have been applied", NULL));
		pending->server = NULL;
	}
	pthread_mutex_unlock(&server->queue_lock);
}

void queue_free(struct server *server)
{
	if (server->event >= 0)
		close(server->event);
	pthread_mutex_destroy(&server->queue_lock);
}

/* ---- handlers ---- */

void write_state_put(struct request *request)
{
	queue_submit(request, CALL_PUT_STATE);
}

void write_state_patch(struct request *request)
{
	queue_submit(request, CALL_PATCH_STATE);
}

void write_object_put(struct request *request)
{
	queue_submit(request, CALL_PUT_OBJECT);
}

void write_object_delete(struct request *request)
{
	queue_submit(request, CALL_DELETE_OBJECT);
}

void write_cidr_set_patch(struct request *request)
{
	queue_submit(request, CALL_PATCH_CIDR_SET);
}

void write_owner_delete(struct request *request)
{
	queue_submit(request, CALL_DELETE_OWNER);
}
