/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an intercepted packet needs to be delivered here although its address is not:
 *
 *   rulePriority - 1:  iif lo fwmark INTERCEPT lookup main
 *   rulePriority:      fwmark INTERCEPT lookup TABLE
 *   rulePriority:      fwmark REROUTE lookup TABLE           while processes of this node are subjects
 *   TABLE:             local default dev lo
 *
 * The first is there so that src_valid_mark, rp_filter and tcp_fwmark_accept do no harm; what is REROUTE is sent here.
 *
 * in IPv4 and IPv6. Ours are known by their routing protocol number, so that what another configuration left is found
 * too.
 */
#include <errno.h>
#include <linux/fib_rules.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <string.h>
#include "agent/base/log.h"
#include "agent/datapath/netlink.h"
#include "agent/datapath/private.h"

static const uint8_t families[] = {AF_INET, AF_INET6};

struct wanted_rule {
	uint32_t priority, mark, mask, table;
	bool from_here; /* iif lo */
};

#define RULES_MAX 3

static int rules_wanted(const struct datapath_options *options, bool host, struct wanted_rule ret[RULES_MAX])
{
	uint32_t mark = mark_intercept(options->mark_mask), priority = options->rule_priority;
	ret[0] = (struct wanted_rule){.priority = priority ? priority - 1 : 0,
		.mark = mark,
		.mask = options->mark_mask,
		.table = RT_TABLE_MAIN,
		.from_here = true};
	ret[1] = (struct wanted_rule){
		.priority = priority, .mark = mark, .mask = options->mark_mask, .table = options->route_table};
	ret[2] = ret[1];
	ret[2].mark |= mark_answer(options->mark_mask);
	return host ? 3 : 2;
}

static int rule_add(uint8_t family, const struct wanted_rule *rule)
{
	char buffer[NETLINK_REQUEST_MAX];
	struct nlmsghdr *request = mnl_nlmsg_put_header(buffer);
	request->nlmsg_type = RTM_NEWRULE;
	request->nlmsg_flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL;
	struct fib_rule_hdr *header = mnl_nlmsg_put_extra_header(request, sizeof(*header));
	header->family = family;
	header->action = FR_ACT_TO_TBL;
	header->table = rule->table < 256 ? rule->table : RT_TABLE_UNSPEC;
	mnl_attr_put_u32(request, FRA_TABLE, rule->table);
	mnl_attr_put_u32(request, FRA_PRIORITY, rule->priority);
	mnl_attr_put_u32(request, FRA_FWMARK, rule->mark);
	mnl_attr_put_u32(request, FRA_FWMASK, rule->mask);
	mnl_attr_put_u8(request, FRA_PROTOCOL, ROUTES_PROTOCOL);
	if (rule->from_here)
		mnl_attr_put_strz(request, FRA_IIFNAME, "lo");
	return netlink_call(request, NULL, NULL);
}

static int route_add(uint8_t family, uint32_t table)
{
	char buffer[NETLINK_REQUEST_MAX];
	struct nlmsghdr *request = mnl_nlmsg_put_header(buffer);
	request->nlmsg_type = RTM_NEWROUTE;
	request->nlmsg_flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL;
	struct rtmsg *rt = mnl_nlmsg_put_extra_header(request, sizeof(*rt));
	rt->rtm_family = family;
	rt->rtm_type = RTN_LOCAL;
	rt->rtm_scope = RT_SCOPE_HOST;
	rt->rtm_protocol = ROUTES_PROTOCOL;
	rt->rtm_table = table < 256 ? table : RT_TABLE_UNSPEC;
	mnl_attr_put_u32(request, RTA_TABLE, table);
	mnl_attr_put_u32(request, RTA_OIF, if_nametoindex("lo"));
	return netlink_call(request, NULL, NULL);
}

/* ---- ours among what is there ---- */

struct ours {
	const struct wanted_rule *keep;
	int keep_count;
	uint32_t keep_table; /* route */
	bool remove;
	int count, error;
};

/* The message as it was listed names what to delete. */
static void delete_listed(const struct nlmsghdr *message, uint16_t type, struct ours *ours)
{
	char buffer[NETLINK_REQUEST_MAX];
	if (message->nlmsg_len > sizeof(buffer))
		return;
	memcpy(buffer, message, message->nlmsg_len);
	struct nlmsghdr *request = (struct nlmsghdr *)buffer;
	request->nlmsg_type = type;
	request->nlmsg_flags = NLM_F_REQUEST;
	request->nlmsg_pid = 0;
	int result = netlink_call(request, NULL, NULL);
	if (result < 0 && result != -ENOENT && result != -ESRCH)
		ours->error = result;
}

