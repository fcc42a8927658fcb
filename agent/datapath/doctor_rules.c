/* SPDX-License-Identifier: Apache-2.0 */
/* Policy routing of others, where it meets ours (routes.c). */
#include <errno.h>
#include <linux/fib_rules.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include "agent/base/mem.h"
#include "agent/datapath/doctor.h"
#include "agent/datapath/netlink.h"

#ifndef NETLINK_GET_STRICT_CHK
#define NETLINK_GET_STRICT_CHK 12
#endif

struct routing_rule {
	uint32_t priority, mark, mask, table;
	uint8_t family, protocol, action;
	bool selects; /* by addresses, interfaces, users or ports */
};

static void rule_read(const struct nlmsghdr *message, struct routing_rule *ret)
{
	const struct fib_rule_hdr *header = mnl_nlmsg_get_payload(message);
	const struct nlattr *attribute;
	*ret = (struct routing_rule){.table = header->table,
		.family = header->family,
		.action = header->action,
		.selects = header->src_len || header->dst_len || header->tos || header->flags & FIB_RULE_INVERT};
	mnl_attr_for_each(attribute, message, sizeof(*header))
	{
		switch (mnl_attr_get_type(attribute)) {
		case FRA_TABLE:
			ret->table = mnl_attr_get_u32(attribute);
			break;
		case FRA_PRIORITY:
			ret->priority = mnl_attr_get_u32(attribute);
			break;
		case FRA_FWMARK:
			ret->mark = mnl_attr_get_u32(attribute);
			break;
		case FRA_FWMASK:
			ret->mask = mnl_attr_get_u32(attribute);
			break;
		case FRA_PROTOCOL:
			ret->protocol = mnl_attr_get_u8(attribute);
			break;
		case FRA_IIFNAME:
		case FRA_OIFNAME:
		case FRA_UID_RANGE:
		case FRA_IP_PROTO:
		case FRA_SPORT_RANGE:
		case FRA_DPORT_RANGE:
		case FRA_L3MDEV:
			ret->selects = true;
			break;
		}
	}
}

static void rule_judge(struct doctor_look *look, const struct routing_rule *rule)
{
	const struct datapath_options *options = &look->datapath->options;
	const char *ip = rule->family == AF_INET6 ? "ip -6" : "ip";
	uint32_t ours = options->mark_mask, mark = mark_intercept(ours);
	bool whole = rule->mask == UINT32_MAX || !rule->mask;
	bool takes = (mark & rule->mask) == rule->mark; /* also a rule that asks for no mark */
	if (rule->table == options->route_table && rule->action == FR_ACT_TO_TBL)
		finding_add(look, FINDING_BAD, "rules",
			"Remove the rule, or choose another datapath.routeTable, and restart penstockd",
			"%s rule %u leads to route table %u, which is penstock's: what it takes ends on this node", ip,
			rule->priority, rule->table);
	else if (rule->priority && rule->priority <= options->rule_priority && takes)
		finding_add(look, rule->selects ? FINDING_WARNING : FINDING_BAD, "rules",
			"Give that rule a larger number, or penstock a smaller one (datapath.rulePriority), and restart penstockd",
			"%s rule %u of somebody else comes before penstock's %u: it takes %s on their way to proxies", ip,
			rule->priority, options->rule_priority, rule->selects ? "some packets" : "packets");
	else if (!whole && rule->mask & ours)
		finding_add(look, FINDING_WARNING, "rules",
			"Choose another datapath.markMask, or other bits there, and restart penstockd",
			"%s rule %u asks for mark %#x/%#x: bits %#x are penstock's", ip, rule->priority, rule->mark, rule->mask,
			rule->mask & ours);
}

struct walk {
	struct doctor_look *look;
	size_t foreign, found;
};

static int each_rule(const struct nlmsghdr *message, void *context)
{
	struct walk *walk = context;
	struct routing_rule rule;
	rule_read(message, &rule);
	if (rule.protocol == ROUTES_PROTOCOL)
		return MNL_CB_OK;
	walk->foreign++;
	rule_judge(walk->look, &rule);
	return MNL_CB_OK;
}

static void rules_list(struct walk *walk, uint8_t family)
{
	char buffer[NETLINK_REQUEST_MAX] = {0};
	struct nlmsghdr *request = mnl_nlmsg_put_header(buffer);
	request->nlmsg_type = RTM_GETRULE;
	request->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	((struct fib_rule_hdr *)mnl_nlmsg_put_extra_header(request, sizeof(struct fib_rule_hdr)))->family = family;
	netlink_call(request, each_rule, walk);
}

/* ---- the table ---- */

static int each_route(const struct nlmsghdr *message, void *context)
{
	struct walk *walk = context;
	const struct rtmsg *rt = mnl_nlmsg_get_payload(message);
	uint32_t table = rt->rtm_table;
	const struct nlattr *attribute;
	mnl_attr_for_each(attribute, message, sizeof(*rt))
	{
		if (mnl_attr_get_type(attribute) == RTA_TABLE)
			table = mnl_attr_get_u32(attribute);
	}
	walk->found += table == walk->look->datapath->options.route_table && rt->rtm_protocol != ROUTES_PROTOCOL;
	return MNL_CB_OK;
}

/* Only of our table: a router's others may hold a million. Kernels that cannot (before 4.20) are not asked. */
static size_t routes_count_foreign(struct doctor_look *look, uint8_t family)
{
	struct walk walk = {.look = look};
	struct timeval patience = {.tv_sec = 2};
	int one = 1;
	char text[NETLINK_REQUEST_MAX] = {0};
	struct mnl_socket *socket = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
	if (!socket)
		return 0;
	struct nlmsghdr *request = mnl_nlmsg_put_header(text);
	request->nlmsg_type = RTM_GETROUTE;
	request->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	struct rtmsg *rt = mnl_nlmsg_put_extra_header(request, sizeof(*rt));
	rt->rtm_family = family;
	mnl_attr_put_u32(request, RTA_TABLE, look->datapath->options.route_table);
	setsockopt(mnl_socket_get_fd(socket), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	auto_free char *buffer = mem_alloc(1 << 16);
	int more = setsockopt(mnl_socket_get_fd(socket), SOL_NETLINK, NETLINK_GET_STRICT_CHK, &one, sizeof(one)) == 0 &&
			   mnl_socket_sendto(socket, request, request->nlmsg_len) > 0;
	while (more) {
		ssize_t length = mnl_socket_recvfrom(socket, buffer, 1 << 16);
		more = length > 0 && mnl_cb_run(buffer, (size_t)length, 0, 0, each_route, &walk) > MNL_CB_STOP;
	}
	mnl_socket_close(socket);
	return walk.found;
}

void doctor_rules(struct doctor_look *look)
{
	struct walk walk = {.look = look};
	size_t before = look->count;
	rules_list(&walk, AF_INET);
	rules_list(&walk, AF_INET6);
	size_t routes = routes_count_foreign(look, AF_INET) + routes_count_foreign(look, AF_INET6);
	if (routes)
		finding_add(look, FINDING_WARNING, "rules",
			"Remove them, or choose another datapath.routeTable, and restart penstockd",
			"route table %u, which is penstock's, holds %zu of somebody else's routes",
			look->datapath->options.route_table, routes);
	if (look->count == before)
		finding_add(look, FINDING_OK, "rules", NULL,
			"no rule of others comes before %u, uses bits of %#x or leads to table %u",
			look->datapath->options.rule_priority, look->datapath->options.mark_mask,
			look->datapath->options.route_table);
}
