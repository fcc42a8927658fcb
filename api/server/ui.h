/* SPDX-License-Identifier: Apache-2.0 */
/* The page on the node: its files, embedded at build (api/ui, api/ui_embed.py), and who is served them. */
#ifndef PENSTOCK_UI_H
#define PENSTOCK_UI_H

#include <microhttpd.h>
#include <stdbool.h>

struct request;
struct route;

struct ui_file {
	const char *name, *content_type;
	const char *text;
	const char *etag; /* quoted, from the content */
};
extern const struct ui_file ui_files[]; /* "index.html" first; ends with a NULL name */

/* Whether it is one of the page's own routes. */
bool ui_route(const struct route *route);
/*
 * Whether the listener has a loopback address: without authentication nobody but the node itself may see the page.
 */
bool ui_loopback(int fd);
/*
 * The page on the metrics listener, which asks nobody who he is: 0, or -EINVAL with a 403 that says why not. A name in
 * Host that is not the loopback's is a browser whose page came from elsewhere (DNS rebinding).
 */
int ui_check(struct request *request, bool loopback);
void ui_headers(struct MHD_Response *response);

#endif
