# SPDX-License-Identifier: Apache-2.0
"""kube-proxy's rules, of its iptables mode and its nftables mode, from the objects that the agent is given.

    kube = KubeProxy(lab.node, "iptables")
    kube.sync([service("web", ["10.96.0.5"], [{"port": 80}]), endpoint_slice("web", ["10.77.1.2"], [{"port": 8080}])])

Chains, their order and what they match are those of kube-proxy 1.31 with ClusterCIDR; names of chains too, so that a
dump of the node's rules looks like one of a cluster. Left out: health checks, load-balancer source ranges, localhost
node ports, internalTrafficPolicy.
"""
import base64
import hashlib
import ipaddress
from dataclasses import dataclass, field

from netns import run

MODES = ["iptables", "nftables"]
POD_NETWORKS = {4: "10.64.0.0/10", 6: "fd00::/14"}  # where the pods of all nodes are: not masqueraded
SERVICE_NETWORKS = {4: "10.96.0.0/16", 6: "fd00:96::/64"}
MARK = "0x4000"


# ---- objects, as kubectl prints them ----

def service(name, cluster_ips, ports, namespace="s", labels=None, load_balancer=(), **spec):
    """ports: {"port", "name", "protocol", "targetPort", "nodePort"}, all but port optional."""
    made = {"type": "ClusterIP", "sessionAffinity": "None", "selector": {"app": name}, "internalTrafficPolicy": "Cluster",
            "ports": [{"protocol": "TCP", "targetPort": p["port"], **p} for p in ports], **spec}
    if cluster_ips:
        made |= {"clusterIP": cluster_ips[0], "clusterIPs": list(cluster_ips), "ipFamilyPolicy": "PreferDualStack",
                 "ipFamilies": ["IPv6" if ":" in ip else "IPv4" for ip in cluster_ips]}
    return {"apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": namespace, "name": name, "labels": labels or {}, "resourceVersion": "5",
                         "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": made,
            "status": {"loadBalancer": {"ingress": [{"ip": ip, "ipMode": "VIP"} for ip in load_balancer]}
                       if load_balancer else {}}}


def endpoint_slice(name, endpoints, ports, namespace="s", suffix="x7k2p"):
    """endpoints, of one family: addresses, or {"addresses", "conditions", "nodeName"}; ports: as a Service's."""
    endpoints = [{"addresses": [e]} if isinstance(e, str) else e for e in endpoints]
    v6 = any(":" in ip for e in endpoints for ip in e["addresses"]) or suffix.endswith("6")
    return {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv6" if v6 else "IPv4",
            "metadata": {"namespace": namespace, "name": f"{name}-{suffix}{'-v6' if v6 else ''}",
                         "labels": {"kubernetes.io/service-name": name,
                                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}},
            "endpoints": [{"conditions": {"ready": True, "serving": True, "terminating": False}, **e} for e in endpoints],
            "ports": [{"name": "", "protocol": "TCP", **p} for p in ports]}


# ---- what kube-proxy makes of them: a Service's port, for one family ----

@dataclass
class Port:
    name: str  # namespace/service:port
    protocol: str
    port: int
    cluster_ips: list
    external_ips: list  # and load balancers'
    node_port: int
    affinity: int  # seconds, or 0
    local: bool    # externalTrafficPolicy: Local
    backends: list = field(default_factory=list)       # (address, port)
    here: list = field(default_factory=list)           # those of them on this node

    def hash(self, *more):
        digest = hashlib.sha256("".join([self.name, self.protocol, *map(str, more)]).encode()).digest()
        return base64.b32encode(digest).decode()[:16]


def ports_of(objects, family, node, choose=()):
    slices = [o for o in objects if o["kind"] == "EndpointSlice" and o["addressType"] == f"IPv{family}"]
    of_family = [o for o in objects if o["kind"] == "Service"]
    for one in of_family:
        spec, meta = one["spec"], one["metadata"]
        cluster_ips = [ip for ip in spec.get("clusterIPs", []) if ip != "None" and version(ip) == family]
        if spec["type"] == "ExternalName" or not cluster_ips:
            continue
        balancers = [i["ip"] for i in one["status"]["loadBalancer"].get("ingress", []) if i.get("ipMode") != "Proxy"]
        mine = [s for s in slices if s["metadata"]["namespace"] == meta["namespace"] and
                s["metadata"]["labels"].get("kubernetes.io/service-name") == meta["name"]]
        for port in spec["ports"]:
            made = Port(f"{meta['namespace']}/{meta['name']}:{port.get('name', '')}", port["protocol"].lower(),
                        port["port"], cluster_ips,
                        [ip for ip in spec.get("externalIPs", []) + balancers if version(ip) == family],
                        port.get("nodePort", 0), affinity_of(spec), spec.get("externalTrafficPolicy") == "Local")
            choose_backends(made, mine, port, node, choose)
            yield made


