/* SPDX-License-Identifier: Apache-2.0 */
#include "api/cli/live.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int ends[2] = {-1, -1};
static volatile sig_atomic_t ended;

static void end(int signal)
{
	ended = signal;
	if (write(ends[1], "", 1) < 0)
		return; /* it is full: it is readable */
}

int live_begin(void)
{
	static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
	struct sigaction action = {.sa_handler = end};
	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0) {
		perror("penstock: pipe");
		abort();
	}
	for (size_t at = 0; at < sizeof signals / sizeof signals[0]; at++) {
		struct sigaction before;
		sigaction(signals[at], NULL, &before);
		if (before.sa_handler != SIG_IGN) /* nohup */
			sigaction(signals[at], &action, NULL);
	}
	return ends[0];
}

bool live_ended(void)
{
	return ended != 0;
}

int live_write(const char *data, size_t length)
{
	struct pollfd ready[] = {{.fd = STDOUT_FILENO, .events = POLLOUT}, {.fd = ends[0], .events = POLLIN}};
	while (length) {
		if (poll(ready, 2, -1) < 0 && errno != EINTR)
			return -errno;
		if (live_ended())
			return -EINTR;
		/* A pipe that can be written has room for this much: whoever does not read it holds us up in poll. */
		ssize_t written = write(STDOUT_FILENO, data, length < PIPE_BUF ? length : PIPE_BUF);
		if (written < 0 && errno != EINTR && errno != EAGAIN)
			return -errno;
		data += written > 0 ? written : 0;
		length -= written > 0 ? (size_t)written : 0;
	}
	return 0;
}
