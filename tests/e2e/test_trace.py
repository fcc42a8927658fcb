# SPDX-License-Identifier: Apache-2.0
"""What the kernel's tracepoints tell: round trips, retransmits, processes that connect, and packets that it drops."""
import json
import os
import socket
import struct

import pytest

from lab import NODE4, Lab
from netns import run
from objects import namespace
from scenes import eventually, member
from talk import Client, Server, family_of

LINKS = {"trace-inet_sock_set_state", "trace-tcp_retransmit_skb", "trace-kfree_skb"}
SO_COOKIE = 57
LOST = "trace-lost"  # a table of nftables


@pytest.fixture(scope="module")
def node():
    with Lab() as lab:
        lab.a, lab.b = lab.pod("a"), lab.pod("b")
        lab.running = lab.agent()
        lab.running.api.put_state([namespace("s")] + [member(n, p, interface=p.interface) for n, p in lab.pods.items()])
        lab.server = Server(lab.b)
        yield lab
        lab.server.close()


def rows(agent, name):
    """A pinned map's rows, as BTF names them."""
    text = run("bpftool", "-j", "map", "dump", "pinned", f"{agent.pins}/maps/{name}").stdout
    return [(row["formatted"]["key"], row["formatted"]) for row in json.loads(text.strip() or "[]")]


def tcp_info(sock):
    """Of struct tcp_info what both the socket and the entry know: round trip in microseconds, segments sent again."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
    return struct.unpack_from("=I", info, 68)[0], struct.unpack_from("=I", info, 100)[0]


def entry(lab, client):
    """The connection's row of a client's socket."""
    name, port = ("ps_conn6", client.ends[1]) if ":" in client.ends[0] else ("ps_conn4", client.ends[1])
    return next((row["value"]["conn"] for key, row in rows(lab.running, name) if sorted(key["port"]) == sorted((80, port))), None)


def told(lab, client, event):
    """The record of a client's connection in /v1/flows."""
    def found():
        return [one for one in lab.running.api.request("GET", "/v1/flows?limit=100").json["items"]
                if one["event"] == event and one["source"].get("port") == client.ends[1]]
    eventually(found)
    return found()[-1]


def closed(lab, client):
    client.close()
    return told(lab, client, "Closed")


class Ended:
    def __init__(self, ends):
        self.ends = (ends[0].removeprefix("::ffff:"), ends[1])


# ---- connections ----


@pytest.mark.parametrize("family", [4, 6])
def test_the_round_trip_is_the_one_that_the_first_end_knows(node, family):
    client = Client(node.a, node.b.ip4 if family == 4 else node.b.ip6)
    client.hello()
    assert client.echo()
    assert entry(node, client)["round_trip"] == 0
    known, again = tcp_info(client.sock)
    record = closed(node, client)
    assert record["roundTripSeconds"] == pytest.approx(known / 1e6) and known > 0
    assert record["retransmits"] >= again, "the other end's are in it too"


def test_an_ipv4_connection_of_an_ipv6_socket(node):
    with node.a.entered():
        sock = socket.socket(socket.AF_INET6)
    with sock:
        sock.connect((f"::ffff:{node.b.ip4}", 80))
        sock.sendall(b"hello\n")
        assert sock.recv(4096)
        known, _ = tcp_info(sock)
        made = Ended(sock.getsockname())
    eventually(lambda: entry(node, made)["round_trip"] == known)


def test_what_is_sent_again_is_counted(node):
    """The node loses every segment with data for a while."""
    with Client(node.a, node.b.ip4) as client:
        client.hello()
        node.node.run("nft", "-f", "-", input=f"table ip {LOST} {{ chain f {{ type filter hook forward priority 0; "
                      "tcp dport 80 ip length > 60 drop; }; }")
        try:
            client.sock.sendall(bytes(1000))
            eventually(lambda: tcp_info(client.sock)[1] >= 2)
        finally:
            node.node.run("nft", "delete", "table", "ip", LOST)
        client.sock.settimeout(10)
        got = 0
        while got < 1000:
            got += len(client.sock.recv(1000))
        again = tcp_info(client.sock)[1]
        assert closed(node, client)["retransmits"] >= again >= 2


