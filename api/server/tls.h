/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Certificate, key and clients' CA of the TCP listener. libmicrohttpd keeps what it was started with, so each session
 * is given the credentials of its time when it begins: files can change without a connection being dropped.
 */
#ifndef PENSTOCK_TLS_H
#define PENSTOCK_TLS_H

#include <gnutls/gnutls.h>
#include <stdbool.h>
#include "agent/base/error.h"
#include "api/server/identity.h"

#define TLS_PRIORITIES "NORMAL:-VERS-ALL:+VERS-TLS1.3"
#define TLS_WHY_MAX 256

struct tls;
/* PEM files; client_ca may be "". An error's path is the configuration's key that is to blame. The reference is the
 * caller's. With `warn` the log says what is odd. */
int tls_load(
	const char *certificate, const char *key, const char *client_ca, bool warn, struct tls **ret, struct error *e);
struct tls *tls_get(struct tls *tls);
void tls_put(struct tls *tls); /* NULL is fine */

/* Before the handshake. The credentials must outlive the session. */
void tls_begin(struct tls *tls, gnutls_session_t session);

enum tls_peer {
	TLS_PEER_NONE,      /* showed no certificate, or is not asked for one */
	TLS_PEER_UNTRUSTED, /* its certificate is not signed by the CA, out of date … */
	TLS_PEER_NOBODY,    /* signed, but without a role or a name */
	TLS_PEER_KNOWN,
};
/* Who is at the other end, by today's CA; `why` says what is wrong with his certificate. */
enum tls_peer tls_peer(struct tls *tls, gnutls_session_t session, struct identity *ret, char why[TLS_WHY_MAX]);

#endif
