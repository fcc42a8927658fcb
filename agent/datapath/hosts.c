/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processes of this node that are subjects: which cgroups their paths are by now, and ps_cgroup, which tells programs.
 * A row's endpoint stands by side, as in ps_iface, and is written with that side's tables. A cgroup's id is its
 * directory's inode; a service that starts again has another one.
 */
#include <bpf/bpf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>
#include "agent/base/log.h"
#include "agent/base/mem.h"
#include "agent/datapath/private.h"

#define FULL_MAX (PIN_PATH_MAX + 4096)

struct host_row {
	uint32_t endpoint;       /* wanted */
	struct ps_cgroup kernel; /* as written; all zero: not there */
	bool there;              /* in the kernel's map */
};

/* ---- what is there ---- */

/*
 * A cgroup of the path that comes or goes is told by the directory that it is in; where that is not there itself, by
 * those above it. What is watched already stays watched once.
 */
static void cgroup_watch(struct datapath *d, const char *path)
{
	char full[FULL_MAX];
	size_t root = strlen(d->hosts.root);
	if (!root || d->hosts.watch < 0)
		return;
	snprintf(full, sizeof(full), "%s/%s", d->hosts.root, path);
	for (char *slash; (slash = strrchr(full + root, '/'));) {
		*slash = '\0';
		inotify_add_watch(d->hosts.watch, full, IN_CREATE | IN_DELETE | IN_ONLYDIR);
	}
}

void hosts_read(struct datapath *d)
{
	_Alignas(struct inotify_event) char buffer[4096];
	while (d->hosts.watch >= 0 && read(d->hosts.watch, buffer, sizeof(buffer)) > 0)
		d->hosts.touched = true;
}

static void watch_begin(struct datapath *d)
{
	struct hosts *hosts = &d->hosts;
	if (hosts->watch >= 0)
		return;
	hosts->watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (hosts->watch < 0 || news_add(d, hosts->watch) < 0)
		log_warn(ROOM, "cgroups that come and go are noticed late: inotify: %s", strerror(errno));
}

static void watch_end(struct datapath *d)
{
	cleanup_close(&d->hosts.watch);
	d->hosts.watch = -1;
}

/* 0: there is none. */
static uint64_t cgroup_find(const struct datapath *d, const char *path)
{
	char full[FULL_MAX];
	struct stat found;
	if (!d->hosts.root[0])
		return 0;
	snprintf(full, sizeof(full), "%s/%s", d->hosts.root, path);
	return stat(full, &found) == 0 && S_ISDIR(found.st_mode) ? found.st_ino : 0;
}

/* The rows' wanted endpoints, from what is found. */
static void rows_want(struct hosts *hosts)
{
	size_t at = 0;
	const void *key;
	void *value;
	while (map_next(&hosts->rows, &at, &key, &value))
		((struct host_row *)value)->endpoint = PS_ENDPOINT_NONE;
	at = 0;
	hosts->full = false;
	while (map_next(&hosts->found, &at, &key, &value)) {
		struct host_row *row = map_get(&hosts->rows, value);
		if (!row && hosts->rows.count >= PS_CGROUPS_MAX) {
			hosts->full = true;
			continue;
		}
		if (!row)
			row = map_put(&hosts->rows, value, &(struct host_row){0});
		row->endpoint = *(const uint32_t *)key;
	}
}

/* The endpoints are others than those that were looked for last. */
static bool wanted_differ(struct hosts *hosts, const struct compiler *compiler)
{
	const struct endpoint *endpoint;
	size_t at = 0, count = 0;
	bool differ = false;
	while ((endpoint = compiler_cgroup_next(compiler, &at))) {
		const uint64_t *path = map_get(&hosts->looked, &endpoint->id);
		differ |= !path || *path != hash_bytes(endpoint->cgroup, strlen(endpoint->cgroup), 0);
		count++;
	}
	return differ || count != hosts->looked.count;
}

static void endpoint_look(struct datapath *d, const struct endpoint *endpoint, struct map *found)
{
	struct hosts *hosts = &d->hosts;
	uint64_t path = hash_bytes(endpoint->cgroup, strlen(endpoint->cgroup), 0);
	map_put(&hosts->looked, &endpoint->id, &path);
	if (!hosts->root[0] && sockets_cgroup(hosts->root) < 0)
		hosts->root[0] = '\0';
	cgroup_watch(d, endpoint->cgroup); /* what comes while we look is told */
	uint64_t id = cgroup_find(d, endpoint->cgroup);
	if (id)
		map_put(found, &endpoint->id, &id);
}

