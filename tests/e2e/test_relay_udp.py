# SPDX-License-Identifier: Apache-2.0
"""penstock-relay and UDP, without an agent: what comes from the pod named client is handed to it by a TPROXY rule written
by hand, and so are replies to its sockets with a client's address."""
import json
import os
import re
import signal
import socket
import struct
import threading
import time

import pytest

from lab import BUILD, NODE4, NODE6, UPLINK4, UPLINK6, Lab
from quic import Quic
from test_relay import UNPRIVILEGED, Relay, connect, listen, name_of, wait

PORT = 15001
SERVED = 4433
LINE = re.compile(r"^\S+Z (?P<client>\S+) -> (?P<destination>\S+) up=(?P<up>\d+) down=(?P<down>\d+) seconds=(?P<seconds>\S+) "
                  r"source=(?P<source>\S+) protocol=udp datagrams=(?P<datagrams>\d+/\d+) lost=(?P<lost>\d+) "
                  r'outcome="(?P<outcome>[^"]*)"$')
TPROXY = """
table inet relay {
	chain prerouting {
		type filter hook prerouting priority mangle; policy accept;
		iifname != "IFACE" meta l4proto { tcp, udp } socket transparent 1 meta mark set 1 accept
		iifname "IFACE" meta nfproto ipv4 meta l4proto { tcp, udp } tproxy ip to V4:PORT meta mark set 1 accept
		iifname "IFACE" meta nfproto ipv6 meta l4proto { tcp, udp } tproxy ip6 to V6:PORT meta mark set 1 accept
	}
}
"""
# A client's datagrams are not looked up by `socket`: it also finds a socket that has an address and is not connected yet.
FAMILIES = ["ip4", "ip6"]


class World:
    def __init__(self, lab):
        self.lab, self.relays, self.sockets = lab, [], []
        self.pod, self.other, self.server = lab.pod("client"), lab.pod("other"), lab.pod("server")
        self.outside, self.node = lab.outside, lab.node
        self.rules()
        for family in ("-4", "-6"):
            lab.node.run("ip", family, "rule", "add", "fwmark", 1, "lookup", 100)
            lab.node.run("ip", family, "route", "add", "local", "default", "dev", "lo", "table", 100)

    def rules(self, four="", six="", port=PORT):
        text = TPROXY.replace("IFACE", self.pod.interface).replace("V4", four).replace("V6", six).replace("PORT", str(port))
        self.node.run("nft", "-f", "-", input="table inet relay\ndelete table inet relay\n" + text)

    def start(self, *options, **more):
        self.relays.append(Relay(self.lab, *options, **more))
        return self.relays[-1]

    def bind(self, space, ip="0.0.0.0", port=0, reuse=False):
        """A UDP socket; its receive buffer takes a burst."""
        with space.entered():
            sock = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM)
        if reuse:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        sock.bind((ip, port))
        sock.settimeout(5)
        self.sockets.append(sock)
        return sock

    def client(self, ip=None, port=0, space=None):
        """Of the family of ip, or of IPv4."""
        return self.bind(space or self.pod, "::" if ip and ":" in ip else "0.0.0.0", port)

    def serve(self, ip=None, port=SERVED, space=None, reuse=False):
        return self.bind(space or self.outside, "::" if ip and ":" in ip else "0.0.0.0", port, reuse)

    def pair(self, ip=None, port=SERVED):
        """A client and a server that have heard each other, and the address that the server answers to."""
        ip = ip or self.outside.ip4
        client, server = self.client(ip), self.serve(ip, port)
        return client, server, ask(client, server, (ip, port))

    def end(self):
        for sock in self.sockets:
            sock.close()
        relays, self.relays, self.sockets = self.relays, [], []
        for relay in relays:
            relay.close()


@pytest.fixture(scope="module")
def shared():
    with Lab(outside=True) as lab:
        yield World(lab)


@pytest.fixture
def world(shared):
    yield shared
    shared.end()


