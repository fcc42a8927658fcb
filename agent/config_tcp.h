/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PENSTOCK_CONFIG_TCP_H
#define PENSTOCK_CONFIG_TCP_H

#include "agent/config.h"

/* Whether the keys of the TCP listener go together, and are safe together; an error's path is the key to blame. */
int config_tcp_check(const struct config *config, struct error *e);

#endif
