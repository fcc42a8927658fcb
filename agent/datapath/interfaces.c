/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interfaces: what netlink tells, which have our programs, and their rows in ps_iface. A row is there before the
 * programs are; its endpoint stands by side and is written with that side's tables, so that no packet meets an endpoint
 * that the tables do not know.
 */
#include <bpf/bpf.h>
#include <errno.h>
#include <fnmatch.h>
#include <poll.h>
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

/* One that goes down keeps its programs: it may come up before anybody is told. */
static bool wanted_for_network(
	const struct datapath *d, const struct net_link *link, const struct attachment *attachment)
{
	bool has = attachment && attachment->attached && attachment->role != ROLE_WORKLOAD;
	return (d->steering || d->services) && (link->up || has) && net_link_network(&d->net, link);
}

static void drop(struct datapath *d, uint32_t ifindex)
{
	d->hooks_changed = true;
	hook_detach(&d->pins, ifindex);
	bpf_map_delete_elem(d->loaded.other[OTHER_IFACE], &ifindex);
	bpf_map_delete_elem(d->loaded.other[OTHER_BRIDGE], &ifindex);
	map_delete(&d->attachments, &ifindex);
}

static int row_settle(struct datapath *d, uint32_t ifindex, struct attachment *attachment, enum hook_role role,
	uint32_t flags, struct error *e)
{
	struct ps_iface row = {.flags = flags};
	if (role == ROLE_WORKLOAD)
		memcpy(row.endpoint, attachment->kernel.endpoint, sizeof(row.endpoint));
	if (attachment->row && memcmp(&attachment->kernel, &row, sizeof(row)) == 0)
		return 0;
	both_sides_pending(d, ifindex);
	return row_write(d, ifindex, attachment, &row, e);
}

static int programs_settle(struct datapath *d, const struct net_link *link, struct attachment *attachment,
	enum hook_role role, struct error *e)
{
	if (attachment->attached && attachment->role == role)
		return 0;
	int result = hook_attach(&d->pins, &d->loaded, d->hook, role, link->ifindex, e);
	if (result < 0)
		return result;
	enum hook_program enters = role_programs[role][PS_EGRESS], leaves = role_programs[role][PS_INGRESS];
	log_info(ROOM, "attached to %s (%u) by %s: %s%s%s", link->name, link->ifindex, hook_names[d->hook],
		enters == PROGRAM_NONE ? "" : program_names[enters], enters == PROGRAM_NONE ? "" : " and ",
		program_names[leaves]);
	attachment->attached = true;
	attachment->role = role;
	d->hooks_changed = true;
	drift_note(d, DRIFT_LINK, attachment->lost);
	attachment->lost = false;
	return 0;
}

/* The row is there before the programs that read it. When the workload's programs go they go first: they must not meet
 * a row that says network. */
static void attach(
	struct datapath *d, const struct net_link *link, struct attachment *attachment, enum hook_role role, uint32_t flags)
{
	struct error e = {0};
	int result = bridge_write(d, link, attachment, &e);
	attachment->leaving = false;
	if (result == 0 && attachment->attached && role != ROLE_WORKLOAD)
		result = programs_settle(d, link, attachment, role, &e);
	if (result == 0)
		result = row_settle(d, link->ifindex, attachment, role, flags, &e);
	if (result == 0)
		result = programs_settle(d, link, attachment, role, &e);
	if (attachment->error != -result)
		d->hooks_changed = true;
	if (result < 0 && attachment->error != -result)
		log_warn(ROOM, "%s: %s", link->name, e.detail);
	attachment->attached = result == 0;
	attachment->error = -result;
}

/* A program may still read an endpoint there. */
static bool endpoint_read(const struct datapath *d, const struct attachment *attachment)
{
	unsigned int live = side_live(d);
	return attachment->row && (attachment->kernel.endpoint[live] != PS_ENDPOINT_NONE ||
								  (d->grace_due && attachment->kernel.endpoint[!live] != PS_ENDPOINT_NONE));
}

static void detach(struct datapath *d, uint32_t ifindex, const struct attachment *attachment)
{
	if (attachment->attached)
		log_info(ROOM, "detached from interface %u", ifindex);
	drop(d, ifindex);
}

/* One interface about which something changed. */
static void settle_interface(struct datapath *d, uint32_t ifindex)
{
	const struct net_link *link = net_link(&d->net, ifindex);
	struct attachment *attachment = map_get(&d->attachments, &ifindex);
	if (!link)
		return;
	if (ifindex == LOOPBACK_IFINDEX) {
		if (d->hosts.stands)
			attach(d, link, attachment_get(d, ifindex), ROLE_LOOPBACK, PS_IFACE_NETWORK);
		return;
	}
	bool pattern = wanted_by_pattern(d, link);
	uint32_t flags = net_link_l3(link) ? PS_IFACE_L3 : 0;
	if (pattern && d->options.unclaimed_deny)
		flags |= PS_IFACE_DENY;
	if (pattern || (attachment && attachment->endpoint != PS_ENDPOINT_NONE))
		attach(d, link, attachment_get(d, ifindex), ROLE_WORKLOAD, flags);
	else if (attachment && endpoint_read(d, attachment))
		attachment->leaving = true;
	else if (wanted_for_network(d, link, attachment))
		attach(d, link, attachment_get(d, ifindex), d->steering ? ROLE_NETWORK : ROLE_EXIT, flags | PS_IFACE_NETWORK);
	else if (attachment)
		detach(d, ifindex, attachment);
}

