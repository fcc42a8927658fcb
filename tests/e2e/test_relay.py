# SPDX-License-Identifier: Apache-2.0
"""penstock-relay alone: what comes from the pod is routed to the node's own stack, as interception does, without an
agent. The relay listens on the port that the servers use, so no packet need be assigned to its socket."""
import os
import re
import signal
import socket
import subprocess
import threading
import time

import pytest

from lab import BUILD, Lab

PORT = 15001
LINE = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (\S+) -> (\S+) up=(\d+) down=(\d+) seconds=(\d+\.\d{3}) "
                  r'outcome="([^"]*)"$')


class Relay:
    def __init__(self, lab, *options):
        self.log = f"{lab.directory}/relay.log"
        with open(self.log, "w") as log, open(self.log + ".err", "w") as err:
            self.process = lab.node.popen(os.path.join(BUILD, "penstock-relay"), "--listen", PORT, *options, stdout=log,
                                          stderr=err)
        self.wait(lambda: "listening" in self.read(".err"))

    def read(self, suffix=""):
        with open(self.log + suffix) as file:
            return file.read()

    @staticmethod
    def wait(condition, seconds=10):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.01)

    def lines(self, count=1):
        self.wait(lambda: self.read().count("\n") >= count)
        lines = self.read().splitlines()
        assert len(lines) == count, lines
        matches = [LINE.match(line) for line in lines]
        assert all(matches), lines
        return [match.groups() for match in matches]

    def fds(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(10) == 0
        errors = self.read(".err")
        assert "runtime error" not in errors and "Sanitizer" not in errors, errors


@pytest.fixture
def world():
    with Lab(outside=True) as lab:
        pod = lab.pod("client")
        for family in ("-4", "-6"):
            lab.node.run("ip", family, "rule", "add", "iif", pod.interface, "lookup", 100)
            lab.node.run("ip", family, "route", "add", "local", "default", "dev", "lo", "table", 100)
        relays = []

        def start(*options):
            relays.append(Relay(lab, *options))
            return relays[-1]
        yield lab, pod, start
        for relay in relays:
            relay.close()


def listen(space, family=socket.AF_INET):
    with space.entered():
        server = socket.socket(family)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", PORT))
        server.listen(64)
        server.settimeout(10)
        return server


def connect(space, ip, timeout=10):
    with space.entered():
        client = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET)
    client.settimeout(timeout)
    client.connect((ip, PORT))
    return client


def read_all(sock):
    parts = []
    while part := sock.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_carries_both_ways_and_says_so(world, address):
    lab, pod, start = world
    relay = start("--address", address)
    server = listen(lab.outside)
    client = connect(pod, lab.outside.ip4)
    client_name = "%s:%d" % client.getsockname()
    onward, peer = server.accept()
    assert peer[0] == "198.51.100.1", "not from the node's own address"
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    assert read_all(onward) == b"question"
    onward.sendall(b"the answer comes after the client's FIN")
    onward.close()
    assert read_all(client) == b"the answer comes after the client's FIN"
    client.close()
    (source, destination, up, down, seconds, outcome), = relay.lines()
    assert (source, destination, up, down, outcome) == (client_name, f"{lab.outside.ip4}:{PORT}", "8", "39", "closed")
    assert 0 <= float(seconds) < 10


def test_ipv6(world):
    lab, pod, start = world
    relay = start("--address", "::")
    server = listen(lab.outside, socket.AF_INET6)
    client = connect(pod, lab.outside.ip6)
    onward, peer = server.accept()
    assert peer[0] == "2001:db8:51::1"
    onward.sendall(b"six")
    onward.close()
    assert read_all(client) == b"six"
    client.close()
    (source, destination, up, down, _, outcome), = relay.lines()
    assert source.startswith(f"[{pod.ip6}]:") and destination == f"[{lab.outside.ip6}]:{PORT}"
    assert (up, down, outcome) == ("0", "3", "closed")


def test_megabytes_both_ways_at_once(world):
    lab, pod, start = world
    relay = start()
    server = listen(lab.outside)
    client = connect(pod, lab.outside.ip4)
    onward, _ = server.accept()
    up, down = os.urandom(20 << 20), os.urandom(12 << 20)
    got = {}

    def exchange(name, sock, data):
        def send():
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        sender = threading.Thread(target=send)
        sender.start()
        got[name] = read_all(sock)
        sender.join()
    threads = [threading.Thread(target=exchange, args=a) for a in (("client", client, up), ("server", onward, down))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert got["server"] == up and got["client"] == down
    assert relay.lines()[0][2:4] == (str(len(up)), str(len(down)))


def resident(pid):
    with open(f"/proc/{pid}/status") as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read())[1])


