# SPDX-License-Identifier: Apache-2.0
"""Ingress interception behind a Service: a rule of the backend, which only kube-proxy's translation shows. The proxy sees
the backend's address and port, and the client, also where kube-proxy masquerades it; but of datagrams the node then."""
import pytest
from pyroute2 import NFCTSocket

from cluster import ECHO, TALK, UPLINKS, Cluster, blocks, into
from datagrams import Receiver, Talker
from lab import ALLOW, OUTSIDE4, OUTSIDE6, Probe
from objects import proxy
from proxies import PORT, Relay
from scenes import eventually
from steering import EVERYTHING, come, egress, forget, ingress, to
from talk import Client, ask, plain
from test_sockets import dial, listening, original

RULE = ingress(come(port=TALK))


@pytest.fixture(scope="module", params=[("iptables", "ebpf"), ("nftables", "tproxy")], ids="-".join)
def node(request):
    mode, engine = request.param
    with Cluster(mode, engine=engine) as cluster:
        yield cluster


@pytest.fixture
def cluster(node):
    node.begun = node.running.api.metrics()
    for wire in node.wires.values():
        wire.clear()
    yield node
    node.end()


def settled(cluster, services, *policies, **options):
    """The state, then a proxy that answers itself, once it can be used."""
    cluster.give(services, *policies, **options)
    front = cluster.front()
    cluster.usable()
    cluster.reached()
    return front


def ways(cluster, exposed, source):
    """(address, port, masqueraded) by which a client can come."""
    inside = source is not cluster.outside
    found = [(ip, 90, False) for ip in exposed.ips if inside]
    found += [(ip, 90, True) for ip in exposed.external + exposed.balancer]
    return found + [(ip, exposed.node_port + 2, True) for ip in UPLINKS]


def taken(cluster, source, exposed, backend="b", megabytes=0):
    """Each way leads to the proxy, and to nobody else; how many."""
    count = 0
    cluster.reached()
    for count, (ip, port, _) in enumerate(ways(cluster, exposed, source), 1):
        with Client(source, ip, port) as client:
            who = client.hello()
            assert who["server"] == "proxy", (ip, port, who)
            assert who["local"] == [cluster.address(backend, 6 if ":" in ip else 4), TALK], (ip, port, who)
            assert who["peer"] == list(client.ends), (ip, port, who)
            assert client.echo(b"x" * 4096) and client.pour(megabytes) is None
    assert cluster.reached() == set()
    return count


def direct(cluster, source, exposed, backend="b"):
    for ip, port, _ in ways(cluster, exposed, source):
        assert ask(source, ip, port)["server"] == backend, (ip, port)


def silent(cluster, source, exposed):
    """Nobody answers, and nobody was reached."""
    cluster.reached()
    assert {ask(source, ip, port, timeout=0.2) for ip, port, _ in ways(cluster, exposed, source)} == {"TimeoutError"}
    assert cluster.reached() == set()


# ---- which ----

@pytest.mark.parametrize("source", ["a", "outside"])
def test_every_way(cluster, source):
    web = cluster.expose("every-way", "b")
    settled(cluster, [web], RULE)
    count = taken(cluster, getattr(cluster, source), web, megabytes=1)
    assert cluster.handed() == count


def test_only_the_backend_that_has_a_rule(cluster):
    """Each connection follows the rules of the one that kube-proxy chose."""
    web = cluster.expose("one-of-three", "b", "e", "r")
    settled(cluster, [web], RULE, choose=["b"])
    taken(cluster, cluster.a, web)
    for backend in ("e", "r"):
        cluster.resync(choose=[backend])
        direct(cluster, cluster.a, web, backend)
        if backend == "e":
            direct(cluster, cluster.outside, web, backend)
    cluster.resync(choose=["b"])
    taken(cluster, cluster.outside, web)


def test_a_backend_by_its_own_service_and_the_node(cluster):
    """kube-proxy masquerades what comes back to its sender; and the node reaches its pods, as without a Service."""
    web = cluster.expose("hairpin", "b")
    settled(cluster, [web], RULE)
    taken(cluster, cluster.b, web)
    for ip in web.ips + web.external:
        assert ask(cluster.node, ip, 90)["server"] == "b"


