/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every map, and for each: who writes, who reads, what happens when it is full.
 * Constants: what the agent writes into .rodata before the load.
 */
#ifndef PENSTOCK_MAPS_H
#define PENSTOCK_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "bpf/abi.h"

/* ---- constants: written by the agent before the load, frozen after it ---- */

/*
 * The bits of mark_mask, the only ones of skb->mark that are read or written, hold a state:
 *
 *   mark_intercept   01  to be delivered to a proxy here
 *   mark_answer      10  a refusal on its way (reject.h); on a socket of this node and in what it sends: HOST, its
 *                        packets go to a proxy (host.h)
 *   both             11  a refusal for a proxy's socket; on what this node sends: REROUTE, a HOST packet that
 *                        nftables has sent to lo
 */
const volatile __u32 mark_mask = 0x60000000;
const volatile __u32 mark_intercept = 0x20000000; /* its lowest bit */
const volatile __u32 mark_answer = 0x40000000;    /* the next */
const volatile __u8 deny_with_reject = 0;         /* what policy denies is answered */
const volatile __u8 allow_local_host = 1;         /* sockets of this node always reach its workloads */
const volatile __u8 unclaimed_deny = 0;           /* for an interface that has no row in ps_iface yet */
const volatile __u8 have_timer = 1;               /* Linux 5.15: bpf_timer; without it the agent expires entries */
const volatile __u32 nfct_offset = 0;             /* of sk_buff._nfct; 0: not known, and nothing is read */
const volatile __u32 nfct_tuple_offset = 0;       /* of the original tuple in struct nf_conn */
const volatile __u32 nfct_reply_offset = 0;       /* of its reply tuple; 0: tuples are not read whole */
const volatile __u64 netns_cookie = 0;            /* of the agent's network namespace, for programs on sockets */
const volatile __u8 have_option_thread = 1;       /* Linux 6.10: getsockopt programs may ask which thread it is */
const volatile __u8 have_task = 1;                /* programs on addresses may look at the task that calls */
const volatile __u8 have_drop_socket = 0;         /* Linux 6.11: kfree_skb tells whose a dropped packet was to be */

/* ---- policy tables: PS_TABLES of abi.h, both sides in one map ----
 *
 * Written by the agent (the idle side only), read by programs (the live side only). They cannot run full under a
 * program: the agent refuses (507) what does not fit before it writes anything.
 */

#define PS_MAP_HASH(name, key_type, value_type, entries) \
	struct {                                             \
		__uint(type, BPF_MAP_TYPE_HASH);                 \
		__uint(map_flags, BPF_F_NO_PREALLOC);            \
		__uint(max_entries, 2 * (entries));              \
		__type(key, key_type);                           \
		__type(value, value_type);                       \
	} name SEC(".maps");
#define PS_MAP_LPM(name, key_type, value_type, entries) \
	struct {                                            \
		__uint(type, BPF_MAP_TYPE_LPM_TRIE);            \
		__uint(map_flags, BPF_F_NO_PREALLOC);           \
		__uint(max_entries, 2 * (entries));             \
		__type(key, key_type);                          \
		__type(value, value_type);                      \
	} name SEC(".maps");
#define PS_MAP_ARRAY(name, key_type, value_type, entries) \
	struct {                                              \
		__uint(type, BPF_MAP_TYPE_ARRAY);                 \
		__uint(max_entries, 2 * (entries));               \
		__type(key, key_type);                            \
		__type(value, value_type);                        \
	} name SEC(".maps");

/* Entries of one side: where side 1 of an array begins. */
enum ps_entries {
#define X(name, type, key, value, entries) PS_ENTRIES_##name = (entries),
	PS_TABLES(X)
#undef X
};

#define X(name, type, key, value, entries) PS_MAP_##type(ps_##name, key, value, entries)
PS_TABLES(X)
#undef X

/* ---- control ---- */

