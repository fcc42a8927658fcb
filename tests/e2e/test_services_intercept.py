# SPDX-License-Identifier: Apache-2.0
"""Interception by a Service's address, with kube-proxy's rules: the proxy sees the client and the Service's address, and
what it opens itself is translated by kube-proxy as ever."""
import pytest

from cluster import TALK, Cluster, into, out, pods
from objects import intercept
from proxies import HAProxy, Relay
from steering import ENGINES, made, to
from talk import Client, ask
from test_sockets import dial, listening, original

FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])


@pytest.fixture(scope="module", params=ENGINES)
def node(request):
    with Cluster("iptables", engine=request.param) as cluster:  # test_nftables.py has them all
        yield cluster


@pytest.fixture
def cluster(node):
    node.begun = node.running.api.metrics()
    for wire in node.wires.values():
        wire.clear()
    yield node
    node.end()


def by_backends(*names, port=TALK):
    """Peers that are the pods behind the Service; the port is theirs."""
    return made("to", [{"pods": {"namespaceSelector": {}, **peer}} for peer in pods(*names)], "Intercept", port, "gw")


def steered(*rules):
    return intercept("steer", {"name": "a"}, list(rules))


def settled(cluster, web, *policies, **options):
    """The state, then a proxy that answers itself, once it can be used."""
    cluster.give([web], *policies, **options)
    front = cluster.front()
    cluster.usable()
    return front


def taken(cluster, exposed, ips=None, port=90, source=None):
    """Each of the addresses is the proxy's, and nothing of it came to a backend."""
    cluster.reached()
    for ip in ips or exposed.ips:
        with Client(source or cluster.a, ip, port) as client:
            who = client.hello()
            assert who["server"] == "proxy", (ip, who)
            assert who["peer"] == list(client.ends) and who["local"] == [ip, port], who
            assert client.echo(b"x" * 4096)
    assert cluster.reached() == set()


def direct(cluster, exposed, *backends, count=24):
    for ip in exposed.ips:
        who = [ask(cluster.a, ip, 90) for _ in range(count)]
        assert {w["server"] for w in who} == set(backends), who


# ---- which ----

def test_by_the_services_address(cluster):
    web = cluster.expose("by-address", "b", "r")
    settled(cluster, web, steered(to(*web.ips, *web.external, port=90)), out("a", "b", "r", port=TALK))
    taken(cluster, web)
    taken(cluster, web, web.external)
    assert cluster.handed() == 4
    direct_from_c = {ask(cluster.c, ip, 90)["server"] for ip in web.ips for _ in range(12)}
    assert direct_from_c == {"b", "r"}, "c's go where kube-proxy sends them"


def test_by_the_backends(cluster):
    web = cluster.expose("by-backends", "b", "r")
    settled(cluster, web, steered(by_backends("b", "r")), out("a", "b", "r", port=TALK))
    for ips in (web.ips, web.external, web.balancer):
        taken(cluster, web, ips)
    taken(cluster, web, [f"{cluster.address('node', family)}" for family in (4, 6)], web.node_port + 2)
    taken(cluster, web, cluster.b.ips + cluster.there["r"].ips, TALK)


def test_not_all_backends_are_the_proxys(cluster):
    web = cluster.expose("not-all", "b", "r")
    settled(cluster, web, steered(by_backends("r")))
    direct(cluster, web, "b", "r")
    cluster.give([web], steered(to(*web.ips, port=90, action="Bypass"), by_backends("b", "r")))
    direct(cluster, web, "b", "r")
    cluster.give([web], steered(by_backends("b"), by_backends("r")))
    taken(cluster, web)


@pytest.mark.parametrize("how", ["address", "backends"])
def test_every_backend_must_be_allowed(cluster, how):
    """One is not: nothing is handed over, and nothing is let through."""
    web = cluster.expose(f"one-denied-{how}", "b", "d", "r")
    rule = steered(to(*web.ips, port=90) if how == "address" else by_backends("b", "d", "r"))
    front = settled(cluster, web, rule, out("a", "b", "r", port=TALK))
    cluster.reached()
    assert {ask(cluster.a, ip, 90, timeout=0.2) for ip in web.ips} == {"TimeoutError"}
    assert front.accepted == [] and cluster.handed() == 0 and cluster.reached() == set()
    cluster.give([web], rule, out("a", "b", "r", "d", port=TALK))
    taken(cluster, web)
    cluster.give([web], rule, out("a", "e", port=TALK))
    assert {ask(cluster.a, ip, 90, timeout=0.2) for ip in web.ips} == {"TimeoutError"}


