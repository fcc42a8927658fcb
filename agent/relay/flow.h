/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The flows of one thread, by their client and destination, and the order in which they run out of time. Pure: knows
 * no socket and no clock.
 */
#ifndef PENSTOCK_RELAY_FLOW_H
#define PENSTOCK_RELAY_FLOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "agent/base/map.h"
#include "agent/relay/address.h"

/* Each has a timeout of its own. */
enum flow_state {
	FLOW_ASKING,   /* no answer yet */
	FLOW_ANSWERED, /* the server has sent something */
	FLOW_REFUSED,  /* kept so that what comes of it costs nothing and is told once; its time is not prolonged */
	FLOW_STATES
};

/* Compared as bytes: flow_key_make makes them. */
struct flow_key {
	union address client, destination;
};
struct flow {
	struct flow_key key;
	/* private */
	enum flow_state state;
	int64_t since_ms;
	struct flow *next, *previous; /* of the same state, longest idle first */
};
struct flow_list {
	struct flow *first, *last;
};
struct flows {
	int64_t timeout_ms[FLOW_STATES];
	/* private */
	struct map map; /* flow_key → struct flow * */
	struct flow_list lists[FLOW_STATES];
};

void flow_key_make(struct flow_key *ret, const union address *client, const union address *destination);

void flows_init(struct flows *flows);
void flows_clear(struct flows *flows); /* there are none any more */
size_t flows_count(const struct flows *flows);
struct flow *flows_find(const struct flows *flows, const struct flow_key *key);
/* The caller's, with its key, which no other has; it stays where it is until it is removed. */
void flows_add(struct flows *flows, struct flow *flow, enum flow_state state, int64_t now_ms);
void flows_remove(struct flows *flows, struct flow *flow);
/* Something moved. answered: it came from the server. */
void flows_touch(struct flows *flows, struct flow *flow, bool answered, int64_t now_ms);
/* Idle for longest, of any state; NULL when there is none. */
struct flow *flows_oldest(const struct flows *flows);
/* One whose time is over, or NULL: then *wait_ms is how long the next has, -1 when there is none. */
struct flow *flows_expired(const struct flows *flows, int64_t now_ms, int64_t *wait_ms);

#endif
