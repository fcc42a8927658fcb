/* SPDX-License-Identifier: Apache-2.0 */
/* What a service manager is told (sd_notify(3), without its library). */
#ifndef PENSTOCK_NOTIFY_H
#define PENSTOCK_NOTIFY_H

/* The state on disk is enforced, or the status says why not, and the API answers. Nothing where nobody asked for it by
 * NOTIFY_SOCKET. */
void notify_ready(void);

#endif
