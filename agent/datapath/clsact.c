/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where TCX is missing: direct-action filters of our own priority and handle on clsact, beside whatever is there. The
 * qdisc is removed only when we made it (links/IFINDEX-clsact says so) and nobody else's filter is on it.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "agent/base/mem.h"
#include "agent/datapath/netlink.h"
#include "agent/datapath/private.h"

static const enum bpf_tc_attach_point points[PS_DIRECTION_COUNT] = {
	[PS_EGRESS] = BPF_TC_INGRESS, [PS_INGRESS] = BPF_TC_EGRESS};
static const uint32_t parents[PS_DIRECTION_COUNT] = {
	[PS_EGRESS] = TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS), [PS_INGRESS] = TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)};

static const char *filter_pin(char name[32], uint32_t ifindex, enum direction direction)
{
	snprintf(name, 32, "%u-%s-clsact", ifindex, direction == EGRESS ? "ingress" : "egress");
	return name;
}

static const char *qdisc_pin(char name[32], uint32_t ifindex)
{
	snprintf(name, 32, "%u-clsact", ifindex);
	return name;
}

/* The id of the program that our filter runs; 0 when there is no such filter. */
static uint32_t filter_program(uint32_t ifindex, enum direction direction)
{
	DECLARE_LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = ifindex, .attach_point = points[direction]);
	DECLARE_LIBBPF_OPTS(bpf_tc_opts, options, .handle = CLSACT_HANDLE, .priority = CLSACT_PRIORITY);
	return bpf_tc_query(&hook, &options) == 0 ? options.prog_id : 0;
}

bool clsact_attached(const struct pins *pins, uint32_t ifindex, enum direction direction)
{
	char path[PIN_PATH_MAX], name[32];
	auto_close int fd = bpf_obj_get(pins_path(pins, path, "links", filter_pin(name, ifindex, direction)));
	if (fd < 0)
		return false;
	uint32_t id = program_number(fd);
	return id && id == filter_program(ifindex, direction);
}

static int qdisc_make(const struct pins *pins, int program, uint32_t ifindex, struct error *e)
{
	DECLARE_LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = ifindex, .attach_point = BPF_TC_INGRESS | BPF_TC_EGRESS);
	int result = bpf_tc_hook_create(&hook);
	if (result == -EEXIST)
		return 0;
	if (result < 0)
		return error_system(e, -result, "interface %u gets no clsact", ifindex);
	char name[32];
	return pins_replace(pins, program, "links", qdisc_pin(name, ifindex), e);
}

/* Also replaces the program of our filter, in one step, when that is another. */
int clsact_attach(const struct pins *pins, int program, uint32_t ifindex, enum direction direction, struct error *e)
{
	char path[PIN_PATH_MAX], name[32];
	pins_path(pins, path, "links", filter_pin(name, ifindex, direction));
	bool ours = clsact_attached(pins, ifindex, direction);
	uint32_t there = filter_program(ifindex, direction);
	if (ours && there == program_number(program))
		return 0;
	if (there && !ours && clsact_sweep(ifindex, false) <= 0)
		return error_set(e, ERROR_SYSTEM, EEXIST, NULL, "interface %u has a foreign filter at priority %d, handle %#x",
			ifindex, CLSACT_PRIORITY, CLSACT_HANDLE);
	int result = qdisc_make(pins, program, ifindex, e);
	if (result < 0)
		return result;
	DECLARE_LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = ifindex, .attach_point = points[direction]);
	DECLARE_LIBBPF_OPTS(bpf_tc_opts, options, .prog_fd = program, .handle = CLSACT_HANDLE, .priority = CLSACT_PRIORITY,
		.flags = there ? BPF_TC_F_REPLACE : 0);
	result = bpf_tc_attach(&hook, &options);
	if (result < 0)
		return error_system(
			e, -result, "interface %u gets no %s filter", ifindex, direction == EGRESS ? "ingress" : "egress");
	return pins_replace(pins, program, "links", filter_pin(name, ifindex, direction), e);
}

