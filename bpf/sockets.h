/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Programs on sockets. They stand at the root of cgroup v2 and run for every process of the machine, so the first thing
 * that each asks is cheap, and only sockets of the agent's network namespace get further.
 *
 *  - SO_ORIGINAL_DST of an accepted socket whose connection was intercepted: its own local address, which interception
 *    keeps.
 *  - Who asks for the addresses of such a socket (accept with an address, getpeername, getsockname, SO_ORIGINAL_DST) or
 *    reads from it has its connection in hand: ps_held. A process that is forked has what the thread that forks it has.
 *  - Who receives a datagram of an intercepted flow by a proxy's listener has that flow in hand as well.
 *  - What then connects does so for that connection's client: ps_leg, which leg.h reads at the socket's first packet.
 */
#ifndef PENSTOCK_SOCKETS_H
#define PENSTOCK_SOCKETS_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/errno.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "bpf/account.h"
#include "bpf/inet.h"
#include "bpf/maps.h"
#include "bpf/packet.h"
#include "bpf/verifier.h"

#define SOCKET_GOES_ON 1 /* the programs on addresses may return nothing else; of getsockopt: what ctx says */

#define PS_AF_INET 2
#define PS_AF_INET6 10
#define PS_SOCK_STREAM 1
#define PS_SOCK_DGRAM 2
#define PS_SOL_IP 0
#define PS_SOL_IPV6 41
#define PS_SO_ORIGINAL_DST 80 /* IP6T_SO_ORIGINAL_DST has the same number */
#define PS_PF_FORKNOEXEC 0x40 /* include/linux/sched.h */
#define OPTION_SHOWN_MAX 4096 /* of a larger option value the kernel shows a page */

/* Of the kernel's types what is read here (CO-RE); inet.h has other parts of the same. */
struct task_struct {
	unsigned int flags;
	int pid, tgid;
	struct task_struct *group_leader;
} CORE;
struct net {
	__u64 net_cookie;
} CORE;
struct sock_common___ends {
	__be32 skc_daddr, skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	struct {
		struct net *net;
	} skc_net;
	struct {
		struct {
			__u32 u6_addr32[4];
		} in6_u;
	} skc_v6_daddr, skc_v6_rcv_saddr;
} CORE;
struct sock___ends {
	struct sock_common___ends __sk_common;
	__u16 sk_type, sk_protocol;
} CORE;

/* ---- whose connection a socket has ---- */

static __always_inline bool socket_tcp(__u32 type, __u32 protocol)
{
	return type == PS_SOCK_STREAM && (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP);
}

static __always_inline bool socket_udp(__u32 type, __u32 protocol)
{
	return type == PS_SOCK_DGRAM && protocol == IPPROTO_UDP;
}

/* An IPv6 socket may have an IPv4 connection (::ffff:a.b.c.d): on the wire and in our tables it is IPv4. */
static __always_inline bool socket_v4(__u32 family, const __u32 *peer)
{
	return family == PS_AF_INET || (!peer[0] && !peer[1] && peer[2] == bpf_htonl(0x0000ffff));
}

static __always_inline struct ps_conn *held_conn(const struct ps_held *held)
{
	struct ps_conn_live *live;

	if (held->family == 4) {
		live = bpf_map_lookup_elem(&ps_conn4, &held->key4);
		return live ? &live->conn : bpf_map_lookup_elem(&ps_new4, &held->key4);
	}
	live = bpf_map_lookup_elem(&ps_conn6, &held->key6);
	return live ? &live->conn : bpf_map_lookup_elem(&ps_new6, &held->key6);
}

/* What a socket's connection is called in our tables. */
struct ends {
	struct ps_held held;
	struct address local, peer;
	__u16 local_port, peer_port;
	bool high; /* the peer is the key's second address */
};

static __always_inline void ends_key(struct ends *ends, bool v4, __u8 protocol)
{
	if (v4) {
		ends->high = high4(ends->peer.v4, ends->local.v4, ends->peer_port, ends->local_port);
		key4_set(&ends->held.key4, ends->high, ends->peer.v4, ends->local.v4, ends->peer_port, ends->local_port);
		ends->held.key4.protocol = protocol;
		ends->held.family = 4;
	} else {
		ends->high = high6(&ends->peer, &ends->local, ends->peer_port, ends->local_port);
		key6_set(&ends->held.key6, ends->high, &ends->peer, &ends->local, ends->peer_port, ends->local_port);
		ends->held.key6.protocol = protocol;
		ends->held.family = 6;
	}
}

