# SPDX-License-Identifier: Apache-2.0
"""The API over TCP: who is let in, as whom, what he may do, and what is written down of it. The server alone over memory,
and the agent with its configuration."""
import contextlib
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time

import pytest

from lab import BUILD, Lab
from pki import Authority, Client, PlainClient, context
from test_api import SERVER, Server, namespace
from test_openapi import operations, resolve

ADMIN, VIEWER, WRONG = "admin-token-0123456789", "viewer-token-0123456789", "wrong-token-0123456789"
OPEN = ("/healthz", "/readyz", "/version")
TOKENS = f"""# who comes with a token

  {ADMIN} admin controller
sha256:{hashlib.sha256(VIEWER.encode()).hexdigest()} viewer dashboard
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def eventually(what, seconds=15):
    end = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.02)
    return value


def write(path, text, mode=0o600):
    """As a whole, like a Secret that changes."""
    with open(f"{path}.new", "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
    os.rename(f"{path}.new", path)
    return path


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    ca = Authority(tmp_path_factory.mktemp("pki"))
    ca.issue("server", "/CN=penstock")
    ca.issue("admin", "/O=penstock:admin/CN=controller-7")
    ca.issue("viewer", "/O=penstock:viewer/CN=eye")
    return ca


class Tls:
    """The server with TLS, its certificates copied so that a test can change them."""

    def __init__(self, pki, directory, tokens=TOKENS):
        self.pki, self.directory, self.port, self.clients = pki, str(directory), free_port(), 0
        for name, source in (("server.pem", "server.pem"), ("server.key", "server.key"), ("ca.pem", "ca.pem")):
            shutil.copy(pki.path(source), self.path(name))
        write(self.path("tokens"), tokens)
        self.server = Server(self.directory, tcp=f"127.0.0.1:{self.port}", certificate=self.path("server.pem"),
                             key=self.path("server.key"), client_ca=self.path("ca.pem"), tokens=self.path("tokens"))

    def path(self, name):
        return os.path.join(self.directory, name)

    def look(self):
        """Sooner than by itself."""
        self.server.process.send_signal(signal.SIGHUP)

    def client(self, certificate=None, token=None, source=None, pki=None):
        pair = (self.pki.path(f"{certificate}.pem"), self.pki.path(f"{certificate}.key")) if certificate else None
        return Client(self.port, context(pki or self.pki, pair), token, source or self.address())

    def address(self):
        """Each client comes from one of its own: wrong credentials are counted by address."""
        self.clients += 1
        return f"127.0.1.{self.clients}"

    @property
    def audit(self):
        return [line.split(" audit: ")[1] for line in self.server.log.splitlines() if " audit: " in line]


@pytest.fixture
def tls(pki, tmp_path):
    running = Tls(pki, tmp_path)
    yield running
    assert running.server.stop() == 0


@pytest.fixture(scope="module")
def shared(pki, tmp_path_factory):
    running = Tls(pki, tmp_path_factory.mktemp("tcp"))
    yield running
    assert running.server.stop() == 0


# ---- roles and routes ----

def may(role, method, path):
    """What the contract says: None where it depends on nothing but the role's being known."""
    if path in OPEN:
        return True
    if role in ("none", "wrong"):
        return 401
    if role == "nobody":
        return 403
    return True if role == "admin" or method == "get" or path == "/v1/explain" else 403


@pytest.mark.parametrize("role, certificate, token", [
    ("none", None, None), ("wrong", None, WRONG), ("nobody", "nobody", None), ("viewer", "viewer", None),
    ("viewer", None, VIEWER), ("admin", "admin", None), ("admin", None, ADMIN), ("wrong", "admin", WRONG)])
def test_every_operation_by_every_role(shared, role, certificate, token):
    if certificate == "nobody" and not os.path.exists(shared.pki.path("nobody.pem")):
        shared.pki.issue("nobody", "/O=somebody/CN=else")
    client = shared.client(certificate, token)
    seen = 0
    for path, method, operation in operations():
        body = "{}" if method in ("put", "patch", "post") else None
        concrete = path.replace("{namespace}", "shop").replace("{name}", "none")
        # A body's refusal comes after the question who asks: a viewer's write is not looked at.
        status, headers, text = client.ask(method.upper(), concrete, body)
        wanted = may(role, method, path)
        if wanted is True:
            assert status not in (401, 403, 429), (method, path, status, text)
        else:
            assert status == wanted, (method, path, status, text)
            assert str(status) in resolve(operation)["responses"], f"{method} {path}: {status} is not described"
            assert ("Bearer" in headers["WWW-Authenticate"]) if status == 401 else "WWW-Authenticate" not in headers
            assert headers["Content-Type"] == "application/problem+json" and json.loads(text)["status"] == status
        seen += 1
    assert seen > 60
    for path in ("/ui/", "/ui/status", "/v1/nonsense", "/", "/openapi.json"):
        status = client.status("GET", path)
        assert status == (401 if role in ("none", "wrong") else 403 if role == "nobody" else 404 if path in ("/", "/v1/nonsense") else 200)
    client.close()
    assert shared.server.api.expect("GET", "/healthz").status == 200


