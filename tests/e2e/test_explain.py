# SPDX-License-Identifier: Apache-2.0
"""POST /v1/explain against what real packets do, against the evaluator, and while the tables change under it."""
import copy
import gzip
import json
import os
import random
import re
import threading
import time

import pytest

from api import Api
from evaluator import INTERCEPT, World, _known_peer, policy_types, selects, would
from generate import Generator, Member
from lab import ALLOW, DENY, NODE4, NODE6, OUTSIDE4, OUTSIDE6, REPOSITORY, Lab, Probe
from netns import run
from objects import allow_from, allow_to, audited, intercept, namespace, pod, policy, proxy, workload
from scenes import IN_B, eventually, member, serve

PROXY_PORT = 15001
ROUNDS = int(os.environ.get("PENSTOCK_EXPLAIN_ROUNDS", "14"))
QUESTIONS = 200
SEED = int(os.environ.get("PENSTOCK_SEED") or random.SystemRandom().randrange(2 ** 32))
EXAMPLES = os.path.join(REPOSITORY, "api", "examples")


def example(name):
    with open(os.path.join(EXAMPLES, f"{name}.json")) as file:
        return json.load(file)


def end(who):
    return {"workload" if "/" in who else "ip": who}


def question(source, destination, port=80, protocol="TCP", family=None):
    made = {"source": end(source), "destination": end(destination), "protocol": protocol, "port": port, "family": family}
    return {name: value for name, value in made.items() if value is not None}


def ask(agent, *words, **more):
    answer = agent.api.request("POST", "/v1/explain", question(*words, **more))
    assert answer.status == 200, answer
    return answer.json


def rule_of(kind, space, name, direction, index, rule_name=""):
    return {"kind": kind, "namespace": space, "name": name, "direction": direction, "index": index, "ruleName": rule_name}


def side(verdict, reason, rule=None, *shadows):
    return {"verdict": verdict, "rule": rule, "reason": reason,
            "shadows": [{"rule": shadow, "action": action} for shadow, action in shadows]}


def networks(*cidrs):
    return [{"networks": list(cidrs)}]


def hand(name, to, port=80, **more):
    made = {"name": name, "action": "Intercept", "proxy": "gw", "to": to,
            "protocols": [{"tcp": {"destinationPort": {"number": port}}}], **more}
    return {key: value for key, value in made.items() if value is not None}


DEFAULT = side("Allow", "Default")
ISOLATED = side("Deny", "Isolated", rule_of("NetworkPolicy", "s", "b-in", "Ingress", -1))
BY_RULE = side("Allow", "Policy", rule_of("NetworkPolicy", "s", "b-in", "Ingress", 0))
LLM = rule_of("InterceptPolicy", "", "llm", "Egress", 0, "out")
OUT = {4: OUTSIDE4, 6: OUTSIDE6}


@pytest.fixture(scope="module")
def scene():
    """a may reach b's port 80 and nobody else may; what a sends to the outside host's port 80 goes to a proxy."""
    with Lab(outside=True) as lab:
        lab.a, lab.b, lab.c = (lab.pod(name) for name in "abc")
        serve(lab, lab.b, lab.c, lab.outside, ports=(80, 81))
        lab.running = lab.agent()
        lab.items = [namespace("s")] + [member(n, p, interface=p.interface) for n, p in lab.pods.items()]
        lab.items += [workload("s", "far", ["10.99.0.1", "fd00:99::1"], {"name": "far"}, node="node-2"), IN_B]
        lab.interception = [proxy("gw", PROXY_PORT), intercept("llm", {"name": "a"},
                            [hand("out", networks(f"{OUTSIDE4}/32", f"{OUTSIDE6}/128"))])]
        yield lab


@pytest.fixture
def world(scene):
    scene.running.api.put_state(scene.items + scene.interception)
    scene.prober.listen(scene.node, PROXY_PORT, ip="0.0.0.0", transparent=True)
    scene.prober.listen(scene.node, PROXY_PORT, ip="::1", transparent=True)
    return scene


# ---- against packets ----

def happens(lab, source, ip, port, protocol="TCP", expect=None):
    """What becomes of a real attempt, in explain's words."""
    handed = lab.running.api.metrics()("penstock_intercepted_connections_total")
    probe, = lab.prober.probe([Probe(source, ip, port, protocol, expect=expect)])
    if probe.result == DENY:
        return "Deny"
    assert probe.result == ALLOW, probe
    return "Intercept" if lab.running.api.metrics()("penstock_intercepted_connections_total") > handed else "Allow"


def ip_of(made, family):
    return made.ip6 if family == 6 else made.ip4


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_what_it_says_is_what_happens(world, family, protocol):
    lab, wrong = world, []
    local = {"a": lab.a, "b": lab.b, "c": lab.c}
    handed = "Intercept" if protocol == "TCP" else "Allow"
    cases = [("a", "b", 80, "Allow", DEFAULT, BY_RULE), ("a", "b", 81, "Deny", DEFAULT, ISOLATED),
             ("c", "b", 80, "Deny", DEFAULT, ISOLATED), ("b", "c", 80, "Allow", DEFAULT, DEFAULT),
             ("a", "outside", 80, handed, DEFAULT, None), ("a", "outside", 81, "Allow", DEFAULT, None),
             ("c", "outside", 80, "Allow", DEFAULT, None), ("outside", "b", 80, "Deny", None, ISOLATED),
             ("outside", "c", 80, "Allow", None, DEFAULT)]
    for source, destination, port, verdict, egress, ingress in cases:
        words = [f"s/{n}" if n in local else OUT[family] for n in (source, destination)]
        said = ask(lab.running, *words, port, protocol, family=f"IPv{family}")
        target = ip_of(local[destination], family) if destination in local else OUT[family]
        real = happens(lab, local.get(source, lab.outside), target, port, protocol, DENY if verdict == "Deny" else ALLOW)
        if (said["verdict"], said["egress"], said["ingress"]) != (verdict, egress, ingress) or real != verdict:
            wrong.append((source, destination, port, said, real))
        assert said["proxy"] == ("gw" if said["verdict"] == "Intercept" else None) and said["backends"] == []
        assert (said["intercept"] is None) == (said["proxy"] is None)
    assert not wrong, wrong


