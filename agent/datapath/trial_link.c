/* SPDX-License-Identifier: Apache-2.0 */
/* A veth pair for a moment, with both ends here. The near end has a route to the client, and nobody an address. */
#include <errno.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include "agent/datapath/netlink.h"
#include "agent/datapath/trial.h"

#define TRIES 8
#define METRIC_LAST 0x7fffffff /* whoever has a route to it goes first */

const uint8_t trial_near_mac[6] = {0x02, 0x76, 0x41, 0, 0, 1}, trial_far_mac[6] = {0x02, 0x76, 0x41, 0, 0, 2};
/* The client's: not the far end's, which would take answers for packets to be forwarded. */
static const uint8_t client_mac[6] = {0x02, 0x76, 0x41, 0, 0, 3};

static void put_end(struct nlmsghdr *request, const char *name, const uint8_t mac[6])
{
	mnl_attr_put_strz(request, IFLA_IFNAME, name);
	mnl_attr_put(request, IFLA_ADDRESS, 6, mac);
}

static int veth_add(void)
{
	char buffer[NETLINK_REQUEST_MAX];
	struct nlmsghdr *request = mnl_nlmsg_put_header(buffer);
	request->nlmsg_type = RTM_NEWLINK;
	request->nlmsg_flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL;
	mnl_nlmsg_put_extra_header(request, sizeof(struct ifinfomsg));
	put_end(request, TRIAL_NEAR, trial_near_mac);
	struct nlattr *info = mnl_attr_nest_start(request, IFLA_LINKINFO);
	mnl_attr_put_strz(request, IFLA_INFO_KIND, "veth");
	struct nlattr *data = mnl_attr_nest_start(request, IFLA_INFO_DATA);
	struct nlattr *peer = mnl_attr_nest_start(request, VETH_INFO_PEER);
	mnl_nlmsg_put_extra_header(request, sizeof(struct ifinfomsg));
	put_end(request, TRIAL_FAR, trial_far_mac);
	mnl_attr_nest_end(request, peer);
	mnl_attr_nest_end(request, data);
	mnl_attr_nest_end(request, info);
	return netlink_call(request, NULL, NULL);
}

static int link_up(const char *name)
{
	char buffer[NETLINK_REQUEST_MAX];
	struct nlmsghdr *request = mnl_nlmsg_put_header(buffer);
	request->nlmsg_type = RTM_NEWLINK;
	request->nlmsg_flags = NLM_F_REQUEST;
	struct ifinfomsg *info = mnl_nlmsg_put_extra_header(request, sizeof(*info));
	info->ifi_flags = info->ifi_change = IFF_UP;
	mnl_attr_put_strz(request, IFLA_IFNAME, name);
	return netlink_call(request, NULL, NULL);
}

