# SPDX-License-Identifier: Apache-2.0
"""deploy/prometheus and deploy/grafana: they parse, they ask for what the agent exposes, and an alert comes when it should."""
import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from lab import ALLOW, DENY, REPOSITORY, Probe
from objects import intercept, policy, proxy
from prometheus import LISTEN, Prometheus
from scenes import eventually, member, results

ROOT = pathlib.Path(REPOSITORY)
HERE = ROOT / "deploy" / "prometheus"
RULES = HERE / "penstock.rules.yaml"
GROUPS = yaml.safe_load(RULES.read_text())["groups"]
ALERTS = [rule for group in GROUPS for rule in group["rules"] if "alert" in rule]
RECORDINGS = {rule["record"]: rule["expr"] for group in GROUPS for rule in group["rules"] if "record" in rule}
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "penstock.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
CHOSEN = 'cluster=~"$cluster",job=~"$job",instance=~"$instance"'
UNITS = {"short", "s", "bytes", "Bps", "pps", "cps", "eps", "reqps", "percentunit"}  # Grafana's names
TARGET = {"cluster", "job", "instance"}  # a label of the scraper's, where there are several

# ---- what an expression asks for ----

NAME = r"[a-zA-Z_:][\w:]*"
WORDS = {"and", "or", "unless", "offset", "bool", "by", "without", "on", "ignoring"}


def reference():
    """{metric: labels} of api/metrics.md, with the series of histograms."""
    found = {}
    for name, kind, labels in re.findall(r"^\| `(\w+)` \| (\w+) \| (?:`(.+?)`)? ?\|", (ROOT / "api" / "metrics.md").read_text(), re.M):
        have = {label.strip() for label in labels.split(",") if label}
        if kind == "histogram":
            found |= {f"{name}_bucket": have | {"le"}, f"{name}_sum": have, f"{name}_count": have}
        else:
            found[name] = have
    return found


def selectors(expression):
    """[(metric, [(label, operator, value)])], and the labels that are grouped or matched by."""
    texts = []

    def keep(match):
        texts.append(match[1])
        return f"<{len(texts) - 1}>"
    plain = re.sub(r'"((?:[^"\\]|\\.)*)"', keep, re.sub(r"\[[^\]]*\]", "", expression))
    grouped = {label.strip() for labels in re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", plain) for label in labels.split(",")}
    plain = re.sub(r"\b(by|without|on|ignoring)\s*\([^)]*\)", "", plain)
    found = []
    for name, inside in re.findall(rf"(?<![\w$])({NAME})(?!\w)(?!\s*\()(?:\{{([^}}]*)\}})?", plain):
        if name not in WORDS:
            found.append((name, [(label, operator, texts[int(at)])
                                 for label, operator, at in re.findall(r"(\w+)\s*(=~|!~|!=|=)\s*<(\d+)>", inside)]))
    return found, grouped


def asked():
    """(where, expression) of rules, the dashboard's panels and its annotations; variables as Grafana puts them in."""
    for name, expression in RECORDINGS.items():
        yield name, expression
    for rule in ALERTS:
        yield rule["alert"], rule["expr"]
    for where, expression in shown():
        yield where, filled(expression)


def shown():
    for panel in PANELS:
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", target["expr"]
    for annotation in DASHBOARD["annotations"]["list"]:
        if not annotation.get("builtIn"):
            yield annotation["name"], annotation["expr"]


def filled(expression):
    for name, value in (("$__rate_interval", "1m"), ("$__range", "5m"), ("$cluster", ".*"), ("$job", "penstock"), ("$instance", ".+")):
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression


@pytest.mark.pure
def test_selectors():
    """The tests' own reading of PromQL."""
    assert selectors('a / ignoring (x) sum by (y, z) (rate(b_total{c=~"d|}",e!="f"}[5m] offset 1h)) > 0.5 and on (job) i:b:rate') == (
        [("a", []), ("b_total", [("c", "=~", "d|}"), ("e", "!=", "f")]), ("i:b:rate", [])], {"x", "y", "z", "job"})


@pytest.mark.pure
def test_only_what_is_exposed_is_asked_for():
    known = reference() | {"up": set()}
    words = set(re.findall(r"\w+", "".join((ROOT / "api" / name).read_text() for name in ("metrics.md", "openapi.yaml"))))
    used = set()
    for where, expression in asked():
        metrics, grouped = selectors(expression)
        assert metrics, where
        labels = set(TARGET)
        for name, matchers in metrics:
            assert name in known or name in RECORDINGS, f"{where}: {name} is not a metric of the agent"
            have = TARGET | (known[name] if name in known else set(name.split(":")[0].split("_")))
            labels |= have
            used.add(re.sub("_(bucket|count|sum)$", "", name))
            for label, operator, value in matchers:
                assert label in have, f"{where}: {name} has no label {label}"
                for word in value.split("|") if label not in TARGET and re.fullmatch(r"[\w|]+", value) else ():
                    assert {word, word.lower()} & words, f"{where}: {label}{operator}{value}: {word} is written nowhere"
        assert grouped <= labels, f"{where}: {grouped - labels} are labels of nothing there"
    everything = {re.sub("_(bucket|count|sum)$", "", name) for name in known if name.startswith("penstock_")}
    assert everything <= used, f"nobody looks at {everything - used}"


# ---- rules ----

def promtool(*arguments):
    tool = shutil.which("promtool")
    if not tool:
        pytest.skip("promtool is not installed (package prometheus)")
    done = subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=120, cwd=HERE)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.pure
