/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who listens on the proxies' ports, and makes them usable.
 *
 * Two locks: `look` is held while somebody looks (the thread, or datapath_proxies), `lock` only to copy what was seen
 * last. /proc is searched for sockets that are new, and again later, less and less often, for those that could not be
 * made usable.
 */
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>
#include "agent/base/log.h"
#include "agent/base/mem.h"
#include "agent/datapath/listeners_look.h"

#define LOOK_MS 100
#define BACK_OFF_MS 10000
#define UDP_PAUSE_MS 400

static int64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- one look ---- */

static bool adoption_due(const struct listeners *ls, const struct listener *l)
{
	return !l->heard.transparent && ls->datapath->options.adopt_listeners;
}

static bool proxy_wants(const struct proxy *proxy, uint8_t protocol)
{
	return protocol == IPPROTO_UDP ? proxy->udp : proxy->tcp;
}

static struct listener *listener_find(struct listeners *ls, uint64_t cookie, size_t proxy)
{
	for (size_t i = 0; i < ls->count; i++)
		if (ls->list[i].heard.cookie == cookie && ls->list[i].proxy == proxy)
			return &ls->list[i];
	return NULL;
}

static void listener_hear(void *context, const struct heard *heard)
{
	struct listeners *ls = context;
	if (listener_answers(heard))
		return;
	for (size_t i = 0; i < ls->wanted_count; i++) {
		if (ls->wanted[i].proxy.port != heard->port || !proxy_wants(&ls->wanted[i].proxy, heard->protocol))
			continue;
		struct listener *l = listener_find(ls, heard->cookie, i);
		if (!l) {
			ls->list = list_room(ls->list, ls->count, &ls->capacity, sizeof(*ls->list));
			l = &ls->list[ls->count++];
			*l = (struct listener){.proxy = i, .uid = heard->uid};
		}
		l->heard = *heard;
		if (!heard->told)
			l->heard.transparent = l->adopted || !ls->datapath->options.adopt_listeners;
		l->seen = true;
	}
}

static int listeners_hear_of(struct listeners *ls, uint8_t protocol)
{
	auto_free uint16_t *ports = mem_array(ls->wanted_count + 1, sizeof(*ports));
	size_t count = 0;
	for (size_t i = 0; i < ls->wanted_count; i++)
		if (proxy_wants(&ls->wanted[i].proxy, protocol))
			ports[count++] = ls->wanted[i].proxy.port;
	return diag_listeners(ls->diag, protocol, ports, count, listener_hear, ls);
}

/*
 * All of the node's UDP sockets are walked, and a proxy may have one for each flow (20,000 take some 4 ms). The longer
 * it takes, the less often it is done; a restart is still seen within a second.
 */
static int listeners_hear_udp(struct listeners *ls)
{
	int64_t begun = now_ms(), pause;
	if (listeners_hear_of(ls, IPPROTO_UDP) < 0) {
		if (errno != ENOENT) /* else TCP's listeners are known all the same */
			return -1;
		if (!ls->deaf_to_udp)
			log_warn(
				ROOM, "no udp_diag in this kernel: UDP sockets are not found, they have to be transparent themselves");
		ls->deaf_to_udp = true;
	}
	pause = (now_ms() - begun) * 100;
	ls->udp_due = now_ms() + (pause < UDP_PAUSE_MS ? pause : UDP_PAUSE_MS);
	return 0;
}

static int listeners_hear(struct listeners *ls)
{
	bool udp = now_ms() >= ls->udp_due;
	size_t left = 0;
	for (size_t i = 0; i < ls->count; i++)
		ls->list[i].seen = !udp && ls->list[i].heard.protocol == IPPROTO_UDP;
	if (listeners_hear_of(ls, IPPROTO_TCP) < 0 || (udp && listeners_hear_udp(ls) < 0))
		return -1;
	for (size_t i = 0; i < ls->count; i++)
		if (ls->list[i].seen)
			ls->list[left++] = ls->list[i];
	ls->count = left;
	return 0;
}

/* The process that is shown is not what it was: gone, or, when it was not chosen, another user's or program by now. */
static bool holder_changed(const struct listener *l)
{
	if (!l->pid)
		return false;
	return l->matches ? !process_alive(l->pid) : !process_same(l->pid, l->uid, l->executable);
}

