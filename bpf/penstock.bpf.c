// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The programs of the data path, one object. Each is thin: parse → track → judge → act → account. */
#include "bpf/network.h"
#include "bpf/usual.h"
#include "bpf/workload.h"

/* Ingress of a workload's interface, host side: what the workload sends. */
SEC("tc")
int from_workload(struct __sk_buff *skb)
{
	if (!usual_packet(skb, FROM_WORKLOAD))
		return workload_packet(skb, true);
	return mark_is_set(skb) ? steer_out(skb) : PS_PASS;
}

/* Egress of a workload's interface, host side: what the workload receives. The last hook. */
SEC("tc")
int to_workload(struct __sk_buff *skb)
{
	if (usual_packet(skb, TO_WORKLOAD))
		return PS_PASS;
	return workload_packet(skb, false);
}

/* Ingress of an interface that no workload is behind. */
SEC("tc")
int from_network(struct __sk_buff *skb)
{
	return network_in(skb);
}

/* Its egress. */
SEC("tc")
int to_network(struct __sk_buff *skb)
{
	return network_out(skb);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
