# SPDX-License-Identifier: Apache-2.0
"""Live connections to Services while their backends, the policies, kube-proxy and the agent change."""
import contextlib
import select
import socket

import pytest

from cluster import ECHO, TALK, UPLINKS, Cluster, blocks, into, on, out, seen_as
from kubeproxy import MODES, endpoint_slice, service
from lab import ALLOW, DENY
from objects import allow_to, deny_all
from scenes import echoed
from steering import Load
from talk import Client, Server, ask

UNREADY, ENDING = {"ready": False}, {"ready": False, "serving": True, "terminating": True}


@pytest.fixture(scope="module", params=MODES)
def cluster(request):
    with Cluster(request.param) as made:
        yield made


@contextlib.contextmanager
def talking(cluster, exposed, backend, source=None, port=90, addresses=None):
    """A live TCP connection a family, to that backend."""
    cluster.resync(choose=[backend])
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(source or cluster.a, ip, port)) for ip in addresses or exposed.ips]
        for client in clients:
            assert client.hello()["server"] == backend
            assert client.echo()
        cluster.resync()
        yield clients


def alive(clients):
    return [client.echo(timeout=3) for client in clients] == [True] * len(clients)


def cut(clients):
    """Silent, not ended: what was sent comes back when policy lets it."""
    for client in clients:
        client.sock.sendall(b"late")
    return select.select([client.sock for client in clients], [], [], 0.25)[0] == []


def caught_up(clients):
    for client in clients:
        client.sock.settimeout(5)
        if client.sock.recv(4, socket.MSG_WAITALL) != b"late":
            return False
    return True


# ---- backends and policies change ----

@pytest.mark.parametrize("mine, other, way", [("b", "d", "cluster"), ("r", "q", "cluster"), ("b", "d", "external")])
def test_a_live_connection_is_judged_by_its_own_backend(cluster, mine, other, way):
    """Not by the list that the Service has today."""
    name = f"live-{mine}-{way}"
    both, alone, without = (cluster.expose(name, *backends) for backends in ((mine, other), (mine,), (other,)))
    allowed = out("a", mine, port=TALK)
    cluster.give([alone], allowed)
    with talking(cluster, alone, mine, addresses=alone.ips if way == "cluster" else alone.external) as clients:
        for service_now in (both, without, alone, both):  # gains a denied one, loses its own, and back
            cluster.give([service_now], allowed)
            assert alive(clients), service_now.backends
        cluster.give([both], out("a", other, port=TALK))
        assert cut(clients), "its own is denied now, the other is not"
        cluster.give([both], allowed)
        assert caught_up(clients) and alive(clients)
        cluster.give([without], out("a", other, port=TALK))
        assert cut(clients), "and it is none of the Service's any more"
        cluster.give([without], out("a", mine, other, port=TALK))
        assert caught_up(clients) and alive(clients)


def test_connections_older_than_the_first_service():
    """Nobody has looked where they go; now it matters."""
    with Cluster("nftables") as cluster:
        old = cluster.expose("old", "b", "r")
        cluster.put()
        cluster.resync(old.objects)
        with talking(cluster, old, "b") as to_b, talking(cluster, old, "r") as to_r:
            for policies, b, r in (([out("a", "b", port=TALK)], True, False), ([], True, True),
                                   ([out("a", "r", port=TALK)], False, True)):
                cluster.give([old], *policies)
                for clients, expected in ((to_b, b), (to_r, r)):
                    assert alive(clients) if expected else cut(clients)
                cluster.give([old])
                for clients, expected in ((to_b, b), (to_r, r)):
                    assert expected or caught_up(clients)


def test_a_mixed_services_live_connections(cluster):
    """Born pending; its own backend's policy is what counts, on either side."""
    web = cluster.expose("live-mixed", "b", "r", "d")
    cluster.give([web], out("a", "b", "r", port=TALK))
    with talking(cluster, web, "b") as to_b, talking(cluster, web, "r") as to_r:
        for policies, b, r in (([out("a", "b", port=TALK)], True, False), ([out("a", "b", "r", port=TALK)], True, True),
                               ([out("a", "r", port=TALK)], False, True), ([], True, True), ([into("b")], False, True),
                               ([into("b", "a", port=TALK)], True, True)):
            cluster.give([web], *policies)
            for clients, expected in ((to_b, b), (to_r, r)):
                assert alive(clients) if expected else cut(clients), (policies, clients is to_b)
                if not expected:
                    cluster.give([web])
                    assert caught_up(clients)
                    cluster.give([web], *policies)


