/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who sends a packet, and to whom: address → class, and workload if it is one's (exact, else longest prefix, else
 * none). */
#ifndef PENSTOCK_PARTY_H
#define PENSTOCK_PARTY_H

#include "bpf/conntrack.h"
#include "bpf/leg.h"
#include "bpf/maps.h"
#include "bpf/nfct.h"
#include "bpf/work.h"

/* ---- addresses ---- */

static __noinline void party_find(struct party *party, const struct address *address, bool v4, __u32 side)
{
	union {
		struct ps_key_addr4 addr4;
		struct ps_key_addr6 addr6;
		struct ps_key_net4 net4;
		struct ps_key_net6 net6;
	} key;
	const struct ps_addr *exact;
	const __u32 *class_id;

	party->class_id = PS_CLASS_NONE;
	party->endpoint = PS_ENDPOINT_NONE;
	party->profile = PS_PROFILE_NONE;
	party->local = party->steered = party->node = 0;
	if (v4) {
		key.addr4.side = side;
		key.addr4.addr = address->v4;
		exact = bpf_map_lookup_elem(&ps_addr4, &key);
	} else {
		key.addr6.side = side;
		__builtin_memcpy(key.addr6.addr, address->word, sizeof(key.addr6.addr));
		exact = bpf_map_lookup_elem(&ps_addr6, &key);
	}
	if (exact) {
		party->class_id = exact->class_id;
		party->endpoint = exact->endpoint;
		party->profile = exact->profile;
		party->local = exact->flags & PS_ADDR_LOCAL;
		party->steered = exact->flags & PS_ADDR_STEERED;
		party->node = exact->flags & PS_ADDR_NODE;
		PS_RETURN_ZERO;
	}
	if (v4) {
		key.net4.prefix_length = 64;
		key.net4.side = side;
		key.net4.addr = address->v4;
		class_id = bpf_map_lookup_elem(&ps_net4, &key);
	} else {
		key.net6.prefix_length = 160;
		key.net6.side = side;
		__builtin_memcpy(key.net6.addr, address->word, sizeof(key.net6.addr));
		class_id = bpf_map_lookup_elem(&ps_net6, &key);
	}
	if (class_id)
		party->class_id = *class_id;
	PS_RETURN_ZERO;
}

static __always_inline const struct ps_endpoint *endpoint_find(__u32 endpoint, __u32 side)
{
	__u32 index = endpoint + side * PS_ENTRIES_endpoint;

	return endpoint < PS_ENTRIES_endpoint ? bpf_map_lookup_elem(&ps_endpoint, &index) : NULL;
}

static __always_inline __u32 iface_endpoint(const struct ps_iface *iface, __u32 side)
{
	return side ? iface->endpoint[1] : iface->endpoint[0];
}

/* A network that the endpoint may use besides its own addresses. */
static __noinline bool endpoint_source(__u32 endpoint, __u32 side, const struct address *address, bool v4)
{
	const struct ps_endpoint *e = endpoint_find(endpoint, side);
	struct ps_key_source key = {.prefix_length = 192, .side = side, .endpoint = endpoint};
	__u32 *word = (__u32 *)key.addr;

	if (!e || !(e->flags & PS_ENDPOINT_SOURCES))
		return false;
	if (v4) {
		word[2] = bpf_htonl(0xffff);
		word[3] = address->v4;
	} else {
		__builtin_memcpy(key.addr, address->word, sizeof(key.addr));
	}
	return bpf_map_lookup_elem(&ps_source, &key) != NULL;
}

/* May the endpoint behind the interface use this address? */
static __always_inline bool address_own(const struct work *w, const struct address *address, __u32 owner)
{
	if (owner == w->endpoint)
		return true;
	if (!w->packet.v4 && link_local(address))
		return true;
	return endpoint_source(w->endpoint, w->side, address, w->packet.v4);
}

/* ---- who the parties are ---- */

/* The party behind this interface: its profile is that of the interface, whatever the address. */
static __always_inline void party_own(struct party *party, const struct work *w)
{
	const struct ps_endpoint *e = endpoint_find(w->endpoint, w->side);

	party->profile = e ? e->profile : PS_PROFILE_NONE;
	party->local = w->endpoint != PS_ENDPOINT_NONE;
}

/*
 * A workload whose packets entered by `ifindex`: its profile. Where the address is none of its own it was rewritten on
 * the way (masquerade): then its own class too. False: no workload is behind that interface.
 */
