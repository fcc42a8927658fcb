/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waits until no program that began before is still running.
 *
 * The programs run with bottom halves off: on a kernel that is not PREEMPT_RT, a CPU that lets this thread run is in
 * the middle of none of them. So one visit to each CPU is enough, and costs a tenth of a millisecond where a grace
 * period of RCU costs 6 (median) to 18 (p99). Where a CPU may not be visited (a cpuset, isolation, PREEMPT_RT), RCU is
 * asked.
 */
#include <linux/membarrier.h>
#include <sched.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "agent/base/mem.h"
#include "agent/datapath/private.h"

#define FALLBACK_US 100000
#define CPUS_MAX 8192

static bool kernel_is_realtime(void)
{
	return access("/sys/kernel/realtime", F_OK) == 0;
}

/* A list like "0-3,8" as a set. */
static bool cpus_online(cpu_set_t *set, size_t size)
{
	FILE *file = fopen("/sys/devices/system/cpu/online", "re");
	unsigned int first, last;
	bool any = false;
	char next;
	if (!file)
		return false;
	CPU_ZERO_S(size, set);
	while (fscanf(file, "%u", &first) == 1) {
		last = first;
		next = (char)fgetc(file);
		if (next == '-' && fscanf(file, "%u", &last) == 1)
			next = (char)fgetc(file);
		for (; first <= last && first < CPUS_MAX; first++)
			CPU_SET_S(first, size, set);
		any = true;
		if (next != ',')
			break;
	}
	fclose(file);
	return any;
}

/* False: not every CPU could be visited. */
static bool cpus_visit(void)
{
	size_t size = CPU_ALLOC_SIZE(CPUS_MAX);
	auto_free cpu_set_t *online = mem_alloc(size), *own = mem_alloc(size), *one = mem_alloc(size);
	if (kernel_is_realtime() || !cpus_online(online, size) || sched_getaffinity(0, size, own) < 0)
		return false;
	bool all = true;
	for (unsigned int cpu = 0; all && cpu < CPUS_MAX; cpu++) {
		if (!CPU_ISSET_S(cpu, size, online))
			continue;
		CPU_ZERO_S(size, one);
		CPU_SET_S(cpu, size, one);
		/* A cpuset may narrow what was asked for without saying so. */
		all = sched_setaffinity(0, size, one) == 0 && sched_getcpu() == (int)cpu;
	}
	sched_setaffinity(0, size, own);
	return all;
}

void grace_wait(void)
{
	if (cpus_visit() || syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) == 0)
		return;
	/* With nohz_full the kernel refuses. No packet takes this long. */
	usleep(FALLBACK_US);
}
