# SPDX-License-Identifier: Apache-2.0
"""Ingress interception at an uplink, and a proxy's onward connections: real traffic between namespaces."""

import contextlib
import ctypes
import errno
import os
import socket
import struct
import subprocess

import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.l2 import Ether

from space import Space, cookie, family_of, ip, listener, transparent
from world import (A, A4, A6, B, B4, CLASS_A, CLASS_B, CLOSING, ESTABLISHED, FAR4, FAR6, IFACE_NETWORK, INGRESS, INTERCEPTED,
                   LEG, LOCAL, MARK, MARK_MASK, NODE, NODE4, OF, PER_FAMILY, PROFILE_A, PROFILE_B, PROXY, PROXY_BYPASS,
                   REWRITTEN, ROW_ALLOW, ROW_DENY, ROW_INTERCEPT, RULE_INTERCEPT, STEERED)

SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27


@pytest.fixture(scope="module")
def spaces(interfaces):
    made = {name: Space() for name in ("a", "b", "far")}
    indexes = {name: space.wire(f"bpfn-{name}", *OF[name]) for name, space in made.items()}
    for address in OF["node"]:
        ip("addr", "add", address, "dev", "lo")
    mark = f"{MARK:#x}/{MARK_MASK:#x}"
    for family in ("-4", "-6"):
        ip(family, "rule", "add", "pref", "4", "iif", "lo", "fwmark", mark, "lookup", "main")
        ip(family, "rule", "add", "pref", "5", "fwmark", mark, "lookup", "7641")
        ip(family, "route", "add", "local", "default", "dev", "lo", "table", "7641")
    yield made, indexes
    for address in OF["node"]:
        ip("addr", "del", f"{address}/{128 if ':' in address else 32}", "dev", "lo")
    for name, space in made.items():
        ip("link", "del", f"bpfn-{name}")
        space.close()
    for family in ("-4", "-6"):
        ip(family, "rule", "del", "pref", "4")
        ip(family, "rule", "del", "pref", "5")
        ip(family, "route", "flush", "table", "7641")


@pytest.fixture
def net(world, spaces):
    """A and B are workloads with the programs on their interfaces, far is beyond an uplink."""
    made, indexes = spaces
    world.a, world.b, world.far = made["a"], made["b"], made["far"]
    world.iface(indexes["a"], A)
    world.iface(indexes["b"], B)
    world.iface(indexes["far"], 0, IFACE_NETWORK)
    links = [world.object.attach(name, indexes[who]) for who in ("a", "b") for name in ("from_workload", "to_workload")]
    links += [world.object.attach(name, indexes["far"]) for name in ("from_network", "to_network")]
    saved = world.a, world.b
    yield world
    for link in links:
        os.close(link)
    world.a, world.b = saved


@pytest.fixture(autouse=True)
def numbers(world):
    """World.a and .b are ifindexes for test runs; here they are namespaces."""
    saved = world.a, world.b
    yield
    world.a, world.b = saved


def steered(world, ingress=ROW_INTERCEPT, egress=ROW_ALLOW):
    """B's ingress is somebody's to intercept."""
    for address in OF["b"]:
        world.addr(address, CLASS_B, B, PROFILE_B, LOCAL | STEERED)
    world.profile(PROFILE_B, ingress=ingress, egress=egress)


def talk(there, here, both=True):
    """Enough to be cut into many packets, both ways."""
    for speaker, listens in ((there, here), (here, there)) if both else ((there, here),):
        listens.settimeout(3)
        speaker.sendall(b"x" * 100000)
        left = 100000
        while left:
            got = len(listens.recv(65536))
            assert got, "closed"
            left -= got


def conn_of(net, client):
    """The entry of this socket's connection: packets of earlier tests' connections may still come."""
    end = client if isinstance(client, tuple) else client.getsockname()[:2]
    conn, = (conn for key, conn in net.conns().items() if end in key)
    return conn


