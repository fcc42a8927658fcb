# SPDX-License-Identifier: Apache-2.0
"""SO_ORIGINAL_DST for proxies, for whom they connect, and the links of the programs that see to it."""
import contextlib
import errno
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading

import pytest

from lab import OUTSIDE4, OUTSIDE6, Lab
from netns import run
from objects import intercept, proxy
from scenes import eventually, member
from steering import ENGINES

PORT = 15001
SOL_IP, SOL_IPV6, SO_ORIGINAL_DST = 0, 41, 80
TRACES = {"trace-sock_recv_length", "trace-sched_process_fork"}
ALWAYS = {"trace-inet_sock_set_state", "trace-tcp_retransmit_skb", "trace-kfree_skb"}  # test_trace.py
HOOKS = {f"cgroup-{name}" for name in ("getsockopt", "getpeername4", "getpeername6", "getsockname4", "getsockname6",
                                       "connect4", "connect6", "sendmsg4", "sendmsg6", "recvmsg4", "recvmsg6")}


def to_outside(action="Intercept"):
    return {"name": "out", "action": action, "to": [{"networks": [f"{OUTSIDE4}/32", f"{OUTSIDE6}/128"]}], "proxy": "gw",
            "protocols": [{"tcp": {"destinationPort": {"number": 80}}}]}


BOTH = pytest.mark.parametrize("handed", ENGINES, indirect=True)


def steered(lab, engine="ebpf"):
    """A pod a, whose connections to the outside host's port 80 are a proxy's on the node."""
    lab.a = lab.pod("a")
    lab.running = lab.agent(datapath={"engine": engine})
    lab.items = [member(n, p, interface=p.interface) for n, p in lab.pods.items()]
    lab.interception = [proxy("gw", PORT), intercept("llm", {"name": "a"}, [to_outside()])]
    lab.running.api.put_state(lab.items + lab.interception)
    return lab


@pytest.fixture
def handed(request, lab_outside):
    return steered(lab_outside, getattr(request, "param", "ebpf"))


@contextlib.contextmanager
def listening(space, address, port=PORT, transparent=True):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with space.entered():
        listener = socket.socket(family, socket.SOCK_STREAM)
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if transparent:
            listener.setsockopt(*(SOL_IPV6, 75) if family == socket.AF_INET6 else (SOL_IP, 19), 1)
        listener.bind((address, port))
        listener.listen(16)
        listener.settimeout(3)
        yield listener


def dial(space, address, port=80, source=None, timeout=3):
    with space.entered():
        return socket.create_connection((address, port), timeout, source)


def original(sock, level=None, length=None):
    """SO_ORIGINAL_DST as (address, port), or the error's name."""
    if level is None:
        level = SOL_IPV6 if sock.family == socket.AF_INET6 and not sock.getpeername()[0].startswith("::ffff:") else SOL_IP
    try:
        answer = sock.getsockopt(level, SO_ORIGINAL_DST, length or (28 if level == SOL_IPV6 else 16))
    except OSError as error:
        return errno.errorcode[error.errno]
    if level == SOL_IPV6:
        return socket.inet_ntop(socket.AF_INET6, answer[8:24]), struct.unpack_from("!H", answer, 2)[0]
    return socket.inet_ntop(socket.AF_INET, answer[4:8]), struct.unpack_from("!H", answer, 2)[0]


UNKNOWN = ("ENOENT", "ENOPROTOOPT", errno.errorcode[errno.EOPNOTSUPP])


def rows(agent, name):
    """A pinned map's rows, as BTF names them."""
    text = run("bpftool", "-j", "map", "dump", "pinned", f"{agent.pins}/maps/{name}").stdout
    return [(row["formatted"]["key"], row["formatted"]["value"]) for row in json.loads(text.strip() or "[]")]


def held(agent):
    """(process, thread) → family, of what threads took themselves: bpftool is our child, and inherits."""
    return {(key["process"], key["thread"]): value["family"] for key, value in rows(agent, "ps_held")
            if not value["forked"]}


def legs(agent):
    return [(bytes(value["client"]), value["family"]) for _, value in rows(agent, "ps_leg")]


def packed(address):
    return (socket.inet_pton(socket.AF_INET6, address) if ":" in address else socket.inet_aton(address)).ljust(16, b"\0")


