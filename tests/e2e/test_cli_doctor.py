# SPDX-License-Identifier: Apache-2.0
"""penstock doctor, and the checks of the status: each thing that is wrong on a node is named, with what mends it."""
import json
import os
import signal

import pytest
import yaml

from foreign import Programs
from lab import BUILD, Lab
from netns import run
from objects import intercept, policy, proxy, workload
from scenes import eventually

MARKS = {"✔": "ok", "!": "warning", "✘": "bad"}


class Patient:
    """A node with an agent, a pod and a proxy that nobody serves."""

    def __init__(self, lab):
        self.lab, self.node = lab, lab.node
        self.pod = lab.pod("a")
        self.agent = lab.agent(datapath={"engine": "ebpf"})
        self.agent.api.put_state([workload("s", "a", self.pod.ips, interface=self.pod.interface), proxy("gw", 15001)])
        eventually(lambda: self.what("kernel") and self.what("programs")[0].endswith("on 1 interfaces"), 10)

    def doctor(self, *words):
        return run(os.path.join(BUILD, "penstock"), "doctor", "--socket", self.agent.socket, *words, check=False)

    def checks(self):
        return self.agent.api.status()["checks"]

    def what(self, name, *levels):
        return [c["what"] for c in self.checks() if c["name"] == name and (not levels or c["level"] in levels)]

    def found(self, name, level, text):
        """The agent looks again when it is asked after more than two seconds, and at SIGHUP at once."""
        self.agent.signal(signal.SIGHUP)
        eventually(lambda: any(text in what for what in self.what(name, level)), 15)

    def well(self, name):
        self.agent.signal(signal.SIGHUP)
        eventually(lambda: self.what(name) and not self.what(name, "warning", "bad"), 15)


@pytest.fixture(scope="module")
def patient():
    with Lab() as lab:
        yield Patient(lab)


def test_what_is_printed(patient):
    done = patient.doctor("-o", "json")
    checks = json.loads(done.stdout)
    assert done.returncode == 1 and [c["name"] for c in checks if not c["ok"]] == ["proxy"]
    assert yaml.safe_load(patient.doctor("-o", "yaml").stdout) == checks == patient.checks()
    assert all(bool(c["mend"]) == (c["level"] != "ok") and c["ok"] == (c["level"] != "bad") for c in checks), checks
    *lines, last = patient.doctor().stdout.splitlines()
    told = [(MARKS[line[0]], line.split()[1]) for line in lines if line[0] != " "]
    assert told == [(c["level"], c["name"]) for c in checks]
    assert "              Start it on this node, on 127.0.0.1, ::1 or a wildcard address; meanwhile its connections are refused" in lines
    assert last == f"{len(checks) - 1} well, 0 to look at, 1 not well" and "\033" not in done.stdout
    kernel = patient.what("kernel")[0]
    assert os.uname().release in kernel and ("BTF" in kernel and "cgroup v2" in kernel)
    assert "\033[31m✘\033[0m proxy" in patient.doctor("--color", "always").stdout


def test_settings(patient):
    assert "packets are forwarded" in patient.what("settings")
    patient.node.sysctl("net.ipv4.ip_forward", 0)
    try:
        patient.found("settings", "warning", "net.ipv4.ip_forward is 0: ")
    finally:
        patient.node.sysctl("net.ipv4.ip_forward", 1)
    patient.well("settings")
    patient.node.sysctl(f"net.ipv4.conf.{patient.pod.interface}.rp_filter", 1)
    patient.found("settings", "ok", "rp_filter is strict on 1 ")


def test_it_looks_when_it_is_asked(patient):
    """Without SIGHUP, and long before it looks by itself."""
    patient.node.sysctl("net.ipv4.ip_forward", 0)
    try:
        eventually(lambda: "net.ipv4.ip_forward is 0: " in patient.doctor().stdout, 20)
    finally:
        patient.node.sysctl("net.ipv4.ip_forward", 1)
    eventually(lambda: not patient.what("settings", "warning"), 20)


def test_rules_and_routes_of_others(patient):
    made = [("rule", "add", "pref", "3", "lookup", "main"), ("rule", "add", "pref", "4", "from", "10.0.0.0/8", "lookup", "main"),
            ("-6", "rule", "add", "pref", "100", "fwmark", "0x40000000/0xf0000000", "lookup", "main"),
            ("rule", "add", "pref", "101", "fwmark", "0x1000/0xf000", "lookup", "7641"),
            ("rule", "add", "pref", "102", "fwmark", "0x1000/0xf000", "lookup", "100"),
            ("rule", "add", "pref", "4", "fwmark", "0x1000/0xf000", "lookup", "100"),
            ("route", "add", "10.99.0.0/24", "dev", "lo", "table", "7641")]
    assert patient.what("rules") == ["no rule of others comes before 5, uses bits of 0x60000000 or leads to table 7641"]
    for words in made:
        patient.node.run("ip", *words)
    try:
        patient.found("rules", "bad", "ip rule 3 of somebody else comes before penstock's 5: it takes packets ")
        assert len(patient.what("rules")) == 5, "and what is harmless is not told"
        patient.found("rules", "warning", "ip rule 4 of somebody else comes before penstock's 5: it takes some packets ")
        patient.found("rules", "warning", "ip -6 rule 100 asks for mark 0x40000000/0xf0000000: bits 0x60000000 are penstock's")
        patient.found("rules", "bad", "ip rule 101 leads to route table 7641, which is penstock's")
        patient.found("rules", "warning", "route table 7641, which is penstock's, holds 1 of somebody else's routes")
        assert patient.doctor().returncode == 1
    finally:
        for words in made:
            patient.node.run("ip", *["del" if word == "add" else word for word in words])
    patient.well("rules")


