# SPDX-License-Identifier: Apache-2.0
"""The agent's HTTP API over its unix socket (or TCP), and Prometheus text read back."""
import http.client
import json
import re
import socket
import urllib.parse

NAMESPACED = {"Pod": "pods", "Service": "services", "EndpointSlice": "endpointslices", "Workload": "workloads",
              "NetworkPolicy": "networkpolicies"}
CLUSTER = {"Namespace": "namespaces", "Node": "nodes", "ClusterNetworkPolicy": "clusternetworkpolicies",
           "TransparentProxy": "transparentproxies", "InterceptPolicy": "interceptpolicies",
           "NodeFilter": "nodefilters", "CIDRSet": "cidrsets"}


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout=30):
        super().__init__("localhost", timeout=timeout)
        self.unix_path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.unix_path)


class Response:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def text(self):
        return self.body.decode(errors="replace")

    def __repr__(self):
        return f"<{self.status} {self.text[:2000]}>"


class Refused(AssertionError):
    """A write that was expected to succeed did not."""


def path_of(kind, namespace, name):
    quote = urllib.parse.quote
    if kind in CLUSTER:
        return f"/v1/{CLUSTER[kind]}/{quote(name, safe='')}"
    return f"/v1/{NAMESPACED[kind]}/{quote(namespace or 'default', safe='')}/{quote(name, safe='')}"


def path_of_object(obj):
    return path_of(obj["kind"], obj["metadata"].get("namespace"), obj["metadata"]["name"])


class Api:
    """One connection a request, so that it survives restarts of the agent."""

    def __init__(self, unix_path, timeout=30):
        self.unix_path, self.timeout = unix_path, timeout

    def request(self, method, path, body=None, headers=None, query=None, content_type="application/json",
                timeout=None):
        """body: bytes as they are, anything else as JSON. Any status is returned."""
        if query:
            path += "?" + urllib.parse.urlencode({k: v for k, v in query.items() if v is not None})
        headers = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        if body is not None:
            headers.setdefault("Content-Type", content_type)
        connection = UnixConnection(self.unix_path, timeout or self.timeout)
        try:
            connection.request(method, path, body=body, headers=headers)
            answer = connection.getresponse()
            return Response(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def expect(self, method, path, body=None, status=200, **options):
        """As request, but another status is a failure that shows the answer."""
        answer = self.request(method, path, body, **options)
        if answer.status != status:
            raise Refused(f"{method} {path}: wanted {status}, got {answer!r}")
        return answer

    def put_state(self, items, **query):
        return self.expect("PUT", "/v1/state", {"items": items}, query=query).json

    def patch(self, apply=(), delete=(), **query):
        """delete: objects, or (kind, namespace, name)."""
        keys = [{"kind": d["kind"], "namespace": d["metadata"].get("namespace", ""), "name": d["metadata"]["name"]}
                if isinstance(d, dict) else dict(zip(("kind", "namespace", "name"), d)) for d in delete]
        return self.expect("PATCH", "/v1/state", {"apply": list(apply), "delete": keys}, query=query).json

    def state(self, **query):
        return self.expect("GET", "/v1/state", query=query).json

    def put_object(self, obj, **query):
        return self.expect("PUT", path_of_object(obj), obj, query=query).json

    def get_object(self, kind, namespace, name):
        return self.expect("GET", path_of(kind, namespace, name)).json

    def delete_object(self, kind, namespace, name, **query):
        return self.expect("DELETE", path_of(kind, namespace, name), query=query)

    def status(self):
        return self.expect("GET", "/v1/status").json

    def metrics(self):
        return Metrics(self.expect("GET", "/metrics").text)


_SAMPLE = re.compile(r'^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+\d+)?$')
_LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"')


class Metrics:
    """Prometheus text. metrics("penstock_x_total", reason="Policy") sums every sample with these labels."""

    def __init__(self, text):
        self.text = text
        self.samples = []
        for line in text.splitlines():
            if not line or line.startswith("#"):
                continue
            match = _SAMPLE.match(line)
            assert match, f"not a sample: {line!r}"
            labels = {k: re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), v)
                      for k, v in _LABEL.findall(match[2] or "")}
            self.samples.append((match[1], labels, float(match[3])))

    def find(self, name, **labels):
        return [(have, value) for sample, have, value in self.samples
                if sample == name and all(have.get(k) == str(v) for k, v in labels.items())]

    def __call__(self, name, **labels):
        return sum(value for _, value in self.find(name, **labels))
