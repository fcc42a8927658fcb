# SPDX-License-Identifier: Apache-2.0
"""Namespaces behind veths of the tests' own, and sockets that live in them."""

import contextlib
import os
import socket
import struct
import subprocess
import threading

import kernel

IP_TRANSPARENT, IPV6_TRANSPARENT, SO_COOKIE = 19, 75, 57


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)


def family_of(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def transparent(sock):
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)


def cookie(sock):
    return struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))[0]


@contextlib.contextmanager
def listener(address="127.0.0.1", port=0, adopted=True, reuse_port=False):
    with socket.socket(family_of(address)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if adopted:
            transparent(server)
        server.bind((address, port))
        server.listen()
        server.settimeout(3)
        yield server


class Space:
    """A network namespace; functions run in a thread that lives there."""

    def __init__(self):
        def make():
            os.close(kernel.namespace_new())
            self.namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self._thread(make)

    @staticmethod
    def _thread(function):
        outcome = []

        def body():
            try:
                outcome.append((function(), None))
            except BaseException as error:  # noqa: B902: handed to the caller
                outcome.append((None, error))
        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        value, error = outcome[0]
        if error:
            raise error
        return value

    def run(self, function):
        def there():
            kernel.namespace_enter(self.namespace)
            return function()
        return self._thread(there)

    def wire(self, name, *addresses):
        """A veth: `name` on our side, eth0 there with the addresses, which we route to it."""
        ip("link", "add", name, "type", "veth", "peer", "name", name + "-p")
        ip("link", "set", name + "-p", "netns", f"/proc/{os.getpid()}/fd/{self.namespace}")
        ip("link", "set", name, "addrgenmode", "none")
        ip("link", "set", name, "up")
        ip("addr", "add", "169.254.1.1/32", "dev", name, "scope", "link")
        ip("addr", "add", "fe80::1/64", "dev", name, "nodad")

        def configure():
            ip("link", "set", "lo", "up")
            ip("link", "set", name + "-p", "name", "eth0")
            ip("link", "set", "eth0", "up")
            for address in addresses:
                ip("addr", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
            ip("route", "add", "169.254.1.1", "dev", "eth0")
            ip("route", "add", "default", "via", "169.254.1.1")
            ip("route", "add", "default", "via", "fe80::1", "dev", "eth0")
        self.run(configure)
        for address in addresses:
            ip("route", "add", address, "dev", name)
        return socket.if_nametoindex(name)

    def connect(self, destination=("203.0.113.9", 443), source=None, timeout=3):
        def body():
            client = socket.socket(family_of(destination[0]))
            client.settimeout(timeout)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if source:
                client.bind(source)
            try:
                client.connect(destination)
            except OSError:
                client.close()
                raise
            return client
        return self.run(body)

    def listen(self, address, port):
        def body():
            server = socket.socket(family_of(address))
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((address, port))
            server.listen()
            server.settimeout(3)
            return server
        return self.run(body)

    def close(self):
        os.close(self.namespace)
