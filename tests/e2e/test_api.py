# SPDX-License-Identifier: Apache-2.0
"""The HTTP side alone: tests/tools/server.c is the real server over an applying thread that keeps all in memory."""
import contextlib
import gzip
import json
import os
import signal
import socket
import stat
import subprocess
import threading
import time

import pytest

from api import Api
from lab import BUILD

SERVER = os.path.join(BUILD, "tools", "server")
METRICS = ("127.0.0.1", 17643)


def connect(path, data=b"", timeout=10):
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout)
    connection.connect(path)
    connection.sendall(data)
    return connection


class Server:
    def __init__(self, directory, stdin=subprocess.DEVNULL, **options):
        assert os.path.exists(SERVER), f"{SERVER} is not built"
        self.socket = os.path.join(directory, "penstock.sock")
        command = [SERVER, "--unix", self.socket]
        for name, value in options.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        self.log_path = os.path.join(directory, "log")
        with open(self.log_path, "a") as log:
            self.process = subprocess.Popen(command, stderr=log, stdin=stdin)
        self.api = Api(self.socket)
        end = time.monotonic() + 10
        while not os.path.exists(self.socket) and time.monotonic() < end:
            assert self.process.poll() is None, self.log
            time.sleep(0.005)
        while True:
            try:
                self.api.expect("GET", "/healthz")
                break
            except ConnectionRefusedError:  # a killed one's file, or not listening yet
                assert time.monotonic() < end
                time.sleep(0.005)
        self.descriptors = descriptors(self) + 1  # that connection may still be there

    @property
    def log(self):
        with open(self.log_path) as file:
            return file.read()

    def connect(self, data=b"", timeout=10):
        return connect(self.socket, data, timeout)

    def stop(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(20)
        assert "Sanitizer" not in self.log and "runtime error" not in self.log, self.log
        return code


@pytest.fixture
def serve(tmp_path):
    running = []

    def start(**options):
        running.append(Server(str(tmp_path), **options))
        return running[-1]

    yield start
    for server in running:
        server.stop()


@pytest.fixture
def server(serve):
    return serve()


def namespace(name, **labels):
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def workload(name, ip, labels=None, namespace="shop"):
    return {"apiVersion": "penstock.dev/v1alpha1", "kind": "Workload",
            "metadata": {"namespace": namespace, "name": name, "labels": labels or {}}, "spec": {"ips": [ip]}}


def names(answer):
    return [item["metadata"]["name"] for item in answer["items"]]


def problem(answer, status):
    assert answer.status == status, answer
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json["status"] == status and answer.json["type"] and answer.json["title"] and answer.json["detail"]
    return answer.json


def head_of(connection):
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            break
        data += more
    return data


# ---- paths, methods, parameters, headers ----

@pytest.mark.parametrize("path", ["/", "/v1", "/v1/", "/v1/nothing", "/v1/pods/", "/v1/pods/a/b/c", "/v1/pods/a/b/c/d/e",
                                  "/v1/namespaces/a/b", "/v2/state", "/v1/explain/x", "/v1/flows/x", "/v1/state/", "//v1/state",
                                  "/v1/workloads/shop/none", "/v1/namespaces/none"])
def test_what_is_not_there_is_404(server, path):
    problem(server.api.request("GET", path), 404)


@pytest.mark.parametrize("method, path, allow", [
    ("POST", "/v1/state", "GET, HEAD, PUT, PATCH"),
    ("DELETE", "/v1/pods", "GET, HEAD"),
    ("PATCH", "/v1/pods/a/b", "GET, HEAD, PUT, DELETE"),
    ("PATCH", "/v1/nodes/a", "GET, HEAD, PUT, DELETE"),
    ("POST", "/v1/cidrsets/a", "GET, HEAD, PUT, DELETE, PATCH"),
    ("GET", "/v1/owners/a", "DELETE"),
    ("OPTIONS", "/metrics", "GET, HEAD"),
    ("BREW", "/healthz", "GET, HEAD"),
])
def test_other_methods_are_405(server, method, path, allow):
    answer = server.api.request(method, path)
    problem(answer, 405)
    assert answer.headers["Allow"] == allow


@pytest.mark.parametrize("path, word", [
    ("/v1/state?nonsense=1", "nonsense"), ("/v1/state?pretty=true", "pretty"), ("/v1/pods?owner=a", "owner"),
    ("/v1/pods?limit=-1", "limit"), ("/v1/pods?limit=many", "limit"), ("/v1/pods?limit=", "limit"),
    ("/v1/pods?limit=99999999999999999999", "limit"), ("/v1/pods?continue=zz", "continue"),
    ("/v1/pods?continue=31", "continue"), ("/v1/pods?limit=1&limit=1", "limit"),
    ("/v1/pods?labelSelector=a%20in%20(", "labelSelector"), ("/v1/pods?labelSelector=%ff", "query"),
    ("/v1/state?owner=", "owner"), ("/v1/state?owner=a%20b", "owner"), ("/v1/state?owner=" + "x" * 254, "owner"),
    ("/v1/status?follow=yes", "follow"), ("/v1/status?follow", "follow"), ("/v1/pods/%zz", "path"),
    ("/v1/pods/a%00b", "path"), ("/healthz?x=1", "x"),
])
def test_bad_parameters_are_named(server, path, word):
    assert word in problem(server.api.request("GET", path), 400)["detail"]


@pytest.mark.parametrize("query", ["force=1", "dryRun=All", "invalid=ignore", "invalid=", "limit=3"])
def test_bad_parameters_of_writes(server, query):
    assert query.split("=")[0] in problem(server.api.request("PUT", f"/v1/state?{query}", {"items": []}), 400)["detail"]


def test_terms_are_numbers(server):
    for term in ("-1", "x", "", "1.0", "99999999999999999999"):
        answer = server.api.request("PUT", "/v1/state", {"items": []}, headers={"Penstock-Term": term})
        assert "Penstock-Term" in problem(answer, 400)["detail"]


@pytest.mark.parametrize("method, path", [("PUT", "/v1/state"), ("PATCH", "/v1/state"), ("PUT", "/v1/namespaces/a")])
def test_media_types(server, method, path):
    for kind in ("text/plain", "application/merge-patch+json", "application/x-www-form-urlencoded", "application/jsonx",
                 "application/json; charset=latin1"):
        problem(server.api.request(method, path, b"{}", content_type=kind), 415)
    answer = server.api.request(method, path, b"{}", headers={"Content-Encoding": "br"})
    problem(answer, 415)
    assert answer.headers["Accept-Encoding"] == "gzip"
    ndjson = server.api.request(method, path, json.dumps(namespace("a")).encode(), content_type="application/x-ndjson")
    assert ndjson.status == (200 if (method, path) == ("PUT", "/v1/state") else 415), ndjson


def test_a_body_without_a_type_is_json(server):
    with server.connect(b"PUT /v1/state HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\n{\"items\":[]}") as connection:
        assert head_of(connection).startswith(b"HTTP/1.1 200")
    server.api.expect("PUT", "/v1/state", {"items": []}, content_type='application/json; charset="UTF-8"')


def test_spaces_behind_a_header_are_not_its_value(server):
    headers = {"Penstock-Term": "7 ", "Content-Encoding": "gzip\t ", "Content-Type": "application/json "}
    body = gzip.compress(json.dumps({"items": []}).encode())
    server.api.expect("PUT", "/v1/state", body, headers=headers)
    assert server.api.expect("GET", "/v1/owners").json["items"][0]["term"] == 7


def test_targets_in_absolute_form(server):
    for target in ("http://node/v1/state?owner=a", "HTTPS://node:7641/v1/state"):
        assert server.api.expect("GET", target).json["items"] == []
    problem(server.api.request("GET", "http://node"), 404)


def test_names_in_paths_are_percent_decoded(server):
    server.api.put_state([workload("cart", "10.0.0.1")])
    assert server.api.expect("GET", "/v1/workloads/sh%6Fp/%63art").json["metadata"]["name"] == "cart"
    assert server.api.expect("GET", "/v1/workloads/shop%2Fcart").json["items"] == []


def test_body_and_path_must_agree(server):
    problem(server.api.request("PUT", "/v1/namespaces/other", namespace("shop")), 422)
    problem(server.api.request("PUT", "/v1/nodes/shop", namespace("shop")), 422)
    assert server.api.state()["items"] == []


# ---- reading ----

def test_head_answers_like_get(server):
    for path, status in (("/v1/state", 200), ("/v1/status?follow=true", 200), ("/v1/pods/a/b", 404), ("/metrics", 200)):
        answer = server.api.request("HEAD", path)
        assert answer.status == status and answer.body == b""


def test_a_list_in_pieces(server):
    server.api.put_state([workload(f"w{i:02}", f"10.0.0.{i}", {"odd": str(i % 2)}) for i in range(20)] +
                         [workload("x", "10.1.0.1", namespace="zoo")])
    whole = server.api.expect("GET", "/v1/workloads").json
    assert len(whole["items"]) == 21 and "continue" not in whole
    assert len(server.api.expect("GET", "/v1/workloads/shop").json["items"]) == 20
    assert server.api.expect("GET", "/v1/workloads", query={"limit": 0}).json == whole
    assert "continue" not in server.api.expect("GET", "/v1/workloads", query={"limit": 21}).json
    seen, token = [], ""
    while True:
        page = server.api.expect("GET", "/v1/workloads", query={"limit": 4, "continue": token,
                                                                "labelSelector": "odd=1"}).json
        assert len(page["items"]) <= 4
        seen += names(page)
        token = page.get("continue")
        if not token:
            break
        assert page["metadata"]["continue"] == token
    assert seen == [f"w{i:02}" for i in range(1, 20, 2)]


def test_a_stale_token_goes_on_behind_its_key(server):
    server.api.put_state([workload(f"w{i}", f"10.0.0.{i}") for i in range(6)])
    page = server.api.expect("GET", "/v1/workloads", query={"limit": 3}).json
    assert names(page) == ["w0", "w1", "w2"]
    server.api.patch(apply=[workload("w11", "10.0.0.11"), workload("w21", "10.0.0.21")],
                     delete=[("Workload", "shop", "w2"), ("Workload", "shop", "w3")])
    rest = server.api.expect("GET", "/v1/workloads", query={"continue": page["continue"]}).json
    assert names(rest) == ["w21", "w4", "w5"]


@pytest.mark.parametrize("selector, wanted", [
    ("app=a", ["a"]), ("app!=a", ["b", "c"]), ("app in (a,b)", ["a", "b"]), ("!app", ["c"]), ("app", ["a", "b"]),
    ("app,tier=db", ["b"]), ("", ["a", "b", "c"])])
def test_label_selectors(server, selector, wanted):
    server.api.put_state([workload("a", "10.0.0.1", {"app": "a"}), workload("b", "10.0.0.2", {"app": "b", "tier": "db"}),
                          workload("c", "10.0.0.3")])
    assert names(server.api.expect("GET", "/v1/workloads", query={"labelSelector": selector}).json) == wanted


def test_owners(server):
    server.api.put_state([namespace("a"), namespace("b")], owner="one")
    server.api.expect("PUT", "/v1/state", {"items": [namespace("c")]}, query={"owner": "two"},
                      headers={"Penstock-Term": "7"})
    listed = {item["name"]: item for item in server.api.expect("GET", "/v1/owners").json["items"]}
    assert (listed["one"]["objects"], listed["one"]["term"]) == (2, None)
    assert (listed["two"]["objects"], listed["two"]["term"]) == (1, 7)
    assert names(server.api.state(owner="one")) == ["a", "b"] and server.api.state(owner="three")["items"] == []
    one = server.api.get_object("Namespace", None, "a")
    assert one["metadata"]["annotations"]["penstock.dev/owner"] == "one"
    assert "one" in problem(server.api.request("PUT", "/v1/namespaces/a", namespace("a", x="y")), 409)["detail"]
    old = server.api.request("PUT", "/v1/state", {"items": []}, query={"owner": "two"}, headers={"Penstock-Term": "6"})
    problem(old, 409)
    server.api.expect("DELETE", "/v1/owners/one")
    assert names(server.api.state()) == ["c"]


def test_tags(server):
    first = server.api.expect("PUT", "/v1/state", {"items": [namespace("a"), namespace("b")]})
    tag = first.headers["ETag"]
    assert server.api.expect("GET", "/v1/state").headers["ETag"] == tag
    for value in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = server.api.request("GET", "/v1/state", headers={"If-None-Match": value})
        assert (answer.status, answer.body, answer.headers["ETag"]) == (304, b"", tag)
    second = server.api.expect("PUT", "/v1/namespaces/b", namespace("b", x="y"), headers={"If-Match": tag})
    assert second.json["revision"] == first.json["revision"] + 1
    assert server.api.expect("GET", "/v1/namespaces/a").headers["ETag"] == tag
    assert server.api.expect("GET", "/v1/namespaces/b").headers["ETag"] == second.headers["ETag"] != tag
    assert server.api.expect("GET", "/v1/state", headers={"If-None-Match": tag}).headers["ETag"] == second.headers["ETag"]
    problem(server.api.request("GET", "/v1/state", headers={"If-Match": tag}), 412)
    problem(server.api.request("GET", "/v1/state", headers={"If-Match": f"W/{second.headers['ETag']}"}), 412)
    problem(server.api.request("PUT", "/v1/namespaces/b", namespace("b"), headers={"If-Match": tag}), 412)
    problem(server.api.request("PUT", "/v1/namespaces/b", namespace("b"), headers={"If-None-Match": "*"}), 412)
    same = server.api.expect("PUT", "/v1/namespaces/b", namespace("b", x="y"))
    assert same.json["revision"] == second.json["revision"]


def test_dry_run_changes_nothing(server):
    answer = server.api.expect("PUT", "/v1/state", {"items": [namespace("a")]}, query={"dryRun": "true"})
    assert answer.json["dryRun"] is True and "ETag" not in answer.headers
    assert server.api.state() == {"revision": 0, "items": []}
    problem(server.api.request("PUT", "/v1/state", {"items": [{"kind": "Nothing"}]}, query={"dryRun": "true"}), 422)


def test_gzip_both_ways(server):
    items = [namespace(f"n{i}", text="x" * 50) for i in range(3000)]
    body = gzip.compress(json.dumps({"items": items}).encode())
    server.api.expect("PUT", "/v1/state", body, headers={"Content-Encoding": "gzip"})
    plain = server.api.expect("GET", "/v1/state")
    for accept in ("gzip", "deflate, gzip;q=0.5", "GZIP"):
        packed = server.api.expect("GET", "/v1/state", headers={"Accept-Encoding": accept})
        assert packed.headers["Content-Encoding"] == "gzip" and len(packed.body) < len(plain.body) / 5
        assert gzip.decompress(packed.body) == plain.body
    for accept in ("identity", "gzip;q=0", "gzip; q=0.0", "gzipped"):
        assert "Content-Encoding" not in server.api.expect("GET", "/v1/state", headers={"Accept-Encoding": accept}).headers
    small = server.api.expect("GET", "/healthz", headers={"Accept-Encoding": "gzip"})
    assert small.body == b"ok\n"
    text = server.api.expect("GET", "/openapi.json", headers={"Accept-Encoding": "gzip"})
    assert json.loads(gzip.decompress(text.body))["openapi"]
    problem(server.api.request("PUT", "/v1/state", body[:-20], headers={"Content-Encoding": "gzip"}), 400)


def test_ndjson(server):
    lines = b"".join(json.dumps(namespace(f"n{i}")).encode() + b"\n" for i in range(5))
    server.api.expect("PUT", "/v1/state", lines, content_type="application/x-ndjson")
    assert len(server.api.state()["items"]) == 5


def test_endpoint_slices_of_kubernetes_before_1_21(server):
    """discovery.k8s.io/v1beta1 by every way in; what is kept is v1."""
    def older(version="discovery.k8s.io/v1beta1"):
        return {"addressType": "IPv4", "apiVersion": version, "kind": "EndpointSlice", "metadata": {"name": "web-1", "namespace": "shop"},
                "endpoints": [{"addresses": ["10.0.0.1"], "topology": {"kubernetes.io/hostname": "n1", "topology.kubernetes.io/zone": "z"}}]}

    line = json.dumps(older()).encode() + b"\n"
    path = "/v1/endpointslices/shop/web-1"
    for method, where, body, more in (("PUT", "/v1/state", {"items": [older()]}, {}), ("PATCH", "/v1/state", {"apply": [older()]}, {}),
                                      ("PUT", "/v1/state", line, {"content_type": "application/x-ndjson"}), ("PUT", path, older(), {})):
        server.api.put_state([])
        server.api.expect(method, where, body, **more)
        kept = server.api.get_object("EndpointSlice", "shop", "web-1")
        assert (kept["apiVersion"], kept["endpoints"]) == ("discovery.k8s.io/v1", [{"addresses": ["10.0.0.1"], "nodeName": "n1"}]), where
        revision = server.api.state()["revision"]
        server.api.expect("PUT", path, kept)
        assert server.api.state()["revision"] == revision, "the same object in both versions"
    answer = problem(server.api.request("PUT", path, older("discovery.k8s.io/v1alpha1")), 422)
    assert answer["errors"][0]["pointer"] == "/apiVersion" and "only discovery.k8s.io/v1 is" in answer["errors"][0]["detail"]


# ---- errors ----

def test_all_errors_at_once_up_to_50(server):
    bad = [workload(f"w{i}", f"10.0.0.{i}") | {"spec": {"ips": ["nonsense"]}} for i in range(60)]
    answer = problem(server.api.request("PUT", "/v1/state", {"items": bad[:3]}), 422)
    assert [e["pointer"] for e in answer["errors"]] == [f"/items/{i}/spec/ips/0" for i in range(3)]
    answer = problem(server.api.request("PUT", "/v1/state", {"items": bad}), 422)
    assert len(answer["errors"]) == 50 and "59 more" in answer["detail"]
    assert server.api.state() == {"revision": 0, "items": []}


def test_quarantine_is_answered(server):
    answer = server.api.put_state([namespace("a"), workload("w", "nonsense")], invalid="quarantine")
    (one,) = answer["quarantined"]
    assert (one["kind"], one["namespace"], one["name"]) == ("Workload", "shop", "w") and one["errors"]
    assert names(server.api.state()) == ["a"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"nonsense", b'{"items": [', b"\xff\xfe", b'{"items": 1}'])
