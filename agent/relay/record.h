/* SPDX-License-Identifier: Apache-2.0 */
/* The line about what has ended, on standard output. */
#ifndef PENSTOCK_RELAY_RECORD_H
#define PENSTOCK_RELAY_RECORD_H

#include <stdbool.h>
#include <stdint.h>
#include "agent/relay/address.h"
#include "agent/relay/onward.h"

/* One of a connection, or of a UDP flow. Addresses and texts are the caller's. */
struct record {
	const union address *client, *destination;
	uint64_t up, down;  /* bytes */
	int64_t started_ns; /* CLOCK_MONOTONIC */
	enum source source;
	const char *name;                            /* NULL: none was seen */
	bool udp;                                    /* only then: */
	uint64_t datagrams_up, datagrams_down, lost; /* that were handed on, and that could not be */
};
void record_write(const struct record *record, const char *outcome, bool json);

#endif
