/* SPDX-License-Identifier: Apache-2.0 */
/* What the compiler does to the rulebook; readers see compile.h. */
#ifndef PENSTOCK_RULEBOOK_H
#define PENSTOCK_RULEBOOK_H

#include "agent/compile/compile.h"

/* The id of this identity, a new one when it has none; live until dropped as often as taken. */
uint32_t rulebook_take(struct rulebook *book, enum kind kind, const char *namespace, const char *name,
	enum direction direction, int index, const char *rule_name);
void rulebook_drop(struct rulebook *book, uint32_t id);

#endif
