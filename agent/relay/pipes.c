/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/relay/pipes.h"

#include <fcntl.h>
#include <unistd.h>

bool pipes_take(struct pipes *pipes, struct pipe *ret)
{
	int ends[2];
	if (pipes->count) {
		*ret = pipes->idle[--pipes->count];
		return true;
	}
	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
		return false;
	/* Refused beyond what one user may have: then it stays as small as it is. */
	fcntl(ends[1], F_SETPIPE_SZ, PIPE_BYTES);
	*ret = (struct pipe){.out = ends[0], .in = ends[1]};
	return true;
}

static void drop(struct pipe *pipe)
{
	close(pipe->out);
	close(pipe->in);
}

void pipes_give(struct pipes *pipes, struct pipe *pipe, bool empty)
{
	if (empty && pipes->count < PIPES_IDLE_MAX)
		pipes->idle[pipes->count++] = *pipe;
	else
		drop(pipe);
	*pipe = (struct pipe){.out = -1, .in = -1};
}

void pipes_close(struct pipes *pipes)
{
	while (pipes->count)
		drop(&pipes->idle[--pipes->count]);
}
