/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/datapath/netlink.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/fib_rules.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include "agent/base/log.h"
#include "agent/base/mem.h"
#include "agent/datapath/private.h"

#define RECEIVE_BUFFER (4 << 20)

static void cleanup_socket(struct mnl_socket **socket)
{
	if (*socket)
		mnl_socket_close(*socket);
}

static struct mnl_socket *socket_open(void)
{
	struct mnl_socket *socket = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
	if (socket && mnl_socket_bind(socket, 0, MNL_SOCKET_AUTOPID) < 0) {
		int errnum = errno;
		mnl_socket_close(socket);
		errno = errnum;
		return NULL;
	}
	return socket;
}

int netlink_call(struct nlmsghdr *request, mnl_cb_t each, void *context)
{
	__attribute__((cleanup(cleanup_socket))) struct mnl_socket *socket = socket_open();
	if (!socket)
		return -errno;
	unsigned int port = mnl_socket_get_portid(socket);
	struct timeval patience = {.tv_sec = 5};
	setsockopt(mnl_socket_get_fd(socket), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	request->nlmsg_seq = 1;
	/* Both bits: NLM_F_EXCL is one of them. */
	if ((request->nlmsg_flags & NLM_F_DUMP) != NLM_F_DUMP)
		request->nlmsg_flags |= NLM_F_ACK;
	if (mnl_socket_sendto(socket, request, request->nlmsg_len) < 0)
		return -errno;
	auto_free char *buffer = mem_alloc(1 << 16);
	for (;;) {
		ssize_t length = mnl_socket_recvfrom(socket, buffer, 1 << 16);
		if (length < 0)
			return -errno;
		int result = mnl_cb_run(buffer, length, 1, port, each, context);
		if (result <= MNL_CB_STOP)
			return result < 0 ? -errno : 0;
	}
}

/* ---- messages → net ---- */

static bool address(const struct nlattr *attribute, int family, struct ip *ret)
{
	size_t length = mnl_attr_get_payload_len(attribute);
	if (family == AF_INET && length == 4) {
		uint32_t word;
		memcpy(&word, mnl_attr_get_payload(attribute), 4);
		*ret = ip_from_v4(word);
		return true;
	}
	if (family == AF_INET6 && length == 16) {
		*ret = ip_from_v6(mnl_attr_get_payload(attribute));
		return true;
	}
	return false;
}

static void copy_name(char out[NET_NAME_MAX], const struct nlattr *attribute)
{
	size_t length = mnl_attr_get_payload_len(attribute);
	memcpy(out, mnl_attr_get_payload(attribute), length < NET_NAME_MAX ? length : NET_NAME_MAX - 1);
	out[NET_NAME_MAX - 1] = '\0';
	/* behind the terminator nothing may differ: links are compared as bytes */
	size_t used = strlen(out);
	memset(out + used, 0, NET_NAME_MAX - used);
}

static void read_link(const struct nlmsghdr *message, struct net *net)
{
	const struct ifinfomsg *info = mnl_nlmsg_get_payload(message);
	struct net_link link = {.ifindex = info->ifi_index, .type = info->ifi_type, .up = info->ifi_flags & IFF_UP};
	/* AF_BRIDGE: about the port, with few attributes; leaving a bridge is told as "deleted" */
	if (info->ifi_family != AF_UNSPEC)
		return;
	if (message->nlmsg_type == RTM_DELLINK) {
		net_link_delete(net, link.ifindex);
		return;
	}
	struct nlattr *attribute, *nested;
	mnl_attr_for_each(attribute, message, sizeof(*info))
	{
		switch (mnl_attr_get_type(attribute)) {
		case IFLA_IFNAME:
			copy_name(link.name, attribute);
			break;
		case IFLA_ADDRESS:
			if (mnl_attr_get_payload_len(attribute) == sizeof(link.mac))
				memcpy(link.mac, mnl_attr_get_payload(attribute), sizeof(link.mac));
			break;
		case IFLA_MASTER:
			link.master = mnl_attr_get_u32(attribute);
			break;
		case IFLA_LINK:
			link.lower = mnl_attr_get_u32(attribute);
			break;
		case IFLA_LINKINFO:
			mnl_attr_for_each_nested(nested, attribute) if (mnl_attr_get_type(nested) == IFLA_INFO_KIND)
				copy_name(link.kind, nested);
			break;
		}
	}
	net_link_put(net, &link);
}

/* A default route over several next hops: each is an uplink. */
static void read_multipath(const struct nlattr *attribute, struct net_route *route, struct net *net, bool there)
{
	const struct rtnexthop *hop = mnl_attr_get_payload(attribute);
	int left = mnl_attr_get_payload_len(attribute);
	for (; RTNH_OK(hop, left); left -= RTNH_ALIGN(hop->rtnh_len), hop = RTNH_NEXT(hop)) {
		route->ifindex = hop->rtnh_ifindex;
		net_route(net, route, there);
	}
}

static void read_route(const struct nlmsghdr *message, struct net *net)
{
	const struct rtmsg *rt = mnl_nlmsg_get_payload(message);
	struct net_route route = {.length = rt->rtm_dst_len, .table = rt->rtm_table};
	bool there = message->nlmsg_type == RTM_NEWROUTE;
	const struct nlattr *multipath = NULL;
	net->mislaid |= !there && rt->rtm_protocol == ROUTES_PROTOCOL;
	bool local = rt->rtm_type == RTN_LOCAL && rt->rtm_dst_len == (rt->rtm_family == AF_INET ? 32 : 128);
	if ((rt->rtm_type != RTN_UNICAST && !local) || rt->rtm_flags & RTM_F_CLONED || rt->rtm_src_len)
		return;
	if (rt->rtm_family == AF_INET)
		route.ip = ip_from_v4(0);
	else if (rt->rtm_family == AF_INET6)
		route.ip = ip_from_v6((const uint8_t[16]){0});
	else
		return;
	struct nlattr *attribute;
	mnl_attr_for_each(attribute, message, sizeof(*rt))
	{
		switch (mnl_attr_get_type(attribute)) {
		case RTA_DST:
			if (!address(attribute, rt->rtm_family, &route.ip))
				return;
			break;
		case RTA_OIF:
			route.ifindex = mnl_attr_get_u32(attribute);
			break;
		case RTA_PRIORITY:
			route.metric = mnl_attr_get_u32(attribute);
			break;
		case RTA_TABLE:
			route.table = mnl_attr_get_u32(attribute);
			break;
		case RTA_GATEWAY:
		case RTA_VIA:
			route.gateway = true;
			break;
		case RTA_MULTIPATH:
			multipath = attribute;
			break;
		}
	}
	if (local) {
		net_local(net, &route.ip, route.ifindex, there);
		return;
	}
	if (there && message->nlmsg_flags & NLM_F_REPLACE)
		net_route_replaces(net, &route);
	if (multipath)
		read_multipath(multipath, &route, net, there);
	else if (route.ifindex)
		net_route(net, &route, there);
}

static void read_rule(const struct nlmsghdr *message, struct net *net)
{
	const struct nlattr *attribute;
	mnl_attr_for_each(attribute, message, sizeof(struct fib_rule_hdr)) net->mislaid |=
		mnl_attr_get_type(attribute) == FRA_PROTOCOL && mnl_attr_get_u8(attribute) == ROUTES_PROTOCOL;
}

static void read_neighbour(const struct nlmsghdr *message, struct net *net)
{
	const struct ndmsg *nd = mnl_nlmsg_get_payload(message);
	const struct nlattr *destination = NULL, *mac = NULL;
	uint32_t master = 0;
	struct nlattr *attribute;
	mnl_attr_for_each(attribute, message, sizeof(*nd))
	{
		if (mnl_attr_get_type(attribute) == NDA_DST)
			destination = attribute;
		else if (mnl_attr_get_type(attribute) == NDA_LLADDR && mnl_attr_get_payload_len(attribute) == 6)
			mac = attribute;
		else if (mnl_attr_get_type(attribute) == NDA_MASTER)
			master = mnl_attr_get_u32(attribute);
	}
	bool there = message->nlmsg_type == RTM_NEWNEIGH;
	if (nd->ndm_family == AF_BRIDGE) {
		struct net_station station = {.bridge = master, .port = nd->ndm_ifindex};
		if (!mac || !master || nd->ndm_state & NUD_PERMANENT) /* permanent: the port's own address */
			return;
		memcpy(station.mac, mnl_attr_get_payload(mac), 6);
		net_station(net, &station, there);
		return;
	}
	struct net_neighbour neighbour = {.ifindex = nd->ndm_ifindex};
	if (nd->ndm_flags & NTF_PROXY || !destination || !address(destination, nd->ndm_family, &neighbour.ip))
		return;
	there = there && mac && nd->ndm_state & (NUD_PERMANENT | NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE);
	if (there)
		memcpy(neighbour.mac, mnl_attr_get_payload(mac), 6);
	net_neighbour(net, &neighbour, there);
}

static int read_message(const struct nlmsghdr *message, void *context)
{
	switch (message->nlmsg_type) {
	case RTM_NEWLINK:
	case RTM_DELLINK:
		read_link(message, context);
		break;
	case RTM_NEWROUTE:
	case RTM_DELROUTE:
		read_route(message, context);
		break;
	case RTM_DELRULE:
		read_rule(message, context);
		break;
	case RTM_NEWNEIGH:
	case RTM_DELNEIGH:
		read_neighbour(message, context);
		break;
	}
	return MNL_CB_OK;
}

/* ---- the whole look ---- */

static int dump(uint16_t type, int family, size_t header, struct net *net)
{
	char buffer[NETLINK_REQUEST_MAX] = {0};
	struct nlmsghdr *request = mnl_nlmsg_put_header(buffer);
	request->nlmsg_type = type;
	request->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	*(uint8_t *)mnl_nlmsg_put_extra_header(request, header) = family; /* each of these headers begins with it */
	int result;
	for (int attempt = 0; attempt < 5; attempt++) {
		result = netlink_call(request, read_message, net);
		if (result != -EINTR) /* the table changed under the dump */
			break;
	}
	return result;
}

struct links_seen {
	struct net *net;
	struct map set;
};

static int note_link(const struct nlmsghdr *message, void *context)
{
	struct links_seen *seen = context;
	const struct ifinfomsg *info = mnl_nlmsg_get_payload(message);
	uint32_t ifindex = info->ifi_index;
	if (message->nlmsg_type == RTM_NEWLINK)
		map_put(&seen->set, &ifindex, NULL);
	return read_message(message, seen->net);
}

/* Links that are no longer listed are gone. */
static int dump_links(struct net *net)
{
	struct links_seen seen = {.net = net};
	map_init(&seen.set, sizeof(uint32_t), 0);
	char buffer[NETLINK_REQUEST_MAX] = {0};
	struct nlmsghdr *request = mnl_nlmsg_put_header(buffer);
	request->nlmsg_type = RTM_GETLINK;
	request->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	mnl_nlmsg_put_extra_header(request, sizeof(struct ifinfomsg));
	int result = -EINTR;
	for (int attempt = 0; result == -EINTR && attempt < 5; attempt++)
		result = netlink_call(request, note_link, &seen);
	size_t at = 0;
	const void *key;
	void *value;
	while (result == 0 && map_next(&net->links, &at, &key, &value)) {
		uint32_t ifindex = *(const uint32_t *)key;
		if (!map_get(&seen.set, &ifindex))
			net_link_delete(net, ifindex);
	}
	map_clear(&seen.set);
	return result;
}

int monitor_dump(struct net *net, struct error *e)
{
	net_forget(net);
	int result = dump_links(net);
	if (result < 0)
		return error_system(e, -result, "interfaces cannot be listed");
	static const struct {
		uint16_t type;
		int family;
		size_t header;
		const char *what;
		bool needed;
	} dumps[] = {{RTM_GETROUTE, AF_INET, sizeof(struct rtmsg), "IPv4 routes", true},
		{RTM_GETROUTE, AF_INET6, sizeof(struct rtmsg), "IPv6 routes", false},
		{RTM_GETNEIGH, AF_INET, sizeof(struct ndmsg), "IPv4 neighbours", true},
		{RTM_GETNEIGH, AF_INET6, sizeof(struct ndmsg), "IPv6 neighbours", false},
		{RTM_GETNEIGH, AF_BRIDGE, sizeof(struct ndmsg), "bridge tables", false}};
	for (size_t i = 0; i < sizeof(dumps) / sizeof(dumps[0]); i++) {
		result = dump(dumps[i].type, dumps[i].family, dumps[i].header, net);
		if (result < 0 && dumps[i].needed)
			return error_system(e, -result, "%s cannot be listed", dumps[i].what);
		if (result < 0)
			log_debug(ROOM, "%s cannot be listed: %s", dumps[i].what, strerror(-result));
	}
	net->stale = false;
	return 0;
}

/* ---- asking ---- */

void neighbour_ask(struct monitor *monitor, const struct ip *ip, uint32_t ifindex)
{
	char buffer[NETLINK_REQUEST_MAX];
	struct nlmsghdr *request = mnl_nlmsg_put_header(buffer);
	request->nlmsg_type = RTM_NEWNEIGH;
	request->nlmsg_flags = NLM_F_REQUEST | NLM_F_CREATE;
	struct ndmsg *nd = mnl_nlmsg_put_extra_header(request, sizeof(*nd));
	nd->ndm_family = ip->family == 4 ? AF_INET : AF_INET6;
	nd->ndm_ifindex = ifindex;
	nd->ndm_state = NUD_NONE;
	nd->ndm_flags = NTF_USE;
	if (ip->family == 4) {
		uint32_t word = ip_v4(ip);
		mnl_attr_put(request, NDA_DST, sizeof(word), &word);
	} else {
		mnl_attr_put(request, NDA_DST, sizeof(ip->bytes), ip->bytes);
	}
	if (mnl_socket_sendto(monitor->socket, request, request->nlmsg_len) < 0)
		log_debug(ROOM, "a neighbour cannot be asked for: %s", strerror(errno));
}

/* ---- the monitor ---- */

int monitor_open(struct monitor *ret, struct error *e)
{
	static const int groups[] = {
		RTNLGRP_LINK, RTNLGRP_NEIGH, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE, RTNLGRP_IPV4_RULE, RTNLGRP_IPV6_RULE};
	struct mnl_socket *socket = socket_open();
	if (!socket)
		return error_system(e, errno, "no netlink socket");
	int fd = mnl_socket_get_fd(socket), size = RECEIVE_BUFFER;
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) < 0)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]); i++)
		if (mnl_socket_setsockopt(socket, NETLINK_ADD_MEMBERSHIP, (void *)&groups[i], sizeof(groups[i])) < 0) {
			int errnum = errno;
			mnl_socket_close(socket);
			return error_system(e, errnum, "netlink group %d cannot be joined", groups[i]);
		}
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	*ret = (struct monitor){.fd = fd, .socket = socket};
	return 0;
}

void monitor_close(struct monitor *monitor)
{
	if (monitor->socket)
		mnl_socket_close(monitor->socket);
	*monitor = (struct monitor){.fd = -1};
}

int monitor_read(struct monitor *monitor, struct net *net, struct error *e)
{
	auto_free char *buffer = mem_alloc(1 << 16);
	for (;;) {
		ssize_t length = mnl_socket_recvfrom(monitor->socket, buffer, 1 << 16);
		if (length < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return 0;
		if (length < 0 && errno == EINTR)
			continue;
		if (length < 0 && errno == ENOBUFS) {
			log_debug(ROOM, "netlink had more news than it could queue");
			net->stale = true;
			continue;
		}
		if (length < 0)
			return error_system(e, errno, "netlink cannot be read");
		mnl_cb_run(buffer, length, 0, 0, read_message, net);
	}
}
