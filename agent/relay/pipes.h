/* SPDX-License-Identifier: Apache-2.0 */
/* Pipes to splice through, lent to connections while bytes stream: thousands of idle ones need none. One thread's. */
#ifndef PENSTOCK_RELAY_PIPES_H
#define PENSTOCK_RELAY_PIPES_H

#include <stdbool.h>

#define PIPE_BYTES (256 << 10)
#define PIPES_IDLE_MAX 32

struct pipe {
	int out, in; /* bytes come out of `out` */
};
struct pipes {
	struct pipe idle[PIPES_IDLE_MAX];
	unsigned count;
};

/* False when there is none to be had, file descriptors being short. */
bool pipes_take(struct pipes *pipes, struct pipe *ret);
/* empty: else it is of no further use. */
void pipes_give(struct pipes *pipes, struct pipe *pipe, bool empty);
void pipes_close(struct pipes *pipes);

#endif
