# SPDX-License-Identifier: Apache-2.0
"""What test_scenarios.py begins, goes on: failure, restart, churn, ports, shapes of packets (22 to 33)."""
import itertools
import json
import socket
import threading

import pytest

from lab import OUTSIDE4
from objects import proxy
from proxies import PORT, Relay
from scenes import eventually
from steering import FAMILIES, OUTSIDE, SOURCES, Load, answered, come, egress, forget, ingress, refused, to
from talk import TRANSPARENT, Client, Server

TCP_REPAIR = 19  # a socket that is closed in this state says nothing


# ---- 22 … 28: failure, restart, churn ----

@FAMILIES
def test_22_nobody_listens(world, family):
    served = len(world.servers["outside"].accepted)
    assert refused(world, world.a, "outside", family)
    assert len(world.servers["outside"].accepted) == served and world.wires["outside"].read() == []
    world.put(egress(), gw=proxy("gw", PORT, unavailable="Bypass"))
    assert answered(world, world.a, "outside", family) == "outside"
    world.front()
    assert answered(world, world.a, "outside", family) == "proxy"


@pytest.mark.parametrize("address, up, down", [("127.0.0.1", 4, 6), ("::1", 6, 4)])
def test_22_each_family_for_itself(world, address, up, down):
    world.quiet()
    world.front(address=address, transparent=False)
    world.usable(up)
    assert world.proxy_status()["families"] == [f"IPv{up}"]
    assert answered(world, world.a, "outside", up) == "proxy"
    assert refused(world, world.a, "outside", down)
    world.put(egress(), gw=proxy("gw", PORT, unavailable="Bypass"))
    assert answered(world, world.a, "outside", up) == "proxy"
    assert answered(world, world.a, "outside", down) == "outside"


@pytest.mark.parametrize("way", ["restart", "kill -9"])
def test_23_new_connections_while_the_agent_restarts(world, way):
    """All of them get to the proxy, and none goes straight, or is late."""
    world.front()
    families = itertools.cycle([4, 6])
    load = Load(lambda: answered(world, world.a, "outside", next(families)))
    load.grown()
    for _ in range(2):
        if way == "restart":
            world.running.stop()
        else:
            world.running.kill9()
        load.grown()
        world.running.start()
        load.grown()
        world.put(egress(), egress(to("203.0.113.9"), name="other"))
        load.grown()
    results = load.end()
    assert set(results) == {"proxy"}, [one for one in results if one != "proxy"]
    assert world.wires["a"].repeated() == []


def test_23_rules_that_come_and_go_under_load(world):
    """Every connection goes one way or the other, at once."""
    world.front()
    world.reused = True
    families = itertools.cycle([4, 6])
    load = Load(lambda: answered(world, world.a, "outside", next(families)))
    for turn in range(12):
        world.put(*[egress()] * (turn % 2))
        load.grown(10)
    results = load.end()
    assert set(results) == {"proxy", "outside"}, set(results)
    assert world.wires["a"].repeated() == []


@SOURCES
@FAMILIES
def test_24_a_live_connection_outlives_the_agent(world, family, source):
    Relay(world, "--source", source)
    with Client(world.a, world.address("outside", family)) as client:
        assert client.hello()["server"] == "outside"
        for end in (world.running.stop, world.running.kill9):
            end()
            assert client.echo()
            world.running.start()
            assert client.echo(b"x" * 200000)
            world.put(egress())
            assert client.echo()
        assert client.pour(4) is None


def test_24_a_proxy_that_drains(world):
    """What is open finishes, what comes later is refused."""
    relay = Relay(world, "--source", "client", "--drain", "20")
    with Client(world.a, OUTSIDE4) as client:
        client.hello()
        relay.process.terminate()
        eventually(lambda: not relay.listens())
        assert refused(world, world.a, "outside") and client.echo()
    assert relay.process.wait(5) == 0


def test_25_a_workload_that_comes_while_the_agent_is_down(alone):
    """From the agent's first ready moment on it is intercepted."""
    world = alone
    world.front()
    late = world.pod("late", attach=False)
    world.put(egress(pod="late"))
    world.running.kill9()
    world.attach(late)
    world.running.start()
    assert answered(world, late, "outside", 4) == answered(world, late, "outside", 6) == "proxy"


