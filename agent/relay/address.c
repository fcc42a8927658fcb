/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/relay/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include "agent/base/addr.h"

void address_unmap(union address *address)
{
	const struct sockaddr_in6 six = address->six;
	if (six.sin6_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&six.sin6_addr))
		return;
	memset(address, 0, sizeof *address);
	address->four.sin_family = AF_INET;
	address->four.sin_port = six.sin6_port;
	memcpy(&address->four.sin_addr, six.sin6_addr.s6_addr + 12, 4);
}

socklen_t address_size(const union address *address)
{
	return address->any.sa_family == AF_INET ? sizeof address->four : sizeof address->six;
}

uint16_t address_port(const union address *address)
{
	return ntohs(address->four.sin_port); /* at the same place in both families */
}

void address_port_set(union address *address, uint16_t port)
{
	address->four.sin_port = htons(port);
}

bool address_equal(const union address *a, const union address *b)
{
	if (a->any.sa_family != b->any.sa_family || a->four.sin_port != b->four.sin_port)
		return false;
	if (a->any.sa_family == AF_INET)
		return a->four.sin_addr.s_addr == b->four.sin_addr.s_addr;
	return IN6_ARE_ADDR_EQUAL(&a->six.sin6_addr, &b->six.sin6_addr);
}

void address_format(struct buffer *out, const union address *address)
{
	char text[ADDR_TEXT_MAX] = "?";
	switch (address->any.sa_family) {
	case AF_INET:
		inet_ntop(AF_INET, &address->four.sin_addr, text, sizeof text);
		buffer_printf(out, "%s:%u", text, address_port(address));
		break;
	case AF_INET6:
		inet_ntop(AF_INET6, &address->six.sin6_addr, text, sizeof text);
		buffer_printf(out, "[%s]:%u", text, address_port(address));
		break;
	default:
		buffer_puts(out, text);
	}
}

int address_routes_open(void)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	return fd < 0 ? -errno : fd;
}

union answer {
	struct nlmsghdr head;
	char bytes[4096];
};

/* The route to an address, as the kernel takes it for a connection of ours; NULL when there is none. */
static const struct rtmsg *ask_route(int routes, const union address *address, union answer *answer)
{
	bool four = address->any.sa_family == AF_INET;
	unsigned length = four ? 4 : 16;
	struct {
		struct nlmsghdr head;
		struct rtmsg route;
		struct rtattr attribute;
		uint8_t bytes[16];
	} ask = {
		.head = {.nlmsg_len = sizeof ask - 16 + length, .nlmsg_type = RTM_GETROUTE, .nlmsg_flags = NLM_F_REQUEST},
		.route = {.rtm_family = address->any.sa_family, .rtm_dst_len = length * 8},
		.attribute = {.rta_len = RTA_LENGTH(length), .rta_type = RTA_DST},
	};
	if (four)
		memcpy(ask.bytes, &address->four.sin_addr, 4);
	else
		memcpy(ask.bytes, &address->six.sin6_addr, 16);
	if (routes < 0 || send(routes, &ask, ask.head.nlmsg_len, 0) < 0)
		return NULL;
	/* The kernel has answered before send() returns. */
	ssize_t got = recv(routes, answer, sizeof *answer, MSG_DONTWAIT);
	if (got < (ssize_t)NLMSG_LENGTH(sizeof(struct rtmsg)) || answer->head.nlmsg_type != RTM_NEWROUTE)
		return NULL;
	return NLMSG_DATA(&answer->head);
}

/* Whether one can bind to the address would say the same, but not where net.ipv4.ip_nonlocal_bind is set. */
bool address_is_own(int routes, const union address *address)
{
	union answer answer;
	const struct rtmsg *route = ask_route(routes, address, &answer);
	return route && route->rtm_type == RTN_LOCAL;
}

bool address_source(int routes, const union address *to, union address *ret)
{
	union answer answer;
	bool four = to->any.sa_family == AF_INET;
	const struct rtmsg *route = ask_route(routes, to, &answer);
	int left = route ? (int)RTM_PAYLOAD(&answer.head) : 0;
	const struct rtattr *at = route ? RTM_RTA(route) : NULL;
	for (; RTA_OK(at, left); at = RTA_NEXT(at, left)) {
		if (at->rta_type != RTA_PREFSRC || RTA_PAYLOAD(at) != (four ? 4 : 16))
			continue;
		memset(ret, 0, sizeof *ret);
		ret->any.sa_family = to->any.sa_family;
		memcpy(four ? (void *)&ret->four.sin_addr : (void *)&ret->six.sin6_addr, RTA_DATA(at), RTA_PAYLOAD(at));
		return true;
	}
	return false;
}