def test_names_are_owners_and_writes_are_written_down(tls):
    admin, token = tls.client("admin"), tls.client(token=ADMIN)
    body = json.dumps({"items": [namespace("one")]})
    status, _, answer = admin.ask("PUT", "/v1/state", body)
    assert status == 200, answer
    assert token.status("PUT", "/v1/namespaces/two", json.dumps(namespace("two"))) == 200
    assert token.status("PUT", "/v1/namespaces/one?dryRun=true", json.dumps(namespace("one", a="b"))) == 409
    assert token.status("PUT", "/v1/namespaces/four?owner=me&dryRun=true", json.dumps(namespace("four"))) == 200
    tls.server.api.expect("PUT", "/v1/namespaces/three", namespace("three"))
    owners = {one["name"]: one for one in json.loads(admin.ask("GET", "/v1/owners")[2])["items"]}
    assert set(owners) >= {"controller-7", "controller", "local"}
    assert tls.client("viewer").status("DELETE", "/v1/owners/local") == 403
    assert tls.client().status("DELETE", "/v1/owners/local") == 401
    where = r"from=127\.0\.1\.\d+:\d+"
    for got, wanted in zip(tls.audit, [
            rf"name=controller-7 role=admin {where} credential=certificate method=PUT path=/v1/state status=200 revision=1",
            rf"name=controller role=admin {where} credential=token method=PUT path=/v1/namespaces/two status=200 revision=2",
            rf'name=controller role=admin {where} credential=token method=PUT path=/v1/namespaces/one dryRun=true status=409 refused=".*controller-7.*"',
            rf"name=controller role=admin {where} credential=token method=PUT path=/v1/namespaces/four owner=me dryRun=true status=200 revision=2",
            r"name=uid:0 role=admin from=unix pid=\d+ method=PUT path=/v1/namespaces/three status=200 revision=3",
            rf'name=eye role=viewer {where} credential=certificate method=DELETE path=/v1/owners/local status=403 refused=".*admin.*"',
            rf'name=- role=- {where} credential=- method=DELETE path=/v1/owners/local status=401 refused=".*"'], strict=True):
        assert re.fullmatch(wanted, got), (wanted, got)


def test_nobody_writes_the_audit_line_himself(shared):
    """A path that looks like further fields, moves the cursor, or ends the line."""
    client = shared.client(token=ADMIN)
    client.connect()
    before = len(shared.audit)
    for path in (b"x status=200 revision=9", b"x\x1b[2Kname=root", b"x\xc2\x9b2K\x9b", b"x\rname=root", b'x"\\', b"x%0aname=root%20"):
        client.sock.sendall(b"DELETE /v1/owners/%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n" % (path, ADMIN.encode()))
        answer = http.client.HTTPResponse(client.sock)
        answer.begin()
        assert answer.status in (400, 404) and answer.read(), path
    lines = shared.audit[before:]
    assert len(lines) == 6 and "".join(lines).isprintable()
    for line in lines:
        assert re.fullmatch(r'name=controller role=admin from=\S+ credential=token method=DELETE path=/v1/owners/[^\s"\\]+ '
                            r'status=40[04] refused="([^"\\]|\\.)*"', line), line


@pytest.mark.parametrize("subject, status", [
    ("/O=penstock:viewer/O=penstock:admin/CN=x", 404), ("/O=other/O=penstock:admin/CN=x", 404), ("/O=penstock:admins/CN=x", 403),
    ("/O=Penstock:Admin/CN=x", 403), ("/OU=penstock:admin/CN=x", 403), ("/O=penstock:admin", 403), ("/O=penstock:admin/CN=x/CN=y", 403),
    ("/O=penstock:admin/CN=x y", 403), ("/CN=penstock:admin", 403), (r"/O=penstock:admin/CN=team\+prod,a;<b>=#c", 404),
    (r"/O=penstock:admin/CN=#c", 404), (r"/O=penstock:admin/CN=a\\b", 403), ("/O=penstock:admin/CN=a\x01b", 403), (r"/O=penstock:admin\+/CN=x", 403)])
