/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Programs onto interfaces. A TCX link is pinned as links/IFINDEX-ingress or -egress (names of interfaces may hold
 * dots, bpffs' names may not). A clsact filter is no object that could be pinned: its program is, as
 * links/IFINDEX-ingress-clsact, to know that it is ours.
 */
#include <bpf/bpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "agent/base/log.h"
#include "agent/base/mem.h"
#include "agent/datapath/private.h"

#define RELEASE_MS 300

/* Linux 6.6; libbpf 1.1 and the headers of 6.1 do not know them. */
#define TCX_INGRESS 46
#define TCX_EGRESS 47
/* Before the programs that are there: one that ends the walk with TCX_PASS would otherwise take packets past ours. */
#define TCX_BEFORE (1u << 3)

const enum hook_program role_programs[ROLE_COUNT][PS_DIRECTION_COUNT] = {
	[ROLE_WORKLOAD] = {[PS_EGRESS] = PROGRAM_FROM_WORKLOAD, [PS_INGRESS] = PROGRAM_TO_WORKLOAD},
	[ROLE_NETWORK] = {[PS_EGRESS] = PROGRAM_FROM_NETWORK, [PS_INGRESS] = PROGRAM_TO_NETWORK},
	[ROLE_LOOPBACK] = {[PS_EGRESS] = PROGRAM_FROM_LOOPBACK, [PS_INGRESS] = PROGRAM_TO_LOOPBACK},
	[ROLE_EXIT] = {[PS_EGRESS] = PROGRAM_NONE, [PS_INGRESS] = PROGRAM_TO_NETWORK},
};

const char *const hook_names[] = {[HOOK_TCX] = "tcx", [HOOK_CLSACT] = "clsact"};

/* What a workload sends enters at the ingress of the host side. */
static const int tcx_types[PS_DIRECTION_COUNT] = {[PS_EGRESS] = TCX_INGRESS, [PS_INGRESS] = TCX_EGRESS};
static const char *const side_names[PS_DIRECTION_COUNT] = {[PS_EGRESS] = "ingress", [PS_INGRESS] = "egress"};

/* An interface that cannot exist: where TCX is known the answer is ENODEV, elsewhere EINVAL. */
enum hook_type hook_probe(const struct loaded *loaded)
{
	const char *forced = getenv("PENSTOCK_HOOK");
	if (forced && strcmp(forced, hook_names[HOOK_CLSACT]) == 0)
		return HOOK_CLSACT;
	auto_close int fd =
		bpf_link_create(loaded->program[PROGRAM_FROM_WORKLOAD], 0x7fffffff, (enum bpf_attach_type)TCX_INGRESS, NULL);
	return fd == -EINVAL ? HOOK_CLSACT : HOOK_TCX;
}

static const char *tcx_pin(char name[32], uint32_t ifindex, enum direction direction)
{
	snprintf(name, 32, "%u-%s", ifindex, side_names[direction]);
	return name;
}

/* bpf_link_info of 6.6 and later: the interface that the link is attached to, 0 once it is gone. */
static int tcx_info(int fd, uint32_t *ifindex, uint32_t *program)
{
	struct {
		uint32_t type, id, prog_id, pad;
		uint32_t ifindex, attach_type;
		uint8_t rest[64];
	} info = {0};
	uint32_t length = sizeof(info);
	int result = bpf_obj_get_info_by_fd(fd, &info, &length);
	if (result == 0) {
		*ifindex = info.ifindex;
		*program = info.prog_id;
	}
	return result;
}

bool tcx_attached(const struct pins *pins, int program, uint32_t ifindex, enum direction direction)
{
	char path[PIN_PATH_MAX], name[32];
	auto_close int fd = bpf_obj_get(pins_path(pins, path, "links", tcx_pin(name, ifindex, direction)));
	uint32_t attached = 0, runs = 0;
	return fd >= 0 && tcx_info(fd, &attached, &runs) == 0 && attached == ifindex &&
		   (program < 0 || runs == program_number(program));
}

/* The new program inside the existing link: no packet passes unseen. Returns 1, or 0 when there is no link or it has
 * lost its interface. */
static int tcx_update(const struct pins *pins, int program, uint32_t ifindex, enum direction direction, struct error *e)
{
	char path[PIN_PATH_MAX], name[32];
	pins_path(pins, path, "links", tcx_pin(name, ifindex, direction));
	auto_close int fd = bpf_obj_get(path);
	if (fd == -ENOENT)
		return 0;
	uint32_t attached = 0, runs;
	int result = fd < 0 ? fd : tcx_info(fd, &attached, &runs);
	if (result < 0)
		return error_system(e, -result, "the pinned link %s cannot be read", path);
	if (attached != ifindex) { /* the interface is gone, or has moved to another namespace under another number */
		unlink(path);
		return 0;
	}
	result = bpf_link_update(fd, program, NULL);
	if (result < 0)
		return error_system(e, -result, "the program of the pinned link %s cannot be replaced", path);
	return 1;
}

int tcx_attach(const struct pins *pins, int program, uint32_t ifindex, enum direction direction, struct error *e)
{
	int result = tcx_update(pins, program, ifindex, direction, e);
	if (result != 0)
		return result < 0 ? result : 0;
	DECLARE_LIBBPF_OPTS(bpf_link_create_opts, first, .flags = TCX_BEFORE);
	auto_close int fd = bpf_link_create(program, ifindex, (enum bpf_attach_type)tcx_types[direction], &first);
	/* A link whose pin somebody removed holds the program until a grace period is over. */
	for (int waited = 0; fd == -EEXIST && waited < RELEASE_MS; waited++) {
		usleep(1000);
		fd = bpf_link_create(program, ifindex, (enum bpf_attach_type)tcx_types[direction], &first);
	}
	if (fd < 0)
		return error_system(e, -fd, "the %s of interface %u cannot be attached to", side_names[direction], ifindex);
	char name[32];
	return pins_replace(pins, fd, "links", tcx_pin(name, ifindex, direction), e);
}

/* Detached first: when its pin goes, a link is released only after a grace period. */
static void tcx_detach(const char *path)
{
	auto_close int link = bpf_obj_get(path);
	if (link >= 0)
		bpf_link_detach(link);
	unlink(path);
}

static void direction_detach(const struct pins *pins, uint32_t ifindex, enum direction direction)
{
	char path[PIN_PATH_MAX], name[32];
	tcx_detach(pins_path(pins, path, "links", tcx_pin(name, ifindex, direction)));
	clsact_detach(pins, ifindex, direction);
}

int hook_attach(const struct pins *pins, const struct loaded *loaded, enum hook_type hook, enum hook_role role,
	uint32_t ifindex, struct error *e)
{
	int result = 0;
	for (enum direction direction = 0; result == 0 && direction < DIRECTIONS; direction++) {
		enum hook_program program = role_programs[role][direction];
		if (program == PROGRAM_NONE)
			direction_detach(pins, ifindex, direction);
		else if (hook == HOOK_TCX)
			result = tcx_attach(pins, loaded->program[program], ifindex, direction, e);
		else
			result = clsact_attach(pins, loaded->program[program], ifindex, direction, e);
	}
	return result;
}

void hook_detach(const struct pins *pins, uint32_t ifindex)
{
	for (enum direction direction = 0; direction < DIRECTIONS; direction++)
		direction_detach(pins, ifindex, direction);
	clsact_release(pins, ifindex);
}

/* program -1: any. */
static bool direction_attached(
	const struct pins *pins, enum hook_type hook, int program, uint32_t ifindex, enum direction direction)
{
	return hook == HOOK_TCX ? tcx_attached(pins, program, ifindex, direction)
							: clsact_attached(pins, ifindex, direction);
}

bool hook_attached(
	const struct pins *pins, const struct loaded *loaded, enum hook_type hook, enum hook_role role, uint32_t ifindex)
{
	for (enum direction direction = 0; direction < DIRECTIONS; direction++) {
		enum hook_program program = role_programs[role][direction];
		if (program != PROGRAM_NONE && !direction_attached(pins, hook, loaded->program[program], ifindex, direction))
			return false;
	}
	return true;
}

bool hook_enters(const struct pins *pins, uint32_t ifindex)
{
	return direction_attached(pins, HOOK_TCX, -1, ifindex, EGRESS) ||
		   direction_attached(pins, HOOK_CLSACT, -1, ifindex, EGRESS);
}

/* ---- taking over what an earlier agent left ---- */

struct take_over {
	const struct pins *pins;
	const struct loaded *loaded;
	enum hook_type hook;
	enum hook_role (*role)(void *context, uint32_t ifindex);
	void *context;
	struct map ifindexes;
	struct error *e;
};

static int note_ifindex(void *context, const char *name)
{
	struct take_over *t = context;
	char *end;
	uint32_t ifindex = strtoul(name, &end, 10);
	if (strchr(name, '~')) { /* an agent died while it pinned this */
		char path[PIN_PATH_MAX];
		unlink(pins_path(t->pins, path, "links", name));
	} else if (end != name && *end == '-')
		map_put(&t->ifindexes, &ifindex, NULL);
	return 0;
}

/* An interface that is attached by the other hook (PENSTOCK_HOOK, a new kernel) gets this one first and then loses
 * that. */
static int take_over(struct take_over *t, uint32_t ifindex)
{
	enum hook_role role = t->role(t->context, ifindex);
	int result = 0;
	bool tcx = false, clsact = false;
	for (enum direction direction = 0; result == 0 && direction < DIRECTIONS; direction++) {
		enum hook_program program = role_programs[role][direction];
		if (program == PROGRAM_NONE)
			continue;
		result = tcx_update(t->pins, t->loaded->program[program], ifindex, direction, t->e);
		tcx = tcx || result > 0;
		clsact = clsact || clsact_attached(t->pins, ifindex, direction);
		result = result < 0 ? result : 0;
	}
	if (result < 0)
		return result;
	if (!tcx && !clsact) {
		hook_detach(t->pins, ifindex);
		return 0;
	}
	result = hook_attach(t->pins, t->loaded, t->hook, role, ifindex, t->e);
	if (result < 0)
		return result;
	for (enum direction direction = 0; direction < DIRECTIONS; direction++) {
		char path[PIN_PATH_MAX], name[32];
		if (t->hook == HOOK_CLSACT)
			unlink(pins_path(t->pins, path, "links", tcx_pin(name, ifindex, direction)));
		else
			clsact_detach(t->pins, ifindex, direction);
	}
	if (t->hook == HOOK_TCX)
		clsact_release(t->pins, ifindex);
	return 1;
}

int hook_take_over(const struct pins *pins, const struct loaded *loaded, enum hook_type hook,
	enum hook_role (*role)(void *context, uint32_t ifindex), void (*each)(void *context, uint32_t ifindex),
	void *context, struct error *e)
{
	struct take_over t = {.pins = pins, .loaded = loaded, .hook = hook, .role = role, .context = context, .e = e};
	map_init(&t.ifindexes, sizeof(uint32_t), 0);
	int result = pins_each(pins, "links", note_ifindex, &t);
	if (result < 0)
		error_system(e, -result, "%s/links cannot be read", pins->directory);
	size_t at = 0;
	const void *key;
	void *value;
	while (result >= 0 && map_next(&t.ifindexes, &at, &key, &value)) {
		uint32_t ifindex = *(const uint32_t *)key;
		result = take_over(&t, ifindex);
		if (result > 0)
			each(context, ifindex);
	}
	map_clear(&t.ifindexes);
	return result < 0 ? result : 0;
}
