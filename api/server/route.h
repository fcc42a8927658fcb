/* SPDX-License-Identifier: Apache-2.0 */
/* The table of paths: what is served, what a 405 allows, what metrics are labelled with. openapi.yaml is tested
 * against it. */
#ifndef PENSTOCK_ROUTE_H
#define PENSTOCK_ROUTE_H

#include <stdbool.h>
#include "agent/base/buffer.h"
#include "api/server/request.h"

enum route_body {
	BODY_NONE,
	BODY_OBJECT,
	BODY_OBJECTS, /* NDJSON too */
	BODY_SMALL    /* read by the handler itself, on its thread */
};
#define BODY_SMALL_MAX (64u << 10)

struct route {
	const char *method;  /* HEAD is answered by GET */
	const char *pattern; /* "{plural}" is one of a scope's kinds */
	int scope;
	bool public; /* also on the metrics listener */
	void (*handler)(struct request *);
	unsigned parameters;
	enum route_body body;
};

/*
 * Finds the request's route by path (percent-encoded, without the query) and method, sets its label, kind, namespace
 * and name. 0, or -EINVAL with the answer set: 400, 404, 405 with Allow.
 */
int route_find(struct request *request, const char *path, bool public_only);

bool route_open(const struct route *route);  /* to everybody, also over TCP */
bool route_reads(const struct route *route); /* changes nothing: a viewer may */

/* Bytes that the body of this request may have, after decompression too. */
uint64_t route_body_max(const struct request *request);

/* Each path once, plural written out: "/v1/pods/{namespace}/{name}"; the last label is for what is not found. */
int route_label_count(void);
const char *route_label(int label);
/* Walk all (method, label): int at = 0; while (route_next(&at, &method, &label)) … */
bool route_next(int *at, const char **method, const char **label);

#endif
