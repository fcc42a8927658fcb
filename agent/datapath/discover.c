/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/datapath/discover.h"
#include <linux/if_arp.h>
#include <string.h>

struct route_key {
	uint8_t ip[16];
	uint32_t table, metric, ifindex, length;
};
struct neighbour_key {
	uint8_t ip[16];
	uint32_t ifindex;
};
struct station_key {
	uint32_t bridge;
	uint8_t mac[8]; /* 6 of them */
};
/* The interfaces that speak for an address. More than four: the fifth is not followed, the whole look that follows
 * finds it. */
#define PLACES_MAX 4
struct places {
	uint32_t ifindex[PLACES_MAX];
	uint32_t count[PLACES_MAX];
};

void net_init(struct net *net)
{
	*net = (struct net){0};
	map_init(&net->links, sizeof(uint32_t), sizeof(struct net_link));
	map_init(&net->names, NET_NAME_MAX, sizeof(uint32_t));
	map_init(&net->routes, sizeof(struct route_key), 0);
	map_init(&net->prefixes, sizeof(struct route_key), 0);
	map_init(&net->neighbours, sizeof(struct neighbour_key), 8);
	map_init(&net->stations, sizeof(struct station_key), sizeof(uint32_t));
	map_init(&net->by_route, 16, sizeof(struct places));
	map_init(&net->by_neighbour, 16, sizeof(struct places));
	map_init(&net->defaults, sizeof(uint32_t), sizeof(uint32_t));
	map_init(&net->locals, NET_LOCAL_KEY, 0);
	map_init(&net->touched, sizeof(uint32_t), 0);
}

static void net_forget_addresses(struct net *net)
{
	map_clear(&net->routes);
	map_clear(&net->prefixes);
	map_clear(&net->neighbours);
	map_clear(&net->stations);
	map_clear(&net->by_route);
	map_clear(&net->by_neighbour);
	map_clear(&net->defaults);
	map_clear(&net->locals);
}

void net_clear(struct net *net)
{
	net_forget_addresses(net);
	map_clear(&net->links);
	map_clear(&net->names);
	map_clear(&net->touched);
}

static void net_touch(struct net *net, uint32_t ifindex)
{
	map_put(&net->touched, &ifindex, NULL);
	net->changed = true;
}

void net_forget(struct net *net)
{
	net_forget_addresses(net);
	size_t at = 0;
	const void *key;
	void *value;
	while (map_next(&net->links, &at, &key, &value))
		net_touch(net, *(const uint32_t *)key);
	net->stale = false;
	net->changed = true;
}

/* ---- what netlink tells ---- */

static void places_add(struct map *map, const uint8_t ip[16], uint32_t ifindex)
{
	struct places *places = map_get(map, ip);
	if (!places)
		places = map_put(map, ip, &(struct places){0});
	int at = -1;
	for (int i = 0; i < PLACES_MAX; i++) {
		if (places->count[i] && places->ifindex[i] == ifindex) {
			places->count[i]++;
			return;
		}
		if (!places->count[i] && at < 0)
			at = i;
	}
	if (at >= 0) {
		places->ifindex[at] = ifindex;
		places->count[at] = 1;
	}
}

static void places_remove(struct map *map, const uint8_t ip[16], uint32_t ifindex)
{
	struct places *places = map_get(map, ip);
	uint32_t left = 0;
	for (int i = 0; places && i < PLACES_MAX; i++) {
		if (places->count[i] && places->ifindex[i] == ifindex)
			places->count[i]--;
		left += places->count[i];
	}
	if (places && !left)
		map_delete(map, ip);
}

static void places_change(struct map *map, const uint8_t ip[16], uint32_t ifindex, bool there)
{
	if (there)
		places_add(map, ip, ifindex);
	else
		places_remove(map, ip, ifindex);
}

