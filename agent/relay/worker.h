/* SPDX-License-Identifier: Apache-2.0 */
/* A thread of the relay: its own listening sockets, its own epoll set, its own connections and flows. */
#ifndef PENSTOCK_RELAY_WORKER_H
#define PENSTOCK_RELAY_WORKER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include "agent/relay/connection.h"
#include "agent/relay/udp.h"

/* How far the end has come, for all threads. */
enum stage { STAGE_SERVING, STAGE_DRAINING, STAGE_ENDING };

/* Shared by all threads; `stage` changes before `wake` is written. */
struct control {
	_Atomic int stage;
	int wake; /* eventfd: look at the stage */
	int done; /* eventfd: counts threads that have ended */
	struct share share;
};
struct worker {
	struct context context;
	struct control *control;
	pthread_t thread;
	int listeners[LISTEN_MAX]; /* the thread's own, closed by it */
	unsigned listener_count;
	struct udp udp;
	int64_t now_ms, warn_again_ms;
	int64_t accept_again_ms;       /* 0: it accepts */
	struct connections connecting; /* oldest first: as all share one timeout, they run out in this order */
	struct connections carrying;   /* idle for longest first */
	struct connections finished;   /* freed after the round, as its events may still name them */
	struct connection *queue, **queue_end;
};

/*
 * First all are opened, then started: a thread that serves may take the last file descriptors. The listening sockets
 * are open before. 0 or -errno.
 */
int worker_open(struct worker *worker);
int worker_start(struct worker *worker);

#endif
