# SPDX-License-Identifier: Apache-2.0
"""Handing over to a proxy: decisions under test runs, and the real thing between two namespaces."""

import contextlib
import os
import socket

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from space import Space, ip, listener
from world import (A, B, CONTROL_SERVICES, CONTROL_STEERING, CONTROL_TABLE, CONTROL_TPROXY, ESTABLISHED, INTERCEPTED, LOCAL,
                   MARK, MARK_MASK, NEW, PROFILE_A, PROFILE_B, PROXY, PROXY_BYPASS, PROXY_BYPASSED, ROW_ALLOW, ROW_DENY,
                   ROW_INTERCEPT, ROW_INTERCEPT_BYPASS, RULE_DENY, RULE_INTERCEPT)

A4, B4, FAR4, A6, FAR6 = "10.0.0.1", "10.0.0.2", "203.0.113.9", "fd00::1", "2001:db8::9"
NO_LISTENER = (False, "DROPPED", "NO_LISTENER")
INTERCEPTED_PACKET = (True, "INTERCEPTED", "INTERCEPT")
ASSIGN_FAIL = 3
LOOPBACK, WILDCARD = 0x76410000, 0x76420000
BOTH = CONTROL_STEERING | CONTROL_SERVICES
TPROXY = BOTH | CONTROL_TPROXY | CONTROL_TABLE
ENGINES = pytest.mark.parametrize("control", (BOTH, TPROXY), ids=("ebpf", "tproxy"))


def syn(source=A4, destination=FAR4, flags="S", sport=40000):
    return Ether() / IP(src=source, dst=destination) / TCP(sport=sport, dport=443, flags=flags)


def syn_of(v, flags="S", sport=40000):
    header = IP(src=A4, dst=FAR4) if v == 4 else IPv6(src=A6, dst=FAR6)
    return Ether() / header / TCP(sport=sport, dport=443, flags=flags)


@ENGINES
def test_nobody_listens(world, control):
    world.flip(control)
    world.profile(PROFILE_A, egress=ROW_INTERCEPT)
    world.proxy(PROXY, 15001)
    assert world.send(A, syn()) == NO_LISTENER
    assert world.conns() == {} and world.hits(RULE_INTERCEPT) == 1
    world.profile(PROFILE_A, egress=ROW_INTERCEPT_BYPASS)
    world.proxy(PROXY_BYPASSED, 15001, PROXY_BYPASS)
    assert world.send(A, syn()) == (True, "FORWARDED", "POLICY")
    assert not world.conn().flags & INTERCEPTED, "and stays with where it was going"
    assert world.result.mark == world.result.priority == 0


@ENGINES
@pytest.mark.parametrize("v", (4, 6))
def test_a_listener_that_is_not_transparent_is_nobody(world, v, control):
    world.flip(control)
    failed = world.stat(ASSIGN_FAIL)
    with listener("127.0.0.1" if v == 4 else "::1", adopted=False) as server:
        for row, proxy, flags, expected in ((ROW_INTERCEPT, PROXY, 0, NO_LISTENER),
                                            (ROW_INTERCEPT_BYPASS, PROXY_BYPASSED, PROXY_BYPASS, (True, "FORWARDED", "POLICY"))):
            world.proxy(proxy, server.getsockname()[1], flags)
            world.profile(PROFILE_A, egress=row)
            assert world.send(A, syn_of(v)) == expected
            assert world.result.mark == world.result.priority == 0
    assert world.stat(ASSIGN_FAIL) == failed, "nobody was asked"


def test_proxy_that_is_not_there(world):
    world.array("proxy", PROXY, bytes(8))
    world.profile(PROFILE_A, egress=ROW_INTERCEPT)
    assert world.send(A, syn()) == NO_LISTENER


@ENGINES
def test_what_cannot_be_handed_over(world, control):
    """As a proxy that is not available: refused, or with Bypass on its way."""
    world.flip(control)
    for packet in (Ether() / IPv6(src=A6, dst=FAR6) / TCP(dport=443, flags="S"),
                   Ether() / IP(src=A4, dst=FAR4) / UDP(dport=443)):
        world.profile(PROFILE_A, egress=ROW_INTERCEPT)
        assert world.send(A, packet) == NO_LISTENER
        world.profile(PROFILE_A, egress=ROW_INTERCEPT_BYPASS)
        assert world.send(A, packet) == (True, "FORWARDED", "POLICY")


