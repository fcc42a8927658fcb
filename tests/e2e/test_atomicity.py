# SPDX-License-Identifier: Apache-2.0
"""A packet is judged by one whole revision, also when it passes two hooks while policy is rewritten in a loop.

Set A lets c out and lets nobody into d; set B lets nobody out of c and everybody into d. Both deny c -> d, and only a
mixture of the two would pass it. Both allow a -> b, each for another reason, while labels, rules and their order
change; nothing of that may ever drop.
"""
import itertools
import multiprocessing
import os
import socket
import struct
import threading
import time

from lab import Probe
from objects import namespace, policy, workload
from probe import DENY, family_of

SECONDS = float(os.environ.get("PENSTOCK_ATOMICITY_SECONDS", "6"))
BOTH_ALLOW, ONLY_B, BOTH_DENY = 1000, 1050, 2000


def sets(a, b, c, d):
    def members(extra):
        return [namespace("s", extra)] + [
            workload("s", name, pod.ips, {"name": name, **extra}, interface=pod.interface)
            for name, pod in zip("abcd", (a, b, c, d))]

    def named(name):
        return [{"podSelector": {"matchLabels": {"name": name}}}]
    anywhere, ports = [{}], [{"protocol": p, "port": BOTH_ALLOW} for p in ("TCP", "UDP")]
    wide = [{"protocol": p, "port": 900, "endPort": 1100} for p in ("TCP", "UDP")]
    blocks = [{"ipBlock": {"cidr": f"{a.ip4}/32"}}, {"ipBlock": {"cidr": "fd00:77::/64", "except": [f"{d.ip6}/128"]}}]
    first = members({}) + [
        policy("s", "a-out", {"name": "a"}, egress=anywhere, types=["Egress"]),
        policy("s", "b-in", {"name": "b"}, ingress=[{"from": named("a"), "ports": ports}], types=["Ingress"]),
        policy("s", "c-out", {"name": "c"}, egress=anywhere, types=["Egress"]),
        policy("s", "d-in", {"name": "d"}, types=["Ingress"])]
    second = members({"extra": "1"}) + [
        policy("s", "a-out", {"name": "a"}, egress=[{"to": named("d")}, {"to": named("b"), "ports": wide}], types=["Egress"]),
        policy("s", "another", {"extra": "1"}, ingress=[{"from": named("nobody")}], types=["Ingress"]),
        policy("s", "b-in", {"name": "b"}, ingress=[{"from": blocks, "ports": wide}], types=["Ingress"]),
        policy("s", "c-out", {"name": "c"}, types=["Egress"]),
        policy("s", "d-in", {"name": "d"}, ingress=anywhere, types=["Ingress"])]
    return first, second


class Rewriter(threading.Thread):
    """PUTs the sets in turn until told to stop."""

    def __init__(self, api, first, second):
        super().__init__()
        self.api, self.sets, self.stopped, self.writes, self.error = api, (first, second), False, 0, None

    def run(self):
        try:
            for items in itertools.cycle(self.sets):
                if self.stopped:
                    return
                self.api.put_state(items)
                self.writes += 1
        except Exception as error:  # shown by the test
            self.error = error

    def finish(self):
        self.stopped = True
        self.join()
        if self.error:
            raise self.error


def udp_socket(space, destination, port, bind=None):
    with space.entered():
        sock = socket.socket(family_of(destination), socket.SOCK_DGRAM)
    if bind:
        sock.bind(bind)
    sock.connect((destination, port))
    return sock


def server(space, kind, port):
    with space.entered():
        sock = socket.socket(socket.AF_INET6, kind)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.bind(("::", port))
    if kind == socket.SOCK_STREAM:
        sock.listen(1024)
    return sock


def blast(sockets, end, sent):
    """Datagrams as fast as they go, from many flows, that must all be dropped."""
    count = 0
    while time.monotonic() < end:
        for sock in sockets:
            try:
                sock.send(b"x")
                count += 1
            except OSError:
                pass
    sent.value = count


def echo(sock, end):
    sock.settimeout(0.1)
    while time.monotonic() < end:
        try:
            sock.sendto(*sock.recvfrom(2048))
        except OSError:
            pass


def count_waiting(sock):
    sock.setblocking(False)
    count = 0
    while True:
        try:
            if sock.type == socket.SOCK_STREAM:
                sock.accept()[0].close()
            else:
                sock.recv(2048)
            count += 1
        except BlockingIOError:
            return count


def retransmits(space):
    with space.entered(), open("/proc/thread-self/net/snmp") as file:
        lines = [line.split() for line in file if line.startswith("Tcp:")]
    return int(lines[1][lines[0].index("RetransSegs")])


