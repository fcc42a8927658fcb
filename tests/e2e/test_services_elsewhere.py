# SPDX-License-Identifier: Apache-2.0
"""Some of the tests of Services again: with the old iptables, and where pods are ports of a bridge. There kube-proxy needs
br_netfilter, without which answers within the bridge come back untranslated; with it translation comes before routing."""
import pytest

from cluster import Cluster
from test_services import (  # noqa: F401  (tests with this module's fixture)
    test_default_deny_plus_dns_to_kube_dns_through_its_service,
    test_every_address_leads_to_every_backend,
    test_ingress_is_judged_by_who_asked,
    test_mixed_by_both_sides,
)
from test_services_intercept import test_by_the_backends, test_the_relay_goes_on_to_the_service  # noqa: F401
from test_services_live import (  # noqa: F401
    test_a_mixed_services_live_connections,
    test_hairpin,
    test_masquerade_all,
)


@pytest.fixture(scope="module", params=["iptables-legacy", "iptables bridged"])
def node(request):
    mode, *bridged = request.param.split()
    with Cluster(mode, bridge=bool(bridged), netfilter=True) as made:
        if bridged:  # a pod that asks itself gets its packets back by the port they came from; kubelet sees to that
            made.node.ip(*[f"link set {pod.interface} type bridge_slave hairpin on" for pod in made.pods.values()])
        yield made


@pytest.fixture
def cluster(node):
    node.begun = node.running.api.metrics()
    for wire in node.wires.values():
        wire.clear()
    yield node
    node.end()
