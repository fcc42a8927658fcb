/* SPDX-License-Identifier: Apache-2.0 */
/* Between the store's reading and writing half. */
#ifndef PENSTOCK_STATE_STORE_PRIVATE_H
#define PENSTOCK_STATE_STORE_PRIVATE_H

#include "agent/base/map.h"
#include "agent/compile/compile.h"
#include "agent/state/database.h"
#include "agent/state/private.h"

/* Table meta; "" and 0 where it has no row. */
struct meta {
	char epoch[17];
	uint64_t revision;
	uint32_t next_rule;
};

/* Column standing of table quarantine: what stands in for the object. */
enum { QUARANTINE_ABSENT, QUARANTINE_LAST_GOOD, QUARANTINE_ISOLATING };

int store_read_meta(const struct database *db, struct meta *ret, struct error *e);
int store_read_snapshot(const struct database *db, const struct meta *meta, struct snapshot **ret, struct error *e);
/* Seeds the book and notes in `stored` (id → mark) what the table holds. */
int store_read_rules(
	const struct database *db, const struct meta *meta, struct rulebook *book, struct map *stored, struct error *e);

/* Of an identity only its rule's name can change while it lives. */
uint64_t rule_mark(const struct rule_identity *identity);

#endif
