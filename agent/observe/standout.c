/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/observe/standout.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

void standout_add(struct standout *standout, const char *name)
{
	size_t unused = STANDOUT_NAMES;
	standout->seen++;
	if (!name)
		return;
	for (size_t at = 0; at < STANDOUT_NAMES; at++) {
		if (!standout->names[at].count) {
			unused = at;
		} else if (strcmp(standout->names[at].name, name) == 0) {
			standout->names[at].count++;
			return;
		}
	}
	if (unused < STANDOUT_NAMES) {
		standout->names[unused].count = 1;
		snprintf(standout->names[unused].name, sizeof(standout->names[unused].name), "%s", name);
		return;
	}
	for (size_t at = 0; at < STANDOUT_NAMES; at++)
		standout->names[at].count--;
}

void standout_age(struct standout *standout)
{
	standout->seen /= 2;
	for (size_t at = 0; at < STANDOUT_NAMES; at++)
		standout->names[at].count /= 2;
}

const char *standout_most(const struct standout *standout)
{
	for (size_t at = 0; at < STANDOUT_NAMES; at++) {
		if (standout->names[at].count * 2 > standout->seen)
			return standout->names[at].name;
	}
	return NULL;
}
