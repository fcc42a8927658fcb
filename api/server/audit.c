/* SPDX-License-Identifier: Apache-2.0 */
#include "api/server/audit.h"

#include <inttypes.h>
#include <string.h>
#include <sys/socket.h>
#include "agent/base/log.h"
#include "agent/base/mem.h"
#include "api/server/answer.h"
#include "api/server/auth.h"
#include "api/server/problem.h"
#include "api/server/state.h"

#define PATH_MAX_TOLD 512
#define DETAIL_MAX_TOLD 512

bool audit_wants(const struct request *request)
{
	return !strcmp(request->method, "PUT") || !strcmp(request->method, "PATCH") || !strcmp(request->method, "DELETE");
}

/* The unix socket's client, by what the kernel knows of him. */
static void local_add(struct buffer *out, int fd)
{
	struct ucred who;
	socklen_t length = sizeof(who);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &length) < 0)
		buffer_puts(out, "name=- role=admin from=unix");
	else
		buffer_printf(out, "name=uid:%u role=admin from=unix pid=%d", who.uid, who.pid);
}

static void caller_add(struct buffer *out, const struct request *request)
{
	static const char *const roles[] = {"-", "viewer", "admin"};
	const struct identity *identity = &request->identity;
	bool known = identity->role != ROLE_NONE;
	buffer_printf(out, "name=%s role=%s from=%s credential=%s", known ? identity->name : "-", roles[identity->role],
		request->connection->caller->address, request->credential ? request->credential : "-");
}

/* As it was sent, but for what would end the word, or the line: one field cannot look like several. */
static void path_add(struct buffer *out, const char *path)
{
	size_t length = strnlen(path, PATH_MAX_TOLD);
	buffer_puts(out, " path=");
	for (size_t at = 0; at < length; at++) {
		unsigned char c = (unsigned char)path[at];
		if (c <= ' ' || c >= 0x7f || c == '"' || c == '\\')
			buffer_printf(out, "%%%02x", c);
		else
			buffer_add(out, &c, 1);
	}
	buffer_puts(out, path[length] ? "…" : "");
}

char *audit_begin(struct request *request)
{
	const struct parameters *parameters = &request->parameters;
	struct buffer out = {0};
	if (request->connection->caller)
		caller_add(&out, request);
	else
		local_add(&out, request->connection->fd);
	buffer_printf(&out, " method=%s", request->method);
	path_add(&out, request->path ? request->path : "-");
	if (parameters->owner)
		buffer_printf(&out, " owner=%s", parameters->owner);
	buffer_puts(&out, parameters->force ? " force=true" : "");
	buffer_puts(&out, parameters->dry_run ? " dryRun=true" : "");
	return buffer_take(&out);
}

static void refused_write(const char *begin, int status, const char *detail)
{
	struct buffer text = {0}, quoted = {0};
	buffer_add(&text, detail, strnlen(detail, DETAIL_MAX_TOLD));
	buffer_puts(&text, "");
	buffer_json_string(&quoted, text.data);
	log_always("audit", "%s status=%d refused=%s", begin, status, quoted.data);
	buffer_free(&text);
	buffer_free(&quoted);
}

/* With the first of what is wrong. */
static void refused_reply(const char *begin, const struct reply *reply)
{
	const struct errors *errors = &reply->errors;
	const struct error *first = errors->count ? &errors->list[0] : &(struct error){0};
	auto_free char *detail = str_format("%s%s%s", first->path, *first->path ? ": " : "", first->detail);
	refused_write(begin, reply->status && reply->status != 200 ? reply->status : problem_status(errors), detail);
}

void audit_reply(const char *begin, const struct reply *reply)
{
	const struct errors *errors = &reply->errors;
	if ((!reply->status || reply->status == 200) && !errors->count)
		log_always("audit", "%s status=200 revision=%" PRIu64, begin, reply->revision);
	else
		refused_reply(begin, reply);
}

void audit_unanswered(const char *begin, const struct answer *answer)
{
	refused_write(begin, answer->status, answer->why ? answer->why : "");
}

void audit_refused(struct request *request)
{
	struct server *server = request->server;
	struct caller *caller = request->connection->caller;
	/* Strangers must not be able to fill the log. */
	if (caller && request->identity.role == ROLE_NONE && !throttle_take(&server->told, &caller->from, clock_now()))
		return;
	auto_free char *begin = audit_begin(request);
	refused_write(begin, request->answer->status, request->answer->why ? request->answer->why : "");
}
