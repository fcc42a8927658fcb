/* SPDX-License-Identifier: Apache-2.0 */
#include "api/server/route.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "agent/base/mem.h"
#include "api/server/answer.h"
#include "api/server/problem.h"
#include "api/server/state.h"

/* Which kinds {plural} stands for. */
enum scope { SCOPE_NONE, SCOPE_ANY, SCOPE_NAMESPACED, SCOPE_CLUSTER };

#define WRITE (PARAMETER_OWNER | PARAMETER_FORCE | PARAMETER_DRY_RUN | PARAMETER_INVALID)
#define FILTER \
	(PARAMETER_WORKLOAD | PARAMETER_VERDICT | PARAMETER_PROTOCOL | PARAMETER_PORT | PARAMETER_IP | PARAMETER_LIMIT)
#define LIST (PARAMETER_LIMIT | PARAMETER_CONTINUE | PARAMETER_LABEL_SELECTOR)

static const struct route routes[] = {
	{"GET", "/v1/state", SCOPE_NONE, false, read_state, PARAMETER_OWNER, BODY_NONE},
	{"PUT", "/v1/state", SCOPE_NONE, false, write_state_put, WRITE, BODY_OBJECTS},
	{"PATCH", "/v1/state", SCOPE_NONE, false, write_state_patch, WRITE, BODY_OBJECT},
	{"GET", "/v1/owners", SCOPE_NONE, false, read_owners, 0, BODY_NONE},
	{"DELETE", "/v1/owners/{name}", SCOPE_NONE, false, write_owner_delete, WRITE, BODY_NONE},
	{"GET", "/v1/status", SCOPE_NONE, false, read_status, PARAMETER_FOLLOW, BODY_NONE},
	{"POST", "/v1/explain", SCOPE_NONE, false, read_explain, 0, BODY_SMALL},
	{"GET", "/v1/flows", SCOPE_NONE, false, read_flows, FILTER | PARAMETER_FOLLOW, BODY_NONE},
	{"GET", "/v1/connections", SCOPE_NONE, false, read_connections, FILTER, BODY_NONE},
	{"GET", "/v1/alerts", SCOPE_NONE, false, read_alerts, PARAMETER_WORKLOAD | PARAMETER_LIMIT | PARAMETER_FOLLOW,
		BODY_NONE},
	{"GET", "/v1/{plural}", SCOPE_ANY, false, read_list, LIST, BODY_NONE},
	{"GET", "/v1/{plural}/{namespace}", SCOPE_NAMESPACED, false, read_list, LIST, BODY_NONE},
	{"GET", "/v1/{plural}/{namespace}/{name}", SCOPE_NAMESPACED, false, read_object, 0, BODY_NONE},
	{"PUT", "/v1/{plural}/{namespace}/{name}", SCOPE_NAMESPACED, false, write_object_put, WRITE, BODY_OBJECT},
	{"DELETE", "/v1/{plural}/{namespace}/{name}", SCOPE_NAMESPACED, false, write_object_delete, WRITE, BODY_NONE},
	{"GET", "/v1/{plural}/{name}", SCOPE_CLUSTER, false, read_object, 0, BODY_NONE},
	{"PUT", "/v1/{plural}/{name}", SCOPE_CLUSTER, false, write_object_put, WRITE, BODY_OBJECT},
	{"DELETE", "/v1/{plural}/{name}", SCOPE_CLUSTER, false, write_object_delete, WRITE, BODY_NONE},
	{"PATCH", "/v1/cidrsets/{name}", SCOPE_NONE, false, write_cidr_set_patch, WRITE, BODY_OBJECT},
	{"GET", "/metrics", SCOPE_NONE, true, page_metrics, 0, BODY_NONE},
	{"GET", "/healthz", SCOPE_NONE, true, page_health, 0, BODY_NONE},
	{"GET", "/readyz", SCOPE_NONE, true, page_ready, 0, BODY_NONE},
	{"GET", "/version", SCOPE_NONE, true, page_version, 0, BODY_NONE},
	{"GET", "/ui", SCOPE_NONE, true, ui_enter, 0, BODY_NONE},
	{"GET", "/ui/status", SCOPE_NONE, true, read_status, PARAMETER_FOLLOW, BODY_NONE},
	{"GET", "/ui/flows", SCOPE_NONE, true, read_flows, FILTER | PARAMETER_FOLLOW, BODY_NONE},
	{"GET", "/ui/alerts", SCOPE_NONE, true, read_alerts, PARAMETER_WORKLOAD | PARAMETER_LIMIT | PARAMETER_FOLLOW,
		BODY_NONE},
	{"GET", "/ui/metrics", SCOPE_NONE, true, page_metrics, 0, BODY_NONE},
	{"GET", "/ui/policies", SCOPE_NONE, true, read_policies, 0, BODY_NONE},
	{"GET", "/ui/{file}", SCOPE_NONE, true, ui_file, 0, BODY_NONE},
	{"GET", "/openapi.json", SCOPE_NONE, false, page_openapi, 0, BODY_NONE},
};
#define ROUTE_COUNT ((int)(sizeof(routes) / sizeof(routes[0])))

