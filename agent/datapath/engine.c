/* SPDX-License-Identifier: Apache-2.0 */
/* Which engine hands over: chosen, or found by trial when the first proxy is wanted. */
#include "agent/datapath/engine.h"
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include "agent/base/log.h"
#include "agent/datapath/private.h"
#include "agent/datapath/trial.h"

enum engine engine_parse(const char *name)
{
	enum engine engine = ENGINE_EBPF;
	while (engine < ENGINE_COUNT && strcmp(engine_name(engine), name) != 0)
		engine++;
	return engine;
}

const char *datapath_engine_configured(const struct datapath *datapath)
{
	enum engine engine = datapath->options.engine;
	return engine == ENGINE_COUNT ? "auto" : engine_name(engine);
}

const struct engine_status *datapath_engine(const struct datapath *datapath)
{
	return &datapath->engine.status;
}

enum engine datapath_engine_active(const struct datapath *datapath)
{
	return (enum engine)atomic_load(&datapath->engine.active);
}

static void engine_set(struct datapath *d, enum engine engine, const char *reason)
{
	struct engine_status *status = &d->engine.status;
	snprintf(status->reason, sizeof(status->reason), "%s", reason);
	if (status->active != engine)
		log_info(ROOM, "engine %s: %s", engine_name(engine), reason);
	status->active = engine;
	atomic_store(&d->engine.active, engine);
	d->engine.decided = true;
}

/* An engine that was asked for by name. */
static int engine_take(struct datapath *d, enum engine engine, struct error *e)
{
	struct error why = {0};
	if (engine == ENGINE_TPROXY && !nftables_tproxy(&why))
		return error_set(
			e, ERROR_SYSTEM, ENOTSUP, NULL, "engine tproxy cannot be had on this kernel (nft_tproxy): %s", why.detail);
	if (engine == ENGINE_TPROXY && d->steering && !nftables_hands_over(d))
		return error_set(
			e, ERROR_SYSTEM, EBUSY, NULL, "engine tproxy: table inet %s of nftables cannot be made", OUR_TABLE);
	d->engine.status.trial_count = 0;
	bool assigns = engine != ENGINE_EBPF || datapath_assigns();
	engine_set(d, engine,
		assigns ? "configured" : "configured, but this kernel lacks bpf_sk_assign: nothing can be handed to a proxy");
	return 0;
}

/* The first trial of this engine that failed; NULL: none. */
static const struct engine_trial *trial_failed(const struct engine_status *status, enum engine engine)
{
	for (size_t i = 0; i < status->trial_count; i++)
		if (status->trials[i].engine == engine && !status->trials[i].passed)
			return &status->trials[i];
	return NULL;
}

static bool trial_done(const struct engine_status *status, enum engine engine)
{
	for (size_t i = 0; i < status->trial_count; i++)
		if (status->trials[i].engine == engine)
			return true;
	return false;
}

static const char *trial_name(const struct engine_trial *trial, char name[32])
{
	snprintf(name, 32, "%s over IPv%d", trial->protocol == IPPROTO_UDP ? "UDP" : "TCP", trial->family);
	return name;
}

/* Nothing can be said but what the kernel knows. */
static void engine_guess(struct datapath *d, const char *why)
{
	char reason[sizeof(d->engine.status.reason)];
	bool table = !datapath_assigns() && nftables_hands_over(d);
	snprintf(reason, sizeof(reason), "could not be tried (%.128s); this kernel has %s", why,
		datapath_assigns() ? "bpf_sk_assign"
		: table            ? "nft_tproxy, not bpf_sk_assign"
						   : "neither bpf_sk_assign nor nft_tproxy");
	engine_set(d, table ? ENGINE_TPROXY : ENGINE_EBPF, reason);
}

static void engine_try(struct datapath *d)
{
	struct engine_status *status = &d->engine.status;
	struct error e = {0};
	char reason[sizeof(status->reason)], name[32];
	if (trial_run(d, status, &e) < 0 || !status->trial_count) {
		engine_guess(d, e.detail);
		return;
	}
	const struct engine_trial *ebpf = trial_failed(status, ENGINE_EBPF), *tproxy = trial_failed(status, ENGINE_TPROXY);
	bool table = trial_done(status, ENGINE_TPROXY) && !tproxy;
	if (!ebpf && trial_done(status, ENGINE_EBPF))
		snprintf(reason, sizeof(reason), "tried, and it works");
	else if (!ebpf)
		snprintf(reason, sizeof(reason), "this kernel lacks bpf_sk_assign; tproxy was tried, and %s",
			table ? "works" : "does not work either");
	else
		snprintf(reason, sizeof(reason), "%s: ebpf, %s: %s", table ? "tproxy works" : "tried, and neither engine works",
			trial_name(ebpf, name), ebpf->detail);
	if (!table && (ebpf || !trial_done(status, ENGINE_EBPF)))
		log_warn(ROOM, "nothing may reach a proxy: %s", reason);
	engine_set(d, table ? ENGINE_TPROXY : ENGINE_EBPF, reason);
}

static void engine_undecide(struct datapath *d)
{
	struct engine_status *status = &d->engine.status;
	snprintf(status->reason, sizeof(status->reason), "no proxy was wanted yet, so none was tried");
	status->trial_count = 0;
	d->engine.decided = false;
}

int engine_open(struct datapath *d, bool tproxy, struct error *e)
{
	trial_clean();
	enum engine wanted = d->options.engine;
	d->engine.status.active = tproxy ? ENGINE_TPROXY : ENGINE_EBPF;
	atomic_store(&d->engine.active, d->engine.status.active);
	engine_undecide(d);
	return wanted == ENGINE_COUNT ? 0 : engine_take(d, wanted, e);
}

void engine_settle(struct datapath *d)
{
	if (!d->engine.decided && d->steering)
		engine_try(d);
}

int datapath_engine_choose(struct datapath *datapath, enum engine engine, struct error *e)
{
	struct datapath *d = datapath;
	if (d->steering)
		nftables_set(d);
	if (engine != ENGINE_COUNT) {
		int result = engine_take(d, engine, e);
		if (result < 0)
			return result;
	} else {
		engine_undecide(d);
		engine_settle(d);
	}
	d->options.engine = engine;
	return control_write(d, e);
}
