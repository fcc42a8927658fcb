/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What on this node hinders enforcement or interception: settings, and what others do. A thread of its own looks, so
 * that long lists of somebody's rules keep no write waiting; it only reads. It looks now and then, and when somebody
 * asks: nobody may ever. What there is to say about our own state (proxies, workloads, maps) is the status's.
 */
#include "agent/datapath/doctor.h"
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include "agent/base/log.h"
#include "agent/base/mem.h"

#define LOOK_SECONDS 30
#define FRESH_SECONDS 2 /* who asks is given what is not older */
#define ASKER_WAITS 0.3 /* s, at most */
#define LOOK_SHARE 50   /* of the time, at most one part in so many */
#define FINDINGS_MAX 200

struct doctor {
	struct datapath *datapath;
	pthread_t thread;
	bool running;
	pthread_mutex_t lock;
	pthread_cond_t wake, news;
	/* under the lock: */
	atomic_bool stop; /* also read without it */
	bool due, looking;
	double looked, rests_until; /* when a look last ended; the share allows no other one before */
	/* Findings as they changed: found; in a status that is being made; in one that is published. */
	unsigned long found, rendered, published;
	bool steering;
	struct doctor_interface *interfaces;
	size_t interface_count;
	struct finding *findings;
	size_t finding_count;
};

void finding_add(
	struct doctor_look *look, enum finding_level level, const char *name, const char *mend, const char *format, ...)
{
	va_list arguments;
	struct finding made;
	memset(&made, 0, sizeof(made)); /* findings are compared as bytes */
	made.level = level;
	snprintf(made.name, sizeof(made.name), "%s", name);
	snprintf(made.mend, sizeof(made.mend), "%s", mend ? mend : "");
	va_start(arguments, format);
	vsnprintf(made.what, sizeof(made.what), format, arguments);
	va_end(arguments);
	for (size_t i = 0; i < look->count; i++) /* of ten rules alike */
		if (memcmp(&look->list[i], &made, sizeof(made)) == 0)
			return;
	if (look->count == FINDINGS_MAX)
		return;
	look->list = list_room(look->list, look->count, &look->capacity, sizeof(*look->list));
	look->list[look->count++] = made;
}

/* ---- the thread ---- */