static bool scope_holds(int scope, enum kind kind)
{
	return scope == SCOPE_ANY || (scope == SCOPE_NAMESPACED) == kinds[kind].namespaced;
}

/* ---- labels: the table with {plural} written out, each path once ---- */

static pthread_once_t labels_once = PTHREAD_ONCE_INIT;
static char *labels[ROUTE_COUNT * KIND_COUNT + 1];
static int label_count;
static int label_of[ROUTE_COUNT][KIND_COUNT]; /* routes without {plural}: kind 0 */

static int label_add(char *text)
{
	for (int at = 0; at < label_count; at++)
		if (!strcmp(labels[at], text)) {
			free(text);
			return at;
		}
	labels[label_count] = text;
	return label_count++;
}

static void labels_make(void)
{
	for (int at = 0; at < ROUTE_COUNT; at++) {
		const char *rest = routes[at].pattern + strlen("/v1/{plural}");
		for (int kind = 0; kind < KIND_COUNT; kind++) {
			label_of[at][kind] = -1;
			if (routes[at].scope == SCOPE_NONE)
				label_of[at][kind] = label_add(str_dup(routes[at].pattern));
			else if (scope_holds(routes[at].scope, kind))
				label_of[at][kind] = label_add(str_format("/v1/%s%s", kinds[kind].plural, rest));
		}
	}
	label_add(str_dup("unmatched"));
}

int route_label_count(void)
{
	pthread_once(&labels_once, labels_make);
	return label_count;
}

const char *route_label(int label)
{
	pthread_once(&labels_once, labels_make);
	return labels[label];
}

bool route_next(int *at, const char **method, const char **label)
{
	pthread_once(&labels_once, labels_make);
	for (; *at < ROUTE_COUNT * KIND_COUNT; (*at)++) {
		int route = *at / KIND_COUNT, kind = *at % KIND_COUNT;
		if (label_of[route][kind] < 0 || (routes[route].scope == SCOPE_NONE && kind))
			continue;
		*method = routes[route].method;
		*label = labels[label_of[route][kind]];
		(*at)++;
		return true;
	}
	return false;
}

/* ---- matching ---- */

/* "/v1/{plural}/{namespace}/{name}" has the most. */
#define SEGMENTS_MAX 4

struct path {
	char *segments[SEGMENTS_MAX];
	int count; /* -1: more than any route has */
};

static void path_clear(struct path *path)
{
	for (int at = 0; at < SEGMENTS_MAX; at++)
		free(path->segments[at]);
}

/* A target in absolute form says scheme and host before the path (RFC 9112, 3.2.2). */
static const char *path_of_target(const char *target)
{
	size_t scheme = strncasecmp(target, "https://", 8) ? strncasecmp(target, "http://", 7) ? 0 : 7 : 8;
	return scheme ? strchrnul(target + scheme, '/') : target;
}

/* 0, or -EINVAL when a segment cannot be decoded, or holds what no path does (RFC 3986): spaces, control characters. */
static int path_split(const char *text, struct path *path)
{
	*path = (struct path){.count = *text == '/' ? 0 : -1};
	for (const char *at = text; *at; at++)
		if ((unsigned char)*at <= ' ' || *at == 0x7f)
			return -EINVAL;
	for (const char *at = text; *at;) {
		const char *start = *at == '/' ? at + 1 : at, *end = strchrnul(start, '/');
		auto_free char *segment = percent_decode(start, (size_t)(end - start));
		if (!segment)
			return -EINVAL;
		if (path->count >= 0 && path->count < SEGMENTS_MAX)
			path->segments[path->count++] = steal_pointer(&segment);
		else
			path->count = -1;
		at = end;
	}
	return 0;
}