def links(agent, kind="cgroup-"):
    """Pin → what bpftool says of our links at the cgroup."""
    directory = f"{agent.pins}/links"
    return {name: json.loads(run("bpftool", "-j", "link", "show", "pinned", f"{directory}/{name}").stdout)
            for name in os.listdir(directory) if name.startswith(kind) and name not in ALWAYS}


# ---- SO_ORIGINAL_DST ----


@BOTH
@pytest.mark.parametrize("transparent", [True, False], ids=["transparent", "adopted"])
@pytest.mark.parametrize("address, destination", [
    ("127.0.0.1", OUTSIDE4), ("0.0.0.0", OUTSIDE4), ("::", OUTSIDE4), ("::1", OUTSIDE6), ("::", OUTSIDE6)])
def test_a_proxy_is_told_what_the_client_dialled(handed, address, destination, transparent):
    lab = handed
    with listening(lab.node, address, transparent=transparent) as listener:
        eventually(lambda: lab.running.api.request("GET", "/v1/status").json["proxies"][0]["up"])
        with dial(lab.a, destination), listener.accept()[0] as sock:
            assert original(sock) == (destination, 80)
            assert sock.getsockname()[0].removeprefix("::ffff:") == destination


def test_buffers_of_any_length(handed):
    lab = handed
    for address, destination, level, size in (("0.0.0.0", OUTSIDE4, SOL_IP, 16), ("::", OUTSIDE6, SOL_IPV6, 28)):
        with listening(lab.node, address) as listener, dial(lab.a, destination), listener.accept()[0] as sock:
            assert original(sock, level, size - 1) == "EINVAL"
            assert len(sock.getsockopt(level, SO_ORIGINAL_DST, 1000)) == size


def test_a_direct_connection_gets_the_kernels_answer(lab_outside):
    """To the same process, before and after there is a proxy."""
    lab = lab_outside
    lab.a = lab.pod("a")
    lab.running = lab.agent()

    def answers():
        found = []
        for listen, destination in (("0.0.0.0", "10.77.0.1"), ("::", "10.77.0.1"), ("::", "fd00:77::1")):
            with listening(lab.node, listen) as listener, dial(lab.a, destination, PORT), listener.accept()[0] as sock:
                found += [original(sock, level, length) for level in (SOL_IP, SOL_IPV6) for length in (4, 16, 28, 64)]
        return found
    before = answers()
    assert set(before) <= {*UNKNOWN, "EINVAL"}
    lab.running.api.put_state([member("a", lab.a, interface=lab.a.interface), proxy("gw", PORT),
                               intercept("llm", {"name": "a"}, [to_outside()])])
    assert answers() == before
    assert held(lab.running) == {}, "nor is it anybody's intercepted connection"


@BOTH
def test_a_socket_elsewhere_with_the_same_addresses_is_not_answered(handed):
    """In the outside host's namespace, which may be a pod's: client and server have the addresses of a's connection."""
    lab = handed
    lab.outside.ip(f"addr add {lab.a.ip4}/32 dev lo")
    with listening(lab.node, "0.0.0.0") as listener, dial(lab.a, OUTSIDE4, source=(lab.a.ip4, 41000)):
        with listener.accept()[0] as sock, listening(lab.outside, "0.0.0.0", 80, False) as other:
            assert original(sock) == (OUTSIDE4, 80)
            before = held(lab.running)
            with dial(lab.outside, OUTSIDE4, source=(lab.a.ip4, 41000)), other.accept()[0] as twin:
                assert twin.getpeername() == sock.getpeername() and twin.getsockname() == sock.getsockname()
                assert original(twin) in UNKNOWN
            assert held(lab.running) == before != {}


# ---- whose connection a thread has, and for whom it connects ----


