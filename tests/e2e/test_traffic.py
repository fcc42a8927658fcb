# SPDX-License-Identifier: Apache-2.0
"""Real packets of the less usual kinds: live connections, replies, ICMP errors, fragments, false sources, NAT."""
import os
import socket
import struct
import time

import pytest

import packets
from lab import ALLOW, DENY, NODE4, NODE6, OUTSIDE4, OUTSIDE6, Lab, Probe
from objects import allow_from, allow_to, deny_all, policy, workload
from scenes import echoed, eventually, heard, member, results, serve

IP_MTU_DISCOVER, IP_PMTUDISC_DO, IP_MTU, IPV6_MTU_DISCOVER, IPV6_MTU = 10, 2, 14, 23, 24


def three(lab):
    """a, b and c, an outside host, and an agent."""
    lab.a, lab.b, lab.c = (lab.pod(name) for name in "abc")
    lab.running = lab.agent()
    return lab


def begin(lab):
    """Nobody has a policy."""
    serve(lab, lab.a, lab.b, lab.outside)
    lab.items = [member(n, p, interface=p.interface) for n, p in lab.pods.items()]
    lab.running.api.put_state(lab.items)
    return lab


@pytest.fixture(scope="module")
def shared_trio():
    with Lab(outside=True) as lab:
        yield three(lab)


@pytest.fixture
def trio(shared_trio):
    yield begin(shared_trio)
    shared_trio.node.run("nft", "delete", "table", "inet", "lab", check=False)
    shared_trio.prober.close_listeners()


@pytest.fixture
def own_trio(lab_outside):
    """The same, of a test that bends the node."""
    return begin(three(lab_outside))


def put(lab, *policies):
    lab.running.api.put_state(lab.items + list(policies))


# ---- live connections ----

@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("who", ["ingress", "egress"])
def test_a_live_connection_is_cut_and_mended(trio, family, who):
    lab = trio
    cut = policy("s", "cut", {"name": "b"}, types=["Ingress"]) if who == "ingress" else \
        policy("s", "cut", {"name": "a"}, types=["Egress"])
    with lab.a.entered():
        client = socket.create_connection((lab.b.ip4 if family == 4 else lab.b.ip6, 80), timeout=2)
    assert echoed(lab, client, b"one")
    put(lab, policy("s", "other", {"name": "c"}, types=["Ingress"]))
    assert echoed(lab, client, b"two"), "a change that does not concern it"
    put(lab, cut)
    assert not echoed(lab, client, b"three", 0.5)
    put(lab)
    assert heard(lab, client, b"three", 4), "TCP sends it again, and it passes"
    assert echoed(lab, client, b"four")


def test_a_live_udp_flow_is_cut_and_mended(trio):
    lab = trio
    with lab.a.entered():
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.connect((lab.b.ip4, 80))
    assert echoed(lab, client, b"one")
    put(lab, policy("s", "cut", {"name": "b"}, types=["Ingress"]))
    assert not echoed(lab, client, b"two", 0.3)
    put(lab)
    assert echoed(lab, client, b"three")


def test_replies_pass_where_connections_do_not(trio):
    lab = trio
    put(lab, policy("s", "a-in", {"name": "a"}, types=["Ingress"]), policy("s", "b-out", {"name": "b"}, types=["Egress"]))
    assert results(lab, lab.a, lab.b, expect=ALLOW) == [ALLOW] * 4
    assert results(lab, lab.b, lab.a) == [DENY] * 4
    assert results(lab, lab.c, lab.a) == [DENY] * 4


def test_ping_follows_rules_that_name_no_port(trio):
    lab = trio

    def ping(ip):
        return lab.a.run("ping", "-c1", "-W0.3", ip, check=False).returncode == 0
    put(lab, policy("s", "b-in", {"name": "b"}, ingress=[{"ports": [{"port": 80}]}]))
    assert not ping(lab.b.ip4) and not ping(lab.b.ip6)
    assert results(lab, lab.a, lab.b, protocols=("TCP",), expect=ALLOW) == [ALLOW] * 2
    put(lab, policy("s", "b-in", {"name": "b"}, ingress=[{"from": [{"podSelector": {}}]}]))
    assert ping(lab.b.ip4) and ping(lab.b.ip6)


# ---- ICMP errors ----

