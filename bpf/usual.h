/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The usual packet: TCP or UDP over Ethernet without options, tags or fragments, in the middle of a connection
 * that this revision allows. Read in place, one lookup, nothing else. Whatever is not exactly that goes the
 * long way (workload.h), which reads the packet again from its first byte.
 */
#ifndef PENSTOCK_USUAL_H
#define PENSTOCK_USUAL_H

#include "bpf/account.h"
#include "bpf/conntrack.h"
#include "bpf/maps.h"
#include "bpf/nfct.h"
#include "bpf/packet.h"
#include "bpf/steer.h"

enum place { FROM_WORKLOAD, TO_WORKLOAD, FROM_NETWORK };

/*
 * True: the packet passes, and has been counted; marked, if it goes to a proxy.
 *
 * The interface must be the one that the entry knows for its end. That proves the source at a workload's own interface
 * (only the long way writes it there), and that there is an Ethernet header (PS_CONN_L3 equals no interface).
 */
static __always_inline bool usual_pass(
	struct __sk_buff *skb, struct ps_conn *conn, bool live, bool high, __u32 bytes, bool v4, bool datagram, bool from)
{
	bool reply = conn_reply(conn, high);
	__u32 own = from == reply ? PS_INGRESS : PS_EGRESS;
	__u32 zero = 0;
	const struct ps_control *control = bpf_map_lookup_elem(&ps_control, &zero);
	__u32 code = PS_VERDICT_FORWARDED, reason = PS_REASON_ESTABLISHED;
	__u64 allowed;

	if (!control)
		return false;
	allowed = judged_word(PS_READ_ONCE(control->generation), PS_JUDGED_ALLOW);
	if (PS_READ_ONCE(conn->judged[own]) != allowed)
		return false;
	if (conn->ifindex[from == reply] != skb->ifindex)
		return false;
	if (from && conn->flags & (PS_CONN_INTERCEPTED | PS_CONN_LEG)) {
		/* The last hook never sees it: both directions count here. A datagram is handed over each time. */
		if (!live || datagram || !conn_marked(conn, high) ||
			(PS_READ_ONCE(conn->judged[!own]) & ~(__u64)PS_JUDGED_NOT_LOCAL) != allowed)
			return false;
		mark_set(skb);
		if (!reply) {
			code = PS_VERDICT_INTERCEPTED;
			reason = PS_REASON_INTERCEPT;
		}
	} else if (from) {
		mark_clear(skb);
	} else {
		if ((PS_READ_ONCE(conn->judged[!own]) & ~(__u64)PS_JUDGED_NOT_LOCAL) != allowed)
			return false;
		if (!reply && conn->flags & PS_CONN_NODE && skb->ingress_ifindex)
			return false;
		if (!reply && (conn->flags & (PS_CONN_REWRITTEN | PS_CONN_LEG) || conn->entered) && !origin_same(skb, conn, v4))
			return false;
	}
	conn_count(conn, reply, from, bytes, coarse_now());
	account_packet(from ? PS_EGRESS : PS_INGRESS, code, reason, bytes);
	return true;
}

/*
 * At an interface that no workload is behind: only what belongs to a proxy is touched. Policy was asked when this
 * revision's word was written; a leg's replies are asked where they end.
 */
static __always_inline bool usual_passes_by(
	struct __sk_buff *skb, struct ps_conn *conn, bool live, bool high, __u32 bytes, bool datagram)
{
	bool reply = conn_reply(conn, high);
	__u32 zero = 0;
	const struct ps_control *control;
	__u64 allowed;

	if (!conn_marked(conn, high))
		return !conn_foreign(conn, high);
	if (!live || datagram)
		return false;
	if (!reply) {
		control = bpf_map_lookup_elem(&ps_control, &zero);
		if (!control)
			return false;
		allowed = judged_word(PS_READ_ONCE(control->generation), PS_JUDGED_ALLOW);
		if (PS_READ_ONCE(conn->judged[PS_INGRESS]) != allowed)
			return false;
		account_packet(PS_INGRESS, PS_VERDICT_INTERCEPTED, PS_REASON_INTERCEPT, bytes);
	}
	mark_set(skb);
	conn_count(conn, reply, true, bytes, coarse_now());
	return true;
}

/* Is it the address of a workload of this node? What goes elsewhere is nobody's here. */
static __always_inline bool ends_here4(__be32 address)
{
	struct ps_key_addr4 key = {.addr = address};
	const struct ps_addr *found;
	__u32 zero = 0;
	const struct ps_control *control = bpf_map_lookup_elem(&ps_control, &zero);

	key.side = control ? PS_READ_ONCE(control->generation) & 1 : 0;
	found = bpf_map_lookup_elem(&ps_addr4, &key);
	return found && found->flags & PS_ADDR_LOCAL;
}

static __always_inline bool ends_here6(const struct address *address)
{
	struct ps_key_addr6 key;
	const struct ps_addr *found;
	__u32 zero = 0;
	const struct ps_control *control = bpf_map_lookup_elem(&ps_control, &zero);

	key.side = control ? PS_READ_ONCE(control->generation) & 1 : 0;
	__builtin_memcpy(key.addr, address->word, sizeof(key.addr));
	found = bpf_map_lookup_elem(&ps_addr6, &key);
	return found && found->flags & PS_ADDR_LOCAL;
}

/* An embryonic entry that this packet moves nowhere: one more from whoever spoke last. A stream that is never answered
 * stays on the short way. */