@FAMILIES
def test_26_a_workload_that_goes(alone, family):
    """Nothing of its connection gets to the server; who has its address next begins anew."""
    world = alone
    world.front()
    destination, bind = world.address("outside", family), ("", 20426)
    with Client(world.a, destination, bind=bind) as client:
        client.hello()
        served, ips = len(world.servers["outside"].accepted), world.a.ips
        world.running.api.delete_object("Workload", "s", "a")
        client.echo(timeout=0.5)
        assert len(world.servers["outside"].accepted) == served, "it may stay with the proxy, or fail"
        world.wires.pop("a").close()
        world.node.ip(f"link del {world.a.interface}")
        assert not client.echo(timeout=0.5)
    world.pods.pop("a")
    heir = world.pod("heir", ips)
    world.put(egress(pod="heir"))
    with Client(heir, destination, bind=bind) as client:
        assert client.hello()["server"] == "proxy" and client.echo()


@pytest.mark.parametrize("target", ["outside", "b"])
@FAMILIES
def test_27_rules_are_for_connections_that_begin_later(world, family, target):
    """A direct one stays direct when a rule comes; the proxy's stays with the proxy when the rule goes."""
    world.put()
    world.front()
    rules = [egress(to(*OUTSIDE, *world.b.ips))]
    destination = world.address(target, family)
    with Client(world.a, destination) as straight:
        assert straight.hello()["server"] == target
        world.put(*rules)
        assert straight.echo()
        with Client(world.a, destination) as handed:
            assert handed.hello()["server"] == "proxy"
            world.put()
            assert straight.echo() and handed.echo() and answered(world, world.a, target, family) == target
            world.put(*rules, gw=proxy("gw", PORT + 1))
            assert straight.echo() and handed.echo(), "the proxy has moved to another port"
            assert straight.pour(1) is None and handed.pour(1) is None


@SOURCES
@pytest.mark.parametrize("client, target", [("a", "outside"), ("a", "b"), ("outside", "b")])
def test_27_everything_about_the_proxy_goes(world, client, target, source):
    """Policy and proxy are deleted; what the proxy has stays with it, on both its sides."""
    world.put(egress(to(*OUTSIDE, *world.b.ips)), ingress(come(*OUTSIDE)))
    Relay(world, "--source", source)
    space = world.outside if client == "outside" else world.a
    for family in (4, 6):
        with Client(space, world.address(target, family)) as talk:
            assert talk.hello()["server"] == target
            world.running.api.put_state(world.items)
            assert talk.echo() and answered(world, space, target, family) == target
            world.running.restart()
            assert talk.pour(1) is None
            world.put(egress(to(*OUTSIDE, *world.b.ips)), ingress(come(*OUTSIDE)))


@FAMILIES
def test_27_a_rule_that_comes_to_the_server(world, family):
    world.put()
    world.front()
    with Client(world.outside, world.address("b", family)) as straight:
        assert straight.hello()["server"] == "b"
        world.put(ingress())
        with Client(world.outside, world.address("b", family)) as handed:
            assert handed.hello()["server"] == "proxy" and straight.echo()
            world.put()
            assert straight.pour(1) is None and handed.pour(1) is None


def memory(process):
    """In bytes; 0 of a program that AddressSanitizer watches, which keeps what was freed."""
    with open(f"/proc/{process.pid}/maps") as maps, open(f"/proc/{process.pid}/statm") as file:
        return 0 if "libasan" in maps.read() else int(file.read().split()[1]) * 4096


@pytest.mark.parametrize("transparent, rounds", [(True, 25), (False, 3)], ids=["ready", "adopted"])
def test_28_listeners_that_take_over_from_each_other(world, transparent, rounds):
    """Each new one stands beside the old one before that goes: somebody always answers."""
    world.quiet()
    front = world.front(reuseport=True, transparent=transparent)
    world.usable()
    before = memory(world.running.process)
    for number in range(rounds):
        newer = world.front(reuseport=True, transparent=transparent)
        if not transparent:
            eventually(lambda: len(world.proxy_status()["listeners"]) == 2 and
                       all(one["state"] == "Adopted" for one in world.proxy_status()["listeners"]))
        front.stop()
        assert answered(world, world.a, "outside", 4 if number % 2 else 6, timeout=0.9) == "proxy"
        if not transparent:
            eventually(lambda: len(world.proxy_status()["listeners"]) == 1)
        front = newer
    assert memory(world.running.process) - before < 2 << 20


