/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of this room share. Nobody else includes it. */
#ifndef PENSTOCK_DATAPATH_PRIVATE_H
#define PENSTOCK_DATAPATH_PRIVATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "agent/base/map.h"
#include "agent/datapath/datapath.h"
#include "agent/datapath/discover.h"

struct events;
struct doctor;
struct listeners;
struct mnl_socket;

#define ROOM "datapath"

/* ---- the states of a mark (bpf/maps.h) ---- */

/* The lowest bit of the mask, and the next, which need not lie side by side. */
static inline uint32_t mark_intercept(uint32_t mask)
{
	return mask & -mask;
}

static inline uint32_t mark_answer(uint32_t mask)
{
	return mark_intercept(mask & (mask - 1));
}

/* ---- places: paths below the pin directory, locks (place.c, pins.c) ---- */

#define PIN_PATH_MAX 512
struct pins {
	char directory[PIN_PATH_MAX / 2];
	int directory_lock; /* flock on the directory itself: bpffs holds no regular files */
	int namespace_lock; /* an abstract socket: one data path a network namespace */
};

/* Root, kernel BTF and bpffs, in this order; the first that is missing is the error. Mounts bpffs in init's mount
 * namespace. */
int place_check(const char *pin_directory, struct error *e);
/* Makes the directory, takes both locks, checks the ABI version. */
int pins_lock(const char *pin_directory, struct pins *ret, struct error *e);
void pins_unlock(struct pins *pins);
int pins_make(const struct pins *pins, struct error *e); /* subdirectories */
/* Directories that were removed while this process used them are made again, and locked. */
int pins_restore(struct pins *pins, struct error *e);
const char *pins_path(const struct pins *pins, char path[PIN_PATH_MAX], const char *folder, const char *name);
/* Pins, replacing what is there in one step. */
int pins_replace(const struct pins *pins, int fd, const char *folder, const char *name, struct error *e);
/* Calls for each name in a folder; a missing folder is empty. Names may be removed meanwhile. */
int pins_each(const struct pins *pins, const char *folder, int (*each)(void *, const char *name), void *context);

/* ---- programs and maps (load.c) ---- */

