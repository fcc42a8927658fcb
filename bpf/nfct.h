/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What this node's NAT has made of a packet: the kernel's connection tracking keeps the tuple of a connection's first
 * packet as it was before any NAT, and that of its answer, and each packet carries a pointer to both.
 *
 * Without CO-RE, whose search for a type of a module (nf_conntrack often is one) needs CAP_SYS_ADMIN: the agent finds
 * the offsets in the kernel's BTF, and writes them before the load.
 */
#ifndef PENSTOCK_NFCT_H
#define PENSTOCK_NFCT_H

#include "bpf/leg.h"
#include "bpf/maps.h"
#include "bpf/packet.h"
#include "bpf/work.h"

/* sk_buff._nfct: a pointer to struct nf_conn, and in its lowest bits where in the connection the packet belongs. */
#define NFCT_INFO_MASK 7ull
#define NFCT_ORIGINAL 0u /* of the originator, in a connection that has been answered */
#define NFCT_NEW 2u      /* of the originator, in one that has not */
#define NFCT_ANSWER 3u   /* of the other end */

/* Which packets are meant, by bits. */
#define NFCT_FIRST (1u << NFCT_NEW)
#define NFCT_ORIGINATORS (1u << NFCT_NEW | 1u << NFCT_ORIGINAL)
#define NFCT_ANSWERS (1u << NFCT_ANSWER)

/* struct nf_conntrack_tuple: the agent has seen that it lies so; if nfct_reply_offset is 0, its source at least. */
struct nfct_end {
	__be32 addr[4];
	__be16 port;
	__u16 family;
};
struct nfct_tuple {
	struct nfct_end source;
	__be32 addr[4]; /* of the destination */
	__be16 port;
	__u8 protocol;
	__u8 direction;
};

static __always_inline void nfct_address(const __be32 *from, bool v4, struct address *ret)
{
	ret->word[0] = from[0];
	ret->word[1] = v4 ? 0 : from[1];
	ret->word[2] = v4 ? 0 : from[2];
	ret->word[3] = v4 ? 0 : from[3];
}

/*
 * Where the kernel keeps the connection of this packet. 0: it does not track the packet, or that is none that is meant.
 * At run time the context of a tc program is the sk_buff itself.
 */
static __always_inline __u64 nfct_find(struct __sk_buff *skb, __u32 meant)
{
	__u64 word;

	if (!nfct_offset)
		return 0;
	if (bpf_probe_read_kernel(&word, sizeof(word), (const void *)skb + nfct_offset))
		return 0;
	if (!(meant & 1u << (word & NFCT_INFO_MASK)))
		return 0;
	return word & ~NFCT_INFO_MASK;
}

/* The source of the first packet of this packet's connection. */
static __noinline bool nfct_source(struct __sk_buff *skb, bool v4, struct address *ret)
{
	__u64 entry = nfct_find(skb, NFCT_ORIGINATORS);
	struct nfct_end source;

	if (!entry || bpf_probe_read_kernel(&source, sizeof(source), (const void *)(entry + nfct_tuple_offset)))
		return false;
	if (source.family != (v4 ? FAMILY_IPV4 : FAMILY_IPV6))
		return false;
	nfct_address(source.addr, v4, ret);
	return true;
}

/*
 * A connection that was sent to another address or port than it goes to: `p` becomes its first packet as that entered
 * (v4, protocol, addresses, ports, key), backend and port where it goes.
 */
static __noinline bool nfct_translation(
	struct __sk_buff *skb, __u32 meant, struct packet *p, struct address *backend, __u16 *port)
{
	struct nfct_tuple sent, answer;
	__u64 entry;
	bool v4;

	if (!nfct_reply_offset)
		return false;
	entry = nfct_find(skb, meant);
	if (!entry || bpf_probe_read_kernel(&sent, sizeof(sent), (const void *)(entry + nfct_tuple_offset)) ||
		bpf_probe_read_kernel(&answer, sizeof(answer), (const void *)(entry + nfct_reply_offset)))
		return false;
	v4 = sent.source.family == FAMILY_IPV4;
	p->v4 = v4;
	nfct_address(sent.source.addr, v4, &p->source);
	nfct_address(sent.addr, v4, &p->destination);
	nfct_address(answer.source.addr, v4, backend);
	p->source_port = bpf_ntohs(sent.source.port);
	p->destination_port = bpf_ntohs(sent.port);
	*port = bpf_ntohs(answer.source.port);
	if (address_equal(backend, &p->destination) && *port == p->destination_port)
		return false;
	p->protocol = sent.protocol;
	packet_key(p);
	return true;
}

/* Sets WORK_ORIGIN and w->origin if the packet's source has been rewritten. */
static __noinline void origin_find(struct __sk_buff *skb, struct work *w)
{
	struct address address = {};

	if (!nfct_source(skb, w->packet.v4, &address))
		PS_RETURN_ZERO;
	if (address.half[0] != w->packet.source.half[0] || address.half[1] != w->packet.source.half[1]) {
		w->origin = address;
		w->known |= WORK_ORIGIN;
	}
	PS_RETURN_ZERO;
}

/*
 * Is this packet of the originator that the entry remembers? A port that masquerade gave to one may be given to another
 * while the entry lives: the kernel forgets a connection without packets sooner than the entry.
 */
static __noinline bool origin_same(struct __sk_buff *skb, const struct ps_conn *conn, bool v4)
{
	const __u64 *origin = (const __u64 *)conn->origin;
	struct address address = {};

	if (conn->flags & PS_CONN_LEG) /* its socket is no rewritten packet */
		return !skb->ingress_ifindex;
	if (!(conn->flags & PS_CONN_REWRITTEN))
		return !conn->entered || conn->entered == skb->ingress_ifindex;
	return nfct_source(skb, v4, &address) && address.half[0] == origin[0] && address.half[1] == origin[1];
}

#endif
