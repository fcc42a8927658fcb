/* SPDX-License-Identifier: Apache-2.0 */
/* One request, all its answers. */
#ifndef PENSTOCK_NETLINK_H
#define PENSTOCK_NETLINK_H

#include <libmnl/libmnl.h>

#define NETLINK_REQUEST_MAX 1024
/* Sends, and gives each answer to `each` (may be NULL) until done or acknowledged. 0 or a negative errno, the kernel's.
 */
int netlink_call(struct nlmsghdr *request, mnl_cb_t each, void *context);

#endif
