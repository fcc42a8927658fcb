/* SPDX-License-Identifier: Apache-2.0 */
/* A flow record that POST /v1/explain is asked about: what was decided then, in words, and beside it today's answer. */
#ifndef PENSTOCK_EXPLAIN_PAST_H
#define PENSTOCK_EXPLAIN_PAST_H

#include <jansson.h>
#include "agent/base/error.h"
#include "agent/model/object.h"

struct explain_past {
	int verdict, reason, direction; /* enum ps_verdict_code, ps_reason, ps_direction */
	bool ruled;                     /* the record names a rule: */
	enum kind kind;
	char *namespace, *name, *rule_name;
	enum direction rule_direction;
	int index;
	bool dated; /* the record says which revision: */
	uint64_t revision;
	char *proxy, *workloads[2]; /* of source and destination; NULL: the record does not say */
	bool portless;              /* the record has no destination port, though the protocol has ports */
};
/* Adds an error for everything that is wrong. What else the record holds is not looked at. */
void past_read(const json_t *flow, struct explain_past *ret, struct errors *errors);
void past_clear(struct explain_past *past);

struct telling;
/* ,"past":{…} and its steps; the rest of the answer is made. */
void explain_past(struct telling *t);

#endif
