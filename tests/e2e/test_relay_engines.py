# SPDX-License-Identifier: Apache-2.0
"""penstock-relay carries the datagrams that the agent hands to it, with either engine. What the relay does by itself is
in test_relay_udp.py."""
import os
import socket

import pytest

from lab import NODE4, NODE6, UPLINK4, UPLINK6, Lab
from objects import intercept, proxy
from proxies import PORT, Relay, close_all
from quic import Quic
from scenes import eventually, member
from steering import ENGINES

SERVED = 4433
RULE = {"name": "all", "action": "Intercept", "proxy": "gw", "to": [{"networks": ["0.0.0.0/0", "::/0"]}]}
FAMILIES = pytest.mark.parametrize("family", ["ip4", "ip6"])
SOURCES = pytest.mark.parametrize("source", ["client", "node"])


@pytest.fixture(scope="module", params=ENGINES)
def node(request):
    with Lab(outside=True) as lab:
        lab.proxies = []
        lab.a, lab.b = lab.pod("a"), lab.pod("b")
        lab.running = lab.agent(datapath={"engine": request.param})
        lab.running.api.put_state([member(n, p, interface=p.interface) for n, p in lab.pods.items()] + [
            proxy("gw", PORT, protocols=["TCP", "UDP"]), intercept("out", {"name": "a"}, [RULE])])
        yield lab


@pytest.fixture(scope="module")
def quic(node):
    made = Quic(node.outside, (node.outside.ip4, node.outside.ip6), f"{node.directory}/quic", 4 << 20)
    yield made
    made.close()


@pytest.fixture
def lab(node):
    node.sockets = []
    yield node
    for sock in node.sockets:
        sock.close()
    close_all(node)
    eventually(lambda: not any(one["listeners"] for one in node.running.api.status()["proxies"]))


def relay(lab, *options):
    made = Relay(lab, *options)
    both = ["IPv4", "IPv6"]
    eventually(lambda: lab.running.api.status()["proxies"][0]["available"] == {"TCP": both, "UDP": both})
    return made


def bound(lab, space, family, port=0):
    with space.entered():
        sock = socket.socket(socket.AF_INET if family == "ip4" else socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
    sock.bind(("0.0.0.0" if family == "ip4" else "::", port))
    sock.settimeout(3)
    lab.sockets.append(sock)
    return sock


def ask(client, server, where, size):
    question, answer = os.urandom(size), os.urandom(size)
    client.sendto(question, where)
    data, peer = server.recvfrom(1 << 16)
    assert data == question
    server.sendto(answer, peer)
    data, source = client.recvfrom(1 << 16)
    assert data == answer and source[:2] == where
    return peer


@FAMILIES
@SOURCES
@pytest.mark.parametrize("where", ["outside", "b"])
def test_flows_are_carried(lab, family, source, where):
    relay(lab, "--source", source)
    space = lab.outside if where == "outside" else lab.b
    ip = getattr(space, family)
    client, server = bound(lab, lab.a, family), bound(lab, space, family, SERVED)
    for size in (10, 0, 1400, 1600, 60000, 10):
        peer = ask(client, server, (ip, SERVED), size)
    if source == "client":
        assert peer[0] == getattr(lab.a, family) and peer[1] != client.getsockname()[1]
    else:
        assert peer[0] in (UPLINK4, UPLINK6, NODE4, NODE6)


@FAMILIES
def test_quic(lab, quic, family):
    """Its answers come in trains of datagrams where the sender makes such."""
    made = relay(lab, "--source", "client")
    quic.fetch(lab.a, getattr(lab.outside, family))
    quic.send(lab.a, getattr(lab.outside, family))
    made.stop()
    assert len(made.lines(r"protocol=udp .* lost=0 ", 2)) == 2


@SOURCES
def test_many_flows_at_once(lab, source):
    """While some have a socket that is not connected yet."""
    relay(lab, "--source", source)
    server = bound(lab, lab.outside, "ip4", SERVED)
    clients = [bound(lab, lab.a, "ip4") for _ in range(200)]
    for client in clients:
        for _ in range(2):
            client.sendto(str(client.getsockname()[1]).encode(), (lab.outside.ip4, SERVED))
    legs = set()
    for _ in range(2 * len(clients)):
        data, peer = server.recvfrom(100)
        legs.add(peer)
        server.sendto(data, peer)
    assert len(legs) == len(clients), "two threads had one flow"
    for client in clients:
        for _ in range(2):
            assert client.recvfrom(100) == (str(client.getsockname()[1]).encode(), (lab.outside.ip4, SERVED))


@FAMILIES
def test_a_process_of_the_node_has_the_port(lab, family):
    relay(lab, "--source", "client")
    bound(lab, lab.node, family, SERVED)
    client, server = bound(lab, lab.a, family), bound(lab, lab.outside, family, SERVED)
    for size in (10, 60000):
        ask(client, server, (getattr(lab.outside, family), SERVED), size)


@FAMILIES
def test_the_node_itself(lab, family):
    relay(lab, "--source", "client")
    ip = UPLINK4 if family == "ip4" else UPLINK6
    with lab.node.entered():
        server = socket.socket(socket.AF_INET if family == "ip4" else socket.AF_INET6, socket.SOCK_DGRAM)
    lab.sockets.append(server)
    server.bind((ip, SERVED))
    server.settimeout(3)
    client = bound(lab, lab.a, family)
    for size in (10, 10):
        assert ask(client, server, (ip, SERVED), size)[0] not in lab.a.ips
