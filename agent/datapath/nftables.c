/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Our table of nftables (handover.c says what is in it): when it is made, and what becomes of it when others change it.
 * It stands once a proxy was ever wanted. Every change is one transaction.
 *
 * A chain of NAT switches the kernel's own connection tracking on, a tenth of all that can be intercepted in a second
 * where nobody else did. So ours comes when somebody could rewrite: there are Services, or a chain of NAT that is not
 * ours. It then stays: connections with a proxy live on it.
 *
 * The table's name is the same for every agent of a network namespace (there is one at a time), so that what another
 * configuration left is found too.
 */
#include <bpf/bpf.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <nftables/libnftables.h>
#include <stdio.h>
#include <string.h>
#include "agent/base/buffer.h"
#include "agent/base/log.h"
#include "agent/base/mem.h"
#include "agent/datapath/nat.h"
#include "agent/datapath/private.h"

#define CHANGES_SIZE (64u << 10)

/* ---- one question to the kernel ---- */

/* Whether it answers; else a negative errno. table, chain may be NULL. */
static int kernel_ask(uint8_t message, const char *table, const char *chain)
{
	char buffer[8192];
	struct nlmsghdr *request = mnl_nlmsg_put_header(buffer);
	request->nlmsg_type = NFNL_SUBSYS_NFTABLES << 8 | message;
	request->nlmsg_flags = NLM_F_REQUEST;
	struct nfgenmsg *payload = mnl_nlmsg_put_extra_header(request, sizeof(*payload));
	payload->nfgen_family = table ? NFPROTO_INET : NFPROTO_UNSPEC;
	PS_STATIC_ASSERT((int)NFTA_TABLE_NAME == (int)NFTA_CHAIN_TABLE, "the table's name is attribute 1");
	if (table)
		mnl_attr_put_strz(request, NFTA_TABLE_NAME, table);
	if (chain)
		mnl_attr_put_strz(request, NFTA_CHAIN_NAME, chain);
	struct mnl_socket *socket = mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC);
	if (!socket)
		return -errno;
	ssize_t length = mnl_socket_sendto(socket, request, request->nlmsg_len);
	if (length > 0)
		length = mnl_socket_recvfrom(socket, buffer, sizeof(buffer));
	int result = length < 0 ? -errno : 0;
	mnl_socket_close(socket);
	if (result == 0 && request->nlmsg_type == NLMSG_ERROR)
		result = ((struct nlmsgerr *)mnl_nlmsg_get_payload(request))->error;
	return result;
}

bool nftables_known(void)
{
	return kernel_ask(NFT_MSG_GETGEN, NULL, NULL) == 0;
}

bool nftables_there(void)
{
	return kernel_ask(NFT_MSG_GETTABLE, OUR_TABLE, NULL) == 0;
}

bool nftables_tries(void)
{
	return kernel_ask(NFT_MSG_GETTABLE, TRY_TABLE, NULL) == 0;
}

static bool chain_there(const char *name)
{
	return kernel_ask(NFT_MSG_GETCHAIN, OUR_TABLE, name) == 0;
}

/* ---- libnftables ---- */

static void cleanup_context(struct nft_ctx **context)
{
	if (*context)
		nft_ctx_free(*context);
}

int nft_run(enum nft_how how, const char *commands, char **ret, struct error *e)
{
	__attribute__((cleanup(cleanup_context))) struct nft_ctx *context = nft_ctx_new(NFT_CTX_DEFAULT);
	if (!context || nft_ctx_buffer_output(context) != 0 || nft_ctx_buffer_error(context) != 0)
		return error_set(e, ERROR_SYSTEM, EIO, NULL, "libnftables cannot be used");
	nft_ctx_set_dry_run(context, how == NFT_TRY);
	if (how == NFT_LIST)
		nft_ctx_output_set_flags(context, NFT_CTX_OUTPUT_JSON);
	if (nft_run_cmd_from_buffer(context, commands) != 0) {
		const char *why = nft_ctx_get_error_buffer(context);
		return error_set(e, ERROR_SYSTEM, EIO, NULL, "nftables: %.*s", (int)strcspn(why, "\n"), why);
	}
	if (ret)
		*ret = str_dup(nft_ctx_get_output_buffer(context));
	return 0;
}

