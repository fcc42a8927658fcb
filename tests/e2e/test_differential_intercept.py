# SPDX-License-Identifier: Apache-2.0
"""Real connections under random policies: who takes each of them, and which addresses he sees, is what the naive
evaluator says. Two proxies on the node come and go, for one family or both. Some connections go on under later
policies: they stay with whom they are, as long as policy allows them.

PENSTOCK_SEED repeats a run; PENSTOCK_ROUNDS and PENSTOCK_CONNECTIONS make it longer.
"""
import collections
import json
import os
import random

import pytest

from evaluator import ALLOW as PASS
from evaluator import DENY as REFUSE
from evaluator import Packet, World
from generate import PORTS, Generator, Member
from lab import ALLOW, DENY, OUTSIDE4, OUTSIDE6, Lab, Probe
from objects import intercept, policy, proxy
from random_scene import PROXIES, RandomScene, family, plain

ROUNDS = int(os.environ.get("PENSTOCK_ROUNDS", "14"))
CONNECTIONS = int(os.environ.get("PENSTOCK_CONNECTIONS", "120"))
SEED = int(os.environ.get("PENSTOCK_SEED") or random.SystemRandom().randrange(2 ** 32))
BEYOND = ["203.0.113.9", "203.0.113.130", "2001:db8:9::9", "2001:db8:9::8000", OUTSIDE4, OUTSIDE6]


class Scene(RandomScene):
    """Four pods, and a host outside with several addresses; everybody serves every port."""

    def __init__(self, lab, deny_with="drop"):
        super().__init__(lab, deny_with)
        lab.outside.ip(*[f"addr add {ip}/{128 if ':' in ip else 32} dev lo" for ip in BEYOND[:4]])
        for number in range(4):
            pod = lab.pod(f"m{number}")
            self.pods.append(pod)
            # A bridge's ports are found when something has been heard: there all say where they are.
            as_pod = number % 2 == 0 and not lab.bridge
            self.members.append(Member(f"n{number % 3}", f"m{number}", pod.ips, as_pod, pod.interface))
        for host in [*self.pods, lab.outside]:
            for port in PORTS:
                lab.prober.listen(host, port)
                lab.prober.listen(host, port, "UDP")

    def draw(self, rng):
        """A probe between two of us; at least one end is a pod."""
        version = rng.choice([4, 6])
        ends = [(pod, pod.ip4 if version == 4 else pod.ip6) for pod in self.pods]
        ends += [(self.lab.outside, ip) for ip in BEYOND if family(ip) == version]
        source = rng.choice(ends)
        others = [end for end in ends if end[0] is not source[0] and self.lab.outside in (end[0], source[0])]
        if source[0] is not self.lab.outside and rng.random() < 0.5:
            others = [end for end in ends if end[0] not in (source[0], self.lab.outside)]
        destination = rng.choice(others)
        # A datagram's answer comes from the address that it was sent to only where there is one.
        udp = destination[0] is not self.lab.outside and rng.random() < 0.1
        return Probe(source[0], destination[1], rng.choice(PORTS), "UDP" if udp else "TCP", bind=(source[1], self.port()),
                     label=destination[0].name)

    def expect(self, world, probe):
        """(result, the listener's namespace, proxy, whose rule) as the evaluator says."""
        verdict = world.judge(Packet(probe.bind[0], probe.destination, probe.protocol, probe.port))
        direct = ALLOW, probe.label, None, None
        refused = self.refusal(probe), None, None, None
        if verdict.action == REFUSE:
            return refused
        if verdict.action == PASS:
            return direct
        assert probe.protocol == "TCP", "nothing else is intercepted"
        if self.listens(verdict.proxy, probe.destination):
            return ALLOW, self.lab.node.name, verdict.proxy, verdict.hit[1]
        return direct if verdict.proxy == "gw-bypass" else refused


@pytest.fixture(scope="module", params=["routed", "bridge", "routed, refusing", "bridge, refusing"])
def scene(request):
    with Lab(outside=True, bridge="bridge" in request.param) as lab:
        yield Scene(lab, "reject" if "refusing" in request.param else "drop")


def complaint(probe, expected):
    """What differs from what the evaluator says, or None."""
    result, where, name, _ = expected
    if probe.result != result:
        return f"{probe.result}"
    if result != ALLOW:
        return None
    if probe.server[0] != where or (name and probe.server[1] != PROXIES[name]):
        return f"taken by {probe.server}"
    source, sport = (plain(probe.peer[0]), probe.peer[1])
    if (source, sport) != (probe.bind[0], probe.local[1]):
        return f"the client is seen as {probe.peer[:2]}"
    if probe.protocol == "TCP" and (plain(probe.peer[2]), probe.peer[3]) != (probe.destination, probe.port):
        return f"the original destination is seen as {probe.peer[2:]}"
    return None


def draw_items(scene, generator):
    items = generator.cluster(scene.members) + generator.nodes()
    items += [generator.policy(number) for number in range(generator.rng.randint(0, 5))]
    items += generator.cluster_policies()[:2]
    items += [proxy(name, port, unavailable="Bypass" if name == "gw-bypass" else "Deny") for name, port in PROXIES.items()]
    items += [generator.intercept(number) for number in range(generator.rng.randint(1, 5))]
    return items + [rest(generator.rng, side) for side in ("egress", "ingress") if generator.rng.random() < 0.5]


