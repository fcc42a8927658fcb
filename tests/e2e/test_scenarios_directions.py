# SPDX-License-Identifier: Apache-2.0
"""Interception of either direction, policy before it, and pods that are ports of a bridge."""
import os

import pytest

from objects import allow_from, policy, proxy
from proxies import PORT, Relay
from steering import ENGINES, FAMILIES, OUTSIDE, SOURCES, World, answered, come, egress, host, ingress, to
from talk import Client, ask


@pytest.fixture
def world(shared):
    shared.begin()
    yield shared
    shared.end()


# ---- either direction, and policy ----

@pytest.mark.parametrize("client", ["outside", "c"])
@FAMILIES
def test_ingress_is_intercepted(world, family, client):
    space = world.outside if client == "outside" else world.c
    world.put(ingress())
    front = world.front()
    with Client(space, world.address("b", family)) as talk:
        assert talk.hello()["server"] == "proxy" and talk.pour(8) is None
    assert front.accepted == [(*talk.ends, world.address("b", family), 80)] and world.handed() == 1
    assert answered(world, space, "c" if client == "outside" else "a", family) in ("a", "c"), "another destination"


@FAMILIES
def test_ingress_rules_choose_by_source(world, family):
    world.put(ingress(come(*world.a.ips, action="Bypass"), come(*OUTSIDE, *world.a.ips)))
    world.front()
    assert answered(world, world.outside, "b", family) == "proxy"
    assert answered(world, world.c, "b", family) == "b"
    assert answered(world, world.a, "b", family) == "b", "a Bypass ends the search"
    assert world.handed() == 1


@FAMILIES
def test_egress_is_asked_before_ingress(world, family):
    """And once an egress rule has decided, Bypass too, ingress is not asked."""
    second, servers = proxy("second", PORT + 1), (world.front(), world.front(PORT + 1, name="second"))
    to_b = to(*world.b.ips)
    for rules, server in (([egress(to_b), ingress(come(name="second"))], "proxy"),
                          ([egress(), ingress(come(name="second"))], "second"),
                          ([egress(to(*world.b.ips, action="Bypass")), ingress(come(name="second"))], "b"),
                          ([egress(to(*world.b.ips, name="second")), ingress()], "second"),
                          ([egress(to_b), ingress(come(action="Bypass"))], "proxy")):
        world.put(second, *rules)
        assert answered(world, world.a, "b", family) == server
    assert sum(len(front.accepted) for front in servers) == 4
    assert world.handed() == 2 and world.handed("second") == 2


@pytest.mark.parametrize("side", ["egress", "ingress outside", "ingress pod"])
@FAMILIES
def test_what_policy_denies_is_not_handed_over(world, family, side):
    rules = [egress()] if side == "egress" else [ingress()]
    space, target = {"egress": (world.a, "outside"), "ingress outside": (world.outside, "b"),
                     "ingress pod": (world.c, "b")}[side]
    denied = policy("s", "no", {"name": "a"}, types=["Egress"]) if side == "egress" else \
        policy("s", "no", {"name": "b"}, types=["Ingress"])
    world.put(*rules, denied)
    front = world.front()
    assert isinstance(ask(space, world.address(target, family), timeout=0.3), str)
    assert front.accepted == [] and world.handed() == 0
    world.put(*rules)
    assert answered(world, space, target, family) == "proxy"


@pytest.mark.parametrize("side", ["egress", "ingress outside", "ingress pod"])
@FAMILIES
def test_a_new_policy_stops_what_the_proxy_has(world, family, side):
    rules = [egress()] if side == "egress" else [ingress()]
    space, target = {"egress": (world.a, "outside"), "ingress outside": (world.outside, "b"),
                     "ingress pod": (world.c, "b")}[side]
    denied = policy("s", "no", {"name": "a"}, types=["Egress"]) if side == "egress" else \
        policy("s", "no", {"name": "b"}, types=["Ingress"])
    world.put(*rules)
    world.front()
    with Client(space, world.address(target, family)) as talk:
        assert talk.hello()["server"] == "proxy" and talk.echo()
        world.put(*rules, denied)
        assert not talk.echo(b"lost?", timeout=0.4)
        world.put(*rules)
        talk.sock.settimeout(5)
        assert talk.sock.recv(5) == b"lost?", "TCP sends it again, and it passes"
        assert talk.echo()


@SOURCES
@FAMILIES
def test_a_server_admits_the_client_through_the_proxy(world, family, source):
    """b admits a and the outside host, and denies c, whoever connects for them."""
    peers = [{"podSelector": {"matchLabels": {"name": "a"}}}, *[{"ipBlock": {"cidr": host(ip)}} for ip in OUTSIDE]]
    world.put(egress(to(*world.b.ips)), egress(to(*world.b.ips), name="other", pod="c"),
              ingress(come(*OUTSIDE)), allow_from("s", "b-in", {"name": "b"}, peers))
    Relay(world, "--source", source)
    assert answered(world, world.a, "b", family) == answered(world, world.outside, "b", family) == "b"
    assert isinstance(ask(world.c, world.address("b", family), timeout=0.3), str)
    assert world.handed() == 2


