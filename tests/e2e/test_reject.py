# SPDX-License-Identifier: Apache-2.0
"""denyWith: reject. What policy denies fails at once: whoever asks, wherever from, whichever way the packet took."""
import socket
import struct
import time

import pytest

from lab import ALLOW, DENY, NODE4, NODE6, OUTSIDE4, OUTSIDE6, UPLINK4, UPLINK6, Lab
from netns import run
from objects import allow_to, intercept, policy, proxy
from scenes import IN_B, echoed, member, results, serve
from test_intercept import PROXY_PORT, rule, tried

# What the kernel makes of a RST, of ICMP 3/13 and of ICMPv6 1/1; a family, TCP before UDP.
REFUSED = ["ECONNREFUSED", "EHOSTUNREACH", "ECONNREFUSED", "EACCES"]


@pytest.fixture(scope="module", params=["routed", "bridged", "bridged with br_netfilter"])
def shared_node(request):
    with Lab(bridge=request.param != "routed", outside=True) as lab:
        for family in ("iptables", "ip6tables") if request.param != "routed" else ():
            try:
                lab.node.sysctl(f"net.bridge.bridge-nf-call-{family}", int("br_netfilter" in request.param))
            except FileNotFoundError:
                if "br_netfilter" in request.param:
                    pytest.skip("this kernel has no br_netfilter")
        lab.a, lab.b, lab.c = (lab.pod(name) for name in "abc")
        lab.running = lab.agent(datapath={"denyWith": "reject"})
        lab.items = [member(n, p, interface=p.interface) for n, p in lab.pods.items()]
        yield lab


@pytest.fixture
def refusing(shared_node):
    """a may reach b's port 80; c and the outside host may not."""
    lab = shared_node
    serve(lab, lab.b, lab.outside, ports=(80, 81))
    lab.running.api.put_state(lab.items + [IN_B])
    lab.before = lab.running.api.metrics()
    yield lab
    lab.node.run("nft", "delete", "table", "inet", "lab", check=False)
    lab.prober.close_listeners()


def outside(lab):
    lab.outside.ips = [OUTSIDE4, OUTSIDE6]
    return lab.outside


def counts(lab, verdict="Rejected", **labels):
    """Since the test began."""
    return lab.running.api.metrics()("penstock_packets_total", verdict=verdict, **labels) - \
        lab.before("penstock_packets_total", verdict=verdict, **labels)


def test_ingress_is_refused_at_once(refusing):
    lab = refusing
    assert results(lab, lab.a, lab.b, expect=ALLOW) == [ALLOW] * 4
    before = counts(lab, direction="Ingress", reason="Isolated")
    begun = time.monotonic()
    for source in (lab.c, outside(lab)):
        assert results(lab, source, lab.b, expect="") == REFUSED, source.name
    assert time.monotonic() - begun < 2
    assert counts(lab, direction="Ingress", reason="Isolated") >= before + 8
    assert counts(lab, "Dropped", direction="Ingress", reason="Isolated") == 0
    assert results(lab, lab.a, lab.b, expect=ALLOW) == [ALLOW] * 4, "and what is allowed goes on"
    assert results(lab, lab.b, outside(lab), expect=ALLOW) == [ALLOW] * 4


def test_egress_is_refused_at_once(refusing):
    lab = refusing
    lab.running.api.put_object(allow_to("s", "c-out", {"name": "c"}, [{"ipBlock": {"cidr": f"{OUTSIDE4}/32"}},
                                                                      {"ipBlock": {"cidr": f"{OUTSIDE6}/128"}}],
                                        [{"protocol": p, "port": 80} for p in ("TCP", "UDP")]))
    begun = time.monotonic()
    assert results(lab, lab.c, outside(lab), ports=(81,), expect="") == REFUSED
    assert results(lab, lab.c, lab.a, expect="") == REFUSED
    assert time.monotonic() - begun < 2
    assert counts(lab, direction="Egress", reason="Isolated") >= 8
    assert results(lab, lab.c, outside(lab), expect=ALLOW) == [ALLOW] * 4


def test_a_connection_that_lives_is_reset(refusing):
    lab = refusing
    for ip in lab.b.ips:
        lab.running.api.put_state(lab.items + [IN_B])
        with lab.a.entered():
            client = socket.create_connection((ip, 80), timeout=2)
        with client:
            assert echoed(lab, client, b"one")
            lab.running.api.put_object(policy("s", "b-in", {"name": "b"}, types=["Ingress"]))
            client.settimeout(2)
            with pytest.raises(ConnectionResetError):
                client.send(b"two")
                client.recv(1)


def test_policy_may_change_its_mind(refusing):
    """The refused attempt leaves nothing behind that a later one, from the same port, stumbles over."""
    lab = refusing
    for expect in ("ECONNREFUSED", ALLOW, "ECONNREFUSED"):
        lab.running.api.put_state(lab.items + ([] if expect == ALLOW else [IN_B]))
        for ip in lab.b.ips:
            mine = lab.c.ip6 if ":" in ip else lab.c.ip4
            probe = tried(lab, lab.c, ip, expect=expect, bind=(mine, 40000))
            assert probe.result == expect, probe


# ---- proxies ----


