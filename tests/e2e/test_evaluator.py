# SPDX-License-Identifier: Apache-2.0
"""The naive evaluator agrees with Kubernetes' own truth tables, and with the letter of its documentation."""
import pytest

import conformance
from evaluator import ALLOW, DEFAULT, DENY, INTERCEPT, ISOLATED, POLICY, Packet, World, selects
from objects import intercept, namespace, node, pod, policy, proxy, workload

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


def test_reasons_are_the_contracts():
    assert {POLICY, ISOLATED, DEFAULT} == {"Policy", "Isolated", "Default"}
