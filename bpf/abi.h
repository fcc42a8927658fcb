/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What both sides of the kernel share: keys, values, codes. Fixed widths, explicit padding, every size asserted.
 * Includes nothing of ours. Append only: pinned maps outlive the program that made them.
 *
 * Byte order: addresses are in network order; ports, ids and lengths are in host order unless a name ends in _be.
 */
#ifndef PENSTOCK_ABI_H
#define PENSTOCK_ABI_H

#include <linux/bpf.h>
#include <linux/types.h>

/* Raised when a pinned map can no longer be read by this build; a mismatch is refused at start, never reset. */
#define PS_ABI_VERSION 3

#define PS_STATIC_ASSERT(condition, text) _Static_assert(condition, text)

/* ---- codes: one list each; enum, JSON string, metric label and documentation row come from it. Append only. ---- */

#define PS_DIRECTIONS(X) \
	X(EGRESS, "Egress")  \
	X(INGRESS, "Ingress")

#define PS_VERDICTS(X)            \
	X(FORWARDED, "Forwarded")     \
	X(INTERCEPTED, "Intercepted") \
	X(DROPPED, "Dropped")         \
	X(REJECTED, "Rejected")       \
	X(AUDITED, "Audited")

#define PS_REASONS(X)                                                                              \
	X(POLICY, "Policy", "a rule said so")                                                          \
	X(ISOLATED, "Isolated", "selected by a NetworkPolicy and allowed by none")                     \
	X(DEFAULT, "Default", "no policy selects the workload in this direction")                      \
	X(INTERCEPT, "Intercept", "an InterceptPolicy rule handed the connection to a proxy")          \
	X(NO_LISTENER, "NoListener", "nobody listens on the proxy's port")                             \
	X(SPOOFED, "Spoofed", "the source is not one of the workload's addresses")                     \
	X(MALFORMED, "Malformed", "headers are cut short, contradictory or too many")                  \
	X(LIMIT, "Limit", "a rate limit of a NodeFilter")                                              \
	X(TABLE_FULL, "TableFull", "the connection table is full: the connection stays evictable")     \
	X(NODE_FILTER, "NodeFilter", "a NodeFilter rule said so")                                      \
	X(FRAGMENT, "Fragment", "a fragment whose first fragment was not seen")                        \
	X(NODE, "Node", "sent by the node itself, which may always reach its workloads")               \
	X(RELATED, "Related", "an ICMP error about a connection that is allowed")                      \
	X(UNJUDGED, "Unjudged", "ARP, neighbour and router discovery, MLD, IGMP, the workload's DHCP") \
	X(UNCLAIMED, "Unclaimed", "no object claims the interface yet")                                \
	X(ESTABLISHED, "Established", "a packet of a connection that was judged before, in this revision")

#define PS_EVENTS(X)    \
	X(OPENED, "Opened") \
	X(CLOSED, "Closed") \
	X(REFUSED, "Refused")

#define PS_ACTIONS(X) \
	X(ALLOW, "Allow") \
	X(DENY, "Deny")   \
	X(INTERCEPT, "Intercept")

enum ps_direction {
#define X(name, text) PS_##name,
	PS_DIRECTIONS(X)
#undef X
		PS_DIRECTION_COUNT
};
enum ps_verdict_code {
#define X(name, text) PS_VERDICT_##name,
	PS_VERDICTS(X)
#undef X
		PS_VERDICT_COUNT
};
enum ps_reason {
#define X(name, text, doc) PS_REASON_##name,
	PS_REASONS(X)
#undef X
		PS_REASON_COUNT
};
enum ps_event_code {
#define X(name, text) PS_EVENT_##name,
	PS_EVENTS(X)
#undef X
		PS_EVENT_COUNT
};
enum ps_action {
#define X(name, text) PS_ACTION_##name,
	PS_ACTIONS(X)
#undef X
		PS_ACTION_COUNT
};

/* ---- policy tables: written by the agent, read by programs ----
 *
 * Left-right: every table holds two sides; the control word's generation names the live one (generation & 1).
 * A sided key carries the side; a sided array holds side 0 first, then side 1 at + capacity.
 * The agent writes the idle side, flips the word, waits for a grace period, and repeats the diff on the other.
 */

/* Class 0: an address that no term matches. Port class 0: a port that no term covers, and what has no port (ICMP, other
 * protocols): only rules that name no port match, which is what a row's own verdict says. */
