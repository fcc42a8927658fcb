# SPDX-License-Identifier: Apache-2.0
"""The chart's values: documented, no nonsense, and what the schema takes the agent takes."""
import json
import re
import subprocess

import jsonschema
import pytest
import yaml

import values as values_table
from charts import BUILD, CHART, KEY, OPEN, PEM, ROOT, SCHEMA, VALUES, Refused, merge

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
    {"nodeSelector": {"a b": "c"}}, {"podLabels": {"a": "b c"}}, {"commonLabels": {"a": "b c"}}, {"podAnnotations": {"a": 1}},
    {"image": {"repository": "localhost/penstock:0.1.0"}}, {"image": {"repository": "https://a/b"}}, {"image": {"tag": "-x"}}, {"image": {"tag": 1}},
    {"imagePullSecrets": [{"name": ""}]}, {"nameOverride": "a.b"}, {"fullnameOverride": "a" * 51}, {"fullnameOverride": "A"},
    {"metrics": {"port": -1}}, {"metrics": {"port": 80}}, {"metrics": {"port": 1e5}}, {"metrics": {"address": "localhost"}},
    {"api": {"tcp": {"port": 10250}}}, {"api": {"tcp": {"address": "999.1.1.1"}}}, {"api": {"tcp": {"address": "::::"}}},
    {"api": {"tcp": {"tls": {"addresses": ["1.2.3"]}}}}, {"api": {"tcp": {"tls": {"names": ["a b"]}}}},
    {"api": {"tcp": {"tokens": {"entries": [{"name": "a#b", "role": "admin", "sha256": "ab" * 32}]}}}},
    {"state": {"hostPath": "/var/../penstock"}}, {"state": {"hostPath": "/penstock: x"}}, {"affinity": {"podAffinty": {}}}, {"affinity": []},
    {"resources": {"requests": {"memroy": "1Gi"}}}, {"resources": {"limits": {"memory": "0"}}}, {"resources": {"limits": {"memory": -5}}},
    {"resources": {"limits": {"memory": "1..5Gi"}}}, {"resources": {"requests": {"cpu": "50Mi"}}},
    {"tolerations": [{"key": "a", "operator": "Exists", "value": "x"}]}, {"tolerations": [{"operator": "Equal", "value": "b"}]},
    {"tolerations": [{"key": "a", "tolerationSeconds": 5, "effect": "NoSchedule"}]}, {"maxUnavailable": -1}, {"maxUnavailable": "0%"},
    {"terminationGracePeriodSeconds": -1}, {"priorityQuota": "yes"}, {"bpffs": {"mount": "true"}}, {"priorityClassName": "System Node"},
    {"monitoring": {"podMonitor": {"interval": "0s"}}}, {"monitoring": {"podMonitor": {"labels": {"a b": "c"}}}},
    {"monitoring": {"prometheusRule": {"groups": [{"name": "a", "rules": {}}]}}}, {"config": "x"}, {"config": {"api": {"unix": "/x"}}},
    {"config": {"api": {"tcp": {"listen": "0.0.0.0:1"}}}}, {"config": {"names": {"resolvers": ["dns.example"]}}},
]
NONSENSE += [{"config": {group: {key: value}}} for group, key, value in [
    ("api", "bodyMax", 0), ("api", "bodyMax", "lots"), ("datapath", "markMask", "some"), ("datapath", "markMask", -1), ("datapath", "routeTable", 254),
    ("datapath", "routeTable", 0), ("datapath", "rulePriority", 32766), ("datapath", "connectionsMax", 0), ("datapath", "connectionsMax", 2 ** 27),
    ("datapath", "auditPeriod", "1ms"), ("datapath", "auditPeriod", "2h"), ("datapath", "workloadInterfaces", ["veth *"]),
    ("datapath", "managementPorts", ["ssh"]), ("names", "holdMax", "1h"), ("names", "addressesMax", 0), ("flows", "keep", 2 ** 32),
    ("alerts", "portScan", 5000), ("alerts", "denyFactor", 0), ("alerts", "tableNearlyFull", 101), ("alerts", "synFlood", 2 ** 31)]]


@pytest.mark.parametrize("nonsense", NONSENSE, ids=json.dumps)
def test_nonsense_is_refused(nonsense):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(merge(VALUES, nonsense), SCHEMA)


