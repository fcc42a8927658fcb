# SPDX-License-Identifier: Apache-2.0
"""The chart and the manifests: the same objects, documented values, no nonsense, no privilege that is not explained."""
import base64
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jsonschema
import pytest
import yaml

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CHART = ROOT / "helm/penstock"
BUILD = pathlib.Path(os.environ.get("PENSTOCK_BUILD") or ROOT / "build").resolve()
SPRIG = "/usr/share/gocode/src/github.com/Masterminds/sprig"
sys.path[:0] = [str(HERE), str(HERE.parent / "e2e")]
import values as values_table  # noqa: E402
from lab import Lab  # noqa: E402

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
PEM = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nMA==\n-----END PRIVATE KEY-----\n"
TCP = {"enabled": True, "tls": {"generate": True}, "tokens": {"generate": True}}


class Refused(Exception):
    pass


class Chart:
    """What Helm would make of the chart."""

    def __init__(self, program):
        self.program = program

    def files(self, values=None, **more):
        merged = merge(VALUES, values or {})
        jsonschema.validate(merged, SCHEMA)
        done = subprocess.run([self.program, CHART], input=json.dumps({"values": values or {}, **more}) + "\n", text=True,
                              capture_output=True, timeout=60, check=True)
        answer = json.loads(done.stdout)
        if "error" in answer:
            raise Refused(answer["error"])
        return answer["files"]

    def objects(self, values=None, hooks=False, **more):
        made = [document for name, text in self.files(values, **more).items() if not name.endswith("NOTES.txt")
                for document in yaml.safe_load_all(text) if document]
        return [one for one in made if hooks or "helm.sh/hook" not in one["metadata"].get("annotations", {})]

    def one(self, kind, values=None, **more):
        found = [one for one in self.objects(values, **more) if one["kind"] == kind]
        assert len(found) == 1, [one["metadata"]["name"] for one in found]
        return found[0]

    def config(self, values=None):
        return yaml.safe_load(self.one("ConfigMap", values)["data"]["penstock.yaml"])

    def agent(self, values=None, **more):
        return self.one("DaemonSet", values, **more)["spec"]["template"]


def merge(under, over):
    made = dict(under)
    for key, value in over.items():
        made[key] = merge(made[key], value) if isinstance(value, dict) and isinstance(made.get(key), dict) else value
    return made


