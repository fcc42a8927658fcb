# SPDX-License-Identifier: Apache-2.0
"""Handing over datagrams: real ones between namespaces, with both engines' decisions, and what a test run shows."""

import contextlib
import ipaddress
import os
import socket
import struct
import time

import pytest
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from space import Space, family_of, ip, transparent
from world import (A, CONTROL_SERVICES, CONTROL_STEERING, CONTROL_TABLE, CONTROL_TPROXY, ESTABLISHED, INTERCEPTED, LEG,
                   MARK, MARK_MASK, PROFILE_A, PROXY, PROXY_BYPASS, PROXY_BYPASSED, ROW_ALLOW, ROW_INTERCEPT,
                   ROW_INTERCEPT_BYPASS, RULE_INTERCEPT)

A4, FAR4, A6, FAR6 = "10.0.0.1", "203.0.113.9", "fd00::1", "2001:db8::9"
LOOPBACK, WILDCARD = 0x76410000, 0x76420000
NO_LISTENER = (False, "DROPPED", "NO_LISTENER")
INTERCEPTED_PACKET = (True, "INTERCEPTED", "INTERCEPT")
ORIGINAL = {4: (socket.SOL_IP, 20), 6: (socket.IPPROTO_IPV6, 74)}
BOTH = CONTROL_STEERING | CONTROL_SERVICES


def datagram(v=4, sport=40000, payload=b"x"):
    header = IP(src=A4, dst=FAR4) if v == 4 else IPv6(src=A6, dst=FAR6)
    return Ether() / header / UDP(sport=sport, dport=53) / payload


@contextlib.contextmanager
def receiver(address="127.0.0.1", port=0, adopted=True, **options):
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as server:
        for option in options.get("set", ()):
            server.setsockopt(socket.SOL_SOCKET, option, 1)
        if adopted:
            transparent(server)
        for level, option in ORIGINAL.values() if ":" in address else (ORIGINAL[4],):
            server.setsockopt(level, option, 1)
        server.bind((address, port))
        server.settimeout(2)
        yield server


def take(server):
    """(payload, sender, original destination)"""
    data, ancillary, _, sender = server.recvmsg(65536, 256)
    for level, kind, value in ancillary:
        if (level, kind) == ORIGINAL[4]:
            port, = struct.unpack("!H", value[2:4])
            return data, sender[:2], (socket.inet_ntoa(value[4:8]), port)
        if (level, kind) == ORIGINAL[6]:
            port, = struct.unpack("!H", value[2:4])
            return data, sender[:2], (str(ipaddress.ip_address(value[8:24])), port)
    return data, sender[:2], None


# ---- engine tproxy: what the table of nftables is told ----

@pytest.mark.parametrize("v", (4, 6))
@pytest.mark.parametrize("hidden", (False, True), ids=("loopback", "wildcard"))
def test_priority_names_the_port(world, v, hidden):
    """Loopback finds who listens on the wildcard too, unless somebody who cannot be used listens there as well."""
    world.flip(BOTH | CONTROL_TPROXY | CONTROL_TABLE)
    world.profile(PROFILE_A, egress=ROW_INTERCEPT)
    shared = {"set": (socket.SO_REUSEADDR,)}
    with receiver("0.0.0.0" if v == 4 else "::", **shared) as server, contextlib.ExitStack() as stack:
        port = server.getsockname()[1]
        if hidden:
            stack.enter_context(receiver("127.0.0.1" if v == 4 else "::1", port, adopted=False, **shared))
        world.proxy(PROXY, port)
        assert world.send(A, datagram(v)) == INTERCEPTED_PACKET
        assert world.result.mark == MARK
        assert world.result.priority == (WILDCARD if hidden else LOOPBACK) | port
        assert world.conn().flags & INTERCEPTED and world.hits(RULE_INTERCEPT) == 1
        assert world.send(A, datagram(v)) == INTERCEPTED_PACKET, "each datagram"
        assert world.result.priority & 0xffff == port and world.hits(RULE_INTERCEPT) == 1


@pytest.mark.parametrize("engine", (0, CONTROL_TPROXY | CONTROL_TABLE), ids=("ebpf", "tproxy"))
def test_nobody_receives(world, engine):
    """A socket that is not transparent is nobody, with both engines."""
    world.flip(BOTH | engine)
    with receiver(adopted=False) as server:
        world.proxy(PROXY, server.getsockname()[1])
        world.profile(PROFILE_A, egress=ROW_INTERCEPT)
        assert world.send(A, datagram()) == NO_LISTENER and world.conns() == {}
        world.profile(PROFILE_A, egress=ROW_INTERCEPT_BYPASS)
        world.proxy(PROXY_BYPASSED, server.getsockname()[1], PROXY_BYPASS)
        assert world.send(A, datagram()) == (True, "FORWARDED", "POLICY")
        assert not world.conn().flags & INTERCEPTED and world.result.mark == 0


