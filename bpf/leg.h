/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whose connection is a packet of this node's own stack? A proxy's onward connection (leg) is told by its socket:
 * either it is transparent, and speaks from the client's address; or programs on sockets (sockets.h) saw for which
 * client it was connected.
 */
#ifndef PENSTOCK_LEG_H
#define PENSTOCK_LEG_H

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

/* Is the packet's source an address of this node? A route to it is a local one then. Without forwarding the helper does
 * not look: no. */
static __noinline bool source_is_node(struct __sk_buff *skb, const struct packet *p)
{
	struct bpf_fib_lookup to = {.ifindex = skb->ifindex};

	if (p->v4) {
		to.family = FAMILY_IPV4;
		to.ipv4_dst = p->source.v4;
	} else {
		to.family = FAMILY_IPV6;
		__builtin_memcpy(to.ipv6_dst, p->source.word, sizeof(to.ipv6_dst));
	}
	return bpf_fib_lookup(skb, &to, sizeof(to), 0) == BPF_FIB_LKUP_RET_NOT_FWDED;
}

/*
 * Of a packet that a socket of this node sent. True: it is a leg's (WORK_LEG), and if it does not come from the
 * client's address, WORK_ORIGIN and w->origin say whose it is. One look at a connection's first packet: later ones may
 * have another socket or none (TIME_WAIT, requests).
 */
static __noinline bool leg_find(struct __sk_buff *skb, struct work *w)
{
	const struct ps_leg *leg = NULL;
	struct address client = {};
	const struct tcp_sock *tcp;
	struct bpf_sock *sk = skb->sk;
	bool transparent;
	__u64 cookie;

	if (!sk)
		return false;
	tcp = bpf_skc_to_tcp_sock(sk);
	if (!tcp)
		return false;
	transparent = sock_transparent(tcp);
	cookie = sock_cookie(tcp);
	if (cookie)
		leg = bpf_map_lookup_elem(&ps_leg, &cookie);
	if (!leg && (!transparent || source_is_node(skb, &w->packet)))
		return false;
	w->known |= WORK_LEG;
	if (!leg)
		return true;
	leg_client(leg, w->packet.v4, &client);
	if (client.half[0] == w->packet.source.half[0] && client.half[1] == w->packet.source.half[1])
		return true;
	w->origin = client;
	w->known |= WORK_ORIGIN;
	return true;
}

#endif