@pytest.fixture
def far(own_trio):
    """A host behind the outside one, whose link to it takes 1300 bytes."""
    lab = own_trio
    far = lab.namespace("far")
    for key in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        lab.outside.sysctl(key, 1)
    lab.outside.ip(f"link add near type veth peer name eth0 netns {far.name}", "link set near mtu 1300 up",
                   "addr add 192.0.2.1/24 dev near", "addr add 2001:db8:2::1/64 dev near nodad")
    far.ip("link set eth0 mtu 1300 up", "addr add 192.0.2.9/24 dev eth0", "addr add 2001:db8:2::9/64 dev eth0 nodad",
           "route add default via 192.0.2.1", "route add default via 2001:db8:2::1")
    far.ips = ["192.0.2.9", "2001:db8:2::9"]
    serve(lab, far)
    return far


@pytest.mark.parametrize("family", [4, 6])
def test_packet_too_big_reaches_an_isolated_pod(own_trio, far, family):
    lab = own_trio
    put(lab, policy("s", "a-in", {"name": "a"}, types=["Ingress"]),
        allow_to("s", "a-out", {"name": "a"}, [{"ipBlock": {"cidr": "192.0.2.0/24"}}, {"ipBlock": {"cidr": "2001:db8:2::/64"}}],
                 [{"protocol": "UDP", "port": 80}]))
    ip = far.ips[0] if family == 4 else far.ips[1]
    level, discover, mtu = (socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_MTU) if family == 4 else \
        (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_MTU)
    with lab.a.entered():
        client = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    client.setsockopt(level, discover, IP_PMTUDISC_DO)
    client.connect((ip, 80))
    assert echoed(lab, client, b"small")
    client.setblocking(True)
    client.send(b"x" * 1400)

    def learnt():
        return client.getsockopt(level, mtu) == 1300
    eventually(learnt)
    client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # EMSGSIZE, which the next call would report
    assert echoed(lab, client, b"still alive")


def test_an_icmp_error_about_nothing_does_not_pass(trio):
    lab = trio
    put(lab, policy("s", "a-in", {"name": "a"}, types=["Ingress"]))
    with lab.a.entered():
        ears = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with lab.outside.entered():
        mouth = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    inner = packets.ip(lab.a.ip4, OUTSIDE4, "UDP", packets.udp(5, 6))
    mouth.sendto(packets.icmp(3, 4, struct.pack("!HH", 0, 1300), inner[:28]), (lab.a.ip4, 0))
    ears.settimeout(0.3)
    with pytest.raises(TimeoutError):
        ears.recv(1000)


# ---- fragments ----

@pytest.mark.parametrize("size", [4000, 20000])
def test_fragments_follow_their_first(trio, size):
    lab = trio
    serve(lab, lab.b, ports=(81,))
    put(lab, allow_from("s", "b-in", {"name": "b"}, [{"podSelector": {"matchLabels": {"name": "a"}}}],
                        [{"protocol": "UDP", "port": 80}]))
    for ip in lab.b.ips:
        assert whole(lab, lab.a, ip, 80, size)
        assert not whole(lab, lab.a, ip, 81, size)
        assert not whole(lab, lab.c, ip, 80, size)
    put(lab, deny_all("s", selector={"name": "b"}, types=("Egress",)))
    for ip in lab.b.ips:
        assert lab.a.run("ping", "-c2", "-i0.1", "-W1", "-s", size, ip, check=False).returncode == 0


