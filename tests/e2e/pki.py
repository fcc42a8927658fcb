# SPDX-License-Identifier: Apache-2.0
"""Certificates for tests, by openssl, and HTTP over TLS with them."""
import http.client
import os
import socket
import ssl
import subprocess

EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def openssl(*words):
    subprocess.run(["openssl", *words], check=True, capture_output=True)


class Authority:
    """A CA in a directory. issue() makes NAME.pem and NAME.key there."""

    def __init__(self, directory, name="ca"):
        self.directory, self.name = str(directory), name
        openssl("req", "-x509", *EC, "-keyout", self.path(f"{name}.key"), "-out", self.certificate, "-subj", f"/CN={name}", "-days", "2")

    def path(self, file):
        return os.path.join(self.directory, file)

    @property
    def certificate(self):
        return self.path(f"{self.name}.pem")

    def issue(self, name, subject, *more, days=2, names="IP:127.0.0.1"):
        openssl("req", "-x509", "-new", *EC, "-CA", self.certificate, "-CAkey", self.path(f"{self.name}.key"), "-keyout",
                self.path(f"{name}.key"), "-out", self.path(f"{name}.pem"), "-subj", subject, "-days", str(days), "-addext",
                f"subjectAltName={names}", "-addext", "basicConstraints=critical,CA:FALSE", *more)
        os.chmod(self.path(f"{name}.key"), 0o600)
        return self.path(f"{name}.pem"), self.path(f"{name}.key")


def context(authority, pair=None, version=ssl.TLSVersion.TLSv1_3):
    made = ssl.create_default_context(cafile=authority.certificate)
    made.minimum_version = made.maximum_version = version
    if pair:
        made.load_cert_chain(*pair)
    return made


class Client(http.client.HTTPSConnection):
    """One connection that is kept; with a token or a certificate. source: the address it comes from."""

    def __init__(self, port, tls, token=None, source=None, host="127.0.0.1"):
        super().__init__(host, port, timeout=20, context=tls)
        self.token, self.source = token, source

    def connect(self):
        self.sock = socket.create_connection((self.host, self.port), self.timeout, (self.source, 0) if self.source else None)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context:
            self.sock = self._context.wrap_socket(self.sock, server_hostname=self.host)

    def ask(self, method, path, body=None, **headers):
        """(status, headers, body)."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token is not None:
            headers.setdefault("Authorization", f"Bearer {self.token}")
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
        self.request(method, path, body=body, headers=headers)
        answer = self.getresponse()
        return answer.status, answer.headers, answer.read()

    def status(self, method, path, body=None, **headers):
        return self.ask(method, path, body, **headers)[0]


class PlainClient(Client):
    def __init__(self, port, token=None):
        super().__init__(port, ssl.create_default_context(), token)
        self._context = None
