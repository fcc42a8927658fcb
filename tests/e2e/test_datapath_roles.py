# SPDX-License-Identifier: Apache-2.0
"""Which programs an interface has: as a workload comes and goes, with Services, with proxies, and across agents."""
import json
import os

import pytest
import test_datapath
from test_datapath import veth

bench = test_datapath.bench


def program(bench, link):
    return bench.bpftool("prog", "show", "id", bench.bpftool("link", "show", "pinned", f"{bench.pins}/links/{link}")["prog_id"])


def test_network_programs_make_room_for_a_workload_in_place(bench):
    driver = bench.open()
    index = veth(bench, "v0")
    driver("interfaces all")
    driver.enforce(1)
    assert bench.links() == {}
    driver("proxy 1")
    driver("stage")  # before the proxy is live
    links = bench.links()
    peer = bench.node.ifindex("pv0")
    assert {name for name in links if name[0].isdigit()} == {f"{i}-{side}" for i in (index, peer) for side in ("ingress", "egress")}
    assert bench.rows()[index] == (0, 0, 4) and "v0:0:network" in driver("status")
    driver("flip 2")
    driver("settle")
    driver("endpoint 3 10.77.0.2 v0")
    assert driver("interfaces") == "3=1"
    assert program(bench, f"{index}-ingress")["name"] == "from_workload", "before the flip"
    assert bench.rows()[index] == (0, 0, 0)
    driver.enforce(3)
    assert bench.rows()[index] == (3, 3, 0)
    driver("unendpoint 3")
    driver("interfaces")
    driver("stage")
    driver("flip 4")
    assert program(bench, f"{index}-egress")["name"] == "to_workload", "a program may still judge by the old revision"
    assert 3 in bench.rows()[index]
    driver("settle")
    assert program(bench, f"{index}-egress")["name"] == "to_network" and bench.rows()[index] == (0, 0, 4)
    assert bench.links() == links


STEERING, SERVICES, TABLE = 1, 2, 8  # PS_CONTROL_*


def control(bench):
    """The flags that programs read."""
    value = bench.bpftool("map", "lookup", "pinned", f"{bench.pins}/maps/ps_control", "key", *[0] * 4)["value"]
    return int(value[4], 16)


def placed(bench, name, hook="tcx"):
    """Our programs on an interface: what looks at what enters, what looks at what leaves."""
    found = []
    for side in ("ingress", "egress"):
        if hook == "clsact":
            shown = json.loads(bench.node.run("tc", "-j", "filter", "show", "dev", name, side).stdout or "[]")
            names = [one["options"]["bpf_name"].split(":")[0] for one in shown if "options" in one]
            found.append(names[0] if names else None)
            continue
        link = f"{bench.node.ifindex(name)}-{side}"
        found.append(program(bench, link)["name"] if os.path.exists(f"{bench.pins}/links/{link}") else None)
    return found


