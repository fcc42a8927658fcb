/* SPDX-License-Identifier: Apache-2.0 */
/* Open: check the place, lock, load, take over. Close leaves everything enforcing. */
#include "agent/datapath/datapath.h"
#include <errno.h>
#include <string.h>
#include "agent/base/log.h"
#include "agent/base/mem.h"
#include "agent/datapath/doctor.h"
#include "agent/datapath/private.h"

static void copy_options(struct datapath *d, const struct datapath_options *options)
{
	size_t count = 0;
	while (options->workload_interfaces && options->workload_interfaces[count])
		count++;
	char **patterns = mem_array(count + 1, sizeof(*patterns));
	for (size_t i = 0; i < count; i++)
		patterns[i] = str_dup(options->workload_interfaces[i]);
	d->options = *options;
	d->options.workload_interfaces = patterns;
	d->options.pin_directory = d->pins.directory;
}

static void free_patterns(struct datapath *d)
{
	for (char *const *pattern = d->options.workload_interfaces; pattern && *pattern; pattern++)
		free(*pattern);
	free((void *)d->options.workload_interfaces);
}

static int open_steps(struct datapath *d, const struct datapath_options *options, struct error *e)
{
	int result = pins_lock(options->pin_directory, &d->pins, e);
	if (result < 0)
		return result;
	copy_options(d, options);
	result = pins_make(&d->pins, e);
	if (result == 0)
		result = load_programs(&d->options, &d->pins, &d->loaded, e);
	if (result < 0)
		return result;
	d->hook = hook_probe(&d->loaded);
	uint32_t flags = 0;
	result = revision_read(d, &flags, e);
	if (result == 0)
		result = rules_take_over(d, e);
	connections_take_over(d);
	if (result == 0)
		result = events_open(d, e);
	if (result == 0)
		result = monitor_open(&d->monitor, e);
	if (result == 0)
		result = watch_open(d, e);
	if (result == 0)
		result = hosts_take_over(d, flags & PS_CONTROL_HOST, e);
	if (result == 0)
		result = interfaces_take_over(d, e);
	/* An earlier agent's, perhaps of another configuration. */
	d->steering = routes_count() > 0 || interfaces_steered(d);
	if (result == 0 && d->steering) {
		nftables_take_over(d);
		result = routes_set(&d->options, d->nftables.want.host, NULL, e);
	}
	if (result == 0)
		result = engine_open(d, flags & PS_CONTROL_TPROXY, e);
	if (result == 0)
		result = listeners_open(d, e);
	if (result == 0)
		result = doctor_open(d, e);
	return result;
}

int datapath_open(const struct datapath_options *options, struct datapath **ret, struct error *e)
{
	int result = place_check(options->pin_directory, e);
	if (result < 0)
		return result;
	struct datapath *d = mem_alloc(sizeof(*d));
	d->pins.directory_lock = d->pins.namespace_lock = -1;
	d->monitor.fd = d->watch = d->news = d->hosts.watch = -1;
	d->resync[0] = d->resync[1] = d->untouched[0] = d->untouched[1] = true;
	d->connections = mem_alloc(sizeof(*d->connections));
	map_init(&d->rules, sizeof(uint32_t), 0);
	map_init(&d->rules_gone, sizeof(uint32_t), 0);
	result = open_steps(d, options, e);
	if (result < 0) {
		datapath_close(d);
		return result;
	}
	sockets_take_over(d);
	traces_open(d);
	log_info(ROOM, "%s, hook %s, generation %u, revision %lu live", d->pins.directory, hook_names[d->hook],
		d->generation, (unsigned long)d->live_revision);
	*ret = d;
	return 0;
}

void datapath_close(struct datapath *datapath)
{
	if (!datapath)
		return;
	doctor_close(datapath);
	listeners_close(datapath);
	events_close(datapath);
	interfaces_clear(datapath);
	hosts_clear(datapath);
	watch_close(datapath);
	monitor_close(&datapath->monitor);
	nftables_clear(datapath);
	load_close(&datapath->loaded);
	map_clear(&datapath->rules);
	map_clear(&datapath->rules_gone);
	free(datapath->connections);
	free_patterns(datapath);
	pins_unlock(&datapath->pins);
	free(datapath);
}

const char *datapath_hook(const struct datapath *datapath)
{
	return hook_names[datapath->hook];
}
