/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the doctor share: each looks at one side of the node, and adds what it finds. Reads only. */
#ifndef PENSTOCK_DATAPATH_DOCTOR_H
#define PENSTOCK_DATAPATH_DOCTOR_H

#include "agent/datapath/private.h"

/* An interface that programs of ours are at. */
struct doctor_interface {
	uint32_t ifindex;
	enum hook_role role;
	char name[16];
};

struct doctor_look {
	const struct datapath *datapath; /* what does not change while it is open */
	const struct doctor_interface *interfaces;
	size_t interface_count;
	bool steering;           /* a proxy is, or was, wanted */
	const atomic_bool *stop; /* nobody waits for it any more */
	/* what was found */
	struct finding *list;
	size_t count, capacity;
};
/* mend may be NULL. */
void finding_add(struct doctor_look *look, enum finding_level level, const char *name, const char *mend,
	const char *format, ...) __attribute__((format(printf, 5, 6)));

void doctor_kernel(struct doctor_look *look);   /* what it can do; asked once */
void doctor_settings(struct doctor_look *look); /* of /proc/sys */
void doctor_rules(struct doctor_look *look);    /* policy routing of others */
void doctor_marks(struct doctor_look *look);    /* rules of nftables and iptables about our bits of the mark */
void doctor_programs(struct doctor_look *look); /* of others at our interfaces */

/* What a rule does with the mark: it becomes (mark & keep) ^ flip; `known` is false where flip depends on more. */
struct mark_change {
	uint32_t keep, flip;
	bool known;
};
/* What was found out about one rule, by whichever kind of netfilter. */
struct mark_rule {
	const char *family, *table, *chain; /* chain "" where there is no name */
	bool sets, matches;
	struct mark_change change;
	uint32_t matched; /* the bits that it looks at, not counting a look at all of them */
};
void mark_rule_judge(struct doctor_look *look, const struct mark_rule *rule);
/* Targets and matches of x_tables, also inside nf_tables: what `info` says, added to the rule. */
void mark_target(struct mark_rule *rule, const char *name, uint32_t revision, const void *info, size_t size);
void mark_match(struct mark_rule *rule, const char *name, uint32_t revision, const void *info, size_t size);
void doctor_iptables(struct doctor_look *look); /* iptables-legacy (doctor_iptables.c) */

/* check.c: what this kernel can do, without libnftables, which only the applying thread uses. `support`: as it was
 * found when the programs were loaded; to find it reads all of the kernel's BTF. */
void check_kernel(const struct sockets_support *support,
	void (*each)(void *context, const char *what, bool yes, bool needed, const char *without), void *context);

int doctor_open(struct datapath *d, struct error *e);
void doctor_close(struct datapath *d);

#endif
