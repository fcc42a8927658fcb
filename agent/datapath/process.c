/* SPDX-License-Identifier: Apache-2.0 */
/* Processes that hold a socket, and the socket itself out of their hands: /proc, pidfd_getfd(2). */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "agent/base/mem.h"
#include "agent/datapath/listeners.h"

#define OPTION_IPV6_TRANSPARENT 75 /* linux/in6.h, which does not go with netinet/in.h */
#define TARGET_MAX 4096

static bool has_capability(int capability)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {0};
	if (syscall(SYS_capget, &header, data) < 0)
		return true;
	return data[CAP_TO_INDEX(capability)].effective & CAP_TO_MASK(capability);
}

/* ", the agent lacks CAP_X and CAP_Y", or "". */
static const char *missing(char text[WHY_MAX])
{
	bool trace = !has_capability(CAP_SYS_PTRACE);
	bool search = !has_capability(CAP_DAC_READ_SEARCH) && !has_capability(CAP_DAC_OVERRIDE);
	snprintf(text, WHY_MAX, "%s%s%s%s", trace || search ? ": the agent lacks " : "", trace ? "CAP_SYS_PTRACE" : "",
		trace && search ? " and " : "", search ? "CAP_DAC_READ_SEARCH" : "");
	return text;
}

/* ---- one process ---- */

/* "" when it cannot be read. */
static char *link_read(int directory, const char *name)
{
	char target[TARGET_MAX];
	ssize_t length = readlinkat(directory, name, target, sizeof(target) - 1);
	target[length > 0 ? length : 0] = '\0';
	return str_dup(target);
}

static char *executable_read(int directory)
{
	static const char gone[] = " (deleted)";
	char *path = link_read(directory, "exe");
	size_t length = strlen(path), tail = sizeof(gone) - 1;
	if (length > tail && strcmp(path + length - tail, gone) == 0)
		path[length - tail] = '\0';
	return path;
}

static FILE *file_open(int directory, const char *name)
{
	auto_close int fd = openat(directory, name, O_RDONLY | O_CLOEXEC);
	FILE *file = fd < 0 ? NULL : fdopen(fd, "r");
	if (file)
		steal_fd(&fd);
	return file;
}

/* The line's rest after a prefix; NULL when there is none. */
static char *line_read(int directory, const char *name, const char *prefix)
{
	FILE *file = file_open(directory, name);
	auto_free char *line = NULL;
	char *found = NULL;
	size_t size = 0;
	while (file && !found && getline(&line, &size, file) > 0) {
		line[strcspn(line, "\n")] = '\0';
		if (strncmp(line, prefix, strlen(prefix)) == 0)
			found = str_dup(line + strlen(prefix));
	}
	if (file)
		fclose(file);
	return found;
}

static uint32_t effective_uid(int directory)
{
	auto_free char *uids = line_read(directory, "status", "Uid:");
	unsigned int effective;
	return uids && sscanf(uids, "%*u %u", &effective) == 1 ? effective : UINT32_MAX;
}

static void holder_read(int directory, const char *base, struct holder *holder)
{
	struct stat file;
	holder->uid = effective_uid(directory);
	auto_free char *cgroup = line_read(directory, "cgroup", "0::");
	holder->cgroup = cgroup ? cgroup_absolute(base, cgroup) : str_dup("");
	holder->executable = executable_read(directory);
	if (fstatat(directory, "exe", &file, 0) == 0) {
		holder->device = file.st_dev;
		holder->inode = file.st_ino;
	}
}

bool process_alive(int32_t pid)
{
	char path[32];
	snprintf(path, sizeof(path), "/proc/%d", pid);
	return access(path, F_OK) == 0;
}

bool process_same(int32_t pid, uint32_t uid, const char *executable)
{
	char path[32];
	snprintf(path, sizeof(path), "/proc/%d", pid);
	auto_close int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (directory < 0 || effective_uid(directory) != uid)
		return false;
	auto_free char *now = executable_read(directory);
	return strncmp(now, executable, EXECUTABLE_MAX - 1) == 0;
}

/* ---- all processes ---- */

struct hunt {
	const uint32_t *inodes;
	bool *found; /* needs no more holders */
	size_t count, left;
	bool (*each)(void *context, size_t which, const struct holder *holder);
	void *context;
	struct search *search;
	char *net; /* our network namespace */
	const char *cgroup_base;
};

static void descriptor_look(struct hunt *hunt, int process, int descriptors, const char *name, struct holder *holder)
{
	char target[64];
	unsigned int inode;
	ssize_t length = readlinkat(descriptors, name, target, sizeof(target) - 1);
	if (length <= 0)
		return;
	target[length] = '\0';
	if (sscanf(target, "socket:[%u]", &inode) != 1)
		return;
	for (size_t i = 0; i < hunt->count; i++) {
		if (hunt->found[i] || hunt->inodes[i] != inode)
			continue;
		if (!holder->cgroup)
			holder_read(process, hunt->cgroup_base, holder);
		holder->fd = atoi(name);
		hunt->found[i] = hunt->each(hunt->context, i, holder);
		hunt->left -= hunt->found[i];
	}
}

