/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections seen: the last `keep` events of the kernel's ring, with the names that were right when each came. One
 * thread takes events and adds them (watch.c); HTTP's threads read. Everything here may be called from any thread.
 */
#ifndef PENSTOCK_FLOWS_H
#define PENSTOCK_FLOWS_H

#include <stdbool.h>
#include <stdint.h>
#include "agent/base/buffer.h"
#include "agent/compile/compile.h"
#include "agent/observe/metrics.h"
#include "api/server/server.h"

/* What an event means in words, as far as the agent knew when it came. Texts are shared, counted and immutable. */
struct flow {
	uint64_t number; /* from 1, without gaps; connections (GET /v1/connections) have 0 */
	int64_t time;    /* ns since 1970 */
	struct ps_event event;
	uint64_t revision;            /* or FLOW_REVISION_UNKNOWN */
	const char *workload[2];      /* "namespace/name" of source and destination; NULL: none */
	const char *backend;          /* the same of the Service's backend */
	const char *proxy;            /* NULL: none */
	const struct rule_item *rule; /* NULL: none; lives as long as the flow */
};

#define FLOW_REVISION_UNKNOWN UINT64_MAX /* judged before the agent started, or too many revisions ago */

struct flows;
/* keep: how many are remembered (flows.keep); memory is taken as they come. */
struct flows *flows_new(uint32_t keep, struct metrics *metrics);
void flows_free(struct flows *flows);

/* Gives the event its names and remembers it; `each` (may be NULL) sees the flow before this returns. */
void flows_add(struct flows *flows, const struct ps_event *event, void (*each)(void *context, const struct flow *flow),
	void *context);
/* Now and then, when nothing comes: whose an address is, is noticed near the time when it changes. */
void flows_look(struct flows *flows);
/* An event's names, without remembering it. True: the filter lets it through, and flows_forget releases the names. */
bool flows_name(struct flows *flows, const struct ps_event *event, const struct feed_filter *filter, struct flow *ret);
void flows_forget(struct flows *flows, struct flow *flow);
/* Whose interfaces are, all of them: of one who sends in somebody else's name nothing else is known. Copied. */
struct flow_interface {
	uint32_t ifindex;
	const char *namespace, *name;
};
void flows_interfaces(struct flows *flows, const struct flow_interface *list, size_t count);
/* Which revision a generation of the live tables held: told at each flip. */
void flows_flipped(struct flows *flows, uint32_t generation, uint64_t revision);

/* Whether a filter of the API lets it through: workload and ip mean either end, port the destination's. */
bool flow_matches(const struct flow *flow, const struct feed_filter *filter);
bool workload_matches(const char *workload, const char *wanted); /* NULL is none; wanted as in struct feed_filter */
/* The record of the contract, one JSON object without a line end; a connection (number 0) without event and time. */
void flow_render(const struct flow *flow, struct buffer *out);

/* GET /v1/flows: appends records, comma-separated, the last `filter->limit` that match (0: all), newest last. */
void flows_list(struct flows *flows, const struct feed_filter *filter, struct buffer *out);
/* Follow: appends lines of what matches and came after *after (0: all that is kept), about `most` bytes at most; moves
 * *after, which says nothing to the caller. What was overwritten before it could be read is told by {"lost":N}. */
void flows_follow(
	struct flows *flows, const struct feed_filter *filter, uint64_t *after, size_t most, struct buffer *out);
/* How many those were, of all who follow. */
uint64_t flows_missed(const struct flows *flows);
/* GET /v1/connections: the document, of what `walk` (datapath_connections) gives before this returns; newest last. It
 * is rendered while it is sent. *held: bytes, until it is freed. */
struct text_source *flows_connections(struct flows *flows, const struct feed_filter *filter,
	void (*walk)(void *walker, bool (*each)(void *context, const struct ps_event *event), void *context), void *walker,
	size_t *held);

#endif
