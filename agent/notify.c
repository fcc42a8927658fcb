/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/notify.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include "agent/base/log.h"
#include "agent/base/mem.h"

static const char ready[] = "READY=1";

void notify_ready(void)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	if (!path || !*path)
		return;
	size_t length = strlen(path);
	if (length >= sizeof(to.sun_path)) {
		log_warn("main", "NOTIFY_SOCKET is longer than a socket's name can be");
		return;
	}
	memcpy(to.sun_path, path, length);
	if (*path == '@') /* an abstract name */
		to.sun_path[0] = 0;
	auto_close int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || sendto(fd, ready, sizeof(ready) - 1, MSG_NOSIGNAL, (struct sockaddr *)&to,
					  offsetof(struct sockaddr_un, sun_path) + length) < 0)
		log_warn("main", "%s cannot be told that the agent is ready: %s", path, strerror(errno));
}
