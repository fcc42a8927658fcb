# SPDX-License-Identifier: Apache-2.0
"""A proxy that knows nothing of interception connects from its own address: whom it connects for may reach the
server, or not."""
import contextlib
import os
import signal
import sys

import pytest

from lab import ALLOW, DENY, Lab, Probe
from objects import allow_from, intercept, namespace, proxy
from scenes import eventually, member, serve
from steering import ENGINES

PORT, FAR, FAR6 = 15001, "203.0.113.9", "2001:db8:f::9"
FROM_B = [{"podSelector": {"matchLabels": {"name": "b"}}}]
FROM_BOTH = [{"podSelector": {"matchLabels": {"name": name}}} for name in "ab"]

# A thread a connection, which asks where it was to go, as such proxies do.
THREADS = """
import socket, sys, threading
def copy(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    for end in (source, sink):
        try: end.shutdown(socket.SHUT_RDWR)
        except OSError: pass
def serve(sock):
    sock.getsockname()
    server = socket.socket(socket.AF_INET6 if ":" in sys.argv[2] else socket.AF_INET)
    server.settimeout(4)
    try:
        server.connect((sys.argv[2], 80))
    except OSError:
        sock.close()
        return
    server.settimeout(None)
    threading.Thread(target=copy, args=(server, sock), daemon=True).start()
    copy(sock, server)
listener = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, backlog=64, dualstack_ipv6=True)
while True:
    sock, _ = listener.accept()
    threading.Thread(target=serve, args=(sock,), daemon=True).start()
"""
# One thread for all: takes a connection and connects for it, then looks at the next.
LOOP = """
import selectors, socket, sys
chosen = selectors.DefaultSelector()
def copy(source, sink):
    try:
        data = source.recv(65536)
        sink.sendall(data)
    except OSError:
        data = b""
    if not data:
        for end in (source, sink):
            if end.fileno() >= 0:
                try: chosen.unregister(end)
                except KeyError: pass
                end.close()
def serve():
    sock, _ = listener.accept()
    server = socket.socket()
    server.setblocking(False)
    server.connect_ex((sys.argv[2], 80))
    chosen.register(server, selectors.EVENT_WRITE, lambda: opened(sock, server))
def opened(sock, server):
    chosen.unregister(server)
    if server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        return sock.close(), server.close()
    server.setblocking(True)
    chosen.register(server, selectors.EVENT_READ, lambda: copy(server, sock))
    chosen.register(sock, selectors.EVENT_READ, lambda: copy(sock, server))
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=64)
chosen.register(listener, selectors.EVENT_READ, serve)
while True:
    for key, _ in chosen.select():
        key.data()
"""
HAPROXY = """
defaults
    mode tcp
    timeout client 9s
    timeout server 9s
    timeout connect 3s
    retries 0
listen gw
    bind 127.0.0.1:{port}
    server s {server}:80
"""
NGINX = """
daemon off;
worker_processes 2;
error_log stderr;
pid {directory}/nginx.pid;
{module}
events {{ }}
stream {{
    server {{
        listen 127.0.0.1:{port};
        proxy_connect_timeout 3s;
        proxy_pass {server}:80;
    }}
}}
"""
STREAM = "/usr/lib/nginx/modules/ngx_stream_module.so"
KINDS = ["threads", "loop", "socat", "haproxy", "nginx"]


def command(lab, kind, server):
    if kind == "socat":
        return ["socat", f"TCP-LISTEN:{PORT},bind=127.0.0.1,fork,reuseaddr,backlog=64", f"TCP:{server}:80,connect-timeout=3"]
    if kind == "haproxy":
        path = f"{lab.directory}/haproxy.cfg"
        with open(path, "w") as file:
            file.write(HAPROXY.format(port=PORT, server=server))
        return ["haproxy", "-db", "-f", path]
    if kind == "nginx":
        path = f"{lab.directory}/nginx.conf"
        with open(path, "w") as file:
            file.write(NGINX.format(port=PORT, server=server, directory=lab.directory,
                                    module=f"load_module {STREAM};" if os.path.exists(STREAM) else ""))
        return ["nginx", "-e", "stderr", "-c", path]
    return [sys.executable, "-c", {"threads": THREADS, "loop": LOOP}[kind], PORT, server]


