/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Act: hand a TCP connection to a proxy of this node. The mark leads the packet to the local stack (policy routing),
 * the assigned socket takes it there although it is addressed to somebody else.
 */
#ifndef PENSTOCK_STEER_H
#define PENSTOCK_STEER_H

#include "bpf/account.h"
#include "bpf/maps.h"
#include "bpf/work.h"

enum steer {
	STEER_TAKEN,  /* marked, and its socket assigned */
	STEER_MARKED, /* no socket: the local stack answers with a reset */
	STEER_NOBODY, /* nobody listens; the packet is as it was */
};

static __always_inline void mark_set(struct __sk_buff *skb)
{
	skb->mark = (skb->mark & ~mark_mask) | mark_intercept;
}

/* The mark is ours: a workload cannot set it. */
static __always_inline void mark_clear(struct __sk_buff *skb)
{
	__u32 mark = skb->mark;

	if (mark & mark_mask)
		skb->mark = mark & ~mark_mask;
}

static __always_inline const struct ps_proxy *proxy_find(__u32 number, __u32 side)
{
	__u32 index = number + side * PS_ENTRIES_proxy;
	const struct ps_proxy *proxy = bpf_map_lookup_elem(&ps_proxy, &index);

	return proxy && number != PS_PROXY_NONE && proxy->flags & PS_PROXY_USED ? proxy : NULL;
}

/*
 * In this order:
 *  1. the socket of this very connection. For a SYN that may be TIME_WAIT: it answers with an ACK, the client resets
 *     that, and the SYN that it sends again (some 10 ms later) finds the listener. Past it the kernel lets no request
 *     of the listener into its table: the connection would never open.
 *  2. for a SYN the proxy's listener, on 127.0.0.1 or the wildcard; with the client's address, so that the sockets of a
 *     REUSEPORT group share the work
 * orphan: of a packet without SYN, that its connection has no socket means that no proxy has it (STEER_NOBODY).
 */
PS_APART int steer_tcp4(struct __sk_buff *skb, __u32 number, bool orphan)
{
	const struct work *w = work_get(true);
	const struct packet *p;
	struct bpf_sock_tuple tuple = {};
	const struct ps_proxy *proxy;
	struct bpf_sock *sk;
	long error;
	bool syn;

	if (!w)
		return STEER_NOBODY;
	p = &w->packet;
	syn = p->traits & PACKET_STARTS;
	tuple.ipv4.saddr = p->source.v4;
	tuple.ipv4.daddr = p->destination.v4;
	tuple.ipv4.sport = bpf_htons(p->source_port);
	tuple.ipv4.dport = bpf_htons(p->destination_port);
	sk = bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0); /* 1 */
	if (sk) {
		if (sk->state != BPF_TCP_LISTEN)
			goto assign;
		bpf_sk_release(sk);
	}
	if (!syn && orphan)
		return STEER_NOBODY;
	if (!syn) {
		mark_set(skb);
		return STEER_MARKED;
	}
	proxy = proxy_find(number, w->side);
	if (!proxy)
		return STEER_NOBODY;
	tuple.ipv4.daddr = bpf_htonl(0x7f000001);
	tuple.ipv4.dport = bpf_htons(proxy->port);
	sk = bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0); /* 2 */
	if (!sk)
		return STEER_NOBODY;
	if (sk->state != BPF_TCP_LISTEN) {
		bpf_sk_release(sk);
		return STEER_NOBODY;
	}
assign:
	error = bpf_sk_assign(skb, sk, 0);
	bpf_sk_release(sk);
	if (error) {
		account_stat(PS_STAT_ASSIGN_FAIL);
		return STEER_NOBODY;
	}
	mark_set(skb);
	return STEER_TAKEN;
}

/*
 * A marked packet that entered by a bridge's port: the bridge would forward it by its MAC, past the local stack, and
 * br_netfilter would route it without its socket. It goes to the local stack as if it had entered by the bridge itself,
 * socket and mark with it.
 */
static __noinline int steer_out(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	const struct ps_bridge *bridge = bpf_map_lookup_elem(&ps_bridge, &ifindex);

	if (!bridge)
		return PS_PASS;
	if (bpf_skb_store_bytes(skb, 0, bridge->mac, sizeof(bridge->mac), 0))
		return PS_DROP;
	return bpf_redirect(bridge->ifindex, BPF_F_INGRESS);
}

#endif
