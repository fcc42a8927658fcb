/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/compile/row.h"
#include <string.h>
#include "agent/base/mem.h"
#include "agent/compile/port.h"

/* ---- which step decides ---- */

/* A port, standing for its whole class: a term covers all of it or none. proto -1: what has no port. */
struct place {
	int proto;
	uint32_t port;
};

static bool step_covers(const struct compiler *c, const struct step *step, struct place place)
{
	if (step->port == PORT_ANY)
		return true;
	const struct port_term *term = slots_get(&c->port_term_by_id, step->port);
	return term->proto == place.proto && term->first <= place.port && place.port <= term->last;
}

struct decision {
	struct ps_verdict verdict;
	bool rule_audited; /* verdict.rule is of a policy in audit mode */
	uint32_t passed;   /* the first Pass of a policy in audit mode that led on, or PS_RULE_NONE */
};

/*
 * The order in which policy decides about one direction. In each stage the first step that covers the port:
 *
 * 1 ClusterNetworkPolicies of the Admin tier, by priority, then name, then the place of the rule: Accept and Deny end
 *   the search at 5, Pass leads past the rest of the tier to 2
 * 2 NetworkPolicies: one that a rule of any of them allows is accepted; else, when any of them selects the workload in
 *   this direction, it is isolated: refused. Selected by none: 3
 * 3 ClusterNetworkPolicies of the Baseline tier, as 1; Pass leads to 4
 * 4 allowed by default
 * 5 InterceptPolicies, of what is allowed, by priority, then name, then the place of the rule: Intercept or Bypass.
 *   What is refused is said beside the refusal (row_intercept)
 *
 * audit: as if the policies in audit mode were enforced too; otherwise they are not there.
 */
static struct decision steps_judge(const struct compiler *c, const struct row *row, struct place place, bool audit)
{
	struct decision decision = {.verdict = {.action = PS_ACTION_ALLOW, .reason = PS_REASON_DEFAULT}}; /* 4 */
	struct ps_verdict *verdict = &decision.verdict;
	bool decided = false;
	int passed = -1;
	for (size_t i = 0; i < row->step_count; i++) {
		const struct step *step = &row->steps[i];
		bool intercept = step->stage == STAGE_INTERCEPT;
		if ((step->flags & STEP_AUDIT && !audit) || (!intercept && (decided || step->stage == passed)))
			continue;
		if (intercept && verdict->action == PS_ACTION_DENY)
			break; /* 5 is asked only of what is allowed */
		if (!step_covers(c, step, place))
			continue;
		switch ((enum rule_action)step->action) {
		case RULE_PASS: /* 1 to 2, 3 to 4 */
			passed = step->stage;
			if (step->flags & STEP_AUDIT && decision.passed == PS_RULE_NONE)
				decision.passed = step->rule;
			break;
		case RULE_INTERCEPT: /* 5 */
			verdict->action = PS_ACTION_INTERCEPT;
			verdict->proxy = step->proxy;
			verdict->intercept_rule = step->rule;
			return decision;
		case RULE_BYPASS: /* 5: said as well, so that nobody asks the other direction */
			verdict->intercept_rule = step->rule;
			return decision;
		default: /* 1, 2, 3: decided */
			decided = true;
			verdict->action = step->action == RULE_DENY ? PS_ACTION_DENY : PS_ACTION_ALLOW;
			verdict->reason = step->flags & STEP_ISOLATION ? PS_REASON_ISOLATED : PS_REASON_POLICY; /* 2 isolates */
			verdict->rule = step->rule;
			decision.rule_audited = step->flags & STEP_AUDIT;
		}
	}
	return decision;
}

/*
 * 5, of an address that policy refuses: it may be a Service's, of which policy judges the backends while
 * InterceptPolicy is about the address itself.
 */
static void row_intercept(const struct compiler *c, const struct row *row, struct place place, struct ps_verdict *ret)
{
	for (size_t i = 0; i < row->step_count; i++) {
		const struct step *step = &row->steps[i];
		if (step->stage != STAGE_INTERCEPT || step->flags & STEP_AUDIT || !step_covers(c, step, place))
			continue;
		ret->intercept_rule = step->rule;
		ret->proxy = step->action == RULE_INTERCEPT ? step->proxy : PS_PROXY_NONE;
		return;
	}
}

/*
 * What is enforced, and beside it what would be if the policies in audit mode were enforced too. audit_rule: the one
 * that makes the difference; where there is none, the one of audit mode that would have decided the same.
 */
