# SPDX-License-Identifier: Apache-2.0
"""What the field's transparent proxies are tested for, or have been bitten by: by number, TCP, with either engine.
1 to 21 here, 22 to 33 in test_scenarios_churn.py, either direction and bridges in test_scenarios_directions.py, UDP in
test_scenarios_udp.py. tests/scenarios.md has them all.
"""
import json
import os
import socket

import pytest

from lab import GATEWAY4, NODE4, NODE6, OUTSIDE4, OUTSIDE6, UPLINK4, UPLINK6
from objects import proxy
from proxies import PORT, Relay
from scenes import eventually
from steering import FAMILIES, OUTSIDE, SOURCES, answered, come, egress, forget, ingress, refused, select, to, unled
from talk import Client, Server, ask


# ---- 1 … 9: interception ----

@FAMILIES
def test_01_what_matches_goes_to_the_proxy_and_nothing_else(world, family):
    world.front()
    assert answered(world, world.a, "outside", family) == "proxy"
    assert answered(world, world.a, "b", family) == "b", "another address"
    assert answered(world, world.b, "outside", family) == "outside", "another subject"
    assert world.handed() == 1


@pytest.mark.parametrize("destination, port", [
    (OUTSIDE4, 80), (OUTSIDE4, 4444), ("203.0.113.77", 80), ("203.0.113.77", 65535), ("240.0.0.1", 1),
    ("169.254.169.254", 80), (OUTSIDE6, 80), (OUTSIDE6, 4444), ("2001:db8:ffff::77", 80), ("2001:db8:ffff::77", 65535),
    ("64:ff9b::1", 1), ("fd00:ec2::254", 80)])
def test_03_addresses_and_ports_that_nobody_has(world, destination, port):
    world.put(egress(to(destination, port=port)))
    world.front()
    assert answered(world, world.a, destination, port=port) == "proxy"


@pytest.mark.parametrize("listen", ["::", "wildcard", "loopback"])
@FAMILIES
def test_04_the_original_destination_is_the_local_address(world, family, listen):
    address = {"::": "::", "wildcard": "0.0.0.0", "loopback": "127.0.0.1"} if family == 4 else \
        {"::": "::", "wildcard": "::", "loopback": "::1"}
    front = world.front(address=address[listen])
    with Client(world.a, world.address("outside", family)) as client:
        client.hello()
    assert front.accepted == [(*client.ends, *client.destination)]


@FAMILIES
def test_04_so_original_dst(world, family):
    front = world.front()
    with Client(world.a, world.address("outside", family)) as client:
        client.hello()
        sock, = front.open
        if family == 4:
            raw = sock.getsockopt(socket.IPPROTO_IP, 80, 16)
            address = socket.inet_ntop(socket.AF_INET, raw[4:8])
        else:
            raw = sock.getsockopt(socket.IPPROTO_IPV6, 80, 28)
            address = socket.inet_ntop(socket.AF_INET6, raw[8:24])
        assert (address, int.from_bytes(raw[2:4], "big")) == client.destination


@pytest.mark.parametrize("target", ["outside", "b"])
@FAMILIES
def test_05_the_server_sees_the_client(world, family, target):
    world.put(egress(to(*OUTSIDE, *world.b.ips)))
    Relay(world, "--source", "client")
    with Client(world.a, world.address(target, family)) as client:
        who = client.hello()
        assert who["server"] == target and who["peer"][0] == client.ends[0]
        assert client.echo(b"x" * 100000)
    assert world.handed() == world.onward("client") == 1 and world.onward("node") == 0


@pytest.mark.parametrize("ip", [NODE4, UPLINK4, NODE6, UPLINK6])
def test_05_a_server_that_is_the_node_itself(world, ip):
    """Cannot be reached with the client's address: from the node's own instead, and counted."""
    world.put(egress(to(ip)))
    relay = Relay(world, "--source", "client")
    server = Server(world.node, 80, "node")
    try:
        who = ask(world.a, ip)
        assert who["server"] == "node" and who["local"] == [ip, 80]
        assert relay.lines(r"source=(\S+)") == ["node(own-address)"]
        assert world.handed() == world.onward("node") == 1 and world.onward("client") == 0
    finally:
        server.close()


