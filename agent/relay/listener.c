/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/relay/listener.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <unistd.h>
#include "agent/base/buffer.h"
#include "agent/base/mem.h"
#include "agent/relay/datagram.h"

#define BACKLOG 4096

static void set(int fd, int level, int option, int value)
{
	setsockopt(fd, level, option, &value, sizeof value);
}

/* Accepted sockets inherit the options. */
static void set_stream(int fd)
{
	set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	set(fd, SOL_SOCKET, SO_OOBINLINE, 1);
	set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
}

/* The first of a group is bound before it may share its port, so that a second relay by mistake is told "in use". */
static int open_one(const struct listen *listener, int type, bool first, bool *transparent, int *ret)
{
	const union address *address = &listener->address;
	int on = 1;
	bool six = address->any.sa_family == AF_INET6;
	auto_close int fd = socket(address->any.sa_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (type == SOCK_STREAM)
		set_stream(fd);
	else
		datagram_listen(fd);
	if (six)
		set(fd, SOL_IPV6, IPV6_V6ONLY, listener->v6only);
	if (setsockopt(fd, six ? SOL_IPV6 : SOL_IP, six ? IPV6_TRANSPARENT : IP_TRANSPARENT, &on, sizeof on) < 0)
		*transparent = false;
	if (!first)
		set(fd, SOL_SOCKET, SO_REUSEPORT, 1);
	if (bind(fd, &address->any, address_size(address)) < 0)
		return -errno;
	if (first)
		set(fd, SOL_SOCKET, SO_REUSEPORT, 1);
	if (type == SOCK_STREAM && listen(fd, BACKLOG) < 0)
		return -errno;
	*ret = steal_fd(&fd);
	return 0;
}

int listeners_open(const struct listen *where, int type, unsigned count, int ret[], bool *transparent, struct error *e)
{
	for (unsigned at = 0; at < count; at++) {
		int result = open_one(where, type, at == 0, transparent, &ret[at]);
		if (result == 0)
			continue;
		while (at)
			close(ret[--at]);
		struct buffer text = {0};
		address_format(&text, &where->address);
		error_system(e, -result, "listen on %s%s", text.data, type == SOCK_STREAM ? "" : " (UDP)");
		buffer_free(&text);
		return result;
	}
	return 0;
}

bool listener_is(const struct options *options, int routes, const union address *address)
{
	for (unsigned at = 0; at < options->listens; at++)
		if (address_port(&options->listen[at].address) == address_port(address))
			return address_is_own(routes, address);
	return false;
}
