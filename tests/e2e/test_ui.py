# SPDX-License-Identifier: Apache-2.0
"""The page on the node: who is served it over HTTP, and with what. tests/tools/server.c is the real server."""
import gzip
import http.client
import os
import re

import pytest

from api import Response
from lab import REPOSITORY
from test_api import Server

FILES = os.path.join(REPOSITORY, "api", "ui")
TYPES = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8",
         "svg": "image/svg+xml"}
DATA = {"status": "application/json", "flows": "application/json", "alerts": "application/json", "policies": "application/json",
        "metrics": "text/plain; version=0.0.4; charset=utf-8"}
PORT = 17645


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    server = Server(str(tmp_path_factory.mktemp("ui")), metrics=f"127.0.0.1:{PORT}", keep=10)
    yield server
    assert server.stop() == 0


def ask(path, method="GET", host=f"127.0.0.1:{PORT}", port=PORT, body=None, headers=(), address="127.0.0.1"):
    """host: the Host header, or several, or none."""
    connection = http.client.HTTPConnection(address, port, timeout=10)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for one in host if isinstance(host, list) else [host]:
            connection.putheader("Host", one)
        for name, value in dict(headers).items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return Response(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


def files():
    return sorted(os.listdir(FILES))


def content(name):
    with open(os.path.join(FILES, name), "rb") as file:
        return file.read()


def guarded(answer):
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'self';")
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert answer.headers["Cache-Control"] == "no-cache"
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    return answer


@pytest.mark.parametrize("name", ["", *files()])
def test_files_are_served_as_they_are(served, name):
    for answer in (ask(f"/ui/{name}"), served.api.request("GET", f"/ui/{name}")):
        assert answer.status == 200
        assert answer.headers["Content-Type"] == TYPES[(name or "index.html").rsplit(".", 1)[1]]
        assert guarded(answer).body == content(name or "index.html")
    tag = answer.headers["ETag"]
    again = ask(f"/ui/{name}", headers={"If-None-Match": tag})
    assert (again.status, again.body, again.headers["ETag"]) == (304, b"", tag)
    head = ask(f"/ui/{name}", "HEAD")
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(answer.body)))
    zipped = ask(f"/ui/{name}", headers={"Accept-Encoding": "gzip"})
    if len(answer.body) > 1024:
        assert zipped.headers["Content-Encoding"] == "gzip" and gzip.decompress(zipped.body) == answer.body


@pytest.mark.pure
@pytest.mark.parametrize("name", files())
def test_nothing_is_inline_and_nothing_comes_from_elsewhere(name):
    text = content(name).decode()
    assert "SPDX-License-Identifier: Apache-2.0" in "\n".join(text.splitlines()[:2])
    urls = set(re.findall(r"\w+://[^\s\"'<>)]+", text)) - {"http://www.w3.org/2000/svg"}
    assert not urls, "the page must work on a node without a way out"
    assert "<script>" not in text and not re.search(r"\son\w+=\"", text) and not re.search(r"\sstyle=\"", text)
    assert "innerHTML =" not in text and "insertAdjacentHTML" not in text and "eval(" not in text


@pytest.mark.pure
def test_it_is_small():
    assert sum(len(content(name)) for name in files()) < 100_000


@pytest.mark.parametrize("name", DATA)
def test_data_is_what_the_api_says(served, name):
    answer = guarded(ask(f"/ui/{name}"))
    assert (answer.status, answer.headers["Content-Type"]) == (200, DATA[name]), answer
    if name in ("status", "flows", "alerts"):
        assert answer.json == served.api.expect("GET", f"/v1/{name}").json


def test_policies_and_proxies_are_listed_and_nothing_else(served):
    kinds = [("v1", "Namespace", None), ("v1", "Pod", "s"), ("networking.k8s.io/v1", "NetworkPolicy", "s"),
             ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy", None),
             ("penstock.dev/v1alpha1", "TransparentProxy", None), ("penstock.dev/v1alpha1", "InterceptPolicy", None)]
    specs = {"ClusterNetworkPolicy": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}},
             "NetworkPolicy": {"podSelector": {}}, "TransparentProxy": {"port": 15001},
             "InterceptPolicy": {"priority": 1, "subject": {"pods": {"namespaceSelector": {}, "podSelector": {}}}, "egress": []}}
    try:
        served.api.put_state([{"apiVersion": version, "kind": kind, "spec": specs.get(kind, {}),
                               "metadata": {"name": "x", **({"namespace": space} if space else {})}}
                              for version, kind, space in kinds])
        answer = ask("/ui/policies")
        assert [one["kind"] for one in answer.json["items"]] == ["NetworkPolicy", "ClusterNetworkPolicy", "TransparentProxy",
                                                                 "InterceptPolicy"]
        assert ask("/ui/policies", headers={"If-None-Match": answer.headers["ETag"]}).status == 304
    finally:
        served.api.put_state([])


