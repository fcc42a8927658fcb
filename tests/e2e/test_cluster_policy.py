# SPDX-License-Identifier: Apache-2.0
"""ClusterNetworkPolicy and audit mode on real packets: tiers, priorities, Pass, every kind of peer, and what is only decided."""
import socket

import pytest

from lab import ALLOW, DENY, NODE4, NODE6, NODE_NAME, OUTSIDE4, OUTSIDE6, Lab
from objects import audited, cluster_policy, intercept, namespace, node, policy, proxy, workload
from scenes import echoed, heard, results, serve

ANYBODY = [{"namespaces": {}}]
EVERYWHERE = [{"networks": ["0.0.0.0/0", "::/0"]}]
OUT = [{"networks": [f"{OUTSIDE4}/32", f"{OUTSIDE6}/128"]}]
PASSES, DROPS = [ALLOW] * 4, [DENY] * 4
PROXY_PORT = 15001


def pods(namespaces=None, **labels):
    return {"pods": {"namespaceSelector": namespaces or {}, "podSelector": {"matchLabels": labels}}}


def tcp(*ports):
    return [{"tcp": {"destinationPort": {"number": port}}} for port in ports]


def rule(action, peers=None, protocols=None, name=None, side="from"):
    made = {"action": action, side: ANYBODY if peers is None else peers}
    return {**({"name": name} if name else {}), **made, **({"protocols": protocols} if protocols else {})}


def out(action, peers=None, protocols=None, name=None):
    return rule(action, peers, protocols, name, "to")


def admin(name, priority, **more):
    return cluster_policy(name, "Admin", priority, **more)


def baseline(name, priority, **more):
    return cluster_policy(name, "Baseline", priority, **more)


NAMED_PORTS = [{"name": "web", "port": 80, "protocol": "TCP"}, {"name": "web", "port": 81, "protocol": "UDP"}]
ISOLATE_B = policy("blue", "shut", {"name": "b"}, types=["Ingress"])
OPEN_B = policy("blue", "open", {"name": "b"}, ingress=[{}])


@pytest.fixture(scope="module")
def scene():
    """a and c in namespace red, b in blue; who serves does so on 80 and 81."""
    with Lab(outside=True) as lab:
        lab.a, lab.b, lab.c = (lab.pod(name) for name in "abc")
        serve(lab, lab.a, lab.b, lab.outside, lab.node, ports=(80, 81))
        lab.items = [namespace("red", {"team": "red"}), namespace("blue", {"team": "blue"}),
                     node(NODE_NAME, [NODE4, NODE6], {"role": "gate"}), node("node-2", ["203.0.113.7"], {"role": "plain"})]
        lab.items += [workload(space, name, lab.pods[name].ips, {"name": name}, NAMED_PORTS,
                               interface=lab.pods[name].interface) for space, name in (("red", "a"), ("blue", "b"), ("red", "c"))]
        lab.node.ips = [NODE4, NODE6]
        lab.outside.ips = [OUTSIDE4, OUTSIDE6]
        lab.running = lab.agent()
        yield lab


@pytest.fixture
def world(scene):
    put(scene)
    return scene


def put(lab, *policies, **query):
    return lab.running.api.put_state(lab.items + list(policies), **query)


def ask(lab, source, destination, port=80, protocol="TCP"):
    ends = [{"workload" if "/" in who else "ip": who} for who in (source, destination)]
    question = {"source": ends[0], "destination": ends[1], "protocol": protocol, "port": port}
    return lab.running.api.expect("POST", "/v1/explain", question).json


def ruled(kind, space, name, direction, index, rule_name=""):
    return {"kind": kind, "namespace": space, "name": name, "direction": direction, "index": index, "ruleName": rule_name}


# ---- tiers ----

def test_admin_denies_over_a_networkpolicy_that_allows(world):
    put(world, OPEN_B, admin("deny", 10, ingress=[rule("Deny", [pods(name="a")], name="no-a")]))
    assert results(world, world.a, world.b) == DROPS
    assert results(world, world.c, world.b, expect=ALLOW) == PASSES
    said = ask(world, "red/a", "blue/b")
    assert said["verdict"] == "Deny" and said["ingress"]["reason"] == "Policy"
    assert said["ingress"]["rule"] == ruled("ClusterNetworkPolicy", "", "deny", "Ingress", 0, "no-a")
    assert "by ClusterNetworkPolicy deny of the Admin tier, priority 10, ingress rule 0 (no-a)" in " ".join(said["steps"])


