# SPDX-License-Identifier: Apache-2.0
"""What tests of random policies on real connections share: proxies that come and go, connections and flows that go on."""
import socket
import struct
import time

from evaluator import Packet
from lab import DENY

PROXIES = {"gw-deny": 15001, "gw-bypass": 15002}
# Where a proxy listens, and for which families that is good.
PLACES = [([], ()), (["127.0.0.1"], (4,)), (["0.0.0.0"], (4,)), (["::1"], (6,)), (["127.0.0.1", "::1"], (4, 6)),
          (["::"], (4, 6)), (["::"], (4, 6))]

# What the kernel makes of a RST, of ICMP 3/13 and of ICMPv6 1/1.
REJECTED = {("TCP", 4): "ECONNREFUSED", ("TCP", 6): "ECONNREFUSED", ("UDP", 4): "EHOSTUNREACH", ("UDP", 6): "EACCES"}


def family(ip):
    return 6 if ":" in ip else 4


def plain(ip):
    return ip.removeprefix("::ffff:")


class RandomScene:
    def __init__(self, lab, deny_with="drop", engine="auto", protocols=("TCP",)):
        """protocols: of the proxies. All of them listen in the same places."""
        self.lab, self.protocols = lab, protocols
        self.agent = lab.agent(log={"level": "info"}, datapath={"denyWith": deny_with, "engine": engine})
        self.deny_with = deny_with
        self.members, self.pods = [], []
        self.places = {name: ([], ()) for name in PROXIES}
        self.live = []  # of earlier rounds
        self.serial = self.ports = 0

    def port(self):
        """No port is taken twice: of a connection that was refused the other end may not see the end."""
        self.ports += 1
        return 10000 + self.ports % 20000

    def move_proxies(self, rng, everywhere=False):
        for name, port in PROXIES.items():
            sockets = [(protocol, ip) for protocol in self.protocols for ip in self.places[name][0]]
            for protocol, ip in sockets:
                self.lab.prober.unlisten(self.lab.node, port, protocol, ip)
            self.places[name] = PLACES[-1] if everywhere else rng.choice(PLACES)
            sockets = [(protocol, ip) for protocol in self.protocols for ip in self.places[name][0]]
            for protocol, ip in sockets:
                self.lab.prober.listen(self.lab.node, port, protocol, ip, transparent=True)

    def listens(self, proxy, ip):
        return family(ip) in self.places.get(proxy, ([], ()))[1]

    def refusal(self, probe):
        """What whoever is denied sees."""
        return REJECTED[probe.protocol, family(probe.destination)] if self.deny_with == "reject" else DENY

    def intercepted(self):
        metrics = self.agent.api.metrics()
        return {name: int(metrics("penstock_intercepted_connections_total", proxy=name)) for name in PROXIES}

    # ---- connections that go on ----

    def open(self, probe, taker, backend=None):
        """The connection of a probe that passed, once more; backend: where a Service sends it."""
        with probe.source.entered():
            sock = socket.socket(socket.AF_INET6 if family(probe.destination) == 6 else socket.AF_INET,
                                 socket.SOCK_DGRAM if probe.protocol == "UDP" else socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.bind((probe.bind[0], self.port()))
        sock.connect_ex((probe.destination, probe.port))
        self.live.append(Live(sock, Packet(probe.bind[0], probe.destination, probe.protocol, probe.port), taker, backend,
                              (probe.label, probe.port)))

    def follow(self, live):
        """Who has it now, or None: a connection stays with the socket that has accepted it; of a flow each datagram is
        handed over anew, and one that was let past the proxy stays direct."""
        name = next((name for name, port in PROXIES.items() if live.taker == (self.lab.node.name, port)), None)
        live.now = live.taker
        if name and live.packet.protocol == "UDP" and not self.listens(name, live.packet.destination):
            if name == "gw-bypass":
                live.taker = live.direct
            live.now = live.direct if name == "gw-bypass" else None
        return live.now

    def exchange(self, wanted):
        """Sends on every live connection; wanted: which of them should be answered. Returns those that are otherwise."""
        for live in self.live:
            live.sent = live.answered = False
            self.serial += 1
            live.payload = struct.pack("!QQ", 1 << 40, self.serial)
        begun, late = time.monotonic(), []
        while self.live and time.monotonic() - begun < 5:
            for live in self.live:
                live.turn()
            self.lab.prober._turn(0.01)
            late = [live for live in self.live if live.answered != (live in wanted)]
            if not late and (len(wanted) == len(self.live) or time.monotonic() - begun > 0.35):
                break
        return [f"{live}: " + ("answered" if live.answered else "not answered") for live in late] + \
            [f"{live}: answered by {self.lab.prober.served[live.payload]}" for live in wanted
             if live.answered and self.lab.prober.served[live.payload][:2] != live.now]

    def keep(self, kept):
        for live in self.live:
            if live not in kept:
                live.sock.close()
        self.live = kept


class Live:
    """An open connection; taker: (namespace, port) of the listener that has it; direct: that of where it goes."""

    def __init__(self, sock, packet, taker, backend=None, direct=None):
        self.sock, self.packet, self.taker, self.backend = sock, packet, taker, backend
        self.now, self.direct = taker, direct
        self.payload, self.sent, self.answered = b"", False, False

    def __str__(self):
        return f"{self.packet} of {self.taker}" + (f" behind {self.backend}" if self.backend else "")

    def turn(self):
        try:
            if not self.sent:
                self.sent = self.sock.send(self.payload) == len(self.payload)
            elif not self.answered:
                self.answered = self.sock.recv(64) == self.payload
        except OSError:  # not yet, or no more
            pass
