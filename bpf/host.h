/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Processes of this node, by cgroup: what they open that an InterceptPolicy wants goes to a proxy.
 *
 *   connect()      the socket is marked HOST if a rule wants its destination, and remembers its cgroup (ps_host); the
 *                  same when a datagram is sent with an address
 *   nftables       what it sends is sent to lo instead (REROUTE), unless its destination is this node. Of a datagram
 * the socket's own mark is asked, for the packet has the one from before sendmsg() was seen leaves lo      still with
 * its socket: the rule is asked again, and the connection gets its entry enters lo      without: it is handed over; the
 * route that it was given stays, so that nobody validates its source the answer     comes over lo as well, from the
 * destination that was meant, to the client's socket
 *
 * Nothing of what a proxy or the agent opens is wanted: they are told by process (ps_exempt), and a proxy also by the
 * intercepted connection that it holds. The programs on sockets run in a process's context, where others may get
 * between: they use no scratch.
 */
#ifndef PENSTOCK_HOST_H
#define PENSTOCK_HOST_H

#include "bpf/network.h"
#include "bpf/sockets.h"
#include "bpf/tell.h"

#define HOST_LEVELS 16 /* a cgroup deeper than this is what its ancestor at this depth is */
#define PS_SOL_SOCKET 1
#define PS_SO_MARK 36

/* ---- who ---- */

/* The lowest cgroup of the calling process's that a subject names; 0: none. */
static __noinline __u64 host_cgroup(__u32 side)
{
	const struct ps_cgroup *row;
	__u64 id;

	for (int level = HOST_LEVELS; level > 0; level--) {
		id = bpf_get_current_ancestor_cgroup_id(level);
		row = id ? bpf_map_lookup_elem(&ps_cgroup, &id) : NULL;
		if (row && (side ? row->endpoint[1] : row->endpoint[0]) != PS_ENDPOINT_NONE)
			return id;
	}
	return 0;
}

static __always_inline __u32 cgroup_profile(__u64 cgroup, __u32 side)
{
	const struct ps_cgroup *row = bpf_map_lookup_elem(&ps_cgroup, &cgroup);
	const struct ps_endpoint *endpoint;

	if (!row)
		return PS_PROFILE_NONE;
	endpoint = endpoint_find(side ? row->endpoint[1] : row->endpoint[0], side);
	return endpoint ? endpoint->profile : PS_PROFILE_NONE;
}

/* The agent, a proxy, or somebody who connects for a proxy's client. */
static __noinline bool host_exempt(void)
{
	__u64 current = bpf_get_current_pid_tgid();
	__u32 process = current >> 32;
	struct ps_key_held key = {.process = process, .thread = current};
	const __u32 *exempt;

	exempt = bpf_map_lookup_elem(&ps_exempt, &process);
	if (exempt && (*exempt == PS_EXEMPT_HOLDS || task_forked()))
		return true;
	if (held_alive(bpf_map_lookup_elem(&ps_held, &key)))
		return true;
	key.thread = 0;
	return held_alive(bpf_map_lookup_elem(&ps_held, &key));
}

/* At every fork, in the parent. */
static __always_inline int host_forks(const struct task_struct *child)
{
	__u32 zero = 0, parent = bpf_get_current_pid_tgid() >> 32, process = child->tgid, forked = PS_EXEMPT_FORKED;
	const struct ps_control *control = bpf_map_lookup_elem(&ps_control, &zero);
	const __u32 *exempt;

	if (!control || !(control->flags & PS_CONTROL_HOST) || process == parent)
		return 0;
	exempt = bpf_map_lookup_elem(&ps_exempt, &parent);
	if (exempt && (*exempt == PS_EXEMPT_HOLDS || task_forked()))
		bpf_map_update_elem(&ps_exempt, &process, &forked, BPF_NOEXIST);
	return 0;
}

/* ---- what is wanted ---- */

/* A destination, and who asks. */
struct wish {
	struct address destination;
	struct question question;
	__u32 control;
	bool v4;
};

