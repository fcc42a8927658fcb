/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP calls to an agent, over its unix socket or, where it has such a listener, TCP. */
#ifndef PENSTOCK_CLIENT_H
#define PENSTOCK_CLIENT_H

#include <stddef.h>
#include "agent/base/error.h"

struct client;
/* Files; NULL or "": none. */
struct client_credentials {
	const char *ca; /* NULL: the system's */
	const char *certificate, *key;
	const char *token_file; /* its first line's first word */
};
/*
 * A path, unix:///PATH, https://ADDRESS:PORT (TLS 1.3) or http://ADDRESS:PORT. Connects with the first call. Any other
 * address, credentials that cannot be read, or a token that would be sent beyond this node in the clear: ERROR_INVALID.
 */
int client_new(const char *server, const struct client_credentials *credentials, struct client **ret, struct error *e);
void client_free(struct client *client);

struct answer {
	long status;
	char *body; /* NUL-terminated, never NULL */
	size_t length;
};
void answer_clear(struct answer *answer);

/*
 * Any HTTP answer is a success here, whatever its status. body may be NULL; otherwise it is sent as JSON. On failure
 * ERROR_BUSY when the agent could not be reached, ERROR_SYSTEM when it hung up; *ret untouched.
 */
int client_call(struct client *client, const char *method, const char *path, const char *body, size_t length,
	struct answer *ret, struct error *e);

/*
 * A stream of lines that goes on. line() gets each without its end; idle() (may be NULL) is called when all that has
 * come so far was given. Either ends it with a value other than 0, and so does client_stop_by(): then this returns 0
 * without a body. So it does when the agent answers with anything but 2xx: status and body are in *ret. ERROR_SYSTEM
 * when the agent ends the stream or is gone; nothing is tried again.
 */
struct client_reader {
	int (*line)(void *context, const char *line, size_t length); /* NUL-terminated */
	int (*idle)(void *context);
	void *context;
};
int client_follow(
	struct client *client, const char *path, const struct client_reader *reader, struct answer *ret, struct error *e);
/* A file descriptor that ends a call when it becomes readable: client_call() then fails, with ERROR_SYSTEM. */
void client_stop_by(struct client *client, int fd);

/* How long client_call() waits for a whole answer; 300 seconds if nothing is said. */
void client_patience(struct client *client, long seconds);

/* A part of a path or a query's value, percent-encoded. The caller frees. */
char *client_escape(const char *text);

#endif
