/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A profile whose policies changed a little: what they say about other peers is kept. Without it one changed policy
 * among a hundred thousand rules would cost as much as all of them.
 */
#ifndef PENSTOCK_RENEW_H
#define PENSTOCK_RENEW_H

#include "agent/compile/profile.h"

/* All groups went from `old` to `new`, whose sides are not made yet. True: `old` has taken its place and its groups,
 * and `new` is gone. False: they differ in something that concerns every peer, and nothing was done. */
bool profile_renew(struct compiler *c, struct profile *old, struct profile *new);

#endif
