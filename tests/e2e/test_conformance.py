# SPDX-License-Identifier: Apache-2.0
"""Conformance suites on real packets: every case, both families at once, as Workloads and as verbatim Pods; and once more
with a Service in front of each target, through kube-proxy's DNAT, with every second case masqueraded.

One agent serves every case: PUT /v1/state replaces everything. Pods are fresh for each case. What a case denies is
waited for in one round of all its probes.
"""
import os

import pytest

import conformance
from kubeproxy import KubeProxy, endpoint_slice, service
from lab import ALLOW, NODE_NAME, Lab, Probe, have_sctp

CASES = conformance.load_cases()
MODES = [False, True]
WIRED = {"sctp": have_sctp, "networkpolicy": lambda: True, "ipv4": lambda: True, "ipv6": lambda: True}
# Their policies are applied all the same; only what cannot be sent is left out.
PROBE_ONLY = {"sctp"}

pytestmark = pytest.mark.skipif(not CASES, reason=conformance.missing_reason())


@pytest.fixture(scope="module")
def running():
    with Lab() as lab:
        yield lab, lab.agent(log={"level": "info"})


@pytest.mark.parametrize("as_pods", MODES, ids=["workloads", "pods"])
@pytest.mark.parametrize("case", CASES, ids=[c["name"] for c in CASES])
def test_case(running, case, as_pods):
    unknown = set(case.get("requires") or []) - set(WIRED)
    if unknown:
        pytest.skip(f"requires {', '.join(sorted(unknown))}, which this runner does not know")
    lab, agent = running
    lab.clear_pods()
    agent.api.put_state([])
    wrong, skipped, probed = [], 0, 0
    for number, stage in enumerate(conformance.stages(case)):
        wire(lab, stage)
        push(agent, stage, as_pods, lab)
        probes = []
        for probe, family in conformance.stage_probes(case, stage):
            made = make_probe(lab, stage, probe, family, number)
            if made is None:
                skipped += 1
            else:
                probes.append(made)
        lab.prober.probe(probes)
        probed += len(probes)
        wrong += [str(p) for p in probes if not p.ok]
    assert wrong == [], f"{len(wrong)} of {probed} probes"
    if skipped and not probed:
        pytest.skip(f"policies applied; {skipped} probes need SCTP, which this kernel does not have")


@pytest.fixture(scope="module")
def translating():
    with Lab() as lab:
        kube = {masked: KubeProxy(lab.node, "nftables", NODE_NAME, masquerade_all=masked) for masked in (False, True)}
        if why := kube[False].lacking():
            pytest.skip(why)
        yield lab, lab.agent(log={"level": "info"}), kube


@pytest.mark.parametrize("case", CASES, ids=[c["name"] for c in CASES])
def test_case_through_services(translating, case):
    lab, agent, kube = translating
    if set(case.get("requires") or []) - set(WIRED):
        pytest.skip("this runner does not know what it requires")
    masked = bool(CASES.index(case) % 2)
    lab.clear_pods()
    agent.api.put_state([])
    wrong, probed = [], 0
    for number, stage in enumerate(conformance.stages(case)):
        wire(lab, stage)
        services, probes = in_front(lab, case, stage, number)
        agent.api.put_state(stage.objects(True) + services)
        kube[masked].sync(services)
        lab.prober.probe(probes, silence=0.2)
        probed += len(probes)
        wrong += [str(p) for p in probes if not p.ok or p.result == ALLOW and p.server[0] != p.wanted]
    assert wrong == [], f"{len(wrong)} of {probed} probes, {'masqueraded' if masked else 'from their own addresses'}"
    if not probed:
        pytest.skip("nothing but SCTP is probed")


def in_front(lab, case, stage, number):
    """(Services and slices, probes): the same probes, to a Service of one backend each.

    Left out: SCTP, which this DNAT does not carry everywhere, and who asks for himself, whose packets would else stay in the pod.
    """
    made, objects, probes = {}, [], []
    for probe, family in conformance.stage_probes(case, stage):
        if probe["protocol"] == "SCTP" or probe["from"] == probe["to"]:
            continue
        target = probe["to"], probe["port"], probe["protocol"]
        if target not in made:
            namespace, name = probe["to"].split("/")
            made[target] = [f"10.96.0.{len(made) + 1}", f"fd00:96::{len(made) + 1:x}"]
            port = {"name": "p", "port": 7000, "targetPort": probe["port"], "protocol": probe["protocol"]}
            called = f"{name}-{len(made)}"
            objects.append(service(called, made[target], [port], namespace))
            for ip in conformance.pod_ips(stage.pods[namespace, name]):
                objects.append(endpoint_slice(called, [ip], [{**port, "port": probe["port"]}], namespace))
        pod = lab.pods[probe["to"]]
        probes.append(Probe(lab.pods[probe["from"]], made[target][family == "IPv6"], 7000, probe["protocol"],
                            expect=probe["expect"], label=f"stage {number}: {probe['from']} -> {probe['to']} {family}"))
        probes[-1].wanted = pod.name
    return objects, probes


def wire(lab, stage):
    """Pods as the stage has them: new ones are made and served, gone ones removed."""
    gone = [key for key in lab.pods if tuple(key.split("/")) not in stage.pods]
    if gone:
        lab.remove_pods(*gone)
    for (namespace, name), pod in stage.pods.items():
        key = f"{namespace}/{name}"
        if key not in lab.pods:
            made = lab.pod(key, conformance.pod_ips(pod))
            for port in pod.get("ports") or []:
                lab.prober.listen(made, port["port"], port.get("protocol") or "TCP")
    for probe in stage.probes:
        lab.prober.listen(lab.pods[probe["to"]], probe["port"], probe["protocol"])


def push(agent, stage, as_pods, lab):
    interface = (lambda pod: lab.pods[f"{pod['namespace']}/{pod['name']}"].interface) if not as_pods else \
        (lambda pod: None)
    answer = agent.api.request("PUT", "/v1/state", {"items": stage.objects(as_pods, interface=interface)})
    if answer.status == 422 and "not enforced by this build" in answer.text:
        pytest.skip(f"a kind that this build does not enforce: {answer.text[:300]}")
    assert answer.status == 200, answer


def make_probe(lab, stage, probe, family, number):
    if probe["protocol"] == "SCTP" and not have_sctp():
        return None
    destination = conformance.address(stage.pods[tuple(probe["to"].split("/"))], family)
    return Probe(lab.pods[probe["from"]], destination, probe["port"], probe["protocol"], expect=probe["expect"],
                 label=f"stage {number}: {probe['from']} -> {probe['to']} {family}")


def test_the_whole_suite_is_there():
    """A runner that silently loses cases would pass."""
    if os.environ.get("PENSTOCK_CONFORMANCE"):
        pytest.skip("a suite of the caller's choice: its size is not known here")
    assert len(CASES) >= 51
