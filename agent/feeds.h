/* SPDX-License-Identifier: Apache-2.0 */
/* What is seen and what is going on: flows, connections, alerts. Wires the kernel's events to them, and them to HTTP.
 */
#ifndef PENSTOCK_FEEDS_H
#define PENSTOCK_FEEDS_H

#include "agent/config.h"
#include "agent/observe/watch.h"

struct feeds;
/* Borrows the data path and metrics. */
struct feeds *feeds_new(const struct config *config, struct datapath *datapath, struct metrics *metrics);
/* NULL is fine. No HTTP thread may ask any more. */
void feeds_free(struct feeds *feeds);
struct flows *feeds_flows(struct feeds *feeds);

/* Begins to take events; `server` hears that there is something new, until feeds_stop. */
int feeds_start(struct feeds *feeds, struct server *server, struct error *e);
void feeds_stop(struct feeds *feeds); /* NULL is fine */

/* As server_options wants them. */
void feeds_list(struct feeds *feeds, enum feed feed, const struct feed_filter *filter, struct buffer *out);
struct text_source *feeds_connections(struct feeds *feeds, const struct feed_filter *filter, size_t *held);
void feeds_follow(struct feeds *feeds, enum feed feed, const struct feed_filter *filter, uint64_t *after, size_t most,
	struct buffer *out);
/* As metrics_source wants them. */
const double *feeds_handshakes(struct feeds *feeds, struct handshakes *ret);
uint64_t feeds_alerts(struct feeds *feeds, unsigned int kind);

#endif