static double seconds_now(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* With the lock held, which it gives away meanwhile. */
static void look(struct doctor *doctor)
{
	struct doctor_look look = {.datapath = doctor->datapath, .steering = doctor->steering, .stop = &doctor->stop};
	auto_free struct doctor_interface *interfaces =
		mem_dup(doctor->interfaces, (doctor->interface_count + 1) * sizeof(*interfaces));
	look.interfaces = interfaces;
	look.interface_count = doctor->interface_count;
	pthread_mutex_unlock(&doctor->lock);
	doctor_kernel(&look);
	doctor_settings(&look);
	doctor_rules(&look);
	doctor_marks(&look);
	doctor_programs(&look);
	pthread_mutex_lock(&doctor->lock);
	bool same = look.count == doctor->finding_count && doctor->findings &&
				memcmp(look.list, doctor->findings, look.count * sizeof(*look.list)) == 0;
	free(doctor->findings);
	doctor->findings = look.list;
	doctor->finding_count = look.count;
	if (same)
		return;
	doctor->found++;
	listeners_news(doctor->datapath);
}

/* seconds_now() as timed waits want it. */
static struct timespec timespec_of(double seconds)
{
	time_t whole = (time_t)seconds;
	return (struct timespec){.tv_sec = whole, .tv_nsec = (long)((seconds - (double)whole) * 1e9)};
}

static void pause_until(struct doctor *doctor, double until)
{
	struct timespec end = timespec_of(until);
	while (!doctor->stop && !doctor->due && pthread_cond_timedwait(&doctor->wake, &doctor->lock, &end) == 0)
		;
}

static void *thread_run(void *context)
{
	struct doctor *doctor = context;
	pthread_mutex_lock(&doctor->lock);
	while (!doctor->stop) {
		double began = seconds_now();
		doctor->due = false;
		doctor->looking = true;
		look(doctor);
		doctor->looking = false;
		doctor->looked = seconds_now();
		doctor->rests_until = began + (doctor->looked - began) * LOOK_SHARE;
		pthread_cond_broadcast(&doctor->news);
		double next = began + LOOK_SECONDS;
		pause_until(doctor, next > doctor->rests_until ? next : doctor->rests_until);
	}
	pthread_mutex_unlock(&doctor->lock);
	return NULL;
}

int doctor_open(struct datapath *d, struct error *e)
{
	struct doctor *doctor = d->doctor = mem_alloc(sizeof(*doctor));
	pthread_condattr_t monotonic;
	doctor->datapath = d;
	doctor->interfaces = mem_alloc(sizeof(*doctor->interfaces));
	pthread_mutex_init(&doctor->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&doctor->wake, &monotonic);
	pthread_cond_init(&doctor->news, &monotonic);
	pthread_condattr_destroy(&monotonic);
	int result = pthread_create(&doctor->thread, NULL, thread_run, doctor);
	if (result != 0)
		return error_system(e, result, "a thread");
	doctor->running = true;
	return 0;
}

void doctor_close(struct datapath *d)
{
	struct doctor *doctor = d->doctor;
	if (!doctor)
		return;
	if (doctor->running) {
		pthread_mutex_lock(&doctor->lock);
		doctor->stop = true;
		pthread_cond_signal(&doctor->wake);
		pthread_mutex_unlock(&doctor->lock);
		pthread_join(doctor->thread, NULL);
	}
	pthread_cond_destroy(&doctor->wake);
	pthread_cond_destroy(&doctor->news);
	pthread_mutex_destroy(&doctor->lock);
	free(doctor->interfaces);
	free(doctor->findings);
	free(doctor);
	d->doctor = NULL;
}

void datapath_look(struct datapath *d)
{
	pthread_mutex_lock(&d->doctor->lock);
	d->doctor->due = true;
	pthread_cond_signal(&d->doctor->wake);
	pthread_mutex_unlock(&d->doctor->lock);
}

void datapath_look_fresh(struct datapath *d)
{
	struct doctor *doctor = d->doctor;
	pthread_mutex_lock(&doctor->lock);
	double now = seconds_now();
	struct timespec end = timespec_of(now + ASKER_WAITS);
	if (now - doctor->looked >= FRESH_SECONDS && now >= doctor->rests_until && !doctor->looking) {
		doctor->due = true;
		pthread_cond_signal(&doctor->wake);
	}
	while (!doctor->stop && (doctor->due || doctor->looking || doctor->published != doctor->found))
		if (pthread_cond_timedwait(&doctor->news, &doctor->lock, &end) != 0)
			break;
	pthread_mutex_unlock(&doctor->lock);
}

/* ---- for the status ---- */

/* Where to look from now on. */
static void interfaces_tell(struct datapath *d)
{
	struct doctor *doctor = d->doctor;
	struct doctor_interface *list = mem_array(d->attachments.count + 1, sizeof(*list));
	size_t count = 0, at = 0;
	const void *key;
	void *value;
	while (map_next(&d->attachments, &at, &key, &value)) {
		const struct attachment *attachment = value;
		const struct net_link *link = map_get(&d->net.links, key);
		if (!attachment->attached || !link)
			continue;
		struct doctor_interface *one = &list[count++];
		memcpy(&one->ifindex, key, sizeof(one->ifindex));
		one->role = attachment->role;
		snprintf(one->name, sizeof(one->name), "%s", link->name);
	}
	bool same = count == doctor->interface_count && memcmp(list, doctor->interfaces, count * sizeof(*list)) == 0;
	doctor->due |= !same || doctor->steering != d->steering;
	free(doctor->interfaces);
	doctor->interfaces = list;
	doctor->interface_count = count;
	doctor->steering = d->steering;
	if (doctor->due)
		pthread_cond_signal(&doctor->wake);
}

size_t datapath_findings(struct datapath *datapath, struct finding **ret)
{
	struct doctor *doctor = datapath->doctor;
	pthread_mutex_lock(&doctor->lock);
	interfaces_tell(datapath);
	size_t count = doctor->finding_count;
	doctor->rendered = doctor->found;
	*ret = mem_array(count + 1, sizeof(**ret));
	if (count)
		memcpy(*ret, doctor->findings, count * sizeof(**ret));
	pthread_mutex_unlock(&doctor->lock);
	return count;
}

void datapath_findings_published(struct datapath *datapath)
{
	struct doctor *doctor = datapath->doctor;
	pthread_mutex_lock(&doctor->lock);
	doctor->published = doctor->rendered;
	pthread_cond_broadcast(&doctor->news);
	pthread_mutex_unlock(&doctor->lock);
}
