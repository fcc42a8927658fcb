/* SPDX-License-Identifier: Apache-2.0 */
/* The kinds by every name a kubectl user would type. */
#ifndef PENSTOCK_RESOURCE_H
#define PENSTOCK_RESOURCE_H

#include <stdbool.h>
#include "agent/model/object.h"

struct resource {
	enum kind id;
	const char *kind, *plural;
	bool namespaced;
};
extern const struct resource resources[KIND_COUNT];
/* Plural, singular, kind or short name, in any case. NULL when there is none. */
const struct resource *resource_find(const char *name);

#endif
