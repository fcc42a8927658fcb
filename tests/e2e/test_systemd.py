# SPDX-License-Identifier: Apache-2.0
"""The unit, started by a real systemd from what `make install` puts there: life, hardening, and the way out."""
import configparser
import grp
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from api import Api
from lab import BUILD, OUTSIDE4, OUTSIDE6, REPOSITORY, SANITIZER, UPLINK4, UPLINK6, Lab
from machine import Machine, make, why_not
from objects import intercept, namespace, policy, proxy
from scenes import IN_B, eventually, member
from steering import ENGINES, to
from talk import Client, Server, ask

WHY_NOT = why_not() if os.geteuid() == 0 else "needs root"
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
CONFIG = "/etc/penstock/penstock.yaml"
DROP_IN = "/etc/systemd/system/penstockd.service.d/test.conf"
# linux/capability.h
CAPABILITIES = {"CHOWN": 0, "DAC_READ_SEARCH": 2, "NET_ADMIN": 12, "NET_RAW": 13, "SYS_PTRACE": 19, "PERFMON": 38, "BPF": 39}
SANITIZED = "/etc/systemd/system/penstockd.service.d/sanitizer.conf"


class Node(Lab):
    """Pods and an outside host with servers, and a machine with systemd on the node's network."""

    def __init__(self):
        super().__init__(outside=True)
        self.a, self.b, self.c = (self.pod(name) for name in "abc")
        self.servers = [Server(self.b, name="b"), Server(self.outside, name="outside")]
        self.items = [namespace("s")] + [member(name, made, interface=made.interface) for name, made in self.pods.items()]
        self.machine = Machine(self)
        with open(f"{BUILD}/.flags") as file:
            if "fsanitize" in file.read():  # the search for leaks is a tracer, which the unit does not allow
                self.machine.write(SANITIZED, "[Service]\nEnvironment=ASAN_OPTIONS=detect_leaks=0\n")
        self.bare = files(self.machine)
        self.machine.make("install")
        self.machine.run("systemctl", "daemon-reload")
        self.api = Api(f"{self.machine.root}/run/penstock/penstock.sock")

    def config(self, **sections):
        self.machine.write(CONFIG, yaml.safe_dump({"datapath": {"connectionsMax": 16384}, **sections}))

    def systemctl(self, *words, **options):
        return self.machine.run("systemctl", *words, **options)

    def put(self, *objects):
        return self.api.put_state([*self.items, *objects])

    def enforced(self):
        """Only a reaches b, as IN_B says."""
        who = [ask(self.a, ip) for ip in self.b.ips]
        with ThreadPoolExecutor() as pool:
            refused = list(pool.map(lambda ip: ask(self.c, ip, timeout=0.2), self.b.ips))
        return [one["server"] for one in who if isinstance(one, dict)] == ["b", "b"] and refused == ["TimeoutError"] * 2

    def close(self):
        for server in getattr(self, "servers", []):
            server.close()
        said = ""
        if hasattr(self, "machine"):
            said = self.machine.journal()
            self.machine.close()
        super().close()
        assert not [line for line in said.splitlines() if any(word in line for word in SANITIZER)], said


def files(machine):
    """What has our name, but for the journal and the tests' own drop-ins."""
    found = machine.shell("find /etc /run /usr/local /var/lib /sys/fs/bpf -path '*penstock*' -not -path '/run/log/*'").stdout
    return {path for path in found.splitlines() if "/penstockd.service.d" not in path}


@pytest.fixture(scope="module")
def shared():
    with Node() as made:
        yield made


@pytest.fixture
def node(shared):
    """The unit is started as the documents say, with the usual configuration and an empty state."""
    shared.config()
    if shared.machine.show("ActiveState") != "active":
        # As a script does: the next command already speaks with it.
        shared.machine.shell("systemctl enable --now penstockd && penstock status")
    shared.put()
    yield shared
    if os.path.exists(shared.machine.root + DROP_IN):
        os.unlink(shared.machine.root + DROP_IN)
        shared.systemctl("daemon-reload")
    if shared.machine.show("ActiveState") == "failed":
        shared.systemctl("reset-failed", "penstockd")


def unit():
    text = configparser.ConfigParser(strict=False, interpolation=None)
    text.optionxform = str
    text.read(f"{REPOSITORY}/deploy/systemd/penstockd.service")
    return text


# ---- what systemd thinks of it ----

def test_the_unit_is_well_formed(shared):
    done = shared.machine.run("systemd-analyze", "verify", "penstockd.service", check=False)
    assert [line for line in (done.stdout + done.stderr).splitlines() if "'man " not in line] == [] and done.returncode == 0


