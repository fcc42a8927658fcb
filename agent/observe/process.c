/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/observe/process.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include "agent/observe/exposition.h"

/* Fields of /proc/self/stat, numbered as in proc(5). */
enum {
	STAT_UTIME = 14,
	STAT_STIME = 15,
	STAT_THREADS = 20,
	STAT_START = 22,
	STAT_VSIZE = 23,
	STAT_RSS = 24,
	STAT_FIELDS = 25
};

static int stat_read(unsigned long long fields[STAT_FIELDS])
{
	char text[1024];
	FILE *file = fopen("/proc/self/stat", "re");
	if (!file)
		return -1;
	size_t length = fread(text, 1, sizeof(text) - 1, file);
	fclose(file);
	text[length] = '\0';
	char *at = strrchr(text, ')'); /* the name before it may hold anything */
	if (!at)
		return -1;
	at += 2;
	for (int field = 3; field < STAT_FIELDS && at; field++) {
		fields[field] = strtoull(at, NULL, 10);
		at = strchr(at, ' ');
		at += at != NULL;
	}
	return at ? 0 : -1;
}

static double boot_time(void)
{
	char line[256];
	double seconds = 0;
	FILE *file = fopen("/proc/stat", "re");
	while (file && fgets(line, sizeof(line), file))
		if (strncmp(line, "btime ", 6) == 0)
			seconds = strtod(line + 6, NULL);
	if (file)
		fclose(file);
	return seconds;
}

static int fds_count(void)
{
	int count = 0;
	DIR *directory = opendir("/proc/self/fd");
	struct dirent *entry;
	while (directory && (entry = readdir(directory)))
		count += entry->d_name[0] != '.';
	if (directory)
		closedir(directory);
	return count - 1; /* without the one that reads */
}

static void sample(struct buffer *out, enum metric metric, double value)
{
	metric_head(out, metric);
	metric_value(out, metric, value, NULL);
}

void process_render(struct buffer *out)
{
	unsigned long long fields[STAT_FIELDS] = {0};
	struct rlimit limit = {0};
	double ticks = (double)sysconf(_SC_CLK_TCK);
	if (stat_read(fields) == 0) {
		sample(out, METRIC_PROCESS_CPU, (double)(fields[STAT_UTIME] + fields[STAT_STIME]) / ticks);
		sample(out, METRIC_PROCESS_RESIDENT, (double)fields[STAT_RSS] * (double)sysconf(_SC_PAGESIZE));
		sample(out, METRIC_PROCESS_VIRTUAL, (double)fields[STAT_VSIZE]);
		sample(out, METRIC_PROCESS_THREADS, (double)fields[STAT_THREADS]);
		sample(out, METRIC_PROCESS_START, boot_time() + (double)fields[STAT_START] / ticks);
	}
	getrlimit(RLIMIT_AS, &limit);
	sample(out, METRIC_PROCESS_VIRTUAL_MAX, limit.rlim_cur == RLIM_INFINITY ? -1 : (double)limit.rlim_cur);
	getrlimit(RLIMIT_NOFILE, &limit);
	sample(out, METRIC_PROCESS_OPEN_FDS, fds_count());
	sample(out, METRIC_PROCESS_MAX_FDS, (double)limit.rlim_cur);
}