static struct ps_verdict row_compare(const struct compiler *c, const struct row *row, struct place place)
{
	struct ps_verdict verdict = steps_judge(c, row, place, false).verdict;
	if (!row->audited)
		return verdict;
	struct decision decision = steps_judge(c, row, place, true);
	const struct ps_verdict *with = &decision.verdict;
	bool refusal = (with->action == PS_ACTION_DENY) != (verdict.action == PS_ACTION_DENY);
	bool other = refusal || with->action != verdict.action || with->proxy != verdict.proxy;
	bool either = with->action == PS_ACTION_INTERCEPT || verdict.action == PS_ACTION_INTERCEPT;
	if (!refusal && either && with->intercept_rule != verdict.intercept_rule) {
		verdict.audit_rule = with->intercept_rule;
		verdict.flags = PS_VERDICT_AUDIT_STEERS;
	} else {
		verdict.audit_rule = decision.rule_audited ? with->rule : decision.passed;
	}
	if (!other)
		return verdict;
	verdict.flags |= PS_VERDICT_AUDIT;
	if (with->action == PS_ACTION_INTERCEPT)
		verdict.flags |= PS_VERDICT_AUDIT_INTERCEPT;
	if (with->action == PS_ACTION_DENY)
		verdict.flags |= PS_VERDICT_AUDIT_DENY;
	if (with->reason == PS_REASON_ISOLATED)
		verdict.flags |= PS_VERDICT_AUDIT_ISOLATED;
	return verdict;
}

static struct ps_verdict row_judge(const struct compiler *c, const struct row *row, struct place place)
{
	struct ps_verdict verdict = row_compare(c, row, place);
	if (verdict.action == PS_ACTION_DENY)
		row_intercept(c, row, place, &verdict);
	return verdict;
}

/* ---- rows ---- */

static bool row_same(const struct interned *item, const void *context)
{
	const struct row *row = OWNER_OF(item, struct row, interned);
	const struct steps *steps = context;
	return row->step_count == steps->count &&
		   (!steps->count || !memcmp(row->steps, steps->list, steps->count * sizeof(*steps->list)));
}

static void steps_drop(struct compiler *c, const struct step *steps, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (steps[i].port != PORT_ANY)
			port_term_drop(c, steps[i].port);
}

struct row *row_take(struct compiler *c, const struct steps *steps)
{
	uint64_t hash = hash_bytes(steps->list, steps->count * sizeof(*steps->list), 0);
	struct interned *found = intern_find(&c->rows, hash, row_same, steps);
	if (found) {
		struct row *row = OWNER_OF(found, struct row, interned);
		steps_drop(c, steps->list, steps->count);
		row->references++;
		return row;
	}
	struct row *row = mem_alloc(sizeof(*row));
	row->id = NUMBER_NONE;
	row->references = 1;
	row->steps = mem_dup(steps->list, steps->count * sizeof(*steps->list));
	row->step_count = steps->count;
	for (size_t i = 0; i < row->step_count; i++)
		row->audited |= row->steps[i].flags & STEP_AUDIT;
	row->base = row_judge(c, row, (struct place){.proto = -1});
	row->fresh = true;
	link_init(&row->waiting);
	link_add(&c->fresh_rows, &row->waiting);
	link_add(&c->all_rows, &row->in_all);
	intern_add(&c->rows, &row->interned, hash);
	return row;
}

void row_drop(struct compiler *c, struct row *row)
{
	if (--row->references)
		return;
	if (row->fresh)
		link_remove(&row->waiting);
	if (link_alone(&row->waiting))
		link_add(&c->idle_rows, &row->waiting);
}

void rows_retire(struct compiler *c)
{
	LINKS_EACH_SAFE(at, after, &c->idle_rows)
	{
		struct row *row = OWNER_OF(at, struct row, waiting);
		if (row->references) {
			link_remove(at);
			if (row->fresh)
				link_add(&c->fresh_rows, at);
			continue;
		}
		intern_remove(&c->rows, &row->interned);
		link_remove(&row->in_all);
		row->ended = true;
		steps_drop(c, row->steps, row->step_count);
	}
}

void rows_number(struct compiler *c)
{
	LINKS_EACH(at, &c->idle_rows)
	{
		struct row *row = OWNER_OF(at, struct row, waiting);
		if (row->id != NUMBER_NONE)
			ids_give(&c->row_ids, row->id);
	}
	LINKS_EACH(at, &c->fresh_rows)
	{
		struct row *row = OWNER_OF(at, struct row, waiting);
		row->id = ids_take(&c->row_ids);
	}
}

/* ---- tables row and cell ---- */

static int cell_compare(const void *left, const void *right)
{
	const struct row_cell *a = left, *b = right;
	return (a->port_class > b->port_class) - (a->port_class < b->port_class);
}

