# SPDX-License-Identifier: Apache-2.0
"""Servers and clients of UDP, in threads: for tests of interception.

A server answers `hello` with one line of JSON that says who it is and whom it sees, and echoes everything else. It answers
from the address to which the client has sent; one that is transparent, as proxies are, whoever has that.
"""
import contextlib
import itertools
import json
import socket
import threading

from probe import OPTIONS, answer_as_others, answer_from, family_of, original_destination
from talk import plain

HELLO, SO_RCVBUFFORCE = b"hello", 33


class Receiver:
    """One port, on "::" both families. `seen` has (peer, port, local, port) of every datagram."""

    def __init__(self, space, port=80, name=None, address="::", transparent=True, reuseport=False):
        self.space, self.name, self.seen, self.wrong = space, name or space.name, [], []
        with space.entered():
            self.sock = socket.socket(family_of(address), socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # those that answer may have its port
        if ":" in address:
            self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if reuseport:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if transparent:
            self.sock.setsockopt(*OPTIONS[family_of(address)][:2], 1)
        self.transparent = transparent
        for level, _, told in OPTIONS.values():
            if level == socket.IPPROTO_IP or ":" in address:
                self.sock.setsockopt(level, told, 1)
        self.sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        self.sock.bind((address, port))
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        while True:
            try:
                data, control, flags, peer = self.sock.recvmsg(65536, 512)
            except OSError as error:
                if self.sock.fileno() < 0 or error.errno == 9:
                    return
                continue  # about an earlier answer
            if data == b"" and flags == 0 and self.sock.fileno() < 0:
                return
            if not control:  # shutdown() wakes it
                return
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                self.wrong.append(f"cut short: flags {flags:#x}")
            peer, local = (plain(peer[0]), peer[1]), original_destination(control)
            self.seen.append((*peer, *local))
            if data == HELLO:
                data = json.dumps({"server": self.name, "peer": peer, "local": local}).encode()
            try:
                self.answer(data, peer, local)
            except OSError as error:
                self.wrong.append(str(error))

    def answer(self, data, peer, local):
        (answer_as_others if self.transparent else answer_from)(self.space, self.sock, data, peer, local)

    def close(self):
        # close() alone does not wake a thread that waits in recvmsg().
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.thread.join(2)
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


class Talker:
    """A connected socket in a namespace: it takes answers from where it has sent to, and from nobody else. No port is taken
    twice, unless asked for: entries outlive their flows."""
    ports = itertools.cycle(range(22000, 32000))

    def __init__(self, space, ip, port=80, timeout=3.0, bind=None):
        with space.entered():
            self.sock = socket.socket(family_of(ip), socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        self.sock.bind(bind or ("", next(self.ports)))
        self.sock.settimeout(timeout)
        self.sock.connect((ip, port))
        self.ends, self.destination = self.sock.getsockname()[:2], (ip, port)

    def hello(self):
        self.sock.send(HELLO)
        return json.loads(self.sock.recv(65536))

    def server(self):
        """Who answers, in a word; whom it sees must be right."""
        try:
            who = self.hello()
        except (OSError, ValueError) as error:
            return type(error).__name__
        assert who["local"] == list(self.destination), who
        return who["server"]

    def echo(self, data=b"echo", timeout=None):
        if timeout:
            self.sock.settimeout(timeout)
        try:
            self.sock.send(data)
            return self.sock.recv(65536) == data
        except OSError:
            return False

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()