static __always_inline void ends_read(const struct bpf_sock *sk, struct ends *ends)
{
	bool v4;

	__builtin_memset(ends, 0, sizeof(*ends));
	ends->local_port = sk->src_port;
	ends->peer_port = bpf_ntohs(sk->dst_port);
	for (int i = 0; i < 4; i++)
		ends->peer.word[i] = sk->dst_ip6[i];
	v4 = socket_v4(sk->family, ends->peer.word);
	if (v4) {
		ends->local.v4 = sk->src_ip4;
		ends->peer.v4 = sk->dst_ip4;
	} else {
		for (int i = 0; i < 4; i++)
			ends->local.word[i] = sk->src_ip6[i];
	}
	ends_key(ends, v4, IPPROTO_TCP);
}

/* The same from the kernel's own socket. */
static __always_inline void ends_read_kernel(const struct sock_common___ends *sk, __u8 protocol, struct ends *ends)
{
	bool v4;

	__builtin_memset(ends, 0, sizeof(*ends));
	ends->local_port = sk->skc_num;
	ends->peer_port = bpf_ntohs(sk->skc_dport);
	for (int i = 0; i < 4; i++)
		ends->peer.word[i] = sk->skc_v6_daddr.in6_u.u6_addr32[i];
	v4 = socket_v4(sk->skc_family, ends->peer.word);
	if (v4) {
		ends->local.v4 = sk->skc_rcv_saddr;
		ends->peer.v4 = sk->skc_daddr;
	} else {
		for (int i = 0; i < 4; i++)
			ends->local.word[i] = sk->skc_v6_rcv_saddr.in6_u.u6_addr32[i];
	}
	ends_key(ends, v4, protocol);
}

/* Whether the socket accepted an intercepted connection. */
static __always_inline bool ends_intercepted(const struct ends *ends)
{
	const struct ps_conn *conn = held_conn(&ends->held);

	return conn && conn->flags & PS_CONN_INTERCEPTED && ends->high == !!(conn->flags & PS_CONN_ORIGIN_HIGH);
}

/* ---- who holds it ---- */

static __always_inline bool held_same(const struct ps_held *a, const struct ps_held *b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;

	return a->family == b->family && x[0] == y[0] && x[1] == y[1] &&
		   (a->family == 4 || (x[2] == y[2] && x[3] == y[3] && x[4] == y[4]));
}

/* A proxy asks several times for the same connection: one write will do. */
static __always_inline void held_put(const struct ps_key_held *key, const struct ps_held *held)
{
	const struct ps_held *there = bpf_map_lookup_elem(&ps_held, key);

	if (!there || there->used || there->thread != held->thread || !held_same(there, held))
		bpf_map_update_elem(&ps_held, key, held, BPF_ANY);
}

static __always_inline void held_note(struct ps_held *held)
{
	__u64 current = bpf_get_current_pid_tgid();
	struct ps_key_held key = {.process = current >> 32, .thread = current};

	held->thread = current;
	held_put(&key, held);
	key.thread = 0;
	held_put(&key, held);
}

/* A process that was forked shares its parent's sockets, until it executes another program. */
static __always_inline bool task_forked(void)
{
	if (!have_task)
		return true;
	return BPF_CORE_READ((struct task_struct *)bpf_get_current_task(), group_leader, flags) & PS_PF_FORKNOEXEC;
}

/* NULL: nobody connects for a connection that is over, or that no proxy has any more. */
static __always_inline const struct ps_conn *held_alive(const struct ps_held *held)
{
	const struct ps_conn *conn = held ? held_conn(held) : NULL;

	if (!conn || !(conn->flags & PS_CONN_INTERCEPTED) || conn->state == PS_CONN_CLOSING)
		return NULL;
	return held->forked && !task_forked() ? NULL : conn;
}

/*
 * Which connection a socket is connected for; in this order, of those that are alive:
 *  1. what this thread asked for last, and has not connected for since
 *  2. what any thread of its process asked for last, and nobody has connected for since: one accepts, another connects
 *  3. the first again, and
 *  4. the second: it connects once more, for a second server or because the first did not answer
 */
struct choice {
	const struct ps_held *held;
	const struct ps_conn *conn; /* NULL: none */
};