enum other_map {
	OTHER_CONTROL,
	OTHER_SIDE,
	OTHER_IFACE,
	OTHER_BRIDGE,
	OTHER_CONN4,
	OTHER_CONN6,
	OTHER_NEW4,
	OTHER_NEW6,
	OTHER_EVENT,
	OTHER_COUNT_MAP,
	OTHER_STAT,
	OTHER_RULE_HITS,
	OTHER_PROXY_COUNT,
	OTHER_LISTENER,
	OTHER_CGROUP,
	OTHER_EXEMPT,
	OTHER_DROP,
	OTHER_MAPS
};
/* Programs on sockets (sockets.c). */
enum socket_hook {
	SOCKET_GETSOCKOPT,
	SOCKET_GETPEERNAME4,
	SOCKET_GETPEERNAME6,
	SOCKET_GETSOCKNAME4,
	SOCKET_GETSOCKNAME6,
	SOCKET_CONNECT4,
	SOCKET_CONNECT6,
	SOCKET_SENDMSG4,
	SOCKET_SENDMSG6,
	SOCKET_RECVMSG4,
	SOCKET_RECVMSG6,
	SOCKET_RECV,
	SOCKET_FORK,
	SOCKET_HOOKS
};
struct sockets_support {
	uint64_t netns_cookie; /* of this network namespace; 0: the kernel does not tell, and none is loaded */
	bool known[SOCKET_HOOKS];
	bool thread;       /* getsockopt programs may ask which thread it is */
	bool task;         /* programs on addresses may look at the task */
	bool traces;       /* reads and forks can be followed */
	char missing[256]; /* of what is needed; "": nothing */
};
/* Programs on the kernel's tracepoints (traces.c). */
enum trace_hook { TRACE_STATE, TRACE_RETRANSMIT, TRACE_DROP, TRACE_HOOKS };
struct traces_support {
	bool known[TRACE_HOOKS];
	bool drop_receiver;          /* the drop's program may ask whose the packet was to be */
	char *reasons[PS_DROPS_MAX]; /* names of drops; NULL: none, or no drop */
};
/* Programs on packets. */
enum hook_program {
	PROGRAM_FROM_WORKLOAD,
	PROGRAM_TO_WORKLOAD,
	PROGRAM_FROM_NETWORK,
	PROGRAM_TO_NETWORK,
	PROGRAM_FROM_LOOPBACK,
	PROGRAM_TO_LOOPBACK,
	PROGRAM_COUNT,
	PROGRAM_NONE = PROGRAM_COUNT
};
extern const char *const program_names[PROGRAM_COUNT];
/* What an interface is to us: which programs it has. */
enum hook_role {
	ROLE_WORKLOAD,
	ROLE_NETWORK,  /* no workload is behind it */
	ROLE_EXIT,     /* the same while there are Services and no proxy: only what leaves is looked at */
	ROLE_LOOPBACK, /* lo, once processes of this node are subjects */
	ROLE_COUNT
};
/* By direction: what enters (from_*) stands at PS_EGRESS, what leaves (to_*) at PS_INGRESS. */
extern const enum hook_program role_programs[ROLE_COUNT][PS_DIRECTION_COUNT];
/* Programs that an earlier process has loaded. */
#define KEPT_MAX 32
struct kept {
	size_t count; /* 0: this process has loaded them itself */
	struct kept_program {
		const char *name; /* the object's */
		int fd;
	} list[KEPT_MAX];
};
struct loaded {
	void *skeleton;
	struct kept kept;
	int table[TABLE_COUNT];
	bool table_fresh[TABLE_COUNT]; /* made by this process: known to be empty */
	int other[OTHER_MAPS];
	uint32_t connections; /* a family: the pinned size has precedence */
	uint32_t rules;       /* that can be counted */
	bool tuples;          /* nf_conntrack's are read whole: the last hook sees what a Service's address became */
	int program[PROGRAM_COUNT];
	struct sockets_support sockets;
	int socket[SOCKET_HOOKS]; /* programs; negative: not loaded */
	struct traces_support traces;
	int trace[TRACE_HOOKS]; /* programs; negative: not loaded, or not attached */
};
void load_prepare(void); /* what libbpf prints goes to the log */
int load_programs(const struct datapath_options *options, const struct pins *pins, struct loaded *ret, struct error *e);
void load_close(struct loaded *loaded);
uint32_t program_number(int fd); /* the kernel's id of a program, 0 when it does not tell */

/* A program of what was loaded, by its name; negative: it was left out. */
int program_descriptor(const struct loaded *loaded, const char *name);

/* ---- programs that outlive the process (keep.c); identity: what they are made of, as a hash ---- */

struct bpf_object;
/* All programs that are to be loaded, as they are pinned, if they were marked as being of this identity: then the
 * object is to load none. */
bool keep_find(const struct pins *pins, uint64_t identity, const struct bpf_object *object, struct kept *ret);
/* Pins and marks all that were loaded. identity 0: no mark. */
int keep_pin(const struct pins *pins, uint64_t identity, const struct bpf_object *object, struct error *e);
int keep_descriptor(const struct kept *kept, const char *name); /* borrowed; negative: there is none */
void keep_close(struct kept *kept);

/* ---- hooks (attach.c, clsact.c) ---- */

enum hook_type { HOOK_TCX, HOOK_CLSACT };
extern const char *const hook_names[];
enum hook_type hook_probe(const struct loaded *loaded);
/* The role's programs; idempotent. What stands there in another role is replaced in place, a direction at a time, and
 * where the role has none it goes. */
int hook_attach(const struct pins *pins, const struct loaded *loaded, enum hook_type hook, enum hook_role role,
	uint32_t ifindex, struct error *e);
/* Whatever of ours is pinned for this interface; also when the interface is gone. */
void hook_detach(const struct pins *pins, uint32_t ifindex);
/* All programs of the role, and no others, are attached to this very interface by this hook. */
bool hook_attached(
	const struct pins *pins, const struct loaded *loaded, enum hook_type hook, enum hook_role role, uint32_t ifindex);
/* Something of ours is pinned for what enters by this interface, by any hook. */
bool hook_enters(const struct pins *pins, uint32_t ifindex);
/* Puts the loaded programs of the interface's role into every link and filter that is pinned; unpins those whose
 * interface is gone. */
