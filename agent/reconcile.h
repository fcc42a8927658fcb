/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The applying thread's work: a call becomes a candidate, the candidate becomes tables, the tables become live, and
 * only then is it answered. All or nothing: whatever fails before the flip leaves kernel, disk and GET as they were.
 */
#ifndef PENSTOCK_RECONCILE_H
#define PENSTOCK_RECONCILE_H

#include "agent/config.h"
#include "agent/datapath/datapath.h"
#include "agent/observe/flows.h"
#include "agent/observe/metrics.h"
#include "agent/state/board.h"
#include "agent/state/store.h"
#include "api/server/server.h"

struct reconciler;

struct reconcile_rooms { /* borrowed */
	const struct config *config;
	struct datapath *datapath;
	struct store *store;
	struct board *board;
	struct metrics *metrics;
	struct flows *flows; /* told of each flip */
	const char *damaged; /* the state database was set aside: why; NULL otherwise */
};
int reconcile_new(const struct reconcile_rooms *rooms, struct reconciler **ret, struct error *e);
void reconcile_free(struct reconciler *r);

/* Bring the kernel to what the database says. Call again after a failure; readiness follows. */
int reconcile_start(struct reconciler *r);
bool reconcile_started(const struct reconciler *r);
/* Whether netlink's news are of use: they are not read before the first revision is live. */
bool reconcile_listens(const struct reconciler *r);
/* Answers the calls, in order. Those that waited together share one flip; each has its own revision and its own fate.
 */
void reconcile_calls(struct reconciler *r, struct call **calls, size_t count);
/* Netlink has news; all: look at everything, and mend what somebody else took away. */
void reconcile_interfaces(struct reconciler *r, bool all);
/* A piece of the audit of the maps, which mends what it finds. True: there is more of this round. */
bool reconcile_audit(struct reconciler *r);
/* Who listens for a proxy has changed. */
void reconcile_listeners(struct reconciler *r);
/* Another engine from now on, for what begins (ENGINE_COUNT: auto). One that cannot be had: nothing changes. */
int reconcile_engine(struct reconciler *r, enum engine engine);
/* The old side, after an answer. */
void reconcile_settle(struct reconciler *r);

#endif
