# SPDX-License-Identifier: Apache-2.0
"""Services, judged by the naive evaluator, by the compiled tables, and by what becomes of real connections.

Random Services, slices and policies. The tables follow them change by change, as the agent's do. PENSTOCK_SEED repeats a
run; PENSTOCK_ROUNDS and PENSTOCK_PACKETS make it longer.
"""
import collections
import json
import os
import random
import subprocess

import pytest

from evaluator import ALLOW, DENY, INTERCEPT, PENDING, Packet, World
from evaluator_services import addresses, translated
from generate import NAMESPACES, PORTS, Generator, Member
from lab import ALLOW as ANSWERED
from lab import DENY as DENIED
from lab import BUILD, NODE4, NODE6, OUTSIDE4, OUTSIDE6, UPLINK4, UPLINK6, Lab, Probe
from objects import allow_to, intercept, proxy
from random_scene import PROXIES, RandomScene, family, plain

ROUNDS = int(os.environ.get("PENSTOCK_ROUNDS", "60"))
PACKETS = int(os.environ.get("PENSTOCK_PACKETS", "150"))
REAL_ROUNDS = int(os.environ.get("PENSTOCK_ROUNDS", "14"))
CONNECTIONS = int(os.environ.get("PENSTOCK_CONNECTIONS", "120"))
SEED = int(os.environ.get("PENSTOCK_SEED") or random.SystemRandom().randrange(2 ** 32))
REFUSED = "refused"
KINDS_MAX = 8  # of backends that a table's entry holds
BEYOND = ["203.0.113.9", "203.0.113.130", "8.8.8.8", "2001:db8:9::9", "2001:db8:9::8000", "2a00::1"]


# ---- the tables ----

