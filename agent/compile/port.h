/* SPDX-License-Identifier: Apache-2.0 */
/* Ports that rows name, as ranges of one protocol; and the classes into which they part all ports. */
#ifndef PENSTOCK_PORT_H
#define PENSTOCK_PORT_H

#include "agent/compile/compiler.h"

struct port_term {
	struct interned interned;
	uint32_t id; /* from 1 */
	unsigned references;
	uint8_t proto; /* enum ps_port_proto */
	uint16_t first, last;
	struct link classes, in_all;
	uint64_t touched; /* the stamp under which its classes changed last */
};
struct port_class_link {
	struct link in_term;
	struct port_class *class;
};
struct port_class {
	struct interned interned;
	uint32_t id;
	unsigned references; /* segments */
	int proto;
	uint32_t port; /* one that it holds now, for all of them */
	uint32_t count;
	uint32_t *terms;
	struct port_class_link *links;
	struct port_class *predecessor; /* which these ports were in before */
	bool fresh, ended;
	struct link waiting;
	uint64_t stamp;
};
/* All ports of a protocol: the class from `first` to the next segment. */
struct port_segment {
	uint32_t first;
	struct port_class *class; /* NULL: class 0 */
};
struct port_layout {
	size_t count;
	struct port_segment list[];
};

/* -1: a protocol without ports */
int port_proto(uint8_t protocol);
/* The number of the term; one reference. */
uint32_t port_term_take(struct compiler *c, int proto, uint16_t first, uint16_t last);
void port_term_drop(struct compiler *c, uint32_t id);

void ports_init(struct compiler *c);
/* Lays protocols whose terms changed out anew; numbers classes, writes the blocks. Terms whose classes are others now
 * are touched with the current stamp, which is returned; 0 when there are none. */
uint64_t ports_refresh(struct compiler *c);
void ports_sweep(struct compiler *c);
void ports_free(struct compiler *c);

#endif
