/* SPDX-License-Identifier: Apache-2.0 */
/* What the TCP listener knows people by: its files, read again when they change. A bad new file keeps the old one. */
#ifndef PENSTOCK_CREDENTIALS_H
#define PENSTOCK_CREDENTIALS_H

#include <pthread.h>
#include <stdint.h>
#include <sys/stat.h>
#include "api/server/server.h"
#include "api/server/tls.h"
#include "api/server/tokens.h"

enum credential_file { FILE_CERTIFICATE, FILE_KEY, FILE_CLIENT_CA, FILE_TOKENS, FILE_COUNT };

struct credentials {
	struct server_tcp files; /* strings are the server's */
	bool warn;               /* the log says what is odd about them */
	pthread_mutex_t loading; /* one at a time; also `seen` */
	struct stat seen[FILE_COUNT];

	pthread_mutex_t lock; /* what follows */
	struct tls *tls;      /* NULL: without TLS */
	uint64_t generation;  /* of tls */
	struct tokens *tokens;
	pthread_cond_t wake;
	bool running, stop;
	pthread_t thread;
};

/* `files` has a listener. An error's path is the configuration's key that is to blame. */
int credentials_open(struct credentials *credentials, const struct server_tcp *files, bool warn, struct error *e);
void credentials_close(struct credentials *credentials); /* also one that was never opened, zeroed */
/* Looks every second from here on. */
int credentials_watch(struct credentials *credentials);
/* Reads all files now. */
void credentials_reload(struct credentials *credentials);

/* A reference to today's, and which it is; NULL without TLS. */
struct tls *credentials_tls(struct credentials *credentials, uint64_t *generation);
bool credentials_token(struct credentials *credentials, const char *text, size_t length, struct identity *ret);

#endif
