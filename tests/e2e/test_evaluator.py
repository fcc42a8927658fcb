# SPDX-License-Identifier: Apache-2.0
"""The naive evaluator agrees with Kubernetes' own truth tables, and with the letter of its documentation."""
import pytest

import conformance
from evaluator import ALLOW, DEFAULT, DENY, INTERCEPT, ISOLATED, PENDING, POLICY, Packet, World, selects
from objects import audited, cluster_policy, intercept, namespace, node, pod, policy, proxy, workload

pytestmark = pytest.mark.pure
CASES = conformance.load_cases()
KNOWN_KINDS = {"NetworkPolicy", "ClusterNetworkPolicy"}


@pytest.mark.skipif(not CASES, reason=conformance.missing_reason())
@pytest.mark.parametrize("as_pods", [False, True], ids=["workloads", "pods"])
@pytest.mark.parametrize("case", CASES, ids=[c["name"] for c in CASES])
def test_truth_tables(case, as_pods):
    compared = 0
    for number, stage in enumerate(conformance.stages(case)):
        if {key[0] for key in stage.policies} - KNOWN_KINDS:
            pytest.skip(f"the evaluator does not know {sorted({k[0] for k in stage.policies} - KNOWN_KINDS)}")
        world = World(stage.objects(as_pods))
        for probe, family in conformance.stage_probes(case, stage):
            ends = [stage.pods[tuple(probe[end].split("/"))] for end in ("from", "to")]
            packet = Packet(conformance.address(ends[0], family), conformance.address(ends[1], family),
                            probe["protocol"], probe["port"])
            assert world.judge(packet).action.lower() == probe["expect"], f"stage {number}: {probe} {family}"
            compared += 1
    assert compared


A, B, C = "10.0.0.1", "10.0.0.2", "10.0.1.3"


def world(*policies, **more):
    return World([namespace("shop"), namespace("other", {"team": "blue"}),
                  workload("shop", "a", [A], {"app": "a"}),
                  workload("shop", "b", [B], {"app": "b"}, [{"name": "http", "port": 8080, "protocol": "TCP"},
                                                            {"name": "http", "port": 53, "protocol": "UDP"}]),
                  workload("other", "c", [C], {"app": "c"}), *policies], **more)


def test_no_policy_allows_by_default():
    side = world().judge(Packet(A, B, "TCP", 80)).ingress
    assert (side.verdict, side.reason, side.rule) == (ALLOW, DEFAULT, None)


def test_isolation_names_a_policy():
    side = world(policy("shop", "none", {"app": "b"}, types=["Ingress"])).judge(Packet(A, B, "TCP", 80)).ingress
    assert (side.verdict, side.reason, side.rule) == (DENY, ISOLATED, ("NetworkPolicy", "shop", "none", -1))


@pytest.mark.parametrize("spec, types", [
    ({}, ["Ingress"]), ({"egress": []}, ["Ingress"]), ({"egress": [{}]}, ["Ingress", "Egress"]),
    ({"policyTypes": []}, ["Ingress"]), ({"policyTypes": ["Egress"], "ingress": [{}]}, ["Egress"])])
def test_policy_types_default(spec, types):
    from evaluator import policy_types
    assert policy_types(spec) == types


@pytest.mark.parametrize("expression, labels, held", [
    ({"key": "a", "operator": "In", "values": ["x"]}, {}, False),
    ({"key": "a", "operator": "NotIn", "values": ["x"]}, {}, True),
    ({"key": "a", "operator": "NotIn", "values": ["x"]}, {"a": "x"}, False),
    ({"key": "a", "operator": "Exists"}, {"a": ""}, True),
    ({"key": "a", "operator": "DoesNotExist"}, {"a": ""}, False)])
def test_selector_operators(expression, labels, held):
    assert selects({"matchExpressions": [expression]}, labels) is held


def judged(rule, packet, direction="ingress"):
    types = [direction.capitalize()]
    subject = {"app": "b"} if direction == "ingress" else {"app": "a"}
    made = world(policy("shop", "p", subject, types=types, **{direction: [rule]}))
    return getattr(made.judge(packet), direction).verdict


def test_named_ports_need_number_and_protocol():
    rule = {"ports": [{"port": "http"}]}
    assert judged(rule, Packet(A, B, "TCP", 8080)) == ALLOW
    assert judged(rule, Packet(A, B, "TCP", 53)) == DENY
    assert judged({"ports": [{"port": "http", "protocol": "UDP"}]}, Packet(A, B, "UDP", 53)) == ALLOW
    assert judged(rule, Packet(A, B, "TCP", 8080), "egress") == ALLOW
    assert judged(rule, Packet(A, "192.0.2.1", "TCP", 8080), "egress") == DENY