void clsact_detach(const struct pins *pins, uint32_t ifindex, enum direction direction)
{
	char path[PIN_PATH_MAX], name[32];
	pins_path(pins, path, "links", filter_pin(name, ifindex, direction));
	if (access(path, F_OK) < 0)
		return;
	if (clsact_attached(pins, ifindex, direction)) {
		DECLARE_LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = ifindex, .attach_point = points[direction]);
		DECLARE_LIBBPF_OPTS(bpf_tc_opts, options, .handle = CLSACT_HANDLE, .priority = CLSACT_PRIORITY);
		bpf_tc_detach(&hook, &options);
	}
	unlink(path);
}

/* ---- filters as netlink lists them: whose they are, without listing program ids (that needs CAP_SYS_ADMIN) ---- */

struct filters {
	uint32_t all, ours;
};

static bool ours_by_name(const char *name)
{
	for (int i = 0; i < PROGRAM_COUNT; i++) { /* libbpf calls a filter PROGRAM:[ID] */
		size_t length = strlen(program_names[i]);
		if (strncmp(name, program_names[i], length) == 0 && strncmp(name + length, ":[", 2) == 0)
			return true;
	}
	return false;
}

static int count_filter(const struct nlmsghdr *message, void *context)
{
	struct filters *filters = context;
	const struct tcmsg *tc = mnl_nlmsg_get_payload(message);
	struct nlattr *attribute, *option;
	bool named = false;
	if (!tc->tcm_handle) /* the priority itself, listed before its filters */
		return MNL_CB_OK;
	filters->all++;
	mnl_attr_for_each(attribute, message, sizeof(*tc)) if (mnl_attr_get_type(attribute) == TCA_OPTIONS)
		mnl_attr_for_each_nested(option, attribute) if (mnl_attr_get_type(option) == TCA_BPF_NAME) named =
			ours_by_name(mnl_attr_get_str(option));
	if (named && tc->tcm_handle == CLSACT_HANDLE && TC_H_MAJ(tc->tcm_info) >> 16 == CLSACT_PRIORITY)
		filters->ours++;
	return MNL_CB_OK;
}

static int list_filters(uint32_t ifindex, enum direction direction, struct filters *ret)
{
	char buffer[NETLINK_REQUEST_MAX];
	struct nlmsghdr *request = mnl_nlmsg_put_header(buffer);
	request->nlmsg_type = RTM_GETTFILTER;
	request->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	struct tcmsg *tc = mnl_nlmsg_put_extra_header(request, sizeof(*tc));
	tc->tcm_family = AF_UNSPEC;
	tc->tcm_ifindex = ifindex;
	tc->tcm_parent = parents[direction];
	*ret = (struct filters){0};
	return netlink_call(request, count_filter, ret);
}

int clsact_sweep(uint32_t ifindex, bool remove)
{
	int ours = 0;
	for (enum direction direction = 0; direction < DIRECTIONS; direction++) {
		struct filters filters;
		if (list_filters(ifindex, direction, &filters) < 0) /* no clsact, no interface */
			continue;
		ours += filters.ours;
		if (!filters.ours || !remove)
			continue;
		DECLARE_LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = ifindex, .attach_point = points[direction]);
		DECLARE_LIBBPF_OPTS(bpf_tc_opts, options, .handle = CLSACT_HANDLE, .priority = CLSACT_PRIORITY);
		if (bpf_tc_detach(&hook, &options) < 0)
			return -1;
	}
	return ours;
}

void clsact_release(const struct pins *pins, uint32_t ifindex)
{
	char path[PIN_PATH_MAX], name[32];
	pins_path(pins, path, "links", qdisc_pin(name, ifindex));
	if (access(path, F_OK) < 0)
		return;
	struct filters in, out;
	if (list_filters(ifindex, EGRESS, &in) == 0 && list_filters(ifindex, INGRESS, &out) == 0 && in.all + out.all == 0) {
		DECLARE_LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = ifindex, .attach_point = BPF_TC_INGRESS | BPF_TC_EGRESS);
		bpf_tc_hook_destroy(&hook);
	}
	unlink(path);
}