/* Whether the path has the route's form; *kind is set from {plural}. */
static bool route_matches(const struct route *route, const struct path *path, int *kind)
{
	const char *pattern = route->pattern;
	*kind = -1;
	for (int at = 0; at < path->count; at++) {
		if (!*pattern++)
			return false;
		const char *end = strchrnul(pattern, '/'), *segment = path->segments[at];
		size_t length = (size_t)(end - pattern);
		if (!strncmp(pattern, "{plural}", length)) {
			*kind = kind_by_plural(segment);
			if (*kind < 0 || !scope_holds(route->scope, *kind))
				return false;
		} else if (*pattern == '{' ? !*segment && strncmp(pattern, "{file}", length)
								   : strlen(segment) != length || strncmp(pattern, segment, length)) {
			return false;
		}
		pattern = end;
	}
	return !*pattern && path->count >= 0;
}

/* Moves what the placeholders stand for into the request. */
static void route_capture(struct request *request, struct path *path)
{
	const char *pattern = request->route->pattern;
	for (int at = 0; at < path->count; at++) {
		pattern++;
		if (!strncmp(pattern, "{namespace}", strlen("{namespace}")))
			request->namespace = steal_pointer(&path->segments[at]);
		else if (!strncmp(pattern, "{name}", strlen("{name}")))
			request->name = steal_pointer(&path->segments[at]);
		else if (!strncmp(pattern, "{file}", strlen("{file}")))
			request->name = steal_pointer(&path->segments[at]);
		pattern = strchrnul(pattern, '/');
	}
	if (request->route->handler == write_cidr_set_patch)
		request->kind = KIND_CIDR_SET;
}

static void not_found(struct request *request, const struct path *path, bool public_only)
{
	if (!public_only && path->count >= 2 && !strcmp(path->segments[0], "v1") && kind_by_plural(path->segments[1]) < 0)
		problem_answer(request, 404, "there is no \"/v1/%s\" in this API", path->segments[1]);
	else
		problem_answer(request, 404, "there is no such path%s",
			public_only ? " on this listener: /ui/, /metrics, /healthz and /readyz are here, the API at its unix socket"
						: "");
}

bool route_open(const struct route *route)
{
	return route->handler == page_health || route->handler == page_ready || route->handler == page_version;
}

bool route_reads(const struct route *route)
{
	return !strcmp(route->method, "GET") || route->handler == read_explain;
}

uint64_t route_body_max(const struct request *request)
{
	uint64_t most = request->server->options.body_max;
	bool small = request->route && request->route->body == BODY_SMALL;
	return small && most > BODY_SMALL_MAX ? BODY_SMALL_MAX : most;
}

int route_find(struct request *request, const char *path_text, bool public_only)
{
	struct path path;
	struct buffer allow = {0};
	int kind;
	pthread_once(&labels_once, labels_make);
	request->label = label_count - 1;
	request->kind = -1;
	if (path_split(path_of_target(path_text), &path) < 0) {
		path_clear(&path);
		return problem_answer(request, 400, "the path is not percent-encoded UTF-8");
	}
	for (int at = 0; at < ROUTE_COUNT; at++) {
		const struct route *route = &routes[at];
		if ((public_only && !route->public) || !route_matches(route, &path, &kind))
			continue;
		if (allow.length && strstr(allow.data, route->method))
			continue; /* "/ui/{file}" behind a path of its own */
		request->label = label_of[at][kind < 0 ? 0 : kind];
		if (strcmp(route->method, request->head ? "GET" : request->method)) {
			buffer_printf(&allow, "%s%s%s", allow.length ? ", " : "", route->method,
				strcmp(route->method, "GET") ? "" : ", HEAD");
			continue;
		}
		request->route = route;
		request->kind = kind;
		route_capture(request, &path);
		break;
	}
	if (!request->route && !allow.length)
		not_found(request, &path, public_only);
	else if (!request->route) {
		problem_answer(request, 405, "this path takes %s", allow.data);
		request->answer->allow = buffer_take(&allow);
	}
	buffer_free(&allow);
	path_clear(&path);
	return request->route ? 0 : -EINVAL;
}