def test_end_port_is_inclusive():
    rule = {"ports": [{"port": 80, "endPort": 82}]}
    assert [judged(rule, Packet(A, B, "TCP", p)) for p in (79, 80, 82, 83)] == [DENY, ALLOW, ALLOW, DENY]


def test_a_rule_with_ports_never_matches_icmp():
    assert judged({"ports": [{"protocol": "TCP"}]}, Packet(A, B, "ICMP")) == DENY
    assert judged({}, Packet(A, B, "ICMP")) == ALLOW


def test_blocks_hold_pod_addresses_too():
    rule = {"from": [{"ipBlock": {"cidr": "10.0.0.0/16", "except": ["10.0.1.0/24"]}}]}
    assert judged(rule, Packet(A, B, "TCP", 1)) == ALLOW
    assert judged(rule, Packet(C, B, "TCP", 1)) == DENY
    assert judged(rule, Packet("10.1.0.0", B, "TCP", 1)) == DENY


def test_a_pod_selector_alone_means_the_policys_namespace():
    assert judged({"from": [{"podSelector": {}}]}, Packet(A, B, "TCP", 1)) == ALLOW
    assert judged({"from": [{"podSelector": {}}]}, Packet(C, B, "TCP", 1)) == DENY
    assert judged({"from": [{"namespaceSelector": {"matchLabels": {"team": "blue"}}}]}, Packet(C, B, "TCP", 1)) == ALLOW


def test_only_local_sides_are_judged():
    made = world(policy("shop", "none", types=["Ingress", "Egress"]), local={("shop", "a")})
    verdict = made.judge(Packet(A, B, "TCP", 1))
    assert verdict.ingress is None and verdict.egress.verdict == DENY


def test_the_younger_pod_has_the_address_and_ended_pods_none():
    made = World([pod("x", "old", [A], "node-1"), pod("x", "new", [A], "node-1", created="2026-02-01T00:00:00Z"),
                  pod("x", "done", [B], "node-1", phase="Succeeded"),
                  pod("x", "host", [C], "node-1", hostNetwork=True)])
    assert made.endpoint(A).name == "new"
    assert made.endpoint(B) is None and made.endpoint(C) is None


def test_interception_takes_only_what_policy_allows():
    to = [{"networks": ["203.0.113.0/24"]}]
    https = [{"tcp": {"destinationPort": {"number": 443}}}]
    items = [proxy("gw", 15001), intercept("llm", {"app": "a"}, [
        {"name": "not", "action": "Bypass", "to": [{"networks": ["203.0.113.7/32"]}]},
        {"name": "yes", "action": "Intercept", "proxy": "gw", "to": to, "protocols": https}])]
    side = world(*items).judge(Packet(A, "203.0.113.9", "TCP", 443)).egress
    assert (side.verdict, side.taken, side.proxy) == (INTERCEPT, ("InterceptPolicy", "", "llm", 1), "gw")
    for packet in (Packet(A, "203.0.113.7", "TCP", 443), Packet(A, "203.0.113.9", "TCP", 80),
                   Packet(B, "203.0.113.9", "TCP", 443), Packet(A, "203.0.113.9", "UDP", 443)):
        assert world(*items).judge(packet).egress.verdict == ALLOW
    items.append(policy("shop", "none", {"app": "a"}, types=["Egress"]))
    assert world(*items).judge(Packet(A, "203.0.113.9", "TCP", 443)).action == DENY


ANYBODY = [{"networks": ["0.0.0.0/0", "::/0"]}]


def handed(*items, packet=None):
    verdict = world(proxy("gw", 15001), proxy("waf", 15002), *items).judge(packet or Packet(A, B, "TCP", 80))
    return verdict.proxy, verdict.hit


def test_egress_rules_come_first_otherwise_ingress_rules():
    out = intercept("out", {"app": "a"}, [{"action": "Intercept", "proxy": "gw", "to": ANYBODY}], 900)
    into = intercept("in", {"app": "b"}, [], 1, ingress=[{"action": "Intercept", "proxy": "waf", "from": ANYBODY}])
    bypass = intercept("out", {"app": "a"}, [{"action": "Bypass", "to": ANYBODY}], 900)
    assert handed(out, into) == ("gw", ("out", "Egress", 0))
    assert handed(into) == ("waf", ("in", "Ingress", 0))
    assert handed(bypass, into) == (None, None)
    assert handed(into, packet=Packet("192.0.2.1", B, "TCP", 80)) == ("waf", ("in", "Ingress", 0))
    assert handed(into, packet=Packet(B, A, "TCP", 80)) == (None, None)
    assert handed(out, into, policy("shop", "none", {"app": "b"}, types=["Ingress"])) == (None, None)


