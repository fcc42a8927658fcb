/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Programs on the kernel's tracepoints (bpf/trace.h), from the start on: round trips, retransmits, processes, drops.
 * Everything goes on without them, so what cannot be attached is said and is no failure. Links are pinned as
 * links/trace-TRACEPOINT; one of a tracepoint cannot change its program, so at a restart there are two for a moment.
 */
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "agent/base/log.h"
#include "agent/base/mem.h"
#include "agent/datapath/private.h"

#define REASON_PREFIX "SKB_DROP_REASON_"
#define TRACE_ARGUMENTS_NONE 1 /* of a tracepoint's type: the first is the kernel's own */

struct trace_info {
	const char *program, *tracepoint;
	unsigned int arguments; /* which the program reads */
};
static const struct trace_info infos[TRACE_HOOKS] = {
	[TRACE_STATE] = {"trace_inet_sock_set_state", "inet_sock_set_state", 3},
	[TRACE_RETRANSMIT] = {"trace_tcp_retransmit_skb", "tcp_retransmit_skb", 2},
	[TRACE_DROP] = {"trace_kfree_skb", "kfree_skb", 3}, /* with a reason: 5.17 */
};
#define DROP_ARGUMENTS_RECEIVER 4

const char *const trace_facts[TRACE_HOOKS] = {
	[TRACE_STATE] = "round trips, and processes of this node that connect (tp_btf/inet_sock_set_state)",
	[TRACE_RETRANSMIT] = "retransmits (tp_btf/tcp_retransmit_skb)",
	[TRACE_DROP] = "the kernel's drops by reason (tp_btf/kfree_skb with a reason, 5.17)",
};

/* ---- what the kernel has ---- */

/* How many arguments a tracepoint gives; -1: there is no such tracepoint. */
static int trace_arguments(const struct btf *btf, const char *tracepoint)
{
	char name[64];
	snprintf(name, sizeof(name), "btf_trace_%s", tracepoint);
	int id = btf__find_by_name_kind(btf, name, BTF_KIND_TYPEDEF);
	const struct btf_type *type = id > 0 ? btf__type_by_id(btf, id) : NULL;
	type = type ? btf__type_by_id(btf, type->type) : NULL;
	type = type && btf_is_ptr(type) ? btf__type_by_id(btf, type->type) : NULL;
	return type && btf_is_func_proto(type) ? btf_vlen(type) - TRACE_ARGUMENTS_NONE : -1;
}

/* What has not the prefix is no reason to drop: SKB_CONSUMED, SKB_NOT_DROPPED_YET. Nor is QUEUE_PURGE: what is in a
 * socket's queue when it goes, of each TCP connection its FIN. */
static const char *reason_name(const char *name)
{
	if (strncmp(name, REASON_PREFIX, strlen(REASON_PREFIX)) != 0)
		return NULL;
	name += strlen(REASON_PREFIX);
	return strcmp(name, "QUEUE_PURGE") == 0 ? NULL : name;
}

static void read_reasons(const struct btf *btf, char *reasons[PS_DROPS_MAX])
{
	int id = btf__find_by_name_kind(btf, "skb_drop_reason", BTF_KIND_ENUM);
	const struct btf_type *type = id > 0 ? btf__type_by_id(btf, id) : NULL;
	const struct btf_enum *value = type ? btf_enum(type) : NULL;
	for (int i = 0; value && i < btf_vlen(type); i++, value++) {
		const char *name = reason_name(btf__name_by_offset(btf, value->name_off));
		if (name && value->val >= 0 && value->val < PS_DROP_OTHER && !reasons[value->val])
			reasons[value->val] = str_dup(name);
	}
	reasons[PS_DROP_OTHER] = str_dup("OTHER");
}

void traces_probe(const struct btf *kernel, struct traces_support *ret)
{
	memset(ret, 0, sizeof(*ret));
	if (!kernel)
		return;
	for (enum trace_hook hook = 0; hook < TRACE_HOOKS; hook++)
		ret->known[hook] = trace_arguments(kernel, infos[hook].tracepoint) >= (int)infos[hook].arguments;
	ret->drop_receiver = trace_arguments(kernel, infos[TRACE_DROP].tracepoint) >= DROP_ARGUMENTS_RECEIVER;
	read_reasons(kernel, ret->reasons);
}