def test_marks_of_others(patient):
    assert patient.what("marks") == ["no rule of nftables or iptables uses bits 0x60000000 of the mark"]
    table = "table {0} x{1} {{\n chain c {{\n type filter hook prerouting priority 0;\n {2}\n }}\n}}\n"
    for family, rule, level, text in (
            ("ip", "meta mark set 0x20000000", "bad", "sets bits 0x20000000"),
            ("inet", "meta mark set meta mark or 0x40000000", "bad", "sets bits 0x40000000"),
            ("ip6", "meta mark set meta mark and 0x9fffffff", "warning", "changes bits 0x60000000"),
            ("ip", "meta mark and 0x40000000 == 0 accept", "warning", "looks at bits 0x40000000"),
            ("inet", "meta mark set ct mark", "ok", "replaces the whole mark"),
            ("inet", "meta mark set 0x1", "ok", "replaces the whole mark")):
        patient.node.run("nft", "-f", "-", input=table.format(family, 1, rule))
        patient.found("marks", level, f"a rule of table {family} x1, chain c, {text}")
        patient.node.run("nft", "delete", "table", family, "x1")
    for rule in ("meta mark set meta mark or 0x4000", "meta mark set meta mark and 0xffffbfff", "meta mark and 0xffff == 5 accept",
                 "ct mark set meta mark"):
        patient.node.run("nft", "-f", "-", input=table.format("ip", 2, rule))
    patient.well("marks")
    assert len(patient.what("marks")) == 1, "others' own bits are nobody's business"
    patient.node.run("nft", "delete", "table", "ip", "x2")


@pytest.mark.parametrize("tool,chain", [("iptables-legacy", "of iptables-legacy"), ("iptables", "PREROUTING"),
                                        ("ip6tables-legacy", "of iptables-legacy")])
def test_marks_of_iptables(patient, tool, chain):
    family = "ip6" if "6" in tool else "ip"

    def rule(how, *words):
        patient.node.run(tool, "-w", "-t", "mangle", how, "PREROUTING", *words)
    mine = ("-m", "mark", "--mark", "0x40000000/0x40000000", "-j", "MARK", "--set-xmark", "0x20000000/0x20000000")
    theirs = ("-m", "mark", "--mark", "0x4000/0x4000", "-j", "MARK", "--set-xmark", "0x8000/0x8000")
    rule("-A", *theirs)
    rule("-A", *mine)
    rule("-A", "-j", "CONNMARK", "--restore-mark", "--nfmask", "0x60000000", "--ctmask", "0x60000000")
    patient.found("marks", "bad", f"a rule of table {family} mangle, chain {chain}, sets bits 0x20000000 ")
    patient.found("marks", "warning", f"a rule of table {family} mangle, chain {chain}, looks at bits 0x40000000 ")
    patient.found("marks", "warning", f"a rule of table {family} mangle, chain {chain}, changes bits 0x60000000 ")
    patient.node.run(tool, "-w", "-t", "mangle", "-F")
    patient.well("marks")


def test_programs_of_others(patient):
    interface = patient.pod.interface
    assert patient.what("programs") == ["none of others runs before penstock's on 1 interfaces"]
    with Programs(patient.lab) as programs:
        watch, passes = programs.load("watch"), programs.load("passes")
        if programs.tcx(watch, interface, "egress"):
            patient.found("programs", "ok", "on 1 interfaces; some run after them")
            programs.tcx(watch, interface, "ingress", first=True)
            patient.found("programs", "warning", f"tc programs of somebody else run before penstock's on {interface}")
        programs.detach()
        patient.well("programs")
        programs.tc(watch, interface, "ingress", priority=1)
        programs.xdp(passes, interface, "xdpgeneric")
        patient.found("programs", "warning", f"XDP programs run before penstock's on {interface}")
        assert len(patient.what("programs")) == 1, "a filter of tc runs after TCX"
    patient.well("programs")


def test_filters_of_others(patient, monkeypatch):
    """The same without TCX, after a restart by the other hook."""
    patient.agent.stop()
    monkeypatch.setenv("PENSTOCK_HOOK", "clsact")
    patient.agent.start()
    patient.well("programs")
    interface = patient.pod.interface
    with Programs(patient.lab) as programs:
        programs.tc(programs.load("watch"), interface, "egress", priority=7)
        patient.well("programs")
        programs.tc(programs.load("watch"), interface, "egress", priority=1)
        patient.found("programs", "warning", f"tc programs of somebody else run before penstock's on {interface}")
    patient.well("programs")


def test_our_own_state(patient):
    api = patient.agent.api
    items = [workload("s", "a", patient.pod.ips, interface=patient.pod.interface), proxy("gw", 15001)]
    bad = policy("s", "p")
    bad["spec"]["ingress"] = [{"ports": [{"port": 70000}]}]
    api.put_state([*items, workload("s", "later", ["10.9.9.9"], interface="absent0"), bad,
                   intercept("i", {"cgroup": "no/such.slice"}, [])], invalid="quarantine")
    try:
        assert patient.what("workloads", "bad") == ["Workload s/later has no interface yet"]
        assert patient.what("objects", "bad") == ["NetworkPolicy s/p of owner local is set aside: its pods are isolated"]
        assert patient.what("cgroups", "warning") == ["there is no cgroup no/such.slice"]
        assert patient.what("agent", "ok")[0].startswith("revision ")
    finally:
        api.put_state(items)
    shadow = patient.node.popen("python3", "-c", "import socket, time; s = socket.create_server(('127.0.0.9', 15001)); time.sleep(60)")
    try:
        eventually(lambda: any("a listener on 127.0.0.9 is not used: " in what for what in patient.what("proxy", "bad")), 10)
    finally:
        shadow.kill()
        shadow.wait()
