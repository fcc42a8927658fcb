/* SPDX-License-Identifier: Apache-2.0 */
/* Programs into the kernel, on the maps that are pinned already. Nothing is touched before every pinned map has been
 * found to fit. */
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "agent/base/buffer.h"
#include "agent/base/log.h"
#include "agent/base/map.h"
#include "agent/base/mem.h"
#include "agent/datapath/nfct.h"
#include "agent/datapath/private.h"
#include "bpf/penstock.skel.h"

const char *const program_names[PROGRAM_COUNT] = {[PROGRAM_FROM_WORKLOAD] = "from_workload",
	[PROGRAM_TO_WORKLOAD] = "to_workload",
	[PROGRAM_FROM_NETWORK] = "from_network",
	[PROGRAM_TO_NETWORK] = "to_network",
	[PROGRAM_FROM_LOOPBACK] = "from_loopback",
	[PROGRAM_TO_LOOPBACK] = "to_loopback"};

static const char *const other_names[OTHER_MAPS] = {[OTHER_CONTROL] = "ps_control",
	[OTHER_SIDE] = "ps_side",
	[OTHER_IFACE] = "ps_iface",
	[OTHER_BRIDGE] = "ps_bridge",
	[OTHER_CONN4] = "ps_conn4",
	[OTHER_CONN6] = "ps_conn6",
	[OTHER_NEW4] = "ps_new4",
	[OTHER_NEW6] = "ps_new6",
	[OTHER_EVENT] = "ps_event",
	[OTHER_COUNT_MAP] = "ps_count",
	[OTHER_STAT] = "ps_stat",
	[OTHER_RULE_HITS] = "ps_rule_hits",
	[OTHER_PROXY_COUNT] = "ps_proxy_count",
	[OTHER_LISTENER] = "ps_listener",
	[OTHER_CGROUP] = "ps_cgroup",
	[OTHER_EXEMPT] = "ps_exempt",
	[OTHER_DROP] = "ps_drop"};

/* ---- what libbpf says: at debug, and once more as an error when a load fails (then the verifier's log is in it) ----
 */

static struct buffer complaints; /* the applying thread's; filled only during a load */
static bool collecting;

static int print_libbpf(enum libbpf_print_level level, const char *format, va_list arguments)
{
	char *text = NULL;
	if (vasprintf(&text, format, arguments) < 0)
		return 0;
	if (collecting && level == LIBBPF_WARN)
		buffer_puts(&complaints, text);
	else if (level != LIBBPF_DEBUG) {
		text[strcspn(text, "\n")] = '\0';
		log_debug(ROOM, "%s", text);
	}
	free(text);
	return 0;
}

static void print_complaints(void)
{
	char *rest = complaints.data;
	for (char *line; rest && (line = strsep(&rest, "\n"));)
		if (*line)
			log_error(ROOM, "%s", line);
}

/* ---- the kernel's numbers ---- */

static uint32_t map_id(int fd)
{
	struct bpf_map_info info = {0};
	uint32_t length = sizeof(info);
	return bpf_obj_get_info_by_fd(fd, &info, &length) == 0 ? info.id : 0;
}

uint32_t program_number(int fd)
{
	struct bpf_prog_info info = {0};
	uint32_t length = sizeof(info);
	return bpf_obj_get_info_by_fd(fd, &info, &length) == 0 ? info.id : 0;
}

/* ---- pinned maps ---- */

/* The others (.rodata, a program's notes) belong to one load: their layout may change with each build. */
static bool outlives(const struct bpf_map *map)
{
	return !bpf_map__is_internal(map) && strncmp(bpf_map__name(map), "ps_", 3) == 0;
}

static bool connection_map(const char *name)
{
	return strcmp(name, "ps_conn4") == 0 || strcmp(name, "ps_conn6") == 0;
}

