/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/compile/group.h"
#include <string.h>
#include "agent/base/mem.h"
#include "agent/compile/class.h"
#include "agent/compile/holder.h"
#include "agent/compile/space.h"
#include "agent/compile/term.h"

struct port_name *port_name_take(struct compiler *c, const char *text)
{
	struct port_name *name = names_get(&c->port_names, text);
	if (!name) {
		name = mem_alloc(sizeof(*name));
		name->text = str_dup(text);
		name->id = ++c->next_port_name;
		names_put(&c->port_names, text, name);
	}
	name->references++;
	return name;
}

void port_name_drop(struct compiler *c, struct port_name *name)
{
	if (--name->references)
		return;
	names_delete(&c->port_names, name->text);
	free(name->text);
	free(name);
}

static const struct labels *group_labels(const struct group *group)
{
	return &group->source->labels;
}

struct group_key {
	const struct space *space;
	const struct labels *labels;
	const struct group_port *ports;
	size_t port_count;
};

static uint64_t group_hash(const struct group_key *key)
{
	uint64_t hash = hash_bytes(&key->space, sizeof(key->space), 0);
	for (size_t i = 0; i < key->labels->count; i++) {
		const struct label *label = &key->labels->list[i];
		hash = hash_bytes(label->key, strlen(label->key), hash);
		hash = hash_bytes(label->value, strlen(label->value), hash);
	}
	for (size_t i = 0; i < key->port_count; i++) {
		uint32_t port[] = {key->ports[i].name->id, (uint32_t)key->ports[i].protocol << 16 | key->ports[i].port};
		hash = hash_bytes(port, sizeof(port), hash);
	}
	return hash;
}

static bool group_same(const struct interned *item, const void *context)
{
	const struct group *group = OWNER_OF(item, struct group, interned);
	const struct group_key *key = context;
	if (group->space != key->space || group->port_count != key->port_count)
		return false;
	for (size_t i = 0; i < key->port_count; i++) {
		const struct group_port *a = &group->ports[i], *b = &key->ports[i];
		if (a->name != b->name || a->port != b->port || a->protocol != b->protocol)
			return false;
	}
	return labels_equal(group_labels(group), key->labels);
}

static int group_port_compare(const void *left, const void *right)
{
	const struct group_port *a = left, *b = right;
	if (a->name->id != b->name->id)
		return a->name->id < b->name->id ? -1 : 1;
	if (a->protocol != b->protocol)
		return a->protocol < b->protocol ? -1 : 1;
	return (a->port > b->port) - (a->port < b->port);
}

/* The named ports, sorted; takes references on the names. */
static struct group_port *group_ports_read(struct compiler *c, const struct object *object, size_t *count)
{
	*count = 0;
	if (object->kind == KIND_NODE || !object->workload->port_count)
		return NULL;
	const struct workload *workload = object->workload;
	struct group_port *ports = mem_array(workload->port_count, sizeof(*ports));
	for (size_t i = 0; i < workload->port_count; i++) {
		const struct named_port *port = &workload->ports[i];
		if (port->name && port->name[0])
			ports[(*count)++] = (struct group_port){port_name_take(c, port->name), port->port, port->protocol};
	}
	qsort(ports, *count, sizeof(*ports), group_port_compare);
	size_t kept = 0;
	for (size_t i = 0; i < *count; i++) {
		if (kept && !group_port_compare(&ports[kept - 1], &ports[i]))
			port_name_drop(c, ports[i].name);
		else
			ports[kept++] = ports[i];
	}
	*count = kept;
	return ports;
}

static void group_ports_free(struct compiler *c, struct group_port *ports, size_t count)
{
	for (size_t i = 0; i < count; i++)
		port_name_drop(c, ports[i].name);
	free(ports);
}

struct group *group_take(struct compiler *c, const struct object *object)
{
	struct space *space = object->kind == KIND_NODE ? NULL : space_take(c, object->namespace);
	struct group_key key = {.space = space, .labels = &object->labels};
	struct group_port *ports = group_ports_read(c, object, &key.port_count);
	key.ports = ports;
	uint64_t hash = group_hash(&key);
	struct interned *found = intern_find(&c->groups, hash, group_same, &key);
	if (found) {
		group_ports_free(c, ports, key.port_count);
		space_drop(c, space);
		return OWNER_OF(found, struct group, interned);
	}
	struct group *group = mem_alloc(sizeof(*group));
	group->space = space;
	group->source = object_get(object);
	group->ports = ports;
	group->port_count = key.port_count;
	link_init(&group->holders);
	link_init(&group->crossings);
	link_init(&group->in_space);
	link_init(&group->in_local);
	link_init(&group->dirty);
	link_add(&c->all_groups, &group->in_all);
	if (space)
		link_add(&space->groups, &group->in_space);
	intern_add(&c->groups, &group->interned, hash);
	c->group_count++;
	group_touch(c, group, GROUP_TERMS);
	return group;
}

void group_touch(struct compiler *c, struct group *group, unsigned what)
{
	group->touched |= what;
	if (link_alone(&group->dirty))
		link_add(&c->dirty_groups, &group->dirty);
}

void group_source_change(struct group *group, const struct object *old, const struct object *new)
{
	if (group->source != old)
		return;
	group->source = object_get(new);
	object_put(old);
}

void group_free(struct compiler *c, struct group *group)
{
	intern_remove(&c->groups, &group->interned);
	c->group_count--;
	link_remove(&group->dirty);
	link_remove(&group->in_all);
	link_remove(&group->in_space);
	link_remove(&group->in_local);
	group_ports_free(c, group->ports, group->port_count);
	words_free(&group->terms);
	words_free(&group->pairs);
	space_drop(c, group->space);
	object_put(group->source);
	free(group);
}

void group_pairs(struct group *group, struct words *ret)
{
	ret->count = 0;
	for (size_t i = 0; i < group->port_count; i++) {
		const struct group_port *port = &group->ports[i];
		if (!port->name->term || !words_have(&group->terms, port->name->term->id))
			continue;
		uint32_t id = port->name->term->id, value = (uint32_t)port->protocol << 16 | port->port;
		/* By term id: few, so they are put in their place one by one. */
		words_add(ret, id);
		words_add(ret, value);
		uint32_t at = ret->count - 2;
		for (; at && (ret->list[at - 2] > id || (ret->list[at - 2] == id && ret->list[at - 1] > value)); at -= 2) {
			ret->list[at] = ret->list[at - 2];
			ret->list[at + 1] = ret->list[at - 1];
			ret->list[at - 2] = id;
			ret->list[at - 1] = value;
		}
	}
}

void group_content_changed(struct compiler *c, struct group *group)
{
	LINKS_EACH(at, &group->crossings)
	crossing_touch(c, OWNER_OF(at, struct crossing, in_group));
}

static bool words_equal(const struct words *a, const struct words *b)
{
	return a->count == b->count && (!a->count || !memcmp(a->list, b->list, a->count * sizeof(*a->list)));
}

void group_match(struct compiler *c, struct group *group)
{
	struct words terms = {0}, pairs = {0};
	c->work.groups_matched++;
	terms_of_group(c, group, &terms);
	bool changed = !group->matched || !words_equal(&terms, &group->terms);
	words_free(&group->terms);
	group->terms = terms;
	group_pairs(group, &pairs);
	changed |= !words_equal(&pairs, &group->pairs);
	words_free(&group->pairs);
	group->pairs = pairs;
	group->matched = true;
	if (changed)
		group_content_changed(c, group);
}
