/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel's own connection tracking, which keeps what masquerade has rewritten: where programs find it. */
#ifndef PENSTOCK_DATAPATH_NFCT_H
#define PENSTOCK_DATAPATH_NFCT_H

#include <stdbool.h>
#include <stdint.h>

struct nfct_offsets {
	uint32_t skb;   /* of _nfct in struct sk_buff */
	uint32_t tuple; /* of the original direction's tuple in struct nf_conn */
	uint32_t reply; /* of the other direction's; 0: tuples do not lie so that both ends could be read */
};
/* kernel: its types, NULL when they are not known. False, with a line in the log that says why: programs are to read
 * nothing of it. */
struct btf;
bool nfct_find(struct btf *kernel, struct nfct_offsets *ret);

#endif