static int check_layout(
	const struct bpf_map *map, const struct bpf_map_info *pinned, const char *directory, struct error *e)
{
	const char *name = bpf_map__name(map);
	if (pinned->type == bpf_map__type(map) && pinned->key_size == bpf_map__key_size(map) &&
		pinned->value_size == bpf_map__value_size(map) && pinned->map_flags == bpf_map__map_flags(map) &&
		(connection_map(name) || pinned->max_entries == bpf_map__max_entries(map)))
		return 0;
	return error_set(e, ERROR_SYSTEM, EPROTO, NULL,
		"the pinned map %s/maps/%s has another layout (type %u, key %u, value %u, entries %u, flags %#x) than this "
		"build (type %u, key %u, "
		"value %u, entries %u, flags %#x): run the other build's `penstockd --uninstall` first; nothing was touched",
		directory, name, pinned->type, pinned->key_size, pinned->value_size, pinned->max_entries, pinned->map_flags,
		bpf_map__type(map), bpf_map__key_size(map), bpf_map__value_size(map), bpf_map__max_entries(map),
		bpf_map__map_flags(map));
}

/* Opens the pin of a map, if there is one and it fits; *ret is -1 when there is none. */
static int open_pinned(
	const struct pins *pins, struct bpf_map *map, uint32_t wanted_connections, int *ret, struct error *e)
{
	char path[PIN_PATH_MAX];
	pins_path(pins, path, "maps", bpf_map__name(map));
	auto_close int fd = bpf_obj_get(path);
	if (fd == -ENOENT) {
		*ret = -1;
		return 0;
	}
	struct bpf_map_info info = {0};
	uint32_t length = sizeof(info);
	int result = fd < 0 ? fd : bpf_obj_get_info_by_fd(fd, &info, &length);
	if (result < 0)
		return error_system(e, -result, "the pinned map %s cannot be opened", path);
	result = check_layout(map, &info, pins->directory, e);
	if (result < 0)
		return result;
	if (connection_map(bpf_map__name(map)) && info.max_entries != wanted_connections) {
		log_warn(ROOM,
			"%s keeps its size of %u entries (datapath.connectionsMax is %u): another size needs `penstockd "
			"--uninstall`",
			bpf_map__name(map), info.max_entries, wanted_connections);
		bpf_map__set_max_entries(map, info.max_entries);
	}
	*ret = steal_fd(&fd);
	return 0;
}

/* Two passes: first everything is looked at, then everything is used. */
static int reuse_maps(const struct pins *pins, struct bpf_object *object, uint32_t connections, struct error *e)
{
	struct bpf_map *map;
	bpf_object__for_each_map(map, object)
	{
		auto_close int fd = -1;
		int result = outlives(map) ? open_pinned(pins, map, connections, &fd, e) : 0;
		if (result == 0 && fd >= 0)
			result =
				bpf_map__reuse_fd(map, fd) < 0 ? error_system(e, errno, "%s cannot be reused", bpf_map__name(map)) : 0;
		if (result < 0)
			return result;
	}
	return 0;
}

static int pin_maps(const struct pins *pins, struct bpf_object *object, struct error *e)
{
	struct bpf_map *map;
	bpf_object__for_each_map(map, object)
	{
		char path[PIN_PATH_MAX];
		pins_path(pins, path, "maps", bpf_map__name(map));
		if (!outlives(map) || access(path, F_OK) == 0)
			continue;
		int result = bpf_obj_pin(bpf_map__fd(map), path);
		if (result < 0)
			return error_system(e, -result, "%s cannot be pinned", path);
	}
	return 0;
}

/* ---- all together ---- */

