/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/compile/port.h"
#include <string.h>
#include "agent/base/mem.h"
#include "agent/model/object.h"

#define PORTS 65536u

int port_proto(uint8_t protocol)
{
	switch (protocol) {
	case PROTOCOL_TCP:
		return PS_PORT_TCP;
	case PROTOCOL_UDP:
		return PS_PORT_UDP;
	case PROTOCOL_SCTP:
		return PS_PORT_SCTP;
	default:
		return -1;
	}
}

struct term_key {
	int proto;
	uint16_t first, last;
};

static bool term_same(const struct interned *item, const void *context)
{
	const struct port_term *term = OWNER_OF(item, struct port_term, interned);
	const struct term_key *key = context;
	return term->proto == key->proto && term->first == key->first && term->last == key->last;
}

uint32_t port_term_take(struct compiler *c, int proto, uint16_t first, uint16_t last)
{
	struct term_key key = {proto, first, last};
	uint32_t words[] = {(uint32_t)proto, (uint32_t)first << 16 | last};
	uint64_t hash = hash_bytes(words, sizeof(words), 0);
	struct interned *found = intern_find(&c->port_terms, hash, term_same, &key);
	if (found) {
		struct port_term *term = OWNER_OF(found, struct port_term, interned);
		term->references++;
		return term->id;
	}
	struct port_term *term = mem_alloc(sizeof(*term));
	term->id = ids_take(&c->port_term_ids);
	term->references = 1;
	term->proto = (uint8_t)proto;
	term->first = first;
	term->last = last;
	link_init(&term->classes);
	link_add(&c->all_port_terms, &term->in_all);
	slots_set(&c->port_term_by_id, term->id, term);
	intern_add(&c->port_terms, &term->interned, hash);
	c->ports_touched[proto] = true;
	return term->id;
}

/* The number stays taken until the sweep: classes that end in this update still name it. */
void port_term_drop(struct compiler *c, uint32_t id)
{
	struct port_term *term = slots_get(&c->port_term_by_id, id);
	if (--term->references)
		return;
	intern_remove(&c->port_terms, &term->interned);
	link_remove(&term->in_all);
	link_add(&c->ended_port_terms, &term->in_all);
	c->ports_touched[term->proto] = true;
}

/* ---- classes ---- */

static bool class_same(const struct interned *item, const void *context)
{
	const struct port_class *class = OWNER_OF(item, struct port_class, interned);
	const struct words *words = context;
	return class->count == words->count && !memcmp(class->terms, words->list, class->count * sizeof(*class->terms));
}

static struct port_class *port_class_take(struct compiler *c, const struct words *words, int proto, uint32_t port)
{
	uint64_t hash = hash_bytes(words->list, words->count * sizeof(*words->list), 0);
	struct interned *found = intern_find(&c->port_classes, hash, class_same, words);
	if (found) {
		struct port_class *class = OWNER_OF(found, struct port_class, interned);
		class->references++;
		class->port = port;
		return class;
	}
	struct port_class *class = mem_alloc(sizeof(*class));
	class->id = NUMBER_NONE;
	class->references = 1;
	class->proto = proto;
	class->port = port;
	class->count = words->count;
	class->terms = mem_dup(words->list, words->count * sizeof(*words->list));
	class->links = mem_array(words->count, sizeof(*class->links));
	for (uint32_t i = 0; i < class->count; i++) {
		struct port_term *term = slots_get(&c->port_term_by_id, class->terms[i]);
		class->links[i].class = class;
		link_add(&term->classes, &class->links[i].in_term);
	}
	class->fresh = true;
	link_init(&class->waiting);
	link_add(&c->fresh_port_classes, &class->waiting);
	intern_add(&c->port_classes, &class->interned, hash);
	return class;
}

static void port_class_drop(struct compiler *c, struct port_class *class)
{
	if (!class || --class->references)
		return;
	intern_remove(&c->port_classes, &class->interned);
	class->ended = true;
	link_add(&c->ended_port_classes, &class->waiting);
}

/* ---- layouts ---- */

struct port_edge {
	uint32_t at; /* where the term begins, or the first port behind it */
	uint32_t term;
	bool begins;
};

static int edge_compare(const void *left, const void *right)
{
	const struct port_edge *a = left, *b = right;
	return (a->at > b->at) - (a->at < b->at);
}

static struct port_edge *edges_make(const struct compiler *c, int proto, size_t *count)
{
	struct port_edge *edges = NULL;
	size_t room = 0;
	*count = 0;
	LINKS_EACH(at, &c->all_port_terms)
	{
		const struct port_term *term = OWNER_OF(at, struct port_term, in_all);
		if (term->proto != proto)
			continue;
		edges = list_room(edges, *count + 1, &room, sizeof(*edges));
		edges[(*count)++] = (struct port_edge){term->first, term->id, true};
		edges[(*count)++] = (struct port_edge){term->last + 1u, term->id, false};
	}
	if (*count)
		qsort(edges, *count, sizeof(*edges), edge_compare);
	return edges;
}

/* One walk over all ports, with the terms that cover the current one. */
static struct port_layout *layout_make(struct compiler *c, int proto)
{
	size_t count;
	auto_free struct port_edge *edges = edges_make(c, proto, &count);
	struct port_layout *layout = mem_alloc(sizeof(*layout) + (count + 1) * sizeof(struct port_segment));
	struct words active = {0};
	layout->list[layout->count++] = (struct port_segment){0, NULL};
	for (size_t i = 0; i < count;) {
		uint32_t at = edges[i].at;
		for (; i < count && edges[i].at == at; i++) {
			if (edges[i].begins)
				words_insert(&active, edges[i].term);
			else
				words_remove(&active, edges[i].term);
		}
		if (at >= PORTS)
			break;
		if (at)
			layout->list[layout->count++].first = at;
		layout->list[layout->count - 1].class = active.count ? port_class_take(c, &active, proto, at) : NULL;
	}
	words_free(&active);
	return layout;
}

