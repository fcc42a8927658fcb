# SPDX-License-Identifier: Apache-2.0
"""What several end-to-end tests do: serve, try, wait, look at one live connection."""
import time

from lab import ALLOW, DENY, Probe
from objects import allow_from, workload

IN_B = allow_from("s", "b-in", {"name": "b"}, [{"podSelector": {"matchLabels": {"name": "a"}}}],
                  [{"protocol": p, "port": 80} for p in ("TCP", "UDP")])


def eventually(check, timeout=10.0):
    """Waits for check() to be true; returns the seconds it took."""
    begun = time.monotonic()
    while not check():
        assert time.monotonic() - begun < timeout, f"not within {timeout} s"
        time.sleep(0.02)
    return time.monotonic() - begun


def results(lab, source, target, ports=(80,), protocols=("TCP", "UDP"), expect=None):
    """What becomes of one attempt a family, protocol and port. What is expected to pass is given time on a busy machine."""
    probes = [Probe(source, ip, port, protocol, expect=expect) for ip in target.ips for protocol in protocols for port in ports]
    return [p.result for p in lab.prober.probe(probes)]


def member(name, made, **spec):
    return workload("s", name, made.ips, {"name": name}, **spec)


def serve(lab, *pods, ports=(80,)):
    for made in pods:
        for port in ports:
            for protocol in ("TCP", "UDP"):
                lab.prober.listen(made, port, protocol)


def enforced(lab):
    return results(lab, lab.a, lab.b) == [ALLOW] * 4 and results(lab, lab.c, lab.b) == [DENY] * 4


def echoed(lab, client, data, timeout=2.0):
    """The echo comes back; lab.prober serves it."""
    client.send(data)
    return heard(lab, client, data, timeout)


def heard(lab, client, data, timeout):
    client.setblocking(False)
    end, got = time.monotonic() + timeout, b""
    while got != data and time.monotonic() < end:
        lab.prober._turn(0.01)
        try:
            got += client.recv(4096)
        except BlockingIOError:
            pass
    return got == data
