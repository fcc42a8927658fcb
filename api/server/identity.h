/* SPDX-License-Identifier: Apache-2.0 */
/* Who asks, and what he may do. */
#ifndef PENSTOCK_IDENTITY_H
#define PENSTOCK_IDENTITY_H

#include <stdbool.h>

#define OWNER_MAX 253

enum role { ROLE_NONE, ROLE_VIEWER, ROLE_ADMIN };

struct identity {
	enum role role;
	char name[OWNER_MAX + 1]; /* "" on the unix socket */
};

/* Names of owners stand in annotations, logs and labels of metrics: printable ASCII without spaces, quotes and
 * backslashes. */
bool owner_valid(const char *name);
#define OWNER_WANTED "a name of 1 to 253 printable ASCII characters without spaces, quotes and backslashes"

#endif