static int each_rule(const struct nlmsghdr *message, void *context)
{
	struct ours *ours = context;
	const struct fib_rule_hdr *header = mnl_nlmsg_get_payload(message);
	struct wanted_rule rule = {.table = header->table};
	uint8_t protocol = 0;
	struct nlattr *attribute;
	mnl_attr_for_each(attribute, message, sizeof(*header))
	{
		switch (mnl_attr_get_type(attribute)) {
		case FRA_TABLE:
			rule.table = mnl_attr_get_u32(attribute);
			break;
		case FRA_PRIORITY:
			rule.priority = mnl_attr_get_u32(attribute);
			break;
		case FRA_FWMARK:
			rule.mark = mnl_attr_get_u32(attribute);
			break;
		case FRA_FWMASK:
			rule.mask = mnl_attr_get_u32(attribute);
			break;
		case FRA_IIFNAME:
			rule.from_here = strcmp(mnl_attr_get_str(attribute), "lo") == 0;
			break;
		case FRA_PROTOCOL:
			protocol = mnl_attr_get_u8(attribute);
			break;
		}
	}
	if (protocol != ROUTES_PROTOCOL)
		return MNL_CB_OK;
	for (int i = 0; i < ours->keep_count; i++) {
		const struct wanted_rule *keep = &ours->keep[i];
		if (keep->priority == rule.priority && keep->mark == rule.mark && keep->mask == rule.mask &&
			keep->table == rule.table && keep->from_here == rule.from_here)
			return MNL_CB_OK;
	}
	ours->count++;
	if (ours->remove)
		delete_listed(message, RTM_DELRULE, ours);
	return MNL_CB_OK;
}

static int each_route(const struct nlmsghdr *message, void *context)
{
	struct ours *ours = context;
	const struct rtmsg *rt = mnl_nlmsg_get_payload(message);
	uint32_t table = rt->rtm_table;
	struct nlattr *attribute;
	if (rt->rtm_protocol != ROUTES_PROTOCOL || rt->rtm_type != RTN_LOCAL || rt->rtm_dst_len)
		return MNL_CB_OK;
	mnl_attr_for_each(attribute, message, sizeof(*rt)) if (mnl_attr_get_type(attribute) == RTA_TABLE) table =
		mnl_attr_get_u32(attribute);
	if (ours->keep_count && table == ours->keep_table)
		return MNL_CB_OK;
	ours->count++;
	if (ours->remove)
		delete_listed(message, RTM_DELROUTE, ours);
	return MNL_CB_OK;
}

static void walk(uint16_t type, uint8_t family, struct ours *ours)
{
	char buffer[NETLINK_REQUEST_MAX] = {0};
	struct nlmsghdr *request = mnl_nlmsg_put_header(buffer);
	request->nlmsg_type = type;
	request->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	if (type == RTM_GETRULE)
		((struct fib_rule_hdr *)mnl_nlmsg_put_extra_header(request, sizeof(struct fib_rule_hdr)))->family = family;
	else
		((struct rtmsg *)mnl_nlmsg_put_extra_header(request, sizeof(struct rtmsg)))->rtm_family = family;
	int result = netlink_call(request, type == RTM_GETRULE ? each_rule : each_route, ours);
	if (result < 0 && family == AF_INET)
		ours->error = result;
}

/* Deleting while listing disturbs the list: until nothing is found. */
static int remove_others(const struct wanted_rule *keep, int keep_count, uint32_t keep_table)
{
	struct ours ours;
	for (int attempt = 0; attempt < 8; attempt++) {
		ours = (struct ours){.keep = keep, .keep_count = keep_count, .keep_table = keep_table, .remove = true};
		for (size_t i = 0; i < sizeof(families); i++) {
			walk(RTM_GETRULE, families[i], &ours);
			walk(RTM_GETROUTE, families[i], &ours);
		}
		if (ours.count == 0 && ours.error != -EINTR)
			break;
	}
	return ours.error ? ours.error : ours.count ? -EBUSY : 0;
}

int routes_set(const struct datapath_options *options, bool host, struct routes_made *made, struct error *e)
{
	struct wanted_rule rules[RULES_MAX];
	struct routes_made nobody = {0};
	int count = rules_wanted(options, host, rules);
	made = made ? made : &nobody;
	*made = (struct routes_made){0};
	int result = remove_others(rules, count, options->route_table);
	if (result < 0)
		return error_system(e, -result, "old rules and routes of ours cannot be removed");
	for (size_t i = 0; i < sizeof(families); i++) {
		result = route_add(families[i], options->route_table);
		made->routes += result == 0;
		for (int rule = 0; (result == 0 || result == -EEXIST) && rule < count; rule++) {
			result = rule_add(families[i], &rules[rule]);
			made->rules += result == 0;
		}
		if (result == 0 || result == -EEXIST)
			continue;
		if (families[i] == AF_INET)
			return error_system(e, -result, "the route and rules that lead to proxies cannot be set");
		log_debug(ROOM, "no IPv6 rules: %s", strerror(-result)); /* IPv6 is switched off, or lo is down yet */
	}
	return 0;
}

int routes_remove(struct error *e)
{
	int result = remove_others(NULL, 0, 0);
	return result < 0 ? error_system(e, -result, "rules and routes cannot be removed") : 0;
}

int routes_count(void)
{
	struct ours ours = {0};
	for (size_t i = 0; i < sizeof(families); i++) {
		walk(RTM_GETRULE, families[i], &ours);
		walk(RTM_GETROUTE, families[i], &ours);
	}
	return ours.error ? -1 : ours.count;
}
