/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Act: hand a connection to a proxy of this node. The mark leads the packet to the local stack (policy routing); there
 * it must find the proxy's socket although it is addressed to somebody else. The two engines differ in the last step:
 *
 *   ebpf     the socket is assigned to the packet here
 *   tproxy   the packet's priority tells the table of nftables which port to hand it to (PS_HANDOVER_*)
 *
 * Who takes it, and whether anybody does, is seen here for both. What has a socket of its very own already (TCP beyond
 * the SYN, a connected UDP socket) needs no more than the mark: the stack finds that.
 */
#ifndef PENSTOCK_STEER_H
#define PENSTOCK_STEER_H

#include "bpf/account.h"
#include "bpf/inet.h"
#include "bpf/maps.h"
#include "bpf/work.h"

enum steer {
	STEER_GIVEN,  /* marked, and handed to a listener */
	STEER_TAKEN,  /* marked; a socket has its connection */
	STEER_RESTS,  /* a socket in TIME_WAIT has its addresses and ports; the packet is as it was */
	STEER_NOBODY, /* nobody listens; the packet is as it was */
};

/* Port 0 is nobody's: led to the local stack, to be found by who has it. */
#define HANDOVER_MARK PS_HANDOVER_LOOPBACK

/* Rules of others may wipe whole marks. The priority says that it was ours, and the table of nftables makes it anew. */
static __always_inline void mark_set(struct __sk_buff *skb)
{
	PS_OPAQUE(skb);
	skb->mark = (skb->mark & ~mark_mask) | mark_intercept;
	if (skb->priority - PS_HANDOVER_LOOPBACK > (PS_HANDOVER_WILDCARD | PS_HANDOVER_PORT) - PS_HANDOVER_LOOPBACK)
		skb->priority = HANDOVER_MARK;
}

/* The mark is ours: a workload cannot set it. */
static __always_inline void mark_clear(struct __sk_buff *skb)
{
	__u32 mark;

	PS_OPAQUE(skb);
	mark = skb->mark;
	if (!(mark & mark_mask))
		return;
	skb->mark = mark & ~mark_mask;
	if (skb->priority == HANDOVER_MARK)
		skb->priority = 0;
}

static __always_inline bool mark_is_set(const struct __sk_buff *skb)
{
	PS_OPAQUE(skb);
	return (skb->mark & mark_mask) == mark_intercept;
}

static __always_inline const struct ps_proxy *proxy_find(__u32 number, __u32 side)
{
	__u32 index = number + side * PS_ENTRIES_proxy;
	const struct ps_proxy *proxy = bpf_map_lookup_elem(&ps_proxy, &index);

	return proxy && number != PS_PROXY_NONE && proxy->flags & PS_PROXY_USED ? proxy : NULL;
}

/* ---- sockets ---- */

/* The packet's own addresses and ports; returns the size that says which family the tuple is. */
static __always_inline __u32 tuple_set(struct bpf_sock_tuple *tuple, const struct packet *p)
{
	if (p->v4) {
		tuple->ipv4.saddr = p->source.v4;
		tuple->ipv4.daddr = p->destination.v4;
		tuple->ipv4.sport = bpf_htons(p->source_port);
		tuple->ipv4.dport = bpf_htons(p->destination_port);
		return sizeof(tuple->ipv4);
	}
	__builtin_memcpy(tuple->ipv6.saddr, p->source.word, sizeof(tuple->ipv6.saddr));
	__builtin_memcpy(tuple->ipv6.daddr, p->destination.word, sizeof(tuple->ipv6.daddr));
	tuple->ipv6.sport = bpf_htons(p->source_port);
	tuple->ipv6.dport = bpf_htons(p->destination_port);
	return sizeof(tuple->ipv6);
}

/* Loopback, or none: that finds who listens on the wildcard although somebody else listens on loopback. */
static __always_inline void tuple_aim(struct bpf_sock_tuple *tuple, bool v4, bool loopback, __u16 port)
{
	if (v4) {
		tuple->ipv4.daddr = loopback ? bpf_htonl(0x7f000001) : 0;
		tuple->ipv4.dport = bpf_htons(port);
		return;
	}
	__builtin_memset(tuple->ipv6.daddr, 0, sizeof(tuple->ipv6.daddr));
	tuple->ipv6.daddr[3] = loopback ? bpf_htonl(1) : 0;
	tuple->ipv6.dport = bpf_htons(port);
}

/* ---- listeners ---- */