def test_bad_bodies_are_refused(server, body):
    assert server.api.request("PUT", "/v1/state", body).status in (400, 422)
    assert server.api.state()["revision"] == 0


# ---- bodies and their bounds ----

def test_too_large_is_413(serve):
    server = serve(body_max=100000)
    body = json.dumps({"items": [namespace("a", text="x" * 60)] * 2000}).encode()
    assert len(body) > 100000
    problem(server.api.request("PUT", "/v1/state", body), 413)
    problem(server.api.request("PUT", "/v1/state", gzip.compress(body), headers={"Content-Encoding": "gzip"}), 413)
    chunked = server.connect(b"PUT /v1/state HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    for at in range(0, len(body), 10000):
        piece = body[at:at + 10000]
        chunked.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
    chunked.sendall(b"0\r\n\r\n")
    assert head_of(chunked).startswith(b"HTTP/1.1 413")
    chunked.close()
    assert server.api.state()["revision"] == 0


def test_expect_is_answered_before_the_body(serve):
    server = serve(body_max=100000)
    ask = b"PUT /v1/%s HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    for path, length, first in ((b"state", 200000, b"HTTP/1.1 413"), (b"nothing", 10, b"HTTP/1.1 404"),
                                (b"state", 12, b"HTTP/1.1 100")):
        with server.connect(ask % (path, length)) as connection:
            assert head_of(connection).startswith(first)
            if first.endswith(b"100"):
                connection.sendall(b'{"items":[]}')
                assert head_of(connection).startswith(b"HTTP/1.1 200")


