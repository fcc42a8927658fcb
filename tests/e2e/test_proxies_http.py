# SPDX-License-Identifier: Apache-2.0
"""Real proxies that speak HTTP: Squid, mitmproxy, Traffic Server, nginx, HAProxy. Each with its Debian package and an ordinary
configuration; what it sees, what it carries, as whom it goes on."""
import collections

import pytest

from lab import OUTSIDE4, OUTSIDE6, UPLINK4, UPLINK6
from objects import intercept
from proxies import PORT, HAProxy, Nginx, lacking
from scenes import eventually
from steering import World, to
from talk import Client
from webproxies import Mitmproxy, Squid, TrafficServer

Case = collections.namedtuple("Case", "program state kept start")


@pytest.fixture(scope="module", params=["ebpf"])
def node(request):
    with World("a", "b", engine=request.param) as world:
        yield world


@pytest.fixture
def gate(node):
    """a's connections to port 80, outside or of the pod b, go to a proxy on the node."""
    node.begin(intercept("all", {"name": "a"}, [to(OUTSIDE4, OUTSIDE6, *node.b.ips)]))
    yield node
    node.end()


def nginx(lab, *more):
    """A server a family: an IPv6 address in proxy_pass wants brackets."""
    def server(listen, address):
        return [listen, "client_max_body_size 0;", "location / {", f"proxy_pass http://{address}:$server_port;",
                "proxy_request_buffering off;", "proxy_buffering off;", *more, "}"]
    return Nginx(lab, server(f"listen {PORT};", "$server_addr"),
                 server(f"listen [::]:{PORT} ipv6only=on;", "[$server_addr]"), kind="http")


def haproxy(lab):
    return HAProxy(lab, frontend=["bind :::15001 v4v6 transparent", "option forwardfor"], mode="http",
                   backend=["source 0.0.0.0 usesrc clientip", "server s 0.0.0.0:0"])


# state: whether it is transparent by itself, or the agent sees to that. kept: it goes on from the client's address.
CASES = {
    "squid-tproxy": Case("squid", "Ready", True, lambda lab: Squid(lab, "tproxy")),
    "squid-intercept": Case("squid", "Adopted", False, lambda lab: Squid(lab, "intercept")),
    "mitmproxy": Case("mitmdump", "Adopted", False, Mitmproxy),
    "trafficserver": Case("traffic_server", "Ready", True, TrafficServer),
    "nginx": Case("nginx", "Adopted", False, nginx),
    "nginx-transparent": Case("nginx", "Adopted", True, lambda lab: nginx(lab, "proxy_bind $remote_addr transparent;")),
    "haproxy-transparent": Case("haproxy", "Ready", True, haproxy),
}


KINDS = pytest.mark.parametrize("kind", [
    pytest.param(kind, marks=pytest.mark.skipif(lacking(case.program) is not None, reason=str(lacking(case.program))))
    for kind, case in CASES.items()])


@KINDS
def test_a_proxy_of_http(gate, kind):
    """Both families, a server outside and a pod; 64 MB there and back; both addresses in its log; the counters."""
    lab, case = gate, CASES[kind]
    front = case.start(lab)
    lab.usable()
    assert {one["state"] for one in lab.proxy_status()["listeners"]} == {case.state}
    assert lab.running.api.metrics()("penstock_proxy_up", proxy="gw") == 1
    expected = []
    for target, family, megabytes in (("outside", 4, 64), ("outside", 6, 8), ("b", 4, 1), ("b", 6, 0)):
        destination = lab.address(target, family)
        with Client(lab.a, destination) as client:
            who = client.post(megabytes)
            expected.append((*client.ends, destination, 80))
        assert who["wrong"] is None, who["wrong"]
        assert who["server"] == target and who["local"] == [destination, 80]
        if case.kept:
            assert who["peer"][0] == client.ends[0]
        elif target == "outside":
            assert who["peer"][0] == (UPLINK4 if family == 4 else UPLINK6)
        else:
            assert who["peer"][0] not in lab.a.ips
    assert front.seen(4) == expected
    assert lab.handed() == 4
    eventually(lambda: lab.onward("client" if case.kept else "node") == 4)
    assert lab.onward("node" if case.kept else "client") == 0
