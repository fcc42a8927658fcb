# SPDX-License-Identifier: Apache-2.0
"""Which engine hands over: chosen, changed while connections live, found by trial; and the table that one of them needs."""
import contextlib
import signal
import socket
import threading
import time

import pytest

from lab import OUTSIDE4, OUTSIDE6
from objects import proxy
from scenes import eventually
from steering import Load, World, egress, to
from talk import TRANSPARENT, Client, Server, ask

PORT = 15001
ELSEWHERE = {4: "203.0.113.9", 6: "2001:db8:113::9"}
OUTSIDE = {4: OUTSIDE4, 6: OUTSIDE6}


@pytest.fixture(scope="module")
def world():
    with World("a", engine="ebpf") as made:
        yield made


@pytest.fixture
def handed(world):
    world.begin(egress(to()))
    world.front()
    world.usable()
    yield world
    configure(world, "ebpf")
    world.end()


def engine_of(world):
    return world.running.api.status()["engine"]


def configure(world, name):
    """By SIGHUP; returns what the status says then."""
    if engine_of(world)["configured"] != name:
        world.running.config["datapath"]["engine"] = name
        world.running.write_config()
        world.running.signal(signal.SIGHUP)
        eventually(lambda: engine_of(world)["configured"] == name, 3)
    return engine_of(world)


def counted(world):
    page = world.running.api.metrics()
    return {name: page("penstock_intercepted_connections_total", proxy="gw", engine=name) for name in ("ebpf", "tproxy")}


def nft(world, *command, **options):
    return world.node.run("nft", *command, **options).stdout


# ---- changed while it runs ----

def test_a_change_of_engine_cuts_nothing(handed):
    """Connections of before go on, new ones do not notice, in both directions of the change."""
    world, clients = handed, []

    def attempt():
        who = ask(world.a, OUTSIDE4, timeout=5)
        return isinstance(who, dict) and who["server"] == "proxy" or who
    begun, load = counted(world), Load(attempt)
    try:
        for name in ("tproxy", "ebpf", "tproxy"):
            clients += [Client(world.a, ip, timeout=10) for ip in OUTSIDE.values()]
            assert all(client.hello()["server"] == "proxy" for client in clients[-2:])
            pouring = [threading.Thread(target=lambda one=client: wrong.append(one.pour(8, half_close=False)))
                       for client in clients[-2:]]
            wrong = []
            for thread in pouring:
                thread.start()
            said = configure(world, name)
            assert (said["active"], said["reason"], said["tried"]) == (name, "configured", [])
            before = counted(world)
            load.grown(20)
            grown = {engine: count - before[engine] for engine, count in counted(world).items()}
            assert grown[name] >= 15 and sum(grown.values()) == grown[name], grown
            for thread in pouring:
                thread.join(30)
            assert wrong == [None, None]
            assert [client.echo() for client in clients] == [True] * len(clients)
    finally:
        seen = load.end()
        for client in clients:
            client.close()
    assert [one for one in seen if one is not True] == [], f"of {len(seen)}"
    grown = {engine: count - begun[engine] for engine, count in counted(world).items()}
    assert sum(grown.values()) == len(seen) + 6, "each connection is counted once, and stays where it was counted"


def test_it_is_the_engine_that_is_named_that_hands_over(handed):
    """Without the table nothing reaches the proxy with tproxy, and everything with ebpf."""
    world = handed
    world.running.signal(signal.SIGSTOP)  # it would mend it
    try:
        nft(world, "flush", "chain", "inet", "penstock", "handover")
        assert ask(world.a, OUTSIDE4)["server"] == "proxy"
    finally:
        world.running.signal(signal.SIGCONT)
    configure(world, "tproxy")
    eventually(lambda: "tproxy" in nft(world, "list", "table", "inet", "penstock"))
    assert ask(world.a, OUTSIDE4)["server"] == "proxy"
    world.running.signal(signal.SIGSTOP)
    try:
        nft(world, "flush", "chain", "inet", "penstock", "handover")
        assert ask(world.a, OUTSIDE4, timeout=0.5) in ("TimeoutError", "ConnectionRefusedError")
    finally:
        world.running.signal(signal.SIGCONT)
    eventually(lambda: "tproxy" in nft(world, "list", "table", "inet", "penstock"), 2)
    assert ask(world.a, OUTSIDE4)["server"] == "proxy"


def test_it_goes_on_without_an_agent(handed):
    world = handed
    configure(world, "tproxy")
    with Client(world.a, OUTSIDE4) as client:
        client.hello()
        world.running.kill9()
        assert client.echo() and ask(world.a, OUTSIDE6)["server"] == "proxy"
        world.running.start()
        assert client.echo() and ask(world.a, OUTSIDE6)["server"] == "proxy"
    assert engine_of(world)["active"] == "tproxy"