@FAMILIES
def test_05_a_client_with_further_addresses(world, family):
    """allowedSources: a router or a VM behind a workload's interface."""
    source, network = ("10.99.0.5", "10.99.0.0/24") if family == 4 else ("fd00:99::5", "fd00:99::/64")
    world.a.ip(f"addr add {source} dev eth0" + " nodad" * (family == 6))
    world.node.ip(f"route add {network} dev {world.a.interface}")
    world.outside.ip(f"route add {network} via {UPLINK4 if family == 4 else UPLINK6}")
    try:
        items = [dict(item, spec={**item["spec"], "allowedSources": [network]}) if item["metadata"]["name"] == "a" else
                 item for item in world.items]
        world.running.api.put_state([*items, proxy("gw", PORT), egress(to(*OUTSIDE, *world.b.ips))])
        for how in ("client", "node"):
            with Relay(world, "--source", how):
                for target in ("outside", "b"):
                    with Client(world.a, world.address(target, family), bind=(source, 0)) as client:
                        who = client.hello()
                        assert who["server"] == target and (who["peer"][0] == source) == (how == "client")
                        assert client.echo(b"x" * 50000)
        assert world.handed() == 4
    finally:
        world.a.ip(f"addr del {source} dev eth0")
        world.node.ip(f"route del {network} dev {world.a.interface}")
        world.outside.ip(f"route del {network}")


@FAMILIES
def test_08_the_node_itself_is_not_asked(world, family):
    world.front()
    assert answered(world, world.node, "outside", family) == "outside"
    assert answered(world, world.node, "b", family) == "b"
    world.put(egress(), ingress())
    assert answered(world, world.node, "b", family) == "b"
    assert world.handed() == 0


def test_09_ipv4_to_a_listener_of_mapped_addresses(world):
    world.front(address="::ffff:127.0.0.1")
    assert answered(world, world.a, "outside", 4) == "proxy"
    assert refused(world, world.a, "outside", 6)


# ---- 10 … 14: choosing the socket ----

@pytest.mark.parametrize("transparent", [True, False], ids=["ready", "adopted"])
@FAMILIES
def test_11_a_group_shares_the_work(world, family, transparent):
    world.quiet()
    fronts = [world.front(reuseport=True, transparent=transparent) for _ in range(3)]
    world.usable()
    eventually(lambda: len([one for one in world.proxy_status()["listeners"] if one["state"] != "Ignored"]) == 3)
    for _ in range(60):
        assert answered(world, world.a, "outside", family) == "proxy"
    counts = [len(front.accepted) for front in fronts]
    assert sum(counts) == world.handed() == 60 and min(counts) > 3, counts


@FAMILIES
def test_11_who_selects_within_the_group(world, family):
    """A filter of the proxy's own (SO_ATTACH_REUSEPORT_CBPF): all connections are the second's."""
    world.quiet()
    fronts = [world.front(reuseport=True) for _ in range(3)]
    select(fronts[0].listener, 1)
    for _ in range(12):
        assert answered(world, world.a, "outside", family) == "proxy"
    assert [len(front.accepted) for front in fronts] == [0, 12, 0]


@FAMILIES
def test_12_an_established_socket_is_no_listener(world, family):
    """The proxy listens no more, but still has connections on its port."""
    front = world.front()
    with Client(world.node, "127.0.0.1" if family == 4 else "::1", PORT) as own, \
            Client(world.a, world.address("outside", family)) as held:
        own.hello(), held.hello()
        front.stop()
        assert refused(world, world.a, "outside", family)
        assert own.echo() and held.echo()


@SOURCES
@FAMILIES
def test_12_syn_cookies(world, bent, family, source):
    """The answer to a cookie finds no socket of its own: it goes to the listener, or to the leg."""
    bent("net.ipv4.tcp_syncookies", 2)
    world.put(egress(to(*OUTSIDE, *world.b.ips)), ingress(come(*OUTSIDE)))
    Relay(world, "--source", source)
    for space, target in ((world.a, "outside"), (world.a, "b"), (world.outside, "b")):
        assert answered(world, space, target, family) == target
    assert world.handed() == 3


