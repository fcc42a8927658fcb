/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/compile/space.h"
#include <string.h>
#include "agent/base/mem.h"
#include "agent/compile/compiled.h"
#include "agent/compile/group.h"

static int label_compare(const void *a, const void *b)
{
	return strcmp(((const struct label *)a)->key, ((const struct label *)b)->key);
}

/* The object's labels and the name label, whatever the object says that one is. */
static void space_label(struct space *space)
{
	size_t count = space->object ? space->object->labels.count : 0;
	struct label *list = mem_array(count + 1, sizeof(*list));
	size_t kept = 0;
	for (size_t i = 0; i < count; i++)
		if (strcmp(space->object->labels.list[i].key, LABEL_SPACE_NAME))
			list[kept++] = space->object->labels.list[i];
	list[kept++] = (struct label){.key = (char *)LABEL_SPACE_NAME, .value = space->name};
	qsort(list, kept, sizeof(*list), label_compare);
	free(space->labels.list);
	space->labels = (struct labels){.list = list, .count = kept};
}

struct space *space_take(struct compiler *c, const char *name)
{
	struct space *space = names_get(&c->spaces, name);
	if (!space) {
		space = mem_alloc(sizeof(*space));
		space->name = str_dup(name);
		link_init(&space->groups);
		link_init(&space->compiled);
		link_init(&space->terms);
		space_label(space);
		names_put(&c->spaces, name, space);
	}
	space->references++;
	return space;
}

void space_drop(struct compiler *c, struct space *space)
{
	if (!space || --space->references)
		return;
	names_delete(&c->spaces, space->name);
	if (space->object)
		object_put(space->object);
	free(space->labels.list);
	free(space->name);
	free(space);
}

bool labels_equal(const struct labels *a, const struct labels *b)
{
	if (a->count != b->count)
		return false;
	for (size_t i = 0; i < a->count; i++)
		if (strcmp(a->list[i].key, b->list[i].key) || strcmp(a->list[i].value, b->list[i].value))
			return false;
	return true;
}

void space_describe(struct compiler *c, const char *name, const struct object *object)
{
	struct space *space = space_take(c, name);
	const struct object *old = space->object;
	struct labels before = space->labels;
	space->labels = (struct labels){0};
	space->object = object ? object_get(object) : NULL;
	space_label(space);
	if (!labels_equal(&before, &space->labels)) {
		LINKS_EACH(at, &space->groups)
		group_touch(c, OWNER_OF(at, struct group, in_space), GROUP_TERMS | GROUP_PROFILE);
	}
	free(before.list);
	if (old)
		object_put(old);
	/* A description is a reference of its own. */
	if (object && !old)
		space->references++;
	if (!object && old)
		space->references--;
	space_drop(c, space);
}
