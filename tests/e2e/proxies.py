# SPDX-License-Identifier: Apache-2.0
"""Real proxies in a node's namespace, each with a configuration of its own in the lab's directory.

    with HAProxy(lab, "gw", frontend="bind 127.0.0.1:15001", backend="server s 198.51.100.9:80") as proxy:
        …
        proxy.reload()

A constructor returns when somebody listens. Whatever a proxy has forked ends with it.
"""
import contextlib
import os
import re
import shutil
import signal
import subprocess
import time

from lab import BUILD, REPOSITORY
from talk import plain

PORT = 15001
NGINX_STREAM = "/usr/lib/nginx/modules/ngx_stream_module.so"


class Proxy:
    """One program. Several proxies of one lab have different names."""
    count = 0
    listening = {"tcp": "0A", "tcp6": "0A"}  # tables of its namespace, and the state of what it is to have there

    def __init__(self, lab, name, port=PORT):
        Proxy.count += 1
        self.lab, self.name, self.port = lab, name, port
        self.directory = f"{lab.directory}/{name}-{Proxy.count}"
        os.makedirs(self.directory, mode=0o755)
        self.log_path, self.errors_path = f"{self.directory}/log", f"{self.directory}/errors"
        self.generations = []
        lab.proxies = [*getattr(lab, "proxies", []), self]

    # ---- what each kind says ----

    def command(self):
        raise NotImplementedError

    # ---- life ----

    @property
    def process(self):
        return self.generations[-1] if self.generations else None

    def start(self, *more):
        with open(self.log_path, "a") as log, open(self.errors_path, "a") as errors:
            # A session of its own: children that a proxy forks are ended with it.
            self.generations.append(self.lab.node.popen(*self.command(), *more, stdout=log, stderr=errors,
                                                        stdin=subprocess.DEVNULL, cwd=self.directory,
                                                        start_new_session=True))
        self._await(lambda: self.port is None or self.listens(), "nobody listens")
        return self

    def _await(self, check, what, timeout=10):
        end = time.monotonic() + timeout
        while not check():
            ended = self.process is not None and self.process.poll() is not None
            assert not ended and time.monotonic() < end, f"{self.name}: {what}\n{self.errors[-4000:]}\n{self.log[-4000:]}"
            time.sleep(0.01)

    def listens(self):
        """Does a process of the newest generation hold a listening socket of the port?"""
        inodes = set()
        with self.lab.node.entered():
            for table, state in self.listening.items():
                with open(f"/proc/thread-self/net/{table}") as file:
                    for line in file.readlines()[1:]:
                        part = line.split()
                        if part[3] == state and int(part[1].rsplit(":", 1)[1], 16) == self.port:
                            inodes.add(f"socket:[{part[9]}]")
        return bool(inodes & self.descriptors())

    def descriptors(self):
        found = set()
        for pid in self.pids():
            with contextlib.suppress(OSError):
                for fd in os.listdir(f"/proc/{pid}/fd"):
                    found.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
        return found

    def pids(self):
        """The program and what it has forked, of the newest generation; the program first."""
        return [self.process.pid, *self.workers()]

    def workers(self):
        return _session(self.process.pid)

    def stop(self, number=signal.SIGTERM, timeout=10):
        """Every generation ends, with what it has forked."""
        forked = [pid for process in self.generations for pid in _session(process.pid)]
        for process in self.generations:
            self._signal(process, number)
        for process in self.generations:
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                pass
            self._signal(process, signal.SIGKILL)
            process.wait()
        self.generations = []
        self._await(lambda: not any(map(_lives, forked)), "a worker does not end")

    def kill(self):
        self.stop(signal.SIGKILL)

    def restart(self):
        self.kill()
        return self.start()

    @staticmethod
    def _signal(process, number):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            pass

    def close(self):
        self.kill()
        if self in self.lab.proxies:
            self.lab.proxies.remove(self)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    # ---- what it said ----

    @property
    def log(self):
        return read(self.log_path)

    @property
    def errors(self):
        return read(self.errors_path)

    def lines(self, pattern, count=1, timeout=5):
        """At least so many matches in its log, as groups; waits for them."""
        end = time.monotonic() + timeout
        while True:
            found = re.findall(pattern, self.log, re.M)
            if len(found) >= count:
                return found
            assert time.monotonic() < end, (f"{self.name}: {len(found)} of {count} {pattern}\n{self.log[-4000:]}\n"
                                            f"{self.errors}")
            time.sleep(0.02)

    def seen(self, count=1):
        """(client, port, destination, port) of each connection that it says has ended; waits for so many."""
        return []

    def given_to(self, user):
        """For a program that changes its user."""
        for path in (self.log_path, self.errors_path):
            with open(path, "a"):
                pass
        for where, _, files in os.walk(self.directory):
            for path in (where, *[f"{where}/{file}" for file in files]):
                shutil.chown(path, user)

    def make(self, directory):
        os.makedirs(f"{self.directory}/{directory}")

    def write(self, file, text):
        path = f"{self.directory}/{file}"
        with open(path, "w") as out:
            out.write(text)
        return path


def _session(leader):
    """Whom a process has forked."""
    found = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        with contextlib.suppress(OSError):
            if os.getsid(pid) == leader != pid:
                found.append(pid)
    return found


def _lives(pid):
    """Not a zombie either, whose sockets are closed."""
    return read(f"/proc/{pid}/stat").rpartition(")")[2].split()[:1] not in ([], ["Z"], ["X"])


def read(path):
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def kill9(*pids):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def close_all(lab):
    for proxy in list(getattr(lab, "proxies", [])):
        proxy.close()


def lacking(program):
    """Why a test that needs the program is skipped, or None."""
    return None if shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") else \
        f"{program} is not installed (deploy/setup.sh test)"


