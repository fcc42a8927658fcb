/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What flows are called: an address is a workload's, a rule's number is a rule's name, a rule's proxy has a name. Texts
 * are shared and counted. No lock: the caller's (flows.c). Only for flow*.c.
 */
#ifndef PENSTOCK_FLOW_NAMES_H
#define PENSTOCK_FLOW_NAMES_H

#include "agent/observe/flows.h"

struct flow_names;
struct flow_names *flow_names_new(void);
void flow_names_free(struct flow_names *names); /* when no flow has a name any more */

/* What is published by now; borrowed. The same as before costs nothing. changed: when what was known before was over,
 * ns of CLOCK_MONOTONIC; 0: not known. */
struct snapshot;
void flow_names_update(
	struct flow_names *names, const struct snapshot *snapshot, struct rule_list *rules, uint64_t changed);
uint64_t flow_names_revision(const struct flow_names *names); /* of the snapshot; 0: there is none */

/* Whose they are from now on. */
void flow_names_interfaces(struct flow_names *names, const struct flow_interface *list, size_t count);

/* Sets the names by flow->event, a reference each. */
void flow_names_give(struct flow_names *names, struct flow *flow);
void flow_names_keep(struct flow *flow); /* a reference more */
void flow_names_drop(struct flow_names *names, struct flow *flow);

/* Of an event: source 0, destination 1. */
struct ip flow_ip(const struct ps_event *event, int end);
struct ip flow_backend_ip(const struct ps_event *event);
/* The rule that the record names: the InterceptPolicy's, where one handed it over. */
uint32_t flow_rule(const struct ps_event *event);

#endif
