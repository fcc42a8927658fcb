# SPDX-License-Identifier: Apache-2.0
"""What somebody else changes or removes in the kernel is put back, and counted; connections live on meanwhile."""
import glob
import json
import os
import socket

import pytest

from lab import Lab
from netns import run
from objects import intercept, namespace, proxy
from scenes import IN_B, echoed, enforced, eventually, member, serve
from test_datapath import BPFTOOL, Bench

PERIOD = 0.5
HANDED = [proxy("gw", 15001, process={"uid": os.getuid()}), intercept("out", {"name": "c"}, [
    {"name": "web", "action": "Intercept", "proxy": "gw", "to": [{"networks": ["192.0.2.0/24"]}],
     "protocols": [{"tcp": {"destinationPort": {"number": 80}}}]}])]


@pytest.fixture(scope="module")
def shared():
    """a may reach b's port 80 and nobody else may; c has a proxy; a's connection to b stays open throughout."""
    with Lab() as lab:
        lab.a, lab.b, lab.c = (lab.pod(name) for name in "abc")
        serve(lab, lab.b, ports=(80, 81))
        lab.running = lab.agent(datapath={"auditPeriod": f"{PERIOD}s"})
        items = [namespace("s"), IN_B, *HANDED, *[member(n, p, interface=p.interface) for n, p in lab.pods.items()]]
        lab.running.api.put_state(items)
        lab.prober.listen(lab.node, 15001, transparent=True)
        eventually(lambda: dump(lab, "listener"))
        with lab.a.entered():
            lab.client = socket.create_connection((lab.b.ip4, 80))
        assert echoed(lab, lab.client, b"before")
        yield lab
        lab.client.close()


@pytest.fixture
def node(shared):
    lab = shared
    yield lab
    assert echoed(lab, lab.client, os.urandom(8).hex().encode()), "a connection that was there before lives on"
    assert enforced(lab)


class Repaired:
    """Within the block something is taken away; counted as `what` so often when it is back."""

    def __init__(self, lab, what, times=1, within=3 * PERIOD):
        self.lab, self.what, self.times, self.within = lab, what, times, within

    def counts(self):
        return {labels["what"]: value for labels, value in self.lab.running.api.metrics().find("penstock_drift_repairs_total")}

    def __enter__(self):
        self.before = self.counts()
        self.log = len(self.lab.running.log)
        return self

    def __exit__(self, kind, *_):
        if kind:
            return
        eventually(lambda: self.counts()[self.what] >= self.before[self.what] + self.times, self.within + 5)
        more = {what: value - self.before[what] for what, value in self.counts().items() if value != self.before[what]}
        assert more == {self.what: self.times}, self.lab.running.log[self.log:]

    def said(self):
        return self.lab.running.log[self.log:]


def test_every_kind_is_there_from_the_start(shared):
    counts = Repaired(shared, "map").counts()
    assert counts == dict.fromkeys(("link", "map", "nftables", "rule", "route", "pin"), 0)


def dump(lab, name):
    return json.loads(run(BPFTOOL, "-j", "map", "dump", "pinned", f"{lab.running.pins}/maps/ps_{name}").stdout)


def contents(lab, name):
    """Both sides hold the same: it does not matter which of them is live."""
    return sorted((tuple(entry["key"]), json.dumps(entry["value"])) for entry in dump(lab, name))


def used(lab, name, first=0):
    """The first entry of an array that is not all zero."""
    for index in range(first, first + 64):
        key = [f"0x{octet:02x}" for octet in index.to_bytes(4, "little")]
        entry = json.loads(run(BPFTOOL, "-j", "map", "lookup", "pinned", f"{lab.running.pins}/maps/ps_{name}", "key", *key).stdout)
        if any(int(octet, 16) for octet in entry["value"]):
            return entry
    raise AssertionError(f"nothing in ps_{name}")


def write(lab, name, key, value=None):
    """value None: delete."""
    verb, more = ("delete", []) if value is None else ("update", ["value", *value])
    run(BPFTOOL, "map", verb, "pinned", f"{lab.running.pins}/maps/ps_{name}", "key", *key, *more)


def other(octets):
    return [f"0x{int(octets[0], 16) ^ 1:02x}", *octets[1:]]