#define PS_CLASS_NONE 0u
#define PS_PORT_CLASS_NONE 0u
#define PS_PROFILE_NONE 0u /* profile 0: selected by nothing; both directions default to allow */
#define PS_ENDPOINT_NONE 0u
#define PS_RULE_NONE 0u
#define PS_PROXY_NONE 0u /* proxies are numbered from 1 */

struct ps_key_addr4 {
	__u32 side;
	__be32 addr;
};
struct ps_key_addr6 {
	__u32 side;
	__u8 addr[16];
};
#define PS_ADDR_LOCAL 1u   /* has an interface on this node: its profile is enforced at the last hook */
#define PS_ADDR_STEERED 2u /* an ingress rule of an InterceptPolicy selects it: asked before the last hook */
#define PS_ADDR_NODE 4u    /* a Node's: node ports are there */
/* A workload's address, or a network of one address: that one has only a class. */
struct ps_addr {
	__u32 class_id; /* peer class */
	__u32 endpoint; /* PS_ENDPOINT_NONE unless it can be local */
	__u32 profile;
	__u32 flags; /* PS_ADDR_* */
};
/* Longest prefix behind the exact addresses: the trie is slow when it is large, so networks of one address (/32, /128)
 * are not here but there. prefix_length counts the 32 bits of side too. */
struct ps_key_net4 {
	__u32 prefix_length;
	__u32 side;
	__be32 addr;
};
struct ps_key_net6 {
	__u32 prefix_length;
	__u32 side;
	__u8 addr[16];
};
/* Array, sided: 256 ports a block; index = side * PS_PORT_BLOCKS + proto * 256 + (port >> 8), then [port & 255]. */
enum ps_port_proto { PS_PORT_TCP, PS_PORT_UDP, PS_PORT_SCTP, PS_PORT_PROTO_COUNT };
#define PS_PORT_BLOCKS (PS_PORT_PROTO_COUNT * 256)
struct ps_port_block {
	__u16 port_class[256];
};
/* Array, sided, by endpoint id: a workload that is or may become local. */
struct ps_endpoint {
	__u32 profile;
	__u32 class_id;
	__u32 flags; /* PS_ENDPOINT_* */
	__u32 pad;
};
#define PS_ENDPOINT_USED 1u
#define PS_ENDPOINT_SOURCES 2u /* has rows in source: look there before calling a packet spoofed */
/* Longest prefix: further source networks of an endpoint; IPv4 as ::ffff:a.b.c.d. prefix_length counts side and
 * endpoint (64 bits) too. */
struct ps_key_source {
	__u32 prefix_length;
	__u32 side;
	__u32 endpoint;
	__u8 addr[16];
};
/* Array, sided, by profile id: the row of peers that have no row of their own. */
struct ps_profile {
	__u32 default_row[PS_DIRECTION_COUNT];
};
struct ps_key_row {
	__u32 side;
	__u32 profile;
	__u32 class_id;
	__u32 direction;
};
/*
 * What is done with a connection. In table `row` (array, sided, by row id): the verdict of ports without a cell.
 * Policies in audit mode have no part in it; what they would change is said beside it.
 */
#define PS_VERDICT_AUDIT 1u           /* were they enforced too, the action would be another: Allow, or … */
#define PS_VERDICT_AUDIT_DENY 2u      /* … Deny */
#define PS_VERDICT_AUDIT_INTERCEPT 4u /* … Intercept, or by another proxy */
#define PS_VERDICT_AUDIT_ISOLATED 8u  /* the reason of that Deny is Isolated, not Policy */
#define PS_VERDICT_AUDIT_STEERS 16u   /* audit_rule is an InterceptPolicy's: about connections that begin */
struct ps_verdict {
	__u8 action;          /* ps_action: ALLOW or DENY by policy, or INTERCEPT (= ALLOW, then hand over) */
	__u8 reason;          /* ps_reason of the policy decision */
	__u8 flags;           /* PS_VERDICT_* */
	__u8 proxy;           /* INTERCEPT: index into table proxy; with DENY that of intercept_rule, if it is no Bypass */
	__u32 rule;           /* the policy rule that decided, or the isolation; PS_RULE_NONE for Default */
	__u32 intercept_rule; /* of an InterceptPolicy: INTERCEPT, or with ALLOW the Bypass that ended the search; with DENY
							 either one, for a Service's address, which policy does not judge */
	__u32 audit_rule;     /* in audit mode: would have decided this connection; PS_RULE_NONE if none would */
};
/* The action if the policies in audit mode were enforced too. */
static inline enum ps_action verdict_audit_action(const struct ps_verdict *verdict)
{
	if (!(verdict->flags & PS_VERDICT_AUDIT))
		return (enum ps_action)verdict->action;
	if (verdict->flags & PS_VERDICT_AUDIT_DENY)
		return PS_ACTION_DENY;
	return verdict->flags & PS_VERDICT_AUDIT_INTERCEPT ? PS_ACTION_INTERCEPT : PS_ACTION_ALLOW;
}
/*
 * A Service's address and port: cluster IP, external IP, load balancer's. Address 0 is every address of a node (node
 * ports). A connection to it is judged by the backend that it is sent to, which is known only after the first hook: it
 * needs the distinct kinds of ready backends, equal ones once, those of this node first.
 */