def onward(source=None, client=None, world=None, timeout=2):
    """A proxy's upstream socket: transparent, bound to the client's address; or noted as connecting for a client."""
    def make(destination):
        sock = socket.socket(family_of(destination[0]))
        sock.settimeout(timeout)
        if source:
            transparent(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(source if isinstance(source, tuple) else (source, 0))
        if client:
            packed = socket.inet_pton(family_of(client), client)
            world.object.map("ps_leg").put(struct.pack("=Q", cookie(sock)), struct.pack(
                "=16sBB6x", packed, 4 if len(packed) == 4 else 6, PROXY))
        try:
            sock.connect(destination)
        except OSError:
            sock.close()
            raise
        return sock
    return make


def deaf(sock, heard=True):
    """Nobody answers what is sent to this listener, for a while."""
    nothing = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0))  # return 0 bytes
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
    if heard:
        sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("=HxxxxxxQ", 1, ctypes.addressof(nothing)))


# ---- ingress ----

@PER_FAMILY
@pytest.mark.parametrize("who", ("far", "a"))
def test_ingress_rule_hands_over(net, v, who):
    """Where the packet arrives: the uplink, or the source's own interface. Both addresses intact."""
    steered(net)
    client = getattr(net, who)
    with listener(("127.0.0.1", "::1")[v]) as proxy:
        net.proxy(PROXY, proxy.getsockname()[1])
        with client.connect((OF["b"][v], 8080)) as there:
            own = there.getsockname()[:2]
            here, peer = proxy.accept()
            with here:
                assert peer[:2] == there.getsockname()[:2] and peer[0] == OF[who][v]
                assert here.getsockname()[:2] == (OF["b"][v], 8080)
                talk(there, here)
                conn = conn_of(net, there)
                assert conn.live and conn.state == ESTABLISHED and conn.flags & INTERCEPTED and conn.proxy == PROXY
                net.flip()
                talk(there, here)
        if who == "far":
            with contextlib.suppress(OSError):
                here.shutdown(socket.SHUT_RDWR)
            assert conn_of(net, own).state == CLOSING, "both ends were seen to end"
    assert net.hits(RULE_INTERCEPT) == 1
    assert net.counts(INGRESS if who == "far" else 0)["INTERCEPTED", "INTERCEPT"][0] > 4


def test_unclaimed_interface_is_one_without_a_workload(net):
    """Attached by a name pattern, and nobody's yet: what a rule says of the other end holds."""
    net.iface(socket.if_nametoindex("bpfn-a"), 0)
    for address in OF["a"]:
        net.addr(address, 0)
    steered(net)
    with listener() as proxy, net.b.listen(B4, 8081) as listening:
        net.proxy(PROXY, proxy.getsockname()[1])
        with net.a.connect((B4, 8080)) as there, proxy.accept()[0] as here:
            assert here.getsockname() == (B4, 8080)
            talk(there, here)
        steered(net, ingress=ROW_ALLOW)
        with net.a.connect((B4, 8081)) as there, listening.accept()[0] as here:
            talk(there, here)


def test_egress_rule_comes_first(net):
    steered(net)
    net.row(7, 2, "POLICY", 0, 2, 15)
    net.profile(PROFILE_A, egress=7)
    with listener() as first, listener() as second:
        net.proxy(2, first.getsockname()[1])
        net.proxy(PROXY, second.getsockname()[1])
        with net.a.connect((B4, 8080)), first.accept()[0] as here:
            assert here.getsockname() == (B4, 8080)


def test_what_the_destination_denies_is_not_handed_over(net):
    steered(net, ingress=ROW_DENY)
    with listener() as proxy:
        net.proxy(PROXY, proxy.getsockname()[1])
        for client in (net.far, net.a):
            with pytest.raises(TimeoutError):
                client.connect((B4, 8080), timeout=0.4)
        proxy.settimeout(0.1)
        with pytest.raises(TimeoutError):
            proxy.accept()


@PER_FAMILY
def test_ingress_without_listener(net, v):
    steered(net)
    net.proxy(PROXY, 9)
    before = net.counts(INGRESS).get(("DROPPED", "NO_LISTENER"), (0, 0))[0]
    with net.b.listen(OF["b"][v], 8080) as server:
        with pytest.raises(TimeoutError):
            net.far.connect((OF["b"][v], 8080), timeout=0.4)
        assert net.counts(INGRESS)["DROPPED", "NO_LISTENER"][0] > before
        net.proxy(PROXY, 9, PROXY_BYPASS)
        with net.far.connect((OF["b"][v], 8080)) as there, server.accept()[0] as here:
            talk(there, here)


