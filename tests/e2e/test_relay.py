# SPDX-License-Identifier: Apache-2.0
"""penstock-relay alone, without an agent: what comes from the pod named client is handed to it by a TPROXY rule written by
hand, and so are replies to its connections from a client's address."""
import concurrent.futures
import ctypes
import hashlib
import json
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import threading
import time

import pytest

from lab import BUILD, NODE4, NODE6, UPLINK4, UPLINK6, Lab

PORT = 15001
SERVED = 8443
RESET = struct.pack("ii", 1, 0)
LINE = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (?P<client>\S+) -> (?P<destination>\S+) up=(?P<up>\d+) "
                  r"down=(?P<down>\d+) seconds=(?P<seconds>\d+\.\d{3}) source=(?P<source>\S+) protocol=tcp name=(?P<name>\S+) "
                  r'outcome="(?P<outcome>[^"]*)"$')
TPROXY = """
table inet relay {
	chain prerouting {
		type filter hook prerouting priority mangle; policy accept;
		meta l4proto tcp socket transparent 1 meta mark set 1 accept
		iifname "IFACE" meta nfproto ipv4 meta l4proto tcp tproxy ip to V4:15001 meta mark set 1 accept
		iifname "IFACE" meta nfproto ipv6 meta l4proto tcp tproxy ip6 to V6:15001 meta mark set 1 accept
	}
}
"""
REDIRECT = """
table inet relay {
	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		iifname "IFACE" tcp dport 8443 redirect to :15001
	}
}
"""


