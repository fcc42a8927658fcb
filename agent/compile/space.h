/* SPDX-License-Identifier: Apache-2.0 */
/* A namespace: described by an object, or known by name only because something lives in it. */
#ifndef PENSTOCK_SPACE_H
#define PENSTOCK_SPACE_H

#include "agent/compile/compiler.h"

#define LABEL_SPACE_NAME "kubernetes.io/metadata.name"

struct space {
	char *name;
	const struct object *object; /* NULL: undescribed */
	struct labels labels;        /* the array is ours, its strings are the object's */
	struct link groups, compiled, terms;
	unsigned references;
};

struct space *space_take(struct compiler *c, const char *name);
void space_drop(struct compiler *c, struct space *space);
/* object NULL: the namespace has just its name label. */
void space_describe(struct compiler *c, const char *name, const struct object *object);
bool labels_equal(const struct labels *a, const struct labels *b);

#endif
