/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent's own place in cgroup v2. In a container the kernel shows every cgroup relative to the container's
 * ("/../../system.slice/x.service"); who knows where that one is can tell the rest.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "agent/base/mem.h"
#include "agent/datapath/listeners.h"
#include "agent/datapath/private.h"

#define INITIAL_NAMESPACE "cgroup:[4026531835]" /* PROC_CGROUP_INIT_INO */

static bool in_initial_namespace(void)
{
	char name[64] = "";
	return readlink("/proc/self/ns/cgroup", name, sizeof(name) - 1) < 0 || strcmp(name, INITIAL_NAMESPACE) == 0;
}

static bool holds_us(int directory)
{
	auto_close int fd = openat(directory, "cgroup.procs", O_RDONLY | O_CLOEXEC);
	FILE *file = fd < 0 ? NULL : fdopen(fd, "r");
	bool found = false;
	int pid;
	if (!file)
		return false;
	steal_fd(&fd);
	while (!found && fscanf(file, "%d", &pid) == 1)
		found = pid == getpid();
	fclose(file);
	return found;
}

/* Where below `parent` this process is: "/a/b", or NULL. */
static char *find_us(int parent, const char *name, const char *path)
{
	auto_close int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	if (holds_us(fd))
		return str_dup(path);
	DIR *directory = fdopendir(dup(fd));
	char *found = NULL;
	for (struct dirent *entry; directory && !found && (entry = readdir(directory));) {
		if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
			continue;
		auto_free char *below = str_format("%s/%s", path, entry->d_name);
		found = find_us(fd, entry->d_name, below);
	}
	if (directory)
		closedir(directory);
	return found;
}

/* What this process is shown as its own. */
static char *own_shown(void)
{
	FILE *file = fopen("/proc/self/cgroup", "re");
	char line[PIN_PATH_MAX], *shown = NULL;
	while (file && !shown && fgets(line, sizeof(line), file))
		if (strncmp(line, "0::", 3) == 0)
			shown = str_dup(line + 3);
	if (file)
		fclose(file);
	if (shown)
		shown[strcspn(shown, "\n")] = '\0';
	return shown ? shown : str_dup("/");
}

char *cgroup_base(void)
{
	char root[PIN_PATH_MAX];
	if (in_initial_namespace() || sockets_cgroup(root) < 0)
		return str_dup("");
	auto_free char *own = own_shown();
	char *found = find_us(AT_FDCWD, root, "");
	size_t length = found ? strlen(found) : 0, tail = strcmp(own, "/") == 0 ? 0 : strlen(own);
	if (tail <= length && found && strcmp(found + length - tail, own) == 0)
		found[length - tail] = '\0';
	return found ? found : str_dup("");
}