def test_subjects(shared, tmp_path, subject, status):
    shutil.copy(shared.pki.certificate, tmp_path / "ca.pem")
    shutil.copy(shared.pki.path("ca.key"), tmp_path / "ca.key")
    pair = _issuer(tmp_path).issue("one", subject)
    client = Client(shared.port, context(shared.pki, pair), source=shared.address())
    assert client.status("DELETE", "/v1/owners/nobody") == status
    assert client.status("GET", "/healthz") == 200


def _issuer(directory, name="ca"):
    """The CA that is in the directory already."""
    authority = Authority.__new__(Authority)
    authority.directory, authority.name = str(directory), name
    return authority


def test_certificates_that_count_for_nothing(shared, tmp_path):
    """Of another CA; of the CA, but for servers only; too old; signed by somebody whom the CA made no CA."""
    stranger = Authority(tmp_path, "stranger")
    stranger.issue("strange", "/O=penstock:admin/CN=x")
    shutil.copy(shared.pki.certificate, tmp_path / "ca.pem")
    shutil.copy(shared.pki.path("ca.key"), tmp_path / "ca.key")
    ours = _issuer(tmp_path)
    ours.issue("serving", "/O=penstock:admin/CN=x", "-addext", "extendedKeyUsage=serverAuth")
    subprocess.run(["openssl", "req", "-new", "-key", ours.path("serving.key"), "-out", ours.path("old.csr"), "-subj",
                    "/O=penstock:admin/CN=x"], check=True)
    subprocess.run(["openssl", "x509", "-req", "-in", ours.path("old.csr"), "-CA", ours.certificate, "-CAkey", ours.path("ca.key"),
                    "-CAcreateserial", "-days", "-1", "-out", ours.path("old.pem")], check=True, capture_output=True)
    shutil.copy(ours.path("serving.key"), ours.path("old.key"))
    shutil.copy(shared.pki.path("viewer.pem"), tmp_path / "eye.pem")
    shutil.copy(shared.pki.path("viewer.key"), tmp_path / "eye.key")
    forged, _ = _issuer(tmp_path, "eye").issue("forged", "/O=penstock:admin/CN=x")
    with open(forged, "a") as chain:
        chain.write(open(ours.path("eye.pem")).read())
    for name in ("strange", "serving", "old", "forged"):
        pair = ours.path(f"{name}.pem"), ours.path(f"{name}.key")
        client = Client(shared.port, context(shared.pki, pair), source=shared.address())
        status, headers, text = client.ask("GET", "/v1/state")
        assert status == 401 and "Bearer" in headers["WWW-Authenticate"], name
        assert json.loads(text)["detail"].startswith("the client certificate is refused: "), text
        assert client.status("GET", "/version") == 200
        assert client.status("GET", "/v1/state", Authorization=f"Bearer {VIEWER}") == 200, "a token counts all the same"


@pytest.mark.parametrize("header, status", [
    (f"Bearer {VIEWER}", 200), (f"bearer   {VIEWER}", 200), (f"Bearer {VIEWER} ", 200), (f"Bearer {VIEWER}x", 401), (f"Bearer {VIEWER[:-1]}", 401),
    ("Bearer", 401), ("Bearer ", 401), ("", 401), (VIEWER, 401), (f"Basic {VIEWER}", 401), (f"Bearer{VIEWER}", 401),
    (f"Bearer sha256:{hashlib.sha256(VIEWER.encode()).hexdigest()}", 401), (f"Bearer {hashlib.sha256(VIEWER.encode()).hexdigest()}", 401)])
def test_authorization_headers(shared, header, status):
    assert shared.client().status("GET", "/v1/state", Authorization=header) == status


# ---- what changes while it runs ----

def test_tokens_change(tls):
    old, new = tls.client(token=VIEWER), tls.client(token="new-token-0123456789")
    assert (old.status("GET", "/v1/state"), new.status("GET", "/v1/state")) == (200, 401)
    write(tls.path("tokens"), "new-token-0123456789 viewer dashboard\n")
    eventually(lambda: new.status("GET", "/v1/state") == 200)
    assert old.status("GET", "/v1/state") == 401, "on a connection that is older than the file"
    for text, mode, what in (("x y z\n", 0o600, "tokens:1: the role must be admin or viewer"), ("", 0o600, "tokens is empty"),
                             ("other viewer x\n", 0o644, "can be read by everybody")):
        write(tls.path("tokens"), text, mode)
        tls.look()
        eventually(lambda what=what: what in tls.server.log)
        assert new.status("GET", "/v1/state") == 200, "the old ones stay in force"
    os.unlink(tls.path("tokens"))
    tls.look()
    eventually(lambda: "cannot read" in tls.server.log)
    assert new.status("GET", "/v1/state") == 200
    write(tls.path("tokens"), TOKENS)
    tls.look()
    eventually(lambda: old.status("GET", "/v1/state") == 200)
    assert new.status("GET", "/v1/state") == 401


