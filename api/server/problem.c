/* SPDX-License-Identifier: Apache-2.0 */
#include "api/server/problem.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "agent/base/mem.h"
#include "api/server/answer.h"
#include "api/server/request.h"

#define PROBLEM_TYPE "https://penstock.dev/problems/"
#define RETRY_AFTER_SECONDS 1

/*
 * Most severe first: what says nothing about the request (we are broken or busy), then what hides the rest of the body,
 * then what no retry mends, then what another owner or version could mend, then what less load could.
 */
static const struct {
	enum error_kind kind;
	int status;
} severities[] = {
	{ERROR_SYSTEM, 500},
	{ERROR_BUSY, 503},
	{ERROR_SYNTAX, 400},
	{ERROR_TOO_LARGE, 413},
	{ERROR_INVALID, 422},
	{ERROR_CONFLICT, 409},
	{ERROR_PRECONDITION, 412},
	{ERROR_NOT_FOUND, 404},
	{ERROR_NO_SPACE, 507},
};

static const struct {
	int status;
	const char *type, *title;
} problems[] = {
	{400, "bad-request", "The request cannot be read"}, {401, "unauthorized", "It is not known who asks"},
	{403, "forbidden", "This is not for whoever asks"}, {404, "not-found", "There is no such thing"},
	{405, "method-not-allowed", "The path does not take this method"},
	{409, "conflict", "It conflicts with another owner or a newer term"},
	{412, "precondition-failed", "A condition of the request does not hold"},
	{413, "too-large", "The body or an object in it is too large"},
	{414, "too-long", "The path or the query is too long"},
	{415, "unsupported-media-type", "The body is in a format that is not taken here"},
	{422, "invalid", "The request is understood, but cannot be enforced"},
	{429, "too-many", "There are too many at once"}, {503, "busy", "Not now"}, {507, "no-space", "It does not fit"},
	{431, "headers-too-large", "The headers are too large"},
	{505, "http-version", "This version of HTTP is not spoken here"},
	{500, "internal", "The agent or the system failed"}, /* last: for every other status */
};
#define PROBLEM_COUNT (sizeof(problems) / sizeof(problems[0]))

int problem_status(const struct errors *errors)
{
	if (!errors)
		return 500;
	for (size_t at = 0; at < sizeof(severities) / sizeof(severities[0]); at++)
		for (size_t i = 0; errors && i < errors->count; i++)
			if (errors->list[i].kind == severities[at].kind)
				return severities[at].status;
	return 500;
}

/* One sentence for all: the first error, and how many there are besides. */
static void detail_add(struct buffer *out, const struct errors *errors)
{
	const struct error *first = &errors->list[0];
	buffer_printf(out, "%s%s%s", first->path, first->path[0] ? ": " : "", first->detail);
	if (errors->total > 1)
		buffer_printf(out, " (and %zu more error%s", errors->total - 1, errors->total > 2 ? "s" : "");
	if (errors->total > errors->count)
		buffer_printf(out, ", the first %zu are listed", errors->count);
	if (errors->total > 1)
		buffer_puts(out, ")");
}

void problem_render(struct buffer *out, int status, const char *detail, const struct errors *errors)
{
	size_t at = 0;
	struct buffer text = {0};
	while (at < PROBLEM_COUNT - 1 && problems[at].status != status)
		at++;
	buffer_printf(out, "{\"type\":\"" PROBLEM_TYPE "%s\",\"title\":\"%s\",\"status\":%d,\"detail\":", problems[at].type,
		problems[at].title, status);
	if (!detail && errors && errors->count)
		detail_add(&text, errors);
	else
		buffer_puts(&text, detail ? detail : problems[at].title);
	buffer_json_string(out, text.data);
	buffer_free(&text);
	for (size_t i = 0; errors && i < errors->count; i++) {
		buffer_puts(out, i ? ",{\"pointer\":" : ",\"errors\":[{\"pointer\":");
		buffer_json_string(out, errors->list[i].path);
		buffer_puts(out, ",\"detail\":");
		buffer_json_string(out, errors->list[i].detail);
		buffer_puts(out, "}");
	}
	buffer_puts(out, errors && errors->count ? "]}\n" : "}\n");
}

struct answer *problem_new(int status, const char *detail, const struct errors *errors)
{
	if (!status)
		status = problem_status(errors);
	struct answer *answer = answer_new(status, "application/problem+json");
	problem_render(&answer->text, status, detail, errors);
	answer->why = str_dup(detail);
	if (status == 503 || status == 429)
		answer->retry_after = RETRY_AFTER_SECONDS;
	return answer;
}

int problem_answer(struct request *request, int status, const char *format, ...)
{
	char detail[512];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(detail, sizeof(detail), format, arguments);
	va_end(arguments);
	answer_set(request, problem_new(status, detail, NULL));
	return -EINVAL;
}
