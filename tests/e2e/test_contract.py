# SPDX-License-Identifier: Apache-2.0
"""The contract, sentence by sentence, as a client of one agent sees it. What packets do is tested elsewhere."""
import glob
import os
import time

import pytest

from lab import ALLOW, NODE_NAME, Lab
from objects import deny_all, intercept, namespace, pod, policy, proxy, workload
from scenes import eventually, results, serve


@pytest.fixture(scope="module")
def running():
    with Lab() as made:
        made.a, made.b = made.pod("a"), made.pod("b")
        serve(made, made.b)
        made.running = made.agent()
        made.first_write = put(made.running.api, [])
        yield made


@pytest.fixture
def lab(running):
    """Nothing is wanted of anybody."""
    api = running.running.api
    if not running.running.running():
        running.running.start()
    for owner in api.expect("GET", "/v1/owners").json["items"]:
        api.expect("DELETE", f"/v1/owners/{owner['name']}", query={"invalid": "quarantine"})
    assert not api.state()["items"] and not api.status()["quarantined"]
    return running


@pytest.fixture
def api(lab):
    return lab.running.api


def put(api, items, headers=None, **query):
    return api.request("PUT", "/v1/state", {"items": items}, headers=headers, query=query)


def pointers(answer, status=422):
    assert answer.status == status, answer
    return [error["pointer"] for error in answer.json["errors"]]


def names(api):
    return sorted(o["metadata"]["name"] for o in api.state()["items"])


def quarantined(api):
    return {q["name"]: q for q in api.status()["quarantined"]}


def everything(api):
    state, owners, status = (api.expect("GET", path).json for path in ("/v1/state", "/v1/owners", "/v1/status"))
    # What an earlier write left behind is detached after its answer; what the agent finds on its node comes by itself.
    return state, owners, {k: v for k, v in status.items() if k not in ("maps", "hooks", "checks")}


# ---- one address, two pods ----

def states(api):
    return {w["name"]: w["state"] for w in api.status()["workloads"]}


@pytest.mark.parametrize("together", [True, False])
def test_the_younger_pod_has_the_interface_too(lab, api, together):
    """A pod that ended without being reported and the one that took its address: policy of the younger is enforced."""
    old = pod("s", "old", lab.b.ips, NODE_NAME, {"name": "old"}, created="2026-01-01T00:00:01Z")
    young = pod("s", "young", lab.b.ips, NODE_NAME, {"name": "young"}, created="2026-01-01T00:00:02Z")
    a = pod("s", "a", lab.a.ips, NODE_NAME, {"name": "a"})
    base = [namespace("s"), deny_all("s", "old-only", {"name": "old"})]
    if not together:
        api.put_state([*base, a, old])
        assert states(api)["old"] == "attached"
    warned = api.put_state([*base, a, old, young])["warnings"]
    assert any("young" in w["detail"] and lab.b.ip4 in w["detail"] for w in warned)
    assert states(api) == {"a": "attached", "old": "pending", "young": "attached"}
    assert results(lab, lab.a, lab.b, expect=ALLOW) == [ALLOW] * 4
    api.put_state([*base, a, old])
    assert states(api) == {"a": "attached", "old": "attached"}
    assert ALLOW not in results(lab, lab.a, lab.b)


def test_who_loses_its_address_to_another_node_stays_guarded(lab, api):
    """Its packets are another's now, or nobody's: never unjudged."""
    old = pod("s", "old", lab.b.ips, NODE_NAME, {"name": "old"}, created="2026-01-01T00:00:01Z")
    far = pod("s", "far", lab.b.ips, "another", {"name": "far"}, created="2026-01-01T00:00:02Z")
    api.put_state([namespace("s"), pod("s", "a", lab.a.ips, NODE_NAME, {"name": "a"}), deny_all("s", "d", {"name": "old"}),
                   old, far])
    assert states(api)["old"] == "attached"
    assert ALLOW not in results(lab, lab.b, lab.a)


