# SPDX-License-Identifier: Apache-2.0
"""Real connections and datagrams under random policies, the same on two nodes, one with either engine: who takes each of
them, and which addresses he sees, is what the naive evaluator says, and the same on both. Two proxies on the node come and
go, for one family or both. Some connections and flows go on under later policies: they stay with whom they are, as long as
policy allows them.

PENSTOCK_SEED repeats a run; PENSTOCK_ROUNDS and PENSTOCK_CONNECTIONS make it longer.
"""
import collections
import contextlib
import itertools
import json
import os
import random
import time

import pytest

from evaluator import ALLOW as PASS
from evaluator import DENY as REFUSE
from evaluator import Packet, World
from generate import PORTS, Generator, Member
from lab import ALLOW, DENY, OUTSIDE4, OUTSIDE6, Lab, Probe
from objects import intercept, policy, proxy
from random_scene import PROXIES, RandomScene, family, plain
from steering import ENGINES

ROUNDS = int(os.environ.get("PENSTOCK_ROUNDS", "14"))
CONNECTIONS = int(os.environ.get("PENSTOCK_CONNECTIONS", "120"))
SEED = int(os.environ.get("PENSTOCK_SEED") or random.SystemRandom().randrange(2 ** 32))
BEYOND = ["203.0.113.9", "203.0.113.130", "2001:db8:9::9", "2001:db8:9::8000", OUTSIDE4, OUTSIDE6]