@ENGINES
def test_link_local_destination_cannot_be_handed_over(world, control):
    """The kernel looks for it on the incoming link alone; an IPv4 one (169.254.169.254) is like any other."""
    world.flip(control)
    packet = Ether() / IPv6(src=A6, dst="fe80::1") / TCP(dport=443, flags="S")
    with listener("::") as server:
        world.proxy(PROXY, server.getsockname()[1])
        world.profile(PROFILE_A, egress=ROW_INTERCEPT)
        failed = world.stat(ASSIGN_FAIL)
        assert world.send(A, packet) == NO_LISTENER and world.stat(ASSIGN_FAIL) == failed, "nobody was asked"


@ENGINES
def test_midstream_is_never_intercepted(world, control):
    world.flip(control)
    world.profile(PROFILE_A, egress=ROW_INTERCEPT)
    assert world.send(A, syn(flags="A")) == (True, "FORWARDED", "POLICY")
    assert world.result.mark == 0 and not world.conn().flags & INTERCEPTED


def test_connection_that_begins_after_a_late_packet(world):
    """A late packet of the connection before makes an entry; the SYN is not that one's."""
    world.profile(PROFILE_A, egress=ROW_INTERCEPT)
    assert world.send(A, syn(flags="A")) == (True, "FORWARDED", "POLICY")
    assert world.send(A, syn()) == NO_LISTENER


def test_running_connection_is_not_taken_over(world):
    assert world.send(A, syn())[0]
    world.profile(PROFILE_A, egress=ROW_INTERCEPT, side=1 - world.side)
    world.flip()
    assert world.send(A, syn(flags="A")) == (True, "FORWARDED", "POLICY")
    assert world.result.mark == 0


def test_local_destination_must_allow(world):
    """The proxy stands before the last hook: both directions are judged before."""
    world.profile(PROFILE_A, egress=ROW_INTERCEPT)
    world.profile(PROFILE_B, ingress=ROW_DENY)
    assert world.send(A, syn(destination=B4)) == (False, "DROPPED", "POLICY")
    assert world.hits(RULE_DENY) == 1 and world.conns() == {}
    world.profile(PROFILE_B, ingress=ROW_ALLOW)
    assert world.send(A, syn(destination=B4)) == NO_LISTENER


def test_socket_that_cannot_be_assigned(world):
    """A test run is no ingress: the helper refuses, which is counted."""
    failed = world.stat(ASSIGN_FAIL)
    with listener() as server:
        world.proxy(PROXY, server.getsockname()[1])
        world.profile(PROFILE_A, egress=ROW_INTERCEPT)
        assert world.send(A, syn()) == NO_LISTENER
    assert world.stat(ASSIGN_FAIL) == failed + 1


# ---- engine tproxy: what the table of nftables is told ----

@pytest.mark.parametrize("v", (4, 6))
@pytest.mark.parametrize("hidden", (False, True), ids=("loopback", "wildcard"))
def test_priority_names_the_listener(world, v, hidden):
    """Loopback finds who listens on the wildcard too, unless somebody who cannot be used listens there as well. Nothing is
    assigned, so nothing fails here."""
    world.flip(TPROXY)
    world.profile(PROFILE_A, egress=ROW_INTERCEPT)
    failed = world.stat(ASSIGN_FAIL)
    with listener("0.0.0.0" if v == 4 else "::", reuse_port=True) as server, contextlib.ExitStack() as stack:
        port = server.getsockname()[1]
        if hidden:
            stack.enter_context(listener("127.0.0.1" if v == 4 else "::1", port, adopted=False, reuse_port=True))
        world.proxy(PROXY, port)
        handed = (WILDCARD if hidden else LOOPBACK) | port
        # Repeated; and what answers no SYN cookie of the listener, but may have a socket behind NAT.
        for flags, priority in (("S", handed), ("S", handed), ("A", LOOPBACK)):
            assert world.send(A, syn_of(v, flags)) == INTERCEPTED_PACKET
            assert (world.result.mark, world.result.priority) == (MARK, priority)
        conn = world.conn()
        assert conn.flags & INTERCEPTED and conn.proxy == PROXY and conn.state == NEW
        assert world.hits(RULE_INTERCEPT) == 1 and world.stat(ASSIGN_FAIL) == failed


