/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PortScan: how many distinct targets (address, protocol, port) refused each source within SCAN_WINDOW. Exact up to the
 * threshold, which is all that is asked.
 *
 * Memory is bounded whatever arrives: SCAN_SOURCES sources of each of three sorts, so that a flood of one sort pushes
 * nobody of another out:
 *   known      sources that are workloads, and interfaces that send with addresses that are not theirs
 *   strangers  all others: anybody may have made these addresses up
 *   closed     pairs of addresses, where the other end itself refused connections (RST); ports of one address only,
 *              because many servers that restart are no scan. These addresses are true: there was an answer.
 * Within a sort a new source takes the place of the one that is least like a scanner. What that one had touched is
 * added to the `rest` (of known and of strangers), which is judged as if it were one source: who is pushed out is still
 * noticed.
 */
#ifndef PENSTOCK_ALERT_SCAN_H
#define PENSTOCK_ALERT_SCAN_H

#include "agent/observe/alert_list.h"
#include "agent/observe/flows.h"

#define SCAN_SOURCES 1024
#define SCAN_WINDOW (10 * SECOND)
#define SCAN_QUIET (30 * SECOND)
/* So many sources of a sort are told by name in a minute; what comes on top is told as the rest. */
#define SCAN_TOLD_MAX 32

struct scans;
struct scans *scans_new(uint32_t threshold, struct alert_list *list);
void scans_free(struct scans *scans);
void scans_flow(struct scans *scans, const struct flow *flow);
/* Bytes held, for tests of the bound. */
size_t scans_memory(const struct scans *scans);

#endif
