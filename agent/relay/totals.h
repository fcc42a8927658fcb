/* SPDX-License-Identifier: Apache-2.0 */
/* What one thread has carried. It alone counts, any may read. */
#ifndef PENSTOCK_RELAY_TOTALS_H
#define PENSTOCK_RELAY_TOTALS_H

#include <stdatomic.h>
#include <stdint.h>
#include "agent/relay/onward.h"

/* Of connections, or of UDP flows. */
struct totals {
	_Atomic uint64_t sources[SOURCE_COUNT], open, refused, failed, ended;
	_Atomic uint64_t evicted, lost; /* UDP: flows that had to make room, datagrams that were not handed on */
};

static inline void totals_count(_Atomic uint64_t *counter, int64_t by)
{
	atomic_fetch_add_explicit(counter, (uint64_t)by, memory_order_relaxed);
}

#endif
