/* SPDX-License-Identifier: Apache-2.0 */
/* GET /v1/connections: entries of connection tracking, by the names of flows. */
#include <stdlib.h>
#include <string.h>
#include "agent/base/mem.h"
#include "agent/observe/flows.h"

struct gathering {
	struct flows *flows;
	const struct feed_filter *filter;
	struct flow *list;
	size_t count, room;
};

/* By the time at which they began. */
static int flow_order(const void *a, const void *b)
{
	const struct flow *x = a, *y = b;
	return (x->event.opened > y->event.opened) - (x->event.opened < y->event.opened);
}

static void newest_keep(struct gathering *g)
{
	size_t more = g->filter->limit && g->count > g->filter->limit ? g->count - (size_t)g->filter->limit : 0;
	if (g->count) /* else there is no list */
		qsort(g->list, g->count, sizeof(*g->list), flow_order);
	for (size_t i = 0; i < more; i++)
		flows_forget(g->flows, &g->list[i]);
	if (more)
		memmove(g->list, g->list + more, (g->count - more) * sizeof(*g->list));
	g->count -= more;
}

/* With a limit no more than twice as many are held, and a little. */
static bool entry_gather(void *context, const struct ps_event *event)
{
	struct gathering *g = context;
	struct flow flow;
	if (!flows_name(g->flows, event, g->filter, &flow))
		return true;
	g->list = list_room(g->list, g->count, &g->room, sizeof(*g->list));
	g->list[g->count++] = flow;
	if (g->filter->limit && g->count > 1024 && g->count / 2 > g->filter->limit)
		newest_keep(g);
	return true;
}

void flows_connections(struct flows *flows, const struct feed_filter *filter,
	void (*walk)(void *walker, bool (*each)(void *context, const struct ps_event *event), void *context), void *walker,
	struct buffer *out)
{
	struct gathering g = {.flows = flows, .filter = filter};
	flows_look(flows);
	walk(walker, entry_gather, &g);
	newest_keep(&g);
	for (size_t i = 0; i < g.count; i++) {
		buffer_puts(out, i ? "," : "");
		flow_render(&g.list[i], out);
		flows_forget(flows, &g.list[i]);
	}
	free(g.list);
}