static void net_prefix(struct net *net, const struct route_key *key, bool there)
{
	if ((map_get(&net->prefixes, key) != NULL) == there)
		return;
	if (there)
		map_put(&net->prefixes, key, NULL);
	else
		map_delete(&net->prefixes, key);
	net->changed = true;
}

void net_route(struct net *net, const struct net_route *route, bool there)
{
	uint8_t bits = route->ip.family == 4 ? 32 : 128;
	if (route->length != 0 && route->gateway)
		return;
	struct route_key key = {
		.table = route->table, .metric = route->metric, .ifindex = route->ifindex, .length = route->length};
	memcpy(key.ip, route->ip.bytes, sizeof(key.ip));
	if (route->length != 0 && route->length != bits) {
		key.length += 128 - bits; /* of the 16 bytes */
		net_prefix(net, &key, there);
		return;
	}
	if ((map_get(&net->routes, &key) != NULL) == there)
		return;
	if (there)
		map_put(&net->routes, &key, NULL);
	else
		map_delete(&net->routes, &key);
	net->changed = true;
	if (route->length != 0) {
		places_change(&net->by_route, key.ip, route->ifindex, there);
		return;
	}
	uint32_t *count = map_get(&net->defaults, &route->ifindex), one = 1;
	if (there && count)
		++*count;
	else if (there)
		map_put(&net->defaults, &route->ifindex, &one);
	else if (count && --*count == 0)
		map_delete(&net->defaults, &route->ifindex);
	/* What is above and below it may have become (or stopped being) an uplink as well: few routes are default, so all
	 * look. */
	size_t at = 0;
	const void *ifindex;
	void *link;
	while (map_next(&net->links, &at, &ifindex, &link))
		net_touch(net, *(const uint32_t *)ifindex);
}

void net_local(struct net *net, const struct ip *ip, uint32_t ifindex, bool there)
{
	struct neighbour_key key = {.ifindex = ifindex};
	_Static_assert(sizeof(key) == NET_LOCAL_KEY, "net_local");
	memcpy(key.ip, ip->bytes, sizeof(key.ip));
	if (there)
		map_put(&net->locals, &key, NULL);
	else
		map_delete(&net->locals, &key);
}

void net_neighbour(struct net *net, const struct net_neighbour *neighbour, bool there)
{
	struct neighbour_key key = {.ifindex = neighbour->ifindex};
	memcpy(key.ip, neighbour->ip.bytes, sizeof(key.ip));
	uint8_t mac[8] = {0};
	memcpy(mac, neighbour->mac, 6);
	const void *old = map_get(&net->neighbours, &key);
	if (there ? old && memcmp(old, mac, sizeof(mac)) == 0 : !old)
		return;
	net->changed = true;
	if (!there)
		map_delete(&net->neighbours, &key);
	else
		map_put(&net->neighbours, &key, mac);
	if (!there || !old)
		places_change(&net->by_neighbour, key.ip, neighbour->ifindex, there);
}

void net_station(struct net *net, const struct net_station *station, bool there)
{
	struct station_key key = {.bridge = station->bridge};
	memcpy(key.mac, station->mac, 6);
	const uint32_t *old = map_get(&net->stations, &key);
	if (there) {
		if (old && *old == station->port)
			return;
		map_put(&net->stations, &key, &station->port);
	} else {
		/* An entry that moved is told as new on one port, then gone from the other. */
		if (!old || *old != station->port)
			return;
		map_delete(&net->stations, &key);
	}
	net->changed = true;
}

static struct net_route route_of(const struct route_key *key)
{
	struct net_route route = {
		.table = key->table, .metric = key->metric, .ifindex = key->ifindex, .length = key->length};
	memcpy(route.ip.bytes, key->ip, 16);
	route.ip.family = key->length == 32 ? 4 : 6;
	return route;
}