def lines(relay, count=1):
    wait(lambda: relay.read().count("\n") >= count)
    found = relay.read().splitlines()
    assert len(found) == count, found
    matches = [LINE.match(line) for line in found]
    assert all(matches), found
    return [match.groupdict() for match in matches]


def finished(relay, count=1):
    """The lines of a relay that is stopped at once."""
    relay.close()
    return lines(relay, count)


def ask(client, server, where, question=b"question", answer=b"answer"):
    """Both ways once; returns whom the server saw."""
    client.sendto(question, where)
    data, peer = server.recvfrom(1 << 16)
    assert data == question
    server.sendto(answer, peer)
    data, source = client.recvfrom(1 << 16)
    assert data == answer and source[:2] == where, source
    return peer


def silent(sock, seconds=0.2):
    sock.settimeout(seconds)
    with pytest.raises(TimeoutError):
        sock.recv(1)
    sock.settimeout(5)


# ---- from where to where ----

@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("source", ["node", "client"])
@pytest.mark.parametrize("connected", [True, False])
def test_answers_leave_from_the_original_destination(world, family, source, connected):
    relay = world.start("--source", source)
    ip = getattr(world.outside, family)
    client, server = world.client(ip), world.serve(ip)
    if connected:
        client.connect((ip, SERVED))  # the kernel drops what comes from elsewhere
    for size in (1, 700, 0):
        client.sendto(b"q" * size, (ip, SERVED)) if not connected else client.send(b"q" * size)
        data, peer = server.recvfrom(1 << 16)
        assert data == b"q" * size
        server.sendto(b"a" * size * 2, peer)
        data, where = client.recvfrom(1 << 16)
        assert data == b"a" * size * 2 and where[:2] == (ip, SERVED)
    if source == "client":
        assert peer[0] == getattr(world.pod, family) and peer[1] != client.getsockname()[1]
    else:
        assert peer[0] == (UPLINK4 if family == "ip4" else UPLINK6)
    server.sendto(b"unasked", peer)
    assert client.recv(100) == b"unasked"
    own = f"{world.pod.ip4}:" if family == "ip4" else f"[{world.pod.ip6}]:"
    line, = finished(relay)
    assert float(line.pop("seconds")) < 10
    assert line == {"client": own + str(client.getsockname()[1]), "destination": f"{ip}:{SERVED}" if family == "ip4" else
                    f"[{ip}]:{SERVED}", "up": "701", "down": "1409", "source": source, "datagrams": "3/4", "lost": "0",
                    "outcome": "stopped"}


@pytest.mark.parametrize("where", [(f"[::]:{PORT}",), (f"127.0.0.1:{PORT}", f"[::1]:{PORT}")])
@pytest.mark.parametrize("family", FAMILIES)
def test_where_it_listens(world, where, family):
    relay = world.start(listen=where)
    if len(where) == 2:
        world.rules("127.0.0.1", "[::1]")
    try:
        world.pair(getattr(world.outside, family))
        assert relay.totals()["udp-flows"] == 1
    finally:
        world.rules()


def test_the_node_carries_nothing_without_it(world):
    """That the tests' rule is what leads to the relay."""
    server = world.serve()
    client = world.client()
    client.sendto(b"x", (world.outside.ip4, SERVED))
    assert server.recvfrom(10)[1] == (world.pod.ip4, client.getsockname()[1])


def test_many_clients_and_servers(world):
    relay = world.start("--source", "client")
    servers = [world.serve(port=SERVED + at) for at in range(8)] + [world.serve(world.outside.ip6, SERVED + 8)]
    clients = [world.bind(world.pod, "::") for _ in range(40)]
    for client in clients:  # one socket, both families, all servers at once
        for at in range(len(servers)):
            ip = world.outside.ip6 if at == 8 else f"::ffff:{world.outside.ip4}"
            client.sendto(b"%d:%d" % (client.getsockname()[1], at), (ip, SERVED + at))
    peers = set()
    for at, server in enumerate(servers):
        for _ in clients:
            data, peer = server.recvfrom(100)
            assert int(data.split(b":")[1]) == at
            peers.add((at, peer))
            server.sendto(data + b"!", peer)
    assert len(peers) == len(servers) * len(clients), "two clients look the same"
    for client in clients:
        got = {client.recvfrom(100)[:2] for _ in servers}
        assert {(data, peer[1]) for data, peer in got} == {
            (b"%d:%d!" % (client.getsockname()[1], at), SERVED + at) for at in range(len(servers))}
    assert not {peer[1] for _, peer in peers} & {client.getsockname()[1] for client in clients}
    totals = relay.totals()
    assert totals["udp-flows"] == totals["udp-source-client"] == 360 and totals["udp-lost"] == 0


