/* SPDX-License-Identifier: Apache-2.0 */
/* One line in the log for every write, whatever the log's level: who, in which role, from where, what, and what became
 * of it. */
#ifndef PENSTOCK_AUDIT_H
#define PENSTOCK_AUDIT_H

#include <stdbool.h>

struct request;
struct reply;

/* Whether it wants to change something. */
bool audit_wants(const struct request *request);
/* "name=… role=… method=… path=…", to be completed when it is known what became of it. The caller frees. */
char *audit_begin(struct request *request);
struct answer;
/* The server stops before it was looked at. */
void audit_unanswered(const char *begin, const struct answer *answer);
void audit_reply(const char *begin, const struct reply *reply);
/* A write that was refused before the applying thread saw it. */
void audit_refused(struct request *request);

#endif
