# SPDX-License-Identifier: Apache-2.0
"""The lab itself, without an agent: what a probe says must be true before it is used to judge one."""
import os

import pytest

from lab import ALLOW, DENY, OUTSIDE4, OUTSIDE6, Lab, Probe, run
from netns import NETNS


@pytest.mark.parametrize("bridge", [False, True], ids=["routed", "bridged"])
def test_pods_reach_each_other_and_the_outside(bridge):
    with Lab(bridge=bridge, outside=True) as lab:
        a, b = lab.pod("x/a"), lab.pod("x/b")
        probes = []
        for server in (a, b, lab.outside):
            for protocol in ("TCP", "UDP"):
                assert lab.prober.listen(server, 80, protocol)
        for protocol in ("TCP", "UDP"):
            for client, ips in ((a, b.ips), (b, a.ips), (a, (OUTSIDE4, OUTSIDE6)), (lab.outside, b.ips),
                                (lab.node, a.ips)):
                probes += [Probe(client, ip, 80, protocol, expect=ALLOW) for ip in ips]
        lab.prober.probe(probes)
        assert [str(p) for p in probes if not p.ok] == []
        assert all(p.peer[:2][0].removeprefix("::ffff:") == p.local[0] for p in probes), "the server saw another client"


def test_silence_refusal_and_answer_are_told_apart(lab):
    a, b = lab.pod("a"), lab.pod("b")
    lab.prober.listen(b, 80)
    b.run("nft", "-f", "-", input="table inet t { chain c { type filter hook input priority 0;\n"
                                  "tcp dport 81 drop\n}\n}\n")
    probes = lab.prober.probe([Probe(a, b.ip4, 80, expect=ALLOW), Probe(a, b.ip4, 81, expect=DENY), Probe(a, b.ip4, 82)])
    assert [p.result for p in probes] == [ALLOW, DENY, "ECONNREFUSED"]


def test_nothing_is_left_behind():
    with Lab() as lab:
        lab.pod("a")
        prefix = lab.prefix
    assert not [n for n in os.listdir(NETNS) if n.startswith(prefix)]
    assert not os.path.exists(f"/tmp/{prefix}")


def test_leftovers_of_dead_runs_are_swept():
    dead = run("sh", "-c", "echo $$").stdout.strip()
    run("ip", "netns", "add", f"pt{dead}-1-node")
    with Lab():
        assert f"pt{dead}-1-node" not in os.listdir(NETNS)
