/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PENSTOCK_RELAY_LISTENER_H
#define PENSTOCK_RELAY_LISTENER_H

#include "agent/base/error.h"
#include "agent/relay/options.h"

/*
 * `count` sockets of a type (SOCK_STREAM, SOCK_DGRAM) that listen on one address and share what comes (SO_REUSEPORT).
 * *transparent becomes false when they
 * are not transparent: then somebody with more privilege has to make them so. 0 or -errno.
 */
int listeners_open(const struct listen *where, int type, unsigned count, int ret[], bool *transparent, struct error *e);
/* This address and port is one that the relay listens on. routes: address_routes_open(). */
bool listener_is(const struct options *options, int routes, const union address *address);

#endif
