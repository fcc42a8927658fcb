/* SPDX-License-Identifier: Apache-2.0 */
/* Left-right: stage the idle side, flip one word, wait for a grace period, repeat on the other side. */
#include <bpf/bpf.h>
#include <errno.h>
#include <string.h>
#include "agent/base/log.h"
#include "agent/datapath/private.h"

void datapath_resync(struct datapath *datapath)
{
	datapath->resync[0] = datapath->resync[1] = true;
	datapath->staged = false;
}

uint64_t datapath_live_revision(const struct datapath *datapath)
{
	return datapath->live_revision;
}

static void grace_settle(struct datapath *d)
{
	if (!d->grace_due)
		return;
	grace_wait();
	d->grace_due = false;
	interfaces_leave(d);
	rules_leave(d);
}

/* Before the first proxy goes live. */
static int steering_set(struct datapath *d, const struct tables *tables, struct error *e)
{
	if (d->steering || !tables->table[TABLE_proxy].wanted.count)
		return 0;
	int result = routes_set(&d->options, d->nftables.want.host, NULL, e);
	if (result < 0)
		return result;
	d->steering = true;
	interfaces_settle(d);
	return 0;
}

/* Before the first Service goes live. */
static void services_set(struct datapath *d, const struct tables *tables)
{
	if (d->services || (!tables->table[TABLE_service4].wanted.count && !tables->table[TABLE_service6].wanted.count))
		return;
	d->services = true;
	interfaces_settle(d);
}

int datapath_stage(struct datapath *datapath, struct tables *tables, struct error *e)
{
	datapath->staged = false;
	grace_settle(datapath);
	int result = steering_set(datapath, tables, e);
	services_set(datapath, tables);
	if (datapath->steering) {
		sockets_set(datapath, false);
		if (result == 0)
			result = nftables_stage(datapath, tables, e);
		engine_settle(datapath);
		if (result == 0)
			result = hosts_stage(datapath, e);
	}
	if (result == 0)
		result = side_catch_up(datapath, tables, !side_live(datapath), e);
	datapath->staged = result == 0;
	return result;
}

/* ---- the control word ---- */

static uint32_t control_flags(const struct datapath *d)
{
	return (d->steering ? PS_CONTROL_STEERING : 0) | (d->services ? PS_CONTROL_SERVICES : 0) |
		   (d->engine.status.active == ENGINE_TPROXY ? PS_CONTROL_TPROXY : 0) |
		   (nftables_hands_over(d) ? PS_CONTROL_TABLE : 0) | (d->hosts.stands ? PS_CONTROL_HOST : 0);
}

static int control_put(const struct datapath *d, const struct ps_control *control, struct error *e)
{
	uint32_t zero = 0;
	struct ps_control read = {0};
	int fd = d->loaded.other[OTHER_CONTROL];
	int result = bpf_map_update_elem(fd, &zero, control, BPF_ANY);
	if (result == 0)
		result = bpf_map_lookup_elem(fd, &zero, &read);
	if (result < 0)
		return error_system(e, -result, "map ps_control cannot be written");
	if (read.generation != control->generation)
		return error_set(e, ERROR_SYSTEM, EIO, NULL,
			"map ps_control reads back generation %u instead of %u: does another agent write it?", read.generation,
			control->generation);
	return 0;
}

int control_write(struct datapath *d, struct error *e)
{
	struct ps_control control = {.generation = d->generation, .flags = control_flags(d)}, now = {0};
	uint32_t zero = 0;
	int result = bpf_map_lookup_elem(d->loaded.other[OTHER_CONTROL], &zero, &now);
	if (result < 0)
		return error_system(e, -result, "map ps_control cannot be read");
	bool ours = now.generation == d->generation;
	if (d->generation == 0 || (ours && now.flags == control.flags))
		return 0;
	result = control_put(d, &control, e);
	if (result == 0 && !ours) {
		log_warn(ROOM, "somebody wrote generation %u into map ps_control: %u is back", now.generation, d->generation);
		drift_note(d, DRIFT_MAP, 1);
	}
	return result;
}

uint64_t control_rows(struct datapath *d)
{
	struct ps_control control = {.generation = d->generation, .flags = control_flags(d)};
	struct ps_side held = {.revision = d->live_revision};
	uint32_t zero = 0, side = side_live(d);
	return d->generation == 0 ? 0
							  : audit_row(d->loaded.other[OTHER_SIDE], &side, &held, sizeof(held)) +
									audit_row(d->loaded.other[OTHER_CONTROL], &zero, &control, sizeof(control));
}

int revision_read(struct datapath *d, uint32_t *flags, struct error *e)
{
	uint32_t zero = 0;
	struct ps_control control;
	int result = bpf_map_lookup_elem(d->loaded.other[OTHER_CONTROL], &zero, &control);
	if (result < 0)
		return error_system(e, -result, "map ps_control cannot be read");
	d->generation = control.generation;
	d->services = control.flags & PS_CONTROL_SERVICES;
	*flags = control.flags;
	if (control.generation == 0) /* never judged: nothing was ever live */
		return 0;
	uint32_t side = side_live(d);
	struct ps_side held;
	result = bpf_map_lookup_elem(d->loaded.other[OTHER_SIDE], &side, &held);
	if (result < 0)
		return error_system(e, -result, "map ps_side cannot be read");
	d->live_revision = held.revision;
	return 0;
}

/* The revision's number first: whoever sees the new generation finds it. */
static int write_revision(struct datapath *d, uint32_t side, uint64_t revision, struct error *e)
{
	struct ps_side held = {.revision = revision};
	int result = bpf_map_update_elem(d->loaded.other[OTHER_SIDE], &side, &held, BPF_ANY);
	return result < 0 ? write_failed(e, -result, "ps_side", "written") : 0;
}

int datapath_flip(struct datapath *datapath, uint64_t revision, struct error *e)
{
	if (!datapath->staged)
		return error_set(e, ERROR_SYSTEM, EINVAL, NULL, "nothing is staged");
	struct ps_control next = {.generation = datapath->generation + 1, .flags = control_flags(datapath)};
	if (next.generation == 0) /* 0 is "never judged"; 2 keeps the sides alternating */
		next.generation = 2;
	int result = write_revision(datapath, next.generation & 1, revision, e);
	if (result < 0)
		return result;
	result = control_put(datapath, &next, e);
	if (result < 0)
		return result;
	generation_set(datapath, next.generation, revision);
	datapath->staged = false;
	datapath->grace_due = true;
	return 0;
}

int datapath_settle(struct datapath *datapath, struct tables *tables, struct error *e)
{
	grace_settle(datapath);
	if (datapath->steering)
		nftables_settle(datapath, tables);
	int result = side_catch_up(datapath, tables, !side_live(datapath), e);
	if (result == 0)
		audit_settled(datapath);
	return result;
}
