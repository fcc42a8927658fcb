# SPDX-License-Identifier: Apache-2.0
"""Network namespaces: made by name, entered by setns in this process, swept when their maker is dead.

Names start with "pt" and the pid of the test process, so that the next run can tell a leftover from a neighbour.
"""
import contextlib
import ctypes
import os
import re
import shutil
import socket
import subprocess

CLONE_NEWNET = 0x40000000
NETNS = "/run/netns"
BPFFS = "/sys/fs/bpf"
OURS = re.compile(r"^pt(\d+)-")
_libc = ctypes.CDLL(None, use_errno=True)


def setns(fd):
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"setns: {os.strerror(error)}")


def run(*command, check=True, input=None, timeout=60, **options):
    """Runs a command; what it said is part of the error when it fails."""
    done = subprocess.run([str(c) for c in command], input=input, text=True, capture_output=True, timeout=timeout,
                          **options)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit {done.returncode}\n{input or ''}{done.stdout}"
                           f"{done.stderr}")
    return done


class Namespace:
    """A named network namespace, new and with its loopback up."""

    def __init__(self, name):
        self.name = name
        run("ip", "netns", "add", name)
        self.path = f"{NETNS}/{name}"
        self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        # No address is tentative, whatever it is on: a test must not wait a second for duplicate detection.
        self.sysctl("net.ipv6.conf.all.accept_dad", 0)
        self.sysctl("net.ipv6.conf.default.accept_dad", 0)
        self.ip("link set lo up")

    @contextlib.contextmanager
    def entered(self):
        """This thread is in the namespace; sockets made here stay in it."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            setns(self.fd)
            yield self
        finally:
            setns(home)
            os.close(home)

    def ip(self, *lines, check=True):
        """Runs lines of `ip` in the namespace as one batch: ip("link set lo up", "addr add …")."""
        force = [] if check else ["-force"]  # else the first line that fails is the last
        return run("ip", "-n", self.name, *force, "-batch", "-", input="\n".join(lines) + "\n", check=check)

    def sysctl(self, key, value=None):
        path = "/proc/sys/" + key.replace("/", "\0").replace(".", "/").replace("\0", ".")
        with self.entered():
            if value is None:
                with open(path) as file:
                    return file.read().strip()
            with open(path, "w") as file:
                file.write(str(value))
        return None

    def command(self, *command):
        # Not `ip netns exec`, which hides bpffs and cgroups.
        return ["nsenter", f"--net={self.path}", *map(str, command)]

    def run(self, *command, **options):
        return run(*self.command(*command), **options)

    def popen(self, *command, **options):
        return subprocess.Popen(self.command(*command), preexec_fn=die_with_parent, **options)

    def ifindex(self, interface):
        with self.entered():
            return socket.if_nametoindex(interface)

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            run("ip", "netns", "del", self.name, check=False)


def die_with_parent():
    """For preexec_fn: a killed test run takes its processes along (PR_SET_PDEATHSIG, SIGKILL)."""
    _libc.prctl(1, 9)


def alive(pid):
    return os.path.exists(f"/proc/{pid}")


def sweep():
    """Removes namespaces and pins of test processes that are gone."""
    for directory, remove in ((NETNS, lambda name: run("ip", "netns", "del", name, check=False)),
                              (BPFFS, lambda name: shutil.rmtree(f"{BPFFS}/{name}", ignore_errors=True)),
                              ("/tmp", lambda name: shutil.rmtree(f"/tmp/{name}", ignore_errors=True))):
        for name in os.listdir(directory) if os.path.isdir(directory) else []:
            match = OURS.match(name)
            if match and not alive(match.group(1)):
                remove(name)


def mount_bpffs():
    if run("findmnt", "-n", "-t", "bpf", BPFFS, check=False).returncode != 0:
        run("mount", "-t", "bpf", "bpf", BPFFS)
