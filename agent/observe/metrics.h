/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GET /metrics. The applying thread publishes facts; HTTP's threads render them together with what the kernel counts.
 * Never waits for an apply.
 */
#ifndef PENSTOCK_METRICS_H
#define PENSTOCK_METRICS_H

#include <stdbool.h>
#include "agent/base/buffer.h"
#include "agent/compile/compile.h"
#include "agent/datapath/datapath.h"
#include "agent/state/snapshot.h"
#include "api/server/server.h"

struct handshakes;

/* Where the kernel's and the server's figures come from: main wires it, tests have their own. A source that is NULL has
 * nothing to say. Called from any thread. */
struct metrics_source {
	void *context;
	int (*counts)(void *context, struct datapath_counts *ret);
	uint64_t (*rule_hits)(void *context, uint32_t rule);
	bool (*map_fill)(void *context, size_t *at, struct map_fill *ret);
	void (*api)(void *context, void (*each_count)(void *, const struct api_count *),
		void (*each_latency)(void *, const struct api_latency *), void *argument);
	uint64_t (*proxy_connections)(void *context, uint8_t proxy); /* handed over since the map was made */
	bool (*proxy_up)(void *context, const char *name, const struct proxy *proxy);
	bool (*drop)(void *context, size_t *at, struct kernel_drop *ret);
	uint64_t (*drift)(void *context, enum drift what);
	/* HANDSHAKE_BOUNDS bounds in seconds (watch.h); NULL: there is nobody who measures. */
	const double *(*handshakes)(void *context, struct handshakes *ret);
	uint64_t (*alerts)(void *context, unsigned int kind); /* enum alert_kind */
	uint64_t (*missed)(void *context);                    /* flows that were overwritten before a follower read them */
};

/* enum, label */
#define APPLY_STAGE_LIST(X)     \
	X(START, "start")           \
	X(DECODE, "decode")         \
	X(COMPILE, "compile")       \
	X(INTERFACES, "interfaces") \
	X(STAGE, "stage")           \
	X(STORE, "store")           \
	X(FLIP, "flip")

enum apply_stage {
#define X(name, label) APPLY_##name,
	APPLY_STAGE_LIST(X)
#undef X
		APPLY_STAGES
};

struct metrics_facts {               /* read during the call */
	const struct snapshot *snapshot; /* a reference is kept */
	const struct compiler *compiler;
	const struct rulebook *book;
	bool live;          /* the snapshot is enforced */
	enum engine engine; /* that hands over */
};

struct metrics;
struct rule_list;
struct metrics *metrics_new(void);
void metrics_free(struct metrics *metrics);
void metrics_source(
	struct metrics *metrics, const struct metrics_source *source); /* copied; before the server starts */

/* From the applying thread. */
void metrics_publish(struct metrics *metrics, const struct metrics_facts *facts);
void metrics_apply(struct metrics *metrics, enum apply_stage stage, double seconds, bool failed);

/* What was published last, a reference each, the two of one moment; NULL before. From any thread. */
void metrics_published(struct metrics *metrics, struct snapshot **snapshot, struct rule_list **rules);
/* How often it was published: the cheap question whether it is another. */
unsigned long metrics_publications(const struct metrics *metrics);

/* From any thread. Appends. */
void metrics_render(struct metrics *metrics, struct buffer *out);

#endif
