/* SPDX-License-Identifier: Apache-2.0 */
/* How often something may happen on account of a remote address; of IPv6 its /64 counts. */
#ifndef PENSTOCK_THROTTLE_H
#define PENSTOCK_THROTTLE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include "agent/base/addr.h"

#define THROTTLE_SETS 256
#define THROTTLE_WAYS 4

struct throttle {
	pthread_mutex_t lock;
	unsigned burst, per_second; /* so many at once, and then these */
	struct throttle_slot {
		struct ip from;
		uint64_t last; /* monotonic nanoseconds; 0: free */
		double left;
	} slots[THROTTLE_SETS][THROTTLE_WAYS]; /* of a set that is full, the one that was seen longest ago gives way */
};

void throttle_init(struct throttle *throttle, unsigned burst, unsigned per_second);
void throttle_free(struct throttle *throttle);
/* Once more; false when it is too often. */
bool throttle_take(struct throttle *throttle, const struct ip *from, uint64_t now);

#endif