def test_promtool():
    promtool("check", "config", "prometheus.yml")  # with the rules it names
    promtool("test", "rules", "penstock.tests.yaml")


@pytest.mark.pure
def test_the_scrape_examples_in_comments(tmp_path):
    """Each job alone is a configuration; without its discovery in Kubernetes, which Debian's build leaves out."""
    jobs = re.split(r"^  (?:# )?- job_name:", (HERE / "prometheus.yml").read_text(), flags=re.M)[1:]
    assert len(jobs) == 3
    for job in jobs:
        lines = [re.sub(r"^  # ", "  ", line) for line in ("  - job_name:" + job).splitlines() if not re.match(r"  # \d\. ", line)]
        config = yaml.safe_load("scrape_configs:\n" + "\n".join(lines))
        found = config["scrape_configs"][0].pop("kubernetes_sd_configs", [])
        assert all(one["role"] == "pod" and one["selectors"][0]["label"] == "app.kubernetes.io/name=penstock" for one in found)
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
        promtool("check", "config", "--syntax-only", str(tmp_path / "prometheus.yml"))


def anchors(path):
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.+)$", path.read_text(), re.M)}


@pytest.mark.pure
def test_every_alert_says_what_to_do():
    commands = set(re.findall(r'^\t\{"(\w+)", "', (ROOT / "api" / "cli" / "command.c").read_text(), re.M))
    tested = (HERE / "penstock.tests.yaml").read_text()
    assert {"status", "doctor", "flows", "explain"} <= commands
    for rule in ALERTS:
        name, notes = rule["alert"], rule["annotations"]
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        assert set(notes) == {"summary", "description", "runbook_url"} and len(notes["summary"]) < 120, name
        path, anchor = notes["runbook_url"].split("#")
        assert anchor in anchors(ROOT / path), name
        says = set(re.findall(r"`penstock (\w+)", notes["description"]))
        assert says and says <= commands, (name, says)
        assert f'alertname="{name}"' in tested and f'severity="{rule["labels"]["severity"]}"' in tested, f"{name} is not tested"
    told = (ROOT / "api" / "observing.md").read_text()
    assert set(re.findall(r"`(Penstock\w+)`", told)) == {rule["alert"] for rule in ALERTS}
    for name in RECORDINGS:
        assert re.fullmatch(r"instance(_[a-z]+)*:penstock_[a-z_]+:\w+", name), f"{name} is not LEVEL:METRIC:OPERATIONS"


# ---- the dashboard ----

@pytest.mark.pure
def test_the_dashboard_is_well_made():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken = {}
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] >= 0 and at["x"] + at["w"] <= 24, panel["title"]
        for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            assert taken.setdefault(cell, panel["title"]) == panel["title"], f"{panel['title']} lies over {taken[cell]}"
    for panel in PANELS:
        title = panel["title"]
        assert title and len(panel["description"]) > 40, title
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, title
        assert panel["datasource"]["uid"] == "${datasource}", title
        references = [target["refId"] for target in panel["targets"]]
        assert references and len(set(references)) == len(references), title
        if panel["type"] == "timeseries" and all(target["expr"].endswith("> 0") for target in panel["targets"]):
            assert panel["fieldConfig"]["defaults"]["noValue"] == "none", f"{title}: nothing is well, and no missing data"
        for target in panel["targets"]:
            # A thousand nodes are not a thousand lines: the highest, or those that something happens to.
            if panel["type"] == "timeseries" and "{{instance}}" in target["legendFormat"]:
                assert target["expr"].startswith("topk(10, ") or target["expr"].endswith("> 0"), title
            assert target["datasource"]["uid"] == "${datasource}", title
            assert target["legendFormat"] != "__auto" or target.get("format") == "table", f"{title}: a legend"
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert label in selectors(target["expr"])[1] | TARGET, f"{title}: {label} is not left to be shown"
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    for where, expression in shown():
        assert expression.count(CHOSEN) == len(selectors(expression)[0]), f"{where}: not of the agents that are chosen"


