/* SPDX-License-Identifier: Apache-2.0 */
/* What is no object: the status and the pages that tools poll. */
#include <stdlib.h>
#include <sys/utsname.h>
#include "agent/base/mem.h"
#include "api/server/answer.h"
#include "api/server/follow.h"
#include "api/server/openapi.h"
#include "api/server/problem.h"
#include "api/server/state.h"

#define PLAIN_TEXT "text/plain; charset=utf-8"

void read_status(struct request *request)
{
	const struct server_options *options = &request->server->options;
	unsigned long change;
	if (options->status_asked)
		options->status_asked(options->context);
	auto_free char *status = board_status(options->board, &change);
	if (!status) {
		problem_answer(request, 503, "the agent has no status yet");
	} else if (request->parameters.follow && !request->head) {
		stream_answer(request, STREAM_STATUS);
	} else {
		answer_set(request, answer_new(200, "application/json"));
		buffer_printf(&request->answer->text, "%s\n", status);
	}
}

void page_metrics(struct request *request)
{
	const struct server_options *options = &request->server->options;
	answer_set(request, answer_new(200, "text/plain; version=0.0.4; charset=utf-8"));
	if (options->metrics)
		options->metrics(options->context, &request->answer->text);
}

void page_health(struct request *request)
{
	answer_set(request, answer_new(200, PLAIN_TEXT));
	request->answer->fixed = "ok\n";
}

void page_ready(struct request *request)
{
	char why[256];
	if (!board_ready(request->server->options.board, why)) {
		problem_answer(request, 503, "%s", why);
		return;
	}
	answer_set(request, answer_new(200, PLAIN_TEXT));
	request->answer->fixed = "ok\n";
}

void page_version(struct request *request)
{
	struct utsname system;
	uname(&system);
	answer_set(request, answer_new(200, "application/json"));
	struct buffer *out = &request->answer->text;
	buffer_puts(out, "{\"version\":\"" PENSTOCK_VERSION "\",\"commit\":\"" PENSTOCK_COMMIT "\",\"kernel\":");
	buffer_json_string(out, system.release);
	buffer_puts(out, ",\"architecture\":");
	buffer_json_string(out, system.machine);
	buffer_puts(out, "}\n");
}

void page_openapi(struct request *request)
{
	answer_set(request, answer_new(200, "application/json"));
	request->answer->fixed = openapi_json;
}