struct ps_key_service4 {
	__u32 side;
	__be32 addr;
	__u16 port;
	__u8 protocol;
	__u8 pad;
};
struct ps_key_service6 {
	__u32 side;
	__u8 addr[16];
	__u16 port;
	__u8 protocol;
	__u8 pad;
};
#define PS_BACKEND_NODE 1u /* this node itself: what goes there crosses no hook any more */
struct ps_backend {
	__u32 class_id;
	__u16 port;
	__u16 flags; /* PS_BACKEND_* */
};
#define PS_BACKENDS_MAX 8
#define PS_SERVICE_MORE 1u /* of other kinds than fit */
struct ps_service {
	__u32 count;
	__u32 flags;                                /* PS_SERVICE_* */
	struct ps_backend backend[PS_BACKENDS_MAX]; /* kinds, without those past count */
};
struct ps_key_cell {
	__u32 side;
	__u32 row;
	__u32 port_class;
};
/* Array, sided, by proxy number. */
#define PS_PROXY_USED 1u
#define PS_PROXY_BYPASS 2u /* nobody listens: let the connection go where it was going */
struct ps_proxy {
	__u16 port;
	__u8 flags; /* PS_PROXY_* */
	__u8 pad;
	__u32 chosen; /* 0: any transparent listener of the port; else only those in ps_listener under this word */
};

/* name, kind, key, value, entries a side (rounded to what a node needs; a full table is refused with 507 before a
 * write) */
#define PS_TABLES(X)                                                    \
	X(addr4, HASH, struct ps_key_addr4, struct ps_addr, 131072)         \
	X(addr6, HASH, struct ps_key_addr6, struct ps_addr, 131072)         \
	X(net4, LPM, struct ps_key_net4, __u32, 65536)                      \
	X(net6, LPM, struct ps_key_net6, __u32, 65536)                      \
	X(port, ARRAY, __u32, struct ps_port_block, PS_PORT_BLOCKS)         \
	X(endpoint, ARRAY, __u32, struct ps_endpoint, 16384)                \
	X(source, LPM, struct ps_key_source, __u32, 16384)                  \
	X(profile, ARRAY, __u32, struct ps_profile, 16384)                  \
	X(peer_row, HASH, struct ps_key_row, __u32, 262144)                 \
	X(row, ARRAY, __u32, struct ps_verdict, 131072)                     \
	X(cell, HASH, struct ps_key_cell, struct ps_verdict, 262144)        \
	X(proxy, ARRAY, __u32, struct ps_proxy, 256)                        \
	X(service4, HASH, struct ps_key_service4, struct ps_service, 65536) \
	X(service6, HASH, struct ps_key_service6, struct ps_service, 65536)

/* ---- control ---- */

/* Array of one. Each program reads `generation` once a packet; live side = generation & 1. Odd/even alternate at each
 * flip. */
#define PS_CONTROL_STEERING 1u /* there is, or was, a proxy: its sockets may still be there */
#define PS_CONTROL_SERVICES 2u /* there are, or were, Services: tables service4, service6 are asked */
#define PS_CONTROL_TPROXY 4u   /* engine tproxy: the programs decide, and the table of nftables hands over */
#define PS_CONTROL_TABLE 8u    /* that table stands: what engine ebpf cannot hand over goes by it as well */
#define PS_CONTROL_HOST 16u    /* an InterceptPolicy is, or was, about processes of this node: ps_cgroup is asked */
struct ps_control {
	__u32 generation;
	__u32 flags; /* PS_CONTROL_* */
};
/* Array of two, by side: the API revision that the side holds. */
struct ps_side {
	__u64 revision;
};