def whole(lab, source, ip, port, size):
    """One datagram that needs fragments, and its echo."""
    with source.entered():
        client = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM)
    client.connect((ip, port))
    data = bytes(range(256)) * (size // 256)
    client.send(data)
    client.setblocking(False)
    end = time.monotonic() + 0.4
    while time.monotonic() < end:
        lab.prober._turn(0.01)
        try:
            return client.recv(65536) == data
        except BlockingIOError:
            pass
    return False


# ---- false sources ----

def send_raw(space, packet, destination):
    version = packet[0] >> 4
    with space.entered():
        sock = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
    sock.sendto(packet, (destination, 0))
    sock.close()


def listen_udp(space, port=9999):
    with space.entered():
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", port))
    sock.settimeout(0.3)
    return sock


def received(sock):
    """The sources of what arrived."""
    found = []
    try:
        while True:
            found.append(sock.recvfrom(2000)[1][0].removeprefix("::ffff:"))
            sock.settimeout(0.05)
    except TimeoutError:
        return found


def udp_packet(source, destination, port=9999):
    body = packets.udp(4444, port, b"false")
    if ":" in source:  # IPv6 wants a checksum
        import ipaddress
        pseudo = ipaddress.ip_address(source).packed + ipaddress.ip_address(destination).packed + \
            struct.pack("!IHBB", len(body), 0, 0, 17)
        body = body[:6] + struct.pack("!H", packets.checksum(pseudo + body)) + body[8:]
    return packets.ip(source, destination, "UDP", body)


@pytest.mark.parametrize("family", [4, 6])
def test_a_false_source_is_dropped_and_counted(trio, family):
    lab = trio
    b, own, other = ((lab.b.ip4, lab.a.ip4, lab.c.ip4), (lab.b.ip6, lab.a.ip6, lab.c.ip6))[family == 6]
    stranger, extra = (("192.0.2.5", "192.0.2.77"), ("2001:db8:5::5", "2001:db8:5::77"))[family == 6]
    ears = listen_udp(lab.b)
    before = lab.running.api.metrics()("penstock_packets_total", reason="Spoofed")
    for source in (own, other, stranger):
        send_raw(lab.a, udp_packet(source, b), b)
    assert received(ears) == [own]
    assert lab.running.api.metrics()("penstock_packets_total", reason="Spoofed") - before == 2
    lab.items = [i for i in lab.items if i["metadata"]["name"] != "a"] + [
        workload("s", "a", lab.a.ips, {"name": "a"}, interface=lab.a.interface,
                 allowedSources=["192.0.2.64/26", "2001:db8:5::40/122"])]
    put(lab)
    for source in (stranger, extra):
        send_raw(lab.a, udp_packet(source, b), b)
    ears.settimeout(0.3)
    assert received(ears) == [extra]


@pytest.mark.parametrize("family", [4, 6])
def test_a_packet_from_outside_that_claims_to_be_the_node(own_trio, family):
    lab = own_trio
    # Without this the kernel itself drops such an IPv4 packet, and nothing would be tested.
    lab.node.sysctl("net.ipv4.conf.uplink.accept_local", 1)
    lab.node.sysctl("net.ipv4.conf.uplink.rp_filter", 0)
    lab.node.sysctl("net.ipv4.conf.all.rp_filter", 0)
    a, node = ((lab.a.ip4, NODE4), (lab.a.ip6, NODE6))[family == 6]
    ears = listen_udp(lab.a)
    send_raw(lab.outside, udp_packet(node, a), a)
    reaches = received(ears)
    put(lab, policy("s", "a-in", {"name": "a"}, types=["Ingress"]))
    send_raw(lab.outside, udp_packet(node, a), a)
    ears.settimeout(0.3)
    assert received(ears) == []
    if reaches != [node]:
        pytest.skip("the kernel drops such a packet before any policy")


# ---- NAT ----

def masquerade(lab, entering):
    """Hides who entered by this interface from pod a, as an ip-masq-agent or a NodePort's SNAT does."""
    lab.node.run("nft", "-f", "-", input="table inet lab {\nchain post {\ntype nat hook postrouting priority 100;\n"
                                         f"iifname \"{entering}\" oifname \"{lab.a.interface}\" masquerade\n}}\n}}\n")


def from_node():
    return [{"ipBlock": {"cidr": cidr}} for cidr in (f"{NODE4}/32", "169.254.1.1/32", f"{NODE6}/128", "fe80::/10")]


def from_outside():
    return [{"ipBlock": {"cidr": f"{OUTSIDE4}/32"}}, {"ipBlock": {"cidr": f"{OUTSIDE6}/128"}}]


def test_a_masqueraded_pod_is_judged_as_itself(trio):
    lab = trio
    masquerade(lab, lab.c.interface)
    probes = [Probe(lab.c, ip, 80, protocol, expect=ALLOW) for ip in lab.a.ips for protocol in ("TCP", "UDP")]
    lab.prober.probe(probes)
    assert all(p.ok for p in probes) and probes[0].peer[0].removeprefix("::ffff:") != lab.c.ip4, "it is rewritten"
    put(lab, allow_from("s", "a-in", {"name": "a"}, from_node()))
    assert results(lab, lab.c, lab.a) == [DENY] * 4, "the node's address is not its own"
    put(lab, allow_from("s", "a-in", {"name": "a"}, [{"podSelector": {"matchLabels": {"name": "c"}}}]))
    assert results(lab, lab.c, lab.a, expect=ALLOW) == [ALLOW] * 4
    put(lab, policy("s", "c-out", {"name": "c"}, types=["Egress"]))
    assert results(lab, lab.c, lab.a) == [DENY] * 4


def test_masqueraded_traffic_from_outside_is_not_the_nodes(trio):
    lab = trio
    masquerade(lab, "uplink")
    put(lab, policy("s", "a-in", {"name": "a"}, types=["Ingress"]))
    assert results(lab, lab.outside, lab.a) == [DENY] * 4
    assert results(lab, lab.node, lab.a, expect=ALLOW) == [ALLOW] * 4


def test_masqueraded_traffic_from_outside_is_judged_by_where_it_came_from(trio):
    lab = trio
    masquerade(lab, "uplink")
    put(lab, allow_from("s", "a-in", {"name": "a"}, from_node()))
    assert results(lab, lab.outside, lab.a) == [DENY] * 4
    put(lab, allow_from("s", "a-in", {"name": "a"}, from_outside()))
    assert results(lab, lab.outside, lab.a, expect=ALLOW) == [ALLOW] * 4


def accepted(lab, source, ip, port=81):
    """A connection to pod a, both its ends here: (client, server)."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with lab.a.entered():
        listener = socket.create_server((ip, port), family=family)
    with source.entered():
        client = socket.create_connection((ip, port), timeout=2)
    listener.settimeout(2)
    server, peer = listener.accept()
    listener.close()
    client.settimeout(4)
    return client, server, peer[0]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("who", ["outside", "pod"])
def test_a_live_masqueraded_connection_is_judged_anew_as_itself(trio, family, who):
    """The pod speaks first after each change: a reply shows nothing of where the connection came from."""
    lab = trio
    source = lab.outside if who == "outside" else lab.c
    masquerade(lab, "uplink" if who == "outside" else lab.c.interface)
    itself = from_outside() if who == "outside" else [{"podSelector": {"matchLabels": {"name": "c"}}}]
    put(lab, allow_from("s", "a-in", {"name": "a"}, itself))
    client, server, peer = accepted(lab, source, lab.a.ip4 if family == 4 else lab.a.ip6)
    assert peer != (source.ip4 if family == 4 else source.ip6), "it is rewritten"
    put(lab, allow_from("s", "a-in", {"name": "a"}, itself), policy("s", "other", {"name": "b"}, types=["Ingress"]))
    server.send(b"one")
    assert client.recv(10) == b"one"
    put(lab, allow_from("s", "a-in", {"name": "a"}, from_node()))
    server.send(b"two")
    client.settimeout(0.5)
    with pytest.raises(TimeoutError):
        client.recv(10)
    client.send(b"three")
    server.settimeout(0.5)
    with pytest.raises(TimeoutError):
        server.recv(10)
    put(lab, allow_from("s", "a-in", {"name": "a"}, itself))
    client.settimeout(5)
    assert client.recv(10) == b"two", "TCP sends it again, and it passes"


@pytest.mark.parametrize("family", [4, 6])
def test_a_port_of_masquerade_that_is_given_to_somebody_else(own_trio, family):
    """The kernel forgets a flow sooner than we do: the next one with its port is not that flow."""
    lab = own_trio
    masquerade(lab, "uplink")
    lab.node.sysctl("net.netfilter.nf_conntrack_udp_timeout", 1)
    lab.node.sysctl("net.netfilter.nf_conntrack_udp_timeout_stream", 1)
    first, second, pod = ((OUTSIDE4, "198.51.100.77", lab.a.ip4), (OUTSIDE6, "2001:db8:51::77", lab.a.ip6))[family == 6]
    lab.outside.ip(f"addr add {second}/{24 if family == 4 else 64} dev eth0" + (" nodad" if family == 6 else ""))
    put(lab, allow_from("s", "a-in", {"name": "a"}, from_outside()))
    ears = listen_udp(lab.a)

    def arrives(source):
        with lab.outside.entered():
            mouth = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        mouth.bind((source, 5555))
        mouth.sendto(b"x", (pod, 9999))
        mouth.close()
        try:
            return ears.recvfrom(10)[1][:2]
        except TimeoutError:
            return None
    seen = arrives(first)
    assert seen and seen[0].removeprefix("::ffff:") != first and seen[1] == 5555
    assert arrives(first) == seen
    time.sleep(2.5)
    assert arrives(second) is None
    put(lab)
    assert arrives(second) == seen, "it has the same address and port"


# ---- shapes of networks ----

def test_pods_on_one_bridge():
    with Lab(bridge=True) as lab:
        a, b, c = (lab.pod(name) for name in "abc")
        serve(lab, b)
        agent = lab.agent()
        agent.api.put_state([member(n, p, interface=p.interface) for n, p in lab.pods.items()] + [
            allow_from("s", "b-in", {"name": "b"}, [{"podSelector": {"matchLabels": {"name": "a"}}}])])
        assert results(lab, a, b, expect=ALLOW) == [ALLOW] * 4
        assert results(lab, c, b) == [DENY] * 4
        assert results(lab, lab.node, b, expect=ALLOW) == [ALLOW] * 4


def test_a_vlan_sub_interface(own_trio):
    lab = own_trio
    made = lab.node.ip(f"link add link {lab.b.interface} name {lab.b.interface}.5 type vlan id 5", check=False)
    if made.returncode != 0:
        pytest.skip("this kernel has no VLAN devices; tagged frames are in the differential test")
    lab.b.ip("link add link eth0 name eth0.5 type vlan id 5", "link set eth0.5 up", "addr add 10.77.5.5/32 dev eth0.5",
             "route add 10.77.0.1 dev eth0.5")
    lab.node.ip(f"link set {lab.b.interface}.5 up", f"route add 10.77.5.5/32 dev {lab.b.interface}.5 src {NODE4}")
    lab.items.append(workload("s", "v", ["10.77.5.5"], {"name": "v"}, interface=f"{lab.b.interface}.5"))
    put(lab, deny_all("s", selector={"name": "v"}, types=("Ingress",)))
    probe, = lab.prober.probe([Probe(lab.a, "10.77.5.5", 80, expect=DENY)])
    assert probe.ok
    put(lab)
    probe, = lab.prober.probe([Probe(lab.a, "10.77.5.5", 80, expect=ALLOW)])
    assert probe.ok


def test_counters_say_what_happened(trio):
    lab = trio
    put(lab, allow_from("s", "b-in", {"name": "b"}, [{"podSelector": {"matchLabels": {"name": "a"}}}]))
    before = lab.running.api.metrics()
    assert results(lab, lab.a, lab.b, protocols=("UDP",), expect=ALLOW) == [ALLOW] * 2
    assert results(lab, lab.c, lab.b, protocols=("UDP",)) == [DENY] * 2
    after = lab.running.api.metrics()

    def more(name, **labels):
        return after(name, **labels) - before(name, **labels)
    assert more("penstock_packets_total", verdict="Dropped", reason="Isolated") == 2
    assert more("penstock_bytes_total", verdict="Dropped", reason="Isolated") > 0
    assert more("penstock_packets_total", verdict="Forwarded") >= 4
    assert more("penstock_rule_hits_total", policy="b-in", policy_namespace="s", kind="NetworkPolicy") >= 2


def test_sixty_flows_to_the_outside_and_back(trio):
    lab = trio
    put(lab, allow_to("s", "a-out", {"name": "a"}, [{"ipBlock": {"cidr": f"{OUTSIDE4}/32"}}]))
    probes = [Probe(lab.a, OUTSIDE4, 80, protocol, expect=ALLOW) for protocol in ("TCP", "UDP") * 20]
    probes += [Probe(lab.a, OUTSIDE6, 80, protocol, expect=DENY) for protocol in ("TCP", "UDP") * 10]
    lab.prober.probe(probes)
    assert [str(p) for p in probes if not p.ok] == []


def test_only_what_outlives_a_build_is_pinned(trio):
    """A map whose layout belongs to one build would have the next one refused."""
    assert {name[:3] for name in os.listdir(f"{trio.running.pins}/maps")} == {"ps_"}