# ---- warnings ----

def test_bandwidth_that_is_not_enforced_is_said(lab, api):
    shaped = pod("s", "shaped", lab.a.ips, NODE_NAME)
    shaped["metadata"]["annotations"] = {"kubernetes.io/egress-bandwidth": "10M"}
    for options in ({"dryRun": "true"}, {}):
        warning, = api.put_state([shaped], **options)["warnings"]
        assert "s/shaped" in warning["detail"] and "not enforced by this build" in warning["detail"]


# ---- dry run ----

def test_a_dry_run_says_what_the_write_would_say(lab, api):
    here, missing = workload("s", "here", lab.a.ips), workload("s", "missing", ["192.0.2.9"])
    named = workload("s", "named", ["192.0.2.10"], interface="not-there")
    items = [here, missing, named]
    before = everything(api)
    dry = api.put_state(items, dryRun="true")
    assert everything(api) == before
    assert dry["warnings"] and dry["warnings"] == api.put_state(items)["warnings"]
    assert {w for w in ("here", "missing", "named") if w in str(dry["warnings"])} == {"missing", "named"}


@pytest.mark.parametrize("status, path, body, headers", [
    (409, "/v1/namespaces/n", namespace("n"), {}),
    (409, "/v1/namespaces/m", namespace("m"), {"Penstock-Term": "1"}),
    (412, "/v1/namespaces/n", namespace("n"), {"If-None-Match": "*"}),
    (412, "/v1/namespaces/m", namespace("m"), {"If-Match": "*"}),
    (422, "/v1/namespaces/m", namespace("M"), {}),
    (200, "/v1/namespaces/m", namespace("m"), {"Penstock-Term": "9"}),
    (200, "/v1/networkpolicies/s/p", policy("s", "p", ingress=[{"ports": [{"port": 0}]}]), {}),
])
def test_no_dry_run_leaves_a_trace(api, status, path, body, headers):
    put(api, [namespace("n")], owner="first")
    put(api, [], {"Penstock-Term": "5"}, owner="second")
    before = everything(api)
    query = {"dryRun": "true", "owner": "second"} | ({"invalid": "quarantine"} if "policies" in path else {})
    answer = api.request("PUT", path, body, headers=headers, query=query)
    assert answer.status == status and "ETag" not in answer.headers, answer
    assert everything(api) == before


# ---- PUT of one object ----

@pytest.mark.parametrize("metadata", [{"name": "x"}, {"name": "x", "namespace": None}, {"name": None, "namespace": ""},
                                      {}, None])
def test_the_path_fills_in_what_the_body_leaves_out(api, metadata):
    body = {**workload("", "", ["192.0.2.1"]), "metadata": metadata}
    assert api.request("PUT", "/v1/workloads/s/x", body).status == 200
    item, = api.state()["items"]
    assert (item["metadata"]["namespace"], item["metadata"]["name"]) == ("s", "x")


def test_disagreement_with_the_path_hides_no_other_error(api):
    body = workload("t", "other", ["nonsense"], ports=[{"port": 70000}])
    assert sorted(pointers(api.request("PUT", "/v1/workloads/s/x", body))) == [
        "/metadata/name", "/metadata/namespace", "/spec/ips/0", "/spec/ports/0/port"]
    assert "/kind" in pointers(api.request("PUT", "/v1/pods/s/x", body))
    assert not api.state()["items"]


def test_a_state_that_never_changed_has_a_tag(running):
    assert running.first_write.json["revision"] == 0 and running.first_write.headers["ETag"].endswith('-0"')


