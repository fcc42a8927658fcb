/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Refuse with an answer (denyWith: reject): the refused packet becomes the answer to itself, and goes back the way it
 * came, as if its destination had answered. What a workload sent goes out of its interface again; what was to be
 * delivered to a workload enters by that one's interface as if the workload had sent it: the stack leads it like any
 * reply, through the NAT of this node, to the sender wherever that is.
 *
 *   TCP           RST (RFC 9293, 3.5.2, 3.10.7.1); not limited: never longer than the segment, and it ends the attempt
 *   all else      ICMP 3, code 13; ICMPv6 1, code 1: at most REJECT_RATE a second and CPU
 *
 * On its way an answer meets the hooks of both ends, which let it pass by its mark: a bit of mark_mask that only this
 * file sets. A packet of a workload cannot have it: the kernel clears the mark of what comes out of another network
 * namespace, and what a VM sends never had one. And whatever may have set it, only a RST or one of these two errors
 * passes by it.
 */
#ifndef PENSTOCK_REJECT_H
#define PENSTOCK_REJECT_H

#include "bpf/inet.h"
#include "bpf/maps.h"
#include "bpf/packet.h"
#include "bpf/steer.h"
#include "bpf/work.h"

#define REJECT_RATE 1000u /* ICMP errors a second and CPU: as many as the kernel itself sends of its own */
#define REJECT_BURST 50u
#define REJECT_TTL 64
#define REJECT_MAX4 576u  /* RFC 1812, 4.3.2.3 */
#define REJECT_MAX6 1280u /* RFC 4443, 2.4 (c) */
#define REJECT_CUT 128u   /* longer than any header in front of a checksum that is still to be completed */

#define ICMP4_PROHIBITED 13
#define ICMP6_UNREACHABLE 1
#define ICMP6_PROHIBITED 1
#define TCP_FLAG_FIN 0x01
#define TCP_FLAG_SYN 0x02
#define TCP_FLAG_RST 0x04
#define TCP_FLAG_ACK 0x10

struct segment {
	__be16 source, destination;
	__be32 sequence, acknowledgment;
	__u8 header_words, flags;
	__be16 window, checksum, urgent;
};

struct unreachable {
	__u8 type, code;
	__be16 checksum;
	__be32 unused;
};

/*
 * The answer while it is built, and how many errors may still be sent. Written and read by programs, each CPU its own;
 * never pinned.
 */
struct answer {
	__u64 filled; /* ns: up to when the bucket has been filled */
	__u32 tokens;
	__u32 size; /* of the packet */
	union {
		struct {
			struct iphdr ip4;
			union {
				struct segment segment4;
				struct {
					struct unreachable error4;
					__u8 quote4[REJECT_MAX4 - 28];
				};
			};
		};
		struct {
			struct ipv6hdr ip6;
			union {
				struct segment segment6;
				struct {
					struct unreachable error6;
					__u8 quote6[REJECT_MAX6 - 48];
				};
			};
		};
		__u8 bytes[REJECT_MAX6];
	};
	__u8 room[512]; /* behind the longest packet: what the verifier believes is read */
};
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct answer);
} answer SEC(".maps");

static __always_inline struct answer *answer_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&answer, &zero);
}

/* ---- who is answered ---- */

static __always_inline bool reason_answered(__u32 reason)
{
	return reason == PS_REASON_POLICY || reason == PS_REASON_ISOLATED || reason == PS_REASON_NO_LISTENER;
}