/* Whether /proc has to be searched for it now: it is new, or is not usable yet. */
static bool search_due(const struct listeners *ls, struct listener *l, int64_t now)
{
	char why[WHY_MAX];
	if (l->tries && holder_changed(l))
		l->tries = 0;
	if (!l->tries)
		return true;
	return now >= l->due && listener_reachable(&l->heard, why) && (!l->matches || adoption_due(ls, l));
}

struct asked {
	struct listeners *ls;
	struct listener **list;
};

/* A holder of a socket: is it chosen, and can the socket be adopted from it? */
static bool holder_take(void *context, size_t which, const struct holder *holder)
{
	struct asked *asked = context;
	struct listener *l = asked->list[which];
	const struct wanted *wanted = &asked->ls->wanted[l->proxy];
	char why[WHY_MAX];
	bool chosen = holder_chosen(&wanted->proxy, &l->heard, holder, why);
	if (!chosen && l->matches)
		return false;
	l->pid = holder->pid;
	l->fd = holder->fd;
	l->uid = holder->uid;
	snprintf(l->executable, sizeof(l->executable), "%s", holder->executable);
	l->matches = chosen;
	if (!chosen) {
		snprintf(l->why, sizeof(l->why), "%s", why);
		return false;
	}
	if (!adoption_due(asked->ls, l) || !listener_reachable(&l->heard, why))
		return true;
	if (process_adopt(holder, l->heard.inode, l->why) < 0)
		return false;
	l->adopted = l->heard.transparent = true;
	log_info(ROOM, "proxy %s: the listener of process %d (%s) on %s port %u is transparent now", wanted->name,
		holder->pid, holder->executable, l->heard.protocol == IPPROTO_UDP ? "UDP" : "TCP", l->heard.port);
	return true;
}

/* What the socket alone tells, when nobody was seen to hold it. */
static void holder_unseen(struct listeners *ls, struct listener *l, const struct search *search)
{
	const struct proxy *proxy = &ls->wanted[l->proxy].proxy;
	struct holder nobody = {.uid = l->heard.uid, .cgroup = "", .executable = ""};
	l->pid = 0;
	l->executable[0] = '\0';
	l->matches = holder_chosen(proxy, &l->heard, &nobody, l->why);
	if (!l->matches && (proxy->uid < 0 || l->heard.uid == proxy->uid))
		process_unseen(search, l->why);
	if (l->matches && adoption_due(ls, l))
		process_unseen(search, l->why);
}

static void listeners_search(struct listeners *ls, int64_t now)
{
	auto_free struct listener **list = mem_array(ls->count + 1, sizeof(struct listener *));
	auto_free uint32_t *inodes = mem_array(ls->count + 1, sizeof(*inodes));
	size_t count = 0;
	for (size_t i = 0; i < ls->count; i++) {
		struct listener *l = &ls->list[i];
		if (!search_due(ls, l, now))
			continue;
		inodes[count] = l->heard.inode;
		list[count++] = l;
		l->pid = 0;
		l->matches = false;
	}
	if (!count)
		return;
	struct asked asked = {ls, list};
	struct search search;
	process_search(inodes, count, ls->base, holder_take, &asked, &search);
	for (size_t i = 0; i < count; i++) {
		struct listener *l = list[i];
		int64_t pause = (int64_t)LOOK_MS << (l->tries < 8 ? l->tries : 8);
		if (!l->pid)
			holder_unseen(ls, l, &search);
		l->tries++;
		l->due = now + (pause < BACK_OFF_MS ? pause : BACK_OFF_MS);
	}
}

/* What it is in the end; `why` only when it is ignored. */
static enum listener_state listener_judge(struct listeners *ls, struct listener *l, char why[WHY_MAX], int64_t now)
{
	const struct wanted *wanted = &ls->wanted[l->proxy];
	why[0] = '\0';
	if (!listener_reachable(&l->heard, why))
		return LISTENER_IGNORED;
	if (!l->matches || adoption_due(ls, l)) {
		snprintf(why, WHY_MAX, "%s", l->why);
		return LISTENER_IGNORED;
	}
	if (!l->heard.transparent) {
		snprintf(why, WHY_MAX, "is not transparent, and adoptListeners is false");
		return LISTENER_IGNORED;
	}
	if (l->shared) {
		snprintf(why, WHY_MAX,
			"shares its address with another process (SO_REUSEPORT), and cannot be told from it: %.150s", l->why);
		return LISTENER_IGNORED;
	}
	if (wanted->chosen && !listener_row_want(ls, l, wanted->chosen, PS_LISTENER_CHOSEN, now)) {
		snprintf(why, WHY_MAX, "map ps_listener is full");
		return LISTENER_IGNORED;
	}
	bool adopted = l->adopted || listener_row_there(ls, l, 0);
	if (adopted)
		listener_row_want(ls, l, 0, PS_LISTENER_CHOSEN, now);
	return adopted ? LISTENER_ADOPTED : LISTENER_READY;
}

