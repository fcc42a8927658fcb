/* SPDX-License-Identifier: Apache-2.0 */
/* If-Match and If-None-Match of a write (RFC 9110, 13.1): on one object its own revision, otherwise the whole state's.
 */
#ifndef PENSTOCK_PRECONDITION_H
#define PENSTOCK_PRECONDITION_H

#include "agent/state/snapshot.h"
#include "api/server/server.h"

/* 0, or -EINVAL with ERROR_PRECONDITION. */
int precondition_check(const struct call *call, const struct snapshot *base, struct error *e);

#endif