def test_what_is_not_handed_over_has_no_priority(world):
    """The table looks at the mark first: what a workload has sent with either of them passes as it is."""
    world.flip(TPROXY)
    with listener() as server:
        world.proxy(PROXY, server.getsockname()[1])
        assert world.send(A, syn(), mark=MARK) == (True, "FORWARDED", "POLICY")
        assert world.result.mark == world.result.priority == 0
        world.profile(PROFILE_A, egress=ROW_DENY)
        assert world.send(A, syn(sport=40001)) == (False, "DROPPED", "POLICY")
        assert world.result.mark == world.result.priority == 0


def test_a_change_of_engine_is_for_the_next_packet(world):
    """A connection that is being opened goes on with the engine that is."""
    world.profile(PROFILE_A, egress=ROW_INTERCEPT)
    with listener() as server:
        port = server.getsockname()[1]
        world.proxy(PROXY, port)
        world.flip(TPROXY)
        assert world.send(A, syn()) == INTERCEPTED_PACKET and world.result.priority == LOOPBACK | port
        world.flip(BOTH | CONTROL_TABLE)
        failed = world.stat(ASSIGN_FAIL)
        assert world.send(A, syn()) == NO_LISTENER and world.stat(ASSIGN_FAIL) == failed + 1, "assigned, as a test run cannot"
        world.flip(TPROXY)
        assert world.send(A, syn()) == INTERCEPTED_PACKET and world.result.priority == LOOPBACK | port


# ---- real traffic ----

@pytest.fixture(scope="module")
def client(interfaces):
    client = Space()
    client.wire("bpf-c", A4)
    ip("rule", "add", "fwmark", f"{MARK:#x}/{MARK_MASK:#x}", "lookup", "7641")
    ip("route", "add", "local", "default", "dev", "lo", "table", "7641")
    yield client
    ip("link", "del", "bpf-c")
    client.close()
    ip("rule", "del", "fwmark", f"{MARK:#x}/{MARK_MASK:#x}", "lookup", "7641")
    ip("route", "flush", "table", "7641")


@pytest.fixture
def attached(world, client):
    """The programs on A's real interface, everything to be intercepted."""
    index = socket.if_nametoindex("bpf-c")
    world.iface(index, A)
    world.profile(PROFILE_A, egress=ROW_INTERCEPT)
    links = [world.object.attach(name, index) for name in ("from_workload", "to_workload")]
    yield world
    for link in links:
        os.close(link)


@pytest.mark.parametrize("address", ("127.0.0.1", "0.0.0.0"))
def test_connection_reaches_the_proxy(attached, client, address):
    """Both addresses intact, bytes both ways, and every packet of it goes there."""
    with listener(address) as server:
        attached.proxy(PROXY, server.getsockname()[1])
        with client.connect() as there:
            here, peer = server.accept()
            with here:
                here.settimeout(3)
                assert peer == there.getsockname() and peer[0] == A4
                assert here.getsockname() == (FAR4, 443)
                there.sendall(b"x" * 200000)
                got = 0
                while got < 200000:
                    got += len(here.recv(65536))
                here.sendall(b"answer")
                assert there.recv(100) == b"answer"
                conn = attached.conn()
                assert conn.live and conn.state == ESTABLISHED and conn.flags & INTERCEPTED and conn.proxy == PROXY
                assert conn.intercept_rule == RULE_INTERCEPT and conn.packets[0] > 2 and conn.packets[1] > 2
                attached.flip()
                there.sendall(b"after the flip")
                assert here.recv(100) == b"after the flip", "stays with the proxy"
    assert attached.hits(RULE_INTERCEPT) == 1
    packets, _ = attached.counts(0)["INTERCEPTED", "INTERCEPT"]
    assert packets >= 4


def test_stays_with_the_proxy_while_policy_allows(attached, client):
    with listener() as server:
        attached.proxy(PROXY, server.getsockname()[1])
        with client.connect() as there, server.accept()[0] as here:
            here.settimeout(1)
            attached.profile(PROFILE_A, egress=ROW_ALLOW, side=1 - attached.side)
            attached.flip()
            there.sendall(b"no rule any more")
            assert here.recv(100) == b"no rule any more"
            attached.profile(PROFILE_A, egress=ROW_DENY, side=1 - attached.side)
            attached.flip()
            there.sendall(b"denied")
            with pytest.raises(TimeoutError):
                here.recv(100)


def test_no_listener_then_one(attached, client):
    """Refused while nobody listens; the retransmitted SYN finds the proxy that has come up."""
    with listener() as server:
        port = server.getsockname()[1]
    attached.proxy(PROXY, port)
    with pytest.raises(TimeoutError):
        client.connect(timeout=0.5)
    with listener(port=port) as server:
        with client.connect() as there, server.accept()[0]:
            assert there.getpeername() == (FAR4, 443)