class Stream:
    def __init__(self, client):
        headers = {"Authorization": f"Bearer {client.token}"} if client.token else {}
        client.request("GET", "/v1/status?follow=true", headers=headers)
        self.answer = client.getresponse()
        assert self.answer.status == 200

    def revision(self):
        """None at its end."""
        line = self.answer.readline()
        return json.loads(line)["revision"] if line else None


def test_a_stream_ends_with_its_credential(tls, tmp_path_factory):
    kept, token, certificate = Stream(tls.client(token=ADMIN)), Stream(tls.client(token=VIEWER)), Stream(tls.client("viewer"))
    assert [stream.revision() for stream in (kept, token, certificate)] == [0] * 3
    write(tls.path("tokens"), f"{ADMIN} admin controller\n")
    shutil.copy(Authority(tmp_path_factory.mktemp("other"), "other").certificate, tls.path("ca.pem"))
    tls.look()
    eventually(lambda: tls.client(token=VIEWER).status("GET", "/v1/state") == tls.client("viewer").status("GET", "/v1/state") == 401)
    tls.server.api.put_state([namespace("secret")])
    assert [stream.revision() for stream in (kept, token, certificate)] == [1, None, None]


def test_nobody_notices_a_change(tls):
    """Requests on old connections and new ones, while everything is read again and again."""
    stop, wrong, done = threading.Event(), [], []

    def ask(number):
        kept = tls.client("viewer")
        while not stop.is_set():
            for client in (kept, tls.client(token=ADMIN) if number % 2 else tls.client("admin")):
                try:
                    status = client.status("GET", "/v1/state")
                    (done if status == 200 else wrong).append(status)
                except OSError as error:
                    wrong.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        before = len(done)
        tls.look()
        eventually(lambda before=before: len(done) > before + 4 or wrong)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong and len(done) > 80, wrong[:10]


def serving(tls):
    """The certificate that a new connection sees."""
    return ssl.get_server_certificate(("127.0.0.1", tls.port))


def test_certificates_change(tls, tmp_path_factory):
    """Connections and streams live on; who is known is asked of today's CA."""
    admin, token = tls.client("admin"), tls.client(token=ADMIN)
    assert admin.status("GET", "/v1/state") == token.status("GET", "/v1/state") == 200
    stream = Stream(tls.client(token=VIEWER))
    assert stream.revision() == 0
    sockets = [client.sock for client in (admin, token)]
    before = serving(tls)

    with open(tls.path("server.key"), "a") as key:  # half of a pair: it does not fit
        key.truncate(0)
        key.write(open(tls.pki.path("viewer.key")).read())
    eventually(lambda: "is not the key of the certificate; what was read before stays in force" in tls.server.log)
    assert serving(tls) == before
    other = Authority(tmp_path_factory.mktemp("other"), "other")
    other.issue("server", "/CN=penstock")
    other.issue("admin", "/O=penstock:admin/CN=controller-8")
    for name in ("server.key", "server.pem"):
        shutil.copy(other.path(name), tls.path(name))
    os.chmod(tls.path("server.key"), 0o604)
    tls.look()
    eventually(lambda: serving(tls) != before)
    assert "server.key can be read by everybody (mode 0604): it is a secret" in tls.server.log
    assert admin.status("GET", "/v1/state") == token.status("GET", "/v1/state") == 200
    later = Client(tls.port, context(other, (tls.pki.path("admin.pem"), tls.pki.path("admin.key"))))
    assert later.status("GET", "/v1/state") == 200, "the clients' CA is as it was"

    shutil.copy(other.certificate, tls.path("ca.pem"))
    tls.look()
    eventually(lambda: admin.status("GET", "/v1/state") == 401)
    assert token.status("GET", "/v1/state") == 200 and later.status("GET", "/v1/state") == 401
    assert Client(tls.port, context(other, (other.path("admin.pem"), other.path("admin.key")))).status("GET", "/v1/state") == 200
    assert [client.sock for client in (admin, token)] == sockets, "nothing was dropped"
    tls.server.api.put_state([namespace("one")])
    assert stream.revision() == 1


# ---- rude clients ----

def test_only_tls_1_3(shared):
    with pytest.raises((ssl.SSLError, ConnectionError)):
        Client(shared.port, context(shared.pki, version=ssl.TLSVersion.TLSv1_2)).connect()
    client = shared.client()
    client.connect()
    assert client.sock.version() == "TLSv1.3"


