/* SPDX-License-Identifier: Apache-2.0 */
/* Frames of one shape: Ethernet, IPv4 or IPv6 without options, TCP or UDP, at most one byte. */
#include <arpa/inet.h>
#include <netinet/ether.h>
#include <netinet/in.h>
#include <linux/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <string.h>
#include "agent/datapath/trial.h"

static uint32_t sum_words(const void *data, size_t length, uint32_t sum)
{
	const uint8_t *bytes = data;
	for (size_t i = 0; i < length; i++)
		sum += i % 2 ? bytes[i] : (uint32_t)bytes[i] << 8;
	return sum;
}

static uint16_t sum_close(uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htons(~sum & 0xffff);
}

static const uint8_t *address_bytes(const struct ip *ip)
{
	return ip->family == 4 ? ip->bytes + 12 : ip->bytes;
}

/* Over the pseudo header too. */
static uint16_t segment_sum(const struct frame *f, const void *segment, size_t length)
{
	size_t width = f->source.family == 4 ? 4 : 16;
	uint32_t sum = f->protocol + (uint32_t)length;
	sum = sum_words(address_bytes(&f->source), width, sum);
	sum = sum_words(address_bytes(&f->destination), width, sum);
	return sum_close(sum_words(segment, length, sum));
}

static size_t segment_write(const struct frame *f, uint8_t *to)
{
	uint16_t sum;
	if (f->protocol == IPPROTO_UDP) {
		struct udphdr udp = {.source = htons(f->source_port), .dest = htons(f->destination_port)};
		size_t length = sizeof(udp) + (f->text != 0);
		udp.len = htons(length);
		memcpy(to, &udp, sizeof(udp));
		to[sizeof(udp)] = f->text;
		sum = segment_sum(f, to, length);
		memcpy(to + offsetof(struct udphdr, check), &sum, sizeof(sum));
		return length;
	}
	struct tcphdr tcp = {.source = htons(f->source_port),
		.dest = htons(f->destination_port),
		.seq = htonl(f->sequence),
		.ack_seq = htonl(f->acknowledged),
		.doff = sizeof(tcp) / 4,
		.window = htons(65000)};
	size_t length = sizeof(tcp) + (f->text != 0);
	tcp.th_flags = f->flags;
	memcpy(to, &tcp, sizeof(tcp));
	to[sizeof(tcp)] = f->text;
	sum = segment_sum(f, to, length);
	memcpy(to + offsetof(struct tcphdr, check), &sum, sizeof(sum));
	return length;
}

size_t frame_write(const struct frame *frame, uint8_t buffer[FRAME_MAX])
{
	bool v4 = frame->source.family == 4;
	struct ether_header eth = {.ether_type = htons(v4 ? ETHERTYPE_IP : ETHERTYPE_IPV6)};
	memcpy(eth.ether_dhost, trial_near_mac, sizeof(trial_near_mac));
	memcpy(eth.ether_shost, trial_far_mac, sizeof(trial_far_mac));
	memcpy(buffer, &eth, sizeof(eth));
	uint8_t *network = buffer + sizeof(eth);
	size_t head = v4 ? sizeof(struct iphdr) : sizeof(struct ip6_hdr);
	size_t length = segment_write(frame, network + head);
	if (v4) {
		struct iphdr ip = {
			.version = 4, .ihl = 5, .tot_len = htons(sizeof(ip) + length), .ttl = 64, .protocol = frame->protocol};
		memcpy(&ip.saddr, address_bytes(&frame->source), sizeof(ip.saddr));
		memcpy(&ip.daddr, address_bytes(&frame->destination), sizeof(ip.daddr));
		ip.check = sum_close(sum_words(&ip, sizeof(ip), 0));
		memcpy(network, &ip, sizeof(ip));
	} else {
		struct ip6_hdr ip = {0};
		ip.ip6_vfc = 6 << 4;
		ip.ip6_plen = htons(length);
		ip.ip6_nxt = frame->protocol;
		ip.ip6_hlim = 64;
		memcpy(&ip.ip6_src, address_bytes(&frame->source), sizeof(ip.ip6_src));
		memcpy(&ip.ip6_dst, address_bytes(&frame->destination), sizeof(ip.ip6_dst));
		memcpy(network, &ip, sizeof(ip));
	}
	return sizeof(eth) + head + length;
}

static bool segment_read(const uint8_t *data, size_t length, struct frame *ret)
{
	struct udphdr udp;
	struct tcphdr tcp;
	size_t head = sizeof(udp);
	if (ret->protocol == IPPROTO_TCP) {
		if (length < sizeof(tcp))
			return false;
		memcpy(&tcp, data, sizeof(tcp));
		ret->sequence = ntohl(tcp.seq);
		ret->acknowledged = ntohl(tcp.ack_seq);
		ret->flags = tcp.th_flags;
		head = 4 * tcp.doff;
	} else if (ret->protocol != IPPROTO_UDP || length < sizeof(udp)) {
		return false;
	}
	memcpy(&udp, data, sizeof(udp)); /* both begin with their ports */
	ret->source_port = ntohs(udp.source);
	ret->destination_port = ntohs(udp.dest);
	ret->text = length > head ? (char)data[head] : 0;
	return true;
}

bool frame_read(const uint8_t *data, size_t length, struct frame *ret)
{
	struct ether_header eth;
	struct iphdr ip4;
	struct ip6_hdr ip6;
	*ret = (struct frame){0};
	if (length < sizeof(eth) + sizeof(ip4))
		return false;
	memcpy(&eth, data, sizeof(eth));
	data += sizeof(eth);
	length -= sizeof(eth);
	if (memcmp(eth.ether_shost, trial_near_mac, sizeof(trial_near_mac)) != 0)
		return false;
	if (eth.ether_type == htons(ETHERTYPE_IP)) {
		memcpy(&ip4, data, sizeof(ip4));
		size_t head = 4 * ip4.ihl, whole = ntohs(ip4.tot_len);
		if (head > whole || whole > length)
			return false;
		ret->source = ip_from_v4(ip4.saddr);
		ret->destination = ip_from_v4(ip4.daddr);
		ret->protocol = ip4.protocol;
		return segment_read(data + head, whole - head, ret);
	}
	if (eth.ether_type != htons(ETHERTYPE_IPV6) || length < sizeof(ip6))
		return false;
	memcpy(&ip6, data, sizeof(ip6));
	if (length < sizeof(ip6) + ntohs(ip6.ip6_plen))
		return false;
	ret->source = ip_from_v6((const uint8_t *)&ip6.ip6_src);
	ret->destination = ip_from_v6((const uint8_t *)&ip6.ip6_dst);
	ret->protocol = ip6.ip6_nxt;
	return segment_read(data + sizeof(ip6), ntohs(ip6.ip6_plen), ret);
}
