/* SPDX-License-Identifier: Apache-2.0 */
/* An answer of POST /v1/explain under construction: what its parts share. Only for explain*.c. */
#ifndef PENSTOCK_EXPLAIN_TELLING_H
#define PENSTOCK_EXPLAIN_TELLING_H

#include "agent/observe/backends.h"
#include "agent/observe/explain.h"
#include "agent/observe/explain_past.h"
#include "agent/observe/explain_request.h"
#include "agent/observe/matching.h"
#include "agent/observe/rule_list.h"

struct telling {
	const struct explain_source *source;
	const struct explain_request *request;
	const struct snapshot *snapshot;
	const struct rule_list *rules;
	struct explain_subject subjects[EXPLAIN_ENDS];
	struct explain_query query;
	struct explain_answer answer;
	struct backends backends;                               /* of the Services whose address the destination is */
	const struct explain_target *about[PS_DIRECTION_COUNT]; /* of a Service: the backend that the side speaks for */
	bool pending;                                           /* the backend that is chosen later decides */
	bool same;                                              /* tables and names are of one revision */
	struct buffer steps;                                    /* JSON strings, with commas */
	struct buffer *out;
};

extern const char *const explain_reasons[PS_REASON_COUNT];
extern const char *const explain_directions[PS_DIRECTION_COUNT];
extern const char *const explain_direction_words[PS_DIRECTION_COUNT];
extern const char *const explain_actions[PS_ACTION_COUNT];

__attribute__((format(printf, 2, 3))) void explain_step(struct telling *t, const char *format, ...);
const char *explain_reason(uint8_t reason);
void explain_member(struct buffer *out, const char *name, const char *value); /* ,"name":"value"; NULL is null */

/* ---- rules (explain_rule.c) ---- */

/* A rule by its name; kind KIND_COUNT: there is none. Borrows. */
struct rule_name {
	enum kind kind;
	const char *namespace, *name;
	enum direction direction;
	int index;
	const char *rule_name;
};
struct rule_name rule_named(const struct telling *t, uint32_t id);
struct rule_name rule_matched(const struct matched *matched);
bool rule_name_equal(const struct rule_name *a, const struct rule_name *b); /* whatever the rule is called */
void rule_name_render(const struct rule_name *rule, struct buffer *out);    /* an object, or null */
/* "NetworkPolicy shop/web, ingress rule 0 (from-web)"; the caller frees. */
char *rule_name_text(const struct telling *t, const struct rule_name *rule);
char *rule_text(const struct telling *t, uint32_t id);

/* ---- parts ---- */

/* ,"egress":{…} or null, and the steps of it. */
void explain_side(struct telling *t, enum ps_direction direction, const struct explain_side *side);
/* {"verdict","rule","reason"} of a backend, or null. */
void explain_side_brief(struct telling *t, const struct explain_side *side);
bool explain_refuses(const struct explain_side *side);

void explain_service_conclude(struct telling *t);
void explain_backends(struct telling *t);

/* The proxy that the rule names: a proxy's number belongs to the compiler, the rule's text to everybody. */
const char *explain_rule_proxy(const struct telling *t, const struct rule_name *rule);
const char *explain_proxy(struct telling *t, struct rule_name *rule); /* ,"proxy":…; whose rule it is */
void explain_intercept(struct telling *t, const struct rule_name *rule, const char *proxy);

#endif