bool nftables_tproxy(struct error *e)
{
	/* The kernel checks it, loading what it needs, and takes nothing. */
	return nft_run(NFT_TRY,
			   "table inet " TRY_TABLE " {\n"
			   "	chain c {\n"
			   "		type filter hook prerouting priority mangle;\n"
			   "		meta l4proto tcp tproxy ip to 127.0.0.1:1\n"
			   "		meta l4proto tcp tproxy ip6 to [::1]:1\n"
			   "	}\n"
			   "}\n",
			   NULL, e) == 0;
}

static int table_list(char **ret, struct error *e)
{
	return nft_run(NFT_LIST, "list table inet " OUR_TABLE, ret, e);
}

/* Whatever is there by our name is replaced in one step. */
static int table_replace(uint32_t mask, const struct table_wanted *wanted, struct error *e)
{
	struct buffer b = {0};
	buffer_puts(&b, "add table inet " OUR_TABLE "\ndelete table inet " OUR_TABLE "\n");
	handover_table(&b, mask, wanted);
	int result = nft_run(NFT_DO, b.data, NULL, e);
	buffer_free(&b);
	return result;
}

/*
 * What an earlier agent left, or what we made, gets other rules: its chains stay at their hooks. Deleted and made anew
 * they would leave them for a moment, and packets on their way there are not all in either. Fails where a chain or map
 * is another than ours.
 */
static int table_renew(uint32_t mask, const struct table_wanted *wanted, struct error *e)
{
	struct buffer b = {0};
	buffer_puts(&b, "flush table inet " OUR_TABLE "\n");
	if (wanted->handover)
		buffer_puts(&b, "flush map inet " OUR_TABLE " loopback\nflush map inet " OUR_TABLE " wildcard\n");
	handover_table(&b, mask, wanted);
	int result = nft_run(NFT_DO, b.data, NULL, e);
	buffer_free(&b);
	return result;
}

static int table_ports(const struct port_set *from, const struct port_set *to, struct error *e)
{
	struct buffer b = {0};
	handover_ports(&b, from, to);
	int result = nft_run(NFT_DO, b.data ? b.data : "", NULL, e);
	buffer_free(&b);
	return result;
}

/* ---- what others do to it ---- */

/* Attribute 1 of every message about tables, chains, rules and elements is the table's name. */
static bool about_ours(const struct nlmsghdr *message)
{
	const struct nlattr *attribute;
	mnl_attr_for_each(attribute, message, sizeof(struct nfgenmsg))
	{
		if (mnl_attr_get_type(attribute) == NFTA_TABLE_NAME)
			return mnl_attr_validate(attribute, MNL_TYPE_NUL_STRING) == 0 &&
				   strcmp(mnl_attr_get_str(attribute), OUR_TABLE) == 0;
	}
	return false;
}

static int note_change(const struct nlmsghdr *message, void *context)
{
	struct nftables *n = context;
	n->touched |= about_ours(message) || (!n->want.nat && nat_told(message, n->want.host));
	return MNL_CB_OK;
}

static void changes_open(struct datapath *d)
{
	struct nftables *n = &d->nftables;
	if (n->changes)
		return;
	n->changes = mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (n->changes && mnl_socket_bind(n->changes, 1 << (NFNLGRP_NFTABLES - 1), MNL_SOCKET_AUTOPID) == 0 &&
		news_add(d, mnl_socket_get_fd(n->changes)) == 0)
		return;
	log_debug(ROOM, "what others do to nftables is noticed late: %s", strerror(errno));
	if (n->changes)
		mnl_socket_close(n->changes);
	n->changes = NULL;
}

