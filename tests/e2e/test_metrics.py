# SPDX-License-Identifier: Apache-2.0
"""GET /metrics of an agent that enforces: it counts what traffic did, and Prometheus' own tool reads it."""
import json
import pathlib
import re
import shutil
import socket
import subprocess
import time

import pytest

from api import Metrics
from lab import ALLOW, DENY, Probe
from objects import intercept, policy, proxy
from prometheus import LISTEN, PROMETHEUS, Prometheus, series
from scenes import eventually, member, results

RULE = {"kind": "NetworkPolicy", "policy_namespace": "s", "policy": "b-in", "direction": "Ingress"}


def test_traffic_is_counted(pair):
    before = pair.running.api.metrics()
    assert results(pair, pair.a, pair.b, protocols=("TCP",), expect=ALLOW) == [ALLOW] * 2
    assert results(pair, pair.c, pair.b, protocols=("TCP",)) == [DENY] * 2
    after = pair.running.api.metrics()

    def more(name, **labels):
        return after(name, **labels) - before(name, **labels)

    assert more("penstock_packets_total", verdict="Dropped", reason="Isolated", direction="Ingress") >= 2
    assert more("penstock_packets_total", verdict="Forwarded") >= 6
    assert more("penstock_bytes_total", verdict="Forwarded") >= 6 * 40
    assert more("penstock_rule_hits_total", rule="0", **RULE) >= 2
    assert more("penstock_rule_hits_total", rule="isolation", **RULE) >= 2
    assert not after.find("penstock_packets_total", reason="Spoofed", verdict="Forwarded")


def test_the_state_is_counted(pair):
    begun = time.time()
    pair.running.api.put_object(policy("s", "more", {"name": "b"}))
    metrics = pair.running.api.metrics()
    revision = pair.running.api.state()["revision"]
    assert metrics("penstock_revision", stage="wanted") == metrics("penstock_revision", stage="enforced") == revision
    assert metrics("penstock_objects", kind="Workload") == 3
    assert metrics("penstock_objects", kind="NetworkPolicy") == 2
    assert metrics("penstock_workloads", state="attached") == 3
    assert metrics("penstock_workloads", state="pending") == 0
    assert metrics("penstock_last_write_timestamp_seconds", owner="local") >= int(begun)
    assert 0 < metrics("penstock_map_entries", map="ps_addr4") <= metrics("penstock_map_capacity", map="ps_addr4")
    assert metrics("penstock_map_entries", map="ps_iface") == 3
    assert 3 <= metrics("penstock_map_entries", map="ps_rule_hits") < metrics("penstock_map_capacity", map="ps_rule_hits")
    assert metrics("penstock_apply_duration_seconds_count", stage="flip") >= 2
    assert metrics("penstock_apply_failures_total") == 0
    assert metrics("penstock_api_requests_total", method="PUT", route="/v1/state", code=200) == 1
    assert len(metrics.find("penstock_build_info")) == 1


def test_pending_until_the_interface_is_there(lab):
    made, away = lab.pod("a", attach=False), lab.pod("b", attach=False)
    agent = lab.agent()
    agent.api.put_state([member("a", made, interface=made.interface), member("b", away, node="another")])
    metrics = agent.api.metrics()
    assert [metrics("penstock_workloads", state=s) for s in ("attached", "pending", "remote")] == [0, 1, 1]
    lab.attach(made)
    eventually(lambda: agent.api.metrics()("penstock_workloads", state="attached") == 1)


def test_quarantine_is_counted(pair):
    broken = {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "s", "name": "x"}, "status": {"podIPs": [{"ip": "no"}]}}
    pair.running.api.patch([broken], invalid="quarantine")
    assert pair.running.api.metrics()("penstock_quarantined", kind="Pod") == 1


def test_connections_are_counted_and_survive_a_restart(pair):
    # An exchange in both directions: UDP as the probes do it is answered once, TCP is established.
    assert pair.prober.probe([Probe(pair.a, pair.b.ip4, 80)])[0].result == ALLOW
    before = pair.running.api.metrics()
    assert before("penstock_connections") >= 1
    pair.running.restart()
    after = pair.running.api.metrics()
    for name in ("penstock_packets_total", "penstock_rule_hits_total"):
        for labels, value in before.find(name):
            assert after(name, **labels) >= value, (name, labels)
    assert after("penstock_revision", stage="enforced") == before("penstock_revision", stage="enforced")


def test_promtool_reads_it(pair):
    promtool = shutil.which("promtool")
    if not promtool:
        pytest.skip("promtool is not installed (package prometheus)")
    results(pair, pair.a, pair.b)
    text = pair.running.api.metrics().text
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=60)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    answer = pair.running.api.expect("GET", "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")


# ---- a real Prometheus ----

