/* SPDX-License-Identifier: Apache-2.0 */
/* The command line. */
#ifndef PENSTOCK_RELAY_OPTIONS_H
#define PENSTOCK_RELAY_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include "agent/relay/address.h"

#define LISTEN_MAX 16
#define THREADS_MAX 64

/* What to listen on. */
struct listen {
	union address address;
	bool optional; /* not an error on a node without IPv6 */
	bool v6only;   /* there is a listener for IPv4 besides */
};
struct options {
	struct listen listen[LISTEN_MAX];
	unsigned listens;
	unsigned threads;
	unsigned connect_timeout_s, idle_s, drain_s; /* idle_s 0: for ever */
	unsigned udp_timeout_s, udp_flows;           /* flows of all threads; 0: by the limit of files */
	bool tcp, udp, udp_wanted;                   /* wanted: asked for by name, so that it is an error without */
	bool keep_source;                            /* --source client */
	bool json;
};

/* -1: go on; else the exit code, what is to say has been said. */
int options_parse(int argc, char **argv, struct options *ret);

#endif