int hook_take_over(const struct pins *pins, const struct loaded *loaded, enum hook_type hook,
	enum hook_role (*role)(void *context, uint32_t ifindex), void (*each)(void *context, uint32_t ifindex),
	void *context, struct error *e);

int tcx_attach(const struct pins *pins, int program, uint32_t ifindex, enum direction direction, struct error *e);
/* program -1: any. */
bool tcx_attached(const struct pins *pins, int program, uint32_t ifindex, enum direction direction);

#define CLSACT_PRIORITY 5
#define CLSACT_HANDLE 0x7641
int clsact_attach(const struct pins *pins, int program, uint32_t ifindex, enum direction direction, struct error *e);
void clsact_detach(const struct pins *pins, uint32_t ifindex, enum direction direction);
void clsact_release(const struct pins *pins, uint32_t ifindex); /* the qdisc, if it is ours and empty */
bool clsact_attached(const struct pins *pins, uint32_t ifindex, enum direction direction);
/* Filters with our handle, priority and program names: -1 on failure, else how many were there; `remove` takes them
 * away. */
int clsact_sweep(uint32_t ifindex, bool remove);

/* ---- programs on sockets (sockets.c) ---- */

struct btf;
struct sockets {
	bool tried, failed;
	char why[768]; /* not all are attached; "": they are */
};
/* kernel: its types, NULL when they are not known; of traces_probe as well. */
void sockets_probe(const struct btf *kernel, struct sockets_support *ret);
/* Before the load: what this kernel has not is left out. */
void sockets_prepare(struct bpf_object *object, const struct sockets_support *support);
void sockets_find(struct loaded *loaded);
/* Where the root of cgroup v2 is mounted: the machine's, when a container was given that. -ENOENT: nowhere. */
int sockets_cgroup(char path[PIN_PATH_MAX]);
/*
 * Stand once a proxy was ever wanted, like rules and routes. What is missing is attached; a failure is told by
 * datapath_sockets and tried again when `again` says so.
 */
void sockets_set(struct datapath *datapath, bool again);
/* Our programs into the links of an earlier agent. */
void sockets_take_over(struct datapath *datapath);
int sockets_remove(const struct pins *pins, struct error *e);

/* ---- programs on the kernel's tracepoints (traces.c) ---- */

extern const char *const trace_facts[TRACE_HOOKS]; /* what is known by them */
void traces_probe(const struct btf *kernel, struct traces_support *ret);
void traces_forget(struct traces_support *support);
/* Before the load: what this kernel has not is left out. */
void traces_prepare(struct bpf_object *object, const struct traces_support *support);
void traces_find(struct loaded *loaded);
/* Says what is missing, and sets the rest. */
void traces_open(struct datapath *datapath);
/* They stand from the start until uninstall: what is missing is attached. */
void traces_set(struct datapath *datapath);
/* The link of this name is pinned, with this program: 0, 1 when it was not before, or a negative errno. */
int trace_keep(const struct pins *pins, int program, const char *name, struct error *e);

/* ---- the kernel's maps (write.c) ---- */

#define KEY_MAX 64 /* bytes of any table's key */

/* "it is full" becomes ERROR_NO_SPACE with the map's name. */
int write_failed(struct error *e, int errnum, const char *map, const char *verb);
/* Count entries of a table, keys as in the kernel; checked by reading back. */
int write_entries(enum table_id id, int fd, const void *keys, const void *values, size_t count, struct error *e);
int delete_entries(enum table_id id, int fd, const void *keys, size_t count, struct error *e);
/* Every entry of a map; each returns 0 to go on. */
int read_entries(int fd, size_t key_size, size_t value_size, bool batch,
	int (*each)(void *context, const void *key, const void *value), void *context);
/* The same a piece at a time: where it goes on. */
struct piece {
	size_t key_size, value_size;
	bool begun;
	char at[KEY_MAX]; /* a bucket's number, or the last key */
};
/* The next entries, about `most`: 1: there may be more, 0: that was the end. */
int piece_read(struct piece *piece, int fd, uint32_t most,
	int (*each)(void *context, const void *key, const void *value), void *context);

