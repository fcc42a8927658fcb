/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Parse: what a packet says about itself. Reads with bpf_skb_load_bytes only, so that paged skbs are as good as linear
 * ones; the usual shape is read in place by usual.h instead.
 *
 * Lengths are checked against the packet's own claim (`end`), and the claim against the skb: Ethernet padding is no
 * part of a packet, and a super-packet (GSO) may be longer than a length field can say, which then is 0.
 */
#ifndef PENSTOCK_PACKET_H
#define PENSTOCK_PACKET_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "bpf/maps.h"
#include "bpf/verifier.h"

enum packet_kind {
	PACKET_JUDGED,
	PACKET_UNJUDGED,  /* ARP, ND, MLD, IGMP, DHCP */
	PACKET_MALFORMED, /* cut short, contradictory, too many headers */
	PACKET_ORPHAN,    /* a later fragment whose first one did not pass here */
	PACKET_FOREIGN,   /* not IP: judged as an address that nobody describes */
};

#define PACKET_STARTS 1u /* can only begin a connection: TCP SYN, ICMP request */
#define PACKET_FIN 2u
#define PACKET_RST 4u
#define PACKET_LONELY 8u   /* belongs to no connection of its own: ICMP that is no request */
#define PACKET_ERROR 16u   /* ICMP error: `embedded` is the offset of the packet it is about */
#define PACKET_FIRST 32u   /* first of several fragments */
#define PACKET_LATER 64u   /* its ports are those of the first fragment */
#define PACKET_ANSWER 128u /* ICMP reply: never begins anything */
#define PACKET_ALONE 256u  /* whatever entry has its addresses and ports is about something else */
#define PACKET_SYN 512u    /* TCP SYN, with or without ACK */
#define PACKET_OPENED 1u
#define PACKET_CLOSED 2u

struct address {
	union {
		__be32 v4; /* the rest is zero */
		__u8 v6[16];
		__u32 word[4];
		__u64 half[2];
	};
};

struct packet {
	union {
		struct ps_key_conn4 key4;
		struct ps_key_conn6 key6;
	};
	struct address source, destination;
	__u32 bytes; /* layer 3 */
	__u32 end;   /* offset in the skb of the first byte behind the packet */
	__u32 fragment_id;
	__u16 source_port, destination_port; /* ICMP requests and replies: the identifier, twice */
	__u16 embedded;
	__u16 transport;        /* offset in the skb of the header behind IP's; not of later fragments */
	__u16 traits;           /* PACKET_* */
	__u8 fragment_protocol; /* what the fragment's own header says comes next */
	__u8 protocol;
	__u8 v4;
	__u8 high; /* the source is the key's second address */
	__u8 hops; /* hop limit, TTL */
	__u8 told; /* PACKET_OPENED, PACKET_CLOSED: what it did to its connection */
};

#define VLAN_TAGS_MAX 2
#define EXTENSIONS_MAX 8
#define IP_MORE_FRAGMENTS 0x2000
#define IP_OFFSET_MASK 0x1fff

struct vlan_tag {
	__be16 tci;
	__be16 type;
};
struct extension {
	__u8 next;
	__u8 length;
	__be16 offset; /* fragment header: offset and flags */
	__be32 id;
};
struct ports {
	__be16 source, destination;
};

/* linux/icmp.h wants the C library's headers. */
enum icmp4_type {
	ICMP4_ECHO_REPLY = 0,
	ICMP4_UNREACHABLE = 3,
	ICMP4_SOURCE_QUENCH = 4,
	ICMP4_ECHO = 8,
	ICMP4_TIME_EXCEEDED = 11,
	ICMP4_PARAMETER_PROBLEM = 12,
	ICMP4_TIMESTAMP = 13,
	ICMP4_TIMESTAMP_REPLY = 14,
	ICMP4_INFORMATION = 15,
	ICMP4_INFORMATION_REPLY = 16,
	ICMP4_MASK = 17,
	ICMP4_MASK_REPLY = 18,
};
enum icmp6_type {
	ICMP6_FIRST_INFORMATIONAL = 128, /* below: errors */
	ICMP6_ECHO = 128,
	ICMP6_ECHO_REPLY = 129,
	ICMP6_MLD_QUERY = 130,
	ICMP6_MLD_DONE = 132,
	ICMP6_ROUTER_SOLICITATION = 133,
	ICMP6_REDIRECT = 137,
	ICMP6_MLD2_REPORT = 143,
};