def closed(schema, path=()):
    """Every object of the schema that names its keys, by where it is."""
    if "properties" in schema:
        yield path
        for key, below in schema["properties"].items():
            yield from closed(below, (*path, key))
    if isinstance(schema.get("items"), dict):
        yield from closed(schema["items"], (*path, 0))


@pytest.mark.parametrize("path", [path for path in closed(SCHEMA) if "groups" not in path], ids=str)
def test_a_misspelt_key_is_refused_wherever_it_is(path):
    nonsense = {"misspelt": 1}
    for key in reversed(path):
        nonsense = {key: nonsense} if key else [nonsense]
    with pytest.raises(jsonschema.ValidationError, match="misspelt"):
        jsonschema.validate(merge(VALUES, nonsense), SCHEMA)


SMALL = {"resources": {"limits": {"memory": "400Mi"}}}


@pytest.mark.parametrize("values, said", [
    ({"monitoring": {"podMonitor": {"enabled": True}}}, "loopback"),
    ({**OPEN, "monitoring": {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}}, "either"),
    ({"monitoring": {"dashboard": {"enabled": True, "json": "{nonsense"}}}, "monitoring.dashboard.json"),
    ({"podLabels": {"app.kubernetes.io/name": "x"}}, "podLabels: app.kubernetes.io/name"),
    ({"commonLabels": {"helm.sh/chart": "x"}}, "commonLabels: helm.sh/chart"),
    ({"podAnnotations": {"checksum/config": "x"}}, "podAnnotations: checksum/config"),
    ({"podAnnotations": {"container.apparmor.security.beta.kubernetes.io/agent": "x"}}, "podAnnotations: container"),
    # An uninstall would empty these folders.
    ({"state": {"hostPath": "/etc"}}, "state.hostPath: .* /etc"), ({"state": {"hostPath": "/var/lib/kubelet"}}, "state.hostPath"),
    ({"priorityQuota": True, "priorityClassName": ""}, "priorityClassName, which is empty"),
    ({"config": {"datapath": {"unclaimed": "deny"}}}, "workloadInterfaces"),
    ({"config": {"datapath": {"markMask": 0x40000000}}}, "fewer than the 2 bits"),
    ({"config": {"datapath": {"markMask": "0x10"}}}, "fewer than the 2 bits"),
    ({"resources": {"limits": {"memory": "300Mi"}}}, "memory: 300Mi is less than 356Mi.* 524288"),
    ({"resources": {"limits": {"memory": "0.3Gi"}}}, "memory: 0.3Gi is less than 356Mi"),
    ({"resources": {"limits": {"memory": 300000000}}}, "is less than 356Mi"),
    ({"config": {"datapath": {"connectionsMax": 4000000}}}, "memory: 1Gi is less than 1867Mi.* 4000000"),
    ({"resources": {"requests": {"memory": "1.05Gi"}}}, "requests.memory: 1.05Gi is more"),
], ids=json.dumps)
def test_what_contradicts_itself_is_refused(chart, values, said):
    jsonschema.validate(merge(VALUES, values), SCHEMA)
    with pytest.raises(Refused, match=said):
        chart.objects(values)


def test_what_only_just_fits_is_taken(chart):
    for values in ({"resources": {"limits": {"memory": "356Mi"}}}, {"resources": {"limits": {"memory": 373293056}}},
                   {"resources": {"limits": {"memory": "0.35Gi"}}}, {"resources": {"requests": {"memory": "1024Mi"}}},
                   {"resources": {"limits": {"memory": None}}}, {"resources": {}}, {"state": {"hostPath": "/data/my-penstock.0"}},
                   {**SMALL, "config": {"datapath": {"connectionsMax": 600000}}}, {"config": {"datapath": {"markMask": "0x30", "connectionsMax": 1}}},
                   {"commonLabels": None, "priorityQuota": None},  # --reuse-values of a release that did not have them
                   {"image": {"repository": "registry.example:5000/team/penstock", "tag": "v0.1.0_a"}}):
        assert chart.objects(values)


def test_patterns_are_for_helm_too():
    """Helm's are of Go, which has no look-around."""
    def patterns(schema):
        for key, value in schema.items() if isinstance(schema, dict) else enumerate(schema):
            if key == "pattern" and isinstance(value, str):
                yield value
            elif isinstance(value, (dict, list)):
                yield from patterns(value)
    found = list(patterns(SCHEMA))
    assert len(found) > 20 and not [one for one in found if re.search(r"\(\?|\\[1-9dw]", one)]


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


