/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/model/object.h"

#include <stdint.h>
#include <string.h>

#include "agent/base/mem.h"
#include "agent/model/content.h"
#include "agent/model/decode.h"

const struct kind_info kinds[KIND_COUNT] = {
#define X(name, kind, version, plural, namespaced, strict, enforced) \
	{kind, version, plural, namespaced, strict, enforced},
	KINDS(X)
#undef X
};

int kind_by_name(const char *kind)
{
	for (int i = 0; i < KIND_COUNT; i++)
		if (!strcmp(kinds[i].kind, kind))
			return i;
	return -1;
}

int kind_by_plural(const char *plural)
{
	for (int i = 0; i < KIND_COUNT; i++)
		if (!strcmp(kinds[i].plural, plural))
			return i;
	return -1;
}

const char *labels_get(const struct labels *labels, const char *key)
{
	size_t low = 0, high = labels->count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		int order = strcmp(key, labels->list[middle].key);
		if (!order)
			return labels->list[middle].value;
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
	}
	return NULL;
}

static void labels_clear(struct labels *labels)
{
	for (size_t i = 0; i < labels->count; i++) {
		free(labels->list[i].key);
		free(labels->list[i].value);
	}
	free(labels->list);
}

/* ---- content ---- */

static void strings_free(char **list)
{
	for (size_t i = 0; list && list[i]; i++)
		free(list[i]);
	free(list);
}

static void peer_clear(struct peer *peer)
{
	selector_free(peer->namespaces);
	selector_free(peer->pods);
	selector_free(peer->nodes);
	free(peer->except);
	free(peer->name);
	strings_free(peer->domains);
}

static void rule_clear(struct rule *rule)
{
	for (size_t i = 0; i < rule->peer_count; i++)
		peer_clear(&rule->peers[i]);
	for (size_t i = 0; i < rule->port_count; i++)
		free(rule->ports[i].name);
	free(rule->peers);
	free(rule->ports);
	free(rule->name);
	free(rule->proxy);
}

static void policy_free(struct policy *policy)
{
	if (!policy)
		return;
	for (int d = 0; d < DIRECTIONS; d++) {
		for (size_t i = 0; i < policy->rule_count[d]; i++)
			rule_clear(&policy->rules[d][i]);
		free(policy->rules[d]);
	}
	selector_free(policy->namespaces);
	selector_free(policy->pods);
	free(policy->cgroup);
	strings_free(policy->interfaces);
	free(policy);
}

static void workload_free(struct workload *workload)
{
	if (!workload)
		return;
	for (size_t i = 0; i < workload->port_count; i++)
		free(workload->ports[i].name);
	free(workload->ports);
	free(workload->ips);
	free(workload->sources);
	free(workload->node);
	free(workload->interface);
	free(workload);
}

static void content_free(struct object *object)
{
	switch (content_of(object->kind)) {
	case CONTENT_WORKLOAD:
		workload_free(object->workload);
		break;
	case CONTENT_POLICY:
		policy_free(object->policy);
		break;
	case CONTENT_NODE:
		if (object->node)
			free(object->node->ips);
		free(object->node);
		break;
	case CONTENT_PROXY:
		if (object->proxy) {
			free(object->proxy->cgroup);
			free(object->proxy->executable);
		}
		free(object->proxy);
		break;
	case CONTENT_SERVICE:
		service_free(object->service);
		break;
	case CONTENT_SLICE:
		slice_free(object->slice);
		break;
	case CONTENT_NONE:
		break;
	}
	labels_clear(&object->labels);
	free(object->namespace);
	free(object->name);
	free(object->json);
}

/* ---- references ---- */

struct object *object_get(const struct object *object)
{
	struct object *mine = (struct object *)(uintptr_t)object;
	__atomic_add_fetch(&mine->references, 1, __ATOMIC_RELAXED);
	return mine;
}

void object_put(const struct object *object)
{
	struct object *mine = (struct object *)(uintptr_t)object;
	if (!mine || __atomic_sub_fetch(&mine->references, 1, __ATOMIC_ACQ_REL))
		return;
	if (mine->content)
		object_put(mine->content);
	else
		content_free(mine);
	free(mine->owner);
	free(mine);
}

void object_cleanup(struct object **object)
{
	if (*object)
		object_put(*object);
}

int object_compare(const struct object *a, const struct object *b)
{
	if (a->kind != b->kind)
		return a->kind < b->kind ? -1 : 1;
	int order = strcmp(a->namespace, b->namespace);
	return order ? order : strcmp(a->name, b->name);
}

struct object *object_with(const struct object *object, const char *owner, uint64_t revision)
{
	struct object *copy = mem_dup(object, sizeof(*object));
	/* Everything but the owner is the first object's, which therefore lives as long as any copy. */
	copy->content = object_get(object->content ? object->content : object);
	copy->owner = str_dup(owner);
	copy->revision = revision;
	copy->references = 1;
	return copy;
}
