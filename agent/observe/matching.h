/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which rules match a connection, those that decide and those that come too late: read from the objects, one by one. It
 * names what the live tables' verdict hides, and is no verdict itself.
 */
#ifndef PENSTOCK_MATCHING_H
#define PENSTOCK_MATCHING_H

#include "agent/model/object.h"
#include "agent/state/snapshot.h"

/* Whose address it is: a Workload before a Pod before a Node, then the younger, then the first by name; NULL: nobody's.
 * Pods on the host's network and those that have ended have none. */
const struct object *address_owner(const struct snapshot *snapshot, const struct ip *ip);

struct matching {
	const struct snapshot *snapshot;
	enum direction direction;
	struct matching_end {
		const struct object *object; /* its owner, or NULL */
		struct ip ip;
	} subject, peer;
	uint8_t protocol;
	uint16_t port; /* the destination's, which is the subject in ingress; 0: the protocol has none */
};

/* In the order in which they decide. */
enum matched_stage { MATCHED_ADMIN, MATCHED_NETWORK_POLICY, MATCHED_BASELINE, MATCHED_INTERCEPT };
struct matched {
	const struct object *policy; /* borrowed from the snapshot */
	enum matched_stage stage;
	enum direction direction;
	int index; /* -1: a NetworkPolicy isolates; stands behind all rules of NetworkPolicies */
	enum rule_action action;
	bool decides; /* it decided, or led on */
};
/* Of policies that are enforced: audit mode has no part in it. Marks what decides. The caller frees *ret. */
size_t matching_rules(const struct matching *question, struct matched **ret);
const char *matched_rule_name(const struct matched *matched);
const char *matched_action(const struct matched *matched); /* in the policy's own words */

#endif
