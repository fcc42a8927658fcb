/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "agent/base/map.h"
#include "agent/model/object.h"

uint32_t proxy_chosen(const struct proxy *proxy)
{
	if (proxy->uid < 0 && !*proxy->cgroup && !*proxy->executable)
		return 0;
	uint64_t hash = hash_bytes(&proxy->uid, sizeof(proxy->uid), 0);
	hash = hash_bytes(proxy->cgroup, strlen(proxy->cgroup) + 1, hash);
	hash = hash_bytes(proxy->executable, strlen(proxy->executable) + 1, hash);
	return (uint32_t)(hash ^ hash >> 32) | 1;
}