/* Unicast, and of somebody else than the host itself (RFC 1122, 3.2.1.3). */
static __always_inline bool address_answers(const struct address *address, bool v4)
{
	if (v4) {
		__u32 first = bpf_ntohl(address->v4) >> 24;

		return first && first != 127 && first < 224;
	}
	if ((address->word[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000))
		return false;
	return address->half[0] || address->word[2] || bpf_ntohl(address->word[3]) > 1;
}

/* RFC 1122, 3.2.2 and RFC 4443, 2.4 (e): what no error may be sent about; of TCP, no RST about a RST. */
static __always_inline bool packet_answered(const struct packet *p)
{
	if (p->traits & (PACKET_LATER | PACKET_ALONE | PACKET_RST))
		return false;
	/* ICMP that is neither request nor reply. */
	if (p->traits & PACKET_LONELY)
		return false;
	return address_answers(&p->source, p->v4) && address_answers(&p->destination, p->v4);
}

static __always_inline bool bucket_take(struct answer *a, __u64 now)
{
	__u64 period = 1000000000u / REJECT_RATE, fresh = now > a->filled ? (now - a->filled) / period : 0;

	if (fresh >= REJECT_BURST) {
		a->tokens = REJECT_BURST;
		a->filled = now;
	} else {
		a->tokens += fresh;
		a->filled += fresh * period;
		if (a->tokens > REJECT_BURST)
			a->tokens = REJECT_BURST;
	}
	if (!a->tokens)
		return false;
	a->tokens--;
	return true;
}

/* ---- checksums ---- */

static __always_inline __be16 sum_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* Of `size` bytes, which are followed by as many zeroes as the last word of four lacks. */
static __always_inline __u64 sum_bytes(const __u8 *bytes, __u32 size, __u64 sum)
{
	__s64 part;

	size = (size + 3) & ~3u;
	for (__u32 at = 0; at < REJECT_MAX6; at += 512) {
		__u32 left = size - at;

		if (size <= at)
			break;
		if (left > 512)
			left = 512;
		part = bpf_csum_diff(NULL, 0, (__be32 *)(bytes + at), left, 0);
		if (part < 0)
			return 0;
		sum += (__u32)part;
	}
	return sum;
}

/* Of the pseudo header: RFC 9293, 3.1; RFC 8200, 8.1. */
static __always_inline __u64 sum_pseudo4(const struct iphdr *ip, __u32 length)
{
	return (__u64)ip->saddr + ip->daddr + bpf_htonl(length) + bpf_htonl(ip->protocol);
}

static __always_inline __u64 sum_pseudo6(const struct ipv6hdr *ip, __u32 length)
{
	const __u32 *words = (const __u32 *)&ip->saddr;
	__u64 sum = (__u64)bpf_htonl(length) + bpf_htonl(ip->nexthdr);

	for (int i = 0; i < 8; i++)
		sum += words[i];
	return sum;
}

/* ---- the answer ---- */

static __always_inline void answer_ipv4(struct answer *a, const struct packet *p, __u8 protocol, __u32 size)
{
	__builtin_memset(&a->ip4, 0, sizeof(a->ip4));
	a->ip4.version = 4;
	a->ip4.ihl = 5;
	a->ip4.tos = protocol == IPPROTO_ICMP ? 0xc0 : 0; /* RFC 1812, 4.3.2.5 */
	a->ip4.tot_len = bpf_htons(size);
	a->ip4.frag_off = bpf_htons(0x4000);
	a->ip4.ttl = REJECT_TTL;
	a->ip4.protocol = protocol;
	a->ip4.saddr = p->destination.v4;
	a->ip4.daddr = p->source.v4;
	a->ip4.check = sum_fold(sum_bytes(a->bytes, sizeof(a->ip4), 0));
	a->size = size;
}

static __always_inline void answer_ipv6(struct answer *a, const struct packet *p, __u8 protocol, __u32 size)
{
	__builtin_memset(&a->ip6, 0, sizeof(a->ip6));
	a->ip6.version = 6;
	a->ip6.payload_len = bpf_htons(size - sizeof(a->ip6));
	a->ip6.nexthdr = protocol;
	a->ip6.hop_limit = REJECT_TTL;
	__builtin_memcpy(&a->ip6.saddr, &p->destination, sizeof(a->ip6.saddr));
	__builtin_memcpy(&a->ip6.daddr, &p->source, sizeof(a->ip6.daddr));
	a->size = size;
}

/* RFC 9293, 3.10.7.1: how to answer a segment of a connection that is CLOSED. Field by field: PS_NO_CONST_COPY. */
static __noinline int answer_reset(struct __sk_buff *skb, const struct packet *p, struct answer *a)
{
	struct segment *rst = p->v4 ? &a->segment4 : &a->segment6;
	struct segment old;
	__u32 length;
	__u64 pseudo;

	if (bpf_skb_load_bytes(skb, p->transport, &old, sizeof(old)))
		return -1;
	rst->source = old.destination;
	rst->destination = old.source;
	rst->sequence = old.acknowledgment;
	rst->acknowledgment = 0;
	rst->header_words = sizeof(*rst) / 4 << 4;
	rst->flags = TCP_FLAG_RST;
	rst->window = rst->checksum = rst->urgent = 0;
	if (!(old.flags & TCP_FLAG_ACK)) {
		if (p->traits & PACKET_FIRST)
			return -1; /* how long is it? */
		length = p->end - p->transport - (old.header_words >> 4) * 4;
		length += !!(old.flags & TCP_FLAG_SYN) + !!(old.flags & TCP_FLAG_FIN);
		rst->sequence = 0;
		rst->acknowledgment = bpf_htonl(bpf_ntohl(old.sequence) + length);
		rst->flags = TCP_FLAG_RST | TCP_FLAG_ACK;
	}
	if (p->v4) {
		answer_ipv4(a, p, IPPROTO_TCP, sizeof(a->ip4) + sizeof(*rst));
		pseudo = sum_pseudo4(&a->ip4, sizeof(*rst));
	} else {
		answer_ipv6(a, p, IPPROTO_TCP, sizeof(a->ip6) + sizeof(*rst));
		pseudo = sum_pseudo6(&a->ip6, sizeof(*rst));
	}
	rst->checksum = sum_fold(sum_bytes((const __u8 *)rst, sizeof(*rst), pseudo));
	return 0;
}

static __always_inline void error_set(struct unreachable *error, __u8 type, __u8 code)
{
	error->type = type;
	error->code = code;
	error->checksum = 0;
	error->unused = 0;
}

/* Quotes of the packet what fits. */
static __noinline int answer_error4(struct __sk_buff *skb, const struct packet *p, struct answer *a)
{
	__u32 quote = p->bytes;

	if (quote > sizeof(a->quote4))
		quote = sizeof(a->quote4);
	if (!quote || bpf_skb_load_bytes(skb, p->end - p->bytes, a->quote4, quote))
		return -1;
	*(__u32 *)((__u8 *)a->quote4 + quote) = 0;
	error_set(&a->error4, ICMP4_UNREACHABLE, ICMP4_PROHIBITED);
	answer_ipv4(a, p, IPPROTO_ICMP, sizeof(a->ip4) + sizeof(a->error4) + quote);
	a->error4.checksum = sum_fold(sum_bytes((__u8 *)&a->error4, sizeof(a->error4) + quote, 0));
	return 0;
}

static __noinline int answer_error6(struct __sk_buff *skb, const struct packet *p, struct answer *a)
{
	__u32 quote = p->bytes, length;

	if (quote > sizeof(a->quote6))
		quote = sizeof(a->quote6);
	if (!quote || bpf_skb_load_bytes(skb, p->end - p->bytes, a->quote6, quote))
		return -1;
	*(__u32 *)((__u8 *)a->quote6 + quote) = 0;
	length = sizeof(a->error6) + quote;
	error_set(&a->error6, ICMP6_UNREACHABLE, ICMP6_PROHIBITED);
	answer_ipv6(a, p, IPPROTO_ICMPV6, sizeof(a->ip6) + length);
	a->error6.checksum = sum_fold(sum_bytes((__u8 *)&a->error6, length, sum_pseudo6(&a->ip6, length)));
	return 0;
}

static __always_inline int answer_build(struct __sk_buff *skb, const struct packet *p, struct answer *a, __u64 now)
{
	if (p->protocol == IPPROTO_TCP)
		return answer_reset(skb, p, a);
	if (!bucket_take(a, now))
		return -1;
	return p->v4 ? answer_error4(skb, p, a) : answer_error6(skb, p, a);
}

/* ---- the packet becomes the answer ---- */

/* To whom the frame came from. A frame for many is not answered. */
static __always_inline int frame_turn(struct __sk_buff *skb)
{
	__u8 frame[12], turned[12];

	if (bpf_skb_load_bytes(skb, 0, frame, sizeof(frame)) || (frame[0] | frame[6]) & 1)
		return -1;
	__builtin_memcpy(turned, frame + 6, 6);
	__builtin_memcpy(turned + 6, frame, 6);
	return bpf_skb_store_bytes(skb, 0, turned, sizeof(turned), 0) ? -1 : 0;
}

/*
 * Makes the skb as long as the answer. Longer first, and shorter again by what is cut behind the link header: so it is
 * no super-packet any more, and forgets that the old packet's checksum was still to be completed (which would write
 * into the answer). Kernels that do not forget it are seen to.
 */
static __always_inline int skb_renew(struct __sk_buff *skb, __u32 at, struct answer *a)
{
	if (bpf_skb_change_tail(skb, at + a->size + REJECT_CUT, 0))
		return -1;
	if (bpf_skb_adjust_room(skb, -(__s32)REJECT_CUT, BPF_ADJ_ROOM_MAC, 0))
		return -1;
	if (skb_unfinished(skb))
		return -1;
	return 0;
}

/* A transparent socket of this node sent the packet, with whatever address. */
static __always_inline bool packet_transparent(struct __sk_buff *skb)
{
	const struct tcp_sock *tcp;
	struct bpf_sock *sk = skb->sk;

	if (!sk || skb->ingress_ifindex)
		return false;
	tcp = bpf_skc_to_tcp_sock(sk);
	return tcp && sock_transparent(tcp);
}

/*
 * The packet that work_get(from) describes, refused: answered if it may be, and then counted Rejected. inwards: as if
 * it had come from the interface; else out of it.
 */
PS_APART int reject_packet(struct __sk_buff *skb, bool from, bool inwards)
{
	struct work *w = work_get(from);
	struct answer *a = answer_get();
	__u32 at, size, mark = mark_answer;

	if (!w || !a)
		return PS_DROP;
	at = w->packet.end - w->packet.bytes;
	/* Tags within the frame are left to silence. */
	if ((at && at != sizeof(struct ethhdr)) || !packet_answered(&w->packet))
		return PS_DROP;
	/* To a proxy's socket, as its other packets. */
	if (inwards && (w->known & WORK_TAKEN || packet_transparent(skb)))
		mark |= mark_intercept;
	if (answer_build(skb, &w->packet, a, w->now) || (at && frame_turn(skb)) || skb_renew(skb, at, a))
		return PS_DROP;
	size = a->size;
	if (!size || size > REJECT_MAX6 || bpf_skb_store_bytes(skb, at, a->bytes, size, 0))
		return PS_DROP;
	skb->mark = (skb->mark & ~mark_mask) | mark;
	w->code = PS_VERDICT_REJECTED;
	return bpf_redirect(skb->ifindex, inwards ? BPF_F_INGRESS : 0);
}

/* ---- on its way ---- */

/* Is it an answer as this file makes them? */
static __noinline bool answer_shaped(struct __sk_buff *skb, bool l3)
{
	__u32 at = l3 ? 0 : sizeof(struct ethhdr);
	__u8 first, protocol, word[2];

	if (bpf_skb_load_bytes(skb, at, &first, 1))
		return false;
	if (first != 0x45 && first >> 4 != 6)
		return false;
	if (bpf_skb_load_bytes(skb, at + (first == 0x45 ? 9 : 6), &protocol, 1))
		return false;
	at += first == 0x45 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
	if (protocol == IPPROTO_TCP)
		return !bpf_skb_load_bytes(skb, at + 12, word, 2) && (word[1] & ~TCP_FLAG_ACK) == TCP_FLAG_RST;
	if (bpf_skb_load_bytes(skb, at, word, 2))
		return false;
	if (first == 0x45)
		return protocol == IPPROTO_ICMP && word[0] == ICMP4_UNREACHABLE && word[1] == ICMP4_PROHIBITED;
	return protocol == IPPROTO_ICMPV6 && word[0] == ICMP6_UNREACHABLE && word[1] == ICMP6_PROHIBITED;
}

/*
 * An answer passes the workloads' hooks, and leaves no trace in any entry. *action is what is done with it. It keeps
 * its mark from the hook by which it entered up to that of its addressee.
 */
static __always_inline bool reject_passes(struct __sk_buff *skb, bool l3, bool from, int *action)
{
	PS_OPAQUE(skb);
	if (!(skb->mark & mark_answer) || !answer_shaped(skb, l3))
		return false;
	*action = PS_PASS;
	if (!from) {
		mark_clear(skb);
	} else if (skb->mark & mark_intercept) {
		mark_set(skb);
		*action = steer_out(skb);
	}
	return true;
}

#endif
