# SPDX-License-Identifier: Apache-2.0
"""The command line against a real agent: what a user types, reads and gets as exit code."""
import json
import os
import subprocess
import textwrap

import pytest
import yaml

from lab import BUILD, Lab
from netns import run
from objects import intercept, policy, proxy, workload

OK, REFUSED, USAGE, UNREACHABLE = range(4)
SHOP = """\
# two objects and a comment
apiVersion: v1
kind: Namespace
metadata:
  name: shop
  labels: {team: "42"}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress:
  - ports:
    - {port: 80}
---
# nothing here
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: elsewhere}
status: {phase: Running, podIPs: [{ip: 10.77.9.1}]}
"""


class Cli:
    def __init__(self, agent, directory):
        self.agent, self.directory = agent, directory
        self.environment = {**os.environ, "PENSTOCK_SOCKET": agent.socket}

    def __call__(self, *words, input=None, code=OK, environment=None):
        done = run(os.path.join(BUILD, "penstock"), *words, input=input, check=False, cwd=self.directory,
                   env=environment or self.environment)
        assert "Sanitizer" not in done.stderr and "runtime error" not in done.stderr, done.stderr
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def write(self, name, text):
        path = os.path.join(self.directory, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(textwrap.dedent(text))
        return name


@pytest.fixture(scope="module")
def world():
    with Lab() as lab:
        agent = lab.agent()
        os.makedirs(f"{lab.directory}/cli")
        yield Cli(agent, f"{lab.directory}/cli")


@pytest.fixture
def cli(world):
    world.agent.api.put_state([])
    return world


def names(text):
    return [line.split()[:2] for line in text.splitlines()[1:]]


def test_apply_get_delete(cli):
    done = cli("apply", "-f", cli.write("shop.yaml", SHOP))
    revision = cli.agent.api.state()["revision"]
    assert done.stdout == f"applied 1 Namespace, 1 NetworkPolicy, 1 Pod: revision {revision}\n"
    state = {o["kind"]: o for o in cli.agent.api.state()["items"]}
    assert set(state) == {"Namespace", "NetworkPolicy", "Pod"}
    assert state["Namespace"]["metadata"]["labels"]["team"] == "42", "a quoted number is a string"
    # again changes nothing
    assert cli("apply", "-f", "shop.yaml").stdout.endswith(f"revision {revision}\n")

    assert names(cli("get", "netpol").stdout) == [["shop", "web"]]
    assert names(cli("get", "NetworkPolicies", "-n", "shop").stdout) == [["shop", "web"]]
    assert cli("get", "netpol", "-n", "other").stdout == ""
    assert names(cli("get", "po", "-l", "app=web").stdout) == [["shop", "web"]]
    assert cli("get", "po", "-l", "app!=web").stdout == ""
    assert names(cli("get", "pod", "shop/web").stdout) == names(cli("get", "pod", "web", "-n", "shop").stdout)
    table = cli("get", "pods").stdout.splitlines()
    assert table[0].split() == ["NAMESPACE", "NAME", "IPS", "NODE", "PHASE", "LABELS", "OWNER"]
    assert table[1].split() == ["shop", "web", "10.77.9.1", "elsewhere", "Running", "app=web", "local"]
    assert "NetworkPolicy" not in table[0] and all(table[0].index(c) == table[1].index(v) for c, v in
                                                   (("IPS", "10.77.9.1"), ("OWNER", "local"))), "columns are aligned"

    one = cli.agent.api.get_object("Pod", "shop", "web")
    assert json.loads(cli("get", "pod", "shop/web", "-o", "json").stdout) == one
    assert yaml.safe_load(cli("get", "pod", "shop/web", "-o", "yaml").stdout) == one
    listed = json.loads(cli("get", "ns,pods", "-o", "json").stdout)
    assert listed["kind"] == "List" and [o["kind"] for o in listed["items"]] == ["Namespace", "Pod"]
    # what get prints, apply takes
    everything = cli("get", "all", "-o", "yaml").stdout
    assert cli("apply", "-f", "-", input=everything).stdout.endswith(f"revision {revision}\n")

    assert cli("delete", "pod", "web", "-n", "shop").stdout == f"deleted Pod web: revision {revision + 1}\n"
    assert "there is no Pod shop/web" in cli("get", "pod", "shop/web", code=REFUSED).stderr
    assert cli("delete", "pod", "shop/web", code=REFUSED).stdout == ""
    # -f: what is gone is no error
    assert cli("delete", "-f", "shop.yaml").stdout == f"deleted 3 objects: revision {revision + 2}\n"
    assert cli.agent.api.state()["items"] == []


def test_directories_lists_and_json(cli):
    cli.write("d/2.json", json.dumps({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "b"}},
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "c"}}]}))
    cli.write("d/1.yml", "{apiVersion: v1, kind: Namespace, metadata: {name: a}}")
    cli.write("d/README.md", "not: [an object")
    extra = json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "d"}})
    done = cli("apply", "-f", "d", "-f", "-", input=extra)
    assert done.stdout.startswith("applied 4 Namespaces: revision ")
    assert [line[0] for line in names(cli("get", "ns").stdout)] == ["a", "b", "c", "d"]


