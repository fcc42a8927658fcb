/* SPDX-License-Identifier: Apache-2.0 */
/* Whose address a Service's is, and which backends a connection to it can be sent to. */
#ifndef PENSTOCK_BACKENDS_H
#define PENSTOCK_BACKENDS_H

#include "agent/datapath/datapath.h"
#include "agent/state/snapshot.h"

#define BACKENDS_LISTED 1000

struct backends {
	const struct object *service;    /* borrowed from the snapshot */
	const struct service_port *port; /* of it */
	bool node_port;                  /* found by its node port: its address is any of a node's */
	bool terminating;                /* nobody is ready: these serve, though they are about to end */
	struct explain_target *targets;  /* distinct; the first BACKENDS_LISTED by address and port */
	size_t count, total;
};
/* False: no Service has this address and port. */
bool backends_find(
	const struct snapshot *snapshot, const struct ip *ip, uint8_t protocol, uint16_t port, struct backends *ret);
void backends_clear(struct backends *backends);

#endif