def choose_backends(made, slices, port, node, choose):
    """Ready ones; without any, those that still serve while they end. `choose`: as if the dice fell always there."""
    found = {"ready": [], "serving": []}
    for one in slices:
        wanted = (port.get("name", ""), port["protocol"])
        for number in [p["port"] for p in one["ports"] if (p["name"], p["protocol"]) == wanted]:
            for endpoint in one["endpoints"]:
                conditions = endpoint["conditions"]
                entry = (endpoint["addresses"][0], number, endpoint.get("nodeName") == node)
                if conditions.get("ready") is not False:
                    found["ready"].append(entry)
                elif conditions.get("serving") is not False and conditions.get("terminating"):
                    found["serving"].append(entry)
    usable = sorted(set(found["ready"] or found["serving"]))
    usable = [entry for entry in usable if entry[0] in choose] or usable
    made.backends, made.here = [entry[:2] for entry in usable], [entry[:2] for entry in usable if entry[2]]


def affinity_of(spec):
    if spec.get("sessionAffinity") != "ClientIP":
        return 0
    return spec.get("sessionAffinityConfig", {}).get("clientIP", {}).get("timeoutSeconds", 10800)


def version(ip):
    return ipaddress.ip_address(ip).version


# ---- iptables mode ----

def iptables_rules(ports, family, masquerade_all):
    full, pods = (32 if family == 4 else 128), POD_NETWORKS[family]
    nat, portals, node_ports, refuse, outer = [], [], [], [], []
    chains = ["KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ"]

    def dice(backends, chain):
        if port.affinity:
            nat.extend(f"-A {chain} -m recent --name {sep(b)} --rcheck --seconds {port.affinity} --reap -j {sep(b)}"
                       for b in backends)
        for left, one in zip(range(len(backends), 0, -1), backends):
            luck = f" -m statistic --mode random --probability {1 / left:.10f}" if left > 1 else ""
            nat.append(f"-A {chain}{luck} -j {sep(one)}")

    def sep(backend):
        return "KUBE-SEP-" + port.hash(*backend)

    for port in ports:
        match = f"-p {port.protocol} -m {port.protocol} --dport {port.port}"
        at_node = f"-p {port.protocol} -m {port.protocol} --dport {port.node_port}"
        svc, ext, svl = (f"KUBE-{kind}-{port.hash()}" for kind in ("SVC", "EXT", "SVL"))
        if not port.backends:
            refuse += [f"-A KUBE-SERVICES -d {ip}/{full} {match} -j REJECT" for ip in port.cluster_ips]
            outer += [f"-A KUBE-EXTERNAL-SERVICES -d {ip}/{full} {match} -j REJECT" for ip in port.external_ips]
            if port.node_port:
                outer.append(f"-A KUBE-EXTERNAL-SERVICES -m addrtype --dst-type LOCAL {at_node} -j REJECT")
            continue
        chains += [svc, ext, svl, *map(sep, port.backends)]
        portals += [f"-A KUBE-SERVICES -d {ip}/{full} {match} -j {svc}" for ip in port.cluster_ips]
        portals += [f"-A KUBE-SERVICES -d {ip}/{full} {match} -j {ext}" for ip in port.external_ips]
        if port.node_port:
            node_ports.append(f"-A KUBE-NODEPORTS {at_node} -j {ext}")
        if port.local:
            nat += [f"-A {ext} -s {pods} -j {svc}", f"-A {ext} -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ",
                    f"-A {ext} -m addrtype --src-type LOCAL -j {svc}", f"-A {ext} -j {svl}"]
            dice(port.here, svl)
        else:
            nat += [f"-A {ext} -j KUBE-MARK-MASQ", f"-A {ext} -j {svc}"]
        who = "" if masquerade_all else f"! -s {pods} "
        nat += [f"-A {svc} {who}-d {ip}/{full} {match} -j KUBE-MARK-MASQ" for ip in port.cluster_ips]
        dice(port.backends, svc)
        for ip, number in port.backends:
            chain = sep((ip, number))
            keep = f"-m recent --name {chain} --set " if port.affinity else ""
            nat += [f"-A {chain} -s {ip}/{full} -j KUBE-MARK-MASQ",
                    f"-A {chain} -p {port.protocol} {keep}-m {port.protocol} -j DNAT --to-destination {joined(ip, number)}"]
    return "\n".join([
        "*nat", *[f":{chain} - [0:0]" for chain in chains],
        "-A PREROUTING -j KUBE-SERVICES", "-A OUTPUT -j KUBE-SERVICES", "-A POSTROUTING -j KUBE-POSTROUTING",
        f"-A KUBE-POSTROUTING -m mark ! --mark {MARK}/{MARK} -j RETURN", f"-A KUBE-POSTROUTING -j MARK --xor-mark {MARK}",
        "-A KUBE-POSTROUTING -j MASQUERADE --random-fully", f"-A KUBE-MARK-MASQ -j MARK --or-mark {MARK}",
        *portals, "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS", *node_ports, *nat, "COMMIT",
        "*filter", ":KUBE-SERVICES - [0:0]", ":KUBE-EXTERNAL-SERVICES - [0:0]", ":KUBE-FORWARD - [0:0]",
        "-A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES", "-A FORWARD -j KUBE-FORWARD",
        "-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES",
        "-A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES",
        "-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES", "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
        f"-A KUBE-FORWARD -m mark --mark {MARK}/{MARK} -j ACCEPT",
        "-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", *refuse, *outer, "COMMIT", ""])


