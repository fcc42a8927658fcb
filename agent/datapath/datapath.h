/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one room that writes to the kernel. Programs, maps and links are pinned below the pin directory and outlive the
 * process. Used by the applying thread only, except for the reads at the end.
 */
#ifndef PENSTOCK_DATAPATH_H
#define PENSTOCK_DATAPATH_H

#include <stdbool.h>
#include <stdint.h>
#include "agent/base/error.h"
#include "agent/compile/compile.h"
#include "agent/datapath/engine.h"

struct datapath_options {
	const char *pin_directory;
	enum engine engine; /* ENGINE_COUNT: auto */
	uint32_t mark_mask; /* INTERCEPT is its lowest bit, a refusal on its way the next */
	uint32_t route_table, rule_priority;
	uint32_t connections_max; /* a family */
	bool deny_reject;         /* what policy denies is answered */
	bool allow_local_host;
	bool unclaimed_deny;
	bool adopt_listeners;
	char *const *workload_interfaces; /* fnmatch patterns, NULL-terminated */
};

struct datapath;
/*
 * Loads the programs, reuses what is pinned (a map of another layout: refused, nothing touched), replaces the programs
 * inside existing links, sets up rules and routes. Takes a lock on the pin directory (another agent: ERROR_BUSY). No
 * BTF, no privilege, no bpffs: a clear error.
 */
int datapath_open(const struct datapath_options *options, struct datapath **ret, struct error *e);
void datapath_close(struct datapath *datapath); /* leaves everything enforcing */

/* The revision that the live side held when it was opened; 0 when there was none. */
uint64_t datapath_live_revision(const struct datapath *datapath);
const char *datapath_hook(const struct datapath *datapath); /* "tcx" or "clsact" */
/* Whether this kernel assigns packets to sockets (bpf_sk_assign), which engine ebpf needs. Probed once. */
bool datapath_assigns(void);
/* NULL: the programs on sockets are attached (SO_ORIGINAL_DST, whose a proxy's onward connection is); else why not. */
const char *datapath_sockets(const struct datapath *datapath);
/* The first side to stage after open is compared with the kernel entry by entry. Says that again after a failed apply.
 */
void datapath_resync(struct datapath *datapath);

/* Left-right. stage: the idle side becomes what is wanted, read back. flip: the idle side becomes live, read back.
 * settle: wait until no program can still read the old side, bring it up to date. stage does that first if nobody has.
 */
int datapath_stage(struct datapath *datapath, struct tables *tables, struct error *e);
int datapath_flip(struct datapath *datapath, uint64_t revision, struct error *e);
int datapath_settle(struct datapath *datapath, struct tables *tables, struct error *e);
/* Rule counters exist for these rules. */
int datapath_rules(struct datapath *datapath, const struct rulebook *book, struct error *e);

/* Ends established connections that have been idle for too long and have no timer; a piece of the tables a call. */
void datapath_expire(struct datapath *datapath);

/*
 * A piece of the audit: whether the kernel's maps hold what they should. What differs in a table becomes pending, and
 * *repair says that the caller is to stage, flip and settle; single rows are put back by itself. True: there is more of
 * this round.
 */
bool datapath_audit(struct datapath *datapath, struct tables *tables, bool *repair);

/* ---- interfaces ---- */

/* Readable when netlink has news. */
int datapath_netlink_fd(const struct datapath *datapath);
/*
 * Reads the news (all: look at everything), finds each endpoint's interface, attaches programs. Belongs between
 * compiler_update and datapath_stage. Each endpoint whose binding changed, or that moved to another interface, is given
 * to `bound`, which tells the compiler; the caller then stages and flips: until then an interface keeps the endpoint
 * that the live tables know, and a new one is unclaimed. Interfaces that lost their endpoint are detached after the
 * flip.
 */
int datapath_interfaces(struct datapath *datapath, const struct compiler *compiler, bool all,
	void (*bound)(void *context, uint32_t endpoint, bool bound), void *context, struct error *e);
/* This node's addresses, after that, for compiler_locals. */
const struct map *datapath_locals(const struct datapath *datapath);
/* Whether an endpoint, of any compiler, has an interface to be bound to, as far as the news that was read tells. */
bool datapath_locates(struct datapath *datapath, const struct endpoint *endpoint);
/* A workload has one interface. The name of another one, behind which *ip of its addresses is; NULL: there is none. */
const char *datapath_elsewhere(struct datapath *datapath, const struct endpoint *endpoint, struct ip *ip);
/* Whether the cgroup of an endpoint of processes, of any compiler, is there. */
bool datapath_cgroup_there(const struct datapath *datapath, const struct endpoint *endpoint);
/* Why it is there and not served; NULL: it is. */
const char *datapath_cgroup_fails(const struct datapath *datapath, const struct endpoint *endpoint);
struct interface_status {
	uint32_t ifindex;
	const char *name;
	uint32_t endpoint; /* PS_ENDPOINT_NONE: attached by pattern, unclaimed */
	bool host;         /* lo */
	bool network;      /* no workload is behind it: watched for what belongs to proxies */
	const char *hook;  /* "tcx", "clsact" */
	const char *error; /* or NULL */
};
/* Walk: size_t at = 0; while (datapath_interface_next(d, &at, &status)) … */
bool datapath_interface_next(const struct datapath *datapath, size_t *at, struct interface_status *ret);
/* What that walk tells has changed since this was asked last. */
bool datapath_hooks_changed(struct datapath *datapath);

