# SPDX-License-Identifier: Apache-2.0
"""What tests of interception share: rules, proxies in this process, and what must hold after each of them."""
import contextlib
import ctypes
import json
import os
import signal
import socket
import struct
import threading

import pytest

from lab import OUTSIDE4, OUTSIDE6, SANITIZER, Lab
from netns import run
from objects import intercept, proxy
from proxies import PORT, close_all
from scenes import eventually, member
from talk import Server, Wire, ask

EVERYTHING = [{"networks": ["0.0.0.0/0", "::/0"]}]
FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])
SOURCES = pytest.mark.parametrize("source", ["client", "node"])
OUTSIDE = (OUTSIDE4, OUTSIDE6)
ASSIGN_FAIL = 3  # enum ps_stat
ENGINES = ("ebpf", "tproxy")
SOON = 1.2  # within 1 s of the moment a proxy listens; the rest is for looking


def made(side, peers, action, port, name):
    rule = {"name": action.lower(), "action": action, side: peers,
            "protocols": [{"tcp": {"destinationPort": {"number": port}}}]}
    return {**rule, "proxy": name} if action == "Intercept" else rule


def to(*networks, action="Intercept", port=80, name="gw"):
    return made("to", [{"networks": [host(ip) for ip in networks]}] if networks else EVERYTHING, action, port, name)


def come(*networks, action="Intercept", port=80, name="gw"):
    return made("from", [{"networks": [host(ip) for ip in networks]}] if networks else EVERYTHING, action, port, name)


def host(ip):
    return ip if "/" in ip else f"{ip}/{128 if ':' in ip else 32}"


def egress(*rules, name="out", pod="a", **more):
    return intercept(name, {"name": pod}, list(rules) or [to(OUTSIDE4, OUTSIDE6)], **more)


def ingress(*rules, name="in", pod="b", **more):
    return intercept(name, {"name": pod}, [], ingress=list(rules) or [come()], **more)


def answered(world, source, target, family=4, **options):
    """Who answers, in a word; what it saw must be right."""
    destination = world.address(target, family) if target in world.servers else target
    who = ask(source, destination, **options)
    if not isinstance(who, dict):
        return who
    assert who["local"] == [destination, options.get("port", 80)]
    return who["server"]


def refused(world, source, target, family=4):
    """No answer, and the reason is that nobody listens."""
    before = world.no_listener()
    answer = answered(world, source, target, family, timeout=0.3)
    return answer not in world.servers and answer != "proxy" and world.no_listener() > before


def select(sock, number):
    """Of its SO_REUSEPORT group, always the one that came at that place (SO_ATTACH_REUSEPORT_CBPF: RET K)."""
    program = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, number))
    sock.setsockopt(socket.SOL_SOCKET, 51, struct.pack("HP", 1, ctypes.addressof(program)))


@contextlib.contextmanager
def unled(world, family, what):
    """Somebody has removed our rules, or our routes, and the agent does not look."""
    world.running.signal(signal.SIGSTOP)
    try:
        listed = json.loads(world.node.run("ip", "-j", f"-{family}", "rule").stdout)
        if what == "routes":
            world.node.run("ip", f"-{family}", "route", "flush", "table", 7641)
        for priority in [one["priority"] for one in listed if "fwmark" in one and what == "rules"]:
            world.node.run("ip", f"-{family}", "rule", "del", "priority", priority)
        yield
    finally:
        world.running.signal(signal.SIGCONT)


def forget(world):
    """A new agent on a node that knows of no connection."""
    world.running.stop()
    world.running.uninstall()


class Load:
    """Attempts without a pause, in threads; what became of them."""

    def __init__(self, attempt, threads=2):
        self.attempt, self.results, self.going = attempt, [], True
        self.threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        for thread in self.threads:
            thread.start()

    def _run(self):
        while self.going:
            try:
                self.results.append(self.attempt())
            except Exception as error:  # an assertion of a thread is nobody's
                self.results.append(repr(error))

    def grown(self, by=20):
        """Waits for so many more."""
        target = len(self.results) + by
        eventually(lambda: len(self.results) >= target, 10)

    def end(self):
        self.going = False
        for thread in self.threads:
            thread.join(10)
        return self.results


