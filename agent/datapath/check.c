/* SPDX-License-Identifier: Apache-2.0 */
/* What this kernel supports, each thing probed rather than concluded from a version. */
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/membarrier.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>
#include "agent/base/mem.h"
#include "agent/datapath/doctor.h"
#include "agent/datapath/listeners.h"
#include "agent/datapath/private.h"

struct report {
	void (*line)(void *, const char *);
	void (*each)(void *, const char *what, bool yes, bool needed, const char *without); /* instead */
	void *context;
	const char *missing; /* the first needed thing that is not there */
};

static void report(struct report *r, const char *what, bool yes, bool needed, const char *without)
{
	char text[256];
	if (r->each) {
		r->each(r->context, what, yes, needed, without);
		return;
	}
	snprintf(text, sizeof(text), "%s: %s%s%s", what, yes ? "yes" : "no", yes ? "" : ", ", yes ? "" : without);
	r->line(r->context, text);
	if (!yes && needed && !r->missing)
		r->missing = what;
}

static bool helper(enum bpf_prog_type type, enum bpf_func_id id)
{
	return libbpf_probe_bpf_helper(type, id, NULL) == 1;
}

bool datapath_assigns(void)
{
	static _Atomic int known; /* 1 yes, -1 no */
	if (!atomic_load(&known))
		atomic_store(&known, helper(BPF_PROG_TYPE_SCHED_CLS, BPF_FUNC_sk_assign) ? 1 : -1);
	return atomic_load(&known) > 0;
}

static bool tcx(void)
{
	const struct bpf_insn pass[] = {
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = -1}, {.code = BPF_JMP | BPF_EXIT}};
	struct loaded loaded = {0};
	auto_close int fd = bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, "ps_probe", "GPL", pass, 2, NULL);
	loaded.program[PROGRAM_FROM_WORKLOAD] = fd;
	return fd >= 0 && hook_probe(&loaded) == HOOK_TCX;
}

static void cgroup2(struct report *r)
{
	char place[PIN_PATH_MAX], text[PIN_PATH_MAX + 16];
	if (sockets_cgroup(place) < 0) {
		report(r, "cgroup v2", false, false, "SO_ORIGINAL_DST and host processes cannot be served");
		return;
	}
	snprintf(text, sizeof(text), "cgroup v2: %s", place);
	if (r->each)
		r->each(r->context, "cgroup v2", true, false, "");
	else
		r->line(r->context, text);
}

static void hand_over_by_table(struct report *r)
{
	struct error e = {0};
	char without[200];
	report(r, "nftables", nftables_known(), false,
		"no interception by engine tproxy, nor of addresses that kube-proxy translates");
	if (!nftables_known())
		return;
	bool tproxy = nftables_tproxy(&e);
	snprintf(without, sizeof(without), "no interception by engine tproxy (%.120s)", e.detail);
	report(r, "tproxy of nftables (4.19)", tproxy, false, without);
	report(r, "table inet penstock of nftables", nftables_there(), false, "it comes with the first proxy");
}

static void programs_on_sockets(struct report *r, const struct sockets_support *support)
{
	report(r, "programs on sockets (SO_ORIGINAL_DST, whose an onward connection is)", !support->missing[0], false,
		support->missing);
	report(r, "reads and forks of processes (6.3)", support->traces, false,
		"a proxy's threads that serve several clients at once are not told apart");
}

static void programs_on_tracepoints(struct report *r, const struct btf *kernel)
{
	struct traces_support support;
	traces_probe(kernel, &support);
	for (enum trace_hook hook = 0; hook < TRACE_HOOKS; hook++)
		report(r, trace_facts[hook], support.known[hook], false, "they are not known");
	traces_forget(&support);
}