/* ---- what somebody else changed (drift.c, audit.c) ---- */

/* It was put back. */
void drift_note(struct datapath *d, enum drift what, uint64_t count);
/* What the audit found in tables is put right by now: says and counts it. */
void audit_settled(struct datapath *d);
/* Puts the row back if it is another (at most KEY_MAX bytes); how many were. */
uint64_t audit_row(int fd, const void *key, const void *wanted, size_t size);
/* The same of all rows that have no sides to be staged; says and counts it. */
void audit_rows(struct datapath *d);
uint64_t hosts_rows(struct datapath *d);
uint64_t control_rows(struct datapath *d);
uint64_t listeners_rows(struct datapath *d); /* of ps_listener; none while its thread looks */
/* Each entry whose key is not known, or whose known value is not one (NULL: all are), goes; how many went. */
uint64_t audit_strangers(int fd, size_t value_size, const struct map *known, bool (*is)(const void *known_value));
/* Pins of maps and programs that are gone, or somebody else's, are made anew. */
void pins_audit(struct datapath *d);

/* ---- sides (sync.c, revision.c) ---- */

int side_catch_up(struct datapath *datapath, struct tables *tables, unsigned int side, struct error *e);
/* Keys as the compiler has them (side 0) and as the kernel has them; key_plain returns the side. */
void key_for_side(const struct table_info *info, unsigned int side, char *key);
unsigned int key_plain(const struct table_info *info, const void *key, void *plain);
/* The kernel's value is the wanted one (NULL: none, which for an array is all zero). */
bool value_same(const struct table_info *info, const void *wanted, const void *value);

/* ---- netlink (netlink.c, dump.c) ---- */

struct monitor {
	int fd;
	struct mnl_socket *socket;
};
int monitor_open(struct monitor *ret, struct error *e);
void monitor_close(struct monitor *monitor);
/* Everything from the kernel into net. */
int monitor_dump(struct net *net, struct error *e);
/* What has arrived. */
/* The kernel asks the link who has the address; the answer comes as news. */
void neighbour_ask(struct monitor *monitor, const struct ip *ip, uint32_t ifindex);
int monitor_read(struct monitor *monitor, struct net *net, struct error *e);

/* ---- rules and routes (routes.c) ---- */

/*
 * A rule of any kind switches the kernel's short cuts for routing off (0.3 µs a forwarded packet, measured), so ours
 * stand only once a proxy was ever wanted; from then on until uninstall: connections may still be with a proxy that is
 * gone.
 */
#define ROUTES_PROTOCOL 76 /* who made them; not in the kernel's or iproute2's list */
struct routes_made {
	unsigned int rules, routes; /* that were not there */
};
/* host: also for what this node's processes send. made: or NULL. */
int routes_set(const struct datapath_options *options, bool host, struct routes_made *made, struct error *e);
int routes_remove(struct error *e);
/* How many of ours there are, -1 on failure. */
int routes_count(void);

/* ---- the table of nftables: what is in it (handover.c), when (nftables.c) ---- */

#define OUR_TABLE "penstock"
struct port_set {
	uint64_t word[1024];
};
bool ports_has(const struct port_set *set, uint16_t port);
void ports_add(struct port_set *set, uint16_t port);
void ports_remove(struct port_set *set, uint16_t port);
bool ports_differ(const struct port_set *a, const struct port_set *b);
void ports_union(struct port_set *set, const struct port_set *more);

struct table_wanted {
	bool handover; /* this kernel can: to the ports below */
	bool nat;      /* somebody translates addresses here, or may; stays so */
	bool host;     /* processes of this node are subjects */
	bool plain;    /* without what Linux 5.11 is the first to know: chain resting */
	struct port_set ports;
};
struct buffer;
/* Commands that make it where it is not, and that change its ports. */
void handover_table(struct buffer *b, uint32_t mask, const struct table_wanted *wanted);
void handover_ports(struct buffer *b, const struct port_set *from, const struct port_set *to);

