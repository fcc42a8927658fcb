# SPDX-License-Identifier: Apache-2.0
"""The chart and the manifests: the same objects, no privilege that is not explained."""
import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from charts import BUILD, CHART, KEY, OPEN, PEM, ROOT, TCP, Refused, merge

sys.path.insert(0, str(ROOT / "tests/e2e"))
from lab import Lab  # noqa: E402


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


def test_what_an_agent_of_a_node_needs(chart):
    daemonset = chart.one("DaemonSet")["spec"]
    pod = daemonset["template"]["spec"]
    assert daemonset["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}}
    assert chart.one("DaemonSet", {"updateStrategy": "OnDelete"})["spec"]["updateStrategy"] == {"type": "OnDelete"}
    assert pod["priorityClassName"] == "system-node-critical" and pod["tolerations"] == [{"operator": "Exists"}]
    assert chart.one("ServiceAccount")["automountServiceAccountToken"] is False
    mounts = {mount["mountPath"]: (mount.get("readOnly", False), mount.get("mountPropagation")) for mount in pod["containers"][0]["volumeMounts"]}
    assert mounts == {"/sys/fs/bpf": (False, "HostToContainer"), "/sys/fs/cgroup": (True, "HostToContainer"), "/etc/penstock": (True, None),
                      "/var/lib/penstock": (False, None), "/run/penstock": (False, None)}
    assert {v["hostPath"]["path"] for v in pod["volumes"] if "hostPath" in v} == mounts.keys() - {"/etc/penstock"}


@pytest.mark.parametrize("address, host", [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("::1", "::1")])
def test_probes_are_on_loopback(chart, address, host):
    agent, = chart.agent({"metrics": {"address": address}})["spec"]["containers"]
    asked = {probe: agent[f"{probe}Probe"]["httpGet"] for probe in ("startup", "liveness", "readiness")}
    assert asked == {probe: {"host": host, "port": "metrics", "path": "/readyz" if probe == "readiness" else "/healthz"} for probe in asked}


@pytest.mark.parametrize("path", ["helm/penstock/templates/daemonset.yaml", "deploy/kubernetes/daemonset.yaml"])
def test_what_is_the_hosts_has_its_reason_above_it(path):
    lines = [line.strip() for line in (ROOT / path).read_text().splitlines()]
    for key in ("hostNetwork: true", "hostPID: true", "- name: bpffs", "- name: cgroup", "- name: run"):
        at = lines.index(key)
        above = next(line for line in reversed(lines[:at]) if not line.startswith("{{"))
        assert re.match(r"# .{20}", above), key


@pytest.mark.parametrize("path", ["helm/penstock/templates/_helpers.tpl", "deploy/kubernetes/daemonset.yaml"])
def test_every_capability_has_its_reason_beside_it(path):
    lines = [line for line in (ROOT / path).read_text().splitlines() if re.match(r"^ *- [A-Z_]+\b", line)]
    assert len(lines) >= len(NEEDED + ADOPTING)
    for line in lines:
        assert re.match(r"^ *- [A-Z_]+ # .{20}", line), line


def test_only_the_mount_of_bpffs_is_privileged(chart):
    for values, wanted in (({}, ["mount-bpffs"]), ({"uninstall": {"enabled": True}}, ["mount-bpffs", "unmount-bpffs"])):
        pod = chart.agent({"bpffs": {"mount": True}, **values})["spec"]
        privileged = [c["name"] for c in pod["initContainers"] + pod["containers"] if c["securityContext"].get("privileged")]
        assert privileged == wanted
        assert pod["initContainers"][-1]["name"] == wanted[-1], "what is pinned goes before the mount"
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


def test_the_uninstaller_needs_no_secret(chart):
    values = {"api": {"tcp": TCP}, "uninstall": {"enabled": True}}
    assert "api" not in chart.config(values)
    assert not {v["name"] for v in chart.agent(values)["spec"]["volumes"]} & {"tls", "tokens"}


# ---- monitoring ----

def test_monitors_find_the_agents(chart):
    objects = {}
    for kind in ("podMonitor", "serviceMonitor"):
        values = {**OPEN, "nameOverride": "stock", "monitoring": {kind: {"enabled": True, "labels": {"team": "a"}}}}
        objects |= {one["kind"]: one for one in chart.objects(values)}
        assert "WARNING: metrics" in chart.files(values)["templates/NOTES.txt"]
    pod = objects["DaemonSet"]["spec"]["template"]
    labels = pod["metadata"]["labels"].items()
    ports = {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]}
    assert objects["PodMonitor"]["spec"]["selector"]["matchLabels"].items() <= labels
    assert objects["Service"]["spec"]["selector"].items() <= labels
    assert objects["ServiceMonitor"]["spec"]["selector"]["matchLabels"].items() <= objects["Service"]["metadata"]["labels"].items()
    assert objects["PodMonitor"]["spec"]["podMetricsEndpoints"][0]["port"] in ports and ports["metrics"] == 7642
    assert objects["PodMonitor"]["metadata"]["labels"]["team"] == "a"
    # deploy/prometheus finds the agents by this job, whatever the objects are called.
    for kind, key in (("PodMonitor", "podMetricsEndpoints"), ("ServiceMonitor", "endpoints")):
        relabelings = objects[kind]["spec"][key][0]["relabelings"]
        assert {"targetLabel": "job", "replacement": "penstock"} in relabelings
        # … and calls them by their nodes, as its scrape example does.
        assert {"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "instance"} in relabelings


def test_rules_and_dashboard_are_those_of_deploy(chart):
    rule = chart.one("PrometheusRule", {"monitoring": {"prometheusRule": {"enabled": True}}})
    assert rule["spec"] == yaml.safe_load((ROOT / "deploy/prometheus/penstock.rules.yaml").read_text())
    own = [{"name": "mine", "rules": []}]
    assert chart.one("PrometheusRule", {"monitoring": {"prometheusRule": {"enabled": True, "groups": own}}})["spec"] == {"groups": own}
    given = {"monitoring": {"dashboard": {"enabled": True, "json": '{"panels": []}'}}}
    made = {one["metadata"]["name"]: one for one in chart.objects(given) if one["kind"] == "ConfigMap"}
    assert json.loads(made["penstock-dashboard"]["data"]["penstock.json"]) == {"panels": []}
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


# ---- names, notes, hooks ----

def test_notes_say_how_to_leave(chart):
    notes = chart.files({"image": {"repository": "registry.example/penstock"}})["templates/NOTES.txt"]
    assert "leaves every node enforcing the last policy" in notes and "uninstall.enabled=true" in notes and "WARNING" not in notes
    assert "WARNING: image.repository is localhost/penstock" in chart.files()["templates/NOTES.txt"]
    assert "nodes are clean" in chart.files({"uninstall": {"enabled": True}})["templates/NOTES.txt"]


def test_names_and_hooks(chart):
    assert chart.one("DaemonSet", name="blue")["metadata"]["name"] == "blue-penstock"
    assert chart.one("DaemonSet", {"fullnameOverride": "node-agent"})["metadata"]["name"] == "node-agent"
    image = chart.agent({"image": {"digest": "sha256:" + "0" * 64, "tag": "x"}})["spec"]["containers"][0]["image"]
    assert image == "localhost/penstock@sha256:" + "0" * 64
    pod, = [one for one in chart.objects(hooks=True) if one["kind"] == "Pod"]
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"


def test_labels_of_everything(chart):
    values = {"commonLabels": {"team": "net", "tier": "1"}, "podLabels": {"tier": "2"}, "priorityQuota": True, "api": {"tcp": TCP}, **OPEN,
              "monitoring": {"serviceMonitor": {"enabled": True}, "dashboard": {"enabled": True}, "prometheusRule": {"enabled": True}}}
    objects = chart.objects(values, hooks=True)
    assert {one["kind"] for one in objects} >= {"ConfigMap", "DaemonSet", "Pod", "PrometheusRule", "ResourceQuota", "Secret", "Service"}
    for one in objects:
        assert one["metadata"]["labels"]["team"] == "net", one["metadata"]["name"]
    daemonset, = [one for one in objects if one["kind"] == "DaemonSet"]
    assert daemonset["spec"]["template"]["metadata"]["labels"].items() >= {"team": "net", "tier": "2"}.items()
    assert "team" not in daemonset["spec"]["selector"]["matchLabels"]
    quota, = [one for one in objects if one["kind"] == "ResourceQuota"]
    assert quota["spec"]["scopeSelector"]["matchExpressions"][0]["values"] == [daemonset["spec"]["template"]["spec"]["priorityClassName"]]


EVERYTHING = {"bpffs": {"mount": True}, "api": {"tcp": TCP}, "capabilities": {"sysResource": True}, "seLinuxOptions": {"type": "spc_t"},
              "imagePullSecrets": [{"name": "x"}], "podAnnotations": {"a": "1"}, "affinity": {"nodeAffinity": {
                  "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]}}}}


@pytest.mark.parametrize("values, kube", [({}, "v1.29.0"), (EVERYTHING, "v1.29.0"), ({**EVERYTHING, "uninstall": {"enabled": True}}, "v1.29.0"),
                                          (EVERYTHING, "v1.30.0"), ({"updateStrategy": "OnDelete", "adoptListeners": False}, "v1.29.0")])
def test_pods_have_kubernetes_fields_alone(chart, values, kube):
    """kubectl reads them as the types of Kubernetes' API: what has a wrong type is refused, what is unknown is gone."""
    if not shutil.which("kubectl"):
        pytest.skip("no kubectl")
    version = subprocess.run(["kubectl", "version", "--client", "-o", "json"], capture_output=True, text=True, timeout=60, check=True).stdout
    for one in chart.objects(values, hooks=True, kube=kube):
        if one["kind"] not in ("DaemonSet", "Pod"):
            continue
        if kube == "v1.30.0" and int(re.match(r"\d+", json.loads(version)["clientVersion"]["minor"]).group()) < 30:
            pytest.skip("this kubectl is of before 1.30, which brought appArmorProfile")
        done = subprocess.run(["kubectl", "set", "image", "--local", "-o", "json", "-f", "-", "*=an-image"], input=json.dumps(one), text=True,
                              capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert not lost(one, json.loads(done.stdout)), one["kind"]


def lost(given, taken, path=""):
    """Where something of what is given is not in what was taken."""
    if path.endswith("/image"):
        return []
    if isinstance(given, dict) and isinstance(taken, dict):
        return [where for key, value in given.items() if value not in (False, 0, "", [], {})
                for where in lost(value, taken.get(key), f"{path}/{key}")]
    if isinstance(given, list) and isinstance(taken, list) and len(given) == len(taken):
        return [where for i, value in enumerate(given) for where in lost(value, taken[i], f"{path}/{i}")]
    return [] if given == taken else [path]


FIELDS = {  # of the kinds that are not pods
    "ConfigMap": {"data"}, "Secret": {"type", "data"}, "ServiceAccount": {"automountServiceAccountToken"},
    "Service": {"spec", "spec/clusterIP", "spec/selector", "spec/ports"}, "ResourceQuota": {"spec", "spec/hard", "spec/scopeSelector"},
    "PodMonitor": {"spec", "spec/selector", "spec/podMetricsEndpoints"}, "ServiceMonitor": {"spec", "spec/selector", "spec/endpoints"},
    "PrometheusRule": {"spec", "spec/groups"},
}


@pytest.mark.parametrize("monitor", ["podMonitor", "serviceMonitor"])
def test_other_objects_have_known_fields_alone(chart, monitor):
    values = {"priorityQuota": True, "api": {"tcp": TCP}, **OPEN,
              "monitoring": {monitor: {"enabled": True}, "dashboard": {"enabled": True}, "prometheusRule": {"enabled": True}}}
    names = set()
    for one in chart.objects(values):
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", one["metadata"]["name"]) and (one["kind"], one["metadata"]["name"]) not in names
        names.add((one["kind"], one["metadata"]["name"]))
        if one["kind"] == "DaemonSet":
            continue
        fields = set(one) - {"apiVersion", "kind", "metadata"} | {f"spec/{key}" for key in one.get("spec", {})}
        assert fields == FIELDS[one["kind"]], one["kind"]
        assert set(one["metadata"]) == {"name", "namespace", "labels"}, one["kind"]
        for value in one.get("data", {}).values():
            assert isinstance(value, str)
            assert one["kind"] != "Secret" or base64.b64decode(value, validate=True)


def test_the_description_is_artifact_hubs():
    """Keys and values of artifacthub.io/docs/topics/annotations/helm."""
    annotations = yaml.safe_load((CHART / "Chart.yaml").read_text())["annotations"]
    known = {"category", "license", "operator", "prerelease", "containsSecurityUpdates", "images", "changes"}
    assert {key.removeprefix("artifacthub.io/") for key in annotations} == known
    value = {key.removeprefix("artifacthub.io/"): text for key, text in annotations.items()}
    assert all(isinstance(text, str) for text in value.values())
    assert value["category"] in {"ai-machine-learning", "database", "integration-delivery", "monitoring-logging", "networking", "security", "storage",
                                 "streaming-messaging"}
    assert {value[key] for key in ("operator", "prerelease", "containsSecurityUpdates")} <= {"true", "false"}
    for change in yaml.safe_load(value["changes"]):
        assert set(change) == {"kind", "description"} and change["kind"] in {"added", "changed", "deprecated", "removed", "fixed", "security"}
    for image in yaml.safe_load(value["images"]):
        assert set(image) == {"name", "image"} and image["image"] == "localhost/penstock:" + yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]


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
