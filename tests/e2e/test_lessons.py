# SPDX-License-Identifier: Apache-2.0
"""What users of other agents were bitten by and no other file here tests; the table is in CONTRIBUTING.md."""
import socket
import struct
import threading
import time

import pytest

from lab import ALLOW, DENY, Lab, Probe
from objects import allow_from, cluster_policy, deny_all, namespace, policy
from probe import family_of
from scenes import eventually, member
from talk import Client, Server

FROM_A = [{"podSelector": {"matchLabels": {"name": "a"}}}]
PORT, SO_RCVBUFFORCE = 7000, 33


@pytest.fixture(scope="module")
def trio():
    with Lab() as lab:
        lab.a, lab.b, lab.c = (lab.pod(name) for name in "abc")
        lab.items = [namespace("s")] + [member(n, p, interface=p.interface) for n, p in lab.pods.items()]
        lab.running = lab.agent(log={"level": "info"})
        yield lab


@pytest.fixture
def lab(trio):
    trio.running.api.put_state(trio.items)
    yield trio
    trio.prober.close_listeners()


def put(lab, *policies):
    return lab.running.api.put_state(lab.items + list(policies))


# ---- ports ----

def tier(action, *ports):
    return {"name": "r", "action": action, "from": [{"namespaces": {}}],
            "protocols": [{"tcp": {"destinationPort": port}} for port in ports]}


RANGES = {
    "NetworkPolicy": [allow_from("s", "b-in", {"name": "b"}, FROM_A, [{"protocol": "TCP", "port": 1000, "endPort": 1003}])],
    "Accept": [cluster_policy("in", "Admin", 1, ingress=[tier("Accept", {"range": {"start": 1000, "end": 1003}})]),
               deny_all("s", types=["Ingress"])],
    "Deny": [cluster_policy("in", "Admin", 1, ingress=[
        tier("Deny", {"range": {"start": 1, "end": 999}}, {"range": {"start": 1004, "end": 65535}})])],
}


@pytest.mark.parametrize("kind", RANGES)
def test_both_ends_of_a_range_are_in_it(lab, kind):
    ports = (1, 999, 1000, 1001, 1003, 1004, 65535)
    for port in ports:
        lab.prober.listen(lab.b, port)
    put(lab, *RANGES[kind])
    probes = [Probe(lab.a, ip, port, expect=ALLOW if 1000 <= port <= 1003 else DENY) for ip in lab.b.ips for port in ports]
    assert [str(p) for p in lab.prober.probe(probes) if not p.ok] == []


# ---- what has no name ----

@pytest.mark.parametrize("method, path, body", [
    ("DELETE", "/v1/state", None), ("DELETE", "/v1/workloads", None), ("DELETE", "/v1/networkpolicies/s", None),
    ("DELETE", "/v1/networkpolicies/s/", None), ("DELETE", "/v1/namespaces/", None), ("DELETE", "/v1/owners", None),
    ("DELETE", "/v1/owners/", None), ("DELETE", "/v1/networkpolicies/s/*", None), ("DELETE", "/v1/networkpolicies//b-in", None),
    ("PUT", "/v1/state", {}), ("PUT", "/v1/state", b""), ("PUT", "/v1/state", []),
    ("PATCH", "/v1/state", {}), ("PATCH", "/v1/state", {"delete": [{}]}),
    ("PATCH", "/v1/state", {"delete": [{"kind": "Workload"}]}),
    ("PATCH", "/v1/state", {"delete": [{"kind": "Workload", "namespace": "s"}]}),
    ("PATCH", "/v1/state", {"delete": [{"kind": "Workload", "namespace": "s", "name": "*"}]}),
])
def test_nothing_is_removed_without_a_name(lab, method, path, body):
    """Refused, or (a name that nobody has) without effect."""
    put(lab, allow_from("s", "b-in", {"name": "b"}, FROM_A))
    before = lab.running.api.state()
    answer = lab.running.api.request(method, path, body)
    assert answer.status in (400, 404, 405, 422) or "*" in str(body) and answer.status == 200, answer
    assert answer.status == 200 or answer.headers["Content-Type"] == "application/problem+json"
    assert lab.running.api.state() == before


# ---- no window ----