REFERENCE = pathlib.Path(__file__).resolve().parents[2] / "api" / "metrics.md"
# They are others with each scrape: of the agent's own process, and of calls.
RESTLESS = ("process_", "penstock_api_")


@pytest.fixture
def scraped(lab):
    """a may reach b, c goes to a proxy that nobody serves; there is traffic of each kind."""
    if not shutil.which("prometheus"):
        pytest.skip("prometheus is not installed (package prometheus)")
    lab.a, lab.b, lab.c = (lab.pod(name) for name in "abc")
    lab.prober.listen(lab.b, 80, "TCP")
    agent = lab.running = lab.agent(metrics={"listen": f"127.0.0.1:{LISTEN}"})
    lab.prometheus = Prometheus(lab)
    try:
        agent.api.put_state([policy("s", "b-in", {"name": "b"}, ingress=[{"from": [{"podSelector": {"matchLabels": {"name": "a"}}}]}]),
                             proxy("gw", 15001), intercept("out", {"name": "a"}, [
                                 {"name": "out", "action": "Intercept", "proxy": "gw", "to": [{"networks": ["192.0.2.0/24"]}]}]),
                             *[member(n, p, interface=p.interface) for n, p in lab.pods.items()]])
        yield lab
    finally:
        lab.prometheus.close()


OBSERVING = REFERENCE.with_name("observing.md")
# By words of the question in the documents: what each answer is here. Without one: there is none.
ANSWERS = {"enforced": lambda value: value == 0, "refused": lambda value: value >= 0, "decide most": lambda value: value >= 0,
           "goes to proxies": lambda value: value > 0, "handshakes": lambda value: 0 < value < 5, "missing": lambda value: value == 0,
           "write take": lambda value: value >= 0 or value != value, "silent": lambda value: 0 <= value < 300,
           "decided nothing": None, "proxies are down": None, "nearly full": None, "change what is ours": None}


def questions():
    rows = re.findall(r"^\| ([^|`]+) \| `(.+)` \|$", OBSERVING.read_text().split("## Metrics")[1].split("\n## ")[0], re.M)
    for words, expression in rows:
        [known] = [answer for part, answer in ANSWERS.items() if part in words]
        yield expression.replace("\\|", "|"), known


def test_prometheus_and_the_api_agree(scraped):
    lab, prometheus = scraped, scraped.prometheus
    eventually(prometheus.scraped, 30)
    lab.prober.listen(lab.node, 15001, transparent=True)
    eventually(lambda: lab.running.api.metrics()("penstock_proxy_up", proxy="gw") == 1)
    assert results(lab, lab.a, lab.b, protocols=("TCP",), expect=ALLOW) == [ALLOW] * 2
    assert results(lab, lab.c, lab.b, protocols=("TCP",)) == [DENY] * 2
    assert lab.prober.probe([Probe(lab.a, "192.0.2.1", 80, expect=ALLOW)])[0].ok
    with lab.node.entered(), socket.socket(socket.AF_INET, socket.SOCK_STREAM) as nobody:
        assert nobody.connect_ex(("127.0.0.1", 9)) != 0

    def page():
        return {series(name, labels): value for name, labels, value in lab.running.api.metrics().samples
                if not name.startswith(RESTLESS)}

    def both():
        """At rest, both say the same of every series."""
        before, seen = page(), prometheus.samples()
        lab.seen = {key: value for key, value in seen.items() if not key[0].startswith(RESTLESS)}
        lab.page = before
        return lab.seen == before
    try:
        eventually(both, 15)
    except AssertionError:
        differ = {key: (lab.page.get(key), lab.seen.get(key)) for key in {*lab.page, *lab.seen} if lab.page.get(key) != lab.seen.get(key)}
        raise AssertionError(f"page, Prometheus: {differ}") from None

    text = lab.running.api.metrics().text
    assert Metrics(prometheus.get(LISTEN, "/metrics")).samples, "the listener's page is the API's"
    everything = {*{name for name, _ in prometheus.samples()}}
    listed = {name: kind for name, kind in re.findall(r"^\| `(\w+)` \| (\w+) \|", REFERENCE.read_text(), re.M)}
    assert set(re.findall(r"^# TYPE (\S+)", text, re.M)) == set(listed)
    silent = {name for name, kind in listed.items() if (f"{name}_count" if kind == "histogram" else name) not in everything}
    # The kernel's drops are not known everywhere; nothing was quarantined is a 0, so that all others are there.
    assert silent <= {"penstock_kernel_drops_total"}
    for name, kind in listed.items():
        told = json.loads(prometheus.get(PROMETHEUS, f"/api/v1/metadata?metric={name}"))["data"][name][0]
        assert told["type"] == kind, name
    asked = list(questions())
    assert len(asked) == len(ANSWERS)
    for question, good in asked:
        answer = prometheus.query(question)
        assert bool(answer) == bool(good) and all(good(value) for _, value in answer), (question, answer)
