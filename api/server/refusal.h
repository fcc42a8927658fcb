/* SPDX-License-Identifier: Apache-2.0 */
/* Problems instead of the pages that libmicrohttpd answers with on its own. */
#ifndef PENSTOCK_REFUSAL_H
#define PENSTOCK_REFUSAL_H

#include <microhttpd.h>

/* MHD_queue_response for this room: the one of that name is libmicrohttpd's alone, see refusal.c. */
enum MHD_Result response_queue(struct MHD_Connection *http, unsigned status, struct MHD_Response *response);

#endif