class Flow:
    """A datagram every millisecond, with its number; what arrives at the other end."""

    def __init__(self, source, target, ip, port):
        with source.entered():
            self.mouth = socket.socket(family_of(ip), socket.SOCK_DGRAM)
        with target.entered():
            self.ear = socket.socket(family_of(ip), socket.SOCK_DGRAM)
        self.ear.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
        self.ear.bind(("::" if ":" in ip else "0.0.0.0", port))
        self.ear.settimeout(0.2)
        self.to, self.sent, self.got, self.going = (ip, port), [], {}, True
        self.threads = [threading.Thread(target=run, daemon=True) for run in (self._send, self._hear)]
        for thread in self.threads:
            thread.start()

    def _send(self):
        while self.going:
            self.sent.append(time.monotonic())
            try:
                self.mouth.sendto(struct.pack("!I", len(self.sent) - 1), self.to)
            except OSError:  # no route yet
                pass
            time.sleep(0.001)

    def _hear(self):
        while self.going:
            try:
                self.got[struct.unpack("!I", self.ear.recv(64))[0]] = time.monotonic()
            except TimeoutError:
                pass

    def end(self):
        """Numbers that arrived."""
        time.sleep(0.05)
        self.going = False
        for thread in self.threads:
            thread.join()
        self.mouth.close()
        self.ear.close()
        return sorted(self.got)


def before_and_after(flow, moment):
    return [n for n, at in enumerate(flow.sent) if at < moment], [n for n, at in enumerate(flow.sent) if at > moment]


@pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])
def test_the_first_policy_of_a_pod_with_live_connections(lab, family):
    """What it allows loses nothing; what it denies ends with the answer."""
    ip = lab.b.ips[family == 6]
    server = Server(lab.b, 80)
    with Client(lab.a, ip, 80) as good, Client(lab.c, ip, 80) as bad:
        assert good.hello() and bad.hello()
        kept, cut = Flow(lab.a, lab.b, ip, PORT), Flow(lab.c, lab.b, ip, PORT + 1)
        eventually(lambda: len(kept.got) > 50 and len(cut.got) > 50)
        put(lab, allow_from("s", "b-in", {"name": "b"}, FROM_A))
        answered = time.monotonic()
        time.sleep(0.1)
        assert kept.end() == list(range(len(kept.sent)))
        arrived, (early, late) = cut.end(), before_and_after(cut, answered)
        assert not set(arrived) & set(late) and len(late) > 20 and set(early[:50]) <= set(arrived)
        assert good.echo(timeout=1) and not bad.echo(timeout=0.3)
    server.close()


def test_a_change_cuts_nothing_that_both_revisions_allow(lab):
    """One policy after the other, each for another reason: no datagram is lost, and a stream arrives whole."""
    ways = [[allow_from("s", "b-in", {"name": "b"}, FROM_A)], [],
            [allow_from("s", "b-in", {"name": "b"}, [{"ipBlock": {"cidr": "10.77.0.0/16"}}]), deny_all("s", "c", {"name": "c"})],
            [cluster_policy("in", "Admin", 1, ingress=[{"name": "r", "action": "Accept", "from": [{"namespaces": {}}]}])],
            [policy("s", "a-out", {"name": "a"}, egress=[{"to": [{"podSelector": {}}]}], types=["Egress"])]]
    server = Server(lab.b, 80)
    with Client(lab.a, lab.b.ip4, 80) as client:
        client.hello()
        kept, wrong = Flow(lab.a, lab.b, lab.b.ip4, PORT), []
        pouring = threading.Thread(target=lambda: wrong.append(client.pour(64, half_close=False)))
        pouring.start()
        for round_ in range(40):
            put(lab, *ways[round_ % len(ways)])
        pouring.join(60)
        assert wrong == [None] and kept.end() == list(range(len(kept.sent)))
    server.close()


@pytest.mark.parametrize("unclaimed", ["allow", "deny"])
def test_a_pod_that_starts_while_others_call(unclaimed):
    """Its policy is there before its interface: with `unclaimed: deny` what it denies never arrives, else not for long; what it
    allows comes soon, and from then on without a gap."""
    with Lab() as lab:
        a, c, late = lab.pod("a"), lab.pod("c"), lab.pod("late", attach=False)
        agent = lab.agent(datapath={"workloadInterfaces": ["pv*"], "unclaimed": unclaimed})
        agent.api.put_state([namespace("s"), member("a", a), member("c", c), member("late", late),
                             allow_from("s", "in", {"name": "late"}, FROM_A)])
        good, bad = Flow(a, late, late.ip4, PORT), Flow(c, late, late.ip4, PORT + 1)
        begun = time.monotonic()
        lab.attach(late)
        there = time.monotonic()
        eventually(lambda: len(good.got) > 200, 6)
        arrived, denied = good.end(), bad.end()
        assert arrived == list(range(arrived[0], len(good.sent))) and good.got[arrived[0]] - there < 2.5  # ARP may need a second try
        allowed = () if unclaimed == "deny" else [n for n, at in enumerate(bad.sent) if begun < at < there + 0.2]
        assert not set(denied) - set(allowed), "what is denied has arrived"