@contextlib.contextmanager
def running(lab, kind, server=None):
    log = open(f"{lab.directory}/{kind}.log", "w")
    process = lab.node.popen(*command(lab, kind, server or lab.s.ip4), stdout=log, stderr=log, start_new_session=True)
    try:
        eventually(lambda: lab.running.api.request("GET", "/v1/status").json["proxies"][0]["up"])
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.close()


@pytest.fixture(scope="module")
def shared_node(request):
    with Lab(outside=True) as lab:
        lab.a, lab.b, lab.s = (lab.pod(name) for name in "abs")
        serve(lab, lab.s)
        lab.running = lab.agent(datapath={"engine": getattr(request, "param", "ebpf")})
        yield lab


@pytest.fixture
def onward(shared_node):
    """What a and b send to a far address is a proxy's, which sends it to s."""
    lab = shared_node
    rule = {"name": "all", "action": "Intercept", "proxy": "gw", "to": [{"networks": [f"{FAR}/32", f"{FAR6}/128"]}]}
    lab.running.api.put_state(
        [namespace("s")] + [member(n, p, interface=p.interface) for n, p in lab.pods.items()] +
        [allow_from("s", "s-in", {"name": "s"}, FROM_B), proxy("gw", PORT)] +
        [intercept(name, {"name": name}, [rule]) for name in "ab"])
    eventually(lambda: not lab.running.api.status()["proxies"][0]["listeners"])
    return lab


def tried(lab, *sources, far=FAR):
    """What becomes of one attempt of each at the same time."""
    probes = [Probe(source, far, 80, expect=DENY if source is lab.a else ALLOW) for source in sources]
    return [probe.result for probe in lab.prober.probe(probes, silence=1.5)]


def dropped(lab):
    return lab.running.api.metrics()("penstock_packets_total", direction="Ingress", verdict="Dropped")


@pytest.mark.parametrize("shared_node", ENGINES, indirect=True)
@pytest.mark.parametrize("kind", KINDS)
def test_ingress_policy_asks_for_whom_a_proxy_connects(onward, kind):
    lab = onward
    with running(lab, kind):
        assert tried(lab, lab.b) == [ALLOW]
        before = dropped(lab)
        assert tried(lab, lab.a) != [ALLOW]
        assert dropped(lab) > before, "the proxy's packet, for a"
        assert tried(lab, lab.b) == [ALLOW], "another client is not concerned"
        lab.running.api.put_object(allow_from("s", "s-in", {"name": "s"}, FROM_BOTH))
        probe, = lab.prober.probe([Probe(lab.a, FAR, 80, expect=ALLOW)])
        assert probe.ok


@pytest.mark.parametrize("kind", KINDS)
def test_clients_at_the_same_time_are_told_apart(onward, kind):
    lab = onward
    with running(lab, kind):
        assert tried(lab, lab.b) == [ALLOW]
        probes = [Probe(source, FAR, 80, expect=DENY if source is lab.a else ALLOW)
                  for _ in range(10) for source in (lab.a, lab.b)]
        lab.prober.probe(probes, silence=1.5)
        assert [p for p in probes if p.source is lab.a and p.result == ALLOW] == []
        assert [p for p in probes if p.source is lab.b and not p.ok] == []


@pytest.mark.parametrize("far", [FAR, FAR6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("family", [4, 6])
def test_of_either_family_to_a_server_of_either(onward, far, family):
    lab = onward
    with running(lab, "threads", lab.s.ip4 if family == 4 else lab.s.ip6):
        assert tried(lab, lab.b, far=far) == [ALLOW]
        assert tried(lab, lab.a, far=far) != [ALLOW]
        assert tried(lab, lab.b, far=far) == [ALLOW]