def test_what_is_no_tls_is_no_request(shared):
    for raw in (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 100, b"\x16\x03\x01\xff\xff" + b"x" * 70000, b"\x15\x03\x01\0\2\2\x28"):
        with socket.create_connection(("127.0.0.1", shared.port), timeout=20) as connection:
            with contextlib.suppress(OSError):
                connection.sendall(raw)
                answer = connection.recv(4096)
                assert b"HTTP/" not in answer
                while connection.recv(4096):
                    pass
    assert shared.client().status("GET", "/healthz") == 200


def test_slow_handshakes_stop_nobody(shared):
    slow = [socket.create_connection(("127.0.0.1", shared.port)) for _ in range(40)]
    for connection in slow:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01")  # the begin of a ClientHello
    assert shared.client(token=ADMIN).status("GET", "/v1/state") == 200
    for connection in slow:
        connection.close()


def test_huge_headers_are_refused_within_tls(shared):
    for header, status in (("a" * 40000, 431), ("a" * 20000, 401)):
        client = shared.client()
        assert client.status("GET", "/v1/state", X=header) == status
        client.close()


def test_large_bodies(tls):
    """More than any buffer between the two holds, both ways."""
    client = tls.client("admin")
    items = [namespace(f"n{number}", **{"label": "x" * 60, "other": f"y{number}"}) for number in range(20000)]
    assert client.status("PUT", "/v1/state", json.dumps({"items": items})) == 200
    status, _, text = client.ask("GET", "/v1/state")
    assert status == 200 and len(text) > 3 << 20
    assert json.loads(text) == tls.server.api.state()


def test_a_body_of_somebody_unknown_is_not_awaited(shared):
    """Half a gigabyte would be read for whoever is known."""
    client = shared.client(token=WRONG)
    client.putrequest("PUT", "/v1/state")
    client.putheader("Content-Length", str(400 << 20))
    client.putheader("Authorization", f"Bearer {WRONG}")
    client.endheaders()
    assert client.getresponse().status == 401


def test_a_thousand_connections_of_one_address(tls):
    """They are the sender's own problem."""
    crowd = []
    for _ in range(1000):
        with contextlib.suppress(OSError):
            crowd.append(socket.create_connection(("127.0.0.1", tls.port), timeout=5))
    elsewhere = tls.client(token=ADMIN)
    assert elsewhere.status("GET", "/v1/state") == 200
    assert len(os.listdir(f"/proc/{tls.server.process.pid}/fd")) < 400, "not all of them are held"
    for connection in crowd:
        connection.close()
    eventually(lambda: _answered(tls))


def test_connections_that_come_too_fast_are_closed(tls):
    """Each would cost a handshake; other addresses, and the unix socket, do not notice."""
    for _ in range(1300):
        socket.create_connection(("127.0.0.1", tls.port), 20, ("127.0.0.1", 0)).close()
    eventually(lambda: "too many connections: those beyond 100 a second are closed" in tls.server.log)
    assert tls.client(token=ADMIN).status("GET", "/v1/state") == 200
    assert tls.server.api.expect("GET", "/v1/state").status == 200
    eventually(lambda: _answered(tls))
    assert tls.server.log.count("too many connections") == 1


def test_followers_over_tcp_leave_room_for_the_node(tmp_path):
    port = free_port()
    running = Server(str(tmp_path), tcp=f"127.0.0.1:{port}", tokens=write(tmp_path / "tokens", TOKENS))
    request = f"GET /v1/status?follow=true HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {VIEWER}\r\n\r\n".encode()

    def follow():
        connection = socket.create_connection(("127.0.0.1", port), 20)
        connection.sendall(request)
        return connection, connection.recv(4096).split()[1]

    crowd = [follow() for _ in range(193)]
    assert [status for _, status in crowd] == [b"200"] * 192 + [b"429"]
    own = running.connect(b"GET /v1/status?follow=true HTTP/1.1\r\nHost: x\r\n\r\n")
    assert own.recv(4096).split()[1] == b"200"
    for connection, _ in crowd:
        connection.close()

    def again():
        connection, status = follow()
        connection.close()
        return status == b"200"

    eventually(again, 10)  # not after half a minute, when keepalive notices
    own.close()
    assert running.stop() == 0


def _answered(tls):
    with contextlib.suppress(OSError):
        return tls.client(token=ADMIN, source="127.0.0.1").status("GET", "/v1/state") == 200