def test_datagrams_are_judged_by_their_backend(cluster):
    """UDP: one socket, one backend in conntrack; policy may go and come back."""
    web = cluster.expose("live-udp", "b", "r", "d")
    for backend in ("b", "r"):
        cluster.give([web], out("a", backend), choose=[backend])
        for ip in web.ips:
            with cluster.a.entered():
                sock = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM)
            with sock:
                sock.connect((ip, 80))
                assert echoed(cluster, sock, b"one")
                cluster.give([web], out("a", "d"))
                assert not echoed(cluster, sock, b"two", 0.2)
                cluster.give([web], out("a", backend), choose=[backend])
                assert echoed(cluster, sock, b"three")


def test_backends_that_are_not_ready(cluster):
    """Who is not ready counts for nothing; who ends counts only when nobody else is there."""
    policies = [out("a", "b", "r")]
    def now(**conditions):
        web = cluster.expose("unready", "b", "d", "q", conditions=conditions)
        cluster.give([web], *policies)
        return web
    web = now(d=UNREADY, q=UNREADY)
    assert cluster.answers(cluster.a, web.ips, expect=ALLOW, count=8) == {"b"}
    web = now(d=ENDING, q=UNREADY)
    assert cluster.answers(cluster.a, web.ips, expect=ALLOW, count=8) == {"b"}
    web = now(b=ENDING, d=UNREADY, q=UNREADY)
    assert cluster.answers(cluster.a, web.ips, expect=ALLOW, count=8) == {"b"}
    web = now(b=ENDING, d=UNREADY, q=ENDING)
    assert cluster.judged(cluster.tries(cluster.a, web.ips, count=8), ["b"]) == {"b", "q"}
    web = now(b=ENDING, d=ENDING, q={})
    assert cluster.answers(cluster.a, web.ips, silence=0.2) == {DENY}
    web = now(b=UNREADY, d=UNREADY, q=UNREADY)
    assert cluster.answers(cluster.a, web.ips, expect="") == {"ECONNREFUSED"}


def test_ready_then_terminating_under_a_live_connection(cluster):
    policies = [out("a", "b", port=TALK)]
    cluster.give([cluster.expose("ends", "b", "d")], *policies)
    with talking(cluster, cluster.expose("ends", "b", "d"), "b") as clients:
        for conditions in ({"b": ENDING}, {"b": ENDING, "d": ENDING}, {"b": {**ENDING, "serving": False}}):
            cluster.give([cluster.expose("ends", "b", "d", conditions=conditions)], *policies)
            assert alive(clients), conditions
        cluster.give([], *policies)
        assert alive(clients), "the Service is gone; its connection's backend is not"
        cluster.give([], out("a", "d", port=TALK))
        assert cut(clients)


# ---- kube-proxy's other ways ----

def test_session_affinity(cluster):
    """A client stays with its backend, be it the one that it may not reach."""
    web = cluster.expose("sticky", "b", "d", sessionAffinity="ClientIP",
                         sessionAffinityConfig={"clientIP": {"timeoutSeconds": 600}})
    cluster.give([web], out("a", "b"))
    for protocol in ("TCP", "UDP"):
        for ip in web.ips:
            first = cluster.answers(cluster.a, [ip], protocols=[protocol])
            assert first in ({"b"}, {DENY})
            expect, backend = (ALLOW, "b") if first == {"b"} else (DENY, "d")
            probes = cluster.tries(cluster.a, [ip], protocols=[protocol], count=8, expect=expect)
            assert cluster.judged(probes, ["b"]) == {backend}, (ip, protocol)
            own = cluster.answers(cluster.c, [ip], protocols=[protocol], expect=ALLOW)
            assert cluster.answers(cluster.c, [ip], protocols=[protocol], count=8, expect=ALLOW) == own