def test_fragments_are_left_to_the_table(world):
    """It sees the whole. With engine ebpf as well."""
    world.flip(BOTH | CONTROL_TABLE)
    world.profile(PROFILE_A, egress=ROW_INTERCEPT)
    with receiver() as server:
        port = server.getsockname()[1]
        world.proxy(PROXY, port)
        for part in fragment(IP(src=A4, dst=FAR4, id=7) / UDP(sport=40000, dport=53) / (b"x" * 3000), 1400):
            assert world.send(A, Ether() / part) == INTERCEPTED_PACKET
            assert (world.result.mark, world.result.priority) == (MARK, LOOPBACK | port)


def test_direct_flow_is_not_taken_over(world):
    assert world.send(A, datagram())[0]
    world.profile(PROFILE_A, egress=ROW_INTERCEPT, side=1 - world.side)
    world.flip()
    with receiver() as server:
        world.proxy(PROXY, server.getsockname()[1])
        assert world.send(A, datagram()) == (True, "FORWARDED", "POLICY")
        assert world.result.mark == 0


def test_reply_is_never_a_request(world):
    """The other end spoke first: what A sends back is covered by the rule, and goes there all the same."""
    world.profile(PROFILE_A, egress=ROW_INTERCEPT)
    request = Ether() / IP(src=FAR4, dst=A4) / UDP(sport=5353, dport=53)
    reply = Ether() / IP(src=A4, dst=FAR4) / UDP(sport=53, dport=5353)
    with receiver() as server:
        world.proxy(PROXY, server.getsockname()[1])
        assert world.deliver(A, request)[0]
        assert world.send(A, reply)[:2] == (True, "FORWARDED") and world.result.mark == 0
        assert not world.conn().flags & INTERCEPTED


# ---- real traffic ----

@pytest.fixture(scope="module")
def client(interfaces):
    client = Space()
    client.wire("bpf-d", A4, A6)
    for v in ("-4", "-6"):
        ip(v, "rule", "add", "fwmark", f"{MARK:#x}/{MARK_MASK:#x}", "lookup", "7641")
        ip(v, "route", "add", "local", "default", "dev", "lo", "table", "7641")
    yield client
    ip("link", "del", "bpf-d")
    client.close()
    for v in ("-4", "-6"):
        ip(v, "rule", "del", "fwmark", f"{MARK:#x}/{MARK_MASK:#x}", "lookup", "7641")
        ip(v, "route", "flush", "table", "7641")


@pytest.fixture
def attached(world, client):
    index = socket.if_nametoindex("bpf-d")
    world.iface(index, A)
    world.profile(PROFILE_A, egress=ROW_INTERCEPT)
    links = [world.object.attach(name, index) for name in ("from_workload", "to_workload")]
    yield world
    for link in links:
        os.close(link)


def sender(client, destination):
    def body():
        there = socket.socket(family_of(destination[0]), socket.SOCK_DGRAM)
        there.settimeout(2)
        there.connect(destination)
        return there
    return client.run(body)


@contextlib.contextmanager
def answering(original, to=None):
    """A proxy's second socket: from the original destination."""
    with socket.socket(family_of(original[0]), socket.SOCK_DGRAM) as answer:
        answer.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        transparent(answer)
        answer.bind(original)
        answer.settimeout(2)
        if to:
            answer.connect(to)
        yield answer


@pytest.mark.parametrize("address", ("127.0.0.1", "0.0.0.0", "::1", "::", "both"))
def test_datagrams_reach_the_proxy(attached, client, address):
    """Both addresses intact; the answer leaves from where the client sent to; a bystander gets nothing."""
    v = 6 if ":" in address else 4
    destination = (FAR6 if v == 6 else FAR4, 53)
    with receiver("::" if address == "both" else address) as server, receiver(
            "::" if v == 6 else "0.0.0.0", 53, adopted=False, set=(socket.SO_REUSEADDR,)) as bystander:
        attached.proxy(PROXY, server.getsockname()[1])
        with sender(client, destination) as there:
            there.send(b"question")
            data, peer, original = take(server)
            expected = there.getsockname()[:2]
            if address == "both":
                peer = (peer[0].removeprefix("::ffff:"), peer[1])
            assert (data, peer, original) == (b"question", expected, destination)
            with answering(destination) as answer:
                answer.sendto(b"answer", expected)
                assert there.recv(100) == b"answer"
                there.send(b"more")
                assert take(server)[0] == b"more", "not who is merely bound to the destination"
            conn, = (conn for key, conn in attached.conns().items() if there.getsockname()[:2] in key)
            assert conn.live and conn.state == ESTABLISHED and conn.flags & INTERCEPTED and conn.proxy == PROXY
            attached.flip()
            there.send(b"after the flip")
            assert take(server)[0] == b"after the flip"
            bystander.settimeout(0.1)
            with pytest.raises(TimeoutError):
                bystander.recv(10)


