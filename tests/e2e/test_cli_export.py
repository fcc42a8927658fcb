# SPDX-License-Identifier: Apache-2.0
"""What the command line makes of its tables and of the agent's answers: the archive for a bug report, completion, help, manual pages."""
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import tarfile

import pytest
import yaml

from lab import BUILD, Lab
from netns import run
from objects import namespace, policy, proxy, workload
from test_cli import SHOP, UNREACHABLE, USAGE, Cli

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PENSTOCK = os.path.join(BUILD, "penstock")
PARTS = {"MANIFEST", "version.json", "status.json", "state.json", "owners.json", "metrics.txt", "flows.json", "connections.json",
         "alerts.json", "doctor.txt", "penstock.yaml"}
COMMANDS = re.findall(r"^  (\w+) +\S", run(PENSTOCK, "--help").stdout.split("\n\n")[1], re.M)


@pytest.fixture(scope="module")
def cli():
    with Lab() as lab:
        agent = lab.agent()
        os.makedirs(f"{lab.directory}/cli")
        made = Cli(agent, f"{lab.directory}/cli")
        agent.api.put_state([namespace("shop"), namespace("store"), policy("shop", "web", {"app": "web"}), proxy("gw", 15001),
                             workload("shop", "w1", ["10.9.0.1"]), workload("store", "w2", ["10.9.0.2"])])
        yield made


# ---- export ----

def unpacked(data):
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
        members = tar.getmembers()
        assert len({m.name.split("/")[0] for m in members}) == 1 and all(m.isfile() and m.mode == 0o644 for m in members)
        return {m.name.split("/", 1)[1]: tar.extractfile(m).read() for m in members}


def test_export(cli):
    secret = "Zm9vYmFy-this-is-a-token"
    cli.write("secret.yaml", SHOP.replace("namespace: shop, labels: {app: web}}", "namespace: shop, annotations: {"
              f"kubectl.kubernetes.io/last-applied-configuration: '{secret}', token: '{secret}'}}}}"))
    with open(os.path.join(cli.directory, "secret.yaml")) as file:
        assert secret in file.read()
    cli("apply", "-f", "secret.yaml")
    done = cli("export", "-o", "bug.tar.gz")
    path = os.path.join(cli.directory, "bug.tar.gz")
    assert done.stdout == "" and done.stderr == "wrote bug.tar.gz\n" and os.stat(path).st_mode & 0o777 == 0o600
    with open(path, "rb") as file:
        parts = unpacked(file.read())
    assert set(parts) == PARTS
    assert json.loads(parts["state.json"]) == cli.agent.api.state()
    assert json.loads(parts["status.json"])["kernel"] == os.uname().release
    assert json.loads(parts["owners.json"]) and json.loads(parts["version.json"])["version"]
    assert b"penstock_build_info" in parts["metrics.txt"]
    for feed in ("flows", "connections", "alerts"):
        assert "items" in json.loads(parts[f"{feed}.json"]), feed
    assert parts["doctor.txt"].decode().splitlines()[0].startswith("✔ agent")
    assert yaml.safe_load(parts["penstock.yaml"])["api"]["unix"] == cli.agent.socket
    manifest = parts["MANIFEST"].decode()
    assert all(name in manifest for name in PARTS - {"MANIFEST"}) and manifest.startswith("penstock ") and "export of node node-1 at " in manifest
    for name, data in parts.items():
        assert secret.encode() not in data and b"PRIVATE KEY" not in data and b"sha256:" not in data, name
    # tar(1) reads it too
    assert run("tar", "tzf", path).stdout.count("\n") == len(PARTS)


def test_where_the_archive_goes(cli):
    done = subprocess.run([PENSTOCK, "export", "-o", "-"], env=cli.environment, capture_output=True, check=True)
    assert set(unpacked(done.stdout)) == PARTS and done.stderr == b""
    assert cli("export").stderr == f"wrote {next(n for n in os.listdir(cli.directory) if n.startswith('penstock-node-1-'))}\n"
    assert "/none/x.tar.gz: No such file or directory" in cli("export", "-o", "/none/x.tar.gz", code=USAGE).stderr
    assert "No space left" in cli("export", "-o", "/dev/full", code=USAGE).stderr and os.path.exists("/dev/full")
    cli("export", "-o", "never.tar.gz", "--server", "/none", code=UNREACHABLE)
    assert not os.path.exists(os.path.join(cli.directory, "never.tar.gz"))
    assert "what is x?" in cli("export", "x", code=USAGE).stderr


# ---- completion ----

