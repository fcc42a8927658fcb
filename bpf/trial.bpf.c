/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The agent's own test of how this kernel hands over (agent/datapath/trial.c): what enters by its veth goes to the
 * agent's listener on loopback, by the same calls as steer.h's, without tables. Each frame is one of the trial's: no
 * options, no extension headers, no fragments.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <stdbool.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "bpf/abi.h"

/* Written by the agent before the load. */
const volatile __u32 mark_mask = 0;
const volatile __u32 mark_intercept = 0;
const volatile __u16 port_service = 0; /* what is dialled */
const volatile __u16 port_proxy = 0;   /* where the agent listens */
/* Written by the agent at any time. */
volatile __u8 by_table = 0; /* engine tproxy */
/* Read by the agent. */
volatile __s32 refused = 0; /* what bpf_sk_assign answered last, if not 0 */
volatile __u32 nobody = 0;  /* packets for which no listener was found */

struct parts {
	struct bpf_sock_tuple tuple;
	bool v4;
	__u8 protocol;
};

static __always_inline bool parts_read(struct __sk_buff *skb, struct parts *ret)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	struct udphdr *ports; /* TCP's stand at the same place */

	if ((void *)(eth + 1) > end)
		return false;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(eth + 1);

		ports = (void *)(ip + 1);
		if ((void *)(ports + 1) > end)
			return false;
		ret->tuple.ipv4.saddr = ip->saddr;
		ret->tuple.ipv4.daddr = ip->daddr;
		ret->tuple.ipv4.sport = ports->source;
		ret->tuple.ipv4.dport = ports->dest;
		ret->v4 = true;
		ret->protocol = ip->protocol;
	} else if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = (void *)(eth + 1);

		ports = (void *)(ip + 1);
		if ((void *)(ports + 1) > end)
			return false;
		__builtin_memcpy(ret->tuple.ipv6.saddr, &ip->saddr, 16);
		__builtin_memcpy(ret->tuple.ipv6.daddr, &ip->daddr, 16);
		ret->tuple.ipv6.sport = ports->source;
		ret->tuple.ipv6.dport = ports->dest;
		ret->protocol = ip->nexthdr;
	} else {
		return false;
	}
	return ports->dest == bpf_htons(port_service) && (ret->protocol == IPPROTO_TCP || ret->protocol == IPPROTO_UDP);
}

static __always_inline struct bpf_sock *find(struct __sk_buff *skb, struct parts *p)
{
	__u32 size = p->v4 ? sizeof(p->tuple.ipv4) : sizeof(p->tuple.ipv6);

	if (p->protocol == IPPROTO_UDP)
		return bpf_sk_lookup_udp(skb, &p->tuple, size, BPF_F_CURRENT_NETNS, 0);
	return bpf_skc_lookup_tcp(skb, &p->tuple, size, BPF_F_CURRENT_NETNS, 0);
}

static __always_inline void aim(struct parts *p)
{
	if (p->v4) {
		p->tuple.ipv4.daddr = bpf_htonl(INADDR_LOOPBACK);
		p->tuple.ipv4.dport = bpf_htons(port_proxy);
		return;
	}
	__builtin_memset(p->tuple.ipv6.daddr, 0, 16);
	p->tuple.ipv6.daddr[3] = bpf_htonl(1);
	p->tuple.ipv6.dport = bpf_htons(port_proxy);
}

/* A connection that is established: the mark is enough. */
static __always_inline bool established(struct __sk_buff *skb, struct parts *p)
{
	struct bpf_sock *sk;
	bool yes;

	if (p->protocol != IPPROTO_TCP)
		return false;
	sk = find(skb, p);
	if (!sk)
		return false;
	yes = sk->state != BPF_TCP_LISTEN;
	bpf_sk_release(sk);
	return yes;
}

static __always_inline bool give(struct __sk_buff *skb, struct parts *p)
{
	struct bpf_sock *sk;
	long result = 0;

	aim(p);
	sk = find(skb, p);
	if (!sk) {
		nobody++;
		return false;
	}
	if (by_table)
		skb->priority = PS_HANDOVER_LOOPBACK | port_proxy;
	else
		result = bpf_sk_assign(skb, sk, 0);
	bpf_sk_release(sk);
	if (result)
		refused = result;
	return !result;
}

SEC("tc")
int trial(struct __sk_buff *skb)
{
	struct parts p = {};

	if (!parts_read(skb, &p))
		return TC_ACT_OK;
	if (!established(skb, &p) && !give(skb, &p))
		return TC_ACT_SHOT;
	skb->mark = (skb->mark & ~mark_mask) | mark_intercept;
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
