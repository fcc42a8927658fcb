/* SPDX-License-Identifier: Apache-2.0 */
/* Whose address a Service's is, and which backends a connection to it can be sent to. */
#ifndef PENSTOCK_BACKENDS_H
#define PENSTOCK_BACKENDS_H

#include "agent/datapath/datapath.h"
#include "agent/state/snapshot.h"

#define BACKENDS_LISTED 1000

/* A port of a Service; several may share one address and port. */
struct backends_use {
	const struct object *service; /* borrowed from the snapshot */
	const struct service_port *port;
	bool terminating; /* nobody is ready: those of its backends serve, though they are about to end */
};
struct backends {
	struct backends_use *uses; /* count 0: no Service has this address and port */
	size_t use_count;
	bool node_port;                 /* found by its node port: its address is any of a node's */
	struct explain_target *targets; /* distinct, by address and port; context: the use */
	size_t count, total;            /* of targets, at most BACKENDS_LISTED; of all */
	const struct object **owners;   /* of each target: the Pod or Workload that has its address, or NULL */
};
void backends_find(
	const struct snapshot *snapshot, const struct ip *ip, uint8_t protocol, uint16_t port, struct backends *ret);
void backends_clear(struct backends *backends);

#endif
