# SPDX-License-Identifier: Apache-2.0
"""penstock diff, get -o wide and name, --server: against the real HTTP server without a data path."""
import random
import re
import socket

import pytest
import yaml

from test_api import Server
from test_cli import OK, REFUSED, SHOP, UNREACHABLE, USAGE, Cli

CHANGED = 1


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = Server(str(tmp_path_factory.mktemp("server")), metrics=f"127.0.0.1:{port}")
    running.url = f"http://127.0.0.1:{port}"
    yield running
    running.stop()


@pytest.fixture
def cli(server, tmp_path):
    server.api.put_state([])
    server.api.request("DELETE", "/v1/owners/first")
    return Cli(server, str(tmp_path))


def patched(old, diff):
    """Applies a unified diff's hunks by hand: what is not exact raises."""
    lines, out, at = old.splitlines(), [], 0
    for line in diff.splitlines():
        hunk = re.fullmatch(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@", line)
        if hunk:
            first = int(hunk[1]) - (hunk[2] != "0")
            out += lines[at:first]
            at = first
            assert len(out) == int(hunk[3]) - (hunk[4] != "0"), line
        elif line.startswith(("--- ", "+++ ")) or line[0] not in " -+":
            continue
        elif line[0] == "+":
            out.append(line[1:])
        else:
            assert lines[at] == line[1:], line
            at += 1
            out += [line[1:]] if line[0] == " " else []
    return "\n".join(out + lines[at:]) + "\n"


def test_what_apply_would_change(cli):
    cli.write("shop.yaml", SHOP)
    done = cli("diff", "-f", "shop.yaml", code=CHANGED)
    assert done.stderr == "3 created, 0 changed, 0 unchanged\n" and "\033" not in done.stdout
    assert [line for line in done.stdout.splitlines() if line.startswith("created ")] == [
        "created Namespace shop", "created NetworkPolicy shop/web", "created Pod shop/web"]
    assert cli.agent.api.state()["items"] == [], "nothing was changed"
    # the agent's view of it, as apply will make it
    pieces = done.stdout.split("created ")[1:]
    cli("apply", "-f", "shop.yaml")
    for piece, (kind, name) in zip(pieces, (("ns", "shop"), ("netpol", "shop/web"), ("pod", "shop/web"))):
        assert patched("", piece) == cli("get", kind, name, "-o", "yaml").stdout
    done = cli("diff", "-f", "shop.yaml", code=OK)
    assert done.stdout == "unchanged Namespace shop\nunchanged NetworkPolicy shop/web\nunchanged Pod shop/web\n"

    before = cli("get", "netpol", "shop/web", "-o", "yaml").stdout
    cli.write("shop.yaml", SHOP.replace("port: 80", "port: 81"))
    done = cli("diff", "-f", "shop.yaml", code=CHANGED)
    assert done.stderr == "0 created, 1 changed, 2 unchanged\n"
    assert "--- NetworkPolicy shop/web (now)\n+++ NetworkPolicy shop/web (shop.yaml)\n@@ " in done.stdout
    assert "\n-    - port: 80\n+    - port: 81\n" in done.stdout
    changed = done.stdout[done.stdout.index("---"):done.stdout.index("unchanged Pod")]
    assert yaml.safe_load(patched(before, changed))["spec"]["ingress"] == [{"ports": [{"port": 81}]}]
    assert cli("get", "netpol", "shop/web", "-o", "yaml").stdout == before
    coloured = cli("diff", "-f", "shop.yaml", "--color", "always", code=CHANGED).stdout
    assert "\033[31m-    - port: 80\033[0m" in coloured and "\033[32m+    - port: 81\033[0m" in coloured


def test_many_lines(cli):
    """Hunks of long texts are exact: put together they are what apply makes."""
    dice = random.Random(6)

    def text(cidrs):
        return yaml.safe_dump({"apiVersion": "penstock.dev/v1alpha1", "kind": "Workload", "metadata": {"namespace": "s", "name": "c"},
                               "spec": {"ips": ["192.0.2.1"], "allowedSources": cidrs}})
    cidrs = [f"10.{n >> 8}.{n & 255}.0/24" for n in range(900)]
    for edits in (1, 3, 40, 3000):
        cli("apply", "-f", "-", input=text(cidrs))
        before = cli("get", "wl", "s/c", "-o", "yaml").stdout
        for n in range(edits):
            if dice.random() < 0.5 and len(cidrs) > 100:
                del cidrs[dice.randrange(len(cidrs))]
            else:
                cidrs.insert(dice.randrange(len(cidrs) + 1), f"2001:db8:{edits:x}:{n:x}::/64")
        done = cli("diff", "-f", "-", input=text(cidrs), code=CHANGED)
        cli("apply", "-f", "-", input=text(cidrs))
        assert patched(before, done.stdout) == cli("get", "wl", "s/c", "-o", "yaml").stdout
        told = sum(line[0] in "-+" and line[:4] not in ("--- ", "+++ ") for line in done.stdout.splitlines())
        assert told <= edits or edits > 2000, "no more is told than was changed"


def test_what_cannot_be_said(cli):
    cli.write("shop.yaml", SHOP.replace("port: 80", "port: 80000"))
    done = cli("diff", "-f", "shop.yaml", code=USAGE)
    assert "refused (422)" in done.stderr and "shop.yaml:16:14: NetworkPolicy shop/web: " in done.stderr and done.stdout == ""
    cli.write("broken.yaml", "kind: Pod\nkind: Node\n")
    done = cli("diff", "-f", "broken.yaml", code=USAGE)
    assert done.stderr == 'penstock: broken.yaml:2:1: the key "kind" is there twice\n    2 | kind: Node\n      | ^~~~\n'
    assert "-f FILE" in cli("diff", code=USAGE).stderr
    cli("diff", "-f", "shop.yaml", "--server", f"{cli.directory}/none", code=UNREACHABLE)
    # another owner's object: as apply would say, and with --force as apply would do
    mine = "{apiVersion: v1, kind: Namespace, metadata: {name: of-first}}"
    cli("apply", "--owner", "first", "-f", "-", input=mine)
    assert "(409)" in cli("diff", "-f", "-", input=mine, code=USAGE).stderr
    done = cli("diff", "--force", "-f", "-", input=mine, code=CHANGED)
    assert "\n-    penstock.dev/owner: first\n+    penstock.dev/owner: local\n" in done.stdout


def test_the_api_lists_changes_of_a_dry_run(cli):
    call = {"apply": [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}],
            "delete": [{"kind": "Namespace", "name": "b"}]}
    cli.agent.api.put_state([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "b"}}])
    before = cli.agent.api.get_object("Namespace", "", "b")
    said = cli.agent.api.expect("PATCH", "/v1/state?dryRun=diff", call).json
    assert said["dryRun"] is True and said["changes"] == [
        {"kind": "Namespace", "namespace": "", "name": "a", "old": None, "new": said["changes"][0]["new"]},
        {"kind": "Namespace", "namespace": "", "name": "b", "old": before, "new": None}]
    assert said["changes"][0]["new"]["metadata"]["annotations"]["penstock.dev/owner"] == "local"
    assert "changes" not in cli.agent.api.expect("PATCH", "/v1/state?dryRun=true", call).json
    assert cli.agent.api.get_object("Namespace", "", "b") == before


