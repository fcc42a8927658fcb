# SPDX-License-Identifier: Apache-2.0
"""Programs on sockets: real sockets on loopback, entries of their connections written by hand."""

import contextlib
import ctypes
import errno
import ipaddress
import os
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest

import kernel
from world import CLOSING, ESTABLISHED, INTERCEPTED, ORIGIN_HIGH, PROXY, World

SO_NETNS_COOKIE, SO_ORIGINAL_DST, SOL_IP, SOL_IPV6 = 71, 80, 0, 41
REWRITTEN = 64
GETSOCKOPT, CONNECT4, CONNECT6 = 21, 10, 11
HOOKS = {"socket_getsockopt": GETSOCKOPT, "socket_connect4": CONNECT4, "socket_connect6": CONNECT6,
         "socket_getpeername4": 29, "socket_getpeername6": 30, "socket_getsockname4": 31, "socket_getsockname6": 32,
         "socket_sendmsg4": 14, "socket_sendmsg6": 15, "socket_recvmsg4": 19, "socket_recvmsg6": 20}
TRACES, RAW_TRACEPOINT_OPEN = ("socket_recv", "socket_fork"), 17
LOCAL = {4: "127.0.0.9", 6: "fd00:5::9"}  # what the client dialled
CLIENT = {4: "127.0.0.2", 6: "fd00:5::2"}
NOBODY = "127.0.0.77"


def cgroup_root():
    with open("/proc/self/mountinfo") as file:
        mounts = [line.split() for line in file if " - cgroup2 " in line]
    if not mounts:
        pytest.skip("cgroup v2 is not mounted")
    return mounts[0][4]


def netns_cookie():
    with socket.socket() as sock:
        return struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8))[0]


@contextlib.contextmanager
def attached(world):
    """The programs see every socket of the machine; the constant leaves them those of this namespace."""
    where = os.open(cgroup_root(), os.O_RDONLY | os.O_DIRECTORY)
    links = []
    try:
        for name, kind in HOOKS.items():
            program = world.object.library.bpf_program__fd(world.object._program(name))
            attributes = struct.pack("=IIII", program, where, kind, 0)
            links.append(kernel.bpf(kernel.LINK_CREATE, ctypes.create_string_buffer(attributes.ljust(64, b"\0"), 64)))
        for name in TRACES:
            program = world.object.library.bpf_program__fd(world.object._program(name))
            attributes = struct.pack("=QII", 0, program, 0)
            links.append(kernel.bpf(RAW_TRACEPOINT_OPEN, ctypes.create_string_buffer(attributes, 16)))
        yield world
    finally:
        for link in links:
            os.close(link)
        os.close(where)


@pytest.fixture(scope="module")
def hooked(interfaces):
    for address in (LOCAL[6], CLIENT[6]):
        assert os.system(f"ip addr add {address}/128 dev lo nodad") == 0
    world = World(interfaces, constants={"netns_cookie": netns_cookie()})
    with attached(world):
        yield world
    world.object.close()


@pytest.fixture
def sockets(hooked):
    hooked.reset()
    for name in ("ps_held", "ps_leg"):
        hooked.object.map(name).clear()
    yield hooked
    for made in Accepted.live:
        made.sock.close(), made.client.close()
    Accepted.live.clear()