def test_whom_the_rule_is_about(cluster):
    """The client is who it was before masquerade."""
    web = cluster.expose("whom", "b")
    settled(cluster, [web], ingress(come(*cluster.a.ips, OUTSIDE4, OUTSIDE6, port=TALK)))
    taken(cluster, cluster.a, web)
    taken(cluster, cluster.outside, web)
    direct(cluster, cluster.c, web)
    cluster.give([web], ingress(come(*cluster.a.ips, action="Bypass", port=TALK), come(port=TALK)))
    direct(cluster, cluster.a, web)
    taken(cluster, cluster.c, web)


def test_egress_comes_first(cluster):
    """What an egress rule is about is nothing for an ingress rule, also if it says Bypass; and a proxy's own connection
    is none for any."""
    web = cluster.expose("egress-first", "b")
    inside = [*web.ips, *web.external]
    cluster.give([web], egress(to(*inside, port=90, action="Bypass")), RULE)
    front = cluster.front()
    cluster.usable()
    for ip in inside:
        assert ask(cluster.a, ip, 90)["server"] == "b"
        assert ask(cluster.c, ip, 90)["server"] == "proxy"
    cluster.give([web], egress(to(*inside, port=90)), RULE)
    before = len(front.accepted)
    for ip in inside:
        assert ask(cluster.a, ip, 90)["local"] == [ip, 90], "by the Service's address"
    assert len(front.accepted) == before + len(inside)


@pytest.mark.parametrize("source", ["a", "outside"])
@pytest.mark.parametrize("kept", ["node", "client"])
def test_a_relay_goes_on_to_the_backend(cluster, source, kept):
    web, space = cluster.expose(f"onward-{kept}", "b"), getattr(cluster, source)
    cluster.give([web], RULE)
    Relay(cluster, "--source", kept)
    cluster.usable()
    found = ways(cluster, web, space)
    for ip, port, _ in found:
        with Client(space, ip, port) as client:
            who = client.hello()
            assert who["server"] == "b" and who["local"][1] == TALK
            assert (who["peer"][0] == client.ends[0]) == (kept == "client")
            assert client.pour(1) is None
    assert cluster.handed() == len(found)


@pytest.mark.parametrize("source", ["a", "outside"])
def test_original_destination(cluster, source):
    """SO_ORIGINAL_DST is what getsockname says: the backend. The kernel's own answer would be the Service's address."""
    web, space = cluster.expose("original", "b"), getattr(cluster, source)
    cluster.give([web], RULE)
    with listening(cluster.node, "::") as listener:
        for ip, port, _ in ways(cluster, web, space):
            backend = cluster.address("b", 6 if ":" in ip else 4), TALK
            with dial(space, ip, port):
                sock, _ = listener.accept()
                with sock:
                    assert original(sock) == backend
                    assert (plain(sock.getsockname()[0]), sock.getsockname()[1]) == backend


def test_a_relay_of_datagrams_goes_on_to_the_backend(cluster):
    web = cluster.expose("onward-udp", "b")
    given(cluster, [web], UDP_RULE)
    Relay(cluster)
    heard(cluster)
    for source in (cluster.a, cluster.outside):
        probes = [Probe(source, ip, port, "UDP", expect=ALLOW) for ip, port, _ in datagram_ways(cluster, web, source)]
        assert {cluster.who(probe) for probe in cluster.prober.probe(probes)} == {"b"}
    assert cluster.handed() == 14


def test_connections_outlive_our_entries(cluster):
    """A new agent takes over what is known; one that knows of no connection is told by the last hook, but of a cluster
    IP's: there the stack finds the socket behind translation, and drops what it should forward."""
    web = cluster.expose("forgotten", "b")
    settled(cluster, [web], RULE)
    found = [(space, *way) for space in (cluster.a, cluster.outside) for way in ways(cluster, web, space)]
    clients = [Client(space, ip, port) for space, ip, port, _ in found]
    try:
        assert {client.hello()["server"] for client in clients} == {"proxy"}
        cluster.running.restart()
        assert {client.echo() for client in clients} == {True}
        forget(cluster)
        cluster.running.start()
        cluster.give([web], RULE)
        assert {client.echo(timeout=0.5) for client, way in zip(clients, found) if way[3]} == {True}
        cluster.begun = cluster.running.api.metrics()
    finally:
        for client in clients:
            client.close()