/* With conditions, the agent has looked at its process. One that is not transparent could not answer. */
static __always_inline bool listener_chosen(const struct ps_proxy *proxy, __u64 cookie, bool transparent)
{
	struct ps_key_listener key = {.chosen = proxy->chosen, .cookie = cookie};
	const __u32 *row;

	if (!key.chosen)
		return transparent;
	row = bpf_map_lookup_elem(&ps_listener, &key);
	return row && (transparent || *row == PS_LISTENER_BESIDE);
}

static __always_inline bool listener_usable(struct bpf_sock *sk, const struct ps_proxy *proxy)
{
	const struct tcp_sock *tcp;

	if (sk->state != BPF_TCP_LISTEN)
		return false;
	tcp = bpf_skc_to_tcp_sock(sk);
	return tcp && listener_chosen(proxy, sock_cookie(tcp), sock_transparent(tcp));
}

/* One that is connected has its own peer. */
static __always_inline bool receiver_usable(struct bpf_sock *sk, const struct ps_proxy *proxy)
{
	const struct inet_sock *inet = socket_inet(sk);

	return sk->state != BPF_TCP_ESTABLISHED && listener_chosen(proxy, inet_cookie(inet), inet_transparent(inet));
}

/* To the table: what it looks up is what was found here. */
static __always_inline int packet_leave(struct __sk_buff *skb, const struct bpf_sock_tuple *tuple, bool v4)
{
	bool wildcard = v4 ? !tuple->ipv4.daddr : !tuple->ipv6.daddr[3];

	PS_OPAQUE(skb);
	skb->priority = (wildcard ? PS_HANDOVER_WILDCARD : PS_HANDOVER_LOOPBACK) |
					bpf_ntohs(v4 ? tuple->ipv4.dport : tuple->ipv6.dport);
	return STEER_GIVEN;
}

static __always_inline int packet_assign(struct __sk_buff *skb, struct bpf_sock *sk)
{
	if (!bpf_sk_assign(skb, sk, 0))
		return STEER_GIVEN;
	account_stat(PS_STAT_ASSIGN_FAIL);
	return STEER_NOBODY;
}

/* Does the packet answer a SYN cookie of this listener? */
static __always_inline bool listener_cookie(struct __sk_buff *skb, struct bpf_sock *sk, const struct packet *p)
{
	__u32 at = p->end - p->bytes;
	struct tcphdr tcp;
	union {
		struct iphdr ip4;
		struct ipv6hdr ip6;
	} ip;

	if (bpf_skb_load_bytes(skb, p->transport, &tcp, sizeof(tcp)))
		return false;
	if (p->v4)
		return !bpf_skb_load_bytes(skb, at, &ip.ip4, sizeof(ip.ip4)) &&
			   !bpf_tcp_check_syncookie(sk, &ip.ip4, sizeof(ip.ip4), &tcp, sizeof(tcp));
	return !bpf_skb_load_bytes(skb, at, &ip.ip6, sizeof(ip.ip6)) &&
		   !bpf_tcp_check_syncookie(sk, &ip.ip6, sizeof(ip.ip6), &tcp, sizeof(tcp));
}

/*
 * Without SYN only what answers a cookie is the listener's. The rest has a socket, or is answered with a reset: where
 * this node's NAT has met the tuple before, it gives the client another port behind the hooks (INPUT), and only the
 * stack finds it.
 */
static __always_inline int listener_assign(
	struct __sk_buff *skb, struct bpf_sock_tuple *tuple, __u32 size, const struct ps_proxy *proxy, bool table)
{
	const struct work *w = work_get(true);
	struct bpf_sock *sk = bpf_skc_lookup_tcp(skb, tuple, size, BPF_F_CURRENT_NETNS, 0);
	int result = STEER_NOBODY;

	if (!sk)
		return STEER_NOBODY;
	if (w && listener_usable(sk, proxy)) {
		if (!(w->packet.traits & PACKET_STARTS) && !listener_cookie(skb, sk, &w->packet))
			result = STEER_TAKEN;
		else
			result = table ? packet_leave(skb, tuple, size == sizeof(tuple->ipv4)) : packet_assign(skb, sk);
	}
	bpf_sk_release(sk);
	return result;
}

static __always_inline int receiver_assign(
	struct __sk_buff *skb, struct bpf_sock_tuple *tuple, __u32 size, const struct ps_proxy *proxy, bool table)
{
	struct bpf_sock *sk = bpf_sk_lookup_udp(skb, tuple, size, BPF_F_CURRENT_NETNS, 0);
	int result = STEER_NOBODY;