def test_bodies_share_a_budget(serve):
    """64 MiB beyond one largest body: held back half-sent bodies fill it, and give it back when they go."""
    size = 2 << 20
    server = serve(body_max=size)
    ask = b"PUT /v1/state HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
    held = []
    for _ in range(33):
        connection = server.connect(ask)
        connection.sendall(b" " * (size - 1))
        held.append(connection)
    time.sleep(0.3)
    answer = server.api.request("PUT", "/v1/state", {"items": [namespace("a", text="x" * 60)] * 100})
    problem(answer, 503)
    assert int(answer.headers["Retry-After"]) >= 1
    assert server.api.expect("GET", "/healthz").body == b"ok\n"
    for connection in held:
        connection.close()
    end = time.monotonic() + 5
    while server.api.request("PUT", "/v1/state", {"items": [namespace("a")]}).status == 503:
        assert time.monotonic() < end
        time.sleep(0.02)


# ---- clients that misbehave ----

def descriptors(server):
    """Sockets: threads that have just begun are still opening other things."""
    count, directory = 0, f"/proc/{server.process.pid}/fd"
    for name in os.listdir(directory):
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(os.path.join(directory, name)).startswith("socket:")
    return count


def gone_within(server, seconds):
    """Every connection is closed on the server's side too."""
    end = time.monotonic() + seconds
    while descriptors(server) > server.descriptors:
        assert time.monotonic() < end, descriptors(server)
        time.sleep(0.05)

