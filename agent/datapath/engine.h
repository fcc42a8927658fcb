/* SPDX-License-Identifier: Apache-2.0 */
/* How a connection is handed to a proxy. What is decided, and for whom, is the same with every engine. */
#ifndef PENSTOCK_ENGINE_H
#define PENSTOCK_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "agent/base/error.h"

enum engine {
	ENGINE_EBPF,   /* the programs assign the socket */
	ENGINE_TPROXY, /* the programs mark, our table of nftables assigns */
	ENGINE_COUNT
};
static inline const char *engine_name(enum engine engine)
{
	return engine == ENGINE_TPROXY ? "tproxy" : "ebpf";
}

/* What is configured: an engine, or ENGINE_COUNT for "auto". */
enum engine engine_parse(const char *name);

struct engine_trial {
	enum engine engine;
	uint8_t protocol; /* IPPROTO_TCP, IPPROTO_UDP */
	uint8_t family;   /* 4 or 6 */
	bool passed;
	char detail[192]; /* what was seen; why not */
};
#define ENGINE_TRIALS_MAX (ENGINE_COUNT * 4)
struct engine_status {
	enum engine active;
	char reason[320];
	struct engine_trial trials[ENGINE_TRIALS_MAX]; /* with "auto", once a proxy was wanted */
	size_t trial_count;
};

struct datapath;
/* Applying thread. */
const char *datapath_engine_configured(const struct datapath *datapath); /* "auto", or an engine's name */
const struct engine_status *datapath_engine(const struct datapath *datapath);
/* NULL: our table of nftables stands, and takes what is left to it; else why not. */
const char *datapath_table(const struct datapath *datapath);
/* From any thread. */
enum engine datapath_engine_active(const struct datapath *datapath);
/*
 * Another engine from now on (ENGINE_COUNT: auto, tried anew). Established connections stay with their proxies. An
 * engine that this kernel has not is refused, and nothing changes. Applying thread.
 */
int datapath_engine_choose(struct datapath *datapath, enum engine engine, struct error *e);

#endif