static __always_inline void held_choose(struct choice *ret)
{
	__u64 current = bpf_get_current_pid_tgid();
	struct ps_key_held key = {.process = current >> 32, .thread = current};
	struct ps_held *own, *any, *other;
	const struct ps_conn *own_conn, *any_conn;

	own = bpf_map_lookup_elem(&ps_held, &key);
	key.thread = 0;
	any = bpf_map_lookup_elem(&ps_held, &key);
	own_conn = held_alive(own);
	any_conn = held_alive(any);
	ret->conn = NULL;
	if (own_conn && (!own->used || !any_conn || any->used)) { /* 1, 3 */
		ret->held = own;
		ret->conn = own_conn;
		own->used = 1;
		if (any && any->thread == own->thread && held_same(any, own))
			any->used = 1;
	} else if (any_conn) { /* 2, 4 */
		ret->held = any;
		ret->conn = any_conn;
		any->used = 1;
		key.thread = any->thread;
		other = bpf_map_lookup_elem(&ps_held, &key);
		if (other && held_same(other, any))
			other->used = 1;
	}
}

/* ---- the programs ---- */

/* Whose connection that is, or NULL: no proxy's. */
static __always_inline const struct ps_conn *socket_named(struct bpf_sock_addr *ctx, struct ends *ends)
{
	if (!socket_tcp(ctx->type, ctx->protocol) || bpf_get_netns_cookie(ctx) != netns_cookie)
		return NULL;
	ends_read(ctx->sk, ends);
	if (!ends_intercepted(ends))
		return NULL;
	held_note(&ends->held);
	return held_conn(&ends->held);
}

/* Runs in getsockname, behind the kernel's own answer. */
static __always_inline int socket_local(struct bpf_sock_addr *ctx)
{
	struct ends ends;

	socket_named(ctx, &ends);
	return SOCKET_GOES_ON;
}

/*
 * Runs in accept and getpeername, behind the kernel's own answer. Behind a Service that may be who masquerade says that
 * the client is: it is told who it was.
 */
static __always_inline int socket_peer(struct bpf_sock_addr *ctx, bool v4)
{
	const struct ps_conn *conn;
	struct address client = {};
	struct ends ends;

	conn = socket_named(ctx, &ends);
	if (!conn || !(conn->service & PS_CONN_BEHIND) || !(conn->flags & PS_CONN_REWRITTEN) || !conn->backend_port)
		return SOCKET_GOES_ON;
	__builtin_memcpy(client.word, conn->origin, sizeof(client));
	if (v4) {
		ctx->user_ip4 = client.v4;
	} else if (ends.held.family == 4) {
		ctx->user_ip6[3] = client.v4;
	} else {
		ctx->user_ip6[0] = client.word[0];
		ctx->user_ip6[1] = client.word[1];
		ctx->user_ip6[2] = client.word[2];
		ctx->user_ip6[3] = client.word[3];
	}
	ctx->user_port = bpf_htons(conn->backend_port);
	return SOCKET_GOES_ON;
}

static __always_inline void option_address4(struct bpf_sockopt *ctx, const struct ends *ends)
{
	struct sockaddr_in *address = ctx->optval;

	if ((void *)(address + 1) > ctx->optval_end) {
		PS_OPTION_SET(ctx->retval, -EINVAL);
		return;
	}
	__builtin_memset(address, 0, sizeof(*address));
	address->sin_family = PS_AF_INET;
	address->sin_port = bpf_htons(ends->local_port);
	address->sin_addr.s_addr = ends->local.v4;
	PS_OPTION_SET(ctx->optlen, sizeof(*address));
	PS_OPTION_SET(ctx->retval, 0);
}

static __always_inline void option_address6(struct bpf_sockopt *ctx, const struct ends *ends)
{
	struct sockaddr_in6 *address = ctx->optval;

	if ((void *)(address + 1) > ctx->optval_end) {
		PS_OPTION_SET(ctx->retval, -EINVAL);
		return;
	}
	__builtin_memset(address, 0, sizeof(*address));
	address->sin6_family = PS_AF_INET6;
	address->sin6_port = bpf_htons(ends->local_port);
	__builtin_memcpy(&address->sin6_addr, &ends->local, sizeof(address->sin6_addr));
	PS_OPTION_SET(ctx->optlen, sizeof(*address));
	PS_OPTION_SET(ctx->retval, 0);
}

/*
 * The kernel has answered, or not (no connection tracking, or none of this connection). Behind a Service it tells the
 * Service's address, from which NAT could lead a proxy to another backend than the one whose rule chose it.
 */
