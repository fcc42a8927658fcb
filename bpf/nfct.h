/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The source with which a packet entered, when this node has rewritten it since (masquerade): the kernel's connection
 * tracking keeps the tuple of a connection's first packet as it was before any NAT, and each packet carries a pointer
 * to that.
 *
 * Without CO-RE, whose search for a type of a module (nf_conntrack often is one) needs CAP_SYS_ADMIN: the agent finds
 * the two offsets in the kernel's BTF, and writes them before the load.
 */
#ifndef PENSTOCK_NFCT_H
#define PENSTOCK_NFCT_H

#include "bpf/maps.h"
#include "bpf/work.h"

/* sk_buff._nfct: a pointer to struct nf_conn, and in its lowest bits where in the connection the packet belongs. */
#define NFCT_INFO_MASK 7ull
#define NFCT_ORIGINAL 0u /* of the originator, in a connection that has been answered */
#define NFCT_NEW 2u      /* of the originator, in one that has not */

/* The first 20 bytes of struct nf_conntrack_tuple: the agent has seen that they lie so. */
struct nfct_end {
	__be32 addr[4];
	__be16 port;
	__u16 family;
};

/*
 * The source of the first packet of this packet's connection. False: the kernel does not track this packet, or it is an
 * answer or an error there. At run time the context of a tc program is the sk_buff itself.
 */
static __noinline bool nfct_source(struct __sk_buff *skb, bool v4, struct address *ret)
{
	struct nfct_end source;
	__u64 word;

	if (!nfct_offset)
		return false;
	if (bpf_probe_read_kernel(&word, sizeof(word), (const void *)skb + nfct_offset))
		return false;
	if ((word & NFCT_INFO_MASK) != NFCT_ORIGINAL && (word & NFCT_INFO_MASK) != NFCT_NEW)
		return false;
	word &= ~NFCT_INFO_MASK;
	if (!word || bpf_probe_read_kernel(&source, sizeof(source), (const void *)(word + nfct_tuple_offset)))
		return false;
	if (source.family != (v4 ? FAMILY_IPV4 : FAMILY_IPV6))
		return false;
	ret->word[0] = source.addr[0];
	ret->word[1] = v4 ? 0 : source.addr[1];
	ret->word[2] = v4 ? 0 : source.addr[2];
	ret->word[3] = v4 ? 0 : source.addr[3];
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