def joined(ip, port):
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


# ---- nftables mode ----

def nftables_rules(ports, family, masquerade_all, node_ips):
    ip, kind, pods = ("ip", "ipv4_addr", POD_NETWORKS[4]) if family == 4 else ("ip6", "ipv6_addr", POD_NETWORKS[6])
    elements = {"service-ips": [], "service-nodeports": [], "no-endpoint-services": [], "no-endpoint-nodeports": []}
    sets, chains = [], []

    def chain(name, *rules):
        chains.extend([f"chain {name} {{", *rules, "}"])

    def dice(backends):
        stick = [f"{ip} saddr @affinity-{label(b)} goto endpoint-{label(b)}" for b in backends if port.affinity]
        ways = ", ".join(f"{n} : goto endpoint-{label(b)}" for n, b in enumerate(backends))
        return [*stick, f"numgen random mod {len(backends)} vmap {{ {ways} }}" if backends else "drop"]

    def label(backend):
        return f"{port.hash(*backend)[:8]}-{port.name.replace(':', '.')}-{port.protocol}-{backend[0].replace(':', '.')}"

    for port in ports:
        name = f"{port.hash()[:8]}-{port.name.replace(':', '.')}-{port.protocol}"
        key, at_node = f"{port.protocol} . {port.port}", f"{port.protocol} . {port.node_port}"
        if not port.backends:
            elements["no-endpoint-services"] += [f"{a} . {key} : goto reject-chain"
                                                 for a in port.cluster_ips + port.external_ips]
            elements["no-endpoint-nodeports"] += [f"{at_node} : goto reject-chain"] * bool(port.node_port)
            continue
        elements["service-ips"] += [f"{a} . {key} : goto service-{name}" for a in port.cluster_ips]
        elements["service-ips"] += [f"{a} . {key} : goto external-{name}" for a in port.external_ips]
        elements["service-nodeports"] += [f"{at_node} : goto external-{name}"] * bool(port.node_port)
        if port.local:
            chain(f"local-{name}", *dice(port.here))
        for backend in port.backends:
            keep = []
            if port.affinity:
                sets.append(f"set affinity-{label(backend)} {{ type {kind}; flags dynamic, timeout; "
                            f"timeout {port.affinity}s; }}")
                keep = [f"update @affinity-{label(backend)} {{ {ip} saddr }}"]
            chain(f"endpoint-{label(backend)}", f"{ip} saddr {backend[0]} jump mark-for-masquerade", *keep,
                  f"meta l4proto {port.protocol} dnat to {joined(*backend)}")
        who = "" if masquerade_all else f" {ip} saddr != {pods}"
        chain(f"service-{name}", *[f"{ip} daddr {a} {port.protocol} dport {port.port}{who} jump mark-for-masquerade"
                                   for a in port.cluster_ips], *dice(port.backends))
        chain(f"external-{name}", *[
            f"{ip} saddr {pods} goto service-{name}", "fib saddr type local jump mark-for-masquerade",
            f"fib saddr type local goto service-{name}", f"goto local-{name}"] if port.local else
            ["jump mark-for-masquerade", f"goto service-{name}"])

    def table(name, kind, members):
        inside = f" elements = {{ {', '.join(members)} }};" if members else ""
        return f"{name} {{ type {kind};{inside} }}"

    def verdicts(name, kind):
        return table(f"map {name}", f"{kind} : verdict", elements[name])

    return "\n".join([
        f"add table {ip} kube-proxy", f"delete table {ip} kube-proxy", f"table {ip} kube-proxy {{",
        'comment "rules for kube-proxy"',
        table("set cluster-ips", kind, sorted({a for port in ports for a in port.cluster_ips})),
        table("set nodeport-ips", kind, [a for a in node_ips if version(a) == family]),
        verdicts("service-ips", f"{kind} . inet_proto . inet_service"),
        verdicts("service-nodeports", "inet_proto . inet_service"),
        verdicts("no-endpoint-services", f"{kind} . inet_proto . inet_service"),
        verdicts("no-endpoint-nodeports", "inet_proto . inet_service"), *sets,
        "chain reject-chain { reject; }",
        f"chain service-endpoints-check {{ {ip} daddr . meta l4proto . th dport vmap @no-endpoint-services; }}",
        f"chain nodeport-endpoints-check {{ {ip} daddr @nodeport-ips",
        "meta l4proto . th dport vmap @no-endpoint-nodeports; }",
        f"chain cluster-ips-check {{ {ip} daddr @cluster-ips reject; {ip} daddr {SERVICE_NETWORKS[family]} drop; }}",
        f"chain mark-for-masquerade {{ meta mark set meta mark or {MARK}; }}",
        f"chain masquerading {{ meta mark and {MARK} == 0 return; meta mark set meta mark xor {MARK};",
        "masquerade fully-random; }",
        *chains,
        "chain services {", f"{ip} daddr . meta l4proto . th dport vmap @service-ips",
        f"{ip} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports", "}",
        "chain filter-input { type filter hook input priority 0;",
        "ct state new jump nodeport-endpoints-check", "ct state new jump service-endpoints-check", "}",
        "chain filter-forward { type filter hook forward priority 0;",
        "ct state new jump service-endpoints-check", "ct state new jump cluster-ips-check", "}",
        "chain filter-output { type filter hook output priority -110; ct state new jump service-endpoints-check; }",
        "chain filter-output-post-dnat { type filter hook output priority -90; ct state new jump cluster-ips-check; }",
        "chain nat-prerouting { type nat hook prerouting priority -100; jump services; }",
        "chain nat-output { type nat hook output priority -100; jump services; }",
        "chain nat-postrouting { type nat hook postrouting priority 100; jump masquerading; }", "}", ""])


