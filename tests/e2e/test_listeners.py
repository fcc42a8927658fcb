# SPDX-License-Identifier: Apache-2.0
"""Proxies that know nothing of interception: their listeners are found, chosen and made transparent."""
import json
import os
import shutil
import socket
import subprocess
import sys
import time

import pytest

from lab import BUILD, OUTSIDE4, OUTSIDE6, Lab
from netns import run
from objects import intercept, proxy
from scenes import eventually, member, serve
from steering import ENGINES
from test_intercept import rule
from test_openapi import schema_of, validate

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "plain_proxy.py")
PORT = 15001
SOON = 1.0


@pytest.fixture(scope="module", params=ENGINES)
def shared_node(request):
    with Lab(outside=True) as lab:
        prepare(lab)
        lab.running = lab.agent(datapath={"engine": request.param})
        yield lab


@pytest.fixture
def node(shared_node):
    """Nobody listens yet."""
    shared_node.running.api.put_state(shared_node.items)
    eventually(lambda: not listeners(shared_node))
    return shared_node


def prepare(lab):
    """What a sends to the outside host's port 80 is to go to a proxy on the node."""
    lab.a = lab.pod("a")
    lab.items = [member("a", lab.a, interface=lab.a.interface), wanted(), steered()]


def wanted(**process):
    made = proxy("gw", PORT)
    if process:
        made["spec"]["process"] = process
    return made


def steered(name="gw"):
    networks = [{"networks": [f"{OUTSIDE4}/32", f"{OUTSIDE6}/128"]}]
    return intercept("llm", {"name": "a"}, [rule(to=networks, proxy=name)])