def test_if_none_match_compares_weakly(api):
    api.put_state([namespace("n")])
    tag = api.expect("GET", "/v1/namespaces/n").headers["ETag"]
    for sent, status in ((tag, 412), (f"W/{tag}", 412), ('"x", ' + tag, 412), ('"x"', 200), ("*", 412)):
        answer = api.request("PUT", "/v1/namespaces/n", namespace("n"), headers={"If-None-Match": sent})
        assert answer.status == status, sent
    for sent, status in ((tag, 200), (f"W/{tag}", 412), ("*", 200)):
        answer = api.request("PUT", "/v1/namespaces/n", namespace("n"), headers={"If-Match": sent})
        assert answer.status == status, sent


# ---- what is no change ----

def test_another_resource_version_is_no_change(lab, api):
    """A Node's status report, a Pod's status that nobody reads: kept and shown, and no new revision."""
    def item(version, **labels):
        made = namespace("n", labels)
        made["metadata"]["resourceVersion"] = version
        return made

    api.put_state([item("1"), pod("n", "p", ["192.0.2.7"], NODE_NAME)])
    first = api.expect("GET", "/v1/namespaces/n")
    before, generation = everything(api), api.metrics()("penstock_revision", stage="enforced")
    compiled = api.metrics()("penstock_apply_duration_seconds_count", stage="compile")
    tried = api.request("PUT", "/v1/namespaces/n", item("2"), query={"dryRun": "diff"}).json
    assert (tried["revision"], tried["changes"]) == (before[0]["revision"], []) and everything(api) == before
    for version, write in (("2", lambda o: api.request("PUT", "/v1/namespaces/n", o)),
                           ("3", lambda o: api.request("PATCH", "/v1/state", {"apply": [o]})),
                           ("4", lambda o: put(api, [o, pod("n", "p", ["192.0.2.7"], NODE_NAME)]))):
        answer = write(item(version))
        assert answer.status == 200 and not answer.json["warnings"], answer
        assert (answer.json["revision"], answer.headers["ETag"]) == (before[0]["revision"], first.headers["ETag"])
        read = api.expect("GET", "/v1/namespaces/n")
        assert (read.json["metadata"]["resourceVersion"], read.headers["ETag"]) == (version, first.headers["ETag"])
    assert everything(api)[2] == before[2]
    now = api.metrics()
    assert now("penstock_apply_duration_seconds_count", stage="compile") == compiled
    assert now("penstock_revision", stage="enforced") == generation
    lab.running.kill9()
    lab.running.start()
    assert api.expect("GET", "/v1/namespaces/n").json["metadata"]["resourceVersion"] == "4"
    assert api.state()["revision"] == before[0]["revision"]
    assert api.put_object(item("4", l="x"))["revision"] == before[0]["revision"] + 1


# ---- every error of a body ----

def test_objects_without_a_name_are_not_called_doubles(api):
    nameless = {"apiVersion": "v1", "kind": "Pod", "metadata": {}}
    assert pointers(put(api, [nameless, nameless, 7, None, {"kind": "Pod"}])) == [
        "/items/0/metadata/name", "/items/1/metadata/name", "/items/2", "/items/3", "/items/4/apiVersion",
        "/items/4/metadata"]


def test_every_address_that_is_there_twice_is_named(api):
    items = [workload("s", "one", ["192.0.2.1", "2001:db8::1"]),
             workload("s", "two", ["192.0.2.1", "2001:db8::1", "192.0.2.2"]), workload("s", "three", ["192.0.2.2"])]
    assert pointers(put(api, items)) == ["/items/1/spec/ips/0", "/items/1/spec/ips/1", "/items/2/spec/ips/0"]


def test_errors_of_deletions_stand_where_they_are(api):
    delete = [{"kind": "Nonsense", "name": "x"}, {"kind": "Pod"}, 7, {"name": "x"},
              {"kind": "Node", "namespace": "s", "name": "x"}, {"kind": "Pod", "name": "x", "a/b": 1},
              {"kind": "Pod", "name": 3}]
    answer = api.request("PATCH", "/v1/state", {"apply": [{}], "delete": delete})
    assert pointers(answer) == ["/apply/0/kind", "/apply/0/apiVersion", "/delete/0/kind", "/delete/1/name", "/delete/2",
                                "/delete/3/kind", "/delete/4/namespace", "/delete/5/a~1b", "/delete/6/name"]


