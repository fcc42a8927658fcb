/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernel can do, and how it is set. */
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>
#include "agent/base/buffer.h"
#include "agent/datapath/doctor.h"

#define CONNTRACK_NEARLY 80 /* per cent */
#define CONNTRACK_FULL 95

/* ---- the kernel ---- */

struct features {
	struct buffer has;
	struct {
		bool needed;
		char what[96], without[160];
	} lacks[16];
	size_t lack_count;
};

static void feature(void *context, const char *what, bool yes, bool needed, const char *without)
{
	struct features *f = context;
	if (yes) {
		buffer_printf(&f->has, "%s%.*s", f->has.length ? ", " : "",
			(int)(strcspn(what, "(") - (strchr(what, '(') != NULL)), what);
	} else if (f->lack_count < sizeof(f->lacks) / sizeof(f->lacks[0])) {
		snprintf(f->lacks[f->lack_count].what, sizeof(f->lacks[0].what), "%s", what);
		snprintf(f->lacks[f->lack_count].without, sizeof(f->lacks[0].without), "%s", without);
		f->lacks[f->lack_count++].needed = needed;
	}
}

void doctor_kernel(struct doctor_look *look)
{
	static struct features known; /* the thread's */
	struct utsname name;
	if (!known.has.length)
		check_kernel(&look->datapath->loaded.sockets, feature, &known);
	uname(&name);
	finding_add(look, FINDING_OK, "kernel", NULL, "Linux %s on %s: %s", name.release, name.machine,
		known.has.length ? known.has.data : "nothing of what is asked for");
	for (size_t i = 0; i < known.lack_count; i++)
		finding_add(look, known.lacks[i].needed ? FINDING_BAD : FINDING_WARNING, "kernel",
			"A newer kernel has it: 6.6 is recommended", "no %s: %s", known.lacks[i].what, known.lacks[i].without);
}

/* ---- /proc/sys ---- */

/* -1: there is no such setting. */
static long setting(const char *path)
{
	char text[32], whole[128];
	snprintf(whole, sizeof(whole), "/proc/sys/%s", path);
	FILE *file = fopen(whole, "re");
	if (!file)
		return -1;
	bool got = fgets(text, sizeof(text), file);
	fclose(file);
	return got ? strtol(text, NULL, 10) : -1;
}

static long setting_of(const char *pattern, const char *interface)
{
	char path[96];
	snprintf(path, sizeof(path), pattern, interface);
	return setting(path);
}

/* An address that is neither of a link nor of lo. */
static bool has_ipv6(void)
{
	char line[256], name[32];
	unsigned scope;
	bool found = false;
	FILE *file = fopen("/proc/net/if_inet6", "re");
	while (file && fgets(line, sizeof(line), file))
		found |= sscanf(line, "%*s %*s %*s %x %*s %31s", &scope, name) == 2 && scope == 0 && strcmp(name, "lo") != 0;
	if (file)
		fclose(file);
	return found;
}

static void forwarding(struct doctor_look *look)
{
	if (setting("net/ipv4/ip_forward") == 0)
		finding_add(look, FINDING_WARNING, "settings",
			"sysctl -w net.ipv4.ip_forward=1, and in /etc/sysctl.d so that it stays",
			"net.ipv4.ip_forward is 0: workloads reach this node and its proxies, and nobody else over IPv4");
	else if (setting("net/ipv6/conf/all/forwarding") == 0 && has_ipv6())
		finding_add(look, FINDING_WARNING, "settings",
			"sysctl -w net.ipv6.conf.all.forwarding=1, and in /etc/sysctl.d so that it stays",
			"net.ipv6.conf.all.forwarding is 0: workloads reach this node and its proxies, and nobody else over IPv6");
	else
		finding_add(look, FINDING_OK, "settings", NULL, "packets are forwarded");
}

/* The kernel takes the greater one of "all" and the interface's own. */
static void reverse_path(struct doctor_look *look)
{
	long filter_all = setting("net/ipv4/conf/all/rp_filter"), mark_all = setting("net/ipv4/conf/all/src_valid_mark");
	size_t strict = 0, marked = 0;
	for (size_t i = 0; i < look->interface_count; i++) {
		const char *name = look->interfaces[i].name;
		long filter = setting_of("net/ipv4/conf/%s/rp_filter", name);
		strict += (filter > filter_all ? filter : filter_all) == 1;
		marked += mark_all == 1 || setting_of("net/ipv4/conf/%s/src_valid_mark", name) == 1;
	}
	finding_add(look, FINDING_OK, "settings", NULL,
		"rp_filter is strict on %zu and src_valid_mark set on %zu of %zu interfaces: interception works with any of "
		"these",
		strict, marked, look->interface_count);
}

static void bridges(struct doctor_look *look)
{
	long v4 = setting("net/bridge/bridge-nf-call-iptables"), v6 = setting("net/bridge/bridge-nf-call-ip6tables");
	if (v4 >= 0)
		finding_add(look, FINDING_OK, "settings", NULL,
			"br_netfilter is loaded (IPv4 %s, IPv6 %s): what enters by a bridge's port is handed over at the bridge",
			v4 ? "on" : "off", v6 > 0 ? "on" : "off");
}

static void compiled(struct doctor_look *look)
{
	if (setting("net/core/bpf_jit_enable") == 0)
		finding_add(look, FINDING_WARNING, "settings", "sysctl -w net.core.bpf_jit_enable=1",
			"net.core.bpf_jit_enable is 0: programs are interpreted, several times slower");
}

static void conntrack(struct doctor_look *look)
{
	long count = setting("net/netfilter/nf_conntrack_count"), max = setting("net/netfilter/nf_conntrack_max");
	if (count < 0 || max <= 0)
		return;
	long share = count / (max / 100 + 1);
	if (share < CONNTRACK_NEARLY) /* no number: it would be news with each look */
		finding_add(look, FINDING_OK, "conntrack", NULL, "the kernel's connection tracking has room");
	else
		finding_add(look, share < CONNTRACK_FULL ? FINDING_WARNING : FINDING_BAD, "conntrack",
			"Raise net.netfilter.nf_conntrack_max, or find who opens so many connections",
			"the kernel's connection tracking is %ld %% full of %ld: then new connections are dropped", share, max);
}

void doctor_settings(struct doctor_look *look)
{
	forwarding(look);
	reverse_path(look);
	bridges(look);
	compiled(look);
	conntrack(look);
}
