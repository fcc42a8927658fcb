/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interfaces: what netlink tells, which have our programs, and their rows in ps_iface. A row is there before the
 * programs are; its endpoint stands by side and is written with that side's tables, so that no packet meets an endpoint
 * that the tables do not know.
 */
#include <bpf/bpf.h>
#include <errno.h>
#include <fnmatch.h>
#include <string.h>
#include "agent/base/log.h"
#include "agent/base/mem.h"
#include "agent/datapath/private.h"

#define LOOPBACK_IFINDEX 1 /* in every network namespace */

struct attachment *attachment_get(struct datapath *d, uint32_t ifindex)
{
	struct attachment *attachment = map_get(&d->attachments, &ifindex);
	if (attachment)
		return attachment;
	const struct net_link *link = net_link(&d->net, ifindex);
	return map_put(&d->attachments, &ifindex, &(struct attachment){.born = link ? link->born : 0});
}

static void both_sides_pending(struct datapath *d, uint32_t ifindex)
{
	map_put(&d->iface_pending[0], &ifindex, NULL);
	map_put(&d->iface_pending[1], &ifindex, NULL);
}

void attachment_claim(struct datapath *d, uint32_t ifindex, uint32_t endpoint)
{
	attachment_get(d, ifindex)->endpoint = endpoint;
	both_sides_pending(d, ifindex);
	map_put(&d->net.touched, &ifindex, NULL);
}

/* ---- rows ---- */

static int row_write(
	struct datapath *d, uint32_t ifindex, struct attachment *attachment, const struct ps_iface *row, struct error *e)
{
	struct ps_iface read = {0};
	int fd = d->loaded.other[OTHER_IFACE];
	int result = bpf_map_update_elem(fd, &ifindex, row, BPF_ANY);
	if (result < 0)
		return write_failed(e, -result, "ps_iface", "written");
	if (bpf_map_lookup_elem(fd, &ifindex, &read) < 0 || memcmp(&read, row, sizeof(read)) != 0)
		return error_set(e, ERROR_SYSTEM, EIO, NULL, "map ps_iface: an entry reads back as something else");
	attachment->kernel = *row;
	attachment->row = true;
	return 0;
}

/* Which bridge a port belongs to, if any: only packets on their way to a proxy ask. */
static int bridge_write(struct datapath *d, const struct net_link *link, struct attachment *attachment, struct error *e)
{
	const struct net_link *master = net_link_bridge(&d->net, link);
	struct ps_bridge bridge = {0};
	if (master) {
		bridge.ifindex = master->ifindex;
		memcpy(bridge.mac, master->mac, sizeof(bridge.mac));
	}
	if (attachment->bridge_known && memcmp(&attachment->bridge, &bridge, sizeof(bridge)) == 0)
		return 0;
	int fd = d->loaded.other[OTHER_BRIDGE];
	int result =
		master ? bpf_map_update_elem(fd, &link->ifindex, &bridge, BPF_ANY) : bpf_map_delete_elem(fd, &link->ifindex);
	if (result < 0 && (master || result != -ENOENT))
		return write_failed(e, -result, "ps_bridge", "written");
	attachment->bridge = bridge;
	attachment->bridge_known = true;
	return 0;
}

int interfaces_write_side(struct datapath *d, unsigned int side, struct error *e)
{
	size_t at = 0;
	const void *key;
	void *value;
	if (d->resync[side])
		while (map_next(&d->attachments, &at, &key, &value))
			map_put(&d->iface_pending[side], key, NULL);
	at = 0;
	while (map_next(&d->iface_pending[side], &at, &key, &value)) {
		uint32_t ifindex = *(const uint32_t *)key;
		struct attachment *attachment = map_get(&d->attachments, &ifindex);
		if (!attachment || !attachment->row || attachment->kernel.endpoint[side] == attachment->endpoint)
			continue;
		struct ps_iface row = attachment->kernel;
		row.endpoint[side] = attachment->endpoint;
		int result = row_write(d, ifindex, attachment, &row, e);
		if (result < 0)
			return result;
	}
	map_clear(&d->iface_pending[side]);
	return 0;
}

/* ---- attaching and leaving ---- */

static bool wanted_by_pattern(const struct datapath *d, const struct net_link *link)
{
	for (char *const *pattern = d->options.workload_interfaces; pattern && *pattern; pattern++)
		if (fnmatch(*pattern, link->name, 0) == 0)
			return net_eligible(&d->net, link);
	return false;
}