def test_live_ingress_connection_is_judged_anew(net):
    steered(net)
    with listener() as proxy:
        net.proxy(PROXY, proxy.getsockname()[1])
        with net.far.connect((B4, 8080)) as there, proxy.accept()[0] as here:
            talk(there, here)
            net.profile(PROFILE_B, ingress=ROW_DENY, side=1 - net.side)
            net.flip()
            here.settimeout(0.4)
            there.sendall(b"denied")
            with pytest.raises(TimeoutError):
                here.recv(10)


@pytest.mark.parametrize("lost", (False, True))
def test_ingress_connection_whose_entry_is_lost(net, lost):
    steered(net)
    with listener() as proxy:
        net.proxy(PROXY, proxy.getsockname()[1])
        with net.far.connect((B4, 8080)) as there, proxy.accept()[0] as here:
            talk(there, here)
            if lost:
                for name in ("ps_new4", "ps_conn4"):
                    net.object.map(name).clear()
            talk(there, here)
            assert conn_of(net, there).flags & INTERCEPTED


def test_other_traffic_passes_an_uplink(net):
    """Steered or not, what no rule names is not touched."""
    steered(net, ingress=ROW_ALLOW)
    with net.b.listen(B4, 8080) as server, net.far.connect((B4, 8080)) as there, server.accept()[0] as here:
        talk(there, here)
    with net.far.listen(FAR4, 443) as server, net.a.connect((FAR4, 443)) as there, server.accept()[0] as here:
        talk(there, here)
    with listener(NODE4, 7000, adopted=False) as server, net.far.connect((NODE4, 7000)) as there, server.accept()[0] as here:
        talk(there, here)


# ---- which listener ----

def test_listener_that_is_not_transparent_is_nobody(net):
    net.profile(PROFILE_A, egress=ROW_INTERCEPT)
    with listener(adopted=False) as proxy:
        net.proxy(PROXY, proxy.getsockname()[1])
        with pytest.raises(TimeoutError):
            net.a.connect((FAR4, 443), timeout=0.4)
        transparent(proxy)
        with net.a.connect((FAR4, 443)), proxy.accept()[0]:
            pass


def test_chosen_listener(net):
    """A foreign listener on loopback does not hide the right one on the wildcard."""
    net.profile(PROFILE_A, egress=ROW_INTERCEPT)
    with listener(reuse_port=True) as foreign:
        port = foreign.getsockname()[1]
        with listener("0.0.0.0", port, reuse_port=True) as proxy:
            net.proxy(PROXY, port, chosen=77)
            with pytest.raises(TimeoutError):
                net.a.connect((FAR4, 443), timeout=0.4)
            net.object.map("ps_listener").put(struct.pack("=QII", cookie(proxy), 76, 0), struct.pack("=I", 1))
            with pytest.raises(TimeoutError):
                net.a.connect((FAR4, 443), timeout=0.4)
            net.object.map("ps_listener").put(struct.pack("=QII", cookie(proxy), 77, 0), struct.pack("=I", 1))
            with net.a.connect((FAR4, 443)), proxy.accept()[0] as here:
                assert here.getsockname() == (FAR4, 443)


@PER_FAMILY
def test_dual_stack_listener_takes_both_families(net, v):
    net.profile(PROFILE_A, egress=ROW_INTERCEPT)
    with listener("::") as proxy:
        net.proxy(PROXY, proxy.getsockname()[1])
        with net.a.connect((OF["far"][v], 443)) as there, proxy.accept()[0] as here:
            assert here.getsockname()[:2] == (("::ffff:" if not v else "") + OF["far"][v], 443)
            talk(there, here)


def test_availability_is_per_family(net):
    net.profile(PROFILE_A, egress=ROW_INTERCEPT)
    with listener() as proxy:
        net.proxy(PROXY, proxy.getsockname()[1])
        with pytest.raises(TimeoutError):
            net.a.connect((FAR6, 443), timeout=0.4)
        with net.a.connect((FAR4, 443)), proxy.accept()[0]:
            pass