def test_the_score_is_what_the_documents_say(shared):
    said = shared.machine.run("systemd-analyze", "security", "--no-pager", "penstockd").stdout
    score = re.search(r"Overall exposure level for penstockd.service: ([\d.]+)", said).group(1)
    with open(f"{REPOSITORY}/deploy/security.md") as file:
        told = re.search(r"`systemd-analyze security penstockd` says (\d+\.\d)", file.read()).group(1)
    if shared.machine.run("systemctl", "--version").stdout.split()[1] == "252":  # others count otherwise
        assert score == told
    assert float(score) < 4, said


@pytest.mark.parametrize("prefix, place", [("/usr", "/usr/lib"), ("/usr/local", "/usr/local/lib"), ("/opt/p", "/etc")])
def test_it_is_installed_where_systemd_looks(tmp_path, prefix, place):
    make("install", tmp_path, PREFIX=prefix)
    with open(f"{tmp_path}{place}/systemd/system/penstockd.service") as file:
        assert f"\nExecStart={prefix}/sbin/penstockd\n" in file.read()
    assert os.access(f"{tmp_path}{prefix}/sbin/penstockd", os.X_OK)
    make("uninstall", tmp_path, PREFIX=prefix)
    assert [name for _, _, names in os.walk(tmp_path) for name in names] == []


# ---- life ----

def test_started_means_that_the_api_answers(node):
    assert (node.machine.show("Type"), node.machine.show("ActiveState"), node.machine.show("UnitFileState")) == \
        ("notify", "active", "enabled")
    # Whoever brings containers up comes after network.target.
    assert "network.target" in node.machine.show("Before").split()
    assert {"network-pre.target", "nftables.service"} <= set(node.machine.show("After").split())


def test_restarts_lose_nothing(node):
    node.put(IN_B)
    assert node.enforced()
    state, first = node.api.state(), node.machine.main_pid()
    with Client(node.a, node.b.ip4) as live:
        live.hello()
        install(node, documented("README.md", "make install && "))  # an upgrade
        second = node.machine.main_pid()
        assert second != first and node.enforced() and node.api.state() == state
        before = int(node.machine.show("NRestarts"))
        node.systemctl("kill", "-s", "KILL", "penstockd")
        assert node.enforced(), "while nobody runs"
        eventually(lambda: node.machine.main_pid() not in (None, second) and node.machine.show("ActiveState") == "active", 20)
        assert int(node.machine.show("NRestarts")) == before + 1
        assert node.enforced() and node.api.state() == state
        node.systemctl("stop", "penstockd")
        assert node.machine.main_pid() is None and node.machine.show("Result") == "success"
        assert node.enforced(), "stopped"
        node.systemctl("start", "multi-user.target")  # what a boot does
        eventually(lambda: node.machine.show("ActiveState") == "active", 20)
        assert node.enforced() and node.api.state() == state
        assert live.echo(), "a connection that lives through all of it"


def test_reload_reads_the_configuration(node):
    pid = node.machine.main_pid()
    node.config(log={"level": "debug", "format": "json"})
    node.systemctl("reload", "penstockd")
    eventually(lambda: '"SIGHUP: read' in node.machine.journal())
    node.config(log={"levle": "debug"})
    node.systemctl("reload", "penstockd")
    eventually(lambda: "log.levle: there is no such key; the running configuration stays" in
               node.machine.journal("penstockd", "-p", "err"))
    assert "SIGHUP: read" not in node.machine.journal("penstockd", "-p", "err"), "priorities are the log's levels"
    assert node.machine.main_pid() == pid and node.machine.show("ActiveState") == "active"


def test_a_wrong_configuration_is_said_and_not_tried_again(node):
    node.put(IN_B)
    node.config(api={"unix": 7641, "tcp": {"listen": "0.0.0.0:7641"}})
    restarts = int(node.machine.show("NRestarts"))
    done = node.systemctl("restart", "penstockd", check=False)
    assert done.returncode == 1 and "Job for penstockd.service failed" in done.stderr
    said = node.systemctl("status", "--no-pager", "penstockd", check=False).stdout
    eventually(lambda: re.search(rf"{CONFIG}:\d+: api\.", node.systemctl("status", "--no-pager", "penstockd", check=False).stdout))
    assert "status=2" in said and node.machine.show("ActiveState") == "failed", said
    assert int(node.machine.show("NRestarts")) == restarts
    assert node.enforced(), "what was live goes on"
    node.config()
    node.machine.shell("systemctl restart penstockd && penstock status")
    assert node.enforced()