def test_rewritten_under_traffic(lab):
    a, b, c, d = (lab.pod(name) for name in "abcd")
    agent = lab.agent(log={"level": "warn"})
    first, second = sets(a, b, c, d)
    agent.api.put_state(first)
    lab.prober.listen(b, BOTH_ALLOW)
    denied_udp, denied_tcp = server(d, socket.SOCK_DGRAM, BOTH_DENY), server(d, socket.SOCK_STREAM, BOTH_DENY)
    only_b = server(b, socket.SOCK_DGRAM, ONLY_B)
    echoing = server(b, socket.SOCK_DGRAM, BOTH_ALLOW)
    long_lived = LongLived(lab, a, b)
    before = retransmits(a) + retransmits(b)

    rewriter = Rewriter(agent.api, first, second)
    rewriter.start()
    end = time.monotonic() + SECONDS
    sent = multiprocessing.Value("Q", 0)
    flows = [udp_socket(c, ip, BOTH_DENY) for ip in d.ips for _ in range(50)]
    children = [multiprocessing.Process(target=blast, args=(flows, end, sent)),
                multiprocessing.Process(target=echo, args=(echoing, end + 2))]
    for child in children:
        child.start()
    lost, datagrams, connections, failed, attempts = [], 0, 0, [], 0
    toggles = udp_socket(a, b.ip4, ONLY_B)
    toggled = 0
    while time.monotonic() < end:
        datagrams += ping_pong(a, b, lost)
        done = lab.prober.probe([Probe(a, ip, BOTH_ALLOW, expect="allow") for ip in b.ips * 8], patience=0.9)
        connections += len(done)
        failed += [str(p) for p in done if not p.ok]
        attempts += attempt_denied(c, d)
        long_lived.say()
        toggles.send(b"t")
        toggled += 1
    rewriter.finish()
    for child in children:
        child.join()
    passed_toggles = count_waiting(only_b)
    print(f"{rewriter.writes} revisions; {sent.value} datagrams and {attempts} connections that both deny; "
          f"{datagrams} datagrams, {connections} connections and {long_lived.said} lines that both allow")

    assert count_waiting(denied_udp) == 0, "a datagram that both sets deny passed"
    assert count_waiting(denied_tcp) == 0, "a connection that both sets deny passed"
    assert lost == [] and failed == [], "what both sets allow was dropped"
    assert long_lived.heard() == long_lived.said
    assert retransmits(a) + retransmits(b) == before, "what both sets allow was dropped and sent again"
    assert rewriter.writes > 10 * SECONDS and sent.value > 1000 * SECONDS, "too little happened to prove anything"
    assert 0 < passed_toggles < toggled, "the sets were not both in force during the test"


class LongLived:
    """One TCP connection that lives through every revision."""

    def __init__(self, lab, a, b):
        with a.entered():
            self.client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.client.connect((b.ip4, BOTH_ALLOW))
        self.client.setblocking(False)
        self.lab, self.said, self.got = lab, 0, b""

    def say(self):
        self.client.send(struct.pack("!Q", self.said))
        self.said += 1
        self._read()

    def _read(self):
        self.lab.prober._turn(0)
        try:
            self.got += self.client.recv(1 << 16)
        except BlockingIOError:
            pass

    def heard(self):
        end = time.monotonic() + 2
        while len(self.got) < 8 * self.said and time.monotonic() < end:
            self._read()
        return len(self.got) // 8


def ping_pong(a, b, lost):
    """Datagrams from fresh ports and back, in windows that no queue can overflow."""
    sockets = [udp_socket(a, ip, BOTH_ALLOW) for ip in b.ips for _ in range(16)]
    for sock in sockets:
        sock.settimeout(1)
        sock.send(b"ping")
    for sock in sockets:
        try:
            assert sock.recv(64) == b"ping"
        except TimeoutError:
            lost.append(sock.getsockname())
        sock.close()
    return len(sockets)


def attempt_denied(c, d):
    with c.entered():
        sockets = [socket.socket(family_of(ip), socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for ip in d.ips * 8]
    for sock, ip in zip(sockets, d.ips * 8):
        try:
            sock.connect((ip, BOTH_DENY))
        except BlockingIOError:
            pass
        sock.close()
    return len(sockets)


def test_the_two_sets_deny_and_allow_what_they_should(lab):
    """The premise, with nothing being rewritten."""
    a, b, c, d = (lab.pod(name) for name in "abcd")
    agent = lab.agent()
    for port in (BOTH_ALLOW, ONLY_B):
        lab.prober.listen(b, port)
    lab.prober.listen(d, BOTH_DENY)
    for items, only in zip(sets(a, b, c, d), (DENY, "allow")):
        agent.api.put_state(items)
        probes = [Probe(x, ip, port, expect=expect) for x, y, port, expect in
                  ((a, b, BOTH_ALLOW, "allow"), (a, b, ONLY_B, only), (c, d, BOTH_DENY, DENY)) for ip in y.ips]
        lab.prober.probe(probes)
        assert [str(p) for p in probes if not p.ok] == []