/* ---- what others are told ---- */

static void status_fill(struct listeners *ls, struct listener *l, struct listener_status *ret, int64_t now)
{
	*ret = (struct listener_status){
		.ip = l->heard.ip,
		.port = l->heard.port,
		.protocol = l->heard.protocol,
		.v6only = l->heard.v6only,
		.uid = l->uid,
		.pid = l->pid,
	};
	snprintf(ret->proxy, sizeof(ret->proxy), "%s", ls->wanted[l->proxy].name);
	snprintf(ret->executable, sizeof(ret->executable), "%s", l->executable);
	ret->state = listener_judge(ls, l, ret->why, now);
}

static int status_compare(const void *a, const void *b)
{
	const struct listener_status *left = a, *right = b;
	int order = strcmp(left->proxy, right->proxy);
	if (!order)
		order = (int)left->state - (int)right->state;
	if (!order)
		order = (int)left->protocol - (int)right->protocol;
	if (!order)
		order = ip_compare(&left->ip, &right->ip);
	return order ? order : (left->pid > right->pid) - (left->pid < right->pid);
}

static bool status_equal(const struct listener_status *a, const struct listener_status *b)
{
	return strcmp(a->proxy, b->proxy) == 0 && ip_equal(&a->ip, &b->ip) && a->port == b->port &&
		   a->protocol == b->protocol && a->v6only == b->v6only && a->state == b->state && a->uid == b->uid &&
		   a->pid == b->pid && strcmp(a->executable, b->executable) == 0 && strcmp(a->why, b->why) == 0;
}

/* Takes the list. */
static void status_replace(struct listeners *ls, struct listener_status *status, size_t count)
{
	bool same = count == ls->status_count;
	for (size_t i = 0; same && i < count; i++)
		same = status_equal(&status[i], &ls->status[i]);
	if (same) {
		free(status);
		return;
	}
	pthread_mutex_lock(&ls->lock);
	free(ls->status);
	ls->status = status;
	ls->status_count = count;
	pthread_mutex_unlock(&ls->lock);
	eventfd_write(ls->event, 1);
}

static void look(struct listeners *ls)
{
	int64_t now = now_ms();
	if (listeners_hear(ls) < 0) {
		if (!ls->deaf) /* said once, not with each look */
			log_warn(ROOM, "sock_diag: %s: who listens for proxies is not known", strerror(errno));
		ls->deaf = true;
		return;
	}
	ls->deaf = false;
	listeners_search(ls, now);
	groups_look(ls, now);
	struct listener_status *status = mem_array(ls->count + 1, sizeof(*status));
	auto_free uint32_t *usable = mem_array(ls->count + 1, sizeof(*usable));
	size_t usable_count = 0;
	for (size_t i = 0; i < ls->count; i++) {
		status_fill(ls, &ls->list[i], &status[i], now);
		if (status[i].state != LISTENER_IGNORED)
			usable[usable_count++] = ls->list[i].heard.inode;
	}
	qsort(status, ls->count, sizeof(*status), status_compare);
	status_replace(ls, status, ls->count);
	listener_rows_expire(ls, now);
	if (ls->datapath->hosts.stands)
		exempt_look(ls->exempt, ls->datapath->loaded.other[OTHER_EXEMPT], usable, usable_count, now);
}

/* ---- the thread ---- */

static void pause_until_next(struct listeners *ls)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += LOOK_MS * 1000000L;
	until.tv_sec += until.tv_nsec / 1000000000L;
	until.tv_nsec %= 1000000000L;
	pthread_cond_timedwait(&ls->wake, &ls->look, &until);
}

static void *thread_run(void *context)
{
	struct listeners *ls = context;
	pthread_mutex_lock(&ls->look);
	while (!ls->stop) {
		/* Until it is told whom to look for, what an earlier agent left in the map stays as it is. */
		if (!ls->told || (!ls->wanted_count && !ls->rows.count)) {
			pthread_cond_wait(&ls->wake, &ls->look);
			continue;
		}
		pause_until_next(ls);
		if (!ls->stop)
			look(ls);
	}
	pthread_mutex_unlock(&ls->look);
	return NULL;
}