# ---- 29, 30: ports and tuples ----

def test_29_thousands_of_short_connections(world):
    """Each leg has the client's address; TIME_WAITs are in nobody's way, nor is a server that closes first."""
    Relay(world, "--source", "client")
    results = []

    def run(count):
        for number in range(count):
            try:
                with Client(world.a, OUTSIDE4) as client:
                    results.append(client.hello(last=number % 2 == 0)["peer"][0])
            except (OSError, ValueError) as error:
                results.append(repr(error))
    threads = [threading.Thread(target=run, args=(750,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [world.a.ip4] * 3000, set(results)
    assert world.handed() == world.onward("client") == 3000 and world.onward("node") == 0


@pytest.mark.parametrize("target", ["outside", "b"])
@SOURCES
@FAMILIES
def test_29_the_same_client_port_again_and_again(world, family, source, target):
    """The server ends each: its host and the node have the TIME_WAITs, the client may use its port again."""
    world.put(egress(to(*OUTSIDE, *world.b.ips)))
    Relay(world, "--source", source)
    own = world.a.ip4 if family == 4 else world.a.ip6
    for _ in range(12):
        with Client(world.a, world.address(target, family), bind=(own, 20404)) as client:
            assert client.hello(last=True)["server"] == target
            assert client.ended()
    assert world.handed() == 12


@FAMILIES
def test_29_one_port_of_two_clients(world, family):
    """Their legs differ by address alone, or not at all when they leave from the node's."""
    world.put(egress(), egress(name="other", pod="c"))
    for source in ("client", "node"):
        with Relay(world, "--source", source):
            with Client(world.a, world.address("outside", family), bind=("", 20405)) as one, \
                    Client(world.c, world.address("outside", family), bind=("", 20405)) as two:
                peers = {tuple(client.hello()["peer"]) for client in (one, two)}
                assert len(peers) == 2 and one.echo() and two.echo()


@FAMILIES
def test_30_one_tuple_directly_and_through_the_proxy(world, family):
    """The proxy ends it first, and the node has its TIME_WAIT: in nobody's way, whichever way comes next."""
    own = world.a.ip4 if family == 4 else world.a.ip6
    world.reused = True
    world.front()
    for rules, server in (([], "outside"), ([egress()], "proxy"), ([], "outside"), ([egress()], "proxy"),
                          ([egress(to(*OUTSIDE, action="Bypass"))], "outside")):
        world.put(*rules)
        with Client(world.a, world.address("outside", family), bind=(own, 20406)) as client:
            assert client.hello(last=True)["server"] == server
            assert client.ended()
    assert world.handed() == 2


@pytest.mark.parametrize("before, after", [(False, True), (True, True), (True, False), (False, False)],
                         ids=["direct, then proxy", "proxy twice", "proxy, then direct", "direct twice"])
@FAMILIES
def test_30_a_client_that_forgot_its_connection(world, family, before, after):
    """It was restarted, without a word, and begins anew from the same port. The other end believes in the old one."""
    own, destination = world.address("a", family), world.address("outside", family)
    world.reused = True
    world.front()
    world.put(*[egress()] * before)
    client = Client(world.a, destination, bind=(own, 20432))
    assert client.hello()["server"] == ("proxy" if before else "outside") and client.echo() and client.echo()
    client.sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    client.close()
    world.put(*[egress()] * after)
    with Client(world.a, destination, bind=(own, 20432)) as client:
        assert client.hello()["server"] == ("proxy" if after else "outside") and client.echo()


@pytest.mark.parametrize("side", ["the client's", "the server's"])
@FAMILIES
def test_30_time_waits_that_outlive_our_entries(alone, family, side):
    """The proxy has ended connections of either side, a new agent knows of none: the tuples are free for all others."""
    world = alone
    own, destination, port = world.address("a", family), world.address("outside", family), 20430
    world.front()
    if side == "the client's":
        with Client(world.a, destination, bind=(own, port)) as client:
            assert client.hello(last=True)["server"] == "proxy" and client.ended()
    else:  # a leg's
        with world.node.entered():
            leg = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6)
        with leg:
            leg.setsockopt(*TRANSPARENT[leg.family], 1)
            leg.bind((own, port))
            leg.settimeout(3)
            leg.connect((destination, 80))
            leg.sendall(b"hello\n")
            assert json.loads(leg.makefile("rb").readline())["peer"] == [own, port]
    eventually(lambda: f":{port}" in world.node.run("ss", "-tanH", "state", "time-wait").stdout)
    forget(world)
    world.running.start()
    world.put()
    with Client(world.a, destination, bind=(own, port)) as client:
        assert client.hello()["server"] == "outside" and client.echo()
    world.reused = True


# ---- 32, 33: shapes of packets ----

def mtu(world, **sizes):
    """Of links, both ends."""
    for name, size in sizes.items():
        space = world.outside if name == "outside" else world.pods[name]
        interface = "uplink" if name == "outside" else space.interface
        space.ip(f"link set eth0 mtu {size}")
        world.node.ip(f"link set {interface} mtu {size}")


@pytest.fixture
def sized(world):
    yield world
    mtu(world, a=1500, b=1500, outside=1500)


@pytest.mark.parametrize("client, server", [(1500, 1500), (1400, 9000), (9000, 1400), (1500, 9000), (1280, 65535)])
@SOURCES
def test_32_large_writes_and_mixed_mtus(sized, client, server, source):
    world = sized
    mtu(world, a=client, b=server, outside=server)
    world.put(egress(to(*OUTSIDE, *world.b.ips)), ingress(come(*OUTSIDE)))
    Relay(world, "--source", source)
    for space, target, family in ((world.a, "outside", 4), (world.a, "outside", 6), (world.a, "b", 4),
                                  (world.outside, "b", 6)):
        with Client(space, world.address(target, family)) as talk:
            assert talk.hello()["server"] == target
            wrong = talk.pour(4, write=200000 if family == 4 else 65536)
            assert wrong is None, (space.name, target, family, wrong)
    assert world.handed() == 4


@pytest.fixture
def far(alone):
    """Behind the outside host, over a link that takes less than the ends are told."""
    world = alone
    far = world.namespace("far")
    world.outside.ip(f"link add far type veth peer name eth0 netns {far.name}", "addr add 192.0.2.1/24 dev far",
                     "addr add 2001:db8:fa::1/64 dev far nodad", "link set far up mtu 1300")
    far.ip("addr add 192.0.2.2/24 dev eth0", "addr add 2001:db8:fa::2/64 dev eth0 nodad", "link set eth0 up mtu 1300",
           "route add default via 192.0.2.1 advmss 1460", "route add default via 2001:db8:fa::1 advmss 1440")
    for key in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        world.outside.sysctl(key, 1)
    far.ips = ["192.0.2.2", "2001:db8:fa::2"]
    world.servers["far"] = Server(far, name="far")
    world.far = far
    return world


def refused_for_size(router, family):
    """How many "too big" it has sent."""
    with router.entered(), open("/proc/thread-self/net/" + ("snmp" if family == 4 else "snmp6")) as file:
        rows = [line.split() for line in file]
    if family == 6:
        return int(dict(rows)["Icmp6OutPktTooBigs"])
    names, values = [row for row in rows if row[0] == "Icmp:"]
    return int(values[names.index("OutDestUnreachs")])


@SOURCES
@FAMILIES
def test_32_a_narrow_link_on_the_way(far, family, source):
    """The router's "too big" is about a leg with the client's address, or a client's connection: the proxy gets it."""
    world = far
    world.put(egress(to(*world.far.ips)), ingress(come(*world.far.ips)))
    Relay(world, "--source", source)
    with Client(world.a, world.far.ips[family == 6]) as out:
        assert out.hello()["server"] == "far"
        wrong = out.pour(2)
        assert wrong is None, wrong
        assert refused_for_size(world.outside, family), "the router has spoken"
    with Client(world.far, world.address("b", family)) as back:
        assert back.hello()["server"] == "b"
        wrong = back.pour(2)
        assert wrong is None, wrong
    assert world.handed() == 2


@pytest.mark.parametrize("tos", [0xb8, 0x02, 0xff])
@FAMILIES
def test_33_marked_traffic(world, family, tos):
    """DSCP and ECN of the client are in nobody's way."""
    world.front()
    with world.a.entered():
        sock = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6)
    with sock:
        if family == 4:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)
        sock.settimeout(3)
        sock.connect((world.address("outside", family), 80))
        sock.sendall(b"hello\n")
        assert json.loads(sock.makefile("rb").readline())["server"] == "proxy"
