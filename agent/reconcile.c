/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/reconcile.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include "agent/base/log.h"
#include "agent/base/mem.h"
#include "agent/intake/intake.h"
#include "agent/status.h"
#include "agent/warn.h"

struct reconciler {
	struct reconcile_rooms rooms;
	struct compiler *compiler;
	struct rulebook *book;
	struct snapshot *current; /* what is persisted, and live once started */
	bool started;
	bool waiting_for_state; /* the database was set aside: the live tables stay until somebody says what is wanted */
	char why_not_ready[256];
	char last_error[1024], last_error_time[32];
};

/* ---- measuring ---- */

static double seconds_now(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Notes how long a stage took, and that it failed. */
static int stage_done(struct reconciler *r, enum apply_stage stage, double began, int result)
{
	metrics_apply(r->rooms.metrics, stage, seconds_now() - began, result < 0);
	return result;
}

/* ---- publishing ---- */

static void status_publish(struct reconciler *r)
{
	bool ready = r->started;
	struct status_facts facts = {
		.config = r->rooms.config,
		.datapath = r->rooms.datapath,
		.compiler = r->compiler,
		.snapshot = r->current,
		.ready = ready,
		.waiting_for_state = r->waiting_for_state,
		.why_not_ready = r->why_not_ready,
		.last_error = r->last_error,
	};
	memcpy(facts.last_error_time, r->last_error_time, sizeof(facts.last_error_time));
	board_set_ready(r->rooms.board, ready, ready ? "" : r->why_not_ready);
	board_set_status(r->rooms.board, status_render(&facts));
	datapath_findings_published(r->rooms.datapath);
}

static void last_error_set(struct reconciler *r, const char *doing, const char *what)
{
	time_t now = time(NULL);
	struct tm utc;
	gmtime_r(&now, &utc);
	strftime(r->last_error_time, sizeof(r->last_error_time), "%Y-%m-%dT%H:%M:%SZ", &utc);
	snprintf(r->last_error, sizeof(r->last_error), "%s: %s", doing, what);
}

static void failure_note(struct reconciler *r, const char *doing, const struct error *e)
{
	last_error_set(r, doing, e->detail);
	log_error("reconcile", "%s", r->last_error);
	status_publish(r);
}

static void interfaces_publish(struct reconciler *r)
{
	auto_free struct flow_interface *list = NULL;
	struct interface_status interface;
	size_t count = 0, room = 0;
	for (size_t at = 0; r->compiler && datapath_interface_next(r->rooms.datapath, &at, &interface);) {
		const struct endpoint *endpoint =
			interface.endpoint ? compiler_endpoint_find(r->compiler, interface.endpoint) : NULL;
		if (!endpoint)
			continue;
		list = list_room(list, count, &room, sizeof(*list));
		list[count++] = (struct flow_interface){interface.ifindex, endpoint->namespace, endpoint->name};
	}
	flows_interfaces(r->rooms.flows, list, count);
}

static void facts_publish(struct reconciler *r)
{
	struct metrics_facts facts = {.snapshot = r->current,
		.compiler = r->compiler,
		.book = r->book,
		.live = r->started,
		.engine = datapath_engine_active(r->rooms.datapath)};
	metrics_publish(r->rooms.metrics, &facts);
	interfaces_publish(r);
	status_publish(r);
}

static int revision_flip(struct reconciler *r, uint64_t revision, struct error *e)
{
	uint32_t generation;
	int result = datapath_flip(r->rooms.datapath, revision, e);
	datapath_generation(r->rooms.datapath, &generation, &revision);
	if (result == 0)
		flows_flipped(r->rooms.flows, generation, revision);
	return result;
}

/* ---- compiling ---- */

static void compiler_build(
	struct reconciler *r, const struct snapshot *snapshot, struct compiler **ret, struct errors *warnings)
{
	struct change *changes = mem_array(snapshot->object_count + 1, sizeof(*changes));
	for (size_t i = 0; i < snapshot->object_count; i++)
		changes[i].new = snapshot->objects[i];
	*ret = compiler_new(r->rooms.config->node.name, r->book);
	compiler_update(*ret, changes, snapshot->object_count, warnings);
	free(changes);
}

struct bind_note {
	struct reconciler *reconciler;
	bool changed;
};

static void endpoint_bound(void *context, uint32_t endpoint, bool bound)
{
	struct bind_note *note = context;
	note->changed = true;
	compiler_bind(note->reconciler->compiler, endpoint, bound);
}

/* Which interfaces workloads have by now, and which addresses the node. True: the tables are others. */
static int interfaces_follow(struct reconciler *r, bool all, bool *changed, struct error *e)
{
	struct bind_note note = {.reconciler = r};
	int result = datapath_interfaces(r->rooms.datapath, r->compiler, all, endpoint_bound, &note, e);
	if (result == 0)
		*changed = compiler_locals(r->compiler, datapath_locals(r->rooms.datapath)) || note.changed;
	return result;
}

/* The compiler is a cache over the snapshot; when in doubt it is made anew, and the kernel compared. */
static void compiler_anew(struct reconciler *r, const struct snapshot *snapshot, struct errors *warnings)
{
	if (r->compiler)
		compiler_free(r->compiler);
	compiler_build(r, snapshot, &r->compiler, warnings);
	datapath_resync(r->rooms.datapath);
}

/* After an apply that failed half-way. */
static void compiler_rebuild(struct reconciler *r)
{
	struct error e = {0};
	compiler_anew(r, r->current, NULL);
	bool changed;
	if (r->started && interfaces_follow(r, true, &changed, &e) < 0)
		failure_note(r, "interfaces", &e);
}

/* ---- applying ---- */

/* From here on a snapshot's proxies are looked for. */
static void proxies_watch(struct reconciler *r, const struct snapshot *snapshot)
{
	size_t at, end, count = 0;
	snapshot_range(snapshot, KIND_TRANSPARENT_PROXY, NULL, &at, &end);
	struct proxy_wanted *wanted = mem_array(end - at + 1, sizeof(*wanted));
	for (; at < end; at++)
		wanted[count++] = (struct proxy_wanted){snapshot->objects[at]->name, snapshot->objects[at]->proxy};
	datapath_proxies(r->rooms.datapath, wanted, count);
	free(wanted);
}

static bool proxies_differ(const struct candidate *candidate)
{
	for (size_t i = 0; i < candidate->difference_count; i++) {
		const struct difference *d = &candidate->differences[i];
		if ((d->new ? d->new : d->old)->kind == KIND_TRANSPARENT_PROXY)
			return true;
	}
	return false;
}

static void compiler_follow(struct reconciler *r, const struct candidate *candidate, struct errors *warnings)
{
	struct change *changes = mem_array(candidate->difference_count + 1, sizeof(*changes));
	size_t count = 0;
	for (size_t i = 0; i < candidate->difference_count; i++)
		if (difference_matters(&candidate->differences[i]))
			changes[count++] = (struct change){candidate->differences[i].old, candidate->differences[i].new};
	compiler_update(r->compiler, changes, count, warnings);
	free(changes);
}

/* Candidate → tables → idle side → disk → flip. *committed: the disk has it, whatever failed after. */
static int candidate_apply(
	struct reconciler *r, const struct candidate *candidate, struct errors *warnings, bool *committed, struct error *e)
{
	double began = seconds_now();
	bool changed;
	if (r->started)
		compiler_follow(r, candidate, warnings);
	else /* what could not be enforced at the start is no ground to build on */
		compiler_anew(r, candidate->snapshot, warnings);
	int result = stage_done(r, APPLY_COMPILE, began, compiler_fits(r->compiler, e));

	began = seconds_now();
	if (result == 0)
		result = stage_done(r, APPLY_INTERFACES, began, interfaces_follow(r, !r->started, &changed, e));
	began = seconds_now();
	if (result == 0) {
		result = datapath_rules(r->rooms.datapath, r->book, e);
		if (result == 0)
			result = datapath_stage(r->rooms.datapath, compiler_tables(r->compiler), e);
		stage_done(r, APPLY_STAGE, began, result);
	}
	began = seconds_now();
	if (result == 0) {
		result = store_stage(
			r->rooms.store, candidate->snapshot, candidate->differences, candidate->difference_count, r->book, e);
		if (result == 0)
			result = store_commit(r->rooms.store, e);
		if (result < 0)
			store_rollback(r->rooms.store);
		*committed = result == 0;
		stage_done(r, APPLY_STORE, began, result);
	}
	if (result == 0 && (!r->started || proxies_differ(candidate)))
		proxies_watch(r, candidate->snapshot);
	began = seconds_now();
	if (result == 0)
		result = stage_done(r, APPLY_FLIP, began, revision_flip(r, candidate->snapshot->revision, e));
	return result;
}

/* Says what would happen, on a compiler of its own. */
static int candidate_try(
	struct reconciler *r, const struct candidate *candidate, struct errors *warnings, struct error *e)
{
	struct rulebook *book = rulebook_new(1);
	struct rulebook *own = r->book;
	struct compiler *compiler;
	r->book = book;
	compiler_build(r, candidate->snapshot, &compiler, warnings);
	r->book = own;
	int result = compiler_fits(compiler, e);
	if (result == 0)
		candidate_warn(candidate, compiler, r->rooms.datapath, true, warnings);
	compiler_free(compiler);
	rulebook_free(book);
	return result;
}

static void current_replace(struct reconciler *r, struct snapshot *snapshot)
{
	snapshot_put(r->current);
	r->current = snapshot;
	board_publish(r->rooms.board, snapshot_get(snapshot));
}

static int candidate_remember(struct reconciler *r, const struct candidate *candidate, struct error *e)
{
	int result = store_stage(
		r->rooms.store, candidate->snapshot, candidate->differences, candidate->difference_count, r->book, e);
	if (result == 0)
		result = store_commit(r->rooms.store, e);
	if (result < 0)
		store_rollback(r->rooms.store);
	return result;
}

/* The snapshot that a failed flip left on disk is taken back, so that disk and GET agree again. */
static void disk_restore(struct reconciler *r, const struct candidate *candidate)
{
	struct error e = {0};
	struct difference *back = mem_array(candidate->difference_count + 1, sizeof(*back));
	for (size_t i = 0; i < candidate->difference_count; i++)
		back[i] = (struct difference){candidate->differences[i].new, candidate->differences[i].old};
	if (store_stage(r->rooms.store, r->current, back, candidate->difference_count, r->book, &e) < 0 ||
		store_commit(r->rooms.store, &e) < 0) {
		store_rollback(r->rooms.store);
		failure_note(r, "putting the state database back", &e);
	}
	free(back);
}

static int candidate_enforce(
	struct reconciler *r, struct candidate *candidate, struct errors *warnings, struct error *e)
{
	/* While the live tables are a lost database's, even the empty state has to be made so. */
	if (!candidate->changes && r->started) {
		int result = candidate->durable ? candidate_remember(r, candidate, e) : 0;
		if (result == 0) {
			current_replace(r, snapshot_get(candidate->snapshot));
			facts_publish(r);
		}
		return result;
	}
	bool committed = false;
	int result = candidate_apply(r, candidate, warnings, &committed, e);
	if (result < 0) {
		struct error why = *e;
		if (committed)
			disk_restore(r, candidate);
		if (committed && proxies_differ(candidate))
			proxies_watch(r, r->current);
		compiler_rebuild(r);
		failure_note(r, "a write was refused", &why);
		return result;
	}
	r->started = true;
	r->waiting_for_state = false;
	current_replace(r, snapshot_get(candidate->snapshot));
	facts_publish(r);
	return 0;
}

/* ---- calls ---- */

/* One call on its way to its answer. */
struct write {
	struct call *call;
	struct candidate candidate;
	struct reply reply;
	bool counts; /* its candidate is to be enforced */
};

static void write_read(struct reconciler *r, struct write *w, const struct snapshot *base)
{
	struct error e = {0};
	double began = seconds_now();
	if (!r->started && w->call->verb != CALL_PUT_STATE) { /* that one says all that is wanted, and may be the cure */
		errors_add(&w->reply.errors, ERROR_BUSY, "", "%s", r->why_not_ready);
		return;
	}
	int result = stage_done(r, APPLY_DECODE, began,
		intake_read(w->call, base, r->rooms.config->api.body_max, time(NULL), &w->candidate, &w->reply.errors));
	if (result == 0 && w->call->dry_run && candidate_try(r, &w->candidate, &w->reply.warnings, &e) < 0)
		errors_add_error(&w->reply.errors, &e);
	if (result == 0 && w->call->diff) /* while the base is there for sure */
		w->reply.changes = candidate_changes(&w->candidate);
	w->counts = result == 0 && !w->call->dry_run;
}

static void write_answer(struct reconciler *r, struct write *w)
{
	struct reply *reply = &w->reply;
	if (!reply->errors.total) {
		reply->status = 200;
		reply->dry_run = w->call->dry_run;
		reply->revision = w->call->dry_run ? r->current->revision : w->candidate.snapshot->revision;
		reply->etag_revision = w->call->dry_run ? 0 : w->candidate.etag;
		reply->quarantined = steal_pointer(&w->candidate.set_aside);
	}
	candidate_clear(&w->candidate);
	call_reply(w->call, reply);
	w->call = NULL;
}

/* What lies between two snapshots, also what does not matter but is to be stored: both are sorted, and what is the same
 * is the same object. */
static void snapshots_compare(const struct snapshot *from, const struct snapshot *to, struct candidate *ret)
{
	size_t capacity = 0, a = 0, b = 0;
	while (a < from->object_count || b < to->object_count) {
		const struct object *old = a < from->object_count ? from->objects[a] : NULL;
		const struct object *new = b < to->object_count ? to->objects[b] : NULL;
		int order = !old ? 1 : !new ? -1 : old == new ? 0 : object_compare(old, new);
		a += order <= 0;
		b += order >= 0;
		if (old == new)
			continue;
		ret->differences = list_room(ret->differences, ret->difference_count, &capacity, sizeof(*ret->differences));
		ret->differences[ret->difference_count++] =
			(struct difference){order <= 0 ? old : NULL, order >= 0 ? new : NULL};
	}
}

/* Writes that waited together share one flip: each was read on top of the one before. */
static int writes_enforce(struct reconciler *r, struct write *writes, size_t count, struct error *e)
{
	struct candidate together = {0};
	struct errors warnings = {0};
	const struct write *last = NULL;
	for (size_t i = 0; i < count; i++) {
		if (!writes[i].counts)
			continue;
		last = &writes[i];
		together.changes |= last->candidate.changes;
		together.durable |= last->candidate.durable;
	}
	if (!last)
		return 0;
	together.snapshot = snapshot_get(last->candidate.snapshot);
	snapshots_compare(r->current, together.snapshot, &together);
	int result = candidate_enforce(r, &together, &warnings, e);
	for (size_t i = 0; result == 0 && i < count; i++) {
		struct write *w = &writes[i];
		if (!w->counts)
			continue;
		for (size_t n = 0; n < warnings.count; n++)
			errors_add_error(&w->reply.warnings, &warnings.list[n]);
		candidate_warn(&w->candidate, r->compiler, r->rooms.datapath, false, &w->reply.warnings);
	}
	errors_clear(&warnings);
	candidate_clear(&together);
	return result;
}

static void write_reset(struct write *w)
{
	candidate_clear(&w->candidate);
	errors_clear(&w->reply.errors);
	errors_clear(&w->reply.warnings);
	free(w->reply.changes);
	*w = (struct write){.call = w->call};
}

static void write_alone(struct reconciler *r, struct write *w)
{
	struct error e = {0};
	write_read(r, w, r->current);
	if (writes_enforce(r, w, 1, &e) < 0)
		errors_add_error(&w->reply.errors, &e);
	write_answer(r, w);
}

void reconcile_calls(struct reconciler *r, struct call **calls, size_t count)
{
	struct write *writes = mem_array(count, sizeof(*writes));
	struct error e = {0};
	for (size_t i = 0; i < count; i++)
		writes[i].call = calls[i];
	bool together = count > 1 && r->started;
	const struct snapshot *head = r->current;
	for (size_t i = 0; together && i < count; i++) {
		write_read(r, &writes[i], head);
		if (writes[i].counts)
			head = writes[i].candidate.snapshot;
	}
	if (together && writes_enforce(r, writes, count, &e) < 0) {
		/* One of them does not fit or the system failed: each for itself then, so that only the culprit is refused. */
		together = false;
		for (size_t i = 0; i < count; i++)
			write_reset(&writes[i]);
	}
	for (size_t i = 0; i < count; i++) {
		if (together)
			write_answer(r, &writes[i]);
		else
			write_alone(r, &writes[i]);
	}
	free(writes);
}

/* ---- events ---- */

int reconcile_start(struct reconciler *r)
{
	struct error e = {0};
	bool changed;
	if (r->waiting_for_state)
		return 0;
	double began = seconds_now();
	int result = compiler_fits(r->compiler, &e);
	if (result == 0)
		result = interfaces_follow(r, true, &changed, &e);
	if (result == 0)
		result = datapath_rules(r->rooms.datapath, r->book, &e);
	if (result == 0)
		result = datapath_stage(r->rooms.datapath, compiler_tables(r->compiler), &e);
	if (result == 0)
		proxies_watch(r, r->current);
	if (result == 0)
		result = revision_flip(r, r->current->revision, &e);
	stage_done(r, APPLY_START, began, result);
	if (result < 0) {
		snprintf(r->why_not_ready, sizeof(r->why_not_ready), "the persisted state is not enforced: %.200s", e.detail);
		failure_note(r, "start", &e);
		return result;
	}
	r->started = true;
	if (!r->rooms.damaged) /* what was lost stays said: it is pushed again by nobody's own accord */
		r->last_error[0] = '\0';
	log_info("reconcile", "revision %" PRIu64 " is enforced: %zu objects, %.1f ms", r->current->revision,
		r->current->object_count, (seconds_now() - began) * 1e3);
	facts_publish(r);
	return 0;
}

bool reconcile_started(const struct reconciler *r)
{
	return r->started || r->waiting_for_state;
}

bool reconcile_listens(const struct reconciler *r)
{
	return r->started;
}

void reconcile_interfaces(struct reconciler *r, bool all)
{
	struct error e = {0};
	bool changed = false;
	if (!r->started)
		return;
	double began = seconds_now();
	int result = interfaces_follow(r, all, &changed, &e);
	if (result == 0 && changed) {
		result = datapath_stage(r->rooms.datapath, compiler_tables(r->compiler), &e);
		if (result == 0)
			result = revision_flip(r, r->current->revision, &e);
	}
	stage_done(r, APPLY_INTERFACES, began, result);
	if (result < 0) {
		failure_note(r, "interfaces", &e);
		datapath_resync(r->rooms.datapath);
	}
	bool hooks = datapath_hooks_changed(r->rooms.datapath);
	if (result < 0 || changed)
		facts_publish(r);
	else if (all || hooks)
		status_publish(r); /* how full the connection tables are, and what interfaces are called by now */
}

bool reconcile_audit(struct reconciler *r)
{
	struct tables *tables = compiler_tables(r->compiler);
	struct error e = {0};
	bool repair = false;
	if (!r->started)
		return false;
	bool more = datapath_audit(r->rooms.datapath, tables, &repair);
	if (!repair)
		return more;
	int result = datapath_stage(r->rooms.datapath, tables, &e);
	if (result == 0)
		result = revision_flip(r, r->current->revision, &e);
	if (result == 0)
		result = datapath_settle(r->rooms.datapath, tables, &e);
	if (result < 0) {
		failure_note(r, "audit", &e);
		datapath_resync(r->rooms.datapath);
	}
	return more && result == 0;
}

void reconcile_listeners(struct reconciler *r)
{
	datapath_listeners_read(r->rooms.datapath);
	status_publish(r);
}

int reconcile_engine(struct reconciler *r, enum engine engine)
{
	struct error e = {0};
	int result = datapath_engine_choose(r->rooms.datapath, engine, &e);
	if (result < 0)
		failure_note(r, "engine", &e);
	facts_publish(r);
	return result;
}

void reconcile_settle(struct reconciler *r)
{
	struct error e = {0};
	if (r->started && datapath_settle(r->rooms.datapath, compiler_tables(r->compiler), &e) < 0) {
		failure_note(r, "the idle side", &e);
		datapath_resync(r->rooms.datapath);
	}
	if (datapath_hooks_changed(r->rooms.datapath)) /* interfaces that a workload has left */
		status_publish(r);
	store_tidy(r->rooms.store);
}

/* ---- life ---- */

int reconcile_new(const struct reconcile_rooms *rooms, struct reconciler **ret, struct error *e)
{
	struct reconciler *r = mem_alloc(sizeof(*r));
	r->rooms = *rooms;
	int result = store_load(rooms->store, &r->current, &r->book, e);
	if (result < 0) {
		free(r);
		return result;
	}
	r->waiting_for_state = rooms->damaged && datapath_live_revision(rooms->datapath);
	snprintf(r->why_not_ready, sizeof(r->why_not_ready), "%s",
		r->waiting_for_state
			? "the state database was damaged and set aside: the live tables stay as they are until PUT /v1/state"
			: "starting");
	if (rooms->damaged)
		last_error_set(r, "state", rooms->damaged);
	compiler_build(r, r->current, &r->compiler, NULL);
	board_publish(rooms->board, snapshot_get(r->current));
	facts_publish(r);
	*ret = r;
	return 0;
}

void reconcile_free(struct reconciler *r)
{
	if (!r)
		return;
	compiler_free(r->compiler);
	rulebook_free(r->book);
	snapshot_put(r->current);
	free(r);
}