def test_what_is_handed_over_says_why(world):
    said = ask(world.running, "s/a", OUTSIDE4, 80)
    assert said["intercept"] == {"rule": rule_of("InterceptPolicy", "", "llm", "Egress", 0, "out"), "proxy": "gw",
                                 "available": True, "onUnavailable": "Deny"}
    assert said["revision"] == world.running.api.state()["revision"]
    assert said["steps"][0].startswith(f"source: {world.a.ip4}, Workload s/a, local")
    assert "an address that no object has" in said["steps"][1]


def test_nobody_listens(world):
    """The rule still says so; what happens then is said as well, and happens."""
    lab = world
    lab.prober.close_listeners()
    serve(lab, lab.b, lab.c, lab.outside, ports=(80, 81))

    def gone():
        return ask(lab.running, "s/a", OUTSIDE4, 80)["intercept"]["available"] is False

    eventually(gone)
    said = ask(lab.running, "s/a", OUTSIDE4, 80)
    assert said["verdict"] == "Intercept" and any("denied (NoListener)" in s for s in said["steps"])
    assert happens(lab, lab.a, OUTSIDE4, 80, expect=DENY) == "Deny"
    lab.running.api.put_object(proxy("gw", PROXY_PORT, unavailable="Bypass"))
    said = ask(lab.running, "s/a", OUTSIDE4, 80)
    assert said["intercept"]["onUnavailable"] == "Bypass" and any("(Bypass)" in s for s in said["steps"])
    assert happens(lab, lab.a, OUTSIDE4, 80, expect=ALLOW) == "Allow"


def test_what_policy_denies_is_not_handed_over(world):
    lab = world
    lab.running.api.put_object(policy("s", "a-out", {"name": "a"}, types=["Egress"]))
    said = ask(lab.running, "s/a", OUTSIDE4, 80)
    assert (said["verdict"], said["proxy"], said["intercept"]) == ("Deny", None, None)
    assert said["egress"] == side("Deny", "Isolated", rule_of("NetworkPolicy", "s", "a-out", "Egress", -1), (LLM, "Intercept"))
    assert any("egress: isolated by NetworkPolicy s/a-out; " in step for step in said["steps"])
    assert happens(lab, lab.a, OUTSIDE4, 80, expect=DENY) == "Deny"
    lab.running.api.put_object(allow_to("s", "a-out", {"name": "a"}, [{"ipBlock": {"cidr": f"{OUTSIDE4}/32"}}]))
    assert ask(lab.running, "s/a", OUTSIDE4, 80)["verdict"] == "Intercept"


