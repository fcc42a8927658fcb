/* SPDX-License-Identifier: Apache-2.0 */
/* The thread that takes what the kernel tells: events into flows and detectors, four times a second what is counted. */
#ifndef PENSTOCK_WATCH_H
#define PENSTOCK_WATCH_H

#include "agent/base/error.h"
#include "agent/observe/alerts.h"
#include "agent/observe/flows.h"

struct watch_source {
	void *context;
	/* Waits up to `wait` ms for events and gives each; how many there were, or a negative errno. */
	int (*events)(void *context, int wait, void (*each)(void *argument, const struct ps_event *event), void *argument);
	void (*wake)(void *context); /* ends such a wait; NULL: it ends by itself */
	int (*counts)(void *context, struct datapath_counts *ret);
	bool (*map_fill)(void *context, size_t *at, struct map_fill *ret);
	/* Names of proxies that are wanted and that nobody serves; the caller frees each and the list. */
	size_t (*proxies_down)(void *context, char ***ret);
	/* What connection tracking holds (datapath_connections); NULL: nobody can tell. */
	void (*connections)(void *context, bool (*each)(void *argument, const struct ps_event *event), void *argument);
	/* Something new to read for those who follow. */
	void (*news)(void *context, enum feed feed);
};

struct watch;
int watch_start(
	const struct watch_source *source, struct flows *flows, struct alerts *alerts, struct watch **ret, struct error *e);
/* The thread has ended: no more news. What it found out can still be read. NULL is fine for both. */
void watch_stop(struct watch *watch);
void watch_free(struct watch *watch);
/* What happened before this call has become flows when it returns, unless it is so much that it takes more than 100 ms.
 * Any thread. */
void watch_hurry(struct watch *watch);
/* What the thread found out by itself, for metrics: handshake times, a histogram. */
#define HANDSHAKE_BOUNDS 14
extern const double watch_bounds[HANDSHAKE_BOUNDS]; /* seconds, without +Inf */
struct handshakes {
	uint64_t buckets[HANDSHAKE_BOUNDS + 1]; /* not cumulative */
	double sum;                             /* seconds */
};
void watch_handshakes(struct watch *watch, struct handshakes *ret);

#endif