void trial_link_remove(void)
{
	char buffer[NETLINK_REQUEST_MAX];
	if (!if_nametoindex(TRIAL_NEAR))
		return;
	struct nlmsghdr *request = mnl_nlmsg_put_header(buffer);
	request->nlmsg_type = RTM_DELLINK;
	request->nlmsg_flags = NLM_F_REQUEST;
	mnl_nlmsg_put_extra_header(request, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(request, IFLA_IFNAME, TRIAL_NEAR);
	netlink_call(request, NULL, NULL); /* its routes and neighbours go with it */
}

static size_t address_length(const struct ip *ip)
{
	return ip->family == 4 ? 4 : 16;
}

static const void *address_bytes(const struct ip *ip)
{
	return ip->bytes + 16 - address_length(ip);
}

static int family_of(const struct ip *ip)
{
	return ip->family == 4 ? AF_INET : AF_INET6;
}

static struct nlmsghdr *route_request(char *buffer, uint16_t type, const struct ip *ip)
{
	struct nlmsghdr *request = mnl_nlmsg_put_header(buffer);
	request->nlmsg_type = type;
	request->nlmsg_flags = NLM_F_REQUEST;
	struct rtmsg *route = mnl_nlmsg_put_extra_header(request, sizeof(*route));
	route->rtm_family = family_of(ip);
	route->rtm_dst_len = 8 * address_length(ip);
	mnl_attr_put(request, RTA_DST, address_length(ip), address_bytes(ip));
	return request;
}

static int note_local(const struct nlmsghdr *message, void *context)
{
	*(bool *)context |= ((const struct rtmsg *)mnl_nlmsg_get_payload(message))->rtm_type == RTN_LOCAL;
	return MNL_CB_OK;
}

/* This node has the address. */
static bool here(const struct ip *ip)
{
	char buffer[NETLINK_REQUEST_MAX];
	bool local = false;
	netlink_call(route_request(buffer, RTM_GETROUTE, ip), note_local, &local);
	return local;
}

static int route_add(const struct ip *ip, uint32_t ifindex)
{
	char buffer[NETLINK_REQUEST_MAX];
	struct nlmsghdr *request = route_request(buffer, RTM_NEWROUTE, ip);
	request->nlmsg_flags |= NLM_F_CREATE | NLM_F_EXCL;
	struct rtmsg *route = mnl_nlmsg_get_payload(request);
	route->rtm_table = RT_TABLE_MAIN;
	route->rtm_type = RTN_UNICAST;
	route->rtm_scope = ip->family == 4 ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE;
	route->rtm_protocol = RTPROT_STATIC;
	mnl_attr_put_u32(request, RTA_OIF, ifindex);
	mnl_attr_put_u32(request, RTA_PRIORITY, METRIC_LAST);
	return netlink_call(request, NULL, NULL);
}

static int neighbour_add(const struct ip *ip, uint32_t ifindex)
{
	char buffer[NETLINK_REQUEST_MAX];
	struct nlmsghdr *request = mnl_nlmsg_put_header(buffer);
	request->nlmsg_type = RTM_NEWNEIGH;
	request->nlmsg_flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE;
	struct ndmsg *neighbour = mnl_nlmsg_put_extra_header(request, sizeof(*neighbour));
	neighbour->ndm_family = family_of(ip);
	neighbour->ndm_ifindex = ifindex;
	neighbour->ndm_state = NUD_PERMANENT;
	mnl_attr_put(request, NDA_DST, address_length(ip), address_bytes(ip));
	mnl_attr_put(request, NDA_LLADDR, sizeof(client_mac), client_mac);
	return netlink_call(request, NULL, NULL);
}

/* Two addresses of a documentation's network that nobody has here. */
static int addresses_take(struct trial_link *link, int which)
{
	for (unsigned int i = 0; i < TRIES; i++) {
		char text[ADDR_TEXT_MAX];
		struct ip *client = &link->client[which], *service = &link->service[which];
		for (unsigned int end = 0; end < 2; end++) {
			snprintf(text, sizeof(text), which ? "2001:db8:7641::%u" : "192.0.2.%u", 249 + end - 4 * i);
			ip_parse(text, end ? service : client);
		}
		if (here(client) || here(service))
			continue;
		int result = route_add(client, link->near);
		if (result == 0)
			return neighbour_add(client, link->near);
		if (result != -EEXIST)
			return result;
	}
	return -EADDRINUSE;
}

int trial_link_make(struct trial_link *ret, struct error *e)
{
	trial_link_remove();
	int result = veth_add();
	if (result == 0)
		result = link_up(TRIAL_FAR);
	if (result == 0)
		result = link_up(TRIAL_NEAR); /* last: with the carrier there, its queue is active at once */
	if (result < 0) {
		trial_link_remove();
		return error_system(e, -result, "no veth pair can be made");
	}
	*ret = (struct trial_link){.near = if_nametoindex(TRIAL_NEAR), .far = if_nametoindex(TRIAL_FAR)};
	result = addresses_take(ret, 0);
	if (result < 0) {
		trial_link_remove();
		return error_system(e, -result, "no route for the trial's client");
	}
	ret->ipv6 = addresses_take(ret, 1) == 0;
	return 0;
}
