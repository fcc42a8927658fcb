/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Receiving bodies. All bodies together, those of calls that wait included, stay within a budget; it is charged as
 * bytes arrive, so that announcing a large body costs nobody anything. What is refused is read and thrown away up to a
 * bound: most clients send everything before they read the answer.
 */
#include "api/server/answer.h"
#include "api/server/problem.h"
#include "api/server/route.h"
#include "api/server/state.h"

void body_drop(struct request *request)
{
	atomic_fetch_sub(&request->server->buffered, request->body.length);
	buffer_free(&request->body);
}

static bool budget_charge(struct server *server, size_t length)
{
	if (atomic_fetch_add(&server->buffered, length) + length <= server->budget)
		return true;
	atomic_fetch_sub(&server->buffered, length);
	return false;
}

void body_receive(struct request *request, const char *data, size_t length)
{
	struct server *server = request->server;
	request->received += length;
	connection_deadline(
		&server->connections, request->connection, request->began, CONNECTION_GRACE_SECONDS, request->received);
	if (request->answer || !request->route || request->route->body == BODY_NONE)
		return;
	uint64_t body_max = route_body_max(request);
	if (request->received > body_max) {
		body_drop(request);
		problem_answer(request, 413, "the body is larger than %llu bytes", (unsigned long long)body_max);
	} else if (!budget_charge(server, length)) {
		body_drop(request);
		problem_answer(request, 503, "other requests' bodies fill the memory that there is for them");
	} else {
		buffer_add(&request->body, data, length);
	}
}
