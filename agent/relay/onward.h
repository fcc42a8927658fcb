/* SPDX-License-Identifier: Apache-2.0 */
/* The onward connection or flow, and from whose address it goes. */
#ifndef PENSTOCK_RELAY_ONWARD_H
#define PENSTOCK_RELAY_ONWARD_H

#include <stdbool.h>
#include "agent/relay/address.h"

/* From whose address, in the log and in the totals. The rest: the client's was asked for, and why it was not possible.
 */
#define SOURCES(X)                                                                                                   \
	X(SOURCE_NONE, "none", "") /* it did not go onward */                                                            \
	X(SOURCE_CLIENT, "client", "")                                                                                   \
	X(SOURCE_NODE, "node", "")                                                                                       \
	X(SOURCE_OWN, "node", "own-address")          /* the destination is this node: a reply would go to the client */ \
	X(SOURCE_PRIVILEGE, "node", "no-privilege")   /* IP_TRANSPARENT needs CAP_NET_ADMIN or CAP_NET_RAW */            \
	X(SOURCE_FAMILY, "node", "family")            /* an IPv4 client of an IPv6 destination, or the reverse */        \
	X(SOURCE_PORTS, "node", "no-port")            /* all are in use from this client to this server */               \
	X(SOURCE_UNUSABLE, "node", "address-refused") /* the kernel takes no such source, a loopback address say */

enum source {
#define SOURCE_NAME(name, from, reason) name,
	SOURCES(SOURCE_NAME)
#undef SOURCE_NAME
		SOURCE_COUNT
};
const char *source_from(enum source source);
const char *source_reason(enum source source); /* "" when nothing fell back */

struct onward {
	int type;   /* SOCK_STREAM, SOCK_DGRAM */
	bool keep;  /* from the client's address, if that can be */
	int routes; /* address_routes_open() */
};
/* A socket that is connecting to the destination, or -errno. *source says from whose address. */
int onward_connect(
	const struct onward *how, const union address *client, const union address *destination, enum source *source);

#endif