def test_wide_and_name(cli):
    cli("apply", "-f", "-", input=SHOP)
    cli("apply", "-f", "-", input=yaml.safe_dump_all([
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
         "spec": {"clusterIPs": ["10.96.0.1"], "externalIPs": ["192.0.2.1"], "ports": [
             {"port": 80, "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]}},
        {"apiVersion": "discovery.k8s.io/v1beta1", "kind": "EndpointSlice", "addressType": "IPv4",
         "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
         "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": False}}, {"addresses": ["10.0.0.2"]}],
         "ports": [{"port": 8080}]},
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "later"}},
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "aged", "creationTimestamp": "2020-01-01T00:00:00Z"}}]))

    def rows(kind, output):
        head, *lines = (re.split(r" {3,}", line) for line in cli("get", kind, "-o", output).stdout.splitlines())
        return [dict(zip(head, line)) for line in lines]
    assert list(rows("netpol", "wide")[0]) == ["NAMESPACE", "NAME", "POD-SELECTOR", "TYPES", "RULES", "MODE", "LABELS", "AGE", "OWNER"]
    assert rows("netpol", "wide")[0]["RULES"] == "1 in, 0 out"
    service = rows("svc", "wide")[0]
    assert service["PORTS"] == "80:30080/TCP,53/UDP" and service["EXTERNAL-IPS"] == "192.0.2.1" and "EXTERNAL-IPS" not in rows("svc", "table")[0]
    older = cli("get", "eps", "shop/web-1", "-o", "yaml").stdout.replace("discovery.k8s.io/v1\n", "discovery.k8s.io/v1beta1\n")
    assert cli("diff", "-f", "-", input=older, code=OK).stdout == "unchanged EndpointSlice shop/web-1\n" and "v1beta1" in older
    assert rows("eps", "table")[0]["ENDPOINTS"] == "1 of 2 ready" and rows("eps", "wide")[0]["PORTS"] == "8080/TCP"
    assert re.fullmatch(r"\d{4}d", rows("ns", "wide")[0]["AGE"]) and rows("ns", "wide")[1]["AGE"] == "-"
    assert cli("get", "all", "-o", "name").stdout.splitlines() == [
        "namespaces/aged", "namespaces/later", "namespaces/shop", "pods/shop/web", "services/shop/web", "endpointslices/shop/web-1",
        "networkpolicies/shop/web"]
    assert cli("get", "pods", "-n", "shop", "-o", "name").stdout == "pods/shop/web\n"
    assert "one of table json yaml, not wide" in cli("explain", "a", "b", "-o", "wide", code=USAGE).stderr


