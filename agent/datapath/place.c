/* SPDX-License-Identifier: Apache-2.0 */
/* Is this a place where a data path can be? One clear sentence for each thing that is missing. */
#include <errno.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "agent/base/log.h"
#include "agent/datapath/private.h"

#define BPFFS "/sys/fs/bpf"

#ifndef CAP_BPF
#define CAP_BPF 39
#endif
#ifndef CAP_PERFMON
#define CAP_PERFMON 38
#endif

static int privilege_check(struct error *e)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {0};
	if (syscall(SYS_capget, &header, data) < 0)
		return error_system(e, errno, "capabilities cannot be read");
	uint64_t effective = (uint64_t)data[1].effective << 32 | data[0].effective;
	bool admin = effective >> CAP_SYS_ADMIN & 1; /* before 5.8 it held what CAP_BPF and CAP_PERFMON hold now */
	static const struct {
		int capability;
		const char *name;
	} needed[] = {{CAP_NET_ADMIN, "CAP_NET_ADMIN"}, {CAP_BPF, "CAP_BPF"}, {CAP_PERFMON, "CAP_PERFMON"}};
	for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++)
		if (!(effective >> needed[i].capability & 1) && !(admin && needed[i].capability != CAP_NET_ADMIN))
			return error_set(e, ERROR_SYSTEM, EPERM, NULL,
				"%s is missing: penstockd runs as root or with CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF and CAP_PERFMON",
				needed[i].name);
	return 0;
}

static int btf_check(struct error *e)
{
	if (access("/sys/kernel/btf/vmlinux", R_OK) == 0)
		return 0;
	return error_set(e, ERROR_SYSTEM, ENOTSUP, NULL,
		"this kernel does not describe its types (no /sys/kernel/btf/vmlinux): it must be built with "
		"CONFIG_DEBUG_INFO_BTF, and /sys mounted");
}

/* The pin directory or its nearest ancestor that exists. */
static bool on_bpffs(const char *pin_directory)
{
	char path[PIN_PATH_MAX];
	snprintf(path, sizeof(path), "%s", pin_directory);
	for (;;) {
		struct statfs fs;
		if (statfs(path, &fs) == 0)
			return (unsigned long)fs.f_type == BPF_FS_MAGIC;
		char *slash = strrchr(path, '/');
		if (!slash || slash == path)
			return false;
		*slash = '\0';
	}
}

static bool in_init_mount_namespace(void)
{
	struct stat self, init;
	return stat("/proc/self/ns/mnt", &self) == 0 && stat("/proc/1/ns/mnt", &init) == 0 && self.st_ino == init.st_ino &&
		   self.st_dev == init.st_dev;
}

static int bpffs_check(const char *pin_directory, struct error *e)
{
	if (pin_directory[0] != '/' || strlen(pin_directory) >= PIN_PATH_MAX / 2)
		return error_set(e, ERROR_SYSTEM, EINVAL, NULL,
			"datapath.pinDirectory: %s is not an absolute path of fewer than %d bytes", pin_directory,
			PIN_PATH_MAX / 2);
	if (on_bpffs(pin_directory))
		return 0;
	bool below = strncmp(pin_directory, BPFFS "/", sizeof(BPFFS)) == 0;
	if (below && in_init_mount_namespace()) {
		if (mount("bpf", BPFFS, "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700") == 0) {
			log_info(ROOM, "mounted bpffs on " BPFFS);
			return 0;
		}
		return error_system(e, errno, "no bpffs is mounted on " BPFFS ", and mounting one failed");
	}
	if (below)
		return error_set(e, ERROR_SYSTEM, ENOTSUP, NULL,
			"%s is not on a bpffs in this mount namespace: `ip netns exec` hides it, use `nsenter "
			"--net=/run/netns/NAME` instead; "
			"a container mounts the node's " BPFFS,
			pin_directory);
	return error_set(
		e, ERROR_SYSTEM, ENOTSUP, NULL, "%s is not on a bpffs (mount -t bpf bpf " BPFFS ")", pin_directory);
}

int place_check(const char *pin_directory, struct error *e)
{
	int result = privilege_check(e);
	if (result == 0)
		result = btf_check(e);
	if (result == 0)
		result = bpffs_check(pin_directory, e);
	return result;
}
