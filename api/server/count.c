/* SPDX-License-Identifier: Apache-2.0 */
#include "api/server/count.h"

#include <stdbool.h>
#include <string.h>
#include "api/server/route.h"
#include "api/server/state.h"

static const int codes[] = {
#define X(code) code,
	COUNT_CODES(X)
#undef X
};
static const char *const methods[] = {
#define X(name) #name,
	COUNT_METHODS(X)
#undef X
};
/* Seconds. A GET takes microseconds, a write milliseconds, a whole state up to seconds. */
static const double bounds[COUNT_BOUNDS] = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 2.5, 10};

static enum count_method method_index(const char *method)
{
	for (int at = 0; at < COUNT_METHOD_OTHER; at++)
		if (!strcmp(methods[at], method))
			return at;
	return COUNT_METHOD_OTHER;
}

const char *count_method_name(const char *method)
{
	return methods[method_index(method)];
}

void count_request(struct counters *counters, int label, const char *method, int code)
{
	int at = 0;
	while (at < COUNT_CODE_COUNT - 1 && codes[at] != code)
		at++;
	atomic_fetch_add(&counters->routes[label].requests[method_index(method)][at], 1);
}

void count_latency(struct counters *counters, int label, uint64_t nanoseconds)
{
	struct count_route *route = &counters->routes[label];
	int at = 0;
	while (at < COUNT_BOUNDS && (double)nanoseconds / 1e9 > bounds[at])
		at++;
	atomic_fetch_add(&route->buckets[at], 1);
	atomic_fetch_add(&route->nanoseconds, nanoseconds);
}

void server_counts(struct server *server, void (*each_count)(void *, const struct api_count *),
	void (*each_latency)(void *, const struct api_latency *), void *context)
{
	for (int label = 0; label < route_label_count(); label++) {
		struct count_route *route = &server->counters.routes[label];
		for (int method = 0; method < COUNT_METHOD_COUNT; method++)
			for (int code = 0; code < COUNT_CODE_COUNT; code++) {
				struct api_count count = {
					methods[method], route_label(label), codes[code], atomic_load(&route->requests[method][code])};
				if (count.requests && each_count)
					each_count(context, &count);
			}
		uint64_t buckets[COUNT_BOUNDS + 1], sum = 0;
		for (int at = 0; at <= COUNT_BOUNDS; at++)
			buckets[at] = sum += atomic_load(&route->buckets[at]);
		struct api_latency latency = {
			route_label(label), bounds, buckets, COUNT_BOUNDS, (double)atomic_load(&route->nanoseconds) / 1e9};
		if (sum && each_latency)
			each_latency(context, &latency);
	}
}
