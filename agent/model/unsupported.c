/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What this build decodes and validates but does not enforce: refused, so that 200 always means enforced. Each
 * capability that arrives deletes its lines here.
 */
#include "agent/model/schema.h"

#define NOT_ENFORCED "not enforced by this build"

static void protocols_unsupported(struct walk *w, const json_t *rule)
{
	size_t i, before = walk_key(w, "protocols");
	json_t *protocol;
	json_array_foreach(json_object_get(rule, "protocols"), i, protocol)
	{
		if (!json_object_get(protocol, "sctp"))
			continue;
		size_t entry = walk_index(w, i);
		walk_error_key(w, "sctp", "interception of anything but TCP and UDP is " NOT_ENFORCED);
		walk_leave(w, entry);
	}
	walk_leave(w, before);
}

/* name: "to" of egress rules, "from" of ingress rules. */
static void peers_unsupported(struct walk *w, const json_t *rule, const char *name)
{
	static const char *const fields[] = {"domainNames", "cidrSet"};
	size_t i, before = walk_key(w, name);
	json_t *peer;
	json_array_foreach(json_object_get(rule, name), i, peer)
	{
		size_t entry = walk_index(w, i);
		for (size_t j = 0; j < sizeof(fields) / sizeof(*fields); j++)
			if (json_object_get(peer, fields[j]))
				walk_error_key(w, fields[j], "%s peers are " NOT_ENFORCED, fields[j]);
		walk_leave(w, entry);
	}
	walk_leave(w, before);
}

static void rules_unsupported(struct walk *w, const json_t *spec, const char *name, const char *peers)
{
	size_t i, before = walk_key(w, name);
	json_t *rule;
	json_array_foreach(json_object_get(spec, name), i, rule)
	{
		size_t entry = walk_index(w, i);
		peers_unsupported(w, rule, peers);
		protocols_unsupported(w, rule);
		walk_leave(w, entry);
	}
	walk_leave(w, before);
}

static void intercept_unsupported(struct walk *w, const json_t *spec)
{
	rules_unsupported(w, spec, "egress", "to");
	rules_unsupported(w, spec, "ingress", "from");
}

void unsupported_check(struct walk *w, const json_t *pruned)
{
	const json_t *spec = json_object_get(pruned, "spec");
	if (!kinds[w->kind].enforced) {
		walk_error_key(w, "kind", "%s is " NOT_ENFORCED, kinds[w->kind].kind);
		return;
	}
	size_t before = walk_key(w, "spec");
	if (w->kind == KIND_INTERCEPT_POLICY)
		intercept_unsupported(w, spec);
	walk_leave(w, before);
}