# ---- the program ----

class KubeProxy:
    """mode: "iptables" (by nf_tables, as Debian and most images have it), "iptables-legacy" or "nftables"."""

    def __init__(self, space, mode, node="node-1", node_ips=(), masquerade_all=False):
        self.space, self.mode, self.node, self.node_ips = space, mode, node, node_ips
        self.masquerade_all, self.objects = masquerade_all, []

    def sync(self, objects=None, choose=()):
        """Exactly these, in one transaction a family; what is established lives on. choose: addresses of backends; where
        a port has some of them it is sent only there."""
        self.objects = self.objects if objects is None else objects
        for family in (4, 6):
            ports = list(ports_of(self.objects, family, self.node, choose))
            if self.mode == "nftables":
                self.load("nft", "-f", "-", text=nftables_rules(ports, family, self.masquerade_all, self.node_ips))
            else:
                tool = ("ip" if family == 4 else "ip6") + "tables-" + ("legacy" if "legacy" in self.mode else "nft")
                self.load(f"{tool}-restore", "-w", "5", text=iptables_rules(ports, family, self.masquerade_all))

    def load(self, *command, text):
        run(*self.space.command(*command), input=text)

    def lacking(self):
        """Why this mode cannot be had here, or None: its matches and targets, tried one by one."""
        def fails(command, text):
            done = run(*self.space.command(*command), input=text, check=False)
            return f"{' '.join(command)}: {done.stderr.strip()}" if done.returncode else None
        if self.mode == "nftables":
            return fails(["nft", "-f", "-"],
                         "table ip pt-try { set s { type ipv4_addr; flags dynamic, timeout; timeout 9s; }\n"
                         "chain c { type nat hook postrouting priority 100; meta mark 1 masquerade fully-random; }\n"
                         "chain d { fib saddr type local numgen random mod 2 vmap { 0 : drop, 1 : drop }; }\n}\n"
                         "delete table ip pt-try\n")
        tool = "iptables-legacy-restore" if "legacy" in self.mode else "iptables-nft-restore"
        for rule in ("-m statistic --mode random --probability 0.5", "-m recent --name pt --rcheck --seconds 5 --reap",
                     "-m addrtype --dst-type LOCAL", "-m mark --mark 1/1", "-j MARK --xor-mark 1"):
            rules = f"*nat\n-A PREROUTING {rule}\n-A POSTROUTING -j MASQUERADE --random-fully\nCOMMIT\n"
            if why := fails([tool, "--test"], rules):
                return why
        return None