class Scene(RandomScene):
    """Four pods, and a host outside with several addresses; everybody serves every port."""

    def __init__(self, lab, deny_with="drop", engine="auto"):
        super().__init__(lab, deny_with, engine, ("TCP", "UDP"))
        self.engine = engine
        lab.outside.ip(*[f"addr add {ip}/{'128 dev lo nodad' if ':' in ip else '32 dev lo'}" for ip in BEYOND[:4]])
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
        return Probe(source[0], destination[1], rng.choice(PORTS), rng.choice(["TCP", "UDP"]), bind=(source[1], self.port()),
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
        if self.listens(verdict.proxy, probe.destination):
            return ALLOW, self.lab.node.name, verdict.proxy, verdict.hit[1]
        return direct if verdict.proxy == "gw-bypass" else refused


    def hits(self):
        """What is counted of the rules of interception."""
        return {(have["policy"], have["direction"], have["rule"]): value for have, value in
                self.agent.api.metrics().find("penstock_rule_hits_total", kind="InterceptPolicy")}

    def outcome(self, probe):
        """What became of it, in words that do not tell the engine."""
        where, port = probe.server[:2] if probe.server else ("", 0)
        peer = tuple(plain(word) if isinstance(word, str) else word for word in probe.peer or ())
        return probe.result, where.removeprefix(self.lab.prefix), port, peer, probe.local

    def run(self, probes, world):
        """Attempts all; says what the evaluator would have otherwise."""
        expected = [self.expect(world, probe) for probe in probes]
        for probe, (result, *_) in zip(probes, expected, strict=True):
            probe.expect = result
        before = self.intercepted()
        self.lab.prober.probe(probes)
        wrong = []
        for probe, wanted in zip(probes, expected, strict=True):
            if what := complaint(probe, wanted):
                packet = Packet(probe.bind[0], probe.destination, probe.protocol, probe.port)
                wrong.append(f"{packet}: {what}, wanted {wanted}\n  {world.judge(packet)}")
        handed, after = collections.Counter(name for _, _, name, _ in expected if name), self.intercepted()
        return expected, wrong, {name: (after[name] - before[name], handed[name]) for name in PROXIES}


@pytest.fixture(scope="module", params=["routed", "bridge", "routed, refusing", "bridge, refusing"])
def scenes(request):
    """Two nodes that differ in their engine."""
    with contextlib.ExitStack() as stack:
        labs = [stack.enter_context(Lab(outside=True, bridge="bridge" in request.param)) for _ in ENGINES]
        yield [Scene(lab, "reject" if "refusing" in request.param else "drop", engine)
               for lab, engine in zip(labs, ENGINES, strict=True)]


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
    if (plain(probe.peer[2]), probe.peer[3]) != (probe.destination, probe.port):
        return f"the original destination is seen as {probe.peer[2:]}"
    return None


def draw_items(scene, generator):
    items = generator.cluster(scene.members) + generator.nodes()
    items += [generator.policy(number) for number in range(generator.rng.randint(0, 5))]
    items += generator.cluster_policies()[:2]
    taken = {name: generator.rng.choice([["TCP", "UDP"], ["TCP", "UDP"], ["TCP", "UDP"], ["TCP"], ["UDP"]]) for name in PROXIES}
    items += [proxy(name, port, taken[name], "Bypass" if name == "gw-bypass" else "Deny") for name, port in PROXIES.items()]
    items += [generator.intercept(number) for number in range(generator.rng.randint(1, 5))]
    return items + [rest(generator.rng, side) for side in ("egress", "ingress") if generator.rng.random() < 0.5]


def rest(rng, side):
    """What no other rule says anything about."""
    rule = {"name": "r0", "action": "Intercept", "proxy": rng.choice(list(PROXIES)),
            "from" if side == "ingress" else "to": [{"networks": ["0.0.0.0/0", "::/0"]}]}
    return intercept(f"rest-{side}", {"namespaces": {}}, [rule] if side == "egress" else [], 1000,
                     [rule] if side == "ingress" else None)


def same(rng, scenes, function):
    """The function's answer for each of the scenes, with the same dice."""
    state, answers = rng.getstate(), []
    for scene in scenes:
        rng.setstate(state)
        answers.append(function(scene))
    return answers


def go_on(scenes, world, where):
    """Those of earlier rounds; returns the indexes of those that go on, and how many have a proxy."""
    for scene in scenes:
        kept = [live for live in scene.live if world.judge(live.packet).action != REFUSE]
        wanted = [live for live in kept if scene.follow(live)]
        stale = scene.exchange(wanted)
        assert not stale, f"{where}, {scene.engine}: {len(stale)} of {len(scene.live)} live ones:\n" + "\n".join(stale[:5])
    return [scene.live.index(live) for live in kept], sum(live.taker[0] == scene.lab.node.name for live in wanted)


def test_real_connections_go_where_the_evaluator_says(scenes):
    print(f"PENSTOCK_SEED={SEED}")
    generator, outcomes, counts = Generator(SEED), collections.Counter(), collections.Counter()
    rng, generator.handed_over = generator.rng, ("tcp", "udp")
    for number in range(4 * ROUNDS):
        if number >= ROUNDS and not missing(outcomes, counts):
            break
        items = draw_items(scenes[0], generator)
        same(rng, scenes, lambda scene: scene.move_proxies(rng))
        for scene in scenes:
            scene.agent.api.put_state(items, invalid="quarantine")
        world = World(items)
        where = f"PENSTOCK_SEED={SEED}, round {number}, listeners {scenes[0].places}"
        try:
            kept, handed = go_on(scenes, world, where)
            counts.update({"live, refused": len(scenes[0].live) - len(kept), "live, kept": len(kept), "live, handed": handed})
            begun, before = time.monotonic(), [scene.hits() for scene in scenes]
            drawn = same(rng, scenes, lambda scene: [scene.draw(rng) for _ in range(CONNECTIONS)])
            for scene, probes in zip(scenes, drawn, strict=True):
                expected, wrong, counted = scene.run(probes, world)
                assert not wrong, f"{where}, {scene.engine}: {len(wrong)} of {len(probes)} differ:\n" + "\n".join(wrong[:5])
                assert all(have == wanted for have, wanted in counted.values()), (where, scene.engine, counted)
            quick = time.monotonic() - begun < 0.9
            for one, other in zip(*drawn, strict=True):
                assert scenes[0].outcome(one) == scenes[1].outcome(other), f"{where}: {one}, {other}"
            hits = [{key: value - before[at].get(key, 0) for key, value in scene.hits().items()}
                    for at, scene in enumerate(scenes)]
            assert hits[0] == hits[1] or not quick, f"{where}: rules' hits"  # a SYN is repeated after a second
            open_more(rng, scenes, kept, drawn, expected)
            for scene in scenes:
                stale = scene.exchange(scene.live)
                assert not stale, f"{where}, {scene.engine}: just opened:\n" + "\n".join(stale[:5])
        except AssertionError as error:
            raise AssertionError(f"{error}\nobjects: {json.dumps(items)}") from None
        for probe, wanted in zip(drawn[0], expected, strict=True):
            outcomes[wanted[0], wanted[2], wanted[3], family(probe.destination), probe.protocol] += 1
    print(dict(outcomes), dict(counts))
    assert not missing(outcomes, counts), outcomes


def open_more(rng, scenes, kept, drawn, expected):
    """A few of those that live on do, and a few of what passed begin again, in each of the scenes alike."""
    kept = rng.sample(kept, min(15, len(kept)))
    passed = [at for at, (result, *_) in enumerate(expected) if result == ALLOW]
    passed = rng.sample(passed, min(15, len(passed)))
    for scene, probes in zip(scenes, drawn, strict=True):
        scene.keep([scene.live[at] for at in kept if scene.follow(scene.live[at])])
        for at in passed:
            _, _, name, _ = expected[at]
            where = scene.lab.node.name if name else probes[at].label
            scene.open(probes[at], (where, PROXIES.get(name, probes[at].port)))


def missing(outcomes, counts):
    """What has to happen for the run to prove something, and has not yet: some dice need more rounds than others."""
    wanted = {}
    for way in itertools.product((4, 6), ("TCP", "UDP")):
        these = collections.Counter()
        for key, count in outcomes.items():
            if key[3:] == way:
                these[key[:3]] += count
        wanted["refused", *way] = sum(count for key, count in these.items() if key[0] != ALLOW) > 25
        wanted["passed", *way] = these[ALLOW, None, None] > 25
        for direction in ("Egress", "Ingress"):
            wanted["handed", direction, *way] = any(these[ALLOW, name, direction] for name in PROXIES)
    wanted.update({what: counts[what] > 5 for what in ("live, refused", "live, kept", "live, handed")})
    return [what for what, happened in wanted.items() if not happened]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_attempt_that_nobody_answered_is_handed_over_when_it_is_repeated(scenes, engine):
    """From the same port: the entry of the attempt that was refused says nothing of the one that begins now."""
    scene = scenes[ENGINES.index(engine)]
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