static __always_inline bool link_local(const struct address *address)
{
	return (address->word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

/* The address that a socket is bound to. Volatile: clang would choose between two fields' addresses (PS_OPAQUE). */
static __always_inline void sock_address(const struct bpf_sock *sk, bool v4, struct address *ret)
{
	__u32 word4 = PS_READ_ONCE(sk->src_ip4);

	for (int i = 0; i < 4; i++)
		ret->word[i] = PS_READ_ONCE(sk->src_ip6[i]);
	if (!v4)
		return;
	ret->half[0] = ret->half[1] = 0;
	ret->v4 = word4;
}

/* The lower (address, port) first: one key for both directions. */
static __always_inline void key4_set(
	struct ps_key_conn4 *key, bool high, __be32 source, __be32 destination, __u16 source_port, __u16 destination_port)
{
	key->addr[0] = high ? destination : source;
	key->addr[1] = high ? source : destination;
	key->port[0] = high ? destination_port : source_port;
	key->port[1] = high ? source_port : destination_port;
}

static __always_inline bool high4(__be32 source, __be32 destination, __u16 source_port, __u16 destination_port)
{
	return source == destination ? source_port > destination_port : bpf_ntohl(source) > bpf_ntohl(destination);
}

static __always_inline bool high6(
	const struct address *source, const struct address *destination, __u16 source_port, __u16 destination_port)
{
	if (source->half[0] != destination->half[0])
		return bpf_be64_to_cpu(source->half[0]) > bpf_be64_to_cpu(destination->half[0]);
	if (source->half[1] != destination->half[1])
		return bpf_be64_to_cpu(source->half[1]) > bpf_be64_to_cpu(destination->half[1]);
	return source_port > destination_port;
}

static __always_inline void key6_set(struct ps_key_conn6 *key, bool high, const struct address *source,
	const struct address *destination, __u16 source_port, __u16 destination_port)
{
	__u64 *half = (__u64 *)key;

	/* Whole words: the key is 8-byte aligned on the stack, and clang copies byte arrays byte by byte. */
	half[0] = high ? destination->half[0] : source->half[0];
	half[1] = high ? destination->half[1] : source->half[1];
	half[2] = high ? source->half[0] : destination->half[0];
	half[3] = high ? source->half[1] : destination->half[1];
	key->port[0] = high ? destination_port : source_port;
	key->port[1] = high ? source_port : destination_port;
}

static __noinline void packet_key(struct packet *p)
{
	__u64 *half = (__u64 *)&p->key6;

	half[0] = half[1] = half[2] = half[3] = half[4] = 0;
	if (p->v4) {
		p->high = high4(p->source.v4, p->destination.v4, p->source_port, p->destination_port);
		key4_set(&p->key4, p->high, p->source.v4, p->destination.v4, p->source_port, p->destination_port);
		p->key4.protocol = p->protocol;
	} else {
		p->high = high6(&p->source, &p->destination, p->source_port, p->destination_port);
		key6_set(&p->key6, p->high, &p->source, &p->destination, p->source_port, p->destination_port);
		p->key6.protocol = p->protocol;
	}
	PS_RETURN_ZERO;
}

/* ---- fragments ---- */

static __always_inline void fragment_key(struct ps_key_fragment *key, const struct packet *p, bool from)
{
	__u64 *half = (__u64 *)key;

	half[0] = p->source.half[0];
	half[1] = p->source.half[1];
	half[2] = p->destination.half[0];
	half[3] = p->destination.half[1];
	half[4] = 0;
	key->id = p->fragment_id;
	key->protocol = p->fragment_protocol;
	key->hook = from ? 0 : 1;
	key->pad[0] = p->v4; /* 1.2.3.4 is not 102:304:: */
}

/* Only after the first fragment has passed: what follows a dropped one finds nothing. */
static __noinline void fragment_remember(const struct packet *p, bool from)
{
	struct ps_fragment ports = {
		.source_port = p->source_port, .destination_port = p->destination_port, .protocol = p->protocol};
	struct ps_key_fragment key;

	fragment_key(&key, p, from);
	bpf_map_update_elem(&ps_fragment, &key, &ports, BPF_ANY);
	PS_RETURN_ZERO;
}

static __noinline int fragment_later(struct packet *p, bool from)
{
	struct ps_key_fragment key;
	const struct ps_fragment *ports;

	fragment_key(&key, p, from);
	ports = bpf_map_lookup_elem(&ps_fragment, &key);
	if (!ports)
		return PACKET_ORPHAN;
	p->source_port = ports->source_port;
	p->destination_port = ports->destination_port;
	p->protocol = ports->protocol;
	p->traits |= PACKET_LATER;
	return PACKET_JUDGED;
}

/* ---- transport ---- */

static __always_inline int parse_tcp(struct __sk_buff *skb, struct packet *p, __u32 at)
{
	struct {
		struct ports ports;
		__u32 sequence[2];
		__u8 header_words;
		__u8 flags;
	} __attribute__((packed)) tcp;

	/* The flags too, also in a first fragment: without them a SYN could pass for the middle of a connection (RFC 1858).
	 */
	if (at + sizeof(tcp) > p->end || bpf_skb_load_bytes(skb, at, &tcp, sizeof(tcp)))
		return PACKET_MALFORMED;
	if (tcp.header_words >> 4 < 5)
		return PACKET_MALFORMED;
	if (!(p->traits & PACKET_FIRST) && at + (tcp.header_words >> 4) * 4 > p->end)
		return PACKET_MALFORMED;
	p->source_port = bpf_ntohs(tcp.ports.source);
	p->destination_port = bpf_ntohs(tcp.ports.destination);
	if ((tcp.flags & 0x16) == 0x02) /* SYN, neither ACK nor RST */
		p->traits |= PACKET_STARTS;
	if (tcp.flags & 0x02)
		p->traits |= PACKET_SYN;
	if (tcp.flags & 0x01)
		p->traits |= PACKET_FIN;
	if (tcp.flags & 0x04)
		p->traits |= PACKET_RST;
	return PACKET_JUDGED;
}

/* UDP, SCTP: `size` is the header's. */
static __always_inline int parse_ports(struct __sk_buff *skb, struct packet *p, __u32 at, __u32 size, bool from)
{
	struct {
		struct ports ports;
		__be16 length;
		__be16 checksum;
	} udp;

	if (p->traits & PACKET_FIRST)
		size = sizeof(udp);
	if (at + size > p->end || bpf_skb_load_bytes(skb, at, &udp, sizeof(udp)))
		return PACKET_MALFORMED;
	p->source_port = bpf_ntohs(udp.ports.source);
	p->destination_port = bpf_ntohs(udp.ports.destination);
	if (p->protocol != IPPROTO_UDP)
		return PACKET_JUDGED;
	if (bpf_ntohs(udp.length) < sizeof(udp) && !skb->gso_size)
		return PACKET_MALFORMED;
	if (!(p->traits & PACKET_FIRST) && at + bpf_ntohs(udp.length) > p->end)
		return PACKET_MALFORMED;
	/* The workload is the client. */
	if (p->v4 && p->source_port == (from ? 68 : 67) && p->destination_port == (from ? 67 : 68))
		return PACKET_UNJUDGED;
	if (!p->v4 && p->source_port == (from ? 546 : 547) && p->destination_port == (from ? 547 : 546))
		return PACKET_UNJUDGED;
	return PACKET_JUDGED;
}

struct icmp_head {
	__u8 type, code;
	__be16 checksum;
	__be16 id;
	__be16 sequence;
};

/* Echo, timestamp, information, address mask: requests and replies that carry an identifier. */
static __always_inline bool icmp4_request(__u8 type)
{
	return type == ICMP4_ECHO || type == ICMP4_TIMESTAMP || type == ICMP4_INFORMATION || type == ICMP4_MASK;
}

static __always_inline bool icmp4_reply(__u8 type)
{
	return type == ICMP4_ECHO_REPLY || type == ICMP4_TIMESTAMP_REPLY || type == ICMP4_INFORMATION_REPLY ||
		   type == ICMP4_MASK_REPLY;
}

static __always_inline int parse_icmp(struct __sk_buff *skb, struct packet *p, __u32 at)
{
	struct icmp_head icmp;
	bool request, reply, error;

	if (at + sizeof(icmp) > p->end || bpf_skb_load_bytes(skb, at, &icmp, sizeof(icmp)))
		return PACKET_MALFORMED;
	if (p->v4) {
		request = icmp4_request(icmp.type);
		reply = icmp4_reply(icmp.type);
		error = icmp.type == ICMP4_UNREACHABLE || icmp.type == ICMP4_SOURCE_QUENCH ||
				icmp.type == ICMP4_TIME_EXCEEDED || icmp.type == ICMP4_PARAMETER_PROBLEM;
	} else {
		/* Neighbour and router discovery counts only when it cannot have been forwarded (RFC 4861, 6.1, 7.1, 8.1). */
		if (icmp.type >= ICMP6_ROUTER_SOLICITATION && icmp.type <= ICMP6_REDIRECT && p->hops == 255)
			return PACKET_UNJUDGED;
		if ((icmp.type >= ICMP6_MLD_QUERY && icmp.type <= ICMP6_MLD_DONE) || icmp.type == ICMP6_MLD2_REPORT)
			return PACKET_UNJUDGED;
		request = icmp.type == ICMP6_ECHO;
		reply = icmp.type == ICMP6_ECHO_REPLY;
		error = icmp.type < ICMP6_FIRST_INFORMATIONAL;
	}
	if (request || reply) {
		p->source_port = p->destination_port = bpf_ntohs(icmp.id);
		p->traits |= request ? PACKET_STARTS : PACKET_ANSWER;
	} else {
		p->traits |= PACKET_LONELY;
	}
	if (error && !(p->traits & PACKET_FIRST)) {
		p->traits |= PACKET_ERROR;
		p->embedded = at + sizeof(icmp);
	}
	return PACKET_JUDGED;
}

static __noinline int parse_transport(struct __sk_buff *skb, struct packet *p, __u32 at, bool from)
{
	p->transport = at;
	switch (p->protocol) {
	case IPPROTO_TCP:
		return parse_tcp(skb, p, at);
	case IPPROTO_UDP:
		return parse_ports(skb, p, at, 8, from);
	case IPPROTO_SCTP:
		return parse_ports(skb, p, at, 12, from);
	case IPPROTO_IGMP:
		return p->v4 ? PACKET_UNJUDGED : PACKET_JUDGED;
	case IPPROTO_ICMP:
		return p->v4 ? parse_icmp(skb, p, at) : PACKET_JUDGED;
	case IPPROTO_ICMPV6:
		return p->v4 ? PACKET_JUDGED : parse_icmp(skb, p, at);
	}
	return PACKET_JUDGED;
}

/* ---- network ---- */

static __noinline int parse_ipv4(struct __sk_buff *skb, struct packet *p, __u32 at, bool from)
{
	struct iphdr ip;
	__u32 total, header, fragment, left = skb->len - at;

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) || ip.version != 4)
		return PACKET_MALFORMED;
	header = ip.ihl * 4;
	total = bpf_ntohs(ip.tot_len);
	if (!total && skb->gso_size)
		total = left;
	if (header < sizeof(ip) || total < header || total > left)
		return PACKET_MALFORMED;
	p->v4 = 1;
	p->bytes = total;
	p->end = at + total;
	p->hops = ip.ttl;
	p->source.v4 = ip.saddr;
	p->destination.v4 = ip.daddr;
	p->protocol = p->fragment_protocol = ip.protocol;
	fragment = bpf_ntohs(ip.frag_off);
	if (fragment & (IP_MORE_FRAGMENTS | IP_OFFSET_MASK)) {
		p->fragment_id = ip.id;
		/* Would write over the flags of the first fragment's header (RFC 3128). */
		if ((fragment & IP_OFFSET_MASK) == 1 && ip.protocol == IPPROTO_TCP)
			return PACKET_MALFORMED;
		if (fragment & IP_OFFSET_MASK)
			return fragment_later(p, from);
		p->traits |= PACKET_FIRST;
	}
	return parse_transport(skb, p, at + header, from);
}

