/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which thread has which flow, and what comes to the wrong one. The kernel may show a flow's datagram to another
 * thread: listeners are chosen by a hash that is not the same for each way of handing over, and a socket that has an
 * address and is not connected yet is given what others send to it.
 */
#ifndef PENSTOCK_RELAY_SHARE_H
#define PENSTOCK_RELAY_SHARE_H

#include <pthread.h>
#include "agent/base/map.h"
#include "agent/relay/datagram.h"
#include "agent/relay/flow.h"
#include "agent/relay/options.h"

struct parcel {
	struct parcel *next;
	struct flow_key key;
	struct datagram datagram; /* its data follows */
};
struct inbox {
	int event; /* eventfd, readable when there is something */
	struct parcel *first, *last;
	size_t bytes;
};
/* All of it is under the lock, but for `event`. */
struct share {
	pthread_mutex_t lock;
	struct map owners; /* flow_key → unsigned */
	struct inbox inboxes[THREADS_MAX];
};

/* 0 or -errno. */
int share_open(struct share *share, unsigned threads);
/* Whose flow it is: it is the asking thread's when it was nobody's. */
unsigned share_claim(struct share *share, const struct flow_key *key, unsigned thread);
void share_release(struct share *share, const struct flow_key *key);
/* False: there is no room. */
bool share_send(struct share *share, unsigned thread, const struct flow_key *key, const struct datagram *datagram);
/* All that has come for a thread; who takes it frees each. */
struct parcel *share_take(struct share *share, unsigned thread);
/* When all threads have ended. */
void share_close(struct share *share, unsigned threads);

#endif
