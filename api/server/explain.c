/* SPDX-License-Identifier: Apache-2.0 */
/* POST /v1/explain: a question with a body, answered on HTTP's own thread. */
#include "agent/base/gzip.h"
#include "api/server/answer.h"
#include "api/server/problem.h"
#include "api/server/route.h"
#include "api/server/state.h"

static void explain_answer(struct request *request, const char *body, size_t length)
{
	const struct server_options *options = &request->server->options;
	struct errors errors = {0};
	struct buffer out = {0};
	options->explain(options->context, body, length, &out, &errors);
	if (errors.total) {
		answer_set(request, problem_new(0, NULL, &errors));
		buffer_free(&out);
	} else {
		answer_set(request, answer_new(200, "application/json"));
		request->answer->text = out;
	}
	errors_clear(&errors);
}

void read_explain(struct request *request)
{
	const struct server_options *options = &request->server->options;
	const struct buffer *body = &request->body;
	struct buffer inflated = {0};
	struct errors errors = {0};
	struct error e = {0};
	char why[256];
	if (!options->explain || !board_ready(options->board, why)) {
		problem_answer(request, 503, "%s", options->explain ? why : "there is no data path to ask");
	} else if (!request->gzip) {
		explain_answer(request, body->data ? body->data : "", body->length);
	} else if (gzip_inflate(body->data, body->length, route_body_max(request), &inflated, &e) < 0) {
		errors_add_error(&errors, &e);
		answer_set(request, problem_new(0, NULL, &errors));
		errors_clear(&errors);
	} else {
		explain_answer(request, inflated.data ? inflated.data : "", inflated.length);
	}
	buffer_free(&inflated);
}