int listeners_open(struct datapath *d, struct error *e)
{
	struct listeners *ls = d->listeners = mem_alloc(sizeof(*ls));
	pthread_condattr_t monotonic;
	ls->datapath = d;
	ls->event = -1;
	ls->exempt = exempt_new();
	listener_rows_open(ls);
	pthread_mutex_init(&ls->look, NULL);
	pthread_mutex_init(&ls->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&ls->wake, &monotonic);
	pthread_condattr_destroy(&monotonic);
	ls->base = cgroup_base();
	ls->diag = diag_open(e);
	if (ls->diag < 0)
		return ls->diag;
	ls->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (ls->event < 0)
		return error_system(e, errno, "eventfd");
	listener_rows_take_over(ls, now_ms());
	int result = pthread_create(&ls->thread, NULL, thread_run, ls);
	if (result != 0)
		return error_system(e, result, "a thread");
	ls->running = true;
	return 0;
}

static void wanted_clear(struct listeners *ls)
{
	for (size_t i = 0; i < ls->wanted_count; i++) {
		free(ls->wanted[i].name);
		free(ls->wanted[i].proxy.cgroup);
		free(ls->wanted[i].proxy.executable);
	}
	free(ls->wanted);
	ls->wanted = NULL;
	ls->wanted_count = 0;
}

void listeners_close(struct datapath *d)
{
	struct listeners *ls = d->listeners;
	if (!ls)
		return;
	if (ls->running) {
		pthread_mutex_lock(&ls->look);
		ls->stop = true;
		pthread_cond_signal(&ls->wake);
		pthread_mutex_unlock(&ls->look);
		pthread_join(ls->thread, NULL);
	}
	wanted_clear(ls);
	map_clear(&ls->rows);
	groups_close(ls);
	exempt_free(ls->exempt);
	cleanup_close(&ls->diag);
	cleanup_close(&ls->event);
	pthread_cond_destroy(&ls->wake);
	pthread_mutex_destroy(&ls->look);
	pthread_mutex_destroy(&ls->lock);
	free(ls->base);
	free(ls->list);
	free(ls->status);
	free(ls);
	d->listeners = NULL;
}

/* ---- for others ---- */

void listeners_news(struct datapath *d)
{
	eventfd_write(d->listeners->event, 1);
}

void listeners_again(struct datapath *d)
{
	struct listeners *ls = d->listeners;
	pthread_mutex_lock(&ls->look);
	if (ls->told)
		look(ls);
	pthread_mutex_unlock(&ls->look);
}

void datapath_proxies(struct datapath *datapath, const struct proxy_wanted *proxies, size_t count)
{
	struct listeners *ls = datapath->listeners;
	pthread_mutex_lock(&ls->look);
	groups_end(ls); /* while it is known who is there */
	wanted_clear(ls);
	ls->wanted = mem_array(count + 1, sizeof(*ls->wanted));
	for (size_t i = 0; i < count; i++) {
		struct wanted *wanted = &ls->wanted[i];
		wanted->name = str_dup(proxies[i].name);
		wanted->proxy = *proxies[i].proxy;
		wanted->proxy.cgroup = str_dup(wanted->proxy.cgroup);
		wanted->proxy.executable = str_dup(wanted->proxy.executable);
		wanted->chosen = proxy_chosen(&wanted->proxy);
	}
	ls->wanted_count = count;
	ls->count = 0; /* everything is looked at anew */
	ls->udp_due = 0;
	ls->told = true;
	look(ls);
	pthread_cond_signal(&ls->wake);
	pthread_mutex_unlock(&ls->look);
}

int datapath_listeners_fd(const struct datapath *datapath)
{
	return datapath->listeners->event;
}

void datapath_listeners_read(struct datapath *datapath)
{
	eventfd_t times;
	eventfd_read(datapath->listeners->event, &times);
}

size_t datapath_listeners(const struct datapath *datapath, struct listener_status **ret)
{
	struct listeners *ls = datapath->listeners;
	pthread_mutex_lock(&ls->lock);
	size_t count = ls->status_count;
	*ret = mem_array(count + 1, sizeof(**ret));
	if (count)
		memcpy(*ret, ls->status, count * sizeof(**ret));
	pthread_mutex_unlock(&ls->lock);
	return count;
}