class Accepted:
    """A connection on loopback: `client`, and `sock` at the other end, which nobody has asked for its addresses. Kept
    until the test ends: a socket that Python forgets is asked for its addresses once more."""
    live = []

    def __init__(self, family=4, listen=None):
        listen = listen or LOCAL[family]
        with socket.socket(socket.AF_INET6 if ":" in listen else socket.AF_INET) as listener:
            if listen == "::":
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((listen, 0))
            listener.listen()
            self.port = listener.getsockname()[1]
            self.client = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET)
            self.client.bind((CLIENT[family], 0))
            self.client.connect((LOCAL[family], self.port))
            self.client_port = self.client.getsockname()[1]
            descriptor, _ = listener._accept()
        self.sock = socket.socket(fileno=descriptor)
        self.ends = [(ipaddress.ip_address(CLIENT[family]), self.client_port),
                     (ipaddress.ip_address(LOCAL[family]), self.port)]
        self.family = family
        Accepted.live.append(self)

    def key(self):
        low, high = sorted(self.ends)
        return low[0].packed + high[0].packed + struct.pack("=HHB3x", low[1], high[1], socket.IPPROTO_TCP)

    def entry(self, world, flags=INTERCEPTED, state=ESTABLISHED, live=True, origin=b""):
        """Written as the programs on packets do; the client opened it."""
        if self.ends[0] > self.ends[1]:
            flags |= ORIGIN_HIGH
        value = bytes(88) + struct.pack("=BBB5x", state, flags, PROXY) + origin.ljust(16, b"\0") + bytes(8)
        world.object.map(f"ps_{'conn' if live else 'new'}{self.family}").put(
            self.key(), (bytes(16) if live else b"") + value)
        return self

    def original(self, length=None, level=None):
        """SO_ORIGINAL_DST as (address, port), or the error's number."""
        level = level if level is not None else SOL_IPV6 if self.family == 6 else SOL_IP
        try:
            answer = self.sock.getsockopt(level, SO_ORIGINAL_DST, length or (28 if self.family == 6 else 16))
        except OSError as error:
            return error.errno
        if len(answer) == 16:
            family, port, address = struct.unpack("!2sH4s8x", answer)
            assert struct.unpack("=H", family) == (socket.AF_INET,)
            return socket.inet_ntop(socket.AF_INET, address), port
        family, port, flow, address, scope = struct.unpack("!2sHI16sI", answer)
        assert struct.unpack("=H", family) == (socket.AF_INET6,) and flow == scope == 0
        return socket.inet_ntop(socket.AF_INET6, address), port

    def held(self):
        """What a row that names it says, but for its use."""
        return self.key().ljust(40, b"\0") + bytes([self.family])


def held(world):
    """(process, thread) → row, but for its use."""
    table = world.object.map("ps_held")
    return {struct.unpack("=II", key): table.get(key)[:41] for key in table.keys()}


def legs(world):
    """cookie → (client, family, proxy)."""
    table, found = world.object.map("ps_leg"), {}
    for key in table.keys():
        client, family, proxy = struct.unpack("=16sBB6x", table.get(key))
        assert family == 6 or client[4:] == bytes(12)
        found[struct.unpack("=Q", key)[0]] = (str(ipaddress.ip_address(client[:16 if family == 6 else 4])), family, proxy)
    return found


def cookie(sock):
    return struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, 57, 8))[0]


def connect(address=NOBODY, sock=None):
    """A connection that nobody takes: what counts is the attempt. Returns the socket."""
    sock = sock or socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    sock.setblocking(False)
    sock.connect_ex((address, 9))
    return sock


# ---- SO_ORIGINAL_DST ----


@pytest.mark.parametrize("live", [True, False], ids=["established", "embryonic"])
@pytest.mark.parametrize("family", [4, 6])
def test_the_original_destination_is_the_local_address(sockets, family, live):
    it = Accepted(family).entry(sockets, live=live)
    assert it.original() == (LOCAL[family], it.port)


def test_ipv4_of_a_dual_stack_listener(sockets):
    it = Accepted(4, listen="::").entry(sockets)
    assert it.sock.family == socket.AF_INET6
    assert it.original() == (LOCAL[4], it.port)
    assert it.original(28, SOL_IPV6) in (errno.ENOENT, errno.ENOPROTOOPT), "asked as IPv6, which it is not"


@pytest.mark.parametrize("family", [4, 6])
def test_buffers_of_any_length(sockets, family):
    it, size = Accepted(family).entry(sockets), 28 if family == 6 else 16
    assert it.original(size - 1) == errno.EINVAL
    assert it.original(1) == errno.EINVAL
    assert it.original(size + 1) == it.original(1024) == (LOCAL[family], it.port), "no byte more than there is"


def test_what_is_not_intercepted_gets_the_kernels_answer(sockets):
    for family in (4, 6):
        it = Accepted(family)
        unknown = it.original()
        assert unknown in (errno.ENOENT, errno.ENOPROTOOPT)
        assert it.entry(sockets, flags=0).original() == unknown
        assert held(sockets) == {}, "and is nobody's"


def test_only_who_accepted_it_is_told(sockets):
    """The client's own socket has the same two addresses."""
    for family in (4, 6):
        it = Accepted(family).entry(sockets)
        it.sock, it.client = it.client, it.sock
        assert it.original() in (errno.ENOENT, errno.ENOPROTOOPT)
        it.sock.getpeername(), it.sock.getsockname()
        assert held(sockets) == {}


def test_another_namespace_is_none_of_our_business(sockets, interfaces):
    world = World(interfaces, constants={"netns_cookie": netns_cookie() + 1})
    with attached(world):
        it = Accepted().entry(world)
        assert it.original() in (errno.ENOENT, errno.ENOPROTOOPT)
        it.sock.getpeername(), connect()
        assert held(world) == {} and legs(world) == {}
    world.object.close()