# ---- hardening ----

def mounts(pid):
    """Where it is mounted: options; of several on one place the last."""
    with open(f"/proc/{pid}/mountinfo") as file:
        return {part[4]: set(part[5].split(",")) for part in map(str.split, file)}


def status(pid):
    with open(f"/proc/{pid}/status") as file:
        return {key: value.strip() for key, value in (line.split(":", 1) for line in file)}


def mask(*names):
    return sum(1 << CAPABILITIES[name] for name in names)


def test_the_process_is_hardened(node):
    is_ = status(node.machine.main_pid())
    wanted = unit()["Service"]["CapabilityBoundingSet"].replace("CAP_", "").split()
    for key in ("CapPrm", "CapEff", "CapBnd"):
        assert int(is_[key], 16) == mask(*wanted), key
    assert (int(is_["CapInh"], 16), int(is_["CapAmb"], 16)) == (0, 0)
    assert (is_["NoNewPrivs"], is_["Seccomp"], is_["Umask"]) == ("1", "2", "0077")
    with open(f"{REPOSITORY}/deploy/security.md") as file:  # each has its reason there
        assert set(wanted) <= set(re.findall(r"`([A-Z_]+)`", file.read()))


def test_it_can_write_nowhere_but_where_its_own_is(node):
    pid = node.machine.main_pid()
    seen = mounts(pid)
    own = {"/sys/fs/bpf", "/var/lib/penstock", "/run/penstock", "/tmp", "/var/tmp"}
    kernels = {"/proc", "/dev/pts"}
    writable = {place for place, options in seen.items() if "rw" in options}
    assert writable == own | kernels and all("nosuid" in seen[place] for place in own)
    # /proc is writable where processes are: what is the whole machine's is not.
    assert {"/proc/sys", "/sys", "/sys/fs/cgroup", "/run", "/dev", "/etc/penstock"} <= set(seen) - writable
    node.machine.write("/tmp/of-somebody-else", "")
    assert not os.path.exists(f"/proc/{pid}/root/tmp/of-somebody-else")
    assert not os.path.exists(f"/proc/{pid}/root/dev/kmsg") and os.path.exists(f"/proc/{pid}/root/dev/null")


# ---- what it does needs what it may ----

@pytest.fixture
def gateway(node):
    """The relay as a service: a user without a right, which listens and knows nothing else."""
    node.machine.run("systemd-run", "--quiet", "--unit=gateway", "-p", "User=nobody", "-p", "StandardOutput=journal",
                     "/usr/local/sbin/penstock-relay", "--listen", "127.0.0.1:15001", "--listen", "[::1]:15001",
                     "--protocols", "tcp")
    yield proxy("gw", 15001)
    node.systemctl("stop", "gateway", check=False)


def adopted(node):
    """All of its sockets: one a thread and address."""
    return {(one["address"], one["state"]) for one in node.api.status()["proxies"][0]["listeners"]} == \
        {("127.0.0.1", "Adopted"), ("::1", "Adopted")}