def test_connected_socket_of_the_proxy_has_its_flow(attached, client):
    with receiver() as server, sender(client, (FAR4, 53)) as there:
        attached.proxy(PROXY, server.getsockname()[1])
        there.send(b"first")
        _, peer, original = take(server)
        with answering(original, peer) as answer:
            there.send(b"second")
            assert answer.recv(10) == b"second"
            with sender(client, (FAR4, 53)) as other:
                other.send(b"another's")
                assert take(server)[0] == b"another's"
        there.send(b"third")
        assert take(server)[0] == b"third", "closed: the listener's again"


def test_large_datagram_arrives_whole(attached, client):
    """GSO and fragments: what the link cuts, the stack puts together. Fragments need the table of nftables."""
    attached.flip(BOTH | CONTROL_TABLE)
    with receiver() as server, sender(client, (FAR4, 53)) as there:
        port = server.getsockname()[1]
        attached.proxy(PROXY, port)
        ip_table(port)
        try:
            there.send(b"l" * 60000)
            data, peer, original = take(server)
            assert (len(data), peer, original) == (60000, there.getsockname(), (FAR4, 53))
        finally:
            nft("delete table inet datagrams")


def nft(commands):
    import subprocess
    subprocess.run(["nft", "-f", "-"], input=commands, text=True, check=True)


def ip_table(port):
    nft(f"""table inet datagrams {{
        chain pre {{ type filter hook prerouting priority mangle;
            meta mark & {MARK_MASK:#x} == {MARK:#x} meta l4proto {{ tcp, udp }} tproxy ip to 127.0.0.1:meta priority map {{ 7641:{port:x} : {port}, 0:1 : 1 }}
        }}
    }}""")


def test_receiver_that_comes_back(attached, client):
    with receiver() as server, sender(client, (FAR4, 53)) as there:
        port = server.getsockname()[1]
        attached.proxy(PROXY, port)
        there.send(b"one")
        assert take(server)[0] == b"one"
        server.close()
        there.send(b"lost")
        with receiver(port=port) as server2:
            there.send(b"two")
            assert take(server2)[0] == b"two", "a flow goes to who listens now"
    assert attached.counts(0)["DROPPED", "NO_LISTENER"][0] >= 1


def test_group_of_receivers(attached, client):
    """SO_REUSEPORT: each flow has its one socket, all flows together several."""
    with contextlib.ExitStack() as stack:
        group = []
        for _ in range(3):
            port = group[0].getsockname()[1] if group else 0
            group.append(stack.enter_context(receiver(port=port, set=(socket.SO_REUSEPORT,))))
        attached.proxy(PROXY, group[0].getsockname()[1])
        takers = {}
        for _ in range(24):
            there = stack.enter_context(sender(client, (FAR4, 53)))
            for _ in range(2):
                there.send(struct.pack("=H", there.getsockname()[1]))
        for number, server in enumerate(group):
            server.settimeout(0.1)
            with contextlib.suppress(TimeoutError):
                while True:
                    takers.setdefault(server.recv(2), []).append(number)
        assert len(takers) == 24 and all(len(who) == 2 and len(set(who)) == 1 for who in takers.values()), takers
        assert len({who[0] for who in takers.values()}) > 1


def test_leg_from_the_clients_address(attached, client):
    """What a proxy sends on from the client's address; the server is a workload here: the reply goes to the socket."""
    ip("route", "replace", "198.51.100.7", "dev", "bpf-d")  # else a node that forwards takes it for an address of its own
    attached.profile(PROFILE_A, egress=ROW_ALLOW)
    server = client.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with server:
        client.run(lambda: server.bind((A4, 7000)))
        server.settimeout(2)
        with answering(("198.51.100.7", 0)) as leg:
            leg.sendto(b"question", (A4, 7000))
            data, peer = server.recvfrom(100)
            assert data == b"question" and peer[0] == "198.51.100.7"
            conn, = (conn for key, conn in attached.conns().items() if leg.getsockname() in key)
            assert conn.flags & LEG
            server.sendto(b"reply", peer)
            assert leg.recv(100) == b"reply"
            bound = leg.getsockname()
        with receiver("0.0.0.0", bound[1], adopted=False) as bystander:
            server.sendto(b"late", bound)
            bystander.settimeout(0.1)
            with pytest.raises(TimeoutError):
                bystander.recv(10)
        deadline = time.monotonic() + 1
        while ("DROPPED", "NO_LISTENER") not in attached.counts(0) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert attached.counts(0)["DROPPED", "NO_LISTENER"][0] >= 1
