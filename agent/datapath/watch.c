/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pins that somebody removes: a link is detached with its only pin, so the next write must not be answered before the
 * programs are back. Where there is no inotify instance left, the regular look finds out.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <unistd.h>
#include "agent/base/log.h"
#include "agent/base/mem.h"
#include "agent/datapath/private.h"

#define EVENTS_SIZE (16u << 10)

static int watch_folder(const struct datapath *d, const char *name)
{
	char path[PIN_PATH_MAX];
	return inotify_add_watch(
		d->watch, pins_path(&d->pins, path, name, NULL), IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR);
}

static int watch_folders(struct datapath *d)
{
	d->watch_links = watch_folder(d, "links");
	return d->watch_links < 0 || watch_folder(d, "maps") < 0 || watch_folder(d, "programs") < 0 ? -1 : 0;
}

int news_add(const struct datapath *d, int fd)
{
	struct epoll_event event = {.events = EPOLLIN};
	return epoll_ctl(d->news, EPOLL_CTL_ADD, fd, &event);
}

int watch_open(struct datapath *d, struct error *e)
{
	d->news = epoll_create1(EPOLL_CLOEXEC);
	if (d->news < 0 || news_add(d, d->monitor.fd) < 0)
		return error_system(e, errno, "no epoll instance");
	d->watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (d->watch >= 0 && watch_folders(d) == 0 && news_add(d, d->watch) == 0)
		return 0;
	log_warn(ROOM, "removed pins are noticed late: inotify: %s", strerror(errno));
	cleanup_close(&d->watch);
	d->watch = -1;
	return 0;
}

void watch_close(struct datapath *d)
{
	cleanup_close(&d->watch);
	cleanup_close(&d->news);
	d->watch = d->news = -1;
}

static void touch_all(struct datapath *d)
{
	size_t at = 0;
	const void *key;
	void *value;
	while (map_next(&d->attachments, &at, &key, &value))
		map_put(&d->net.touched, key, NULL);
}

/* Our own detaching is told as well, and is no loss. */
static void note_event(struct datapath *d, const struct inotify_event *event, bool *all)
{
	char *end;
	uint32_t ifindex = event->len ? strtoul(event->name, &end, 10) : 0;
	if (!(event->mask & IN_DELETE))
		*all = true; /* the folder itself, or more events than there was room for */
	else if (event->wd != d->watch_links)
		d->unpinned = true;
	else if (ifindex && map_get(&d->attachments, &ifindex))
		map_put(&d->net.touched, &ifindex, NULL);
	d->suspicious = true;
}

void watch_read(struct datapath *d)
{
	_Alignas(struct inotify_event) char buffer[EVENTS_SIZE];
	struct error e = {0};
	bool all = false;
	ssize_t length;
	while (d->watch >= 0 && (length = read(d->watch, buffer, sizeof(buffer))) > 0) {
		for (const char *at = buffer; at < buffer + length;) {
			const struct inotify_event *event = (const struct inotify_event *)(const void *)at;
			note_event(d, event, &all);
			at += sizeof(*event) + event->len;
		}
	}
	if (!all)
		return;
	touch_all(d);
	d->unpinned = true;
	if (pins_restore(&d->pins, &e) < 0)
		log_warn(ROOM, "%s", e.detail);
	else if (watch_folders(d) < 0)
		log_warn(ROOM, "what is in %s cannot be watched: %s", d->pins.directory, strerror(errno));
}
