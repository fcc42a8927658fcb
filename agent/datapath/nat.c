/* SPDX-License-Identifier: Apache-2.0 */
/* Whether somebody else translates addresses in this network namespace: a chain of NAT at prerouting; of what this node
 * sends, at output or postrouting. */
#include "agent/datapath/nat.h"
#include <arpa/inet.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <stdio.h>
#include <string.h>
#include "agent/base/mem.h"
#include "agent/datapath/private.h"

#define BUFFER_SIZE (64u << 10)
#define PATIENCE_SECONDS 2
#define TRIES 8

/* ---- nftables, and iptables by nf_tables ---- */

static bool hook_concerns(const struct nlattr *hook, bool output)
{
	const struct nlattr *attribute;
	mnl_attr_for_each_nested(attribute, hook)
	{
		if (mnl_attr_get_type(attribute) != NFTA_HOOK_HOOKNUM || mnl_attr_validate(attribute, MNL_TYPE_U32) < 0)
			continue;
		uint32_t number = ntohl(mnl_attr_get_u32(attribute));
		return number == NF_INET_PRE_ROUTING ||
			   (output && (number == NF_INET_LOCAL_OUT || number == NF_INET_POST_ROUTING));
	}
	return false;
}

static const char *string_get(const struct nlattr *attribute)
{
	return attribute && mnl_attr_validate(attribute, MNL_TYPE_NUL_STRING) == 0 ? mnl_attr_get_str(attribute) : "";
}

/* The table; NULL: it is no such chain, or ours. */
static const char *chain_translates(const struct nlmsghdr *message, bool output)
{
	const struct nfgenmsg *payload = mnl_nlmsg_get_payload(message);
	const struct nlattr *attribute, *known[NFTA_CHAIN_TYPE + 1] = {NULL};
	if (message->nlmsg_type != (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWCHAIN))
		return NULL;
	mnl_attr_for_each(attribute, message, sizeof(*payload))
	{
		if (mnl_attr_get_type(attribute) <= NFTA_CHAIN_TYPE)
			known[mnl_attr_get_type(attribute)] = attribute;
	}
	const char *table = string_get(known[NFTA_CHAIN_TABLE]);
	if (strcmp(string_get(known[NFTA_CHAIN_TYPE]), "nat") != 0 || !known[NFTA_CHAIN_HOOK] ||
		!hook_concerns(known[NFTA_CHAIN_HOOK], output))
		return NULL;
	return payload->nfgen_family == NFPROTO_INET && strcmp(table, OUR_TABLE) == 0 ? NULL : table;
}

bool nat_told(const struct nlmsghdr *message, bool output)
{
	return chain_translates(message, output);
}

struct search {
	bool output;
	char *why;
};

static int find_chain(const struct nlmsghdr *message, void *context)
{
	const struct search *search = context;
	const char *table = chain_translates(message, search->output);
	if (table)
		snprintf(search->why, NAT_WHY, "table %s of nftables translates addresses", table);
	return table ? MNL_CB_STOP : MNL_CB_OK;
}

static int chains_ask(struct mnl_socket *socket, struct search *search)
{
	auto_free char *buffer = mem_alloc(BUFFER_SIZE);
	struct nlmsghdr *request = mnl_nlmsg_put_header(buffer);
	request->nlmsg_type = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN;
	request->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	mnl_nlmsg_put_extra_header(request, sizeof(struct nfgenmsg)); /* all zero: every family */
	if (mnl_socket_sendto(socket, request, request->nlmsg_len) < 0)
		return -errno;
	for (;;) {
		ssize_t length = mnl_socket_recvfrom(socket, buffer, BUFFER_SIZE);
		int result = length < 0 ? MNL_CB_ERROR : mnl_cb_run(buffer, length, 0, 0, find_chain, search);
		if (result <= MNL_CB_STOP)
			return result < 0 ? -errno : 0;
	}
}

static int chains_look(struct search *search)
{
	struct timeval patience = {.tv_sec = PATIENCE_SECONDS};
	struct mnl_socket *socket = mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC);
	if (!socket)
		return -errno;
	setsockopt(mnl_socket_get_fd(socket), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	int result = chains_ask(socket, search);
	mnl_socket_close(socket);
	return result;
}

/* ---- iptables' own tables, of which nobody tells ---- */

/* A table that is there has its chains at the hooks, also without a rule. */
static bool legacy_look(char why[NAT_WHY])
{
	static const char *const lists[] = {"/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"};
	for (size_t i = 0; i < sizeof(lists) / sizeof(*lists); i++) {
		char line[64];
		FILE *file = fopen(lists[i], "re");
		if (!file && errno != ENOENT) /* not for who is not root; it is there once anybody used iptables */
			snprintf(why, NAT_WHY, "%s cannot be read: %s", lists[i], strerror(errno));
		while (file && fgets(line, sizeof(line), file))
			if (strcmp(line, "nat\n") == 0)
				snprintf(why, NAT_WHY, "iptables-legacy translates addresses");
		if (file)
			fclose(file);
	}
	return why[0];
}

bool nat_legacy(void)
{
	char why[NAT_WHY] = "";
	return legacy_look(why);
}

/* ---- both ---- */

bool nat_look(bool output, char why[NAT_WHY])
{
	struct search search = {.output = output, .why = why};
	int result = -EINTR;
	why[0] = 0;
	if (legacy_look(why))
		return true;
	for (int i = 0; result == -EINTR && i < TRIES; i++) /* changed while it was listed */
		result = chains_look(&search);
	if (result < 0)
		snprintf(why, NAT_WHY, "chains of nftables cannot be listed: %s", strerror(-result));
	return why[0];
}
