# SPDX-License-Identifier: Apache-2.0
"""Three judges, one verdict: the naive evaluator, the compiled tables, the kernel's programs.

Random clusters and policies go to the agent as one PUT /v1/state each; then thousands of packets, each the first of
its flow, are run through the pinned programs (BPF_PROG_TEST_RUN) with the real interfaces' numbers, through the
compiler's own reading of its tables, and through evaluator.py. Nobody listens, and a test run could hand nothing over:
that a connection would go to a proxy shows as a hit of the rule that says so, and then in what the proxy's
onUnavailable says. Hits are compared as often as policies change.

PENSTOCK_SEED repeats a run; PENSTOCK_ROUNDS and PENSTOCK_PACKETS make it longer. The first difference found is
shrunk to the policies that it needs.
"""
import collections
import dataclasses
import json
import os
import random
import subprocess

import pytest

import packets
from bpfsys import DROP, NEXT, Program
from evaluator import ALLOW, DENY, INTERCEPT, World, would
from generate import Generator, Member
from lab import BUILD, Lab

ROUNDS = int(os.environ.get("PENSTOCK_ROUNDS", "12"))
PACKETS = int(os.environ.get("PENSTOCK_PACKETS", "1500"))
SEED = int(os.environ.get("PENSTOCK_SEED") or random.SystemRandom().randrange(2 ** 32))
PASSES, DROPS = "passes", "drops"


class Cluster:
    """Twelve local members behind real interfaces, six remote ones, the agent, and its programs."""

    def __init__(self, lab):
        self.lab, self.agent = lab, lab.agent(log={"level": "info"})
        self.members = []
        for number in range(12):
            pod = lab.pod(f"m{number}")
            member = Member(f"n{number % 4}", f"m{number}", pod.ips, number % 2 == 0, pod.interface)
            member.ifindex = lab.node.ifindex(pod.interface)
            self.members.append(member)
        for number in range(6):
            ips = [f"10.77.2.{number + 1}", f"fd00:77::2:{number + 1:x}"]
            self.members.append(Member(f"n{number % 4}", f"r{number}", ips, number % 2 == 0))
        self.local = {(m.namespace, m.name) for m in self.members if m.interface}
        self.hits = collections.Counter()  # (policy, direction, index): how often, as the evaluator says
        self.in_audit = set()
        self.uplink = lab.node.ifindex("uplink")
        self.from_workload = Program(f"{self.agent.pins}/programs/from_workload")
        self.to_workload = Program(f"{self.agent.pins}/programs/to_workload")
        self.from_network = Program(f"{self.agent.pins}/programs/from_network")

    def put(self, items):
        """A rule may name a proxy that there is none of: that is refused unless quarantine is asked for."""
        answer = self.agent.api.put_state(items, invalid="quarantine")
        assert not answer.get("quarantined"), answer

    def expect_hit(self, world, flow):
        """A rule is hit by the packet that begins a connection."""
        hit = world.judge(flow.packet).hit
        if hit and not flow.midstream:
            self.hits[hit] += 1

    def counted(self):
        """The hits as the agent says, of the rules that there are."""
        found = self.agent.api.metrics().find("penstock_rule_hits_total", kind="InterceptPolicy")
        return {(h["policy"], h["direction"], int(h["rule"].removeprefix("r"))): int(value) for h, value in found
                if ("InterceptPolicy", "", h["policy"]) not in self.in_audit}

    def first_match(self):
        """Hits of what first match decides, by (kind, policy, direction, rule); and packets Audited."""
        metrics = self.agent.api.metrics()
        counts = collections.Counter({"Audited": int(metrics("penstock_packets_total", verdict="Audited"))})
        for kind in ("ClusterNetworkPolicy", "InterceptPolicy"):
            for h, value in metrics.find("penstock_rule_hits_total", kind=kind):
                if kind == "ClusterNetworkPolicy" or (kind, "", h["policy"]) in self.in_audit:
                    counts[kind, h["policy"], h["direction"], int(h["rule"].removeprefix("r"))] = int(value)
        return counts

    def world(self, items):
        world = World(items, local=self.local)
        world.audit = World(items, local=self.local, audit=True)
        self.in_audit = world.in_audit
        return world

    def kernel(self, flow, rng, sport=None):
        """What becomes of the packet on its way through this node."""
        packet, source, destination = flow.packet, flow.source, flow.destination
        vlan = rng.randint(1, 4094) if rng.random() < 0.05 else None
        extensions = rng.sample([packets.HOP_BY_HOP, packets.DESTINATION], 1) \
            if ":" in packet.source and rng.random() < 0.1 else ()
        frame = packets.frame(packet.source, packet.destination, packet.protocol, sport or flow.sport, packet.port, vlan,
                              extensions, packets.ACK if flow.midstream else packets.SYN)
        entered = self.uplink
        if source and source.interface:
            entered = source.ifindex
            verdict = self.from_workload.run(frame, source.ifindex, source.ifindex)
            if verdict != NEXT:
                return _named(verdict)
        else:
            verdict = self.from_network.run(frame, self.uplink, self.uplink)
            if verdict != NEXT:
                return _named(verdict)
        if destination and destination.interface:
            verdict = self.to_workload.run(frame, destination.ifindex, entered)
            return _named(verdict)
        return PASSES