@pytest.fixture(scope="module")
def chart():
    if not shutil.which("go") or not os.path.isdir(SPRIG):
        pytest.skip("no renderer: the packages golang-go and golang-github-masterminds-sprig-dev are not here")
    program = BUILD / "tools/chart_render"
    source = HERE / "render.go"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        program.parent.mkdir(parents=True, exist_ok=True)
        fresh = program.with_suffix(f".{os.getpid()}")
        environment = {**os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOCACHE": str(BUILD / "go-cache"), "GOFLAGS": ""}
        subprocess.run(["go", "build", "-o", fresh, source], env=environment, check=True, timeout=300)
        os.replace(fresh, program)
    return Chart(program)


def kustomized(folder):
    if not shutil.which("kubectl"):
        pytest.skip("no kubectl")
    done = subprocess.run(["kubectl", "kustomize", ROOT / folder], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def needs_folders_as_resources():
    client = json.loads(subprocess.run(["kubectl", "version", "--client", "-o", "json"], capture_output=True, text=True,
                                       timeout=60, check=True).stdout)["clientVersion"]
    if int(re.match(r"\d+", client["minor"]).group()) < 21:
        pytest.skip("this kubectl's kustomize is of 2019: no folders as resources")


def comparable(objects):
    """Without what says who made them, and the namespace, which Helm makes itself."""
    made = {}
    for one in objects:
        if one["kind"] == "Namespace":
            continue
        one = json.loads(json.dumps(one))
        for label in ("helm.sh/chart", "app.kubernetes.io/managed-by"):
            one["metadata"]["labels"].pop(label, None)
        made[one["kind"], one["metadata"]["name"]] = one
    return made


# ---- the same objects ----

def test_manifests_are_the_chart(chart):
    assert comparable(kustomized("deploy/kubernetes")) == comparable(chart.objects())


def test_the_uninstalling_manifests_are_the_charts(chart):
    needs_folders_as_resources() if shutil.which("kubectl") else None
    assert comparable(kustomized("deploy/uninstall")) == comparable(chart.objects({"uninstall": {"enabled": True}}))


def test_versions_are_one():
    version = re.search(r"^VERSION := (\S+)$", (ROOT / "Makefile").read_text(), re.M).group(1)
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (version, version)
    for path in [CHART / "Chart.yaml", *(ROOT / "deploy/kubernetes").iterdir(), *(ROOT / "deploy/uninstall").iterdir()]:
        for image in re.findall(r"image: localhost/penstock:(\S+)", path.read_text()):
            assert image == version, path
        for label in re.findall(r'app.kubernetes.io/version: "(.*)"', path.read_text()):
            assert label == version, path


def test_the_checksum_is_that_of_the_configuration(chart):
    before, after = chart.agent(), chart.agent({"config": {"log": {"format": "json"}}})
    assert before["metadata"]["annotations"]["checksum/config"] != after["metadata"]["annotations"]["checksum/config"]
    config = chart.one("ConfigMap")["data"]["penstock.yaml"].strip()
    assert before["metadata"]["annotations"]["checksum/config"] == hashlib.sha256(config.encode()).hexdigest()


# ---- what an agent may ----

NEEDED, ADOPTING = ["NET_ADMIN", "NET_RAW", "BPF", "PERFMON"], ["SYS_PTRACE", "DAC_READ_SEARCH"]


def test_capabilities(chart):
    pod = chart.agent()["spec"]
    security = pod["containers"][0]["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"], "add": NEEDED + ADOPTING}
    assert security["privileged"] is False and security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
    assert pod["hostPID"] and pod["hostNetwork"] and pod["automountServiceAccountToken"] is False
    without = chart.agent({"adoptListeners": False})["spec"]
    assert "hostPID" not in without
    assert without["containers"][0]["securityContext"]["capabilities"]["add"] == NEEDED
    assert chart.config({"adoptListeners": False})["datapath"]["adoptListeners"] is False
    old = chart.agent({"capabilities": {"sysResource": True}})["spec"]["containers"][0]["securityContext"]["capabilities"]
    assert old["add"] == NEEDED + ADOPTING + ["SYS_RESOURCE"]


@pytest.mark.parametrize("path", ["helm/penstock/templates/_helpers.tpl", "deploy/kubernetes/daemonset.yaml"])
def test_every_capability_has_its_reason_beside_it(path):
    lines = [line for line in (ROOT / path).read_text().splitlines() if re.match(r"^ *- [A-Z_]+\b", line)]
    assert len(lines) >= len(NEEDED + ADOPTING)
    for line in lines:
        assert re.match(r"^ *- [A-Z_]+ # .{20}", line), line


def test_only_the_mount_of_bpffs_is_privileged(chart):
    pod = chart.agent({"bpffs": {"mount": True}})["spec"]
    privileged = [c["name"] for c in pod["initContainers"] + pod["containers"] if c["securityContext"].get("privileged")]
    assert privileged == ["mount-bpffs"]
    assert "initContainers" not in chart.agent()["spec"]


def test_no_role_is_bound_to_anybody(chart):
    kinds = {one["kind"] for one in chart.objects({"api": {"tcp": TCP}}, hooks=True)}
    assert not {kind for kind in kinds if "Role" in kind}


def test_apparmor_by_version(chart):
    older, newer = chart.agent(kube="v1.29.9"), chart.agent(kube="v1.30.0")
    annotation = "container.apparmor.security.beta.kubernetes.io/agent"
    assert older["metadata"]["annotations"].pop(annotation) == "unconfined"
    assert newer["spec"]["containers"][0]["securityContext"].pop("appArmorProfile") == {"type": "Unconfined"}
    assert older == newer


# ---- the API over TCP ----

def secret(objects, name):
    return {key: base64.b64decode(value).decode() for one in objects if one["kind"] == "Secret" and one["metadata"]["name"] == name
            for key, value in one["data"].items()}


def test_a_made_token_and_certificate(chart, tmp_path):
    objects = chart.objects({"api": {"tcp": merge(TCP, {"tls": {"addresses": ["10.9.8.7"]}})}})
    client, tokens, tls = (secret(objects, f"penstock-{name}") for name in ("client", "tokens", "tls"))
    assert tokens == {"tokens": f"sha256:{hashlib.sha256(client['token'].encode()).hexdigest()} admin controller\n"}
    assert len(client["token"]) == 43 and client["token"] not in json.dumps([o for o in objects if o["kind"] != "Secret"])
    (tmp_path / "ca").write_text(client["ca.crt"])
    (tmp_path / "crt").write_text(tls["tls.crt"])
    done = subprocess.run(["openssl", "verify", "-CAfile", tmp_path / "ca", "-verify_hostname", "penstock.penstock-system.svc",
                           "-verify_ip", "10.9.8.7", tmp_path / "crt"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load(next(o for o in objects if o["kind"] == "ConfigMap")["data"]["penstock.yaml"])["api"]["tcp"]
    assert config == {"listen": "0.0.0.0:7641", "tokenFile": "/run/secrets/penstock-tokens/tokens",
                      "tls": {"certificate": "/run/secrets/penstock-tls/tls.crt", "key": "/run/secrets/penstock-tls/tls.key"}}


def test_made_secrets_open_the_api(chart, tmp_path):
    """The agent takes them as they are mounted, the command line those that are made for callers."""
    objects = chart.objects({"api": {"tcp": TCP}})
    for name in ("client", "tls", "tokens"):
        for key, value in secret(objects, f"penstock-{name}").items():
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / key).write_text(value)
            (tmp_path / name / key).chmod(0o400)
    config = next(o for o in objects if o["kind"] == "ConfigMap")["data"]["penstock.yaml"]
    with Lab() as lab:
        lab.agent(**yaml.safe_load(config.replace("/run/secrets/penstock-", f"{tmp_path}/")))
        call = [BUILD / "penstock", "--server", "https://127.0.0.1:7641", "--ca", tmp_path / "client/ca.crt", "--token-file"]
        assert "ready" in lab.node.run(*call, tmp_path / "client/token", "status").stdout
        (tmp_path / "wrong").write_text("x" * 43)
        assert lab.node.run(*call, tmp_path / "wrong", "status", check=False).returncode != 0


def test_given_secrets_are_used_and_not_made(chart):
    tcp = {"enabled": True, "tls": {"existingSecret": "cert"}, "tokens": {"existingSecret": "tok"}, "clientCertificates": True}
    objects = chart.objects({"api": {"tcp": tcp}})
    assert not [one for one in objects if one["kind"] == "Secret"]
    volumes = {v["name"]: v for v in next(o for o in objects if o["kind"] == "DaemonSet")["spec"]["template"]["spec"]["volumes"]}
    assert volumes["tls"]["secret"] == {"secretName": "cert", "defaultMode": 0o400}
    assert volumes["tokens"]["secret"] == {"secretName": "tok", "defaultMode": 0o400}
    assert chart.config({"api": {"tcp": tcp}})["api"]["tcp"]["tls"]["clientCA"] == "/run/secrets/penstock-tls/ca.crt"


def test_entries_and_given_certificates(chart):
    tcp = {"enabled": True, "address": "::", "tls": {"certificate": PEM, "key": KEY, "clientCA": PEM}, "clientCertificates": True,
           "tokens": {"entries": [{"name": "ci", "role": "viewer", "sha256": "ab" * 32}]}}
    objects = chart.objects({"api": {"tcp": tcp}})
    assert secret(objects, "penstock-tls") == {"tls.crt": PEM, "tls.key": KEY, "ca.crt": PEM}
    assert secret(objects, "penstock-tokens") == {"tokens": f"sha256:{'ab' * 32} viewer ci\n"}
    assert not secret(objects, "penstock-client")
    assert chart.config({"api": {"tcp": tcp}})["api"]["tcp"]["listen"] == "[::]:7641"


@pytest.mark.parametrize("tcp, said", [
    ({"tls": {}, "tokens": {"generate": True}}, "needs a certificate"),
    ({"tls": {"certificate": PEM}, "tokens": {"generate": True}}, "needs a certificate"),
    ({"tls": {"generate": True}}, "needs to know who may"),
    ({"tls": {"generate": True}, "clientCertificates": True}, "needs their authority"),
])
def test_unsafe_combinations_are_refused(chart, tcp, said):
    with pytest.raises(Refused, match=said):
        chart.objects({"api": {"tcp": {"enabled": True, **tcp}}})


def test_the_uninstaller_needs_no_secret(chart):
    values = {"api": {"tcp": TCP}, "uninstall": {"enabled": True}}
    assert "api" not in chart.config(values)
    assert not {v["name"] for v in chart.agent(values)["spec"]["volumes"]} & {"tls", "tokens"}


# ---- monitoring ----

OPEN = {"metrics": {"address": "0.0.0.0"}}


def test_monitors_find_the_agents(chart):
    values = {**OPEN, "monitoring": {"podMonitor": {"enabled": True, "labels": {"team": "a"}}, "serviceMonitor": {"enabled": True}}}
    objects = {one["kind"]: one for one in chart.objects(values)}
    pod = objects["DaemonSet"]["spec"]["template"]
    labels = pod["metadata"]["labels"].items()
    ports = {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]}
    assert objects["PodMonitor"]["spec"]["selector"]["matchLabels"].items() <= labels
    assert objects["Service"]["spec"]["selector"].items() <= labels
    assert objects["ServiceMonitor"]["spec"]["selector"]["matchLabels"].items() <= objects["Service"]["metadata"]["labels"].items()
    assert objects["PodMonitor"]["spec"]["podMetricsEndpoints"][0]["port"] in ports and ports["metrics"] == 7642
    assert objects["PodMonitor"]["metadata"]["labels"]["team"] == "a"
    # deploy/prometheus finds the agents by this job.
    for kind in ("PodMonitor", "ServiceMonitor"):
        assert objects[kind]["spec"]["jobLabel"] == "app.kubernetes.io/name"
    assert pod["metadata"]["labels"]["app.kubernetes.io/name"] == "penstock"
    assert "WARNING: metrics" in chart.files(values)["templates/NOTES.txt"]


def test_a_monitor_of_loopback_is_refused(chart):
    with pytest.raises(Refused, match="loopback"):
        chart.objects({"monitoring": {"podMonitor": {"enabled": True}}})


def test_rules_and_dashboard_are_those_of_deploy(chart):
    rule = chart.one("PrometheusRule", {"monitoring": {"prometheusRule": {"enabled": True}}})
    assert rule["spec"] == yaml.safe_load((ROOT / "deploy/prometheus/penstock.rules.yaml").read_text())
    own = [{"name": "mine", "rules": []}]
    assert chart.one("PrometheusRule", {"monitoring": {"prometheusRule": {"enabled": True, "groups": own}}})["spec"] == {"groups": own}
    given = {"monitoring": {"dashboard": {"enabled": True, "json": '{"title": "mine"}'}}}
    made = {one["metadata"]["name"]: one for one in chart.objects(given) if one["kind"] == "ConfigMap"}
    assert json.loads(made["penstock-dashboard"]["data"]["penstock.json"]) == {"title": "mine"}
    plain = {"monitoring": {"dashboard": {"enabled": True}}}
    dashboard = ROOT / "deploy/grafana/penstock.json"
    if dashboard.exists() and (CHART / "files/penstock.json").exists():
        made = {one["metadata"]["name"]: one for one in chart.objects(plain) if one["kind"] == "ConfigMap"}
        assert json.loads(made["penstock-dashboard"]["data"]["penstock.json"]) == json.loads(dashboard.read_text())
    else:
        with pytest.raises(Refused, match="not in this chart"):
            chart.objects(plain)


def test_files_are_links_to_what_is_there():
    for path in (CHART / "files").iterdir():
        assert path.is_symlink() and path.resolve().is_relative_to(ROOT / "deploy") and path.exists()


# ---- values ----

NONSENSE = [
    {"image": {"pullPolicy": "Sometimes"}}, {"image": {"tag": "a b"}}, {"image": {"digest": "md5:0"}}, {"image": {"repository": ""}},
    {"imagePullSecret": []}, {"imagePullSecrets": ["name"]}, {"adoptListeners": "yes"}, {"metrics": {"address": "10.0.0.1"}},
    {"metrics": {"port": 0}}, {"metrics": {"port": "7642"}}, {"api": {"tcp": {"port": 70000}}}, {"api": {"tcp": {"enable": True}}},
    {"api": {"tcp": {"tls": {"key": "secret"}}}}, {"api": {"tcp": {"tokens": {"entries": [{"name": "a", "role": "root", "sha256": "ab" * 32}]}}}},
    {"api": {"tcp": {"tokens": {"entries": [{"name": "a", "role": "admin", "sha256": "hunter2"}]}}}},
    {"config": {"datapath": {"engine": "iptables"}}}, {"config": {"datapath": {"adoptListeners": False}}},
    {"config": {"metrics": {"listen": "0.0.0.0:1"}}}, {"config": {"log": {"level": "loud"}}}, {"config": {"flow": {}}},
    {"config": {"datapath": {"auditPeriod": 30}}}, {"maxUnavailable": 0}, {"maxUnavailable": "150%"}, {"updateStrategy": "Recreate"},
    {"state": {"hostPath": "var/lib"}}, {"state": {"hostPath": "/"}}, {"tolerations": {"operator": "Exists"}},
    {"tolerations": [{"operator": "Exist"}]}, {"resources": {"limits": {"memory": "1 GB"}}}, {"resources": {"limit": {}}},
    {"seccompProfile": "Localhost"}, {"monitoring": {"podMonitor": {"interval": "often"}}}, {"uninstall": True}, {"nodeSelector": {"a": 1}},
]


@pytest.mark.parametrize("nonsense", NONSENSE, ids=json.dumps)
def test_nonsense_is_refused(nonsense):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(merge(VALUES, nonsense), SCHEMA)


def test_every_value_is_in_the_schema_and_in_the_table():
    jsonschema.validate(VALUES, SCHEMA)
    documented = {".".join(path) for path, _ in values_table.described((CHART / "values.yaml").read_text())}

    def walk(values, schema, path):
        assert set(values) == set(schema["properties"]) - {"global"}, path
        for key, value in values.items():
            below, where = schema["properties"][key], ".".join([*path, key])
            if where in documented:
                continue
            assert isinstance(value, dict) and "properties" in below, f"{where} has no `# --` line"
            walk(value, below, [*path, key])

    walk(VALUES, SCHEMA, [])
    readme = (CHART / "README.md").read_text()
    assert values_table.written(readme) == readme, "tests/chart/values.py --write"


def test_keys_of_the_configuration_are_the_agents():
    """Those that are documented, without those that other values set."""
    documented = set(re.findall(r"^\| `([a-zA-Z0-9.]+)` \|", (ROOT / "api/configuration.md").read_text(), re.M))
    ours = {"node.name", "api.unix", "api.unixGroup", "metrics.listen", "state.directory", "datapath.pinDirectory", "datapath.adoptListeners"}
    config = SCHEMA["properties"]["config"]["properties"]
    listed = {f"{group}.{key}" for group, below in config.items() for key in below["properties"]}
    wanted = {key for key in documented if "." in key and not key.startswith("api.tcp.")} - ours
    assert listed == wanted, "say in values.schema.json what the configuration can say"


@pytest.mark.parametrize("values", [{}, {"adoptListeners": False}, {"metrics": {"address": "::", "port": 9}},
                                    {"config": {"datapath": {"denyWith": "reject", "connectionsMax": 1000, "workloadInterfaces": ["veth*"]},
                                                "log": {"level": "warn", "format": "json"}, "names": {"holdMax": "50ms"}}}], ids=json.dumps)
def test_the_agent_takes_the_configuration(chart, values, tmp_path):
    path = tmp_path / "penstock.yaml"
    path.write_text(chart.one("ConfigMap", values)["data"]["penstock.yaml"])
    done = subprocess.run([BUILD / "penstockd", "--config", path, "--check"], capture_output=True, text=True, timeout=60)
    assert str(path) not in done.stderr, done.stderr
    printed = yaml.safe_load(done.stdout[:done.stdout.index("\n\n")] if "\n\n" in done.stdout else done.stdout.split("\nBTF")[0])
    assert merge(printed, chart.config(values)) == printed


def test_notes_say_how_to_leave(chart):
    notes = chart.files()["templates/NOTES.txt"]
    assert "uninstall.enabled=true" in notes and "WARNING" not in notes
    assert "nodes are clean" in chart.files({"uninstall": {"enabled": True}})["templates/NOTES.txt"]


def test_names_and_hooks(chart):
    assert chart.one("DaemonSet", name="blue")["metadata"]["name"] == "blue-penstock"
    assert chart.one("DaemonSet", {"fullnameOverride": "node-agent"})["metadata"]["name"] == "node-agent"
    image = chart.agent({"image": {"digest": "sha256:" + "0" * 64, "tag": "x"}})["spec"]["containers"][0]["image"]
    assert image == "localhost/penstock@sha256:" + "0" * 64
    pod, = [one for one in chart.objects(hooks=True) if one["kind"] == "Pod"]
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"


# ---- nodes without Kubernetes ----

def test_the_unit_is_a_unit():
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd-analyze")
    unit = ROOT / "deploy/systemd/penstockd.service"
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=60)
    complaints = [line for line in done.stderr.splitlines() if "penstockd.service" in line and "is not executable" not in line]
    assert not complaints, complaints
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=45", unit], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]