@pytest.mark.pure
def test_the_dashboard_can_be_brought_in_anywhere():
    assert DASHBOARD["id"] is None and DASHBOARD["uid"] == "penstock" and DASHBOARD["schemaVersion"] == 42
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "cluster", "job", "instance"] and variables["datasource"]["query"] == "prometheus"
    assert variables["instance"]["multi"] and variables["instance"]["includeAll"]
    assert variables["cluster"]["includeAll"] and variables["cluster"]["allValue"] == ".*"  # also those without such a label
    text = json.dumps(DASHBOARD)
    assert set(re.findall(r'"uid": "([^"]+)"', text)) == {"penstock", "${datasource}", "-- Grafana --"}
    assert "localhost" not in text and "http" not in text


# ---- a real Prometheus with a real agent ----

# An alert that waits a minute would cost the test as much: this one waits a second in a copy of the rules. All else is as it is.
SHORTENED = "PenstockProxyDown"
# A proxy for the agent's eyes: it listens until it is killed.
GATEWAY = "import socket, time; s = socket.socket(); s.bind(('0.0.0.0', 15001)); s.listen(); time.sleep(600)"


def shortened(path):
    for group in (copy := json.loads(json.dumps(GROUPS))):
        group["rules"] = [{**rule, "for": "1s"} if rule.get("alert") == SHORTENED else rule for rule in group["rules"]]
    path.write_text(json.dumps({"groups": copy}))
    return path


@pytest.fixture
def node(lab, tmp_path):
    if not shutil.which("prometheus"):
        pytest.skip("prometheus is not installed (package prometheus)")
    lab.a, lab.b, lab.c = (lab.pod(name) for name in "abc")
    lab.prober.listen(lab.b, 80, "TCP")
    lab.gateway = lab.node.popen(sys.executable, "-c", GATEWAY)
    lab.running = lab.agent(metrics={"listen": f"127.0.0.1:{LISTEN}"})
    lab.running.api.put_state([
        policy("s", "b-in", {"name": "b"}, ingress=[{"from": [{"podSelector": {"matchLabels": {"name": "a"}}}]}]), proxy("gw", 15001),
        intercept("out", {"name": "a"}, [{"name": "out", "action": "Intercept", "proxy": "gw", "to": [{"networks": ["192.0.2.0/24"]}]}]),
        *[member(n, p, interface=p.interface) for n, p in lab.pods.items()]])
    eventually(lambda: lab.running.api.metrics()("penstock_proxy_up", proxy="gw") == 1)
    prometheus = Prometheus(lab, shortened(tmp_path / "rules.yaml"))
    try:
        yield lab, prometheus
    finally:
        prometheus.close()
        lab.gateway.kill()
        lab.gateway.wait()


def silent(prometheus):
    """What the dashboard shows nothing of, beside what it shows only when it happens."""
    return {where for where, expression in shown() if not expression.endswith("> 0") and not prometheus.query(filled(expression))}


def none_left(look, what, timeout=20):
    try:
        eventually(lambda: not look(), timeout)
    except AssertionError:
        raise AssertionError(f"{what}: {look()}") from None


def test_a_real_prometheus(node):
    lab, prometheus = node
    eventually(prometheus.scraped, 30)
    for where, expression in asked():
        assert not prometheus.parses(expression), f"{where}: {prometheus.parses(expression)}"

    assert results(lab, lab.a, lab.b, protocols=("TCP",), expect=ALLOW) == [ALLOW] * 2
    assert results(lab, lab.c, lab.b, protocols=("TCP",)) == [DENY] * 2
    assert lab.prober.probe([Probe(lab.a, "192.0.2.1", 80)])
    none_left(lambda: silent(prometheus) - {"Starts"}, "panels without data")
    for name in ("Top rules A", "Decisions by verdict and reason A", "API requests A", "Objects A"):
        assert prometheus.query(filled(dict(shown())[name])), name
    # There is no hour of a node that is seconds old; the kernel need not have dropped anything, nor the API have failed.
    none_left(lambda: {name for name in RECORDINGS if not re.search("1h|drops|errors", name) and not prometheus.query(name)}, "not recorded")
    for name in RECORDINGS:
        for labels, _ in prometheus.query(name):
            assert set(labels) - {"__name__", "job"} == set(name.split(":")[0].split("_")), f"{name}: {labels}"
    page = {name: set(labels) for name, labels, _ in lab.running.api.metrics().samples}
    for name, labels in reference().items():
        assert page.get(name, labels) == labels, name

    none_left(prometheus.alerts, "nothing is wrong, and this alerts or is about to")  # absent(up) does until the next look
    lab.gateway.kill()
    lab.gateway.wait()
    eventually(lambda: prometheus.alerts() == {SHORTENED: "firing"}, 30)
