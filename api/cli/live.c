/* SPDX-License-Identifier: Apache-2.0 */
#include "api/cli/live.h"

#include <fcntl.h>
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
