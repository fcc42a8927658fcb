# SPDX-License-Identifier: Apache-2.0
"""The data path in surroundings that a plain node does not have: bridges whose frames netfilter sees, few capabilities,
other people's programs, interfaces that change."""
import socket

import pytest

from lab import DENY, OUTSIDE4, Lab
from objects import intercept, proxy
from scenes import echoed, member, serve
from test_intercept import PROXY_PORT, rule, tried

# ---- ports of a bridge ----

@pytest.fixture(params=[0, 1], ids=["br_netfilter off", "br_netfilter on"])
def bridged(request):
    with Lab(bridge=True, outside=True) as lab:
        for family in ("iptables", "ip6tables"):
            try:
                lab.node.sysctl(f"net.bridge.bridge-nf-call-{family}", request.param)
            except FileNotFoundError:
                if request.param:
                    pytest.skip("this kernel has no br_netfilter")
        lab.a, lab.b = lab.pod("a"), lab.pod("b")
        serve(lab, lab.b, lab.outside)
        lab.running = lab.agent()
        lab.items = [member(n, p, interface=p.interface) for n, p in lab.pods.items()]
        to_b = {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"name": "b"}}}}
        lab.running.api.put_state(lab.items + [
            proxy("gw", PROXY_PORT),
            intercept("llm", {"name": "a"}, [rule(to=[{"networks": [f"{OUTSIDE4}/32"]}, to_b])])])
        lab.listen = lambda: lab.prober.listen(lab.node, PROXY_PORT, ip="0.0.0.0", transparent=True)
        yield lab


def test_a_bridged_pod_is_intercepted(bridged):
    lab = bridged
    for destination in (OUTSIDE4, lab.b.ip4):
        assert tried(lab, lab.a, destination, expect=DENY).result == DENY, "nobody listens"
    lab.listen()
    for destination in (OUTSIDE4, lab.b.ip4):
        probe = tried(lab, lab.a, destination)
        assert probe.ok and probe.peer == (lab.a.ip4, probe.local[1], destination, 80)
    with lab.a.entered():
        client = socket.create_connection((lab.b.ip4, 80), timeout=2)
    assert echoed(lab, client, b"one")
    lab.node.ip("link set br0 address 02:00:00:00:00:77")
    lab.a.ip("neigh flush dev eth0")
    assert echoed(lab, client, b"two"), "the bridge has another address"
    lab.prober.close_listeners()
    serve(lab, lab.b)
    assert tried(lab, lab.a, lab.b.ip4, expect=DENY).result == DENY, "never past the proxy"
