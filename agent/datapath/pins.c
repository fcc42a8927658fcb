/* SPDX-License-Identifier: Apache-2.0 */
/* Paths below the pin directory, and who may use them. bpffs allows no dot in a name. */
#include <bpf/bpf.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "agent/base/mem.h"
#include "agent/datapath/private.h"

static int make_directories(const char *directory, struct error *e)
{
	char path[PIN_PATH_MAX];
	snprintf(path, sizeof(path), "%s", directory);
	for (char *slash = strchr(path + 1, '/');; slash = strchr(slash + 1, '/')) {
		if (slash)
			*slash = '\0';
		if (mkdir(path, 0700) < 0 && errno != EEXIST)
			return error_system(e, errno, "%s cannot be made", path);
		if (!slash)
			return 0;
		*slash = '/';
	}
}

/* Released by the kernel when the process ends, however it ends. */
static int lock_directory(const char *directory, int *ret, struct error *e)
{
	auto_close int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return error_system(e, errno, "%s cannot be opened", directory);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno == EWOULDBLOCK)
			return error_set(e, ERROR_BUSY, EBUSY, NULL, "another penstockd uses %s: stop it first", directory);
		return error_system(e, errno, "%s cannot be locked", directory);
	}
	*ret = steal_fd(&fd);
	return 0;
}

/* Two data paths in one network namespace would fight over rules, routes and interfaces. */
static int lock_namespace(int *ret, struct error *e)
{
	static const char name[] = "\0penstock/datapath";
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	memcpy(address.sun_path, name, sizeof(name) - 1);
	auto_close int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_system(e, errno, "no socket to lock the network namespace with");
	if (bind(fd, (struct sockaddr *)&address, offsetof(struct sockaddr_un, sun_path) + sizeof(name) - 1) < 0) {
		if (errno == EADDRINUSE)
			return error_set(
				e, ERROR_BUSY, EBUSY, NULL, "another penstockd runs in this network namespace: stop it first");
		return error_system(e, errno, "the network namespace cannot be locked");
	}
	*ret = steal_fd(&fd);
	return 0;
}

static int check_abi(void *context, const char *name)
{
	unsigned int version;
	if (sscanf(name, "abi-%u", &version) == 1 && version != PS_ABI_VERSION)
		*(unsigned int *)context = version;
	return 0;
}

int pins_lock(const char *pin_directory, struct pins *ret, struct error *e)
{
	struct pins pins = {.directory_lock = -1, .namespace_lock = -1};
	snprintf(pins.directory, sizeof(pins.directory), "%s", pin_directory);
	for (size_t end = strlen(pins.directory); end > 1 && pins.directory[end - 1] == '/'; end--)
		pins.directory[end - 1] = '\0';
	int result = make_directories(pins.directory, e);
	if (result == 0)
		result = lock_directory(pins.directory, &pins.directory_lock, e);
	if (result == 0)
		result = lock_namespace(&pins.namespace_lock, e);
	if (result < 0) {
		pins_unlock(&pins);
		return result;
	}
	*ret = pins;
	return 0;
}

void pins_unlock(struct pins *pins)
{
	cleanup_close(&pins->directory_lock);
	cleanup_close(&pins->namespace_lock);
	pins->directory_lock = pins->namespace_lock = -1;
}

int pins_make(const struct pins *pins, struct error *e)
{
	unsigned int version = PS_ABI_VERSION;
	pins_each(pins, "", check_abi, &version);
	if (version != PS_ABI_VERSION)
		return error_set(e, ERROR_SYSTEM, EPROTO, NULL,
			"%s was made by a penstockd of ABI version %u, this one speaks version %u: run that one's `penstockd "
			"--uninstall` first",
			pins->directory, version, PS_ABI_VERSION);
	char abi[16];
	snprintf(abi, sizeof(abi), "abi-%u", PS_ABI_VERSION);
	const char *const folders[] = {"maps", "programs", "links", abi};
	for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
		char path[PIN_PATH_MAX];
		if (mkdir(pins_path(pins, path, folders[i], NULL), 0700) < 0 && errno != EEXIST)
			return error_system(e, errno, "%s cannot be made", path);
	}
	return 0;
}

int pins_restore(struct pins *pins, struct error *e)
{
	struct stat locked, there;
	int result = make_directories(pins->directory, e);
	if (result < 0)
		return result;
	if (fstat(pins->directory_lock, &locked) < 0 || stat(pins->directory, &there) < 0)
		return error_system(e, errno, "%s cannot be read", pins->directory);
	if (locked.st_ino != there.st_ino || locked.st_dev != there.st_dev) {
		int lock = -1;
		result = lock_directory(pins->directory, &lock, e);
		if (result < 0)
			return result;
		cleanup_close(&pins->directory_lock);
		pins->directory_lock = lock;
	}
	return pins_make(pins, e);
}

const char *pins_path(const struct pins *pins, char path[PIN_PATH_MAX], const char *folder, const char *name)
{
	snprintf(path, PIN_PATH_MAX, name ? "%s/%s/%s" : "%s/%s", pins->directory, folder, name);
	return path;
}

int pins_replace(const struct pins *pins, int fd, const char *folder, const char *name, struct error *e)
{
	char path[PIN_PATH_MAX], fresh_name[64], fresh[PIN_PATH_MAX];
	pins_path(pins, path, folder, name);
	snprintf(fresh_name, sizeof(fresh_name), "%s~", name);
	pins_path(pins, fresh, folder, fresh_name);
	unlink(fresh); /* left by an agent that died here */
	int result = bpf_obj_pin(fd, fresh);
	if (result < 0)
		return error_system(e, -result, "%s cannot be pinned", path);
	if (rename(fresh, path) < 0) {
		int errnum = errno;
		unlink(fresh);
		return error_system(e, errnum, "%s cannot be pinned", path);
	}
	return 0;
}

int pins_each(const struct pins *pins, const char *folder, int (*each)(void *, const char *name), void *context)
{
	char path[PIN_PATH_MAX];
	DIR *directory = opendir(pins_path(pins, path, folder, NULL));
	if (!directory)
		return errno == ENOENT ? 0 : -errno;
	int result = 0;
	for (struct dirent *entry; result == 0 && (entry = readdir(directory));)
		if (entry->d_name[0] != '.')
			result = each(context, entry->d_name);
	closedir(directory);
	return result;
}
