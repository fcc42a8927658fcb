# SPDX-License-Identifier: Apache-2.0
"""The datapath room alone, driven by build/tools/datapath: what is pinned, attached and written, and what stays."""
import itertools
import json
import os
import re
import shutil
import subprocess
import time

import pytest

from netns import BPFFS, Namespace, mount_bpffs, run

BUILD = os.environ.get("PENSTOCK_BUILD") or os.path.join(os.path.dirname(__file__), "../../build")
DRIVER = os.path.abspath(os.path.join(BUILD, "tools/datapath"))
BPFTOOL = shutil.which("bpftool") or "/usr/sbin/bpftool"
BUSY, NO_SPACE = 7, 8  # enum error_kind
_number = itertools.count(1)


class Refused(Exception):
    pass


class Driver:
    """One process with the room in it. A command that is refused raises Refused("KIND text")."""

    def __init__(self, bench, **environment):
        self.log = open(bench.log, "a")
        self.process = bench.node.popen(DRIVER, bench.pins, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.log, text=True, env={**os.environ, **environment})
        self.ms = 0.0

    def __call__(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        lines = []
        while True:
            line = self.process.stdout.readline()
            if not line:
                raise RuntimeError(f"the driver died at {words}")
            lines.append(line)
            done = re.search(r" ?\(([0-9.]+) ms\)\n$", line)
            if done:
                break
        self.ms = float(done.group(1))
        answer = "".join(lines)[:-len(done.group(0))]
        refused = re.search(r" ?error (\d+ .*)", answer)
        if refused:
            raise Refused(refused.group(1))
        return answer.removeprefix("ok").strip()

    def enforce(self, revision):
        for command in ("stage", f"flip {revision}", "settle"):
            self(command)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.log.close()


class Bench:
    def __init__(self):
        self.name = f"pt{os.getpid()}-dp{next(_number)}"
        mount_bpffs()
        self.node = Namespace(self.name)
        self.pins = f"{BPFFS}/{self.name}"
        self.log = f"/tmp/{self.name}"
        self.drivers, self.spaces = [], [self.node]

    def driver(self, **environment):
        self.drivers.append(Driver(self, **environment))
        return self.drivers[-1]

    def open(self, *configured, **environment):
        """configured: commands that change the options; of others the pinned programs are not, and they are loaded anew."""
        driver = self.driver(**environment)
        for command in (*configured, "open"):
            driver(command)
        return driver

    def program(self, name="from_workload"):
        return self.bpftool("prog", "show", "pinned", f"{self.pins}/programs/{name}")["id"]

    def pod(self, name, ip):
        """A namespace behind the veth `name`, which is down on the host's side until the test says up."""
        pod = Namespace(f"{self.name}-{name}")
        self.spaces.append(pod)
        self.node.ip(f"link add {name} type veth peer name eth0 netns {pod.name}")
        pod.ip(f"addr add {ip}/32 dev eth0", "link set eth0 up", "route add 169.254.1.1 dev eth0",
               "route add default via 169.254.1.1 dev eth0")
        return pod

    def bpftool(self, *arguments):
        return json.loads(run(BPFTOOL, "-j", *arguments).stdout or "null")

    def links(self):
        """Those that live on; a tracepoint's is made anew by each agent."""
        directory = f"{self.pins}/links"
        return {name: self.bpftool("link", "show", "pinned", f"{directory}/{name}")["id"]
                for name in sorted(os.listdir(directory)) if not name.startswith("trace-")}

    def rows(self):
        """ps_iface: ifindex → (endpoint on side 0, on side 1, flags)."""
        word = lambda bytes, at: int.from_bytes(bytes.fromhex("".join(b[2:] for b in at)), "little")  # noqa: E731
        rows = {}
        for entry in self.bpftool("map", "dump", "pinned", f"{self.pins}/maps/ps_iface"):
            value = entry["value"]
            rows[word(bytes, entry["key"])] = tuple(word(bytes, value[at:at + 4]) for at in (0, 4, 8))
        return rows

    def close(self):
        for driver in self.drivers:
            driver.kill()
        run("rm", "-rf", self.pins, self.log, check=False)
        for space in self.spaces:
            space.close()


@pytest.fixture
def bench(request):
    if not os.access(DRIVER, os.X_OK):
        pytest.fail(f"{DRIVER} is not built: make {os.path.relpath(BUILD)}/tools/datapath")
    made = Bench()
    yield made
    made.close()


def veth(bench, name, up=True):
    bench.node.ip(f"link add {name} type veth peer name p{name}", f"link set p{name} up")
    if up:
        bench.node.ip(f"link set {name} up")
    return bench.node.ifindex(name)


@pytest.mark.parametrize("configured", [[], ["deny"]], ids=["programs that stay", "other programs"])
def test_what_is_live_is_taken_over(bench, configured):
    first = bench.open()
    index = veth(bench, "v0")
    first("endpoint 3 10.77.0.2 v0")
    assert first("interfaces all") == "3=1"
    first("fill 0 100 7")
    first.enforce(41)
    links, program = bench.links(), bench.program()
    assert set(links) == {f"{index}-ingress", f"{index}-egress"}
    first.kill()

    second = bench.open(*configured)
    assert "revision=41" in second("status")
    assert bench.links() == links, "a link was made anew: packets passed unseen"
    assert (bench.program() != program) == bool(configured)
    info = bench.bpftool("link", "show", "pinned", f"{bench.pins}/links/{index}-ingress")
    assert info["prog_id"] == bench.program(), "the link still runs the old program"
    assert bench.rows()[index][:2] == (3, 3)
    # The new agent numbers its endpoints anew: the live side keeps the old number until the flip.
    second("endpoint 8 10.77.0.2 v0")
    assert second("interfaces all") == "8=1"
    second("fill 0 100 7")
    assert bench.rows()[index][:2] == (3, 3)
    second("stage")
    assert sorted(bench.rows()[index][:2]) == [3, 8]
    second("flip 42")
    second("settle")
    assert bench.rows()[index][:2] == (8, 8)


def test_no_packet_passes_unseen_while_agents_change(bench):
    pod = bench.pod("v0", "10.77.0.2")
    bench.node.ip("addr add 169.254.1.1/32 dev v0", "link set v0 up", "route add 10.77.0.2/32 dev v0")
    driver = bench.open()
    driver("endpoint 3 10.77.0.2 v0")
    driver("interfaces all")
    driver.enforce(1)
    pod.run("ping", "-c1", "-W2", "169.254.1.1", check=False)
    before = int(driver("counts").removeprefix("packets="))
    ping = pod.popen("ping", "-q", "-c", "300", "-i", "0.005", "-W1", "169.254.1.1", stdout=subprocess.PIPE, text=True)
    for configured in (["deny"], [], []):
        driver.kill()
        driver = bench.open(*configured)
    sent = int(re.search(r"(\d+) packets transmitted", ping.communicate()[0]).group(1))
    assert int(driver("counts").removeprefix("packets=")) - before >= sent


def test_programs_stay_only_when_nothing_has_changed(bench):
    pinned = lambda: {name: bench.program(name) for name in os.listdir(f"{bench.pins}/programs")}  # noqa: E731
    bench.open().kill()
    first = pinned()
    assert len([name for name in first if name.startswith("made-of-")]) == 1 and "socket_connect4" in first
    bench.open().kill()
    assert pinned() == first

    def renewed(why):
        before = pinned()
        bench.open().kill()
        after = pinned()
        assert not set(before.values()) & set(after.values()), why
        assert len([name for name in after if name.startswith("made-of-")]) == 1, why

    os.unlink(f"{bench.pins}/maps/ps_event")
    renewed("a map was made anew, the programs still had the old one")
    os.unlink(f"{bench.pins}/programs/to_network")
    renewed("one of them is gone")
    os.unlink(f"{bench.pins}/programs/to_network")
    os.rename(f"{bench.pins}/programs/to_workload", f"{bench.pins}/programs/to_network")
    run(BPFTOOL, "prog", "pin", "id", bench.program("to_network"), f"{bench.pins}/programs/to_workload")
    renewed("one stands in another's place")
    os.unlink(next(f"{bench.pins}/programs/{name}" for name in pinned() if name.startswith("made-of-")))
    renewed("nobody says what they were made of")


def test_map_of_another_layout_is_refused_and_nothing_touched(bench):
    os.makedirs(f"{bench.pins}/maps")
    run(BPFTOOL, "map", "create", f"{bench.pins}/maps/ps_row", "type", "array", "key", 4, "value", 12, "entries", 7,
        "name", "ps_row")
    with pytest.raises(Refused, match=r"maps/ps_row has another layout .*value 12, entries 7.*value 16, entries \d+"):
        bench.open()
    assert os.listdir(f"{bench.pins}/maps") == ["ps_row"]
    assert os.listdir(f"{bench.pins}/programs") == [] and "proto 76" not in bench.node.run("ip", "rule").stdout


def test_pins_of_another_abi_are_refused(bench):
    os.makedirs(f"{bench.pins}/abi-9999")
    with pytest.raises(Refused, match="ABI version 9999"):
        bench.open()


def test_connection_tables_keep_their_size(bench):
    bench.open().kill()
    second = bench.driver()
    second("connections 2048")
    second("open")
    assert "ps_conn4=0/1024" in second("fills")
    assert "ps_conn4 keeps its size of 1024" in open(bench.log).read()


def test_second_agent_is_refused(bench):
    bench.open()
    with pytest.raises(Refused, match=f"^{BUSY} another penstockd uses {bench.pins}"):
        bench.open()
    other = bench.driver()
    other.kill()
    bench.pins += "-other"
    try:
        with pytest.raises(Refused, match=f"^{BUSY} another penstockd runs in this network namespace"):
            bench.open()
    finally:
        run("rm", "-rf", bench.pins)
        bench.pins = bench.pins.removesuffix("-other")


def test_uninstall_is_refused_while_an_agent_runs(bench):
    bench.open()
    with pytest.raises(Refused, match=f"^{BUSY} "):
        bench.driver()("uninstall")
    assert os.path.exists(f"{bench.pins}/maps/ps_control")


def test_ip_netns_exec_is_explained(bench):
    done = run("ip", "netns", "exec", bench.node.name, DRIVER, bench.pins, input="open\n")
    assert "nsenter --net" in done.stdout


def test_without_privilege(bench):
    done = run("setpriv", "--bounding-set=-bpf,-sys_admin", "--inh-caps=-bpf,-sys_admin",
               *bench.node.command(DRIVER, bench.pins), input="open\n", check=False)
    if "nsenter" in done.stderr:
        done = bench.node.run("setpriv", "--bounding-set=-bpf,-sys_admin", "--inh-caps=-bpf,-sys_admin", DRIVER,
                              bench.pins, input="open\n")
    assert "CAP_BPF is missing" in done.stdout


def test_interface_that_appears_later_is_bound_at_once(bench):
    driver = bench.open()
    driver("endpoint 3 10.77.0.2 v0")
    assert driver("interfaces all") == ""
    driver.process.stdin.write("wait 1000\n")
    driver.process.stdin.flush()
    time.sleep(0.1)
    index = veth(bench, "v0")
    began = time.monotonic()
    while not os.path.exists(f"{bench.pins}/links/{index}-egress") and time.monotonic() < began + 1:
        time.sleep(0.001)
    assert time.monotonic() - began < 0.1
    assert "3=1" in driver.process.stdout.readline()
    bench.node.ip("link del v0")
    assert driver("wait 50") == "3=0"
    assert bench.links() == {} and bench.rows() == {}


def test_ifindex_that_comes_back_is_another_interface(bench):
    driver = bench.open()
    bench.node.ip("link add v0 index 900 type veth peer name v0p")
    driver("endpoint 3 10.77.0.2 v0")
    assert driver("interfaces all") == "3=1"
    driver.enforce(1)
    links = bench.links()
    bench.node.ip("link del v0", "link add v1 index 900 type veth peer name v1p")
    driver("endpoint 4 10.77.0.3 v1")
    assert sorted(driver("interfaces").split()) == ["3=0", "4=1"]
    assert bench.rows()[900][:2] == (0, 0), "an endpoint before its tables are live"
    driver.enforce(2)
    assert bench.rows()[900][:2] == (4, 4)
    assert bench.links().keys() == links.keys() and bench.links() != links


def test_host_route_finds_the_interface_and_an_uplink_is_never_found(bench):
    driver = bench.open()
    for name in ("v0", "v1"):
        veth(bench, name)
    bench.node.ip("addr add 10.1.1.1/24 dev v1", "route add 10.77.0.2/32 dev v0", "route add 10.77.0.3/32 dev v1",
                  "route add default via 10.1.1.2 dev v1", "route add fd00:77::4/128 dev v0 metric 5")
    driver("endpoint 3 10.77.0.2")
    driver("endpoint 4 10.77.0.3")
    assert driver("interfaces all") == "3=1"
    bench.node.ip("route del default")
    assert driver("wait 30") == "4=1"
    bench.node.ip("route add default via 10.1.1.2 dev v1")
    assert driver("wait 30") == "4=0"
    driver("unendpoint 3")
    driver("endpoint 5 fd00:77::4")
    assert driver("interfaces") == "5=1"


def test_rules_wait_for_the_first_proxy(bench):
    """Any rule takes the kernel's short cuts away from every forwarded packet."""
    driver = bench.open()
    driver.enforce(1)
    assert "proto 76" not in bench.node.run("ip", "rule").stdout
    driver("interfaces all")
    assert "proto 76" not in bench.node.run("ip", "rule").stdout
    driver("proxy 1")
    driver.enforce(2)
    rules = bench.node.run("ip", "rule").stdout
    assert "lookup 7641" in rules
    driver.kill()
    bench.open()
    assert bench.node.run("ip", "rule").stdout == rules


def with_proxy(bench):
    driver = bench.open()
    driver("proxy 1")
    driver.enforce(1)
    return driver


def test_deleted_rules_and_routes_come_back(bench):
    driver = with_proxy(bench)
    before = bench.node.run("ip", "rule").stdout
    bench.node.ip("rule del pref 5", "rule del pref 4", "route flush table 7641")
    assert bench.node.run("ip", "rule").stdout != before
    driver("interfaces all")
    assert bench.node.run("ip", "rule").stdout == before
    assert "local default" in bench.node.run("ip", "route", "show", "table", "7641").stdout


def test_foreign_rules_and_old_ones_of_ours(bench):
    """Another mask was configured before: its rules go, what is not ours stays."""
    bench.node.ip("rule add pref 3 fwmark 0x10/0x10 lookup 100", "rule add pref 6 fwmark 0x4/0x4 lookup 101 protocol 76")
    driver = with_proxy(bench)
    rules = bench.node.run("ip", "rule").stdout
    assert "lookup 100" in rules and "lookup 101" not in rules and "lookup 7641" in rules
    driver.kill()
    bench.driver()("uninstall")
    rules = bench.node.run("ip", "rule").stdout
    assert "lookup 100" in rules and "proto 76" not in rules


def test_loopback_that_goes_down_and_comes_back(bench):
    table = lambda: bench.node.run("ip", "-6", "route", "show", "table", "7641", check=False).stdout  # noqa: E731
    bench.node.ip("link set lo down")
    driver = with_proxy(bench)
    bench.node.ip("link set lo up")
    driver("wait 30")
    assert "local default" in table()
    bench.node.ip("link set lo down")
    assert "local default" not in table()
    bench.node.ip("link set lo up")
    driver("wait 30")
    assert "local default" in table()


def test_without_ipv6(bench):
    bench.node.sysctl("net.ipv6.conf.all.disable_ipv6", 1)
    with_proxy(bench)
    assert "local default" in bench.node.run("ip", "route", "show", "table", "7641").stdout


def test_neighbour_finds_the_interface_and_is_not_forgotten(bench):
    driver = bench.open()
    index = veth(bench, "v0")
    bench.node.ip("addr add 10.77.0.1/24 dev v0")
    driver("endpoint 3 10.77.0.2")
    assert driver("interfaces all") == ""
    bench.node.ip("neigh replace 10.77.0.2 lladdr 02:00:00:00:00:02 dev v0 nud stale")
    assert driver("wait 30") == "3=1"
    driver.enforce(1)
    bench.node.ip("neigh del 10.77.0.2 dev v0")
    assert driver("wait 30") == ""
    assert f"{index}-ingress" in bench.links()
    assert driver("interfaces all") == ""


def test_idle_workload_stays_enforced_over_a_restart(bench):
    driver = bench.open()
    veth(bench, "v0")
    bench.node.ip("addr add 10.128.0.1/24 dev v0", "neigh replace 10.128.0.5 lladdr 02:00:00:00:00:02 dev v0")
    driver("endpoint 7 10.128.0.5")
    assert driver("interfaces all") == "7=1"
    driver("address 10.128.0.5 7")
    driver.enforce(1)
    driver.kill()
    bench.node.ip("neigh del 10.128.0.5 dev v0")
    driver = bench.open()
    driver("endpoint 1 10.128.0.5")
    assert driver("interfaces all") == "1=1", "found in the live tables though no neighbour speaks of it"


def test_bridge_port(bench):
    driver = bench.open()
    bench.node.ip("link add br0 type bridge", "link set br0 up", "addr add 10.77.0.1/24 dev br0")
    for name in ("v0", "v1"):
        veth(bench, name)
        bench.node.ip(f"link set {name} master br0")
    driver("endpoint 3 10.77.0.2")
    assert driver("interfaces all") == ""
    bench.node.ip("neigh replace 10.77.0.2 lladdr 02:00:00:00:00:02 dev br0")
    assert driver("wait 30") == "", "a bridge itself is no workload's interface"
    bench.node.run("bridge", "fdb", "add", "02:00:00:00:00:02", "dev", "v1", "master", "static")
    assert driver("wait 30") == "3=1"
    assert "v1:3:" in driver("status") and "br0" not in driver("status")
    bench.node.run("bridge", "fdb", "replace", "02:00:00:00:00:02", "dev", "v0", "master", "static")
    assert driver("wait 30") == "3=1"
    assert "v0:3:" in driver("status"), "it moved"
    driver.enforce(1)
    assert list(bench.rows()) == [bench.node.ifindex("v0")], "the port that it left is let go"


def test_idle_workload_on_a_bridge_is_asked_for(bench):
    """Nobody has spoken to it: it is in no neighbour and no bridge table until the kernel asks."""
    bench.node.ip("link add br0 type bridge", "link set br0 up", "addr add 10.77.0.1/24 dev br0",
                  "addr add fd00:77::1/64 dev br0 nodad")
    pod = Namespace(f"{bench.name}-pod")
    bench.spaces.append(pod)
    bench.node.ip(f"link add v0 type veth peer name eth0 netns {pod.name}", "link set v0 master br0 up")
    pod.ip("link set eth0 up", "addr add 10.77.0.2/24 dev eth0", "addr add fd00:77::2/64 dev eth0 nodad")
    time.sleep(0.2)
    bench.node.ip("neigh flush all")
    driver = bench.open()
    driver("endpoint 3 10.77.0.2")
    driver("interfaces all")
    assert driver("wait 500").endswith("3=1") or "v0:3:" in driver("status")
    driver("endpoint 4 fd00:77::2")
    driver("unendpoint 3")
    driver("interfaces")
    driver("wait 500")
    assert "v0:4:" in driver("status")


def test_two_endpoints_behind_one_interface(bench):
    driver = bench.open()
    veth(bench, "v0")
    bench.node.ip("route add 10.77.0.2/32 dev v0", "route add 10.77.0.3/32 dev v0")
    driver("endpoint 3 10.77.0.2")
    driver("endpoint 4 10.77.0.3")
    assert driver("interfaces all") == "3=1"
    assert "both behind interface v0" in open(bench.log).read()
    driver("unendpoint 3")
    assert driver("interfaces") == "4=1"


def test_patterns_and_unclaimed(bench):
    driver = bench.driver()
    driver("pattern cali*")
    driver("deny")
    driver("open")
    index, other = veth(bench, "cali1"), veth(bench, "v0")
    assert driver("interfaces all") == ""
    assert bench.rows() == {index: (0, 0, 1)}, "attached, unclaimed, deny"
    driver("endpoint 3 10.77.0.2 cali1")
    driver("endpoint 4 10.77.0.3 v0")
    assert sorted(driver("interfaces").split()) == ["3=1", "4=1"]
    driver.enforce(1)
    assert bench.rows() == {index: (3, 3, 1), other: (4, 4, 0)}
    driver("unendpoint 3")
    driver("unendpoint 4")
    driver("interfaces")
    assert bench.rows()[other][:2] == (4, 4), "enforced until the revision without it is live"
    driver.enforce(2)
    assert bench.rows() == {index: (0, 0, 1)}
    assert {name.split("-")[0] for name in bench.links()} == {str(index)}


def test_sides_are_repaired_after_a_failed_apply(bench):
    driver = bench.open()
    driver("fill 0 500 7")
    driver.enforce(1)
    path = f"{bench.pins}/maps/ps_addr4"
    hexes = lambda text: text.split()  # noqa: E731
    for side in ("00", "01"):
        stray = hexes(f"{side} 00 00 00 01 02 03 04")
        wrong = hexes(f"{side} 00 00 00 0a 80 00 05")
        run(BPFTOOL, "map", "update", "pinned", path, "key", "hex", *stray, "value", "hex", *["ff"] * 16)
        run(BPFTOOL, "map", "update", "pinned", path, "key", "hex", *wrong, "value", "hex", *["ee"] * 16)
    driver("fillnone 100 50")
    driver("rebuild")
    driver.enforce(2)
    entries = {"".join(b[2:] for b in e["key"]): "".join(b[2:] for b in e["value"])
               for e in bench.bpftool("map", "dump", "pinned", path)}
    assert len(entries) == 2 * 450
    assert set(entries.values()) == {"07" + "00" * 15}
    nets = bench.bpftool("map", "dump", "pinned", f"{bench.pins}/maps/ps_net4")
    assert len(nets) == 2 * 450


def test_full_map_is_named_and_the_live_side_stays(bench):
    driver = bench.open()
    driver("fill 0 10 7")
    driver.enforce(1)
    driver("fill 0 262200 9")
    with pytest.raises(Refused, match=f"^{NO_SPACE} map ps_addr4 is full"):
        driver("stage")
    with pytest.raises(Refused, match="nothing is staged"):
        driver("flip 2")
    driver("fillnone 10 262190")
    driver("rebuild")
    driver.enforce(2)
    assert "ps_addr4=10/131072" in driver("fills")


def test_clsact_beside_a_foreign_filter(bench):
    driver = bench.open(PENSTOCK_HOOK="clsact")
    index, other = veth(bench, "v0"), veth(bench, "v1")
    bench.node.run("tc", "qdisc", "add", "dev", "v0", "clsact")
    # Somebody else's filter, though it runs a program of the same name.
    bench.node.run("tc", "filter", "add", "dev", "v0", "ingress", "prio", 7, "handle", 9, "bpf", "da", "pinned",
                   f"{bench.pins}/programs/to_workload")
    driver("endpoint 3 10.77.0.2 v0")
    driver("endpoint 4 10.77.0.3 v1")
    assert sorted(driver("interfaces all").split()) == ["3=1", "4=1"]
    driver.enforce(1)
    driver.kill()
    show = lambda device: bench.node.run("tc", "filter", "show", "dev", device, "ingress").stdout  # noqa: E731
    assert "from_workload" in show("v0") and "pref 7 " in show("v0")
    before = re.search(r" id (\d+)", show("v1")).group(1)
    driver = bench.open("deny", PENSTOCK_HOOK="clsact")
    after = re.findall(r" id (\d+)", show("v1"))
    assert len(after) == 1 and after[0] != before, "replaced in place"
    assert "hook=clsact" in driver("status")
    driver("endpoint 3 10.77.0.2 v0")
    driver("interfaces all")
    driver.enforce(2)
    assert "from_workload" in show("v0")
    assert "clsact" not in bench.node.run("tc", "qdisc", "show", "dev", "v1").stdout, "we made it, we remove it"
    driver.kill()
    # The other hook takes over.
    driver = bench.open()
    assert "from_workload" not in show("v0") and "pref 7 " in show("v0")
    assert set(bench.links()) == {f"{index}-ingress", f"{index}-egress"}
    driver.kill()
    bench.driver()("uninstall")
    assert "pref 7 " in show("v0")
    assert other


@pytest.mark.parametrize("hook", ["tcx", "clsact"])
def test_uninstall_leaves_nothing(bench, hook):
    state = lambda: [bench.node.run(*command.split(), check=False).stdout for command in (  # noqa: E731
        "ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table 7641", "tc qdisc", "nft list ruleset",
        "tc filter show dev v0 ingress", "tc filter show dev v0 egress")]
    veth(bench, "v0")
    time.sleep(0.05)
    before = state()
    driver = bench.open(PENSTOCK_HOOK=hook)
    driver("endpoint 3 10.77.0.2 v0")
    assert driver("interfaces all") == "3=1"
    driver("fill 0 10 1")
    driver("rule 5")
    driver("proxy 1")
    driver.enforce(1)
    driver.kill()
    assert state() != before
    bench.driver()("uninstall")
    assert not os.path.exists(bench.pins)
    assert state() == before
    bench.driver()("uninstall")  # again is no error


def test_filters_without_pins_are_swept(bench):
    driver = bench.open(PENSTOCK_HOOK="clsact")
    veth(bench, "v0")
    driver("endpoint 3 10.77.0.2 v0")
    driver("interfaces all")
    driver.kill()
    run("rm", "-rf", bench.pins)
    assert "from_workload" in bench.node.run("tc", "filter", "show", "dev", "v0", "ingress").stdout
    bench.driver()("uninstall")
    assert "from_workload" not in bench.node.run("tc", "filter", "show", "dev", "v0", "ingress").stdout


def test_check_names_what_there_is(bench):
    lines = bench.driver()("check").splitlines()
    assert any(line.startswith("kernel: ") for line in lines) and "tc programs: yes" in lines


def test_netlink_overrun_is_survived(bench):
    driver = bench.open()
    driver("endpoint 3 10.77.0.2")
    driver("interfaces all")
    veth(bench, "v0")
    batch = "".join(f"neigh replace 10.88.{i >> 8}.{i & 255} lladdr 02:00:00:00:00:{n:02x} dev v0 nud stale\n"
                    for n in range(80) for i in range(300))
    run("ip", "-n", bench.node.name, "-batch", "-", input=batch)
    bench.node.ip("route add 10.77.0.2/32 dev v0")
    assert driver("interfaces") == "3=1"
    assert "more news than it could queue" in open(bench.log).read(), "the test did not overrun it"
