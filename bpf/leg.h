/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whose connection is a packet of this node's own stack? A proxy's onward connection (leg) is told by its socket:
 * either it is transparent, and speaks from the client's address; or programs on sockets (sockets.h) saw for which
 * client it was connected.
 */
#ifndef PENSTOCK_LEG_H
#define PENSTOCK_LEG_H

#include "bpf/account.h"
#include "bpf/inet.h"
#include "bpf/maps.h"
#include "bpf/work.h"

/* The client as `origin` of a packet of this family holds it: IPv4 as ::ffff:a.b.c.d when the packet is IPv6. */
static __always_inline void leg_client(const struct ps_leg *leg, bool v4, struct address *ret)
{
	const __u32 *client = (const __u32 *)leg->client;
	bool mapped = leg->family == 4 && !v4;

	ret->word[0] = mapped ? 0 : client[0];
	ret->word[1] = mapped ? 0 : client[1];
	ret->word[2] = mapped ? bpf_htonl(0xffff) : client[2];
	ret->word[3] = mapped ? client[0] : client[3];
}

/* Is this an address of this node? A route to it is a local one then. Without forwarding the helper does not look: no.
 */
static __noinline bool address_is_node(struct __sk_buff *skb, const struct address *address, bool v4)
{
	struct aside *aside = aside_get();
	struct bpf_fib_lookup *to;

	if (!aside)
		return false;
	to = &aside->route;
	__builtin_memset(to, 0, sizeof(*to));
	to->ifindex = skb->ifindex;
	if (v4) {
		to->family = FAMILY_IPV4;
		to->ipv4_dst = address->v4;
	} else {
		to->family = FAMILY_IPV6;
		__builtin_memcpy(to->ipv6_dst, address->word, sizeof(to->ipv6_dst));
	}
	return bpf_fib_lookup(skb, to, sizeof(*to), 0) == BPF_FIB_LKUP_RET_NOT_FWDED;
}

static __always_inline bool address_equal(const struct address *a, const struct address *b)
{
	return a->half[0] == b->half[0] && a->half[1] == b->half[1];
}

enum leg {
	LEG_NONE,
	LEG_NODE,   /* from an address of this node: replies find their way */
	LEG_CLIENT, /* from the client's: replies are led to the socket */
};

/* A datagram's socket may be bound to no address at all: then it speaks for the node. */
static __always_inline bool speaks_for_others(
	struct __sk_buff *skb, const struct address *speaker, bool v4, bool datagrams)
{
	if (datagrams && !speaker->half[0] && !speaker->half[1])
		return false;
	return !address_is_node(skb, speaker, v4);
}

/* What a socket of this node tells about itself. */
struct speaker {
	__u64 cookie; /* 0: nobody has asked for it */
	__u8 transparent;
	__u8 datagrams;
};

static __always_inline bool speaker_read(struct bpf_sock *sk, struct speaker *ret)
{
	const struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);
	const struct inet_sock *inet;

	ret->datagrams = 0;
	if (tcp) {
		ret->cookie = sock_cookie(tcp);
		ret->transparent = sock_transparent(tcp);
		return true;
	}
	sk = bpf_sk_fullsock(sk);
	if (!sk || sk->protocol != IPPROTO_UDP)
		return false;
	inet = socket_inet(sk);
	ret->cookie = inet_cookie(inet);
	ret->transparent = inet_transparent(inet);
	ret->datagrams = 1;
	return true;
}

/*
 * Of a packet that a socket of this node sent: is it a leg's (WORK_LEG), and of which kind? If it does not come from
 * the client's address, WORK_ORIGIN and w->origin say whose it is. The socket's own address is asked, for the packet's
 * may have been rewritten since (masquerade). One look at a connection's first packet: later ones may have another
 * socket or none (TIME_WAIT, requests).
 */
static __noinline int leg_find(struct __sk_buff *skb, struct work *w)
{
	const struct ps_leg *leg = NULL;
	struct address speaker = {}, client = {};
	struct bpf_sock *sk = skb->sk;
	struct speaker socket = {};
	bool v4 = w->packet.v4;
	int kind = LEG_NODE;

	if (!sk)
		return LEG_NONE;
	sock_address(sk, v4, &speaker);
	if (!speaker_read(sk, &socket))
		return LEG_NONE;
	if (socket.cookie)
		leg = bpf_map_lookup_elem(&ps_leg, &socket.cookie);
	if (leg)
		leg_client(leg, v4, &client);
	if (socket.transparent &&
		((leg && address_equal(&client, &speaker)) || speaks_for_others(skb, &speaker, v4, socket.datagrams)))
		kind = LEG_CLIENT;
	else if (!leg)
		return LEG_NONE;
	if (socket.datagrams)
		account_stat(kind == LEG_CLIENT ? PS_STAT_LEG_CLIENT : PS_STAT_LEG_NODE);
	if (!leg)
		client = speaker;
	w->known |= WORK_LEG;
	if (address_equal(&client, &w->packet.source))
		return kind;
	w->origin = client;
	w->known |= WORK_ORIGIN;
	return kind;
}

#endif
