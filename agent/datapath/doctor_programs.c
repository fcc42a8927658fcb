/* SPDX-License-Identifier: Apache-2.0 */
/* Programs of others where ours are. Which they are is not asked: that needs CAP_SYS_ADMIN. */
#include <bpf/bpf.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "agent/datapath/doctor.h"
#include "agent/datapath/netlink.h"

#define TCX_INGRESS 46
#define TCX_EGRESS 47
#define PROGRAMS_MAX 64
#define NAMES_MAX 8 /* interfaces named in one sentence */

/* Interfaces of which the same is to be said. */
struct places {
	size_t count;
	char names[NAMES_MAX * 18];
};

static void place_add(struct places *places, const char *name)
{
	size_t used = strlen(places->names);
	if (places->count++ < NAMES_MAX)
		snprintf(places->names + used, sizeof(places->names) - used, "%s%s", used ? ", " : "", name);
	else if (places->count == NAMES_MAX + 1)
		snprintf(places->names + used, sizeof(places->names) - used, " …");
}

/* ---- TCX ---- */

/* Those attached to the interface, in the order in which they run; -1: it is not told. */
static int tcx_programs(uint32_t ifindex, uint32_t type, uint32_t ids[PROGRAMS_MAX])
{
	union bpf_attr attr;
	memset(&attr, 0, sizeof(attr));
	attr.query.target_fd = ifindex; /* target_ifindex since 6.6, in the same place */
	attr.query.attach_type = type;
	attr.query.prog_cnt = PROGRAMS_MAX;
	attr.query.prog_ids = (uintptr_t)ids;
	if (syscall(SYS_bpf, BPF_PROG_QUERY, &attr, sizeof(attr)) < 0)
		return -1;
	return attr.query.prog_cnt < PROGRAMS_MAX ? (int)attr.query.prog_cnt : PROGRAMS_MAX;
}

static uint32_t program_id(int fd)
{
	struct bpf_prog_info info = {0};
	uint32_t length = sizeof(info);
	return fd >= 0 && bpf_obj_get_info_by_fd(fd, &info, &length) == 0 ? info.id : 0;
}

static void tcx_look(
	const uint32_t ours[PROGRAM_COUNT], const struct doctor_interface *interface, struct places *before, size_t *after)
{
	static const uint32_t types[] = {TCX_INGRESS, TCX_EGRESS};
	bool first = false;
	for (size_t i = 0; i < 2; i++) {
		uint32_t ids[PROGRAMS_MAX];
		int count = tcx_programs(interface->ifindex, types[i], ids), our_place = -1;
		for (int at = 0; at < count; at++)
			for (int program = 0; program < PROGRAM_COUNT; program++)
				our_place = ids[at] == ours[program] ? at : our_place;
		first |= our_place > 0;
		*after += our_place >= 0 && our_place + 1 < count;
	}
	if (first)
		place_add(before, interface->name);
}

/* ---- filters of tc, and XDP ---- */

struct filters {
	bool before;
};

static int each_filter(const struct nlmsghdr *message, void *context)
{
	struct filters *filters = context;
	const struct tcmsg *tc = mnl_nlmsg_get_payload(message);
	filters->before |= tc->tcm_handle && TC_H_MAJ(tc->tcm_info) >> 16 < CLSACT_PRIORITY;
	return MNL_CB_OK;
}

/* By clsact those with a smaller number run first; with TCX every filter runs after us. */
static bool filters_before(uint32_t ifindex, uint32_t parent)
{
	char buffer[NETLINK_REQUEST_MAX] = {0};
	struct filters filters = {0};
	struct nlmsghdr *request = mnl_nlmsg_put_header(buffer);
	request->nlmsg_type = RTM_GETTFILTER;
	request->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	struct tcmsg *tc = mnl_nlmsg_put_extra_header(request, sizeof(*tc));
	tc->tcm_ifindex = (int)ifindex;
	tc->tcm_parent = parent;
	netlink_call(request, each_filter, &filters);
	return filters.before;
}

struct links {
	const struct doctor_look *look;
	struct places xdp;
};

static int each_link(const struct nlmsghdr *message, void *context)
{
	struct links *links = context;
	const struct ifinfomsg *link = mnl_nlmsg_get_payload(message);
	const struct nlattr *attribute, *inner;
	uint8_t attached = 0;
	mnl_attr_for_each(attribute, message, sizeof(*link))
	{
		if (mnl_attr_get_type(attribute) != IFLA_XDP)
			continue;
		mnl_attr_for_each_nested(inner, attribute)
		{
			if (mnl_attr_get_type(inner) == IFLA_XDP_ATTACHED)
				attached = mnl_attr_get_u8(inner);
		}
	}
	for (size_t i = 0; attached && i < links->look->interface_count; i++)
		if (links->look->interfaces[i].ifindex == (uint32_t)link->ifi_index)
			place_add(&links->xdp, links->look->interfaces[i].name);
	return MNL_CB_OK;
}

static void xdp_look(struct links *links)
{
	char buffer[NETLINK_REQUEST_MAX] = {0};
	struct nlmsghdr *request = mnl_nlmsg_put_header(buffer);
	request->nlmsg_type = RTM_GETLINK;
	request->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	mnl_nlmsg_put_extra_header(request, sizeof(struct ifinfomsg));
	netlink_call(request, each_link, links);
}

/* ---- all ---- */

void doctor_programs(struct doctor_look *look)
{
	const struct datapath *d = look->datapath;
	struct places before = {0};
	struct links links = {.look = look};
	uint32_t ours[PROGRAM_COUNT];
	size_t after = 0, found = look->count;
	for (int program = 0; program < PROGRAM_COUNT; program++)
		ours[program] = program_id(d->loaded.program[program]);
	for (size_t i = 0; i < look->interface_count; i++) {
		const struct doctor_interface *interface = &look->interfaces[i];
		if (d->hook == HOOK_TCX)
			tcx_look(ours, interface, &before, &after);
		else if (filters_before(interface->ifindex, TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)) ||
				 filters_before(interface->ifindex, TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)))
			place_add(&before, interface->name);
	}
	if (look->interface_count)
		xdp_look(&links);
	if (before.count)
		finding_add(look, FINDING_WARNING, "programs",
			"What they pass, drop or redirect themselves penstock does not judge: detach them, or attach them after it",
			"tc programs of somebody else run before penstock's on %s", before.names);
	if (links.xdp.count)
		finding_add(look, FINDING_WARNING, "programs",
			"What they drop or redirect penstock does not see: make sure that they pass workloads' packets on",
			"XDP programs run before penstock's on %s", links.xdp.names);
	if (look->count == found)
		finding_add(look, FINDING_OK, "programs", NULL, "none of others runs before penstock's on %zu interfaces%s",
			look->interface_count, after ? "; some run after them" : "");
}