static void set_constants(struct penstock_bpf *skeleton, const struct datapath_options *options, struct btf *kernel)
{
	skeleton->rodata->mark_mask = options->mark_mask;
	skeleton->rodata->mark_intercept = mark_intercept(options->mark_mask);
	skeleton->rodata->mark_answer = mark_answer(options->mark_mask);
	skeleton->rodata->deny_with_reject = options->deny_reject;
	skeleton->rodata->allow_local_host = options->allow_local_host;
	skeleton->rodata->unclaimed_deny = options->unclaimed_deny;
	skeleton->rodata->have_timer = libbpf_probe_bpf_helper(BPF_PROG_TYPE_SCHED_CLS, BPF_FUNC_timer_init, NULL) == 1;
	struct nfct_offsets nfct = {0};
	if (nfct_find(kernel, &nfct)) {
		skeleton->rodata->nfct_offset = nfct.skb;
		skeleton->rodata->nfct_tuple_offset = nfct.tuple;
		skeleton->rodata->nfct_reply_offset = nfct.reply;
	}
	bpf_map__set_max_entries(skeleton->maps.ps_conn4, options->connections_max);
	bpf_map__set_max_entries(skeleton->maps.ps_conn6, options->connections_max);
}

static void set_sockets(struct penstock_bpf *skeleton, const struct btf *kernel, struct sockets_support *ret)
{
	sockets_probe(kernel, ret);
	skeleton->rodata->netns_cookie = ret->netns_cookie;
	skeleton->rodata->have_option_thread = ret->thread;
	skeleton->rodata->have_task = ret->task;
	sockets_prepare(skeleton->obj, ret);
}

static void set_traces(struct penstock_bpf *skeleton, const struct btf *kernel, struct traces_support *ret)
{
	traces_probe(kernel, ret);
	skeleton->rodata->have_drop_socket = ret->drop_receiver;
	traces_prepare(skeleton->obj, ret);
}

int program_descriptor(const struct loaded *loaded, const char *name)
{
	const struct penstock_bpf *skeleton = loaded->skeleton;
	if (loaded->kept.count)
		return keep_descriptor(&loaded->kept, name);
	return bpf_program__fd(bpf_object__find_program_by_name(skeleton->obj, name));
}

static int find_descriptors(struct bpf_object *object, const bool *fresh, struct loaded *ret, struct error *e)
{
	for (int id = 0; id < TABLE_COUNT; id++) {
		char name[32];
		snprintf(name, sizeof(name), "ps_%s", table_infos[id].name);
		struct bpf_map *map = bpf_object__find_map_by_name(object, name);
		if (!map || bpf_map__max_entries(map) < 2 * table_infos[id].entries)
			return error_set(e, ERROR_SYSTEM, EPROTO, NULL, "map %s is missing or smaller than two sides", name);
		ret->table[id] = bpf_map__fd(map);
		ret->table_fresh[id] = fresh[id];
	}
	for (int i = 0; i < OTHER_MAPS; i++) {
		struct bpf_map *map = bpf_object__find_map_by_name(object, other_names[i]);
		if (!map)
			return error_set(e, ERROR_SYSTEM, EPROTO, NULL, "map %s is missing", other_names[i]);
		ret->other[i] = bpf_map__fd(map);
		if (i == OTHER_CONN4)
			ret->connections = bpf_map__max_entries(map);
		if (i == OTHER_RULE_HITS)
			ret->rules = bpf_map__max_entries(map);
	}
	sockets_find(ret);
	traces_find(ret);
	for (int i = 0; i < PROGRAM_COUNT; i++)
		ret->program[i] = program_descriptor(ret, program_names[i]);
	return 0;
}

/*
 * What the programs are made of: this build's code, the constants, the maps (their numbers are nobody else's as long as
 * the kernel runs). 0: a map is still to be made.
 */
static uint64_t programs_identity(const struct penstock_bpf *skeleton)
{
	size_t size = 0;
	const void *code = penstock_bpf__elf_bytes(&size);
	uint64_t identity = hash_bytes(code, size, 0);
	identity = hash_bytes(skeleton->rodata, sizeof(*skeleton->rodata), identity);
	struct bpf_map *map;
	bpf_object__for_each_map(map, skeleton->obj)
	{
		uint32_t id = outlives(map) ? map_id(bpf_map__fd(map)) : 0;
		if (outlives(map) && !id)
			return 0;
		identity = hash_bytes(&id, sizeof(id), identity);
	}
	return identity;
}

