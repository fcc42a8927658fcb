/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/loop.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>
#include "agent/base/log.h"
#include "agent/base/mem.h"

/* While the start has not succeeded it is tried again this often. */
#define RETRY_MS 1000
/* Between two pieces of an audit: whoever waits gets in. */
#define PIECE_MS 5
#define EXPIRE_MS 2000
#define CALLS_TOGETHER 64

static void signal_set(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGHUP);
}

void loop_signals_block(void)
{
	sigset_t set;
	signal_set(&set);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
}

/* False: time to go. */
static bool signal_read(struct loop *loop, int fd)
{
	struct signalfd_siginfo info;
	if (read(fd, &info, sizeof(info)) != sizeof(info))
		return true;
	if (info.ssi_signo == SIGHUP) {
		loop->reload(loop->context);
		return true;
	}
	log_info("main", "%s: leaving, the data path goes on enforcing", info.ssi_signo == SIGTERM ? "SIGTERM" : "SIGINT");
	return false;
}

/*
 * The calls that wait now. The old side is brought up to date right after the answers, before the next calls are looked
 * at: their clients are not kept waiting by it.
 */
static void calls_take(struct loop *loop)
{
	struct call *calls[CALLS_TOGETHER];
	size_t count = 0;
	while (count < CALLS_TOGETHER && (calls[count] = server_next(loop->server)))
		count++;
	if (!count)
		return;
	reconcile_calls(loop->reconciler, calls, count);
	reconcile_settle(loop->reconciler);
}

static void interfaces_look(struct loop *loop, bool all)
{
	reconcile_interfaces(loop->reconciler, all);
	reconcile_settle(loop->reconciler);
}

static void timer_set(int fd, uint32_t ms, bool again)
{
	struct itimerspec when = {.it_value = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}};
	if (again)
		when.it_interval = when.it_value;
	timerfd_settime(fd, 0, &when, NULL);
}

static int timer_new(uint32_t ms)
{
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (fd >= 0)
		timer_set(fd, ms, true);
	return fd;
}

/* What netlink does not tell (a detached link, an entry written by hand, a neighbour to be asked again): everything is
 * looked at, then the maps, a piece at a time. */
static void audit(struct loop *loop, int timer, bool *under_way)
{
	if (!*under_way)
		interfaces_look(loop, true);
	*under_way = reconcile_audit(loop->reconciler);
	timer_set(timer, *under_way ? PIECE_MS : loop->audit_period_ms, false);
}

static bool timer_read(int fd)
{
	uint64_t times;
	return read(fd, &times, sizeof(times)) == sizeof(times);
}

static int64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* However busy the clients are that wait for it. */
static void start_again(struct loop *loop, int64_t *due)
{
	if (reconcile_started(loop->reconciler) || now_ms() < *due)
		return;
	reconcile_start(loop->reconciler);
	*due = now_ms() + RETRY_MS;
}

int loop_run(struct loop *loop, struct error *e)
{
	sigset_t set;
	signal_set(&set);
	auto_close int signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (signals < 0)
		return error_system(e, errno, "signalfd");

	auto_close int timer = timer_new(loop->audit_period_ms);
	if (timer < 0)
		return error_system(e, errno, "timerfd_create");

	auto_close int expiry = timer_new(EXPIRE_MS);
	if (expiry < 0)
		return error_system(e, errno, "timerfd_create");

	enum { SIGNALS, CALLS, NETLINK, TIMER, EXPIRY, LISTENERS };
	struct pollfd fds[] = {
		[SIGNALS] = {.fd = signals, .events = POLLIN},
		[CALLS] = {.fd = server_fd(loop->server), .events = POLLIN},
		[NETLINK] = {.fd = datapath_netlink_fd(loop->datapath), .events = POLLIN},
		[TIMER] = {.fd = timer, .events = POLLIN},
		[EXPIRY] = {.fd = expiry, .events = POLLIN},
		[LISTENERS] = {.fd = datapath_listeners_fd(loop->datapath), .events = POLLIN},
	};
	int64_t start_due = now_ms() + RETRY_MS;
	bool auditing = false;
	for (;;) {
		/* Unread news would end every wait at once. */
		fds[NETLINK].fd = reconcile_listens(loop->reconciler) ? datapath_netlink_fd(loop->datapath) : -1;
		int timeout = reconcile_started(loop->reconciler) ? -1 : RETRY_MS;
		int ready = poll(fds, sizeof(fds) / sizeof(fds[0]), timeout);
		if (ready < 0 && errno != EINTR)
			return error_system(e, errno, "poll");
		start_again(loop, &start_due);
		if (ready <= 0)
			continue;
		if (fds[SIGNALS].revents && !signal_read(loop, signals))
			return 0;
		if (fds[EXPIRY].revents && timer_read(expiry))
			datapath_expire(loop->datapath);
		if (fds[TIMER].revents && timer_read(timer))
			audit(loop, timer, &auditing);
		if (fds[NETLINK].revents)
			interfaces_look(loop, false);
		if (fds[CALLS].revents)
			calls_take(loop);
		if (fds[LISTENERS].revents)
			reconcile_listeners(loop->reconciler);
	}
}