@FAMILIES
def test_13_packets_of_unknown_connections(alone, family):
    """With a proxy's socket they go on to it; without they pass untouched, whatever the rules say."""
    world = alone
    world.front()
    destination = world.address("outside", family)
    with Client(world.a, destination) as handed:
        assert handed.hello()["server"] == "proxy"
        forget(world)
        with Client(world.a, destination) as straight:
            assert straight.hello()["server"] == "outside"
            world.running.start()
            assert straight.echo() and handed.echo()
            assert world.running.api.status()["engine"]
            forget(world)
            world.running.start()
            # The server speaks first, then the proxy: nothing of the client's has made an entry.
            server, = world.servers["outside"].open
            server.sendall(b"news")
            assert straight.sock.recv(4) == b"news" and straight.echo()
            front, = world.fronts[0].open
            front.sendall(b"news")
            assert handed.sock.recv(4) == b"news" and handed.echo()
            assert answered(world, world.a, "outside", family) == "proxy"
            assert straight.echo() and handed.echo()


@pytest.mark.parametrize("client, target, source", [
    ("a", "outside", "client"), ("a", "b", "client"), ("outside", "b", "client"), ("outside", "b", "node")])
def test_13_both_sides_of_a_proxy(alone, client, target, source):
    """Neither the client's connection nor the proxy's own is known to a new agent: the sockets tell."""
    world = alone
    rules = [egress(to(*OUTSIDE, *world.b.ips)), ingress(come(*OUTSIDE))]
    world.put(*rules)
    Relay(world, "--source", source)
    space = world.outside if client == "outside" else world.a
    talks = [Client(space, world.address(target, family)) for family in (4, 6)]
    try:
        assert [talk.hello()["server"] for talk in talks] == [target] * 2
        for speaker in ("client", "server"):
            forget(world)
            world.running.start()
            if speaker == "server":
                for sock in list(world.servers[target].open):
                    sock.sendall(b"news")
                assert [talk.sock.recv(4) for talk in talks] == [b"news"] * 2
            assert all(talk.echo() for talk in talks), speaker
        assert all(talk.pour(1) is None for talk in talks)
    finally:
        for talk in talks:
            talk.close()


@FAMILIES
def test_14_somebody_on_the_node_has_the_destinations_port(world, family):
    world.front()
    other = Server(world.node, 80, "node")
    try:
        assert answered(world, world.a, "outside", family) == "proxy"
        assert answered(world, world.a, NODE4 if family == 4 else NODE6) == "node", "a local service stays one"
        assert answered(world, world.b, "outside", family) == "outside"
        world.put(egress(to()))
        assert answered(world, world.a, NODE4 if family == 4 else NODE6) == "proxy", "when a rule says so"
    finally:
        other.close()


# ---- 15 … 18: loops ----

@SOURCES
@pytest.mark.parametrize("captured", ["egress", "ingress", "both"])
@FAMILIES
def test_15_17_what_a_proxy_opens_is_not_captured_again(world, family, captured, source):
    """a to b: once, whichever side asks for it; the bytes are the same on both sides."""
    world.put(*[egress(to(*world.b.ips))] * (captured != "ingress"), *[ingress()] * (captured != "egress"))
    relay = Relay(world, "--source", source)
    with Client(world.a, world.address("b", family)) as client:
        who = client.hello()
        assert who["server"] == "b" and (who["peer"][0] == client.ends[0]) == (source == "client")
        assert client.pour(2) is None
    line, = relay.lines(r"up=(\d+) down=(\d+)")
    assert line == (str(len(b"hello\n") + (2 << 20)), str(len(json.dumps(who)) + 1 + (2 << 20)))
    assert world.handed() == 1
    assert (world.onward("client"), world.onward("node")) == ((1, 0) if source == "client" else (0, 1))


@SOURCES
def test_17_client_outside(world, source):
    world.put(ingress())
    Relay(world, "--source", source)
    for family in (4, 6):
        with Client(world.outside, world.address("b", family)) as client:
            who = client.hello()
            assert who["server"] == "b" and (who["peer"][0] == client.ends[0]) == (source == "client")
            assert client.pour(8) is None
    assert world.handed() == 2


@pytest.mark.parametrize("everything", [False, True], ids=["not steered", "steered"])
@SOURCES
@FAMILIES
def test_16_nobody_gets_a_loop_from_the_proxys_own_port(world, family, source, everything):
    world.put(egress(to(port=PORT), to()) if everything else egress())
    relay = Relay(world, "--source", source)
    before = len(os.listdir(f"/proc/{relay.process.pid}/fd"))
    own = [NODE4, UPLINK4, GATEWAY4] if family == 4 else [NODE6, UPLINK6]
    for ip in own:
        for client in (world.a, world.b):
            assert not isinstance(ask(client, ip, PORT, timeout=1), dict)
    assert not isinstance(ask(world.node, "127.0.0.1" if family == 4 else "::1", PORT, timeout=1), dict)
    assert len(relay.seen(0)) <= 4 * len(own) + 2, "no recursion"
    eventually(lambda: len(os.listdir(f"/proc/{relay.process.pid}/fd")) <= before + 8)
    assert answered(world, world.a, "outside", family) == "outside"


