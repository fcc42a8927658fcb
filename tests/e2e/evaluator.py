# SPDX-License-Identifier: Apache-2.0
"""A naive evaluator of policy: objects as dicts in, the verdict of one packet out.

Written from the Kubernetes API documentation of NetworkPolicy and from the contract's section 4 alone, to be compared
with the compiled tables and the kernel. It shares nothing with either, and it is slow and obvious on purpose: every
packet looks at every object again.
"""
import ipaddress
from dataclasses import dataclass, replace

from evaluator_services import Services

ALLOW, DENY, INTERCEPT, PENDING = "Allow", "Deny", "Intercept", "Pending"
POLICY, ISOLATED, DEFAULT = "Policy", "Isolated", "Default"


@dataclass(frozen=True)
class Packet:
    source: str
    destination: str
    protocol: str  # TCP, UDP, SCTP, or another name: without ports
    port: int = 0  # destination


@dataclass(frozen=True)
class Side:
    """One direction's decision. rule: (kind, namespace, name, index), index -1 for isolation; None for Default.

    taken: the InterceptPolicy rule that matched what policy allows, if one did; without proxy it says Bypass.
    passed: the first Pass rule of a policy in audit mode that led on.
    """
    verdict: str
    reason: str
    rule: tuple = None
    proxy: str = None
    taken: tuple = None
    passed: tuple = None


@dataclass(frozen=True)
class Verdict:
    egress: Side   # None: the source is not local
    ingress: Side  # None: the destination is not local

    @property
    def decisive(self):
        """(direction, its side) of the InterceptPolicy rule that decides: egress rules first, otherwise ingress rules."""
        if any(side and side.verdict == DENY for side in (self.egress, self.ingress)):
            return None, None
        for direction, side in (("Egress", self.egress), ("Ingress", self.ingress)):
            if side and side.taken:
                return direction, side
        return None, None

    @property
    def action(self):
        if any(side and side.verdict == DENY for side in (self.egress, self.ingress)):
            return DENY
        return INTERCEPT if self.proxy else ALLOW

    @property
    def proxy(self):
        _, side = self.decisive
        return side.proxy if side else None

    @property
    def hit(self):
        """(policy, direction, index) of the rule that hands the connection over, or None."""
        direction, side = self.decisive
        return (side.taken[2], direction, side.taken[3]) if side and side.proxy else None


@dataclass(frozen=True)
class Asked:
    """What a connection to a Service's address meets where it enters, before it is translated.

    action: Allow, Deny, Intercept, or Pending: where it leaves, the backend that was chosen decides.
    sides: each backend's egress; rules: of those that may be named as the one that refuses.
    """
    action: str
    sides: dict
    proxy: str = None
    taken: tuple = None

    @property
    def rules(self):
        return {side.rule for side in self.sides.values() if side.verdict == DENY}


def would(enforced, with_audit, in_audit):
    """What policies in audit mode would make of one direction: (action, the rule of theirs that would have decided).

    enforced, with_audit: its Side without them, and as if they were enforced too; in_audit: their (kind, namespace, name).
    """
    refusal = (enforced.verdict == DENY) != (with_audit.verdict == DENY)
    if not refusal and enforced.taken != with_audit.taken and INTERCEPT in (enforced.verdict, with_audit.verdict):
        return with_audit.verdict, with_audit.taken
    rule = with_audit.rule if with_audit.rule and with_audit.rule[:3] in in_audit else with_audit.passed
    return with_audit.verdict, rule


# ---- selectors ----

def selects(selector, labels):
    """A Kubernetes LabelSelector; {} selects everything. None is the caller's business."""
    for key, value in (selector.get("matchLabels") or {}).items():
        if key not in labels or labels[key] != value:
            return False
    for expression in selector.get("matchExpressions") or []:
        key, operator, values = expression["key"], expression["operator"], expression.get("values") or []
        if operator == "In":
            held = key in labels and labels[key] in values
        elif operator == "NotIn":
            held = key not in labels or labels[key] not in values
        elif operator == "Exists":
            held = key in labels
        elif operator == "DoesNotExist":
            held = key not in labels
        else:
            raise ValueError(f"operator {operator}")
        if not held:
            return False
    return True