	if (!sk)
		return STEER_NOBODY;
	if (receiver_usable(sk, proxy))
		result = table ? packet_leave(skb, tuple, size == sizeof(tuple->ipv4)) : packet_assign(skb, sk);
	bpf_sk_release(sk);
	return result;
}

/* ---- a connection's own socket ---- */

enum steer_socket {
	SOCKET_ANY,
	SOCKET_AWAKE,   /* of TIME_WAIT it is only told that it is there */
	SOCKET_FULL,    /* no request, no TIME_WAIT */
	SOCKET_RESTING, /* TIME_WAIT */
};

/* Listeners have no connection. A request does not tell whether its listener is transparent: it is taken for one where
 * any will do. */
static __always_inline int socket_suits(struct bpf_sock *sk, enum steer_socket which)
{
	const struct tcp_timewait_sock *resting;
	const struct tcp_sock *full;

	if (sk->state == BPF_TCP_LISTEN)
		return STEER_NOBODY;
	full = bpf_skc_to_tcp_sock(sk);
	if (full)
		return which != SOCKET_RESTING && sock_transparent(full) ? STEER_TAKEN : STEER_NOBODY;
	resting = bpf_skc_to_tcp_timewait_sock(sk);
	if (resting && (which == SOCKET_FULL || !timewait_transparent(resting)))
		return STEER_NOBODY;
	if (resting)
		return which == SOCKET_AWAKE ? STEER_RESTS : STEER_TAKEN;
	return which == SOCKET_ANY || which == SOCKET_AWAKE ? STEER_TAKEN : STEER_NOBODY;
}

/* Does a transparent socket of this node have the packet's very connection? Marked, the packet finds it by itself. */
PS_APART int steer_socket(struct __sk_buff *skb, enum steer_socket which)
{
	const struct work *w = work_get(true);
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk;
	__u32 size;
	int result;

	if (!w)
		return STEER_NOBODY;
	size = tuple_set(&tuple, &w->packet);
	sk = bpf_skc_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return STEER_NOBODY;
	result = socket_suits(sk, which);
	bpf_sk_release(sk);
	if (result == STEER_TAKEN)
		mark_set(skb);
	return result;
}

/*
 * A socket that was found with an address and no peer yet, another flow's, may have one by the time that its state is
 * read.
 */
static __always_inline bool peer_same(const struct bpf_sock *sk, const struct packet *p)
{
	if (bpf_ntohs(sk->dst_port) != p->source_port)
		return false;
	if (p->v4)
		return sk->dst_ip4 == p->source.v4;
	return sk->dst_ip6[0] == p->source.word[0] && sk->dst_ip6[1] == p->source.word[1] &&
		   sk->dst_ip6[2] == p->source.word[2] && sk->dst_ip6[3] == p->source.word[3];
}

/*
 * The same of a datagram. connected: the socket speaks with nobody else; else it is enough that it is bound to the very
 * address that the datagram goes to. The stack prefers either to whoever listens on the wildcard.
 */
PS_APART int steer_datagram(struct __sk_buff *skb, bool connected)
{
	const struct work *w = work_get(true);
	struct bpf_sock_tuple tuple = {};
	struct address bound = {};
	struct bpf_sock *sk;
	bool suits;
	__u32 size;

	if (!w)
		return STEER_NOBODY;
	size = tuple_set(&tuple, &w->packet);
	sk = bpf_sk_lookup_udp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return STEER_NOBODY;
	suits = !connected || (sk->state == BPF_TCP_ESTABLISHED && peer_same(sk, &w->packet));
	if (suits) {
		sock_address(sk, w->packet.v4, &bound);
		suits = bound.half[0] == w->packet.destination.half[0] && bound.half[1] == w->packet.destination.half[1] &&
				inet_transparent(socket_inet(sk));
	}
	bpf_sk_release(sk);
	if (!suits)
		return STEER_NOBODY;
	mark_set(skb);
	return STEER_TAKEN;
}

/*
 * A packet that goes past the proxies, but a proxy's TIME_WAIT has its addresses and ports. The stack would find that,
 * and drops what it should forward and has a socket. So the packet goes there; the answer makes the other end reset it,
 * and send again.
 */
static __always_inline bool steer_resting(struct __sk_buff *skb, const struct work *w)
{
	return w->control & PS_CONTROL_STEERING && w->packet.protocol == IPPROTO_TCP &&
		   steer_socket(skb, SOCKET_RESTING) == STEER_TAKEN;
}

