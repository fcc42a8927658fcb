/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "agent/base/gzip.h"
#include "agent/base/mem.h"
#include "agent/intake/precondition.h"
#include "agent/intake/private.h"

static int intake_body(const struct call *call, uint64_t body_max, struct buffer *inflated, const char **text,
	size_t *length, struct error *e)
{
	*text = call->body ? call->body : "";
	*length = call->body_length;
	if (!call->gzip)
		return 0;
	int result = gzip_inflate(call->body, call->body_length, body_max, inflated, e);
	if (result < 0)
		return result;
	*text = inflated->data ? inflated->data : "";
	*length = inflated->length;
	return 0;
}

/* All faults of one item, from the first one on; returns the index behind the last. */
static size_t item_set_aside(struct intake *in, const struct whole_fault *faults, size_t at, size_t count)
{
	struct whole_item *item = faults[at].item;
	struct errors why = {0};
	struct object_key key = {0};
	for (; at < count && faults[at].item == item; at++)
		errors_add_error(&why, &faults[at].error);
	snprintf(key.kind, sizeof(key.kind), "%s", kinds[item->object->kind].kind);
	snprintf(key.namespace, sizeof(key.namespace), "%s", item->object->namespace);
	snprintf(key.name, sizeof(key.name), "%s", item->object->name);
	item->object = NULL;
	object_set_aside(in, &(struct refusal){&key, item->pointer, &why}, NULL);
	errors_clear(&why);
	return at;
}

/*
 * Things that only the whole can say: two Workloads with one address, a rule that names an absent proxy. What is set
 * aside brings its last good version back, which others of the body may be at odds with: looked at again until nothing
 * is. Each round has fewer items of the body left.
 */
static void intake_whole(struct intake *in)
{
	bool quarantine = in->call->quarantine, again = true;
	while (again) {
		struct whole_fault *faults = NULL;
		size_t count = whole_check(in->draft, in->base, &in->items, quarantine, &faults), i = 0;
		again = false;
		while (i < count) {
			if (quarantine && faults[i].tolerable) {
				i++;
			} else if (quarantine && faults[i].item) {
				i = item_set_aside(in, faults, i, count);
				again = true;
			} else {
				errors_add_error(in->errors, &faults[i++].error);
			}
		}
		free(faults);
	}
}

static void candidate_make(struct intake *in, struct candidate *ret)
{
	const struct difference *differences;
	size_t all = draft_differences(in->draft, &differences), count = 0;
	ret->differences = mem_array(all, sizeof(*differences));
	for (size_t i = 0; i < all; i++)
		if (difference_matters(&differences[i]))
			ret->differences[count++] = differences[i];
	ret->difference_count = count;
	ret->changes = count || draft_quarantine_changed(in->draft);
	ret->durable = count < all || owner_moves(in) || in->call->verb == CALL_DELETE_OWNER;
	uint64_t revision = in->base->revision + ret->changes;
	ret->etag = revision;
	if (in->set_aside.length) {
		auto_free char *list = buffer_take(&in->set_aside);
		ret->set_aside = str_format("[%s]", list);
	}
	ret->snapshot = draft_finish(in->draft, revision);
	in->draft = NULL;
	/* draft_finish gives changed objects their revision by making them anew: take the pointers that last. */
	for (size_t i = 0; i < count; i++) {
		const struct object *new = ret->differences[i].new;
		if (new)
			ret->differences[i].new = snapshot_find(ret->snapshot, new->kind, new->namespace, new->name);
	}
	if (in->call->verb == CALL_PUT_OBJECT) {
		const struct object *o = snapshot_find(ret->snapshot, in->call->kind, in->call->namespace, in->call->name);
		ret->etag = o ? o->revision : revision;
	}
}

int intake_read(const struct call *call, const struct snapshot *base, uint64_t body_max, int64_t now,
	struct candidate *ret, struct errors *errors)
{
	struct intake in = {.call = call, .base = base, .errors = errors};
	struct buffer inflated = {0};
	struct error e = {0};
	const char *body;
	size_t length;

	memset(ret, 0, sizeof(*ret));
	map_init(&in.seen, 2 * sizeof(uint64_t), 0);
	if (precondition_check(call, base, &e) < 0 || intake_body(call, body_max, &inflated, &body, &length, &e) < 0) {
		errors_add_error(errors, &e);
	} else if (owner_term(&in) == 0) {
		in.draft = draft_new(base);
		intake_verb(&in, body, length);
		if (!errors->total)
			intake_whole(&in);
		if (!errors->total) {
			if (call->verb == CALL_DELETE_OWNER && !call->has_term)
				draft_owner_forget(in.draft, call->name);
			else
				draft_owner(in.draft, owner_written(call), call->has_term ? &call->term : NULL, now);
			candidate_make(&in, ret);
		}
	}
	if (in.draft)
		draft_free(in.draft);
	whole_items_clear(&in.items);
	map_clear(&in.seen);
	buffer_free(&in.set_aside);
	buffer_free(&inflated);
	return errors->total ? -EINVAL : 0;
}

static void object_member(struct buffer *out, const char *member, const struct object *object)
{
	auto_free char *text = object ? object_encode(object) : NULL;
	buffer_printf(out, ",\"%s\":%s", member, text ? text : "null");
}

char *candidate_changes(const struct candidate *candidate)
{
	struct buffer out = {0};
	buffer_puts(&out, "[");
	for (size_t at = 0; at < candidate->difference_count; at++) {
		const struct difference *d = &candidate->differences[at];
		const struct object *object = d->new ? d->new : d->old;
		buffer_printf(&out, "%s{\"kind\":\"%s\",\"namespace\":", at ? "," : "", kinds[object->kind].kind);
		buffer_json_string(&out, object->namespace);
		buffer_puts(&out, ",\"name\":");
		buffer_json_string(&out, object->name);
		object_member(&out, "old", d->old);
		object_member(&out, "new", d->new);
		buffer_puts(&out, "}");
	}
	buffer_puts(&out, "]");
	return buffer_take(&out);
}

void candidate_clear(struct candidate *candidate)
{
	if (candidate->snapshot)
		snapshot_put(candidate->snapshot);
	free(candidate->differences);
	free(candidate->set_aside);
	memset(candidate, 0, sizeof(*candidate));
}