def test_a_reader_that_stops_stops_the_writer(world):
    lab, pod, start = world
    relay = start()
    server = listen(lab.outside)
    client = connect(pod, lab.outside.ip4)
    onward, _ = server.accept()
    before = resident(relay.process.pid)
    client.settimeout(1)
    sent = 0
    with pytest.raises(TimeoutError):
        while sent < 256 << 20:
            sent += client.send(b"x" * 65536)
    assert resident(relay.process.pid) - before < 4096, "the relay stores what nobody reads"
    # Nothing is lost, and the processor idles while nobody reads.
    ticks = sum(map(int, open(f"/proc/{relay.process.pid}/stat").read().rsplit(")", 1)[1].split()[11:13]))
    time.sleep(0.5)
    assert sum(map(int, open(f"/proc/{relay.process.pid}/stat").read().rsplit(")", 1)[1].split()[11:13])) - ticks <= 5
    client.shutdown(socket.SHUT_WR)
    assert len(read_all(onward)) == sent
    onward.close()
    assert relay.lines()[0][2] == str(sent)


def test_refusals_reach_the_client(world):
    lab, pod, start = world
    relay = start("--connect-timeout", "1")
    with pytest.raises(ConnectionResetError):
        connect(pod, lab.outside.ip4).recv(1)
    assert relay.lines()[0][5] == "connect: Connection refused"
    lab.outside.ip("route add blackhole 192.0.2.0/24")
    began = time.monotonic()
    with pytest.raises(ConnectionResetError):
        connect(pod, "192.0.2.1").recv(1)
    assert 0.9 < time.monotonic() - began < 5
    assert relay.lines(2)[1][5] == "connect: timeout"


def test_a_reset_is_handed_on(world):
    lab, pod, start = world
    relay = start()
    server = listen(lab.outside)
    client = connect(pod, lab.outside.ip4)
    onward, _ = server.accept()
    onward.sendall(b"part")
    assert client.recv(4) == b"part"
    onward.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    onward.close()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert relay.lines()[0][5] == "server: Connection reset by peer"


def test_the_relay_itself_is_no_destination(world):
    lab, pod, start = world
    relay = start("--address", "::")
    for ip in ("127.0.0.1", "::1"):
        with pytest.raises(ConnectionResetError):
            connect(lab.node, ip).recv(1)
    assert [line[5] for line in relay.lines(2)] == ["refused: the relay itself is the destination"] * 2


def test_many_connections_leave_nothing_behind(world):
    lab, pod, start = world
    relay = start()
    server = listen(lab.outside)
    before = relay.fds()
    for _ in range(5):
        clients = [connect(pod, lab.outside.ip4) for _ in range(40)]
        onwards = [server.accept()[0] for _ in range(40)]
        for sock in clients + onwards:
            sock.close()
    relay.wait(lambda: relay.fds() == before)
    assert len(relay.lines(200)) == 200


def test_stops_with_connections_open(world):
    lab, pod, start = world
    relay = start()
    server = listen(lab.outside)
    client = connect(pod, lab.outside.ip4)
    onward, _ = server.accept()
    relay.process.send_signal(signal.SIGTERM)
    assert relay.process.wait(5) == 0
    assert relay.lines()[0][5] == "stopped"
    for sock in (client, onward):
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


@pytest.mark.parametrize("arguments,message", [
    ([], "--listen PORT is needed"),
    (["--listen", "70000"], "--listen is not a port: 70000"),
    (["--listen", "0x10"], "--listen is not a port: 0x10"),
    (["--listen", "1", "--address", "localhost"], "--address is not an IP address: localhost"),
    (["--listen", "1", "--connect-timeout", "0"], "--connect-timeout is not between 1 and 3600 seconds: 0"),
    (["--listen", "1", "extra"], "what is this: extra"),
    (["--nonsense"], "unrecognized option '--nonsense'"),
])
def test_usage(arguments, message):
    done = subprocess.run([os.path.join(BUILD, "penstock-relay"), *arguments], capture_output=True, text=True, timeout=10)
    assert done.returncode == 2 and message in done.stderr and "usage:" in done.stderr