def option(sock, level, name, size):
    """(result, length, bytes) of a getsockopt with a buffer of any size."""
    buffer, length = ctypes.create_string_buffer(b"\xa5" * size, size), ctypes.c_uint32(size)
    result = kernel.libc.getsockopt(sock.fileno(), level, name, buffer, ctypes.byref(length))
    return result and ctypes.get_errno(), length.value, buffer.raw


def test_other_options_are_as_without_us(interfaces):
    """Those too that are larger than the page that programs are shown."""
    options = [(level, name, size) for level in (SOL_IP, socket.SOL_SOCKET, socket.IPPROTO_TCP, SOL_IPV6)
               for name in (SO_ORIGINAL_DST, socket.SO_TYPE, 64, 65, 11) for size in (0, 1, 4, 16, 4096, 4097, 100000)
               if (level, name) != (socket.IPPROTO_TCP, 11)]  # TCP_INFO counts time
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.listen()
        before = [option(sock, *asked) for sock in (tcp, unix, udp) for asked in options]
        world = World(interfaces, constants={"netns_cookie": netns_cookie()})
        with attached(world):
            after = [option(sock, *asked) for sock in (tcp, unix, udp) for asked in options]
        world.object.close()
    assert before == after


# ---- whose connection is in hand ----


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("ask", [
    lambda it: it.sock.getpeername(), lambda it: it.sock.getsockname(), lambda it: it.original(),
    lambda it: it.original(1)], ids=["peer", "name", "original", "original-short"])
def test_who_asks_holds_it(sockets, family, ask):
    it = Accepted(family).entry(sockets)
    assert held(sockets) == {}
    ask(it)
    rows = held(sockets)
    assert len(rows) == 2 and set(rows.values()) == {it.held()}
    (process, thread), = [row for row in rows if row[1]]
    assert process == thread and (process, 0) in rows, "the main thread's, and the process's"


@pytest.mark.parametrize("family", [4, 6])
def test_who_reads_holds_it(sockets, family):
    """One thread accepts, another serves; it has read nothing yet."""
    it = Accepted(family).entry(sockets)
    it.sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        it.sock.recv(1)
    rows = held(sockets)
    (process, thread), = rows
    assert process == thread and rows[process, thread] == it.held()
    it.client.send(b"x")
    assert os.read(it.sock.fileno(), 1) == b"x"
    assert held(sockets) == rows


def test_of_two_clients_the_one_read_from_last(sockets):
    first, second = Accepted().entry(sockets), Accepted(6).entry(sockets)
    first.sock.getpeername(), second.sock.getpeername()
    for it, client in ((first, CLIENT[4]), (second, CLIENT[6]), (first, CLIENT[4])):
        it.client.send(b"x"), it.sock.recv(1)
        assert client_of(sockets, connect()) == client


def test_what_was_read_from_others_is_nobodys(sockets):
    it = Accepted()
    it.client.send(b"x"), it.sock.recv(1)
    it.entry(sockets)
    it.sock.send(b"x"), it.client.recv(1)
    assert held(sockets) == {}


def test_the_last_one_counts(sockets):
    first, second = Accepted().entry(sockets), Accepted(6).entry(sockets)
    first.sock.getpeername(), second.sock.getpeername()
    assert set(held(sockets).values()) == {second.held()}
    first.sock.getsockname()
    assert set(held(sockets).values()) == {first.held()}


def in_thread(work):
    result = []
    thread = threading.Thread(target=lambda: result.append(work()))
    thread.start()
    thread.join()
    return result[0]


# ---- for whom a socket connects ----


@pytest.mark.parametrize("family", [4, 6])
def test_a_connect_is_for_the_client_that_is_held(sockets, family):
    it = Accepted(family).entry(sockets)
    it.sock.getpeername()
    for address in (NOBODY, "::ffff:" + NOBODY, "fd00:5::77"):
        made = connect(address)
        assert legs(sockets)[cookie(made)] == (CLIENT[family], family, PROXY)


@pytest.mark.parametrize("family", [4, 6])
def test_a_rewritten_client_is_who_it_was(sockets, family):
    origin = {4: "192.0.2.1", 6: "2001:db8::1"}[family]
    it = Accepted(family).entry(sockets, INTERCEPTED | REWRITTEN, origin=ipaddress.ip_address(origin).packed)
    it.sock.getpeername()
    made = connect()
    assert legs(sockets) == {cookie(made): (origin, family, PROXY)}


