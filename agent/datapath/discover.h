/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What netlink has told about links, host routes, neighbours and bridge tables, and which interface an address is
 * behind. Pure: netlink.c fills it, a test can too.
 */
#ifndef PENSTOCK_DISCOVER_H
#define PENSTOCK_DISCOVER_H

#include <stdbool.h>
#include <stdint.h>
#include "agent/base/addr.h"
#include "agent/base/map.h"

#define NET_NAME_MAX 16 /* IFNAMSIZ */

struct net_link {
	uint32_t ifindex;
	char name[NET_NAME_MAX];
	char kind[NET_NAME_MAX]; /* IFLA_INFO_KIND, "" for hardware */
	uint32_t master;         /* the bridge, bond … it is a port of */
	uint32_t lower;          /* IFLA_LINK; a veth's peer may be in another namespace */
	uint32_t born;           /* told apart from an earlier interface of the same ifindex; set by net_link_put */
	uint16_t type;           /* ARPHRD_* */
	bool up;
	uint8_t mac[6];
	uint8_t pad[3]; /* zero: links are compared as bytes */
};

struct net_route {
	struct ip ip;
	uint32_t table, metric, ifindex;
	uint8_t length; /* 0: an uplink; all bits: a host route; else, without gateway: who may be asked */
	bool gateway;   /* through somebody else: says nothing about where the address is */
};

struct net_neighbour {
	struct ip ip;
	uint32_t ifindex;
	uint8_t mac[6];
};

struct net_station { /* a bridge's forwarding entry */
	uint32_t bridge, port;
	uint8_t mac[6];
};

#define NET_LOCAL_KEY 20 /* bytes: address, ifindex */
struct net {
	struct map links;                  /* ifindex → struct net_link */
	struct map names;                  /* name → ifindex */
	struct map routes;                 /* set */
	struct map prefixes;               /* set: networks that are on a link */
	struct map neighbours;             /* (ip, ifindex) → mac */
	struct map stations;               /* (bridge, mac) → port */
	struct map by_route, by_neighbour; /* ip → where */
	struct map locals;                 /* set of (ip, ifindex): this node's addresses */
	struct map defaults;               /* ifindex → how many default routes */
	struct map touched; /* set of ifindexes: something about the interface changed; the reader clears it */
	bool changed;       /* anything that can move an endpoint changed; the reader clears it */
	bool stale;         /* what was told cannot be followed: look at everything */
	bool mislaid;       /* a rule or route that leads to proxies was removed */
	uint32_t births;
};

void net_init(struct net *net);
void net_clear(struct net *net);
/* Forget all but the links' births; the whole look that follows marks what differs. */
void net_forget(struct net *net);
void net_link_put(struct net *net, const struct net_link *link);
void net_link_delete(struct net *net, uint32_t ifindex);
void net_route(struct net *net, const struct net_route *route, bool there);
/* The kernel delivers what is sent to this address here. */
void net_local(struct net *net, const struct ip *ip, uint32_t ifindex, bool there);
/* Before a route that took the place of others of its destination, table and metric: which, netlink does not tell. */
void net_route_replaces(struct net *net, const struct net_route *route);
void net_neighbour(struct net *net, const struct net_neighbour *neighbour, bool there);
void net_station(struct net *net, const struct net_station *station, bool there);

const struct net_link *net_link(const struct net *net, uint32_t ifindex);
const struct net_link *net_link_named(const struct net *net, const char *name);
/* May be found or matched by a pattern: not lo, a tunnel, a bridge, nor what a default route leaves by. */
bool net_eligible(const struct net *net, const struct net_link *link);
/*
 * Packets enter and leave the node by it, if no workload is behind it: uplinks, VLANs, bonds, bridges, tunnels. Not lo,
 * nor a port, whose master stands for it.
 */
bool net_link_network(const struct net *net, const struct net_link *link);
/* No link-layer header. */
bool net_link_l3(const struct net_link *link);
/* The bridge that it is a port of, NULL for none; not Open vSwitch, whose datapath is no device to receive on. */
const struct net_link *net_link_bridge(const struct net *net, const struct net_link *link);
/* The interface behind which an address is: host routes first, then neighbours, through bridges to their port. 0: not
 * known. */
uint32_t net_find(const struct net *net, const struct ip *ip);
/*
 * The devices on whose link the address must be, if it is anywhere: whoever asks there for its neighbour finds it. At
 * most `max`; returns how many.
 */
size_t net_suspects(const struct net *net, const struct ip *ip, uint32_t *ret, size_t max);

#endif