# ---- legs from the client's address ----

@PER_FAMILY
@pytest.mark.parametrize("server", ("far", "b"))
@pytest.mark.parametrize("client", ("a", "far"))
def test_leg_from_the_clients_address(net, v, server, client):
    """Replies reach the proxy's socket, from another host and from a local workload, for clients of both kinds."""
    if server == client:
        pytest.skip("a host that answers itself")
    # What policy says of the client's egress was asked when its connection was handed over.
    net.profile(PROFILE_A, egress=ROW_DENY)
    with getattr(net, server).listen(OF[server][v], 443) as listening:
        with onward(OF[client][v])((OF[server][v], 443)) as there, listening.accept()[0] as here:
            assert here.getpeername()[:2] == there.getsockname()[:2] and here.getpeername()[0] == OF[client][v]
            talk(there, here)
            conn = conn_of(net, there)
            assert conn.flags & LEG and not conn.flags & (NODE | INTERCEPTED) and conn.state == ESTABLISHED and conn.live
            net.flip()
            talk(here, there)
            own = there.getsockname()[:2]
        there.close()
        here.close()
        assert conn_of(net, own).state == CLOSING


@PER_FAMILY
@pytest.mark.parametrize("server", ("far", "b"))
def test_leg_with_the_clients_own_port(net, v, server):
    """Both connections have the same addresses and ports, and share an entry."""
    net.profile(PROFILE_A, egress=ROW_INTERCEPT)
    with listener(("127.0.0.1", "::1")[v]) as proxy, getattr(net, server).listen(OF[server][v], 443) as listening:
        net.proxy(PROXY, proxy.getsockname()[1])
        with net.a.connect((OF[server][v], 443)) as client, proxy.accept()[0] as accepted:
            with onward(client.getsockname()[:2])((OF[server][v], 443)) as upstream, listening.accept()[0] as here:
                assert here.getpeername()[:2] == client.getsockname()[:2]
                talk(client, accepted)
                talk(upstream, here)
                talk(client, accepted)
                assert conn_of(net, client).flags & LEG and conn_of(net, client).flags & INTERCEPTED
                net.flip()
                talk(client, accepted)
                talk(upstream, here)


def test_leg_is_refused_where_the_client_is(net):
    net.profile(PROFILE_B, ingress=ROW_ALLOW)
    net.peer_row(PROFILE_B, INGRESS, CLASS_A, ROW_DENY)
    with net.b.listen(B4, 443):
        with pytest.raises(TimeoutError):
            onward(A4, timeout=0.4)((B4, 443))
        with onward(FAR4)((B4, 443)):
            pass


@pytest.mark.parametrize("server", ("far", "b"))
def test_leg_whose_entry_is_lost(net, server):
    with getattr(net, server).listen(OF[server][0], 443) as listening:
        with onward(A4)((OF[server][0], 443)) as there, listening.accept()[0] as here:
            for first, second in ((here, there), (there, here)):
                for name in ("ps_new4", "ps_conn4"):
                    net.object.map(name).clear()
                talk(first, second)
                assert conn_of(net, there).flags & LEG


def test_client_sends_with_a_legs_addresses_itself(net):
    """The leg's entry is not the client's: its own packet is judged, and handed over."""
    net.profile(PROFILE_A, egress=ROW_INTERCEPT)
    with listener() as proxy, net.far.listen(FAR4, 443) as listening:
        net.proxy(PROXY, proxy.getsockname()[1])
        with onward(A4)((FAR4, 443)) as leg, listening.accept()[0] as here:
            talk(leg, here)
            with net.a.connect((FAR4, 443), source=leg.getsockname()) as client, proxy.accept()[0] as accepted:
                talk(client, accepted)
                talk(leg, here)
                listening.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    listening.accept()


