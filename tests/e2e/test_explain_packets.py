# SPDX-License-Identifier: Apache-2.0
"""Explain against real packets: random policies, random questions, and for each of them one attempt of a real client.

PENSTOCK_SEED repeats a run, PENSTOCK_EXPLAIN_ROUNDS makes it longer.
"""
import json
import os
import random
import time

import pytest

import objects
from generate import OUTSIDE, PORTS, Generator, Member
from lab import ALLOW, DENY, NODE4, NODE6, OUTSIDE4, OUTSIDE6, Lab, Probe

ROUNDS = int(os.environ.get("PENSTOCK_EXPLAIN_ROUNDS", "12"))
QUESTIONS = 60
SEED = int(os.environ.get("PENSTOCK_SEED") or random.SystemRandom().randrange(2 ** 32))
PROXIES = {15001: "gw-deny", 15002: "gw-bypass"}
HERE = (NODE4, NODE6)


class Cluster(Lab):
    """Eight pods here, four elsewhere and some hosts beyond the uplink; all of them serve on the generator's ports."""

    def __init__(self):
        super().__init__(outside=True)
        self.running, self.members, self.spaces = self.agent(log={"level": "info"}), [], {}
        for number in range(8):
            made = self.pod(f"m{number}")
            self.members.append(Member(f"n{number % 4}", f"m{number}", made.ips, number % 2 == 0, made.interface))
            self.spaces |= dict.fromkeys(made.ips, made)
        for number in range(4):
            ips = [f"10.77.2.{number + 1}", f"fd00:77::2:{number + 1:x}"]
            self.members.append(Member(f"n{number % 4}", f"r{number}", ips, number % 2 == 0))
            self.spaces |= dict.fromkeys(ips, self.outside)
        self.spaces |= {ip: self.node if ip in HERE else self.outside for ip in OUTSIDE}
        self.outside.ip(*[f"addr add {ip}/{'128 dev lo nodad' if ':' in ip else '32 dev lo'}" for ip, space in self.spaces.items()
                          if space is self.outside and ip not in (OUTSIDE4, OUTSIDE6)])
        for ip, space in self.spaces.items():  # at each address: an answer over UDP comes from the one that was asked
            for port in PORTS:
                for protocol in ("TCP", "UDP"):
                    self.prober.listen(space, port, protocol, ip)

    def listen(self, port, there):
        for ip in ("0.0.0.0", "::1"):
            if there:
                self.prober.listen(self.node, port, ip=ip, transparent=True)
            elif (self.node.name, port, "TCP", ip) in self.prober.listeners:
                self.prober.unlisten(self.node, port, ip=ip)

    def ask(self, packet):
        body = {"source": {"ip": packet.source}, "destination": {"ip": packet.destination}, "protocol": packet.protocol,
                "port": packet.port}
        return self.running.api.expect("POST", "/v1/explain", body).json

    def probe(self, packet, said):
        bind = None if packet.source in self.pods_ips else (packet.source, 0)
        return Probe(self.spaces[packet.source], packet.destination, packet.port, packet.protocol, bind=bind,
                     expect=DENY if promised(said) == "Deny" else ALLOW)

    @property
    def pods_ips(self):
        return {ip for made in self.pods.values() for ip in made.ips}


def promised(said):
    """What explain's answer means for the one who connects."""
    if said["verdict"] == "Intercept" and not said["intercept"]["available"]:
        return {"Deny": "Deny", "Bypass": "Allow"}[said["intercept"]["onUnavailable"]]
    return said["verdict"]


def happened(probe):
    if probe.result == DENY:
        return "Deny"
    if probe.result != ALLOW:
        return probe.result
    return "Intercept" if probe.server and probe.server[1] in PROXIES else "Allow"


@pytest.fixture(scope="module")
def cluster():
    with Cluster() as made:
        yield made


def drawn(cluster, generator):
    """A packet whose source can really send it, and whose destination is somewhere."""
    while True:
        packet = generator.packet(cluster.members).packet
        known = packet.source in cluster.spaces and packet.destination in cluster.spaces
        if packet.protocol in ("TCP", "UDP") and packet.port in PORTS and known and \
                cluster.spaces[packet.source] is not cluster.spaces[packet.destination]:
            return packet


def catch_all(number):
    """Behind what is drawn, so that no run goes without what decides last."""
    rules = [{"name": "all", "action": "Intercept", "proxy": "gw-bypass" if number % 2 else "gw-deny",
              "to": [{"networks": ["0.0.0.0/0", "::/0"]}]}]
    denied = [{"name": "last", "action": "Deny", "from": [{"namespaces": {}}],
               "protocols": [{"tcp": {"destinationPort": {"range": {"start": 80, "end": 8080}}}}]}]
    return [objects.intercept("last", {"namespaces": {}}, rules, 1000)] if number % 3 == 0 else \
        [objects.cluster_policy("last", "Baseline", 1000, ingress=denied)] if number % 3 == 1 else []


def test_real_packets_do_what_explain_says(cluster):
    print(f"PENSTOCK_SEED={SEED}")
    generator, counts, refusals = Generator(SEED), {"Allow": 0, "Deny": 0, "Intercept": 0}, set()
    for number in range(ROUNDS):
        items = generator.cluster(cluster.members)
        items += [generator.policy(n) for n in range(generator.rng.randint(1, 12))]
        items += generator.cluster_policies() + generator.interception() + catch_all(number)
        revision = cluster.running.api.put_state(items, invalid="quarantine")["revision"]
        for port in PROXIES:
            cluster.listen(port, generator.rng.random() < 0.7)
        time.sleep(0.3)  # the agent looks every 100 ms who listens
        packets = [drawn(cluster, generator) for _ in range(QUESTIONS)]
        said = [cluster.ask(packet) for packet in packets]
        assert {one["revision"] for one in said} == {revision}
        probes = cluster.prober.probe([cluster.probe(*pair) for pair in zip(packets, said)])
        for packet, one, probe in zip(packets, said, probes):
            counts[promised(one)] += 1
            refusals |= {side["reason"] for side in (one["egress"], one["ingress"]) if side and side["verdict"] == "Deny"}
            assert happened(probe) == promised(one), \
                f"PENSTOCK_SEED={SEED}, round {number}: {packet}: {happened(probe)}\nexplain: {one}\n{json.dumps(items)}"
    print(counts, refusals)
    assert min(counts.values()) > 3 and refusals == {"Policy", "Isolated"}, (counts, refusals)
