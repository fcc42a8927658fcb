/* SPDX-License-Identifier: Apache-2.0 */
#include "api/server/auth.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include "agent/base/log.h"
#include "agent/base/mem.h"
#include "api/server/answer.h"
#include "api/server/problem.h"
#include "api/server/route.h"
#include "api/server/state.h"

#define LOOK_AGAIN 60000000000ull /* nanoseconds */
#define TELL_AGAIN 10000000000ull
#define STRANGER_MAX (64u << 10) /* bytes of a body that is thrown away for somebody who may not send it */

/* ---- the other end ---- */

static void caller_address(struct caller *caller, const struct sockaddr *address)
{
	char text[ADDR_TEXT_MAX];
	unsigned port = 0;
	if (address->sa_family == AF_INET) {
		const struct sockaddr_in *v4 = (const void *)address;
		caller->from = ip_from_v4(v4->sin_addr.s_addr);
		port = ntohs(v4->sin_port);
	} else if (address->sa_family == AF_INET6) {
		const struct sockaddr_in6 *v6 = (const void *)address;
		caller->from = ip_from_v6(v6->sin6_addr.s6_addr);
		if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr))
			caller->from.family = 4;
		port = ntohs(v6->sin6_port);
	}
	ip_format(&caller->from, text);
	snprintf(caller->address, sizeof(caller->address), caller->from.family == 6 ? "[%s]:%u" : "%s:%u", text, port);
}

bool caller_may_come(struct server *server, const struct sockaddr *address)
{
	struct caller caller = {0};
	uint64_t now = clock_now(), told = atomic_load(&server->turned_away_told);
	caller_address(&caller, address);
	if (throttle_take(&server->arriving, &caller.from, now))
		return true;
	if ((!told || now - told > TELL_AGAIN) && atomic_compare_exchange_strong(&server->turned_away_told, &told, now))
		log_warn("api", "from %s come too many connections: those beyond %u a second are closed", caller.address,
			server->arriving.per_second);
	return false;
}

struct caller *caller_new(struct server *server, struct MHD_Connection *http)
{
	struct caller *caller = mem_alloc(sizeof(*caller));
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(http, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
	if (info)
		caller_address(caller, info->client_addr);
	info = MHD_get_connection_info(http, MHD_CONNECTION_INFO_GNUTLS_SESSION);
	if (!info)
		return caller;
	caller->session = info->tls_session;
	caller->tls = credentials_tls(&server->credentials, &caller->generation);
	caller->generation = 0; /* nothing is looked at yet */
	tls_begin(caller->tls, caller->session);
	return caller;
}

void caller_free(struct caller *caller)
{
	if (!caller)
		return;
	tls_put(caller->tls);
	free(caller);
}

/* By today's CA, also on a connection that is older than it. */
static enum tls_peer caller_peer(struct caller *caller, struct credentials *credentials)
{
	uint64_t generation, now = clock_now();
	if (!caller->session)
		return TLS_PEER_NONE;
	struct tls *tls = credentials_tls(credentials, &generation);
	if (generation != caller->generation || now - caller->checked > LOOK_AGAIN) {
		caller->peer = tls_peer(tls, caller->session, &caller->identity, caller->why);
		caller->generation = generation;
		caller->checked = now;
	}
	tls_put(tls);
	return caller->peer;
}

/* ---- a request ---- */

static int refuse(struct request *request, int status, const char *detail, const char *challenge)
{
	if (request->receive_max > STRANGER_MAX)
		request->receive_max = STRANGER_MAX;
	problem_answer(request, status, "%s", detail);
	request->answer->authenticate = challenge;
	return -EINVAL;
}

#define CHALLENGE "Bearer realm=\"penstock\""

/* What was shown is no credential. Who errs too often is told so; whoever has a good one is never kept waiting for
 * others behind his address. */
static int refuse_wrong(struct request *request, const char *detail)
{
	struct server *server = request->server;
	if (!throttle_take(&server->wrong, &request->connection->caller->from, clock_now()))
		return refuse(request, 429, "too many wrong credentials come from this address", NULL);
	return refuse(request, 401, detail, CHALLENGE ", error=\"invalid_token\"");
}

/* What follows "Bearer" in the header, not terminated; NULL when there is nothing of that kind. */
static const char *token_read(const char *header, size_t *length)
{
	const char *scheme = "Bearer";
	*length = strlen(scheme);
	if (strncasecmp(header, scheme, *length) || header[*length] != ' ')
		return NULL;
	const char *token = header + *length + strspn(header + *length, " ");
	*length = strlen(token);
	while (*length && strchr(" \t", token[*length - 1])) /* no part of a header's value, but left there */
		(*length)--;
	return token;
}

static int token_check(struct request *request, const char *header)
{
	size_t length;
	const char *token = token_read(header, &length);
	if (!token)
		return refuse_wrong(request, "the Authorization must be a Bearer token");
	request->credential = "token";
	if (length && credentials_token(&request->server->credentials, token, length, &request->identity))
		return 0;
	return refuse_wrong(request, "the token is not known");
}

static int certificate_check(struct request *request)
{
	struct caller *caller = request->connection->caller;
	char detail[TLS_WHY_MAX + 64];
	enum tls_peer peer = caller_peer(caller, &request->server->credentials);
	if (peer == TLS_PEER_NONE)
		return refuse(request, 401, "this needs a client certificate or a token", CHALLENGE);
	request->credential = "certificate";
	if (peer == TLS_PEER_KNOWN) {
		request->identity = caller->identity;
		return 0;
	}
	snprintf(detail, sizeof(detail), "the client certificate is refused: %s", caller->why);
	if (peer == TLS_PEER_NOBODY)
		return refuse(request, 403, detail, NULL);
	return refuse_wrong(request, detail);
}

int auth_check(struct request *request)
{
	const struct route *route = request->route;
	if (!request->connection->caller) {
		request->identity.role = ROLE_ADMIN;
		return 0;
	}
	if (route && route_open(route))
		return 0;
	const char *header = MHD_lookup_connection_value(request->http, MHD_HEADER_KIND, MHD_HTTP_HEADER_AUTHORIZATION);
	if ((header ? token_check(request, header) : certificate_check(request)) < 0)
		return -EINVAL;
	if (route && request->identity.role != ROLE_ADMIN && !route_reads(route))
		return refuse(request, 403, "a viewer may read and explain; this needs the role admin", NULL);
	return 0;
}

bool auth_holds(struct request *request)
{
	struct credentials *credentials = &request->server->credentials;
	struct caller *caller = request->connection->caller;
	struct identity ignored;
	size_t length;
	if (!caller)
		return true;
	const char *header = MHD_lookup_connection_value(request->http, MHD_HEADER_KIND, MHD_HTTP_HEADER_AUTHORIZATION);
	const char *token = header ? token_read(header, &length) : NULL;
	if (token)
		return credentials_token(credentials, token, length, &ignored);
	return caller_peer(caller, credentials) == TLS_PEER_KNOWN;
}