static void note_fresh(const struct pins *pins, bool *fresh)
{
	for (int id = 0; id < TABLE_COUNT; id++) {
		char path[PIN_PATH_MAX], name[32];
		snprintf(name, sizeof(name), "ps_%s", table_infos[id].name);
		fresh[id] = access(pins_path(pins, path, "maps", name), F_OK) < 0;
	}
}

static int load_pinned(
	const struct datapath_options *options, const struct pins *pins, struct loaded *ret, struct error *e)
{
	struct penstock_bpf *skeleton = ret->skeleton;
	bool fresh[TABLE_COUNT];
	note_fresh(pins, fresh);
	struct btf *kernel = btf__load_vmlinux_btf();
	set_constants(skeleton, options, kernel);
	ret->tuples = skeleton->rodata->nfct_reply_offset;
	set_sockets(skeleton, kernel, &ret->sockets);
	set_traces(skeleton, kernel, &ret->traces);
	btf__free(kernel);
	int result = reuse_maps(pins, skeleton->obj, options->connections_max, e);
	if (result < 0)
		return result;
	uint64_t identity = programs_identity(skeleton);
	if (identity && keep_find(pins, identity, skeleton->obj, &ret->kept))
		log_debug(ROOM, "the pinned programs are of this build and configuration: they stay");
	collecting = true;
	result = penstock_bpf__load(skeleton);
	collecting = false;
	if (result < 0) {
		print_complaints();
		return error_system(e, -result, "the BPF programs cannot be loaded (the log says why)");
	}
	result = find_descriptors(skeleton->obj, fresh, ret, e);
	if (result == 0)
		result = pin_maps(pins, skeleton->obj, e);
	if (result == 0 && !ret->kept.count)
		result = keep_pin(pins, programs_identity(skeleton), skeleton->obj, e);
	return result;
}

/* ---- pins that somebody removed ---- */

/* 1 when it was not pinned under this name. */
static int pin_keep(struct datapath *d, int fd, const char *folder, const char *name, uint32_t (*id)(int fd))
{
	char path[PIN_PATH_MAX];
	struct error e = {0};
	auto_close int there = bpf_obj_get(pins_path(&d->pins, path, folder, name));
	if (there >= 0 && id(there) == id(fd))
		return 0;
	if (pins_replace(&d->pins, fd, folder, name, &e) < 0) {
		log_warn(ROOM, "%s", e.detail);
		return 0;
	}
	log_warn(ROOM, "somebody %s the pin %s: it is back", there < 0 ? "removed" : "changed", path);
	return 1;
}

void pins_audit(struct datapath *d)
{
	struct penstock_bpf *skeleton = d->loaded.skeleton;
	struct bpf_map *map;
	uint64_t count = 0;
	bpf_object__for_each_map(map, skeleton->obj)
	{
		if (outlives(map))
			count += pin_keep(d, bpf_map__fd(map), "maps", bpf_map__name(map), map_id);
	}
	for (int i = 0; i < PROGRAM_COUNT; i++)
		count += pin_keep(d, d->loaded.program[i], "programs", program_names[i], program_number);
	drift_note(d, DRIFT_PIN, count);
}

void load_prepare(void)
{
	libbpf_set_print(print_libbpf);
	libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
}

int load_programs(const struct datapath_options *options, const struct pins *pins, struct loaded *ret, struct error *e)
{
	load_prepare();
	struct loaded loaded = {.skeleton = penstock_bpf__open()};
	if (!loaded.skeleton)
		return error_system(e, errno, "the BPF object cannot be opened");
	int result = load_pinned(options, pins, &loaded, e);
	buffer_free(&complaints);
	if (result < 0)
		load_close(&loaded);
	else
		*ret = loaded;
	return result;
}

void load_close(struct loaded *loaded)
{
	if (loaded->skeleton)
		penstock_bpf__destroy(loaded->skeleton);
	loaded->skeleton = NULL;
	keep_close(&loaded->kept);
	traces_forget(&loaded->traces);
}
