# SPDX-License-Identifier: Apache-2.0
"""Services, with kube-proxy's own rules: a connection to a Service's address is judged by the backend that it is sent
to."""
import pytest

from cluster import ECHO, REFUSED, UPLINKS, Cluster, blocks, into, out, pods, seen_as
from kubeproxy import MODES
from lab import ALLOW, DENY, NODE4, NODE6, OUTSIDE4, OUTSIDE6, Probe
from objects import allow_to, cluster_policy, deny_all, policy
from resolver import Resolver, resolve
from steering import host



@pytest.fixture(scope="module", params=MODES)
def cluster(request):
    with Cluster(request.param) as made:
        yield made


@pytest.fixture(scope="module", params=MODES)
def refusing(request):
    with Cluster(request.param, datapath={"denyWith": "reject"}) as made:
        yield made


# ---- every address ----

def test_every_address_leads_to_every_backend(cluster):
    """Without policy; which also says that kube-proxy's rules here are what the other tests take them for."""
    web = cluster.expose("every", "b", "r")
    for backend in ("b", "r"):
        cluster.give([web], choose=[backend])
        for source in (cluster.a, cluster.outside):
            for probe in cluster.every_way(source, web, expect=ALLOW):
                assert cluster.who(probe) == backend, probe
                inside = probe.destination in web.ips
                assert (probe.local[0] == seen_as(probe)) == inside, "what is not to a cluster IP is masqueraded"
    cluster.give([web])
    assert cluster.answers(cluster.a, web.ips, count=12, expect=ALLOW) == {"b", "r"}


@pytest.mark.parametrize("backend, other", [("b", "d"), ("r", "q")], ids=["local", "remote"])
def test_egress_is_judged_by_the_backend(cluster, backend, other):
    """By its address, and by its port, which is not the Service's."""
    web, else_ = cluster.expose(f"egress-{backend}", backend), cluster.expose(f"egress-{other}", other)
    cluster.give([web, else_], out("a", backend))
    assert cluster.met(cluster.a, web, expect=ALLOW) == {backend}
    assert cluster.met(cluster.c, else_, expect=ALLOW) == {other}, "of c no policy speaks"
    for denied, policies in ((else_, out("a", backend)), (web, out("a", backend, port=80)),
                             (web, out("a", peers=blocks(*web.ips, *web.external), port=80))):
        cluster.give([web, else_], policies)
        assert cluster.met(cluster.a, denied) == {DENY}, "the Service's own port and address are nobody's"
        assert cluster.reached() == set(), "what is denied goes nowhere"


def test_ingress_is_judged_by_who_asked(cluster):
    """Not by the node, whose address the masqueraded ones carry when they come to b."""
    web = cluster.expose("ingress", "b")
    cluster.give([web], into("b", "a", peers=blocks(OUTSIDE4, OUTSIDE6)))
    for source in (cluster.a, cluster.outside):
        assert cluster.met(source, web, expect=ALLOW) == {"b"}
    assert cluster.met(cluster.c, web) == {DENY} and cluster.reached() == set()
    cluster.give([web], into("b", "a", peers=blocks(*UPLINKS, NODE4, NODE6)))
    assert cluster.met(cluster.outside, web) == {DENY} and cluster.reached() == set()


# ---- backends that are judged differently ----

MIXED = pytest.mark.parametrize("allowed, denied", [("b", "d"), ("r", "q"), ("b", "q"), ("r", "d")],
                                ids=["both local", "both remote", "denied remote", "denied local"])


@MIXED
def test_mixed_by_egress(cluster, allowed, denied):
    """A connection succeeds exactly when kube-proxy has chosen the allowed one; the other is never reached."""
    web = cluster.expose(f"mixed-{allowed}{denied}", allowed, denied)
    cluster.give([web], out("a", allowed))
    for ips in (web.ips, web.external):
        seen = cluster.judged(cluster.tries(cluster.a, ips, count=8), [allowed])
        assert seen == {allowed, denied}
    for one, expected in ((allowed, ALLOW), (denied, DENY)):
        cluster.resync(choose=[one])
        found = cluster.every_way(cluster.a, web, expect=expected)
        assert {str(p) for p in found if p.result != expected} == set(), one
    cluster.resync()


def test_mixed_by_ingress(cluster):
    web = cluster.expose("mixed-in", "b", "d")
    cluster.give([web], into("b", "a", peers=blocks(OUTSIDE4, OUTSIDE6)), into("d", "c"))
    for source, ips in ((cluster.a, web.ips), (cluster.a, web.external), (cluster.outside, web.external)):
        assert cluster.judged(cluster.tries(source, ips, count=8), ["b"]) == {"b", "d"}
    assert cluster.judged(cluster.tries(cluster.c, web.balancer, count=8), ["d"]) == {"b", "d"}


def test_mixed_by_both_sides(cluster):
    """a may ask b and d, of whom d wants nobody; r it may, q not."""
    web = cluster.expose("mixed-both", "b", "d", "r", "q")
    cluster.give([web], out("a", "b", "d", "r"), into("d"))
    for ips in (web.ips, web.balancer):
        assert cluster.judged(cluster.tries(cluster.a, ips, count=16), ["b", "r"]) == {"b", "d", "r", "q"}


def test_mixed_by_cluster_policy(cluster):
    """Tiers above and below; and a backend of no pod, by its address."""
    web = cluster.expose("mixed-tiers", "b", "d", "q")
    d = {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"name": "d"}}}}
    rules = [{"name": "no-d", "action": "Deny", "to": [d]}]
    late = [{"name": "no-q", "action": "Deny", "to": [{"networks": [host(ip) for ip in cluster.there["q"].ips]}]}]
    cluster.give([web], cluster_policy("first", "Admin", 1, egress=rules),
                 cluster_policy("last", "Baseline", 1, egress=late))
    assert cluster.judged(cluster.tries(cluster.a, web.ips, count=16), ["b"]) == {"b", "d", "q"}


