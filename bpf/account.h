/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Counting: the last step of every packet. */
#ifndef PENSTOCK_ACCOUNT_H
#define PENSTOCK_ACCOUNT_H

#include "bpf/maps.h"

static __always_inline void account_packet(__u32 direction, __u32 verdict, __u32 reason, __u32 bytes)
{
	__u32 index = PS_COUNT_INDEX(direction, verdict, reason);
	struct ps_count *count = bpf_map_lookup_elem(&ps_count, &index);

	if (count) {
		count->packets++;
		count->bytes += bytes;
	}
}

/* Programs on sockets count as well, and packets' programs interrupt them: a plain increment would lose one now and
 * then. */
static __always_inline void account_stat(__u32 stat)
{
	__u64 *count = bpf_map_lookup_elem(&ps_stat, &stat);

	if (count)
		__sync_fetch_and_add(count, 1);
}

static __always_inline void account_proxy(__u32 proxy)
{
	__u64 *count = bpf_map_lookup_elem(&ps_proxy_count, &proxy);

	if (count)
		(*count)++;
}

static __always_inline void account_rule(__u32 rule)
{
	__u64 *hits;

	if (rule == PS_RULE_NONE)
		return;
	hits = bpf_map_lookup_elem(&ps_rule_hits, &rule);
	if (hits)
		(*hits)++;
}

#endif