static __always_inline bool address_loopback(const struct address *address, bool v4)
{
	if (v4)
		return (address->v4 & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return !address->half[0] && !address->word[2] && address->word[3] == bpf_htonl(1);
}

/*
 * A Service's address that matches no rule itself: its backends do, if all that are known are handed to the same proxy
 * (service.h, whose question this is without policy).
 */
static __noinline void wish_service(struct wish *wish, const struct party *party, struct ps_verdict *ret)
{
	struct ps_key_service6 key6 = {};
	struct ps_key_service4 *key4 = (struct ps_key_service4 *)&key6;
	const struct ps_service *service;
	struct ps_verdict next;

	if (wish->v4) {
		key4->side = wish->question.row.side;
		key4->addr = wish->destination.v4;
		key4->port = wish->question.port;
		key4->protocol = wish->question.protocol;
		service = bpf_map_lookup_elem(&ps_service4, key4);
		key4->addr = 0;
		if (!service && party->node)
			service = bpf_map_lookup_elem(&ps_service4, key4);
	} else {
		key6.side = wish->question.row.side;
		__builtin_memcpy(key6.addr, wish->destination.word, sizeof(key6.addr));
		key6.port = wish->question.port;
		key6.protocol = wish->question.protocol;
		service = bpf_map_lookup_elem(&ps_service6, &key6);
		__builtin_memset(key6.addr, 0, sizeof(key6.addr));
		if (!service && party->node)
			service = bpf_map_lookup_elem(&ps_service6, &key6);
	}
	if (!service || service->flags & PS_SERVICE_MORE)
		PS_RETURN_ZERO;
	for (__u32 i = 0; i < PS_BACKENDS_MAX && i < service->count; i++) {
		wish->question.row.class_id = service->backend[i].class_id;
		wish->question.port = service->backend[i].port;
		verdict_find(&wish->question, &next);
		if (!i)
			*ret = next;
		else if (next.proxy != ret->proxy || next.action != ret->action)
			*ret = VERDICT_DEFAULT;
	}
	PS_RETURN_ZERO;
}

/* What the rules of these processes say; INTERCEPT is the only thing that is done. */
static __noinline void wish_judge(struct wish *wish, struct ps_verdict *ret)
{
	struct party party;

	*ret = VERDICT_DEFAULT;
	if (wish->question.row.profile == PS_PROFILE_NONE || address_loopback(&wish->destination, wish->v4))
		PS_RETURN_ZERO;
	if (!wish->v4 && link_local(&wish->destination))
		PS_RETURN_ZERO;
	party_find(&party, &wish->destination, wish->v4, wish->question.row.side);
	wish->question.row.direction = PS_EGRESS;
	wish->question.row.class_id = party.class_id;
	verdict_find(&wish->question, ret);
	if (ret->intercept_rule == PS_RULE_NONE && wish->control & PS_CONTROL_SERVICES)
		wish_service(wish, &party, ret);
	PS_RETURN_ZERO;
}

/* ---- connect() ---- */

static __always_inline bool host_listens_at(
	struct bpf_sock_addr *ctx, struct bpf_sock_tuple *tuple, __u32 size, const struct ps_proxy *proxy, bool datagram)
{
	struct bpf_sock *sk;
	bool usable;

	if (datagram)
		sk = bpf_sk_lookup_udp(ctx, tuple, size, BPF_F_CURRENT_NETNS, 0);
	else
		sk = bpf_skc_lookup_tcp(ctx, tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return false;
	usable = datagram ? receiver_usable(sk, proxy) : listener_usable(sk, proxy);
	bpf_sk_release(sk);
	return usable;
}

static __noinline bool host_listens(struct bpf_sock_addr *ctx, const struct ps_proxy *proxy, bool v4, bool datagram)
{
	struct bpf_sock_tuple tuple = {};
	__u32 size = v4 ? sizeof(tuple.ipv4) : sizeof(tuple.ipv6);

	tuple_aim(&tuple, v4, true, proxy->port);
	if (host_listens_at(ctx, &tuple, size, proxy, datagram))
		return true;
	tuple_aim(&tuple, v4, false, proxy->port);
	return host_listens_at(ctx, &tuple, size, proxy, datagram);
}

/* A rule wants it, and its proxy takes it or would rather have it refused: that is for lo to say, where it is counted.
 */
static __noinline bool host_wants(struct bpf_sock_addr *ctx, struct wish *wish)
{
	struct ps_verdict verdict;
	const struct ps_proxy *proxy;

	wish_judge(wish, &verdict);
	account_rule(verdict.audit_rule);
	if (verdict.action != PS_ACTION_INTERCEPT)
		return false;
	proxy = proxy_find(verdict.proxy, wish->question.row.side);
	if (!proxy || !(proxy->flags & PS_PROXY_BYPASS))
		return true;
	return host_listens(ctx, proxy, wish->v4, wish->question.protocol == IPPROTO_UDP);
}

static __always_inline bool host_protocol(const struct bpf_sock_addr *ctx, __u8 *ret)
{
	if (socket_tcp(ctx->type, ctx->protocol))
		*ret = IPPROTO_TCP;
	else if (ctx->protocol == IPPROTO_UDP)
		*ret = IPPROTO_UDP;
	else
		return false;
	return true;
}

/* The context shows either program only the address of its family. */
static __always_inline void wish_read4(const struct bpf_sock_addr *ctx, struct wish *wish)
{
	wish->v4 = true;
	wish->destination.v4 = ctx->user_ip4;
}

static __always_inline void wish_read6(const struct bpf_sock_addr *ctx, struct wish *wish)
{
	for (int i = 0; i < 4; i++)
		wish->destination.word[i] = ctx->user_ip6[i];
	if (!socket_v4(PS_AF_INET6, wish->destination.word))
		return;
	wish->v4 = true;
	wish->destination.word[0] = wish->destination.word[3];
	wish->destination.word[2] = wish->destination.word[3] = 0;
}

static __always_inline void host_mark(struct bpf_sock_addr *ctx, struct bpf_sock *sk, bool wanted)
{
	__u32 mark = sk->mark, state = wanted ? mark_answer : 0;

	if ((mark & mark_mask) == state || (!wanted && (mark & mark_mask) != mark_answer))
		return;
	mark = (mark & ~mark_mask) | state;
	bpf_setsockopt(ctx, PS_SOL_SOCKET, PS_SO_MARK, &mark, sizeof(mark));
}

/* Before a socket's SYN, or when one of datagrams is told its peer: is it to go to a proxy? */
static __noinline int host_connects(struct bpf_sock_addr *ctx, struct wish *wish)
{
	struct ps_host_socket *remembered;
	const struct ps_control *control;
	struct bpf_sock *sk = ctx->sk;
	__u32 zero = 0, side;
	__u64 cgroup;
	bool wanted;

	control = bpf_map_lookup_elem(&ps_control, &zero);
	if (!control || !(control->flags & PS_CONTROL_HOST) || !sk || !host_protocol(ctx, &wish->question.protocol))
		return SOCKET_GOES_ON;
	if (bpf_get_netns_cookie(ctx) != netns_cookie)
		return SOCKET_GOES_ON;
	if (wish->question.protocol == IPPROTO_TCP && sk->state != BPF_TCP_CLOSE)
		return SOCKET_GOES_ON;
	side = PS_READ_ONCE(control->generation) & 1;
	cgroup = host_cgroup(side);
	wanted = cgroup && !host_exempt();
	if (wanted) {
		wish->control = control->flags;
		wish->question.row.side = side;
		wish->question.row.profile = cgroup_profile(cgroup, side);
		wish->question.port = bpf_ntohs(ctx->user_port);
		wanted = host_wants(ctx, wish);
	}
	if (wanted) {
		remembered = bpf_sk_storage_get(&ps_host, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
		if (remembered)
			remembered->cgroup = cgroup;
	}
	host_mark(ctx, sk, wanted);
	return SOCKET_GOES_ON;
}

static __always_inline int host_connects4(struct bpf_sock_addr *ctx)
{
	struct wish wish = {};

	wish_read4(ctx, &wish);
	return host_connects(ctx, &wish);
}

static __always_inline int host_connects6(struct bpf_sock_addr *ctx)
{
	struct wish wish = {};

	wish_read6(ctx, &wish);
	return host_connects(ctx, &wish);
}

/* ---- what leaves lo ---- */

static __always_inline bool mark_is(const struct __sk_buff *skb, __u32 state)
{
	PS_OPAQUE(skb);
	return (skb->mark & mark_mask) == state;
}

/*
 * What is marked HOST never leaves by another interface, unless it goes to many: somebody has taken nftables' table
 * away. Past its proxy it must not go.
 */
static __always_inline bool host_escapes(struct __sk_buff *skb)
{
	__u32 zero = 0;
	const struct ps_control *control;
	__u8 first;

	if (skb->ingress_ifindex || !mark_is(skb, mark_answer))
		return false;
	control = bpf_map_lookup_elem(&ps_control, &zero);
	if (!control || !(control->flags & PS_CONTROL_HOST) || network_l3(skb))
		return false;
	if (bpf_skb_load_bytes(skb, 0, &first, 1) || first & 1)
		return false;
	account_packet(PS_EGRESS, PS_VERDICT_DROPPED, PS_REASON_NO_LISTENER, skb->len - sizeof(struct ethhdr));
	return true;
}

static __always_inline struct work *host_begin(struct __sk_buff *skb)
{
	struct work *w = network_begin(skb, true);

	if (!w || work_parse(skb, false, true) != PACKET_JUDGED)
		return NULL;
	if (w->packet.protocol != IPPROTO_TCP && w->packet.protocol != IPPROTO_UDP)
		return NULL;
	packet_key(&w->packet);
	return w;
}

/* The socket's cgroup as it was when it connected. */
static __always_inline __u64 socket_cgroup(struct __sk_buff *skb)
{
	const struct ps_host_socket *remembered;
	struct bpf_sock *sk = skb->sk;

	sk = sk ? bpf_sk_fullsock(sk) : NULL;
	if (!sk)
		return 0;
	remembered = bpf_sk_storage_get(&ps_host, sk, NULL, 0);
	return remembered ? remembered->cgroup : 0;
}

static __noinline bool host_wanted(struct work *w, __u64 cgroup)
{
	struct wish wish = {};
	struct ps_verdict verdict;

	wish.control = w->control;
	wish.v4 = w->packet.v4;
	wish.destination = w->packet.destination;
	wish.question.row.side = w->side;
	wish.question.row.profile = cgroup_profile(cgroup, w->side);
	wish.question.port = w->packet.destination_port;
	wish.question.protocol = w->packet.protocol;
	wish_judge(&wish, &verdict);
	if (verdict.action != PS_ACTION_INTERCEPT)
		return false;
	w->proxy = verdict.proxy;
	w->intercept_rule = verdict.intercept_rule;
	return true;
}

/*
 * The first packet of a connection makes its entry; what becomes of it is told where it enters. Whatever had these
 * addresses and ports before is over: the socket says so.
 */
PS_APART int host_out(struct __sk_buff *skb)
{
	struct ps_conn_live *live;
	struct ps_conn *conn;
	struct work *w;
	bool begins;
	__u64 cgroup;

	if (!mark_is(skb, mark_intercept | mark_answer))
		return PS_PASS;
	w = host_begin(skb);
	if (!w || w->packet.traits & PACKET_LATER)
		return PS_PASS;
	conn = conn_find(&w->packet, &live, w->now);
	begins = w->packet.protocol == IPPROTO_UDP || w->packet.traits & PACKET_STARTS;
	if (!begins || (conn && conn->flags & PS_CONN_INTERCEPTED && !conn_reply(conn, w->packet.high) &&
					   !conn_reopened(&w->packet, conn) && !conn_bereft(w, conn)))
		return PS_PASS;
	cgroup = socket_cgroup(skb);
	if (!cgroup || !host_wanted(w, cgroup))
		return PS_PASS;
	if (live)
		conn_delete(&w->packet, w->now);
	w->known |= WORK_NODE | WORK_QUIET; /* until a proxy has it */
	conn_create(true, false, PS_CONN_INTERCEPTED);
	if (w->packet.traits & PACKET_FIRST)
		fragment_remember(&w->packet, true);
	return PS_PASS;
}

/* ---- what enters lo ---- */

static __always_inline void host_account(const struct work *w)
{
	account_packet(PS_EGRESS, w->code, w->reason, w->packet.bytes);
}

/* Nobody takes it. An answer leaves by lo, and comes back with the route to this node that the packet has. */
static __noinline int host_refuse(struct __sk_buff *skb, struct work *w)
{
	int action = work_drop(w, PS_REASON_NO_LISTENER);

	if (deny_with_reject)
		action = reject_packet(skb, true, false);
	host_account(w);
	return action;
}

static __always_inline void conn_forget(const struct packet *p)
{
	if (p->v4)
		bpf_map_delete_elem(&ps_new4, &p->key4);
	else
		bpf_map_delete_elem(&ps_new6, &p->key6);
}

/* No proxy has it: it goes where it was going. The kernel finds the way only where this node forwards. */
static __noinline int host_goes_on(struct __sk_buff *skb, struct work *w)
{
	struct aside *aside = aside_get();
	struct bpf_fib_lookup *to;

	if (!aside)
		return PS_DROP;
	to = &aside->route;
	__builtin_memset(to, 0, sizeof(*to));
	to->ifindex = skb->ifindex;
	if (w->packet.v4) {
		to->family = FAMILY_IPV4;
		to->ipv4_dst = w->packet.destination.v4;
	} else {
		to->family = FAMILY_IPV6;
		__builtin_memcpy(to->ipv6_dst, w->packet.destination.word, sizeof(to->ipv6_dst));
	}
	switch (bpf_fib_lookup(skb, to, sizeof(*to), 0)) {
	case BPF_FIB_LKUP_RET_SUCCESS:
	case BPF_FIB_LKUP_RET_NO_NEIGH:
		mark_clear(skb);
		return bpf_redirect_neigh(to->ifindex, NULL, 0, 0);
	}
	return host_refuse(skb, w);
}

/* Its first packet: the entry is as it was made. */
static __always_inline int host_begins(struct __sk_buff *skb, struct work *w, struct ps_conn *conn)
{
	const struct ps_proxy *proxy;
	int steered = steer(skb, w, conn->proxy);

	w->intercept_rule = conn->intercept_rule;
	account_rule(w->intercept_rule);
	if (steered != STEER_NOBODY) {
		conn->seen = w->now;
		conn->service &= ~(PS_CONN_QUIET | PS_CONN_TOLD);
		if (w->packet.protocol == IPPROTO_TCP)
			account_stat(PS_STAT_BEGUN);
		else
			w->packet.told |= PACKET_OPENED;
		account_proxy(conn->proxy);
		work_pass(w, PS_VERDICT_INTERCEPTED, PS_REASON_INTERCEPT);
		host_account(w);
		return PS_PASS;
	}
	proxy = proxy_find(conn->proxy, w->side);
	conn_forget(&w->packet);
	if (proxy && proxy->flags & PS_PROXY_BYPASS)
		return host_goes_on(skb, w);
	return host_refuse(skb, w);
}

static __always_inline int host_continues(
	struct __sk_buff *skb, struct work *w, struct ps_conn *conn, struct ps_conn_live *live)
{
	int action = known_steer(skb, w, conn, live);

	if (action == PS_PASS && !(conn->flags & PS_CONN_INTERCEPTED))
		return host_goes_on(skb, w);
	if (action != PS_PASS)
		return host_refuse(skb, w);
	host_account(w);
	conn_count(conn, false, true, w->packet.bytes, w->now);
	conn_advance(&w->packet, conn, live, false, w->now);
	return PS_PASS;
}

/* What was rerouted: without an entry it is a socket's, whose entry is gone, or nobody wants it any more. */
static __noinline int host_arrives(struct __sk_buff *skb, struct work *w)
{
	struct ps_conn_live *live;
	struct ps_conn *conn = conn_find(&w->packet, &live, w->now);

	if (conn && conn->flags & PS_CONN_INTERCEPTED && !conn_reply(conn, w->packet.high)) {
		if (!live && conn->state == PS_CONN_NEW && conn->seen == conn->opened)
			return host_begins(skb, w, conn);
		return host_continues(skb, w, conn, live);
	}
	if (w->packet.protocol == IPPROTO_TCP ? steer_socket(skb, SOCKET_ANY) == STEER_TAKEN
										  : steer_datagram(skb, true) == STEER_TAKEN)
		return PS_PASS;
	return host_goes_on(skb, w);
}

/* A proxy's answer to a process of this node, on its way to it. */
static __noinline int host_answered(struct work *w)
{
	struct ps_conn_live *live;
	struct ps_conn *conn = conn_find(&w->packet, &live, w->now);

	if (!conn || !conn_reply(conn, w->packet.high) ||
		(conn->flags & (PS_CONN_INTERCEPTED | PS_CONN_NODE)) != (PS_CONN_INTERCEPTED | PS_CONN_NODE))
		return PS_PASS;
	conn_count(conn, true, true, w->packet.bytes, w->now);
	conn_advance(&w->packet, conn, live, true, w->now);
	return PS_PASS;
}

/* From 127.0.0.0/8, or from an address to itself: nearly all that there is on lo is this node's with itself. */
static __noinline bool host_own(struct __sk_buff *skb)
{
	struct address ends[2];
	__u32 at = sizeof(struct ethhdr);
	__u8 first;

	if (bpf_skb_load_bytes(skb, at, &first, 1))
		return false;
	if (first >> 4 == 4) {
		if (bpf_skb_load_bytes(skb, at + 12, ends[0].word, 8))
			return false;
		return address_loopback(&ends[0], true) || ends[0].word[0] == ends[0].word[1];
	}
	if (bpf_skb_load_bytes(skb, at + 8, ends, sizeof(ends)))
		return false;
	return address_equal(&ends[0], &ends[1]);
}

PS_APART int host_in(struct __sk_buff *skb)
{
	bool rerouted = mark_is(skb, mark_intercept | mark_answer);
	struct work *w;
	int action;

	/* To this node itself, or a refusal. */
	if (mark_is(skb, mark_answer)) {
		mark_clear(skb);
		return PS_PASS;
	}
	if (!rerouted && host_own(skb))
		return PS_PASS;
	w = host_begin(skb);
	if (!w)
		return PS_PASS;
	action = rerouted ? host_arrives(skb, w) : host_answered(w);
	work_tell(skb, true);
	return action;
}

#endif
