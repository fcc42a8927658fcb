# SPDX-License-Identifier: Apache-2.0
"""Proxies that speak HTTP, each with its Debian package and the configuration that its own manual gives for a transparent
proxy, in the lab's directory. They change their user, so what they write to belongs to that user."""
import shutil
import signal

from proxies import PORT, Proxy, endpoint, example, read
from talk import plain


class Squid(Proxy):
    """kind: tproxy or intercept, as in http_port. A log line: client, port, destination, port, and its own address
    onward. Squid has a master that starts its worker again."""

    def __init__(self, lab, kind, *more, name="squid"):
        super().__init__(lab, name, PORT)
        self.write("squid.conf", "\n".join([
            *example(f"squid-{kind}.conf"), "http_port 127.0.0.1:3128", "http_access allow all", "cache deny all", "pinger_enable off",
            "logformat ends %>a %>p %>la %>lp %<la", f"access_log stdio:{self.log_path} ends",
            f"cache_log {self.errors_path}", f"pid_filename {self.directory}/pid", f"coredump_dir {self.directory}",
            "visible_hostname test", "dns_nameservers 127.0.0.1", "shutdown_lifetime 1 second", *more, ""]))
        self.given_to("proxy")
        self.start()

    def command(self):
        # A service name of its own: names in /dev/shm are made of it.
        return ["squid", "--foreground", "-n", self.service, "-f", f"{self.directory}/squid.conf"]

    @property
    def service(self):
        return "".join(c for c in self.directory if c.isalnum())

    def reload(self):
        """What `squid -k reconfigure` sends: listeners are closed and opened again."""
        before = self.errors.count("Accepting ")
        self.process.send_signal(signal.SIGHUP)
        self._await(lambda: self.errors.count("Accepting ") > before, "no new listener")

    def seen(self, count=1):
        return [(plain(a), int(b), plain(c), int(d)) for a, b, c, d, _ in
                self.lines(r"^(\S+) (\d+) (\S+) (\d+) (\S+)$", count)]


class Mitmproxy(Proxy):
    """mitmdump in transparent mode: it asks for SO_ORIGINAL_DST, and says what it does with each connection."""

    def __init__(self, lab, *options, name="mitmproxy", port=PORT):
        super().__init__(lab, name, port)
        self.options = options
        self.start()

    def command(self):
        return ["mitmdump", "--mode", "transparent", "--listen-port", self.port, "--set", f"confdir={self.directory}/ca",
                "--set", "stream_large_bodies=1m", "--set", "connection_strategy=lazy", *self.options]

    def seen(self, count=1):
        return [(*endpoint(a), *endpoint(b)) for a, b in self.lines(r"^(\S+): server connect (\S+)$", count)]


class TrafficServer(Proxy):
    """Traffic Server with ports as its manual has them for this: `tr-full`."""

    def __init__(self, lab, name="trafficserver"):
        super().__init__(lab, name, PORT)
        for place in ("etc", "logs", "run", "cache"):
            self.make(place)
        shutil.copytree("/etc/trafficserver", f"{self.directory}/etc", dirs_exist_ok=True)
        self.write("runroot.yaml", "\n".join([
            "prefix: /usr", "bindir: /usr/bin", "libdir: /usr/lib/trafficserver", "includedir: /usr/include",
            "libexecdir: /usr/lib/trafficserver/modules", "datadir: /usr/share/trafficserver", "mandir: /usr/share/man",
            f"sysconfdir: {self.directory}/etc", f"localstatedir: {self.directory}/run",
            f"runtimedir: {self.directory}/run", f"logdir: {self.directory}/logs",
            f"cachedir: {self.directory}/cache", ""]))
        settings = ("http.cache.http INT 0", "http.wait_for_cache INT 0", "exec_thread.autoconfig INT 0",
                    "admin.user_id STRING trafficserver", "log.max_secs_per_buffer INT 1", "log.periodic_tasks_interval INT 1")
        self.write("etc/records.config", "\n".join([*example("trafficserver.config"),
                                                    *[f"CONFIG proxy.config.{one}" for one in settings], ""]))
        self.write("etc/logging.yaml", "\n".join([
            "logging:", "  formats:", "  - name: ends", "    format: '%<chi> %<chp> %<hii> %<nhp> %<nhi> %<crc>'", "  logs:",
            "  - filename: ends", "    format: ends", "    mode: ascii", ""]))
        self.write("etc/storage.config", f"{self.directory}/cache 16M\n")
        self.write("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n")
        self.given_to("trafficserver")
        self.start()

    def command(self):
        # Before it listens it looks up its own address's name, and nobody in these namespaces knows names.
        return ["unshare", "--mount", "sh", "-c", f"mount --bind {self.directory}/nsswitch.conf /etc/nsswitch.conf && "
                f"exec traffic_server --run-root={self.directory}/runroot.yaml"]

    def seen(self, count=1):
        found = self.lines(r"^(\S+) (\d+) (\S+) (\d+) \S+ \S+$", count)
        return [(plain(a), int(b), plain(c), int(d)) for a, b, c, d in found]

    @property
    def log(self):
        return read(f"{self.directory}/logs/ends.log")