def test_the_process_that_connects_is_known_by_its_socket(node):
    with Client(node.node, node.b.ip4) as own, Client(node.a, node.b.ip4) as pods:
        processes = {key: row["value"] for key, row in rows(node.running, "ps_process")}
        record, others = (told(node, one, "Opened") for one in (own, pods))
        cookies = [struct.unpack("=Q", c.sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))[0] for c in (own, pods)]
    known = processes[cookies[0]]
    with open("/proc/thread-self/comm") as file:
        name = file.read().rstrip("\n")
    text = known["command"]
    text = text if isinstance(text, str) else bytes(text).rstrip(b"\0").decode()
    assert known["process"] == os.getpid() and name == text
    assert record["process"] == {"pid": os.getpid(), "name": name} and "process" not in others
    assert cookies[1] not in processes, "a pod's process is the pod's affair"


# ---- drops ----


def drops(lab, reason):
    return lab.running.api.metrics()("penstock_kernel_drops_total", reason=reason)


def send(space, ip, port, count, data=b"x"):
    with space.entered():
        sock = socket.socket(family_of(ip), socket.SOCK_DGRAM)
    with sock:
        for _ in range(count):
            sock.sendto(data, (ip, port))


def test_a_drop_is_counted_by_its_reason_where_it_happens(node):
    before = drops(node, "NO_SOCKET")
    send(node.a, NODE4, 9, 7)
    assert drops(node, "NO_SOCKET") == before + 7
    send(node.a, node.b.ip4, 9, 7)
    send(node.a, node.b.ip6, 9, 7)
    assert drops(node, "NO_SOCKET") == before + 7, "dropped by the pod"


def test_a_wrong_checksum(node):
    before = drops(node, "UDP_CSUM")
    with node.a.entered():
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
    with raw:
        for _ in range(3):
            raw.sendto(struct.pack("!HHHH", 5000, 5001, 12, 0x1234) + b"data", (NODE4, 0))
    assert drops(node, "UDP_CSUM") == before + 3


def test_a_receiver_that_does_not_keep_up(node):
    """By then the kernel keeps other things where the packet's interface stood: the socket tells the namespace."""
    before = drops(node, "SOCKET_RCVBUFF")
    with node.node.entered():
        slow = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        slow.bind((NODE4, 5002))
        send(node.a, NODE4, 5002, 50, bytes(1000))
    assert before < drops(node, "SOCKET_RCVBUFF") < before + 50


def test_what_a_socket_leaves_unread_is_no_drop(node):
    """The FIN of each connection is freed by the same function."""
    with node.node.entered():
        listener = socket.create_server(("127.0.0.1", 0))
        with listener:
            for _ in range(10):
                with socket.create_connection(listener.getsockname()) as sock:
                    listener.accept()[0].close()
                    assert sock.recv(1) == b""
    assert drops(node, "QUEUE_PURGE") == 0


# ---- the links ----


def links(agent):
    return {name: json.loads(run("bpftool", "-j", "link", "show", "pinned", f"{agent.pins}/links/{name}").stdout)["prog_id"]
            for name in os.listdir(f"{agent.pins}/links") if name in LINKS}


def test_a_restart_keeps_what_is_told_and_replaces_the_programs(node):
    agent = node.running
    with Client(node.a, node.b.ip4) as client:
        client.hello()
        before, counted = links(agent), drops(node, "NO_SOCKET")
        assert set(before) == LINKS
        agent.stop()
        assert links(agent) == before
        send(node.a, NODE4, 9, 2)
        known, _ = tcp_info(client.sock)
        client.close()
        eventually(lambda: entry(node, client)["round_trip"] == known)  # while no agent runs
        agent.start()
    assert links(agent) == before, "of this build and configuration already"
    assert drops(node, "NO_SOCKET") == counted + 2
    agent.stop()
    agent.config["datapath"]["denyWith"] = "reject"  # a constant of the programs
    agent.write_config()
    agent.start()
    after = links(agent)
    assert set(after) == LINKS and not set(after.values()) & set(before.values())
    assert drops(node, "NO_SOCKET") == counted + 2
    assert "not known:" not in agent.log
    os.unlink(f"{agent.pins}/links/trace-kfree_skb")
    eventually(lambda: set(links(agent)) == LINKS)


def test_check_says_what_is_known_and_an_uninstall_takes_it_away(node):
    agent = node.running
    said = node.node.run(agent.binary, "--config", agent.config_path, "--check").stdout
    for tracepoint in LINKS:
        assert any(tracepoint.removeprefix("trace-") in line and line.endswith(": yes") for line in said.split("\n"))
    programs = set(links(agent).values())
    agent.stop()
    agent.uninstall()

    def alive():
        return {program["id"] for program in json.loads(run("bpftool", "-j", "prog", "show").stdout)}
    eventually(lambda: not programs & alive())