def test_servers(cli):
    path, bare = cli.agent.socket, {k: v for k, v in cli.environment.items() if not k.startswith("PENSTOCK_S")}
    for words, extra in (([], {"PENSTOCK_SERVER": path, "PENSTOCK_SOCKET": "/none"}), ([], {"PENSTOCK_SOCKET": path}),
                         (["--server", f"unix://{path}"], {"PENSTOCK_SERVER": "/none"}), (["--socket", path], {}),
                         (["--server", path], {}), ([f"--server={cli.agent.url}"], {}),
                         (["--server", f"{cli.agent.url}/"], {})):
        assert cli("version", *words, environment={**bare, **extra}).stdout.splitlines()[1].startswith("penstockd "), words
    for server, message in (("https://h/v1", "is not https://ADDRESS:PORT"), ("tcp://x", "is neither unix:///PATH, a path nor http"),
                            ("unix://", "names no socket"), ("", "names no socket"), ("http://", "is not http://ADDRESS:PORT"),
                            ("http://h/v1", "is not http://ADDRESS:PORT")):
        assert message in cli("status", "--server", server, code=USAGE).stderr
    assert "cannot reach the agent at http://127.0.0.1:1: " in cli("status", "--server", "http://127.0.0.1:1", code=UNREACHABLE).stderr
    # the metrics listener has no policy to give: what can be had is in the archive
    done = cli("export", "-o", "part.tar.gz", "--server", cli.agent.url, code=REFUSED)
    assert "wrote part.tar.gz\n" in done.stderr and "parts were refused: MANIFEST says which" in done.stderr
    assert "(404)" in cli("get", "pods", "--server", cli.agent.url, code=REFUSED).stderr