def test_a_connection_stays_with_its_proxy(cluster):
    """While backends come and go; and is cut when policy wants none of it."""
    web, more = cluster.expose("stays", "b", "r"), cluster.expose("stays", "b", "r", "e")
    rule = steered(to(*web.ips, port=90))
    settled(cluster, web, rule, out("a", "b", "r", "e", port=TALK))
    clients = [Client(cluster.a, ip, 90) for ip in web.ips]
    try:
        assert [client.hello()["server"] for client in clients] == ["proxy"] * 2
        for state in ([more], [web], [more]):
            cluster.give(state, rule, out("a", "b", "r", "e", port=TALK))
            assert [client.echo(timeout=3) for client in clients] == [True] * 2
        cluster.give([more], rule, out("a", "c", port=TALK))
        assert [client.echo(timeout=0.3) for client in clients] == [False] * 2
    finally:
        for client in clients:
            client.close()


def test_nobody_listens(cluster):
    web = cluster.expose("nobody", "b", "r")
    cluster.quiet()
    cluster.give([web], steered(to(*web.ips, port=90)))
    cluster.reached()
    before = cluster.no_listener()
    assert {ask(cluster.a, ip, 90, timeout=0.2) for ip in web.ips} == {"TimeoutError"}
    assert cluster.no_listener() > before and cluster.reached() == set()


@FAMILIES
def test_original_destination(cluster, family):
    """getsockname and SO_ORIGINAL_DST are the Service's address, though kube-proxy has a mapping for it."""
    web = cluster.expose("original", "b", "r")
    cluster.give([web], steered(to(*web.ips, port=90)))
    ip = web.ips[family == 6]
    with listening(cluster.node, "::") as listener:
        with dial(cluster.a, ip, 90) as client:
            sock, peer = listener.accept()
            with sock:
                assert original(sock) == (ip, 90)
                assert sock.getsockname()[0].removeprefix("::ffff:") == ip and sock.getsockname()[1] == 90
                assert peer[0].removeprefix("::ffff:") == client.getsockname()[0] and peer[1] == client.getsockname()[1]


# ---- onward ----

def relays(cluster, web, front, backends, kept=False):
    """What the proxy opens is kube-proxy's to send: the client talks with a backend, and both logs say who."""
    clients = []
    for backend in backends:
        cluster.resync(choose=[backend])
        for ip in web.ips * 2:
            with Client(cluster.a, ip, 90) as client:
                who = client.hello()
                assert who["server"] == backend
                assert who["local"] == [cluster.address(backend, 6 if ":" in ip else 4), TALK], "translated"
                assert (who["peer"][0] == client.ends[0]) == kept, who
                assert client.pour(1, half_close=False) is None
                clients.append((*client.ends, ip, 90))
    assert sorted(front.seen(len(clients))) == sorted(clients)
    assert cluster.handed() == len(clients)


@pytest.mark.parametrize("how", ["address", "backends"])
def test_the_relay_goes_on_to_the_service(cluster, how):
    web = cluster.expose(f"relay-{how}", "b", "r")
    rule = to(*web.ips, port=90) if how == "address" else by_backends("b", "r")
    cluster.give([web], steered(rule), out("a", "b", "r", port=TALK), into("b", "a", port=TALK))
    front = Relay(cluster)
    cluster.usable()
    relays(cluster, web, front, ["b", "r"])


def test_haproxy_goes_on_to_the_service(cluster):
    """An ordinary one, which connects where its client wanted to."""
    web = cluster.expose("haproxy", "b", "r")
    cluster.give([web], steered(to(*web.ips, port=90)), out("a", "b", "r", port=TALK), into("b", "a", port=TALK))
    front = HAProxy(cluster, frontend="bind :::15001 v4v6 transparent", backend="server s 0.0.0.0:0")
    cluster.usable()
    relays(cluster, web, front, ["b", "r"])


def test_the_backend_may_refuse_the_client(cluster):
    """b's ingress denies a: what the relay opens for a does not come in either, and what it opens for c does."""
    web = cluster.expose("onward-in", "b")
    rules = [intercept("steer", {"pods": {"namespaceSelector": {}, "podSelector": {
        "matchExpressions": [{"key": "name", "operator": "In", "values": ["a", "c"]}]}}}, [to(*web.ips, port=90)])]
    cluster.give([web], *rules, into("b", "c", port=TALK))
    front = Relay(cluster)
    cluster.usable()
    cluster.reached()
    for ip in web.ips:
        assert not isinstance(ask(cluster.a, ip, 90, timeout=0.3), dict)
    assert cluster.reached() == set()
    for ip in web.ips:
        assert ask(cluster.c, ip, 90)["server"] == "b"
    assert front.process.poll() is None


@pytest.mark.parametrize("backend", ["b", "r"])
def test_the_relay_keeps_the_clients_address(cluster, backend):
    web = cluster.expose("kept", backend)
    cluster.give([web], steered(to(*web.ips, port=90)), out("a", backend, port=TALK), into("b", "a", port=TALK))
    front = Relay(cluster, "--source", "client")
    cluster.usable()
    relays(cluster, web, front, [backend], kept=True)
