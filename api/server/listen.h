/* SPDX-License-Identifier: Apache-2.0 */
/* Listening sockets, non-blocking. */
#ifndef PENSTOCK_LISTEN_H
#define PENSTOCK_LISTEN_H

#include "agent/base/error.h"

/*
 * At path, mode 0660, with this group (name or number); directories above are made. A socket file that nobody listens
 * on is replaced; a live one is ERROR_BUSY, anything else there ERROR_INVALID.
 */
int listen_unix(const char *path, const char *group, int *ret, struct error *e);
/* "host:port", "[v6]:port", ":port". */
int listen_tcp(const char *address, int *ret, struct error *e);

#endif