/*
 * Hash by ifindex (host order): which endpoint is behind an interface. Written by the agent as netlink reports. The
 * endpoint stands there by side, because endpoint ids belong to the compiler that made a side's tables: after a restart
 * (or a failed apply) a new compiler may number them anew, and the live side must keep the old numbers until the flip.
 * Programs read endpoint[generation & 1]. The agent writes endpoint[s] together with the tables of side s when it
 * resyncs that side, and both at once for an interface that comes later.
 */
#define PS_IFACE_DENY 1u    /* unclaimed: deny; passes ARP, ND and the node itself */
#define PS_IFACE_L3 2u      /* no link-layer header */
#define PS_IFACE_NETWORK 4u /* no workload is behind it: from_network, to_network */
struct ps_iface {
	__u32 endpoint[2]; /* PS_ENDPOINT_NONE: unclaimed */
	__u32 flags;       /* PS_IFACE_* */
	__u32 pad;
};
#define PS_IFACES_MAX 16384

/*
 * In skb->priority, with the mark INTERCEPT: the table of nftables hands the packet to who listens on the port (lower
 * half) of loopback, or of the wildcard. Any other priority is nobody's concern: the table lets it pass.
 */
#define PS_HANDOVER_LOOPBACK 0x76410000u
#define PS_HANDOVER_WILDCARD 0x76420000u
#define PS_HANDOVER_PORT 0xffffu

/*
 * Hash by id of a cgroup (v2) that a subject of an InterceptPolicy names: the endpoint that stands for its processes
 * and for those of every cgroup below it that has no row of its own. By side, as in ps_iface.
 */
struct ps_cgroup {
	__u32 endpoint[2];
};
#define PS_CGROUPS_MAX 1024
/* By socket: the id of the cgroup in whose name it connected. */
struct ps_host_socket {
	__u64 cgroup;
};

/*
 * Hash by ifindex of a port: the bridge that it belongs to. Written by the agent before the port's programs are
 * attached, and as netlink reports; read for packets on their way to a proxy.
 */
struct ps_bridge {
	__u32 ifindex;
	__u8 mac[6];
	__u8 pad[2];
};

/* ---- connection tracking: written by programs, read by the agent ---- */

/*
 * One entry a connection and node, found with one lookup from either side: the lower (address, port) comes first.
 * ICMP echo: both ports are the identifier.
 */
struct ps_key_conn4 {
	__be32 addr[2];
	__u16 port[2];
	__u8 protocol;
	__u8 pad[3];
};
struct ps_key_conn6 {
	__u8 addr[2][16];
	__u16 port[2];
	__u8 protocol;
	__u8 pad[3];
};
enum ps_conn_state {
	PS_CONN_NEW,         /* the originator spoke */
	PS_CONN_REPLIED,     /* the responder answered */
	PS_CONN_ESTABLISHED, /* the originator spoke again: kept, never evicted */
	PS_CONN_CLOSING,     /* FIN or RST */
};
#define PS_CONN_ORIGIN_HIGH 1u /* the originator is the key's second address */
#define PS_CONN_NODE 2u        /* a socket of this node opened it: ingress is always allowed */
#define PS_CONN_INTERCEPTED 4u /* handed to `proxy`, and stays with it */
#define PS_CONN_FIN_ORIGIN 8u
#define PS_CONN_FIN_REPLY 16u
#define PS_CONN_MIDSTREAM 32u /* first seen without SYN: intercepted only if a proxy has it already */
#define PS_CONN_REWRITTEN 64u /* the originator is not who the addresses say: `origin` is who it was */
/*
 * A proxy of this node opened it for a client, and no policy but the responder's ingress asks. From the client's
 * address: replies are handed to its socket. From the node's own: REWRITTEN, and `origin` is the client. An intercepted
 * connection and the leg that has the same addresses and ports share one entry.
 */
#define PS_CONN_LEG 128u
/* In ifindex[]: the interface has no link-layer header. So tagged it equals no skb->ifindex, and proves nothing. */
#define PS_CONN_L3 0x80000000u
/* In `service`, of a connection to a Service's address, at the originator's side. */
#define PS_CONN_PENDING 1u    /* its backends are judged differently: the hook where it leaves decides */
#define PS_CONN_TRANSLATED 2u /* `backend`, `backend_port`: where this node sends it */
#define PS_CONN_ASKED 4u      /* an egress rule of an InterceptPolicy was about it: ingress rules are not asked */
/* A proxy has it by an ingress rule of the backend (behind.h). With TRANSLATED it is the Service's address' entry; else
 * that of the addresses of the proxy's socket, which no packet passes by: there `backend_port` is the client's own. */
