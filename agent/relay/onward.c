/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/relay/onward.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <sys/random.h>
#include <unistd.h>
#include "agent/base/mem.h"

#define PORT_FIRST 10240
#define PORTS (30000 - PORT_FIRST)
#define PORT_TRIES 8

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

static int open_socket(int type, const union address *destination)
{
	int on = 1;
	int fd = socket(destination->any.sa_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (type == SOCK_STREAM) {
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
		setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
		setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on); /* else an urgent byte would be lost on the way */
	}
	return fd;
}

static int start(int fd, const union address *destination)
{
	return connect(fd, &destination->any, address_size(destination)) < 0 && errno != EINPROGRESS ? -errno : 0;
}

/*
 * UDP of a client's address: not one of the ports that the client itself may choose for a flow to the same server. With
 * one of those both flows, its own to us and ours onward, would be one to whoever tracks connections. So it is below
 * what systems choose from by themselves (and Kubernetes for NodePorts); where there is none, the kernel's choice.
 */
static int bind_apart(int fd, union address *from)
{
	for (int tries = 0; tries < PORT_TRIES; tries++) {
		uint16_t random = 0;
		ssize_t got = getrandom(&random, sizeof random, GRND_NONBLOCK);
		if (got != sizeof random)
			break;
		address_port_set(from, (uint16_t)(PORT_FIRST + random % PORTS));
		if (bind(fd, &from->any, address_size(from)) == 0)
			return 0;
		if (errno != EADDRINUSE)
			break;
	}
	address_port_set(from, 0);
	return bind(fd, &from->any, address_size(from)) < 0 ? -errno : 0;
}

/*
 * For TCP the port is chosen only at connect(), when both ends are known: one port serves any number of destinations.
 * It is not the client's own: the connection from the client and the one onward would have the same addresses and
 * ports.
 */
static int bind_later(int fd, union address *from)
{
	int on = 1;
	setsockopt(fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	address_port_set(from, 0);
	return bind(fd, &from->any, address_size(from)) < 0 ? -errno : 0;
}

static int from_client(
	const struct onward *how, const union address *client, const union address *destination, enum source *source)
{
	int on = 1;
	union address from = *client;
	auto_close int fd = open_socket(how->type, destination);
	if (fd < 0)
		return fd;
	/* Both families take it at this level. */
	if (setsockopt(fd, SOL_IP, IP_TRANSPARENT, &on, sizeof on) < 0) {
		*source = SOURCE_PRIVILEGE;
		return -errno;
	}
	int result = how->type == SOCK_STREAM ? bind_later(fd, &from) : bind_apart(fd, &from);
	*source = result == -EADDRINUSE ? SOURCE_PORTS : SOURCE_UNUSABLE;
	if (result < 0)
		return result;
	result = start(fd, destination);
	*source = result == -EADDRNOTAVAIL ? SOURCE_PORTS : result == -EINVAL ? SOURCE_UNUSABLE : SOURCE_CLIENT;
	return result < 0 ? result : steal_fd(&fd);
}

static bool has_port_of(int fd, const union address *client)
{
	union address own = {0};
	socklen_t size = sizeof own;
	return getsockname(fd, &own.any, &size) == 0 && address_port(&own) == address_port(client);
}

/* The kernel knows of no client that a port for UDP is not to be that of: one that is, is held until another is found.
 */
static int from_client_apart(
	const struct onward *how, const union address *client, const union address *destination, enum source *source)
{
	auto_close int first = from_client(how, client, destination, source);
	if (first < 0 || how->type == SOCK_STREAM || !has_port_of(first, client))
		return first < 0 ? first : steal_fd(&first);
	return from_client(how, client, destination, source);
}

/*
 * Of UDP, each port that some client's address has is taken where the node's own is not said yet, so it is said when
 * they run short.
 */
static int from_node(const struct onward *how, const union address *destination)
{
	union address own;
	auto_close int fd = open_socket(how->type, destination);
	if (fd < 0)
		return fd;
	int result = start(fd, destination);
	if (result == -EAGAIN && how->type == SOCK_DGRAM && address_source(how->routes, destination, &own)) {
		if (bind(fd, &own.any, address_size(&own)) < 0)
			return -errno;
		result = start(fd, destination);
	}
	return result < 0 ? result : steal_fd(&fd);
}

int onward_connect(
	const struct onward *how, const union address *client, const union address *destination, enum source *source)
{
	*source = SOURCE_NODE;
	if (how->keep && client->any.sa_family != destination->any.sa_family) {
		*source = SOURCE_FAMILY;
	} else if (how->keep && address_is_own(how->routes, destination)) {
		*source = SOURCE_OWN;
	} else if (how->keep) {
		int fd = from_client_apart(how, client, destination, source);
		if (fd >= 0 || *source == SOURCE_CLIENT || *source == SOURCE_NODE)
			return fd; /* that it failed has nothing to do with the address */
	}
	return from_node(how, destination);
}