def test_admin_accepts_over_isolation(world):
    put(world, ISOLATE_B)
    assert results(world, world.a, world.b) == DROPS
    put(world, ISOLATE_B, admin("accept", 10, ingress=[rule("Accept", [{"namespaces": {"matchLabels": {"team": "red"}}}])]))
    assert results(world, world.a, world.b, expect=ALLOW) == PASSES
    assert results(world, world.outside, world.b) == DROPS
    assert ask(world, "red/a", "blue/b")["ingress"]["rule"]["name"] == "accept"


def test_accept_of_one_direction_says_nothing_about_the_other(world):
    put(world, ISOLATE_B, admin("accept", 10, egress=[out("Accept")]))
    assert results(world, world.a, world.b) == DROPS


def test_pass_leads_to_networkpolicies(world):
    tier = admin("tier", 10, ingress=[rule("Pass", [pods(name="a")]), rule("Deny")])
    put(world, tier, ISOLATE_B)
    assert results(world, world.a, world.b) == DROPS
    assert ask(world, "red/a", "blue/b")["ingress"]["rule"] == ruled("NetworkPolicy", "blue", "shut", "Ingress", -1)
    assert ask(world, "red/c", "blue/b")["ingress"]["rule"]["name"] == "tier"
    put(world, tier, OPEN_B)
    assert results(world, world.a, world.b, expect=ALLOW) == PASSES
    assert results(world, world.c, world.b) == DROPS


def test_pass_skips_the_rest_of_its_tier_only(world):
    """A Deny of lower precedence in the same tier is skipped, the Baseline's is not."""
    passing = admin("first", 1, ingress=[rule("Pass", protocols=tcp(80))])
    put(world, passing, admin("second", 2, ingress=[rule("Deny")]))
    assert results(world, world.a, world.b, (80, 81), ("TCP",)) == [ALLOW, DENY] * 2
    put(world, passing, admin("second", 2, ingress=[rule("Deny")]), baseline("base", 0, ingress=[rule("Deny")]))
    assert results(world, world.a, world.b, (80, 81), ("TCP",)) == [DENY] * 4
    assert ask(world, "red/a", "blue/b")["ingress"]["rule"]["name"] == "base"


def test_baseline_is_what_networkpolicies_override(world):
    base = baseline("base", 10, ingress=[rule("Deny", name="closed")])
    put(world, base)
    assert results(world, world.a, world.b) == DROPS
    assert "of the Baseline tier, priority 10, ingress rule 0 (closed)" in " ".join(ask(world, "red/a", "blue/b")["steps"])
    put(world, base, OPEN_B)
    assert results(world, world.a, world.b, expect=ALLOW) == PASSES
    put(world, baseline("base", 10, ingress=[rule("Accept")]), ISOLATE_B)
    assert results(world, world.a, world.b) == DROPS, "v1.NetworkPolicy is final for the pods that it selects"
    put(world, baseline("base", 10, ingress=[rule("Pass", [pods(name="a")]), rule("Deny")]))
    assert results(world, world.a, world.b, expect=ALLOW) == PASSES
    assert results(world, world.c, world.b) == DROPS


def test_the_lower_priority_number_first_and_ties_by_name(world):
    accept, deny = (lambda name, priority, action=action: admin(name, priority, ingress=[rule(action)])
                    for action in ("Accept", "Deny"))
    put(world, accept("z", 1), deny("a", 2))
    assert results(world, world.a, world.b, expect=ALLOW) == PASSES
    put(world, accept("z", 1000), deny("a", 0))
    assert results(world, world.a, world.b) == DROPS
    put(world, accept("a", 7), deny("b", 7))
    assert results(world, world.a, world.b, expect=ALLOW) == PASSES
    put(world, accept("b", 7), deny("a", 7))
    assert results(world, world.a, world.b) == DROPS


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_a_change_of_priority_reaches_live_connections(world, protocol):
    deny, accept = admin("deny", 20, ingress=[rule("Deny")]), admin("accept", 10, ingress=[rule("Accept")])
    put(world, deny, accept)
    with world.a.entered():
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM)
    client.settimeout(2)
    client.connect((world.b.ip4, 80))
    assert echoed(world, client, b"one")
    deny["spec"]["priority"] = 5
    world.running.api.put_object(deny)
    assert not echoed(world, client, b"two", 0.4)
    deny["spec"]["priority"] = 15
    world.running.api.put_object(deny)
    if protocol == "TCP":
        assert heard(world, client, b"two", 4)
    assert echoed(world, client, b"three")


# ---- subjects, peers, protocols ----

