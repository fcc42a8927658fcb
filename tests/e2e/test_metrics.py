# SPDX-License-Identifier: Apache-2.0
"""GET /metrics of an agent that enforces: it counts what traffic did, and Prometheus' own tool reads it."""
import shutil
import subprocess
import time

import pytest

from lab import ALLOW, DENY, Probe
from objects import policy
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
