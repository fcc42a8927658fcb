# SPDX-License-Identifier: Apache-2.0
"""Beside other people's programs on the same interfaces, with both engines: they keep running, see what they saw, and keep
their bits of the mark. Their rules: test_coexistence_rules.py. Their networks: test_coexistence_networks.py."""
import itertools

import pytest

from foreign import Programs
from lab import ALLOW, Probe
from objects import proxy
from proxies import PORT, Relay
from steering import ENGINES, OUTSIDE, World, answered, come, egress, forget, ingress, to
from talk import Client

MASK = 0x60000000
PATTERN = 0x85a5a5a5  # every byte of it differs from its neighbour's complement
UPLINK = "uplink"
PORTS = itertools.cycle(range(30000, 32700))  # not the relay's


@pytest.fixture(scope="module", params=ENGINES)
def shared(request):
    with World("a", "b", engine=request.param) as world:
        yield world


@pytest.fixture
def beside(world):
    """Rules of either direction, and room for other people's programs."""
    steered(world)
    with Programs(world) as programs:
        world.programs = programs
        yield world


def steered(world, *others):
    """TCP and UDP, of a to outside and to b, of outside to b; and of other addresses outside."""
    rules = to(*OUTSIDE, *others, *world.b.ips), come(*OUTSIDE, *others)
    for rule in rules:
        rule["protocols"].append({"udp": {"destinationPort": {"number": 80}}})
    world.put(egress(rules[0]), ingress(rules[1]), gw=proxy("gw", PORT, protocols=["TCP", "UDP"]))
    for space in (world.a, world.b, world.outside):
        world.prober.listen(space, 80, "UDP")


def everywhere(world, families=(4, 6), sources=("client", "node")):
    """Out of a pod, from one pod to another, into a pod, each through the relay; and past it. Returns how many were to be
    handed over."""
    ways = [(world.a, "outside", 1), (world.a, "b", 1), (world.outside, "b", 1),
            (world.b, "outside", 0), (world.outside, "a", 0), (world.node, "b", 0)]
    for source in sources:
        with Relay(world, "--source", source):
            for family in families:
                for client, target, _ in ways:
                    with Client(client, world.address(target, family)) as talk:
                        assert talk.hello()["server"] == target, (source, family, client.name, target)
                        assert talk.echo(b"x" * 30000), (source, family, client.name, target)
                datagrams(world, [(client, world.address(target, family)) for client, target, _ in ways])
    return 2 * len(sources) * len(families) * sum(handed for *_, handed in ways)


def datagrams(world, ways):
    """One there and one back, for each; once more where one was lost. No port is taken by two: entries outlive their flows."""
    probes = world.prober.probe([Probe(client, ip, 80, "UDP", expect=ALLOW, bind=("", next(PORTS))) for client, ip in ways])
    lost = [probe for probe in probes if not probe.ok]
    probes = world.prober.probe(
        [Probe(one.source, one.destination, 80, "UDP", expect=ALLOW, bind=one.bind) for one in lost]) if lost else []
    lost = [probe for probe in probes if not probe.ok]
    assert not lost, "\n".join(map(str, [*(f"{probe} from {probe.local}" for probe in lost), *dropped(world),
                                         *known(world, [probe.local[1] for probe in lost]), world.proxies[-1].log[-2000:]]))


def dropped(world):
    """What the kernel's programs say of it."""
    text = world.running.api.request("GET", "/metrics").text
    return [line for line in text.splitlines() if "packets_total" in line and "Dropped" in line and not line.endswith(" 0")]


def known(world, ports):
    """What the agent and the kernel know of flows from these ports."""
    told = [line for path in ("/v1/connections", "/v1/flows") for line in world.running.api.request("GET", path).text.splitlines()]
    told += world.node.run("ss", "-Huanp").stdout.splitlines() + world.node.run("ip", "neigh").stdout.splitlines()
    return [line for line in told if "lladdr" in line or "FAILED" in line or any(str(port) in line for port in ports)]


def interfaces(world):
    return world.a.interface, world.b.interface, UPLINK


def masked(world, value):
    """The agent's mark mask, changed on a node that is in use."""
    world.running.stop()
    world.running.config["datapath"]["markMask"] = hex(value)
    world.running.write_config()
    world.running.start()


# ---- marks ----

def test_no_bit_of_others_is_changed(beside):
    """Every packet comes to our programs with bits of somebody else, all over the mark, and has them still behind ours."""
    world = beside
    for mask in (0xc0000000, MASK):
        masked(world, mask)
        pattern = PATTERN & ~mask & 0xffffffff
        stamps, watches = ([world.programs.load(name, mask, pattern) for _ in range(2)] for name in ("stamp", "watch"))
        for interface in interfaces(world):
            for at, side in enumerate(("ingress", "egress")):
                if not world.programs.tcx(stamps[at], interface, side, first=True):
                    pytest.skip("this kernel has no TCX")
                world.programs.tcx(watches[at], interface, side)
        # Between the two, as the stack has them.
        world.node.run("nft", "-f", "-", input=f"""table inet foreign {{
counter kept {{ }}
counter lost {{ }}
chain c {{ type filter hook prerouting priority raw; iifname lo return
meta mark & {~mask & 0xffffffff:#x} == {pattern:#x} counter name kept return
counter name lost
}}
}}
""")
        before = world.handed()
        assert everywhere(world, [4, 6][:1 + (mask == MASK)], ["client"]) == world.handed() - before
        lost, kept = (world.node.run("nft", "list", "counter", "inet", "foreign", name).stdout for name in ("lost", "kept"))
        world.node.run("nft", "delete", "table", "inet", "foreign")
        world.programs.detach()
        assert "packets 0 " in lost and "packets 0 " not in kept
        assert [watch.lost for watch in watches] == [0, 0] and min(watch.seen for watch in watches) > 50
        assert watches[0].marked > 20, "ours are there: on what goes to a proxy"


