/* SPDX-License-Identifier: Apache-2.0 */
/* The line about a connection that has ended, on standard output. */
#ifndef PENSTOCK_RELAY_RECORD_H
#define PENSTOCK_RELAY_RECORD_H

#include "agent/relay/connection.h"

void record_write(const struct connection *connection, const char *outcome, bool json);

#endif