def test_guessing_is_slowed_down(tls):
    guessing, seen = tls.client(token=WRONG, source="127.0.0.1"), []
    for _ in range(400):
        status, headers, _ = guessing.ask("GET", "/v1/state")
        seen.append(status)
        if status == 429:
            assert int(headers["Retry-After"]) >= 1
            break
    assert set(seen[:-1]) == {401} and seen[-1] == 429 and len(seen) > 50
    assert tls.client(token=ADMIN, source="127.0.0.1").status("GET", "/v1/state") == 200, "who has a token is let in, also from there"
    assert tls.client(token=WRONG).status("GET", "/v1/state") == 401, "another address"
    for _ in range(150):
        assert guessing.status("DELETE", "/v1/owners/x") in (401, 429)
    assert len(tls.audit) <= 110, "strangers do not fill the log"


# ---- how it starts ----

def start(tmp_path, **options):
    command = [SERVER, "--unix", str(tmp_path / "s.sock")]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    return done.returncode, done.stderr


@pytest.mark.parametrize("text, wrong", [
    ("a-token-0123456789 admin\n", ":1: a line is TOKEN ROLE NAME, or sha256:HEX ROLE NAME"),
    ("# x\n\na-token-0123456789 admin one two\n", ":3: a line is TOKEN ROLE NAME"),
    ("a-token-0123456789 root one\n", ":1: the role must be admin or viewer"),
    ("a-token-0123456789 admin a\"b\n", ":1: the name must be a name of 1 to 253"),
    ("sha256:1234 admin one\n", ":1: sha256: takes 64 hexadecimal digits"),
    ("sha256:" + "g" * 64 + " admin one\n", ":1: sha256: takes 64 hexadecimal digits"),
    ("a-token-0123456789 admin one\na-token-0123456789 viewer two\n", ":2: this token stands in line 1 already"),
    ("x" * 5000 + " admin one\n", ":1: the line is too long"), ("a\0b admin one\n", ":1: the line is too long, or holds a zero byte"),
    ("", " is empty")])
def test_token_files_with_mistakes(tmp_path, text, wrong):
    tokens = write(tmp_path / "tokens", text)
    code, said = start(tmp_path, tcp=f"127.0.0.1:{free_port()}", tokens=tokens)
    assert code == 1 and f"server: api.tcp.tokenFile: {tokens}{wrong}" in said, said


@pytest.mark.parametrize("kind", ["pipe", "directory"])
def test_a_token_file_that_is_none(tmp_path, kind):
    (os.mkfifo if kind == "pipe" else os.mkdir)(tmp_path / "tokens", 0o600)
    code, said = start(tmp_path, tcp=f"127.0.0.1:{free_port()}", tokens=tmp_path / "tokens")
    assert code == 1 and f"api.tcp.tokenFile: {tmp_path}/tokens is no file" in said, said


def test_loopback_without_tls(tmp_path):
    """With tokens; and without any, where only what is open is answered."""
    port = free_port()
    running = Server(str(tmp_path), tcp=f"127.0.0.1:{port}", tokens=write(tmp_path / "tokens", TOKENS + "short admin x\n"))
    assert PlainClient(port, ADMIN).status("GET", "/v1/state") == 200
    assert PlainClient(port).status("GET", "/v1/state") == 401
    assert "tokens:5: the token of x has fewer than 16 characters and can be guessed" in running.log
    assert running.stop() == 0
    running = Server(str(tmp_path), tcp=f"127.0.0.1:{port}")
    assert [PlainClient(port).status("GET", path) for path in OPEN] == [200] * 3
    assert PlainClient(port).status("GET", "/metrics") == PlainClient(port, ADMIN).status("GET", "/v1/state") == 401
    assert "nobody is known there" in running.log and running.stop() == 0


def test_not_beyond_loopback(tmp_path):
    for options in ({}, {"tokens": write(tmp_path / "tokens", TOKENS)}):
        code, said = start(tmp_path, tcp=f"0.0.0.0:{free_port()}", **options)
        assert code == 1 and "api.tcp.listen: 0.0.0.0" in said and "is not a loopback address: it needs TLS" in said, said


# ---- the agent ----

@pytest.fixture(scope="module")
def agent(pki, tmp_path_factory):
    directory = tmp_path_factory.mktemp("agent")
    write(directory / "tokens", TOKENS)
    write(directory / "token", ADMIN + "\n")
    with Lab() as lab:
        lab.node.ip("link set lo up")
        lab.files, lab.pki = directory, pki
        lab.tcp = {"listen": "0.0.0.0:7641", "tokenFile": str(directory / "tokens"), "tls": {
            "certificate": pki.path("server.pem"), "key": pki.path("server.key"), "clientCA": pki.certificate}}
        lab.running = lab.agent(api={"tcp": lab.tcp}, log={"level": "error"})
        yield lab


