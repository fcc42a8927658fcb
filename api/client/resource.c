/* SPDX-License-Identifier: Apache-2.0 */
#include "api/client/resource.h"

#include <string.h>
#include <strings.h>

/* kubectl's short names where it has some. */
static const char *const short_names[KIND_COUNT] = {
	[KIND_NAMESPACE] = "ns",
	[KIND_NODE] = "no",
	[KIND_POD] = "po",
	[KIND_SERVICE] = "svc",
	[KIND_ENDPOINT_SLICE] = "eps ep",
	[KIND_WORKLOAD] = "wl",
	[KIND_NETWORK_POLICY] = "netpol",
	[KIND_CLUSTER_NETWORK_POLICY] = "cnp",
	[KIND_TRANSPARENT_PROXY] = "tproxy proxy proxies",
	[KIND_INTERCEPT_POLICY] = "intercept icp",
	[KIND_NODE_FILTER] = "nf",
	[KIND_CIDR_SET] = "cidrs cidr",
};

const struct resource resources[KIND_COUNT] = {
#define X(name, kind_, api_version, plural_, namespaced_, ...) \
	[KIND_##name] = {KIND_##name, kind_, plural_, namespaced_},
	KINDS(X)
#undef X
};

static bool has_word(const char *words, const char *wanted)
{
	size_t length = strlen(wanted);
	for (const char *at = words; at && *at; at += strcspn(at, " "), at += strspn(at, " "))
		if (strcspn(at, " ") == length && strncasecmp(at, wanted, length) == 0)
			return true;
	return false;
}

const struct resource *resource_find(const char *name)
{
	for (int kind = 0; kind < KIND_COUNT; kind++) {
		/* the singular is the kind in small letters */
		if (strcasecmp(resources[kind].kind, name) == 0 || strcasecmp(resources[kind].plural, name) == 0 ||
			has_word(short_names[kind], name))
			return &resources[kind];
	}
	return NULL;
}