void nftables_read(struct datapath *d)
{
	struct nftables *n = &d->nftables;
	auto_free char *buffer = n->changes ? mem_alloc(CHANGES_SIZE) : NULL;
	while (n->changes) {
		ssize_t length = mnl_socket_recvfrom(n->changes, buffer, CHANGES_SIZE);
		if (length > 0)
			mnl_cb_run(buffer, length, 0, 0, note_change, n);
		else if (length < 0 && errno == ENOBUFS) /* more than there was room for */
			n->touched = true;
		else if (length == 0 || errno != EINTR)
			break;
	}
}

/* ---- all together ---- */

static bool wanted_same(const struct table_wanted *a, const struct table_wanted *b)
{
	return a->handover == b->handover && a->nat == b->nat && a->host == b->host;
}

/* As it was listed after we made it. */
static bool table_same(const struct nftables *n)
{
	struct error e = {0};
	auto_free char *now = NULL;
	return n->listed && nftables_there() && table_list(&now, &e) == 0 && strcmp(now, n->listed) == 0;
}

/* The kernel's table becomes the wanted one. `sure`: it is as we made it. */
static int table_make(struct datapath *d, bool sure, struct error *e)
{
	struct nftables *n = &d->nftables;
	int result = -EAGAIN;
	if (sure && n->listed && wanted_same(&n->made, &n->want)) {
		if (!ports_differ(&n->made.ports, &n->want.ports))
			return 0;
		result = table_ports(&n->made.ports, &n->want.ports, e);
	}
	if (result < 0 && (sure || !n->listed) && nftables_there())
		result = table_renew(d->options.mark_mask, &n->want, &(struct error){0});
	if (result < 0)
		result = table_replace(d->options.mark_mask, &n->want, e);
	if (result < 0 && n->want.nat && !n->want.plain) {
		n->want.plain = true;
		if (table_replace(d->options.mark_mask, &n->want, &(struct error){0}) == 0)
			result = 0;
		n->want.plain = result == 0;
	}
	free(n->listed);
	n->listed = NULL;
	if (result == 0)
		result = table_list(&n->listed, e);
	n->made = n->want;
	return result;
}

static bool table_empty(const struct table_wanted *want)
{
	return !want->handover && !want->nat && !want->host;
}

static int table_settle(struct datapath *d, bool look)
{
	struct nftables *n = &d->nftables;
	struct error e = {0};
	if (table_empty(&n->want))
		return 0;
	bool same = look ? table_same(n) : n->listed && !n->touched;
	bool drift = look && !same && n->listed;
	if (drift)
		log_warn(ROOM, "somebody changed table inet %s of nftables: it is made anew", OUR_TABLE);
	int result = table_make(d, same, &e);
	drift_note(d, DRIFT_NFTABLES, drift && result == 0);
	if (n->want.handover)
		snprintf(n->why, sizeof(n->why), "%.250s", e.detail);
	if (result < 0 && !n->failed)
		log_warn(
			ROOM, "where this node translates addresses of Services, connections to them reach no proxy: %s", e.detail);
	n->failed = result < 0;
	return result;
}

bool nftables_hands_over(const struct datapath *d)
{
	return d->nftables.listed && d->nftables.made.handover && !d->nftables.failed;
}

const char *datapath_table(const struct datapath *datapath)
{
	if (nftables_hands_over(datapath))
		return NULL;
	return datapath->steering ? datapath->nftables.why : "no proxy was wanted yet";
}

static void nat_settle(struct datapath *d)
{
	struct nftables *n = &d->nftables;
	char why[NAT_WHY] = "";
	if (d->services)
		snprintf(why, sizeof(why), "there are Services");
	else if (chain_there("intercepted"))
		snprintf(why, sizeof(why), "it was there before");
	else
		nat_look(d->nftables.want.host, why);
	n->want.nat = why[0];
	if (why[0])
		log_info(ROOM, "NAT in table inet %s of nftables is needed: %s", OUR_TABLE, why);
}

