# SPDX-License-Identifier: Apache-2.0
"""What cannot be read as HTTP at all is refused with a problem as well, once, and the connection is closed."""
import json
import re
import socket

import pytest

from test_api import METRICS, Server

GET, PUT = b"GET /healthz HTTP/1.1\r\nHost: x\r\n", b"PUT /v1/state HTTP/1.1\r\nHost: x\r\n"
CHUNKS = PUT + b"Transfer-Encoding: chunked\r\n"
NEXT = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"  # would be the next request, if one could know where it begins


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Server(str(tmp_path_factory.mktemp("refusals")), metrics="%s:%d" % METRICS)
    yield running
    assert running.stop() == 0


def exchange(server, where, raw):
    connection = server.connect() if where == "unix" else socket.create_connection(METRICS, timeout=10)
    got = b""
    with connection:
        try:
            connection.sendall(raw)
        except OSError:
            pass  # it is closed before all is sent
        try:
            while piece := connection.recv(65536):
                got += piece
        except ConnectionResetError:
            pass  # what was sent beyond
    return got


@pytest.mark.parametrize("where", ["unix", "metrics"])
@pytest.mark.parametrize("raw, status", [
    (b"GET /healthz?" + b"a" * 40000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    (GET + b"X: " + b"a" * 40000 + b"\r\n\r\n", 431),
    (GET + b"X: a\r\n" * 10000 + b"\r\n", 431),
    (b"GET /healthz?" + b"a&" * 8000 + b" HTTP/1.1\r\nHost: x\r\n\r\n" + NEXT, 431),
    (GET + b"Cookie: " + b"a;" * 4000 + b"\r\n\r\n" + NEXT, 431),
    (GET + b"Cookie: " + b"a;" * 1500 + b"\r\nContent-Length: x\r\n\r\n" + NEXT, 431),
    (b"GET /healthz HTTP/3.0\r\nHost: x\r\n\r\n", 505),
    (GET + b"nonsense\r\n\r\n" + NEXT, 400),
    (PUT + b"Content-Length: x\r\n\r\n" + NEXT, 400),
    (PUT + b"Content-Length: -1\r\n\r\n" + NEXT, 400),
    (PUT + b"Content-Length: 99999999999999999999999\r\n\r\n" + NEXT, 413),
    (PUT + b"Content-Length : 12\r\n\r\n" + NEXT, 400),
    (CHUNKS + b"Content-Length: 12\r\n\r\n0\r\n\r\n" + NEXT, 400),
    (PUT + b"Content-Length: 3\r\nContent-Length: 90\r\n\r\nabc" + NEXT, 400),
    (CHUNKS + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n" + NEXT, 400),
    (CHUNKS.replace(b"chunked", b"gzip, chunked") + b"\r\n" + NEXT, 400),
    (CHUNKS + b"\r\nzz\r\n" + NEXT, 400),
    (CHUNKS + b"\r\nfffffffffffffffffff\r\n" + NEXT, 413),
    (CHUNKS + b"\r\n1;" + b"a" * 60000, 400),
], ids=["long query", "long header", "many headers", "many parameters", "many cookies", "cookies and length", "HTTP/3.0", "no colon",
        "length x", "length -1", "length huge", "space before the colon", "length and chunks", "two lengths", "two codings", "coding",
        "chunk zz", "chunk huge", "chunk's head"])
def test_it_is_a_problem(server, where, raw, status):
    got = exchange(server, where, raw)
    head, _, body = got.partition(b"\r\n\r\n")
    assert re.findall(rb"HTTP/1\.1 (\d+)", got) == [b"%d" % status], got[:2000]
    assert b"application/problem+json" in head and b"Content-Length: %d\r\n" % len(body) in head + b"\r\n", head
    document = json.loads(body)
    assert document["status"] == status and document["type"] and document["title"] and document["detail"]
    assert server.api.expect("GET", "/healthz").status == 200