def penstock(lab, *words, **environment):
    return lab.node.run(os.path.join(BUILD, "penstock"), *words, check=False, env={**os.environ, **environment})


def test_the_command_line_over_tls(agent):
    url, ca = "https://127.0.0.1:7641", agent.pki.certificate
    pair = {role: ("--cert", agent.pki.path(f"{role}.pem"), "--key", agent.pki.path(f"{role}.key")) for role in ("admin", "viewer")}
    objects = write(agent.files / "objects.json", json.dumps(namespace("shop")))
    done = penstock(agent, "apply", "-f", objects, "--server", url, "--ca", ca, *pair["admin"])
    assert done.returncode == 0, done.stderr
    done = penstock(agent, "get", "ns", "-o", "json", "--server", url, "--ca", ca, "--token-file", agent.files / "token")
    assert done.returncode == 0 and '"penstock.dev/owner": "controller-7"' in done.stdout, done
    done = penstock(agent, "get", "ns", PENSTOCK_SERVER=url, PENSTOCK_CA=ca, PENSTOCK_TOKEN_FILE=str(agent.files / "token"))
    assert done.returncode == 0 and "shop" in done.stdout
    done = penstock(agent, "delete", "ns", "shop", PENSTOCK_SERVER=url, PENSTOCK_CA=ca, PENSTOCK_CERT=pair["viewer"][1],
                    PENSTOCK_KEY=pair["viewer"][3])
    assert done.returncode == 1 and "403" in done.stderr
    for words, code, said in (
            (("--server", url, "--ca", ca), 1, "401"), (("--server", url), 3, "no TLS with the agent"),
            (("--server", url, "--ca", ca, *pair["admin"][:2]), 2, "belong together"),
            (("--server", url, "--ca", "/nowhere"), 2, "/nowhere: No such file"),
            (("--server", url, "--ca", agent.files / "token"), 2, "certificate file"),
            (("--server", url, "--ca", ca, pair["admin"][0], pair["admin"][1], "--key", pair["viewer"][3]), 2, "private key file"),
            (("--server", "https://localhost:7641", "--ca", ca), 3, "no TLS with the agent"),
            (("--server", url, "--ca", ca, "--token-file", agent.files / "tokens.pub"), 2, "No such file"),
            (("--server", "http://192.0.2.1:7641", "--token-file", agent.files / "token"), 2, "not sent in the clear")):
        done = penstock(agent, "get", "ns", *words)
        assert done.returncode == code and said in done.stderr, (words, done)
    lines = [line.split(" audit: ")[1] for line in agent.running.log.splitlines() if " audit: " in line]
    assert [re.sub(r"127.*?:\d+", "-", line) for line in lines] == [
        "name=controller-7 role=admin from=- credential=certificate method=PATCH path=/v1/state status=200 revision=1",
        'name=eye role=viewer from=- credential=certificate method=DELETE path=/v1/namespaces/shop status=403 '
        'refused="a viewer may read and explain; this needs the role admin"'], "also with log.level error"


class Impostor(threading.Thread):
    """Answers every request with the same bytes, in the clear."""

    def __init__(self, answer):
        super().__init__(daemon=True)
        self.answer, self.listener, self.asked = answer, socket.create_server(("127.0.0.1", 0)), []
        self.start()

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                with connection:
                    self.asked.append(connection.recv(65536))
                    connection.sendall(self.answer)


def _answer(body, head="200 OK"):
    return f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


@pytest.mark.parametrize("answer, code, said", [
    (_answer("[]"), 3, "is not JSON: no object"), (_answer('{"items": "x"}'), 3, "is no list"), (_answer("<html>"), 3, "is not JSON"),
    (_answer("", "302 Found\r\nLocation: http://127.0.0.1:9/"), 1, "HTTP status 302"), (b"\0\1nonsense\r\n\r\n", 3, "gave no whole answer"),
    (_answer('{"title": "x", "detail": "a\\u001b[2J\\u009b2Jb"}', "403 x"), 1, "(403): a [2J 2Jb"), (b"", 3, "went away")],
    ids=["array", "no list", "page", "redirect", "nonsense", "terminal", "nothing"])
def test_the_command_line_and_somebody_else(tmp_path, answer, code, said):
    token = write(tmp_path / "token", ADMIN + "\n")
    other = Impostor(answer)
    done = subprocess.run([os.path.join(BUILD, "penstock"), "get", "ns", "--token-file", token, "--server",
                           "http://127.0.0.1:%d" % other.listener.getsockname()[1]], capture_output=True, text=True, timeout=20)
    other.listener.close()
    assert done.returncode == code and said in done.stderr and done.stdout == "" and ADMIN not in done.stderr, done
    assert len(other.asked) == 1, "nobody follows where it points"