def test_nobody_listens(refusing):
    """onUnavailable Deny follows denyWith: of egress rules and of ingress rules, for pods and the outside host."""
    lab = refusing
    to = [{"networks": [f"{OUTSIDE4}/32", f"{OUTSIDE6}/128"]}]
    to_b = [{**rule(to=to), "from": [{"networks": ["0.0.0.0/0", "::/0"]}]}]
    del to_b[0]["to"]
    lab.running.api.put_state(lab.items + [proxy("gw", PROXY_PORT), intercept("llm", {"name": "a"}, [rule(to=to)]),
                                           intercept("in", {"name": "b"}, [], ingress=to_b)])
    for source, target in ((lab.a, outside(lab)), (lab.c, lab.b), (outside(lab), lab.b)):
        assert results(lab, source, target, protocols=("TCP",), expect="") == ["ECONNREFUSED"] * 2, source.name
    assert counts(lab, reason="NoListener") >= 6
    lab.prober.listen(lab.node, PROXY_PORT, transparent=True)
    for source, target in ((lab.a, outside(lab)), (lab.c, lab.b), (outside(lab), lab.b)):
        assert results(lab, source, target, protocols=("TCP",), expect=ALLOW) == [ALLOW] * 2, source.name


def test_a_proxys_onward_connection_is_refused(refusing):
    """From the client's address: the answer finds the proxy's socket, not the client."""
    lab = refusing
    lab.running.api.put_state(lab.items + [IN_B, proxy("gw", PROXY_PORT)])
    for client, server in ((lab.c.ip4, lab.b.ip4), (lab.c.ip6, lab.b.ip6), (OUTSIDE4, lab.b.ip4), (OUTSIDE6, lab.b.ip6)):
        probe = tried(lab, lab.node, server, expect="ECONNREFUSED", bind=(client, 0), transparent=True)
        assert probe.result == "ECONNREFUSED", (client, probe)


# ---- the node's NAT ----


def nat(lab, *chains):
    lab.node.run("nft", "-f", "-", input="table inet lab {\n" + "\n".join(chains) + "\n}\n")


def test_through_the_nodes_translation(refusing):
    """As kube-proxy does it: the outside host and a pod ask the node's address, and are masqueraded on their way to b."""
    lab = refusing
    maps = "\n".join(f"ip daddr {address} {protocol} dport 8080 dnat ip to {lab.b.ip4}:80\n"
                     f"ip6 daddr {address6} {protocol} dport 8080 dnat ip6 to [{lab.b.ip6}]:80"
                     for address, address6 in ((NODE4, NODE6), (UPLINK4, UPLINK6)) for protocol in ("tcp", "udp"))
    nat(lab, f"chain pre {{\ntype nat hook prerouting priority dstnat\n{maps}\n}}",
        f"chain post {{\ntype nat hook postrouting priority srcnat\nip daddr {lab.b.ip4} masquerade\n"
        f"ip6 daddr {lab.b.ip6} masquerade\n}}")
    for source, addresses in ((lab.c, (NODE4, NODE6)), (outside(lab), (UPLINK4, UPLINK6))):
        found = [tried(lab, source, ip, 8080, expect="", protocol=protocol).result
                 for ip in addresses for protocol in ("TCP", "UDP")]
        assert found == REFUSED, source.name


def test_masqueraded_behind_the_uplink(refusing):
    """Egress that is allowed, masqueraded, and reset by the far end is none of ours; what is denied never gets there."""
    lab = refusing
    nat(lab, "chain post {\ntype nat hook postrouting priority srcnat\noifname \"uplink\" masquerade\n}")
    assert tried(lab, lab.a, OUTSIDE4, 99, expect="ECONNREFUSED").result == "ECONNREFUSED"
    assert counts(lab) == 0
    lab.running.api.put_object(policy("s", "a-out", {"name": "a"}, types=["Egress"]))
    assert results(lab, lab.a, outside(lab), expect="") == REFUSED
    assert counts(lab, direction="Egress") >= 4


# ---- what stays silent ----


def test_what_is_not_policys_stays_silent(refusing):
    """Spoofed sources and malformed packets are dropped without a word."""
    lab = refusing
    for ip, spoofed in ((lab.b.ip4, "10.99.0.1"), (lab.b.ip6, "fd00:99::1")):
        probe = tried(lab, lab.c, ip, expect=DENY, bind=(spoofed, 0), transparent=True)
        assert probe.result == DENY, probe
    assert counts(lab, "Dropped", reason="Spoofed") > 0
    with lab.c.entered():
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    with raw:
        raw.sendto(struct.pack("!HHIIBBHHH", 4000, 80, 1, 0, 0x20, 2, 100, 0, 0), (lab.b.ip4, 0))
    assert counts(lab, "Dropped", reason="Malformed") == 1
    assert counts(lab) == 0


def test_drop_is_the_default(lab):
    lab.a, lab.b = lab.pod("a"), lab.pod("b")
    serve(lab, lab.b)
    lab.running = lab.agent(start=False)
    lab.running.start()
    lab.running.api.put_state([member(n, p, interface=p.interface) for n, p in lab.pods.items()] +
                              [policy("s", "b-in", {"name": "b"}, types=["Ingress"])])
    assert results(lab, lab.a, lab.b, expect=DENY) == [DENY] * 4
    lab.running.stop()
    lab.running.config["datapath"]["denyWith"] = "reject"
    lab.running.write_config()
    lab.running.start()
    assert results(lab, lab.a, lab.b, expect="") == REFUSED, "a restart is enough, in the same hooks"
    checked = run(lab.running.binary, "--config", lab.running.config_path, "--check").stdout
    assert "denyWith: reject" in checked