@FAMILIES
def test_18_the_checker_sees_what_goes_past_a_proxy(world, family):
    """What World.end asks of every test, of a connection that did go straight."""
    world.put()
    with Client(world.a, world.address("outside", family)) as client:
        assert client.hello()["server"] == "outside"
    world.handed_over = {(*client.ends, *client.destination)}
    eventually(lambda: len(world.leaks("a")) == 1)
    world.handed_over = set()


# ---- 19 … 21: routing ----

@SOURCES
@FAMILIES
def test_19_without_forwarding(world, bent, family, source):
    bent("net.ipv4.ip_forward", 0)
    bent("net.ipv6.conf.all.forwarding", 0)
    assert answered(world, world.b, "outside", family, timeout=0.3) != "outside", "there is none indeed"
    Relay(world, "--source", source)
    with Client(world.a, world.address("outside", family)) as client:
        assert client.hello()["server"] == "outside" and client.pour(1) is None
    assert world.handed() == 1


@pytest.mark.parametrize("what", ["rules", "routes"])
@FAMILIES
def test_19_rules_and_routes_that_are_gone(world, family, what):
    """Nothing goes on to the server; they come back as soon as the agent sees it."""
    world.front()
    assert answered(world, world.a, "outside", family) == "proxy"
    served = len(world.servers["outside"].accepted)
    with unled(world, family, what):
        assert isinstance(ask(world.a, world.address("outside", family), timeout=0.5), str)
        assert len(world.servers["outside"].accepted) == served
    eventually(lambda: answered(world, world.a, "outside", family, timeout=0.3) == "proxy")


@pytest.mark.parametrize("valid_mark", [0, 1], ids=["", "src_valid_mark"])
@pytest.mark.parametrize("rp_filter", [0, 1, 2])
def test_20_reverse_path_filters(world, bent, rp_filter, valid_mark):
    for interface in ("all", "default", "uplink", world.a.interface, world.b.interface):
        bent(f"net.ipv4.conf.{interface}.rp_filter", rp_filter)
        bent(f"net.ipv4.conf.{interface}.src_valid_mark", valid_mark)
    world.put(egress(to(*OUTSIDE, *world.b.ips)), ingress(come(*OUTSIDE)))
    for source in ("client", "node"):
        with Relay(world, "--source", source):
            for client, target in ((world.a, "outside"), (world.a, "b"), (world.outside, "b")):
                assert answered(world, client, target, timeout=2) == target, (source, client.name, target)
    assert world.handed() == 6


@SOURCES
def test_20_marks_that_the_kernel_carries_on(world, bent, source):
    """Replies and accepted sockets take the mark over: it must not lead them back."""
    for key in ("ipv4.tcp_fwmark_accept", "ipv4.fwmark_reflect", "ipv6.fwmark_reflect"):
        bent(f"net.{key}", 1)
    world.put(egress(to(*OUTSIDE, *world.b.ips)), ingress(come(*OUTSIDE)))
    Relay(world, "--source", source)
    for family in (4, 6):
        for client, target in ((world.a, "outside"), (world.a, "b"), (world.outside, "b")):
            with Client(client, world.address(target, family)) as talk:
                assert talk.hello()["server"] == target and talk.pour(1) is None
    assert world.handed() == 6


def resets(space):
    """How many resets its TCP has sent: one for each stray packet."""
    with space.entered(), open("/proc/thread-self/net/snmp") as file:
        names, values = [line.split() for line in file if line.startswith("Tcp:")]
    return int(values[names.index("OutRsts")])


@pytest.mark.parametrize("target", ["outside", "b"])
@FAMILIES
def test_21_replies_to_the_proxys_connection_stay_with_it(world, family, target):
    """The server answers to the client's address: its packets are the proxy's, and the pod sees none of them."""
    world.put(egress(to(*OUTSIDE, *world.b.ips)))
    Relay(world, "--source", "client")
    before = resets(world.a)
    for _ in range(20):
        assert answered(world, world.a, target, family) == target
    assert world.handed() == world.onward("client") == 20 and resets(world.a) == before
