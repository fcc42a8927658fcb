/* SPDX-License-Identifier: Apache-2.0 */
/* RFC 9457 problems: the one place that maps errors to HTTP status and JSON. */
#ifndef PENSTOCK_PROBLEM_H
#define PENSTOCK_PROBLEM_H

#include "agent/base/buffer.h"
#include "agent/base/error.h"

struct answer;
struct request;

/* The status of the most severe of these errors (may be NULL); 500 when there is none. */
int problem_status(const struct errors *errors);
/* The document for these errors (may be none); detail NULL: made from the errors. */
void problem_render(struct buffer *out, int status, const char *detail, const struct errors *errors);
/* Makes the answer for them; status 0 = derived. */
struct answer *problem_new(int status, const char *detail, const struct errors *errors);
/* Sets the request's answer; always -EINVAL, so that `return problem_answer(...)` reads well. */
int problem_answer(struct request *request, int status, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
