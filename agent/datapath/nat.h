/* SPDX-License-Identifier: Apache-2.0 */
/* Whether somebody else translates addresses in this network namespace. */
#ifndef PENSTOCK_DATAPATH_NAT_H
#define PENSTOCK_DATAPATH_NAT_H

#include <stdbool.h>

struct nlmsghdr;

#define NAT_WHY 256
/* output: what this node sends itself concerns us too. True, and why, if somebody does or it cannot be known. */
bool nat_look(bool output, char why[NAT_WHY]);
/* The part of it that costs next to nothing, and of which no netlink message tells. */
bool nat_legacy(void);
/* A message from nftables says that somebody begins to. */
bool nat_told(const struct nlmsghdr *message, bool output);

#endif