#define PS_CONN_BEHIND 8u
#define PS_CONN_OWN 16u    /* with both: a socket has it already, and needs no hand-over */
#define PS_CONN_MASKED 32u /* with both: this node rewrites its source as well */
#define PS_CONN_TOLD 64u   /* its event Opened was sent, or needs none */
#define PS_CONN_QUIET \
	128u /* the far half of a connection that has an entry with the addresses that its client knows: no events */
/* judged[]: generation in the upper half, PS_JUDGED_* below: one aligned word, so that revision and verdict never part.
 */
#define PS_JUDGED_ALLOW 1u
#define PS_JUDGED_DENY 2u
#define PS_JUDGED_NOT_LOCAL 4u /* with ALLOW: nobody on this node is subject of this direction */
struct ps_conn {
	__u64 judged[PS_DIRECTION_COUNT];
	__u64 opened;     /* ns, CLOCK_MONOTONIC */
	__u64 seen;       /* ns, CLOCK_MONOTONIC, last packet that passed */
	__u64 packets[2]; /* from the originator, from the responder */
	__u64 bytes[2];   /* layer 3 */
	__u32 rule[PS_DIRECTION_COUNT];
	__u32 intercept_rule;
	__u32 ifindex[2]; /* the workload interface on the originator's, the responder's side; 0 = not known; PS_CONN_L3 */
	__u32 handshake;  /* ns from SYN to the originator's ACK; 0 = not seen */
	__u8 state;       /* ps_conn_state */
	__u8 flags;       /* PS_CONN_* */
	__u8 proxy;
	__u8 reason[PS_DIRECTION_COUNT];
	__u8 service; /* PS_CONN_PENDING … PS_CONN_MASKED */
	__u16 backend_port;
	union {            /* what this node's NAT hides. Addresses: IPv4 in the first four bytes, the rest zero */
		__u32 entered; /* the workload interface by which the originator entered, when its source is no address of it */
		__u8 origin[16];  /* PS_CONN_REWRITTEN: the originator's before this node rewrote it */
		__u8 backend[16]; /* PS_CONN_TRANSLATED */
	};
	__u32 round_trip;  /* µs, smoothed, of the end that is on this machine; 0: not known */
	__u32 retransmits; /* segments that ends on this machine sent again */
};
/* Established: with the timer that ends it. User space sees the timer as two opaque words. */
struct ps_conn_live {
#ifdef __bpf__
	struct bpf_timer timer;
#else
	__u64 timer[2];
#endif
	struct ps_conn conn;
};
#define PS_EMBRYONIC_MAX 65536
/*
 * Seconds that an established entry may be idle. Its timer ends it in the kernel, also when no agent runs; the agent
 * sweeps what has no timer (before 5.15, or when the kernel had no memory for one at that moment).
 */
#define PS_CONN_IDLE_TCP 7200
#define PS_CONN_IDLE_CLOSING 10
#define PS_CONN_IDLE_ICMP 30
#define PS_CONN_IDLE_OTHER 180
#define PS_CONN_IDLE(protocol, state)                                                                                  \
	((protocol) == 6                          ? ((state) == PS_CONN_CLOSING ? PS_CONN_IDLE_CLOSING : PS_CONN_IDLE_TCP) \
		: (protocol) == 1 || (protocol) == 58 ? PS_CONN_IDLE_ICMP                                                      \
											  : PS_CONN_IDLE_OTHER)

/* LRU: the ports of a first fragment, for those that follow. */
struct ps_key_fragment {
	__u8 source[16];
	__u8 destination[16];
	__u32 id;
	__u8 protocol;
	__u8 hook; /* 0 from workload, 1 to workload: the packet passes both */
	__u8 pad[2];
};
struct ps_fragment {
	__u16 source_port;
	__u16 destination_port;
	__u8 protocol; /* IPv6: behind the extension headers of the first fragment */
	__u8 pad[3];
};

/* ---- proxies: written by the agent, read by programs ---- */