def test_the_way_in(served):
    answer = ask("/ui")
    assert (answer.status, answer.headers["Location"]) == (307, "ui/")


@pytest.mark.parametrize("host", ["localhost", f"localhost:{PORT}", "LOCALHOST:1", "127.0.0.1", "127.9.8.7:80", "[::1]", "[::1]:7642"])
def test_the_loopback_by_any_name(served, host):
    assert ask("/ui/", host=host).status == 200


@pytest.mark.parametrize("host", ["", "evil.example", f"evil.example:{PORT}", "localhost.evil.example", "127.0.0.1.evil.example",
                                  "localhost:80.evil.example", "10.0.0.1", "0.0.0.0", "[::]", "[fe80::1]", "[::1", "[::1].x", "::1",
                                  "127.1", "2130706433", "localhost@evil.example", "x" * 300, [], ["localhost", "evil.example"]])
def test_another_host_is_a_browser_that_was_led_here(served, host):
    """DNS rebinding: the browser believes that the page of evil.example is ours."""
    for path in ("/ui", "/ui/", "/ui/main.js", "/ui/status", "/ui/flows?follow=true", "/ui/policies", "/ui/none"):
        answer = ask(path, host=host)
        assert answer.status in (400, 403), (path, answer)  # 400: libmicrohttpd refuses some itself
        if answer.status == 403:
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert answer.json["title"] and "localhost" in answer.json["detail"]
        assert "items" not in answer.text and "revision" not in answer.text
    assert ask("/healthz", host=host).status in (200, 400)


@pytest.mark.parametrize("address", ["0.0.0.0", "[::]"])
def test_a_listener_that_others_reach_does_not_serve_it(tmp_path, address):
    server = Server(str(tmp_path), metrics=f"{address}:{PORT + 1}")
    try:
        for path in ("/ui", "/ui/", "/ui/status", "/ui/style.css"):
            answer = ask(path, port=PORT + 1, host="localhost")
            assert (answer.status, answer.headers["Content-Type"]) == (403, "application/problem+json")
            assert "metrics.listen" in answer.json["detail"]
        assert ask("/metrics", port=PORT + 1).status == 200
        assert server.api.request("GET", "/ui/").status == 200
    finally:
        assert server.stop() == 0


def test_ipv6_loopback_serves_it(tmp_path):
    server = Server(str(tmp_path), metrics=f"[::1]:{PORT + 1}")
    try:
        assert ask("/ui/", port=PORT + 1, host=f"[::1]:{PORT + 1}", address="::1").status == 200
    finally:
        assert server.stop() == 0


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/ui/", "/ui/status", "/ui/policies", "/ui/state"])
def test_it_writes_nothing(served, method, path):
    answer = ask(path, method, body=b'{"items": []}')
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/v1/status", "/v1/state", "/v1/flows", "/openapi.json", "/ui/../v1/status", "/ui/%2e%2e/v1/status",
                                  "/ui/..%2fv1%2fstatus", "/ui/../../etc/passwd", "/ui/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "/ui//etc/passwd",
                                  "/ui/main.js/", "/ui/.", "/ui/..", "/ui/index.html%00", "/UI/", "/ui/none.js", "/ui/state"])
def test_nothing_else_is_there(served, path):
    answer = ask(path)
    assert answer.status in (400, 404) and answer.headers["Content-Type"] == "application/problem+json"


def test_labels_of_metrics_are_bounded(served):
    for at in range(5):
        ask(f"/ui/made-up-{at}")
    ask("/ui/")
    metrics = served.api.metrics()
    labels = {have["route"] for have, _ in metrics.find("penstock_api_requests_total") if have["route"].startswith("/ui")}
    assert labels <= {"/ui", "/ui/{file}", *[f"/ui/{name}" for name in DATA]}
    assert metrics("penstock_api_requests_total", route="/ui/{file}", code=404) >= 5