@SOURCES
@FAMILIES
def test_policies_of_the_other_ends_do_not_ask(world, family, source):
    """Replies pass: the client admits nobody, the server reaches nobody; neither concerns the proxy's connection."""
    world.put(egress(to(*OUTSIDE, *world.b.ips)), policy("s", "a-in", {"name": "a"}, types=["Ingress"]),
              policy("s", "b-out", {"name": "b"}, types=["Egress"]))
    Relay(world, "--source", source)
    for target in ("outside", "b"):
        with Client(world.a, world.address(target, family)) as talk:
            assert talk.hello()["server"] == target and talk.pour(1) is None
    assert world.handed() == 2


# ---- bridges ----

@pytest.fixture(scope="module", params=ENGINES)
def bridges(request):
    with World("a", "b", "c", bridge=True, engine=request.param) as world:
        yield world


@pytest.fixture(params=[0, 1], ids=["", "br_netfilter"])
def bridged(bridges, request):
    """Pods are ports of one bridge: what goes from one to the other is not routed."""
    key = "net.bridge.bridge-nf-call-iptables"
    if not os.path.exists("/proc/sys/net/bridge"):
        if request.param:
            pytest.skip("this kernel has no br_netfilter")
    else:
        bridges.node.sysctl(key, request.param)
        bridges.node.sysctl(key.replace("iptables", "ip6tables"), request.param)
    bridges.begin(egress(to(*OUTSIDE, *bridges.b.ips)))
    yield bridges
    bridges.end()


@pytest.mark.parametrize("target", ["outside", "b"])
@FAMILIES
def test_bridge_egress(bridged, family, target):
    world = bridged
    front = world.front()
    with Client(world.a, world.address(target, family)) as client:
        assert client.hello()["server"] == "proxy" and client.pour(8) is None
    assert front.accepted == [(*client.ends, *client.destination)]
    assert answered(world, world.a, "c", family) == "c" and answered(world, world.c, "b", family) == "b"
    assert world.handed() == 1


@pytest.mark.parametrize("target", ["outside", "b"])
@SOURCES
@FAMILIES
def test_bridge_relay(bridged, family, target, source):
    world = bridged
    Relay(world, "--source", source)
    with Client(world.a, world.address(target, family)) as client:
        who = client.hello()
        assert who["server"] == target and (who["peer"][0] == client.ends[0]) == (source == "client")
        assert client.pour(8) is None
    assert world.handed() == 1 and world.onward(source) == 1


@pytest.mark.parametrize("client", ["outside", "c"])
@FAMILIES
def test_bridge_ingress(bridged, family, client):
    world = bridged
    space = world.outside if client == "outside" else world.c
    world.put(ingress())
    for source in ("client", "node"):
        with Relay(world, "--source", source):
            with Client(space, world.address("b", family)) as talk:
                who = talk.hello()
                assert who["server"] == "b" and (who["peer"][0] == talk.ends[0]) == (source == "client")
                assert talk.pour(2) is None
    assert world.handed() == 2


# ---- what else a node has ----

MASQUERADE = """
table inet neighbour {
    chain out {
        type nat hook postrouting priority 100
        ip saddr 10.77.0.0/16 oifname "uplink" masquerade
        ip6 saddr fd00:77::/64 oifname "uplink" masquerade
    }
}
"""
INVALID = "table inet neighbour {" + "".join(f"""
    chain {hook} {{
        type filter hook {hook} priority 0
        ct state invalid counter drop
    }}""" for hook in ("input", "forward", "output")) + "\n}\n"


@pytest.fixture
def ruled(world):
    """Somebody else's nftables rules, for one test."""
    yield lambda text: world.node.run("nft", "-f", "-", input=text)
    world.node.run("nft", "delete", "table", "inet", "neighbour")


@pytest.mark.parametrize("rules", [MASQUERADE, INVALID], ids=["masquerade", "drop invalid"])
@SOURCES
@FAMILIES
def test_beside_foreign_rules(world, ruled, family, source, rules):
    world.put(egress(to(*OUTSIDE, *world.b.ips)), ingress(come(*OUTSIDE)))
    ruled(rules)
    Relay(world, "--source", source)
    for space, target in ((world.a, "outside"), (world.a, "b"), (world.outside, "b"), (world.c, "outside")):
        with Client(space, world.address(target, family), timeout=3) as talk:
            assert talk.hello()["server"] == target and talk.pour(2) is None, (space.name, target)
    assert world.handed() == 3
    assert "counter packets 0 " in world.node.run("nft", "list", "ruleset").stdout or rules == MASQUERADE
