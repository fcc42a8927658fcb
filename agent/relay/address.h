/* SPDX-License-Identifier: Apache-2.0 */
/* Socket addresses as the relay uses them: IPv4 or IPv6 with a port, never IPv4 in IPv6's clothes. */
#ifndef PENSTOCK_RELAY_ADDRESS_H
#define PENSTOCK_RELAY_ADDRESS_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include "agent/base/buffer.h"

union address {
	struct sockaddr any;
	struct sockaddr_in four;
	struct sockaddr_in6 six;
};

/* ::ffff:a.b.c.d, as sockets that take both families show it, becomes IPv4. */
void address_unmap(union address *address);
socklen_t address_size(const union address *address);
uint16_t address_port(const union address *address);
void address_port_set(union address *address, uint16_t port);
bool address_equal(const union address *a, const union address *b);
/* "10.0.0.1:80", "[fd00::1]:80"; "?" when there is none. */
void address_format(struct buffer *out, const union address *address);

/* What the two below ask through: a netlink socket for one thread, or -errno. */
int address_routes_open(void);
/* The node's routes lead to the node itself. False also when nobody can say. */
bool address_is_own(int routes, const union address *address);
/* The node's address that the routes choose to reach another, with port 0. False when they choose none. */
bool address_source(int routes, const union address *to, union address *ret);

#endif
