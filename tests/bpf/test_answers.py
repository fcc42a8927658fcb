# SPDX-License-Identifier: Apache-2.0
"""denyWith: reject. Real packets between namespaces; every byte of an answer is looked at."""

import contextlib
import errno
import fcntl
import os
import socket
import struct
import subprocess
import time

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.inet6 import (ICMPv6DestUnreach, ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment,
                                PadN)
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

from space import Space, family_of, ip, listener, transparent
from world import (A, A4, A6, B, B4, B6, EGRESS, IFACE_L3, IFACE_NETWORK, INGRESS, MARK, MARK_MASK, OF, PER_FAMILY, PROFILE_A,
                   PROFILE_B, PROXY, ROW_DENY, ROW_INTERCEPT, World)

MARK_ANSWER = 0x40000000
HOPS = {EGRESS: 64, INGRESS: 63}  # of what is refused at the last hook the answer is forwarded
UDP_REFUSED = (errno.EHOSTUNREACH, errno.EACCES)  # what the kernel makes of the two codes


@pytest.fixture(scope="module")
def spaces(interfaces):
    made = {name: Space() for name in ("a", "b", "far")}
    indexes = {name: space.wire(f"bpfr-{name}", *OF[name]) for name, space in made.items()}
    for address in OF["node"]:
        ip("addr", "replace", address, "dev", "lo")
    mark = f"{MARK:#x}/{MARK_MASK:#x}"
    for family in ("-4", "-6"):
        ip(family, "rule", "add", "pref", "4", "iif", "lo", "fwmark", mark, "lookup", "main")
        ip(family, "rule", "add", "pref", "5", "fwmark", mark, "lookup", "7641")
        ip(family, "route", "add", "local", "default", "dev", "lo", "table", "7641")
    yield made, indexes
    for name, space in made.items():
        ip("link", "del", f"bpfr-{name}")
        space.close()
    for address in OF["node"]:
        ip("addr", "del", address, "dev", "lo")
    for family in ("-4", "-6"):
        ip(family, "rule", "del", "pref", "4")
        ip(family, "rule", "del", "pref", "5")
        ip(family, "route", "flush", "table", "7641")


@pytest.fixture(scope="module")
def refusing(interfaces):
    world = World(interfaces, constants={"deny_with_reject": 1})
    yield world
    world.object.close()


@pytest.fixture
def net(refusing, spaces):
    """A and B are workloads, far is beyond an uplink. Refusals are answered."""
    made, indexes = spaces
    world, saved = refusing, (refusing.a, refusing.b)
    world.reset()
    world.flip()
    world.object.map("answer").put(bytes(4), bytes(world.object.map("answer").value_size))
    world.a, world.b, world.far, world.indexes = made["a"], made["b"], made["far"], indexes
    world.iface(indexes["a"], A)
    world.iface(indexes["b"], B)
    world.iface(indexes["far"], 0, IFACE_NETWORK)
    links = [world.object.attach(name, indexes[who]) for who in ("a", "b") for name in ("from_workload", "to_workload")]
    links += [world.object.attach(name, indexes["far"]) for name in ("from_network", "to_network")]
    yield world
    for link in links:
        os.close(link)
    world.a, world.b = saved


def deny(world, who, direction):
    """The other way round too: what looks like an answer is not one."""
    profile, other = (PROFILE_A, PROFILE_B) if who == "a" else (PROFILE_B, PROFILE_A)
    world.profile(profile, egress=ROW_DENY, ingress=ROW_DENY)
    world.profile(other, **{"ingress" if direction == INGRESS else "egress": ROW_DENY})


def counted(world, direction, verdict, reason="POLICY"):
    return world.counts(direction).get((verdict, reason), (0, 0))[0]


def link_mac(name):
    return subprocess.run(["ip", "-br", "link", "show", name], check=True, capture_output=True, text=True).stdout.split()[2]


def mac(space):
    return space.run(lambda: link_mac("eth0"))


