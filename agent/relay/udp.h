/* SPDX-License-Identifier: Apache-2.0 */
/* The UDP half of a thread: its listening sockets, its flows, an epoll set of its own that the thread's contains. */
#ifndef PENSTOCK_RELAY_UDP_H
#define PENSTOCK_RELAY_UDP_H

#include "agent/relay/exchange.h"
#include "agent/relay/share.h"

struct udp {
	struct exchanges all;
	struct share *share; /* of all threads */
	unsigned thread;     /* this one's number there */
	struct flows flows;
	size_t flows_max;
	int listeners[LISTEN_MAX]; /* the thread's own, closed by it */
	uint32_t overflowed[LISTEN_MAX];
	unsigned listener_count;
	char *buffer; /* DATAGRAM_MAX bytes, lent by the thread */
	int64_t now_ms;
	struct exchange *queue, **queue_end;
	struct exchange *closed; /* freed after the round, as its events may still name them */
};

/* The listening sockets are open before; .all.options, .all.routes, .buffer, .share, .thread are set. 0 or -errno. */
int udp_open(struct udp *udp);
/* Does what there is to do. */
void udp_serve(struct udp *udp, int64_t now_ms);
/* Ends what has run out of time; returns how long until the next does, -1 for ever, 0 where something is left to do. */
int64_t udp_expire(struct udp *udp, int64_t now_ms);
/* Takes no new flows; those that are quiet for a moment end. */
void udp_drain(struct udp *udp);
void udp_stop(struct udp *udp); /* ends all flows */
bool udp_is_busy(const struct udp *udp);
void udp_close(struct udp *udp);

#endif