/* What this kernel cannot, it may when a module has come: asked again with every look. */
static void probe(struct nftables *n)
{
	struct error e = {0};
	if (n->want.handover)
		return;
	n->want.handover = nftables_tproxy(&e);
	n->want.host |= chain_there("processes");
	if (n->want.handover)
		return;
	snprintf(n->why, sizeof(n->why), "this kernel hands over nothing by nftables (nft_tproxy): %.180s", e.detail);
	if (!n->probed)
		log_warn(ROOM, "no engine tproxy: %s", n->why);
	n->probed = true;
}

void nftables_set(struct datapath *d)
{
	struct nftables *n = &d->nftables;
	changes_open(d); /* what comes while we look is told */
	n->touched = false;
	probe(n);
	if (!n->want.nat)
		nat_settle(d);
	table_settle(d, true);
}

static void ports_of(const struct tables *tables, struct port_set *ret)
{
	size_t at = 0;
	const void *key;
	void *value;
	while (map_next(&tables->table[TABLE_proxy].wanted, &at, &key, &value)) {
		const struct ps_proxy *proxy = value;
		if (proxy->flags & PS_PROXY_USED)
			ports_add(ret, proxy->port);
	}
}

int nftables_stage(struct datapath *d, const struct tables *tables, struct error *e)
{
	struct nftables *n = &d->nftables;
	struct port_set ports = {0};
	ports_of(tables, &ports);
	ports_union(&n->want.ports, &ports);
	nftables_read(d);
	if (!n->listed || n->touched || (!n->want.nat && (d->services || !n->changes || nat_legacy())))
		nftables_set(d);
	else
		table_settle(d, false);
	if (d->engine.status.active == ENGINE_TPROXY && !nftables_hands_over(d))
		return error_set(e, ERROR_SYSTEM, EIO, NULL, "engine tproxy cannot hand over: %s", n->why);
	return 0;
}

void nftables_settle(struct datapath *d, const struct tables *tables)
{
	struct nftables *n = &d->nftables;
	struct port_set ports = {0};
	ports_of(tables, &ports);
	if (!ports_differ(&n->want.ports, &ports))
		return;
	n->want.ports = ports;
	table_settle(d, false);
}

bool nftables_port(struct datapath *d, uint16_t port, bool there)
{
	struct nftables *n = &d->nftables;
	if (ports_has(&n->want.ports, port) == there)
		return false;
	if (there)
		ports_add(&n->want.ports, port);
	else
		ports_remove(&n->want.ports, port);
	return table_settle(d, false) == 0;
}

static int note_port(void *context, const void *key, const void *value)
{
	const struct ps_proxy *proxy = value;
	if (proxy->flags & PS_PROXY_USED)
		ports_add(context, proxy->port);
	return 0;
}

void nftables_take_over(struct datapath *d)
{
	read_entries(d->loaded.table[TABLE_proxy], sizeof(uint32_t), sizeof(struct ps_proxy), true, note_port,
		&d->nftables.want.ports);
	nftables_set(d);
}

int nftables_host(struct datapath *d, bool host, struct error *e)
{
	struct nftables *n = &d->nftables;
	if (n->want.host == host)
		return 0;
	n->want.host = host;
	if (!n->want.nat)
		nat_settle(d); /* what is translated at output concerns us now */
	int result = routes_set(&d->options, host, NULL, e);
	if (result == 0 && table_settle(d, false) < 0)
		result = error_set(e, ERROR_SYSTEM, EIO, NULL, "processes of this node reach no proxy: %s", n->why);
	return result;
}

void nftables_clear(struct datapath *d)
{
	if (d->nftables.changes)
		mnl_socket_close(d->nftables.changes);
	d->nftables.changes = NULL;
	free(d->nftables.listed);
	d->nftables.listed = NULL;
}

int nftables_remove(struct error *e)
{
	if (!nftables_there())
		return 0;
	int result = nft_run(NFT_DO, "delete table inet " OUR_TABLE, NULL, e);
	if (result < 0)
		return result;
	return nftables_there() ? error_set(e, ERROR_SYSTEM, EBUSY, NULL, "table inet %s of nftables remains", OUR_TABLE)
							: 0;
}