def test_the_table_is_never_absent_while_proxies_come_and_go(handed):
    """Connections without a pause while other proxies are added, moved and removed, and others damage what is theirs."""
    world = handed
    configure(world, "tproxy")
    before = world.running.log.count("somebody changed")

    def attempt():
        who = ask(world.a, OUTSIDE4, timeout=3)
        return isinstance(who, dict) and who["server"] == "proxy" or who
    load = Load(attempt)
    try:
        for turn in range(12):
            world.running.api.put_object(proxy("other", 16000 + turn))
            if turn % 3 == 2:
                world.running.api.delete_object("TransparentProxy", "", "other")
            nft(world, "-f", "-", input=f"add table inet somebody{turn % 2}\ndelete table inet somebody{turn % 2}\n")
        load.grown(20)
    finally:
        seen = load.end()
    assert [one for one in seen if one is not True] == [], f"of {len(seen)}"
    assert world.running.log.count("somebody changed") == before


def test_the_ports_of_the_table(handed):
    """One element a proxy and place, there when the write is answered, gone with the proxy."""
    world = handed

    def ports():
        text = nft(world, "list", "table", "inet", "penstock")
        return {port for port in (PORT, 15009, 15010) if text.count(f": {port}") == 2}
    world.running.api.put_object(proxy("other", 15009))
    assert ports() == {PORT, 15009}
    world.running.api.put_object(proxy("other", 15010))
    eventually(lambda: ports() == {PORT, 15010}, 1)
    world.running.api.put_object(proxy("same", 15010))
    world.running.api.delete_object("TransparentProxy", "", "other")
    time.sleep(0.1)
    assert ports() == {PORT, 15010}
    world.running.api.delete_object("TransparentProxy", "", "same")
    eventually(lambda: ports() == {PORT}, 1)


# ---- the table alone: packets that carry what the programs would have written ----

class Datagrams:
    """A transparent UDP socket of the node that tells who sent what where."""

    def __init__(self, space, address, port):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with space.entered():
            self.sock = socket.socket(family, socket.SOCK_DGRAM)
        self.sock.setsockopt(*TRANSPARENT[family], 1)
        if family == socket.AF_INET6:
            self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        self.sock.bind((address, port))
        self.sock.settimeout(1)

    def heard(self):
        try:
            return self.sock.recvfrom(64)[0]
        except TimeoutError:
            return None


@contextlib.contextmanager
def painted(world, priority):
    """What enters by the uplink gets INTERCEPT and this priority, behind our own programs. Yields how many of these
    packets have reached INPUT."""
    ours = "meta l4proto { tcp, udp } th dport 80"
    nft(world, "-f", "-", input=f"""
table netdev painted {{
    chain c {{
        type filter hook ingress device uplink priority 0;
        {ours} meta mark set meta mark | 0x20000000
        {ours} meta priority set {priority}
    }}
}}
table inet painted {{
    chain c {{
        type filter hook input priority 0;
        {ours} counter
    }}
}}
""")
    try:
        yield lambda: int(nft(world, "list", "table", "inet", "painted").split("packets ")[1].split()[0])
    finally:
        nft(world, "delete", "table", "netdev", "painted")
        nft(world, "delete", "table", "inet", "painted")


def send(world, ip, port=80):
    with world.outside.entered():
        sock = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.sendto(b"datagram", (ip, port))


PLACES = [("loopback", "7641", {4: "127.0.0.1", 6: "::1"}), ("wildcard", "7642", {4: "0.0.0.0", 6: "::"})]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("place,major,addresses", PLACES, ids=[place[0] for place in PLACES])
def test_what_the_table_takes(world, place, major, addresses, family):
    world.put()
    port = 15001
    assert nft(world, "list", "table", "inet", "penstock").count(f": {port}") == 2
    server = Server(world.node, port, "tcp", address=addresses[family], transparent=True)
    datagrams = Datagrams(world.node, addresses[family], port)
    other = next(addresses for name, _, addresses in PLACES if name != place)[family]
    try:
        with painted(world, f"{major}:{port:x}"):
            who = ask(world.outside, ELSEWHERE[family])
            assert who["server"] == "tcp" and who["local"] == [ELSEWHERE[family], 80], who
            send(world, ELSEWHERE[family])
            assert datagrams.heard() == b"datagram"
    finally:
        server.close()
        datagrams.sock.close()
    # Who is somewhere else is not found, and nothing goes on to anybody.
    server = Server(world.node, port, "tcp", address=other, transparent=True)
    datagrams = Datagrams(world.node, other, port)
    try:
        with painted(world, f"{major}:{port:x}") as arrived:
            found = ask(world.outside, ELSEWHERE[family], timeout=0.2)
            send(world, ELSEWHERE[family])
            datagrams.sock.settimeout(0.1)
            heard = datagrams.heard()
            # A wildcard listener is at 127.0.0.1 too.
            assert bool(arrived()) == isinstance(found, dict) == (heard == b"datagram") == (place == "loopback")
        with painted(world, f"{major}:{port + 1:x}") as arrived:
            assert ask(world.outside, ELSEWHERE[family], timeout=0.1) == "TimeoutError" and not arrived(), "no proxy's port"
        with painted(world, f"7643:{port:x}") as arrived:
            assert isinstance(ask(world.outside, ELSEWHERE[family], timeout=0.1), str) and arrived(), "no concern of ours"
    finally:
        server.close()
        datagrams.sock.close()