def host_mac(name):
    return link_mac(f"bpfr-{name}")


@contextlib.contextmanager
def wire(space, name="eth0"):
    """A packet socket in the namespace: what it sends is what the workload sends."""
    def make():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        sock.bind((name, 3))
        sock.setblocking(False)
        return sock
    with space.run(make) as sock:
        yield sock


def received(sock, wanted, timeout=1.0):
    """The frames that came in and match, until one did or for the time."""
    found, until = [], time.monotonic() + timeout
    while time.monotonic() < until and not found:
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, where = sock.recvfrom(65536)
                if where[2] != socket.PACKET_OUTGOING and wanted(Ether(frame)):
                    found.append(Ether(frame))
        time.sleep(0.005)
    return found


def is_answer(frame):
    if TCP in frame:
        return "R" in frame[TCP].flags
    return (ICMP in frame and frame[ICMP].type == 3) or ICMPv6DestUnreach in frame


def exchange(space, frame, timeout=1.0):
    with wire(space) as sock:
        sock.send(bytes(frame))
        return received(sock, is_answer, timeout)


def frame_to(world, who, v, destination, payload, **header):
    """A frame as the workload sends it towards the node."""
    network = IPv6(src=OF[who][1], dst=destination, **header) if v else IP(src=OF[who][0], dst=destination, **header)
    return Ether(src=mac(getattr(world, who)), dst=host_mac(who)) / network / payload


def reset_of(sent, v, hops):
    """What RFC 9293 wants, byte by byte."""
    network, tcp = sent[IPv6 if v else IP], sent[TCP]
    length = len(tcp.payload) + ("S" in tcp.flags) + ("F" in tcp.flags)
    answer = (TCP(sport=tcp.dport, dport=tcp.sport, seq=tcp.ack, ack=0, flags="R", window=0) if "A" in tcp.flags else
              TCP(sport=tcp.dport, dport=tcp.sport, seq=0, ack=(tcp.seq + length) & 0xffffffff, flags="RA", window=0))
    head = (IPv6(src=network.dst, dst=network.src, hlim=hops) if v else
            IP(src=network.dst, dst=network.src, ttl=hops, id=0, flags="DF"))
    return bytes(head / answer)


def error_of(packet, v, hops=64):
    """`packet`: the bytes that were refused, from the IP header on."""
    if v:
        return bytes(IPv6(src=socket.inet_ntop(10, packet[24:40]), dst=socket.inet_ntop(10, packet[8:24]), hlim=hops) /
                     ICMPv6DestUnreach(code=1) / Raw(packet[:1280 - 48]))
    return bytes(IP(src=socket.inet_ntoa(packet[16:20]), dst=socket.inet_ntoa(packet[12:16]), ttl=hops, id=0, flags="DF", tos=0xc0) /
                 ICMP(type=3, code=13) / Raw(packet[:576 - 28]))


# ---- bytes ----

SEGMENTS = {
    "syn": TCP(sport=4000, dport=80, seq=1000, flags="S", options=[("MSS", 1460), ("SAckOK", b""), ("WScale", 7)]),
    "syn at the end of numbers": TCP(sport=4000, dport=80, seq=0xffffffff, flags="S"),
    "syn with data": TCP(sport=4000, dport=80, seq=1000, flags="S") / Raw(b"x" * 101),
    "fin without ack": TCP(sport=4000, dport=80, seq=77, flags="F") / Raw(b"abc"),
    "syn and fin": TCP(sport=4000, dport=80, seq=77, flags="SF"),
    "ack": TCP(sport=4000, dport=80, seq=77, ack=0xfffffff0, flags="A", options=[("Timestamp", (1, 2))]),
    "data": TCP(sport=4000, dport=80, seq=77, ack=9999, flags="PA") / Raw(b"y" * 1000),
    "syn-ack": TCP(sport=4000, dport=80, seq=77, ack=9999, flags="SA"),
}


