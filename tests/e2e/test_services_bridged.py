# SPDX-License-Identifier: Apache-2.0
"""Services and proxies where pods are ports of one bridge, with br_netfilter and without. Without it answers within the
bridge come back untranslated, as ever with kube-proxy; what a proxy answers is this node's, and does not."""
import pytest

from cluster import Cluster
from datagrams import Receiver, Talker
from proxies import PORT
from steering import EVERYTHING, egress, to
from talk import Client
from test_services_behind import RULE, UDP_RULE, datagram_ways, given, heard, received, settled, taken


@pytest.fixture(scope="module", params=[(0, "ebpf"), (1, "ebpf"), (0, "tproxy"), (1, "tproxy")],
                ids=["ebpf", "ebpf-br_netfilter", "tproxy", "tproxy-br_netfilter"])
def node(request):
    netfilter, engine = request.param
    with Cluster("iptables", bridge=True, netfilter=netfilter, engine=engine) as cluster:
        yield cluster


@pytest.fixture
def cluster(node):
    node.begun = node.running.api.metrics()
    for wire in node.wires.values():
        wire.clear()
    yield node
    node.end()


def test_by_the_services_address(cluster):
    web = cluster.expose("by-address", "b")
    front = settled(cluster, [web], egress(to(*web.ips, *web.external, port=90)))
    for ip in web.ips + web.external:
        with Client(cluster.a, ip, 90) as client:
            who = client.hello()
            assert (who["server"], who["local"], who["peer"]) == ("proxy", [ip, 90], list(client.ends))
            assert client.pour(1) is None
    assert len(front.accepted) == 4 and cluster.reached() == set()


def test_behind_the_service(cluster):
    web = cluster.expose("behind", "b")
    settled(cluster, [web], RULE)
    count = taken(cluster, cluster.a, web, megabytes=1) + taken(cluster, cluster.outside, web)
    assert cluster.handed() == count


def test_datagrams(cluster):
    """By the Service's address, and behind it."""
    web = cluster.expose("datagrams", "b")
    by_address = {"name": "udp", "action": "Intercept", "proxy": "gw", "to": EVERYTHING, "protocols": [{"udp": {}}]}
    with Receiver(cluster.node, PORT, "proxy") as receiver:
        given(cluster, [web], UDP_RULE)
        heard(cluster)
        received(cluster, cluster.a, web)
        received(cluster, cluster.outside, web)
        given(cluster, [web], egress(by_address))
        for ip, port, _ in datagram_ways(cluster, web, cluster.a):
            with Talker(cluster.a, ip, port) as client:
                assert client.server() == "proxy" and client.echo(b"x" * 9000)
        assert receiver.wrong == []
