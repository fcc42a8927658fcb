/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A packet generator for BPF_PROG_RUN with live frames: gives each frame the next of `flows` UDP source ports and sends
 * it out of an interface. No socket is in the way, so that what is measured is the path behind the interface.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct settings {
	__u32 ifindex;
	__u32 flows;      /* a power of two */
	__u8 headers[34]; /* Ethernet and IPv4: frames are recycled, and whoever forwarded one has changed them */
	__u8 pad[2];
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} turn SEC(".maps");

SEC("xdp")
int generate(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct udphdr *udp = data + sizeof(struct ethhdr) + sizeof(struct iphdr);
	__u32 zero = 0;
	struct settings *s = bpf_map_lookup_elem(&settings, &zero);
	__u32 *next = bpf_map_lookup_elem(&turn, &zero);
	if (!s || !next || (void *)(udp + 1) > end)
		return XDP_ABORTED;
	__builtin_memcpy(data, s->headers, sizeof(s->headers));
	udp->source = bpf_htons(1024 + (*next & (s->flows - 1)));
	udp->check = 0;
	*next += 1;
	return bpf_redirect(s->ifindex, 0);
}

/* Where the packets end: as cheap as it gets. */
SEC("tc")
int sink(struct __sk_buff *skb)
{
	return TC_ACT_SHOT;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