/* Where a walk over extension headers is, and what it found. */
struct walk {
	__u32 at, end;
	__u32 id;       /* of the fragment header */
	__u16 fragment; /* offset and flags as in the fragment header; 0: none, or nothing was cut */
	__u8 next;
	__u8 fragment_protocol;
};

/* Follows the chain to the first header that is none of IPv6's own. PACKET_MALFORMED: cut short, misplaced, too many.
 */
static __noinline int walk_extensions(struct __sk_buff *skb, struct walk *walk)
{
	struct extension extension;

	for (int i = 0; i < EXTENSIONS_MAX; i++) {
		switch (walk->next) {
		case IPPROTO_HOPOPTS:
			if (i)
				return PACKET_MALFORMED; /* only directly behind the IPv6 header */
			break;
		case IPPROTO_ROUTING:
		case IPPROTO_DSTOPTS:
		case IPPROTO_AH:
		case IPPROTO_FRAGMENT:
			break;
		default:
			return PACKET_JUDGED;
		}
		if (walk->at + sizeof(extension) > walk->end ||
			bpf_skb_load_bytes(skb, walk->at, &extension, sizeof(extension)))
			return PACKET_MALFORMED;
		if (walk->next == IPPROTO_FRAGMENT) {
			if (walk->fragment)
				return PACKET_MALFORMED; /* a fragment within a fragment */
			walk->fragment = bpf_ntohs(extension.offset) & 0xfff9;
			walk->id = extension.id;
			walk->fragment_protocol = extension.next;
			walk->at += sizeof(extension);
			walk->next = extension.next;
			if (walk->fragment & 0xfff8)
				return PACKET_JUDGED; /* payload from here on */
			continue;
		}
		walk->at += walk->next == IPPROTO_AH ? (extension.length + 2) * 4 : (extension.length + 1) * 8;
		if (walk->at > walk->end)
			return PACKET_MALFORMED;
		walk->next = extension.next;
	}
	return PACKET_MALFORMED;
}

