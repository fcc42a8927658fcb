/* SPDX-License-Identifier: Apache-2.0 */
/* Capacity is checked before anything is written: what does not fit is refused whole. */
#include <errno.h>
#include "agent/compile/compiler.h"

#define PORT_CLASSES_MAX 65536 /* table port holds 16-bit numbers */

/* Entries of a hash or prefix table; for an array everything up to the highest index in use. */
static size_t table_need(const struct compiler *c, enum table_id id)
{
	switch (id) {
	case TABLE_endpoint:
		return ids_top(&c->endpoint_ids);
	case TABLE_profile:
		return ids_top(&c->profile_ids);
	case TABLE_row:
		return ids_top(&c->row_ids);
	case TABLE_proxy:
		return ids_top(&c->proxy_ids);
	default:
		return c->tables.table[id].wanted.count;
	}
}

int compiler_fits(const struct compiler *c, struct error *e)
{
	for (enum table_id id = 0; id < TABLE_COUNT; id++) {
		size_t need = table_need(c, id);
		if (need > table_infos[id].entries)
			return error_set(e, ERROR_NO_SPACE, ENOSPC, "", "table %s: %zu entries are needed, there is room for %zu",
				table_infos[id].name, need, table_infos[id].entries);
	}
	size_t classes = ids_top(&c->port_class_ids);
	if (classes > PORT_CLASSES_MAX)
		return error_set(e, ERROR_NO_SPACE, ENOSPC, "", "table port: %zu port classes are needed, there is room for %u",
			classes, PORT_CLASSES_MAX);
	return 0;
}