void hosts_look(struct datapath *d, const struct compiler *compiler, bool all,
	void (*bound)(void *context, uint32_t endpoint, bool bound), void *context)
{
	struct hosts *hosts = &d->hosts;
	const struct endpoint *endpoint;
	struct map found;
	size_t at = 0;
	if (!all && !hosts->touched && hosts->watch >= 0 && !wanted_differ(hosts, compiler))
		return;
	hosts->wanted = hosts->touched = false;
	map_clear(&hosts->looked);
	map_init(&found, sizeof(uint32_t), sizeof(uint64_t));
	while ((endpoint = compiler_cgroup_next(compiler, &at))) {
		hosts->wanted = true;
		watch_begin(d);
		endpoint_look(d, endpoint, &found);
		const uint64_t *before = map_get(&hosts->found, &endpoint->id), *now = map_get(&found, &endpoint->id);
		if (endpoint->bound != !!now || (before ? *before : 0) != (now ? *now : 0))
			bound(context, endpoint->id, now);
	}
	map_clear(&hosts->found);
	hosts->found = found;
	rows_want(hosts);
	if (!hosts->wanted)
		watch_end(d);
}

int hosts_stage(struct datapath *d, struct error *e)
{
	if (d->hosts.stands || !d->hosts.wanted)
		return 0;
	int result = nftables_host(d, true, e);
	if (result < 0)
		return result;
	d->hosts.stands = true;
	interfaces_settle(d);
	listeners_again(d); /* proxies are exempt from the first moment on */
	return 0;
}

static int row_write(struct datapath *d, const uint64_t *id, struct host_row *row, unsigned int side, struct error *e)
{
	struct ps_cgroup next = row->kernel;
	int fd = d->loaded.other[OTHER_CGROUP], result = 0;
	next.endpoint[side] = row->endpoint;
	if (next.endpoint[0] == PS_ENDPOINT_NONE && next.endpoint[1] == PS_ENDPOINT_NONE) {
		if (row->there)
			result = bpf_map_delete_elem(fd, id);
		row->there = result < 0 && result != -ENOENT;
		result = row->there ? result : 0;
	} else {
		result = bpf_map_update_elem(fd, id, &next, BPF_ANY);
		row->there |= result == 0;
	}
	if (result < 0)
		return write_failed(e, -result, "ps_cgroup", "written");
	row->kernel = next;
	return 0;
}

int hosts_write_side(struct datapath *d, unsigned int side, struct error *e)
{
	size_t at = 0;
	const void *key;
	void *value;
	struct map gone;
	int result = 0;
	map_init(&gone, sizeof(uint64_t), 0);
	while (result == 0 && map_next(&d->hosts.rows, &at, &key, &value)) {
		struct host_row *row = value;
		if (row->kernel.endpoint[side] != row->endpoint)
			result = row_write(d, key, row, side, e);
		if (!row->there && row->endpoint == PS_ENDPOINT_NONE)
			map_put(&gone, key, NULL);
	}
	at = 0;
	while (map_next(&gone, &at, &key, &value))
		map_delete(&d->hosts.rows, key);
	map_clear(&gone);
	return result;
}

static bool has_row(const void *row)
{
	return ((const struct host_row *)row)->there;
}

uint64_t hosts_rows(struct datapath *d)
{
	int fd = d->loaded.other[OTHER_CGROUP];
	size_t at = 0;
	const void *key;
	void *value;
	uint64_t count = 0;
	while (map_next(&d->hosts.rows, &at, &key, &value))
		if (has_row(value))
			count += audit_row(fd, key, &((struct host_row *)value)->kernel, sizeof(struct ps_cgroup));
	return count + audit_strangers(fd, sizeof(struct ps_cgroup), &d->hosts.rows, has_row);
}

bool datapath_cgroup_there(const struct datapath *datapath, const struct endpoint *endpoint)
{
	return cgroup_find(datapath, endpoint->cgroup) != 0;
}

const char *datapath_cgroup_fails(const struct datapath *datapath, const struct endpoint *endpoint)
{
	const struct hosts *hosts = &datapath->hosts;
	const uint64_t *id = map_get(&hosts->found, &endpoint->id);
	if (!hosts->root[0])
		return "the root of cgroup v2 is not mounted";
	if (datapath->sockets.tried && datapath->sockets.why[0])
		return datapath->sockets.why;
	return id && !map_get(&hosts->rows, id) ? "map ps_cgroup is full" : NULL;
}

static int note_row(void *context, const void *key, const void *value)
{
	struct hosts *hosts = context;
	struct host_row row = {.there = true};
	memcpy(&row.kernel, value, sizeof(row.kernel));
	map_put(&hosts->rows, key, &row);
	return 0;
}

int hosts_take_over(struct datapath *d, bool stands, struct error *e)
{
	struct hosts *hosts = &d->hosts;
	hosts->stands = stands;
	if (sockets_cgroup(hosts->root) < 0)
		hosts->root[0] = '\0';
	map_init(&hosts->rows, sizeof(uint64_t), sizeof(struct host_row));
	map_init(&hosts->found, sizeof(uint32_t), sizeof(uint64_t));
	map_init(&hosts->looked, sizeof(uint32_t), sizeof(uint64_t));
	int result =
		read_entries(d->loaded.other[OTHER_CGROUP], sizeof(uint64_t), sizeof(struct ps_cgroup), false, note_row, hosts);
	return result < 0 ? error_system(e, -result, "map ps_cgroup cannot be read") : 0;
}

void hosts_clear(struct datapath *d)
{
	map_clear(&d->hosts.rows);
	map_clear(&d->hosts.found);
	map_clear(&d->hosts.looked);
	watch_end(d);
}
