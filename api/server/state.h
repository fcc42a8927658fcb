/* SPDX-License-Identifier: Apache-2.0 */
/* The server itself: what all its threads share, and which lock guards what. */
#ifndef PENSTOCK_SERVER_STATE_H
#define PENSTOCK_SERVER_STATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>
#include <sys/types.h>
#include "api/server/connection.h"
#include "api/server/count.h"
#include "api/server/credentials.h"
#include "api/server/request.h"
#include "api/server/throttle.h"

TAILQ_HEAD(call_list, pending_call);
TAILQ_HEAD(stream_list, stream);

struct listener {
	struct server *server;
	struct MHD_Daemon *daemon;
	int fd;        /* libmicrohttpd's while the daemon runs; -1 when there is none */
	bool public;   /* only the routes that are open to everyone */
	bool loopback; /* a TCP listener that only this node reaches: serves the page */
	bool remote;   /* asks who its clients are */
};

struct server {
	struct server_options options; /* strings copied */
	struct listener api, metrics, tcp;
	struct credentials credentials;        /* of tcp */
	struct throttle wrong, told;           /* credentials that are none; audit lines about strangers */
	struct throttle arriving;              /* connections over TCP: each costs a handshake before anybody is known */
	atomic_uint_fast64_t turned_away_told; /* when the log said last that some were too many */
	dev_t unix_device;                     /* of our socket file, so that only our own is removed */
	ino_t unix_inode;
	struct connections connections;
	struct counters counters;
	atomic_uint_fast64_t buffered; /* bytes of bodies held, also by calls; at most budget */
	uint64_t budget;
	atomic_uint_fast64_t held; /* bytes of feeds' answers that are on their way */
	atomic_uint active;        /* requests between headers and the end of their answer */
	atomic_bool stopping;

	pthread_mutex_t queue_lock; /* waiting, taken, and the answers of their requests */
	struct call_list waiting, taken;
	int event; /* eventfd, readable while `waiting` is not empty */

	pthread_mutex_t follow_lock; /* the list, its length, and each stream's `asleep`, `news` and `ended` */
	struct stream_list followers;
	unsigned follower_count;
};

#endif
