/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One UDP flow and its two sockets: one has the original destination's address and is connected to the client, so that
 * the kernel delivers the rest of the flow there; one is connected to the destination. What one cannot send at once is
 * held, and the other is not read meanwhile.
 */
#ifndef PENSTOCK_RELAY_EXCHANGE_H
#define PENSTOCK_RELAY_EXCHANGE_H

#include "agent/relay/datagram.h"
#include "agent/relay/flow.h"
#include "agent/relay/options.h"
#include "agent/relay/raw.h"
#include "agent/relay/totals.h"

/* What the flows of one thread share. */
struct exchanges {
	const struct options *options;
	int epoll, routes;
	struct raw raw;
	struct totals totals;
};

struct held;
enum end_index { AT_CLIENT, AT_SERVER };
struct end {
	struct exchange *exchange;
	int fd;                    /* -1: at the client's end where answers leave through a raw socket */
	bool readable;             /* until it says EAGAIN */
	uint32_t overflowed;       /* as of the last datagram */
	bool apart;                /* it does not take trains (a link's MTU is too small for their datagrams, say) */
	uint64_t datagrams, bytes; /* that came from here and were handed on */
	struct held *first, *last; /* to be sent here when there is room */
	size_t held_bytes;
};
struct exchange {
	struct flow flow; /* first: the table knows this */
	struct end ends[2];
	enum source source;
	int error; /* the last that was met or told */
	uint64_t lost;
	int64_t started_ns; /* CLOCK_MONOTONIC */
	bool refused, closed;
	bool queued; /* in the caller's queue of those that have something to do */
	struct exchange *next_queued, *next_closed;
};

/*
 * Opens both sockets and watches them (EPOLLIN, edges, data.ptr is the end). What fails is told in the log line: then
 * it is `refused`, and has none.
 */
struct exchange *exchange_new(struct exchanges *all, const struct flow_key *key);
/* Hands a datagram on that came from the client or from the server. */
void exchange_take(
	struct exchanges *all, struct exchange *exchange, enum end_index from, const struct datagram *datagram);
/* Sends what is held for an end. False: there is still some. */
bool exchange_flush(struct exchanges *all, struct end *end);
/* Counts what an end had no room for. */
void exchange_overflow(struct exchanges *all, struct end *end, const struct datagram *datagram);
/* Writes the log line and closes the sockets; `exchange` stays. */
void exchange_close(struct exchanges *all, struct exchange *exchange, const char *outcome);

#endif