/* Hash: listeners that a proxy with conditions on its process may use. The cookie is the socket's for its life; the
 * word is the proxy's (ps_proxy.chosen), because numbers of proxies belong to a compiler. */
struct ps_key_listener {
	__u64 cookie;
	__u32 chosen;
	__u32 pad;
};
#define PS_LISTENERS_MAX 4096
/* Values. */
#define PS_LISTENER_CHOSEN 1u
#define PS_LISTENER_BESIDE 2u /* not chosen; what is sent to its SO_REUSEPORT group goes to those that are */

/* Hash by process (tgid of the initial pid namespace): it has a proxy's listener, or is the agent; nothing that it
 * opens is intercepted. Written by the agent as it sees listeners; a fork inherits it (sockets.h). */
#define PS_EXEMPT_MAX 4096
#define PS_EXEMPT_HOLDS 1u  /* it was seen with a listener, or is the agent */
#define PS_EXEMPT_FORKED 2u /* by one that is exempt: until it executes something */

/* ---- legs: written and read by programs on sockets (sockets.h), read by those on packets (leg.h) ---- */

/* An intercepted connection that a process of this node has in its hands. */
struct ps_held {
	union {
		struct ps_key_conn4 key4;
		struct ps_key_conn6 key6;
	};
	__u8 family; /* 4 or 6 */
	__u8 used;   /* it has connected for it since */
	__u8 forked; /* its process was forked by one that held it, and means it until it executes something */
	__u8 pad;
	__u32 thread; /* which asked */
};
/* LRU, by thread: which intercepted connection it asked the addresses of, or read from, last. Thread 0: any thread of
 * the process; reads do not count. */
struct ps_key_held {
	__u32 process; /* tgid and pid of the initial pid namespace */
	__u32 thread;
};
/* LRU, by a client's address and port: the flow of datagrams that it began last and a proxy took. Who receives one is
 * told its sender alone. */
struct ps_key_asker {
	__u8 addr[16]; /* IPv4 in the first four bytes, the rest zero */
	__u16 port;
	__u8 family; /* 4 or 6 */
	__u8 pad;
};
#define PS_ASKERS_MAX 16384
/* LRU, by cookie of a connecting socket: the client that it connects for. */
struct ps_leg {
	__u8 client[16]; /* IPv4 in the first four bytes, the rest zero */
	__u8 family;     /* 4 or 6 */
	__u8 proxy;
	__u8 pad[6];
};
#define PS_LEGS_MAX 65536

/* ---- events: written by programs, read by the agent ---- */

/*
 * What ps_event, a ring buffer, carries: a connection was opened (TCP: the handshake is complete; else: its first
 * packet passed), was closed, or a packet was refused. Closed without Opened: the other end refused the attempt.
 * Addresses are those of the workload's side: of a connection to a Service, the Service's.
 */
struct ps_event {
	__u64 time;       /* ns, CLOCK_MONOTONIC */
	__u64 opened;     /* the same, of the connection's first packet; 0: there is no connection */
	__u64 packets[2]; /* from the originator, from the responder */
	__u64 bytes[2];   /* layer 3 */
	__u8 addr[2][16]; /* originator, responder; of a refusal without a connection sender, receiver. IPv4 in the first
						 four bytes, the rest zero */
	__u8 backend[16]; /* PS_EVENT_BACKEND */
	__u16 port[2];    /* ICMP echo: the identifier */
	__u16 backend_port;
	__u8 protocol;
	__u8 family;          /* 4 or 6; 0: could not be read */
	__u32 rule;           /* that decided; PS_RULE_NONE */
	__u32 intercept_rule; /* of an InterceptPolicy, with NO_LISTENER or INTERCEPTED: that one */
	__u32 generation;     /* under which it was decided; side generation & 1 held its revision */
	__u32 ifindex;        /* where it was seen */
	__u32 handshake;      /* ns; 0: not seen */
	__u32 round_trip;     /* µs; 0: not known */
	__u32 retransmits;
	__u32 process; /* of this node, that opened it: tgid of the initial pid namespace; 0: not known */
	char command[16];
	__u8 event;     /* ps_event_code */
	__u8 verdict;   /* ps_verdict_code */
	__u8 reason;    /* ps_reason */
	__u8 direction; /* ps_direction of the decision */
	__u8 proxy;     /* its number at that time; PS_PROXY_NONE */
	__u8 flags;     /* PS_EVENT_* */
	__u8 pad[2];
};
#define PS_EVENT_BACKEND 1u /* of a Service: where it is sent */
#define PS_EVENT_LEG 2u     /* a proxy of this node opened it for a client */
#define PS_EVENT_NODE 4u    /* a socket of this node opened it */
/* Bytes of the ring. Above half of them refusals are lost first, so that no flood of them hides connections. */
#define PS_EVENT_RING (4u << 20)