void interfaces_leave(struct datapath *d)
{
	size_t at = 0;
	const void *key;
	void *value;
	while (map_next(&d->attachments, &at, &key, &value)) {
		const struct attachment *attachment = value;
		if (attachment->leaving && attachment->endpoint == PS_ENDPOINT_NONE)
			settle_interface(d, *(const uint32_t *)key);
	}
}

void interfaces_settle(struct datapath *d)
{
	size_t at = 0;
	const void *key;
	void *value;
	while (map_next(&d->net.links, &at, &key, &value))
		settle_interface(d, *(const uint32_t *)key);
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
	} else if (verify && attachment->attached &&
			   !hook_attached(&d->pins, &d->loaded, d->hook, attachment->role, ifindex)) {
		log_warn(ROOM, "%s had lost our programs", link->name);
		attachment->attached = false;
		attachment->lost = true;
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

static int routes_look(struct datapath *d, struct error *e)
{
	struct routes_made made;
	int result = routes_set(&d->options, d->nftables.want.host, &made, e);
	if (made.rules || made.routes)
		log_warn(ROOM, "what leads to proxies had gone and is back: rules: %u, routes: %u", made.rules, made.routes);
	drift_note(d, DRIFT_RULE, made.rules);
	drift_note(d, DRIFT_ROUTE, made.routes);
	return result;
}

static int look_around(struct datapath *d, bool all, struct error *e)
{
	int result = monitor_read(&d->monitor, &d->net, e);
	if (result < 0)
		return result;
	watch_read(d);
	hosts_read(d);
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
	if (whole || d->suspicious)
		traces_set(d);
	if (whole || d->unpinned)
		pins_audit(d);
	d->unpinned = false;
	d->suspicious = false;
	if (!d->looked)
		claims_take_over(d);
	d->looked = true;
	if (d->steering)
		sockets_set(d, whole);
	/* Somebody may have deleted them; lo takes IPv6's along when it goes down. */
	nftables_read(d);
	if (d->steering && (whole || d->nftables.touched))
		nftables_set(d);
	result = control_write(d, e);
	if (result < 0)
		return result;
	if (!d->steering || !(whole || d->net.mislaid || map_get(&d->net.touched, &(uint32_t){LOOPBACK_IFINDEX})))
		return 0;
	d->net.mislaid = false;
	return routes_look(d, e);
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

/*
 * Who was asked for on a veth has answered before anything else runs: so a write about an idle workload is answered
 * when it is enforced. Who needs longer is found when he answers.
 */
#define ANSWER_WAIT 20 /* milliseconds */
static int answers_look(struct datapath *d, struct error *e)
{
	struct pollfd news = {.fd = d->monitor.fd, .events = POLLIN};
	if (poll(&news, 1, ANSWER_WAIT) <= 0)
		return 0;
	return look_around(d, false, e);
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
	if (claims_update(d, compiler, all || d->net.changed, &moved) && (result = answers_look(d, e)) == 0)
		claims_update(d, compiler, true, &moved);
	each_touched(d, settle_touched, false);
	note_attach_changes(d, &moved);
	map_clear(&d->net.touched);
	d->net.changed = false;
	tell(d, compiler, &moved, bound, context);
	map_clear(&moved);
	atomic_store(&d->fill_interfaces, d->attachments.count);
	if (result < 0)
		return result;
	hosts_look(d, compiler, all, bound, context);
	return 0;
}

const struct map *datapath_locals(const struct datapath *datapath)
{
	PS_STATIC_ASSERT(NET_LOCAL_KEY == LOCAL_KEY_SIZE, "datapath_locals");
	return &datapath->net.locals;
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
		.host = attachment->role == ROLE_LOOPBACK,
		.network = attachment->role != ROLE_WORKLOAD,
		.hook = hook_names[datapath->hook],
		.error = attachment->error ? strerrordesc_np(attachment->error) : NULL};
	return true;
}

bool datapath_hooks_changed(struct datapath *datapath)
{
	bool changed = datapath->hooks_changed;
	datapath->hooks_changed = false;
	return changed;
}

/* ---- start and end ---- */

static int note_row(void *context, const void *key, const void *value)
{
	struct datapath *d = context;
	struct attachment attachment = {.row = true};
	memcpy(&attachment.kernel, value, sizeof(attachment.kernel));
	if (*(const uint32_t *)key == LOOPBACK_IFINDEX)
		attachment.role = ROLE_LOOPBACK;
	else if (attachment.kernel.flags & PS_IFACE_NETWORK)
		attachment.role = hook_enters(&d->pins, *(const uint32_t *)key) ? ROLE_NETWORK : ROLE_EXIT;
	map_put(&d->attachments, key, &attachment);
	return 0;
}

static enum hook_role role_of(void *context, uint32_t ifindex)
{
	const struct datapath *d = context;
	const struct attachment *attachment = map_get(&d->attachments, &ifindex);
	return attachment ? attachment->role : ROLE_WORKLOAD;
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
	int result =
		read_entries(d->loaded.other[OTHER_IFACE], sizeof(uint32_t), sizeof(struct ps_iface), true, note_row, d);
	if (result < 0)
		return error_system(e, -result, "map ps_iface cannot be read");
	return hook_take_over(&d->pins, &d->loaded, d->hook, role_of, note_attached, d, e);
}

bool interfaces_steered(const struct datapath *d)
{
	size_t at = 0;
	const void *key;
	void *value;
	while (map_next(&d->attachments, &at, &key, &value))
		if (((const struct attachment *)value)->role == ROLE_NETWORK)
			return true;
	return false;
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