def in_network(ip, cidr):
    address, network = ipaddress.ip_address(ip), ipaddress.ip_network(cidr, strict=False)
    return address.version == network.version and address in network


class Endpoint:
    """A Pod or Workload: what has addresses, labels and named ports."""

    def __init__(self, obj, ips, ports, local):
        self.namespace = obj["metadata"].get("namespace") or "default"
        self.name = obj["metadata"]["name"]
        self.labels = obj["metadata"].get("labels") or {}
        self.ips = [str(ipaddress.ip_address(ip)) for ip in ips]
        self.ports, self.local = ports, local
        self.created = obj["metadata"].get("creationTimestamp") or ""


class World:
    def __init__(self, objects, node="node-1", local=None, audit=False, own=()):
        """local: the (namespace, name) that have an interface here; None: every Workload and this node's Pods.
        own: addresses of this node, besides those that its Node object has.

        audit: as if what is in audit mode were enforced too; otherwise it is as if it were not there.
        """
        self.node, self.local = node, local
        self.namespaces, self.endpoints, self.policies, self.intercepts, self.proxies = {}, [], [], [], {}
        self.cluster = []
        self.nodes = {}  # address: labels
        self.own = set(own)
        self.services = Services(objects)
        self.in_audit = {_identity(obj) for obj in objects if audited(obj)}
        for obj in objects:
            kind = obj["kind"]
            if audited(obj) and not audit:
                continue
            if kind == "Namespace":
                self.namespaces[obj["metadata"]["name"]] = dict(obj["metadata"].get("labels") or {})
            elif kind == "Pod":
                self._add_pod(obj)
            elif kind == "Workload":
                self._add_workload(obj)
            elif kind == "Node":
                for entry in (obj.get("status") or {}).get("addresses") or []:
                    if entry["type"] in ("InternalIP", "ExternalIP"):
                        ip = str(ipaddress.ip_address(entry["address"]))
                        self.nodes[ip] = obj["metadata"].get("labels") or {}
                        self.own |= {ip} if obj["metadata"]["name"] == node else set()
            elif kind == "NetworkPolicy":
                self.policies.append(obj)
            elif kind == "ClusterNetworkPolicy":
                self.cluster.append(obj)
            elif kind == "InterceptPolicy":
                self.intercepts.append(obj)
            elif kind == "TransparentProxy":
                self.proxies[obj["metadata"]["name"]] = obj
        # Two running Pods with one address: the younger has it.
        self.by_ip = {}
        for endpoint in sorted(self.endpoints, key=lambda e: e.created):
            for ip in endpoint.ips:
                self.by_ip[ip] = endpoint

    def _add_pod(self, obj):
        spec, status = obj.get("spec") or {}, obj.get("status") or {}
        if spec.get("hostNetwork") or status.get("phase") in ("Succeeded", "Failed"):
            return
        ips = [entry["ip"] for entry in status.get("podIPs") or []]
        containers = list(spec.get("containers") or [])
        containers += [c for c in spec.get("initContainers") or [] if c.get("restartPolicy") == "Always"]
        ports = [{"name": p.get("name", ""), "port": p["containerPort"], "protocol": p.get("protocol") or "TCP"}
                 for c in containers for p in c.get("ports") or []]
        self._add(obj, ips, ports, spec.get("nodeName") == self.node)

    def _add_workload(self, obj):
        spec = obj["spec"]
        ports = [{"name": p.get("name", ""), "port": p["port"], "protocol": p.get("protocol") or "TCP"}
                 for p in spec.get("ports") or []]
        self._add(obj, spec["ips"], ports, spec.get("node", "") in ("", self.node))

    def _add(self, obj, ips, ports, here):
        key = (obj["metadata"].get("namespace") or "default", obj["metadata"]["name"])
        local = here and (self.local is None or key in self.local)
        self.endpoints.append(Endpoint(obj, ips, ports, local))

    def namespace_labels(self, name):
        return {**self.namespaces.get(name, {}), "kubernetes.io/metadata.name": name}

    def endpoint(self, ip):
        return self.by_ip.get(str(ipaddress.ip_address(ip)))

    # ---- one packet ----

    def judge(self, packet):
        source, destination = self.endpoint(packet.source), self.endpoint(packet.destination)
        egress = ingress = None
        if source and source.local:
            egress = self._direction("Egress", source, destination, packet.destination, destination, packet)
            egress = self._intercepted(egress, "Egress", source, destination, packet.destination, destination, packet)
        if destination and destination.local:
            ingress = self._direction("Ingress", destination, source, packet.source, destination, packet)
            ingress = self._intercepted(ingress, "Ingress", destination, source, packet.source, destination, packet)
        return Verdict(egress, ingress)

    # ---- a connection to a Service ----

    def backends(self, packet):
        """The backends of the Service that the packet is sent to, or None."""
        ip = str(ipaddress.ip_address(packet.destination))
        return self.services.backends(ip, packet.port, packet.protocol, ip in self.nodes or ip in self.own)

    def ask(self, packet):
        """Asked, of what a local source begins; None: it is no Service's address, or the source is not local."""
        source, backends = self.endpoint(packet.source), self.backends(packet)
        if backends is None or source is None or not source.local:
            return None
        sides = {b: self.judge(replace(packet, destination=b.ip, port=b.port)).egress for b in backends}
        refused = [b for b, side in sides.items() if side.verdict == DENY]
        steered = self._steered(source, packet, [side for side in sides.values() if side.verdict != DENY])
        if refused and (len(refused) == len(sides) or steered.proxy or any(b.ip in self.own for b in refused)):
            return Asked(DENY, sides)
        if refused or not (sides or steered.proxy):
            return Asked(PENDING, sides)
        return Asked(steered.verdict, sides, steered.proxy, steered.taken)

    def behind(self, packet, backend):
        """The proxy that gets what is sent on to this backend and passes, by an ingress rule of the backend; or None."""
        sides = self.judge(replace(packet, destination=backend.ip, port=backend.port))
        denied = DENY in [side.verdict for side in (sides.egress, sides.ingress) if side]
        if denied or not sides.ingress or packet.source in self.own or self._egress_asked(packet):
            return None
        return sides.ingress.proxy

    def _egress_asked(self, packet):
        """An egress rule is about the Service's address, or one, also with Bypass, about each backend that is allowed."""
        source, backends, peer = self.endpoint(packet.source), self.backends(packet), self.endpoint(packet.destination)
        if source is None or not source.local:
            return False
        if self._intercepted(Side(ALLOW, DEFAULT), "Egress", source, peer, packet.destination, peer, packet).taken:
            return True
        sides = [self.judge(replace(packet, destination=b.ip, port=b.port)).egress for b in backends]
        found = {(side.proxy, side.taken is None) for side in sides if side.verdict != DENY}
        return len(found) == 1 and not found.pop()[1]

    def _steered(self, source, packet, allowed):
        """What InterceptPolicies say of the Service's address itself, or else all backends that policy allows."""
        peer = self.endpoint(packet.destination)
        own = self._intercepted(Side(ALLOW, DEFAULT), "Egress", source, peer, packet.destination, peer, packet)
        if own.taken or not allowed:
            return own
        if len({(side.proxy, side.taken is None) for side in allowed}) > 1:
            return own
        rules = {side.taken for side in allowed}
        return replace(own, verdict=allowed[0].verdict, proxy=allowed[0].proxy, taken=rules.pop() if len(rules) == 1 else None)

    def _direction(self, direction, *words):
        """Admin tier, then NetworkPolicy, then Baseline tier, then allow."""
        passed = None
        for decide in (self._admin, self._network_policies, self._baseline):
            side, audited_pass = decide(direction, *words)
            passed = passed or audited_pass
            if side:
                return replace(side, passed=passed)
        return Side(ALLOW, DEFAULT, passed=passed)

    def _admin(self, *words):
        return self._tier("Admin", *words)

    def _baseline(self, *words):
        return self._tier("Baseline", *words)

    def _tier(self, tier, direction, subject, peer, peer_ip, destination, packet):
        """(what the first matching rule says, None); Pass says nothing: (None, the rule if it is audited)."""
        policies = [p for p in self.cluster if p["spec"]["tier"] == tier]
        for policy in sorted(policies, key=lambda p: (p["spec"]["priority"], p["metadata"]["name"])):
            if not self._cluster_peer(policy["spec"]["subject"], subject, None):
                continue
            for index, rule in enumerate(policy["spec"].get(direction.lower()) or []):
                peers = rule["from" if direction == "Ingress" else "to"]
                action, found = rule["action"], (*_identity(policy), index)
                if not all(_known_peer(p, direction) for p in peers):
                    if action == "Accept":
                        continue
                    return Side(DENY, POLICY, found), None
                if not any(self._cluster_peer(p, peer, peer_ip) for p in peers):
                    continue
                if not self._protocols(rule, destination, packet):
                    continue
                if action == "Pass":
                    return None, found if audited(policy) else None
                return Side(ALLOW if action == "Accept" else DENY, POLICY, found), None
        return None, None

    def _network_policies(self, direction, subject, peer, peer_ip, destination, packet):
        """subject: the local endpoint that is judged; destination: the endpoint whose named ports count."""
        isolation = None
        for policy in sorted(self.policies, key=_namespace_and_name):
            namespace, name = _namespace_and_name(policy)
            spec = policy["spec"]
            if namespace != subject.namespace or not selects(spec.get("podSelector") or {}, subject.labels):
                continue
            if direction not in policy_types(spec):
                continue
            isolation = isolation or ("NetworkPolicy", namespace, name, -1)
            rules = spec.get("ingress" if direction == "Ingress" else "egress") or []
            for index, rule in enumerate(rules):
                peers = rule.get("from" if direction == "Ingress" else "to") or []
                if peers and not any(self._peer(p, namespace, peer, peer_ip) for p in peers):
                    continue
                ports = rule.get("ports") or []
                if ports and not any(self._port(p, destination, packet) for p in ports):
                    continue
                return Side(ALLOW, POLICY, ("NetworkPolicy", namespace, name, index)), None
        return (Side(DENY, ISOLATED, isolation) if isolation else None), None

    def _peer(self, peer, policy_namespace, endpoint, ip):
        block = peer.get("ipBlock")
        if block is not None:
            return in_network(ip, block["cidr"]) and not any(in_network(ip, e) for e in block.get("except") or [])
        if endpoint is None:
            return False
        if peer.get("namespaceSelector") is None:
            if endpoint.namespace != policy_namespace:
                return False
        elif not selects(peer["namespaceSelector"], self.namespace_labels(endpoint.namespace)):
            return False
        return selects(peer.get("podSelector") or {}, endpoint.labels)

    @staticmethod
    def _port(port, destination, packet):
        if packet.protocol != (port.get("protocol") or "TCP"):
            return False
        wanted = port.get("port")
        if wanted is None:
            return True
        if isinstance(wanted, str):
            return destination is not None and any(
                have["name"] == wanted and have["protocol"] == packet.protocol and have["port"] == packet.port
                for have in destination.ports)
        return wanted <= packet.port <= (port.get("endPort") or wanted)

    # ---- interception: asked only about what policy allows ----

    def _intercepted(self, side, direction, subject, peer, peer_ip, destination, packet):
        """The direction's decision with what the first matching rule of all InterceptPolicies adds to it."""
        if side.verdict == DENY:
            return side
        order = sorted(self.intercepts, key=lambda p: (p["spec"].get("priority", 0), p["metadata"]["name"]))
        for policy in order:
            if not self._cluster_peer(policy["spec"]["subject"], subject, None):
                continue
            rules = policy["spec"].get("ingress" if direction == "Ingress" else "egress") or []
            for index, rule in enumerate(rules):
                peers = rule["from" if direction == "Ingress" else "to"]
                if not any(self._cluster_peer(p, peer, peer_ip) for p in peers):
                    continue
                if not self._protocols(rule, destination, packet):
                    continue
                taken = ("InterceptPolicy", "", policy["metadata"]["name"], index)
                if rule["action"] == "Bypass":
                    return replace(side, taken=taken)
                return replace(side, verdict=INTERCEPT, reason="Intercept", proxy=rule["proxy"], taken=taken)
        return side

    def _cluster_peer(self, peer, endpoint, ip):
        """A peer or subject in ClusterNetworkPolicy's shape."""
        if peer.get("networks") is not None:
            return any(in_network(ip, cidr) for cidr in peer["networks"])
        if peer.get("nodes") is not None:
            node = self.nodes.get(str(ipaddress.ip_address(ip)))
            return endpoint is None and node is not None and selects(peer["nodes"], node)
        if endpoint is None:
            return False
        labels = self.namespace_labels(endpoint.namespace)
        if peer.get("namespaces") is not None:
            return selects(peer["namespaces"], labels)
        if peer.get("pods") is not None:
            pods = peer["pods"]
            return selects(pods.get("namespaceSelector") or {}, labels) and \
                selects(pods.get("podSelector") or {}, endpoint.labels)
        return False

    def _protocols(self, rule, destination, packet):
        """What the rule's protocols cover. Absent, or by a port's name alone, they are the proxy's, and a Bypass covers
        whatever might have been handed over. One that is named is covered though the proxy does not take it: then the
        proxy is unavailable, as one is that is absent, which takes TCP.
        """
        taken = True
        if rule["action"] == "Intercept":
            taken = packet.protocol in \
                ((self.proxies.get(rule["proxy"]) or {"spec": {}})["spec"].get("protocols") or ["TCP"])
        terms = rule.get("protocols")
        if not terms:
            return taken
        return any(self._protocol(term, destination, packet) and (taken or "destinationNamedPort" not in term)
                   for term in terms)

    @staticmethod
    def _protocol(term, destination, packet):
        if "destinationNamedPort" in term:
            return destination is not None and any(
                have["name"] == term["destinationNamedPort"] and have["protocol"] == packet.protocol and
                have["port"] == packet.port for have in destination.ports)
        (name, body), = term.items()
        if packet.protocol != name.upper():
            return False
        port = (body or {}).get("destinationPort")
        if not port:
            return True
        if port.get("number") is not None:
            return packet.port == port["number"]
        return port["range"]["start"] <= packet.port <= port["range"]["end"]


def _namespace_and_name(policy):
    return policy["metadata"].get("namespace") or "default", policy["metadata"]["name"]


def _identity(policy):
    space = policy["metadata"].get("namespace") or "default" if policy["kind"] == "NetworkPolicy" else ""
    return policy["kind"], space, policy["metadata"]["name"]


def audited(obj):
    return "Policy" in obj["kind"] and (obj["metadata"].get("annotations") or {}).get("penstock.dev/mode") == "audit"


def _known_peer(peer, direction):
    known = {"namespaces", "pods"} | ({"nodes", "networks", "domainNames"} if direction == "Egress" else set())
    return bool(known & set(peer))


def policy_types(spec):
    """Absent or empty: Ingress, and Egress when there are egress rules."""
    if spec.get("policyTypes"):
        return spec["policyTypes"]
    return ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]