static __always_inline int option_original(struct bpf_sockopt *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct ends ends;

	if (!socket_tcp(sk->type, sk->protocol) || bpf_get_netns_cookie(ctx) != netns_cookie)
		return SOCKET_GOES_ON;
	ends_read(sk, &ends);
	if (!ends_intercepted(&ends))
		return SOCKET_GOES_ON;
	if (have_option_thread)
		held_note(&ends.held);
	if (ends.held.family == 4 && ctx->level == PS_SOL_IP)
		option_address4(ctx, &ends);
	else if (ends.held.family == 6 && ctx->level == PS_SOL_IPV6)
		option_address6(ctx, &ends);
	return SOCKET_GOES_ON;
}

/*
 * Runs in every recvmsg, read … of a socket, whatever that gave. Who reads from a client is about to do something for
 * it: proxies that serve many in few threads are told apart by this.
 */
static __always_inline int socket_reads(const struct sock___ends *sk)
{
	const struct sock_common___ends *common = &sk->__sk_common;
	__u64 current;
	struct ps_key_held key;
	struct ps_held *own;
	struct ends ends;

	bool datagrams = socket_udp(sk->sk_type, sk->sk_protocol);

	if ((common->skc_family != PS_AF_INET && common->skc_family != PS_AF_INET6) ||
		!(datagrams || socket_tcp(sk->sk_type, sk->sk_protocol)) || common->skc_net.net->net_cookie != netns_cookie)
		return 0;
	if (datagrams && !common->skc_dport) /* a listener's: socket_receives */
		return 0;
	ends_read_kernel(common, datagrams ? IPPROTO_UDP : IPPROTO_TCP, &ends);
	if (!ends_intercepted(&ends))
		return 0;
	current = bpf_get_current_pid_tgid();
	key.process = current >> 32;
	key.thread = current;
	ends.held.thread = current;
	own = bpf_map_lookup_elem(&ps_held, &key);
	if (own)
		*own = ends.held; /* nobody else writes a thread's row, but for its use */
	else
		bpf_map_update_elem(&ps_held, &key, &ends.held, BPF_ANY);
	return 0;
}

/* The other end; six: the program of IPv6, for which an IPv4 address is a mapped one. */
static __always_inline void socket_other(const struct bpf_sock_addr *ctx, bool six, struct address *ret)
{
	ret->half[0] = ret->half[1] = 0;
	if (!six) {
		ret->v4 = ctx->user_ip4;
		return;
	}
	ret->word[0] = ctx->user_ip6[0];
	ret->word[1] = ctx->user_ip6[1];
	ret->word[2] = ctx->user_ip6[2];
	ret->word[3] = ctx->user_ip6[3];
	if (!socket_v4(PS_AF_INET6, ret->word))
		return;
	ret->v4 = ret->word[3];
	ret->word[2] = ret->word[3] = 0;
}

/* Runs in recvfrom and recvmsg, with the sender's address. Only transparent sockets can be proxies' listeners. */
static __always_inline int socket_receives(struct bpf_sock_addr *ctx, bool six)
{
	struct ps_key_asker key = {};
	const struct ps_held *flow;
	struct address from;
	struct ps_held held;
	struct bpf_sock *sk = ctx->sk;

	if (!sk || !socket_udp(ctx->type, ctx->protocol) || bpf_get_netns_cookie(ctx) != netns_cookie ||
		!inet_transparent(socket_inet(sk)))
		return SOCKET_GOES_ON;
	socket_other(ctx, six, &from);
	__builtin_memcpy(key.addr, from.word, sizeof(key.addr));
	key.family = from.word[1] || from.half[1] ? 6 : 4;
	key.port = bpf_ntohs(ctx->user_port);
	flow = bpf_map_lookup_elem(&ps_asker, &key);
	if (!flow)
		return SOCKET_GOES_ON;
	held = *flow;
	held_note(&held);
	return SOCKET_GOES_ON;
}

/* Runs at every fork, in the parent. The child has the parent's sockets: what that thread holds, it does. */
static __always_inline int process_forks(const struct task_struct *child)
{
	__u64 current = bpf_get_current_pid_tgid();
	struct ps_key_held key = {.process = current >> 32, .thread = current};
	const struct ps_held *own = bpf_map_lookup_elem(&ps_held, &key);
	struct ps_held held;

	if (!own || child->tgid == (int)key.process)
		return 0;
	held = *own;
	held.used = 0;
	held.forked = 1;
	held.thread = key.thread = child->pid;
	key.process = child->tgid;
	bpf_map_update_elem(&ps_held, &key, &held, BPF_ANY);
	key.thread = 0;
	bpf_map_update_elem(&ps_held, &key, &held, BPF_ANY);
	return 0;
}