static void programs_on_packets(struct report *r)
{
	report(r, "tc programs", libbpf_probe_bpf_prog_type(BPF_PROG_TYPE_SCHED_CLS, NULL) == 1, true,
		"nothing can be enforced");
	report(r, "hash, LPM trie, LRU hash and per-CPU maps",
		libbpf_probe_bpf_map_type(BPF_MAP_TYPE_HASH, NULL) == 1 &&
			libbpf_probe_bpf_map_type(BPF_MAP_TYPE_LPM_TRIE, NULL) == 1 &&
			libbpf_probe_bpf_map_type(BPF_MAP_TYPE_LRU_HASH, NULL) == 1 &&
			libbpf_probe_bpf_map_type(BPF_MAP_TYPE_PERCPU_HASH, NULL) == 1,
		true, "nothing can be enforced");
	report(r, "TCX (6.6)", tcx(), false, "clsact filters instead");
	report(r, "bpf_timer (5.15)", helper(BPF_PROG_TYPE_SCHED_CLS, BPF_FUNC_timer_init), false,
		"connections expire only while the agent runs");
	report(r, "bpf_sk_assign (5.7)", datapath_assigns(), false, "no interception by engine ebpf");
	report(r, "bpf_skc_lookup_tcp (5.2)", helper(BPF_PROG_TYPE_SCHED_CLS, BPF_FUNC_skc_lookup_tcp), false,
		"no interception by engine ebpf");
	report(r, "ring buffer (5.8)", libbpf_probe_bpf_map_type(BPF_MAP_TYPE_RINGBUF, NULL) == 1, false, "no flow events");
	report(r, "XDP", libbpf_probe_bpf_prog_type(BPF_PROG_TYPE_XDP, NULL) == 1, false, "no NodeFilters");
}

void check_kernel(const struct sockets_support *support,
	void (*each)(void *context, const char *what, bool yes, bool needed, const char *without), void *context)
{
	struct report r = {.each = each, .context = context};
	char text[1024];
	report(&r, "BTF", access("/sys/kernel/btf/vmlinux", R_OK) == 0, true, "nothing can be enforced");
	programs_on_packets(&r);
	programs_on_sockets(&r, support);
	bool adopts = process_adopts(text);
	report(&r, "adoption of listeners (pidfd_getfd, 5.6)", adopts, false, text);
	report(&r, "nftables", nftables_known(), false,
		"no interception by engine tproxy, nor of addresses that kube-proxy translates");
	report(&r, "IPv6", access("/proc/net/if_inet6", F_OK) == 0, false, "IPv4 only");
	cgroup2(&r);
}

int datapath_check(
	const struct datapath_options *options, void (*line)(void *, const char *), void *context, struct error *e)
{
	load_prepare();
	struct report r = {.line = line, .context = context};
	struct utsname name;
	struct error place = {0};
	char text[1024];
	uname(&name);
	snprintf(text, sizeof(text), "kernel: %s %s", name.release, name.machine);
	line(context, text);
	int placed = place_check(options->pin_directory, &place);
	snprintf(text, sizeof(text), "privilege, BTF, bpffs: %s", placed == 0 ? "yes" : place.detail);
	line(context, text);
	if (placed < 0)
		return error_set(e, ERROR_SYSTEM, ENOTSUP, NULL, "%s", place.detail);

	struct sockets_support support;
	struct btf *kernel = btf__load_vmlinux_btf();
	sockets_probe(kernel, &support);
	programs_on_packets(&r);
	programs_on_sockets(&r, &support);
	programs_on_tracepoints(&r, kernel);
	btf__free(kernel);
	bool adopts = process_adopts(text);
	report(&r, "adoption of listeners (pidfd_getfd, 5.6)", adopts, false, text);
	report(&r, "membarrier", syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0) & MEMBARRIER_CMD_GLOBAL, false,
		"grace periods are waited for by the clock");
	hand_over_by_table(&r);
	report(&r, "IPv6", access("/proc/net/if_inet6", F_OK) == 0, false, "IPv4 only");
	cgroup2(&r);
	if (r.missing)
		return error_set(e, ERROR_SYSTEM, ENOTSUP, NULL, "this kernel lacks: %s", r.missing);
	return 0;
}