struct nftables {
	struct table_wanted want, made;
	bool probed;                /* that this kernel cannot hand over was said */
	char *listed;               /* our table as it was listed after we made it; NULL: it is not known to be there */
	bool failed;                /* and that was said */
	char why[256];              /* it does not stand as it should */
	struct mnl_socket *changes; /* what anybody does to tables, in news; NULL: only looked at with the interfaces */
	bool touched;               /* ours, by somebody; or while there is no NAT of ours: somebody began to translate */
};
/* One transaction, the same without doing it, or a question answered in JSON; *ret is what it prints, NULL: nothing. */
enum nft_how { NFT_DO, NFT_TRY, NFT_LIST };
int nft_run(enum nft_how how, const char *commands, char **ret, struct error *e);
#define TRY_TABLE OUR_TABLE "-try"     /* of a moment */
bool nftables_known(void);             /* by this kernel */
bool nftables_there(void);             /* the table of some agent */
bool nftables_tries(void);             /* TRY_TABLE is there */
bool nftables_tproxy(struct error *e); /* this kernel hands over by nftables; else why not */
/* It stands, and takes what the programs leave to it. */
bool nftables_hands_over(const struct datapath *datapath);
/* What an earlier agent of this pin directory left: set, with the ports of the proxies that the tables know. */
void nftables_take_over(struct datapath *datapath);
/*
 * Where there are rules and routes. Looks at what is needed; the table is made or mended, and from then on stands until
 * uninstall. Where that fails, engine ebpf goes on without addresses that are translated.
 */
void nftables_set(struct datapath *datapath);
/* Before a revision goes live: with its ports too. */
int nftables_stage(struct datapath *datapath, const struct tables *tables, struct error *e);
/* One port more, or less. True: it is so by now, and was not before. */
bool nftables_port(struct datapath *datapath, uint16_t port, bool there);
/* When no program reads the old side: without those that only it had. */
void nftables_settle(struct datapath *datapath, const struct tables *tables);
/*
 * Before the first subject by cgroup goes live, and after the last has gone: what carries HOST and was sent by this
 * node is routed to lo (REROUTE), by table and rule.
 */
int nftables_host(struct datapath *datapath, bool host, struct error *e);
/* Notes in `touched` what has arrived. */
void nftables_read(struct datapath *datapath);
void nftables_clear(struct datapath *datapath); /* only what this process has */
int nftables_remove(struct error *e);           /* and it is gone */

/* ---- interfaces (interfaces.c, claims.c) ---- */

struct attachment {          /* by ifindex */
	uint32_t endpoint;       /* wanted; PS_ENDPOINT_NONE: unclaimed */
	uint32_t born;           /* which interface of this ifindex; 0: taken over, not seen yet */
	struct ps_iface kernel;  /* as written */
	bool row;                /* `kernel` is in the map */
	struct ps_bridge bridge; /* as written; all zero: not there, or not known */
	bool bridge_known;
	bool attached;
	enum hook_role role; /* of the programs that are attached */
	bool leaving;        /* lost its endpoint: to be looked at again when no program can read that any more */
	bool lost;           /* somebody detached them; to be counted when they are back */
	int error;           /* errno of the last attempt to attach */
};
enum claim_rank { CLAIM_NONE, CLAIM_HOME, CLAIM_FOUND, CLAIM_NAMED };
struct claim { /* by endpoint id */
	const struct workload *workload;
	uint32_t ifindex, born; /* 0: no interface */
	uint32_t told;          /* `born` as last told; 0: not bound */
	uint32_t seen;          /* round */
	int64_t asked;          /* seconds, CLOCK_MONOTONIC: its neighbours were asked for */
	uint64_t lost[4];       /* as in struct endpoint, when it was looked at */
	uint8_t rank;
	bool conflict; /* found one that another endpoint has */
	bool queued;
};
/* Where an address was found last: neighbours and bridge tables forget an idle workload, we must not. */
struct home {
	uint32_t ifindex, born;
};

struct engine_state {
	bool decided;                /* status says what was chosen, and why */
	struct engine_status status; /* the applying thread's */
	_Atomic int active;          /* for every thread */
};

