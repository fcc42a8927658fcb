# SPDX-License-Identifier: Apache-2.0
"""HTTP/3 of ngtcp2: a server with a file, and a client that fetches and sends it."""
import hashlib
import os
import subprocess

from scenes import eventually

QUIET = ("-q", "--no-quic-dump", "--no-http-dump")
PORT = 8443


class Quic:
    def __init__(self, space, addresses, directory, size):
        """In a namespace, on these addresses; a fresh directory."""
        os.makedirs(f"{directory}/got")
        self.directory, self.size = directory, size
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                        "-subj", "/CN=quic.example", "-keyout", f"{directory}/key", "-out", f"{directory}/certificate"], check=True,
                       capture_output=True)
        data = os.urandom(size)
        with open(f"{directory}/blob", "wb") as file:
            file.write(data)
        self.digest = hashlib.sha256(data).hexdigest()
        self.servers = [space.popen("/usr/sbin/gtlsserver", *QUIET, "-d", directory, ip, PORT, f"{directory}/key",
                                    f"{directory}/certificate", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                        for ip in addresses]
        eventually(lambda: space.run("ss", "-ulnH", f"sport = :{PORT}").stdout.count("\n") == len(addresses))

    def _talk(self, client, ip, *options):
        url = f"https://{f'[{ip}]' if ':' in ip else ip}:{PORT}/blob"
        client.run("gtlsclient", *QUIET, "--exit-on-all-streams-close", *options, ip, PORT, url, timeout=30)

    def fetch(self, client, ip):
        """The file, whole, from a namespace."""
        self._talk(client, ip, f"--download={self.directory}/got")
        with open(f"{self.directory}/got/blob", "rb") as file:
            assert hashlib.sha256(file.read()).hexdigest() == self.digest
        os.remove(f"{self.directory}/got/blob")

    def send(self, client, ip):
        self._talk(client, ip, "--http-method=POST", f"--data={self.directory}/blob")

    def close(self):
        for server in self.servers:
            server.kill()
            server.wait()