def test_client_and_leg_that_begin_with_the_same_port(net):
    """Whoever is first, the one entry is about both: the server's answers go to the leg, the client's packets to the
    proxy."""
    net.profile(PROFILE_A, egress=ROW_INTERCEPT)
    with listener() as proxy, net.far.listen(FAR4, 443) as listening, contextlib.ExitStack() as stack:
        net.proxy(PROXY, proxy.getsockname()[1])
        deaf(listening)
        leg = stack.enter_context(socket.socket())
        transparent(leg)
        leg.bind((A4, 0))
        leg.setblocking(False)
        assert leg.connect_ex((FAR4, 443)) == errno.EINPROGRESS
        assert conn_of(net, leg).flags & (LEG | INTERCEPTED) == LEG
        with net.a.connect((FAR4, 443), source=leg.getsockname()) as client, proxy.accept()[0] as accepted:
            assert conn_of(net, leg).flags & LEG and conn_of(net, leg).flags & INTERCEPTED
            deaf(listening, False)
            here = stack.enter_context(listening.accept()[0])
            talk(leg, here)
            talk(client, accepted)


def test_leg_does_not_take_a_direct_connections_replies(net):
    with net.far.listen(FAR4, 443) as listening:
        with net.a.connect((FAR4, 443)) as client, listening.accept()[0] as here:
            talk(client, here)
            with pytest.raises(TimeoutError):
                onward(client.getsockname(), timeout=0.4)((FAR4, 443))
            talk(client, here)
        client.close()
        here.close()
        with onward(client_address := (A4, 41000))((FAR4, 443)) as leg, listening.accept()[0] as here:
            assert here.getpeername() == client_address
            talk(leg, here)


def forget(net):
    for name in ("ps_new4", "ps_conn4", "ps_new6", "ps_conn6"):
        net.object.map(name).clear()


@PER_FAMILY
def test_direct_connection_where_a_proxy_had_one_before(net, v):
    """The proxy's TIME_WAIT outlives our entry, and the stack does not forward what has a socket."""
    net.profile(PROFILE_A, egress=ROW_INTERCEPT)
    with listener(("127.0.0.1", "::1")[v]) as proxy:
        net.proxy(PROXY, proxy.getsockname()[1])
        with net.a.connect((OF["far"][v], 443)) as client:
            own = client.getsockname()[:2]
            proxy.accept()[0].close()
            assert client.recv(1) == b""
    net.profile(PROFILE_A)
    net.flip()
    for lost in (True, False):
        if lost:
            forget(net)
        with net.far.listen(OF["far"][v], 443) as listening:
            with net.a.connect((OF["far"][v], 443), source=own) as client, listening.accept()[0] as here:
                talk(client, here)


@PER_FAMILY
@pytest.mark.parametrize("server", ("far", "b"))
def test_direct_connection_where_a_leg_was_before(net, v, server):
    with getattr(net, server).listen(OF[server][v], 443) as listening:
        leg = onward(OF["a"][v])((OF[server][v], 443))
        own = leg.getsockname()[:2]
        here, _ = listening.accept()
        leg.close()
        assert here.recv(1) == b""
        here.close()
        forget(net)
        with net.a.connect((OF[server][v], 443), source=own) as client, listening.accept()[0] as here:
            talk(client, here)


@PER_FAMILY
def test_client_that_forgot_a_direct_connection_begins_one_that_goes_to_the_proxy(net, v):
    """An Intercept rule is about connections that begin: the entry of the one before must not lead its SYN past the proxy."""
    destination = (OF["far"][v], 443)
    with net.far.listen(*destination) as listening, listener(("127.0.0.1", "::1")[v]) as proxy:
        there = net.a.connect(destination)
        here, _ = listening.accept()
        own = there.getsockname()[:2]
        talk(there, here)
        # Gone without a FIN or RST on the wire.
        net.a.run(lambda: subprocess.run(["ip", "link", "set", "eth0", "down"], check=True))
        there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
        there.close()
        net.a.run(lambda: subprocess.run(
            "ip link set eth0 up; ip route replace 169.254.1.1 dev eth0; ip route replace default via 169.254.1.1;"
            f"ip addr replace {A6}/128 dev eth0 nodad; ip route replace default via fe80::1 dev eth0", shell=True, check=True))
        net.proxy(PROXY, proxy.getsockname()[1])
        net.profile(PROFILE_A, egress=ROW_INTERCEPT, side=1 - net.side)
        net.flip()
        with net.a.connect(destination, source=own) as client, proxy.accept()[0] as accepted:
            assert accepted.getsockname()[:2] == destination
            talk(client, accepted)
            assert conn_of(net, own).flags & INTERCEPTED
        here.settimeout(0.2)
        with pytest.raises(TimeoutError):  # its challenge would have been answered with a reset
            here.recv(1)
        here.close()