def completed(cli, line):
    """What bash offers for a line, by the script that is sourced."""
    words = shlex.split(line)
    if line.endswith(" "):
        words.append("")
    quoted = " ".join(map(shlex.quote, words))
    script = (f'source <("{PENSTOCK}" completion bash); complete -p penstock >/dev/null || exit 9; '
              f'COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; COMP_WORDS[0]="{PENSTOCK}"; _penstock; printf "%s\\n" "${{COMPREPLY[@]}}"')
    done = run("bash", "--norc", "-c", script, env=cli.environment, cwd=cli.directory)
    assert done.stderr == "", done.stderr
    return [line for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize("line,offered", [
    ("penstock ", [*COMMANDS]),
    ("penstock ex", ["explain", "export"]),
    ("penstock help di", ["diff"]),
    ("penstock --s", ["--server", "--socket"]),
    ("penstock get net", ["networkpolicies"]),
    ("penstock get al", ["all"]),
    ("penstock delete al", []),
    ("penstock get netpol ", ["shop/web"]),
    ("penstock get wl ", ["shop/w1", "store/w2"]),
    ("penstock get wl store/", ["store/w2"]),
    ("penstock get -n store wl ", ["w2"]),
    ("penstock get wl -n ", ["shop", "store"]),
    ("penstock delete tproxy g", ["gw"]),
    ("penstock get -o ", ["table", "wide", "json", "yaml", "name"]),
    ("penstock get --output = j", ["json"]),
    ("penstock get --output =", ["table", "wide", "json", "yaml", "name"]),
    ("penstock status --o", ["--output"]),
    ("penstock explain sh", ["shop/w1", "shop/web"]),
    ("penstock explain --protocol S", ["SCTP"]),
    ("penstock flows --verdict D", ["Dropped"]),
    ("penstock flows --workload st", ["store/w2"]),
    ("penstock completion ", ["bash", "zsh", "fish"]),
    ("penstock nonsense ", []),
    ("penstock get --socket /none wl ", []),
])
def test_bash_completes(cli, line, offered):
    assert completed(cli, line) == offered


def test_bash_completes_files(cli):
    os.makedirs(os.path.join(cli.directory, "of files"), exist_ok=True)
    cli.write("of files/a b.yaml", "")
    assert completed(cli, "penstock apply -f 'of files/'") == ["of files/a b.yaml"]
    assert completed(cli, "penstock export -o of") == ["of files"]


def test_every_option_is_offered(cli):
    for command in COMMANDS:
        if command != "help":
            options = sorted(set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", cli(command, "--help").stdout, re.M)))
            assert sorted(set(completed(cli, f"penstock {command} --"))) == options, command


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_the_shells(cli, shell):
    script = cli("completion", shell).stdout
    assert "__complete" in script
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed: it does not say whether it can read the script")
    run(shell, "-n", input=script)


# ---- help and manual pages ----

def test_help_of_each_command(cli):
    assert COMMANDS[-1] == "help" and len(COMMANDS) > 10
    for command in COMMANDS[:-1]:
        text = cli(command, "--help").stdout
        assert cli("help", command).stdout == cli(command, "-h").stdout == text
        assert text.startswith(f"usage: penstock {command} ") and "--server URL" in text and "--help" in text
        assert max(map(len, text.splitlines())) <= 100, command
    text = cli("--help").stdout
    assert cli("help").stdout == text and max(map(len, text.splitlines())) <= 100
    assert [line.split(None, 1)[0] for line in text.split("Exit codes:")[1].splitlines() if line] == ["0", "1", "2", "3"]
    assert "there is no command nonsense" in cli("help", "nonsense", code=USAGE).stderr
    assert "help is of one command" in cli("help", "get", "put", code=USAGE).stderr


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """As `make install` puts them there."""
    root = tmp_path_factory.mktemp("root")
    version = run(PENSTOCK, "--version").stdout.split()[1]
    man, script = {"penstock.1": run(PENSTOCK, "__man").stdout}, os.path.join(ROOT, "deploy/man/man.py")
    for program, name in (("penstockd", "penstockd.8"), ("penstock-relay", "penstock-relay.1")):
        man[name] = run(script, program, version, input=run(os.path.join(BUILD, program), "--help").stdout).stdout
    with open(os.path.join(ROOT, "api/configuration.md")) as reference:
        man["penstock.yaml.5"] = run(script, "penstock.yaml", version, input=reference.read()).stdout
    for name, text in man.items():
        (root / name).write_text(text)
    return man


def rendered(text):
    done = run("groff", "-man", "-ww", "-Tutf8", "-P-c", "-rLL=200n", input=text)
    assert done.stderr == "", done.stderr
    return re.sub(".\x08", "", done.stdout)


def test_manual_pages_render(pages):
    for name, text in pages.items():
        plain = rendered(text)
        assert name.rsplit(".", 1)[0] in plain and plain.index("NAME") < plain.index("SYNOPSIS") < plain.index("DESCRIPTION"), name


def test_manual_pages_have_every_option(cli, pages):
    squeezed = {name: re.sub(r"\s+", " ", rendered(text)) for name, text in pages.items()}
    for command in COMMANDS[:-1]:
        for option in re.findall(r"^  ((?:-\w, )?--[\w-]+(?: [A-Z]+)?)", cli(command, "--help").stdout, re.M):
            assert option in squeezed["penstock.1"], (command, option)
        assert f"penstock {command} " in squeezed["penstock.1"]
    for code in ("0 done", "1 refused", "2 wrong usage", "3 the agent cannot be reached", "PENSTOCK_SERVER"):
        assert code in squeezed["penstock.1"]
    for program, name in (("penstockd", "penstockd.8"), ("penstock-relay", "penstock-relay.1")):
        for option in re.findall(r"^  (--[\w-]+)", run(os.path.join(BUILD, program), "--help").stdout, re.M):
            assert option in squeezed[name], option
    with open(os.path.join(ROOT, "api/configuration.md")) as reference:
        keys = re.findall(r"^\| `([a-zA-Z.]+)` \| `", reference.read(), re.M)
    assert len(keys) > 30 and all(f" {key} Default " in squeezed["penstock.yaml.5"] for key in keys)


def test_they_are_installed(pages, tmp_path):
    run("make", "-n", "install", f"DESTDIR={tmp_path}", f"B={BUILD}", cwd=ROOT)
    with open(os.path.join(ROOT, "Makefile")) as file:
        makefile = file.read()
    assert all(f"$(B)/man/{name}" in makefile for name in pages)