def start(lab, address, *options, port=PORT, python=sys.executable):
    """A plain proxy in the node's namespace; returns when it listens."""
    process = lab.node.popen(python, SCRIPT, address, port, *options, stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    assert process.stdout.readline() == b"listens\n"
    lab.namespaces[0].processes = getattr(lab.namespaces[0], "processes", []) + [process]
    return process


def end(process):
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


@pytest.fixture(autouse=True)
def ended():
    yield
    for lab in Lab.live:
        for process in getattr(lab.namespaces[0], "processes", []):
            end(process)  # also of one that is gone: its workers read the same standard input


def ask(lab, destination=OUTSIDE4, timeout=2.0):
    """Who took a connection of pod a, or None."""
    with lab.a.entered():
        sock = socket.socket(socket.AF_INET6 if ":" in destination else socket.AF_INET)
    with sock:
        sock.settimeout(timeout)
        try:
            sock.connect((destination, 80))
            answer = json.loads(sock.makefile("rb").readline())
        except (OSError, ValueError):
            return None
        plain = [[ip.removeprefix("::ffff:"), port] for ip, port in (answer["peer"], answer["local"])]
        assert plain == [list(sock.getsockname()[:2]), [destination, 80]], "both addresses are kept"
        return answer["pid"]


def status(lab, name="gw"):
    return next(p for p in lab.running.api.status()["proxies"] if p["name"] == name)


def listeners(lab, state=None):
    return [one for one in status(lab)["listeners"] if state in (None, one["state"])]


def up(lab):
    return lab.running.api.metrics()("penstock_proxy_up", proxy="gw")


def usable(lab, count=1):
    eventually(lambda: len(listeners(lab, "Adopted")) == count, SOON)


@pytest.mark.parametrize("address, families", [
    ("127.0.0.1", ["IPv4"]), ("::1", ["IPv6"]), ("0.0.0.0", ["IPv4"]), ("::", ["IPv4", "IPv6"]),
    ("::ffff:127.0.0.1", ["IPv4"])])
def test_a_listener_is_adopted(node, address, families):
    lab = node
    process = start(lab, address)
    usable(lab)
    validate(lab.running.api.status(), schema_of("Status"))
    one, = listeners(lab)
    assert one == {"protocol": "TCP", "address": address, "port": PORT, "state": "Adopted", "pid": process.pid, "uid": 0,
                   "executable": os.path.realpath(f"/proc/{process.pid}/exe")}
    assert status(lab)["up"] and status(lab)["families"] == families and up(lab) == 1
    for destination, family in ((OUTSIDE4, "IPv4"), (OUTSIDE6, "IPv6")):
        taken = ask(lab, destination, 2 if family in families else 0.4)
        assert taken == (process.pid if family in families else None), family
    end(process)
    eventually(lambda: not status(lab)["up"], SOON)
    assert status(lab)["families"] == [] and listeners(lab) == [] and up(lab) == 0


def test_200_means_that_the_listener_is_usable(node):
    lab = node
    for address in ("127.0.0.1", "0.0.0.0"):
        lab.running.api.delete_object("InterceptPolicy", "", "llm")
        lab.running.api.delete_object("TransparentProxy", "", "gw")
        process = start(lab, address)
        lab.running.api.put_state(lab.items)
        assert ask(lab) == process.pid
        assert [one["state"] for one in listeners(lab)] == ["Adopted"]
        end(process)


def test_a_transparent_listener_is_ready(node):
    lab = node
    process = start(lab, "::", "--transparent")
    eventually(lambda: listeners(lab, "Ready"), SOON)
    assert listeners(lab)[0]["pid"] == process.pid and status(lab)["families"] == ["IPv4", "IPv6"]
    assert ask(lab) == ask(lab, OUTSIDE6) == process.pid


def test_a_listener_of_mptcp(node):
    """What Go's net.Listen makes nowadays. Clients that speak plain TCP are served as such."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262).close()
    except OSError as error:
        pytest.skip(f"this kernel has no MPTCP: {error}")
    lab = node
    for address, process in (("127.0.0.1", {}), ("::", {"uid": 0})):
        lab.running.api.put_object(wanted(**process))
        running = start(lab, address, "--mptcp")
        usable(lab)
        assert listeners(lab)[0]["pid"] == running.pid and ask(lab) == running.pid
        end(running)


def test_a_listener_for_one_family_leaves_the_other_without(node):
    lab = node
    process = start(lab, "::", "--v6only")
    usable(lab)
    assert status(lab)["families"] == ["IPv6"]
    assert ask(lab, OUTSIDE6) == process.pid and ask(lab, timeout=0.4) is None


def test_what_cannot_be_reached_is_ignored_and_said(node):
    lab = node
    start(lab, "10.77.0.1")
    start(lab, "127.0.0.2")
    start(lab, "127.0.0.1", "--device", "lo")
    eventually(lambda: len(listeners(lab, "Ignored")) == 3, SOON)
    validate(lab.running.api.status(), schema_of("Status"))
    why = {one["address"]: one["why"] for one in listeners(lab)}
    assert "10.77.0.1: connections are offered to" in why["10.77.0.1"]
    assert "127.0.0.2: connections are offered to" in why["127.0.0.2"]
    assert "SO_BINDTODEVICE" in why["127.0.0.1"]
    assert not status(lab)["up"] and up(lab) == 0 and ask(lab, timeout=0.4) is None
    shown = run(os.path.join(BUILD, "penstock"), "--socket", lab.running.socket, "status").stdout
    row = next(line for line in shown.splitlines() if "127.0.0.2" in line)
    assert row.split()[:4] == ["gw", "TCP", f"127.0.0.2:{PORT}", "Ignored"] and row.endswith(why["127.0.0.2"])


def test_workers_share_a_listener(node):
    lab = node
    master = start(lab, "0.0.0.0", "--workers", "4")
    usable(lab)
    assert len(listeners(lab)) == 1
    takers = {ask(lab) for _ in range(24)}
    assert None not in takers and len(takers) > 1 and master.pid not in takers
    # The process that was shown is gone, others hold the socket.
    assert listeners(lab)[0]["pid"] == master.pid
    master.kill()
    master.wait()
    eventually(lambda: listeners(lab) and listeners(lab)[0]["pid"] != master.pid, 6)
    assert ask(lab) and up(lab) == 1


def test_each_socket_of_a_reuseport_group_is_adopted(node):
    lab = node
    group = {start(lab, "127.0.0.1", "--reuseport").pid for _ in range(4)}
    usable(lab, 4)
    assert {one["pid"] for one in listeners(lab)} == group
    takers = set()
    eventually(lambda: takers.add(ask(lab)) or takers == group, 10)


# ---- conditions ----


@pytest.fixture
def cgroups():
    """Two groups below the cgroup v2 root."""
    root = subprocess.run(["findmnt", "-n", "-o", "TARGET", "-t", "cgroup2"], capture_output=True, text=True).stdout.split()
    if not root:
        pytest.skip("no cgroup v2 is mounted")
    made = [f"{root[0]}/pt{os.getpid()}-{name}" for name in ("proxy", "proxy/worker", "proxy2")]
    for path in made:
        os.mkdir(path)
    yield {name: os.path.relpath(path, root[0]) for name, path in zip(("proxy", "worker", "other"), made)}, root[0]
    for path in reversed(made):
        for _ in range(50):
            try:
                os.rmdir(path)
                break
            except OSError:
                time.sleep(0.02)


def chooses(lab, process, right, wrong, why):
    """Only the right listener is used, also beside a wrong one that stands closer. (The kernel lets both listen when they
    are of one user and want SO_REUSEPORT.)"""
    lab.running.api.put_object(wanted(**process))
    first = start(lab, "127.0.0.1", "--reuseport", *wrong)
    eventually(lambda: listeners(lab, "Ignored"), SOON)
    assert why in listeners(lab)[0]["why"] and not status(lab)["up"]
    before = lab.running.api.metrics()("penstock_packets_total", reason="NoListener")
    assert ask(lab, timeout=0.4) is None, "refused"
    assert lab.running.api.metrics()("penstock_packets_total", reason="NoListener") > before
    second = start(lab, "0.0.0.0", "--reuseport", *right)
    usable(lab)
    assert len(listeners(lab)) == 2 and status(lab)["up"]
    assert {ask(lab) for _ in range(4)} == {second.pid}
    end(second)
    eventually(lambda: not status(lab)["up"], SOON)
    assert ask(lab, timeout=0.4) is None, "the wrong one again"
    end(first)


@pytest.mark.parametrize("wrong", [[], ["--transparent"]], ids=["plain", "transparent"])
def test_chosen_by_uid(node, wrong):
    """A proxy may become that user after it began to listen."""
    chooses(node, {"uid": 1337}, ["--later-uid", "1337"], wrong, "uid 0 is not 1337")


def test_chosen_by_cgroup(node, cgroups):
    groups, root = cgroups
    chooses(node, {"cgroup": groups["proxy"]}, ["--cgroup", f"{root}/{groups['worker']}"],
            ["--cgroup", f"{root}/{groups['other']}"], f"is not below {groups['proxy']}")


def test_chosen_by_executable(node, tmp_path):
    other = str(tmp_path / "proxy")
    with open(os.path.realpath(sys.executable), "rb") as source, open(other, "wb") as target:
        target.write(source.read())
    os.chmod(other, 0o755)
    lab = node
    lab.running.api.put_object(wanted(executable=other))
    start(lab, "127.0.0.1", "--reuseport")
    right = start(lab, "0.0.0.0", "--reuseport", python=other)
    usable(lab)
    assert ask(lab) == right.pid
    wrong, = listeners(lab, "Ignored")
    assert wrong["why"] == f"executable {wrong['executable']} is not {other}"
    os.unlink(other)
    lab.running.restart()
    assert listeners(lab, "Adopted")[0]["executable"] == other and ask(lab) == right.pid, "its file was replaced"


def test_an_executable_may_be_named_by_a_link(node, tmp_path):
    link = str(tmp_path / "python")
    os.symlink(os.path.realpath(sys.executable), link)
    node.running.api.put_object(wanted(executable=link, uid=0))
    process = start(node, "127.0.0.1")
    usable(node)
    assert ask(node) == process.pid


def test_a_process_that_changes_its_user_late(node):
    """Searches for its listener have become rare by then."""
    lab, wait = node, 3.5
    lab.running.api.put_object(wanted(uid=1337))
    process = start(lab, "127.0.0.1", "--later-uid", "1337", "--wait", wait)
    begun = time.monotonic()
    eventually(lambda: listeners(lab, "Adopted"), wait + SOON)
    assert wait - 0.2 < time.monotonic() - begun and ask(lab) == process.pid


def test_all_conditions_have_to_hold(node):
    lab = node
    lab.running.api.put_object(wanted(uid=1337, executable="/nowhere/proxy"))
    start(lab, "127.0.0.1", "--uid", "1337")
    eventually(lambda: listeners(lab, "Ignored"), SOON)
    assert "is not /nowhere/proxy" in listeners(lab)[0]["why"]
    lab.running.api.put_object(wanted(uid=1337))
    assert listeners(lab, "Adopted") and ask(lab), "as soon as the write is answered"
    lab.running.api.put_object(wanted(uid=1338))
    assert "uid 1337 is not 1338" in listeners(lab)[0]["why"] and ask(lab, timeout=0.4) is None


def test_two_proxies_share_a_port(node):
    lab = node
    other = proxy("other", PORT)
    other["spec"]["process"] = {"uid": 1338}
    lab.running.api.put_object(wanted(uid=1337))
    lab.running.api.put_object(other)
    first = start(lab, "127.0.0.1", "--reuseport", "--later-uid", "1337")
    second = start(lab, "0.0.0.0", "--reuseport", "--later-uid", "1338")
    usable(lab)
    eventually(lambda: status(lab, "other")["up"], SOON)
    assert ask(lab) == first.pid
    lab.running.api.put_object(steered("other"))
    assert ask(lab) == second.pid


# ---- adoptListeners: false ----


def test_without_adoption_only_transparent_listeners_are_used():
    with Lab(outside=True) as lab:
        prepare(lab)
        lab.running = lab.agent(datapath={"adoptListeners": False})
        lab.running.api.put_state(lab.items)
        plain = start(lab, "127.0.0.1")
        eventually(lambda: listeners(lab, "Ignored"), SOON)
        assert listeners(lab)[0]["why"] == "is not transparent, and adoptListeners is false"
        assert not status(lab)["up"] and ask(lab, timeout=0.4) is None
        end(plain)
        process = start(lab, "127.0.0.1", "--transparent")
        eventually(lambda: listeners(lab, "Ready"), SOON)
        assert ask(lab) == process.pid
        for running in lab.namespaces[0].processes:
            end(running) if running.poll() is None else None


# ---- restarts ----


@pytest.mark.parametrize("process", [{}, {"uid": 1337}], ids=["any", "chosen"])
def test_a_proxy_is_back_within_a_second(node, process):
    lab = node
    lab.running.api.put_object(wanted(**process))
    options = ["--uid", "1337"] if process else []
    for turn in range(10):
        running = start(lab, "127.0.0.1", *options)
        begun, taken = time.monotonic(), None
        while not taken and time.monotonic() - begun < 3:
            taken = ask(lab, timeout=0.15)
        assert taken == running.pid and time.monotonic() - begun < 1, turn
        end(running)


@pytest.mark.parametrize("process", [{}, {"uid": 1337}], ids=["any", "chosen"])
def test_what_was_adopted_outlives_the_agent(node, process):
    lab = node
    lab.running.api.put_object(wanted(**process))
    running = start(lab, "127.0.0.1", "--uid", "1337")
    usable(lab)
    for stop in (lab.running.stop, lab.running.kill9):
        stop()
        assert ask(lab) == running.pid
        time.sleep(0.3)
        lab.running.start()
        assert ask(lab) == running.pid
        one, = listeners(lab)
        assert one["state"] == "Adopted" and one["pid"] == running.pid
    time.sleep(2.5)
    assert ask(lab) == running.pid, "its row stays"
    # One that ends, and one that begins, while no agent runs.
    lab.running.stop()
    end(running)
    running = start(lab, "127.0.0.1", "--uid", "1337")
    lab.running.start()
    assert ask(lab) == running.pid


# ---- as in a container ----

FOUR = ["net_admin", "net_raw", "bpf", "perfmon"]
ADOPTS = ["sys_ptrace", "dac_read_search"]


def contained(lab, capabilities, cgroup="/nowhere"):
    """The agent as nobody, with these capabilities and no others, /proc/sys read-only, in a cgroup namespace of its
    own that begins at this directory, if it is there."""
    uid = 65534
    agent = lab.agent(start=False, api={"unixGroup": str(uid)})
    for path in (agent.directory, agent.config["state"]["directory"], agent.pins):
        os.makedirs(path, exist_ok=True)
        os.chown(path, uid, uid)
    binary = shutil.copy(os.path.join(BUILD, "penstockd"), lab.directory)  # the build may be out of its reach
    these = "-all," + ",".join(f"+{c}" for c in capabilities)
    prepared = f'[ ! -d {cgroup} ] || echo $$ >{cgroup}/cgroup.procs; exec unshare -m -C sh -c "$0" sh "$@"'
    agent.limited = limited = ["sh", "-c", prepared, 'mount -o bind,ro /proc/sys /proc/sys && exec "$@"',
               "setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "--inh-caps", these,
               "--ambient-caps", these, "--bounding-set", these, binary, "--config", agent.config_path]
    with open(agent.log_path, "a") as log:
        agent.process = lab.node.popen(*limited, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    agent.wait_ready()
    return agent


def test_capabilities_alone_are_enough_to_adopt():
    with Lab(outside=True) as lab:
        prepare(lab)
        lab.running = contained(lab, FOUR + ADOPTS)
        with open(f"/proc/{lab.running.process.pid}/status") as file:
            said = dict(line.split(":\t", 1) for line in file)
        assert said["Uid"].split() == ["65534"] * 4
        assert int(said["CapEff"], 16) == int(said["CapBnd"], 16) == sum(1 << bit for bit in (2, 12, 13, 19, 38, 39))
        lab.running.api.put_state(lab.items)
        for options, uid in ([], 0), (["--uid", "1337"], 1337):
            lab.running.api.put_object(wanted(uid=uid))
            process = start(lab, "::", *options)
            usable(lab)
            one, = listeners(lab)
            assert one["pid"] == process.pid and one["uid"] == uid and "python" in one["executable"]
            assert ask(lab) == ask(lab, OUTSIDE6) == process.pid
            end(process)
        lab.running.stop()


def test_a_cgroup_is_known_from_within_a_namespace(cgroups):
    groups, root = cgroups
    with Lab(outside=True) as lab:
        prepare(lab)
        lab.running = contained(lab, FOUR + ADOPTS, f"{root}/{groups['other']}")
        with open(f"/proc/{lab.running.process.pid}/cgroup") as file:
            assert f"0::/{groups['other']}\n" in file.read()
        lab.running.api.put_state(lab.items)
        lab.running.api.put_object(wanted(cgroup=groups["proxy"]))
        process = start(lab, "127.0.0.1", "--cgroup", f"{root}/{groups['worker']}")
        usable(lab)
        assert ask(lab) == process.pid
        lab.running.api.put_object(wanted(cgroup=groups["other"]))
        assert listeners(lab)[0]["why"] == f"cgroup /{groups['worker']} is not below {groups['other']}"
        lab.running.stop()
        end(process)


@pytest.mark.parametrize("capabilities, lacks", [
    (FOUR, "CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"), (FOUR + ADOPTS[1:], "CAP_SYS_PTRACE"),
    (FOUR + ADOPTS[:1], "CAP_DAC_READ_SEARCH")], ids=["neither", "no-ptrace", "no-search"])
def test_without_a_capability_the_status_names_it(capabilities, lacks):
    with Lab(outside=True) as lab:
        prepare(lab)
        serve(lab, lab.outside)
        lab.running = contained(lab, capabilities)
        lab.running.api.put_state(lab.items)
        plain = start(lab, "127.0.0.1", "--uid", "1337")
        eventually(lambda: listeners(lab, "Ignored"), SOON)
        one, = listeners(lab)
        assert one["why"].endswith(f"the agent lacks {lacks}"), one
        assert one["uid"] == 1337 and "pid" not in one and not status(lab)["up"]
        checked = lab.node.run(*lab.running.limited, "--check").stdout
        assert f"(pidfd_getfd, 5.6): no, proxies have to set IP_TRANSPARENT themselves: the agent lacks {lacks}\n" in checked
        assert ask(lab, timeout=0.4) is None
        # Nothing else needs it: transparent listeners, also chosen by the uid that their socket has.
        end(plain)
        lab.running.api.put_object(wanted(uid=1337))
        process = start(lab, "127.0.0.1", "--transparent")
        eventually(lambda: listeners(lab, "Ignored"), SOON)
        assert "uid 0 is not 1337" in listeners(lab)[0]["why"]
        lab.running.api.put_object(wanted(uid=0))
        assert listeners(lab, "Ready") and ask(lab) == process.pid
        lab.running.stop()
