# SPDX-License-Identifier: Apache-2.0
"""A proxy of datagrams that sends on from its own address: the server's ingress policy asks for whom."""
import contextlib
import os
import signal
import socket
import sys

import pytest

from lab import Lab
from objects import allow_from, intercept, namespace, proxy
from scenes import eventually, member
from steering import ENGINES

PORT, FAR, FAR6 = 15001, "203.0.113.9", "2001:db8:f::9"
FROM_B = [{"podSelector": {"matchLabels": {"name": "b"}}}]
FROM_BOTH = [{"podSelector": {"matchLabels": {"name": name}}} for name in "ab"]

# Argument 3: connected, a socket a datagram; or unconnected, one socket for all.
GATEWAY = """
import socket, sys, threading
port, server, kind = int(sys.argv[1]), sys.argv[2], sys.argv[3]
listener = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
listener.setsockopt(socket.IPPROTO_IP, 20, 1)
listener.setsockopt(socket.IPPROTO_IPV6, 74, 1)
listener.bind(("::", port))
shared = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM)
def original(ancillary):
    for level, kind, data in ancillary:
        if (level, kind) == (0, 20):
            return socket.AF_INET, (socket.inet_ntoa(data[4:8]), int.from_bytes(data[2:4], "big"))
        if (level, kind) == (41, 74):
            return socket.AF_INET6, (socket.inet_ntop(socket.AF_INET6, data[8:24]), int.from_bytes(data[2:4], "big"))
def back(family, local, peer, data):
    with socket.socket(family, socket.SOCK_DGRAM) as answer:
        answer.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        answer.setsockopt(*((0, 19) if family == socket.AF_INET else (41, 75)), 1)
        answer.bind(local)
        answer.sendto(data, (peer[0].removeprefix("::ffff:"), peer[1]))
while True:
    data, ancillary, _, peer = listener.recvmsg(65536, 256)
    family, local = original(ancillary)
    onward = shared
    if kind == "connected":
        onward = socket.socket(shared.family, socket.SOCK_DGRAM)
        onward.connect((server, 80))
        onward.send(data)
    else:
        onward.sendto(data, (server, 80))
    onward.settimeout(0.3)
    try:
        back(family, local, peer, onward.recv(65536))
    except OSError:
        pass
"""


@pytest.fixture(scope="module", params=ENGINES)
def node(request):
    with Lab(outside=True) as lab:
        lab.a, lab.b, lab.s = (lab.pod(name) for name in "abs")
        lab.running = lab.agent(datapath={"engine": request.param})
        with lab.s.entered():
            lab.servers = [socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6)]
            for server, address in zip(lab.servers, (lab.s.ip4, lab.s.ip6)):
                server.bind((address, 80))
        yield lab
        for server in lab.servers:
            server.close()


@pytest.fixture(params=("connected", "unconnected"))
def onward(node, request):
    lab = node
    lab.kind = request.param
    rule = {"name": "all", "action": "Intercept", "proxy": "gw", "to": [{"networks": [f"{FAR}/32", f"{FAR6}/128"]}]}
    lab.running.api.put_state(
        [namespace("s")] + [member(n, p, interface=p.interface) for n, p in lab.pods.items()] +
        [allow_from("s", "s-in", {"name": "s"}, FROM_B), proxy("gw", PORT, protocols=["UDP"])] +
        [intercept(name, {"name": name}, [rule]) for name in "ab"])
    return lab


@contextlib.contextmanager
def running(lab, server):
    process = lab.node.popen(sys.executable, "-c", GATEWAY, PORT, server, lab.kind, start_new_session=True)
    try:
        eventually(lambda: lab.running.api.status()["proxies"][0]["up"])
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        eventually(lambda: not lab.running.api.status()["proxies"][0]["up"])


def asked(lab, client, far, server):
    """Does the server hear of it, and the client the answer?"""
    word = os.urandom(8)
    with client.entered():
        sock = socket.socket(socket.AF_INET6 if ":" in far else socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.connect((far, 80))
        sock.send(word)
        server.settimeout(0.25)
        try:
            data, peer = server.recvfrom(100)
        except TimeoutError:
            return False
        assert data == word
        server.sendto(b"answer", peer)
        sock.settimeout(2)
        assert sock.recv(100) == b"answer"
        return True


@pytest.mark.parametrize("far", [FAR, FAR6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("family", [4, 6])
def test_ingress_policy_asks_for_whom_datagrams_are_sent_on(onward, far, family):
    lab = onward
    server = lab.servers[family == 6]
    with running(lab, (lab.s.ip4, lab.s.ip6)[family == 6]):
        assert asked(lab, lab.b, far, server)
        if lab.kind == "connected":
            assert not asked(lab, lab.a, far, server)
            assert asked(lab, lab.b, far, server), "another client is not concerned"
            lab.running.api.put_object(allow_from("s", "s-in", {"name": "s"}, FROM_BOTH))
            assert asked(lab, lab.a, far, server)


def test_first_client_of_a_shared_socket_is_asked_for(onward):
    """Whose flow began it; what others send by the same socket to the same server is that flow's."""
    lab = onward
    with running(lab, lab.s.ip4):
        assert not asked(lab, lab.a, FAR, lab.servers[0])
