/* SPDX-License-Identifier: Apache-2.0 */
/* Where a profile meets a class: all rules of the profile are asked, once for each different answer that is possible.
 */
#ifndef PENSTOCK_PAIR_H
#define PENSTOCK_PAIR_H

#include "agent/compile/class.h"
#include "agent/compile/profile.h"

struct pair {
	struct profile_side *side;
	struct class *class;
	struct peer_case *peer_case;
};

/* A side forgets what it has with classes of these terms, while it still has its old terms. */
void pairs_part(struct compiler *c, struct profile_side *side, const struct words *terms);
/* New profiles meet all classes, new classes all profiles; what ended lets its rows go. */
void pairs_refresh(struct compiler *c);
void pairs_emit(struct compiler *c);

#endif
