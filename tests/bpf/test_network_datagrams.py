# SPDX-License-Identifier: Apache-2.0
"""Datagrams at an uplink: ingress interception, and what a proxy sends on. Real traffic between namespaces."""

import contextlib
import socket

import pytest

from space import family_of
from test_datagrams import answering, receiver, take
from test_network import conn_of, net, numbers, spaces, steered  # noqa: F401: fixtures
from world import ESTABLISHED, INTERCEPTED, LEG, OF, PER_FAMILY, PROFILE_A, PROFILE_B, PROXY, ROW_ALLOW, ROW_DENY, ROW_INTERCEPT, RULE_INTERCEPT


def speaker(space, destination, source=None):
    def body():
        sock = socket.socket(family_of(destination[0]), socket.SOCK_DGRAM)
        sock.settimeout(2)
        if source:
            sock.bind(source)
        sock.connect(destination)
        return sock
    return space.run(body)


def server_in(space, address, port):
    def body():
        sock = socket.socket(family_of(address), socket.SOCK_DGRAM)
        sock.settimeout(2)
        sock.bind((address, port))
        return sock
    return space.run(body)


@PER_FAMILY
@pytest.mark.parametrize("who", ("far", "a"))
def test_ingress_rule_hands_over(net, v, who):  # noqa: F811
    steered(net)
    with receiver(("127.0.0.1", "::1")[v]) as proxy, server_in(net.b, OF["b"][v], 8080) as server:
        net.proxy(PROXY, proxy.getsockname()[1])
        with speaker(getattr(net, who), (OF["b"][v], 8080)) as there:
            own = there.getsockname()[:2]
            for n in range(3):
                there.send(b"question %d" % n)
                data, peer, original = take(proxy)
                assert (data, peer, original) == (b"question %d" % n, own, (OF["b"][v], 8080))
                with answering(original) as answer:
                    answer.sendto(b"answer", peer)
                assert there.recv(100) == b"answer"
            conn = conn_of(net, own)
            assert conn.flags & INTERCEPTED and conn.live and conn.state == ESTABLISHED, "answered at the uplink too"
            server.settimeout(0.1)
            with pytest.raises(TimeoutError):
                server.recv(10)


@PER_FAMILY
@pytest.mark.parametrize("where", ("far", "b"))
def test_leg_from_the_clients_address(net, v, where):  # noqa: F811
    """Client A, server beyond the uplink or local: what the server sends back reaches the proxy's socket, and a client
    that uses the very port itself is not disturbed."""
    net.profile(PROFILE_A, ingress=ROW_DENY)
    with server_in(getattr(net, where), OF[where][v], 7000) as server, answering((OF["a"][v], 0)) as leg:
        leg.sendto(b"question", (OF[where][v], 7000))
        data, peer = server.recvfrom(100)
        assert (data, peer[:2]) == (b"question", leg.getsockname()[:2])
        for n in range(3):
            server.sendto(b"reply %d" % n, peer)
            assert leg.recv(100) == b"reply %d" % n
            leg.sendto(b"more", (OF[where][v], 7000))
            assert server.recv(100) == b"more"
        conn = conn_of(net, peer[:2])
        assert conn.flags & LEG and conn.live


@PER_FAMILY
@pytest.mark.parametrize("where", ("far", "b"))
@pytest.mark.parametrize("first", ("client", "leg"))
def test_leg_with_the_clients_own_port(net, v, where, first):  # noqa: F811
    """One entry is both: what the server says is for the leg, what the proxy says for the client."""
    net.profile(PROFILE_A, egress=ROW_INTERCEPT)
    to = OF[where][v], 7000
    with receiver(("127.0.0.1", "::1")[v]) as proxy, server_in(getattr(net, where), *to) as server, \
            speaker(net.a, to) as there, answering(there.getsockname()[:2], to) as leg:
        net.proxy(PROXY, proxy.getsockname()[1])
        with answering(to, there.getsockname()[:2]) as answer:
            def client_speaks():
                there.send(b"client's")
                answer.settimeout(0.3)
                with contextlib.suppress(TimeoutError):
                    return answer.recv(100)
                return take(proxy)[0]

            def leg_speaks():
                leg.send(b"leg's")
                assert server.recvfrom(100) == (b"leg's", (*leg.getsockname(),))
                server.sendto(b"to the leg", leg.getsockname())
                assert leg.recv(100) == b"to the leg"

            for n in range(3):
                for one in (client_speaks, leg_speaks) if first == "client" else (leg_speaks, client_speaks):
                    assert one() in (b"client's", None)
                answer.send(b"to the client")
                assert there.recv(100) == b"to the client", n
        assert net.hits(RULE_INTERCEPT) == 1, "one flow"


@PER_FAMILY
@pytest.mark.parametrize("times", (1, 3), ids=("begun", "established"))
def test_leg_with_an_outside_clients_own_port(net, v, times):  # noqa: F811
    """A leg to a local server is no reason to let its client past the proxy."""
    steered(net)
    to = OF["b"][v], 7000
    with receiver(("127.0.0.1", "::1")[v]) as proxy, server_in(net.b, *to) as server, \
            answering((OF["far"][v], 0), to) as leg:
        net.proxy(PROXY, proxy.getsockname()[1])
        for _ in range(times):
            leg.send(b"leg's")
            _, peer = server.recvfrom(100)
            server.sendto(b"to the leg", peer)
            assert leg.recv(100) == b"to the leg"
        with speaker(net.far, to, leg.getsockname()[:2]) as there:
            for n in range(3):
                there.send(b"client's %d" % n)
                data, peer, original = take(proxy)
                assert (data, peer, original) == (b"client's %d" % n, there.getsockname()[:2], to)
            leg.send(b"leg's")
            _, peer = server.recvfrom(100)
            server.sendto(b"to the leg", peer)
            assert leg.recv(100) == b"to the leg"
        assert net.hits(RULE_INTERCEPT) == 1, "one flow"


@PER_FAMILY
def test_leg_is_judged_by_the_client(net, v):  # noqa: F811
    """From the client's address, to a local server whose ingress denies the client."""
    net.profile(PROFILE_B, ingress=ROW_DENY)
    with server_in(net.b, OF["b"][v], 7000) as server, answering((OF["far"][v], 0)) as leg:
        leg.sendto(b"question", (OF["b"][v], 7000))
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.recv(10)
        net.profile(PROFILE_B, ingress=ROW_ALLOW, side=1 - net.side)
        net.flip()
        leg.sendto(b"question", (OF["b"][v], 7000))
        server.settimeout(2)
        assert server.recv(10) == b"question"


@PER_FAMILY
def test_nodes_own_datagrams_leave_no_entry(net, v):  # noqa: F811
    with server_in(net.far, OF["far"][v], 7000) as server, contextlib.closing(
            socket.socket(family_of(OF["far"][v]), socket.SOCK_DGRAM)) as own:
        own.sendto(b"x", (OF["far"][v], 7000))
        assert server.recv(10) == b"x"
        assert net.conns() == {}
