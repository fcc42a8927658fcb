/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections and their deadlines. libmicrohttpd ends idle connections; a client that drips a byte now and then is
 * never idle, so each request must also arrive, and each answer be taken, at a minimal rate. One thread looks once a
 * second and shuts down the sockets that are late.
 */
#ifndef PENSTOCK_CONNECTION_H
#define PENSTOCK_CONNECTION_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#define CONNECTION_IDLE_SECONDS 30   /* nothing sent or received: libmicrohttpd's timeout */
#define CONNECTION_HEADER_SECONDS 15 /* from connecting to the end of the first request's headers */
#define CONNECTION_RATE 16384        /* bytes a second that a body or an answer must make after … */
#define CONNECTION_GRACE_SECONDS 30  /* … these seconds */

struct caller;
struct connection {
	LIST_ENTRY(connection) link;
	int fd;
	struct caller *caller; /* NULL: the unix socket, and the metrics listener */
	uint64_t deadline;     /* monotonic nanoseconds; 0 = none */
};
LIST_HEAD(connection_list, connection);

struct server;
struct connections {
	struct server *server;
	pthread_mutex_t lock; /* the list, fds and deadlines */
	pthread_cond_t wake;
	pthread_t thread;
	bool running, stop;
	struct connection_list list;
};

int connections_start(struct connections *connections, struct server *server);
void connections_stop(struct connections *connections);
struct connection *connection_opened(struct connections *connections, int fd);
void connection_closed(struct connections *connections, struct connection *connection);
/* Seconds from now, and time for `bytes` at the minimal rate; 0 seconds = no deadline. */
void connection_deadline(
	struct connections *connections, struct connection *connection, uint64_t began, unsigned seconds, uint64_t bytes);

/* hangup.c: this thread, one of libmicrohttpd's, reads what a client sent before it hung up. */
void hangups_read_first(void);

#endif
