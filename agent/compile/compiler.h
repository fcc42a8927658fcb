/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The compiler's registries. Private to this room. A change goes through them in the order of settle() in compile.c:
 *
 *   objects → groups → profiles → terms → networks → addresses → classes → rows → ports → tables → Services
 *
 * New things are made before old ones go, so that what both need survives; numbers that the kernel sees are given last,
 * after those that ended have given theirs back.
 */
#ifndef PENSTOCK_COMPILER_H
#define PENSTOCK_COMPILER_H

#include "agent/compile/compile.h"
#include "agent/compile/intern.h"
#include "agent/compile/list.h"

#define NUMBER_NONE UINT32_MAX

/* What was done, for tests that bound it. */
struct work {
	uint64_t groups_matched; /* groups whose terms were looked up */
	uint64_t terms_matched;  /* single (term, group) comparisons for a new or ended term */
	uint64_t profiles;       /* groups whose profile was looked up */
	uint64_t classes;        /* class contents put together */
	uint64_t pairs;          /* (profile, direction, class) looked at */
	uint64_t rows;           /* rows put together from rules */
	uint64_t case_terms;     /* terms looked at to see what a class and a profile share */
	uint64_t rules;          /* rules asked for them */
	uint64_t moves;          /* addresses compared with a network that began or ended */
	uint64_t cells;          /* port classes judged for rows */
	uint64_t port_rebuilds;  /* protocols whose ports were laid out anew */
	uint64_t addresses;      /* address entries put together */
	uint64_t services;       /* entries of Services put together */
	uint64_t backends;       /* backends looked at, or compared with what they were, for them */
};

struct compiler {
	char *node_name;
	struct rulebook *book;
	struct tables tables;
	struct work work;
	uint64_t stamp;          /* raised for each marking walk */
	struct errors *warnings; /* of the update under way, or NULL */

	/* space.h */
	struct names spaces;

	/* group.h */
	struct intern groups;
	struct link all_groups, dirty_groups;
	struct link local_groups; /* with endpoints among their members */
	size_t group_count;
	struct names port_names;
	uint32_t next_port_name;

	/* term.h */
	struct names terms;
	struct ids term_ids;
	struct slots term_by_id;
	struct names pod_anchors, space_anchors;
	struct link generic_terms, node_terms;
	struct link fresh_terms, ended_terms;

	/* network.h */
	struct prefix *roots[2]; /* IPv4, IPv6 */
	struct intern term_sets;
	struct link touched_prefixes, ended_prefixes;
	size_t moves;    /* addresses compared with networks in this update */
	bool all_placed; /* those that there were are all to be placed anew */

	/* holder.h */
	struct intern holders;
	struct map addresses; /* 16 bytes → struct address * */
	struct link dirty_addresses, dirty_endpoints;
	struct ids endpoint_ids;
	uint32_t endpoint_next;
	struct slots endpoints;

	/* host.h */
	struct names hosts; /* by cgroup */

	/* class.h */
	struct intern classes;
	struct ids class_ids;
	struct slots class_by_id;
	struct class *class_none;
	struct link dirty_crossings, dirty_prefixes;
	struct link fresh_classes, idle_classes; /* idle: nobody's at the moment; ended unless somebody comes */

	/* compiled.h */
	struct names compiled;
	struct link global_compiled; /* may select in every namespace */
	uint32_t next_serial;

	/* proxy.h */
	struct names proxies;
	struct ids proxy_ids;
	uint32_t proxy_next;
	struct slots proxy_by_number;

	/* profile.h */
	struct intern profiles;
	struct ids profile_ids;
	struct slots profile_by_id;
	struct profile *profile_none;
	struct link fresh_profiles, idle_profiles;
	struct link renewed_profiles; /* went on with other policies: the classes that these name are paired anew */

	/* row.h */
	struct intern rows;
	struct ids row_ids;
	struct row *row_none;
	struct link all_rows, fresh_rows, idle_rows;

	/* pair.h */
	struct pair *pairs; /* found in this update */
	size_t pair_count, pair_room;
	struct pair *parted; /* were pairs before this update */
	size_t parted_count, parted_room;

	/* port.h */
	struct intern port_terms, port_classes;
	struct ids port_term_ids, port_class_ids;
	struct slots port_term_by_id;
	struct link all_port_terms, ended_port_terms;
	struct link fresh_port_classes, ended_port_classes;
	struct port_layout *layouts[PS_PORT_PROTO_COUNT];
	bool ports_touched[PS_PORT_PROTO_COUNT];

	/* service.h */
	struct names services, slices;
	struct map service_entries; /* struct service_key → struct service_entry * */
	struct map backends;        /* 16 bytes → struct backend_address * */
	struct map locals;          /* set: as they were told */
	struct map own_addresses;   /* 16 bytes → how many say that this node has it */
	struct link dirty_services, dirty_entries, dirty_backends, loose_backends;
	bool networks_touched;
};

static inline const struct work *compiler_work(const struct compiler *c)
{
	return &c->work;
}

#endif