/* Written by the agent: one store flips the live side. Read by every program, once a packet. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ps_control);
} ps_control SEC(".maps");

/* Written and read by the agent: which revision a side holds, so that a new agent knows what is live. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct ps_side);
} ps_side SEC(".maps");

/* Written by the agent as netlink reports, before it attaches; read by programs. Full: the agent reports the interface
 * as not attached. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, PS_IFACES_MAX);
	__type(key, __u32);
	__type(value, struct ps_iface);
} ps_iface SEC(".maps");

/* Written by the agent as netlink reports; read by programs. Full: the agent reports the interface as not attached. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, PS_IFACES_MAX);
	__type(key, __u32);
	__type(value, struct ps_bridge);
} ps_bridge SEC(".maps");

/* Written by the agent, read by programs. Full: the agent reports the listener as not used. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, PS_LISTENERS_MAX);
	__type(key, struct ps_key_listener);
	__type(value, __u32);
} ps_listener SEC(".maps");

/* Written by the agent as it finds a subject's cgroup; read by programs. Full: the agent says that the subject is not
 * served. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, PS_CGROUPS_MAX);
	__type(key, __u64);
	__type(value, struct ps_cgroup);
} ps_cgroup SEC(".maps");

/* Written and read by programs; goes with the socket. Full (the kernel has no memory for it): the connection is
 * refused where it would be handed over. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct ps_host_socket);
} ps_host SEC(".maps");

/* Written by the agent and, at a fork, by programs; read by programs. Full: the least recently used goes; the agent
 * writes it again while the process has a listener. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, PS_EXEMPT_MAX);
	__type(key, __u32);
	__type(value, __u32);
} ps_exempt SEC(".maps");

/* ---- legs: who connects for whom ---- */

/* Written and read by programs. Full: the least recently used goes, and its process's next leg is the node's own. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct ps_key_held);
	__type(value, struct ps_held);
} ps_held SEC(".maps");

/* Written and read by programs. Full: the least recently used goes, and what is sent on for it is the node's own. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, PS_ASKERS_MAX);
	__type(key, struct ps_key_asker);
	__type(value, struct ps_held);
} ps_asker SEC(".maps");

/* Written and read by programs. Full: the least recently used goes; each is read at its connection's first packet. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, PS_LEGS_MAX);
	__type(key, __u64);
	__type(value, struct ps_leg);
} ps_leg SEC(".maps");

/* ---- connection tracking ---- */

/*
 * Established connections. Written by programs, deleted by their timers (or the agent, without timers); read by
 * programs and the agent. Never evicts. Full: the connection stays in ps_new*, evictable, and is counted TableFull.
 * The agent sets max_entries before the load.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 524288);
	__type(key, struct ps_key_conn4);
	__type(value, struct ps_conn_live);
} ps_conn4 SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 524288);
	__type(key, struct ps_key_conn6);
	__type(value, struct ps_conn_live);
} ps_conn6 SEC(".maps");

/* Embryonic connections: no exchange in both directions yet. Written by programs, read by programs and the agent. Full:
 * the least recently used goes. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, PS_EMBRYONIC_MAX);
	__type(key, struct ps_key_conn4);
	__type(value, struct ps_conn);
} ps_new4 SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, PS_EMBRYONIC_MAX);
	__type(key, struct ps_key_conn6);
	__type(value, struct ps_conn);
} ps_new6 SEC(".maps");

/* Written and read by programs: not 0 once a pending connection to a Service was not seen from its first packet, so
 * that not only first packets are looked at where they leave. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} ps_pending SEC(".maps");

/* The ports of first fragments. Written and read by programs. Full: the least recently used goes, and its later
 * fragments are dropped with reason Fragment. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct ps_key_fragment);
	__type(value, struct ps_fragment);
} ps_fragment SEC(".maps");

/* ---- events ---- */

/* Written by programs, read by the agent. Full: the event is lost, and counted (PS_STAT_LOST, PS_STAT_LOST_REFUSED). */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, PS_EVENT_RING);
} ps_event SEC(".maps");

/* Written and read by programs. Full: the least recently used goes, and its connection's process is not known. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, PS_PROCESSES_MAX);
	__type(key, __u64);
	__type(value, struct ps_process);
} ps_process SEC(".maps");

/* ---- counters: written by programs, summed over CPUs by the agent; cannot run full ---- */

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PS_COUNT_MAX);
	__type(key, __u32);
	__type(value, struct ps_count);
} ps_count SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PS_STAT_MAX);
	__type(key, __u32);
	__type(value, __u64);
} ps_stat SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PS_DROPS_MAX);
	__type(key, __u32);
	__type(value, __u64);
} ps_drop SEC(".maps");

/* By proxy number: connections handed to it. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PS_ENTRIES_proxy);
	__type(key, __u32);
	__type(value, __u64);
} ps_proxy_count SEC(".maps");

/* By rule id: judgments that the rule decided. The agent creates and deletes entries; programs add to what exists.
 * Full: the agent reports the rules that are not counted. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, __u64);
} ps_rule_hits SEC(".maps");

#endif