/* ---- proxies (listeners.c) ----
 *
 * A thread of its own looks every 100 ms who listens on the proxies' ports in this network namespace, and makes them
 * usable: IP_TRANSPARENT where it is missing (adopt_listeners), a row in ps_listener where conditions choose.
 */

struct proxy_wanted {
	const char *name;          /* copied */
	const struct proxy *proxy; /* copied */
};
/* Replaces what is looked for, and looks once before it returns: a listener that is there is usable then. Applying
 * thread. A listener that cannot be made usable is no error: datapath_listeners says why. */
void datapath_proxies(struct datapath *datapath, const struct proxy_wanted *proxies, size_t count);
/* Readable when what datapath_listeners says has changed; datapath_listeners_read makes it unreadable. */
int datapath_listeners_fd(const struct datapath *datapath);
void datapath_listeners_read(struct datapath *datapath);

enum listener_state {
	LISTENER_READY,   /* transparent by itself */
	LISTENER_ADOPTED, /* made transparent by the agent */
	LISTENER_IGNORED, /* not chosen by the proxy's conditions, or cannot be reached or adopted: `why` */
};
struct listener_status {
	char proxy[256];
	struct ip ip; /* where it listens; family 6 with all zero and v6only false: both families */
	uint16_t port;
	uint8_t protocol; /* IPPROTO_TCP, IPPROTO_UDP */
	bool v6only;
	enum listener_state state;
	uint32_t uid;
	int32_t pid;          /* one of its processes; 0: not known */
	char executable[256]; /* "" : not known */
	char why[256];
};
/* A copy of all, by proxy, the usable first; the caller frees *ret; returns how many. Any thread. */
size_t datapath_listeners(const struct datapath *datapath, struct listener_status **ret);
/* It is for connections of this protocol and family (4 or 6), usable or not. */
bool listener_hears(const struct listener_status *listener, uint8_t protocol, uint8_t family);
/* It is usable, and for connections of this protocol and family (4 or 6). */
bool listener_takes(const struct listener_status *listener, uint8_t protocol, uint8_t family);
/* For which families connections of this protocol find a usable listener of the proxy: LISTENERS_IPV*. */
#define LISTENERS_IPV4 1u
#define LISTENERS_IPV6 2u
unsigned listeners_families(const struct listener_status *listeners, size_t count, const char *proxy, uint8_t protocol);
/* Each of the protocols that the proxy takes has a usable listener. */
bool listeners_serve(
	const struct listener_status *listeners, size_t count, const char *name, const struct proxy *proxy);

/* ---- reads; any thread ---- */

/*
 * The live tables' own answer about a connection, looked up in the kernel as its programs do. One revision: read again
 * when a flip came in between.
 */
struct explain_side {
	bool local;                                  /* is enforced on this node; else verdict says nothing */
	uint32_t class_id, profile, row, port_class; /* of the peer, of the subject, what they gave */
	bool peer_row, cell;                         /* not the profile's default row; not the row's own verdict */
	struct ps_verdict verdict;
};
struct explain_target { /* where the destination, a Service's address, may be translated to */
	struct ip ip;
	uint16_t port;
	const void *context; /* the caller's */
	/* the answer: */
	bool node; /* is an address of this node */
	struct explain_side egress, ingress;
	bool steered;          /* its ingress hands what is sent there to a proxy, if egress has not been asked before */
	struct ps_proxy proxy; /* that one, if there is any */
};
struct explain_query {
	struct ip source, destination;
	uint8_t protocol;
	uint16_t port;                  /* destination */
	struct explain_target *targets; /* answered in place */
	size_t target_count;
};
struct explain_answer {
	uint64_t revision;
	uint32_t generation;
	struct explain_side egress, ingress;
	bool node;                   /* the source is this node itself, which may always reach its workloads */
	enum ps_action action;       /* what becomes of a new connection */
	enum ps_direction direction; /* INTERCEPT: whose rule and proxy */
	struct ps_proxy proxy;       /* the one that would get it, if any */
	/* The destination is a Service's address: egress is what its kinds of backends have in common, or a refusal. */
	bool service, node_port;
	bool wanted; /* a proxy takes it, provided that all backends are allowed */
	struct ps_service kinds;
	bool pending; /* they have not: the hook where it leaves decides, by the backend that was chosen */
};
/* ERROR_BUSY while there is no data path (NULL), or when flips come faster than it can read. */
int datapath_explain(
	const struct datapath *datapath, const struct explain_query *query, struct explain_answer *ret, struct error *e);

