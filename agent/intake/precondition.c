/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/intake/precondition.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Whether a header's list of entity tags names this one. In a strong comparison a weak tag never matches. */
static bool tags_name(const char *header, const char *tag, bool weak)
{
	size_t length = strlen(tag);
	for (const char *at = header; *at;) {
		at += strspn(at, " \t,");
		if (weak && !strncmp(at, "W/", 2))
			at += 2;
		size_t here = strcspn(at, ",");
		size_t end = here;
		while (end && (at[end - 1] == ' ' || at[end - 1] == '\t'))
			end--;
		if (end == length && !memcmp(at, tag, length))
			return true;
		at += here;
	}
	return false;
}

static bool any_tag(const char *header)
{
	return !strcmp(header + strspn(header, " \t"), "*");
}

int precondition_check(const struct call *call, const struct snapshot *base, struct error *e)
{
	bool one = call->verb == CALL_PUT_OBJECT || call->verb == CALL_DELETE_OBJECT || call->verb == CALL_PATCH_CIDR_SET;
	const struct object *object = one ? snapshot_find(base, call->kind, call->namespace, call->name) : NULL;
	bool exists = !one || object;
	char tag[48];
	snprintf(tag, sizeof(tag), "\"%s-%" PRIu64 "\"", base->epoch, object ? object->revision : base->revision);

	if (call->if_match && !(exists && (any_tag(call->if_match) || tags_name(call->if_match, tag, false)))) {
		if (!exists)
			return error_set(e, ERROR_PRECONDITION, EINVAL, "", "If-Match: the object does not exist");
		return error_set(e, ERROR_PRECONDITION, EINVAL, "", "If-Match: the ETag is %s now", tag);
	}
	/* An asterisk among tags is no proper list: read as what refuses, in both. */
	if (call->if_none_match && exists &&
		(tags_name(call->if_none_match, "*", true) || tags_name(call->if_none_match, tag, true)))
		return error_set(
			e, ERROR_PRECONDITION, EINVAL, "", "If-None-Match: %s exists", one ? "the object" : "the state");
	return 0;
}
