/* SPDX-License-Identifier: Apache-2.0 */
#include "api/server/ui.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include "api/server/answer.h"
#include "api/server/problem.h"
#include "api/server/route.h"

/* Nothing from elsewhere, nothing inline, in nobody's frame. */
#define POLICY "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

bool ui_route(const struct route *route)
{
	return route && !strncmp(route->pattern, "/ui", strlen("/ui"));
}

static bool is_loopback4(struct in_addr address)
{
	return ntohl(address.s_addr) >> 24 == IN_LOOPBACKNET;
}

bool ui_loopback(int fd)
{
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} address = {0};
	socklen_t length = sizeof(address);
	if (getsockname(fd, &address.any, &length) < 0)
		return false;
	if (address.any.sa_family == AF_INET)
		return is_loopback4(address.v4.sin_addr);
	return address.any.sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&address.v6.sin6_addr);
}

/* What a Host header names, without its port: "localhost", 127.0.0.0/8 or [::1]. */
static bool host_is_loopback(const char *header)
{
	char host[64];
	struct in_addr v4;
	struct in6_addr v6;
	const char *end = *header == '[' ? strchr(header, ']') : strchrnul(header, ':');
	const char *port = end && *header == '[' ? end + 1 : end;
	if (!end || (size_t)(end - header) >= sizeof(host))
		return false;
	if (*port && (*port != ':' || strspn(port + 1, "0123456789") != strlen(port + 1)))
		return false;
	snprintf(host, sizeof(host), "%.*s", (int)(end - header), header);
	if (*host == '[')
		return inet_pton(AF_INET6, host + 1, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
	return !strcasecmp(host, "localhost") || (inet_pton(AF_INET, host, &v4) == 1 && is_loopback4(v4));
}

struct hosts {
	unsigned count;
	const char *last;
};

static enum MHD_Result host_seen(void *context, enum MHD_ValueKind type, const char *name, const char *value)
{
	struct hosts *hosts = context;
	(void)type;
	if (!strcasecmp(name, MHD_HTTP_HEADER_HOST)) {
		hosts->count++;
		hosts->last = value;
	}
	return MHD_YES;
}

int ui_check(struct request *request, bool loopback)
{
	struct hosts hosts = {0};
	if (!loopback)
		return problem_answer(request, 403,
			"metrics.listen is not a loopback address, and nobody is asked here who he is: the page is on the unix "
			"socket, "
			"and on this listener when metrics.listen is 127.0.0.1:PORT or [::1]:PORT");
	MHD_get_connection_values(request->http, MHD_HEADER_KIND, host_seen, &hosts);
	if (hosts.count == 1 && hosts.last && host_is_loopback(hosts.last))
		return 0;
	return problem_answer(request, 403,
		"the page is served to the node itself: the Host must be localhost, 127.0.0.1 or [::1], also through a tunnel "
		"(ssh -L 7642:127.0.0.1:7642 NODE, then http://localhost:7642/ui/)");
}

void ui_headers(struct MHD_Response *response)
{
	MHD_add_response_header(response, "Cache-Control", "no-cache");
	MHD_add_response_header(response, "Content-Security-Policy", POLICY);
	MHD_add_response_header(response, "Cross-Origin-Resource-Policy", "same-origin");
	MHD_add_response_header(response, "Referrer-Policy", "no-referrer");
	MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
}

void ui_enter(struct request *request)
{
	answer_set(request, answer_new(307, "text/plain; charset=utf-8"));
	request->answer->location = "ui/"; /* relative: right behind a prefix too */
	request->answer->fixed = "ui/\n";
}

void ui_file(struct request *request)
{
	const char *none = MHD_lookup_connection_value(request->http, MHD_HEADER_KIND, "If-None-Match");
	const struct ui_file *file = ui_files;
	while (*request->name && file->name && strcmp(file->name, request->name))
		file++;
	if (!file->name) {
		problem_answer(request, 404, "the page has no file \"%s\"", request->name);
		return;
	}
	bool known = none && etag_listed(none, file->etag, true);
	answer_set(request, answer_new(known ? 304 : 200, known ? NULL : file->content_type));
	snprintf(request->answer->etag, sizeof(request->answer->etag), "%s", file->etag);
	if (!known)
		request->answer->fixed = file->text;
}