# ---- policy ----

@pytest.mark.parametrize("source", ["a", "outside"])
def test_policy_comes_before(cluster, source):
    web, space = cluster.expose("policy", "b"), getattr(cluster, source)
    front = settled(cluster, [web], RULE, into("b", "c", port=TALK))
    silent(cluster, space, web)
    assert front.accepted == [] and cluster.handed() == 0
    cluster.give([web], RULE, into("b", port=TALK, peers=blocks(*cluster.a.ips, OUTSIDE4, OUTSIDE6)))
    taken(cluster, space, web)


@pytest.mark.parametrize("source", ["a", "outside"])
def test_a_connection_stays_with_its_proxy(cluster, source):
    """While policy allows it, whatever becomes of the rule and of the Service; and new ones follow the new rules."""
    web, more, space = cluster.expose("stays", "b"), cluster.expose("stays", "b", "e"), getattr(cluster, source)
    all_of_them = into("b", port=TALK, peers=blocks(*cluster.a.ips, OUTSIDE4, OUTSIDE6))
    settled(cluster, [web], RULE, all_of_them)
    found = ways(cluster, web, space)
    clients = [Client(space, ip, port) for ip, port, _ in found]
    try:
        assert {client.hello()["server"] for client in clients} == {"proxy"}
        for state in ([more, RULE], [web], [web, RULE]):
            cluster.give(state[:1], all_of_them, *state[1:])
            assert {client.echo(timeout=3) for client in clients} == {True}
        cluster.give([web], all_of_them)
        direct(cluster, space, web)
        cluster.give([web], RULE, into("b", "d", port=TALK))
        assert {client.echo(timeout=0.2) for client in clients} == {False}
    finally:
        for client in clients:
            client.close()


@pytest.mark.parametrize("source", ["a", "outside"])
def test_nobody_listens(cluster, source):
    web, space = cluster.expose("nobody", "b"), getattr(cluster, source)
    cluster.quiet()
    cluster.give([web], RULE)
    before = cluster.no_listener()
    silent(cluster, space, web)
    assert cluster.no_listener() > before
    cluster.running.api.put_state([*cluster.items, proxy("gw", PORT, onUnavailable="Bypass"), *web.objects, RULE])
    direct(cluster, space, web)


# ---- ports, and what a proxy left behind ----

@pytest.mark.parametrize("source", ["a", "outside"])
def test_one_tuple_directly_and_through_the_proxy(cluster, source):
    """The proxy ends it first, and the node has its TIME_WAIT: in nobody's way, whichever way comes next."""
    web, space = cluster.expose("tuple", "b"), getattr(cluster, source)
    cluster.reused = True
    cluster.give([web])
    cluster.front()
    for rules, server in (([], "b"), ([RULE], "proxy"), ([RULE], "proxy"), ([], "b"), ([RULE], "proxy")):
        cluster.give([web], *rules)
        for number, (ip, port, _) in enumerate(ways(cluster, web, space)):
            with Client(space, ip, port, bind=("", 20510 + number)) as client:
                who = client.hello(last=True)
                assert client.ended()
                assert who["server"] == server, (ip, port)


# ---- datagrams ----

UDP_RULE = ingress({"name": "udp", "action": "Intercept", "proxy": "gw", "from": EVERYTHING,
                    "protocols": [{"udp": {"destinationPort": {"number": ECHO}}}]})


@pytest.fixture
def receiver(cluster):
    """A proxy of datagrams, which answers from where each was sent to."""
    with Receiver(cluster.node, PORT, "proxy") as made:
        yield made
        assert made.wrong == []


def given(cluster, services, *policies, **options):
    objects = [o for one in services for o in one.objects]
    cluster.running.api.put_state([*cluster.items, proxy("gw", PORT, ["UDP"], **options), *objects, *policies])
    cluster.resync(objects)


