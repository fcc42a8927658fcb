# SPDX-License-Identifier: Apache-2.0
"""Servers in threads, clients, and what was seen on a wire: for tests that carry real bytes through real proxies.

A server's side of a talk: the first line asks who it is, and it answers with one line of JSON; then it echoes.
"""
import contextlib
import ctypes
import json
import os
import select
import socket
import struct
import threading
import zlib

CHUNK = 65536
PATTERN = os.urandom(CHUNK * 4 + 1)  # its length is odd: no write begins where another did
SO_ATTACH_FILTER, SO_TIMESTAMP = 26, 29
TRANSPARENT = {socket.AF_INET: (socket.IPPROTO_IP, 19), socket.AF_INET6: (socket.IPPROTO_IPV6, 75)}


def family_of(ip):
    return socket.AF_INET6 if ":" in ip else socket.AF_INET


def plain(ip):
    """An IPv4 address that an IPv6 socket shows (::ffff:a.b.c.d) is an IPv4 address."""
    return ip.lower().removeprefix("::ffff:")


def pour_out(sock, total, sum_=0):
    """Sends so many bytes of the pattern; returns their checksum, that of what went before included."""
    done = 0
    while done < total:
        part = PATTERN[:total - done]
        sock.sendall(part)
        sum_ = zlib.crc32(part, sum_)
        done += len(part)
    return sum_


def summed(sock, total):
    """The checksum of the next so many bytes."""
    buffer, sum_ = bytearray(CHUNK * 4), 0
    view = memoryview(buffer)
    while total:
        count = sock.recv_into(buffer, min(total, len(buffer)))
        if not count:
            raise ConnectionError(f"the connection ended {total} bytes too early")
        sum_, total = zlib.crc32(view[:count], sum_), total - count
    return sum_


