# SPDX-License-Identifier: Apache-2.0
"""A name server of a few lines, UDP and TCP, that says by its answer who it is; and a client."""
import ipaddress
import socket
import struct
import threading

from talk import family_of

A, AAAA, IN = 1, 28, 1


def question(name, family):
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"
    return labels + struct.pack("!HH", A if family == 4 else AAAA, IN)


def query(number, name, family):
    """RFC 1035 4.1: recursion desired, one question."""
    return struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, 0) + question(name, family)


def answer(asked, ip):
    """The question again, and one record that points to its name."""
    number, = struct.unpack_from("!H", asked)
    end = 12
    while asked[end]:
        end += 1 + asked[end]
    kind, = struct.unpack_from("!H", asked, end + 1)
    address = ipaddress.ip_address(ip).packed
    assert len(address) == (4 if kind == A else 16), "asked for the other family"
    return struct.pack("!HHHHHH", number, 0x8580, 1, 1, 0, 0) + asked[12:end + 5] + \
        struct.pack("!HHHIH", 0xc00c, kind, IN, 30, len(address)) + address


class Resolver:
    """On one address and port. Every name has the address `says`."""

    def __init__(self, space, ip, port, says=None):
        self.says = says or ip
        with space.entered():
            self.udp = socket.socket(family_of(ip), socket.SOCK_DGRAM)
            self.tcp = socket.socket(family_of(ip))
        for sock in (self.udp, self.tcp):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((ip, port))
        self.tcp.listen(64)
        for turn in (self._datagram, self._connection):
            threading.Thread(target=self._run, args=(turn,), daemon=True).start()

    @staticmethod
    def _run(turn):
        try:
            while True:
                turn()
        except OSError:
            pass  # closed

    def _datagram(self):
        asked, peer = self.udp.recvfrom(4096)
        if not asked:  # what shutdown() leaves to read
            raise OSError("closed")
        self.udp.sendto(answer(asked, self.says), peer)

    def _connection(self):
        sock, _ = self.tcp.accept()
        with sock:
            sock.settimeout(5)
            try:
                asked = sock.recv(4096)  # a query of this size comes in one piece
                told = answer(asked[2:], self.says)
                sock.sendall(struct.pack("!H", len(told)) + told)
            except OSError:
                pass

    def close(self):
        for sock in (self.udp, self.tcp):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            sock.close()


def resolve(space, server, port=53, protocol="UDP", name="kubernetes.default.svc.cluster.local", timeout=3.0):
    """The address that the answer holds, or the name of what went wrong."""
    family = 6 if ":" in server else 4
    with space.entered():
        sock = socket.socket(family_of(server), socket.SOCK_DGRAM if protocol == "UDP" else socket.SOCK_STREAM)
    with sock:
        sock.settimeout(timeout)
        asked = query(0x5053, name, family)
        try:
            sock.connect((server, port))  # UDP too: an answer from another address is none
            sock.sendall(asked if protocol == "UDP" else struct.pack("!H", len(asked)) + asked)
            told = sock.recv(4096)
        except OSError as error:
            return type(error).__name__
    told = told if protocol == "UDP" else told[2:]
    assert told[:2] == asked[:2] and told[12:12 + len(asked) - 12] == asked[12:], told
    return str(ipaddress.ip_address(told[-4 if family == 4 else -16:]))
