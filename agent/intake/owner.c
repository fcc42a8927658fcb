/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "agent/intake/private.h"

/* An object in quarantine has its owner also when nothing stands in for it. */
bool owner_allows(struct intake *in, const char *pointer, const struct object_key *key)
{
	int kind = kind_by_name(key->kind);
	const struct object *object = kind < 0 ? NULL : snapshot_find(in->base, kind, key->namespace, key->name);
	const struct quarantined *aside =
		kind < 0 || object ? NULL : snapshot_quarantined(in->base, key->kind, key->namespace, key->name);
	const char *owner = object ? object->owner : aside ? aside->owner : NULL;
	if (!owner || in->call->force || strcmp(owner, in->call->owner) == 0)
		return true;
	errors_add(in->errors, ERROR_CONFLICT, pointer, "%s %s%s%s belongs to owner \"%s\"; force=true takes it over",
		key->kind, key->namespace, key->namespace[0] ? "/" : "", key->name, owner);
	return false;
}

/* Whose objects it is about: DELETE /v1/owners/{name} names them in its path. */
const char *owner_written(const struct call *call)
{
	return call->verb == CALL_DELETE_OWNER ? call->name : call->owner;
}

int owner_term(struct intake *in)
{
	const char *written = owner_written(in->call);
	if (!in->call->has_term)
		return 0;
	for (size_t i = 0; i < in->base->owner_count; i++) {
		const struct owner *owner = &in->base->owners[i];
		if (strcmp(owner->name, written) || !owner->has_term || owner->term <= in->call->term)
			continue;
		errors_add(in->errors, ERROR_CONFLICT, "",
			"owner \"%s\" has written with term %" PRIu64 "; %" PRIu64 " is an old one", owner->name, owner->term,
			in->call->term);
		return -EINVAL;
	}
	return 0;
}

bool owner_moves(const struct intake *in)
{
	const char *written = owner_written(in->call);
	for (size_t i = 0; i < in->base->owner_count; i++) {
		const struct owner *owner = &in->base->owners[i];
		if (!strcmp(owner->name, written))
			return in->call->has_term && (!owner->has_term || owner->term != in->call->term);
	}
	return true;
}
