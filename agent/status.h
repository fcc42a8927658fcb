/* SPDX-License-Identifier: Apache-2.0 */
/* The document of GET /v1/status. */
#ifndef PENSTOCK_STATUS_H
#define PENSTOCK_STATUS_H

#include "agent/config.h"
#include "agent/datapath/datapath.h"
#include "agent/state/snapshot.h"

struct status_facts {
	const struct config *config;
	struct datapath *datapath;
	const struct compiler *compiler; /* NULL: not compiled yet */
	const struct snapshot *snapshot;
	bool ready;
	bool waiting_for_state; /* the database was damaged, and tables of before are live */
	const char *why_not_ready;
	const char *last_error; /* NULL or "" = none */
	char last_error_time[32];
};
/* The caller frees. */
char *status_render(const struct status_facts *facts);

#endif
