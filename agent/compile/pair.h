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

/* New profiles meet all classes, new classes all profiles; what ended lets its rows go. */
void pairs_refresh(struct compiler *c);
void pairs_emit(struct compiler *c);

#endif
