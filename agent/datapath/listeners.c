/* SPDX-License-Identifier: Apache-2.0 */
/* Who listens on the proxies' ports, and makes them usable. */
#include "agent/datapath/private.h"

void datapath_proxies(struct datapath *datapath, const struct proxy_wanted *proxies, size_t count)
{
}