def test_the_other_end_may_deny_it_too(world):
    """Egress would hand it over, the local destination's ingress denies: a proxy never sees it."""
    lab = world
    to_b = hand("b", [{"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"name": "b"}}}}], port=81)
    lab.running.api.put_object(intercept("llm", {"name": "a"}, [to_b]))
    said = ask(lab.running, "s/a", "s/b", 81)
    assert (said["verdict"], said["egress"], said["ingress"], said["intercept"]) == \
        ("Deny", side("Allow", "Default", None, ({**LLM, "ruleName": "b"}, "Intercept")), ISOLATED, None)
    assert happens(lab, lab.a, lab.b.ip4, 81, expect=DENY) == "Deny"
    lab.running.api.delete_object("NetworkPolicy", "s", "b-in")
    assert ask(lab.running, "s/a", "s/b", 81)["verdict"] == "Intercept"
    assert happens(lab, lab.a, lab.b.ip4, 81, expect=ALLOW) == "Intercept"


def test_bypass_is_a_rule(world):
    lab = world
    rules = [{"name": "past", "action": "Bypass", "to": networks(f"{OUTSIDE4}/32")}, hand("out", networks("0.0.0.0/0"))]
    lab.running.api.put_object(intercept("llm", {"name": "a"}, rules))
    said = ask(lab.running, "s/a", OUTSIDE4, 80)
    assert said["verdict"] == "Allow" and "Bypass, by InterceptPolicy llm, egress rule 0 (past)" in " ".join(said["steps"])
    assert happens(lab, lab.a, OUTSIDE4, 80, expect=ALLOW) == "Allow"
    assert ask(lab.running, "s/a", "203.0.113.5", 80)["intercept"]["rule"]["index"] == 1


def test_ingress_rules_come_second(world):
    lab = world
    made = intercept("door", {"name": "c"}, [])
    made["spec"]["ingress"] = [hand("in", None, **{"from": networks("0.0.0.0/0", "::/0")})]
    lab.running.api.put_object(made)
    from_outside = ask(lab.running, OUTSIDE4, "s/c", 80)
    assert from_outside["verdict"] == "Intercept" and from_outside["egress"] is None
    assert from_outside["intercept"]["rule"] == rule_of("InterceptPolicy", "", "door", "Ingress", 0, "in")
    for ip in lab.c.ips:
        assert happens(lab, lab.outside, ip, 80, expect=ALLOW) == "Intercept"
    # A rule of the local source comes first, also when all it says is Bypass.
    past = {"name": "past", "action": "Bypass", "to": networks(f"{lab.c.ip4}/32")}
    lab.running.api.put_object(intercept("llm", {"name": "a"}, [past]))
    for name, source, verdict in (("s/a", lab.a, "Allow"), ("s/b", lab.b, "Intercept"), (NODE4, lab.node, "Allow")):
        assert ask(lab.running, name, "s/c", 80)["verdict"] == verdict, name
        assert happens(lab, source, lab.c.ip4, 80, expect=ALLOW) == verdict, name


def test_a_proxy_that_there_is_none_of(world):
    lab = world
    lost = intercept("llm", {"name": "a"}, [hand("out", networks("0.0.0.0/0"), proxy="gone")])
    lab.running.api.put_state(lab.items + [lost], invalid="quarantine")
    said = ask(lab.running, "s/a", OUTSIDE4, 80)
    assert (said["verdict"], said["proxy"]) == ("Intercept", "gone")
    assert (said["intercept"]["available"], said["intercept"]["onUnavailable"]) == (False, "Deny")
    assert any("there is no such TransparentProxy" in step for step in said["steps"])
    assert happens(lab, lab.a, OUTSIDE4, 80, expect=DENY) == "Deny"


def test_the_node_and_those_that_are_not_here(world):
    lab = world
    for node, ip in ((NODE4, lab.b.ip4), (NODE6, lab.b.ip6)):
        said = ask(lab.running, node, "s/b", 81, family="IPv6" if ":" in ip else "IPv4")
        assert (said["verdict"], said["egress"], said["ingress"]) == ("Allow", None, side("Allow", "Node"))
        assert happens(lab, lab.node, ip, 81, expect=ALLOW) == "Allow"
    far = ask(lab.running, "s/far", "s/b", 80)
    assert (far["verdict"], far["egress"], far["ingress"]) == ("Deny", None, ISOLATED)
    lab.running.api.put_object(allow_from("s", "b-in", {"name": "b"}, [{"podSelector": {"matchLabels": {"name": "far"}}}]))
    assert ask(lab.running, "10.99.0.1", "s/b", 80)["ingress"] == BY_RULE, "by address as by name"
    nobody = ask(lab.running, "192.0.2.1", "2.2.2.2", 80)
    assert (nobody["verdict"], nobody["egress"], nobody["ingress"]) == ("Allow", None, None)


def test_protocols_without_ports(world):
    said = ask(world.running, "s/c", "s/b", None, "ICMP")
    assert (said["verdict"], said["ingress"]) == ("Deny", ISOLATED)
    world.running.api.put_object(allow_from("s", "b-in", {"name": "b"}, [{"podSelector": {}}]))
    for family in ("IPv4", "IPv6"):
        assert ask(world.running, "s/c", "s/b", None, "ICMP", family=family)["ingress"] == BY_RULE


def test_families(world):
    lab = world
    four = workload("s", "four", ["10.99.0.4"], node="node-2")
    six = workload("s", "six", ["fd00:99::6"], node="node-2")
    lab.running.api.expect("PATCH", "/v1/state", {"apply": [four, six]})
    assert lab.a.ip4 in ask(lab.running, "s/a", "s/far")["steps"][0], "IPv4 when both have it"
    assert lab.a.ip6 in ask(lab.running, "s/a", "s/six")["steps"][0]
    assert lab.a.ip6 in ask(lab.running, "s/a", "2001:db8::1")["steps"][0]
    assert lab.a.ip6 in ask(lab.running, "s/a", "s/far", family="IPv6")["steps"][0]
    assert refused(lab, question("s/four", "s/six")) == ["/destination/workload"]
    assert refused(lab, question("s/a", "s/four", family="IPv6")) == ["/destination/workload"]
    assert refused(lab, question("s/a", "10.0.0.1", family="IPv6")) == ["/destination/ip"]
    assert refused(lab, question("2001:db8::1", "10.0.0.1")) == ["/source/ip"]


def test_pods_too(world):
    lab = world
    items = [o for o in lab.items if o["metadata"]["name"] != "c"]
    items.append(pod("s", "c", lab.c.ips, "node-1", {"name": "c"}))
    items.append(pod("s", "old", ["10.99.0.7"], "node-1", {"name": "old"}, phase="Succeeded"))
    lab.running.api.put_state(items)
    said = ask(lab.running, "s/c", "s/b")
    assert said["ingress"] == ISOLATED and "Pod s/c, local" in said["steps"][0]
    assert refused(lab, question("s/old", "s/b")) == ["/source/workload"]


# ---- a past refusal ----

def record(source, destination, verdict="Dropped", reason="Isolated", direction="Ingress", rule=None, port=81, **more):
    """A flow record, as /v1/flows has it."""
    return {"time": "2026-11-23T10:00:00.000001Z", "event": "Refused", "verdict": verdict, "reason": reason,
            "direction": direction, "family": "IPv6" if ":" in source else "IPv4", "protocol": "TCP",
            "source": {"ip": source, "port": 41234}, "destination": {"ip": destination, "port": port, "names": []},
            "rule": rule, "revision": 1, "packets": 0, **more}


def explained(lab, flow):
    return lab.running.api.expect("POST", "/v1/explain", {"flow": flow}).json


def test_a_past_refusal_and_today(world):
    lab = world
    rule = rule_of("NetworkPolicy", "s", "b-in", "Ingress", -1)
    revision = lab.running.api.state()["revision"]
    flow = record(lab.c.ip4, lab.b.ip4, rule=rule, revision=revision)
    said = explained(lab, flow)
    assert said["past"] == {
        "verdict": "Dropped", "reason": "Isolated", "direction": "Ingress", "revision": revision,
        "rule": {**rule, "exists": True, "changedSince": False}, "explanation": said["past"]["explanation"]}
    assert "dropped without an answer" in said["past"]["explanation"] and "NetworkPolicy s/b-in" in said["past"]["explanation"]
    same = ask(lab.running, lab.c.ip4, lab.b.ip4, 81)
    assert {k: v for k, v in said.items() if k not in ("past", "steps")} == {k: v for k, v in same.items() if k != "steps"}
    assert said["steps"][:len(same["steps"]) - 1] == same["steps"][:-1], "what would be today, and behind it what was then"
    assert f"then Dropped, Isolated by NetworkPolicy s/b-in, which isolates in this direction at revision {revision}; " \
        "today Deny: ingress Isolated (NetworkPolicy s/b-in" in " ".join(said["steps"])

    lab.running.api.put_object(allow_from("s", "b-in", {"name": "b"}, [{"podSelector": {}}]))
    said = explained(lab, flow)
    assert (said["verdict"], said["past"]["rule"]["exists"], said["past"]["rule"]["changedSince"]) == ("Allow", True, True)
    assert "today Allow: egress Default (no policy), ingress Policy (NetworkPolicy s/b-in, ingress rule 0)" in said["steps"][-2]
    lab.running.api.delete_object("NetworkPolicy", "s", "b-in")
    said = explained(lab, flow)
    assert (said["verdict"], said["past"]["rule"]["exists"], said["past"]["rule"]["changedSince"]) == ("Allow", False, True)
    assert "then: NetworkPolicy s/b-in is not there any more" in said["steps"]


def test_is_it_still_that_rule(world):
    lab, api = world, world.running.api
    llm = rule_of("InterceptPolicy", "", "llm", "Egress", 0, "out")
    far = record(lab.a.ip4, OUTSIDE4, reason="NoListener", direction="Egress", rule=llm, port=80, proxy="gw")
    for change, there in (({}, True), ({"ruleName": "other"}, False), ({"index": 1}, False), ({"direction": "Ingress"}, False),
                          ({"direction": None}, True), ({"name": "none"}, False), ({"namespace": None}, True)):
        said = explained(lab, {**far, "rule": {**llm, **change}})
        assert said["past"]["rule"]["exists"] is there, change
        assert said["verdict"] == "Intercept"
    assert explained(lab, {**far, "revision": None})["past"]["rule"]["changedSince"] is None
    egress = rule_of("NetworkPolicy", "s", "b-in", "Egress", -1)
    assert explained(lab, {**far, "rule": egress})["past"]["rule"]["exists"] is False, "it does not isolate in this direction"
    other = explained(lab, {**far, "source": {"ip": lab.a.ip4, "workload": "s/old"}, "rule": None})
    assert other["past"]["rule"] is None
    assert f"then: {lab.a.ip4} was an address of s/old, today it is one of s/a" in other["steps"]
    api.put_object(audited(IN_B))
    said = explained(lab, record(lab.c.ip4, lab.b.ip4, rule=rule_of("NetworkPolicy", "s", "b-in", "Ingress", -1),
                                 revision=10 ** 6))
    assert (said["verdict"], said["past"]["rule"]["changedSince"]) == ("Allow", False)
    assert "then: NetworkPolicy s/b-in is in audit mode now, and refuses nothing" in said["steps"]


def reasons():
    with open(os.path.join(REPOSITORY, "bpf", "abi.h")) as file:
        text = file.read()
    lists = [text.split(f"#define {name}(X)")[1].split("\n\n")[0] for name in ("PS_REASONS", "PS_VERDICTS")]
    return [re.findall(r'X\(\w+, *"(\w+)"', one) for one in lists]


def test_every_reason_is_explained(world):
    """None of them leaves the reader with its name alone; those that are not policy's say so."""
    seen, (all_reasons, verdicts) = set(), reasons()
    assert {"Spoofed", "Malformed", "NoListener", "TableFull", "NodeFilter", "Limit"} < set(all_reasons)
    for reason in all_reasons:
        said = explained(world, record(world.a.ip4, world.b.ip4, reason=reason))
        text = said["past"]["explanation"]
        assert f"{reason}: " in text and len(text) > 80 and text.count(".") >= 2, text
        seen.add(text.split(f"{reason}: ")[1])
        policy_said = reason in ("Policy", "Isolated", "Default", "Intercept", "NoListener", "Established")
        assert any("was not policy that refused" in step for step in said["steps"]) is not policy_said, reason
    assert len(seen) == len(all_reasons)
    assert len({explained(world, record(world.a.ip4, world.b.ip4, v))["past"]["explanation"] for v in verdicts}) == len(verdicts)


def test_records_with_less_in_them(world):
    lab = world
    bare = {"source": {"ip": lab.c.ip6}, "destination": {"ip": lab.b.ip6}, "protocol": "UDP", "direction": "Ingress",
            "verdict": "Dropped", "reason": "Fragment"}
    said = explained(lab, bare)
    assert (said["verdict"], said["past"]["rule"], said["past"]["revision"]) == ("Deny", None, None)
    assert any("the record says no port" in step for step in said["steps"])
    for protocol in ("ICMP", "ICMPv6"):
        echo = {**bare, "protocol": protocol, "destination": {"ip": lab.b.ip6, "port": 4711}}
        assert explained(lab, echo)["verdict"] == "Deny"


FLOW_BAD = [
    ({}, ["/flow/destination", "/flow/direction", "/flow/protocol", "/flow/reason", "/flow/source", "/flow/verdict"]),
    (7, ["/flow"]), ([], ["/flow"]), (None, ["/flow"]),
    (record("x", "10.0.0.300", "Lost", "Why", "Up"),
     ["/flow/destination/ip", "/flow/direction", "/flow/reason", "/flow/source/ip", "/flow/verdict"]),
    (record("10.0.0.1", "fd00::1"), ["/flow/destination/ip"]),
    ({**record("10.0.0.1", "10.0.0.2"), "protocol": "tcp", "revision": -1, "proxy": 7, "rule": {"kind": "Pod"}},
     ["/flow/protocol", "/flow/proxy", "/flow/revision", "/flow/rule/index", "/flow/rule/kind", "/flow/rule/name"]),
    ({**record("10.0.0.1", "10.0.0.2"), "rule": [], "source": {"ip": "10.0.0.1", "port": "1", "workload": 1},
      "destination": {"ip": "10.0.0.2", "port": 65536}},
     ["/flow/destination/port", "/flow/rule", "/flow/source/port", "/flow/source/workload"]),
    ({**record("10.0.0.1", "10.0.0.2"), "rule": rule_of("NetworkPolicy", 1, 2, 3, -2, 4)},
     ["/flow/rule/direction", "/flow/rule/index", "/flow/rule/name", "/flow/rule/namespace", "/flow/rule/ruleName"]),
]


@pytest.mark.parametrize("flow, pointers", FLOW_BAD, ids=range(len(FLOW_BAD)))
def test_every_bad_field_of_a_record_is_named(world, flow, pointers):
    assert refused(world, {"flow": flow}) == pointers


def test_a_record_and_a_question(world):
    assert refused(world, {"flow": record("10.0.0.1", "10.0.0.2"), "source": {"ip": "10.0.0.1"}, "port": 1}) == ["/port", "/source"]


# ---- what is refused ----

def refused(lab, body, status=422):
    answer = lab.running.api.request("POST", "/v1/explain", body)
    assert answer.status == status, answer
    assert answer.headers["Content-Type"] == "application/problem+json"
    return sorted(error["pointer"] for error in answer.json.get("errors", []))


@pytest.mark.parametrize("body, pointers", [
    ({}, ["/destination", "/port", "/source"]),
    ([], [""]),
    ({"source": {"workload": "s/none"}, "destination": {"ip": "10.0.0.300"}, "protocol": "tcp", "port": 70000,
      "family": 4, "colour": 1},
     ["/colour", "/destination/ip", "/family", "/port", "/protocol", "/source/workload"]),
    ({"source": {"workload": "a"}, "destination": {"ip": 7}, "port": "80"}, ["/destination/ip", "/port", "/source/workload"]),
    ({"source": {"workload": "s/a", "ip": "10.0.0.1"}, "destination": {}, "port": 1}, ["/destination", "/source"]),
    ({"source": {"workload": "s/a", "~/": 1}, "destination": "s/b", "port": 0}, ["/destination", "/port", "/source/~0~1"]),
    (question("s/a", "s/b", None), ["/port"]), (question("s/a", "s/b", None, "SCTP"), ["/port"]),
    (question("s/a", "s/b", 80, "ICMP"), ["/port"]), (question("s/a/b", "s/", 80), ["/destination/workload", "/source/workload"]),
    (question("no/a", "s/no", 80), ["/destination/workload", "/source/workload"]),
], ids=str)
def test_every_bad_field_is_named(world, body, pointers):
    assert refused(world, body) == pointers


def test_what_is_no_question(world):
    api = world.running.api
    refused(world, b"", 400)
    refused(world, b"{", 400)
    refused(world, b'{"port": 1, "port": 2}', 400)
    refused(world, b"{}" + b" " * 70000, 413)
    bomb = gzip.compress(b"{}" + b" " * 100000)
    assert len(bomb) < 1000
    assert api.request("POST", "/v1/explain", bomb, headers={"Content-Encoding": "gzip"}).status == 413
    small = gzip.compress(json.dumps(question("s/a", "s/b")).encode())
    assert api.request("POST", "/v1/explain", small, headers={"Content-Encoding": "gzip"}).status == 200
    assert api.request("POST", "/v1/explain", b"{}", content_type="text/plain").status == 415
    assert api.request("POST", "/v1/explain?x=1", {}).status == 400
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        answer = api.request(method, "/v1/explain")
        assert (answer.status, answer.headers["Allow"]) == (405, "POST")


def test_bent_bodies(world):
    print(f"PENSTOCK_SEED={SEED}")
    rng, seen = random.Random(SEED), set()
    words = ["s/a", "s/b", "/", "a/b/c", "10.0.0.1", "::", "::ffff:1.2.3.4", "TCP", "IPv6", "", "é", "x" * 3000, 0, -1, 1.5,
             65536, 2 ** 70, True, None, [], {}, {"workload": "s/a"}, {"ip": "fd00::1"}, {"ip": "1.1.1.1"}, [[]] * 60]
    fields = ["source", "destination", "protocol", "port", "family", "ip", "workload", "~1/", "", "flow", "direction", "verdict",
              "reason", "rule", "revision", "kind", "namespace", "name", "index", "ruleName", "proxy"]
    for _ in range(600):
        body = question("s/a", rng.choice(["s/b", OUTSIDE4, OUTSIDE6]), rng.choice([1, 80, 65535]))
        if rng.random() < 0.4:
            flow = record(world.a.ip4, world.b.ip4, rule=rule_of("NetworkPolicy", "s", "b-in", "Ingress", 0))
            body = {"flow": flow, **flow} if rng.random() < 0.1 else {"flow": flow}
        for _ in range(rng.randint(0, 3)):
            inner = body["flow"] if isinstance(body.get("flow"), dict) else body
            place = rng.choice([body, inner, inner.get("source"), inner.get("destination"), inner.get("rule")])
            if isinstance(place, dict):  # a flow that is no object any more has no inside
                place[rng.choice(fields)] = copy.deepcopy(rng.choice(words))
        text = bytearray(json.dumps(body).encode())
        for _ in range(rng.choice([0, 0, 0, 1, 2])):
            text[rng.randrange(len(text))] = rng.randrange(256)
        answer = world.running.api.request("POST", "/v1/explain", bytes(text))
        assert answer.status in (200, 400, 422), (text, answer)
        assert answer.json, text
        seen.add(answer.status)
    assert seen == {200, 400, 422}


def test_the_examples_are_what_it_says(lab_outside):
    lab = lab_outside
    lab.pod("chat", ["10.77.0.2", "fd00:77::2"])
    agent = lab.agent()
    lab.prober.listen(lab.node, PROXY_PORT, ip="127.0.0.1", transparent=True)
    agent.api.put_state(example("state")["items"])

    def without(document):
        """Numbers of classes and rows are the compiler's business."""
        return {key: value for key, value in document.items() if key != "steps"}

    said = ask(agent, "shop/chat", "203.0.113.9", 443)
    assert without(said) == without(example("explain")) and len(said["steps"]) == len(example("explain")["steps"])
    past = agent.api.expect("POST", "/v1/explain", example("explain-flow")).json
    assert without(past) == without(example("explain-past"))
    assert past["steps"][-4:] == example("explain-past")["steps"][-4:]
    agent.api.expect("PATCH", "/v1/state", {"apply": [example("service"), example("endpointslice")]})
    service = agent.api.expect("POST", "/v1/explain", example("explain-request-service")).json
    assert without(service) == without(example("explain-service"))
    wrong = agent.api.request("POST", "/v1/explain", question("shop/none", "203.0.113.9", 70000))
    assert wrong.status == 422 and wrong.json == example("problem-explain")
    # A request is counted when its answer is on its way.
    eventually(lambda: all(agent.api.metrics()("penstock_api_requests_total", route="/v1/explain", method="POST", code=c) == n
                           for c, n in (("200", 3), ("422", 1))))


def test_not_before_the_data_path_enforces(lab):
    """A state that was lost: the tables are still live, but nobody knows what their rules are called."""
    agent = lab.agent()
    agent.api.put_state([namespace("s")])
    agent.stop()
    with open(f"{agent.directory}/state/penstock.db", "wb") as file:
        file.write(b"this is no database" * 1000)
    agent.start(wait=False)
    eventually(lambda: os.path.exists(agent.socket), 10)
    answer = agent.api.request("POST", "/v1/explain", question("10.0.0.1", "10.0.0.2"))
    ready = agent.api.request("GET", "/readyz")
    assert answer.status == ready.status == 503 and answer.json["detail"] == ready.json["detail"]
    assert "Retry-After" in answer.headers


# ---- while the tables change ----

def test_the_next_answer_knows_the_write(world):
    lab = world
    for turn in range(20):
        allowed = allow_from("s", "b-in", {"name": "b"}, [{"podSelector": {"matchLabels": {"name": "ac"[turn % 2]}}}])
        revision = lab.running.api.put_object(allowed)["revision"]
        said = ask(lab.running, "s/a", "s/b", 80)
        assert (said["revision"], said["verdict"]) == (revision, "Deny" if turn % 2 else "Allow")


def test_never_two_revisions_in_one_answer(world):
    """Even revisions let a out and nobody into b, odd ones the reverse; names and proxies change with them."""
    lab, stop, failures, seen = world, threading.Event(), [], set()
    api = lab.running.api
    base = api.put_state(lab.items + lab.interception)["revision"]
    states = []
    for turn in range(2):
        made = [o for o in lab.items if o["metadata"]["name"] != "b-in"]
        made.append(policy("s", "odd" if turn else "even", {"name": "a" if turn else "b"},
                           types=["Egress" if turn else "Ingress"]))
        made += [proxy(f"gw{turn}", 15010 + turn), intercept(f"i{turn}", {"name": "a"},
                 [hand("x", networks("203.0.113.0/24"), 443, proxy=f"gw{turn}")])]
        states.append(made)

    def even(revision):
        return (revision - base) % 2 == 1  # the first write is `even`

    def reader():
        mine = Api(lab.running.socket)
        while not stop.is_set():
            said = mine.request("POST", "/v1/explain", question("s/a", "s/b")).json
            if said["revision"] == base:
                continue
            name = "even" if even(said["revision"]) else "odd"
            denied = "ingress" if name == "even" else "egress"
            allowed = "egress" if name == "even" else "ingress"
            rule = (said[denied] or {}).get("rule") or {}
            if said["verdict"] != "Deny" or rule.get("name") != name or said[allowed]["verdict"] != "Allow":
                failures.append(said)
            other = mine.request("POST", "/v1/explain", question("s/a", "203.0.113.1", 443)).json
            turn = 0 if even(other["revision"]) else 1
            if turn == 0 and (other["verdict"], other["proxy"]) != ("Intercept", "gw0"):
                failures.append(other)
            if turn == 1 and other["verdict"] != "Deny":
                failures.append(other)
            seen.add(said["revision"])

    threads = [threading.Thread(target=reader) for _ in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(100):
        assert api.put_state(states[turn % 2])["revision"] == base + turn + 1
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]
    assert len(seen) > 10, "the readers have to see the change"


SLOW_LOOKUPS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/bpf.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <unistd.h>
long syscall(long number, ...)
{
	long (*real)(long, ...) = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall"), a[6];
	va_list arguments;
	va_start(arguments, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(arguments, long);
	va_end(arguments);
	if (number == SYS_bpf && a[0] == BPF_MAP_LOOKUP_ELEM && gettid() != getpid())
		usleep(40000);
	return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
"""


def test_a_flip_in_the_middle_of_an_answer(lab, monkeypatch):
    """Lookups so slow that the side which was live is rewritten between them: the answer is begun again."""
    source, library = f"{lab.directory}/slow.c", f"{lab.directory}/slow.so"
    with open(source, "w") as file:
        file.write(SLOW_LOOKUPS)
    run("gcc", "-shared", "-fPIC", "-o", library, source, "-ldl")
    lab.pod("a"), lab.pod("b")
    with monkeypatch.context() as patched:
        patched.setenv("LD_PRELOAD", library)
        patched.setenv("ASAN_OPTIONS", os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0")
        agent = lab.agent(log={"level": "info"})
    items = [namespace("s")] + [member(n, p, interface=p.interface) for n, p in lab.pods.items()]
    states = [items + [policy("s", "b-in", {"name": "b"}, ingress=rules, types=["Ingress"])] for rules in ([{}], [])]
    first, again = agent.api.put_state(states[0])["revision"], 0
    for turn in range(1, 10):
        said = []
        asking = threading.Thread(target=lambda: said.append(ask(agent, "s/a", "s/b")))
        asking.start()
        time.sleep(0.1)  # between the revision's lookup and the rows'
        agent.api.put_state(states[turn % 2])
        asking.join()
        assert said[0]["verdict"] == ("Deny" if (said[0]["revision"] - first) % 2 else "Allow"), said
        again += said[0]["revision"] == first + turn
        if again == 2:
            return
    raise AssertionError("no write came in the middle of an answer")


# ---- against the evaluator ----

class Cluster:
    def __init__(self, lab):
        self.agent, self.members = lab.agent(log={"level": "info"}), []
        for number in range(8):
            made = lab.pod(f"m{number}")
            self.members.append(Member(f"n{number % 4}", f"m{number}", made.ips, number % 2 == 0, made.interface))
        for number in range(4):
            ips = [f"10.77.2.{number + 1}", f"fd00:77::2:{number + 1:x}"]
            self.members.append(Member(f"n{number % 4}", f"r{number}", ips, number % 2 == 0))
        self.local = {(m.namespace, m.name) for m in self.members if m.interface}


def spoken(judged):
    """An evaluator's side in explain's words. Of the rules only what intercepts is compared: several may allow."""
    if judged is None or judged.verdict == INTERCEPT:
        return judged and ("Allow", "Intercept")
    return judged.verdict, judged.reason


def compared(said, verdict):
    """What explain said, as far as the evaluator has a word for it."""
    sides = []
    for judged, found in ((verdict.egress, said["egress"]), (verdict.ingress, said["ingress"])):
        intercepts = judged and judged.verdict == INTERCEPT  # which hides policy's own reason
        sides.append(found and (found["verdict"], "Intercept" if intercepts else found["reason"]))
    rule = said["intercept"] and said["intercept"]["rule"]
    return said["verdict"], said["proxy"], rule and (rule["name"], rule["direction"], rule["index"]), *sides


def tier_rule(rule):
    """Of explain's and the evaluator's rules those of a kind where first match decides."""
    if isinstance(rule, dict):
        rule = rule["kind"], rule["namespace"], rule["name"], rule["index"]
    return rule if rule and rule[0] != "NetworkPolicy" else None


def tiers_and_audit(said):
    sides = [(said[name], (said[name] or {}).get("audit")) for name in ("egress", "ingress")]
    return [side and (tier_rule(side["rule"]), audit and (audit["verdict"], tier_rule(audit["rule"])))
            for side, audit in sides]


def tiers_and_audit_of(world, verdict, other):
    found = []
    for side, with_audit in ((verdict.egress, other.egress), (verdict.ingress, other.ingress)):
        action, rule = would(side, with_audit, world.in_audit) if side else (None, None)
        nothing = side is None or (rule is None and (action, with_audit.proxy) == (side.verdict, side.proxy))
        said = None if nothing else (action, tier_rule(rule))
        found.append(side and (tier_rule(side.rule), said))
    return found


def matching(world, direction, packet):
    """[(stage, rule, action)] of every rule that matches, in the order in which they decide. Isolation stands last of 2."""
    source, destination = world.endpoint(packet.source), world.endpoint(packet.destination)
    subject, peer = (source, destination) if direction == "Egress" else (destination, source)
    peer_ip = packet.destination if direction == "Egress" else packet.source
    found, isolations = [], []
    tiers = {"Admin": 1, "Baseline": 3}
    rest = [(tiers[p["spec"]["tier"]], p) for p in world.cluster] + [(5, p) for p in world.intercepts]
    order = [(stage, p["spec"].get("priority", 0), p["metadata"]["name"], p) for stage, p in rest]
    for stage, _, name, p in sorted(order, key=lambda o: o[:3]):
        if not world._cluster_peer(p["spec"]["subject"], subject, None):
            continue
        for index, rule in enumerate(p["spec"].get(direction.lower()) or []):
            peers, action = rule["from" if direction == "Ingress" else "to"], rule["action"]
            if stage < 5 and not all(_known_peer(one, direction) for one in peers):
                if action != "Accept":
                    found.append((stage, (p["kind"], "", name, index), "Deny"))
            elif any(world._cluster_peer(one, peer, peer_ip) for one in peers) and world._protocols(rule, destination, packet):
                found.append((stage, (p["kind"], "", name, index), action))
    for p in sorted(world.policies, key=lambda o: (o["metadata"]["namespace"], o["metadata"]["name"])):
        space, name, spec = p["metadata"]["namespace"], p["metadata"]["name"], p["spec"]
        if space != subject.namespace or not selects(spec.get("podSelector") or {}, subject.labels) or \
                direction not in policy_types(spec):
            continue
        isolations.append((2.5, (p["kind"], space, name, -1), "Deny"))
        for index, rule in enumerate(spec.get(direction.lower()) or []):
            peers, ports = rule.get("from" if direction == "Ingress" else "to") or [], rule.get("ports") or []
            if (not peers or any(world._peer(one, space, peer, peer_ip) for one in peers)) and \
                    (not ports or any(world._port(one, destination, packet) for one in ports)):
                found.append((2, (p["kind"], space, name, index), "Allow"))
    if not any(stage == 2 for stage, _, _ in found):
        found += isolations
    return sorted(found, key=lambda one: one[0])


def shadows(said, world, packet):
    """(as explain says, as the evaluator's rules say), of both sides: what matches without a say."""
    pairs, steered = [], False
    for direction in ("Egress", "Ingress"):
        heard = said[direction.lower()]
        if heard is None:
            continue
        decided = heard["rule"] and tuple(heard["rule"][key] for key in ("kind", "namespace", "name", "index"))
        every, passed, hidden, done = matching(world, direction, packet), set(), [], False
        for stage, rule, action in every:
            if stage == 5:
                if said["verdict"] == "Deny" or steered:
                    hidden.append((rule, action))
                steered = True  # for the other direction, too
            elif stage == 2.5 and decided and decided[3] == -1:
                done = True  # those that isolate are told in the steps
                continue
            elif rule != decided and not (action == "Pass" and stage not in passed and not done):
                hidden.append((rule, action))
            if action == "Pass" and not done:
                passed.add(stage)
            done |= rule == decided
        pairs.append((heard, [(tuple(s["rule"][key] for key in ("kind", "namespace", "name", "index")), s["action"])
                              for s in heard["shadows"]], hidden))
    return pairs


def test_it_agrees_with_the_evaluator(lab_outside):
    print(f"PENSTOCK_SEED={SEED}")
    cluster, generator, counts = Cluster(lab_outside), Generator(SEED), {"Allow": 0, "Deny": 0, "Intercept": 0}
    audited = hides = 0
    for number in range(ROUNDS):
        items = generator.cluster(cluster.members)
        items += [generator.policy(n) for n in range(generator.rng.randint(1, 12))]
        items += (generator.cluster_policies() if number % 2 else []) + generator.interception()
        revision = cluster.agent.api.put_state(items, invalid="quarantine")["revision"]
        judge, audit = World(items, local=cluster.local), World(items, local=cluster.local, audit=True)
        for _ in range(QUESTIONS):
            packet = generator.packet(cluster.members).packet
            if packet.protocol == "GRE" or packet.source in (NODE4, NODE6):
                continue  # no protocol of explain's; the node itself, which the evaluator does not know
            said = ask(cluster.agent, packet.source, packet.destination, packet.port or None, packet.protocol)
            verdict = judge.judge(packet)
            counts[said["verdict"]] += 1
            wanted = (verdict.action, verdict.proxy, verdict.hit, spoken(verdict.egress), spoken(verdict.ingress))
            assert (said["revision"], compared(said, verdict)) == (revision, wanted), \
                f"PENSTOCK_SEED={SEED}, round {number}: {packet}\nevaluator: {verdict}\nexplain: {said}\n{json.dumps(items)}"
            heard, other = tiers_and_audit(said), tiers_and_audit_of(judge, verdict, audit.judge(packet))
            audited += sum(side is not None and side[1] is not None for side in other)
            assert heard == other, \
                f"PENSTOCK_SEED={SEED}, round {number}: {packet}\nevaluator: {other}\nexplain: {said}\n{json.dumps(items)}"
            for heard, told, hidden in shadows(said, judge, packet):
                hides += bool(hidden)
                assert told == hidden, \
                    f"PENSTOCK_SEED={SEED}, round {number}: {packet}\nexplain: {said}\nhidden: {hidden}\n{json.dumps(items)}"
    print(counts, audited, "audited", hides, "sides with shadows")
    assert hides > ROUNDS
    assert min(counts.values()) > 0 and audited, counts