/* One cell for each port class that differs from the row's own verdict, sorted. */
static struct row_cell *cells_make(struct compiler *c, const struct row *row, size_t *count)
{
	struct row_cell *cells = NULL;
	size_t room = 0;
	uint64_t walk = ++c->stamp;
	*count = 0;
	for (size_t i = 0; i < row->step_count; i++) {
		if (row->steps[i].port == PORT_ANY)
			continue;
		const struct port_term *term = slots_get(&c->port_term_by_id, row->steps[i].port);
		LINKS_EACH(at, &term->classes)
		{
			struct port_class *class = OWNER_OF(at, struct port_class_link, in_term)->class;
			if (class->ended || class->stamp == walk)
				continue;
			class->stamp = walk;
			struct ps_verdict verdict = row_judge(c, row, (struct place){class->proto, class->port});
			c->work.cells++;
			if (!memcmp(&verdict, &row->base, sizeof(verdict)))
				continue;
			cells = list_room(cells, *count, &room, sizeof(*cells));
			cells[(*count)++] = (struct row_cell){class->id, verdict};
		}
	}
	if (*count)
		qsort(cells, *count, sizeof(*cells), cell_compare);
	return cells;
}

static void cell_delete(struct compiler *c, uint32_t row, uint32_t port_class)
{
	struct ps_key_cell key = {.row = row, .port_class = port_class};
	tables_delete(&c->tables, TABLE_cell, &key);
}

static void row_cells_refresh(struct compiler *c, struct row *row)
{
	size_t count, at = 0;
	struct row_cell *cells = cells_make(c, row, &count);
	for (size_t i = 0; i < row->cell_count; i++) {
		while (at < count && cells[at].port_class < row->cells[i].port_class)
			at++;
		if (at == count || cells[at].port_class != row->cells[i].port_class)
			cell_delete(c, row->id, row->cells[i].port_class);
	}
	for (size_t i = 0; i < count; i++) {
		struct ps_key_cell key = {.row = row->id, .port_class = cells[i].port_class};
		tables_put(&c->tables, TABLE_cell, &key, &cells[i].verdict);
	}
	free(row->cells);
	row->cells = cells;
	row->cell_count = count;
}

static bool row_touched(const struct compiler *c, const struct row *row, uint64_t stamp)
{
	for (size_t i = 0; i < row->step_count; i++) {
		if (row->steps[i].port == PORT_ANY)
			continue;
		const struct port_term *term = slots_get(&c->port_term_by_id, row->steps[i].port);
		if (term->touched == stamp)
			return true;
	}
	return false;
}

void rows_emit(struct compiler *c, uint64_t touched)
{
	LINKS_EACH(at, &c->idle_rows)
	{
		struct row *row = OWNER_OF(at, struct row, waiting);
		for (size_t i = 0; i < row->cell_count; i++)
			cell_delete(c, row->id, row->cells[i].port_class);
		if (row->id != NUMBER_NONE)
			tables_delete(&c->tables, TABLE_row, &row->id);
	}
	LINKS_EACH(at, &c->fresh_rows)
	{
		struct row *row = OWNER_OF(at, struct row, waiting);
		tables_put(&c->tables, TABLE_row, &row->id, &row->base);
		row_cells_refresh(c, row);
	}
	if (!touched)
		return;
	LINKS_EACH(at, &c->all_rows)
	{
		struct row *row = OWNER_OF(at, struct row, in_all);
		if (!row->fresh && row_touched(c, row, touched))
			row_cells_refresh(c, row);
	}
}

static void row_free(struct row *row)
{
	free(row->steps);
	free(row->cells);
	free(row);
}

void rows_sweep(struct compiler *c)
{
	LINKS_EACH_SAFE(at, after, &c->fresh_rows)
	{
		OWNER_OF(at, struct row, waiting)->fresh = false;
		link_remove(at);
	}
	LINKS_EACH_SAFE(at, after, &c->idle_rows)
	{
		link_remove(at);
		row_free(OWNER_OF(at, struct row, waiting));
	}
}

/* Row 0 allows by default. It is always there: profile 0 has no entry, and means it. */
void rows_init(struct compiler *c)
{
	struct steps none = {0};
	c->row_none = row_take(c, &none);
	rows_number(c);
	rows_emit(c, 0);
	rows_sweep(c);
}

void rows_free(struct compiler *c)
{
	link_remove(&c->row_none->in_all);
	intern_remove(&c->rows, &c->row_none->interned);
	row_free(c->row_none);
	intern_clear(&c->rows);
	ids_free(&c->row_ids);
}