def test_listener_of_the_destination_port_is_not_the_proxy(attached, client):
    """Somebody else on the node listens on 443: not what was meant."""
    with listener() as server, listener("0.0.0.0", 443) as other:
        attached.proxy(PROXY, server.getsockname()[1])
        with client.connect(), server.accept()[0]:
            other.settimeout(0.2)
            with pytest.raises(TimeoutError):
                other.accept()


def test_port_reused_after_the_proxy_closed_first(attached, client):
    """The SYN meets the proxy's TIME_WAIT socket."""
    with listener() as server:
        attached.proxy(PROXY, server.getsockname()[1])
        there = client.connect(source=(A4, 50001))
        here, _ = server.accept()
        here.close()
        assert there.recv(1) == b""
        there.close()
        with client.connect(source=(A4, 50001)) as there, server.accept()[0] as here:
            there.sendall(b"again")
            here.settimeout(3)
            assert here.recv(10) == b"again"


def forget(world):
    for name in ("ps_new4", "ps_conn4"):
        world.object.map(name).clear()


@pytest.mark.parametrize("first", ("client", "proxy"))
def test_entry_that_is_lost_comes_back(attached, client, first):
    """Evicted before it was established: the proxy's socket shows whose connection it is."""
    with listener() as server:
        attached.proxy(PROXY, server.getsockname()[1])
        with client.connect() as there, server.accept()[0] as here:
            here.settimeout(3)
            attached.profile(PROFILE_A, egress=ROW_INTERCEPT, ingress=ROW_DENY)
            forget(attached)
            for speaker, listens in ((there, here), (here, there)) if first == "client" else ((here, there), (there, here)):
                speaker.sendall(b"still")
                assert listens.recv(10) == b"still"
            conn = attached.conn()
            assert conn.flags & INTERCEPTED and conn.proxy == PROXY and conn.intercept_rule == RULE_INTERCEPT
            assert conn.ifindex[0] == socket.if_nametoindex("bpf-c"), "opened by the workload"
            attached.flip()
            there.sendall(b"after the flip")
            assert here.recv(100) == b"after the flip"
    assert attached.hits(RULE_INTERCEPT) == 1, "handed over once"


def test_entry_lost_while_the_proxy_answers(world):
    """Its SYN-ACK makes no entry with the wrong originator; an answer of the node's own server does not become one."""
    answer = Ether() / IP(src=FAR4, dst=A4) / TCP(sport=443, dport=40000, flags="SA")
    world.profile(PROFILE_A, egress=ROW_INTERCEPT, ingress=ROW_DENY)
    assert world.deliver(A, answer, ingress=0) == (True, "FORWARDED", "NODE")
    assert world.conns() == {}
    assert world.deliver(A, answer) == (True, "FORWARDED", "POLICY"), "not from a socket of this node: an answer to A"
    assert not world.conn().flags & INTERCEPTED


def test_lost_entry_of_a_refused_destination(attached, client):
    with listener() as server:
        attached.proxy(PROXY, server.getsockname()[1])
        with client.connect() as there, server.accept()[0] as here:
            here.settimeout(0.5)
            forget(attached)
            attached.addr(FAR4, 9, B, PROFILE_B, LOCAL)
            attached.profile(PROFILE_B, ingress=ROW_DENY)
            there.sendall(b"denied")
            with pytest.raises(TimeoutError):
                here.recv(10)


def test_reset_when_the_proxy_dies(attached, client):
    with listener() as server:
        attached.proxy(PROXY, server.getsockname()[1])
        there = client.connect()
        here, _ = server.accept()
        here.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        here.close()
        with there, pytest.raises(ConnectionResetError):
            there.recv(1)


def test_group_of_listeners_shares(attached, client):
    """SO_REUSEPORT: connections spread over the group."""
    with contextlib.ExitStack() as stack:
        group = []
        for _ in range(4):
            port = group[0].getsockname()[1] if group else 0
            group.append(stack.enter_context(listener(port=port, reuse_port=True)))
            group[-1].setblocking(False)
        attached.proxy(PROXY, group[0].getsockname()[1])
        for _ in range(40):
            stack.enter_context(client.connect())
        taken = []
        for server in group:
            taken.append(0)
            with contextlib.suppress(BlockingIOError):
                while True:
                    stack.enter_context(server.accept()[0])
                    taken[-1] += 1
        assert sum(taken) == 40 and taken.count(0) == 0, taken
