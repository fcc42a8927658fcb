/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Programs on sockets. They stand at the root of cgroup v2 and run for every process of the machine, so the first thing
 * that each asks is cheap, and only sockets of the agent's network namespace get further.
 *
 *  - SO_ORIGINAL_DST of an accepted socket whose connection was intercepted: its own local address, which interception
 *    keeps.
 *  - Who asks for the addresses of such a socket (accept with an address, getpeername, getsockname, SO_ORIGINAL_DST)
 * has its connection in hand: ps_held.
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
#include "bpf/inet.h"
#include "bpf/maps.h"
#include "bpf/packet.h"
#include "bpf/verifier.h"

#define SOCKET_GOES_ON 1 /* the programs on addresses may return nothing else; of getsockopt: what ctx says */

#define PS_AF_INET 2
#define PS_AF_INET6 10
#define PS_SOCK_STREAM 1
#define PS_SOL_IP 0
#define PS_SOL_IPV6 41
#define PS_SO_ORIGINAL_DST 80 /* IP6T_SO_ORIGINAL_DST has the same number */
#define PS_PF_FORKNOEXEC 0x40 /* include/linux/sched.h */
#define OPTION_SHOWN_MAX 4096 /* of a larger option value the kernel shows a page */

struct task_struct {
	unsigned int flags;
	int tgid;
	struct task_struct *real_parent, *group_leader;
} CORE;

/* ---- whose connection a socket has ---- */

static __always_inline bool socket_tcp(__u32 type, __u32 protocol)
{
	return type == PS_SOCK_STREAM && (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP);
}

/* An IPv6 socket may have an IPv4 connection (::ffff:a.b.c.d): on the wire and in our tables it is IPv4. */
static __always_inline bool socket_v4(const struct bpf_sock *sk)
{
	return sk->family == PS_AF_INET || (!sk->dst_ip6[0] && !sk->dst_ip6[1] && sk->dst_ip6[2] == bpf_htonl(0x0000ffff));
}

static __always_inline const struct ps_conn *held_conn(const struct ps_held *held)
{
	const struct ps_conn_live *live;

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

static __always_inline void ends_read(const struct bpf_sock *sk, struct ends *ends)
{
	__builtin_memset(ends, 0, sizeof(*ends));
	ends->local_port = sk->src_port;
	ends->peer_port = bpf_ntohs(sk->dst_port);
	if (socket_v4(sk)) {
		ends->local.v4 = sk->src_ip4;
		ends->peer.v4 = sk->dst_ip4;
		ends->high = high4(ends->peer.v4, ends->local.v4, ends->peer_port, ends->local_port);
		key4_set(&ends->held.key4, ends->high, ends->peer.v4, ends->local.v4, ends->peer_port, ends->local_port);
		ends->held.key4.protocol = IPPROTO_TCP;
		ends->held.family = 4;
		return;
	}
	for (int i = 0; i < 4; i++) {
		ends->local.word[i] = sk->src_ip6[i];
		ends->peer.word[i] = sk->dst_ip6[i];
	}
	ends->high = high6(&ends->peer, &ends->local, ends->peer_port, ends->local_port);
	key6_set(&ends->held.key6, ends->high, &ends->peer, &ends->local, ends->peer_port, ends->local_port);
	ends->held.key6.protocol = IPPROTO_TCP;
	ends->held.family = 6;
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

/* NULL: nobody connects for a connection that is over, or that no proxy has any more. */
static __always_inline const struct ps_conn *held_alive(const struct ps_held *held)
{
	const struct ps_conn *conn = held ? held_conn(held) : NULL;

	return conn && conn->flags & PS_CONN_INTERCEPTED && conn->state != PS_CONN_CLOSING ? conn : NULL;
}

/* The process that this one was forked from and whose sockets it shares: it has executed nothing since. 0: none. */
static __always_inline __u32 forked_from(void)
{
	struct task_struct *leader;

	if (!have_task)
		return 0;
	leader = BPF_CORE_READ((struct task_struct *)bpf_get_current_task(), group_leader);
	if (!(BPF_CORE_READ(leader, flags) & PS_PF_FORKNOEXEC))
		return 0;
	return BPF_CORE_READ(leader, real_parent, tgid);
}

/*
 * Which connection a socket is connected for; in this order, of those that are alive:
 *  1. what this thread asked for last, and has not connected for since
 *  2. what any thread of its process asked for last, and nobody has connected for since: one accepts, another connects
 *  3. the first again, and
 *  4. the second: it connects once more, for a second server or because the first did not answer
 *  5. what the process asked for that this one was forked from
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
	} else {
		key.process = forked_from();
		key.thread = 0;
		ret->held = key.process ? bpf_map_lookup_elem(&ps_held, &key) : NULL; /* 5 */
		ret->conn = held_alive(ret->held);
	}
}

/* ---- the programs ---- */

/* Runs in accept, getpeername and getsockname, behind the kernel's own answer. */
static __always_inline int socket_named(struct bpf_sock_addr *ctx)
{
	struct ends ends;

	if (!socket_tcp(ctx->type, ctx->protocol) || bpf_get_netns_cookie(ctx) != netns_cookie)
		return SOCKET_GOES_ON;
	ends_read(ctx->sk, &ends);
	if (ends_intercepted(&ends))
		held_note(&ends.held);
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

/* The kernel has answered, or not (no connection tracking, or none of this connection): then it is our turn. */
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
	if (ctx->retval >= 0)
		return SOCKET_GOES_ON;
	if (ends.held.family == 4 && ctx->level == PS_SOL_IP)
		option_address4(ctx, &ends);
	else if (ends.held.family == 6 && ctx->level == PS_SOL_IPV6)
		option_address6(ctx, &ends);
	return SOCKET_GOES_ON;
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

/* Before a socket's SYN. A socket may connect again, for somebody else: the row is for this time. */
static __always_inline int socket_connects(struct bpf_sock_addr *ctx)
{
	struct choice choice;
	const struct ps_conn *conn;
	const struct ps_held *held;
	struct ps_leg leg = {};
	__u64 cookie;

	if (!socket_tcp(ctx->type, ctx->protocol) || bpf_get_netns_cookie(ctx) != netns_cookie)
		return SOCKET_GOES_ON;
	cookie = bpf_get_socket_cookie(ctx);
	held_choose(&choice);
	held = choice.held;
	conn = choice.conn;
	if (!held || !conn) {
		bpf_map_delete_elem(&ps_leg, &cookie);
		return SOCKET_GOES_ON;
	}
	leg.family = held->family;
	leg.proxy = conn->proxy;
	if (conn->flags & PS_CONN_REWRITTEN)
		__builtin_memcpy(leg.client, conn->origin, sizeof(leg.client));
	else if (held->family == 4)
		*(__be32 *)leg.client = held->key4.addr[!!(conn->flags & PS_CONN_ORIGIN_HIGH)];
	else
		__builtin_memcpy(leg.client, held->key6.addr[!!(conn->flags & PS_CONN_ORIGIN_HIGH)], sizeof(leg.client));
	bpf_map_update_elem(&ps_leg, &cookie, &leg, BPF_ANY);
	return SOCKET_GOES_ON;
}

#endif