def _named(verdict):
    return {NEXT: PASSES, DROP: DROPS}.get(verdict, f"returned {verdict}")


def expected(world, flow):
    """Nobody listens: what is handed to gw-deny drops, to gw-bypass goes where it was going. A TCP packet that begins
    nothing passes if either orientation is allowed, and is not intercepted."""
    verdict = world.judge(flow.packet)
    if flow.midstream:
        return DROPS if verdict.action == DENY == world.judge(flow.reversed).action else PASSES
    if verdict.action == DENY or (verdict.action == INTERCEPT and verdict.proxy != "gw-bypass"):
        return DROPS
    return PASSES


class Told:
    """What a connection that begins leaves in the counters of tiers and of audit mode, hook by hook."""

    def __init__(self, world, flow, counts):
        self.enforced, self.audit = world.judge(flow.packet), world.audit.judge(flow.packet)
        self.world, self.counts = world, counts
        egress, ingress = self.enforced.egress, self.enforced.ingress
        wanted = self.enforced.decisive[1] if flow.packet.protocol == "TCP" else None
        if egress:
            if egress.verdict == DENY:
                self.count("Egress")
                return
            if wanted and wanted.proxy or egress.verdict == INTERCEPT:
                if ingress and ingress.verdict == DENY:
                    self.count("Ingress")
                elif wanted.proxy == "gw-bypass":
                    self.pass_by("Egress")
                    self.count("Ingress")
                return
            self.pass_by("Egress")
        elif wanted and wanted.proxy and wanted.proxy != "gw-bypass":
            return
        if ingress and ingress.verdict == DENY:
            self.count("Ingress")
        elif ingress:
            self.pass_by("Ingress")

    def of(self, direction):
        return getattr(self.enforced, direction.lower()), getattr(self.audit, direction.lower())

    def count(self, direction):
        side, other = self.of(direction)
        if not side:
            return
        for kind, _, name, index in filter(None, (side.rule, would(side, other, self.world.in_audit)[1])):
            if kind != "NetworkPolicy":
                self.counts[kind, name, direction, index] += 1

    def pass_by(self, direction):
        side, other = self.of(direction)
        self.count(direction)
        self.counts["Audited"] += side.verdict == ALLOW != other.verdict