def wait(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


class Relay:
    def __init__(self, lab, *options, listen=(PORT,), before=()):
        self.log = f"{lab.directory}/relay{len(os.listdir(lab.directory))}.log"
        arguments = [argument for where in listen for argument in ("--listen", where)]
        with open(self.log, "w") as log, open(self.log + ".err", "w") as err:
            self.process = lab.node.popen(*before, os.path.join(BUILD, "penstock-relay"), *arguments, *options, stdout=log,
                                          stderr=err)
        sockets = sum(2 if isinstance(where, int) else 1 for where in listen)  # a port alone: both families
        wait(lambda: self.process.poll() is not None or self.read(".err").count("listening") >= sockets)
        assert self.process.poll() is None, self.read(".err")

    def read(self, suffix=""):
        with open(self.log + suffix) as file:
            return file.read()

    def lines(self, count=1):
        wait(lambda: self.read().count("\n") >= count)
        lines = self.read().splitlines()
        assert len(lines) == count, lines
        matches = [LINE.match(line) for line in lines]
        assert all(matches), lines
        return [match.groupdict() for match in matches]

    def line(self):
        return self.lines()[0]

    def totals(self):
        before = self.read(".err").count("totals:")
        self.process.send_signal(signal.SIGUSR1)
        wait(lambda: self.read(".err").count("totals:") > before or self.process.poll() is not None)
        assert self.process.poll() is None, self.read(".err")
        return self.last_totals()

    def last_totals(self):
        last = [line for line in self.read(".err").splitlines() if "totals:" in line][-1]
        return {key: int(value) for key, value in re.findall(r"([a-z-]+)=(\d+)", last)}

    def fds(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def resident_kib(self):
        with open(f"/proc/{self.process.pid}/status") as file:
            return int(re.search(r"VmRSS:\s+(\d+)", file.read())[1])

    def ticks(self):
        with open(f"/proc/{self.process.pid}/stat") as file:
            return sum(map(int, file.read().rsplit(")", 1)[1].split()[11:13]))

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def close(self):
        """A second signal ends the drain."""
        if self.process.poll() is None:
            self.stop()
            time.sleep(0.02)
            self.stop()
        assert self.process.wait(10) == 0
        errors = self.read(".err")
        assert "runtime error" not in errors and "Sanitizer" not in errors, errors
        assert self.last_totals()["open"] == 0


class World:
    def __init__(self, lab):
        self.lab, self.relays = lab, []
        self.pod, self.outside, self.node = lab.pod("client"), lab.outside, lab.node
        self.rules(TPROXY, "", "")
        for family in ("-4", "-6"):
            lab.node.run("ip", family, "rule", "add", "fwmark", 1, "lookup", 100)
            lab.node.run("ip", family, "route", "add", "local", "default", "dev", "lo", "table", 100)

    def rules(self, text, four="127.0.0.1", six="[::1]"):
        """The nft table; four and six: where the listener is, "" on any address."""
        text = text.replace("IFACE", self.pod.interface).replace("V4", four).replace("V6", six)
        self.node.run("nft", "-f", "-", input="table inet relay\ndelete table inet relay\n" + text)

    def start(self, *options, **more):
        self.relays.append(Relay(self.lab, *options, **more))
        return self.relays[-1]

    def pair(self, server, ip=None, port=SERVED):
        """A connection from the pod, and what the server sees of it: client, onward, onward's peer."""
        client = connect(self.pod, ip or self.outside.ip4, port)
        onward, peer = server.accept()
        onward.settimeout(20)
        return client, onward, peer[0]


@pytest.fixture
def world():
    with Lab(outside=True) as lab:
        made = World(lab)
        yield made
        for relay in made.relays:
            relay.close()


def listen(space, family=socket.AF_INET, port=SERVED, backlog=64):
    with space.entered():
        server = socket.socket(family)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
        server.listen(backlog)
        server.settimeout(10)
        return server


def connect(space, ip, port=SERVED, timeout=20):
    with space.entered():
        client = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET)
    client.settimeout(timeout)
    client.connect((ip, port))
    return client


def name_of(sock):
    ip, port = sock.getsockname()[:2]
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def read_all(sock):
    parts = []
    while part := sock.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


@pytest.mark.parametrize("where", [(PORT,), (f"[::]:{PORT}",), (f"127.0.0.1:{PORT}",), (f"0.0.0.0:{PORT}", f"[::]:{PORT}")])
def test_carries_both_ways_and_says_so(world, where):
    relay = world.start(listen=where)
    if where[0] in (f"127.0.0.1:{PORT}", f"[::1]:{PORT}"):
        world.rules(TPROXY)
    client, onward, peer = world.pair(listen(world.outside))
    name = name_of(client)
    assert peer == UPLINK4, "not from the node's own address"
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    assert read_all(onward) == b"question"
    onward.sendall(b"the answer comes after the client's FIN")
    onward.close()
    assert read_all(client) == b"the answer comes after the client's FIN"
    client.close()
    line = relay.line()
    assert 0 <= float(line.pop("seconds")) < 10
    assert line == {"client": name, "destination": f"{world.outside.ip4}:{SERVED}", "up": "8", "down": "39",
                    "source": "node", "name": "-", "outcome": "closed"}


@pytest.mark.parametrize("where", [(PORT,), (f"[::1]:{PORT}", f"127.0.0.1:{PORT}")])
def test_ipv6(world, where):
    relay = world.start(listen=where)
    if where[0] in (f"127.0.0.1:{PORT}", f"[::1]:{PORT}"):
        world.rules(TPROXY)
    client, onward, peer = world.pair(listen(world.outside, socket.AF_INET6), world.outside.ip6)
    assert peer == UPLINK6
    onward.sendall(b"six")
    onward.close()
    assert read_all(client) == b"six"
    client.close()
    line = relay.line()
    assert line["client"].startswith(f"[{world.pod.ip6}]:") and line["destination"] == f"[{world.outside.ip6}]:{SERVED}"
    assert (line["up"], line["down"], line["outcome"]) == ("0", "3", "closed")


def test_the_server_ends_first(world):
    relay = world.start()
    client, onward, _ = world.pair(listen(world.outside))
    onward.sendall(b"greeting")
    onward.shutdown(socket.SHUT_WR)
    assert read_all(client) == b"greeting"
    for _ in range(3):
        client.sendall(b"more ")
        time.sleep(0.02)
    assert not relay.read(), "it ended before the client did"
    client.close()
    assert read_all(onward) == b"more more more "
    assert relay.line()["outcome"] == "closed"


def test_an_urgent_byte_stays_in_its_place(world):
    world.start()
    client, onward, _ = world.pair(listen(world.outside))
    for one, two in ((client, onward), (onward, client)):
        one.sendall(b"ab")
        one.send(b"c", socket.MSG_OOB)
        one.sendall(b"d")
        one.shutdown(socket.SHUT_WR)
        assert read_all(two) == b"abcd"


def transfer(sock, data):
    """Sends data with its end behind it; returns the digest of what came meanwhile, and its length."""
    def send():
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
    sender = threading.Thread(target=send)
    sender.start()
    digest, length = hashlib.sha256(), 0
    while part := sock.recv(1 << 20):
        digest.update(part)
        length += len(part)
    sender.join()
    return digest.hexdigest(), length


@pytest.mark.parametrize("source", ["node", "client"])
def test_megabytes_both_ways_at_once(world, source):
    relay = world.start("--source", source)
    client, onward, _ = world.pair(listen(world.outside))
    client.settimeout(60)
    onward.settimeout(60)
    up, down = os.urandom(64 << 20), os.urandom(64 << 20)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        at_client, at_server = pool.map(transfer, (client, onward), (up, down))
    assert at_client == (hashlib.sha256(down).hexdigest(), len(down))
    assert at_server == (hashlib.sha256(up).hexdigest(), len(up))
    line = relay.line()
    assert (line["up"], line["down"], line["source"]) == (str(len(up)), str(len(down)), source)


@pytest.fixture
def many_files():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_two_thousand_idle_connections(world, many_files):
    count = 2000
    if many_files < 4 * count:
        pytest.skip(f"only {many_files} files may be open")
    relay = world.start()
    server = listen(world.outside, backlog=4096)
    first = world.pair(server)
    fds, memory = relay.fds(), relay.resident_kib()
    pairs = [world.pair(server) for _ in range(count)]
    for client, onward, _ in pairs[::100]:
        client.sendall(b"x" * 300000)
        got = 0
        while got < 300000:
            got += len(onward.recv(1 << 16))
    wait(lambda: relay.fds() <= fds + 2 * count + 64)  # a few pipes are kept for the next ones
    assert relay.fds() >= fds + 2 * count
    assert relay.resident_kib() - memory < 2 * count, "KiB"
    ticks = relay.ticks()
    time.sleep(0.3)
    assert relay.ticks() - ticks <= 3, "idle connections cost time"
    assert relay.totals()["open"] == count + 1
    for client, onward, _ in [first, *pairs]:
        client.close()
        onward.close()
    wait(lambda: relay.totals()["open"] == 0)
    assert relay.totals()["connections"] == count + 1 == len(relay.lines(count + 1))


@pytest.mark.parametrize("size", [1 << 16, 1000])
def test_a_reader_that_stops_stops_the_writer(world, size):
    relay = world.start()
    client, onward, _ = world.pair(listen(world.outside))
    before = relay.resident_kib()
    client.settimeout(1)
    sent = 0
    with pytest.raises(TimeoutError):
        while sent < 256 << 20:
            sent += client.send(b"x" * size)
    assert relay.resident_kib() - before < 4096, "the relay stores what nobody reads"
    ticks = relay.ticks()
    time.sleep(0.5)
    assert relay.ticks() - ticks <= 5, "the processor does not idle while nobody reads"
    client.settimeout(20)
    client.shutdown(socket.SHUT_WR)
    assert len(read_all(onward)) == sent, "something is lost"
    onward.close()
    assert relay.line()["up"] == str(sent)


def test_refusals_reach_the_client(world):
    relay = world.start("--connect-timeout", "1")
    with pytest.raises(ConnectionResetError):
        connect(world.pod, world.outside.ip4).recv(1)
    assert relay.line()["outcome"] == "connect: Connection refused"
    world.outside.ip("route add blackhole 192.0.2.0/24")
    began = time.monotonic()
    with pytest.raises(ConnectionResetError):
        connect(world.pod, "192.0.2.1").recv(1)
    assert 0.9 < time.monotonic() - began < 5
    assert relay.lines(2)[1]["outcome"] == "connect: timeout"
    assert relay.totals()["failed"] == 2


@pytest.mark.parametrize("who", ["client", "server"])
@pytest.mark.parametrize("state", ["open", "it said its end", "the other said its end", "it is not read", "it does not read"])
def test_a_reset_is_handed_on(world, who, state):
    relay = world.start("--threads", "1")
    server = listen(world.outside)
    client, onward, _ = world.pair(server)
    one, two = (client, onward) if who == "client" else (onward, client)
    two.sendall(b"part")
    assert one.recv(4) == b"part"
    if state == "it said its end":
        one.shutdown(socket.SHUT_WR)
        assert two.recv(1) == b""
    elif state == "the other said its end":
        two.shutdown(socket.SHUT_WR)
        assert one.recv(1) == b""
    elif state != "open":
        writer = one if state == "it is not read" else two
        writer.settimeout(0.5)
        with pytest.raises(TimeoutError):
            while True:
                writer.send(b"x" * 65536)
    reset(one)
    wait(relay.read, 3)
    assert relay.line()["outcome"].startswith(f"{who}: ")
    with pytest.raises(OSError, match="Connection reset|Broken pipe"):
        while True:
            two.sendall(b"anybody?")
            if state != "it said its end":
                read_all(two)
    # What was under way then is in nobody else's stream.
    client, onward, _ = world.pair(server)
    data = os.urandom(4 << 20)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = pool.map(transfer, (client, onward), (data, data))
    assert set(results) == {(hashlib.sha256(data).hexdigest(), len(data))}


@pytest.mark.parametrize("size", [10, 300000])
def test_a_reset_that_meets_bytes(world, size):
    """Both are there in one moment: the bytes cannot be handed on any more."""
    relay = world.start()
    client, onward, _ = world.pair(listen(world.outside))
    client.sendall(b"x")
    assert onward.recv(1) == b"x"
    relay.stop(signal.SIGSTOP)
    client.sendall(b"x" * size)
    reset(onward)
    time.sleep(0.1)
    relay.stop(signal.SIGCONT)
    assert relay.line()["outcome"].startswith("server: ")
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    client, onward, _ = world.pair(listen(world.outside, port=80), port=80)
    client.sendall(b"y" * 1000)
    assert onward.recv(1000, socket.MSG_WAITALL) == b"y" * 1000, "the relay is not well any more"


def test_the_client_gives_up_while_the_relay_connects(world):
    relay = world.start()
    world.outside.ip("route add blackhole 192.0.2.0/24")
    reset(connect(world.pod, "192.0.2.1"))
    assert relay.line()["outcome"].startswith("client: ")


def test_a_direct_dial_is_refused(world):
    relay = world.start()
    lab = world.lab
    other = lab.pod("other")
    dials = [(world.node, "127.0.0.1"), (world.node, "127.9.9.9"), (world.node, "::1"), (world.node, NODE4),
             (world.pod, NODE4), (world.pod, NODE6), (world.pod, UPLINK4), (other, NODE4), (other, UPLINK6)]
    for space, ip in dials:
        with pytest.raises(ConnectionResetError):
            connect(space, ip, PORT).recv(1)
    assert {line["outcome"] for line in relay.lines(len(dials))} == {"direct: refused"}
    assert relay.totals()["refused"] == len(dials)
    # The number of the port alone is nothing to refuse.
    client, onward, _ = world.pair(listen(world.outside, port=PORT), port=PORT)
    client.close()
    onward.close()
    assert relay.lines(len(dials) + 1)[-1]["outcome"] == "closed"


def test_the_original_destination_of_a_redirect(world):
    world.rules(REDIRECT)
    relay = world.start()
    for family, ip in ((socket.AF_INET, world.outside.ip4), (socket.AF_INET6, world.outside.ip6)):
        client, onward, _ = world.pair(listen(world.outside, family), ip)
        onward.close()
        assert read_all(client) == b""
        client.close()
    assert {line["destination"] for line in relay.lines(2)} == {f"{world.outside.ip4}:{SERVED}",
                                                                f"[{world.outside.ip6}]:{SERVED}"}
    with pytest.raises(ConnectionResetError):
        connect(world.pod, NODE4, PORT).recv(1)
    assert relay.lines(3)[2]["outcome"] == "direct: refused"


# ---- from whose address ----

@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("where", ["outside", "another pod"])
def test_the_client_s_address(world, family, where):
    relay = world.start("--source", "client")
    space = world.outside if where == "outside" else world.lab.pod("server")
    ip, expected = (space.ip4, world.pod.ip4) if family == socket.AF_INET else (space.ip6, world.pod.ip6)
    client, onward, peer = world.pair(listen(space, family), ip)
    assert peer == expected
    assert onward.getpeername()[1] != client.getsockname()[1], "both connections have the same addresses and ports"
    client.sendall(b"question")
    assert onward.recv(8) == b"question"
    onward.sendall(b"answer")
    onward.close()
    assert read_all(client) == b"answer"
    client.close()
    assert relay.line()["source"] == "client"
    totals = relay.totals()
    assert (totals["source-client"], totals["source-node"]) == (1, 0)


@pytest.mark.parametrize("ip", [NODE4, NODE6, UPLINK4, UPLINK6])
@pytest.mark.parametrize("nonlocal_bind", [0, 1])
def test_the_node_s_own_address_falls_back(world, ip, nonlocal_bind):
    family = "ipv6" if ":" in ip else "ipv4"
    world.node.sysctl(f"net.{family}.ip_nonlocal_bind", nonlocal_bind)
    relay = world.start("--source", "client")
    server = listen(world.node, socket.AF_INET6 if family == "ipv6" else socket.AF_INET)
    client, onward, peer = world.pair(server, ip)
    assert peer not in world.pod.ips
    onward.close()
    assert read_all(client) == b""
    client.close()
    assert relay.line()["source"] == "node(own-address)"
    assert relay.totals()["fallback-own-address"] == 1
    assert world.pair(listen(world.outside, port=80), port=80)[2] == world.pod.ip4, "any address counts as the node's"


UNPRIVILEGED = ("setpriv", "--bounding-set=-net_admin,-net_raw")


def adopt(process):
    """What the agent does to listeners that are not transparent."""
    pidfd = os.pidfd_open(process.pid)
    for name in os.listdir(f"/proc/{process.pid}/fd"):
        fd = ctypes.CDLL(None, use_errno=True).syscall(438, pidfd, int(name), 0)  # pidfd_getfd
        assert fd >= 0
        if os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
            sock = socket.socket(fileno=fd)
            if sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                sock.setsockopt(socket.SOL_IP, 19, 1)  # IP_TRANSPARENT
            sock.close()
        else:
            os.close(fd)
    os.close(pidfd)


def test_without_privilege_somebody_adopts_it(world):
    relay = world.start("--source", "client", before=UNPRIVILEGED)
    assert "penstockd has to adopt" in relay.read(".err")
    server = listen(world.outside)
    assert world.pair(server)[2] == world.pod.ip4, "the rule hands nothing to it"
    adopt(relay.process)
    client, onward, peer = world.pair(server)
    assert peer == UPLINK4
    onward.close()
    assert read_all(client) == b""
    client.close()
    wait(relay.read)
    assert relay.lines()[-1]["source"] == "node(no-privilege)"
    assert relay.totals()["fallback-no-privilege"] == 1


def test_thousands_of_quick_connections_to_one_server(world):
    """Each leaves a connection in TIME_WAIT; none may lack a port."""
    relay = world.start("--source", "client")
    server = listen(world.outside, backlog=1024)
    count, each = 8, 500

    def serve():
        for _ in range(count * each):
            onward, peer = server.accept()
            assert peer[0] == world.pod.ip4
            assert onward.recv(1) == b"?"
            onward.sendall(b"!")
            assert onward.recv(1) == b""
            onward.close()

    def ask(_):
        for _ in range(each):
            with connect(world.pod, world.outside.ip4) as client:
                client.sendall(b"?")
                assert client.recv(1) == b"!"
                client.shutdown(socket.SHUT_WR)
                assert client.recv(1) == b""
    with concurrent.futures.ThreadPoolExecutor(count + 1) as pool:
        serving = pool.submit(serve)
        list(pool.map(ask, range(count)))
        serving.result()
    wait(lambda: relay.totals()["open"] == 0)
    totals = relay.totals()
    assert totals.pop("connections") == totals.pop("source-client") == count * each
    assert not any(totals.values()), totals


# ---- names ----

def client_hello(name):
    """As OpenSSL writes it."""
    import ssl
    out = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


@pytest.mark.parametrize("first,name", [
    (client_hello("Api.OpenAI.com"), "api.openai.com"),
    (b"GET / HTTP/1.1\r\nUser-Agent: x\r\nHost: Example.com:8080\r\n\r\n", "example.com"),
    (b"GET / HTTP/1.1\r\nHost: evil name\x1b[2J\r\n\r\n", "-"),
    (b"EHLO example.com\r\n", "-"),
], ids=["sni", "host", "unprintable", "neither"])
@pytest.mark.parametrize("pieces", ["whole", "in pieces"])
def test_the_name_is_in_the_line(world, first, name, pieces):
    relay = world.start()
    client, onward, _ = world.pair(listen(world.outside))
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    size = len(first) if pieces == "whole" else 40
    for at in range(0, len(first), size):
        client.sendall(first[at:at + size])
        got = b""
        while len(got) < len(first[at:at + size]):
            got += onward.recv(65536)  # nothing is held back until a name is complete
        assert got == first[at:at + size]
    client.close()
    onward.close()
    assert relay.line()["name"] == name


def test_lines_as_json(world):
    relay = world.start("--log", "json", "--source", "client")
    client, onward, _ = world.pair(listen(world.outside))
    name = name_of(client)
    client.sendall(b"GET / HTTP/1.0\r\nHost: a.example\r\n\r\n")
    client.close()
    read_all(onward)
    onward.close()
    wait(relay.read)
    line = json.loads(relay.read())
    assert re.match(r"^\d{4}-.*Z$", line.pop("time")) and line.pop("seconds") >= 0
    assert line == {"client": name, "destination": f"{world.outside.ip4}:{SERVED}", "up": 35, "down": 0, "source": "client",
                    "reason": "", "protocol": "tcp", "name": "a.example", "outcome": "closed"}


# ---- the process ----

def test_many_connections_leave_nothing_behind(world):
    relay = world.start()
    server = listen(world.outside)
    before = relay.fds()
    for _ in range(5):
        pairs = [world.pair(server) for _ in range(40)]
        for client, onward, _ in pairs:
            client.close()
            onward.close()
    wait(lambda: relay.fds() == before)
    assert len(relay.lines(200)) == 200


def test_without_file_descriptors_it_waits(world):
    relay = world.start("--threads", "2", before=("prlimit", "--nofile=40:40"))
    server = listen(world.outside, backlog=256)
    clients = [connect(world.pod, world.outside.ip4) for _ in range(30)]
    wait(lambda: "no file descriptor is free" in relay.read(".err"))
    ticks = relay.ticks()
    time.sleep(0.5)
    assert relay.ticks() - ticks <= 5, "it spins"
    for client in clients:
        client.close()
    server.settimeout(0.5)
    with pytest.raises(TimeoutError):
        while True:
            server.accept()[0].close()
    wait(lambda: relay.totals()["connections"] == 30 and relay.totals()["open"] == 0)
    client, onward, _ = world.pair(server)
    onward.sendall(b"well again")
    assert client.recv(10) == b"well again"


def test_without_a_port_of_the_client_s_it_takes_the_node_s(world):
    world.node.sysctl("net.ipv4.ip_local_port_range", "40000 40009")
    relay = world.start("--source", "client", "--threads", "1")
    server = listen(world.outside)
    pairs = [world.pair(server) for _ in range(14)]
    peers = [peer for _, _, peer in pairs]
    assert peers == [world.pod.ip4] * 10 + [UPLINK4] * 4
    for client, onward, _ in pairs:
        onward.sendall(b"x")
        assert client.recv(1) == b"x"
    totals = relay.totals()
    assert (totals["source-client"], totals["fallback-no-port"]) == (10, 4)


def test_idle_connections_end(world):
    relay = world.start("--idle", "1")
    server = listen(world.outside)
    idle, busy = world.pair(server), world.pair(server)
    end = time.monotonic() + 1.6
    while time.monotonic() < end:
        busy[0].sendall(b"x")
        assert busy[1].recv(1) == b"x"
        time.sleep(0.1)
    assert relay.line()["outcome"] == "idle: timeout"
    for sock in idle[:2]:
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_open_connections_may_end_after_sigterm(world):
    relay = world.start()
    server = listen(world.outside)
    client, onward, _ = world.pair(server)
    relay.stop()
    wait(lambda: f":{PORT}" not in world.node.run("ss", "-ltnH").stdout)
    assert world.pair(server)[2] == world.pod.ip4, "it still takes connections"
    client.sendall(b"still here")
    assert onward.recv(10) == b"still here" and relay.process.poll() is None
    client.close()
    onward.close()
    assert relay.process.wait(2) == 0, "nothing is open, yet it waits"
    assert relay.line()["outcome"] == "closed"


@pytest.mark.parametrize("how", ["the time is over", "a second signal"])
def test_stops_with_connections_open(world, how):
    relay = world.start(*["--drain", "1"] if how == "the time is over" else [])
    client, onward, _ = world.pair(listen(world.outside))
    began = time.monotonic()
    relay.stop()
    if how == "a second signal":
        time.sleep(0.1)
        relay.stop(signal.SIGINT)
    assert relay.process.wait(5) == 0
    assert (time.monotonic() - began >= 0.9) == (how == "the time is over")
    assert relay.line()["outcome"] == "stopped"
    for sock in (client, onward):
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_a_second_relay_is_told_that_the_port_is_in_use(world):
    world.start("--threads", "2")
    done = world.node.run(os.path.join(BUILD, "penstock-relay"), "--listen", PORT, check=False)
    assert done.returncode == 1 and "Address already in use" in done.stderr


@pytest.mark.parametrize("arguments,message", [
    ([], "--listen PORT is needed"),
    (["--listen", "70000"], "--listen is not a port, or an address and a port: 70000"),
    (["--listen", "0x10"], "--listen is not a port, or an address and a port: 0x10"),
    (["--listen", "localhost:1"], "--listen is not a port, or an address and a port: localhost:1"),
    (["--listen", "::1:1"], "--listen is not a port, or an address and a port: ::1:1"),
    (["--listen", "[127.0.0.1]:1"], "--listen is not a port, or an address and a port: [127.0.0.1]:1"),
    (["--listen", "1", "--source", "both"], "--source is neither client nor node: both"),
    (["--listen", "1", "--log", "xml"], "--log is neither text nor json: xml"),
    (["--listen", "1", "--threads", "0"], "--threads is not between 1 and 64: 0"),
    (["--listen", "1", "--idle", "-1"], "--idle is not a number of seconds: -1"),
    (["--listen", "1", "--drain", "x"], "--drain is not between 0 and 3600 seconds: x"),
    (["--listen", "1", "--connect-timeout", "0"], "--connect-timeout is not between 1 and 3600 seconds: 0"),
    (["--listen", "1", "--protocols", "tcp,sctp"], "--protocols is not tcp, udp or tcp,udp: tcp,sctp"),
    (["--listen", "1", "--protocols", "udp,udp"], "--protocols is not tcp, udp or tcp,udp: udp,udp"),
    (["--listen", "1", "--protocols", "tcp,"], "--protocols is not tcp, udp or tcp,udp: tcp,"),
    (["--listen", "1", "--protocols", ""], "--protocols is not tcp, udp or tcp,udp"),
    (["--listen", "1", "--udp-timeout", "0"], "--udp-timeout is not a number of seconds: 0"),
    (["--listen", "1", "--udp-flows", "0"], "--udp-flows is not a number of flows: 0"),
    (["--listen", "1", "extra"], "what is this: extra"),
    (["--nonsense"], "unrecognized option '--nonsense'"),
])
def test_usage(arguments, message):
    done = subprocess.run([os.path.join(BUILD, "penstock-relay"), *arguments], capture_output=True, text=True, timeout=10)
    assert done.returncode == 2 and message in done.stderr and "Try: penstock-relay --help" in done.stderr
