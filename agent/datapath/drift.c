/* SPDX-License-Identifier: Apache-2.0 */
/* What somebody else took away or changed, and was put back. */
#include "agent/datapath/private.h"

void drift_note(struct datapath *d, enum drift what, uint64_t count)
{
	atomic_fetch_add(&d->repairs[what], count);
}

uint64_t datapath_repairs(const struct datapath *datapath, enum drift what)
{
	return atomic_load(&datapath->repairs[what]);
}