/* LRU, by cookie of a TCP socket of this node: the process that connected it. */
struct ps_process {
	__u32 process; /* tgid of the initial pid namespace */
	char command[16];
};
#define PS_PROCESSES_MAX 16384

/* What an event or a list says of an entry: the one answer, for both sides of the kernel. Sets all but the addresses,
 * time, event, generation's revision and process. */
static inline void conn_tell(const struct ps_conn *conn, struct ps_event *event)
{
	__u64 egress = conn->judged[PS_EGRESS], ingress = conn->judged[PS_INGRESS];
	int direction = PS_EGRESS;

	if (!(egress & PS_JUDGED_ALLOW) || egress & PS_JUDGED_NOT_LOCAL)
		direction = PS_INGRESS;
	else if (conn->rule[PS_EGRESS] == PS_RULE_NONE && ingress & PS_JUDGED_ALLOW && conn->rule[PS_INGRESS])
		direction = PS_INGRESS; /* the one that a rule decided */
	event->direction = (__u8)direction;
	event->opened = conn->opened;
	event->packets[0] = conn->packets[0];
	event->packets[1] = conn->packets[1];
	event->bytes[0] = conn->bytes[0];
	event->bytes[1] = conn->bytes[1];
	event->handshake = conn->handshake;
	event->round_trip = conn->round_trip;
	event->retransmits = conn->retransmits;
	event->generation = (__u32)((direction == PS_EGRESS ? egress : ingress) >> 32);
	event->flags = (conn->flags & PS_CONN_NODE ? PS_EVENT_NODE : 0) | (conn->flags & PS_CONN_LEG ? PS_EVENT_LEG : 0);
	event->rule = direction == PS_EGRESS ? conn->rule[PS_EGRESS] : conn->rule[PS_INGRESS];
	event->reason = direction == PS_EGRESS ? conn->reason[PS_EGRESS] : conn->reason[PS_INGRESS];
	event->verdict = PS_VERDICT_FORWARDED;
	if (!egress && !ingress) { /* a leg that leaves this node: nobody was asked */
		event->direction = PS_EGRESS;
		event->reason = PS_REASON_NODE;
	}
	if (conn->flags & PS_CONN_INTERCEPTED) {
		event->verdict = PS_VERDICT_INTERCEPTED;
		event->reason = PS_REASON_INTERCEPT;
		event->intercept_rule = conn->intercept_rule;
		event->proxy = conn->proxy;
		event->flags &= (__u8)~PS_EVENT_LEG;
	}
}

/* ---- counters ---- */

/* Per-CPU array by PS_COUNT_INDEX. */
struct ps_count {
	__u64 packets;
	__u64 bytes;
};
#define PS_COUNT_INDEX(direction, verdict, reason) (((direction)*PS_VERDICT_COUNT + (verdict)) * 32 + (reason))
#define PS_COUNT_MAX (PS_DIRECTION_COUNT * PS_VERDICT_COUNT * 32)

/* Per-CPU array by this: what the data path counts besides verdicts. */
enum ps_stat {
	PS_STAT_OPENED,       /* entries promoted to established */
	PS_STAT_CLOSED,       /* established entries ended */
	PS_STAT_TABLE_FULL,   /* promotions refused: established table full */
	PS_STAT_ASSIGN_FAIL,  /* bpf_sk_assign refused a socket */
	PS_STAT_LEG_CLIENT,   /* onward connections that a proxy began from the client's address */
	PS_STAT_LEG_NODE,     /* from the node's own: the source is not kept */
	PS_STAT_BEGUN,        /* TCP entries that a SYN made: what is not OPENED of them is half open, or nobody answered */
	PS_STAT_LOST,         /* events of connections that were lost: the ring was full */
	PS_STAT_LOST_REFUSED, /* the same of refusals */
	PS_STAT_ANSWERED,     /* of PS_STAT_BEGUN: handshakes completed, or refused by either end */
	PS_STAT_COUNT
};
#define PS_STAT_MAX 64 /* what the map has room for */

