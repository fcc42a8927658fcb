/* SPDX-License-Identifier: Apache-2.0 */
/* Which listeners a proxy may use. Pure but for stat(2) of a condition's executable. */
#include <inttypes.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include "agent/base/mem.h"
#include "agent/datapath/datapath.h"
#include "agent/datapath/listeners.h"

static bool all_zero(const uint8_t *bytes, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (bytes[i])
			return false;
	return true;
}

/* Also ::ffff:127.0.0.1, a socket of family 6 that takes IPv4. */
static bool is_mapped(const uint8_t bytes[16])
{
	return all_zero(bytes, 10) && bytes[10] == 0xff && bytes[11] == 0xff;
}

static bool address_reachable(const struct ip *ip)
{
	static const uint8_t loopback[4] = {127, 0, 0, 1};
	const uint8_t *v4 = ip->bytes + 12;
	if (ip->family == 4 || is_mapped(ip->bytes))
		return all_zero(v4, 4) || memcmp(v4, loopback, 4) == 0;
	return all_zero(ip->bytes, 15) && ip->bytes[15] <= 1;
}

bool heard_together(const struct heard *a, const struct heard *b)
{
	return a->protocol == b->protocol && a->port == b->port && a->device == b->device && a->v6only == b->v6only &&
		   ip_equal(&a->ip, &b->ip);
}

bool listener_answers(const struct heard *heard)
{
	return heard->protocol == IPPROTO_UDP && heard->transparent && !address_reachable(&heard->ip);
}

bool listener_reachable(const struct heard *heard, char why[WHY_MAX])
{
	char text[ADDR_TEXT_MAX];
	if (!address_reachable(&heard->ip)) {
		ip_format(&heard->ip, text);
		snprintf(why, WHY_MAX,
			"listens on %s: connections are offered to 127.0.0.1, ::1 and the wildcard addresses only", text);
		return false;
	}
	if (heard->device) {
		snprintf(why, WHY_MAX, "is bound to a device (SO_BINDTODEVICE, ifindex %u): no other's connections reach it",
			heard->device);
		return false;
	}
	return true;
}

bool listener_hears(const struct listener_status *listener, uint8_t protocol, uint8_t family)
{
	const struct ip *ip = &listener->ip;
	if (listener->protocol != protocol)
		return false;
	if (ip->family == 4 || is_mapped(ip->bytes))
		return family == 4;
	return family == 6 || (!listener->v6only && all_zero(ip->bytes, 16));
}

bool listener_takes(const struct listener_status *listener, uint8_t protocol, uint8_t family)
{
	return listener->state != LISTENER_IGNORED && listener_hears(listener, protocol, family);
}

unsigned listeners_families(const struct listener_status *listeners, size_t count, const char *proxy, uint8_t protocol)
{
	unsigned families = 0;
	for (size_t i = 0; i < count; i++) {
		if (strcmp(listeners[i].proxy, proxy) != 0)
			continue;
		families |= listener_takes(&listeners[i], protocol, 4) ? LISTENERS_IPV4 : 0;
		families |= listener_takes(&listeners[i], protocol, 6) ? LISTENERS_IPV6 : 0;
	}
	return families;
}

bool listeners_serve(const struct listener_status *listeners, size_t count, const char *name, const struct proxy *proxy)
{
	return (!proxy->tcp || listeners_families(listeners, count, name, IPPROTO_TCP)) &&
		   (!proxy->udp || listeners_families(listeners, count, name, IPPROTO_UDP));
}

char *cgroup_absolute(const char *base, const char *shown)
{
	size_t length = strlen(base);
	while (strncmp(shown, "/..", 3) == 0 && (shown[3] == '/' || !shown[3])) {
		if (!length) /* above what is known */
			return str_dup(shown);
		while (length && base[--length] != '/')
			;
		shown += 3;
	}
	return str_format("%.*s%s", (int)length, base, length && strcmp(shown, "/") == 0 ? "" : shown);
}

bool cgroup_below(const char *cgroup, const char *top)
{
	cgroup += *cgroup == '/';
	top += *top == '/';
	size_t length = strlen(top);
	while (length && top[length - 1] == '/')
		length--;
	return strncmp(cgroup, top, length) == 0 && (!length || !cgroup[length] || cgroup[length] == '/');
}

/* By name, or by what the name leads to here: /usr/bin/python3 is a link. */
static bool executable_is(const struct holder *holder, const char *path)
{
	struct stat file;
	if (strcmp(holder->executable, path) == 0)
		return true;
	return holder->inode && stat(path, &file) == 0 && file.st_ino == holder->inode && file.st_dev == holder->device;
}

bool holder_chosen(const struct proxy *proxy, const struct heard *heard, const struct holder *holder, char why[WHY_MAX])
{
	if (proxy->uid >= 0 && holder->uid != proxy->uid && heard->uid != proxy->uid) {
		snprintf(why, WHY_MAX, "uid %u is not %" PRId64, holder->uid, proxy->uid);
		return false;
	}
	if (*proxy->cgroup && !cgroup_below(holder->cgroup, proxy->cgroup)) {
		snprintf(why, WHY_MAX, "cgroup %.100s is not below %.100s", *holder->cgroup ? holder->cgroup : "(unknown)",
			proxy->cgroup);
		return false;
	}
	if (*proxy->executable && !executable_is(holder, proxy->executable)) {
		snprintf(why, WHY_MAX, "executable %.100s is not %.100s",
			*holder->executable ? holder->executable : "(unknown)", proxy->executable);
		return false;
	}
	return true;
}