def test_subjects_by_namespace_and_by_pod(world):
    put(world, admin("s", 1, subject={"namespaces": {"matchLabels": {"team": "blue"}}}, ingress=[rule("Deny")]))
    assert results(world, world.a, world.b) == DROPS
    assert results(world, world.b, world.a, expect=ALLOW) == PASSES
    put(world, admin("s", 1, subject=pods({"matchLabels": {"team": "red"}}, name="a"), ingress=[rule("Deny")]))
    assert results(world, world.a, world.b, expect=ALLOW) == PASSES
    assert results(world, world.b, world.a) == DROPS


def test_egress_to_networks_nodes_and_pods(world):
    cases = [(OUT, world.outside), ([{"nodes": {"matchLabels": {"role": "gate"}}}], world.node), ([pods(name="b")], world.b),
             ([{"namespaces": {"matchLabels": {"team": "blue"}}}], world.b)]
    for peers, target in cases:
        put(world, admin("e", 1, subject=pods(name="a"), egress=[out("Deny", peers)]))
        for other in (world.outside, world.node, world.b):
            assert results(world, world.a, other) == (DROPS if other is target else PASSES), (peers, other.name)
    put(world, admin("e", 1, egress=[out("Deny", [{"nodes": {"matchLabels": {"role": "plain"}}}])]))
    assert results(world, world.a, world.node, expect=ALLOW) == PASSES
    put(world, admin("e", 1, egress=[out("Accept", [{"nodes": {}}]), out("Deny", EVERYWHERE)]))
    assert results(world, world.a, world.node, expect=ALLOW) == PASSES
    assert results(world, world.a, world.b) == DROPS, "networks contain pods"


@pytest.mark.parametrize("protocols, passing", [
    ([{"destinationNamedPort": "web"}], [("TCP", 80), ("UDP", 81)]),
    (tcp(81), [("TCP", 81)]),
    ([{"tcp": {}}], [("TCP", 80), ("TCP", 81)]),
    ([{"udp": {"destinationPort": {"range": {"start": 1, "end": 80}}}}], [("UDP", 80)]),
    ([{"sctp": {}}], []),
    ([{"sctp": {}}, {"udp": {}}], [("UDP", 80), ("UDP", 81)]),
    (None, [("TCP", 80), ("TCP", 81), ("UDP", 80), ("UDP", 81)])])
@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_protocols(world, protocols, passing, direction):
    made = admin("p", 1, ingress=[rule("Accept", protocols=protocols), rule("Deny")]) if direction == "ingress" else \
        admin("p", 1, subject=pods(name="a"), egress=[out("Accept", protocols=protocols), out("Deny")])
    put(world, made)
    expected = [ALLOW if (protocol, port) in passing else DENY for protocol in ("TCP", "UDP") for port in (80, 81)]
    assert results(world, world.a, world.b, (80, 81)) == expected * 2
    assert (world.a.run("ping", "-c1", "-W0.3", world.b.ip4, check=False).returncode == 0) == (protocols is None)


def test_domain_names_match_nothing_and_that_is_said(world):
    answer = put(world, admin("names", 1, subject=pods(name="a"), egress=[out("Accept", [{"domainNames": ["a.example"]}]), out("Deny")]))
    assert "names: domainNames match nothing" in answer["warnings"][0]["detail"]
    assert results(world, world.a, world.b) == DROPS


@pytest.mark.parametrize("unknown", [{}, {"services": {"name": "x"}}])
def test_an_unknown_peer_fails_closed(world, unknown):
    answer = put(world, ISOLATE_B, admin("new", 1, ingress=[rule("Accept", [unknown, *ANYBODY])]))
    assert "fails closed" in answer["warnings"][0]["detail"]
    assert results(world, world.a, world.b) == DROPS
    for action in ("Deny", "Pass"):
        put(world, OPEN_B, admin("new", 1, ingress=[rule(action, [unknown])]))
        assert results(world, world.a, world.b) == DROPS
        put(world, admin("new", 1, subject=pods(name="a"), egress=[out(action, [unknown])]))
        assert results(world, world.a, world.b) == DROPS
    put(world, admin("new", 1, ingress=[rule("Accept", [unknown])]))
    assert results(world, world.a, world.b, expect=ALLOW) == PASSES


def test_domain_names_match_nothing_yet(world):
    names = [{"domainNames": ["*.example.com"]}]
    put(world, admin("d", 1, egress=[out("Accept", names), out("Deny", OUT)]))
    assert results(world, world.a, world.outside) == DROPS
    assert results(world, world.a, world.b, expect=ALLOW) == PASSES
    for made in (admin("d", 1, egress=[out("Deny", names)]), admin("d", 1, egress=[out("Pass", names)]),
                 admin("d", 1, ingress=[rule("Accept", names)])):
        answer = world.running.api.request("PUT", "/v1/clusternetworkpolicies/d", made)
        assert answer.status == 422 and answer.json["errors"][0]["pointer"].endswith("/0/domainNames"), answer