static __noinline bool party_entered(struct party *party, struct work *w, __u32 ifindex, const struct address *address)
{
	const struct ps_iface *iface = bpf_map_lookup_elem(&ps_iface, &ifindex);
	__u32 endpoint = iface ? iface_endpoint(iface, w->side) : PS_ENDPOINT_NONE;
	const struct ps_endpoint *e = endpoint_find(endpoint, w->side);

	if (endpoint == PS_ENDPOINT_NONE || !e)
		return false;
	party->profile = e->profile;
	party->local = 1;
	if (party->endpoint == endpoint || endpoint_source(endpoint, w->side, address, w->packet.v4))
		return true;
	party->class_id = e->class_id;
	w->entered = ifindex;
	return true;
}

/*
 * Its source was rewritten after it had entered there: which of the workload's addresses it was, if the kernel tells,
 * for they may be of different classes.
 */
static __noinline void party_rewritten(struct __sk_buff *skb, struct work *w)
{
	__u32 ifindex = w->entered;
	const struct ps_iface *iface = bpf_map_lookup_elem(&ps_iface, &ifindex);
	struct aside *aside = aside_get();

	origin_find(skb, w);
	if (!iface || !aside || !(w->known & WORK_ORIGIN))
		PS_RETURN_ZERO;
	party_find(&aside->party, &w->origin, w->packet.v4, w->side);
	if (aside->party.endpoint == iface_endpoint(iface, w->side)) {
		w->source.class_id = aside->party.class_id;
		w->entered = 0;
	} else {
		w->known &= ~WORK_ORIGIN;
	}
	PS_RETURN_ZERO;
}

/* The originator that `origin` names. Of the other family than the packet, it is a client whose proxy went over from
 * one to the other (leg.h). */
static __noinline void party_origin(struct party *party, struct work *w)
{
	struct address origin = w->origin;
	bool v4 = w->packet.v4;

	if (v4) {
		v4 = !origin.word[1] && !origin.half[1];
	} else if (!origin.half[0] && origin.word[2] == bpf_htonl(0xffff)) {
		v4 = true;
		origin.word[0] = origin.word[3];
		origin.half[1] = 0;
	}
	party_find(party, &origin, v4, w->side);
	PS_RETURN_ZERO;
}

/* The originator as the connection knows it: what entered, or by which address. */
static __noinline void party_remembered(struct party *party, struct work *w, const struct address *address)
{
	if (w->known & WORK_ORIGIN)
		party_origin(party, w);
	else if (w->entered)
		party_entered(party, w, w->entered, address);
	PS_RETURN_ZERO;
}

/*
 * Fills both parties. Who judges the source at the last hook, in this order:
 *  1. a socket of this node sent it: the client, if a proxy opened it for one; else, when the source is no workload's,
 *     the node
 *  2. it entered by a claimed interface: the endpoint behind that
 *  3. this node rewrote its address: the address with which it entered
 *  4. its address
 * The connection, if there is one, remembers 2 and 3 of its originator for what shows neither: replies, and errors
 * about the connection. Packets of the workload itself are told by addresses alone.
 */
PS_APART int parties_find(struct __sk_buff *skb, bool from)
{
	struct work *w = work_get(from);

	if (!w)
		return 0;
	if (!(w->known & WORK_SOURCE))
		party_find(&w->source, &w->packet.source, w->packet.v4, w->side);
	if (!(w->known & WORK_DESTINATION))
		party_find(&w->destination, &w->packet.destination, w->packet.v4, w->side);
	w->known |= WORK_SOURCE | WORK_DESTINATION;
	if (from) {
		party_own(&w->source, w);
		if (w->reply)
			party_remembered(&w->destination, w, &w->packet.destination);
		return 0;
	}
	party_own(&w->destination, w);
	if (w->reply)
		return 0;
	if (w->known & WORK_RELATED) {
		party_remembered(&w->source, w, &w->packet.source);
	} else if (skb->ingress_ifindex) {
		if (party_entered(&w->source, w, skb->ingress_ifindex, &w->packet.source)) { /* 2 */
			if (w->entered)
				party_rewritten(skb, w);
			return 0;
		}
		origin_find(skb, w); /* 3, else 4 */
		if (w->known & WORK_ORIGIN)
			party_origin(&w->source, w);
	} else if (w->known & WORK_LEG || leg_find(skb, w)) {
		if (w->known & WORK_ORIGIN) /* 1 */
			party_origin(&w->source, w);
	} else if (allow_local_host && w->source.endpoint == PS_ENDPOINT_NONE) {
		w->known |= WORK_NODE; /* 1 */
	}
	return 0;
}

#endif