def test_priorities_tie_by_name_and_nodes_are_peers():
    def one(name, number, gateway):
        return intercept(name, {"app": "a"}, [{"action": "Intercept", "proxy": gateway, "to": [{"nodes": {}}]}], number)
    gate = node("gate", ["192.0.2.5"], {"role": "gate"})
    packet = Packet(A, "192.0.2.5", "TCP", 80)
    assert handed(one("x", 5, "gw"), one("y", 4, "waf"), gate, packet=packet) == ("waf", ("y", "Egress", 0))
    assert handed(one("x", 5, "gw"), one("y", 5, "waf"), gate, packet=packet) == ("gw", ("x", "Egress", 0))
    assert handed(one("x", 5, "gw"), gate, packet=Packet(A, "192.0.2.6", "TCP", 80)) == (None, None)
    assert handed(one("x", 5, "gw"), gate, packet=Packet(A, "192.0.2.5", "UDP", 80)) == (None, None)


def test_protocols_are_the_proxys_or_the_rules():
    def one(**rule):
        return intercept("x", {"app": "a"}, [{"action": "Intercept", "proxy": "gw", "to": ANYBODY, **rule}])
    udp, both = proxy("gw", 1), proxy("gw", 1)
    udp["spec"]["protocols"], both["spec"]["protocols"] = ["UDP"], ["TCP", "UDP"]
    named = {"protocols": [{"udp": {"destinationPort": {"number": 443}}}]}
    taken = ("gw", ("x", "Egress", 0))
    for gateway, rule, protocol, port, expected in (
            (udp, {}, "UDP", 5, taken), (udp, {}, "TCP", 5, (None, None)), (both, {}, "UDP", 5, taken),
            (both, {}, "SCTP", 5, (None, None)), (both, named, "UDP", 443, taken), (both, named, "TCP", 443, (None, None)),
            (both, named, "UDP", 444, (None, None)), (proxy("gw", 1), named, "UDP", 443, taken),
            (udp, {**named, "proxy": "lost"}, "UDP", 443, ("lost", taken[1])),
            (udp, {"proxy": "lost"}, "UDP", 443, (None, None)), (udp, {"proxy": "lost"}, "TCP", 443, ("lost", taken[1]))):
        assert handed(gateway, one(**rule), packet=Packet(A, "192.0.2.5", protocol, port)) == expected, (rule, protocol)


# ---- tiers ----

def tiers(*policies, packet=None):
    return world(*policies).judge(packet or Packet(A, B, "TCP", 80)).ingress


def tier(name, action, priority=10, which="Admin", peers=None, **rule):
    return cluster_policy(name, which, priority, ingress=[{"action": action, "from": peers or [{"namespaces": {}}], **rule}])


def test_tiers_come_before_and_after_networkpolicies():
    shut, opened = policy("shop", "shut", types=["Ingress"]), policy("shop", "open", ingress=[{}])
    assert tiers(tier("a", "Accept"), shut).verdict == ALLOW and tiers(tier("a", "Deny"), opened).verdict == DENY
    assert tiers(tier("b", "Accept", which="Baseline"), shut).verdict == DENY
    assert tiers(tier("b", "Deny", which="Baseline"), opened).verdict == ALLOW
    assert tiers(tier("b", "Deny", which="Baseline")).rule == ("ClusterNetworkPolicy", "", "b", 0)
    assert tiers(tier("a", "Pass", 1), tier("b", "Deny", 2)).verdict == ALLOW
    assert tiers(tier("a", "Pass", 1), tier("b", "Deny", 2, "Baseline")).verdict == DENY
    assert tiers(tier("y", "Accept"), tier("x", "Deny")).verdict == DENY, "a tie is by name"
    assert tiers(audited(tier("a", "Deny"))).verdict == ALLOW


def test_a_peer_of_a_version_to_come_fails_closed():
    later = [{"namespaces": {}}, {"later": {}}]
    assert [tiers(tier("a", action, peers=later)).verdict for action in ("Accept", "Deny", "Pass")] == [ALLOW, DENY, DENY]
    assert tiers(tier("a", "Accept", peers=later), policy("shop", "shut", types=["Ingress"])).verdict == DENY


def test_named_ports_of_tiers_are_the_destinations():
    named = tier("a", "Deny", protocols=[{"destinationNamedPort": "http"}])
    found = [tiers(named, packet=Packet(A, B, protocol, port)).verdict
             for protocol, port in (("TCP", 8080), ("UDP", 53), ("TCP", 53), ("SCTP", 8080))]
    assert found == [DENY, DENY, ALLOW, ALLOW]
    assert tiers(tier("a", "Deny", protocols=[{"sctp": {}}]), packet=Packet(A, B, "SCTP", 9)).verdict == DENY


