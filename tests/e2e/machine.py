# SPDX-License-Identifier: Apache-2.0
"""A machine whose first process is a real systemd, in namespaces of its own, on the network of a lab's node.

    with Lab() as lab, Machine(lab) as machine:
        machine.make("install")
        machine.run("systemctl", "enable", "--now", "penstockd")

Its files are those of this machine: an overlay that forgets what is written. cgroup v2 and bpffs are its own too, so that
nothing of it is left anywhere once its first process has ended.
"""
import contextlib
import os
import subprocess
import time

from lab import BUILD, REPOSITORY
from netns import OURS, alive, die_with_parent, run
from puppet import cgroup_root
from scenes import eventually

SYSTEMD = "/usr/lib/systemd/systemd"
# Of the system's own units, journald and what it needs: everything else that would start is masked.
BOOT = r"""
cd "$1"
shopt -s nullglob
mount -t tmpfs -o mode=755 tmpfs .
mkdir upper work root
mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work overlay root
cd root
rm -rf etc/penstock var/lib/penstock usr/local/sbin/penstock* usr/local/bin/penstock etc/systemd/system var/log/journal
mkdir -p etc/systemd/system proc sys dev run tmp mnt
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm
for name in null zero full random urandom tty; do cp -a "/dev/$name" dev/; done
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
for path in usr/lib/systemd/system/{sysinit,sockets,local-fs,multi-user,graphical,timers}.target.wants/*; do
	case $path in */systemd-journal[d.]*.s* | *.target) ;; *) ln -sf /dev/null "etc/systemd/system/${path##*/}" ;; esac
done
pivot_root . mnt
umount -l /mnt
exec env -i container=penstock-tests PATH=/usr/sbin:/usr/bin:/sbin:/bin \
	/usr/lib/systemd/systemd --system --unit=multi-user.target --log-target=journal --show-status=false
"""
PROBE = """
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
"""
SPACES = ["--mount", "--pid", "--uts", "--ipc", "--cgroup"]


def why_not():
    """What this machine lacks, or None."""
    if not os.path.exists(SYSTEMD):
        return "systemd is not installed here"
    if os.stat("/").st_dev != os.stat(SYSTEMD).st_dev:
        return "/usr is a file system of its own: an overlay of / has no systemd"
    if not cgroup_root():
        return "the machine's root of cgroup v2 is not mounted"
    done = run("unshare", *SPACES, "--fork", "sh", "-ec", PROBE, check=False)
    return f"no namespaces or no overlay for a systemd: {done.stderr.strip()}" if done.returncode else None


def make(target, root, **variables):
    """make install, or uninstall, of the programs that are tested: as they are, whatever has changed meanwhile."""
    old = [word for name in ("penstockd", "penstock", "penstock-relay") for word in ("-o", f"{BUILD}/{name}")]
    run("make", "-s", *old, target, f"B={BUILD}", f"DESTDIR={root}", *[f"{k}={v}" for k, v in variables.items()],
        cwd=REPOSITORY)


class Machine:
    def __init__(self, lab):
        sweep()
        self.lab, self.directory = lab, f"{lab.directory}/machine"
        self.cgroup = f"{cgroup_root()}/{lab.prefix}-systemd"
        os.makedirs(self.directory)
        os.makedirs(self.cgroup)
        self.log_path = f"{lab.directory}/systemd.log"
        with open(self.log_path, "w") as log:
            self.process = subprocess.Popen(
                ["sh", "-c", 'echo $$ > "$1"; shift; exec "$@"', "sh", f"{self.cgroup}/cgroup.procs",
                 *lab.node.command("unshare", *SPACES, "--propagation", "private", "--fork", "--kill-child",
                                   "bash", "-ec", BOOT, "boot", self.directory)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent)
        self.pid = None
        try:
            eventually(self._booted, 30)
        except AssertionError as error:
            with open(self.log_path) as log:
                said = log.read()
            self.close()
            raise AssertionError(f"systemd does not come up: {error}\n{said}") from None

    def _booted(self):
        assert self.process.poll() is None, "it has ended"
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children") as file:
            children = file.read().split()
        if not children:
            return False
        self.pid = int(children[0])
        try:
            if os.readlink(f"/proc/{self.pid}/exe") != SYSTEMD:
                return False
        except OSError:
            return False
        return self.run("systemctl", "is-system-running", check=False).stdout.strip() == "running"

    @property
    def root(self):
        """Its files, for processes outside."""
        return f"/proc/{self.pid}/root"

    def command(self, *command):
        return ["nsenter", f"--target={self.pid}", *SPACES, "--net", "env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
                *map(str, command)]

    def run(self, *command, **options):
        return run(*self.command(*command), **options)

    def shell(self, line, **options):
        return self.run("sh", "-c", line, **options)

    def write(self, path, text):
        os.makedirs(os.path.dirname(self.root + path), exist_ok=True)
        with open(self.root + path, "w") as file:
            file.write(text)

    def read(self, path):
        with open(self.root + path) as file:
            return file.read()

    def make(self, target):
        make(target, self.root)

    def show(self, name, unit="penstockd"):
        return self.run("systemctl", "show", "-P", name, unit).stdout.strip()

    def journal(self, unit="penstockd", *options):
        self.run("journalctl", "--sync")
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", unit, *options).stdout

    def main_pid(self, unit="penstockd"):
        """Of that service, as processes outside know it; None when it does not run."""
        with contextlib.suppress(OSError, IndexError):
            with open(f"{self.cgroup}/system.slice/{unit}.service/cgroup.procs") as file:
                return int(file.read().split()[0])
        return None

    def close(self):
        self.process.kill()
        self.process.wait()
        for _ in range(500):
            if remove(self.cgroup):
                return
            time.sleep(0.02)
        raise AssertionError(f"{self.cgroup} has processes still")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


def remove(cgroup):
    for path, _, _ in os.walk(cgroup, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(path)
    return not os.path.exists(cgroup)


def sweep():
    """cgroups of test processes that are gone."""
    for name in os.listdir(cgroup_root()):
        match = OURS.match(name)
        if match and name.endswith("-systemd") and not alive(match.group(1)):
            remove(f"{cgroup_root()}/{name}")