def compiled(items, bind, queries):
    """The compiler's verdicts, read from its tables: tests/tools/compile."""
    tool = os.path.join(BUILD, "tools/compile")
    assert os.path.exists(tool), f"{tool} is not built"
    body = {"node": "node-1", "items": items, "bind": [f"{ns}/{name}" for ns, name in sorted(bind)],
            "queries": [{"source": p.source, "destination": p.destination, "protocol": p.protocol, "port": p.port}
                        for p in queries]}
    done = subprocess.run([tool], input=json.dumps(body), text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, f"compile: {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return json.loads(done.stdout)["answers"]


def sides(verdict):
    """An evaluator's verdict in the form of the tool's: of policy rules not which one, as several may allow."""
    direction, side = verdict.decisive
    return [verdict.action, direction if side and side.proxy else None] + \
        [side and (side.verdict, side.reason, side.proxy, side.taken and side.taken[2:], first_match_only(side.rule))
         for side in (verdict.egress, verdict.ingress)]


def first_match_only(rule):
    return None if rule is None or rule[0] == "NetworkPolicy" else (rule[0], rule[2], rule[3])


def audits(world, packet):
    """What audit mode would make of each side: the action, and the rule where first match decides."""
    enforced, other = world.judge(packet), world.audit.judge(packet)
    pairs = ((enforced.egress, other.egress), (enforced.ingress, other.ingress))
    found = [side and would(side, would_be, world.in_audit) for side, would_be in pairs]
    return [side and (side[0], first_match_only(side[1])) for side in found]


def audits_compiled(answer):
    found = [side and side.get("audit", {"action": side["action"], "rule": None})
             for side in (answer["egress"], answer["ingress"])]
    return [side and (side["action"], rule_compiled(side["rule"])) for side in found]


def rule_compiled(rule):
    return None if rule is None or rule["kind"] == "NetworkPolicy" else (rule["kind"], rule["name"], rule["index"])


def sides_compiled(answer):
    found = [answer["verdict"], answer.get("direction")]
    for side in (answer["egress"], answer["ingress"]):
        rule = (side or {}).get("interceptRule")
        found.append(side and (side["action"], side["reason"], side.get("proxy"), rule and (rule["name"], rule["index"]),
                               rule_compiled(side["rule"])))
    return found


@pytest.fixture(scope="module")
def cluster():
    with Lab(outside=True) as lab:
        yield Cluster(lab)


def draw_round(cluster, generator):
    items = generator.cluster(cluster.members)
    items += [generator.policy(n) for n in range(generator.rng.randint(1, 14))]
    return items + generator.cluster_policies() + generator.interception()


def draw_flows(cluster, generator, seen, count):
    drawn = []
    for _ in range(count):
        flow = generator.packet(cluster.members)
        local = [end for end in (flow.source, flow.destination) if end and end.interface]
        if local and flow.identity not in seen:
            seen.add(flow.identity)
            drawn.append(flow)
    return sorted(drawn, key=lambda flow: flow.midstream)


def test_three_judges_agree(cluster):
    print(f"PENSTOCK_SEED={SEED}")
    generator, seen, counts = Generator(SEED), set(), {PASSES: 0, DROPS: 0, INTERCEPT: 0}
    sample, directions = [], set()  # of earlier rounds' flows; in which rules were hit
    told = collections.Counter()    # of all rounds: what tiers and audit mode counted
    for number in range(ROUNDS):
        items = draw_round(cluster, generator)
        cluster.put(items)
        world = cluster.world(items)
        before, before_told = cluster.counted(), cluster.first_match()
        cluster.hits.clear()
        expected_told, found_told = collections.Counter(), None
        drawn = draw_flows(cluster, generator, seen, PACKETS)
        answers = compiled(items, cluster.local, [flow.packet for flow in drawn])
        wrong = []
        with cluster.lab.node.entered():
            for flow, answer in zip(drawn, answers, strict=True):
                verdict, should = world.judge(flow.packet), expected(world, flow)
                counts[should] += 1
                counts[INTERCEPT] += verdict.action == INTERCEPT
                cluster.expect_hit(world, flow)
                if flow.midstream and found_told is None:
                    found_told = cluster.first_match() - before_told
                if not flow.midstream:
                    Told(world, flow, expected_told)
                if cluster.kernel(flow, generator.rng) != should or sides(verdict) != sides_compiled(answer) or \
                        audits(world, flow.packet) != audits_compiled(answer):
                    wrong.append(flow)
            stale = judged_anew(cluster, world, generator, sample)
        if wrong:
            pytest.fail(f"PENSTOCK_SEED={SEED}, round {number}: {len(wrong)} of {len(drawn)} differ; the first one:\n" +
                        report(cluster, items, wrong[0], generator), pytrace=False)
        assert not stale, f"PENSTOCK_SEED={SEED}, round {number}: {len(stale)} known flows; the first one: {stale[0]}"
        assert found_told == expected_told, f"PENSTOCK_SEED={SEED}, round {number}: {json.dumps(items)}"
        told.update(expected_told)
        after = cluster.counted()
        hits = {rule: count - before.get(rule, 0) for rule, count in after.items() if count > before.get(rule, 0)}
        assert hits == dict(cluster.hits), f"PENSTOCK_SEED={SEED}, round {number}: {json.dumps(items)}"
        directions.update(direction for _, direction, _ in hits)
        sample = generator.rng.sample(sample + drawn, min(300, len(sample + drawn)))
    print(f"{counts[PASSES] + counts[DROPS]} packets: {counts}")
    # A run in which everything passes or drops proves nothing.
    assert min(counts[PASSES], counts[DROPS]) > ROUNDS * PACKETS / 10
    assert counts[INTERCEPT] > 0 and (directions == {"Egress", "Ingress"} or ROUNDS < 10)
    print(f"{told['Audited']} packets audited; hits of {len(told) - 1} rules of tiers and of audited interception")
    kinds = {key[0] for key in told}
    assert ROUNDS < 10 or (told["Audited"] and "ClusterNetworkPolicy" in kinds)
    assert ROUNDS < 40 or "InterceptPolicy" in kinds


def judged_anew(cluster, world, generator, flows):
    """Flows of earlier rounds, which nobody has answered, are tried again under the new policy. What differs."""
    wrong = []
    for flow in flows:
        should = expected(world, flow)
        cluster.expect_hit(world, flow)
        verdict = cluster.kernel(flow, generator.rng)
        if verdict != should:
            wrong.append(f"{flow}: kernel {verdict}, evaluator {world.judge(flow.packet)} -> {should}")
    return wrong


def compare(cluster, items, flow, generator):
    """(differs, evaluator, compiled, kernel, should) for one packet of a fresh flow."""
    cluster.put(items)
    generator.sport = generator.sport % 64000 + 1024
    flow = dataclasses.replace(flow, sport=flow.sport if flow.midstream else generator.sport)
    world = cluster.world(items)
    verdict, should = world.judge(flow.packet), expected(world, flow)
    answer, = compiled(items, cluster.local, [flow.packet])
    with cluster.lab.node.entered():
        kernel = cluster.kernel(flow, random.Random(0))
    differs = sides(verdict) != sides_compiled(answer) or audits(world, flow.packet) != audits_compiled(answer)
    return differs or kernel != should, verdict, answer, kernel, should


def report(cluster, items, flow, generator):
    """The difference with no more objects than it needs."""
    note = ""
    if compare(cluster, items, flow, generator)[0]:
        for item in list(items):
            fewer = [i for i in items if i is not item]
            try:
                if compare(cluster, fewer, flow, generator)[0]:
                    items = fewer
            except AssertionError:
                pass  # something refers to it
    else:
        note = "(the difference did not show again when the packet was repeated)\n"
    _, verdict, answer, kernel, should = compare(cluster, items, flow, generator)
    note += f"audit:     {audits(cluster.world(items), flow.packet)}\n"
    return (f"{note}{flow.packet} midstream={flow.midstream} sport={flow.sport}\nevaluator: {verdict} -> {should}\n"
            f"compiled:  {answer}\nkernel:    {kernel}\nobjects: {json.dumps(items)}")


@pytest.mark.pure
def test_the_generator_repeats_itself_and_varies():
    def draw(seed):
        generator = Generator(seed)
        return [generator.policy(n) for n in range(50)] + [generator.cluster_policy(n) for n in range(30)]
    assert draw(7) == draw(7) != draw(8)
    text = json.dumps([draw(seed) for seed in range(20)])
    for word in ("NotIn", "DoesNotExist", "endPort", "except", "SCTP", '"port": "', '"from": []', '"ports": []',
                 "Admin", "Baseline", "Pass", "later", "domainNames", "destinationNamedPort", '"nodes"', "audit", '"sctp"'):
        assert word in text, word


@pytest.mark.pure
def test_services_vary():
    members = [Member("n0", f"m{n}", [f"10.77.1.{n + 1}", f"fd00:77::f{n:x}"], False, f"pv{n}") for n in range(6)]

    def draw(seed):
        generator = Generator(seed)
        items = generator.services(members, ["10.77.0.1"])
        return items + generator.churn(items, members)
    assert draw(7) == draw(7) != draw(8)
    text = json.dumps([draw(seed) for seed in range(20)])
    for word in ('"None"', "ExternalName", "externalIPs", '"ipMode": "Proxy"', "nodePort", "SCTP", '"terminating": true', '"ready": null',
                 '"serving": false', '"serving": null', "nobody", '"10.77.0.1"', "-ipv4-2", '"endpoints": []'):
        assert word in text, word


@pytest.mark.pure
def test_both_answers_are_drawn():
    generator, actions = Generator(3), {ALLOW: 0, DENY: 0, INTERCEPT: 0}
    members = [Member(f"n{n % 4}", f"m{n}", [f"10.77.1.{n + 1}", f"fd00:77::f{n:x}"], n % 2 == 0, f"pv{n}")
               for n in range(12)]
    for _ in range(20):
        items = generator.cluster(members) + [generator.policy(n) for n in range(8)] + generator.interception()
        world = World(items)
        for _ in range(100):
            actions[world.judge(generator.packet(members).packet).action] += 1
    assert min(actions.values()) > 20, actions
