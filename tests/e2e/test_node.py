# SPDX-License-Identifier: Apache-2.0
"""
The node itself, told apart from what only has its address (allowLocalHost). Elsewhere: masqueraded and outside traffic in
test_traffic.py, a proxy's onward leg in test_onward_policy.py and test_proxies.py.
"""
import socket

import pytest

import packets
from lab import ALLOW, DENY, GATEWAY4, NODE4, NODE6, UPLINK4, UPLINK6, Lab, Probe
from objects import allow_from, allow_to, deny_all, policy
from probe import family_of
from scenes import echoed, heard, member, serve

FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])
MINE = {4: (NODE4, UPLINK4), 6: (NODE6, UPLINK6)}


def blocks(*ips):
    return [{"ipBlock": {"cidr": f"{ip}/{128 if ':' in ip else 32}"}} for ip in ips]


@pytest.fixture(scope="module", params=[True, False], ids=["allowed", "judged"])
def either(request):
    with Lab(outside=True) as lab:
        lab.allowed = request.param
        lab.a, lab.b = lab.pod("a"), lab.pod("b")
        lab.items = [member(n, p, interface=p.interface) for n, p in lab.pods.items()]
        lab.running = lab.agent(datapath={"allowLocalHost": lab.allowed})
        yield lab


@pytest.fixture
def lab(either):
    """a and b without policy; the node may always reach them, or is anybody."""
    serve(either, either.a, either.b, either.node)
    either.running.api.put_state(either.items)
    yield either
    either.prober.close_listeners()


def put(lab, *policies):
    lab.running.api.put_state(lab.items + list(policies))


def said(lab, probes):
    return {p.result for p in lab.prober.probe(probes)}


@FAMILIES
def test_whatever_address_a_socket_of_the_node_has(lab, family):
    """Switched off, each of them is an address like any other."""
    node = ALLOW if lab.allowed else DENY

    def outcome(ip, expect):
        return said(lab, [Probe(lab.node, lab.b.ips[family == 6], 80, protocol, bind=(ip, 0), expect=expect)
                          for protocol in ("TCP", "UDP")])
    one, two = MINE[family]
    put(lab, deny_all("s"))
    assert [outcome(ip, node) for ip in (one, two)] == [{node}, {node}]
    put(lab, allow_from("s", "b-in", {"name": "b"}, blocks(two)))
    assert [outcome(one, node), outcome(two, ALLOW)] == [{node}, {ALLOW}]


def test_egress_to_the_nodes_own_addresses_is_judged_like_any_other(lab):
    """Whichever of them, and also when the node could always come the other way."""
    # A server on the wildcard answers UDP from the address of the route, whichever was asked.
    ways = [(ip, "TCP") for ip in (NODE4, NODE6, UPLINK4, UPLINK6, GATEWAY4)] + [(NODE4, "UDP"), (NODE6, "UDP")]

    def wrong(*allowed):
        probes = [Probe(lab.a, ip, 80, protocol, expect=ALLOW if (ip, protocol) in allowed else DENY) for ip, protocol in ways]
        return [str(p) for p in lab.prober.probe(probes) if not p.ok]
    assert wrong(*ways) == []
    put(lab, policy("s", "a-out", {"name": "a"}, types=["Egress"]))
    assert wrong() == []
    put(lab, allow_to("s", "a-out", {"name": "a"}, blocks(NODE4, UPLINK6), [{"protocol": "TCP", "port": 80}]))
    assert wrong((NODE4, "TCP"), (UPLINK6, "TCP")) == []


@FAMILIES
def test_a_live_connection_of_the_node(lab, family):
    """It passes, or not, as a new one would."""
    with lab.node.entered():
        client = socket.create_connection((lab.b.ips[family == 6], 80), timeout=2)
    with client:
        assert echoed(lab, client, b"before")
        put(lab, deny_all("s"))
        assert echoed(lab, client, b"denied", timeout=2.0 if lab.allowed else 0.4) == lab.allowed
        put(lab)
        if not lab.allowed:
            assert heard(lab, client, b"denied", 5), "TCP sends it again, and it passes"
        assert echoed(lab, client, b"after")


@FAMILIES
def test_a_pod_that_claims_to_be_the_node(lab, family):
    """Its packets are dropped where they enter, so the exemption is never asked about."""
    source, target = MINE[family][0], lab.b.ips[family == 6]
    put(lab, deny_all("s", selector={"name": "b"}, types=("Ingress",)))
    with lab.b.entered():
        ears = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    ears.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    ears.bind(("::", 9999))
    ears.settimeout(0.3)
    before = lab.running.api.metrics()("penstock_packets_total", reason="Spoofed")
    body = packets.udp(4444, 9999, b"false")
    with lab.a.entered():
        raw = socket.socket(family_of(target), socket.SOCK_RAW, socket.IPPROTO_RAW)
    with raw, ears:
        raw.sendto(packets.ip(source, target, "UDP", body), (target, 0))
        with pytest.raises(TimeoutError):
            ears.recv(100)
    assert lab.running.api.metrics()("penstock_packets_total", reason="Spoofed") - before == 1
