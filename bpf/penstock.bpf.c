// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The programs of the data path, one object. Each is thin: parse → track → judge → act → account. */
#include "bpf/network.h"
#include "bpf/usual.h"
#include "bpf/workload.h"

/* Ingress of a workload's interface, host side: what the workload sends. */
SEC("tc")
int from_workload(struct __sk_buff *skb)
{
	if (usual_packet(skb, true))
		return PS_PASS;
	return workload_packet(skb, true);
}

/* Egress of a workload's interface, host side: what the workload receives. The last hook. */
SEC("tc")
int to_workload(struct __sk_buff *skb)
{
	if (usual_packet(skb, false))
		return PS_PASS;
	return workload_packet(skb, false);
}

/* Ingress of an interface that no workload is behind. */
SEC("tc")
int from_network(struct __sk_buff *skb)
{
	return network_packet(skb, true);
}

/* Its egress. */
SEC("tc")
int to_network(struct __sk_buff *skb)
{
	return network_packet(skb, false);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
