/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/relay/flow.h"

#include <string.h>

/* Only what tells two apart: padding and flow labels do not. */
static void copy_address(union address *to, const union address *from)
{
	to->any.sa_family = from->any.sa_family;
	address_port_set(to, address_port(from));
	if (from->any.sa_family == AF_INET) {
		to->four.sin_addr = from->four.sin_addr;
	} else {
		to->six.sin6_addr = from->six.sin6_addr;
		to->six.sin6_scope_id = from->six.sin6_scope_id;
	}
}

void flow_key_make(struct flow_key *ret, const union address *client, const union address *destination)
{
	memset(ret, 0, sizeof *ret);
	copy_address(&ret->client, client);
	copy_address(&ret->destination, destination);
}

/* ---- lists ---- */

static void list_remove(struct flow_list *list, struct flow *flow)
{
	*(flow->previous ? &flow->previous->next : &list->first) = flow->next;
	*(flow->next ? &flow->next->previous : &list->last) = flow->previous;
}

static void list_append(struct flow_list *list, struct flow *flow)
{
	flow->next = NULL;
	flow->previous = list->last;
	*(list->last ? &list->last->next : &list->first) = flow;
	list->last = flow;
}

/* ---- the table ---- */

void flows_init(struct flows *flows)
{
	map_init(&flows->map, sizeof(struct flow_key), sizeof(struct flow *));
}

void flows_clear(struct flows *flows)
{
	map_clear(&flows->map);
}

size_t flows_count(const struct flows *flows)
{
	return flows->map.count;
}

struct flow *flows_find(const struct flows *flows, const struct flow_key *key)
{
	struct flow **place = map_get(&flows->map, key);
	return place ? *place : NULL;
}

void flows_add(struct flows *flows, struct flow *flow, enum flow_state state, int64_t now_ms)
{
	flow->state = state;
	flow->since_ms = now_ms;
	map_put(&flows->map, &flow->key, &flow);
	list_append(&flows->lists[state], flow);
}

void flows_remove(struct flows *flows, struct flow *flow)
{
	map_delete(&flows->map, &flow->key);
	list_remove(&flows->lists[flow->state], flow);
}

void flows_touch(struct flows *flows, struct flow *flow, bool answered, int64_t now_ms)
{
	bool turns = answered && flow->state == FLOW_ASKING;
	if (flow->state == FLOW_REFUSED || (flow->since_ms == now_ms && !turns))
		return;
	list_remove(&flows->lists[flow->state], flow);
	flow->state = turns ? FLOW_ANSWERED : flow->state;
	flow->since_ms = now_ms;
	list_append(&flows->lists[flow->state], flow);
}

struct flow *flows_oldest(const struct flows *flows)
{
	struct flow *oldest = NULL;
	for (int state = 0; state < FLOW_STATES; state++) {
		struct flow *first = flows->lists[state].first;
		if (first && (!oldest || first->since_ms < oldest->since_ms))
			oldest = first;
	}
	return oldest;
}

struct flow *flows_expired(const struct flows *flows, int64_t now_ms, int64_t *wait_ms)
{
	*wait_ms = -1;
	for (int state = 0; state < FLOW_STATES; state++) {
		struct flow *first = flows->lists[state].first;
		int64_t left = first ? first->since_ms + flows->timeout_ms[state] - now_ms : 0;
		if (first && left <= 0)
			return first;
		if (first && (*wait_ms < 0 || left < *wait_ms))
			*wait_ms = left;
	}
	return NULL;
}
