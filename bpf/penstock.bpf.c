// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The programs of the data path, one object. Each is thin: parse → track → judge → act → account. */
#include "bpf/host.h"
#include "bpf/network.h"
#include "bpf/sockets.h"
#include "bpf/tell.h"
#include "bpf/trace.h"
#include "bpf/usual.h"
#include "bpf/workload.h"

/* The long ways, verified apart from the usual packet's: that one leaves too many states behind. */
PS_APART int from_workload_unusual(struct __sk_buff *skb)
{
	return workload_packet(skb, true);
}

PS_APART int to_workload_unusual(struct __sk_buff *skb)
{
	return workload_packet(skb, false);
}

/* Ingress of a workload's interface, host side: what the workload sends. */
SEC("tc")
int from_workload(struct __sk_buff *skb)
{
	int action;

	if (usual_packet(skb, FROM_WORKLOAD))
		return mark_is_set(skb) ? steer_out(skb) : PS_PASS;
	action = from_workload_unusual(skb);
	if (action == PS_UNCLAIMED)
		return network_in(skb);
	work_tell(skb, true);
	return action;
}

/* Egress of a workload's interface, host side: what the workload receives. The last hook. */
SEC("tc")
int to_workload(struct __sk_buff *skb)
{
	int action;

	if (usual_packet(skb, TO_WORKLOAD))
		return PS_PASS;
	action = to_workload_unusual(skb);
	if (action == PS_UNCLAIMED)
		return network_out(skb);
	work_tell(skb, false);
	return action;
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
	return host_escapes(skb) ? PS_DROP : network_out(skb);
}

/* Ingress and egress of lo, for processes of this node. */
SEC("tc")
int from_loopback(struct __sk_buff *skb)
{
	return host_in(skb);
}

SEC("tc")
int to_loopback(struct __sk_buff *skb)
{
	return host_out(skb);
}

/* ---- on sockets: every process's, at the root of cgroup v2 ---- */

SEC("cgroup/getsockopt")
int socket_getsockopt(struct bpf_sockopt *ctx)
{
	return socket_option(ctx);
}

SEC("cgroup/getpeername4")
int socket_getpeername4(struct bpf_sock_addr *ctx)
{
	return socket_peer(ctx, true);
}

SEC("cgroup/getpeername6")
int socket_getpeername6(struct bpf_sock_addr *ctx)
{
	return socket_peer(ctx, false);
}

SEC("cgroup/getsockname4")
int socket_getsockname4(struct bpf_sock_addr *ctx)
{
	return socket_local(ctx);
}

SEC("cgroup/getsockname6")
int socket_getsockname6(struct bpf_sock_addr *ctx)
{
	return socket_local(ctx);
}

SEC("cgroup/connect4")
int socket_connect4(struct bpf_sock_addr *ctx)
{
	socket_connects(ctx, false);
	return host_connects4(ctx);
}

SEC("cgroup/connect6")
int socket_connect6(struct bpf_sock_addr *ctx)
{
	socket_connects(ctx, true);
	return host_connects6(ctx);
}

SEC("cgroup/sendmsg4")
int socket_sendmsg4(struct bpf_sock_addr *ctx)
{
	socket_connects(ctx, false);
	return host_connects4(ctx);
}

SEC("cgroup/sendmsg6")
int socket_sendmsg6(struct bpf_sock_addr *ctx)
{
	socket_connects(ctx, true);
	return host_connects6(ctx);
}

SEC("cgroup/recvmsg4")
int socket_recvmsg4(struct bpf_sock_addr *ctx)
{
	return socket_receives(ctx, false);
}

SEC("cgroup/recvmsg6")
int socket_recvmsg6(struct bpf_sock_addr *ctx)
{
	return socket_receives(ctx, true);
}

/* ---- on every process's reads and forks ---- */

SEC("tp_btf/sock_recv_length")
int socket_recv(__u64 *ctx)
{
	return socket_reads((const struct sock___ends *)ctx[0]);
}

SEC("tp_btf/sched_process_fork")
int socket_fork(__u64 *ctx)
{
	process_forks((const struct task_struct *)ctx[1]);
	return host_forks((const struct task_struct *)ctx[1]);
}

/* ---- on every socket and packet: what the kernel tells ---- */

SEC("tp_btf/inet_sock_set_state")
int trace_inet_sock_set_state(__u64 *ctx)
{
	return trace_state((struct sock___ends *)ctx[0], (int)ctx[1], (int)ctx[2]);
}

SEC("tp_btf/tcp_retransmit_skb")
int trace_tcp_retransmit_skb(__u64 *ctx)
{
	return trace_retransmit((const struct sock___ends *)ctx[0]);
}

SEC("tp_btf/kfree_skb")
int trace_kfree_skb(__u64 *ctx)
{
	return trace_drop((const struct sk_buff___dropped *)ctx[0], (__u32)ctx[2],
		have_drop_socket ? (struct sock___ends *)ctx[3] : NULL);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
