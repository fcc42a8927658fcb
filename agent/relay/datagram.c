/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/relay/datagram.h"

#include <errno.h>
#include <linux/sockios.h>
#include <netinet/udp.h>
#include <string.h>
#include <sys/ioctl.h>

/* Limits, not reservations: what a burst needs that comes while the thread is busy. */
#define LISTEN_BYTES (4 << 20)
#define CARRY_BYTES (1 << 20)

static void set(int fd, int level, int option, int value)
{
	setsockopt(fd, level, option, &value, sizeof value);
}

/* More than the administrator's limit, which is for those without privilege. */
static void set_room(int fd, int forced, int plain, int bytes)
{
	if (setsockopt(fd, SOL_SOCKET, forced, &bytes, sizeof bytes) < 0)
		set(fd, SOL_SOCKET, plain, bytes);
}

/* Options of the family that the socket is not of are refused, and not missed; IPv6 sockets may take IPv4 too. */
static void tell(int fd, int bytes)
{
	set(fd, SOL_IP, IP_RECVTOS, 1);
	set(fd, SOL_IPV6, IPV6_RECVTCLASS, 1);
	set(fd, SOL_SOCKET, SO_RXQ_OVFL, 1);
	set_room(fd, SO_RCVBUFFORCE, SO_RCVBUF, bytes);
}

void datagram_listen(int fd)
{
	tell(fd, LISTEN_BYTES);
	set(fd, SOL_IP, IP_RECVORIGDSTADDR, 1);
	set(fd, SOL_IPV6, IPV6_RECVORIGDSTADDR, 1);
}

void datagram_carry(int fd)
{
	tell(fd, CARRY_BYTES);
	set(fd, SOL_UDP, UDP_GRO, 1);
	set_room(fd, SO_SNDBUFFORCE, SO_SNDBUF, CARRY_BYTES);
}

/* ---- receiving ---- */

static void copy(void *to, size_t size, const struct cmsghdr *message)
{
	size_t there = message->cmsg_len - CMSG_LEN(0);
	memcpy(to, CMSG_DATA(message), there < size ? there : size);
}

static void take_message(const struct cmsghdr *message, struct datagram *d)
{
	int level = message->cmsg_level, type = message->cmsg_type, class = 0, segment = 0;
	if (level == SOL_IP && type == IP_TOS) {
		copy(&d->class, 1, message);
	} else if (level == SOL_IPV6 && type == IPV6_TCLASS) {
		copy(&class, sizeof class, message);
		d->class = (uint8_t) class;
	} else if (level == SOL_IP && type == IP_ORIGDSTADDR) {
		copy(&d->to.four, sizeof d->to.four, message);
	} else if (level == SOL_IPV6 && type == IPV6_ORIGDSTADDR) {
		copy(&d->to.six, sizeof d->to.six, message);
	} else if (level == SOL_UDP && type == UDP_GRO) {
		copy(&segment, sizeof segment, message);
		d->segment = (size_t)segment < d->length ? (uint16_t)segment : 0;
	} else if (level == SOL_SOCKET && type == SO_RXQ_OVFL) {
		copy(&d->overflowed, sizeof d->overflowed, message);
	}
}

int datagram_receive(int fd, char *buffer, struct datagram *ret)
{
	_Alignas(struct cmsghdr) char control[256];
	*ret = (struct datagram){.data = buffer};
	struct iovec piece = {.iov_base = buffer, .iov_len = DATAGRAM_MAX};
	struct msghdr head = {.msg_name = &ret->from,
		.msg_namelen = sizeof ret->from,
		.msg_iov = &piece,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof control};
	ssize_t got = recvmsg(fd, &head, MSG_DONTWAIT);
	if (got < 0)
		return -errno;
	ret->length = (size_t)got;
	for (struct cmsghdr *message = CMSG_FIRSTHDR(&head); message; message = CMSG_NXTHDR(&head, message))
		take_message(message, ret);
	address_unmap(&ret->from);
	address_unmap(&ret->to);
	return 0;
}

/* ---- sending ---- */

void datagram_put_class(struct cmsghdr *message, int family, uint8_t class)
{
	int value = class;
	message->cmsg_level = family == AF_INET ? SOL_IP : SOL_IPV6;
	message->cmsg_type = family == AF_INET ? IP_TOS : IPV6_TCLASS;
	message->cmsg_len = CMSG_LEN(sizeof value);
	memcpy(CMSG_DATA(message), &value, sizeof value);
}

/* Whether something of this socket is still on its way out of the node: its going will be told by EPOLLOUT. */
static bool is_leaving(int fd)
{
	int bytes = 0;
	return ioctl(fd, SIOCOUTQ, &bytes) == 0 && bytes > 0;
}

/*
 * An error that an earlier datagram has met (ICMP) is told in place of sending: it is sent then. Fragments that have no
 * room are ENOBUFS, not EAGAIN.
 */
static size_t put_segment(struct cmsghdr *message, uint16_t segment)
{
	message->cmsg_level = SOL_UDP;
	message->cmsg_type = UDP_SEGMENT;
	message->cmsg_len = CMSG_LEN(sizeof segment);
	memcpy(CMSG_DATA(message), &segment, sizeof segment);
	return CMSG_SPACE(sizeof segment);
}

int datagram_send(int fd, int family, const struct datagram *datagram)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(uint16_t))] = {0};
	struct iovec piece = {.iov_base = datagram->data, .iov_len = datagram->length};
	struct msghdr head = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control};
	if (datagram->class) {
		datagram_put_class((struct cmsghdr *)control, family, datagram->class);
		head.msg_controllen = CMSG_SPACE(sizeof(int));
	}
	if (datagram->segment)
		head.msg_controllen += put_segment((struct cmsghdr *)(control + head.msg_controllen), datagram->segment);
	for (int tries = 0; tries < 3; tries++) {
		if (sendmsg(fd, &head, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
			return 0;
		if (errno == EAGAIN)
			return -EAGAIN;
		if (errno == ENOBUFS)
			return is_leaving(fd) ? -EAGAIN : -ENOBUFS;
		if (errno == EMSGSIZE || errno == EINVAL)
			break;
	}
	return -errno;
}

/* ---- trains ---- */

unsigned datagram_count(const struct datagram *d)
{
	return d->segment ? (unsigned)((d->length + d->segment - 1) / d->segment) : 1;
}

struct datagram datagram_first(const struct datagram *d)
{
	struct datagram first = *d;
	first.segment = 0;
	if (d->segment && d->segment < d->length)
		first.length = d->segment;
	return first;
}
