/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One datagram: with whom it came, where it was going, and its traffic class (DSCP and ECN). Or a train: many of one
 * size that the kernel has left together (UDP_GRO), and takes together (UDP_SEGMENT). Nothing blocks.
 */
#ifndef PENSTOCK_RELAY_DATAGRAM_H
#define PENSTOCK_RELAY_DATAGRAM_H

#include <stddef.h>
#include <stdint.h>
#include "agent/relay/address.h"

/* No datagram of either family is longer, jumbograms apart. */
#define DATAGRAM_MAX (64u << 10)

struct datagram {
	union address from, to; /* `to` only of a socket that listens, else AF_UNSPEC */
	char *data;             /* may be of length 0 */
	size_t length;
	uint16_t segment;    /* 0: one; else a train of such, the last perhaps shorter */
	uint8_t class;       /* the byte that is TOS in IPv4, traffic class in IPv6 */
	uint32_t overflowed; /* how many the socket has had no room for, since it was made */
};

/* Before bind(): what a socket is to tell of each datagram, and how many it holds. */
void datagram_listen(int fd); /* with the original destination */
void datagram_carry(int fd);  /* without; in trains */
/* Into buffer, of DATAGRAM_MAX bytes. 0 or -errno, also an ICMP error that the socket has to tell. */
int datagram_receive(int fd, char *buffer, struct datagram *ret);
/*
 * To whom fd, of this family, is connected: all of a train, or none. 0 or -errno; -EAGAIN: there is no room now, and
 * EPOLLOUT will tell when there is.
 */
int datagram_send(int fd, int family, const struct datagram *datagram);
/* How many there are, and the first of them. */
unsigned datagram_count(const struct datagram *datagram);
struct datagram datagram_first(const struct datagram *datagram);
/* The control message for sendmsg() that sets the class; CMSG_SPACE(sizeof(int)) bytes. */
void datagram_put_class(struct cmsghdr *message, int family, uint8_t class);

#endif