@PER_FAMILY
@pytest.mark.parametrize("kind", SEGMENTS)
@pytest.mark.parametrize("direction", (EGRESS, INGRESS), ids=("egress", "ingress"))
def test_segment_is_reset(net, v, kind, direction):
    deny(net, "a" if direction == EGRESS else "b", direction)
    sent = frame_to(net, "a", v, OF["b"][v], SEGMENTS[kind])
    before = counted(net, direction, "REJECTED")
    frames = exchange(net.a, sent)
    assert len(frames) == 1
    assert bytes(frames[0])[14:54 + 20 * v] == reset_of(Ether(bytes(sent)), v, HOPS[direction])
    assert (frames[0].src, frames[0].dst) == (host_mac("a"), mac(net.a))
    assert counted(net, direction, "REJECTED") == before + 1


DATAGRAMS = {
    "empty": lambda v: UDP(sport=5000, dport=53),
    "odd": lambda v: UDP(sport=5000, dport=53) / Raw(b"q" * 33),
    "long": lambda v: UDP(sport=5000, dport=53) / Raw(bytes(range(256)) * 5),
    "echo": lambda v: ICMPv6EchoRequest(id=7, data=b"ping") if v else ICMP(id=7) / Raw(b"ping"),
    "protocol": lambda v: Raw(b"z" * 21),
}


@PER_FAMILY
@pytest.mark.parametrize("kind", DATAGRAMS)
@pytest.mark.parametrize("direction", (EGRESS, INGRESS), ids=("egress", "ingress"))
def test_datagram_is_prohibited(net, v, kind, direction):
    deny(net, "a" if direction == EGRESS else "b", direction)
    header = {} if kind != "protocol" else {"nh": 253} if v else {"proto": 253}
    sent = Ether(bytes(frame_to(net, "a", v, OF["b"][v], DATAGRAMS[kind](v), **header)))
    before = counted(net, direction, "REJECTED")
    frames = exchange(net.a, sent)
    assert len(frames) == 1
    packet = bytes(sent)[14:] if direction == EGRESS else forwarded(bytes(sent)[14:], v)
    wanted = error_of(packet, v, HOPS[direction])
    assert bytes(frames[0])[14:14 + len(wanted)] == wanted
    assert counted(net, direction, "REJECTED") == before + 1


def forwarded(packet, v):
    """One router further."""
    hop = (IPv6 if v else IP)(packet)
    if v:
        return packet[:7] + bytes([hop.hlim - 1]) + packet[8:]
    hop.ttl -= 1
    del hop.chksum
    return bytes(hop)[:20] + packet[20:]


# ---- what is not answered ----

def unanswered(v):
    a, b = A6 if v else A4, B6 if v else B4
    udp = UDP(sport=5000, dport=53) / Raw(b"q" * 16)
    about = (IPv6(src=b, dst=a) if v else IP(src=b, dst=a)) / UDP(sport=1, dport=2)
    cases = {
        "rst": TCP(sport=4000, dport=80, seq=5, flags="R"),
        "rst ack": TCP(sport=4000, dport=80, seq=5, ack=6, flags="RA"),
        "error": ICMPv6DestUnreach() / Raw(bytes(about)) if v else ICMP(type=3, code=1) / Raw(bytes(about)),
        "redirect": None if v else ICMP(type=5, code=1) / Raw(bytes(about)),
    }
    return {**{name: (payload, {}) for name, payload in cases.items() if payload is not None},
            "multicast": (udp, {"dst": "ff0e::99" if v else "239.1.2.3"}),
            "spoofed": (TCP(sport=4000, dport=80, flags="S"), {"src": "fd00::77" if v else "10.0.0.77"}),
            **({} if v else {"broadcast": (udp, {"dst": "255.255.255.255"}), "class e": (udp, {"dst": "240.1.2.3"})})}


