/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Answers without a UDP socket: where another process of the node has the port that they are to leave from, or is the
 * server itself, so that a socket of ours there would take what is meant for it.
 */
#ifndef PENSTOCK_RELAY_RAW_H
#define PENSTOCK_RELAY_RAW_H

#include "agent/relay/datagram.h"

/* One thread's; -1 until the first is needed. */
struct raw {
	int four, six;
};

/* Makes the socket of a family if there is none. 0 or -errno: it takes CAP_NET_RAW. */
int raw_open(struct raw *raw, int family);
/* From any address and port to another. Waits for room, not for long. 0 or -errno. */
int raw_send(
	const struct raw *raw, const union address *from, const union address *to, const struct datagram *datagram);
void raw_close(struct raw *raw);

#endif