def test_packet_too_big_reaches_the_leg(net):
    """An ICMP error about a proxy's packet is the proxy's; about anybody else's it goes on."""
    uplink = socket.if_nametoindex("bpfn-far")
    with net.far.listen(FAR4, 443), onward(A4)((FAR4, 443)) as leg:
        for port, mark in ((leg.getsockname()[1], MARK), (9, 0)):
            error = (Ether() / IP(src=FAR4, dst=A4) / ICMP(type=3, code=4, nexthopmtu=1300) /
                     IP(src=A4, dst=FAR4) / TCP(sport=port, dport=443))
            assert net.object.run("from_network", bytes(error), ifindex=uplink).mark == mark


# ---- legs from the node's own address ----

@PER_FAMILY
@pytest.mark.parametrize("client", (A4, A6), ids=("client-v4", "client-v6"))
def test_leg_from_the_nodes_address_is_the_clients(net, v, client):
    net.profile(PROFILE_B, ingress=ROW_DENY)
    with net.b.listen(OF["b"][v], 443) as listening:
        with onward(world=net)((OF["b"][v], 443)), listening.accept()[0]:
            pass
        for name in ("ps_conn4", "ps_conn6", "ps_new4", "ps_new6"):
            net.object.map(name).clear()
        with pytest.raises(TimeoutError):
            onward(client=client, world=net, timeout=0.4)((OF["b"][v], 443))
        net.peer_row(PROFILE_B, INGRESS, CLASS_A, ROW_ALLOW)
        for name in ("ps_conn4", "ps_conn6", "ps_new4", "ps_new6"):
            net.object.map(name).clear()
        with onward(client=client, world=net)((OF["b"][v], 443)) as there, listening.accept()[0] as here:
            assert here.getpeername()[:2] == there.getsockname()[:2]
            talk(there, here)
            conn = conn_of(net, there)
            assert conn.flags & LEG and conn.flags & REWRITTEN and conn.live
            net.flip()
            talk(here, there)
            net.peer_row(PROFILE_B, INGRESS, CLASS_A, ROW_DENY, side=1 - net.side)
            net.flip()
            here.settimeout(0.4)
            there.sendall(b"denied")
            with pytest.raises(TimeoutError):
                here.recv(10)


@PER_FAMILY
def test_transparent_socket_that_speaks_as_the_node_is_the_node(net, v):
    """Other software has transparent sockets too."""
    net.profile(PROFILE_B, ingress=ROW_DENY)
    with net.b.listen(OF["b"][v], 443) as listening, onward(OF["node"][v])((OF["b"][v], 443)) as there, \
            listening.accept()[0]:
        conn = conn_of(net, there)
        assert conn.flags & NODE and not conn.flags & LEG


def test_leg_from_the_nodes_address_to_another_host(net):
    with net.far.listen(FAR4, 443) as listening:
        with onward(client=A4, world=net)((FAR4, 443)) as there, listening.accept()[0] as here:
            talk(there, here)
    assert not [key for key in net.conns() if (FAR4, 443) in key], "nobody needs an entry"


def test_leg_from_the_clients_address_that_is_masqueraded(net):
    """Beyond the uplink it has the node's address; its replies are turned back before they find its socket."""
    subprocess.run(["nft", "-f", "-"], check=True, text=True, input="""table ip bpfn {
        chain post {
            type nat hook postrouting priority srcnat
            oifname "bpfn-far" masquerade
        }
        }
        """)
    try:
        with net.far.listen(FAR4, 443) as listening:
            with onward(A4)((FAR4, 443)) as there, listening.accept()[0] as here:
                assert here.getpeername()[0] != A4 and there.getsockname()[0] == A4
                talk(there, here)
    finally:
        subprocess.run(["nft", "delete", "table", "ip", "bpfn"], check=True)