static void drop(struct datapath *d, uint32_t ifindex)
{
	hook_detach(&d->pins, ifindex);
	bpf_map_delete_elem(d->loaded.other[OTHER_IFACE], &ifindex);
	bpf_map_delete_elem(d->loaded.other[OTHER_BRIDGE], &ifindex);
	map_delete(&d->attachments, &ifindex);
}

static void attach(struct datapath *d, const struct net_link *link, struct attachment *attachment, uint32_t flags)
{
	struct error e = {0};
	struct ps_iface row = attachment->kernel;
	row.flags = flags;
	int result = bridge_write(d, link, attachment, &e);
	attachment->leaving = false;
	if (result == 0 && (!attachment->row || attachment->kernel.flags != flags)) {
		result = row_write(d, link->ifindex, attachment, &row, &e);
		both_sides_pending(d, link->ifindex);
	}
	if (result == 0 && !attachment->attached)
		result = hook_attach(&d->pins, &d->loaded, d->hook, link->ifindex, &e);
	if (result == 0 && !attachment->attached)
		log_info(ROOM, "attached to %s (%u) by %s", link->name, link->ifindex, hook_names[d->hook]);
	if (result < 0 && attachment->error != -result)
		log_warn(ROOM, "%s: %s", link->name, e.detail);
	attachment->attached = result == 0;
	attachment->error = -result;
}

static void leave(struct datapath *d, uint32_t ifindex, struct attachment *attachment)
{
	if (attachment->row && attachment->kernel.endpoint[side_live(d)] != PS_ENDPOINT_NONE) {
		attachment->leaving = true;
		return;
	}
	if (attachment->attached)
		log_info(ROOM, "detached from interface %u", ifindex);
	drop(d, ifindex);
}

void interfaces_leave(struct datapath *d)
{
	size_t at = 0;
	const void *key;
	void *value;
	while (map_next(&d->attachments, &at, &key, &value)) {
		uint32_t ifindex = *(const uint32_t *)key;
		struct attachment *attachment = value;
		if (attachment->leaving && attachment->endpoint == PS_ENDPOINT_NONE)
			leave(d, ifindex, attachment);
	}
}

/* One interface about which something changed. */
static void settle_interface(struct datapath *d, uint32_t ifindex)
{
	const struct net_link *link = net_link(&d->net, ifindex);
	bool pattern = link && wanted_by_pattern(d, link);
	struct attachment *attachment = pattern ? attachment_get(d, ifindex) : map_get(&d->attachments, &ifindex);
	if (!attachment || !link)
		return;
	uint32_t flags = (net_link_l3(link) ? PS_IFACE_L3 : 0) | (pattern && d->options.unclaimed_deny ? PS_IFACE_DENY : 0);
	if (attachment->endpoint != PS_ENDPOINT_NONE || pattern)
		attach(d, link, attachment, flags);
	else
		leave(d, ifindex, attachment);
}

/* Gone, or another interface by now. */
static void drop_gone(struct datapath *d, uint32_t ifindex, bool verify)
{
	struct attachment *attachment = map_get(&d->attachments, &ifindex);
	if (!attachment)
		return;
	const struct net_link *link = net_link(&d->net, ifindex);
	if (link && attachment->born == 0)
		attachment->born = link->born;
	if (!link || attachment->born != link->born) {
		log_info(ROOM, "interface %u is gone", ifindex);
		drop(d, ifindex);
	} else if (verify && attachment->attached && !hook_attached(&d->pins, d->hook, ifindex)) {
		log_warn(ROOM, "%s had lost our programs", link->name);
		attachment->attached = false;
	}
}

static void each_touched(struct datapath *d, void (*each)(struct datapath *, uint32_t, bool), bool verify)
{
	size_t at = 0;
	const void *key;
	void *value;
	while (map_next(&d->net.touched, &at, &key, &value))
		each(d, *(const uint32_t *)key, verify);
}

static void settle_touched(struct datapath *d, uint32_t ifindex, bool verify)
{
	settle_interface(d, ifindex);
}

static int look_around(struct datapath *d, bool all, struct error *e)
{
	int result = monitor_read(&d->monitor, &d->net, e);
	if (result < 0)
		return result;
	watch_read(d);
	bool whole = all || !d->looked || d->net.stale;
	if (whole) {
		result = monitor_dump(&d->net, e);
		if (result < 0) {
			d->looked = false;
			return result;
		}
		size_t at = 0;
		const void *key;
		void *value;
		while (map_next(&d->attachments, &at, &key, &value)) /* also those whose interface went unnoticed */
			map_put(&d->net.touched, key, NULL);
	}
	each_touched(d, drop_gone, whole || d->suspicious);
	d->suspicious = false;
	if (!d->looked)
		claims_take_over(d);
	d->looked = true;
	if (d->steering)
		sockets_set(d, whole);
	/* Somebody may have deleted them; lo takes IPv6's along when it goes down. */
	if (d->steering && (whole || map_get(&d->net.touched, &(uint32_t){LOOPBACK_IFINDEX})))
		return routes_set(&d->options, e);
	return 0;
}

