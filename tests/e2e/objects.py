# SPDX-License-Identifier: Apache-2.0
"""API objects as dicts: short to write in a test, complete as kubectl prints them."""
from zlib import crc32

OURS = "penstock.dev/v1alpha1"


def workload(namespace, name, ips, labels=None, ports=(), **spec):
    return {"apiVersion": OURS, "kind": "Workload",
            "metadata": {"namespace": namespace, "name": name, "labels": labels or {}},
            "spec": {"ips": list(ips), **({"ports": [dict(p) for p in ports]} if ports else {}), **spec}}


def namespace(name, labels=None):
    return {"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name, **(labels or {})},
                         "uid": f"00000000-0000-0000-0001-{crc32(name.encode()):012d}",
                         "creationTimestamp": "2026-01-01T00:00:00Z", "resourceVersion": "7"},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}


def pod(namespace, name, ips, node, labels=None, ports=(), phase="Running", created="2026-01-01T00:00:01Z", **spec):
    """A Pod with the noise that a real one carries: the agent reads few of these fields and must ignore the rest."""
    container = {"name": "main", "image": "registry.k8s.io/e2e-test-images/agnhost:2.47", "imagePullPolicy": "Always",
                 "resources": {"requests": {"cpu": "10m"}}, "terminationMessagePath": "/dev/termination-log",
                 "env": [{"name": "SERVE_PORT_80", "value": "foo"}],
                 "volumeMounts": [{"name": "kube-api-access-x", "readOnly": True,
                                   "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}],
                 "ports": [{"name": p["name"], "containerPort": p["port"], "protocol": p.get("protocol", "TCP")}
                           if p.get("name") else {"containerPort": p["port"], "protocol": p.get("protocol", "TCP")}
                           for p in ports]}
    if not ports:
        del container["ports"]
    return {"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": namespace, "name": name, "labels": labels or {},
                         "uid": f"00000000-0000-0000-0002-{crc32(f'{namespace}/{name}'.encode()):012d}",
                         "creationTimestamp": created, "resourceVersion": "4711", "generation": 1,
                         "managedFields": [{"manager": "kubelet", "operation": "Update", "apiVersion": "v1",
                                            "fieldsType": "FieldsV1", "fieldsV1": {"f:status": {}}}]},
            "spec": {"nodeName": node, "containers": [container], "restartPolicy": "Always",
                     "dnsPolicy": "ClusterFirst", "serviceAccountName": "default", "schedulerName": "default-scheduler",
                     "terminationGracePeriodSeconds": 0, "priority": 0, "enableServiceLinks": True,
                     "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists",
                                      "effect": "NoExecute", "tolerationSeconds": 300}], **spec},
            "status": {"phase": phase, "qosClass": "Burstable", "hostIP": "192.0.2.10", "podIP": ips[0],
                       "podIPs": [{"ip": ip} for ip in ips], "startTime": created,
                       "conditions": [{"type": "Ready", "status": "True", "lastProbeTime": None}],
                       "containerStatuses": [{"name": "main", "ready": True, "restartCount": 0, "image": "agnhost",
                                              "imageID": "sha256:0", "state": {"running": {"startedAt": created}}}]}}


def policy(namespace, name, selector=None, ingress=None, egress=None, types=None):
    """A NetworkPolicy; ingress and egress are lists of rules, or None to leave the field out."""
    spec = {"podSelector": {} if selector is None else
            selector if "matchLabels" in selector or "matchExpressions" in selector else {"matchLabels": selector}}
    if ingress is not None:
        spec["ingress"] = ingress
    if egress is not None:
        spec["egress"] = egress
    if types is not None:
        spec["policyTypes"] = types
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": namespace, "name": name}, "spec": spec}


def deny_all(namespace, name="deny-all", selector=None, types=("Ingress", "Egress")):
    return policy(namespace, name, selector, types=list(types))


def allow_from(namespace, name, selector, peers, ports=None):
    rule = {"from": peers}
    if ports:
        rule["ports"] = ports
    return policy(namespace, name, selector, ingress=[rule], types=["Ingress"])


def allow_to(namespace, name, selector, peers, ports=None):
    rule = {"to": peers}
    if ports:
        rule["ports"] = ports
    return policy(namespace, name, selector, egress=[rule], types=["Egress"])


def proxy(name, port, protocols=("TCP",), unavailable="Deny", **spec):
    return {"apiVersion": OURS, "kind": "TransparentProxy", "metadata": {"name": name},
            "spec": {"port": port, "protocols": list(protocols), "onUnavailable": unavailable, **spec}}


def intercept(name, subject, egress, priority=100, ingress=None):
    """subject: a label map, or a whole subject; egress, ingress: rules."""
    if not {"pods", "namespaces", "cgroup"} & set(subject):
        subject = {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": subject}}}
    return {"apiVersion": OURS, "kind": "InterceptPolicy", "metadata": {"name": name},
            "spec": {"priority": priority, "subject": subject, "egress": egress,
                     **({"ingress": ingress} if ingress is not None else {})}}


def cluster_policy(name, tier, priority, subject=None, ingress=None, egress=None):
    """A ClusterNetworkPolicy; subject: as in the API, or None for every pod."""
    spec = {"tier": tier, "priority": priority, "subject": {"namespaces": {}} if subject is None else subject}
    if ingress is not None:
        spec["ingress"] = ingress
    if egress is not None:
        spec["egress"] = egress
    return {"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
            "metadata": {"name": name}, "spec": spec}


def audited(policy):
    """The same policy in audit mode."""
    return {**policy, "metadata": {**policy["metadata"], "annotations": {"penstock.dev/mode": "audit"}}}


def node(name, ips, labels=None):
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels or {}},
            "status": {"addresses": [{"type": "InternalIP", "address": ip} for ip in ips]}}
