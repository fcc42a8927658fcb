/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rules of others that touch our bits of the mark. Of nf_tables the expressions are followed as far as a register holds
 * the mark: that is how nft and iptables-nft say "meta mark set meta mark and 0xff or 0x100".
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nf_tables_compat.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/xt_connmark.h>
#include <linux/netfilter/xt_mark.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include "agent/base/mem.h"
#include "agent/datapath/doctor.h"
#include "agent/datapath/netlink.h"

#define BUFFER_SIZE (64u << 10)
#define RULES_MAX 200000 /* looked at */
#define REGISTERS 24

/* ---- judging ---- */

void mark_rule_judge(struct doctor_look *look, const struct mark_rule *rule)
{
	uint32_t ours = look->datapath->options.mark_mask;
	uint32_t touched = ~rule->change.keep | (rule->change.known ? rule->change.flip : UINT32_MAX & ~rule->change.keep);
	const char *mend = "Choose another datapath.markMask, or other bits there, and restart penstockd";
	if (rule->sets && rule->change.known && rule->change.flip & ours)
		finding_add(look, FINDING_BAD, "marks", mend,
			"a rule of table %s %s, chain %s, sets bits %#x of the mark, which are penstock's: packets are taken for "
			"intercepted ones",
			rule->family, rule->table, rule->chain, rule->change.flip & ours);
	else if (rule->sets && touched & ours && touched != UINT32_MAX)
		finding_add(look, FINDING_WARNING, "marks", mend,
			"a rule of table %s %s, chain %s, changes bits %#x of the mark, which are penstock's", rule->family,
			rule->table, rule->chain, touched & ours);
	else if (rule->sets && touched & ours)
		finding_add(look, FINDING_OK, "marks", NULL,
			"a rule of table %s %s, chain %s, replaces the whole mark: intercepted packets get theirs again",
			rule->family, rule->table, rule->chain);
	if (rule->matches && rule->matched & ours)
		finding_add(look, FINDING_WARNING, "marks", mend,
			"a rule of table %s %s, chain %s, looks at bits %#x of the mark, which are penstock's", rule->family,
			rule->table, rule->chain, rule->matched & ours);
}

/* ---- x_tables ---- */

void mark_target(struct mark_rule *rule, const char *name, uint32_t revision, const void *info, size_t size)
{
	if (strcmp(name, "MARK") == 0 && revision == 2 && size >= sizeof(struct xt_mark_tginfo2)) {
		const struct xt_mark_tginfo2 *mark = info;
		rule->sets = true;
		rule->change = (struct mark_change){.keep = ~mark->mask, .flip = mark->mark, .known = true};
	} else if (strcmp(name, "CONNMARK") == 0 && revision == 1 && size >= sizeof(struct xt_connmark_tginfo1)) {
		const struct xt_connmark_tginfo1 *mark = info;
		rule->sets |= mark->mode == XT_CONNMARK_RESTORE;
		rule->change = (struct mark_change){.keep = ~mark->nfmask};
	} else if (strcmp(name, "CONNMARK") == 0 && revision == 2 && size >= sizeof(struct xt_connmark_tginfo2)) {
		const struct xt_connmark_tginfo2 *mark = info;
		rule->sets |= mark->mode == XT_CONNMARK_RESTORE;
		rule->change = (struct mark_change){.keep = ~mark->nfmask};
	}
}

void mark_match(struct mark_rule *rule, const char *name, uint32_t revision, const void *info, size_t size)
{
	if (strcmp(name, "mark") != 0 || revision != 1 || size < sizeof(struct xt_mark_mtinfo1))
		return;
	const struct xt_mark_mtinfo1 *mark = info;
	rule->matches = true;
	rule->matched |= mark->mask == UINT32_MAX ? mark->mark : mark->mask;
}

/* ---- nf_tables ---- */

/* What a register holds: (mark & keep) ^ flip, or a value. */
struct reg {
	enum { REG_OTHER, REG_MARK, REG_VALUE } kind;
	struct mark_change change;
};

struct rule_walk {
	struct mark_rule rule;
	struct reg regs[REGISTERS];
};

#define ATTRIBUTES 16
struct attributes {
	const struct nlattr *at[ATTRIBUTES];
};

static struct attributes attributes_read(const struct nlattr *nest)
{
	struct attributes a = {0};
	const struct nlattr *one;
	mnl_attr_for_each_nested(one, nest)
	{
		if (mnl_attr_get_type(one) < ATTRIBUTES)
			a.at[mnl_attr_get_type(one)] = one;
	}
	return a;
}