void net_route_replaces(struct net *net, const struct net_route *route)
{
	struct map *maps[] = {&net->routes, &net->prefixes};
	uint8_t bits = route->ip.family == 4 ? 32 : 128;
	for (size_t i = 0; i < 2; i++) {
		uint32_t length = route->length + (i == 1 ? 128u - bits : 0);
		size_t at = 0;
		const void *key;
		void *value;
		while (map_next(maps[i], &at, &key, &value)) {
			struct route_key old;
			memcpy(&old, key, sizeof(old));
			if (old.length != length || old.table != route->table || old.metric != route->metric ||
				old.ifindex == route->ifindex || memcmp(old.ip, route->ip.bytes, 16) != 0)
				continue;
			struct net_route gone = route_of(&old);
			if (i == 0)
				net_route(net, &gone, false);
			else
				net_prefix(net, &old, false);
		}
	}
}

/* The kernel drops an interface's IPv4 routes without a word when it goes down; neighbours and stations go with the
 * device. */
static void net_drop_routes(struct net *net, uint32_t ifindex)
{
	size_t at = 0;
	const void *key;
	void *value;
	while (map_next(&net->routes, &at, &key, &value)) {
		const struct route_key *route = key;
		if (route->ifindex != ifindex)
			continue;
		struct net_route gone = route_of(route);
		net_route(net, &gone, false);
	}
	at = 0;
	while (map_next(&net->prefixes, &at, &key, &value))
		if (((const struct route_key *)key)->ifindex == ifindex)
			map_delete(&net->prefixes, key);
}

static void net_drop_neighbours(struct net *net, uint32_t ifindex)
{
	size_t at = 0;
	const void *key;
	void *value;
	while (map_next(&net->neighbours, &at, &key, &value)) {
		const struct neighbour_key *neighbour = key;
		if (neighbour->ifindex != ifindex)
			continue;
		uint8_t ip[16];
		memcpy(ip, neighbour->ip, sizeof(ip));
		places_change(&net->by_neighbour, ip, ifindex, false);
		map_delete(&net->neighbours, key);
	}
	at = 0;
	while (map_next(&net->stations, &at, &key, &value))
		if (((const struct station_key *)key)->bridge == ifindex || *(uint32_t *)value == ifindex)
			map_delete(&net->stations, key);
}

static bool link_bridge(const struct net_link *link)
{
	return strcmp(link->kind, "bridge") == 0 || strcmp(link->kind, "openvswitch") == 0;
}

/* A bridge's address is that of one of its ports, unless somebody set one: it changes as ports come and go. */
static void net_touch_ports(struct net *net, uint32_t bridge)
{
	size_t at = 0;
	const void *key;
	void *value;
	while (map_next(&net->links, &at, &key, &value))
		if (((const struct net_link *)value)->master == bridge)
			net_touch(net, *(const uint32_t *)key);
}

void net_link_put(struct net *net, const struct net_link *link)
{
	struct net_link new = *link;
	struct net_link *old = map_get(&net->links, &link->ifindex);
	new.born = old ? old->born : ++net->births;
	if (old && memcmp(old, &new, sizeof(new)) == 0)
		return;
	bool went_down = old && old->up && !new.up;
	if (old && strcmp(old->name, new.name) != 0) {
		const uint32_t *named = map_get(&net->names, old->name);
		if (named && *named == link->ifindex)
			map_delete(&net->names, old->name);
	}
	map_put(&net->links, &link->ifindex, &new);
	map_put(&net->names, new.name, &link->ifindex);
	net_touch(net, link->ifindex);
	if (link_bridge(&new))
		net_touch_ports(net, link->ifindex);
	if (went_down)
		net_drop_routes(net, link->ifindex);
}

void net_link_delete(struct net *net, uint32_t ifindex)
{
	struct net_link *link = map_get(&net->links, &ifindex);
	if (!link)
		return;
	const uint32_t *named = map_get(&net->names, link->name);
	if (named && *named == ifindex)
		map_delete(&net->names, link->name);
	map_delete(&net->links, &ifindex);
	net_touch(net, ifindex);
	net_drop_routes(net, ifindex);
	net_drop_neighbours(net, ifindex);
}