void traces_forget(struct traces_support *support)
{
	for (int i = 0; i < PS_DROPS_MAX; i++) {
		free(support->reasons[i]);
		support->reasons[i] = NULL;
	}
}

void traces_prepare(struct bpf_object *object, const struct traces_support *support)
{
	for (enum trace_hook hook = 0; hook < TRACE_HOOKS; hook++)
		if (!support->known[hook])
			bpf_program__set_autoload(bpf_object__find_program_by_name(object, infos[hook].program), false);
}

void traces_find(struct loaded *loaded)
{
	for (enum trace_hook hook = 0; hook < TRACE_HOOKS; hook++)
		loaded->trace[hook] = program_descriptor(loaded, infos[hook].program);
}

/* ---- links ---- */

static uint32_t link_program(int fd)
{
	struct bpf_link_info info = {0};
	uint32_t length = sizeof(info);
	return bpf_obj_get_info_by_fd(fd, &info, &length) < 0 ? 0 : info.prog_id;
}

int trace_keep(const struct pins *pins, int program, const char *name, struct error *e)
{
	char path[PIN_PATH_MAX];
	auto_close int there = bpf_obj_get(pins_path(pins, path, "links", name));
	if (there >= 0 && link_program(there) == program_number(program))
		return 0;
	auto_close int fd = bpf_raw_tracepoint_open(NULL, program);
	if (fd < 0)
		return error_system(e, -fd, "%s cannot be attached", name);
	int result = pins_replace(pins, fd, "links", name, e);
	return result < 0 ? result : 1;
}

/* lost: what is not attached once was. */
static void traces_attach(struct datapath *d, bool lost)
{
	for (enum trace_hook hook = 0; hook < TRACE_HOOKS; hook++) {
		struct error e = {0};
		char name[64];
		snprintf(name, sizeof(name), "trace-%s", infos[hook].tracepoint);
		int result = d->loaded.trace[hook] < 0 ? 0 : trace_keep(&d->pins, d->loaded.trace[hook], name, &e);
		if (result > 0 && lost) {
			log_warn(ROOM, "the link %s had gone: it is back", name);
			drift_note(d, DRIFT_LINK, 1);
		}
		if (result >= 0)
			continue;
		log_warn(ROOM, "not known: %s: %s", trace_facts[hook], e.detail);
		d->loaded.trace[hook] = -1;
	}
}

void traces_set(struct datapath *d)
{
	traces_attach(d, true);
}

void traces_open(struct datapath *d)
{
	for (enum trace_hook hook = 0; hook < TRACE_HOOKS; hook++)
		if (!d->loaded.traces.known[hook])
			log_warn(ROOM, "not known: %s: this kernel has it not", trace_facts[hook]);
	traces_attach(d, false);
}

/* ---- drops ---- */

static uint64_t drop_packets(int map, uint32_t reason)
{
	int cpus = libbpf_num_possible_cpus();
	if (cpus < 0)
		return 0;
	auto_free uint64_t *values = mem_array(cpus, sizeof(uint64_t));
	if (bpf_map_lookup_elem(map, &reason, values) < 0)
		return 0;
	uint64_t sum = 0;
	for (int cpu = 0; cpu < cpus; cpu++)
		sum += values[cpu];
	return sum;
}

bool datapath_drop_next(const struct datapath *datapath, size_t *at, struct kernel_drop *ret)
{
	const struct loaded *loaded = &datapath->loaded;
	if (!loaded->traces.known[TRACE_DROP])
		return false;
	while (*at < PS_DROPS_MAX) {
		uint32_t reason = (*at)++;
		const char *name = loaded->traces.reasons[reason];
		uint64_t packets = name ? drop_packets(loaded->other[OTHER_DROP], reason) : 0;
		if (!packets)
			continue;
		*ret = (struct kernel_drop){.reason = name, .packets = packets};
		return true;
	}
	return false;
}
