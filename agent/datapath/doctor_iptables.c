/* SPDX-License-Identifier: Apache-2.0 */
/* Marks in iptables-legacy, as the kernel gives its tables out. */
#include <netinet/in.h> /* before the kernel's, which leaves out then what is in it */

#include <linux/netfilter_ipv4/ip_tables.h>
#include <linux/netfilter_ipv6/ip6_tables.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "agent/base/mem.h"
#include "agent/datapath/doctor.h"

#define TABLE_BYTES_MAX (64u << 20)

/* What IPv4 and IPv6 differ in. */
struct flavour {
	const char *list, *family;
	int domain, level, get_info, get_entries;
	size_t entry_size;
	uint16_t target_at, next_at; /* in an entry */
};
static const struct flavour both[] = {
	{"/proc/net/ip_tables_names", "ip", AF_INET, IPPROTO_IP, IPT_SO_GET_INFO, IPT_SO_GET_ENTRIES,
		sizeof(struct ipt_entry), offsetof(struct ipt_entry, target_offset), offsetof(struct ipt_entry, next_offset)},
	{"/proc/net/ip6_tables_names", "ip6", AF_INET6, IPPROTO_IPV6, IP6T_SO_GET_INFO, IP6T_SO_GET_ENTRIES,
		sizeof(struct ip6t_entry), offsetof(struct ip6t_entry, target_offset),
		offsetof(struct ip6t_entry, next_offset)},
};

static uint16_t word_at(const uint8_t *at)
{
	uint16_t value;
	memcpy(&value, at, sizeof(value));
	return value;
}

/* A match or a target: a head of its size, name and revision, then what it is told. */
static size_t part_take(const uint8_t *at, const uint8_t *end, bool target, struct mark_rule *rule)
{
	struct xt_entry_match head;
	char name[XT_EXTENSION_MAXNAMELEN];
	if ((size_t)(end - at) < sizeof(head))
		return 0;
	memcpy(&head, at, sizeof(head));
	if (head.u.user.match_size < sizeof(head) || head.u.user.match_size > end - at)
		return 0;
	snprintf(name, sizeof(name), "%.*s", (int)sizeof(head.u.user.name), head.u.user.name);
	(target ? mark_target : mark_match)(
		rule, name, head.u.user.revision, at + sizeof(head), head.u.user.match_size - sizeof(head));
	return head.u.user.match_size;
}

static void entries_look(
	struct doctor_look *look, const struct flavour *flavour, const char *table, const uint8_t *at, size_t size)
{
	const uint8_t *end = at + size;
	while ((size_t)(end - at) >= flavour->entry_size) {
		uint16_t target = word_at(at + flavour->target_at), next = word_at(at + flavour->next_at);
		struct mark_rule rule = {.family = flavour->family, .table = table, .chain = "of iptables-legacy"};
		if (next < flavour->entry_size || next > end - at || target > next || target < flavour->entry_size)
			return;
		for (size_t place = flavour->entry_size, part = 1; place < target && part; place += part)
			part = part_take(at + place, at + target, false, &rule);
		part_take(at + target, at + next, true, &rule);
		mark_rule_judge(look, &rule);
		at += next;
	}
}

/* ipt_getinfo and ipt_get_entries are those of IPv6 too. */
static void table_look(struct doctor_look *look, const struct flavour *flavour, int fd, const char *table)
{
	struct ipt_getinfo info = {0};
	socklen_t length = sizeof(info);
	snprintf(info.name, sizeof(info.name), "%s", table);
	if (getsockopt(fd, flavour->level, flavour->get_info, &info, &length) < 0 || info.size > TABLE_BYTES_MAX)
		return;
	length = sizeof(struct ipt_get_entries) + info.size;
	auto_free struct ipt_get_entries *entries = mem_alloc(length);
	snprintf(entries->name, sizeof(entries->name), "%s", table);
	entries->size = info.size;
	if (getsockopt(fd, flavour->level, flavour->get_entries, entries, &length) == 0) /* not when it changes just now */
		entries_look(look, flavour, table, (const uint8_t *)entries->entrytable, info.size);
}

void doctor_iptables(struct doctor_look *look)
{
	for (size_t i = 0; i < sizeof(both) / sizeof(both[0]); i++) {
		char line[XT_TABLE_MAXNAMELEN];
		FILE *file = fopen(both[i].list, "re"); /* it is there once anybody used them */
		int fd = file ? socket(both[i].domain, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW) : -1;
		while (fd >= 0 && fgets(line, sizeof(line), file)) {
			line[strcspn(line, "\n")] = 0;
			table_look(look, &both[i], fd, line);
		}
		if (file)
			fclose(file);
		cleanup_close(&fd);
	}
}
