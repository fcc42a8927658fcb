/* SPDX-License-Identifier: Apache-2.0 */
/* What is well and what is not, for people: the member "checks" of the status. */
#ifndef PENSTOCK_CHECKS_H
#define PENSTOCK_CHECKS_H

#include "agent/base/buffer.h"
#include "agent/status.h"

/* Appends an array of {"name","ok","level","what","mend"}; level ok, warning or bad; ok unless it is bad. */
void checks_render(struct buffer *b, const struct status_facts *facts);

#endif