def test_a_refusal_names_file_line_and_field(cli):
    cli.write("bad.yaml", """\
        apiVersion: v1
        kind: Namespace
        metadata: {name: fine}
        ---
        apiVersion: networking.k8s.io/v1
        kind: NetworkPolicy
        metadata: {name: web, namespace: shop}
        spec:
          podSelector: {}
          ingress:
          - ports:
            - port: 80
            - protocol: TCP
              port: 70000
        """)
    cli.write("bad.json", json.dumps({"kind": "List", "items": [
        {"apiVersion": "penstock.dev/v1alpha1", "kind": "Workload", "metadata": {"name": "w", "namespace": "shop"},
         "spec": {"ips": ["10.0.0.300"]}}]}, indent=1))
    before = cli.agent.api.state()
    done = cli("apply", "-f", "bad.yaml", "-f", "bad.json", code=REFUSED)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[0].startswith("penstock: refused (422): ")
    port = next(line for line in lines if "bad.yaml" in line)
    assert port.startswith("  bad.yaml:14:13: NetworkPolicy shop/web: /spec/ingress/0/ports/1/port: ")
    assert "70000" in port
    assert lines[lines.index(port) + 1:][:2] == ["     14 |       port: 70000", "        |             ^~~~~"], "as compilers show it"
    address = next(line for line in lines if "bad.json" in line)
    assert "Workload shop/w: /spec/ips/0: " in address and "10.0.0.300" in address
    number, column = map(int, address.split("bad.json:")[1].split(":")[:2])
    with open(os.path.join(cli.directory, "bad.json")) as file:
        assert file.read().splitlines()[number - 1][column - 1:].startswith('"10.0.0.300"')
    assert cli.agent.api.state() == before, "all or nothing"
    done = cli("apply", "--quarantine", "-f", "bad.yaml")
    assert "quarantined: NetworkPolicy shop/web\n" in done.stderr and "70000" in done.stderr


def test_owners_force_and_dry_run(cli):
    namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: {x: '%s'}}}"
    cli("apply", "--owner", "first", "-f", "-", input=namespace % 1)
    assert names(cli("get", "ns").stdout)[0][0] == "a" and cli("get", "ns").stdout.split()[-1] == "first"
    done = cli("apply", "--owner", "second", "-f", "-", input=namespace % 2, code=REFUSED)
    assert "(409)" in done.stderr and "first" in done.stderr and "standard input:1:1: Namespace a" in done.stderr
    assert done.stderr.endswith("\nTry: --force takes over what is another owner's; --owner NAME writes as that owner\n")
    before = cli.agent.api.state()
    assert cli("apply", "--owner=second", "--force", "--dry-run", "-f", "-", input=namespace % 2).stdout.startswith(
        "would apply 1 Namespace")
    assert cli.agent.api.state() == before
    cli("apply", "--owner", "second", "--force", "-f", "-", input=namespace % 2)
    assert cli("get", "ns").stdout.split()[-1] == "second"
    assert "(409)" in cli("delete", "ns", "a", code=REFUSED).stderr
    assert cli("delete", "ns", "a", "--force").stdout.startswith("deleted Namespace a: revision ")
    assert cli("delete", "ns", "a", code=REFUSED).stderr.startswith("penstock: refused (404): ")


