/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent tries by itself how this kernel hands over, in its own network namespace: frames of a client that is no
 * socket enter by a veth, a small program hands them to a listener of the agent, which looks whom it hears, and
 * answers.
 */
#ifndef PENSTOCK_TRIAL_H
#define PENSTOCK_TRIAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "agent/base/addr.h"
#include "agent/base/error.h"
#include "agent/datapath/engine.h"

#define TRIAL_PORT 7649 /* what the client dials */

/* ---- the veth (trial_link.c) ---- */

#define TRIAL_NEAR "penstock-try0" /* the program's */
#define TRIAL_FAR "penstock-try1"  /* the client's */
extern const uint8_t trial_near_mac[6], trial_far_mac[6];
struct trial_link {
	uint32_t near, far;              /* ifindexes */
	bool ipv6;                       /* is switched on */
	struct ip client[2], service[2]; /* IPv4, IPv6: of documentation's networks, and nobody's here */
};
int trial_link_make(struct trial_link *ret, struct error *e);
/* Also what a killed agent left. */
void trial_link_remove(void);

/* ---- frames (trial_frame.c) ---- */

#define FRAME_MAX 256
#define FRAME_FIN 1u
#define FRAME_SYN 2u
#define FRAME_RST 4u
#define FRAME_PUSH 8u
#define FRAME_ACK 16u
struct frame {
	uint8_t protocol; /* IPPROTO_TCP, IPPROTO_UDP */
	struct ip source, destination;
	uint16_t source_port, destination_port;
	uint32_t sequence, acknowledged; /* TCP */
	uint8_t flags;
	char text; /* the one byte that it carries; 0: none */
};
/* From the far end to the near one, checksums and all; how long. */
size_t frame_write(const struct frame *frame, uint8_t buffer[FRAME_MAX]);
/* False: it is no such frame. */
bool frame_read(const uint8_t *data, size_t length, struct frame *ret);

/* ---- where it is lost (trial_lost.c) ---- */

/* Counters of nftables before and behind everybody's rules. */
int lost_watch(struct error *e);
void lost_unwatch(void);
/* In words; after a trial that failed while it was watched. */
void lost_tell(enum engine engine, int family, char *ret, size_t size);

/* ---- the trial itself (trial.c) ---- */

struct datapath;
/*
 * Engines in their order, until one passes: fills status->trials. Routes and our table are set. An error: nothing could
 * be tried.
 */
int trial_run(struct datapath *d, struct engine_status *status, struct error *e);
/* What a trial left that was killed. */
void trial_clean(void);

#endif