/* Each new class remembers the one that its first port was in. */
static void layout_inherit(const struct port_layout *old, const struct port_layout *new)
{
	size_t at = 0;
	for (size_t i = 0; old && i < new->count; i++) {
		while (at + 1 < old->count && old->list[at + 1].first <= new->list[i].first)
			at++;
		struct port_class *class = new->list[i].class;
		if (class && class->fresh && !class->predecessor)
			class->predecessor = old->list[at].class;
	}
}

static void layout_free(struct compiler *c, struct port_layout *layout)
{
	for (size_t i = 0; layout && i < layout->count; i++)
		port_class_drop(c, layout->list[i].class);
	free(layout);
}

static void layout_emit(struct compiler *c, int proto)
{
	const struct port_layout *layout = c->layouts[proto];
	struct ps_port_block block;
	size_t at = 0;
	for (uint32_t port = 0; port < PORTS; port++) {
		while (at + 1 < layout->count && layout->list[at + 1].first <= port)
			at++;
		const struct port_class *class = layout->list[at].class;
		block.port_class[port & 255] = class ? (uint16_t) class->id : PS_PORT_CLASS_NONE;
		if ((port & 255) == 255) {
			uint32_t index = (uint32_t)proto * 256 + (port >> 8);
			tables_put(&c->tables, TABLE_port, &index, &block);
		}
	}
}

static void port_classes_number(struct compiler *c)
{
	LINKS_EACH(at, &c->fresh_port_classes)
	{
		struct port_class *class = OWNER_OF(at, struct port_class, waiting), *before = class->predecessor;
		class->predecessor = NULL;
		if (!before || !before->ended || before->id == NUMBER_NONE)
			continue;
		class->id = before->id;
		before->id = NUMBER_NONE;
	}
	LINKS_EACH(at, &c->ended_port_classes)
	{
		struct port_class *class = OWNER_OF(at, struct port_class, waiting);
		if (class->id != NUMBER_NONE)
			ids_give(&c->port_class_ids, class->id);
	}
	LINKS_EACH(at, &c->fresh_port_classes)
	{
		struct port_class *class = OWNER_OF(at, struct port_class, waiting);
		if (class->id == NUMBER_NONE)
			class->id = ids_take(&c->port_class_ids);
	}
}

static void port_classes_touch(struct compiler *c, const struct link *classes, uint64_t stamp)
{
	LINKS_EACH(at, classes)
	{
		const struct port_class *class = OWNER_OF(at, struct port_class, waiting);
		for (uint32_t i = 0; i < class->count; i++)
			((struct port_term *)slots_get(&c->port_term_by_id, class->terms[i]))->touched = stamp;
	}
}

uint64_t ports_refresh(struct compiler *c)
{
	uint64_t stamp = ++c->stamp;
	struct port_layout *old[PS_PORT_PROTO_COUNT] = {0};
	for (int proto = 0; proto < PS_PORT_PROTO_COUNT; proto++) {
		if (!c->ports_touched[proto])
			continue;
		old[proto] = c->layouts[proto];
		c->layouts[proto] = layout_make(c, proto);
		layout_inherit(old[proto], c->layouts[proto]);
		c->work.port_rebuilds++;
	}
	for (int proto = 0; proto < PS_PORT_PROTO_COUNT; proto++)
		layout_free(c, old[proto]);
	port_classes_number(c);
	bool none = link_alone(&c->fresh_port_classes) && link_alone(&c->ended_port_classes);
	port_classes_touch(c, &c->fresh_port_classes, stamp);
	port_classes_touch(c, &c->ended_port_classes, stamp);
	for (int proto = 0; proto < PS_PORT_PROTO_COUNT; proto++) {
		if (c->ports_touched[proto])
			layout_emit(c, proto);
		c->ports_touched[proto] = false;
	}
	return none ? 0 : stamp;
}

static void port_class_free(struct port_class *class)
{
	for (uint32_t i = 0; i < class->count; i++)
		link_remove(&class->links[i].in_term);
	free(class->links);
	free(class->terms);
	free(class);
}

void ports_sweep(struct compiler *c)
{
	LINKS_EACH_SAFE(at, after, &c->fresh_port_classes)
	{
		OWNER_OF(at, struct port_class, waiting)->fresh = false;
		link_remove(at);
	}
	LINKS_EACH_SAFE(at, after, &c->ended_port_classes)
	{
		link_remove(at);
		port_class_free(OWNER_OF(at, struct port_class, waiting));
	}
	LINKS_EACH_SAFE(at, after, &c->ended_port_terms)
	{
		struct port_term *term = OWNER_OF(at, struct port_term, in_all);
		link_remove(at);
		ids_give(&c->port_term_ids, term->id);
		slots_set(&c->port_term_by_id, term->id, NULL);
		free(term);
	}
}

/* Number 0 means no port named, and the class of ports that no term covers. */
void ports_init(struct compiler *c)
{
	ids_take(&c->port_term_ids);
	ids_take(&c->port_class_ids);
}

void ports_free(struct compiler *c)
{
	for (int proto = 0; proto < PS_PORT_PROTO_COUNT; proto++)
		layout_free(c, c->layouts[proto]);
	ports_sweep(c);
	intern_clear(&c->port_terms);
	intern_clear(&c->port_classes);
	ids_free(&c->port_term_ids);
	ids_free(&c->port_class_ids);
	slots_free(&c->port_term_by_id);
}