def test_a_thousand_slow_clients_block_nobody(serve):
    server = serve(metrics="%s:%d" % METRICS)
    slow = [server.connect(b"PUT /v1/state HTTP/1.1\r\nHo") for _ in range(500)]
    slow += [server.connect(b"PUT /v1/state HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"it") for _ in range(500)]
    slow += [socket.create_connection(METRICS) for _ in range(1000)]
    for connection in slow[-1000:]:
        connection.sendall(b"GET /metr")
    began = time.monotonic()
    for number in range(20):
        server.api.put_state([namespace(f"n{number}")])
        assert names(server.api.state()) == [f"n{number}"]
    with socket.create_connection(METRICS, timeout=5) as connection:
        connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert head_of(connection).startswith(b"HTTP/1.1 200")
    assert time.monotonic() - began < 3
    for connection in slow:
        connection.close()


def test_a_client_that_drips_is_cut_off(server):
    """Headers have 15 seconds, whatever arrives meanwhile."""
    connection = server.connect(b"GET /healthz HTTP/1.1\r\n")
    began = time.monotonic()
    with pytest.raises(OSError):
        while time.monotonic() - began < 25:
            connection.sendall(b"X-Drip: 1\r\n")
            time.sleep(0.5)
    assert 10 < time.monotonic() - began < 20


def test_half_a_request_changes_nothing(server):
    body = json.dumps({"items": [namespace("a")]}).encode()
    ask = b"PUT /v1/state HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    for data in (b"PU", ask[:-2], ask, ask + body[:-1]):
        server.connect(data).close()
    for data in (b"\r\n\r\n\r\n", b"\x00\xff\x00", b"PUT\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"A" * 100000):
        try:
            with server.connect(data, timeout=0.5) as connection:
                connection.recv(1000)
        except OSError:
            pass  # refused by closing
    assert server.api.state() == {"revision": 0, "items": []}
    half = [server.connect(ask + body[:-1]) for _ in range(50)]
    for connection in half:
        connection.close()
    gone_within(server, 5)


def test_a_write_outlives_its_client(serve):
    server = serve(delay=200)
    body = json.dumps({"apply": [namespace("a")]}).encode()
    for _ in range(3):
        server.connect(b"PATCH /v1/state HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)).close()
        body = body.replace(b'"a"', b'"b"')
    end = time.monotonic() + 5
    while names(server.api.state()) != ["a", "b"]:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_large_write_outlives_its_client(server):
    body = json.dumps({"items": [namespace(f"n{i}", text="x" * 60) for i in range(5000)]}).encode()
    server.connect(b"PUT /v1/state HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)).close()
    end = time.monotonic() + 5
    while len(server.api.state()["items"]) != 5000:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_client_may_close_its_sending_side(server):
    body = b'{"items": []}'
    with server.connect(b"PUT /v1/state HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)) as half:
        half.shutdown(socket.SHUT_WR)
        assert head_of(half).startswith(b"HTTP/1.1 200")


def test_reads_do_not_wait_for_writes(serve):
    server = serve(delay=1500)
    write = threading.Thread(target=server.api.put_state, args=([namespace("a")],))
    write.start()
    time.sleep(0.1)
    began = time.monotonic()
    assert server.api.state()["items"] == []
    assert server.api.expect("GET", "/readyz").status == 200 and time.monotonic() - began < 0.5
    write.join()
    assert names(server.api.state()) == ["a"]


def test_many_writers_at_once(server):
    def write(number):
        for step in range(10):
            server.api.expect("PATCH", "/v1/state", {"apply": [namespace(f"n{number}-{step}")]})

    threads = [threading.Thread(target=write, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state = server.api.state()
    assert len(state["items"]) == 200 and state["revision"] == 200


def test_readers_that_leave_in_the_middle(server):
    server.api.put_state([namespace(f"n{i}", text="x" * 60) for i in range(20000)])
    for _ in range(50):
        connection = server.connect(b"GET /v1/state HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.recv(10)
        connection.close()
    assert len(server.api.state()["items"]) == 20000


# ---- the status stream ----

class Follower:
    def __init__(self, path):
        self.connection = connect(path, b"GET /v1/status?follow=true HTTP/1.0\r\n\r\n")
        self.file = self.connection.makefile("rb")
        while self.file.readline().strip():
            pass

    def line(self):
        """The next one; None at the end."""
        text = self.file.readline()
        return json.loads(text) if text else None

    def last(self):
        """None when the stream has ended, after whatever was still to come."""
        line = self.line()
        while line is not None:
            line = self.line()
        return line

    def close(self):
        self.file.close()
        self.connection.close()


def test_follow(server):
    followers = [Follower(server.socket) for _ in range(20)]
    assert [f.line() for f in followers] == [{"revision": 0}] * 20
    for revision in range(1, 5):
        server.api.put_state([namespace(f"n{revision}")])
        assert [f.line() for f in followers] == [{"revision": revision}] * 20
    for follower in followers[:10]:
        follower.close()
    server.api.put_state([])
    assert [f.line() for f in followers[10:]] == [{"revision": 5}] * 10
    server.process.send_signal(signal.SIGTERM)
    assert [f.line() for f in followers[10:]] == [None] * 10
    assert server.stop() == 0


def test_followers_that_leave_are_noticed(server):
    followers = [Follower(server.socket) for _ in range(50)]
    assert [f.line() for f in followers] == [{"revision": 0}] * 50 and descriptors(server) >= 50
    for follower in followers:
        follower.close()
    gone_within(server, 5)


# ---- starting and stopping ----

def test_stopping_answers_what_waits(serve):
    server = serve(delay=300)
    answers = []

    def write(number):
        answers.append(server.api.request("PUT", f"/v1/namespaces/n{number}", namespace(f"n{number}")).status)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    time.sleep(0.15)
    half = server.connect(b"PUT /v1/state HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    assert server.stop() == 0
    for thread in threads:
        thread.join()
    half.close()
    assert sorted(set(answers)) == [200, 503] and len(answers) == 10
    assert not os.path.exists(server.socket)


def test_the_socket_file(serve, tmp_path):
    server = serve()
    status = os.stat(server.socket)
    assert stat.S_IMODE(status.st_mode) == 0o660 and status.st_gid == 0
    second = subprocess.run([SERVER, "--unix", server.socket], capture_output=True, text=True, timeout=10)
    assert second.returncode == 1 and "another process listens on" in second.stderr
    assert server.api.expect("GET", "/healthz").status == 200  # the first one kept its socket
    server.process.kill()
    server.process.wait()
    assert os.path.exists(server.socket)
    assert serve().api.state()["items"] == []
    path = tmp_path / "file"
    path.write_text("precious")
    refused = subprocess.run([SERVER, "--unix", str(path)], capture_output=True, text=True, timeout=10)
    assert refused.returncode == 1 and "is no socket" in refused.stderr and path.read_text() == "precious"


def test_listeners_that_cannot_be(serve, tmp_path):
    serve(metrics="%s:%d" % METRICS)
    for where, word in (("%s:%d" % METRICS, "another process listens"), ("nonsense", "host:port"),
                        ("127.0.0.1:", "host:port"), ("[::1:80", ""), ("127.0.0.1:99999", "")):
        path = str(tmp_path / "other.sock")
        failed = subprocess.run([SERVER, "--unix", path, "--metrics", where], capture_output=True, text=True, timeout=10)
        assert failed.returncode == 1 and word in failed.stderr, (where, failed)
        assert not os.path.exists(path)


def test_the_metrics_listener_serves_only_what_is_open(serve):
    serve(metrics="%s:%d" % METRICS)

    def ask(path):
        with socket.create_connection(METRICS, timeout=5) as connection:
            connection.sendall(b"GET %s HTTP/1.0\r\n\r\n" % path.encode())
            return int(head_of(connection).split()[1])

    assert [ask(path) for path in ("/metrics", "/healthz", "/readyz", "/version")] == [200] * 4
    assert [ask(path) for path in ("/v1/state", "/v1/status", "/openapi.json", "/v1/pods")] == [404] * 4


def test_requests_are_counted_by_route(server):
    server.api.put_state([workload("a", "10.0.0.1")])
    for path in ("/v1/workloads/shop/a", "/v1/workloads/shop/b", "/v1/nothing", "/v1/workloads/shop"):
        server.api.request("GET", path)
    server.api.request("BREW", "/v1/state")
    metrics = server.api.metrics()
    total = "penstock_api_requests_total"
    assert metrics(total, method="PUT", route="/v1/state", code=200) == 1
    assert metrics(total, method="GET", route="/v1/workloads/{namespace}/{name}", code=200) == 1
    assert metrics(total, method="GET", route="/v1/workloads/{namespace}/{name}", code=404) == 1
    assert metrics(total, method="GET", route="/v1/workloads/{namespace}") == 1
    assert metrics(total, route="unmatched", code=404) == 1
    assert metrics(total, method="OTHER", route="/v1/state", code=405) == 1
    assert metrics("penstock_api_request_duration_seconds_bucket", route="/v1/state", le="10") == 2
