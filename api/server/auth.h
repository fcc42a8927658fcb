/* SPDX-License-Identifier: Apache-2.0 */
/* Who is at the other end of a TCP connection, and whether he may ask for this. The unix socket's clients are admin. */
#ifndef PENSTOCK_AUTH_H
#define PENSTOCK_AUTH_H

#include <microhttpd.h>
#include <stdbool.h>
#include <stdint.h>
#include "agent/base/addr.h"
#include "api/server/tls.h"

struct request;
struct server;

/* A TCP connection's other end. */
struct caller {
	struct ip from;
	char address[ADDR_TEXT_MAX + 16]; /* with its port */
	gnutls_session_t session;         /* libmicrohttpd's; NULL without TLS */
	struct tls *tls;                  /* what the session began with */
	/* what its certificate says, by the CA of `generation`; looked at again after a while: it may expire */
	uint64_t generation, checked;
	enum tls_peer peer;
	struct identity identity;
	char why[TLS_WHY_MAX];
};

/* Whether an address may have one more connection now. */
bool caller_may_come(struct server *server, const struct sockaddr *address);
/* Of a connection that was accepted just now, before its handshake. */
struct caller *caller_new(struct server *server, struct MHD_Connection *http);
void caller_free(struct caller *caller); /* NULL is fine */

/* Sets the request's identity; or -EINVAL with the answer set: 401, 403 or 429. */
int auth_check(struct request *request);
/* Whether whoever follows a stream is still known. On the connection's own thread. */
bool auth_holds(struct request *request);

#endif
