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

/* ---- the answer ---- */

/* Half a million records are some 300 MB of text, so there is never more of it than a piece. */
struct connections {
	struct text_source source;
	struct flows *flows;
	struct flow *list;
	size_t at, count;
};

static bool connections_next(struct text_source *source, struct buffer *out)
{
	struct connections *c = (struct connections *)source;
	buffer_puts(out, !c->at ? "{\"items\":[" : c->at < c->count ? "," : "");
	if (c->at < c->count) {
		struct flow *flow = &c->list[c->at++];
		flow_render(flow, out);
		flows_forget(c->flows, flow);
	}
	if (c->at < c->count)
		return true;
	buffer_puts(out, "]}\n");
	return false;
}

static void connections_free(struct text_source *source)
{
	struct connections *c = (struct connections *)source;
	while (c->at < c->count)
		flows_forget(c->flows, &c->list[c->at++]);
	free(c->list);
	free(c);
}

struct text_source *flows_connections(struct flows *flows, const struct feed_filter *filter,
	void (*walk)(void *walker, bool (*each)(void *context, const struct ps_event *event), void *context), void *walker,
	size_t *held)
{
	struct gathering g = {.flows = flows, .filter = filter};
	flows_look(flows);
	walk(walker, entry_gather, &g);
	newest_keep(&g);
	struct connections *c = mem_alloc(sizeof(*c));
	*c = (struct connections){{connections_next, connections_free}, flows, g.list, 0, g.count};
	*held = g.room * sizeof(*g.list);
	return &c->source;
}
