/* SPDX-License-Identifier: Apache-2.0 */
/* Who most of a stream is about, in fixed memory (Misra and Gries, "Finding repeated elements"). */
#ifndef PENSTOCK_STANDOUT_H
#define PENSTOCK_STANDOUT_H

#include <stdint.h>

#define STANDOUT_NAMES 8
#define WORKLOAD_TEXT_MAX 320 /* a namespace has 63 characters at most, a name 253 */

struct standout {
	uint64_t seen;
	struct {
		uint64_t count; /* of `seen`, at most a ninth too few */
		char name[WORKLOAD_TEXT_MAX];
	} names[STANDOUT_NAMES];
};
void standout_add(struct standout *standout, const char *name); /* NULL: nobody's */
/* What was long ago counts less: half. */
void standout_age(struct standout *standout);
/* Whom more than half is about; NULL: nobody. Ends with the next add. */
const char *standout_most(const struct standout *standout);

#endif
