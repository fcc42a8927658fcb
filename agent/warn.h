/* SPDX-License-Identifier: Apache-2.0 */
/* What is accepted and may still surprise its author: said in the answer. */
#ifndef PENSTOCK_WARN_H
#define PENSTOCK_WARN_H

#include "agent/compile/compile.h"
#include "agent/datapath/datapath.h"
#include "agent/intake/intake.h"

/* tried: the candidate is not applied, and its workloads are looked for on this node; else the compiler knows them. */
void candidate_warn(const struct candidate *candidate, const struct compiler *compiler, struct datapath *datapath,
	bool tried, struct errors *warnings);

#endif