def test_more_kinds_than_fit(cluster):
    """Each backend is another peer, and each is judged."""
    web = cluster.expose("many", "b", "d", "e", "r", "q", "dns", "dns2")
    # Ten classes of addresses by a term for each.
    terms = [policy("s", f"see-{name}", {"name": "nobody"}, egress=[{"to": pods(name)}], types=["Egress"])
             for name in "bderqa"]
    more = [{"addresses": [f"10.88.9.{n}"], "nodeName": "node-2"} for n in range(4)]
    web.objects[1]["endpoints"] += [{"conditions": {"ready": True}, **one} for one in more]
    terms += [policy("s", f"net-{n}", {"name": "nobody"}, egress=[{"to": blocks(f"10.88.9.{n}")}], types=["Egress"])
              for n in range(4)]
    cluster.give([web], *terms, out("a", "b", "r"))
    for one in ("b", "r", "d", "q"):
        cluster.resync(choose=[one])
        expected = ALLOW if one in "br" else DENY
        assert {p.result for p in cluster.tries(cluster.a, web.ips[:1], expect=expected, silence=0.2)} == {expected}, one


@MIXED
def test_mixed_refusals_are_answered(refusing, allowed, denied):
    """denyWith: reject. The answer comes from the Service's address: a connected socket would not take another's."""
    cluster = refusing
    web = cluster.expose(f"mixed-{allowed}{denied}", allowed, denied)
    cluster.give([web], out("a", allowed))
    for ips in (web.ips, web.external):
        assert cluster.judged(cluster.tries(cluster.a, ips, count=8, silence=3), [allowed], REFUSED) == {allowed, denied}


def test_refusals_are_answered(refusing):
    """By egress, by ingress, masqueraded or not, from a pod and from outside."""
    cluster = refusing
    web, other = cluster.expose("no-out", "b", "r"), cluster.expose("no-in", "d")
    cluster.give([web, other], out("a", "c"), into("d", "e"))
    for source, exposed in ((cluster.a, web), (cluster.c, other), (cluster.outside, other)):
        assert cluster.met(source, exposed, expect="") == REFUSED, source.name
        assert cluster.reached() == set()


# ---- the one that every cluster has ----

def kube_dns(cluster, target, key):
    """kube-dns as kubeadm makes it, but for the target port; its metrics are beside it."""
    ports = [{"name": "dns", "port": 53, "protocol": "UDP", "targetPort": target},
             {"name": "dns-tcp", "port": 53, "targetPort": target}, {"name": "metrics", "port": 9153, "targetPort": ECHO}]
    targets = [{"name": "dns", "port": target, "protocol": "UDP"}, {"name": "dns-tcp", "port": target},
               {"name": "metrics", "port": ECHO}]
    return cluster.expose("kube-dns", "dns", "dns2", ports=ports, targets=targets, namespace="kube-system", key=key,
                          type="ClusterIP", externalIPs=[], load_balancer=[])


@pytest.mark.parametrize("target, allowed", [(53, (53, 53)), (1053, (1053, 1053)), (1053, ("dns", "dns-tcp"))],
                         ids=["53", "1053", "named"])
def test_default_deny_plus_dns_to_kube_dns_through_its_service(cluster, target, allowed):
    servers = {name: cluster.pods[name] if name in cluster.pods else cluster.there[name] for name in ("dns", "dns2")}
    resolvers = [Resolver(getattr(one, "space", one), ip, target) for one in servers.values() for ip in one.ips]
    dns, web = kube_dns(cluster, target, allowed), cluster.expose("beside-dns", "b")
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
            "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}

    def dns_only(udp, tcp):
        return [deny_all("s"), allow_to("s", "dns", None, [peer], [{"protocol": "UDP", "port": udp},
                                                                   {"protocol": "TCP", "port": tcp}])]
    try:
        cluster.give([dns, web], *dns_only(*allowed))
        for ip in dns.ips:
            family = 6 if ":" in ip else 4
            for protocol in ("UDP", "TCP"):
                told = {resolve(cluster.a, ip, 53, protocol) for _ in range(24)}
                assert told == {cluster.address(name, family) for name in servers}, (ip, protocol)
        for name in servers:
            cluster.resync(choose=[name])
            told = {resolve(pod, ip, 53, protocol) for pod in (cluster.a, cluster.c) for ip in dns.ips
                    for protocol in ("UDP", "TCP")}
            assert told == set(servers[name].ips)
        cluster.resync()
        # Everything else is refused.
        cluster.reached()
        elsewhere = [(dns.ips, 9153), (dns.ips, 80), (web.ips, 80), (web.external, 80), (cluster.b.ips, ECHO),
                     ([OUTSIDE4, OUTSIDE6], 80), (cluster.there["r"].ips, ECHO), (servers["dns"].ips, ECHO),
                     (servers["dns2"].ips, ECHO)]
        found = [Probe(cluster.a, ip, port, protocol) for ips, port in elsewhere for ip in ips
                 for protocol in ("TCP", "UDP")]
        assert {str(p) for p in cluster.prober.probe(found) if p.result != DENY} == set()
        assert cluster.reached() == set()
        # The policy goes: so does DNS. Another port than theirs is not theirs.
        for left in ([deny_all("s")], dns_only(target + 1, target + 1)):
            cluster.give([dns, web], *left)
            assert cluster.answers(cluster.a, dns.ips, 53, silence=0.2) == {DENY}
    finally:
        for one in resolvers:
            one.close()
