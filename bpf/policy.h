/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the live side of the policy tables says of one question. All precedence was decided by the compiler; what is
 * left is lookups:
 *
 *   (protocol, destination port) → port class                    port
 *   (profile, direction, class) → row, else the profile's own    peer_row profile
 *   (row, port class) → verdict, else the row's own              cell row
 */
#ifndef PENSTOCK_POLICY_H
#define PENSTOCK_POLICY_H

#include "bpf/maps.h"
#include "bpf/packet.h"
#include "bpf/verifier.h"
#include "bpf/work.h"

/* VERDICT_DEFAULT is no static const: PS_NO_STATIC_CONST in verifier.h. */
#define VERDICT_DEFAULT ((struct ps_verdict){.action = PS_ACTION_ALLOW, .reason = PS_REASON_DEFAULT})

static __always_inline __u32 port_class(__u32 side, __u8 protocol, __u16 port)
{
	const struct ps_port_block *block;
	__u32 index;

	switch (protocol) {
	case IPPROTO_TCP:
		index = PS_PORT_TCP;
		break;
	case IPPROTO_UDP:
		index = PS_PORT_UDP;
		break;
	case IPPROTO_SCTP:
		index = PS_PORT_SCTP;
		break;
	default:
		return PS_PORT_CLASS_NONE;
	}
	index = side * PS_PORT_BLOCKS + index * 256 + (port >> 8);
	block = bpf_map_lookup_elem(&ps_port, &index);
	return block ? block->port_class[port & 255] : PS_PORT_CLASS_NONE;
}

/* A table that does not answer denies: it cannot happen while the agent and this build agree. */
static __noinline void verdict_find(const struct question *q, struct ps_verdict *ret)
{
	const struct ps_verdict *verdict = NULL;
	const struct ps_profile *profile;
	struct ps_key_cell cell;
	const __u32 *peer_row;
	__u32 index, row;

	*ret = VERDICT_DEFAULT;
	if (q->row.profile == PS_PROFILE_NONE)
		PS_RETURN_ZERO;
	ret->action = PS_ACTION_DENY;
	peer_row = bpf_map_lookup_elem(&ps_peer_row, &q->row);
	if (peer_row) {
		row = *peer_row;
	} else {
		index = q->row.profile + q->row.side * PS_ENTRIES_profile;
		profile = bpf_map_lookup_elem(&ps_profile, &index);
		if (!profile)
			PS_RETURN_ZERO;
		row = q->row.direction == PS_EGRESS ? profile->default_row[PS_EGRESS] : profile->default_row[PS_INGRESS];
	}
	cell.side = q->row.side;
	cell.row = row;
	cell.port_class = port_class(q->row.side, q->protocol, q->port);
	if (cell.port_class != PS_PORT_CLASS_NONE)
		verdict = bpf_map_lookup_elem(&ps_cell, &cell);
	if (!verdict) {
		index = row + q->row.side * PS_ENTRIES_row;
		verdict = bpf_map_lookup_elem(&ps_row, &index);
	}
	if (verdict)
		*ret = *verdict;
	PS_RETURN_ZERO;
}

#endif