@pytest.mark.parametrize("family,sizes", [("ip4", [1472, 1473, 9000, 60000, 65507]), ("ip6", [1452, 1453, 60000, 65527])])
@pytest.mark.parametrize("source", ["node", "client"])
def test_datagrams_of_every_size(world, family, sizes, source):
    relay = world.start("--source", source)
    ip = getattr(world.outside, family)
    client, server = world.client(ip), world.serve(ip)
    for size in sizes * 2:  # the second time through the flow's own socket
        ask(client, server, (ip, SERVED), os.urandom(size), os.urandom(size))
    totals = relay.totals()
    assert (totals["udp-flows"], totals["udp-lost"]) == (1, 0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("way", ["as they come", "a smaller MTU behind it", "a process has the port"])
def test_trains_of_datagrams(world, family, way):
    """What a sender gives to the kernel in one piece (UDP_SEGMENT) may come to the relay in one piece."""
    relay = world.start("--source", "client")
    ip = getattr(world.outside, family)
    if way == "a process has the port":
        world.serve(ip, space=world.node)
    client, server = world.client(ip), world.serve(ip)
    peer = ask(client, server, (ip, SERVED))
    interfaces = [world.pod.interface, "uplink"] if way == "a smaller MTU behind it" else []
    for interface in interfaces:
        world.node.ip(f"link set {interface} mtu 1280")
    try:
        for size, count, last in ((1300, 40, 7), (1000, 64, 1000), (1, 50, 1), (1200, 2, 1199)):
            sizes = [size] * (count - 1) + [last]
            data = os.urandom(sum(sizes))
            for one, two, where in ((client, server, (ip, SERVED)), (server, client, peer)):
                one.setsockopt(socket.IPPROTO_UDP, 103, size)  # UDP_SEGMENT
                one.sendto(data, where)
                got = [two.recv(1 << 16) for _ in sizes]
                assert [len(part) for part in got] == sizes and b"".join(got) == data
    finally:
        for interface in interfaces:
            world.node.ip(f"link set {interface} mtu 1500")
    line, = finished(relay)
    assert (line["datagrams"], line["lost"]) == ("157/157", "0")


@pytest.mark.parametrize("family", FAMILIES)
def test_ecn_and_dscp_pass(world, family):
    world.start("--source", "client")
    ip = getattr(world.outside, family)
    client, server = world.client(ip), world.serve(ip)
    level, tell, put = (socket.SOL_IP, 13, socket.IP_TOS) if family == "ip4" else (41, socket.IPV6_RECVTCLASS, socket.IPV6_TCLASS)
    for sock in (client, server):
        sock.setsockopt(level, tell, 1)

    def hear(sock):
        data, control, _, peer = sock.recvmsg(100, 100)
        return peer, control[0][2][0]
    for tos in (0x02, 0xb9, 0, 0x01):  # ECT(0), EF with ECT(1), none, ECT(1)
        client.setsockopt(level, put, tos)
        client.sendto(b"x", (ip, SERVED))
        peer, seen = hear(server)
        assert seen == tos
        server.setsockopt(level, put, tos ^ 0x03)
        server.sendto(b"y", peer)
        assert hear(client)[1] == tos ^ 0x03


# ---- nothing is lost ----

def echo(server, count):
    for _ in range(count):
        data, peer = server.recvfrom(1 << 16)
        server.sendto(data, peer)


@pytest.mark.parametrize("source", ["node", "client"])
def test_ten_thousand_small_ones_both_ways(world, source):
    relay = world.start("--source", source)
    client, server = world.client(), world.serve()
    count, window = 10000, 64
    serving = threading.Thread(target=echo, args=(server, count))
    serving.start()
    got = []
    for at in range(count):
        client.sendto(struct.pack("!I", at), (world.outside.ip4, SERVED))
        if at >= window:
            got.append(client.recv(100))
    got += [client.recv(100) for _ in range(window)]
    serving.join()
    assert got == [struct.pack("!I", at) for at in range(count)], "lost, or out of order"
    totals = relay.totals()
    assert (totals["udp-flows"], totals["udp-lost"]) == (1, 0)


# ---- QUIC ----

@pytest.fixture(scope="module")
def quic(shared):
    made = Quic(shared.outside, (shared.outside.ip4, shared.outside.ip6), f"{shared.lab.directory}/quic", 16 << 20)
    yield made
    made.close()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("source", ["node", "client"])
def test_quic(world, quic, family, source):
    relay = world.start("--source", source)
    quic.fetch(world.pod, getattr(world.outside, family))
    quic.send(world.pod, getattr(world.outside, family))
    down, up = sorted(finished(relay, 2), key=lambda line: int(line["up"]))
    assert int(down["down"]) > quic.size and int(up["up"]) > quic.size
    assert {line["source"] for line in (up, down)} == {source}


def test_a_burst_that_meets_no_flow_yet(world):
    """All of it is in the listener's queue when the flow is made."""
    relay = world.start()
    client, server = world.client(), world.serve()
    relay.stop(signal.SIGSTOP)
    for at in range(500):
        client.sendto(b"%d" % at, (world.outside.ip4, SERVED))
    relay.stop(signal.SIGCONT)
    assert [server.recv(10) for _ in range(500)] == [b"%d" % at for at in range(500)]
    assert relay.totals()["udp-flows"] == 1


def test_a_flow_that_comes_to_two_threads(world):
    """A group's listener is chosen by a hash of addresses and ports: another for each port that it listens on."""
    ports = (PORT, PORT + 1, PORT + 2)
    relay = world.start("--source", "client", "--threads", "4", listen=ports)
    clients, server = [world.client() for _ in range(30)], world.serve()
    relay.stop(signal.SIGSTOP)
    try:
        for port in ports:
            world.rules(port=port)
            for client in clients:
                client.sendto(b"x", (world.outside.ip4, SERVED))
    finally:
        relay.stop(signal.SIGCONT)
        world.rules()
    peers = [server.recvfrom(10)[1] for _ in range(3 * len(clients))]
    assert len(set(peers)) == len(clients), "two threads have one flow"
    totals = relay.totals()
    assert (totals["udp-flows"], totals["udp-lost"]) == (len(clients), 0)


def test_a_slow_link_loses_nothing_while_the_buffers_last(world):
    """More than the sending socket holds: then the other is not read, and holds the rest."""
    relay = world.start()
    client, server, peer = world.pair()
    half = 800
    world.node.run("tc", "qdisc", "add", "dev", world.pod.interface, "root", "tbf", "rate", "40mbit", "burst", "16k", "limit", "64m")
    try:
        relay.stop(signal.SIGSTOP)
        for at in range(2 * half):
            if at == half:
                relay.stop(signal.SIGCONT)
                time.sleep(0.1)
            server.sendto(b"%04d" % at + b"x" * 1396, peer)
        assert [int(client.recv(2000)[:4]) for _ in range(2 * half)] == list(range(2 * half))
    finally:
        world.node.run("tc", "qdisc", "del", "dev", world.pod.interface, "root")
    assert relay.totals()["udp-lost"] == 0 and relay.ticks() < 30, "it waits without turning"


def test_what_is_lost_is_counted(world):
    relay = world.start()
    client, server, peer = world.pair()
    relay.stop(signal.SIGSTOP)
    for at in range(5000):
        server.sendto(b"x" * 1000, peer)
    relay.stop(signal.SIGCONT)
    time.sleep(0.1)
    server.sendto(b"last", peer)  # tells how many there was no room for
    count = 0
    while client.recv(2000) != b"last":
        count += 1
    assert 100 < count < 5000 and relay.totals()["udp-lost"] == 5000 - count


# ---- time ----

def test_idle_flows_end(world):
    relay = world.start("--udp-timeout", "1")
    idle, server, _ = world.pair()
    busy, asking = world.client(), world.client()
    asking.sendto(b"nobody answers", (world.outside.ip4, SERVED))
    assert server.recv(100) == b"nobody answers"
    end = time.monotonic() + 1.6
    while time.monotonic() < end:
        peer = ask(busy, server, (world.outside.ip4, SERVED))
        time.sleep(0.1)
    found = {line["client"].rsplit(":", 1)[1]: line["outcome"] for line in lines(relay, 2)}
    assert found == {str(idle.getsockname()[1]): "idle: timeout", str(asking.getsockname()[1]): "no answer: timeout"}
    assert relay.totals()["udp-open"] == 1
    assert ask(busy, server, (world.outside.ip4, SERVED)) == peer, "a flow that lives goes out from another port"
    ask(idle, server, (world.outside.ip4, SERVED))  # and what has ended begins anew
    assert relay.totals()["udp-flows"] == 4


def test_a_server_that_restarts(world):
    """ICMP in between ends nothing, and costs no datagram."""
    relay = world.start()
    client, server, peer = world.pair()
    server.close()
    for _ in range(3):
        client.sendto(b"is anybody there?", (world.outside.ip4, SERVED))
        time.sleep(0.02)
    again = world.serve()
    assert ask(client, again, (world.outside.ip4, SERVED)) == peer
    totals = relay.totals()
    assert (totals["udp-flows"], totals["udp-failed"]) == (1, 0)


def test_a_server_that_is_not_there(world):
    relay = world.start("--udp-timeout", "1")
    client = world.client()
    client.sendto(b"?", (world.outside.ip4, SERVED))
    assert lines(relay)[0]["outcome"] == "no answer: Connection refused"


def test_a_client_s_port_is_used_again(world):
    relay = world.start()
    client, server, peer = world.pair()
    port = client.getsockname()[1]
    client.close()
    server.sendto(b"nobody hears", peer)
    time.sleep(0.05)
    client = world.client(port=port)
    ask(client, server, (world.outside.ip4, SERVED))
    other = world.serve(port=SERVED + 1)
    ask(client, other, (world.outside.ip4, SERVED + 1))
    assert relay.totals()["udp-flows"] == 2


# ---- limits ----

def test_who_is_idle_for_longest_makes_room(world):
    relay = world.start("--udp-flows", "4", "--threads", "1")
    server = world.serve()
    clients = [world.client() for _ in range(5)]
    for client in clients[:4]:
        ask(client, server, (world.outside.ip4, SERVED))
        time.sleep(0.005)
    ask(clients[0], server, (world.outside.ip4, SERVED))
    ask(clients[4], server, (world.outside.ip4, SERVED))
    line, = lines(relay)
    assert line["client"].endswith(f":{clients[1].getsockname()[1]}") and line["outcome"] == "evicted: too many flows"
    totals = relay.totals()
    assert (totals["udp-open"], totals["udp-evicted"]) == (4, 1)


def test_without_file_descriptors_new_flows_are_refused(world):
    relay = world.start("--threads", "1", "--udp-flows", "1000", before=("prlimit", "--nofile=30:30"))
    server = world.serve()
    clients = [world.client() for _ in range(20)]
    for client in clients:
        client.sendto(b"?", (world.outside.ip4, SERVED))
    wait(lambda: relay.totals()["udp-flows"] == 20)
    totals = relay.totals()
    assert totals["udp-open"] >= 5 and totals["udp-failed"] == 20 - totals["udp-open"] == totals["udp-lost"]
    assert {line["outcome"] for line in lines(relay, totals["udp-failed"])} <= {
        "answer: Too many open files", "connect: Too many open files"}
    for client in clients:  # once is told, twice is not
        client.sendto(b"?", (world.outside.ip4, SERVED))
    wait(lambda: relay.totals()["udp-lost"] == 2 * totals["udp-failed"])
    assert len(lines(relay, totals["udp-failed"])) == totals["udp-failed"]
    for _ in range(2 * totals["udp-open"]):
        data, peer = server.recvfrom(10)
        server.sendto(b"!", peer)
    answered = 0
    for client in clients:
        client.settimeout(0.02)
        try:
            answered += client.recv(10) == b"!"
        except TimeoutError:
            pass
    assert answered == totals["udp-open"], "those that were there are not well"


def test_without_a_port_of_the_client_s_it_takes_the_node_s(world):
    before = world.node.sysctl("net.ipv4.ip_local_port_range")
    world.node.sysctl("net.ipv4.ip_local_port_range", "40000 40003")
    try:
        relay = world.start("--source", "client", before=("setpriv", "--bounding-set=-net_bind_service"))
        world.node.sysctl("net.ipv4.ip_unprivileged_port_start", 30000)  # those that it prefers are not for it now
        server = world.serve()
        peers = [ask(world.client(), server, (world.outside.ip4, SERVED)) for _ in range(6)]
    finally:
        world.node.sysctl("net.ipv4.ip_local_port_range", before)
        world.node.sysctl("net.ipv4.ip_unprivileged_port_start", 1024)
    assert [ip for ip, _ in peers] == [world.pod.ip4] * 4 + [UPLINK4] * 2
    assert {port for _, port in peers[:4]} == set(range(40000, 40004))
    totals = relay.totals()
    assert (totals["udp-source-client"], totals["udp-fallback-no-port"]) == (4, 2)


# ---- who else is on the node ----

@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("reuse", [False, True])
def test_a_process_of_the_node_has_the_port(world, family, reuse):
    """Flows to that port elsewhere are carried, and the process hears those who mean it and nobody else."""
    relay = world.start("--source", "client")
    ip = getattr(world.outside, family)
    local = world.serve(ip, space=world.node, reuse=reuse)
    client, server = world.client(ip), world.serve(ip)
    for size in (1, 0, 1201, 20000, 65507):
        ask(client, server, (ip, SERVED), os.urandom(size), os.urandom(size))
    stranger = world.client(ip, space=world.other)
    ask(stranger, local, (NODE4 if family == "ip4" else NODE6, SERVED))
    silent(local, 0.05)
    assert relay.totals()["udp-flows"] == 1


@pytest.mark.parametrize("ip", [NODE4, NODE6, UPLINK4, UPLINK6])
def test_the_node_s_own_address_falls_back(world, ip):
    relay = world.start("--source", "client")
    client, server = world.client(ip), world.bind(world.node, ip, SERVED)
    stranger = world.client(ip, space=world.other)
    for _ in range(2):
        peer = ask(client, server, (ip, SERVED))
        assert peer[0] not in world.pod.ips
        ask(stranger, server, (ip, SERVED))
    assert relay.totals()["udp-fallback-own-address"] == 1 == relay.totals()["udp-flows"]
    assert finished(relay)[0]["source"] == "node(own-address)"


def test_a_server_on_the_same_node(world):
    world.start("--source", "client")
    client, server = world.client(), world.serve(space=world.server)
    peer = ask(client, server, (world.server.ip4, SERVED))
    assert peer[0] == world.pod.ip4 and peer[1] != client.getsockname()[1]


def test_a_direct_dial_is_refused(world):
    relay = world.start()
    dials = [(world.node, "127.0.0.1"), (world.node, "::1"), (world.pod, NODE4), (world.pod, NODE6), (world.other, UPLINK4),
             (world.other, NODE6)]
    for space, ip in dials:
        client = world.client(ip, space=space)
        for _ in range(3):
            client.sendto(b"x", (ip, PORT))
    assert {line["outcome"] for line in lines(relay, len(dials))} == {"direct: refused"}
    wait(lambda: relay.totals()["udp-lost"] == 3 * len(dials))
    assert relay.totals()["udp-refused"] == len(dials)
    world.pair(port=PORT)  # the number of the port alone is nothing to refuse


# ---- the process ----

def test_protocols(world):
    relay = world.start("--protocols", "udp")
    client, server, _ = world.pair()
    with pytest.raises(ConnectionRefusedError):
        connect(world.node, "127.0.0.1", PORT)
    relay.close()
    relay = world.start("--protocols", "tcp", listen=(PORT,))
    assert f":{PORT}" not in world.node.run("ss", "-ulnH").stdout


def test_tcp_and_udp_together(world):
    world.start("--source", "client", "--threads", "1")
    client, server, _ = world.pair()
    stream = listen(world.outside, port=SERVED)
    one = connect(world.pod, world.outside.ip4, SERVED)
    two, peer = stream.accept()
    assert peer[0] == world.pod.ip4
    one.sendall(b"x" * 10)
    assert two.recv(10) == b"x" * 10
    ask(client, server, (world.outside.ip4, SERVED))
    for sock in (stream, one, two):
        sock.close()


def test_without_privilege(world):
    relay = world.start(before=UNPRIVILEGED)
    assert "UDP needs CAP_NET_ADMIN or CAP_NET_RAW" in relay.read(".err") and "TCP alone" in relay.read(".err")
    assert f":{PORT}" not in world.node.run("ss", "-ulnH").stdout
    relay.close()
    done = world.node.run(*UNPRIVILEGED, os.path.join(BUILD, "penstock-relay"), "--listen", PORT, "--protocols", "udp", check=False)
    assert done.returncode == 1 and "UDP needs CAP_NET_ADMIN or CAP_NET_RAW" in done.stderr


def test_a_second_relay_is_told_that_the_port_is_in_use(world):
    world.start("--protocols", "udp", "--threads", "2")
    done = world.node.run(os.path.join(BUILD, "penstock-relay"), "--listen", PORT, "--protocols", "udp", check=False)
    assert done.returncode == 1 and "(UDP): Address already in use" in done.stderr


def test_flows_go_on_after_sigterm_while_they_move(world):
    relay = world.start("--source", "client")
    client, server, peer = world.pair()
    quiet = world.client()
    ask(quiet, server, (world.outside.ip4, SERVED))
    relay.stop()
    wait(lambda: "UNCONN" not in world.node.run("ss", "-uanH", f"sport = :{PORT}").stdout)
    world.start("--source", "client")
    end = time.monotonic() + 1.3
    while time.monotonic() < end:
        assert ask(client, server, (world.outside.ip4, SERVED)) == peer
        time.sleep(0.05)
    assert lines(relay)[0]["client"].endswith(f":{quiet.getsockname()[1]}")
    assert relay.process.poll() is None
    assert relay.process.wait(5) == 0
    assert ask(client, server, (world.outside.ip4, SERVED)) != peer, "nobody carries it on"


def test_flows_leave_nothing_behind(world):
    relay = world.start("--udp-timeout", "1")
    before = relay.fds()
    server = world.serve()
    clients = [world.client() for _ in range(200)]
    for client in clients:
        ask(client, server, (world.outside.ip4, SERVED))
    assert relay.fds() == before + 400
    wait(lambda: relay.fds() == before)
    ticks = relay.ticks()
    time.sleep(0.2)
    assert relay.ticks() - ticks <= 2, "idle, and it runs"
    assert len(lines(relay, 200)) == 200


def test_lines_as_json(world):
    relay = world.start("--log", "json")
    client, server, _ = world.pair()
    relay.close()
    line = json.loads(relay.read())
    assert line.pop("time") and line.pop("seconds") >= 0
    assert line == {"client": f"{world.pod.ip4}:{client.getsockname()[1]}", "destination": f"{world.outside.ip4}:{SERVED}",
                    "up": 8, "down": 6, "source": "node", "reason": "", "protocol": "udp", "datagramsUp": 1, "datagramsDown": 1,
                    "lost": 0, "outcome": "stopped"}