def intercepted(node, engine):
    return node.api.metrics()("penstock_intercepted_connections_total", proxy="gw", engine=engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_services_listener_is_adopted(node, gateway, engine):
    node.put(gateway, intercept("out", {"name": "a"}, [to(OUTSIDE4, OUTSIDE6)]))
    eventually(lambda: adopted(node))
    node.config(datapath={"connectionsMax": 16384, "engine": engine})
    node.systemctl("reload", "penstockd")
    eventually(lambda: node.api.status()["engine"]["configured"] == engine)
    assert node.api.status()["engine"]["active"] == engine
    before = intercepted(node, engine)
    for ip, uplink in ((OUTSIDE4, UPLINK4), (OUTSIDE6, UPLINK6)):
        who = ask(node.a, ip)
        assert (who["server"], who["peer"][0]) == ("outside", uplink), "the relay connects onward from the node"
        assert ask(node.c, ip)["peer"][0] in node.c.ips
    assert intercepted(node, engine) - before == 2
    assert "\N{HEAVY CHECK MARK} kernel" in node.machine.run("penstock", "doctor").stdout
    pinned = os.listdir(f"{node.machine.root}/sys/fs/bpf/penstock/links")
    assert [name for name in pinned if name.startswith("trace-")], pinned
    node.put()


def test_a_services_own_connections_are_intercepted(node, gateway):
    """Programs on cgroups, with the cgroups of a real systemd."""
    node.put(gateway, intercept("out", {"cgroup": "system.slice/client.service"}, [to(OUTSIDE4, OUTSIDE6)]))
    eventually(lambda: adopted(node))
    engine = node.api.status()["engine"]["active"]
    before = intercepted(node, engine)
    code = "import socket,sys; s = socket.create_connection((sys.argv[1], 80), 5); s.sendall(b'hello\\n'); print(s.recv(999))"
    for ip in (OUTSIDE4, OUTSIDE6):
        for service in ("client", "beside"):
            node.machine.run("systemd-run", "--quiet", f"--unit={service}", "-p", "Type=oneshot", "/usr/bin/python3", "-c", code, ip)
    assert node.machine.journal("client").count('"server": "outside"') == 2, node.machine.journal("client")
    assert node.machine.journal("beside").count('"server": "outside"') == 2, node.machine.journal("beside")
    assert intercepted(node, engine) - before == 2
    node.put()


def test_drop_ins(node):
    """A state directory elsewhere is refused with its name, again and again; what the unit's comments say makes it well."""
    with open(f"{REPOSITORY}/deploy/systemd/penstockd.service") as file:
        fewer = re.search(r"^#\s+(CapabilityBoundingSet=~.*)$", file.read(), re.M).group(1)
    os.makedirs(f"{node.machine.root}/srv/penstock", exist_ok=True)
    node.config(state={"directory": "/srv/penstock"}, api={"unixGroup": "adm"}, datapath={"connectionsMax": 16384, "adoptListeners": False})
    assert node.systemctl("restart", "penstockd", check=False).returncode != 0
    eventually(lambda: re.search(r"ERROR .*/srv/penstock", node.machine.journal()))
    eventually(lambda: int(node.machine.show("NRestarts")) > 0)
    node.machine.write(DROP_IN, f"[Service]\nReadWritePaths=/srv/penstock\n{fewer}\n")
    node.systemctl("daemon-reload")
    node.machine.shell("systemctl restart penstockd && penstock status")
    assert os.listdir(f"{node.machine.root}/srv/penstock")
    socket = os.stat(f"{node.machine.root}/run/penstock/penstock.sock")
    assert (socket.st_gid, socket.st_mode & 0o777) == (grp.getgrnam("adm").gr_gid, 0o660)
    rights = int(status(node.machine.main_pid())["CapEff"], 16)
    assert rights & mask("SYS_PTRACE", "DAC_READ_SEARCH") == 0 and rights & mask("BPF", "NET_ADMIN")
    node.put(IN_B)
    assert node.enforced()
    node.systemctl("stop", "penstockd")


# ---- the way out ----

def documented(path, start):
    """A command of a document, from there to its end; what make would do is done by make()."""
    with open(f"{REPOSITORY}/{path}") as file:
        return start + re.search(rf"{re.escape(start)}([^`\n]*)", file.read()).group(1)


def install(node, command):
    assert command.startswith("make install && ")
    node.machine.make("install")
    return node.machine.shell(command.removeprefix("make install && ") + " && penstock status")


def left(node):
    """Everything of ours that the machine or its network still has."""
    node.systemctl("daemon-reload")
    return {"files": sorted(files(node.machine) - node.bare),
            "nftables": node.machine.run("nft", "list", "tables").stdout,
            "rules": [rule for family in "46" for rule in json.loads(node.machine.run("ip", "-j", f"-{family}", "rule").stdout)
                      if "fwmark" in rule],
            "routes": "".join(node.machine.run("ip", f"-{family}", "route", "show", "table", "7641", check=False).stdout
                              for family in "46"),
            "unit": node.machine.show("LoadState")}


def test_the_documented_way_out_leaves_nothing(node, gateway):
    node.put(gateway, IN_B, policy("s", "c", {"name": "c"}, ingress=[]),
             intercept("out", {"name": "a"}, [to(OUTSIDE4, OUTSIDE6)]))
    eventually(lambda: adopted(node))
    before = left(node)
    assert any("/links/" in path for path in before["files"]) and before["rules"] and before["unit"] == "loaded" and \
        "inet penstock" in before["nftables"]
    said = node.machine.shell(documented("deploy/README.md", "systemctl disable --now")).stdout
    assert "nothing of penstockd is left" in said
    node.machine.make("uninstall")
    assert left(node) == {"files": ["/etc/penstock", CONFIG], "nftables": "", "rules": [], "routes": "",
                          "unit": "not-found"}
    assert ask(node.c, node.b.ip4)["server"] == "b"
    # And again.
    install(node, documented("deploy/README.md", "make install && "))
    assert ask(node.c, node.b.ip4)["server"] == "b" and node.api.state()["items"] == []