def test_status_and_version(cli):
    cli("apply", "-f", cli.write("shop.yaml", SHOP))
    status = json.loads(cli("status", "-o", "json").stdout)
    api = cli.agent.api.status()
    assert status["engine"] == {"active": "ebpf", "configured": "auto",
                                "reason": "no proxy was wanted yet, so none was tried", "tried": [],
                                "table": {"stands": False, "reason": "no proxy was wanted yet"}}
    assert status["node"] == api["node"] and status["revision"] == api["revision"]
    text = cli("status").stdout
    assert "Revision:" in text and str(status["revision"]) in text and "node-1" in text
    assert yaml.safe_load(cli("status", "-o", "yaml").stdout)["node"] == status["node"]
    first, second = cli("version").stdout.splitlines()
    assert first.startswith("penstock ") and second.startswith("penstockd ")
    assert first.split()[1] == second.split()[1]
    assert cli("--version").stdout == first + "\n"


def test_explain(cli):
    cli("apply", "-f", "-", input=SHOP)
    said = json.loads(cli("explain", "shop/web", "10.77.9.9", "--port", "80", "-o", "json").stdout)
    asked = {"source": {"workload": "shop/web"}, "destination": {"ip": "10.77.9.9"}, "protocol": "TCP", "port": 80}
    assert said == cli.agent.api.expect("POST", "/v1/explain", asked).json
    assert yaml.safe_load(cli("explain", "web", "10.77.9.9", "--port=80", "-n", "shop", "-o", "yaml").stdout) == said
    text = cli("explain", "10.77.9.9", "shop/web", "--port", "80", "--protocol", "udp", "--family", "ipv4").stdout
    lines = text.splitlines()
    assert lines[0] == f"Allow: 10.77.9.9 -> shop/web UDP/80, revision {said['revision']}"
    assert [line.split() for line in lines[2:4]] == [["egress", "not", "local", "-", "-"], ["ingress", "not", "local", "-", "-"]]
    assert lines[5].startswith(" 1. source: 10.77.9.9, ") and lines[-1].startswith(f" {len(lines) - 5}. revision ")
    done = cli("explain", "shop/none", "10.77.9.1", "--port", "80", code=REFUSED)
    assert done.stdout == ""
    assert "/source/workload: there is no Workload or Pod shop/none" in done.stderr


def test_explain_names_the_rules(cli):
    """A side of its own, and a proxy, in a lab with packets: what people read."""
    with Lab() as lab:
        made, agent = lab.pod("chat"), lab.agent()
        agent.api.put_state([workload("shop", "chat", made.ips, {"app": "chat"}, interface=made.interface),
                             proxy("gw", 15001), intercept("llm", {"app": "chat"}, [
                                 {"name": "openai", "action": "Intercept", "proxy": "gw", "to": [{"networks": ["0.0.0.0/0"]}]}]),
                             policy("shop", "quiet", {"app": "chat"}, types=["Ingress"])])
        elsewhere = {**cli.environment, "PENSTOCK_SOCKET": agent.socket}
        text = cli("explain", "shop/chat", "203.0.113.9", "--port", "443", environment=elsewhere).stdout
        assert text.startswith("Intercept: shop/chat -> 203.0.113.9 TCP/443 to proxy gw, revision 1\n")
        assert "InterceptPolicy llm Egress[0] openai\n" in text and "does not listen" in text
        text = cli("explain", "203.0.113.9", "shop/chat", "--protocol", "ICMP", environment=elsewhere).stdout
        assert text.startswith("Deny: 203.0.113.9 -> shop/chat ICMP, revision 1\n")
        assert "NetworkPolicy shop/quiet Ingress isolation\n" in text


def test_explain_a_flow_record(cli):
    cli("apply", "-f", "-", input=SHOP)
    flow = {"source": {"ip": "10.77.9.9"}, "destination": {"ip": "10.77.9.8", "port": 80}, "protocol": "TCP", "direction": "Ingress",
            "verdict": "Dropped", "reason": "Isolated", "revision": 1,
            "rule": {"kind": "NetworkPolicy", "namespace": "shop", "name": "gone", "index": -1}}
    with open(os.path.join(cli.directory, "flow.json"), "w") as file:
        json.dump(flow, file)
    said = json.loads(cli("explain", "--flow", "flow.json", "-o", "json").stdout)
    assert said == cli.agent.api.expect("POST", "/v1/explain", {"flow": flow}).json
    text = cli("explain", "--flow", "-", input=json.dumps(flow)).stdout
    lines = text.splitlines()
    assert lines[0] == "Then: Dropped, Isolated, revision 1; that rule is not there any more"
    assert "NetworkPolicy shop/gone" in lines[1] and lines[3].startswith("Today: Allow, revision ")
    assert cli("explain", "--flow", "-", input=json.dumps({"items": [flow]})).stdout == text
    assert "one flow record is wanted, not 2" in cli("explain", "--flow", "-", input=json.dumps({"items": [flow, flow]}), code=USAGE).stderr
    done = cli("explain", "--flow", "-", input="{}", code=REFUSED)
    assert "/flow/source: required" in done.stderr and "/flow/reason: required" in done.stderr
    assert "standard input: line 1: " in cli("explain", "--flow", "-", input="{", code=USAGE).stderr