static uint32_t number(const struct attributes *a, int type)
{
	const struct nlattr *one = a->at[type];
	return one && mnl_attr_get_payload_len(one) == sizeof(uint32_t) ? ntohl(mnl_attr_get_u32(one)) : UINT32_MAX;
}

static const char *text(const struct attributes *a, int type)
{
	const struct nlattr *one = a->at[type];
	return one && mnl_attr_validate(one, MNL_TYPE_NUL_STRING) == 0 ? mnl_attr_get_str(one) : "";
}

/* NFTA_DATA_VALUE of four bytes, as the kernel has them. */
static bool word(const struct attributes *a, int type, uint32_t *ret)
{
	const struct nlattr *nest = a->at[type], *one;
	if (!nest)
		return false;
	mnl_attr_for_each_nested(one, nest)
	{
		if (mnl_attr_get_type(one) != NFTA_DATA_VALUE || mnl_attr_get_payload_len(one) != sizeof(*ret))
			continue;
		memcpy(ret, mnl_attr_get_payload(one), sizeof(*ret));
		return true;
	}
	return false;
}

/* The four old ones of 16 bytes begin where new ones of 4 bytes do. */
static struct reg *reg_of(struct rule_walk *walk, const struct attributes *a, int type)
{
	static struct reg nowhere;
	uint32_t reg = number(a, type);
	if (reg >= NFT_REG_1 && reg <= NFT_REG_4)
		reg = NFT_REG32_00 + (reg - NFT_REG_1) * 4;
	nowhere = (struct reg){0};
	return reg < REGISTERS ? &walk->regs[reg] : &nowhere;
}

static void meta(struct rule_walk *walk, const struct attributes *a)
{
	if (a->at[NFTA_META_DREG]) {
		*reg_of(walk, a, NFTA_META_DREG) = number(a, NFTA_META_KEY) == NFT_META_MARK
											   ? (struct reg){REG_MARK, {.keep = UINT32_MAX, .known = true}}
											   : (struct reg){0};
	} else if (a->at[NFTA_META_SREG] && number(a, NFTA_META_KEY) == NFT_META_MARK) {
		const struct reg *reg = reg_of(walk, a, NFTA_META_SREG);
		walk->rule.sets = true;
		walk->rule.change = reg->kind == REG_OTHER ? (struct mark_change){0} : reg->change;
	}
}

static void immediate(struct rule_walk *walk, const struct attributes *a)
{
	struct reg *reg = reg_of(walk, a, NFTA_IMMEDIATE_DREG);
	uint32_t value;
	*reg = (struct reg){0};
	if (word(a, NFTA_IMMEDIATE_DATA, &value))
		*reg = (struct reg){REG_VALUE, {.flip = value, .known = true}};
}

static void bitwise(struct rule_walk *walk, const struct attributes *a)
{
	struct reg reg = *reg_of(walk, a, NFTA_BITWISE_SREG);
	uint32_t mask = 0, flip = 0;
	if (word(a, NFTA_BITWISE_MASK, &mask) && word(a, NFTA_BITWISE_XOR, &flip) && reg.kind != REG_OTHER) {
		reg.change.keep &= mask;
		reg.change.flip = (reg.change.flip & mask) ^ flip;
	} else {
		reg = (struct reg){0};
	}
	*reg_of(walk, a, NFTA_BITWISE_DREG) = reg;
}

static void compare(struct rule_walk *walk, const struct attributes *a)
{
	const struct reg *reg = reg_of(walk, a, NFTA_CMP_SREG);
	uint32_t value = 0;
	if (reg->kind != REG_MARK)
		return;
	word(a, NFTA_CMP_DATA, &value);
	walk->rule.matches = true;
	walk->rule.matched |= reg->change.keep == UINT32_MAX ? value : reg->change.keep;
}

/* MASK and TARGET have the same numbers of attributes. */
static void compat(struct rule_walk *walk, const struct attributes *a, bool target)
{
	const struct nlattr *info = a->at[NFTA_TARGET_INFO];
	if (!info)
		return;
	if (target)
		mark_target(&walk->rule, text(a, NFTA_TARGET_NAME), number(a, NFTA_TARGET_REV), mnl_attr_get_payload(info),
			mnl_attr_get_payload_len(info));
	else
		mark_match(&walk->rule, text(a, NFTA_MATCH_NAME), number(a, NFTA_MATCH_REV), mnl_attr_get_payload(info),
			mnl_attr_get_payload_len(info));
}

