/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PENSTOCK_RELAY_LISTENER_H
#define PENSTOCK_RELAY_LISTENER_H

#include "agent/base/error.h"
#include "agent/relay/options.h"

/*
 * `count` sockets that listen on one address and share what comes (SO_REUSEPORT). *transparent becomes false when they
 * are not transparent: then somebody with more privilege has to make them so. 0 or -errno.
 */
int listeners_open(const struct listen *where, unsigned count, int ret[], bool *transparent, struct error *e);

#endif