/* ---- what the kernel tells (events.c) ---- */

/* Waits up to `wait` ms and gives each event of the ring; how many, or a negative errno. One thread only, its own. */
int datapath_events(
	struct datapath *datapath, int wait, void (*each)(void *context, const struct ps_event *event), void *context);
/* Ends a wait of datapath_events that is under way, or the next. Any thread. */
void datapath_events_wake(struct datapath *datapath);
/* Each entry of connection tracking as an event (conn_tell), until `each` says false; embryonic ones that passed, too.
 * Its time is now; its code PS_EVENT_OPENED, or PS_EVENT_COUNT while a handshake of TCP is not complete. Any thread;
 * the tables go on changing meanwhile. */
void datapath_connections(
	struct datapath *datapath, bool (*each)(void *context, const struct ps_event *event), void *context);
/* The live generation and its revision, which datapath_flip changes. Any thread. */
void datapath_generation(const struct datapath *datapath, uint32_t *generation, uint64_t *revision);
/* Packets that the kernel dropped in this network namespace, by reason: walk all that are not 0. False: the end, or the
 * kernel does not tell. */
struct kernel_drop {
	const char *reason; /* "TCP_CSUM": the kernel's name without SKB_DROP_REASON_ */
	uint64_t packets;
};
bool datapath_drop_next(const struct datapath *datapath, size_t *at, struct kernel_drop *ret);

/* What the agent put back because somebody else had changed or removed it: enum, label, what it means. */
#define DRIFTS(X)                                                                    \
	X(LINK, "link", "an interface or a cgroup had lost our program")                 \
	X(MAP, "map", "entries of a map were others than the compiled tables")           \
	X(NFTABLES, "nftables", "our table of nftables was changed, flushed or deleted") \
	X(RULE, "rule", "a rule of routing was deleted, or was another")                 \
	X(ROUTE, "route", "the route to the proxies was deleted, or was another")        \
	X(PIN, "pin", "the pin of a map or program was removed")

enum drift {
#define X(name, label, help) DRIFT_##name,
	DRIFTS(X)
#undef X
		DRIFT_COUNT
};
/* How often since the start of this process. Any thread. */
uint64_t datapath_repairs(const struct datapath *datapath, enum drift what);

struct datapath_counts {
	struct ps_count counts[PS_COUNT_MAX]; /* by PS_COUNT_INDEX */
	uint64_t stats[PS_STAT_COUNT];
};
int datapath_read_counts(const struct datapath *datapath, struct datapath_counts *ret);
/* Hits of one rule, summed over CPUs; 0 when it has none. */
uint64_t datapath_read_rule(const struct datapath *datapath, uint32_t rule);
/* Connections handed to a proxy, by its number. */
uint64_t datapath_read_proxy(const struct datapath *datapath, uint8_t proxy);
/* Fill of a map by name ("ps_addr4", "ps_conn4" …): walk all. */
struct map_fill {
	const char *map;
	uint64_t entries, capacity;
};
bool datapath_fill_next(const struct datapath *datapath, size_t *at, struct map_fill *ret);

/* ---- what hinders on this node (doctor.c) ---- */

enum finding_level { FINDING_OK, FINDING_WARNING, FINDING_BAD };
struct finding {
	enum finding_level level;
	char name[32];  /* what it is about: kernel, settings, rules, marks … */
	char what[320]; /* one sentence, as are the next */
	char mend[320]; /* how; "" when nothing is to be mended */
};
/* What a thread found that looks every half minute; news come by datapath_listeners_fd. A copy, the caller frees; how
 * many. Applying thread. */
size_t datapath_findings(struct datapath *datapath, struct finding **ret);
void datapath_findings_published(struct datapath *datapath); /* others can read them now */
void datapath_look(struct datapath *datapath);               /* that thread does, now */
/* It does if it last did more than two seconds ago. Waits until what it finds is published, but not long. Any thread.
 */
void datapath_look_fresh(struct datapath *datapath);

/* ---- uninstall ---- */

/* Removes every program, link, map, filter, rule, route, nftables table and pin of this pin directory and network
 * namespace, verifies that nothing remains. */
int datapath_uninstall(const struct datapath_options *options, struct error *e);
/* Prints what this kernel supports, a line each ("BTF: yes"); 0, or -ENOTSUP when a needed thing is missing. */
int datapath_check(
	const struct datapath_options *options, void (*line)(void *, const char *), void *context, struct error *e);

#endif
