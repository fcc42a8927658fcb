# SPDX-License-Identifier: Apache-2.0
"""Processes of the node that call Services, beside kube-proxy's rules: the proxy sees the Service's address."""
import pytest

from cluster import TALK, Cluster, pods
from objects import intercept
from puppet import Group, Puppet, cgroup_root
from steering import ENGINES, made, to

pytestmark = pytest.mark.skipif(cgroup_root() is None, reason="the machine's root of cgroup v2 is not mounted")


@pytest.fixture(scope="module", params=ENGINES)
def node(request):
    with Cluster("iptables", engine=request.param) as cluster, Group(f"{cluster.prefix}/one") as group, \
            Puppet(cluster.node, group) as cluster.inside, Puppet(cluster.node) as cluster.beside:
        cluster.group = group
        yield cluster


@pytest.fixture
def cluster(node):
    node.begun = node.running.api.metrics()
    for wire in node.wires.values():
        wire.clear()
    yield node
    node.end()


def steered(cluster, *rules):
    return intercept("steer", {"cgroup": cluster.group.path}, list(rules))


def settled(cluster, web, *policies):
    cluster.give([web], *policies)
    front = cluster.front()
    cluster.usable()
    return front


def taken(cluster, web):
    cluster.reached()
    for ip in web.ips:
        said = cluster.inside.ask(ip, 90)
        assert said["server"] == "proxy" and said["local"] == [ip, 90] and said["peer"] == said["own"], said
    assert cluster.reached() == set()
    for ip in web.ips:
        assert cluster.beside.ask(ip, 90)["server"] == "b"


def test_by_the_services_address(cluster):
    web = cluster.expose("host-by-address", "b")
    settled(cluster, web, steered(cluster, to(*web.ips, port=90)))
    taken(cluster, web)


def test_by_its_backends(cluster):
    web = cluster.expose("host-by-backends", "b")
    by_pods = made("to", [{"pods": {"namespaceSelector": {}, **peer}} for peer in pods("b")], "Intercept", TALK, "gw")
    settled(cluster, web, steered(cluster, by_pods))
    taken(cluster, web)


def test_who_is_not_wanted_is_translated_as_ever(cluster):
    web = cluster.expose("host-direct", "b")
    settled(cluster, web, steered(cluster, to("203.0.113.0/24", port=90)))
    for ip in web.ips:
        assert cluster.inside.ask(ip, 90)["server"] == "b"