# ---- quarantine ----

BROKEN = [{"ports": [{"port": 70000}]}]


def test_nothing_in_a_body_stops_a_quarantine(api):
    good = namespace("good")
    nameless = {"apiVersion": "v1", "kind": "Pod", "metadata": {}}
    items = [good, nameless, nameless, 7, None, {"kind": "Deployment", "apiVersion": "apps/v1"}, good, {"kind": "Pod"}]
    answer = put(api, items, invalid="quarantine")
    assert answer.status == 200 and len(answer.json["quarantined"]) == 7, answer
    assert names(api) == ["good"]
    assert any("twice" in q["errors"][0]["detail"] for q in answer.json["quarantined"] if q["name"] == "good")
    again = put(api, items, invalid="quarantine")
    assert again.json["revision"] == answer.json["revision"]
    assert put(api, [good]).status == 200 and not quarantined(api)


def test_a_cluster_scoped_object_is_released_whatever_namespace_it_claimed(api):
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}
    put(api, [{**node, "metadata": {"name": "n", "namespace": "s"}}], invalid="quarantine")
    assert quarantined(api)["n"]["namespace"] == ""
    assert api.put_object(node) and not quarantined(api)


def test_the_isolating_policy_follows_its_selector(lab, api):
    """Never good: what its newest version selects is isolated. Good once: that version stays."""
    put(api, [policy("s", "p", {"app": "x"}, ingress=BROKEN)], invalid="quarantine")
    lab.running.restart()
    put(api, [policy("s", "p", {"app": "y"}, ingress=BROKEN)], invalid="quarantine")
    item, = api.state()["items"]
    assert item["spec"]["podSelector"] == {"matchLabels": {"app": "y"}} and "ingress" not in item["spec"]
    put(api, [policy("s", "p", {"app": "z"})])
    put(api, [policy("s", "p", {"app": "y"}, ingress=BROKEN)], invalid="quarantine")
    lab.running.restart()
    put(api, [policy("s", "p", {"app": "x"}, ingress=BROKEN)], invalid="quarantine")
    item, = api.state()["items"]
    assert item["spec"]["podSelector"] == {"matchLabels": {"app": "z"}}
    assert quarantined(api)["p"]["errors"][0]["pointer"] == "/spec/ingress/0/ports/0/port"
    assert api.metrics()("penstock_quarantined", kind="NetworkPolicy") == 1


def test_the_place_in_the_body_is_no_change(api):
    broken, good = policy("s", "p", {}, ingress=BROKEN), namespace("s")
    one, two = (put(api, items, invalid="quarantine") for items in ([broken, good], [good, broken]))
    assert one.json["revision"] == two.json["revision"]
    told = [answer.json["quarantined"][0]["errors"][0]["pointer"] for answer in (one, two)]
    assert told == [f"/items/{i}/spec/ingress/0/ports/0/port" for i in (0, 1)]


def test_what_quarantine_brings_back_conflicts_with_nobody(api):
    """The last good version of one has the address that another of the same body wants."""
    one = workload("s", "one", ["192.0.2.1"])
    api.put_state([one])
    answer = put(api, [workload("s", "two", ["192.0.2.1"]), workload("s", "three", ["192.0.2.3"]),
                       workload("s", "one", ["192.0.2.3", "192.0.2.3"])], invalid="quarantine")
    assert {q["name"] for q in answer.json["quarantined"]} == {"one", "two"}
    answer = put(api, [workload("s", "two", ["192.0.2.1"]), workload("s", "three", ["192.0.2.3"]),
                       workload("s", "one", ["192.0.2.3"])], invalid="quarantine")
    assert {q["name"] for q in answer.json["quarantined"]} == {"one", "two"}
    ips = [ip for o in api.state()["items"] for ip in o["spec"]["ips"]]
    assert sorted(ips) == ["192.0.2.1", "192.0.2.3"]


