# SPDX-License-Identifier: Apache-2.0
"""Services, naively: which address, port and protocol is a Service's, and where it may be sent.

Written from the Kubernetes API documentation of Service and EndpointSlice and from what kube-proxy does with them. Every
question looks at every Service and every slice again.
"""
import ipaddress
from dataclasses import dataclass

SERVICE_NAME = "kubernetes.io/service-name"


@dataclass(frozen=True, order=True)
class Backend:
    ip: str
    port: int


class Services:
    def __init__(self, objects):
        self.services = [o for o in objects if o["kind"] == "Service"]
        self.slices = [o for o in objects if o["kind"] == "EndpointSlice"]

    def backends(self, ip, port, protocol, is_node):
        """The backends that are used, or None: it is no Service's. Addresses come before node ports.

        is_node: the address is a node's.
        """
        for wanted in (self._addressed, self._node_port):
            for service in self.services:
                for entry in service["spec"].get("ports") or []:
                    if (entry.get("protocol") or "TCP") == protocol and wanted(service, entry, ip, port, is_node):
                        return self._usable(service, entry, _version(ip))
        return None

    @staticmethod
    def _addressed(service, entry, ip, port, _):
        return entry["port"] == port and _plain(ip) in addresses(service, _version(ip))

    @staticmethod
    def _node_port(service, entry, ip, port, is_node):
        return is_node and entry.get("nodePort") == port and translated(service, _version(ip))

    def _usable(self, service, entry, family):
        """Ready ones; without any, those that still serve while they end."""
        ready, ending = set(), set()
        for one in self.slices:
            if _key(one) != _key(service) or one["addressType"] != f"IPv{family}":
                continue
            for target in one.get("ports") or []:
                if (target.get("name") or "") != (entry.get("name") or "") or target.get("port") is None or \
                        (target.get("protocol") or "TCP") != (entry.get("protocol") or "TCP"):
                    continue
                for endpoint in one.get("endpoints") or []:
                    backend = Backend(_plain(endpoint["addresses"][0]), target["port"])
                    conditions = endpoint.get("conditions") or {}
                    if conditions.get("ready") is not False:
                        ready.add(backend)
                    elif conditions.get("serving") is not False and conditions.get("terminating"):
                        ending.add(backend)
        return sorted(ready or ending)


def translated(service, family):
    """Only what has a cluster IP of a family is translated in it."""
    spec = service["spec"]
    return spec.get("type") != "ExternalName" and \
        any(ip != "None" and _version(ip) == family for ip in spec.get("clusterIPs") or [])


def addresses(service, family):
    if not translated(service, family):
        return []
    spec = service["spec"]
    balancers = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
    found = [*spec["clusterIPs"], *(spec.get("externalIPs") or []),
             *[entry["ip"] for entry in balancers if entry.get("ip") and entry.get("ipMode") != "Proxy"]]
    return [_plain(ip) for ip in found if _version(ip) == family]


def _key(obj):
    """(namespace, name) of the Service that it is, or that it belongs to."""
    meta = obj["metadata"]
    name = meta["name"] if obj["kind"] == "Service" else (meta.get("labels") or {}).get(SERVICE_NAME)
    return meta.get("namespace") or "default", name


def _plain(ip):
    return str(ipaddress.ip_address(ip))


def _version(ip):
    return ipaddress.ip_address(ip).version