def client_of(world, made):
    """Whose it is, or None."""
    return legs(world).get(cookie(made), (None,))[0]


def test_a_thread_connects_for_what_it_has_asked_for(sockets):
    mine, theirs = Accepted().entry(sockets), Accepted(6).entry(sockets)
    mine.sock.getpeername()

    def ask_and_connect():
        theirs.sock.getpeername()
        return client_of(sockets, connect())
    assert in_thread(ask_and_connect) == CLIENT[6]
    assert client_of(sockets, connect()) == CLIENT[4], "its own comes first"


def test_one_thread_accepts_and_another_connects(sockets):
    """What a thread has connected for before does not stand in the way of what another one has taken since."""
    first, second = Accepted().entry(sockets), Accepted(6).entry(sockets)
    asked, done = threading.Event(), threading.Event()
    clients = []

    def other():
        second.sock.getpeername()
        asked.set()
        done.wait()
        first.sock.getpeername()
        clients.append(client_of(sockets, connect()))
    first.sock.getpeername()
    assert client_of(sockets, connect()) == CLIENT[4]
    thread = threading.Thread(target=other)
    thread.start()
    asked.wait()
    assert client_of(sockets, connect()) == CLIENT[6], "what the other thread took"
    assert client_of(sockets, connect()) == CLIENT[4], "nobody has taken anything since: its own again"
    done.set()
    thread.join()
    assert clients == [CLIENT[4]]


def test_a_thread_without_its_own_connects_for_the_process(sockets):
    Accepted().entry(sockets).sock.getpeername()
    for _ in range(3):
        assert in_thread(lambda: client_of(sockets, connect())) == CLIENT[4]


def in_child(work, meanwhile=lambda: None):
    """The number that a forked process says."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(theirs, struct.pack("=Q", work()))
        os._exit(0)
    meanwhile()
    os.waitpid(child, 0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as file:
        return struct.unpack("=Q", file.read())[0]


def test_a_forked_process_has_what_its_parent_had_then(sockets):
    """As socat and other servers that fork for each connection."""
    first, second = Accepted(6).entry(sockets), Accepted().entry(sockets)
    first.sock.getpeername()
    ours, theirs = os.pipe()

    def connect_later():
        os.read(ours, 1)
        return cookie(connect())

    def meanwhile():
        second.sock.getpeername()
        os.write(theirs, b"x")
    made = in_child(connect_later, meanwhile)
    assert legs(sockets)[made] == (CLIENT[6], 6, PROXY)
    assert client_of(sockets, connect()) == CLIENT[4]
    assert client_of(sockets, connect()) == CLIENT[4], "the parent has its own"


def spawned(command):
    subprocess.run(command, check=True)


def forked(command):
    child = os.fork()
    if child == 0:
        os.execv(command[0], command)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("start", [spawned, forked])
def test_a_program_that_was_started_connects_for_nobody(sockets, start):
    Accepted().entry(sockets).sock.getpeername()
    start([sys.executable, "-c", "import socket; s = socket.socket(); s.setblocking(False); s.connect_ex(('127.0.0.77', 9))"])
    assert legs(sockets) == {}


@pytest.mark.parametrize("state, flags", [(CLOSING, INTERCEPTED), (ESTABLISHED, 0)], ids=["closing", "not-intercepted"])
def test_for_a_connection_that_is_over_nobody_connects(sockets, state, flags):
    it = Accepted().entry(sockets)
    it.sock.getpeername()
    again = connect()
    assert len(legs(sockets)) == 1
    it.entry(sockets, flags, state)
    connect()
    connect(sock=again)
    deadline = time.monotonic() + 2
    while legs(sockets) and time.monotonic() < deadline:
        connect(sock=again)  # the first attempt has to fail first
    assert legs(sockets) == {}, "the row of a socket is for its last connect"
    sockets.object.map("ps_conn4").clear()
    connect()
    assert legs(sockets) == {}


def test_datagrams_are_sent_on_for_the_client_that_is_held(sockets):
    """A socket that connects; and one that does not, for each datagram anew. Raw sockets are not looked at."""
    made = Accepted().entry(sockets)
    made.sock.getpeername()
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.connect((NOBODY, 9))
        assert client_of(sockets, sock) == CLIENT[4]
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", (NOBODY, 9))
        assert client_of(sockets, sock) == CLIENT[4]
        made.entry(sockets, state=CLOSING)
        sock.sendto(b"x", (NOBODY, 9))
        assert cookie(sock) not in legs(sockets), "that one is over"
    before = legs(sockets)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.connect((NOBODY, 0))
    assert legs(sockets) == before