/*
 * A TCP packet of a connection that is not established yet, in this order:
 *  1. the socket of this very connection. For a SYN that may be TIME_WAIT, and past it the kernel lets no request of a
 *     listener that was assigned here into its table: the connection would never open. The table of nftables ends the
 *     TIME_WAIT, so that one goes there. Without the table it answers with an ACK, the client resets that, and the SYN
 *     that it sends again (some 10 ms later) finds the listener.
 *  2. the proxy's listener on loopback, 3. on the wildcard; with the client's address, so that the sockets of a
 * REUSEPORT group share the work. Also without SYN: the answer to a SYN cookie has no socket yet.
 */
PS_APART int steer_tcp(struct __sk_buff *skb, __u32 number)
{
	const struct work *w = work_get(true);
	struct bpf_sock_tuple tuple = {};
	const struct ps_proxy *proxy;
	bool starts, table;
	__u32 size;
	int result;

	if (!w || w->packet.protocol != IPPROTO_TCP)
		return STEER_NOBODY;
	/* The kernel looks these up on the incoming link alone: no rule leads them here. */
	if (!w->packet.v4 && link_local(&w->packet.destination))
		return STEER_NOBODY;
	starts = w->packet.traits & PACKET_STARTS;
	result = steer_socket(skb, starts && w->control & PS_CONTROL_TABLE ? SOCKET_AWAKE : SOCKET_ANY); /* 1 */
	if (result == STEER_TAKEN)
		return STEER_TAKEN;
	table = w->control & PS_CONTROL_TPROXY || result == STEER_RESTS;
	proxy = proxy_find(number, w->side);
	if (!proxy)
		return STEER_NOBODY;
	size = tuple_set(&tuple, &w->packet);
	tuple_aim(&tuple, w->packet.v4, true, proxy->port);
	result = listener_assign(skb, &tuple, size, proxy, table); /* 2 */
	if (result == STEER_NOBODY) {
		tuple_aim(&tuple, w->packet.v4, false, proxy->port);
		result = listener_assign(skb, &tuple, size, proxy, table); /* 3 */
	}
	if (result != STEER_NOBODY)
		mark_set(skb);
	return result;
}

/*
 * A datagram, in this order: a socket of the proxy's that is connected to its sender, and speaks for its destination;
 * then as TCP's 2 and 3. Each datagram goes this way: the stack alone would give it to whoever is bound to the port it
 * is addressed to. A fragment goes to the table, which sees the whole.
 */
PS_APART int steer_udp(struct __sk_buff *skb, __u32 number)
{
	const struct work *w = work_get(true);
	struct bpf_sock_tuple tuple = {};
	const struct ps_proxy *proxy;
	bool table;
	__u32 size;
	int result;

	if (!w || w->packet.protocol != IPPROTO_UDP)
		return STEER_NOBODY;
	if (!w->packet.v4 && link_local(&w->packet.destination))
		return STEER_NOBODY;
	if (steer_datagram(skb, true) == STEER_TAKEN)
		return STEER_TAKEN;
	proxy = proxy_find(number, w->side);
	if (!proxy)
		return STEER_NOBODY;
	table = w->control & PS_CONTROL_TPROXY ||
			(w->control & PS_CONTROL_TABLE && w->packet.traits & (PACKET_FIRST | PACKET_LATER));
	size = tuple_set(&tuple, &w->packet);
	tuple_aim(&tuple, w->packet.v4, true, proxy->port);
	result = receiver_assign(skb, &tuple, size, proxy, table);
	if (result == STEER_NOBODY) {
		tuple_aim(&tuple, w->packet.v4, false, proxy->port);
		result = receiver_assign(skb, &tuple, size, proxy, table);
	}
	if (result == STEER_GIVEN)
		mark_set(skb);
	return result;
}

static __always_inline int steer(struct __sk_buff *skb, const struct work *w, __u32 number)
{
	return w->packet.protocol == IPPROTO_UDP ? steer_udp(skb, number) : steer_tcp(skb, number);
}

/* A reply to a leg. The stack finds a TCP socket by the mark. With datagrams those to the node's own address come home
 * by themselves, and to a client's there must be the socket: else somebody on the wildcard would get them. */
static __always_inline int steer_reply(struct __sk_buff *skb, const struct work *w, const struct ps_conn *conn)
{
	if (w->packet.protocol == IPPROTO_UDP && !(conn->flags & PS_CONN_REWRITTEN))
		return steer_datagram(skb, false);
	if (w->packet.protocol == IPPROTO_UDP)
		mark_clear(skb);
	else
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
