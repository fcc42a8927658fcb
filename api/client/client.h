/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP calls to an agent, over its unix socket. */
#ifndef PENSTOCK_CLIENT_H
#define PENSTOCK_CLIENT_H

#include <stddef.h>
#include "agent/base/error.h"

struct client;
struct client *client_new(const char *socket_path);
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

/* A part of a path or a query's value, percent-encoded. The caller frees. */
char *client_escape(const char *text);

#endif