class World(Lab):
    """A node with an agent, pods with servers on port 80, an outside host with one, and wires on all of them."""

    def __init__(self, *names, bridge=False, engine=None, **config):
        """engine: of datapath.engine; None: what the agent chooses, which is ebpf on a kernel that runs these tests."""
        super().__init__(bridge=bridge, outside=True)
        self.engine = engine or "ebpf"
        if engine:
            config["datapath"] = {**config.get("datapath", {}), "engine": engine}
        self.servers = {"outside": Server(self.outside, name="outside")}
        self.wires = {"outside": Wire(self.outside)}
        self.fronts, self.proxies, self.handed_over, self.reused = [], [], set(), False
        for name in names:
            self.member(name)
        self.running = self.agent(**config)

    def member(self, name):
        made = self.pod(name)
        setattr(self, name, made)
        self.servers[name] = Server(made, name=name)
        self.wires[name] = Wire(made)
        return made

    @property
    def items(self):
        return [member(name, made, interface=made.interface) for name, made in self.pods.items()]

    def address(self, name, family):
        if name == "outside":
            return OUTSIDE4 if family == 4 else OUTSIDE6
        return self.pods[name].ip4 if family == 4 else self.pods[name].ip6

    def put(self, *objects, gw=None):
        """Exactly these policies, the workloads, and the proxy gw."""
        self.running.api.put_state([*self.items, gw or proxy("gw", PORT), *objects])

    # ---- one test ----

    def begin(self, *objects):
        self.put(*objects)
        self.begun = self.running.api.metrics()
        for wire in self.wires.values():
            wire.clear()

    def end(self):
        """Ends the proxies; says what is wrong after every test (scenarios 18 and 34)."""
        for front in self.fronts:
            self.handed_over |= set(front.accepted)
            front.close()
        complaints = []
        for one in self.proxies:
            self.handed_over |= set(one.seen(0))
            complaints += [line for line in one.errors.splitlines() if any(word in line for word in SANITIZER)]
        close_all(self)
        # A tuple that also went directly says nothing.
        leaked = [] if self.reused else [syn for name in self.wires for syn in self.leaks(name)]
        self.fronts, self.handed_over, self.reused = [], set(), False
        assert not leaked, f"a client's own SYN went on to the server: {leaked}"
        assert not complaints and self.running.running(), complaints
        assert self.stat(ASSIGN_FAIL) == 0
        assert not [line for line in self.running.log.splitlines() if " ERROR " in line[:40]]

    def leaks(self, name):
        """SYNs of intercepted connections that were seen at both ends: the very same packet."""
        taken = [syn for syn in self.wires[name].read() if syn[:4] in self.handed_over]
        return [syn for other, wire in self.wires.items() if other != name for syn in wire.read() if syn in taken]

    # ---- proxies ----

    def front(self, port=PORT, address="::", transparent=True, name="proxy", **options):
        """A proxy that answers itself: it says `server: proxy`, and echoes."""
        self.fronts.append(Server(self.node, port, name, address=address, transparent=transparent, **options))
        return self.fronts[-1]

    def proxy_status(self, name="gw"):
        return next(p for p in self.running.api.status()["proxies"] if p["name"] == name)

    def usable(self, *families, name="gw"):
        """The agent has seen that this test's proxy listens for these families, and made it transparent."""
        wanted = {f"IPv{family}" for family in families or (4, 6)}
        return eventually(lambda: wanted <= set(self.proxy_status(name)["families"]) and
                          all(self.owns(one) for one in self.proxy_status(name)["listeners"]), SOON)

    def owns(self, listener):
        """Not of an earlier test."""
        with contextlib.suppress(OSError, KeyError):  # its process has ended meanwhile
            session = os.getsid(listener["pid"])
            return session in [process.pid for one in self.proxies for process in one.generations] or \
                (self.fronts and listener["pid"] == os.getpid())
        return False

    def quiet(self):
        """The agent has seen that nobody listens any more."""
        eventually(lambda: not any(one["listeners"] for one in self.running.api.status()["proxies"]))

    # ---- counters ----

    def grown(self, name, **labels):
        return self.running.api.metrics()(name, **labels) - self.begun(name, **labels)

    def handed(self, name="gw"):
        return self.grown("penstock_intercepted_connections_total", proxy=name, engine=self.engine)

    def onward(self, source):
        return self.grown("penstock_onward_connections_total", source=source)

    def no_listener(self):
        return self.grown("penstock_packets_total", reason="NoListener")

    def stat(self, number):
        done = run("bpftool", "-j", "map", "lookup", "pinned", f"{self.running.pins}/maps/ps_stat", "key",
                   *number.to_bytes(4, "little"))
        return sum(int.from_bytes(bytes(int(byte, 16) for byte in cpu["value"]), "little")
                   for cpu in json.loads(done.stdout)["values"])

    def close(self):
        for server in [*getattr(self, "servers", {}).values(), *getattr(self, "fronts", [])]:
            server.close()
        for wire in getattr(self, "wires", {}).values():
            wire.close()
        close_all(self)
        super().close()
