/* SPDX-License-Identifier: Apache-2.0 */
/* The look for proxies' listeners, for its files: who is there (listeners.c), groups of SO_REUSEPORT
 * (listeners_group.c), rows of ps_listener (listeners_rows.c). All of it under the lock `look`. */
#ifndef PENSTOCK_LISTENERS_LOOK_H
#define PENSTOCK_LISTENERS_LOOK_H

#include <pthread.h>
#include "agent/base/map.h"
#include "agent/datapath/listeners.h"
#include "agent/datapath/private.h"

struct wanted {
	char *name;
	struct proxy proxy; /* its strings are copies */
	uint32_t chosen;
};

/* A socket as one proxy sees it. */
struct listener {
	struct heard heard;
	size_t proxy; /* in `wanted` */
	bool seen;    /* by the present look */
	bool matches; /* a process was found that the conditions choose */
	bool adopted; /* by this process; else its row tells */
	bool shared;  /* with somebody who is not chosen, and who would get a part of what it is sent */
	unsigned int tries;
	int64_t due; /* ms: /proc is searched for it again */
	uint32_t uid;
	int32_t pid;
	int fd; /* its number there */
	char executable[EXECUTABLE_MAX];
	char why[WHY_MAX]; /* it is not usable */
};

struct guard; /* listeners_group.c */

struct listeners {
	struct datapath *datapath;
	pthread_t thread;
	bool running;
	pthread_mutex_t look;
	pthread_cond_t wake;
	bool stop, told;
	bool deaf; /* the last look saw nothing */
	bool deaf_to_udp;
	int64_t udp_due; /* ms: not before */
	int diag;
	char *base; /* cgroup_base() */
	struct wanted *wanted;
	size_t wanted_count;
	struct listener *list;
	size_t count, capacity;
	struct exempt *exempt;
	struct map rows; /* struct ps_key_listener → struct row: as in the kernel */
	struct guard *guards;
	size_t guard_count, guard_capacity;

	int event;
	pthread_mutex_t lock;
	struct listener_status *status;
	size_t status_count;
};

/* ---- rows of ps_listener (listeners_rows.c) ---- */

void listener_rows_open(struct listeners *ls);
void listener_rows_take_over(struct listeners *ls, int64_t now); /* what an earlier agent left; ms */
/* It stays wanted until the time of a look, `now` (ms), is long ago. False: the map is full. */
bool listener_row_want(struct listeners *ls, const struct listener *l, uint32_t chosen, uint32_t value, int64_t now);
void listener_row_drop(struct listeners *ls, const struct listener *l, uint32_t chosen); /* at once */
bool listener_row_there(const struct listeners *ls, const struct listener *l, uint32_t chosen);
void listener_rows_expire(struct listeners *ls, int64_t now);

/* ---- groups in which not all are chosen (listeners_group.c) ---- */

void groups_look(struct listeners *ls, int64_t now); /* also says which are shared */
void groups_end(struct listeners *ls);               /* while it is known who is there */
void groups_close(struct listeners *ls);             /* they stay as they are */

#endif