struct hosts {
	bool wanted;             /* subjects are processes of this node */
	_Atomic bool stands;     /* or were: rule, table and programs on lo are set */
	bool full;               /* not all cgroups fit */
	char root[PIN_PATH_MAX]; /* of cgroup v2; "": not known */
	int watch;               /* inotify on the cgroups above theirs; -1: none */
	struct map rows;         /* cgroup's id → struct host_row */
	bool touched;            /* inotify has told something */
	struct map looked;       /* endpoint → its path, in one word: looked for */
	struct map found;        /* endpoint → cgroup's id */
};

struct connection_cache {
	_Atomic int64_t due; /* seconds, CLOCK_MONOTONIC */
	_Atomic uint64_t ipv6;
	_Atomic uint64_t swept; /* ended by an agent, so that no program counted them as closed */
};

struct sweep_cursor {
	uint32_t at; /* the kernel's: a bucket */
	bool under_way;
};
enum sweep_map { SWEEP_CONN4, SWEEP_CONN6, SWEEP_NEW4, SWEEP_NEW6, SWEEP_MAPS };

struct audit_found {
	uint32_t changed, missing, foreign;
};
struct audit {
	bool under_way, repair;
	int table;           /* enum table_id; TABLE_COUNT: the end */
	struct piece place;  /* where reading the table goes on */
	unsigned int side;   /* of an array: that is read now */
	uint32_t used, left; /* of an array: entries of a side that are looked at; of this side, still to be read */
	size_t visited;      /* entries */
	uint32_t generation; /* when the table was begun */
	size_t matched[2];   /* by side: wanted entries that are there */
	bool walking;        /* looks for what is missing … */
	size_t at;           /* … from here on */
	struct audit_found found[TABLE_COUNT];  /* since the last settle */
	struct audit_found mended[TABLE_COUNT]; /* in this round, to be told at its end */
};

struct datapath {
	struct datapath_options options; /* strings copied */
	struct pins pins;
	struct loaded loaded;
	enum hook_type hook;

	uint32_t generation; /* live side = generation & 1 */
	uint64_t live_revision;
	bool staged;
	bool steering; /* rules and routes to proxies are set */
	bool services; /* there are, or were, Services: what leaves is looked at */
	struct sockets sockets;
	struct nftables nftables;
	struct engine_state engine;
	struct hosts hosts;
	bool grace_due;    /* flipped, and no grace period since: programs may still read the idle side */
	bool resync[2];    /* the side may hold anything */
	bool untouched[2]; /* nothing was written to the side since open */
	_Atomic uint64_t fill[TABLE_COUNT];
	_Atomic uint64_t fill_rules, fill_interfaces; /* of ps_rule_hits, ps_iface */
	struct connection_cache *connections;
	struct sweep_cursor sweeps[SWEEP_MAPS];
	struct map rules, rules_gone; /* sets of rule ids that have counters; those to be deleted after the flip */

	struct monitor monitor;
	int watch;       /* inotify on links/, maps/ and programs/; -1: none */
	int watch_links; /* which of its watches tells of links/ */
	bool unpinned;   /* maps or programs may have lost their pins */
	int news;        /* epoll over both */
	bool suspicious; /* pins went: what is touched has to be looked at */
	struct net net;
	bool looked;                 /* net holds a whole look */
	bool hooks_changed;          /* since somebody asked */
	struct map attachments;      /* ifindex → struct attachment */
	struct map iface_pending[2]; /* ifindexes whose endpoint[side] is to be written */
	struct claim *claims;        /* by endpoint id */
	size_t claims_size, claims_used;
	struct map homes; /* address → struct home */
	uint32_t round;

	struct listeners *listeners;
	struct doctor *doctor;
	struct events *events;
	struct audit audit;
	_Atomic uint64_t repairs[DRIFT_COUNT];
};

static inline unsigned int side_live(const struct datapath *d)
{
	return d->generation & 1;
}

/* ---- engines (engine.c) ---- */

/* tproxy: the live revision's. An engine that was asked for and cannot be had is refused. */
int engine_open(struct datapath *d, bool tproxy, struct error *e);
/* Once there are routes and the table: tries what "auto" may take. */
void engine_settle(struct datapath *d);
/* The live control word says what is so by now. */
int control_write(struct datapath *d, struct error *e);

/* ---- processes of this node (hosts.c) ---- */