def rest(rng, side):
    """What no other rule says anything about."""
    rule = {"name": "r0", "action": "Intercept", "proxy": rng.choice(list(PROXIES)),
            "from" if side == "ingress" else "to": [{"networks": ["0.0.0.0/0", "::/0"]}]}
    return intercept(f"rest-{side}", {"namespaces": {}}, [rule] if side == "egress" else [], 1000,
                     [rule] if side == "ingress" else None)


def test_real_connections_go_where_the_evaluator_says(scene):
    print(f"PENSTOCK_SEED={SEED}")
    generator, outcomes, counts = Generator(SEED), collections.Counter(), collections.Counter()
    for number in range(ROUNDS):
        items = draw_items(scene, generator)
        scene.move_proxies(generator.rng)
        scene.agent.api.put_state(items, invalid="quarantine")
        world, before = World(items), scene.intercepted()
        allowed = [live for live in scene.live if world.judge(live.packet).action != REFUSE]
        stale = scene.exchange(allowed)
        assert not stale, (f"PENSTOCK_SEED={SEED}, round {number}: {len(stale)} of {len(scene.live)} live connections:\n" +
                           "\n".join(stale[:5]) + f"\nobjects: {json.dumps(items)}")
        counts["live, refused"] += len(scene.live) - len(allowed)
        counts["live, kept"] += len(allowed)
        counts["live, handed"] += sum(live.taker[0] == scene.lab.node.name for live in allowed)
        probes = [scene.draw(generator.rng) for _ in range(CONNECTIONS)]
        expected = [scene.expect(world, probe) for probe in probes]
        for probe, (result, *_) in zip(probes, expected, strict=True):
            probe.expect = result
        scene.lab.prober.probe(probes)
        wrong = []
        for probe, wanted in zip(probes, expected, strict=True):
            what = complaint(probe, wanted)
            outcomes[wanted[0], wanted[2], wanted[3], family(probe.destination)] += 1
            if what:
                packet = Packet(probe.bind[0], probe.destination, probe.protocol, probe.port)
                wrong.append(f"{packet}: {what}, wanted {wanted}\n  {world.judge(packet)}")
        assert not wrong, (f"PENSTOCK_SEED={SEED}, round {number}: {len(wrong)} of {len(probes)} differ, listeners "
                           f"{scene.places}:\n" + "\n".join(wrong[:5]) + f"\nobjects: {json.dumps(items)}")
        handed = collections.Counter(name for _, _, name, _ in expected if name)
        after = scene.intercepted()
        assert {name: after[name] - before[name] for name in PROXIES} == {name: handed[name] for name in PROXIES}
        scene.keep(generator.rng.sample(allowed, min(15, len(allowed))))
        passed = [pair for pair in zip(probes, expected, strict=True) if pair[1][0] == ALLOW and pair[0].protocol == "TCP"]
        for probe, wanted in generator.rng.sample(passed, min(15, len(passed))):
            scene.open(probe, (wanted[1], PROXIES.get(wanted[2], probe.port)))
        stale = scene.exchange(scene.live)
        assert not stale, f"PENSTOCK_SEED={SEED}, round {number}: just opened:\n" + "\n".join(stale[:5])
    print(dict(outcomes), dict(counts))
    def refused(version):
        return sum(count for (result, _, _, of), count in outcomes.items() if result != ALLOW and of == version)
    if ROUNDS >= 14:  # a run in which little happens proves little
        for version in (4, 6):
            assert min(refused(version), outcomes[ALLOW, None, None, version]) > 50, outcomes
            for direction in ("Egress", "Ingress"):
                assert sum(outcomes[ALLOW, name, direction, version] for name in PROXIES) > 0, outcomes
        assert min(counts.values()) > 5, counts


def test_an_attempt_that_nobody_answered_is_handed_over_when_it_is_repeated(scene):
    """From the same port: the entry of the attempt that was refused says nothing of the one that begins now."""
    lab, api = scene.lab, scene.agent.api
    items = [member.object(random.Random(1)) for member in scene.members]
    ends = [(scene.pods[0], scene.pods[0].ip4, scene.pods[1].ip4), (lab.outside, BEYOND[2], scene.pods[1].ip6)]
    lab.prober.listen(lab.node, 15003, transparent=True)
    for source, own, other in ends:
        api.put_state([*items, policy("n1", "closed", types=["Ingress"])])
        probe = Probe(source, other, 80, bind=(own, scene.port()))
        probe.expect = scene.refusal(probe)
        assert lab.prober.probe([probe])[0].ok, probe
        rule = {"action": "Intercept", "proxy": "gw", "from": [{"networks": ["0.0.0.0/0", "::/0"]}]}
        api.put_state([*items, proxy("gw", 15003), intercept("in", {"namespaces": {}}, [], ingress=[rule])])
        again = Probe(source, other, 80, bind=probe.bind, expect=ALLOW)
        assert lab.prober.probe([again])[0].ok and again.server[:2] == (lab.node.name, 15003), again