EXTREMES = [  # of what the schema takes
    {"api": {"bodyMax": 1}, "datapath": {"markMask": 3, "routeTable": 1, "rulePriority": 1, "connectionsMax": 1, "auditPeriod": "100ms", "managementPorts": [1]},
     "names": {"resolvers": ["::", "fd00::1:2"], "holdMax": "0ms", "addressesMax": 1}, "flows": {"keep": 0},
     "alerts": {"portScan": 0, "synFlood": 0, "denySpike": 0, "denyFactor": 1, "tableNearlyFull": 0}},
    {"api": {"bodyMax": "9999999999k"}, "datapath": {"markMask": "0xFFFFFFFF", "routeTable": 4294967295, "rulePriority": 32765, "connectionsMax": 1000000,
                                              "auditPeriod": "60m", "workloadInterfaces": ["lxc*", "veth0123456789a"], "unclaimed": "deny"},
     "names": {"resolvers": ["255.255.255.255"], "holdMax": "0.5s", "addressesMax": 67108864}, "flows": {"keep": 67108864},
     "alerts": {"portScan": 4096, "synFlood": 1000000000, "denySpike": 1000000000, "denyFactor": 1000, "tableNearlyFull": 100}},
]


@pytest.mark.parametrize("values", [{}, {"adoptListeners": False}, {"metrics": {"address": "::", "port": 9100}},
                                    {"config": {"datapath": {"denyWith": "reject", "connectionsMax": 1000, "workloadInterfaces": ["veth*"]},
                                                "log": {"level": "warn", "format": "json"}, "names": {"holdMax": "50ms"}}},
                                    {"config": EXTREMES[0]}, {"config": EXTREMES[1]}], ids=json.dumps)
def test_the_agent_takes_the_configuration(chart, values, tmp_path):
    path = tmp_path / "penstock.yaml"
    path.write_text(chart.one("ConfigMap", values)["data"]["penstock.yaml"])
    done = subprocess.run([BUILD / "penstockd", "--config", path, "--check"], capture_output=True, text=True, timeout=60)
    assert str(path) not in done.stderr, done.stderr
    printed = yaml.safe_load(done.stdout[:done.stdout.index("\n\n")] if "\n\n" in done.stdout else done.stdout.split("\nBTF")[0])
    if values.get("config") not in EXTREMES:  # which it prints in units of its own
        assert merge(printed, chart.config(values)) == printed


# ---- the API over TCP ----

HASHED = {"name": "a", "role": "admin", "sha256": "ab" * 32}
MADE, GIVEN = {"generate": True}, {"certificate": PEM, "key": KEY}


@pytest.mark.parametrize("tcp, said", [
    ({"tls": {}, "tokens": MADE}, "needs a certificate: .*existingSecret"),
    ({"tls": {"certificate": PEM}, "tokens": MADE}, "certificate and its key"),
    ({"tls": {"key": KEY, **MADE}, "tokens": MADE}, "certificate and its key"),
    ({"tls": MADE}, "needs to know who may"),
    ({"tls": MADE, "clientCertificates": True}, "needs their authority"),
    ({"tls": {"existingSecret": "x", **MADE}, "tokens": MADE}, "existingSecret has all"),
    ({"tls": {"existingSecret": "x", **GIVEN}, "tokens": MADE}, "existingSecret has all"),
    ({"tls": {"existingSecret": "x", "clientCA": PEM}, "clientCertificates": True}, "existingSecret has all"),
    ({"tls": {**MADE, **GIVEN}, "tokens": MADE}, "one of them"),
    ({"tls": {"clientCA": PEM, **MADE}, "tokens": MADE}, "clientCA is read with"),
    ({"tls": {"existingSecret": "x", "addresses": ["10.0.0.1"]}, "tokens": MADE}, "for api.tcp.tls.generate"),
    ({"tls": {"names": ["x"], **GIVEN}, "tokens": MADE}, "for api.tcp.tls.generate"),
    ({"tls": MADE, "tokens": {"existingSecret": "x", **MADE}}, "has all tokens"),
    ({"tls": MADE, "tokens": {"existingSecret": "x", "entries": [HASHED]}}, "has all tokens"),
    ({"tls": MADE, "tokens": MADE, "port": 7642}, "are both 7642"),
])
def test_unsafe_combinations_are_refused(chart, tcp, said):
    with pytest.raises(Refused, match=said):
        chart.objects({"api": {"tcp": {"enabled": True, **tcp}}})
