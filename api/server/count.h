/* SPDX-License-Identifier: Apache-2.0 */
/* Requests by route, method and code, and how long they took. Lock-free. */
#ifndef PENSTOCK_COUNT_H
#define PENSTOCK_COUNT_H

#include <stdatomic.h>
#include <stdint.h>

/* What the server answers; anything else (libmicrohttpd's own refusals have no request) counts as the last. */
#define COUNT_CODES(X) \
	X(200)             \
	X(304) X(307) X(400) X(401) X(403) X(404) X(405) X(409) X(412) X(413) X(415) X(422) X(429) X(500) X(503) X(507)
#define COUNT_METHODS(X) X(GET) X(HEAD) X(PUT) X(PATCH) X(POST) X(DELETE) X(OPTIONS) X(OTHER)

enum count_method {
#define X(name) COUNT_METHOD_##name,
	COUNT_METHODS(X)
#undef X
		COUNT_METHOD_COUNT
};
enum {
#define X(code) COUNT_CODE_##code,
	COUNT_CODES(X)
#undef X
		COUNT_CODE_COUNT
};
#define COUNT_BOUNDS 12

struct count_route {
	atomic_uint_fast64_t requests[COUNT_METHOD_COUNT][COUNT_CODE_COUNT];
	atomic_uint_fast64_t buckets[COUNT_BOUNDS + 1]; /* not cumulative */
	atomic_uint_fast64_t nanoseconds;
};
struct counters {
	struct count_route *routes; /* by label, see route.h */
};

/* The method's own name when it is a known one, else "OTHER": a client must not be able to make up labels. */
const char *count_method_name(const char *method);
void count_request(struct counters *counters, int label, const char *method, int code);
void count_latency(struct counters *counters, int label, uint64_t nanoseconds);

#endif
