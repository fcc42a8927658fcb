/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/relay/raw.h"

#include <errno.h>
#include <linux/filter.h>
#include <netinet/udp.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>
#include "agent/base/mem.h"

#define WAIT_US 50000
#define CHECKSUM_AT 6 /* in the UDP header */

/* Such a socket is given a copy of each datagram to the node: none of them is wanted. */
static void receive_nothing(int fd)
{
	struct sock_filter none = BPF_STMT(BPF_RET | BPF_K, 0);
	struct sock_fprog program = {.len = 1, .filter = &none};
	setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
}

int raw_open(struct raw *raw, int family)
{
	int on = 1, at = CHECKSUM_AT, *place = family == AF_INET ? &raw->four : &raw->six;
	struct timeval wait = {.tv_usec = WAIT_US};
	if (*place >= 0)
		return 0;
	auto_close int fd = socket(family, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_UDP);
	if (fd < 0)
		return -errno;
	receive_nothing(fd);
	if (family == AF_INET && setsockopt(fd, SOL_IP, IP_TRANSPARENT, &on, sizeof on) < 0)
		return -errno;
	if (family == AF_INET6 && (setsockopt(fd, SOL_IPV6, IPV6_TRANSPARENT, &on, sizeof on) < 0 ||
								  setsockopt(fd, SOL_IPV6, IPV6_CHECKSUM, &at, sizeof at) < 0))
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
	*place = steal_fd(&fd);
	return 0;
}

void raw_close(struct raw *raw)
{
	cleanup_close(&raw->four);
	cleanup_close(&raw->six);
	raw->four = raw->six = -1;
}

/* ---- RFC 768; RFC 1071 ---- */

static uint64_t sum(uint64_t before, const void *data, size_t length)
{
	const uint8_t *at = data;
	for (; length > 1; at += 2, length -= 2)
		before += (unsigned)at[0] << 8 | at[1];
	return length ? before + ((unsigned)at[0] << 8) : before;
}

static uint16_t checksum(
	const union address *from, const union address *to, const struct udphdr *udp, const struct datagram *d)
{
	uint64_t all = IPPROTO_UDP + ntohs(udp->len);
	all = sum(all, &from->four.sin_addr, 4);
	all = sum(all, &to->four.sin_addr, 4);
	all = sum(all, udp, sizeof *udp);
	all = sum(all, d->data, d->length);
	while (all >> 16)
		all = (all & 0xffff) + (all >> 16);
	return all == 0xffff ? 0xffff : (uint16_t)~all; /* 0 would say that there is none */
}

/* ---- sending ---- */

static size_t put_source(struct cmsghdr *message, const union address *from)
{
	if (from->any.sa_family == AF_INET) {
		struct in_pktinfo info = {.ipi_spec_dst = from->four.sin_addr};
		message->cmsg_level = SOL_IP;
		message->cmsg_type = IP_PKTINFO;
		message->cmsg_len = CMSG_LEN(sizeof info);
		memcpy(CMSG_DATA(message), &info, sizeof info);
		return CMSG_SPACE(sizeof info);
	}
	struct in6_pktinfo info = {.ipi6_addr = from->six.sin6_addr};
	message->cmsg_level = SOL_IPV6;
	message->cmsg_type = IPV6_PKTINFO;
	message->cmsg_len = CMSG_LEN(sizeof info);
	memcpy(CMSG_DATA(message), &info, sizeof info);
	return CMSG_SPACE(sizeof info);
}

int raw_send(const struct raw *raw, const union address *from, const union address *to, const struct datagram *datagram)
{
	int family = to->any.sa_family, fd = family == AF_INET ? raw->four : raw->six;
	_Alignas(struct cmsghdr) char control[128] = {0};
	union address name = *to;
	struct udphdr udp = {.source = htons(address_port(from)), .dest = htons(address_port(to))};
	udp.len = htons((uint16_t)(sizeof udp + datagram->length));
	if (family == AF_INET)
		udp.check = htons(checksum(from, to, &udp, datagram));
	address_port_set(&name, 0); /* it would be a protocol */
	struct iovec parts[2] = {{&udp, sizeof udp}, {datagram->data, datagram->length}};
	struct msghdr head = {.msg_name = &name, .msg_namelen = address_size(&name), .msg_iov = parts, .msg_iovlen = 2};
	head.msg_control = control;
	head.msg_controllen = sizeof control;
	size_t used = put_source(CMSG_FIRSTHDR(&head), from);
	if (datagram->class) {
		datagram_put_class((struct cmsghdr *)(control + used), family, datagram->class);
		used += CMSG_SPACE(sizeof(int));
	}
	head.msg_controllen = used;
	return sendmsg(fd, &head, MSG_NOSIGNAL) < 0 ? -errno : 0;
}
