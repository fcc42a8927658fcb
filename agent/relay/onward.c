/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/relay/onward.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <unistd.h>
#include "agent/base/mem.h"

static const struct {
	const char *from, *reason;
} sources[] = {
#define SOURCE_TEXT(name, from, reason) {from, reason},
	SOURCES(SOURCE_TEXT)
#undef SOURCE_TEXT
};

const char *source_from(enum source source)
{
	return sources[source].from;
}

const char *source_reason(enum source source)
{
	return sources[source].reason;
}

static int open_socket(const union address *destination)
{
	int on = 1;
	int fd = socket(destination->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
	setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on); /* else an urgent byte would be lost on the way */
	return fd;
}

static int start(int fd, const union address *destination)
{
	return connect(fd, &destination->any, address_size(destination)) < 0 && errno != EINPROGRESS ? -errno : 0;
}

/*
 * The port is chosen only at connect(), when both ends are known: one port serves any number of destinations. It is not
 * the client's own: the connection from the client and the one onward would have the same addresses and ports.
 */
static int from_client(const union address *client, const union address *destination, enum source *source)
{
	int on = 1;
	union address from = *client;
	auto_close int fd = open_socket(destination);
	if (fd < 0)
		return fd;
	/* Both families take it at this level. */
	if (setsockopt(fd, SOL_IP, IP_TRANSPARENT, &on, sizeof on) < 0) {
		*source = SOURCE_PRIVILEGE;
		return -errno;
	}
	setsockopt(fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	address_port_set(&from, 0);
	*source = SOURCE_UNUSABLE;
	if (bind(fd, &from.any, address_size(&from)) < 0)
		return -errno;
	int result = start(fd, destination);
	*source = result == -EADDRNOTAVAIL ? SOURCE_PORTS : result == -EINVAL ? SOURCE_UNUSABLE : SOURCE_CLIENT;
	return result < 0 ? result : steal_fd(&fd);
}

int onward_connect(
	const union address *client, const union address *destination, bool keep, int routes, enum source *source)
{
	*source = SOURCE_NODE;
	if (keep && client->any.sa_family != destination->any.sa_family) {
		*source = SOURCE_FAMILY;
	} else if (keep && address_is_own(routes, destination)) {
		*source = SOURCE_OWN;
	} else if (keep) {
		int fd = from_client(client, destination, source);
		if (fd >= 0 || *source == SOURCE_CLIENT || *source == SOURCE_NODE)
			return fd; /* that it failed has nothing to do with the address */
	}
	auto_close int fd = open_socket(destination);
	if (fd < 0)
		return fd;
	int result = start(fd, destination);
	return result < 0 ? result : steal_fd(&fd);
}