def test_reasons_are_the_contracts():
    assert {POLICY, ISOLATED, DEFAULT} == {"Policy", "Isolated", "Default"}


# ---- Services ----

IP, PORT_OF_NODE = "10.96.0.1", 30080
NODE = "192.0.2.10"


def service(endpoints, slice_ports=({"name": "web", "port": 8080},), **spec):
    """A Service of namespace shop, and one slice of it; endpoints: (address, conditions)."""
    return [{"kind": "Service", "metadata": {"namespace": "shop", "name": "s"},
             "spec": {"clusterIPs": [IP], "ports": [{"name": "web", "port": 80, "nodePort": PORT_OF_NODE}], **spec}},
            {"kind": "EndpointSlice", "addressType": "IPv4",
             "metadata": {"namespace": "shop", "name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
             "endpoints": [{"addresses": [ip], "conditions": conditions} for ip, conditions in endpoints], "ports": list(slice_ports)}]


def backends(*endpoints, to=IP, port=80, protocol="TCP", **more):
    made = world(*service(endpoints, **more), node("node-1", [NODE]))
    found = made.backends(Packet(A, to, protocol, port))
    return None if found is None else [(b.ip, b.port) for b in found]


def test_ready_is_the_default_and_those_that_end_stand_in():
    ending = {"ready": False, "serving": True, "terminating": True}
    assert backends((A, {}), (B, {"ready": None}), (C, {"ready": False})) == [(A, 8080), (B, 8080)]
    assert backends((A, {}), (B, ending)) == [(A, 8080)]
    assert backends((A, {"ready": False}), (B, ending), (C, {"ready": False, "terminating": True})) == [(B, 8080), (C, 8080)]
    assert backends((A, {"ready": False, "serving": False, "terminating": True}), (B, {"ready": False, "serving": True})) == []
    assert backends((A, {}), (A, {})) == [(A, 8080)]


def test_ports_are_joined_by_name_and_protocol():
    assert backends((A, {}), slice_ports=[{"name": "web", "protocol": "UDP", "port": 1}, {"name": "x", "port": 2}]) == []
    assert backends((A, {}), slice_ports=[{"name": "web", "port": 1}, {"name": "web"}]) == [(A, 1)]


def test_a_services_addresses_are_those_that_are_translated():
    assert backends((A, {}), port=81) is None and backends((A, {}), protocol="UDP") is None
    assert backends((A, {}), to=NODE, port=PORT_OF_NODE) == [(A, 8080)]
    assert backends((A, {}), to="192.0.2.11", port=PORT_OF_NODE) is None
    assert backends((A, {}), to="203.0.113.1", externalIPs=["203.0.113.1"]) == [(A, 8080)]
    headless = {"clusterIPs": ["None"], "externalIPs": ["203.0.113.1"]}
    assert backends((A, {}), to="203.0.113.1", **headless) is None
    assert backends((A, {}), to=NODE, port=PORT_OF_NODE, **headless) is None
    assert backends((A, {}), type="ExternalName") is None


def asked(endpoints, *more):
    return world(*service([(ip, {}) for ip in endpoints]), node("node-1", [NODE]), *more).ask(Packet(A, IP, "TCP", 80))


def only_to(*ips):
    return policy("shop", "out", {"app": "a"}, egress=[{"to": [{"ipBlock": {"cidr": f"{ip}/32"}} for ip in ips]}], types=["Egress"])


def test_backends_decide_together_or_one_by_one():
    assert asked([B, C]).action == ALLOW and asked([B, C], only_to(B, C)).action == ALLOW
    assert asked([B, C], only_to(A)).action == DENY and asked([B, C], only_to(B)).action == PENDING
    assert asked([]).action == PENDING
    assert asked([B, NODE], only_to(B)).action == DENY, "no hook follows that could refuse"
    assert asked([B, NODE], only_to(NODE)).action == PENDING


def test_interception_asks_the_services_address_first():
    def rule(to, action="Intercept"):
        return {"action": action, "to": [{"networks": [f"{ip}/32" for ip in to]}], **({"proxy": "gw"} if action == "Intercept" else {})}

    def steered(*rules, policies=()):
        found = asked([B, C], proxy("gw", 15001), intercept("i", {"app": "a"}, list(rules)), *policies)
        return found.action, found.proxy
    assert steered(rule([IP])) == steered(rule([B, C])) == (INTERCEPT, "gw")
    assert steered(rule([B])) == (ALLOW, None)
    assert steered(rule([IP], "Bypass"), rule([B, C])) == (ALLOW, None)
    assert steered(rule([IP]), policies=[only_to(B)]) == steered(rule([B]), policies=[only_to(B)]) == (DENY, None)
    assert steered(rule([IP], "Bypass"), policies=[only_to(B)]) == (PENDING, None)