@PER_FAMILY
def test_what_is_never_answered(net, v):
    deny(net, "a", EGRESS)
    for name, (payload, header) in unanswered(v).items():
        frame = frame_to(net, "a", v, header.pop("dst", OF["b"][v]), payload)
        for field, value in header.items():
            setattr(frame[IPv6 if v else IP], field, value)
        assert not exchange(net.a, frame, 0.15), name
    frame = frame_to(net, "a", v, OF["b"][v], TCP(sport=4000, dport=80, flags="S"))
    frame.dst = "ff:ff:ff:ff:ff:ff"
    assert not exchange(net.a, frame, 0.15), "a frame for many"
    assert exchange(net.a, frame_to(net, "a", v, OF["b"][v], TCP(sport=4000, dport=80, flags="S"))), "but this is"


@PER_FAMILY
def test_fragments(net, v):
    """The first is answered, the others have no ports to quote."""
    deny(net, "a", EGRESS)
    data = bytes(UDP(sport=5000, dport=53, len=1608, chksum=1)) + b"f" * 792
    if v:
        first = frame_to(net, "a", v, B6, IPv6ExtHdrFragment(nh=17, id=9, m=1) / Raw(data))
        later = frame_to(net, "a", v, B6, IPv6ExtHdrFragment(nh=17, id=9, offset=100) / Raw(b"g" * 800))
    else:
        first = frame_to(net, "a", v, B4, Raw(data), id=9, flags="MF", proto=17)
        later = frame_to(net, "a", v, B4, Raw(b"g" * 800), id=9, frag=100, proto=17)
    answers = exchange(net.a, first)
    assert len(answers) == 1
    wanted = error_of(bytes(first)[14:], v)
    assert bytes(answers[0])[14:14 + len(wanted)] == wanted
    assert not exchange(net.a, later, 0.15)


def test_errors_are_limited(net):
    """A flood of refused datagrams is not answered by one of errors; resets are not limited."""
    deny(net, "a", EGRESS)
    frame = bytes(frame_to(net, "a", 0, B4, UDP(sport=5000, dport=53)))
    refused = counted(net, EGRESS, "REJECTED"), counted(net, EGRESS, "DROPPED")
    with wire(net.a) as sock:
        begun = time.monotonic()
        for _ in range(5000):
            sock.send(frame)
        seconds = time.monotonic() - begun
    time.sleep(0.1)
    answered, silent = (counted(net, EGRESS, verdict) - old for verdict, old in zip(("REJECTED", "DROPPED"), refused))
    assert answered + silent == 5000
    assert 0 < answered <= os.cpu_count() * (50 + (seconds + 0.1) * 1000)
    syn = bytes(frame_to(net, "a", 0, B4, TCP(sport=4000, dport=80, flags="S")))
    before = counted(net, EGRESS, "REJECTED")
    with wire(net.a) as sock:
        for _ in range(2000):
            sock.send(syn)
    time.sleep(0.1)
    assert counted(net, EGRESS, "REJECTED") == before + 2000


# ---- sockets ----

def refused(client, destination, **options):
    begun = time.monotonic()
    with pytest.raises(ConnectionRefusedError):
        client.connect(destination, **options)
    assert time.monotonic() - begun < 0.5


def datagram_error(space, destination, size=10):
    def body():
        with socket.socket(family_of(destination[0]), socket.SOCK_DGRAM) as sock:
            sock.connect(destination)
            sock.settimeout(1)
            sock.send(b"d" * size)
            with pytest.raises(OSError) as failure:
                sock.recv(10)
            return failure.value.errno
    return space.run(body)


@PER_FAMILY
@pytest.mark.parametrize("where", ("egress", "same node", "outside", "inside"))
def test_sockets_hear_of_it(net, v, where):
    """A to B, refused at A or at B; far to B; A to far."""
    who, client, server = {"egress": ("a", "a", "b"), "same node": ("b", "a", "b"), "outside": ("b", "far", "b"),
                           "inside": ("a", "a", "far")}[where]
    direction = EGRESS if who == client else INGRESS
    deny(net, who, direction)
    client = getattr(net, client)
    refused(client, (OF[server][v], 8080))
    assert datagram_error(client, (OF[server][v], 53)) == UDP_REFUSED[v]
    assert datagram_error(client, (OF[server][v], 53), 5000) == UDP_REFUSED[v], "fragments, or a super-packet"
    assert counted(net, direction, "REJECTED")