def forget_flows(cluster):
    """As kube-proxy does with flows to a backend that is gone."""
    with cluster.node.entered(), NFCTSocket() as conntrack:
        conntrack.flush()


def heard(cluster):
    eventually(lambda: {"IPv4", "IPv6"} <= set(cluster.proxy_status()["families"]))


def datagram_ways(cluster, exposed, source):
    found = [(ip, 80, False) for ip in exposed.ips if source is not cluster.outside]
    found += [(ip, 80, True) for ip in exposed.external + exposed.balancer]
    return found + [(ip, exposed.node_port + 1, True) for ip in UPLINKS]


def received(cluster, source, exposed, count=3):
    """Each datagram, by each way, is the proxy's."""
    cluster.reached()
    for ip, port, masked in datagram_ways(cluster, exposed, source):
        with Talker(source, ip, port) as client:
            for _ in range(count):
                who = client.hello()
                assert who["server"] == "proxy", (ip, port, who)
                assert who["local"] == [cluster.address("b", 6 if ":" in ip else 4), ECHO], (ip, port, who)
                assert masked or who["peer"] == list(client.ends), (ip, port, who)
            assert client.echo(b"x" * 1400) and client.echo(b"y" * 9000), (ip, port)
    assert "b" not in cluster.reached()


@pytest.mark.parametrize("source", ["a", "outside"])
def test_datagrams(cluster, receiver, source):
    web, space = cluster.expose("datagrams", "b"), getattr(cluster, source)
    given(cluster, [web], UDP_RULE)
    heard(cluster)
    received(cluster, space, web)
    assert cluster.handed() == len(datagram_ways(cluster, web, space))


def test_each_datagram_goes_where_it_is_sent_now(cluster, receiver):
    """NAT sends a flow to another backend, which has no rule: from then on it gets it, and the proxy no more."""
    web, moved = cluster.expose("moved", "b"), cluster.expose("moved", "e")
    given(cluster, [web], UDP_RULE)
    heard(cluster)
    for ip in web.ips:
        with Talker(cluster.a, ip, 80, timeout=0.2) as client:
            assert client.hello()["server"] == "proxy"
            given(cluster, [moved], UDP_RULE)
            forget_flows(cluster)
            cluster.reached()
            client.sock.send(b"x")
            eventually(lambda: cluster.reached() == {"e"})
            given(cluster, [web], UDP_RULE)
            forget_flows(cluster)
            assert client.hello()["server"] == "proxy"


@pytest.mark.parametrize("source", ["a", "outside"])
def test_policy_and_absence_of_datagrams(cluster, source):
    web, space = cluster.expose("datagrams-denied", "b"), getattr(cluster, source)
    cluster.quiet()
    given(cluster, [web], UDP_RULE)
    cluster.reached()

    def sent():
        for ip, port, _ in datagram_ways(cluster, web, space):
            with Talker(space, ip, port) as client:
                client.sock.send(b"x")
    before = cluster.no_listener()
    sent()
    eventually(lambda: cluster.no_listener() - before >= len(datagram_ways(cluster, web, space)))
    given(cluster, [web], UDP_RULE, onUnavailable="Bypass")
    assert cluster.reached() == set()
    sent()
    eventually(lambda: cluster.reached() == {"b"})
    with Receiver(cluster.node, PORT, "proxy"):
        given(cluster, [web], UDP_RULE)
        heard(cluster)
        received(cluster, space, web)
        with Talker(space, web.external[0], 80, timeout=0.2) as client:
            assert client.hello()["server"] == "proxy"
            given(cluster, [web], UDP_RULE, into("b", "d", port=ECHO))
            assert not client.echo()
def test_the_service_and_the_backend_from_one_port(cluster):
    """By the Service's address, then by the backend's own, and back."""
    web = cluster.expose("own-address", "b")
    cluster.reused = True
    settled(cluster, [web], RULE)
    for ips, port in ((web.ips, 90), (cluster.b.ips, TALK)) * 2:
        for ip in ips:
            with Client(cluster.a, ip, port, bind=("", 20530)) as client:
                who = client.hello(last=True)
                assert who["server"] == "proxy" and who["local"] == [cluster.address("b", 6 if ":" in ip else 4), TALK]
                assert client.ended()
