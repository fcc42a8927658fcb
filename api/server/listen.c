/* SPDX-License-Identifier: Apache-2.0 */
#include "api/server/listen.h"

#include <errno.h>
#include <grp.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "agent/base/mem.h"

#define BACKLOG 1024

static int directories_make(const char *path, struct error *e)
{
	auto_free char *directory = str_dup(path);
	for (char *at = directory + 1; (at = strchr(at, '/')); *at++ = '/') {
		*at = 0;
		if (mkdir(directory, 0755) < 0 && errno != EEXIST)
			return error_system(e, errno, "cannot make the directory %s", directory);
	}
	return 0;
}

static int group_find(const char *group, gid_t *ret, struct error *e)
{
	char *end;
	unsigned long number = strtoul(group, &end, 10);
	struct group *entry = getgrnam(group);
	if (!entry && (*end || end == group))
		return error_set(e, ERROR_INVALID, EINVAL, NULL, "there is no group \"%s\" (api.unixGroup)", group);
	*ret = entry ? entry->gr_gid : (gid_t)number;
	return 0;
}

/* Removes a socket file that a killed agent left. */
static int stale_remove(const struct sockaddr_un *address, struct error *e)
{
	struct stat status;
	const char *path = address->sun_path;
	if (lstat(path, &status) < 0)
		return errno == ENOENT ? 0 : error_system(e, errno, "cannot look at %s", path);
	if (!S_ISSOCK(status.st_mode))
		return error_set(e, ERROR_INVALID, EEXIST, NULL, "%s is there and is no socket (api.unix)", path);
	auto_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_system(e, errno, "cannot make a socket");
	/* EAGAIN: somebody listens, and is behind with accepting. */
	if (!connect(fd, (const struct sockaddr *)address, sizeof(*address)) || errno == EAGAIN)
		return error_set(e, ERROR_BUSY, EADDRINUSE, NULL, "another process listens on %s (api.unix)", path);
	if (errno != ECONNREFUSED && errno != ENOENT)
		return error_system(e, errno, "cannot tell whether somebody listens on %s", path);
	if (unlink(path) < 0 && errno != ENOENT)
		return error_system(e, errno, "cannot remove the stale %s", path);
	return 0;
}

int listen_unix(const char *path, const char *group, int *ret, struct error *e)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	gid_t gid = 0;
	int result;
	if (strlen(path) >= sizeof(address.sun_path))
		return error_set(e, ERROR_INVALID, ENAMETOOLONG, NULL, "%s is too long for a unix socket (api.unix)", path);
	strcpy(address.sun_path, path);
	if ((result = group_find(group, &gid, e)) < 0 || (result = directories_make(path, e)) < 0 ||
		(result = stale_remove(&address, e)) < 0)
		return result;
	auto_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_system(e, errno, "cannot make a socket");
	/* Nobody's until it has its group: Linux takes the file's mode from the socket's. */
	if (fchmod(fd, 0600) < 0)
		return error_system(e, errno, "cannot set the mode of a socket");
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return error_system(e, errno, "cannot bind %s", path);
	if (chown(path, (uid_t)-1, gid) < 0 || chmod(path, 0660) < 0)
		return error_system(e, errno, "cannot set group and mode of %s", path);
	if (listen(fd, BACKLOG) < 0)
		return error_system(e, errno, "cannot listen on %s", path);
	*ret = steal_fd(&fd);
	return 0;
}

/* Splits into host (may be empty) and port. */
static int address_split(const char *address, char host[256], const char **port)
{
	const char *colon = strrchr(address, ':'), *end = colon;
	if (!colon || !colon[1] || strspn(colon + 1, "0123456789") != strlen(colon + 1) || colon - address > 250 ||
		strtoul(colon + 1, NULL, 10) > 65535)
		return -EINVAL;
	if (*address == '[') {
		if (colon[-1] != ']')
			return -EINVAL;
		address++;
		end--;
	}
	snprintf(host, 256, "%.*s", (int)(end - address), address);
	*port = colon + 1;
	return 0;
}

static int listen_at(const struct addrinfo *info, const char *text, int *ret, struct error *e)
{
	const int on = 1, idle = 30, interval = 10; /* seconds */
	const unsigned patience = 60000;            /* milliseconds */
	auto_close int fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_system(e, errno, "cannot make a socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	/* Connections inherit it: a stream to a client that is gone without a word must end. */
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &patience, sizeof(patience));
	if (bind(fd, info->ai_addr, info->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0) {
		if (errno == EADDRINUSE)
			return error_set(e, ERROR_BUSY, EADDRINUSE, NULL, "another process listens on %s (metrics.listen)", text);
		return error_system(e, errno, "cannot listen on %s", text);
	}
	*ret = steal_fd(&fd);
	return 0;
}

int listen_tcp(const char *address, int *ret, struct error *e)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *found;
	char host[256];
	const char *port;
	if (address_split(address, host, &port) < 0)
		return error_set(e, ERROR_INVALID, EINVAL, NULL, "\"%s\" is not host:port", address);
	int result = getaddrinfo(*host ? host : NULL, port, &hints, &found);
	if (result)
		return error_set(e, ERROR_INVALID, EINVAL, NULL, "\"%s\": %s", address, gai_strerror(result));
	result = listen_at(found, address, ret, e);
	freeaddrinfo(found);
	return result;
}