def test_hairpin(cluster):
    """A pod that asks its own Service is masqueraded on the way back to itself, and is still itself."""
    web = cluster.expose("hairpin", "a")
    for policies in ([], [deny_all("s"), out("a", "a"), into("a", "a")]):
        cluster.give([web], *policies)
        probes = cluster.every_way(cluster.a, web, expect=ALLOW)
        assert {cluster.who(p) for p in probes} == {"a"}, policies
        assert all(seen_as(p) not in cluster.a.ips for p in probes), "masqueraded"
    mixed = cluster.expose("hairpin-mixed", "a", "d", "q")
    cluster.give([mixed], out("a", "a"), into("a", "a"))
    assert cluster.judged(cluster.tries(cluster.a, mixed.ips, count=12), ["a"]) == {"a", "d", "q"}
    assert cluster.answers(cluster.c, mixed.ips, count=4) <= {"d", "q", DENY}


def test_masquerade_all(cluster):
    cluster.kube.masquerade_all = True
    try:
        web = cluster.expose("masquerade", "b", "d", "r", "q")
        cluster.give([web], out("a", "b", "d", "r"), into("d", "c"))
        probes = cluster.tries(cluster.a, web.ips, count=16)
        assert cluster.judged(probes, ["b", "r"]) == {"b", "d", "r", "q"}
        assert all(seen_as(p) != p.local[0] for p in probes if p.result == ALLOW)
        cluster.resync(choose=["d"])
        assert cluster.answers(cluster.c, web.ips, expect=ALLOW) == {"d"}
    finally:
        cluster.kube.masquerade_all = False


def test_external_traffic_policy_local(cluster):
    """From outside only to backends of this node, and not masqueraded."""
    web = cluster.expose("local-only", "b", "r", externalTrafficPolicy="Local")
    cluster.give([web], into("b", peers=blocks("198.51.100.9", "2001:db8:51::9")))
    for _ in range(3):
        probes = cluster.every_way(cluster.outside, web, expect=ALLOW)
        assert {cluster.who(p) for p in probes} == {"b"} and all(seen_as(p) == p.local[0] for p in probes)
    cluster.resync(choose=["b"])
    assert cluster.answers(cluster.a, web.external, silence=0.2) == {DENY}


def test_without_endpoints(cluster):
    """kube-proxy's refusal reaches the client, also one that may go nowhere."""
    empty = cluster.expose("empty")
    for policies in ([], [out("a", "b")]):
        cluster.give([empty], *policies)
        assert cluster.met(cluster.a, empty, expect="") == {"ECONNREFUSED"}, policies


def test_headless_and_external_name(cluster):
    """Neither has an address: what a client connects to is the pod itself, or somebody else."""
    headless = service("headless", ["None"], [{"port": 80, "targetPort": 8080}], type="ClusterIP")
    alias = service("alias", [], [{"port": 80}], type="ExternalName", externalName="example.org")
    slices = [endpoint_slice("headless", [cluster.b.ips[n], cluster.there["q"].ips[n]], [{"port": 8080}]) for n in (0, 1)]
    cluster.give([headless, alias, *slices], out("a", "b"))
    assert cluster.answers(cluster.a, cluster.b.ips, 8080, expect=ALLOW) == {"b"}
    assert cluster.answers(cluster.a, cluster.there["q"].ips + cluster.d.ips, 8080, silence=0.2) == {DENY}


# ---- the node as backend, and as client ----

def kubernetes(cluster, *backends):
    return cluster.expose("kubernetes", *backends, ports=[{"name": "https", "port": 443, "targetPort": 6443}],
                          targets=[{"name": "https", "port": 6443}], namespace="default", type="ClusterIP", externalIPs=[],
                          load_balancer=[])