/* What inotify has told: then hosts_look finds it. */
void hosts_read(struct datapath *d);
int hosts_take_over(struct datapath *d, bool stands, struct error *e);
/* Which cgroups are there by now; all: though nothing tells that it has changed. Those whose being there changed, or
 * that are others of the same path, are told. */
void hosts_look(struct datapath *d, const struct compiler *compiler, bool all,
	void (*bound)(void *context, uint32_t endpoint, bool bound), void *context);
/* Before the first of them goes live. */
int hosts_stage(struct datapath *d, struct error *e);
/* The idle half of table ps_cgroup. */
int hosts_write_side(struct datapath *d, unsigned int side, struct error *e);
void hosts_clear(struct datapath *d);

/* ---- what the kernel tells of connections (events.c) ---- */

/* An embryonic entry that is idle for longer is as good as absent. */
#define EMBRYONIC_NS 60000000000ull
int events_open(struct datapath *d, struct error *e);
void events_close(struct datapath *d);
/* Given by datapath_events, though no program told it. */
void event_ended(struct datapath *d, const struct ps_event *event);
/* Of those, the ones that nobody took in time. */
uint64_t events_lost(const struct datapath *d);
/* An entry of connection tracking as an event without a code. */
void entry_tell(bool ipv6, const void *key, const struct ps_conn *conn, uint64_t now, struct ps_event *ret);
uint64_t monotonic_now(void); /* ns */
/* What datapath_generation tells. */
void generation_set(struct datapath *d, uint32_t generation, uint64_t revision);

/* Until no program that began before is still running. */
void grace_wait(void);
/* flags: those of the live control word. */
int revision_read(struct datapath *d, uint32_t *flags, struct error *e);
int rules_take_over(struct datapath *d, struct error *e);
/* Established connections of both families, by the programs' count and ours. */
uint64_t connections_open(const struct datapath *d);
/* What an earlier agent swept is told by what is there. */
void connections_take_over(struct datapath *d);
void rules_leave(struct datapath *d); /* counters of rules that no live table names */

/* ---- proxies (listeners.c) ---- */

/* Starts the thread that looks; it touches nothing before datapath_proxies was called. */
int listeners_open(struct datapath *d, struct error *e);
void listeners_close(struct datapath *d);
/* Looks now, if it was ever told whom to look for. */
void listeners_again(struct datapath *d);
/* Something else that the status tells has changed: its reader is woken. Any thread, while they are open. */
void listeners_news(struct datapath *d);

/* ---- who is never intercepted (exempt.c) ---- */

struct exempt;
struct exempt *exempt_new(void);
void exempt_free(struct exempt *x);
/* Keeps ps_exempt (`map`) to those who hold one of these sockets, by inode. now: ms. With each look for listeners. */
void exempt_look(struct exempt *x, int map, const uint32_t *inodes, size_t count, int64_t now);

/* ---- pins that somebody removes (watch.c) ---- */

int watch_open(struct datapath *d, struct error *e);
int news_add(const struct datapath *d, int fd);
void watch_close(struct datapath *d);
/* Notes in net.touched and `suspicious` what has to be looked at. */
void watch_read(struct datapath *d);

int interfaces_take_over(struct datapath *d, struct error *e);
/* The idle half of table iface. */
int interfaces_write_side(struct datapath *d, unsigned int side, struct error *e);
/* Interfaces that lost their endpoint with a revision that is live now. */
void interfaces_leave(struct datapath *d);
/* Steering has begun, or Services: those that no workload is behind get another role. */
void interfaces_settle(struct datapath *d);
/* An earlier agent steered. */
bool interfaces_steered(const struct datapath *d);
void interfaces_clear(struct datapath *d);
/* Made when absent. The pointer ends with the next call. */
struct attachment *attachment_get(struct datapath *d, uint32_t ifindex);
void attachment_claim(struct datapath *d, uint32_t ifindex, uint32_t endpoint);

/* Who has which interface. relook: something moved, look for everybody. Ids whose binding may have changed are added to
 * `moved` (a set). How many questions after idle workloads were sent: the answers may be there already. */
size_t claims_update(struct datapath *d, const struct compiler *compiler, bool relook, struct map *moved);
/* What the live tables say about addresses behind the interfaces that were taken over. */
void claims_take_over(struct datapath *d);

#endif
