/* SPDX-License-Identifier: Apache-2.0 */
#include "api/server/throttle.h"

#include <string.h>

void throttle_init(struct throttle *throttle, unsigned burst, unsigned per_second)
{
	throttle->burst = burst;
	throttle->per_second = per_second;
	pthread_mutex_init(&throttle->lock, NULL);
}

void throttle_free(struct throttle *throttle)
{
	pthread_mutex_destroy(&throttle->lock);
}

static struct throttle_slot *slot_find(struct throttle *throttle, const struct ip *from)
{
	uint32_t hash = 2166136261u; /* FNV-1a */
	for (size_t at = 0; at < sizeof(from->bytes); at++)
		hash = (hash ^ from->bytes[at]) * 16777619u;
	struct throttle_slot *set = throttle->slots[(hash ^ hash >> 16) % THROTTLE_SETS], *oldest = set;
	for (int at = 0; at < THROTTLE_WAYS; at++) {
		if (set[at].last && ip_equal(&set[at].from, from))
			return &set[at];
		if (set[at].last < oldest->last)
			oldest = &set[at];
	}
	*oldest = (struct throttle_slot){.from = *from, .left = throttle->burst};
	return oldest;
}

bool throttle_take(struct throttle *throttle, const struct ip *from, uint64_t now)
{
	struct ip key = *from;
	if (key.family == 6)
		memset(key.bytes + 8, 0, 8);
	pthread_mutex_lock(&throttle->lock);
	struct throttle_slot *slot = slot_find(throttle, &key);
	if (slot->last && now > slot->last)
		slot->left += (double)(now - slot->last) / 1e9 * throttle->per_second;
	if (slot->left > throttle->burst)
		slot->left = throttle->burst;
	slot->last = now;
	bool taken = slot->left >= 1;
	slot->left -= taken ? 1 : 0;
	pthread_mutex_unlock(&throttle->lock);
	return taken;
}
