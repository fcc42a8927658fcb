/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/compile/rulebook.h"
#include <string.h>
#include "agent/base/map.h"
#include "agent/base/mem.h"
#include "agent/compile/list.h"

/* Identities that no table names any more are kept while a connection or an event may still name them: this many, the
 * oldest are forgotten first. */
#define RULEBOOK_DEAD_MAX 65536

struct entry {
	struct rule_identity identity;
	unsigned uses;
	struct link order; /* among the live or the dead, oldest first */
};
struct rulebook {
	struct names by_key;
	struct map by_id; /* id → struct entry * */
	struct link live, dead;
	size_t dead_count;
	uint32_t next_id;
};

struct rulebook *rulebook_new(uint32_t next_id)
{
	struct rulebook *book = mem_alloc(sizeof(*book));
	map_init(&book->by_id, sizeof(uint32_t), sizeof(struct entry *));
	link_init(&book->live);
	link_init(&book->dead);
	book->next_id = next_id ? next_id : 1;
	return book;
}

static void entry_free(struct entry *entry)
{
	link_remove(&entry->order);
	free(entry->identity.namespace);
	free(entry->identity.name);
	free(entry->identity.rule_name);
	free(entry);
}

void rulebook_free(struct rulebook *book)
{
	if (!book)
		return;
	LINKS_EACH_SAFE(at, after, &book->live)
	entry_free(OWNER_OF(at, struct entry, order));
	LINKS_EACH_SAFE(at, after, &book->dead)
	entry_free(OWNER_OF(at, struct entry, order));
	names_clear(&book->by_key);
	map_clear(&book->by_id);
	free(book);
}

static char *identity_key(enum kind kind, const char *namespace, const char *name, enum direction direction, int index)
{
	return str_format("%d/%d/%d/%s/%s", (int)kind, (int)direction, index, namespace, name);
}

static void rulebook_forget(struct rulebook *book, struct entry *entry)
{
	const struct rule_identity *identity = &entry->identity;
	auto_free char *key =
		identity_key(identity->kind, identity->namespace, identity->name, identity->direction, identity->index);
	names_delete(&book->by_key, key);
	map_delete(&book->by_id, &identity->id);
	entry_free(entry);
}

static void rulebook_bury(struct rulebook *book, struct entry *entry)
{
	link_add(&book->dead, &entry->order);
	if (++book->dead_count <= RULEBOOK_DEAD_MAX)
		return;
	book->dead_count--;
	rulebook_forget(book, OWNER_OF(book->dead.next, struct entry, order));
}

static struct entry *rulebook_add(struct rulebook *book, const char *key, const struct rule_identity *identity)
{
	struct entry *entry = mem_alloc(sizeof(*entry));
	entry->identity = *identity;
	entry->identity.namespace = str_dup(identity->namespace);
	entry->identity.name = str_dup(identity->name);
	entry->identity.rule_name = str_dup(identity->rule_name ? identity->rule_name : "");
	entry->identity.live = false;
	link_init(&entry->order);
	names_put(&book->by_key, key, entry);
	map_put(&book->by_id, &identity->id, &entry);
	if (identity->id >= book->next_id)
		book->next_id = identity->id + 1;
	return entry;
}

void rulebook_seed(struct rulebook *book, const struct rule_identity *identity)
{
	auto_free char *key =
		identity_key(identity->kind, identity->namespace, identity->name, identity->direction, identity->index);
	if (names_get(&book->by_key, key) || map_get(&book->by_id, &identity->id))
		return;
	rulebook_bury(book, rulebook_add(book, key, identity));
}

static struct entry *entry_find(const struct rulebook *book, uint32_t id)
{
	struct entry **found = map_get(&book->by_id, &id);
	return found ? *found : NULL;
}

const struct rule_identity *rulebook_find(const struct rulebook *book, uint32_t id)
{
	struct entry *entry = entry_find(book, id);
	return entry ? &entry->identity : NULL;
}

const struct rule_identity *rulebook_next(const struct rulebook *book, size_t *at)
{
	const void *key;
	void *value;
	return map_next(&book->by_id, at, &key, &value) ? &(*(struct entry **)value)->identity : NULL;
}

uint32_t rulebook_next_id(const struct rulebook *book)
{
	return book->next_id;
}

uint32_t rulebook_take(struct rulebook *book, enum kind kind, const char *namespace, const char *name,
	enum direction direction, int index, const char *rule_name)
{
	auto_free char *key = identity_key(kind, namespace, name, direction, index);
	struct entry *entry = names_get(&book->by_key, key);
	if (!entry) {
		struct rule_identity identity = {
			.id = book->next_id,
			.kind = kind,
			.namespace = (char *)namespace,
			.name = (char *)name,
			.direction = direction,
			.index = index,
			.rule_name = (char *)rule_name,
		};
		entry = rulebook_add(book, key, &identity);
	} else if (!entry->uses) {
		link_remove(&entry->order);
		book->dead_count--;
	}
	if (strcmp(entry->identity.rule_name, rule_name)) {
		free(entry->identity.rule_name);
		entry->identity.rule_name = str_dup(rule_name);
	}
	if (!entry->uses++)
		link_add(&book->live, &entry->order);
	entry->identity.live = true;
	return entry->identity.id;
}

void rulebook_drop(struct rulebook *book, uint32_t id)
{
	struct entry *entry = entry_find(book, id);
	if (!entry || --entry->uses)
		return;
	entry->identity.live = false;
	link_remove(&entry->order);
	rulebook_bury(book, entry);
}