/* Per-CPU array by the kernel's enum skb_drop_reason: packets of this network namespace that the kernel dropped. The
 * names are in the kernel's BTF. Subsystems' own reasons (above 0xffff) count as PS_DROP_OTHER. */
#define PS_DROPS_MAX 256
#define PS_DROP_OTHER (PS_DROPS_MAX - 1)

PS_STATIC_ASSERT(PS_REASON_COUNT <= 32, "PS_COUNT_INDEX has room for 32 reasons");
PS_STATIC_ASSERT(sizeof(struct ps_key_addr4) == 8, "ps_key_addr4");
PS_STATIC_ASSERT(sizeof(struct ps_key_addr6) == 20, "ps_key_addr6");
PS_STATIC_ASSERT(sizeof(struct ps_addr) == 16, "ps_addr");
PS_STATIC_ASSERT(sizeof(struct ps_key_net4) == 12, "ps_key_net4");
PS_STATIC_ASSERT(sizeof(struct ps_key_net6) == 24, "ps_key_net6");
PS_STATIC_ASSERT(sizeof(struct ps_port_block) == 512, "ps_port_block");
PS_STATIC_ASSERT(sizeof(struct ps_endpoint) == 16, "ps_endpoint");
PS_STATIC_ASSERT(sizeof(struct ps_key_source) == 28, "ps_key_source");
PS_STATIC_ASSERT(sizeof(struct ps_profile) == 8, "ps_profile");
PS_STATIC_ASSERT(sizeof(struct ps_key_row) == 16, "ps_key_row");
PS_STATIC_ASSERT(sizeof(struct ps_verdict) == 16, "ps_verdict");
PS_STATIC_ASSERT(sizeof(struct ps_key_cell) == 12, "ps_key_cell");
PS_STATIC_ASSERT(sizeof(struct ps_proxy) == 8, "ps_proxy");
PS_STATIC_ASSERT(sizeof(struct ps_key_service4) == 12, "ps_key_service4");
PS_STATIC_ASSERT(sizeof(struct ps_key_service6) == 24, "ps_key_service6");
PS_STATIC_ASSERT(sizeof(struct ps_backend) == 8, "ps_backend");
PS_STATIC_ASSERT(sizeof(struct ps_service) == 72, "ps_service");
PS_STATIC_ASSERT(sizeof(struct ps_control) == 8, "ps_control");
PS_STATIC_ASSERT(sizeof(struct ps_side) == 8, "ps_side");
PS_STATIC_ASSERT(sizeof(struct ps_iface) == 16, "ps_iface");
PS_STATIC_ASSERT(sizeof(struct ps_cgroup) == 8, "ps_cgroup");
PS_STATIC_ASSERT(sizeof(struct ps_host_socket) == 8, "ps_host_socket");
PS_STATIC_ASSERT(sizeof(struct ps_bridge) == 12, "ps_bridge");
PS_STATIC_ASSERT(sizeof(struct ps_key_conn4) == 16, "ps_key_conn4");
PS_STATIC_ASSERT(sizeof(struct ps_key_conn6) == 40, "ps_key_conn6");
PS_STATIC_ASSERT(sizeof(struct ps_conn) == 120, "ps_conn");
PS_STATIC_ASSERT(sizeof(struct ps_conn_live) == 136, "ps_conn_live");
PS_STATIC_ASSERT(sizeof(struct ps_key_fragment) == 40, "ps_key_fragment");
PS_STATIC_ASSERT(sizeof(struct ps_fragment) == 8, "ps_fragment");
PS_STATIC_ASSERT(sizeof(struct ps_count) == 16, "ps_count");
PS_STATIC_ASSERT(sizeof(struct ps_key_listener) == 16, "ps_key_listener");
PS_STATIC_ASSERT(sizeof(struct ps_held) == 48, "ps_held");
PS_STATIC_ASSERT(sizeof(struct ps_key_held) == 8, "ps_key_held");
PS_STATIC_ASSERT(sizeof(struct ps_key_asker) == 20, "ps_key_asker");
PS_STATIC_ASSERT(sizeof(struct ps_leg) == 24, "ps_leg");
PS_STATIC_ASSERT(sizeof(struct ps_event) == 160, "ps_event");
PS_STATIC_ASSERT(sizeof(struct ps_process) == 20, "ps_process");
PS_STATIC_ASSERT(PS_STAT_COUNT <= PS_STAT_MAX, "ps_stat");

#endif
