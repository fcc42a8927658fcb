/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The HTTP side. GETs are answered by libmicrohttpd's threads from the board; a write becomes a call in a queue, taken
 * by the applying thread one at a time. The caller may hang up: its write goes on.
 */
#ifndef PENSTOCK_SERVER_H
#define PENSTOCK_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "agent/base/addr.h"
#include "agent/base/buffer.h"
#include "agent/base/error.h"
#include "agent/model/object.h"
#include "agent/state/board.h"

enum call_verb {
	CALL_PUT_STATE,
	CALL_PATCH_STATE,
	CALL_PUT_OBJECT,
	CALL_DELETE_OBJECT,
	CALL_PATCH_CIDR_SET,
	CALL_DELETE_OWNER
};

struct call {
	enum call_verb verb;
	enum kind kind;         /* object calls */
	char *namespace, *name; /* object calls; CALL_DELETE_OWNER: name */
	char *owner;            /* never NULL: ?owner=, else the credential's name, else "local" */
	bool force, dry_run, quarantine;
	bool diff; /* dry_run: what would change is wanted in the answer */
	bool has_term;
	uint64_t term;
	char *if_match, *if_none_match; /* as sent, or NULL */
	bool ndjson;
	bool gzip; /* body is compressed; whoever reads it inflates it, up to body_max */
	char *body;
	size_t body_length;
};

/* What the applying thread answers. All of it is copied or taken by call_reply. */
struct reply {
	int status;             /* 200, or 0: derived from errors */
	struct errors errors;   /* taken */
	uint64_t revision;      /* answered as "revision" */
	uint64_t etag_revision; /* no ETag on a dry run */
	struct errors warnings; /* taken; path is the pointer */
	char *quarantined;      /* JSON array text or NULL; taken */
	bool dry_run;
	char *changes; /* JSON array text or NULL; taken */
};

/* What GET /v1/flows, /v1/connections and /v1/alerts list; flows and alerts can be followed. */
enum feed { FEED_FLOWS, FEED_CONNECTIONS, FEED_ALERTS, FEED_COUNT };
#define FEED_REFUSED "Refused"
struct feed_filter {
	char *workload; /* "namespace/name", "namespace/" followed by a star for all of one, or NULL */
	char *verdict;  /* as in a record, FEED_REFUSED (Dropped or Rejected), or NULL */
	char *protocol; /* the same */
	bool has_port, has_ip;
	uint16_t port;
	struct ip ip;
	uint64_t limit; /* 0: all */
};

/* The API over TCP; "" where there is none. The listener is refused when everybody could use it. */
struct server_tcp {
	const char *listen;
	const char *certificate, *key, *client_ca, *token_file;
};

/* A text that is made while it is sent. next appends a piece; false when that was the last. */
struct text_source {
	bool (*next)(struct text_source *source, struct buffer *out);
	void (*free)(struct text_source *source);
};

struct server_options {
	const char *unix_path, *unix_group;
	const char *metrics_listen; /* "" = none */
	struct server_tcp tcp;      /* all NULL: none */
	uint64_t body_max;
	struct board *board;
	/* Somebody asks for the status: may see to it that it is fresh, within a moment. On HTTP's threads; or NULL. */
	void (*status_asked)(void *context);
	/* Renders /metrics. Called on HTTP's threads. */
	void (*metrics)(void *context, struct buffer *out);
	/* Answers POST /v1/explain: appends the document, or adds errors. Called on HTTP's threads; NULL: 503. */
	void (*explain)(void *context, const char *body, size_t length, struct buffer *out, struct errors *errors);
	/* Appends the records of a feed that match, comma-separated JSON objects, newest last. Not of connections. On
	 * HTTP's threads. */
	void (*feed_list)(void *context, enum feed feed, const struct feed_filter *filter, struct buffer *out);
	/* The document of GET /v1/connections, newest last; *held: the memory that it has until it is freed. On HTTP's
	 * threads; NULL: 503. */
	struct text_source *(*connections)(void *context, const struct feed_filter *filter, size_t *held);
	/*
	 * Appends lines (NDJSON) of what matches and came after *after (0: all that is kept; of those the last
	 * filter->limit), about `most` bytes at most, and moves *after past what was looked at. On HTTP's threads.
	 * Where records behind *after were overwritten, the line {"lost":N} comes first. Nothing appended and *after as it
	 * was: the reader has all that there is.
	 */
	void (*feed_follow)(void *context, enum feed feed, const struct feed_filter *filter, uint64_t *after, size_t most,
		struct buffer *out);
	void *context;
};

struct server;
/* Whether the files of the TCP listener can be used; an error's path is the configuration's key that is to blame. With
 * `warn` the log says what is odd about them, as server_start does. */
int server_tcp_check(const struct server_tcp *tcp, bool warn, struct error *e);
/* Reads certificates and tokens again; a bad file keeps the old one. Any thread. */
void server_reload(struct server *server);
/* There is something new in a feed: wakes those who follow it. Any thread, until server_stop; NULL is fine. */
void server_news(struct server *server, enum feed feed);
int server_start(const struct server_options *options, struct server **ret, struct error *e);
/* No new connections; calls that wait are answered 503. */
void server_stop(struct server *server);
int server_fd(const struct server *server);              /* readable while calls wait */
struct call *server_next(struct server *server);         /* NULL when none waits */
void call_reply(struct call *call, struct reply *reply); /* answers and frees the call */

/* What the server counts of itself, rendered by the metrics room: a walk over route, method, code and latency buckets.
 */
struct api_count {
	const char *method, *route; /* route with placeholders: "/v1/pods/{namespace}/{name}" */
	int code;
	uint64_t requests;
};
struct api_latency {
	const char *route;
	const double *bounds;    /* seconds, without +Inf */
	const uint64_t *buckets; /* cumulative, one more than bounds */
	size_t bound_count;
	double sum;
};
void server_counts(struct server *server, void (*each_count)(void *, const struct api_count *),
	void (*each_latency)(void *, const struct api_latency *), void *context);

#endif