@pytest.mark.parametrize("address", ["10.96.0.10", "fd00:96::a"])
@pytest.mark.parametrize("hook", ["tcx", "clsact"])
def test_services_want_what_leaves_and_proxies_the_rest(bench, hook, address):
    environment = {"PENSTOCK_HOOK": hook}
    driver = bench.open(**environment)
    veth(bench, "v0"), veth(bench, "v1")
    driver("endpoint 3 10.77.0.2 v0")
    driver("interfaces all")
    driver.enforce(1)
    assert control(bench) == 0 and placed(bench, "v1", hook) == [None, None]
    driver(f"service {address}")
    driver("stage")
    assert control(bench) == 0
    assert placed(bench, "v1", hook) == [None, "to_network"], "before they are live"
    driver("flip 2")
    driver("settle")
    assert control(bench) == SERVICES
    assert placed(bench, "v0", hook) == ["from_workload", "to_workload"]
    assert bench.rows()[bench.node.ifindex("v1")] == (0, 0, 4) and "v1:0:network" in driver("status")
    veth(bench, "v2")  # comes later
    driver("wait 30")
    assert placed(bench, "v2", hook) == [None, "to_network"]
    driver("unendpoint 3")  # a workload leaves
    driver("interfaces")
    driver.enforce(3)
    assert placed(bench, "v0", hook) == [None, "to_network"]

    driver(f"noservice {address}")
    driver.enforce(4)
    assert control(bench) == SERVICES, "connections to them may be there yet"
    driver.kill()
    driver = bench.open(**environment)
    driver("interfaces all")
    assert placed(bench, "v1", hook) == [None, "to_network"]
    driver.enforce(5)
    assert control(bench) == SERVICES and "proto 76" not in bench.node.run("ip", "rule").stdout
    driver("endpoint 3 10.77.0.2 v0")
    driver("interfaces")
    assert placed(bench, "v0", hook) == ["from_workload", "to_workload"]

    driver("proxy 1")  # the first: from now on what enters matters too
    driver("stage")
    assert placed(bench, "v1", hook) == placed(bench, "v2", hook) == ["from_network", "to_network"]
    driver("flip 6")
    driver("settle")
    assert control(bench) == STEERING | SERVICES | TABLE
    driver.kill()
    driver = bench.open(**environment)
    driver("interfaces all")
    assert placed(bench, "v1", hook) == ["from_network", "to_network"]
    driver.enforce(7)
    assert control(bench) == STEERING | SERVICES | TABLE
    driver.kill()
    bench.driver(**environment)("uninstall")
    assert not os.path.exists(bench.pins)
    assert "to_network" not in bench.node.run("tc", "filter", "show", "dev", "v1", "egress").stdout


def test_an_exit_that_lost_its_program_gets_it_back(bench):
    driver = bench.open()
    index = veth(bench, "v0")
    driver("service 10.96.0.10")
    driver("interfaces all")
    driver.enforce(1)
    other = bench.links()[f"{bench.node.ifindex('pv0')}-egress"]
    os.unlink(f"{bench.pins}/links/{index}-egress")
    driver("wait 30")
    assert placed(bench, "v0") == placed(bench, "pv0") == [None, "to_network"]
    assert bench.links()[f"{bench.node.ifindex('pv0')}-egress"] == other, "the others were left alone"


def test_an_agent_that_died_before_services_were_live(bench):
    """What it attached for them goes when nobody wants it."""
    driver = bench.open()
    veth(bench, "v0")
    driver("interfaces all")
    driver.enforce(1)
    driver("service 10.96.0.10")
    driver("stage")
    assert placed(bench, "v0") == [None, "to_network"]
    driver.kill()
    driver = bench.open()
    driver("interfaces all")
    assert placed(bench, "v0") == [None, None] and bench.rows() == {}


def test_an_agent_that_died_while_a_role_changed(bench):
    driver = bench.open()
    index = veth(bench, "v0")
    driver("proxy 1")
    driver("interfaces all")
    driver.enforce(1)
    links = bench.links()
    driver("endpoint 3 10.77.0.2 v0")
    driver("interfaces")
    driver.kill()  # the workload's programs, and no revision knows that
    bench.node.run("ip", "rule", "flush")  # and nothing but the hooks tells that there were proxies
    driver = bench.open()
    assert program(bench, f"{index}-ingress")["name"] == "from_workload"
    driver("interfaces all")
    assert program(bench, f"{index}-ingress")["name"] == "from_network" and bench.rows()[index] == (0, 0, 4)
    assert bench.links() == links
    assert "lookup 7641" in bench.node.run("ip", "rule").stdout
    old = program(bench, f"{index}-egress")["id"]
    driver.kill()
    bench.open("deny")
    new = program(bench, f"{index}-egress")
    assert (new["name"], new["id"] != old) == ("to_network", True), "an agent of another configuration puts its own in"


def test_network_hooks_that_are_removed_come_back(bench):
    driver = bench.open()
    index = veth(bench, "v0")
    driver("proxy 1")
    driver("interfaces all")
    driver.enforce(1)
    os.unlink(f"{bench.pins}/links/{index}-egress")
    driver("wait 100")
    assert program(bench, f"{index}-egress")["name"] == "to_network"