def test_entries_of_maps(node):
    """Of tables with sides, on the live one and the other: hashes, a trie and arrays; and of rows that have none."""
    lab = node
    names = ("addr4", "addr6", "net4", "peer_row", "cell", "proxy", "iface", "listener")
    before = {name: contents(lab, name) for name in names}
    # The second sides of arrays begin where the first ones end.
    arrays = [(name, used(lab, name, first)) for name, first in (("endpoint", 0), ("endpoint", 16384), ("profile", 16384), ("row", 0))]
    with Repaired(lab, "map", 16) as repaired:
        for entry in dump(lab, "addr4")[:2]:
            write(lab, "addr4", entry["key"])
        changed, deleted = dump(lab, "addr6")[:2]
        write(lab, "addr6", changed["key"], other(changed["value"]))
        write(lab, "addr6", deleted["key"])
        write(lab, "addr6", [*changed["key"][:-1], "0xee"], changed["value"])
        for entry in dump(lab, "net4"):  # one a side
            write(lab, "net4", entry["key"])
        for name, entry in arrays:
            write(lab, name, entry["key"], other(entry["value"]))
        for name in ("peer_row", "cell"):
            entry = dump(lab, name)[0]
            write(lab, name, entry["key"], other(entry["value"]))
        write(lab, "listener", dump(lab, "listener")[0]["key"])
        row = dump(lab, "iface")[0]
        write(lab, "iface", row["key"])
        write(lab, "iface", ["0xff", "0xff", "0", "0"], row["value"])
    assert {name: contents(lab, name) for name in names} == before
    for name, entry in arrays:
        assert used(lab, name, int.from_bytes(bytes(int(octet, 16) for octet in entry["key"]), "little"))["value"] == entry["value"]
    said = repaired.said()
    for part in ("ps_addr4 (2 missing)", "ps_addr6 (1 changed, 1 missing, 1 that nobody wants)", "ps_net4 (2 missing)", "ps_cell (1 changed)"):
        assert part in said


def test_the_live_side_is_chosen_by_a_word(node):
    lab = node
    [entry] = dump(lab, "control")
    with Repaired(lab, "map"):
        write(lab, "control", entry["key"], ["0"] * 4 + entry["value"][4:])
    assert dump(lab, "control")[0]["value"] == entry["value"]


def test_hooks(node):
    lab = node
    link = f"{lab.running.pins}/links/{lab.node.ifindex(lab.b.interface)}-egress"
    with Repaired(lab, "link"):
        run(BPFTOOL, "link", "detach", "pinned", link)
    with Repaired(lab, "link"):
        os.unlink(link)
    with Repaired(lab, "link"):
        os.unlink(f"{lab.running.pins}/links/trace-kfree_skb")
    on_sockets = [path for path in glob.glob(f"{lab.running.pins}/links/*getsockopt*")]
    assert on_sockets, os.listdir(f"{lab.running.pins}/links")
    with Repaired(lab, "link"):
        run(BPFTOOL, "link", "detach", "pinned", on_sockets[0])


def test_rules_and_routes(node):
    lab = node

    def listed():
        return [lab.node.run("ip", family, *what).stdout for family in ("-4", "-6") for what in (("rule",), ("route", "show", "table", 7641))]
    before = listed()
    for what, *command in (("rule", "-4", "rule", "del", "priority", 5), ("rule", "-6", "rule", "del", "priority", 4),
                           ("route", "-4", "route", "del", "local", "default", "dev", "lo", "table", 7641),
                           ("route", "-6", "route", "del", "local", "default", "dev", "lo", "table", 7641)):
        with Repaired(lab, what):
            lab.node.run("ip", *command)
        assert listed() == before


def test_the_table_of_nftables(node):
    lab = node
    before = lab.node.run("nft", "list", "table", "inet", "penstock").stdout
    for command in ("delete table inet penstock", "flush chain inet penstock handover"):
        with Repaired(lab, "nftables"):
            lab.node.run("nft", *command.split())
        assert lab.node.run("nft", "list", "table", "inet", "penstock").stdout == before


def test_pins(node):
    lab = node
    pins = {path: os.stat(path).st_ino for path in (f"{lab.running.pins}/maps/ps_cell", f"{lab.running.pins}/programs/from_workload")}
    with Repaired(lab, "pin", 2):
        for path in pins:
            os.unlink(path)
    connections = lab.running.api.metrics()("penstock_connections")
    assert connections >= 1
    lab.running.restart()
    assert lab.running.api.metrics()("penstock_connections") >= 1, "a restart finds everything where it was"


@pytest.fixture
def bench():
    made = Bench()
    yield made
    made.close()


def test_large_tables_a_piece_at_a_time(bench):
    """Calls get in between two pieces; an entry that is missing is found among thousands."""
    driver = bench.open()
    driver("fill", 0, 20000, 7)
    driver.enforce(1)

    def audit():
        return {key: float(value) for key, value in (word.split("=") for word in driver("audit").split())}
    quiet = audit()
    assert quiet["map"] == quiet["repaired"] == 0
    assert quiet["pieces"] > 2 * 20000 / 4096
    path = f"{bench.pins}/maps/ps_addr4"
    for number in (b"\x0a\x80\x00\x00", b"\x0a\x80\x4e\x1f"):
        for side in (0, 1):
            run(BPFTOOL, "map", "delete", "pinned", path, "key", side, 0, 0, 0, *number)
    found = audit()
    assert (found["map"], found["repaired"]) == (4, 1)
    assert audit()["map"] == 4
