# SPDX-License-Identifier: Apache-2.0
"""What the README and the pages of api/ tell to do is done as it stands, against a real agent; kubectl's answer is ours."""
import errno
import functools
import glob
import json
import os
import re

import yaml

from lab import NODE_NAME, REPOSITORY, Lab
from objects import deny_all, namespace, pod


def page(name):
    with open(os.path.join(REPOSITORY, name)) as file:
        return file.read()


def shell(name, title):
    return re.search(rf"^#+ {title}\n.*?```sh\n(.*?)```", page(name), re.S | re.M)[1]


def rooms():
    """Table → entries, of the page's section about capacity."""
    rows = re.findall(r"\| (\d+) \| ((?:`\w+` ?)+)", page("deploy/README.md"))
    return {name: int(room) for room, names in rows for name in re.findall(r"\w+", names)}


def test_the_tour():
    tour = shell("api/api.md", "The API by curl")
    with Lab() as lab:
        chat = lab.pod("chat")
        agent = lab.agent(metrics={"listen": "127.0.0.1:7642"})
        cluster = f"{lab.directory}/cluster.json"
        with open(cluster, "w") as file:
            json.dump({"apiVersion": "v1", "kind": "List", "items": [
                namespace("shop"), pod("shop", "chat", chat.ips, NODE_NAME, {"app": "chat"}), deny_all("shop")]}, file)
        assert "/run/penstock/penstock.sock" in tour and "7642" in tour
        script = f"set -euo pipefail\nkubectl() {{ cat {cluster}; }}\n"
        script += tour.replace("/run/penstock/penstock.sock", agent.socket)
        said = lab.node.run("bash", "-c", script).stdout
        assert "/problems/" not in said
        assert agent.api.state()["revision"] == 4
        names = {o["metadata"]["name"] for o in agent.api.state()["items"]}
        assert names == {"shop", "chat", "deny-all", "ai-gateway", "llm-egress"}
        assert "penstock_revision" in said
    told = rooms()
    assert {told.pop("ps_conn4"), told.pop("ps_conn6")} == {int(re.search(r"`datapath.connectionsMax` \| `(\d+)`", page("api/configuration.md"))[1])}
    assert told == {name: int(re.search(rf'penstock_map_capacity{{map="{name}"}} (\d+)', said)[1]) for name in told} and len(told) > 8


def test_first_steps():
    """The README's, but for where programs are installed, and the names that belong to the whole machine."""
    steps = shell("README.md", "First steps")
    with Lab() as lab:
        agent = lab.agent(metrics={"listen": "127.0.0.1:7642"})
        chat = f"{lab.prefix}steps"
        for old, new in (("make install ", "true "), ("penstockd >", "true >"), ("netns add chat", f"netns add {chat}"),
                         ("netns chat", f"netns {chat}"), ("-n chat", f"-n {chat}"), ("exec chat", f"exec {chat}"),
                         ("/var/log/", f"{lab.directory}/"), ("10.77.0.", "10.79.0."), ("penstock doctor ", "penstock doctor || true ")):
            assert old in steps, old
            steps = steps.replace(old, new)
        script = f"set -euo pipefail\nPATH={os.path.dirname(agent.binary)}:$PATH\nexport PENSTOCK_SOCKET={agent.socket}\n" \
            f"trap 'kill $(jobs -p); ip netns del {chat}' EXIT\n{steps}"
        said = lab.node.run("bash", "-c", script).stdout
    assert "\n200\n" in said, said
    assert re.search(r"Refused.*shop/chat.*10\.79\.0\.1:22.*", said) and re.search(r"Intercepted.*shop/chat.*10\.79\.0\.1:8080", said), said
    assert re.search(r"NetworkPolicy.*shop/chat", said), said


def test_every_reason_is_explained():
    with open(os.path.join(REPOSITORY, "bpf/abi.h")) as file:
        reasons = re.search(r"#define PS_REASONS\(X\)(.*?)\n\n", file.read(), re.S)[1]
    section = re.search(r"^## A connection does not get through\n(.*?)^## ", page("api/troubleshooting.md"), re.S | re.M)[1]
    rows = re.findall(r"^\| `(\w+)` \|", section, re.M)
    assert sorted(rows) == sorted(re.findall(r'X\(\w+, "(\w+)"', reasons))


def pages():
    """All pages for people, from the root of the repository."""
    patterns = ("*.md", "api/*.md", "deploy/*.md", "deploy/*/*.md", "helm/*/*.md")
    return sorted(os.path.relpath(one, REPOSITORY) for pattern in patterns for one in glob.glob(os.path.join(REPOSITORY, pattern)))


def links(name):
    return re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page(name))


@functools.cache
def sources():
    """What programs may say: strings that stand side by side are one."""
    files = [one for folder in ("agent", "api") for one in glob.glob(os.path.join(REPOSITORY, folder, "**/*.c"), recursive=True)]
    return re.sub(r'"\s*"', "", "\n".join(page(one) for one in files))