@PER_FAMILY
def test_proxy_hears_of_it(net, v):
    """Its onward connection, from the client's address."""
    deny(net, "b", INGRESS)
    with socket.socket(family_of(OF["b"][v])) as sock:
        sock.settimeout(2)
        transparent(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((OF["a"][v], 0))
        with pytest.raises(ConnectionRefusedError):
            sock.connect((OF["b"][v], 8080))
    assert counted(net, INGRESS, "REJECTED")


@PER_FAMILY
def test_live_connection_is_reset(net, v):
    """A later revision denies: both ends are told as soon as they speak."""
    with net.b.listen(OF["b"][v], 8080) as server, net.a.connect((OF["b"][v], 8080)) as there, server.accept()[0] as here:
        there.sendall(b"x" * 100)
        here.settimeout(2)
        assert here.recv(100)
        here.sendall(b"y")
        assert there.recv(1)
        net.profile(PROFILE_A, egress=ROW_DENY, side=1 - net.side)
        net.flip()
        there.sendall(b"z" * 70000)
        there.settimeout(2)
        with pytest.raises(ConnectionResetError):
            there.recv(1)
        with pytest.raises(ConnectionResetError):
            here.sendall(b"z")
            here.recv(1)


@PER_FAMILY
def test_nobody_listens(net, v):
    """NoListener follows denyWith: at the workload's interface and at the uplink."""
    net.profile(PROFILE_A, egress=ROW_INTERCEPT)
    refused(net.a, (OF["far"][v], 443))
    assert counted(net, EGRESS, "REJECTED", "NO_LISTENER")
    net.profile(PROFILE_A)
    for address in OF["b"]:
        net.addr(address, 2, B, PROFILE_B, 3)
    net.profile(PROFILE_B, ingress=ROW_INTERCEPT)
    refused(net.far, (OF["b"][v], 443))
    assert counted(net, INGRESS, "REJECTED", "NO_LISTENER")


@PER_FAMILY
@pytest.mark.parametrize("lost", (False, True), ids=("known", "entry lost"))
def test_proxy_is_told(net, v, lost):
    """An intercepted connection that a later revision denies: the client by its packet, the proxy by its own."""
    net.profile(PROFILE_A, egress=ROW_INTERCEPT)
    with listener(("127.0.0.1", "::1")[v]) as proxy:
        net.proxy(PROXY, proxy.getsockname()[1])
        with net.a.connect((OF["far"][v], 443)) as there, proxy.accept()[0] as here:
            there.sendall(b"x")
            here.settimeout(2)
            assert here.recv(1)
            net.profile(PROFILE_A, egress=ROW_DENY, ingress=ROW_DENY, side=1 - net.side)
            net.flip()
            if lost:
                for name in ("ps_new4", "ps_conn4", "ps_new6", "ps_conn6"):
                    net.object.map(name).clear()
            here.sendall(b"y")
            with pytest.raises(ConnectionResetError):
                here.recv(1)
            there.settimeout(2)
            with pytest.raises(ConnectionResetError):
                there.sendall(b"x")
                there.recv(1)


# ---- NAT of this node ----

@pytest.fixture
def nat():
    def rules(text):
        subprocess.run(["nft", "-f", "-"], input=f"table inet bpfr {{{text}\n}}\n", text=True, check=True)
    yield rules
    subprocess.run(["nft", "delete", "table", "inet", "bpfr"], check=True)


@PER_FAMILY
@pytest.mark.parametrize("client", ("a", "far"))
def test_through_masquerade_and_translation(net, nat, v, client):
    family = ("ip", "ip6")[v]
    brackets = f"[{OF['b'][1]}]" if v else OF["b"][0]
    nat(f"""
        chain pre {{
            type nat hook prerouting priority dstnat
            {family} daddr {OF['node'][v]} tcp dport 80 dnat {family} to {brackets}:8080
            {family} daddr {OF['node'][v]} udp dport 80 dnat {family} to {brackets}:8080
        }}
        chain post {{
            type nat hook postrouting priority srcnat
            {family} daddr {OF['b'][v]} masquerade
        }}""")
    ip(*(("-6",) if v else ()), "addr", "add", OF["node"][v] + ("/128" if v else "/32"), "dev", "bpfr-b", *(("nodad",) if v else ()))
    try:
        deny(net, "b", INGRESS)
        refused(getattr(net, client), (OF["node"][v], 80))
        assert datagram_error(getattr(net, client), (OF["node"][v], 80)) == UDP_REFUSED[v]
        assert counted(net, INGRESS, "REJECTED")
    finally:
        ip(*(("-6",) if v else ()), "addr", "del", OF["node"][v] + ("/128" if v else "/32"), "dev", "bpfr-b")


# ---- nobody else may pass as an answer ----

@PER_FAMILY
def test_a_workload_cannot_pass_as_an_answer(net, v):
    """Whatever it sends, also with the mark on it: the kernel takes that off between namespaces."""
    for who in (PROFILE_A, PROFILE_B):
        net.profile(who, egress=ROW_DENY, ingress=ROW_DENY)
    shapes = [TCP(sport=80, dport=4000, seq=1, flags="R"), TCP(sport=80, dport=4000, seq=1, ack=2, flags="RA"),
              TCP(sport=80, dport=4000, flags="S"),
              (ICMPv6DestUnreach(code=1) if v else ICMP(type=3, code=13)) / Raw(bytes(
                  (IPv6(src=B6, dst=A6) if v else IP(src=B4, dst=A4)) / UDP(sport=1, dport=2)))]
    for mark in (0, MARK_ANSWER, MARK_ANSWER | MARK, 0xffffffff):
        for shape in shapes:
            with wire(net.b) as there, wire(net.a) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark - (1 << 32) if mark >> 31 else mark)
                sock.send(bytes(frame_to(net, "a", v, OF["b"][v], shape)))
                assert not received(there, lambda f: f.haslayer(IPv6 if v else IP) and f.src != mac(net.b) and
                                    f[IPv6 if v else IP].src == OF["a"][v], 0.1)


