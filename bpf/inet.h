/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is read of the kernel's sockets and packets. Where it lies is found at load (CO-RE). */
#ifndef PENSTOCK_INET_H
#define PENSTOCK_INET_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#define CORE __attribute__((preserve_access_index))

struct sock_common {
	struct {
		__s64 counter;
	} skc_cookie;
} CORE;
struct sock {
	struct sock_common __sk_common;
} CORE;
struct inet_sock {
	struct sock sk;
	unsigned long inet_flags; /* 6.6 on */
} CORE;
struct inet_sock___before_6_6 {
	__u8 transparent : 1;
} CORE;
struct inet_connection_sock {
	struct inet_sock icsk_inet;
} CORE;
struct tcp_sock {
	struct inet_connection_sock inet_conn;
} CORE;

struct sk_buff {
	__u8 ip_summed : 2;
} CORE;
struct inet_timewait_sock {
	__u32 tw_transparent : 1;
} CORE;
struct tcp_timewait_sock {
	struct inet_timewait_sock tw_sk;
} CORE;

#define INET_FLAG_TRANSPARENT 15 /* INET_FLAGS_TRANSPARENT, include/net/inet_sock.h */

/* IP_TRANSPARENT: it may speak for addresses that are not the node's. */
static __always_inline bool sock_transparent(const struct tcp_sock *tcp)
{
	if (bpf_core_field_exists(struct inet_sock, inet_flags))
		return tcp->inet_conn.icsk_inet.inet_flags >> INET_FLAG_TRANSPARENT & 1;
	return BPF_CORE_READ_BITFIELD_PROBED((const struct inet_sock___before_6_6 *)tcp, transparent);
}

static __always_inline bool timewait_transparent(const struct tcp_timewait_sock *tcp)
{
	return BPF_CORE_READ_BITFIELD_PROBED(&tcp->tw_sk, tw_transparent);
}

/*
 * The same of a socket of which the verifier shows struct bpf_sock alone: there is no cast for UDP over IPv4. At run
 * time it is the kernel's own.
 */
static __always_inline const struct inet_sock *socket_inet(const struct bpf_sock *sk)
{
	const struct inet_sock *inet = NULL;

	bpf_probe_read_kernel(&inet, sizeof(inet), &sk);
	return inet;
}

static __always_inline bool inet_transparent(const struct inet_sock *inet)
{
	unsigned long flags = 0;

	if (!bpf_core_field_exists(struct inet_sock, inet_flags))
		return BPF_CORE_READ_BITFIELD_PROBED((const struct inet_sock___before_6_6 *)inet, transparent);
	bpf_core_read(&flags, sizeof(flags), &inet->inet_flags);
	return flags >> INET_FLAG_TRANSPARENT & 1;
}

static __always_inline __u64 inet_cookie(const struct inet_sock *inet)
{
	__u64 cookie = 0;

	bpf_core_read(&cookie, sizeof(cookie), &inet->sk.__sk_common.skc_cookie.counter);
	return cookie;
}

/* 0: nobody has asked for it yet, so nobody can know it. */
static __always_inline __u64 sock_cookie(const struct tcp_sock *tcp)
{
	return tcp->inet_conn.icsk_inet.sk.__sk_common.skc_cookie.counter;
}

#define SUMMED_PARTIAL 3 /* CHECKSUM_PARTIAL, include/linux/skbuff.h */

/* Is its checksum to be completed when it leaves? At run time the context of a tc program is the sk_buff itself. */
static __always_inline bool skb_unfinished(struct __sk_buff *skb)
{
	return BPF_CORE_READ_BITFIELD_PROBED((const struct sk_buff *)skb, ip_summed) == SUMMED_PARTIAL;
}

#endif
