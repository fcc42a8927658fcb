/* SPDX-License-Identifier: Apache-2.0 */
/*
 * POST /v1/explain: what the kernel's live tables say about a connection, with the names that the objects give to
 * addresses, rules and proxies. Called on HTTP's threads; the compiler is never asked.
 */
#ifndef PENSTOCK_EXPLAIN_H
#define PENSTOCK_EXPLAIN_H

#include "agent/base/buffer.h"
#include "agent/base/error.h"
#include "agent/datapath/datapath.h"
#include "agent/observe/metrics.h"

/* Main wires it, tests have their own. */
struct explain_source {
	void *context;
	int (*ask)(void *context, const struct explain_query *query, struct explain_answer *ret, struct error *e);
	size_t (*listeners)(void *context, struct listener_status **ret); /* NULL: none are known */
	struct metrics *metrics;                                          /* what was published last */
};
/* Appends the answer to out, or adds to errors what is wrong with the body. */
void explain_body(
	const struct explain_source *source, const char *body, size_t length, struct buffer *out, struct errors *errors);

#endif