def test_an_absent_proxy_is_each_rules_own_matter(api):
    """A policy that came with an absent proxy still keeps the other one from being deleted."""
    rules = [{"action": "Intercept", "proxy": name, "to": [{"networks": ["192.0.2.0/24"]}]} for name in ("gw", "none")]
    put(api, [proxy("gw", 15001), intercept("i", {"app": "x"}, rules)], invalid="quarantine")
    assert api.request("DELETE", "/v1/transparentproxies/gw").status == 422
    assert api.request("PUT", "/v1/namespaces/n", namespace("n")).status == 200
    assert api.request("DELETE", "/v1/transparentproxies/gw", query={"invalid": "quarantine"}).status == 200


# ---- owners ----

def test_the_term_of_an_owner_that_is_deleted(api):
    term = lambda n: {"Penstock-Term": str(n)}  # noqa: E731
    put(api, [namespace("n")], term(5), owner="lease")
    assert api.request("DELETE", "/v1/owners/lease", headers=term(4)).status == 409
    assert names(api) == ["n"]
    assert api.request("DELETE", "/v1/owners/lease", headers=term(6)).status == 200
    assert names(api) == [] and put(api, [], term(5), owner="lease").status == 409


def test_a_deleted_owner_is_gone(lab, api):
    put(api, [], owner="empty")
    put(api, [namespace("n")], owner="full")
    for name in ("empty", "full"):
        assert api.request("DELETE", f"/v1/owners/{name}").status == 200
        assert api.request("DELETE", f"/v1/owners/{name}").status == 404
    lab.running.restart()
    assert not {"empty", "full"} & {o["name"] for o in api.expect("GET", "/v1/owners").json["items"]}


def test_an_owner_that_wants_nothing_is_remembered(lab, api):
    put(api, [], owner="empty")
    lab.running.restart()
    assert "empty" in {o["name"] for o in api.expect("GET", "/v1/owners").json["items"]}


# ---- a lost database ----

def test_an_empty_state_ends_the_wait_after_a_lost_database(lab, api):
    """Until somebody says what is wanted the live tables stay; "nothing" is an answer too."""
    api.put_state([workload("s", "b", lab.b.ips, {"app": "b"}), deny_all("s")])
    assert ALLOW not in results(lab, lab.a, lab.b)
    agent = lab.running
    agent.stop()
    for path in glob.glob(f"{agent.config['state']['directory']}/*.db*"):
        with open(path, "wb") as file:
            file.write(b"nonsense" * 1000)
    agent.start(wait=False)
    eventually(lambda: alive(api), 10)
    assert api.request("GET", "/readyz").status == 503
    for method, path, body in (("PATCH", "/v1/state", {"apply": []}), ("PUT", "/v1/namespaces/n", namespace("n"))):
        answer = api.request(method, path, body)
        assert answer.status == 503 and answer.headers["Retry-After"], answer
    assert put(api, [], dryRun="true").status == 200
    lab.node.ip("link add unread type veth peer name unread2", "link del unread")
    busy = agent_seconds(agent)
    time.sleep(0.5)
    assert agent_seconds(agent) - busy < 0.2, "it spins on news that it does not read"
    assert ALLOW not in results(lab, lab.a, lab.b)
    assert put(api, []).status == 200
    assert results(lab, lab.a, lab.b, expect=ALLOW) == [ALLOW] * 4 and api.request("GET", "/readyz").status == 200


def agent_seconds(agent):
    """CPU time that it has used."""
    with open(f"/proc/{agent.process.pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def alive(api):
    try:
        return api.request("GET", "/healthz", timeout=2).status == 200
    except OSError:
        return False
