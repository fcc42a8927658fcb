/* SPDX-License-Identifier: Apache-2.0 */
/* Intrusive doubly-linked lists: a member knows its neighbours, so it leaves in constant time. */
#ifndef PENSTOCK_LIST_H
#define PENSTOCK_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct link {
	struct link *next, *prev;
};

#define OWNER_OF(link, type, member) ((type *)((char *)(link)-offsetof(type, member)))
#define LINKS_EACH(at, head) for (struct link *at = (head)->next; at != (head); at = at->next)
/* The current member may leave. */
#define LINKS_EACH_SAFE(at, after, head) \
	for (struct link *at = (head)->next, *after = at->next; at != (head); at = after, after = at->next)

static inline void link_init(struct link *link)
{
	link->next = link->prev = link;
}
static inline bool link_alone(const struct link *link)
{
	return link->next == link;
}
static inline void link_add(struct link *head, struct link *link)
{
	link->prev = head->prev;
	link->next = head;
	head->prev->next = link;
	head->prev = link;
}
static inline void link_remove(struct link *link)
{
	link->prev->next = link->next;
	link->next->prev = link->prev;
	link_init(link);
}

#endif
