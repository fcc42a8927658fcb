/* SPDX-License-Identifier: Apache-2.0 */
/* The applying thread: waits for calls, netlink news and signals, one thing at a time. */
#ifndef PENSTOCK_LOOP_H
#define PENSTOCK_LOOP_H

#include "agent/reconcile.h"

struct loop {
	struct reconciler *reconciler;
	struct server *server;
	struct datapath *datapath;
	uint32_t audit_period_ms;
	/* SIGHUP: read the configuration again. */
	void (*reload)(void *context);
	void *context;
};
/* Signals must be blocked in every thread before (loop_signals_block). Runs until SIGTERM or SIGINT; 0, or a negative
 * errno. */
int loop_run(struct loop *loop, struct error *e);
void loop_signals_block(void);

#endif