def test_what_the_log_is_said_to_say():
    """Of each sentence that people look for, the words stand in a program."""
    section = re.search(r"^## It does not start\n(.*?)^## ", page("api/troubleshooting.md"), re.S | re.M)[1]
    cells = [row.split(" | ")[0] for row in section.splitlines() if row.startswith("| `")]
    quoted = [one for cell in cells for one in re.findall(r"`([^`]+)`", cell) if " " in one]
    assert len(quoted) > 12
    kernels = [os.strerror(number) for number in errno.errorcode]
    for one in quoted:
        assert one in kernels or re.sub(r"^CAP_\w+ |: no$", "", one) in sources(), one


def test_the_capabilities_are_those_of_the_manifest():
    container, = yaml.safe_load(page("deploy/kubernetes/daemonset.yaml"))["spec"]["template"]["spec"]["containers"]
    table = re.search(r"^\| capability .*?\n\n", page("deploy/security.md"), re.S | re.M)[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.M) == [
        *sorted(container["securityContext"]["capabilities"]["add"], key=table.index), "SYS_RESOURCE"]


def test_alerts_that_pages_name_are_there():
    rules = set(re.findall(r"alert: (\w+)", page("deploy/prometheus/penstock.rules.yaml")))
    for name in pages():
        assert set(re.findall(r"`(Penstock[A-Z]\w+)`", page(name))) <= rules, name
    assert rules <= set(re.findall(r"`(Penstock\w+)`", page("api/observing.md")))


def rows(name):
    return set(re.findall(r"^\| `([\w.]+)` \|", page(name), re.M))


def test_pages_name_what_there_is():
    """Metrics, keys of the configuration, values of the chart, targets of make, commands."""
    metrics = {name + part for name in rows("api/metrics.md") for part in ("", "_bucket", "_sum", "_count")}
    keys = rows("api/configuration.md") | rows("helm/penstock/README.md")
    targets = re.findall(r"^([a-z-]+):.*## ", page("Makefile"), re.M)
    commands = re.findall(r'^\t\{"(\w+)"', page("api/cli/command.c"), re.M)
    assert len(metrics) > 80 and len(keys) > 60 and len(targets) > 10 and len(commands) > 10
    for name in pages():
        text = page(name)
        assert set(re.findall(r"\bpenstock_[a-z_]+", text)) <= metrics, name
        for key in re.findall(r"`((?:node|api|metrics|state|datapath|names|flows|alerts|log)\.[a-zA-Z.]+)`", text):
            assert any(one == key or one.startswith(key + ".") for one in keys), f"{name}: {key}"
        assert set(re.findall(r"`make ([a-z-]+)[ `]", text)) <= set(targets), name
        assert set(re.findall(r"`penstock ([a-z]+)", text)) <= {*commands, "help"}, name


def test_each_package_has_its_reason():
    """Of those that scripts install: a word of its name is in the table."""
    table = re.search(r"^## Dependencies.*?^Everything", page("README.md"), re.S | re.M)[0].lower().replace(" ", "")
    lists = re.findall(r"^(?:build|demo|tests)\+?=\((.*?)\)", page("deploy/setup.sh"), re.S | re.M)
    lists += re.findall(r"local wanted=\((.*?)\)", page("tests/kube/build.sh"), re.S)
    packages = [one for one in " ".join(lists).split() if not one.startswith('"')]
    assert len(lists) == 4 and len(packages) > 60
    for package in packages:
        words = [re.sub(r"(\.v)?\d+g?$", "", word) for word in package.split("-") if word not in ("dev", "client", "server")]
        assert any(word in table or word.startswith("lib") and len(word) > 4 and word[3:] in table for word in words), package


def test_links_lead_somewhere():
    """To files of this repository, and to headings in them."""
    for name in pages():
        for target, heading in links(name):
            path = os.path.normpath(os.path.join(os.path.dirname(name), target)) if target else name
            assert os.path.exists(os.path.join(REPOSITORY, path)), f"{name}: {target}"
            if heading:
                titles = [re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in re.findall(r"^#+ (.*)$", page(path), re.M)]
                assert heading in titles, f"{name}: {target}#{heading}"


def test_the_readme_leads_to_every_page():
    """In one click; a folder's README is the folder's."""
    linked = {os.path.normpath(target) for target, _ in links("README.md") if target}
    missing = [name for name in pages() if name != "README.md" and not {name, os.path.dirname(name)} & linked]
    assert not missing


def defaults(printed):
    """What --check prints as YAML: "a.b" → text of the default."""
    found, path = {}, []
    for line in printed.split("\n\n")[0].splitlines():
        depth, (name, _, value) = (len(line) - len(line.lstrip())) // 2, line.strip().partition(":")
        path = [*path[:depth], name]
        if value.strip():
            found[".".join(path)] = value.strip()
    return found


def test_the_reference_of_configuration_is_the_programs():
    """Every key with its default, in the order in which the agent prints them; nothing else."""
    with Lab() as lab:
        empty = f"{lab.directory}/empty.yaml"
        with open(empty, "w"):
            pass
        printed = lab.node.run(lab.agent(start=False).binary, "--config", empty, "--check").stdout
    rows = re.findall(r"^\| `([a-zA-Z.]+)` \| `([^`]*)` \|", page("api/configuration.md"), re.M)
    wanted = {key: value.strip('"') or '""' for key, value in defaults(printed).items() if key != "node.name"}
    assert dict(rows[1:]) == wanted and rows[0] == ("node.name", '""')
