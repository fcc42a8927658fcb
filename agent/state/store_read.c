/* SPDX-License-Identifier: Apache-2.0 */
/* The database's rows → a snapshot and the rulebook. What cannot be understood is damage. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "agent/base/mem.h"
#include "agent/model/decode.h"
#include "agent/state/store_private.h"

static int row_damaged(const struct database *db, const char *table, const char *what, struct error *e)
{
	error_set(e, ERROR_SYSTEM, EIO, NULL, "%s is damaged: a row of table %s cannot be read: %s", db->path, table, what);
	return DATABASE_DAMAGED;
}

int store_read_meta(const struct database *db, struct meta *ret, struct error *e)
{
	struct row row = row_start(db, STATEMENT_META_READ);
	struct meta meta = {.next_rule = 1};
	int result;
	while ((result = row_next(&row, e)) > 0) {
		char key[32];
		snprintf(key, sizeof(key), "%s", row_take_text(&row));
		const char *value = row_take_text(&row);
		if (!row_take_sum(&row)) {
			row_end(&row);
			return row_damaged(db, "meta", key, e);
		}
		if (!strcmp(key, "epoch"))
			snprintf(meta.epoch, sizeof(meta.epoch), "%s", value);
		else if (!strcmp(key, "revision"))
			meta.revision = strtoull(value, NULL, 10);
		else if (!strcmp(key, "next_rule"))
			meta.next_rule = strtoul(value, NULL, 10);
	}
	if (result == 0)
		*ret = meta;
	return result;
}

/* One stored object; nobody else knows it yet, so owner and revision are filled in place. */
static struct object *object_read(const char *text, const char *owner, uint64_t revision, char why[512])
{
	struct object *object = NULL;
	struct errors errors = {0};
	if (object_restore(text, &object, &errors) < 0) {
		object = NULL;
		snprintf(why, 512, "%.200s: %.300s", errors.count ? errors.list[0].path : "",
			errors.count ? errors.list[0].detail : "it is no object");
	} else {
		free(object->owner);
		object->owner = str_dup(owner);
		object->revision = revision;
	}
	errors_clear(&errors);
	return object;
}

static int read_objects(const struct database *db, struct draft *draft, struct error *e)
{
	struct row row = row_start(db, STATEMENT_OBJECTS_READ);
	int result;
	while ((result = row_next(&row, e)) > 0) {
		char why[512] = "its checksum is wrong";
		const char *kind = row_take_text(&row), *namespace = row_take_text(&row), *name = row_take_text(&row);
		const char *owner = row_take_text(&row);
		uint64_t revision = row_take_int(&row);
		const char *json = row_take_text(&row);
		struct object *object = row_take_sum(&row) ? object_read(json, owner, revision, why) : NULL;
		if (object && (strcmp(kinds[object->kind].kind, kind) || strcmp(object->namespace, namespace) ||
						  strcmp(object->name, name))) {
			snprintf(why, sizeof(why), "its key is not its object's");
			object_put(object);
			object = NULL;
		}
		if (!object) {
			auto_free char *what = str_format("%s %s/%s: %s", kind, namespace, name, why);
			row_end(&row);
			return row_damaged(db, "objects", what, e);
		}
		draft_put(draft, object);
	}
	return result;
}

static int read_quarantine(const struct database *db, struct draft *draft, struct error *e)
{
	struct row row = row_start(db, STATEMENT_QUARANTINE_READ);
	int result;
	while ((result = row_next(&row, e)) > 0) {
		struct quarantined q = {.key.kind = (char *)row_take_text(&row)};
		q.key.namespace = (char *)row_take_text(&row);
		q.key.name = (char *)row_take_text(&row);
		q.owner = (char *)row_take_text(&row);
		q.errors = (char *)row_take_text(&row);
		uint64_t standing = row_take_int(&row);
		q.isolating = standing == QUARANTINE_ISOLATING;
		int kind = kind_by_name(q.key.kind);
		if (standing && kind >= 0)
			q.standing = (struct object *)draft_find(draft, kind, q.key.namespace, q.key.name);
		if (!row_take_sum(&row) || (standing && !q.standing)) {
			auto_free char *what = str_format("%s %s/%s: %s", q.key.kind, q.key.namespace, q.key.name,
				row.bad ? "its checksum is wrong" : "what stands in for it is not there");
			row_end(&row);
			return row_damaged(db, "quarantine", what, e);
		}
		draft_quarantine(draft, &q);
	}
	return result;
}

static int read_owners(const struct database *db, struct draft *draft, struct error *e)
{
	struct row row = row_start(db, STATEMENT_OWNERS_READ);
	int result;
	while ((result = row_next(&row, e)) > 0) {
		const char *name = row_take_text(&row);
		bool has_term = row_take_int(&row);
		uint64_t term = row_take_int(&row);
		int64_t last_write = row_take_int(&row);
		if (!row_take_sum(&row)) {
			auto_free char *what = str_dup(name);
			row_end(&row);
			return row_damaged(db, "owners", what, e);
		}
		draft_owner(draft, name, has_term ? &term : NULL, last_write);
	}
	return result;
}

int store_read_snapshot(const struct database *db, const struct meta *meta, struct snapshot **ret, struct error *e)
{
	struct snapshot *empty = snapshot_new(meta->epoch);
	struct draft *draft = draft_new(empty);
	snapshot_put(empty);
	int result = read_objects(db, draft, e);
	if (result == 0)
		result = read_quarantine(db, draft, e);
	if (result == 0)
		result = read_owners(db, draft, e);
	if (result < 0) {
		draft_free(draft);
		return result;
	}
	*ret = draft_complete(draft, meta->revision);
	return 0;
}

int store_read_rules(
	const struct database *db, const struct meta *meta, struct rulebook *book, struct map *stored, struct error *e)
{
	struct row row = row_start(db, STATEMENT_RULES_READ);
	int result;
	while ((result = row_next(&row, e)) > 0) {
		struct rule_identity identity = {.id = row_take_int(&row)};
		int kind = kind_by_name(row_take_text(&row));
		identity.namespace = (char *)row_take_text(&row);
		identity.name = (char *)row_take_text(&row);
		identity.direction = row_take_int(&row);
		identity.index = row_take_int(&row);
		identity.rule_name = (char *)row_take_text(&row);
		if (!row_take_sum(&row) || kind < 0 || identity.id == 0 || identity.id >= meta->next_rule ||
			identity.direction >= DIRECTIONS || identity.index < -1) {
			auto_free char *what = str_format("rule %u", identity.id);
			row_end(&row);
			return row_damaged(db, "rules", what, e);
		}
		identity.kind = kind;
		rulebook_seed(book, &identity);
		uint64_t mark = rule_mark(&identity);
		map_put(stored, &identity.id, &mark);
	}
	return result;
}
