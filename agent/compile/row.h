/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A row is what is left of all rules once direction, subject and peer are known: steps over ports, in the order in
 * which they decide. It has a verdict for ports that no step names, and a cell for each port class that differs.
 */
#ifndef PENSTOCK_ROW_H
#define PENSTOCK_ROW_H

#include "agent/compile/compiled.h"

#define PORT_ANY 0u

struct step {
	uint32_t port; /* port term, or PORT_ANY: no port named */
	uint32_t rule;
	uint8_t stage;  /* enum stage */
	uint8_t action; /* enum rule_action */
	uint8_t proxy;
	uint8_t flags; /* STEP_* */
};
#define STEP_ISOLATION 1u /* selected, and no rule allowed it */
#define STEP_AUDIT 2u     /* of a policy in audit mode */

struct steps {
	struct step *list;
	size_t count, room;
};
struct row_cell {
	uint32_t port_class;
	struct ps_verdict verdict;
};
struct row {
	struct interned interned;
	uint32_t id;
	unsigned references; /* peer cases */
	struct step *steps;
	size_t step_count;
	bool audited; /* some step is of a policy in audit mode */
	struct ps_verdict base;
	struct row_cell *cells; /* as emitted */
	size_t cell_count;
	bool fresh, ended;
	struct link in_all, waiting;
};

void rows_init(struct compiler *c);
/* The row of these steps. Takes over the references on port terms; the list stays the caller's. */
struct row *row_take(struct compiler *c, const struct steps *steps);
void row_drop(struct compiler *c, struct row *row);
/* Rows that nobody has end, and let their port terms go. */
void rows_retire(struct compiler *c);
void rows_number(struct compiler *c);
/* Writes rows that are new, and the cells of those with a port term that ports_refresh touched under this stamp (0:
 * none). */
void rows_emit(struct compiler *c, uint64_t touched);
void rows_sweep(struct compiler *c);
void rows_free(struct compiler *c);

#endif