# ---- quarantine ----

def test_a_broken_one_keeps_its_last_good_version(world):
    good = admin("guard", 5, ingress=[rule("Deny", [pods(name="a")])])
    put(world, good)
    broken = admin("guard", 5, ingress=[rule("Deny", []), rule("Refuse")])
    answer = put(world, broken, admin("never-good", 1, ingress=[rule("Deny", tier := [{}, {"pods": 7}])]), invalid="quarantine")
    assert {q["name"] for q in answer["quarantined"]} == {"guard", "never-good"} and len(tier) == 2
    assert results(world, world.a, world.b) == DROPS
    assert results(world, world.c, world.b, expect=ALLOW) == PASSES, "one that never was good counts as absent"
    assert world.running.api.metrics()("penstock_quarantined", kind="ClusterNetworkPolicy") == 2
    put(world, admin("guard", 5, ingress=[rule("Deny", [pods(name="c")])]))
    assert results(world, world.a, world.b, expect=ALLOW) == PASSES
    assert results(world, world.c, world.b) == DROPS
    assert not world.running.api.status()["quarantined"]


# ---- audit ----

def counted(lab):
    metrics = lab.running.api.metrics()
    return metrics("penstock_packets_total", verdict="Audited")


def hits(lab, policy_name, **labels):
    return lab.running.api.metrics()("penstock_rule_hits_total", policy=policy_name, **labels)


def audit_of(said, side):
    return said[side].get("audit")


@pytest.mark.parametrize("made, reason, side, found", [
    (audited(policy("blue", "watch", {"name": "b"}, types=["Ingress"])), "Isolated", "ingress",
     ruled("NetworkPolicy", "blue", "watch", "Ingress", -1)),
    (audited(policy("red", "watch", {"name": "a"}, types=["Egress"])), "Isolated", "egress",
     ruled("NetworkPolicy", "red", "watch", "Egress", -1)),
    (audited(admin("watch", 1, ingress=[rule("Deny", name="all")])), "Policy", "ingress",
     ruled("ClusterNetworkPolicy", "", "watch", "Ingress", 0, "all")),
    (audited(baseline("watch", 1, egress=[out("Deny", name="all")])), "Policy", "egress",
     ruled("ClusterNetworkPolicy", "", "watch", "Egress", 0, "all"))])
def test_what_is_audited_passes_and_is_counted(world, made, reason, side, found):
    put(world, made)
    direction = side.capitalize()
    before = world.running.api.metrics()("penstock_packets_total", direction=direction, verdict="Audited", reason=reason)
    was = hits(world, "watch", direction=direction)
    assert results(world, world.a, world.b, expect=ALLOW) == PASSES
    after = world.running.api.metrics()("penstock_packets_total", direction=direction, verdict="Audited", reason=reason)
    assert after - before == 4 and hits(world, "watch", direction=direction) - was == 4
    said = ask(world, "red/a", "blue/b")
    assert said["verdict"] == "Allow" == said[side]["verdict"] and said[side]["reason"] == "Default"
    assert audit_of(said, side) == {"verdict": "Deny", "rule": found}
    assert any(step.startswith(f"{side}, audit: Deny if ") and "in audit mode" in step for step in said["steps"])
    item, = [i for i in world.running.api.state()["items"] if i["metadata"]["name"] == "watch"]
    assert item["metadata"]["annotations"]["penstock.dev/mode"] == "audit"


def test_an_audited_policy_opens_nothing(world):
    """Its rules let nobody into what others isolate, and it isolates nobody."""
    put(world, ISOLATE_B, audited(OPEN_B), audited(admin("wide", 1, ingress=[rule("Accept")])))
    before = counted(world)
    assert results(world, world.a, world.b) == DROPS
    assert counted(world) == before, "what is refused is no audit"
    said = ask(world, "red/a", "blue/b")
    assert said["ingress"]["rule"]["name"] == "shut"
    assert audit_of(said, "ingress") == {"verdict": "Allow", "rule": ruled("ClusterNetworkPolicy", "", "wide", "Ingress", 0)}
    assert hits(world, "wide") > 0 and hits(world, "shut") > 0


