/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One relayed connection: the client's accepted side, the onward side, and the bytes between them. Memory is held only
 * for what one side has sent and the other does not take yet, at most PIECE bytes a direction; while there is any, that
 * side is not read (back-pressure).
 */
#ifndef PENSTOCK_RELAY_CONNECTION_H
#define PENSTOCK_RELAY_CONNECTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <time.h>

#define PIECE (256u << 10)

enum side_index { CLIENT, SERVER };

struct connection;
struct side {
	struct connection *connection;
	int fd; /* -1 when closed */
	uint32_t armed;
	bool ended;          /* it sent its FIN */
	char *held;          /* read from it, not yet taken by the other side */
	size_t from, length; /* what of held is left */
	uint64_t bytes;      /* that it sent and the other side took */
};
struct connection {
	struct side sides[2];
	bool connected, finished;
	struct timespec started;
	int64_t deadline_ms; /* of the connect, CLOCK_MONOTONIC */
	struct sockaddr_storage client, destination;
	struct connections *list; /* the caller's */
	struct connection *next, *previous;
};

/* Takes fd. Connects onward at once; what fails is told in the log line and the connection is finished. */
struct connection *connection_new(int epoll, int fd, int64_t deadline_ms, uint16_t own_port);
/* Moves what can be moved. Afterwards the connection may be `finished`: then the caller frees it. */
void connection_ready(struct connection *connection, int epoll, struct side *side, uint32_t events);
/* Ends it now: the log line names the outcome, both sides are reset. */
void connection_abort(struct connection *connection, const char *outcome);
void connection_free(struct connection *connection);

#endif