static void tell(struct datapath *d, const struct compiler *compiler, const struct map *moved,
	void (*bound)(void *context, uint32_t endpoint, bool bound), void *context)
{
	size_t at = 0;
	const void *key;
	void *value;
	while (map_next(moved, &at, &key, &value)) {
		uint32_t id = *(const uint32_t *)key;
		const struct endpoint *endpoint = compiler_endpoint_find(compiler, id);
		if (!endpoint || id >= d->claims_size)
			continue;
		struct claim *claim = &d->claims[id];
		const struct attachment *attachment = claim->ifindex ? map_get(&d->attachments, &claim->ifindex) : NULL;
		bool now = attachment && attachment->attached;
		uint32_t told = claim->told;
		claim->told = now ? claim->born : 0;
		if (now != endpoint->bound || (now && told != claim->told))
			bound(context, id, now);
	}
}

/* An interface that could not be attached, or can again, changes what its endpoint is told. */
static void note_attach_changes(struct datapath *d, struct map *moved)
{
	size_t at = 0;
	const void *key;
	void *value;
	while (map_next(&d->net.touched, &at, &key, &value)) {
		const struct attachment *attachment = map_get(&d->attachments, key);
		if (attachment && attachment->endpoint != PS_ENDPOINT_NONE)
			map_put(moved, &attachment->endpoint, NULL);
	}
}

int datapath_interfaces(struct datapath *datapath, const struct compiler *compiler, bool all,
	void (*bound)(void *context, uint32_t endpoint, bool bound), void *context, struct error *e)
{
	struct datapath *d = datapath;
	int result = look_around(d, all, e);
	if (result < 0)
		return result;
	struct map moved;
	map_init(&moved, sizeof(uint32_t), 0);
	claims_update(d, compiler, all || d->net.changed, &moved);
	each_touched(d, settle_touched, false);
	note_attach_changes(d, &moved);
	map_clear(&d->net.touched);
	d->net.changed = false;
	tell(d, compiler, &moved, bound, context);
	map_clear(&moved);
	return 0;
}

int datapath_netlink_fd(const struct datapath *datapath)
{
	return datapath->news;
}

bool datapath_interface_next(const struct datapath *datapath, size_t *at, struct interface_status *ret)
{
	const void *key;
	void *value;
	if (!map_next(&datapath->attachments, at, &key, &value))
		return false;
	const struct attachment *attachment = value;
	const struct net_link *link = net_link(&datapath->net, *(const uint32_t *)key);
	*ret = (struct interface_status){.ifindex = *(const uint32_t *)key,
		.name = link ? link->name : "",
		.endpoint = attachment->endpoint,
		.hook = hook_names[datapath->hook],
		.error = attachment->error ? strerrordesc_np(attachment->error) : NULL};
	return true;
}

/* ---- start and end ---- */

static int note_row(void *context, const void *key, const void *value)
{
	struct attachment attachment = {.row = true};
	memcpy(&attachment.kernel, value, sizeof(attachment.kernel));
	map_put(context, key, &attachment);
	return 0;
}

static void note_attached(void *context, uint32_t ifindex)
{
	struct datapath *d = context;
	attachment_get(d, ifindex)->attached = true;
}

int interfaces_take_over(struct datapath *d, struct error *e)
{
	net_init(&d->net);
	map_init(&d->attachments, sizeof(uint32_t), sizeof(struct attachment));
	map_init(&d->iface_pending[0], sizeof(uint32_t), 0);
	map_init(&d->iface_pending[1], sizeof(uint32_t), 0);
	map_init(&d->homes, 16, sizeof(struct home));
	int result = read_entries(
		d->loaded.other[OTHER_IFACE], sizeof(uint32_t), sizeof(struct ps_iface), true, note_row, &d->attachments);
	if (result < 0)
		return error_system(e, -result, "map ps_iface cannot be read");
	return hook_take_over(&d->pins, &d->loaded, d->hook, note_attached, d, e);
}

void interfaces_clear(struct datapath *d)
{
	net_clear(&d->net);
	map_clear(&d->attachments);
	map_clear(&d->iface_pending[0]);
	map_clear(&d->iface_pending[1]);
	map_clear(&d->homes);
	free(d->claims);
}
