// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The programs of the data path, one object. Each is thin: parse → track → judge → act → account. */
#include "bpf/maps.h"
#include "bpf/account.h"

#define PS_PASS (-1) /* TCX_NEXT, and TC_ACT_UNSPEC for clsact: others come after us */

/* Ingress of a workload's interface, host side: what the workload sends. */
SEC("tc")
int from_workload(struct __sk_buff *skb)
{
	account_packet(PS_EGRESS, PS_VERDICT_FORWARDED, PS_REASON_UNCLAIMED, skb->len);
	return PS_PASS;
}

/* Egress of a workload's interface, host side: what the workload receives. The last hook. */
SEC("tc")
int to_workload(struct __sk_buff *skb)
{
	account_packet(PS_INGRESS, PS_VERDICT_FORWARDED, PS_REASON_UNCLAIMED, skb->len);
	return PS_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
