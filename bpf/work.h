/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One packet's way through a hook: what each step leaves for the next. */
#ifndef PENSTOCK_WORK_H
#define PENSTOCK_WORK_H

#include "bpf/maps.h"
#include "bpf/packet.h"
#include "bpf/verifier.h"

#define PS_PASS (-1)      /* TCX_NEXT, and TC_ACT_UNSPEC for clsact: others come after us */
#define PS_DROP 2         /* TCX_DROP, TC_ACT_SHOT */
#define PS_UNCLAIMED (-2) /* for the network's program */

#define FAMILY_IPV4 2 /* AF_INET, AF_INET6 */
#define FAMILY_IPV6 10

/* One end of a packet, as the policy tables know it. */
struct party {
	__u32 class_id;
	__u32 endpoint; /* whose address it is */
	__u32 profile;
	__u32 local;   /* its profile is enforced on this node */
	__u32 steered; /* an ingress rule of an InterceptPolicy selects it */
	__u32 node;    /* a Node's address */
};

/* What policy says of a Service's backends, put together (service.h). */
struct opinions {
	struct ps_verdict allowed, refused; /* the first of each */
	struct ps_verdict own, next;        /* of the Service's own address; of the backend that is asked */
	__u8 allows, refuses;
	__u8 stuck;  /* a refused one is this node itself: no hook follows that could refuse */
	__u8 parted; /* those that are allowed are not all handed to the same proxy, or all kept from any */
};

#define WORK_SOURCE 1u /* the party is known */
#define WORK_DESTINATION 2u
#define WORK_NODE 4u         /* the originator is a socket of this node */
#define WORK_ORIGIN 8u       /* the originator's address was rewritten on this node, and was `origin` */
#define WORK_RELATED 16u     /* an error about the connection: who sent it says nothing about the originator */
#define WORK_LEG 32u         /* a proxy of this node opened it, for `origin` if that is known, else for its source */
#define WORK_TRANSLATED 128u /* its destination is the backend that a Service's address was translated to */
#define WORK_COUNTED 256u    /* the first hook has counted the rule that decided egress */
#define WORK_SERVICE 512u    /* its destination is a Service's address, and nobody has said which backend is meant */
#define WORK_QUIET 1024u     /* its connection has another entry, which is the one that is told of */
#define WORK_TAKEN 64u       /* a proxy's socket sent it, and takes the answer whatever its address */

/* One packet at one hook. Directions index `verdict` and `bits`; parties are the packet's, not the connection's. */
struct work {
	struct packet packet;
	struct address origin;
	struct address backend; /* PS_CONN_TRANSLATED */
	struct party source, destination;
	struct ps_verdict verdict[PS_DIRECTION_COUNT]; /* of what was judged now */
	__u64 now;
	__u32 generation, side;
	__u32 endpoint; /* behind this interface */
	__u32 entered;  /* the interface that shows who the source was before its address was rewritten */
	__u32 ifindex;  /* as it is put into an entry */
	__u32 judged;   /* bit per direction: verdict[] was judged now */
	__u32 intercept_rule;
	__u32 control; /* PS_CONTROL_* */
	__u8 bits[PS_DIRECTION_COUNT];
	__u8 reply;   /* goes to the originator of the connection that it belongs to */
	__u8 service; /* PS_CONN_PENDING, PS_CONN_TRANSLATED, of the connection */
	__u16 known;  /* WORK_* */
	__u16 backend_port;
	__u8 code; /* ps_verdict_code and ps_reason of the packet, for the counters */
	__u8 reason;
	__u8 proxy;          /* and intercept_rule: who takes the connection, and why */
	__u8 told_direction; /* of the refusal, and its rule, if a rule decided */
	__u32 told_rule;
};

/*
 * One packet's work, by hook. In a map rather than on the stack: PS_SCRATCH in verifier.h. Written and read by
 * programs, which hold a CPU from first to last (bottom halves are off at both hooks); never pinned, so its layout is
 * free.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct work);
} scratch SEC(".maps");

/* What policy is asked. */
struct question {
	struct ps_key_row row;
	__u16 port; /* destination of the connection's first packet */
	__u8 protocol;
};

/* What is needed for a moment, and would be too much on the stack. */
struct aside {
	struct packet entered; /* as it was before NAT (translated.h) */
	union {
		struct ps_key_service4 service4;
		struct ps_key_service6 service6;
	};
	struct question question;
	struct opinions backends;
	struct party party;
	struct address outer; /* of an ICMP error, while the packet in it is looked at */
	struct ps_conn fresh; /* an entry while it is made (behind.h) */
	struct bpf_fib_lookup route;
	struct ps_key_asker asker;
	struct ps_held flow;
};
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct aside);
} scratch_aside SEC(".maps");

static __always_inline struct aside *aside_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratch_aside, &zero);
}

static __always_inline struct work *work_get(bool from)
{
	__u32 hook = from ? 0 : 1;

	return bpf_map_lookup_elem(&scratch, &hook);
}

/* Before anything is known of a packet: there is nothing to tell of the one before it. */
static __always_inline void work_silent(struct work *w)
{
	w->packet.told = 0;
	w->code = PS_VERDICT_FORWARDED;
}

PS_APART int work_parse(struct __sk_buff *skb, bool l3, bool from)
{
	struct work *w = work_get(from);

	return w ? packet_parse(skb, &w->packet, l3, from) : PACKET_MALFORMED;
}

#endif