class Server:
    """One port, on "::" both families. `accepted` has (peer, port, local, port) of every connection."""

    def __init__(self, space, port=80, name=None, address="::", transparent=False, reuseport=False):
        self.name, self.accepted, self.open = name or space.name, [], set()
        family = family_of(address)
        with space.entered():
            self.listener = socket.socket(family)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            self.listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if reuseport:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if transparent:
            self.listener.setsockopt(*TRANSPARENT[family], 1)
        self.listener.bind((address, port))
        self.listener.listen(4096)
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def _accept(self):
        while True:
            try:
                sock, peer = self.listener.accept()
            except OSError:
                return
            local = sock.getsockname()
            self.accepted.append((plain(peer[0]), peer[1], plain(local[0]), local[1]))
            self.open.add(sock)
            threading.Thread(target=self._serve, args=(sock, self.accepted[-1]), daemon=True).start()

    def _serve(self, sock, ends):
        try:
            with sock, sock.makefile("rb", buffering=0) as file:
                first = file.readline()
                who = {"server": self.name, "peer": ends[:2], "local": ends[2:]}
                if first.startswith((b"GET ", b"POST ")):
                    self._serve_http(sock, file, who)
                elif first:
                    sock.sendall(json.dumps(who).encode() + b"\n")
                    if first == b"bye\n":
                        sock.shutdown(socket.SHUT_WR)
                    self._echo(sock)
        except OSError:
            pass
        finally:
            self.open.discard(sock)

    @staticmethod
    def _serve_http(sock, file, who):
        who["headers"] = {}
        while (line := file.readline().decode().strip()):
            key, value = line.split(":", 1)
            who["headers"][key.lower()] = value.strip()
        size = int(who["headers"].get("content-length", 0))
        who["sum"] = summed(sock, size)
        said = json.dumps(who).encode()
        head = b"HTTP/1.1 200 OK\r\nX-Who: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        sock.sendall(head % (said, size or len(said)))
        if size:
            pour_out(sock, size)
        else:
            sock.sendall(said)

    @staticmethod
    def _echo(sock):
        buffer = bytearray(CHUNK * 4)
        view = memoryview(buffer)
        while count := sock.recv_into(buffer):
            sock.sendall(view[:count])
        sock.shutdown(socket.SHUT_WR)

    def stop(self):
        """Listens no more; what it has accepted goes on."""
        # close() alone does not wake a thread that waits in accept().
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def close(self):
        self.stop()
        for sock in list(self.open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


class Client:
    """A connection from a namespace; raises what connect() raises."""

    def __init__(self, space, ip, port=80, timeout=5.0, bind=None):
        with space.entered():
            self.sock = socket.socket(family_of(ip))
        try:
            self.sock.settimeout(timeout)
            if bind:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self.sock.bind(bind)
            self.sock.connect((ip, port))
        except BaseException:
            self.sock.close()
            raise
        self.file = self.sock.makefile("rb", buffering=0)
        self.ends = self.sock.getsockname()[:2]
        self.destination = (ip, port)
        self.who = None

    def hello(self, last=False):
        """Who is at the other end, in its own words. last: then it ends the connection, and has the TIME_WAIT."""
        self.sock.sendall(b"bye\n" if last else b"hello\n")
        self.who = json.loads(self.line())
        return self.who

    def line(self):
        line = self.file.readline()
        if not line.endswith(b"\n"):
            raise ConnectionError(f"the connection ended after {line!r}")
        return line

    def get(self, path="/"):
        """HTTP/1.0's shape: headers and body."""
        self.sock.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
        head, body = self.rest().split(b"\r\n\r\n", 1)
        assert head.startswith(b"HTTP/1.1 200"), head
        return body

    def post(self, megabytes=0):
        """A request with so much in its body, and an answer with as much. What the server says of itself and of the
        request; its last key says what is wrong, or None."""
        total = megabytes << 20
        if total:
            self.sock.settimeout(30)
        self.begin_post(total)
        return self.end_post(total, pour_out(self.sock, total))

    def begin_post(self, total, host=None):
        host = host or (f"[{self.destination[0]}]" if ":" in self.destination[0] else self.destination[0])
        self.sock.sendall(f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {total}\r\nConnection: close\r\n\r\n"
                          .encode())

    def end_post(self, total, sent):
        status, headers = self.line(), {}
        if not status.startswith(b"HTTP/1.1 200"):
            raise ConnectionError(status)
        while (line := self.line().strip()):
            key, value = line.decode().split(":", 1)
            headers[key.lower()] = value.strip()
        who = json.loads(headers["x-who"])
        got = summed(self.sock, total)
        who["wrong"] = None if who["sum"] == sent == got else f"checksums {sent} {who['sum']} {got}"
        return who

    def rest(self):
        parts = []
        while part := self.sock.recv(CHUNK):
            parts.append(part)
        return b"".join(parts)

    def echo(self, data=b"echo", timeout=None):
        """Does it come back?"""
        if timeout:
            self.sock.settimeout(timeout)
        try:
            self.sock.sendall(data)
            got = b""
            while len(got) < len(data) and (part := self.sock.recv(len(data) - len(got))):
                got += part
            return got == data
        except OSError:
            return False

    def pour(self, megabytes, write=CHUNK, half_close=True):
        """So much there and back, both ways at once, in writes of that size; half_close: then the end, which must come
        back too, behind the last byte. Returns what is wrong, or None."""
        total, sums, failure = megabytes << 20, [0, 0], []

        def sender():
            sent = 0
            try:
                while sent < total:
                    at = sent % len(PATTERN)
                    part = PATTERN[at:at + min(write, total - sent)]
                    self.sock.sendall(part)
                    sums[0] = zlib.crc32(part, sums[0])
                    sent += len(part)
                if half_close:
                    self.sock.shutdown(socket.SHUT_WR)
            except OSError as error:
                failure.append(f"after {sent} bytes sent: {error}")
        self.sock.settimeout(30)
        thread = threading.Thread(target=sender, daemon=True)
        thread.start()
        got, buffer = 0, bytearray(CHUNK * 4)
        view = memoryview(buffer)
        try:
            while (half_close or got < total) and (count := self.sock.recv_into(buffer)):
                sums[1] = zlib.crc32(view[:count], sums[1])
                got += count
        except OSError as error:
            failure.append(f"after {got} bytes received: {error}")
        thread.join(30)
        if not failure and (got != total or sums[0] != sums[1]):
            failure.append(f"{got} of {total} bytes, checksums {sums}")
        return "; ".join(failure) or None

    def ended(self, timeout=3.0):
        """Has the other end gone away (FIN or RST) within that time?"""
        self.sock.settimeout(timeout)
        try:
            while self.sock.recv(CHUNK):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    def close(self):
        self.file.close()
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


def ask(space, ip, port=80, timeout=3.0, bind=None):
    """One short talk: who answered, or the name of what went wrong."""
    try:
        with Client(space, ip, port, timeout, bind) as client:
            return client.hello()
    except (OSError, ValueError) as error:
        return type(error).__name__


def fetch(space, ip, port=80, timeout=3.0):
    """One request of HTTP: the name of the server that answered, or of what went wrong."""
    try:
        with Client(space, ip, port, timeout) as client:
            return client.post()["server"]
    except (OSError, ValueError, KeyError) as error:
        return type(error).__name__


# ---- wires ----

def _program(*lines):
    code = b"".join(struct.pack("HBBI", *line) for line in lines)
    buffer = ctypes.create_string_buffer(code)
    return buffer, struct.pack("HL", len(lines), ctypes.addressof(buffer))


LOAD_HALF, LOAD_BYTE, EQUAL, ANY_BIT, RETURN = 0x28, 0x30, 0x15, 0x45, 0x06
FIRST_SYNS = [  # TCP with SYN and without ACK, no IP options
    (LOAD_HALF, 0, 0, 12), (EQUAL, 0, 5, 0x0800), (LOAD_BYTE, 0, 0, 23), (EQUAL, 0, 10, 6), (LOAD_BYTE, 0, 0, 47),
    (ANY_BIT, 0, 8, 2), (ANY_BIT, 7, 6, 16), (EQUAL, 0, 6, 0x86dd), (LOAD_BYTE, 0, 0, 20), (EQUAL, 0, 4, 6),
    (LOAD_BYTE, 0, 0, 67), (ANY_BIT, 0, 2, 2), (ANY_BIT, 1, 0, 16), (RETURN, 0, 0, 128), (RETURN, 0, 0, 0)]


class Wire:
    """
    Every SYN that passes an interface: [(source, port, destination, port, sequence number, label)]; times, in seconds.
    The label is the IP ID or the flow label, random at first for each socket. Without it a SYN would not be known again: two
    sockets of one host that connect with the same addresses and ports at the same moment choose the same sequence number.
    """

    def __init__(self, space, interface="eth0"):
        with space.entered():
            self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            keep, program = _program(*FIRST_SYNS)
            self.sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            self.sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMP, 1)
            del keep
            self.sock.bind((interface, 3))
        self.sock.setblocking(False)
        self.syns, self.times = [], []

    def read(self):
        while select.select([self.sock], [], [], 0)[0]:
            frame, ((_, _, stamp),), _, _ = self.sock.recvmsg(256, 64)
            v4 = frame[12:14] == b"\x08\x00"
            family, start, size = (socket.AF_INET, 26, 4) if v4 else (socket.AF_INET6, 22, 16)
            source, destination = (socket.inet_ntop(family, frame[at:at + size]) for at in (start, start + size))
            ports = struct.unpack_from("!HHI", frame, start + 2 * size)
            label = struct.unpack_from("!H", frame, 18)[0] if v4 else struct.unpack_from("!I", frame, 14)[0] & 0xfffff
            self.syns.append((source, ports[0], destination, *ports[1:], label))
            seconds, micro = struct.unpack("=qq", stamp)
            self.times.append(seconds + micro / 1e6)
        return self.syns

    def repeated(self, after=0.5):
        """SYNs sent again so many seconds later: nobody has answered. Sooner: a TIME_WAIT was in the way."""
        self.read()
        first = {}
        return [syn for syn, at in zip(self.syns, self.times) if at - first.setdefault(syn[:5], at) > after]

    def clear(self):
        self.read()
        self.syns, self.times = [], []

    def close(self):
        self.sock.close()
