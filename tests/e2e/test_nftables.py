# SPDX-License-Identifier: Apache-2.0
"""Interception of addresses that kube-proxy translates: the table that keeps them, and what becomes of it."""
import pytest

from kubeproxy import MODES, KubeProxy, endpoint_slice, service
from lab import ALLOW, Probe
from objects import intercept, proxy
from scenes import eventually, member, serve

PROXY_PORT = 15001
VIP = {4: "10.96.0.10", 6: "fd00:96::a"}
TABLE = ("list", "table", "inet", "penstock")


@pytest.fixture(params=[*MODES, "iptables-legacy"])
def cluster(lab, request):
    """a's connections to the Service go to a proxy; without interception they go to b."""
    lab.a, lab.b = lab.pod("a"), lab.pod("b")
    serve(lab, lab.b, ports=(8080,))
    lab.kube = KubeProxy(lab.node, request.param)
    if why := lab.kube.lacking():
        pytest.skip(f"kube-proxy's {request.param} mode cannot be had here: {why}")
    lab.kube.sync([service("web", list(VIP.values()), [{"port": 80, "targetPort": 8080}]),
                   *[endpoint_slice("web", [ip], [{"port": 8080}]) for ip in lab.b.ips]])
    begin(lab)
    return lab


def begin(lab, **config):
    lab.running = lab.agent(**config)
    lab.items = [member(name, pod, interface=pod.interface) for name, pod in lab.pods.items()]
    lab.handed = [proxy("gw", PROXY_PORT), intercept("web", {"name": "a"}, [
        {"name": "web", "action": "Intercept", "proxy": "gw", "protocols": [{"tcp": {"destinationPort": {"number": 80}}}],
         "to": [{"networks": [f"{VIP[4]}/32", f"{VIP[6]}/128"]}]}])]
    lab.prober.listen(lab.node, PROXY_PORT, transparent=True)


def answers(lab, source):
    """By family: which address answers a connection to the Service, as it sees itself; None: nobody."""
    probes = lab.prober.probe([Probe(source, VIP[family], 80, expect=ALLOW) for family in (4, 6)])
    return [(probe.peer[2].removeprefix("::ffff:"), probe.peer[3]) if probe.ok else None for probe in probes]


def nft(lab, *command, **options):
    return lab.node.run("nft", *command, **options).stdout


def backend(lab):
    return [(lab.b.ip4, 8080), (lab.b.ip6, 8080)]


PROXY = [(VIP[4], 80), (VIP[6], 80)]


def test_the_proxy_is_reached_at_the_services_address(cluster):
    lab = cluster
    lab.running.api.put_state(lab.items)
    assert answers(lab, lab.a) == backend(lab)
    assert "penstock" not in nft(lab, "list", "tables"), "no table before the first proxy"
    lab.running.api.put_state(lab.items + lab.handed)
    assert answers(lab, lab.a) == PROXY
    assert answers(lab, lab.b) == backend(lab), "whom no rule selects"
    assert lab.running.api.metrics()("penstock_intercepted_connections_total", proxy="gw") == 2

    nft(lab, "delete", "table", "inet", "penstock")
    assert answers(lab, lab.a) != PROXY, "it is this table that does it"
    lab.running.restart()
    assert answers(lab, lab.a) == PROXY
    lab.running.kill9()
    assert answers(lab, lab.a) == PROXY, "it stays without an agent"
    lab.running.start()
    lab.running.api.delete_object("InterceptPolicy", "", "web")
    assert answers(lab, lab.a) == backend(lab)