DATAGRAMS = {"udp": "07", "udp6": "07"}


def example(name, without=None):
    """The lines of a file in deploy/proxies: what users are told to write is what is tested."""
    with open(f"{REPOSITORY}/deploy/proxies/{name}") as file:
        lines = file.read().splitlines()
    if without:
        left = [line for line in lines if without not in line]
        assert len(left) < len(lines), f"{name} has no {without}"
        lines = left
    return lines


class HAProxy(Proxy):
    """frontend and backend: lines of those sections; whole: both with their heads; master: it has one, and workers. Its log
    has `client port destination port pid` of each connection, when it has ended."""

    def __init__(self, lab, name="haproxy", frontend=(), backend=(), mode="tcp", threads=2, port=PORT, master=False,
                 whole=None):
        super().__init__(lab, name, port)
        self.master = master
        sections = whole or ["frontend in", *_indented(frontend), "  default_backend out", "backend out", *_indented(backend)]
        self.write("haproxy.cfg", "\n".join([
            "global", "  log stdout format raw local0", "  maxconn 8192", f"  nbthread {threads}",
            "  hard-stop-after 30s", "defaults", f"  mode {mode}", "  log global",
            "  timeout connect 5s", "  timeout client 60s", "  timeout server 60s",
            '  log-format "%ci %cp %[dst] %[dst_port] %pid"', *sections, ""]))
        self.start()

    def command(self):
        return ["haproxy", "-W" if self.master else "-db", "-f", f"{self.directory}/haproxy.cfg"]

    def reload(self):
        """
        A second generation takes the port over (-sf); the first ends when its connections have. With a master, as
        Debian's unit runs it, that starts new workers, with the sockets that it has kept.
        """
        if not self.master:
            self.start("-sf", self.process.pid)
            return
        began, done = self.errors.count("Reloading HAProxy"), self.errors.count("Loading success")
        due = 0
        while self.errors.count("Reloading HAProxy") == began:
            if time.monotonic() > due:  # one that comes while it loads is lost; of two in a row the second gets no sockets
                self.process.send_signal(signal.SIGUSR2)
                due = time.monotonic() + 1
            time.sleep(0.02)
        self._await(lambda: self.errors.count("Loading success") > done, "no new worker")

    def seen(self, count=1):
        """(client, port, destination, port) of each connection that has ended."""
        return [seen[:4] for seen in self.carried(count)]

    def carried(self, count=1):
        """The same, and the pid of the generation that had it."""
        return [(plain(a), int(b), plain(c), int(d), int(pid)) for a, b, c, d, pid in
                self.lines(r"([0-9a-f:.]+) (\d+) (\S+) (\d+) (\d+)$", count)]  # a generation that ends may have begun a line


class Nginx(Proxy):
    """kind: stream or http; each of servers: the lines of a server block; whole: blocks with their heads. Its log has `client port destination port`
    of each connection or request."""

    def __init__(self, lab, *servers, name="nginx", kind="stream", workers=2, port=PORT, listening=None,
                 whole=()):
        super().__init__(lab, name, port)
        self.listening, self.count_of_workers = listening or self.listening, workers
        temporary = [] if kind == "stream" else [f"{what}_temp_path {self.directory}/{what};" for what in
                                                 ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")]
        self.write("nginx.conf", "\n".join([
            f"load_module {NGINX_STREAM};", "user www-data;", "daemon off;", f"worker_processes {workers};",
            f"pid {self.directory}/pid;", f"error_log {self.errors_path} notice;",
            "events { worker_connections 4096; }", f"{kind} {{",
            "  log_format ends '$remote_addr $remote_port $server_addr $server_port';",
            f"  access_log {self.log_path} ends;", *_indented(temporary),
            *whole, *[line for server in servers for line in ("  server {", *_indented(server, 4), "  }")], "}", ""]))
        self.start()

    def command(self):
        return ["nginx", "-p", self.directory, "-e", self.errors_path, "-c", f"{self.directory}/nginx.conf"]

    def start(self):
        super().start()
        self._await(lambda: len(self.workers()) == self.count_of_workers, "workers are missing")
        return self

    def reload(self):
        """The same master and the same sockets, new workers."""
        before = self.errors.count("start worker process ")
        self.process.send_signal(signal.SIGHUP)
        self._await(lambda: self.errors.count("start worker process ") > before, "no new workers")

    def seen(self, count=1):
        return [(plain(a), int(b), plain(c), int(d)) for a, b, c, d in self.lines(r"^(\S+) (\d+) (\S+) (\d+)$", count)]


class Socat(Proxy):
    def __init__(self, lab, listen, does, *options, name="socat", port=PORT):
        super().__init__(lab, name, port)
        self.options, self.addresses = options, [listen, does]
        self.listening = DATAGRAMS if listen.startswith("UDP") else self.listening
        self.start()

    def command(self):
        return ["socat", *self.options, *self.addresses]


class Relay(Proxy):
    """penstock-relay. A log line: `TIME client:port -> destination:port up=N down=N …`."""

    def __init__(self, lab, *options, name="relay", port=PORT, listen=None):
        super().__init__(lab, name, port)
        self.options = ["--listen", listen or port, *options]
        self.start()

    def command(self):
        return [os.path.join(BUILD, "penstock-relay"), *self.options]

    def seen(self, count=1):
        return [(*endpoint(a), *endpoint(b)) for a, b in self.lines(r"^\S+ (\S+) -> (\S+) up=", count)]


def endpoint(text):
    ip, port = text.rsplit(":", 1)
    return plain(ip.strip("[]")), int(port)


def _indented(lines, width=2):
    return [" " * width + line for line in ([lines] if isinstance(lines, str) else lines)]
