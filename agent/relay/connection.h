/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One relayed connection: the client's accepted side, the onward side, and the bytes between them. What one side has
 * sent and the other does not take yet is held: PIECE bytes a direction, or a pipe. While there is any, that side is
 * not read (back-pressure). A connection belongs to the thread that accepted it.
 */
#ifndef PENSTOCK_RELAY_CONNECTION_H
#define PENSTOCK_RELAY_CONNECTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>
#include "agent/relay/address.h"
#include "agent/relay/onward.h"
#include "agent/relay/options.h"
#include "agent/relay/pipes.h"
#include "agent/relay/totals.h"

/* What is copied at a time. A side that fills it is spliced from then on. */
#define PIECE (64u << 10)

/* What the connections of one thread share. */
struct context {
	const struct options *options;
	int epoll, routes;
	char *piece; /* PIECE bytes */
	struct pipes pipes;
	struct totals totals;
};

enum side_index { CLIENT, SERVER };

struct connection;
struct connections {
	struct connection *first, *last;
};
struct side {
	struct connection *connection;
	int fd;                  /* -1 when closed */
	bool readable, writable; /* until it says EAGAIN */
	bool broken;             /* it may have an error to tell */
	bool ended;              /* it sent its FIN */
	bool bulk;               /* it fills a PIECE: spliced */
	struct pipe pipe;        /* to the other side; -1 while there is none */
	char *held;              /* read from it, not yet taken by the other side */
	uint32_t from, length;   /* what of held is left; from is 0 in a pipe */
	uint64_t bytes;          /* that it sent and the other side took */
};
struct connection {
	struct side sides[2];
	union address client, destination;
	enum source source;
	bool connected, finished;
	bool queued;     /* in the caller's queue of those that have something to do */
	bool sniffing;   /* the first bytes may still show a name */
	uint8_t sniffed; /* how often they were looked at */
	uint16_t head_length;
	char *head;               /* the first bytes, while they do not */
	char *name;               /* that the client asked for; NULL when none was seen */
	int64_t started_ns;       /* CLOCK_MONOTONIC */
	int64_t since_ms;         /* of the last byte, or of the start */
	struct connections *list; /* the caller's */
	struct connection *next, *previous, *next_queued;
};

/* Takes fd, accepted from client. Connects onward at once; what fails is told in the log line: then it is finished. */
struct connection *connection_new(struct context *context, int fd, const union address *client);
/* Remembers what epoll said of a side. */
void connection_event(struct side *side, uint32_t events);
/* Moves what can be moved, in turns of a few pieces: true when there may be more. It may be `finished` afterwards. */
bool connection_run(struct context *context, struct connection *connection);
/* Ends it now: the log line names the outcome, both sides are reset. */
void connection_abort(struct context *context, struct connection *connection, const char *outcome);
void connection_free(struct connection *connection);

#endif
