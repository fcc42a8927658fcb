/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of this room share: one request on its way from headers to answer. */
#ifndef PENSTOCK_REQUEST_H
#define PENSTOCK_REQUEST_H

#include <microhttpd.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "agent/base/buffer.h"
#include "agent/model/object.h"
#include "agent/state/snapshot.h"
#include "api/server/identity.h"
#include "api/server/server.h"

struct answer;
struct connection;
struct listener;
struct pending_call;
struct route;

/* Query parameters, one bit each: a route names those that it takes. */
#define PARAMETERS(X)                  \
	X(OWNER, "owner")                  \
	X(FORCE, "force")                  \
	X(DRY_RUN, "dryRun")               \
	X(INVALID, "invalid")              \
	X(LIMIT, "limit")                  \
	X(CONTINUE, "continue")            \
	X(LABEL_SELECTOR, "labelSelector") \
	X(FOLLOW, "follow")                \
	X(WORKLOAD, "workload")            \
	X(VERDICT, "verdict")              \
	X(PROTOCOL, "protocol")            \
	X(PORT, "port")                    \
	X(IP, "ip")
enum parameter_index {
#define X(name, text) PARAMETER_INDEX_##name,
	PARAMETERS(X)
#undef X
		PARAMETER_COUNT
};
enum parameter {
#define X(name, text) PARAMETER_##name = 1 << PARAMETER_INDEX_##name,
	PARAMETERS(X)
#undef X
};

struct parameters {
	char *owner; /* NULL when not given */
	bool force, dry_run, quarantine, follow;
	bool diff;      /* the dry run answers what would change */
	uint64_t limit; /* 0 = no limit */
	struct selector *selector;
	char *after_namespace, *after_name; /* from a continue token; NULL without one */
	struct feed_filter feed;            /* its limit is set by the handler */
};

struct request {
	struct server *server;
	const struct listener *listener;
	struct MHD_Connection *http;
	struct connection *connection;
	const struct route *route; /* NULL: no such path, or method */
	int label;                 /* what it counts as */
	const char *method;        /* one of a known few */
	char *path;                /* of a write, as it was sent, without the query */
	struct identity identity;
	const char *credential; /* "token" or "certificate"; NULL: none was shown */
	bool head, accepts_gzip;
	int kind; /* -1 where the path names none */
	char *namespace, *name;
	struct parameters parameters;

	bool ndjson, gzip;
	bool has_term;
	uint64_t term;
	struct buffer body;
	uint64_t received, receive_max; /* bytes of body, discarded ones too; where the connection is cut off */
	bool suspended;                 /* the handler made a call of it */
	bool submitted;                 /* so that its audit line is the call's */

	struct answer *answer;   /* set once, by this request's thread or, while suspended, by call_reply */
	bool queued;             /* the answer is libmicrohttpd's */
	uint64_t began;          /* monotonic nanoseconds */
	uint64_t held;           /* bytes of a long answer, counted in the server's */
	struct stream *followed; /* a stream of this request, see follow.c */
};

/* ---- query.c: each returns 0 or sets the answer to a problem that names the parameter or header, and -EINVAL ---- */
int parameters_read(struct request *request, unsigned allowed);
void parameters_clear(struct parameters *parameters);
/* How long the body is must be beyond doubt: what two readers understand differently hides a request in another. */
int framing_read(struct request *request);
int body_headers_read(struct request *request, bool takes_body, bool takes_ndjson);
/* A percent-encoded text; NULL when it is malformed, holds a NUL or is not UTF-8. The caller frees. */
char *percent_decode(const char *text, size_t length);
/* Digits only, no sign, no space; fits 64 bits. */
bool number_parse(const char *text, uint64_t *ret);
/* The token that continues behind (namespace, name), appended to out. */
void continue_token(struct buffer *out, uint64_t revision, const char *namespace, const char *name);

/* ---- feed.c: the parameters of flows, connections and alerts ---- */
/* Sets one; -EINVAL with *wanted, what it must be. */
int filter_read(struct feed_filter *filter, enum parameter_index index, const char *value, const char **wanted);
void filter_clear(struct feed_filter *filter);

/* ---- etag.c ---- */
#define ETAG_TEXT_MAX 48
void etag_format(char text[ETAG_TEXT_MAX], const char *epoch, uint64_t revision);
/* Whether an If-Match (strong comparison) or If-None-Match (weak) header lists the tag; "*" lists every one. */
bool etag_listed(const char *header, const char *etag, bool weak);

/* ---- handlers, named by the route table; each sets the answer, or suspends ---- */
void read_state(struct request *request);
void read_list(struct request *request);
void read_object(struct request *request);
void read_owners(struct request *request);
void read_status(struct request *request);
void read_flows(struct request *request);
void read_connections(struct request *request);
void read_alerts(struct request *request);
void read_explain(struct request *request);
void read_policies(struct request *request);
void page_metrics(struct request *request);
void page_health(struct request *request);
void page_ready(struct request *request);
void page_version(struct request *request);
void page_openapi(struct request *request);
void ui_enter(struct request *request);
void ui_file(struct request *request);
void write_state_put(struct request *request);
void write_state_patch(struct request *request);
void write_object_put(struct request *request);
void write_object_delete(struct request *request);
void write_cidr_set_patch(struct request *request);
void write_owner_delete(struct request *request);

/* ---- body.c: receiving, within a budget for all bodies together ---- */
/* Takes `length` bytes into the body; what does not fit sets the answer and drops the body. */
void body_receive(struct request *request, const char *data, size_t length);
void body_drop(struct request *request);

/* ---- queue.c: calls on their way to the applying thread ---- */
int queue_start(struct server *server);
void queue_submit(struct request *request, enum call_verb verb);
/* Every call that waits is answered 503; no more are taken. */
void queue_stop(struct server *server);
void queue_free(struct server *server);

/* ---- follow.c: streams of the status and of feeds ---- */
void follow_changed(void *server);        /* wakes those of the status; board_watch's callback */
void follow_stop(struct server *server);  /* `stopping` is set: ends all */
void follow_sweep(struct server *server); /* ends those whose client hung up */

uint64_t clock_now(void); /* monotonic, nanoseconds */

#endif