@PER_FAMILY
@pytest.mark.parametrize("program", ("from_workload", "to_workload"))
def test_mark_alone_lets_nothing_pass(net, v, program):
    """Whatever set it (a rule of somebody else's that saves and restores marks): only what an answer looks like passes."""
    for who in (PROFILE_A, PROFILE_B):
        net.profile(who, egress=ROW_DENY, ingress=ROW_DENY)
    source, destination = (OF["a"][v], OF["b"][v])
    head = Ether() / (IPv6(src=source, dst=destination) if v else IP(src=source, dst=destination))
    ifindex = net.indexes["a" if program == "from_workload" else "b"]
    error = ICMPv6DestUnreach if v else ICMP
    for payload in (TCP(flags="S"), TCP(flags="A"), TCP(flags="SR"), TCP(flags="FA"), UDP(dport=53),
                    error(code=0) if v else ICMP(type=3, code=1), ICMPv6EchoRequest() if v else ICMP()):
        action = net.object.run(program, bytes(head / payload / Raw(b"p" * 40)), ifindex, 1, MARK_ANSWER).action
        assert action != -1, payload.summary()
    for payload in (TCP(flags="R"), TCP(flags="RA"), error(code=1) if v else ICMP(type=3, code=13)):
        result = net.object.run(program, bytes(head / payload / Raw(b"p" * 40)), ifindex, 1, MARK_ANSWER)
        assert result.action == -1 and result.mark == (MARK_ANSWER if program == "from_workload" else 0)