def test_audited_together_and_beside_what_is_enforced(world):
    """Of the policies in audit mode it is asked what all of them would do together, with those that are enforced."""
    put(world, OPEN_B, audited(admin("deny", 2, ingress=[rule("Deny")])))
    before = counted(world)
    assert results(world, world.a, world.b, expect=ALLOW) == PASSES
    assert counted(world) - before == 4 and hits(world, "open") == 4 == hits(world, "deny"), "both are counted"
    put(world, OPEN_B, audited(admin("deny", 2, ingress=[rule("Deny")])), audited(admin("but", 1, ingress=[rule("Accept")])))
    before = counted(world)
    assert results(world, world.a, world.b, expect=ALLOW) == PASSES
    assert counted(world) == before and hits(world, "but") == 4
    put(world, admin("enforced", 1, ingress=[rule("Deny")]), audited(admin("deny", 2, ingress=[rule("Deny")])))
    assert results(world, world.a, world.b) == DROPS
    assert audit_of(ask(world, "red/a", "blue/b"), "ingress") is None


def test_audit_ends_when_the_annotation_goes(world):
    made = admin("later", 1, ingress=[rule("Deny")])
    put(world, audited(made))
    with world.a.entered():
        client = socket.create_connection((world.b.ip4, 80), timeout=2)
    assert echoed(world, client, b"one")
    put(world, made)
    assert not echoed(world, client, b"two", 0.4)
    put(world, audited(made))
    assert heard(world, client, b"two", 4)


def test_audited_interception_hands_nothing_over(world):
    rules = [{"name": "out", "action": "Intercept", "proxy": "gw", "to": EVERYWHERE, "protocols": tcp(80)}]
    door = [{"name": "in", "action": "Intercept", "proxy": "gw", "from": EVERYWHERE, "protocols": tcp(80)}]
    watched = audited(intercept("watch", pods(name="a"), rules, 1))
    put(world, proxy("gw", PROXY_PORT), watched)
    for ip in ("0.0.0.0", "::1"):
        world.prober.listen(world.node, PROXY_PORT, ip=ip, transparent=True)
    before, handed = counted(world), world.running.api.metrics()("penstock_intercepted_connections_total")
    assert results(world, world.a, world.b, protocols=("TCP",), expect=ALLOW) == [ALLOW] * 2
    assert results(world, world.a, world.b, (81,), ("TCP",), expect=ALLOW) == [ALLOW] * 2
    metrics = world.running.api.metrics()
    assert counted(world) - before == 2 == hits(world, "watch") and metrics("penstock_intercepted_connections_total") == handed
    said = ask(world, "red/a", "blue/b")
    assert said["verdict"] == "Allow" and said["proxy"] is None and said["intercept"] is None
    assert audit_of(said, "egress") == {"verdict": "Intercept", "rule": ruled("InterceptPolicy", "", "watch", "Egress", 0, "out")}
    # An audited egress rule keeps no enforced ingress rule from the connection.
    put(world, proxy("gw", PROXY_PORT), watched, intercept("door", pods(name="b"), [], 1, door))
    assert results(world, world.a, world.b, protocols=("TCP",), expect=ALLOW) == [ALLOW] * 2
    assert world.running.api.metrics()("penstock_intercepted_connections_total") == handed + 2
    assert ask(world, "red/a", "blue/b")["intercept"]["rule"]["name"] == "door"
    # Nor is a refusal that is only audited in the way of interception.
    put(world, proxy("gw", PROXY_PORT), intercept("door", pods(name="b"), [], 1, door), audited(ISOLATE_B))
    was = hits(world, "shut")
    assert results(world, world.a, world.b, protocols=("TCP",), expect=ALLOW) == [ALLOW] * 2
    assert world.running.api.metrics()("penstock_intercepted_connections_total") == handed + 4
    assert hits(world, "shut") == was + 2


@pytest.mark.parametrize("mode", ["enforce", "", "Audit", None])
def test_another_mode_is_refused(world, mode):
    for made in (ISOLATE_B, admin("m", 1), intercept("m", pods(name="a"), [])):
        made = {**made, "metadata": {**made["metadata"], "annotations": {"penstock.dev/mode": mode}}}
        answer = world.running.api.request("PATCH", "/v1/state", {"apply": [made]})
        assert answer.status == 422, answer
        assert answer.json["errors"][0]["pointer"] == "/apply/0/metadata/annotations/penstock.dev~1mode"


def test_a_broken_audited_policy_does_not_isolate(world):
    made = audited(policy("blue", "half", {"name": "b"}, ingress=[{"ports": [{"port": 70000}]}]))
    answer = put(world, made, invalid="quarantine")
    assert answer["quarantined"][0]["name"] == "half"
    before = counted(world)
    assert results(world, world.a, world.b, expect=ALLOW) == PASSES
    assert counted(world) > before
