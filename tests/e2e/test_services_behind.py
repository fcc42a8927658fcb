# SPDX-License-Identifier: Apache-2.0
"""Ingress interception behind a Service: a rule of the backend, which only kube-proxy's translation shows. The proxy sees
what the backend would have seen: its own address and port, and the client, or who masquerade says that it is."""
import json
import socket
import threading

import pytest

from cluster import ECHO, TALK, UPLINKS, Cluster, blocks, into, out
from lab import OUTSIDE4, OUTSIDE6
from objects import intercept, proxy
from proxies import PORT, Relay
from scenes import eventually
from steering import come, egress, host, ingress, made, to
from talk import TRANSPARENT, Client, ask, family_of, plain
from test_sockets import original

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
    for count, (ip, port, masked) in enumerate(ways(cluster, exposed, source), 1):
        with Client(source, ip, port) as client:
            who = client.hello()
            assert who["server"] == "proxy", (ip, port, who)
            assert who["local"] == [cluster.address(backend, 6 if ":" in ip else 4), TALK], (ip, port, who)
            assert masked or who["peer"] == list(client.ends), (ip, port, who)
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