def test_answers_leave_no_entry(net):
    deny(net, "b", INGRESS)
    refused(net.a, (B4, 8080))
    assert not [conn for conn in net.conns().values() if conn.live or conn.packets[1]], "only A's own attempt"


@PER_FAMILY
def test_behind_options(net, v):
    """The answer has none of them, and counts only the segment."""
    deny(net, "a", EGRESS)
    segment = TCP(sport=4000, dport=80, seq=9, flags="S") / Raw(b"abcde")
    if v:
        sent = frame_to(net, "a", v, B6, IPv6ExtHdrDestOpt(options=[PadN(optdata=b"0000")]) / segment)
    else:
        sent = frame_to(net, "a", v, B4, segment, options=[IPOption(b"\x01\x01\x01\x00")])
    answer, = exchange(net.a, sent)
    assert bytes(answer)[14:54 + 20 * v] == reset_of(Ether(bytes(sent)), v, 64)


# ---- frames ----

def test_tags_within_the_frame_are_left_to_silence(net):
    """Two tags: the kernel takes off one, and the answer would have to carry the other."""
    deny(net, "a", EGRESS)
    frame = frame_to(net, "a", 0, B4, TCP(sport=4000, dport=80, flags="S"))
    inner = frame[IP].copy()
    frame = Ether(src=frame.src, dst=frame.dst) / Dot1Q(vlan=5) / Dot1Q(vlan=6) / inner
    assert not exchange(net.a, frame, 0.15)
    assert counted(net, EGRESS, "DROPPED")


def test_one_tag_is_kept(net):
    deny(net, "a", EGRESS)
    frame = frame_to(net, "a", 0, B4, TCP(sport=4000, dport=80, flags="S"))
    inner = frame[IP].copy()
    sent = Ether(src=frame.src, dst=frame.dst) / Dot1Q(vlan=5) / inner
    before = counted(net, EGRESS, "REJECTED")
    assert len(exchange(net.a, sent)) == 1
    assert counted(net, EGRESS, "REJECTED") == before + 1


# ---- without a link-layer header ----


@contextlib.contextmanager
def tunnel(name, *addresses):
    """A tun of ours: what is written to it is what the workload behind it sends."""
    with open("/dev/net/tun", "r+b", buffering=0) as file:
        fcntl.ioctl(file, 0x400454ca, struct.pack("16sH22x", name.encode(), 0x1001))
        os.set_blocking(file.fileno(), False)
        ip("link", "set", name, "up")
        for address in addresses:
            ip("route", "add", address, "dev", name)
        yield file


def read_answer(file, v, timeout=1.0):
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        packet = file.read(2000)
        if packet and is_answer((IPv6 if v else IP)(packet)):
            return packet
        time.sleep(0.005)
    return None


@PER_FAMILY
def test_interface_without_link_layer(net, v):
    mine = ("10.0.0.3", "fd00::3")[v]
    with tunnel("bpfr-tun", mine) as file:
        ifindex = socket.if_nametoindex("bpfr-tun")
        net.iface(ifindex, B, IFACE_L3)
        net.addr(mine, 2, B, PROFILE_B, 1)
        links = [net.object.attach(name, ifindex) for name in ("from_workload", "to_workload")]
        try:
            deny(net, "b", EGRESS)
            for payload in (TCP(sport=4000, dport=80, flags="S", seq=5), UDP(sport=1, dport=2) / Raw(b"odd")):
                sent = (IPv6(src=mine, dst=OF["far"][v]) if v else IP(src=mine, dst=OF["far"][v])) / payload
                file.write(bytes(sent))
                wanted = reset_of((IPv6 if v else IP)(bytes(sent)), v, 64) if TCP in sent else error_of(bytes(sent), v)
                assert read_answer(file, v) == wanted
            deny(net, "b", INGRESS)
            refused(net.far, (mine, 8080))
            assert datagram_error(net.a, (mine, 53)) == UDP_REFUSED[v]
        finally:
            for link in links:
                os.close(link)