@BOTH
@pytest.mark.parametrize("destination", [OUTSIDE4, OUTSIDE6])
def test_a_connect_is_noted_for_the_client(handed, destination):
    lab = handed
    client = packed(lab.a.ip6 if ":" in destination else lab.a.ip4), 6 if ":" in destination else 4

    def connect():
        with lab.node.entered():
            made = socket.socket()
        with made:
            assert made.connect_ex(("127.0.0.1", 9)) == errno.ECONNREFUSED

    def elsewhere():
        code = "import socket; print(socket.socket().connect_ex(('127.0.0.1', 9)))"
        assert lab.node.run(sys.executable, "-c", code).stdout.strip() == str(errno.ECONNREFUSED)
    with listening(lab.node, "::") as listener:
        with dial(lab.a, destination) as made, listener.accept()[0] as sock:
            process, = {process for process, _ in held(lab.running)}
            assert held(lab.running) == {(process, 0): client[1], (process, process): client[1]}, "its, and its process's"
            elsewhere()
            assert legs(lab.running) == [], "another process has nothing to do with it"
            connect()
            assert legs(lab.running) == [client], "accept → connect in one thread"
            thread = threading.Thread(target=connect)
            thread.start()
            thread.join()
            assert legs(lab.running) == [client] * 2, "accepted here, connected in another thread"
            made.shutdown(socket.SHUT_WR)
            connect()
            assert legs(lab.running) == [client] * 3, "the client has no more to say, and waits for an answer"
            sock.close()
        connect()
        assert legs(lab.running) == [client] * 3, "the client is gone"


# ---- the links ----


def test_links_outlive_the_agent_and_are_replaced_in_place(handed):
    lab, agent = handed, handed.running
    before, traces = links(agent), links(agent, "trace-")
    assert set(before) == HOOKS and set(traces) == TRACES

    def told():
        with listening(lab.node, "0.0.0.0") as listener, dial(lab.a, OUTSIDE4), listener.accept()[0] as sock:
            return original(sock)
    agent.kill9()
    assert told() == (OUTSIDE4, 80)
    agent.start()
    assert links(agent) == before and links(agent, "trace-") == traces, "what stands is of this build and configuration"
    agent.kill9()
    agent.config["datapath"]["denyWith"] = "reject"  # a constant of the programs
    agent.write_config()
    agent.start()
    after = links(agent)
    assert {name: link["id"] for name, link in after.items()} == {name: link["id"] for name, link in before.items()}
    assert all(after[name]["prog_id"] != before[name]["prog_id"] for name in HOOKS), "the new agent's programs"
    now = links(agent, "trace-")
    assert set(now) == TRACES and all(now[name]["prog_id"] != traces[name]["prog_id"] for name in TRACES)
    assert told() == (OUTSIDE4, 80)


def test_a_link_that_somebody_removes_comes_back(handed):
    lab, agent = handed, handed.running
    for name in ("cgroup-getsockopt", "trace-sock_recv_length"):
        os.unlink(f"{agent.pins}/links/{name}")
    eventually(lambda: set(links(agent)) == HOOKS and set(links(agent, "trace-")) == TRACES)
    with listening(lab.node, "0.0.0.0") as listener, dial(lab.a, OUTSIDE4), listener.accept()[0] as sock:
        assert original(sock) == (OUTSIDE4, 80)


def test_attached_with_the_first_proxy_and_removed_by_uninstall(lab_outside):
    lab = lab_outside
    agent = lab.agent()

    def said():
        return agent.api.request("GET", "/v1/status").json["originalDestination"]
    assert said() == {"attached": False, "reason": "no TransparentProxy yet"} and links(agent) == {}
    agent.api.put_object(proxy("gw", PORT))
    assert said() == {"attached": True}
    programs = {link["prog_id"] for link in links(agent).values()}
    root = next(line.split()[4] for line in open("/proc/self/mountinfo") if " - cgroup2 " in line)

    def attached():
        return programs & {at["id"] for at in json.loads(run("bpftool", "-j", "cgroup", "show", root).stdout.strip() or "[]")}
    assert attached() == programs and len(programs) == len(HOOKS)
    agent.stop()
    assert attached() == programs
    agent.uninstall()
    assert attached() == set()


def test_two_agents_in_two_namespaces(handed):
    first = handed
    with Lab(outside=True) as made:
        second = steered(made)
        for lab, other in ((first, second), (second, first)):
            with listening(lab.node, "0.0.0.0") as listener, dial(lab.a, OUTSIDE4), listener.accept()[0] as sock:
                assert original(sock) == (OUTSIDE4, 80)
                assert len(held(lab.running)) == 2
            assert len(held(other.running)) == (0 if lab is first else 2), "nothing of another namespace"
    with listening(first.node, "0.0.0.0") as listener, dial(first.a, OUTSIDE4), listener.accept()[0] as sock:
        assert original(sock) == (OUTSIDE4, 80), "the other one is uninstalled"