static void expression(struct rule_walk *walk, const struct nlattr *element)
{
	struct attributes whole = attributes_read(element);
	const char *name = text(&whole, NFTA_EXPR_NAME);
	if (!whole.at[NFTA_EXPR_DATA])
		return;
	struct attributes a = attributes_read(whole.at[NFTA_EXPR_DATA]);
	if (strcmp(name, "meta") == 0)
		meta(walk, &a);
	else if (strcmp(name, "immediate") == 0)
		immediate(walk, &a);
	else if (strcmp(name, "bitwise") == 0)
		bitwise(walk, &a);
	else if (strcmp(name, "cmp") == 0)
		compare(walk, &a);
	else if (strcmp(name, "target") == 0 || strcmp(name, "match") == 0)
		compat(walk, &a, name[0] == 't');
	else if (a.at[NFTA_CT_DREG] && strcmp(name, "ct") == 0)
		*reg_of(walk, &a, NFTA_CT_DREG) = (struct reg){0};
	else if (strcmp(name, "lookup") == 0 && a.at[NFTA_LOOKUP_DREG])
		*reg_of(walk, &a, NFTA_LOOKUP_DREG) = (struct reg){0};
}

static const char *family_name(uint8_t family)
{
	switch (family) {
	case NFPROTO_INET:
		return "inet";
	case NFPROTO_IPV4:
		return "ip";
	case NFPROTO_IPV6:
		return "ip6";
	case NFPROTO_BRIDGE:
		return "bridge";
	case NFPROTO_NETDEV:
		return "netdev";
	case NFPROTO_ARP:
		return "arp";
	default:
		return "?";
	}
}

struct listing {
	struct doctor_look *look;
	size_t rules;
};

static int each_rule(const struct nlmsghdr *message, void *context)
{
	struct listing *listing = context;
	const struct nfgenmsg *payload = mnl_nlmsg_get_payload(message);
	struct attributes a = {0};
	const struct nlattr *one;
	if (message->nlmsg_type != (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWRULE) || listing->rules++ > RULES_MAX)
		return MNL_CB_OK;
	mnl_attr_for_each(one, message, sizeof(*payload))
	{
		if (mnl_attr_get_type(one) < ATTRIBUTES)
			a.at[mnl_attr_get_type(one)] = one;
	}
	const char *table = text(&a, NFTA_RULE_TABLE);
	if (!a.at[NFTA_RULE_EXPRESSIONS] ||
		(payload->nfgen_family == NFPROTO_INET && (strcmp(table, OUR_TABLE) == 0 || strcmp(table, TRY_TABLE) == 0)))
		return MNL_CB_OK;
	struct rule_walk walk = {
		.rule = {.family = family_name(payload->nfgen_family), .table = table, .chain = text(&a, NFTA_RULE_CHAIN)}};
	mnl_attr_for_each_nested(one, a.at[NFTA_RULE_EXPRESSIONS]) expression(&walk, one);
	mark_rule_judge(listing->look, &walk.rule);
	return MNL_CB_OK;
}

static void nf_tables(struct doctor_look *look)
{
	struct listing listing = {.look = look};
	struct timeval patience = {.tv_sec = 2};
	struct mnl_socket *socket = mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC);
	if (!socket)
		return;
	setsockopt(mnl_socket_get_fd(socket), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	auto_free char *buffer = mem_alloc(BUFFER_SIZE);
	struct nlmsghdr *request = mnl_nlmsg_put_header(buffer);
	request->nlmsg_type = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETRULE;
	request->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	mnl_nlmsg_put_extra_header(request, sizeof(struct nfgenmsg)); /* all zero: every family */
	int result = mnl_socket_sendto(socket, request, request->nlmsg_len) < 0 ? MNL_CB_ERROR : MNL_CB_OK;
	while (result > MNL_CB_STOP && !atomic_load(look->stop)) {
		ssize_t length = mnl_socket_recvfrom(socket, buffer, BUFFER_SIZE);
		result = length < 0 ? MNL_CB_ERROR : mnl_cb_run(buffer, (size_t)length, 0, 0, each_rule, &listing);
	}
	mnl_socket_close(socket);
}

void doctor_marks(struct doctor_look *look)
{
	size_t before = look->count;
	nf_tables(look);
	doctor_iptables(look);
	if (look->count == before)
		finding_add(look, FINDING_OK, "marks", NULL, "no rule of nftables or iptables uses bits %#x of the mark",
			look->datapath->options.mark_mask);
}