static __always_inline bool usual_waits(const struct ps_conn *conn, bool high)
{
	return conn && conn->state == (conn_reply(conn, high) ? PS_CONN_REPLIED : PS_CONN_NEW) &&
		   (__s64)(coarse_now() - conn->seen) < (__s64)EMBRYONIC_TIMEOUT;
}

/* `segment` bytes are left for the transport header and what follows. FIN, SYN and RST change states. */
static __always_inline bool usual_ports(
	const void *transport, const void *end, __u8 protocol, __u32 segment, __u16 *source, __u16 *destination)
{
	if (protocol == IPPROTO_TCP) {
		const struct tcphdr *tcp = transport;
		const __u8 *byte = transport;

		if ((const void *)(tcp + 1) > end || byte[13] & 0x07)
			return false;
		if (byte[12] >> 4 < 5 || (byte[12] >> 4) * 4 > segment)
			return false;
		*source = bpf_ntohs(tcp->source);
		*destination = bpf_ntohs(tcp->dest);
		return true;
	}
	if (protocol == IPPROTO_UDP) {
		const struct udphdr *udp = transport;

		if ((const void *)(udp + 1) > end)
			return false;
		if (bpf_ntohs(udp->len) < sizeof(*udp) || bpf_ntohs(udp->len) > segment)
			return false;
		*source = bpf_ntohs(udp->source);
		*destination = bpf_ntohs(udp->dest);
		return true;
	}
	return false;
}

static __always_inline bool usual_ipv4(struct __sk_buff *skb, const struct iphdr *ip, const void *end, enum place place)
{
	__u32 total = bpf_ntohs(ip->tot_len);
	__u16 source, destination;
	struct ps_conn_live *live;
	struct ps_conn *conn;
	struct ps_key_conn4 key;
	bool high;

	if (*(const __u8 *)ip != 0x45 || ip->frag_off & bpf_htons(IP_MORE_FRAGMENTS | IP_OFFSET_MASK))
		return false;
	if (total < sizeof(*ip) || total > skb->len - sizeof(struct ethhdr))
		return false;
	if (!usual_ports(ip + 1, end, ip->protocol, total - sizeof(*ip), &source, &destination))
		return false;
	high = high4(ip->saddr, ip->daddr, source, destination);
	key4_set(&key, high, ip->saddr, ip->daddr, source, destination);
	key.protocol = ip->protocol;
	key.pad[0] = key.pad[1] = key.pad[2] = 0;
	live = bpf_map_lookup_elem(&ps_conn4, &key);
	conn = live ? &live->conn : bpf_map_lookup_elem(&ps_new4, &key);
	if (!conn && place == FROM_NETWORK)
		return !ends_here4(ip->daddr);
	if (!live && !usual_waits(conn, high))
		return false;
	if (place == FROM_NETWORK)
		return usual_passes_by(skb, conn, live, high, total, ip->protocol == IPPROTO_UDP);
	return usual_pass(skb, conn, live, high, total, true, ip->protocol == IPPROTO_UDP, place == FROM_WORKLOAD);
}

static __always_inline bool usual_ipv6(
	struct __sk_buff *skb, const struct ipv6hdr *ip, const void *end, enum place place)
{
	struct address from_address, to_address;
	__u32 payload = bpf_ntohs(ip->payload_len);
	__u16 source, destination;
	struct ps_conn_live *live;
	struct ps_conn *conn;
	struct ps_key_conn6 key __attribute__((aligned(8)));
	bool high;

	if (*(const __u8 *)ip >> 4 != 6)
		return false;
	if (!payload || payload + sizeof(*ip) > skb->len - sizeof(struct ethhdr))
		return false;
	if (!usual_ports(ip + 1, end, ip->nexthdr, payload, &source, &destination))
		return false;
	__builtin_memcpy(&from_address, &ip->saddr, sizeof(from_address));
	__builtin_memcpy(&to_address, &ip->daddr, sizeof(to_address));
	high = high6(&from_address, &to_address, source, destination);
	key6_set(&key, high, &from_address, &to_address, source, destination);
	key.protocol = ip->nexthdr;
	key.pad[0] = key.pad[1] = key.pad[2] = 0;
	live = bpf_map_lookup_elem(&ps_conn6, &key);
	conn = live ? &live->conn : bpf_map_lookup_elem(&ps_new6, &key);
	if (!conn && place == FROM_NETWORK)
		return !ends_here6(&to_address);
	if (!live && !usual_waits(conn, high))
		return false;
	if (place == FROM_NETWORK)
		return usual_passes_by(skb, conn, live, high, payload + sizeof(*ip), ip->nexthdr == IPPROTO_UDP);
	return usual_pass(
		skb, conn, live, high, payload + sizeof(*ip), false, ip->nexthdr == IPPROTO_UDP, place == FROM_WORKLOAD);
}

static __always_inline bool usual_packet(struct __sk_buff *skb, enum place place)
{
	const void *data = (const void *)(long)skb->data, *end = (const void *)(long)skb->data_end;
	const struct ethhdr *link = data;
	const struct iphdr *ip4 = data + sizeof(*link);
	const struct ipv6hdr *ip6 = data + sizeof(*link);

	if ((const void *)(ip4 + 1) > end)
		return false;
	if (link->h_proto == bpf_htons(ETH_P_IP))
		return usual_ipv4(skb, ip4, end, place);
	if (link->h_proto == bpf_htons(ETH_P_IPV6) && (const void *)(ip6 + 1) <= end)
		return usual_ipv6(skb, ip6, end, place);
	return false;
}

#endif