/* ---- what follows from it ---- */

const struct net_link *net_link(const struct net *net, uint32_t ifindex)
{
	return map_get(&net->links, &ifindex);
}

const struct net_link *net_link_named(const struct net *net, const char *name)
{
	char key[NET_NAME_MAX] = {0};
	if (strlen(name) >= sizeof(key))
		return NULL;
	memcpy(key, name, strlen(name));
	const uint32_t *ifindex = map_get(&net->names, key);
	return ifindex ? net_link(net, *ifindex) : NULL;
}

static bool word_in(const char *word, const char *const *list)
{
	for (; *list; list++)
		if (strcmp(word, *list) == 0)
			return true;
	return false;
}

static bool link_tunnel(const struct net_link *link)
{
	static const char *const kinds[] = {"vxlan", "geneve", "gre", "gretap", "erspan", "ip6gre", "ip6gretap",
		"ip6erspan", "ipip", "sit", "ip6tnl", "wireguard", "vti", "vti6", "xfrm", "bareudp", "gtp", "ppp", "amt",
		"ovpn", "l2tp", NULL};
	if (word_in(link->kind, kinds))
		return true;
	if (strcmp(link->kind, "tun") == 0)
		return link->type != ARPHRD_ETHER; /* a tap is a VM's; a tun a VPN's */
	return link->type == ARPHRD_TUNNEL || link->type == ARPHRD_TUNNEL6 || link->type == ARPHRD_SIT ||
		   link->type == ARPHRD_IPGRE || link->type == ARPHRD_IP6GRE || link->type == ARPHRD_PPP;
}

/* Interfaces that sit on one other interface of this namespace. */
static bool link_stacked(const struct net_link *link)
{
	static const char *const kinds[] = {"vlan", "macvlan", "ipvlan", "macsec", NULL};
	return link->lower && word_in(link->kind, kinds);
}

/* A default route leaves by it, or by what stands on it. */
static bool link_carries_default(const struct net *net, const struct net_link *link)
{
	size_t at = 0;
	const void *key;
	void *value;
	while (map_next(&net->defaults, &at, &key, &value)) {
		const struct net_link *top = net_link(net, *(const uint32_t *)key);
		for (int depth = 0; top && depth < 4; depth++) {
			if (top->ifindex == link->ifindex)
				return true;
			top = link_stacked(top) ? net_link(net, top->lower) : NULL;
		}
	}
	return false;
}

static bool link_uplink(const struct net *net, const struct net_link *link)
{
	/* The far end of these is a workload or another namespace; every other port of an uplink's bridge or bond leads to
	 * the wire. */
	static const char *const leaf_kinds[] = {"veth", "tun", "netkit", "macvtap", "ipvtap", NULL};
	for (int depth = 0; link && depth < 4; depth++) {
		if (link_carries_default(net, link))
			return true;
		if (word_in(link->kind, leaf_kinds))
			return false;
		link = link->master ? net_link(net, link->master) : NULL;
	}
	return false;
}

/* The agent's own, for a moment (trial_link.c). */
static bool link_trial(const struct net_link *link)
{
	return strncmp(link->name, "penstock-try", strlen("penstock-try")) == 0;
}

bool net_eligible(const struct net *net, const struct net_link *link)
{
	return !link_trial(link) && link->type != ARPHRD_LOOPBACK && !link_tunnel(link) && !link_bridge(link) &&
		   !link_uplink(net, link);
}

/* Packets of a VRF are seen at the interfaces that are in it. */
static bool link_vrf(const struct net_link *link)
{
	return strcmp(link->kind, "vrf") == 0;
}