def test_the_command_line_and_wrong_words(tmp_path):
    def get(*words):
        done = subprocess.run([os.path.join(BUILD, "penstock"), "get", "ns", *words], capture_output=True, text=True, timeout=20)
        return done.returncode, done.stderr

    url, token = "https://127.0.0.1:1", tmp_path / "token"
    for text, said in (("a" * 5000 + "\n", "a line is too long"), ("a\0b\n", "holds a zero byte"), ("\n# x\n", "there is no token in it")):
        code, told = get("--server", url, "--token-file", write(token, text))
        assert code == 2 and said in told, told
    for server in ("https://127.0.0.1:99999", "https://a:b@127.0.0.1:1", "https://127.0.0.1:1/v1", "https://127.0.0.1:1?x", "https://127.0.0.1 :1"):
        assert get("--server", server)[0] == 2, server


def test_sighup_reads_tokens_again(agent):
    write(agent.files / "tokens", TOKENS + "another-token-0123456789 viewer another\n")
    write(agent.files / "another", "another-token-0123456789\n")
    agent.running.signal(signal.SIGHUP)
    words = ("get", "ns", "--server", "https://127.0.0.1:7641", "--ca", agent.pki.certificate, "--token-file", agent.files / "another")
    eventually(lambda: penstock(agent, *words).returncode == 0)


UNSAFE = [
    ({"listen": "0.0.0.0:7641"}, "listen: is not a loopback address: it needs TLS"),
    ({"listen": "[::]:7641", "tokenFile": "T"}, "listen: is not a loopback address, and without TLS tokens could be read"),
    ({"listen": "10.0.0.1:7641", "tls": {"certificate": "C", "key": "K"}}, "listen: is not a loopback address: it needs client certificates"),
    ({"listen": "127.0.0.1:7641", "tls": {"certificate": "C"}}, "tls.certificate: has no api.tcp.tls.key"),
    ({"listen": "127.0.0.1:7641", "tls": {"key": "K"}}, "tls.key: has no api.tcp.tls.certificate"),
    ({"listen": "127.0.0.1:7641", "tls": {"clientCA": "A"}}, "tls.clientCA: means nothing without"),
    ({"listen": "127.0.0.1:7641", "tokenFile": "/nowhere"}, "tokenFile: cannot read /nowhere: No such file"),
    ({"listen": "127.0.0.1:7641", "tokenFile": "PUBLIC"}, "can be read by everybody (mode 0644): tokens are secrets"),
    ({"listen": "127.0.0.1:7641", "tls": {"certificate": "/nowhere", "key": "K"}}, "tls.certificate: /nowhere: No such file"),
    ({"listen": "127.0.0.1:7641", "tls": {"certificate": "T", "key": "K"}}, "tls.certificate: "),
    ({"listen": "127.0.0.1:7641", "tls": {"certificate": "C", "key": "OTHER"}}, "is not the key of the certificate"),
    ({"listen": "127.0.0.1:7641", "tls": {"certificate": "C", "key": "K", "clientCA": "K"}}, "tls.clientCA: "),
]


@pytest.mark.parametrize("tcp, said", UNSAFE, ids=range(len(UNSAFE)))
@pytest.mark.parametrize("flag", [(), ("--check",)], ids=["start", "check"])
def test_what_is_unsafe_or_wrong_does_not_start(pki, tmp_path, tcp, said, flag):
    names = {"C": pki.path("server.pem"), "K": pki.path("server.key"), "A": pki.certificate, "OTHER": pki.path("admin.key"),
             "T": write(tmp_path / "tokens", TOKENS), "PUBLIC": write(tmp_path / "public", TOKENS, 0o644)}
    text, line = "api:\n  tcp:\n", {}
    for key, value in tcp.items():
        line[key] = text.count("\n") + 1
        if key != "tls":
            text += f"    {key}: \"{names.get(value, value)}\"\n"
            continue
        text += "    tls:\n"
        for name, path in value.items():
            line[f"tls.{name}"] = text.count("\n") + 1
            text += f"      {name}: \"{names.get(path, path)}\"\n"
    config = write(tmp_path / "penstock.yaml", text)
    done = subprocess.run([os.path.join(BUILD, "penstockd"), "--config", config, *flag], capture_output=True, text=True, timeout=20)
    match = re.match(rf"penstockd: {re.escape(str(config))}:(\d+): api\.tcp\.([\w.]+): (.*)", done.stderr)
    assert done.returncode == 2 and match, done
    assert int(match[1]) == line[match[2]] and said in f"{match[2]}: {match[3]}", done.stderr
