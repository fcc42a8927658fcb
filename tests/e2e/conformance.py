# SPDX-License-Identifier: Apache-2.0
"""Suites of conformance cases (format 1): read, and each case's stages worked out as plain data.

`$PENSTOCK_CONFORMANCE` names one or more files, separated by colons.
"""
import copy
import json
import os

import objects
from lab import REPOSITORY

FAMILIES = ("IPv4", "IPv6")


def suite_files():
    wanted = os.environ.get("PENSTOCK_CONFORMANCE")
    files = wanted.split(":") if wanted else [os.path.join(REPOSITORY, "../shared/conformance/netpol_e2e.json")]
    return [f for f in files if os.path.exists(f)]


def missing_reason():
    return "no conformance suite: PENSTOCK_CONFORMANCE names no file that exists"


def load_cases():
    cases = []
    for file in suite_files():
        with open(file) as stream:
            suite = json.load(stream)
        if suite.get("format") != 1:
            raise ValueError(f"{file}: format {suite.get('format')} is not known")
        cases += suite["cases"]
    return cases


class Stage:
    """What is there after a step's actions, and the probes that then hold."""

    def __init__(self, namespaces, pods, policies, probes, actions, others):
        self.namespaces, self.pods, self.policies = namespaces, pods, policies
        self.probes, self.actions, self.others = probes, actions, others

    def objects(self, as_pods, node="node-1", interface=lambda pod: None):
        """as_pods: verbatim Pods of this node, else Workloads."""
        items = [objects.namespace(name) | {"metadata": {"name": name, "labels": dict(ns.get("labels") or {})}}
                 for name, ns in self.namespaces.items()]
        for pod in self.pods.values():
            ips = pod_ips(pod)
            if as_pods:
                items.append(objects.pod(pod["namespace"], pod["name"], ips, node, pod.get("labels") or {},
                                         pod.get("ports") or []))
            else:
                spec = {"interface": interface(pod)} if interface(pod) else {}
                items.append(objects.workload(pod["namespace"], pod["name"], ips, pod.get("labels") or {},
                                              pod.get("ports") or [], **spec))
        return items + list(self.policies.values()) + list(self.others)


def pod_ips(pod):
    return [pod[key] for key in ("ip", "ip6") if pod.get(key)]


def policy_key(policy):
    metadata = policy["metadata"]
    namespace = "" if policy.get("kind") not in (None, "NetworkPolicy") else metadata.get("namespace") or "default"
    return policy.get("kind", "NetworkPolicy"), namespace, metadata["name"]


def stages(case):
    """The stages of a case, each complete in itself."""
    namespaces = copy.deepcopy(case["namespaces"])
    pods = {(p["namespace"], p["name"]): copy.deepcopy(p) for p in case["pods"]}
    policies = {policy_key(p): p for p in case.get("policies") or []}
    others = list(case.get("nodes") or [])
    result = [Stage(copy.deepcopy(namespaces), copy.deepcopy(pods), dict(policies), case.get("probes") or [], [], others)]
    for step in case.get("steps") or []:
        for action in step["actions"]:
            apply(action, namespaces, pods, policies)
        result.append(Stage(copy.deepcopy(namespaces), copy.deepcopy(pods), dict(policies), step.get("probes") or [],
                            step["actions"], others))
    return result


def apply(action, namespaces, pods, policies):
    op = action["op"]
    if op in ("create_policy", "update_policy"):
        policies[policy_key(action["policy"])] = action["policy"]
    elif op == "delete_policy":
        kind = action.get("kind", "NetworkPolicy")
        wanted = (action.get("namespace") or ("default" if kind == "NetworkPolicy" else ""), action["name"])
        found = [k for k in policies if k[1:] == wanted and ("kind" not in action or k[0] == kind)]
        if not found:  # a cluster-scoped policy is deleted by its name
            found = [k for k in policies if k[2] == action["name"]]
        del policies[found[0]]
    elif op == "set_namespace_labels":
        namespaces.setdefault(action["namespace"], {})["labels"] = action["labels"]
    elif op == "set_pod_labels":
        pods[(action["namespace"], action["name"])]["labels"] = action["labels"]
    elif op == "create_namespace":
        namespaces[action.get("namespace") or action["name"]] = {"labels": action.get("labels") or {}}
    elif op == "delete_namespace":
        name = action.get("namespace") or action["name"]
        namespaces.pop(name, None)
        for key in [k for k in pods if k[0] == name]:
            del pods[key]
        for key in [k for k in policies if k[1] == name]:
            del policies[key]
    elif op == "create_pod":
        pod = copy.deepcopy(action.get("pod") or {k: v for k, v in action.items() if k != "op"})
        pods[(pod["namespace"], pod["name"])] = pod
    elif op == "delete_pod":
        del pods[(action["namespace"], action["name"])]
    else:
        raise ValueError(f"action {op} is not known")


def stage_probes(case, stage, families=FAMILIES):
    """(probe, family) for every family in which the probe holds and both ends have an address."""
    for probe in stage.probes:
        wanted = [probe["family"]] if probe.get("family") else case["families"]
        for family in wanted:
            if family in families:
                yield probe, family


def address(pod, family):
    return pod["ip" if family == "IPv4" else "ip6"]
