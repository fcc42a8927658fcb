/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the kernel's own tracepoints tell, and no packet does:
 *
 *  - inet_sock_set_state: which process of this node connects; a connection's round trip, when an end leaves
 *    ESTABLISHED.
 *  - tcp_retransmit_skb: what an end sends again.
 *  - kfree_skb: what the kernel drops in the agent's network namespace, and why.
 *
 * They run for every socket of the machine, and workloads have their ends in namespaces of their own. So an end is
 * believed by its addresses alone, in whatever namespace: numbers come of it, no verdict.
 */
#ifndef PENSTOCK_TRACE_H
#define PENSTOCK_TRACE_H

#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include "bpf/inet.h"
#include "bpf/maps.h"
#include "bpf/sockets.h"

/* Of the kernel's types what is read here (CO-RE). */
struct tcp_sock___trip {
	__u32 srtt_us; /* smoothed, eighths of a microsecond */
} CORE;
struct net_device {
	struct {
		struct net *net;
	} nd_net;
} CORE;
struct sk_buff___dropped {
	struct net_device *dev; /* shares its place with what UDP notes of a queued packet: only probed */
	struct sock___ends *sk;
} CORE;

/* ---- connections ---- */

static __always_inline struct ps_conn *trace_conn(const struct sock___ends *sk)
{
	struct ends ends;

	ends_read_kernel(&sk->__sk_common, IPPROTO_TCP, &ends);
	return held_conn(&ends.held);
}

/* Runs in the process that connects. Before Linux 5.14 namespaces cannot be told apart, and nobody is noted. */
static __always_inline void trace_process(struct sock___ends *sk)
{
	struct ps_process row = {};
	__u64 cookie;

	if (!netns_cookie || sk->__sk_common.skc_net.net->net_cookie != netns_cookie)
		return;
	cookie = bpf_get_socket_cookie(sk);
	row.process = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(row.command, sizeof(row.command));
	bpf_map_update_elem(&ps_process, &cookie, &row, BPF_ANY);
}

/* Of two ends on this machine the first that knows tells. */
static __always_inline void trace_round_trip(const struct sock___ends *sk)
{
	struct ps_conn *conn = trace_conn(sk);
	__u32 eighths = 0;

	if (!conn || conn->round_trip)
		return;
	bpf_core_read(&eighths, sizeof(eighths), &((const struct tcp_sock___trip *)sk)->srtt_us);
	conn->round_trip = eighths >> 3;
}

static __always_inline int trace_state(struct sock___ends *sk, int before, int now)
{
	if (sk->sk_protocol != IPPROTO_TCP)
		return 0;
	if (now == BPF_TCP_SYN_SENT)
		trace_process(sk);
	else if (before == BPF_TCP_ESTABLISHED)
		trace_round_trip(sk);
	return 0;
}

static __always_inline int trace_retransmit(const struct sock___ends *sk)
{
	struct ps_conn *conn = trace_conn(sk);

	if (conn)
		conn->retransmits++; /* of two ends at the same instant one may go uncounted */
	return 0;
}

/* ---- drops ---- */

#define DROP_OF_SUBSYSTEM 0xffff0000u /* reasons of the core are below */

/* Of netlink's and other sockets that are not about packets: none. */
static __always_inline const struct net *dropped_net(const struct sock___ends *sk)
{
	unsigned short family = BPF_CORE_READ(sk, __sk_common.skc_family);

	return family == PS_AF_INET || family == PS_AF_INET6 ? BPF_CORE_READ(sk, __sk_common.skc_net.net) : NULL;
}

/* The namespace that a packet is in: its interface's, else its sender's, else its receiver's. */
static __always_inline __u64 dropped_where(const struct sk_buff___dropped *skb, const struct sock___ends *receiver)
{
	const struct net_device *dev = skb->dev;
	const struct sock___ends *sender = skb->sk;
	const struct net *net = BPF_CORE_READ(dev, nd_net.net);

	if (!net && sender)
		net = dropped_net(sender);
	if (!net && receiver)
		net = dropped_net(receiver);
	return net ? BPF_CORE_READ(net, net_cookie) : 0;
}

/* All reasons are counted; the agent knows by their names which are none of a drop. */
static __always_inline int trace_drop(const struct sk_buff___dropped *skb, __u32 reason, struct sock___ends *receiver)
{
	__u64 *count;

	if (!netns_cookie || dropped_where(skb, receiver) != netns_cookie)
		return 0;
	if (reason & DROP_OF_SUBSYSTEM || reason > PS_DROP_OTHER)
		reason = PS_DROP_OTHER;
	count = bpf_map_lookup_elem(&ps_drop, &reason);
	if (count)
		++*count;
	return 0;
}

#endif