static __noinline int parse_ipv6(struct __sk_buff *skb, struct packet *p, __u32 at, bool from)
{
	struct ipv6hdr ip;
	struct walk walk = {};
	__u32 payload, left = skb->len - at;

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) || ip.version != 6)
		return PACKET_MALFORMED;
	payload = bpf_ntohs(ip.payload_len);
	if (!payload && skb->gso_size)
		payload = left - sizeof(ip);
	if (payload + sizeof(ip) > left)
		return PACKET_MALFORMED;
	p->v4 = 0;
	p->bytes = payload + sizeof(ip);
	p->end = at + p->bytes;
	p->hops = ip.hop_limit;
	__builtin_memcpy(&p->source, &ip.saddr, sizeof(p->source));
	__builtin_memcpy(&p->destination, &ip.daddr, sizeof(p->destination));
	walk.at = at + sizeof(ip);
	walk.end = p->end;
	walk.next = ip.nexthdr;
	if (walk_extensions(skb, &walk) != PACKET_JUDGED)
		return PACKET_MALFORMED;
	p->protocol = walk.next;
	if (walk.fragment) {
		p->fragment_id = walk.id;
		p->fragment_protocol = walk.fragment_protocol;
		if (walk.fragment & 0xfff8)
			return fragment_later(p, from);
		p->traits |= PACKET_FIRST;
	}
	return parse_transport(skb, p, walk.at, from);
}