def test_the_node_is_a_backend(cluster):
    """default/kubernetes: the API server listens on this node's address, another one on node-2's pod r."""
    for ip in UPLINKS:
        cluster.prober.listen(cluster.node, 6443, ip=ip)
    for ip in cluster.there["r"].ips:
        cluster.prober.listen(cluster.outside, 6443, ip=ip)

    def towards(*ips):
        return allow_to("s", "a-out", {"name": "a"}, blocks(*ips), [{"protocol": "TCP", "port": 6443}])
    far = cluster.there["r"].ips

    def asked(**options):
        return cluster.tries(cluster.a, api.ips, 443, ("TCP",), **options)
    api = kubernetes(cluster, "node")
    for policies in ([], [towards(*UPLINKS)]):
        cluster.give([api], *policies)
        assert {cluster.who(p) for p in asked(expect=ALLOW)} == {"node"}
    cluster.give([api], towards(*far))
    assert {p.result for p in asked(silence=0.2)} == {DENY}
    api = kubernetes(cluster, "node", "r")
    cluster.give([api], towards(*UPLINKS, *far))
    assert {cluster.who(p) for p in asked(count=12, expect=ALLOW)} == {"node", "r"}
    cluster.give([api], towards(*UPLINKS))
    assert cluster.judged(asked(count=12), ["node"]) == {"node", "r"}
    cluster.give([api], towards(*far))
    found = {cluster.who(p) for p in asked(count=12)}
    assert found == {DENY}, "the node behind a mixed Service cannot be told from the rest: all are denied"


def test_a_live_connection_to_the_node(cluster):
    """No hook where it leaves; its backend is known all the same, and judged whatever the list is today."""
    cluster.talkers.append(Server(cluster.node, TALK, "node"))
    web = {names: cluster.expose("live-node", *names.split()) for names in ("node", "node r", "r", "")}

    def towards(name):
        return allow_to("s", "a-out", {"name": "a"}, blocks(*[cluster.address(name, f) for f in (4, 6)]), on(TALK))
    cluster.give([web["node"]], towards("node"))
    with talking(cluster, web["node"], "node") as clients:
        for names, allowed in (("node r", "node"), ("r", "node"), ("", "node"), ("r", "r"), ("node r", "r"), ("", "r")):
            cluster.give([web[names]], towards(allowed))
            assert alive(clients) if allowed == "node" else cut(clients), (names, allowed)
            if allowed != "node":
                cluster.give([web["node"]], towards("node"))
                assert caught_up(clients)


def test_the_nodes_own_processes(cluster):
    """They reach this node's pods through Services whatever policy says; no pod does by being masqueraded."""
    web = cluster.expose("from-node", "b")
    cluster.give([web], into("b"))
    assert cluster.met(cluster.node, web, expect=ALLOW) == {"b"}
    assert cluster.met(cluster.a, web) == {DENY} and cluster.met(cluster.outside, web) == {DENY}
    cluster.give([web], into("b", "a"))
    assert cluster.met(cluster.a, web, expect=ALLOW) == {"b"} and cluster.met(cluster.c, web) == {DENY}
    assert cluster.met(cluster.node, web, expect=ALLOW) == {"b"}


# ---- kube-proxy and the agent come and go ----

def test_kube_proxy_is_reloaded_under_load(cluster):
    web = cluster.expose("reload", "b", "r")
    cluster.give([web], out("a", "b", "r", port=TALK))
    with talking(cluster, web, "b") as to_b, talking(cluster, web, "r") as to_r:
        load = Load(lambda: ask(cluster.a, web.ips[0], 90)["server"])
        for choose in (["b"], ["r"], [], ["b"], []):
            cluster.resync(choose=choose)
            load.grown(5)
            assert alive(to_b) and alive(to_r)
        assert set(load.end()) == {"b", "r"}


def test_the_agent_restarts_under_load(cluster):
    """Nothing is lost while it is away, nothing when it comes back; a mixed Service stays as mixed as it is."""
    web, mixed = cluster.expose("restart", "b", "r"), cluster.expose("restart-mixed", "b", "d", "q")
    cluster.give([web, mixed], out("a", "b", "r", port=(TALK, ECHO)))
    with talking(cluster, web, "b") as to_b, talking(cluster, web, "r") as to_r, \
            talking(cluster, mixed, "b") as to_mixed:
        loads = [Load(lambda ip=ip: ask(cluster.a, ip, 90)["server"], threads=1) for ip in web.ips]
        for change in (cluster.running.stop, cluster.running.start):
            change()
            for load in loads:
                load.grown(10)
            assert alive(to_b) and alive(to_r) and alive(to_mixed)
            cluster.judged(cluster.tries(cluster.a, mixed.ips, count=6), ["b"])
        assert set().union(*(load.end() for load in loads)) == {"b", "r"}