static void process_look(struct hunt *hunt, int process, int32_t pid)
{
	struct holder holder = {.pid = pid};
	int descriptors = openat(process, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *directory = descriptors < 0 ? NULL : fdopendir(descriptors);
	if (!directory) {
		hunt->search->closed += errno == EACCES || errno == EPERM;
		if (descriptors >= 0)
			close(descriptors);
		return;
	}
	char target[64];
	bool first = true;
	for (struct dirent *entry; hunt->left && (entry = readdir(directory));) {
		if (!isdigit((unsigned char)entry->d_name[0]))
			continue;
		if (first && readlinkat(descriptors, entry->d_name, target, sizeof(target)) < 0 && errno == EACCES) {
			hunt->search->closed++;
			break;
		}
		first = false;
		descriptor_look(hunt, process, descriptors, entry->d_name, &holder);
	}
	closedir(directory);
	free(holder.cgroup);
	free(holder.executable);
}

/* What cannot be told is taken to be ours. */
static bool process_is_here(const struct hunt *hunt, int proc, int32_t pid)
{
	char name[32];
	snprintf(name, sizeof(name), "%d/ns/net", pid);
	auto_free char *net = link_read(proc, name);
	return !*net || strcmp(net, hunt->net) == 0;
}

static void process_try(struct hunt *hunt, int proc, int32_t pid)
{
	char name[16];
	snprintf(name, sizeof(name), "%d", pid);
	auto_close int process = openat(proc, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (process >= 0)
		process_look(hunt, process, pid);
}

/* Pods' processes are many, and hardly ever hold a socket of the node: last. */
static void processes_look(struct hunt *hunt, DIR *proc)
{
	auto_free int32_t *elsewhere = NULL;
	size_t count = 0, capacity = 0;
	for (struct dirent *entry; hunt->left && (entry = readdir(proc));) {
		int32_t pid = atoi(entry->d_name);
		if (pid <= 0 || pid == getpid())
			continue;
		hunt->search->processes++;
		if (process_is_here(hunt, dirfd(proc), pid)) {
			process_try(hunt, dirfd(proc), pid);
			continue;
		}
		elsewhere = list_room(elsewhere, count, &capacity, sizeof(*elsewhere));
		elsewhere[count++] = pid;
	}
	for (size_t i = 0; hunt->left && i < count; i++)
		process_try(hunt, dirfd(proc), elsewhere[i]);
}

void process_search(const uint32_t *inodes, size_t count, const char *base,
	bool (*each)(void *context, size_t which, const struct holder *holder), void *context, struct search *ret)
{
	auto_free bool *found = mem_array(count, sizeof(*found));
	auto_free char *net = link_read(AT_FDCWD, "/proc/self/ns/net");
	DIR *proc = opendir("/proc");
	*ret = (struct search){0};
	struct hunt hunt = {inodes, found, count, count, each, context, ret, net, base};
	if (!proc)
		return;
	processes_look(&hunt, proc);
	closedir(proc);
}

void process_unseen(const struct search *search, char why[WHY_MAX])
{
	char lacking[WHY_MAX];
	if (search->closed)
		snprintf(why, WHY_MAX, "its process is not known, %zu of %zu processes cannot be looked into%s", search->closed,
			search->processes, missing(lacking));
	else
		snprintf(why, WHY_MAX,
			"none of the %zu processes that the agent sees holds it: in a container it needs the host's (hostPID)",
			search->processes);
}

/* ---- the socket itself ---- */

int process_socket(const struct holder *holder, uint32_t inode, char why[WHY_MAX])
{
	char lacking[WHY_MAX];
	auto_close int process = syscall(SYS_pidfd_open, holder->pid, 0);
	auto_close int fd = process < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, process, holder->fd, 0);
	if (fd < 0) {
		int error = errno;
		snprintf(why, WHY_MAX, "cannot be taken from process %d, pidfd_getfd: %s%s", holder->pid, strerror(error),
			error == EPERM || error == EACCES ? missing(lacking) : "");
		return -error;
	}
	/* By inode: what listens for an MPTCP socket has another cookie than that. */
	struct stat file;
	if (fstat(fd, &file) < 0 || !S_ISSOCK(file.st_mode) || file.st_ino != inode) {
		snprintf(why, WHY_MAX, "process %d has closed it meanwhile", holder->pid);
		return -ESTALE;
	}
	return steal_fd(&fd);
}

/* One bit of the socket, whichever option sets it; a dual-stack socket has it for both families. */
static int set_transparent(int fd)
{
	int family = 0, on = 1, result;
	socklen_t length = sizeof(family);
	getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &length);
	result = family == AF_INET6 ? setsockopt(fd, IPPROTO_IPV6, OPTION_IPV6_TRANSPARENT, &on, sizeof(on))
								: setsockopt(fd, IPPROTO_IP, IP_TRANSPARENT, &on, sizeof(on));
	if (result < 0)
		return -errno;
	on = 0;
	length = sizeof(on);
	if (getsockopt(fd, IPPROTO_IP, IP_TRANSPARENT, &on, &length) < 0)
		return -errno;
	return on ? 0 : -EIO;
}

int process_adopt(const struct holder *holder, uint32_t inode, char why[WHY_MAX])
{
	auto_close int fd = process_socket(holder, inode, why);
	if (fd < 0)
		return fd;
	int result = set_transparent(fd);
	if (result < 0)
		snprintf(why, WHY_MAX, "IP_TRANSPARENT cannot be set: %s", strerror(-result));
	return result;
}

bool process_adopts(char without[WHY_MAX])
{
	char lacking[WHY_MAX];
	auto_close int self = (int)syscall(SYS_pidfd_open, getpid(), 0);
	auto_close int copy = self < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, self, self, 0);
	snprintf(without, WHY_MAX, "proxies have to set IP_TRANSPARENT themselves%s", missing(lacking));
	return copy >= 0 && !lacking[0];
}