class Tables:
    """tests/tools/compile, which is told what changes."""

    def __init__(self, local):
        tool = os.path.join(BUILD, "tools/compile")
        assert os.path.exists(tool), f"{tool} is not built"
        self.process = subprocess.Popen([tool, "--ndjson"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.bind, self.items = [f"{ns}/{name}" for ns, name in sorted(local)], {}

    def follow(self, items, packets):
        """The answers about the packets, once exactly these objects are there."""
        wanted = {identity(item): item for item in items}
        document = {"apply": [item for key, item in wanted.items() if self.items.get(key) != item],
                    "delete": [{"kind": kind, "namespace": namespace, "name": name}
                               for kind, namespace, name in self.items if (kind, namespace, name) not in wanted]}
        return self.ask(document if self.items else {"items": items}, items, packets)

    def start(self, items, packets):
        return self.ask({"items": items}, items, packets)

    def ask(self, document, items, packets):
        self.items = {identity(item): item for item in items}
        queries = [{"source": p.source, "destination": p.destination, "protocol": p.protocol, "port": p.port} for p in packets]
        document |= {"node": "node-1", "bind": self.bind, "queries": queries}
        self.process.stdin.write(json.dumps(document) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        assert "errors" not in answer, answer["errors"]
        return answer["answers"]

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(20) == 0


def identity(item):
    meta = item["metadata"]
    return item["kind"], meta.get("namespace", ""), meta["name"]


def difference(world, packet, answer):
    """What the tables say otherwise than the evaluator, or None."""
    asked, egress = world.ask(packet), answer["egress"]
    if bool(answer.get("service")) != (asked is not None):
        return f"a Service's: {asked is not None}"
    if asked is None:
        wanted = world.judge(packet).action
        return None if answer["verdict"] == wanted else f"wanted {wanted}"
    found = PENDING if answer["pending"] else egress["action"]
    if len(asked.sides) > KINDS_MAX and found == (PENDING if not asked.proxy else DENY):
        return None  # perhaps more kinds than an entry holds
    if found != asked.action or egress.get("proxy") != asked.proxy:
        return f"wanted {asked}"
    rule = egress["rule"]
    if found == DENY and rule_of(rule) not in asked.rules:
        return f"refused by {rule}, wanted one of {asked.rules}"
    taken = egress.get("interceptRule")
    if found in (ALLOW, INTERCEPT) and asked.taken and rule_of(taken) != asked.taken and \
            (found == ALLOW or rule_of(taken) not in {side.taken for side in asked.sides.values()}):
        return f"taken by {taken}, wanted {asked.taken}"
    return None


def rule_of(rule):
    return rule and (rule["kind"], rule["namespace"], rule["name"], rule["index"])


def members_of(count=8, remote=4):
    members = [Member(f"n{n % 4}", f"m{n}", [f"10.77.1.{n + 1}", f"fd00:77::f{n:x}"], n % 2 == 0, f"pv{n}") for n in range(count)]
    return members + [Member(f"n{n % 4}", f"r{n}", [f"10.77.2.{n + 1}", f"fd00:77::2:{n + 1:x}"], n % 2 == 0)
                      for n in range(remote)]


def draw_policies(generator, most=5):
    items = [generator.policy(number) for number in range(generator.rng.randint(0, most))]
    items += generator.cluster_policies()[:3] + generator.interception()
    return items + ([rest(generator.rng)] if generator.rng.random() < 0.4 else [])


def rest(rng):
    """What no other rule says anything about goes to a proxy."""
    networks = rng.choice([["0.0.0.0/0", "::/0"], ["10.96.0.0/16", "fd00:96::/64"]])
    rule = {"name": "r0", "action": "Intercept", "to": [{"networks": networks}], "proxy": rng.choice(list(PROXIES))}
    return intercept("rest", {"namespaces": {}}, [rule], 1000)


def draw_world(generator, members, others):
    return [*generator.cluster(members), *draw_policies(generator), *generator.services(members, others)]


def next_world(generator, items, members, others):
    """The same with other slices; now and then with other policies; or quite another one."""
    draw = generator.rng.random()
    if draw < 0.15:
        return draw_world(generator, members, others)
    if draw < 0.4:
        kept = [item for item in items if item["kind"] in ("Service", "EndpointSlice", "Namespace", "Pod", "Workload")]
        items = kept + draw_policies(generator)
    items = generator.churn(items, members, others)
    return items if any(item["kind"] == "Service" for item in items) else draw_world(generator, members, others)


@pytest.mark.pure
def test_tables_agree_with_the_evaluator():
    print(f"PENSTOCK_SEED={SEED}")
    generator, members, counts = Generator(SEED), members_of(), collections.Counter()
    local, others = {(m.namespace, m.name) for m in members if m.interface}, [*BEYOND, NODE4, NODE6]
    tables, items = Tables(local), draw_world(generator, members, others)
    sources = [m for m in members if m.interface]
    for number in range(ROUNDS):
        world = World(items, local=local)
        packets = [generator.service_packet(items, sources, [NODE4, NODE6]).packet for _ in range(PACKETS)]
        wrong = []
        for packet, answer in zip(packets, tables.follow(items, packets), strict=True):
            asked = world.ask(packet)
            counts[asked.action if asked else "none"] += 1
            if difference(world, packet, answer):
                wrong.append(packet)
        if wrong:
            pytest.fail(f"PENSTOCK_SEED={SEED}, round {number}: {len(wrong)} of {len(packets)} differ; the first one:\n" +
                        report(tables, items, wrong[0], local), pytrace=False)
        items = next_world(generator, items, members, others)
    tables.close()
    print(f"{counts.total()} questions: {dict(counts)}")
    assert ROUNDS < 60 or min(counts[a] for a in (ALLOW, DENY, INTERCEPT, PENDING, "none")) > 5, counts


def report(tables, items, packet, local):
    """The difference with no more objects than it needs."""
    def differs(items):
        answer, = fresh.start(items, [packet])
        return difference(World(items, local=local), packet, answer)
    note, fresh = "", Tables(local)
    if differs(items):
        for item in list(items):
            fewer = [i for i in items if i is not item]
            if differs(fewer):
                items = fewer
    else:
        note = "(not when compiled at once: only after the changes that led there)\n"
    answer, = tables.start(items, [packet]) if not note else [None]
    world = World(items, local=local)
    fresh.close()
    return (f"{note}{packet}: {difference(world, packet, answer) if answer else ''}\nevaluator: {world.ask(packet)}\n"
            f"compiled:  {answer}\nobjects: {json.dumps(items)}")


# ---- real connections ----

class Nat:
    """DNAT as kube-proxy's, but it sends where it is told: of every Service's port, to one backend."""

    def __init__(self, space):
        self.space = space

    def load(self, chosen, masked):
        """chosen: (address or None for the node's, port, protocol, family) → Backend; masked: those whose clients are
        hidden behind the node's address. What hairpins is masqueraded always."""
        text = []
        for version, ip, kind in ((4, "ip", "ipv4_addr"), (6, "ip6", "ipv6_addr")):
            mine = {key: backend for key, backend in chosen.items() if key[3] == version}
            for chain, hook in (("pre", "prerouting"), ("out", "output")):
                text.append(f"chain {chain} {{ type nat hook {hook} priority -100;")
                for (address, port, protocol, _), backend in mine.items():
                    where = f"{ip} daddr {address}" if address else "fib daddr type local"
                    mark = " meta mark set meta mark or 0x4000" if (address, port, protocol, version) in masked else ""
                    to = f"[{backend.ip}]" if version == 6 else backend.ip
                    text.append(f"{where} {protocol.lower()} dport {port}{mark} dnat to {to}:{backend.port}")
                text.append("}")
            hairpins = "".join(f"ct status dnat {ip} saddr {b} {ip} daddr {b} masquerade\n" for b in {b.ip for b in mine.values()})
            text.append(f"chain post {{ type nat hook postrouting priority 100;\nmeta mark & 0x4000 != 0 masquerade\n"
                        f"{hairpins}iifname uplink oifname uplink ct status dnat masquerade\n}}")
            text = [f"add table {ip} pt-nat\ndelete table {ip} pt-nat\ntable {ip} pt-nat {{", *text, "}"]
            self.space.run("nft", "-f", "-", input="\n".join(text))
            text = []


class Behind(str):
    """The proxy that an ingress rule of the chosen backend names."""


class Town(RandomScene):
    """Four pods here, two of another node, the node itself and a host beyond: all serve every port."""
    OWN = [NODE4, NODE6, UPLINK4, UPLINK6]

    def __init__(self, lab, deny_with, engine):
        super().__init__(lab, deny_with, engine)
        for number in range(4):
            pod = lab.pod(f"m{number}")
            self.pods.append(pod)
            self.members.append(Member(f"n{number % 3}", f"m{number}", pod.ips, number % 2 == 0, pod.interface))
        self.remote = [Member(f"n{n}", f"r{n}", [f"10.77.2.{n + 1}", f"fd00:77::2:{n + 1:x}"], n == 0) for n in range(2)]
        there = [ip for member in self.remote for ip in member.ips] + ["203.0.113.9", "2001:db8:9::9"]
        lab.outside.ip(*[f"addr add {ip}/{'128 dev lo nodad' if ':' in ip else '32 dev lo'}" for ip in there])
        # Load balancers' addresses are in the uplink's network, and nobody answers for them there.
        lab.outside.ip(f"route add 198.51.100.128/25 via {UPLINK4}", f"route add 2001:db8:51::b0/124 via {UPLINK6}")
        self.everybody, self.ends = [*self.members, *self.remote], ["203.0.113.9", "2001:db8:9::9", *self.OWN]
        self.place = {ip: lab.outside.name for ip in there} | {ip: lab.node.name for ip in self.OWN}
        for pod in self.pods:
            self.place |= {ip: pod.name for ip in pod.ips}
        for space, ips in ((lab.outside, there), (lab.node, self.OWN)):
            for port in PORTS:
                for ip in ips:
                    lab.prober.listen(space, port, "TCP", ip)
                    lab.prober.listen(space, port, "UDP", ip)
        for pod in self.pods:
            for port in PORTS:
                lab.prober.listen(pod, port)
                lab.prober.listen(pod, port, "UDP")
        self.nat, self.chosen, self.masked = Nat(lab.node), {}, set()

    def choose(self, rng, world, items):
        """Each port of a Service, in each family, is sent to one of its backends."""
        self.chosen, self.masked = {}, set()
        for service in items:
            if service["kind"] != "Service":
                continue
            for port in service["spec"]["ports"]:
                for version in (4, 6):
                    self.choose_port(rng, world, service, port, version)
        self.nat.load(self.chosen, self.masked)

    def choose_port(self, rng, world, service, port, version):
        protocol = port.get("protocol", "TCP")
        places = [(ip, port["port"]) for ip in addresses(service, version)]
        if "nodePort" in port and translated(service, version):
            places.append((None, port["nodePort"]))
        for ip, number in places:
            backends = world.backends(Packet("0.0.0.0", ip or self.OWN[version == 6], protocol, number))
            if backends and protocol != "SCTP" and len(backends) <= KINDS_MAX:
                self.chosen[ip, number, protocol, version] = rng.choice(backends)
                if rng.random() < 0.4:
                    self.masked.add((ip, number, protocol, version))

    def backend(self, probe):
        version = family(probe.destination)
        for ip in (probe.destination, *[None] * (probe.destination in self.OWN)):
            if found := self.chosen.get((ip, probe.port, probe.protocol, version)):
                return found
        return None

    def draw(self, rng):
        """An attempt on something that is translated, from a pod, from beyond, or from another node's pod."""
        ip, port, protocol, version = rng.choice(list(self.chosen))
        draw = rng.random()
        if draw < 0.8:
            pod = rng.choice(self.pods)
            source, own = pod, pod.ip4 if version == 4 else pod.ip6
        else:
            remote = [OUTSIDE4, OUTSIDE6] if draw < 0.9 else rng.choice(self.remote).ips
            source, own = self.lab.outside, remote[version == 6]
        # From beyond only the uplink's address is known to lead here.
        destination = ip or rng.choice(self.OWN[version == 6::2])
        return Probe(source, destination, port, protocol, bind=(own, self.port()))

    def packet(self, probe):
        return Packet(probe.bind[0], probe.destination, probe.protocol, probe.port)

    def expect(self, world, probe):
        """(result, the backend or the proxy that answers)"""
        refused = self.refusal(probe), None
        asked, backend = world.ask(self.packet(probe)), self.backend(probe)
        if asked and asked.action == DENY:
            return refused
        if asked and asked.action == INTERCEPT:
            if self.listens(asked.proxy, probe.destination):
                return ANSWERED, asked.proxy
            if asked.proxy != "gw-bypass":
                return refused
        if refuses(world, probe.bind[0], backend, probe.protocol):
            return refused
        behind = world.behind(self.packet(probe), backend)
        if behind and self.listens(behind, backend.ip):
            return ANSWERED, Behind(behind)
        if behind and behind != "gw-bypass":
            return refused
        return ANSWERED, backend

    def unsaid(self, probe, result):
        """ICMP errors are limited: not every datagram is told."""
        return result != ANSWERED and probe.protocol == "UDP"

    def complaint(self, probe, wanted):
        result, who = wanted
        if probe.result != result and not (self.unsaid(probe, result) and probe.result == DENIED):
            return probe.result
        if result != ANSWERED:
            return None
        if who in PROXIES:
            return self.complaint_of_proxy(probe, who)
        if probe.server[:2] != (self.place[who.ip], who.port) or probe.server[3] not in ("::", who.ip):
            return f"taken by {probe.server}"
        return None

    def complaint_of_proxy(self, probe, who):
        if probe.server[:2] != (self.lab.node.name, PROXIES[who]):
            return f"taken by {probe.server}"
        seen = [plain(probe.peer[0]), probe.peer[1], plain(probe.peer[2]), probe.peer[3]]
        if isinstance(who, Behind):
            backend = self.backend(probe)
            wanted = [*probe.bind, backend.ip, backend.port]
            return None if seen == wanted else f"the proxy behind the Service sees {seen}"
        return None if seen == [*probe.bind, probe.destination, probe.port] else f"the proxy sees {seen}"


def refuses(world, source, backend, protocol):
    """Policy, of a connection that has been sent to this backend."""
    return world.judge(Packet(source, backend.ip, protocol, backend.port)).action == DENY


def steering(generator, everything):
    """Proxies, and rules that hand much to them."""
    rng = generator.rng
    items = [proxy(name, port, unavailable="Bypass" if name == "gw-bypass" else "Deny") for name, port in PROXIES.items()]
    for number in range(rng.randint(0, 3)):
        made = generator.intercept(number, list(PROXIES))
        items.append(made)
    items.append(rest(rng) if everything else door(rng))
    return items


def door(rng):
    """What comes to pods and nothing else has decided."""
    rules = [{"name": "door", "action": "Intercept", "proxy": rng.choice(list(PROXIES)), "from": [{"networks": networks}]}
             for networks in (["0.0.0.0/0"], ["::/0"])]
    return intercept("last", {"namespaces": {}}, [], 1000, rules)


def draw_town(generator, town, number):
    """Of four rounds one has Services that are mixed, two have proxies, one of which takes what nothing else decides."""
    rng, mixed = generator.rng, number % 4 == 2
    items = generator.cluster(town.everybody) + generator.nodes()
    beyond = [ip for ip in town.ends if ip not in town.OWN]
    if mixed:
        for space in NAMESPACES[:3]:
            some = [{"ipBlock": {"cidr": f"{ip}/{128 if ':' in ip else 32}"}} for member in town.everybody
                    for ip in member.ips if rng.random() < 0.5]
            items.append(allow_to(space, "some", {"matchLabels": {}}, some))
    else:
        items += steering(generator, number % 4 == 1) if number % 2 else []
        items += [generator.policy(n) for n in range(rng.randint(0, 6))] + generator.cluster_policies()[:2]
    return items + generator.services(town.everybody, beyond if mixed or rng.random() < 0.4 else town.ends, 8 if mixed else None)


@pytest.fixture(scope="module", params=[("drop", "ebpf"), ("reject", "tproxy")], ids="-".join)
def town(request):
    with Lab(outside=True) as lab:
        yield Town(lab, *request.param)


def still_allowed(world, live):
    """Under today's policy; None: nobody can say."""
    if live.backend:
        return not refuses(world, live.packet.source, live.backend, live.packet.protocol)
    asked = world.ask(live.packet)  # a proxy has it
    return None if asked is None or asked.action == PENDING else asked.action != DENY


def test_real_connections_to_services(town):
    print(f"PENSTOCK_SEED={SEED}")
    generator, counts = Generator(SEED), collections.Counter()
    rng = generator.rng
    for number in range(4 * REAL_ROUNDS):
        if number >= REAL_ROUNDS and not missing(counts):
            break
        items = draw_town(generator, town, number)
        where = f"PENSTOCK_SEED={SEED}, round {number}"
        town.move_proxies(rng, everywhere=number % 4 == 1)
        town.agent.api.put_state(items, invalid="quarantine")
        world = World(items, own=town.OWN)
        town.choose(rng, world, items)
        town.keep([live for live in town.live if still_allowed(world, live) is not None])
        allowed = [live for live in town.live if still_allowed(world, live)]
        stale = town.exchange(allowed)
        assert not stale, f"{where}: {len(stale)} of {len(town.live)} live connections:\n" + "\n".join(stale[:5]) + \
            f"\nobjects: {json.dumps(items)}"
        counts["live, refused"] += len(town.live) - len(allowed)
        counts["live, kept"] += len(allowed)
        probes = [town.draw(rng) for _ in range(CONNECTIONS if town.chosen else 0)]
        expected = [town.expect(world, probe) for probe in probes]
        for probe, wanted in zip(probes, expected, strict=True):
            probe.expect = DENIED if town.unsaid(probe, wanted[0]) else wanted[0]
        town.lab.prober.probe(probes)
        wrong = []
        for probe, wanted in zip(probes, expected, strict=True):
            asked = world.ask(town.packet(probe))
            counts[asked.action if asked else "from beyond", "behind" if isinstance(wanted[1], Behind) else
                   "intercepted" if wanted[1] in PROXIES else REFUSED if wanted[0] != ANSWERED else ANSWERED] += 1
            if what := town.complaint(probe, wanted):
                backend = town.backend(probe)
                wrong.append(f"{town.packet(probe)}: {what}, wanted {wanted}, sent to {backend}"
                             f"{' masqueraded' if is_masked(town, probe) else ''}\n  {asked}\n  "
                             f"{world.judge(Packet(probe.bind[0], backend.ip, probe.protocol, backend.port))}")
        assert not wrong, f"{where}: {len(wrong)} of {len(probes)} differ, listeners {town.places}:\n" + \
            "\n".join(wrong[:5]) + f"\nobjects: {json.dumps(items)}"
        keep_some(town, rng, allowed, [pair for pair in zip(probes, expected, strict=True)
                                       if pair[1][0] == ANSWERED and pair[0].protocol == "TCP"])
        stale = town.exchange(town.live)
        assert not stale, f"{where}: just opened:\n" + "\n".join(stale[:5])
    print({" ".join(key) if isinstance(key, tuple) else key: count for key, count in counts.items()})
    assert not missing(counts), counts


def missing(counts):
    """What has to happen for the run to prove something, and has not yet: some dice need more rounds than others."""
    wanted = {key: counts[key] > 0 for key in ((INTERCEPT, "intercepted"), (DENY, REFUSED), (ALLOW, ANSWERED), "live, kept", "live, refused")}
    wanted[PENDING] = counts[PENDING, ANSWERED] + counts[PENDING, REFUSED] > 5
    return [what for what, happened in wanted.items() if not happened]


def is_masked(town, probe):
    version = family(probe.destination)
    return any((ip, probe.port, probe.protocol, version) in town.masked for ip in (probe.destination, None))


def keep_some(town, rng, allowed, passed):
    town.keep(rng.sample(allowed, min(12, len(allowed))))
    for probe, (_, who) in rng.sample(passed, min(12, len(passed))):
        if who in PROXIES:
            town.open(probe, (town.lab.node.name, PROXIES[who]), town.backend(probe) if isinstance(who, Behind) else None)
        else:
            town.open(probe, (town.place[who.ip], who.port), who)
