# SPDX-License-Identifier: Apache-2.0
"""Hundreds of connection attempts at once, from and to any namespace, in one thread of one process.

A socket belongs to the namespace in which it was made, so the prober makes each one in its place and polls all of
them together: a round costs one time-out however many attempts it holds. What is denied by drop gives no answer at
all; an answer of another kind (reset, ICMP error) is reported as such.
"""
import errno
import os
import select
import socket
import struct
import time
from dataclasses import dataclass, field

IPPROTO_SCTP = 132
# By family: (level, the option that makes a socket transparent, the one that tells the original destination).
OPTIONS = {socket.AF_INET: (socket.IPPROTO_IP, 19, 20), socket.AF_INET6: (socket.IPPROTO_IPV6, 75, 74)}
PROTOCOLS = {"TCP": (socket.SOCK_STREAM, socket.IPPROTO_TCP), "UDP": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
             "SCTP": (socket.SOCK_STREAM, IPPROTO_SCTP)}
ALLOW, DENY = "allow", "deny"
# The agent's ICMP errors are limited, as the kernel's own are: 50 at once, then one a millisecond.
ERRORS_BURST, ERRORS_PAUSE = 40, 0.06


def have_sctp():
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_SCTP).close()
        return True
    except OSError:
        return False


def family_of(ip):
    return socket.AF_INET6 if ":" in ip else socket.AF_INET


def original_destination(control):
    """(address, port) from the control messages of a datagram."""
    for level, kind, value in control:
        if (level, kind) == (socket.IPPROTO_IP, 20):
            return socket.inet_ntop(socket.AF_INET, value[4:8]), int.from_bytes(value[2:4], "big")
        if (level, kind) == (socket.IPPROTO_IPV6, 74):
            return socket.inet_ntop(socket.AF_INET6, value[8:24]), int.from_bytes(value[2:4], "big")
    raise ValueError("no original destination")


def answer_from(namespace, sock, data, peer, local):
    """A server's answer: from the one of its addresses that the client knows."""
    if sock.family == socket.AF_INET:
        sock.sendmsg([data], [(socket.IPPROTO_IP, 8, struct.pack("i", 0) + socket.inet_aton(local[0]) + bytes(4))], 0, peer)
        return
    to, source = (ip if ":" in ip else f"::ffff:{ip}" for ip in (peer[0], local[0]))
    sock.sendmsg([data], [(socket.IPPROTO_IPV6, 50, socket.inet_pton(socket.AF_INET6, source) + bytes(4))], 0, (to, peer[1]))


def answer_as_others(namespace, sock, data, peer, local):
    """A proxy's answer: from where the client has sent to."""
    with answering(namespace, local) as own:
        own.sendto(data, peer)


def answering(namespace, address):
    """A socket that speaks for somebody else's address."""
    family = family_of(address[0])
    with namespace.entered():
        sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(*OPTIONS[family][:2], 1)
    sock.bind(address)
    return sock


@dataclass
class Probe:
    """source: a Namespace; destination: an address. result: "allow" (echoed), "deny" (silence), or an errno's name."""
    source: object
    destination: str
    port: int
    protocol: str = "TCP"
    bind: tuple = None  # (address, port) of the client's end
    expect: str = None  # lets a round end early: only expected silence is waited for
    label: str = ""
    transparent: bool = False  # bind to an address that is not the namespace's
    result: str = None
    peer: tuple = None  # what the server saw: the client's address, and its own
    local: tuple = None  # the client's own end
    server: tuple = None  # (namespace's name, port, protocol, address) of the listener that answered
    payload: bytes = field(default=b"", repr=False)

    @property
    def ok(self):
        return self.result == self.expect

    def __str__(self):
        return (f"{self.label or self.source.name} -> {self.destination} {self.protocol}/{self.port}: "
                f"{self.result}, wanted {self.expect}")


