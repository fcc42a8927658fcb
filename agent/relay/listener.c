/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/relay/listener.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <unistd.h>
#include "agent/base/buffer.h"
#include "agent/base/mem.h"

#define BACKLOG 4096

/*
 * The first of a group is bound before it may share its port, so that a second relay by mistake is told "in use".
 * Accepted sockets inherit the options.
 */
static int open_one(const struct listen *listener, bool first, bool *transparent, int *ret)
{
	const union address *address = &listener->address;
	int on = 1, v6only = listener->v6only;
	bool six = address->any.sa_family == AF_INET6;
	auto_close int fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
	setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	if (six)
		setsockopt(fd, SOL_IPV6, IPV6_V6ONLY, &v6only, sizeof v6only);
	if (setsockopt(fd, six ? SOL_IPV6 : SOL_IP, six ? IPV6_TRANSPARENT : IP_TRANSPARENT, &on, sizeof on) < 0)
		*transparent = false;
	if (!first)
		setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
	if (bind(fd, &address->any, address_size(address)) < 0)
		return -errno;
	if (first)
		setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
	if (listen(fd, BACKLOG) < 0)
		return -errno;
	*ret = steal_fd(&fd);
	return 0;
}

int listeners_open(const struct listen *where, unsigned count, int ret[], bool *transparent, struct error *e)
{
	for (unsigned at = 0; at < count; at++) {
		int result = open_one(where, at == 0, transparent, &ret[at]);
		if (result == 0)
			continue;
		while (at)
			close(ret[--at]);
		struct buffer text = {0};
		address_format(&text, &where->address);
		error_system(e, -result, "listen on %s", text.data);
		buffer_free(&text);
		return result;
	}
	return 0;
}