/* Fills all of *p but the key. l3: the interface has no link-layer header. */
static __noinline int packet_parse(struct __sk_buff *skb, struct packet *p, bool l3, bool from)
{
	struct vlan_tag tag;
	__be16 type;
	__u32 at = 0;
	__u8 first;

	if (l3) {
		if (bpf_skb_load_bytes(skb, 0, &first, 1))
			return PACKET_MALFORMED;
		if (first >> 4 == 4)
			return parse_ipv4(skb, p, 0, from);
		return first >> 4 == 6 ? parse_ipv6(skb, p, 0, from) : PACKET_FOREIGN;
	}
	if (bpf_skb_load_bytes(skb, offsetof(struct ethhdr, h_proto), &type, sizeof(type)))
		return PACKET_MALFORMED;
	at = sizeof(struct ethhdr);
	for (int i = 0; type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD); i++) {
		if (i == VLAN_TAGS_MAX || bpf_skb_load_bytes(skb, at, &tag, sizeof(tag)))
			return PACKET_MALFORMED;
		type = tag.type;
		at += sizeof(tag);
	}
	switch (type) {
	case bpf_htons(ETH_P_IP):
		return parse_ipv4(skb, p, at, from);
	case bpf_htons(ETH_P_IPV6):
		return parse_ipv6(skb, p, at, from);
	case bpf_htons(ETH_P_ARP):
		return PACKET_UNJUDGED;
	}
	return PACKET_FOREIGN;
}