bool net_link_network(const struct net *net, const struct net_link *link)
{
	static const uint16_t types[] = {ARPHRD_ETHER, ARPHRD_NONE, ARPHRD_RAWIP, ARPHRD_PPP, ARPHRD_TUNNEL, ARPHRD_TUNNEL6,
		ARPHRD_SIT, ARPHRD_IPGRE, ARPHRD_IP6GRE};
	const struct net_link *master = link->master ? net_link(net, link->master) : NULL;
	if (link->master && !(master && link_vrf(master)))
		return false;
	/* What enters by another interface leaves by an ifb, to be shaped, and is received after that. */
	if (link_vrf(link) || strcmp(link->kind, "ifb") == 0 || link_trial(link))
		return false;
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if (link->type == types[i])
			return true;
	return false;
}

bool net_link_l3(const struct net_link *link)
{
	return link->type != ARPHRD_ETHER && link->type != ARPHRD_LOOPBACK;
}

const struct net_link *net_link_bridge(const struct net *net, const struct net_link *link)
{
	const struct net_link *master = link->master ? net_link(net, link->master) : NULL;
	return master && strcmp(master->kind, "bridge") == 0 ? master : NULL;
}

/* The port behind which a bridge has seen this station, if the neighbour's device is a bridge or a VLAN on one. */
static uint32_t find_port(const struct net *net, const struct net_link *device, const uint8_t *mac)
{
	struct station_key key = {.bridge = device->ifindex};
	memcpy(key.mac, mac, 6);
	const uint32_t *port = map_get(&net->stations, &key);
	const struct net_link *link = port ? net_link(net, *port) : NULL;
	return link && net_eligible(net, link) ? link->ifindex : 0;
}

static uint32_t find_neighbour(const struct net *net, const uint8_t ip[16], uint32_t ifindex)
{
	struct neighbour_key key = {.ifindex = ifindex};
	memcpy(key.ip, ip, 16);
	const uint8_t *mac = map_get(&net->neighbours, &key);
	const struct net_link *device = net_link(net, ifindex);
	if (!mac || !device)
		return 0;
	if (link_bridge(device))
		return find_port(net, device, mac);
	const struct net_link *lower = link_stacked(device) ? net_link(net, device->lower) : NULL;
	if (lower && link_bridge(lower))
		return find_port(net, lower, mac);
	return net_eligible(net, device) ? ifindex : 0;
}

uint32_t net_find(const struct net *net, const struct ip *ip)
{
	const struct places *places = map_get(&net->by_route, ip->bytes);
	for (int i = 0; places && i < PLACES_MAX; i++) {
		const struct net_link *link = places->count[i] ? net_link(net, places->ifindex[i]) : NULL;
		if (link && net_eligible(net, link))
			return link->ifindex;
	}
	places = map_get(&net->by_neighbour, ip->bytes);
	for (int i = 0; places && i < PLACES_MAX; i++) {
		uint32_t found = places->count[i] ? find_neighbour(net, ip->bytes, places->ifindex[i]) : 0;
		if (found)
			return found;
	}
	return 0;
}

static bool prefix_holds(const struct route_key *prefix, const struct ip *ip)
{
	unsigned int bytes = prefix->length / 8, bits = prefix->length % 8;
	if (memcmp(prefix->ip, ip->bytes, bytes) != 0)
		return false;
	return !bits || (prefix->ip[bytes] ^ ip->bytes[bytes]) >> (8 - bits) == 0;
}

size_t net_suspects(const struct net *net, const struct ip *ip, uint32_t *ret, size_t max)
{
	size_t at = 0, count = 0;
	const void *key;
	void *value;
	while (count < max && map_next(&net->prefixes, &at, &key, &value)) {
		const struct route_key *prefix = key;
		const struct net_link *link = prefix_holds(prefix, ip) ? net_link(net, prefix->ifindex) : NULL;
		const struct net_link *lower = link && link_stacked(link) ? net_link(net, link->lower) : NULL;
		if (link && link->up && (link_bridge(link) || (lower && link_bridge(lower)) || net_eligible(net, link)))
			ret[count++] = link->ifindex;
	}
	return count;
}