def test_marks_that_the_kernel_carries_on(beside):
    """A foreign mark becomes that of the accepted socket, of what it sends, and of resets: with ours beside it."""
    world = beside
    before = {key: world.node.sysctl(key) for key in ("net.ipv4.tcp_fwmark_accept", "net.ipv4.fwmark_reflect",
                                                      "net.ipv6.fwmark_reflect")}
    stamp, watch = world.programs.load("stamp", MASK, PATTERN & ~MASK), world.programs.load("watch", MASK, PATTERN & ~MASK)
    world.programs.tcx(stamp, world.a.interface, "ingress", first=True)
    world.programs.tcx(watch, world.a.interface, "egress")
    try:
        for key in before:
            world.node.sysctl(key, 1)
        world.front()
        for family in (4, 6):
            with Client(world.a, world.address("outside", family)) as talk:
                assert talk.hello()["server"] == "proxy" and talk.pour(1) is None
        assert watch.seen > 10 and watch.lost <= 4, "but for a first answer, which no socket sends yet"
    finally:
        for key, value in before.items():
            world.node.sysctl(key, value)


# ---- programs ----

def test_programs_of_others_see_what_passes(beside):
    """TCX before and behind, filters of tc before and behind, whatever these answer; XDP; through restarts of the agent."""
    world, seen = beside, {}
    for interface in interfaces(world):
        for name, program, how in (
                ("tcx, first", "watch", lambda p, i: world.programs.tcx(p, i, "ingress", "egress", first=True)),
                ("tcx, last", "watch", lambda p, i: world.programs.tcx(p, i, "ingress", "egress")),
                ("tc, first", "watch", lambda p, i: world.programs.tc(p, i, "ingress", "egress", priority=1)),
                ("tc, ends", "ends", lambda p, i: world.programs.tc(p, i, "ingress", "egress", priority=9)),
                ("xdp", "passes", world.programs.xdp)):
            seen[interface, name] = world.programs.load(program)
            how(seen[interface, name], interface)
    for change in (lambda: None, world.running.restart, lambda: (world.running.kill9(), world.running.start())):
        change()
        for program in seen.values():
            program.clear()
        before = world.handed()
        assert everywhere(world, [4], ["client"]) == world.handed() - before
        assert {where: program.seen > 20 for where, program in seen.items()} == dict.fromkeys(seen, True)


@pytest.mark.parametrize("mode", ["xdp", "xdpgeneric"])
def test_xdp_of_others(beside, mode):
    world = beside
    passes = world.programs.load("passes")
    for interface in interfaces(world):
        world.programs.xdp(passes, interface, mode)
    assert everywhere(world) == world.handed() and passes.seen > 200


def test_a_filter_that_ends_the_chain(beside):
    """TC_ACT_OK of a filter is in nobody's way: links of TCX run before all filters."""
    world = beside
    ends = world.programs.load("ends")
    for interface in interfaces(world):
        world.programs.tc(ends, interface, "ingress", "egress", priority=1)
    assert everywhere(world, [4], ["client"]) == world.handed() and ends.seen > 50


@pytest.mark.parametrize("engine", ENGINES)
def test_filters_of_tc_where_there_is_no_tcx(monkeypatch, engine):
    monkeypatch.setenv("PENSTOCK_HOOK", "clsact")
    with World("a", "b", engine=engine) as world, Programs(world) as programs:
        world.begin()
        steered(world)
        seen = [programs.load(name) for name in ("watch", "ends")]
        for program, priority in zip(seen, (1, 9)):
            for interface in interfaces(world):
                programs.tc(program, interface, "ingress", "egress", priority=priority)
        assert everywhere(world) == world.handed() and min(program.seen for program in seen) > 200
        world.end()


@pytest.mark.parametrize("by", ["tcx", "clsact"])
def test_who_ends_the_chain_before_us_defeats_us(alone, monkeypatch, by):
    """Said in the README: a program of TCX that was there first, or with clsact a filter of a lower priority."""
    world = alone
    if by == "clsact":
        monkeypatch.setenv("PENSTOCK_HOOK", "clsact")
        forget(world)
        world.running.start()
    world.front()
    assert answered(world, world.a, "outside") == "proxy"
    with Programs(world) as programs:
        ends = programs.load("ends")
        if by == "tcx":
            programs.tcx(ends, world.a.interface, "ingress", first=True)
        else:
            programs.tc(ends, world.a.interface, "ingress", priority=1)
        assert answered(world, world.a, "outside") == "outside" and ends.seen
    assert answered(world, world.a, "outside") == "proxy"