/* ---- the packet inside an ICMP error ---- */

/*
 * Turns *p into an answer to the packet that the error is about: addresses, ports and key are as if its destination
 * replied to its source, for that is the way the error goes. An error that does not go to whoever sent the packet is
 * about nothing. 0, or -1 with *p spoiled: the caller keeps what it needs.
 */
static __noinline int packet_embedded(struct __sk_buff *skb, struct packet *p)
{
	struct icmp_head head; /* of TCP, UDP, SCTP the first four bytes: the ports */
	struct walk walk = {};

	walk.end = p->end;
	if (p->v4) {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, p->embedded, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
			return -1;
		if (ip.saddr != p->destination.v4 || ip.frag_off & bpf_htons(IP_OFFSET_MASK))
			return -1;
		p->source.v4 = ip.daddr;
		walk.next = ip.protocol;
		walk.at = p->embedded + ip.ihl * 4;
	} else {
		struct ipv6hdr ip;
		struct address sender;

		if (bpf_skb_load_bytes(skb, p->embedded, &ip, sizeof(ip)) || ip.version != 6)
			return -1;
		__builtin_memcpy(&sender, &ip.saddr, sizeof(sender));
		if (sender.half[0] != p->destination.half[0] || sender.half[1] != p->destination.half[1])
			return -1;
		__builtin_memcpy(&p->source, &ip.daddr, sizeof(p->source));
		walk.next = ip.nexthdr;
		walk.at = p->embedded + sizeof(ip);
		if (walk_extensions(skb, &walk) != PACKET_JUDGED || walk.fragment & 0xfff8)
			return -1;
	}
	if (walk.at + sizeof(head) > p->end || bpf_skb_load_bytes(skb, walk.at, &head, sizeof(head)))
		return -1;
	p->protocol = walk.next;
	if (p->protocol == (p->v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6)) {
		p->source_port = p->destination_port = bpf_ntohs(head.id);
	} else if (p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP || p->protocol == IPPROTO_SCTP) {
		p->source_port = bpf_ntohs(head.checksum);
		p->destination_port = (__u16)head.type << 8 | head.code;
	}
	packet_key(p);
	return 0;
}

#endif