static __always_inline int socket_option(struct bpf_sockopt *ctx)
{
	if (ctx->optname == PS_SO_ORIGINAL_DST && (ctx->level == PS_SOL_IP || ctx->level == PS_SOL_IPV6))
		return option_original(ctx);
	/* 0: the kernel's own answer stays where it is. Before 6.5 a value that was not shown whole is EFAULT otherwise. */
	if (ctx->optlen > OPTION_SHOWN_MAX)
		PS_OPTION_SET(ctx->optlen, 0);
	return SOCKET_GOES_ON;
}

/* Is the socket bound to the client's address? What is rewritten on the way (masquerade) is not asked. */
static __always_inline bool leg_speaks(const struct bpf_sock *sk, const struct ps_leg *leg)
{
	const __u32 *client = (const __u32 *)leg->client;
	struct address own = {};

	sock_address(sk, leg->family == 4, &own);
	return own.word[0] == client[0] && own.word[1] == client[1] && own.word[2] == client[2] && own.word[3] == client[3];
}

/* A proxy answers its client with a socket of its own: that is no leg. */
static __always_inline bool socket_answers(
	const struct bpf_sock_addr *ctx, bool six, const struct ps_held *held, bool high)
{
	const __u32 *client = (const __u32 *)held->key6.addr[high];
	struct address to;

	socket_other(ctx, six, &to);
	if (held->family == 4)
		return to.v4 == held->key4.addr[high] && bpf_ntohs(ctx->user_port) == held->key4.port[high];
	return to.word[0] == client[0] && to.word[1] == client[1] && to.word[2] == client[2] && to.word[3] == client[3] &&
		   bpf_ntohs(ctx->user_port) == held->key6.port[high];
}

/* Before a socket's SYN, its connection for datagrams, or a datagram of one that has none. A socket may connect again,
 * for somebody else: the row is for this time. */
static __always_inline int socket_connects(struct bpf_sock_addr *ctx, bool six)
{
	bool datagrams = socket_udp(ctx->type, ctx->protocol), high;
	struct choice choice;
	const struct ps_conn *conn;
	const struct ps_held *held;
	struct ps_leg leg = {};
	__u64 cookie;

	if (!(datagrams || socket_tcp(ctx->type, ctx->protocol)) || bpf_get_netns_cookie(ctx) != netns_cookie)
		return SOCKET_GOES_ON;
	if (!datagrams && ctx->sk->state != BPF_TCP_CLOSE) /* asks how its connect() goes */
		return SOCKET_GOES_ON;
	cookie = bpf_get_socket_cookie(ctx);
	held_choose(&choice);
	held = choice.held;
	conn = choice.conn;
	if (!held || !conn)
		goto none;
	/* The client is this node, which may always reach its workloads. */
	if (conn->flags & PS_CONN_NODE && allow_local_host) {
		if (!datagrams)
			account_stat(PS_STAT_LEG_NODE);
		goto none;
	}
	high = conn->flags & PS_CONN_ORIGIN_HIGH;
	if (datagrams && socket_answers(ctx, six, held, high))
		goto none;
	leg.family = held->family;
	leg.proxy = conn->proxy;
	if (conn->flags & PS_CONN_REWRITTEN)
		__builtin_memcpy(leg.client, conn->origin, sizeof(leg.client));
	else if (held->family == 4)
		*(__be32 *)leg.client = held->key4.addr[high];
	else
		__builtin_memcpy(leg.client, held->key6.addr[high], sizeof(leg.client));
	bpf_map_update_elem(&ps_leg, &cookie, &leg, BPF_ANY);
	if (!datagrams) /* of which one is counted when its flow begins */
		account_stat(leg_speaks(ctx->sk, &leg) ? PS_STAT_LEG_CLIENT : PS_STAT_LEG_NODE);
	return SOCKET_GOES_ON;
none:
	if (bpf_map_lookup_elem(&ps_leg, &cookie))
		bpf_map_delete_elem(&ps_leg, &cookie);
	return SOCKET_GOES_ON;
}

#endif