def test_without_cgroups_the_agent_does_its_other_work(lab_outside):
    lab = lab_outside
    lab.a = lab.pod("a")
    agent = lab.agent(start=False)
    script = ("for at in $(awk '$0 ~ / - cgroup2 / { print $5 }' /proc/self/mountinfo); do umount -l $at; done; "
              'exec "$@"')
    with open(agent.log_path, "a") as log:
        agent.process = lab.node.popen("unshare", "-m", "sh", "-c", script, "-", agent.binary, "--config",
                                       agent.config_path, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    agent.wait_ready()
    items = [member("a", lab.a, interface=lab.a.interface), proxy("gw", PORT),
             intercept("llm", {"name": "a"}, [to_outside()])]
    agent.api.put_state(items)
    agent.api.put_state([*items, proxy("other", PORT + 1)])
    assert agent.api.request("GET", "/v1/status").json["originalDestination"] == {
        "attached": False, "reason": "cgroup v2 is not mounted"}
    assert agent.log.count("cgroup v2 is not mounted") == 1, "said once"
    with listening(lab.node, "0.0.0.0") as listener, dial(lab.a, OUTSIDE4), listener.accept()[0] as sock:
        assert sock.getsockname() == (OUTSIDE4, 80) and original(sock) in UNKNOWN
    agent.restart()
    assert agent.api.request("GET", "/v1/status").json["originalDestination"] == {"attached": True}


def test_four_capabilities_attach_them(lab_outside):
    lab, uid = lab_outside, 4243
    lab.a = lab.pod("a")
    agent = lab.agent(start=False, api={"unixGroup": str(uid)}, datapath={"adoptListeners": False})
    for path in (agent.directory, agent.config["state"]["directory"], agent.pins):
        os.makedirs(path, exist_ok=True)
        os.chown(path, uid, uid)
    binary = shutil.copy(agent.binary, lab.directory)
    capabilities = "-all,+net_admin,+net_raw,+bpf,+perfmon"
    command = ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "--inh-caps", capabilities,
               "--ambient-caps", capabilities, "--bounding-set", capabilities, binary, "--config", agent.config_path]
    for stop in (agent.kill9, agent.stop):
        with open(agent.log_path, "a") as log:
            agent.process = lab.node.popen(*command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        agent.wait_ready()
        agent.api.put_state([member("a", lab.a, interface=lab.a.interface), proxy("gw", PORT),
                             intercept("llm", {"name": "a"}, [to_outside()])])
        assert agent.api.request("GET", "/v1/status").json["originalDestination"] == {"attached": True}
        with listening(lab.node, "0.0.0.0") as listener, dial(lab.a, OUTSIDE4), listener.accept()[0] as sock:
            assert original(sock) == (OUTSIDE4, 80)
        stop()
    assert not [line for line in agent.log.splitlines() if " WARN" in line or " ERROR" in line]
    lab.node.run(*command, "--uninstall")
    assert not os.path.exists(agent.pins)


def test_check_says_what_there_is(lab):
    agent = lab.agent(start=False)
    said = lab.node.run(agent.binary, "--config", agent.config_path, "--check").stdout
    assert "programs on sockets (SO_ORIGINAL_DST, whose an onward connection is): yes" in said
    assert "cgroup v2: /" in said


def test_a_container_that_was_given_the_machines_cgroups_uses_them(lab):
    """A container sees its own part as the root; what stands there would see no other container's sockets."""
    agent = lab.agent(start=False)
    root = next(line.split()[4] for line in open("/proc/self/mountinfo") if " - cgroup2 " in line)
    own, part = f"{lab.directory}/own", f"{root}/{lab.prefix}"
    os.makedirs(own), os.makedirs(part)
    script = f"echo $$ > {part}/cgroup.procs && exec unshare -C -m sh -c 'mount -t cgroup2 none {own} && %s exec \"$@\"' - \"$@\""

    def found(more=""):
        said = lab.node.run("sh", "-c", script % more, "-", agent.binary, "--config", agent.config_path, "--check").stdout
        return next(line for line in said.splitlines() if line.startswith("cgroup v2: "))
    try:
        assert found() == f"cgroup v2: {root}"
        assert found(f"umount -l {root} &&") == f"cgroup v2: {own}", "there is no other"
    finally:
        os.rmdir(part)