class Prober:
    def __init__(self):
        self.epoll = select.epoll()
        self.handlers = {}  # fd -> function(events)
        self.sockets = {}   # fd -> socket, to keep it open
        self.listeners = {}
        self.seen = {}      # payload -> address of the client as the server saw it
        self.served = {}    # payload -> key of the listener that took it
        self.serial = 0

    # ---- servers: they echo, and note who asked ----

    def listen(self, namespace, port, protocol="TCP", ip="::", transparent=False):
        """Opens an echo server; on "::" it serves both families. False: the kernel does not have the protocol.
        One of UDP answers from the address to which the client has sent, a transparent one whoever has that."""
        kind, number = PROTOCOLS[protocol]
        key = (namespace.name, port, protocol, ip)
        if key in self.listeners:
            return True
        with namespace.entered():
            try:
                sock = socket.socket(family_of(ip), kind | socket.SOCK_NONBLOCK, number)
            except OSError as error:
                if error.errno in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT):
                    return False
                raise
        if family_of(ip) == socket.AF_INET6 and ip == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if transparent:
            sock.setsockopt(*OPTIONS[family_of(ip)][:2], 1)
        sock.bind((ip, port))
        if protocol == "UDP":
            for level, _, told in OPTIONS.values():
                if level == socket.IPPROTO_IP or family_of(ip) == socket.AF_INET6:
                    sock.setsockopt(level, told, 1)
            answer = answer_as_others if transparent else answer_from
            self._watch(sock, select.EPOLLIN, lambda events: self._serve_datagrams(sock, key, namespace, answer))
        else:
            sock.listen(512)
            self._watch(sock, select.EPOLLIN, lambda events: self._accept(sock, key))
        self.listeners[key] = sock
        return True

    def unlisten(self, namespace, port, protocol="TCP", ip="::"):
        """Ends a server; what it has accepted lives on."""
        self._forget(self.listeners.pop((namespace.name, port, protocol, ip)))

    def _serve_datagrams(self, sock, key, namespace, answer):
        for _ in range(256):
            try:
                data, control, _, peer = sock.recvmsg(65536, 256)
            except OSError as error:
                if error.errno == errno.EAGAIN:
                    return
                continue  # an ICMP error about an earlier answer
            peer, local = (peer[0].removeprefix("::ffff:"), peer[1]), original_destination(control)
            self.seen[data[:16]], self.served[data[:16]] = (*peer, *local), key
            try:
                answer(namespace, sock, data, peer, local)
            except OSError:
                pass

    def _accept(self, listener, key):
        while True:
            try:
                sock, peer = listener.accept()
            except OSError:
                return
            sock.setblocking(False)
            local = sock.getsockname()[:2]

            def echo(events, sock=sock, peer=peer, local=local):
                try:
                    data = sock.recv(65536)
                except BlockingIOError:
                    return
                except OSError:
                    data = b""
                if not data:
                    self._forget(sock)
                    return
                self.seen[data[:16]], self.served[data[:16]] = (*peer[:2], *local), key
                try:
                    sock.send(data)
                except OSError:
                    self._forget(sock)
            self._watch(sock, select.EPOLLIN, echo)

    # ---- clients ----

    def probe(self, probes, silence=0.35, patience=5.0):
        """Attempts all of them. Ends when every one is answered; expected silence is waited for `silence` seconds
        after the last attempt began, what is expected to pass gets up to `patience` seconds."""
        open_probes, errors = {}, 0
        for probe in probes:
            errors += probe.protocol != "TCP" and probe.expect not in (ALLOW, DENY, None)
            if errors == ERRORS_BURST:
                time.sleep(ERRORS_PAUSE)
                errors = 0
            self._begin(probe, open_probes)
            if len(open_probes) % 64 == 0:
                self._turn(0)
        begun = time.monotonic()
        while open_probes:
            waited = time.monotonic() - begun
            if waited > patience or (waited > silence and
                                     all(p.expect == DENY or p.expect is None for _, p in open_probes.values())):
                break
            self._turn(0.02)
        for sock, probe in list(open_probes.values()):
            self._finish(sock, probe, DENY, open_probes)
        for _ in range(3):
            self._turn(0)  # let the servers see the ends
        self.seen.clear()
        self.served.clear()
        return probes

    def _begin(self, probe, open_probes):
        kind, number = PROTOCOLS[probe.protocol]
        family = family_of(probe.destination)
        self.serial += 1
        probe.payload = struct.pack("!QQ", os.getpid(), self.serial)
        with probe.source.entered():
            sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, number)
        try:
            if probe.transparent:
                sock.setsockopt(*OPTIONS[family][:2], 1)
            if probe.bind:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(probe.bind)
            open_probes[sock.fileno()] = (sock, probe)
            try:
                sock.connect((probe.destination, probe.port))
            except BlockingIOError:
                pass
            if probe.protocol == "UDP":
                sock.send(probe.payload)
        except OSError as error:
            self._finish(sock, probe, errno.errorcode.get(error.errno, str(error)), open_probes)
            return
        sent = [probe.protocol == "UDP"]

        def progress(events):
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self._finish(sock, probe, errno.errorcode.get(error, str(error)), open_probes)
                return
            try:
                if not sent[0] and events & select.EPOLLOUT:
                    sock.send(probe.payload)
                    sent[0] = True
                    self.epoll.modify(sock.fileno(), select.EPOLLIN)
                if events & (select.EPOLLIN | select.EPOLLHUP):
                    data = sock.recv(65536)
                    self._finish(sock, probe, ALLOW if data == probe.payload else "EOF", open_probes)
            except BlockingIOError:
                pass
            except OSError as failure:
                self._finish(sock, probe, errno.errorcode.get(failure.errno, str(failure)), open_probes)
        self._watch(sock, select.EPOLLIN | (0 if sent[0] else select.EPOLLOUT), progress)

    def _finish(self, sock, probe, result, open_probes):
        probe.result = result
        probe.peer, probe.server = self.seen.get(probe.payload), self.served.get(probe.payload)
        try:
            probe.local = sock.getsockname()[:2]
        except OSError:
            pass
        open_probes.pop(sock.fileno(), None)
        self._forget(sock)

    # ---- the loop ----

    def _watch(self, sock, events, handler):
        self.sockets[sock.fileno()] = sock
        self.handlers[sock.fileno()] = handler
        self.epoll.register(sock.fileno(), events)

    def _forget(self, sock):
        fd = sock.fileno()
        if fd < 0:
            return
        if self.handlers.pop(fd, None):
            self.epoll.unregister(fd)
        self.sockets.pop(fd, None)
        sock.close()

    def _turn(self, timeout):
        for fd, events in self.epoll.poll(timeout, 512):
            handler = self.handlers.get(fd)
            if handler:
                handler(events)

    def close_listeners(self):
        """Ends every server and what they had accepted."""
        for sock in list(self.sockets.values()):
            self._forget(sock)
        self.listeners.clear()

    def close(self):
        self.close_listeners()
        self.epoll.close()
