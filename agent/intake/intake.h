/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A call becomes a candidate: who may write (owners, terms), on which condition, what the body says, what is set aside,
 * and whether the result holds together. Knows nothing of the compiler and the kernel; the base snapshot stays as it
 * is.
 */
#ifndef PENSTOCK_INTAKE_H
#define PENSTOCK_INTAKE_H

#include "agent/state/snapshot.h"
#include "api/server/server.h"

struct candidate {
	struct snapshot *snapshot;      /* as it would be; revision is the base's when nothing differs */
	struct difference *differences; /* that matter; between two snapshots, all */
	size_t difference_count;
	bool changes;    /* something differs: a new revision */
	bool durable;    /* nothing differs but what has to be remembered (an owner, its term, a resourceVersion) */
	uint64_t etag;   /* the revision to answer as ETag */
	char *set_aside; /* JSON array of what this call put into quarantine, or NULL */
};

/* 0 and *ret, or -EINVAL with every error of the body in errors. now: seconds since 1970. */
int intake_read(const struct call *call, const struct snapshot *base, uint64_t body_max, int64_t now,
	struct candidate *ret, struct errors *errors);
/* A JSON array of what differs: kind, namespace, name, and the object as GET would show it, old and new; null where
 * there is none. The caller frees. */
char *candidate_changes(const struct candidate *candidate);
void candidate_clear(struct candidate *candidate);

#endif
