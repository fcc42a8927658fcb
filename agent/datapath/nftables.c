/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A packet that was assigned to a proxy's socket crosses PREROUTING like any other: kube-proxy would rewrite the
 * address of a Service, and the socket would not be found. So a table of ours maps what carries INTERCEPT to where it
 * goes anyway, one priority before kube-proxy's: a connection's first mapping is the only one.
 *
 * A chain of NAT switches the kernel's own connection tracking on, a tenth of all that can be intercepted in a second
 * where nobody else did. So ours comes when somebody could rewrite: there are Services, or a chain of NAT at prerouting
 * that is not ours. It then stays: connections with a proxy live on it.
 *
 * Its name is the same for every agent of a network namespace (there is one at a time), so that what another
 * configuration left is found too.
 */
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <nftables/libnftables.h>
#include <stdio.h>
#include <string.h>
#include "agent/base/log.h"
#include "agent/base/mem.h"
#include "agent/datapath/nat.h"
#include "agent/datapath/private.h"

#define CHANGES_SIZE (64u << 10)

/* ---- one question to the kernel ---- */

/* Whether it answers; else a negative errno. table may be NULL. */
static int kernel_ask(uint8_t message, const char *table)
{
	char buffer[8192];
	struct nlmsghdr *request = mnl_nlmsg_put_header(buffer);
	request->nlmsg_type = NFNL_SUBSYS_NFTABLES << 8 | message;
	request->nlmsg_flags = NLM_F_REQUEST;
	struct nfgenmsg *payload = mnl_nlmsg_put_extra_header(request, sizeof(*payload));
	payload->nfgen_family = table ? NFPROTO_INET : NFPROTO_UNSPEC;
	if (table)
		mnl_attr_put_strz(request, NFTA_TABLE_NAME, table);
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
	return kernel_ask(NFT_MSG_GETGEN, NULL) == 0;
}

bool nftables_there(void)
{
	return kernel_ask(NFT_MSG_GETTABLE, OUR_TABLE) == 0;
}

/* ---- libnftables ---- */

static void cleanup_context(struct nft_ctx **context)
{
	if (*context)
		nft_ctx_free(*context);
}

/* One transaction, or a question; *ret is what it prints, NULL for nothing. */
static int nft_run(const char *commands, char **ret, struct error *e)
{
	__attribute__((cleanup(cleanup_context))) struct nft_ctx *context = nft_ctx_new(NFT_CTX_DEFAULT);
	if (!context || nft_ctx_buffer_output(context) != 0 || nft_ctx_buffer_error(context) != 0)
		return error_set(e, ERROR_SYSTEM, EIO, NULL, "libnftables cannot be used");
	if (nft_run_cmd_from_buffer(context, commands) != 0) {
		const char *why = nft_ctx_get_error_buffer(context);
		return error_set(e, ERROR_SYSTEM, EIO, NULL, "nftables: %.*s", (int)strcspn(why, "\n"), why);
	}
	if (ret)
		*ret = str_dup(nft_ctx_get_output_buffer(context));
	return 0;
}

static int table_list(char **ret, struct error *e)
{
	return nft_run("list table inet " OUR_TABLE, ret, e);
}

/* Whatever is there by our name is replaced in one step. */
static int table_replace(const struct datapath_options *options, struct error *e)
{
	uint32_t mask = options->mark_mask, intercept = mask & -mask;
	auto_free char *commands = str_format("add table inet " OUR_TABLE "\n"
										  "delete table inet " OUR_TABLE "\n"
										  "table inet " OUR_TABLE " {\n"
										  "	chain intercepted {\n"
										  "		type nat hook prerouting priority -101;\n"
										  "		meta mark & %#x == %#x dnat ip to ip daddr\n"
										  "		meta mark & %#x == %#x dnat ip6 to ip6 daddr\n"
										  "	}\n"
										  "}\n",
		mask, intercept, mask, intercept);
	return nft_run(commands, NULL, e);
}

/* ---- what others do to it ---- */

/* Attribute 1 of every message about tables, chains and rules is the table's name. */
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
	n->touched |= n->needed ? about_ours(message) : nat_told(message);
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

/* As it was listed after we made it. */
static bool table_same(const struct datapath *d)
{
	struct error e = {0};
	auto_free char *now = NULL;
	return d->nftables.listed && nftables_there() && table_list(&now, &e) == 0 && strcmp(now, d->nftables.listed) == 0;
}

static void table_settle(struct datapath *d)
{
	struct nftables *n = &d->nftables;
	struct error e = {0};
	if (table_same(d))
		return;
	if (n->listed)
		log_warn(ROOM, "somebody changed table inet %s of nftables: it is made anew", OUR_TABLE);
	free(n->listed);
	n->listed = NULL;
	int result = table_replace(&d->options, &e);
	if (result == 0)
		result = table_list(&n->listed, &e);
	if (result < 0 && !n->failed)
		log_warn(
			ROOM, "where this node translates addresses of Services, connections to them reach no proxy: %s", e.detail);
	n->failed = result < 0;
}

static void need_look(struct datapath *d)
{
	char why[NAT_WHY] = "";
	if (d->services)
		snprintf(why, sizeof(why), "there are Services");
	else if (nftables_there())
		snprintf(why, sizeof(why), "it was there before");
	else
		nat_look(why);
	d->nftables.needed = why[0];
	if (why[0])
		log_info(ROOM, "table inet %s of nftables is needed: %s", OUR_TABLE, why);
}

void nftables_set(struct datapath *d)
{
	struct nftables *n = &d->nftables;
	changes_open(d); /* what comes while we look is told */
	n->touched = false;
	if (!n->needed)
		need_look(d);
	if (n->needed)
		table_settle(d);
}

void nftables_stage(struct datapath *d)
{
	const struct nftables *n = &d->nftables;
	if (n->needed)
		return;
	nftables_read(d);
	if (d->services || n->touched || !n->changes || nat_legacy())
		nftables_set(d);
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
	int result = nft_run("delete table inet " OUR_TABLE, NULL, e);
	if (result < 0)
		return result;
	return nftables_there() ? error_set(e, ERROR_SYSTEM, EBUSY, NULL, "table inet %s of nftables remains", OUR_TABLE)
							: 0;
}