@pytest.mark.parametrize("words,message", [
    ([], "usage: penstock COMMAND"),
    (["frobnicate"], "there is no command frobnicate"),
    (["apply"], "-f FILE, -f DIRECTORY or -f - is needed"),
    (["apply", "x.yaml"], "-f FILE, -f DIRECTORY or -f - is needed"),
    (["apply", "-f"], "-f needs a value"),
    (["apply", "-f", "absent.yaml"], "absent.yaml: No such file or directory"),
    (["apply", "-f", "empty.yaml"], "there is no object in what was given"),
    (["apply", "-f", "broken.yaml"], "broken.yaml:2:1: "),
    (["apply", "-f", "broken.yaml", "-n", "x"], "apply takes no option -n"),
    (["apply", "--nonsense"], "there is no option --nonsense"),
    (["get"], "a kind is needed"),
    (["get", "deployments"], "there is no kind deployments. There are namespaces, nodes, pods"),
    (["get", "ns", "a", "-n", "b"], "a Namespace is in no namespace"),
    (["get", "pods", "a/b", "-n", "c"], "a/b is not in the namespace c"),
    (["get", "pods", "a", "-l", "x=y"], "either names or a selector"),
    (["get", "pods", "-o", "xml"], "the output is one of table wide json yaml name, not xml"),
    (["delete", "pods"], "a kind and a name, or -f FILE, are needed"),
    (["delete", "-f", "empty.yaml", "pods"], "either -f or a kind and names"),
    (["status", "now"], "what is now?"),
    (["doctor", "now"], "what is now?"),
    (["explain"], "a source and a destination are wanted"),
    (["explain", "a", "b", "c"], "a source and a destination are wanted"),
    (["explain", "a", "b", "--port", "http"], "http is not a port"),
    (["explain", "--flow", "absent.json"], "absent.json: No such file"),
    (["explain", "a", "b", "--flow", "-"], "a flow record says itself what it is about"),
    (["explain", "--flow", "-", "--port", "1"], "a flow record says itself what it is about"),
    (["explain", "a", "10.0.0.1"], "TCP needs --port N"),
    (["explain", "a", "10.0.0.1:80"], "the port is --port 80"),
    (["explain", "a", "[fd00::1]:80"], "the port is --port 80"),
    (["explain", "a", "b", "--force"], "explain takes no option --force"),
])
def test_wrong_usage(cli, words, message):
    cli.write("empty.yaml", "# nothing\n")
    cli.write("broken.yaml", "kind: Pod\nkind: Node\n")
    done = cli(*words, code=USAGE)
    assert message in done.stderr and done.stdout == ""


def test_help(cli):
    text = cli("--help").stdout
    for command in ("apply", "get", "delete", "explain", "status", "doctor", "version"):
        assert f"\n  {command} " in text
        assert cli(command, "--help").stdout.startswith(f"usage: penstock {command} ")
        assert cli(command, "-h").stdout == cli(command, "--help").stdout


def test_no_agent(cli):
    absent = f"{cli.directory}/absent.sock"
    for words in (["status"], ["get", "pods"], ["apply", "-f", cli.write("shop.yaml", SHOP)], ["delete", "ns", "a"],
                  ["explain", "a", "b", "--port", "1"], ["doctor"], ["version"]):
        done = cli(*words, "--socket", absent, code=UNREACHABLE)
        assert f"cannot reach the agent at {absent}: " in done.stderr and "\nTry: is penstockd running here?" in done.stderr
    assert cli("--socket", cli.agent.socket, "get", "ns", environment={"PENSTOCK_SOCKET": absent}).stdout == ""


def test_a_full_disk_is_no_success(cli):
    assert subprocess.run(f"'{BUILD}/penstock' get all -o json >/dev/full", shell=True, env=cli.environment,
                          capture_output=True).returncode != 0
