/* SPDX-License-Identifier: Apache-2.0 */
/* Everything of ours leaves, and what could be left is looked for afterwards. */
#include <bpf/bpf.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "agent/base/mem.h"
#include "agent/datapath/private.h"
#include "agent/datapath/trial.h"

struct removal {
	const struct pins *pins;
	const char *folder;
	uint32_t programs[PROGRAM_COUNT]; /* ids, of what was pinned */
	struct error *e;
};

static int detach_pinned(void *context, const char *name)
{
	struct removal *removal = context;
	char *end;
	uint32_t ifindex = strtoul(name, &end, 10);
	if (end != name)
		hook_detach(removal->pins, ifindex);
	return 0;
}

static int remove_pin(void *context, const char *name)
{
	struct removal *removal = context;
	char path[PIN_PATH_MAX];
	pins_path(removal->pins, path, removal->folder, name);
	if (unlink(path) < 0 && errno != ENOENT)
		return error_system(removal->e, errno, "%s cannot be removed", path);
	return 0;
}

static int remove_folder(struct removal *removal, const char *folder)
{
	char path[PIN_PATH_MAX];
	removal->folder = folder;
	int result = pins_each(removal->pins, folder, remove_pin, removal);
	if (result == 0 && rmdir(pins_path(removal->pins, path, folder, NULL)) < 0 && errno != ENOENT)
		result = error_system(removal->e, errno, "%s cannot be removed", path);
	return result;
}

static int remove_abi(void *context, const char *name)
{
	struct removal *removal = context;
	char path[PIN_PATH_MAX];
	if (strncmp(name, "abi-", 4) == 0)
		rmdir(pins_path(removal->pins, path, name, NULL));
	return 0;
}

static void note_programs(struct removal *removal)
{
	for (int i = 0; i < PROGRAM_COUNT; i++) {
		char path[PIN_PATH_MAX];
		auto_close int fd = bpf_obj_get(pins_path(removal->pins, path, "programs", program_names[i]));
		struct bpf_prog_info info = {0};
		uint32_t length = sizeof(info);
		if (fd >= 0 && bpf_obj_get_info_by_fd(fd, &info, &length) == 0)
			removal->programs[i] = info.id;
	}
}

/* ---- what could be left on an interface ---- */

static bool tcx_holds(const struct removal *removal, uint32_t ifindex, int attach_type)
{
	uint32_t ids[64], count = 64, flags;
	if (bpf_prog_query(ifindex, (enum bpf_attach_type)attach_type, 0, &flags, ids, &count) < 0)
		return false; /* no TCX */
	for (uint32_t i = 0; i < count; i++)
		for (int program = 0; program < PROGRAM_COUNT; program++)
			if (removal->programs[program] && ids[i] == removal->programs[program])
				return true;
	return false;
}

/* Filters that no pin speaks of (somebody emptied the pin directory) go as well. */
static int sweep_interfaces(const struct removal *removal)
{
	struct net net;
	net_init(&net);
	int result = monitor_dump(&net, removal->e);
	size_t at = 0;
	const void *key;
	void *value;
	while (result == 0 && map_next(&net.links, &at, &key, &value)) {
		const struct net_link *link = value;
		if (clsact_sweep(link->ifindex, true) < 0 || clsact_sweep(link->ifindex, false) != 0)
			result = error_set(removal->e, ERROR_SYSTEM, EBUSY, NULL, "a tc filter of ours remains on %s", link->name);
		else if (tcx_holds(removal, link->ifindex, 46) || tcx_holds(removal, link->ifindex, 47))
			result = error_set(removal->e, ERROR_SYSTEM, EBUSY, NULL,
				"a program of ours is still attached to %s: another process holds its link", link->name);
	}
	net_clear(&net);
	return result;
}

static int remove_all(struct removal *removal)
{
	static const char *const folders[] = {"links", "programs", "maps"};
	note_programs(removal);
	pins_each(removal->pins, "links", detach_pinned, removal);
	int result = sockets_remove(removal->pins, removal->e);
	for (size_t i = 0; result == 0 && i < sizeof(folders) / sizeof(folders[0]); i++)
		result = remove_folder(removal, folders[i]);
	if (result == 0)
		result = sweep_interfaces(removal);
	if (result == 0)
		result = routes_remove(removal->e);
	if (result == 0)
		result = nftables_remove(removal->e);
	trial_clean();
	if (result == 0 && (if_nametoindex(TRIAL_NEAR) || nftables_tries()))
		result = error_set(removal->e, ERROR_SYSTEM, EBUSY, NULL, "what a trial of engines left remains");
	if (result < 0)
		return result;
	pins_each(removal->pins, "", remove_abi, removal);
	if (rmdir(removal->pins->directory) < 0 && errno != ENOENT)
		return error_system(removal->e, errno, "%s cannot be removed", removal->pins->directory);
	int routes = routes_count();
	if (routes != 0)
		return error_set(removal->e, ERROR_SYSTEM, EBUSY, NULL, "%d rules and routes of ours remain", routes);
	return 0;
}

int datapath_uninstall(const struct datapath_options *options, struct error *e)
{
	load_prepare();
	int result = place_check(options->pin_directory, e);
	if (result < 0)
		return result;
	struct removal removal = {.e = e};
	struct pins pins;
	result = pins_lock(options->pin_directory, &pins, e);
	if (result < 0)
		return result;
	removal.pins = &pins;
	result = remove_all(&removal);
	pins_unlock(&pins);
	return result;
}
