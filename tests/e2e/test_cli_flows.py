# SPDX-License-Identifier: Apache-2.0
"""penstock flows, connections, alerts and top: what is asked of the agent, what a reader sees, and how it ends."""
import json
import os
import queue
import re
import select
import signal
import subprocess
import sys
import time

import pytest
import yaml

from feeds import CUT, END, Agent, flow, rule, when
from lab import BUILD, REPOSITORY
from objects import allow_from, namespace
from scenes import eventually
from steering import World
from talk import Client
from terminal import Terminal, stopped

OK, REFUSED, USAGE, UNREACHABLE = range(4)
PENSTOCK = os.path.join(BUILD, "penstock")
LLM = rule("InterceptPolicy", "llm-egress", "Egress", 0, "openai")
WEB = rule("NetworkPolicy", "web", "Ingress", -1, namespace="shop")
OPENAI = {"ip": "203.0.113.9", "port": 443, "workload": None, "names": ["api.openai.com"]}


@pytest.fixture
def agent(tmp_path):
    agent = Agent(f"{tmp_path}/api.sock")
    yield agent
    agent.stop()


def environment(agent, **more):
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    return {**kept, "PENSTOCK_SOCKET": agent.path, "TERM": "xterm-256color", "TZ": "UTC", **more}


def penstock(agent, *words, code=OK, **more):
    done = subprocess.run([PENSTOCK, *words], env=environment(agent, **more), text=True, capture_output=True,
                          timeout=60, check=False)
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}{done.stderr}"
    assert "Sanitizer" not in done.stderr and "runtime error" not in done.stderr, done.stderr
    return done


class Following:
    """A command that goes on, its lines read one by one."""

    def __init__(self, agent, *words, **more):
        agent.stream = queue.Queue()
        self.process = subprocess.Popen([PENSTOCK, *words], env=environment(agent, **more), text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def line(self):
        return self.process.stdout.readline().rstrip("\n")

    def end(self, number=None):
        """Its exit code, and what it had still to say."""
        if number:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=20)
        assert "Sanitizer" not in err, err
        return self.process.returncode, out, err


def columns(line, *titles):
    return [line.index(title) for title in titles]


# ---- what is kept ----

def test_a_table_for_people(agent):
    agent.items["/v1/flows"] = [
        flow(verdict="Intercepted", reason="Intercept", to=None, rule=LLM, proxy="ai-gateway", destination=OPENAI),
        flow("Refused", "Dropped", "Isolated", rule=WEB),
        flow("Closed", ip="fd00:77::3", to=None, rule=rule("NetworkPolicy", "web", namespace="shop"), reason="Policy"),
        flow("Refused", "Rejected", "NoListener", to=None, ip="203.0.113.9", port=443, rule=LLM),
        flow(source=None, protocol="ICMP"),
        flow(reason="Node", onward=True), flow(reason="Policy", rule=LLM, onward=True),
        flow(time="2020-02-03T04:05:06.700000Z", to="kube-system/coredns-7db6d8ff4d-4xkz9", port=53, protocol="UDP")]
    lines = penstock(agent, "flows").stdout.splitlines()
    assert len(lines) == 9
    head = lines[0]
    assert head.split() == ["TIME", "EVENT", "VERDICT", "SOURCE", "→", "DESTINATION", "PROTOCOL", "RULE/REASON"]
    starts = columns(head, "EVENT", "VERDICT", "SOURCE", "→", "PROTOCOL", "RULE")
    for line in lines[1:]:
        assert all(line[start - 1] == " " and line[start] != " " for start in starts), f"not aligned:\n{head}\n{line}"
    assert lines[1][12:].split(maxsplit=6) == ["Opened", "Intercepted", "shop/chat", "→", "api.openai.com:443", "TCP",
                                               "InterceptPolicy llm-egress openai"]
    assert "shop/web:80" in lines[2] and lines[2].endswith("NetworkPolicy shop/web isolates")
    assert "→ [fd00:77::3]:80 " in lines[3] and lines[3].endswith("NetworkPolicy shop/web Ingress[0]")
    assert lines[4].endswith("NoListener: InterceptPolicy llm-egress openai")
    assert lines[5].split()[3:6] == ["10.77.0.2", "→", "shop/web"], "an address where there is no name, no port of ICMP"
    assert lines[6].endswith("  onward, for the client")
    assert lines[7].endswith("  onward: InterceptPolicy llm-egress openai")
    assert lines[8].startswith("Feb 03 04:05  "), "of another day, the day"
    assert "\033" not in "".join(lines), "no colours in a pipe"
    with Terminal([PENSTOCK, "flows"], columns=120, environment=environment(agent)) as terminal:
        assert terminal.wait() == OK
        wrapped = [row for row in terminal.rows() if not row.startswith(("TIME", "Feb")) and row[2] != ":"]
        assert len(wrapped) == 2 and "".join(wrapped).count("enai") == 2, f"only long reasons are:\n{terminal.text()}"
        assert re.search("→ kube-s[a-z/-]*…[a-z0-9-]*4xkz9:53 ", terminal.text()), terminal.text()
        assert "InterceptPolicy llm-egress openai" in terminal.text(), "only names of workloads are cut"


def test_wide_says_more(agent):
    agent.items["/v1/flows"] = [
        flow("Closed", "Intercepted", "Intercept", destination=OPENAI, rule=LLM, proxy="ai-gateway", packets=12,
             bytes=4096, durationSeconds=0.12, handshakeSeconds=0.0004, roundTripSeconds=0.00021, retransmits=2,
             process={"pid": 77, "name": "curl"}, time="2026-11-23T10:00:00.000001Z",
             backend={"ip": "10.77.0.9", "port": 8080, "workload": "shop/b"}), flow(revision=None, to=None)]
    head, line, other = penstock(agent, "flows", "-o", "wide").stdout.splitlines()
    for word in ("2026-11-23T10:00:00.000001Z", "shop/chat 10.77.0.2:41234",
                 "→ api.openai.com 203.0.113.9:443 → shop/b 10.77.0.9:8080", "ai-gateway", " 12 ", "4.1 kB", "120 ms",
                 "0.40 ms", "0.21 ms", "curl[77]", " 7 ", "InterceptPolicy llm-egress Egress[0] openai"):
        assert word in line, f"{word} is not in {line}"
    assert other.split()[-2:] == ["-", "Default"], "a revision that is not known"
    for title in ("PROXY", "PACKETS", "BYTES", "DURATION", "HANDSHAKE", "ROUND-TRIP", "RETRANSMITS", "REVISION"):
        start = head.index(title)
        assert line[start - 1] == " " and line[start] != " ", f"{title} is not aligned"


def test_json_and_yaml_are_the_answer(agent):
    agent.items["/v1/flows"] = [flow(rule=WEB), flow("Closed", packets=3, handshakeSeconds=0.0004)]
    assert "0.0004\n" in penstock(agent, "flows", "-o", "yaml").stdout, "as it was, not 0.00040000000000000002"
    assert json.loads(penstock(agent, "flows", "-o", "json").stdout) == {"items": agent.items["/v1/flows"]}
    assert yaml.safe_load(penstock(agent, "flows", "-o", "yaml").stdout) == {"items": agent.items["/v1/flows"]}


def test_what_is_asked(agent):
    every = ["--workload", "shop/chat", "--verdict", "Dropped", "--protocol", "TCP", "--port", "443",
             "--ip", "fd00::1"]
    query = "workload=shop%2Fchat&verdict=Dropped&protocol=TCP&port=443&ip=fd00%3A%3A1"
    for words, path in (
            (["flows"], "/v1/flows?limit=50"),
            (["flows", "--tail", "0"], "/v1/flows"),
            (["flows", "--tail=7", *every], f"/v1/flows?limit=7&{query}"),
            (["flows", "--workload", "chat", "--tail", "1"], "/v1/flows?limit=1&workload=default%2Fchat"),
            (["connections"], "/v1/connections"),
            (["connections", "--tail", "5", *every], f"/v1/connections?limit=5&{query}"),
            (["flows", "-n", "shop", "--verdict", "Refused"], "/v1/flows?limit=50&workload=shop%2F%2A&verdict=Refused"),
            (["connections", "-n", "shop", "--workload", "chat"], "/v1/connections?workload=shop%2Fchat"),
            (["alerts"], "/v1/alerts?limit=50")):
        penstock(agent, *words)
        assert agent.asked.pop() == path
    assert penstock(agent, "flows").stderr == "No flows.\n"
    assert penstock(agent, "connections").stderr == "No connections.\n"
    assert penstock(agent, "alerts").stderr == "No alerts.\n"
    agent.say(END)
    penstock(agent, "flows", "-f", code=UNREACHABLE)
    assert agent.asked.pop() == "/v1/flows?follow=true&limit=10"


def test_refusals_and_mistakes(agent):
    agent.problem = (400, "port: 70000 is not a number from 1 to 65535")
    for more in ([], ["-f"]):
        done = penstock(agent, "flows", "--port", "70000", *more, code=REFUSED)
        assert "70000 is not" in done.stderr and not done.stdout
    agent.problem = None
    for words, text in ((["flows", "--tail", "many"], "many is not a number"), (["flows", "--tail", "-1"], "-1 is not"),
                        (["flows", "shop/web"], "what is shop/web?"), (["flows", "--color", "pink"], "pink"),
                        (["flows", "--file", "x"], "flows takes no option --file"),
                        (["connections", "-f"], "connections takes no option -f"),
                        (["alerts", "--port", "1"], "alerts takes no option --port"),
                        (["flows", "-o", "name"], "not name"), (["top", "--interval", "0"], "--interval"),
                        (["top", "--interval", "1x"], "--interval"), (["top", "x"], "what is x?")):
        assert text in penstock(agent, *words, code=USAGE).stderr
    assert "no object" in penstock(agent, "apply", "-f", "/dev/null", code=USAGE).stderr, "-f is --file there"
    agent.stop()
    for words in (["flows"], ["flows", "-f"], ["connections"], ["alerts"], ["top"], ["top", "--once"]):
        assert "cannot reach the agent" in penstock(agent, *words, code=UNREACHABLE).stderr


def test_connections_and_alerts(agent):
    agent.items["/v1/connections"] = [flow(rule=WEB, packets=7, bytes=98_300_000, durationSeconds=192.4)]
    del agent.items["/v1/connections"][0]["time"], agent.items["/v1/connections"][0]["event"]
    head, line = penstock(agent, "connections").stdout.splitlines()
    assert head.split() == ["VERDICT", "SOURCE", "→", "DESTINATION", "PROTOCOL", "BYTES", "AGE", "RULE/REASON"]
    assert " 98 MB " in line and " 3m12s " in line and columns(head, "BYTES", "AGE") == columns(line, "98 MB", "3m12s")
    agent.items["/v1/alerts"] = [
        {"time": when(), "alert": "PortScan", "severity": "warning", "workload": "shop/chat", "value": 120,
         "detail": "refused at 120 ports in 10 s", "threshold": 100, "since": when(3)},
        {"time": when(), "alert": "ProxyDown", "severity": "critical", "workload": None, "value": 1, "threshold": 1,
         "detail": "nobody listens for waf", "since": when()}]
    lines = penstock(agent, "alerts").stdout.splitlines()
    assert lines[1].split(maxsplit=4)[1:] == ["warning", "PortScan", "shop/chat", "refused at 120 ports in 10 s"]
    assert lines[2].split(maxsplit=4)[1:] == ["critical", "ProxyDown", "-", "nobody listens for waf"]
    assert " 120 " in penstock(agent, "alerts", "-o", "wide").stdout


def test_names_cannot_speak_to_the_terminal(agent):
    agent.items["/v1/flows"] = [flow(to="shop/\033]0;owned\007\x9b31mx\u009b2J")]
    agent.items["/v1/alerts"] = [{"time": when(), "alert": "A\033[2J", "severity": "warning", "workload": None,
                                  "detail": "a\nb", "value": 1, "threshold": 1, "since": when()}]
    for words in (["flows"], ["flows", "-o", "wide"], ["alerts"], ["top", "--once", "--interval", "0.1"]):
        out = penstock(agent, *words).stdout
        assert not any(ord(c) < 32 and c != "\n" or 0x7f <= ord(c) < 0xa0 for c in out), repr(out)


def test_status_in_words(agent):
    with open(os.path.join(REPOSITORY, "api/examples/status.json")) as file:
        agent.status = json.load(file)
    text = penstock(agent, "status").stdout
    lines = {line.partition(":")[0]: line.partition(":")[2].strip() for line in text.split("\n\n")[0].splitlines()}
    assert lines["State"] == "ready" and lines["Revision"].startswith("7 ") and lines["Last error"] == "none"
    assert lines["Engine"] == "ebpf (configured: auto): tried, and it works"
    assert lines["Hand-over"] == "table inet penstock of nftables stands"
    assert lines["Workloads"] == "1 attached, 1 pending: no interface yet"
    assert "Trials" not in text and "Quarantined:\n" not in text and "=" not in text, text
    assert [line.split() for line in text.splitlines() if "ai-gateway" in line][:2] == [
        ["ai-gateway", "up", "15001", "TCP", "TCP/IPv4", "Deny"],
        ["ai-gateway", "TCP", "127.0.0.1:15001", "Adopted", "4242", "1337", "/usr/sbin/haproxy", "-"]]
    agent.status["checks"] = [{"name": "a", "level": level, "what": "", "mend": ""} for level in
                              ("ok", "ok", "warning", "bad")]
    listeners = agent.status["proxies"][0]["listeners"]
    listeners += [listeners[0], dict(listeners[0], pid=4243), listeners[0]]
    agent.status.update(ready=False, things=[{"a": 1}], notReadyBecause="no space", someThingNew=[1, 2],
                        lastError={"time": "2026-11-23T10:00:00Z", "detail": "full"})
    agent.status["engine"]["table"] = {"stands": False, "reason": "no nftables"}
    agent.status["engine"]["tried"][1].update(passed=False, detail="lost at PREROUTING")
    agent.status["quarantined"] = [{"kind": "Pod", "namespace": "shop", "name": "bad", "owner": "x",
                                    "errors": [{"pointer": "/spec/x", "detail": "is wrong"}]}]
    text = penstock(agent, "status").stdout
    for word in ("not ready: no space", "Some thing new:", " 1,2\n", "2 well, 1 warning, 1 not well: penstock doctor", "1, with -o json", "Z: full\n", "is not there: no nftables",
                 "lost at PREROUTING", "/spec/x: is wrong", "shop/bad"):
        assert word in text, f"{word} is not in\n{text}"
    assert [line.split()[1:6] for line in text.splitlines() if "Adopted" in line] == [
        ["TCP", "127.0.0.1:15001", "×3", "Adopted", "4242"], ["TCP", "127.0.0.1:15001", "Adopted", "4243", "1337"]]
    assert "ps_conn4   12        524288     0 %" in penstock(agent, "status", "-o", "wide").stdout
    assert "\033" not in text
    with Terminal([PENSTOCK, "status"], columns=120, lines=60, environment=environment(agent)) as terminal:
        assert terminal.wait() == OK and terminal.style_of("not ready") == "31"


# ---- what comes ----

def test_follow_line_by_line(agent):
    agent.items["/v1/flows"] = [flow(to="shop/kept")]
    with Following(agent, "flows", "--follow") as following:
        head = following.line()
        assert head.startswith("TIME") and "shop/kept" in following.line()
        for name in ("one", "two-with-a-longer-name", "3"):
            agent.say(flow(to=f"shop/{name}"))
            assert f"→ shop/{name}:80 " in following.line(), "each at once, none waits for the next"
        agent.say(b'{"time": "' + when().encode() + b'", "event": "Opened", ')
        agent.say(b'"verdict": "Audited"}\n\n', flow(to="shop/x"))
        assert "Audited" in following.line() and "shop/x" in following.line()
        agent.say({"lost": 12}, flow(to="shop/after"))
        assert "shop/after" in following.line()
        code, out, err = following.end(signal.SIGINT)
        assert (code, out) == (OK, "")
        assert err == "penstock: 12 records are missing here: they came faster than they were read\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_before_anything_came(agent, number):
    with Following(agent, "alerts", "-f") as following:
        while not agent.asked:
            time.sleep(0.01)
        assert following.end(number) == (OK, "", "")


def test_follow_as_json_and_yaml(agent):
    agent.items["/v1/flows"] = [flow(to="shop/kept")]
    for output, read in (("json", json.loads), ("yaml", yaml.safe_load)):
        with Following(agent, "flows", "-f", "-o", output) as following:
            record = flow(to="shop/ü", rule=WEB)
            agent.say(record, {"lost": 1}, END)
            code, out, err = following.end()
            documents = out.splitlines() if output == "json" else out.split("---\n")[1:]
            assert code == UNREACHABLE and "1 records" in err
            assert [read(text) for text in documents] == [agent.items["/v1/flows"][0], record]


def test_the_agent_goes_away(agent):
    for last, text in ((END, "ended the stream"), (CUT, "went away"), (b"oops\n", "is not JSON"),
                       (b"[1]\n", "is not JSON")):
        with Following(agent, "flows", "-f", "-o", "json") as following:
            agent.say(flow(), last)
            code, out, err = following.end()
            assert code == UNREACHABLE and text in err and out.count("\n") == 1, (code, out, err)


def is_full(process):
    """Its standard output, a pipe: it may be so with fewer bytes than it has room for."""
    pipe = os.open(f"/proc/{process.pid}/fd/1", os.O_WRONLY | os.O_NONBLOCK)
    try:
        return not select.select([], [pipe], [], 0)[1]
    finally:
        os.close(pipe)


def test_a_full_disk_is_no_success(agent):
    agent.items["/v1/flows"] = [flow()]
    for words in (["flows"], ["flows", "-f"], ["flows", "-o", "json"], ["top", "--once", "--interval", "0.1"]):
        with open("/dev/full", "w") as full:
            done = subprocess.run([PENSTOCK, *words], env=environment(agent), stdout=full, stderr=subprocess.PIPE, text=True,
                                  timeout=60, check=False)
        assert done.returncode == USAGE and "No space left" in done.stderr, words


def test_nobody_reads_any_more(agent):
    """`penstock flows -f | head -1` ends with the next line."""
    with Following(agent, "flows", "-f", "-o", "json") as following:
        agent.say(flow())
        following.line()
        following.process.stdout.close()
        agent.say(flow())
        assert following.process.wait(20) == -signal.SIGPIPE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE])
@pytest.mark.parametrize("output", ["json", "yaml", "wide"])
def test_the_reader_sleeps(agent, number, output):
    with Following(agent, "flows", "-f", "-o", output) as following:
        agent.say(*[flow() for _ in range(1000)])  # more than a pipe holds
        eventually(lambda: is_full(following.process))
        if number == signal.SIGPIPE:  # the reader wakes, and goes
            following.process.stdout.close()
            assert following.process.wait(20) == -signal.SIGPIPE
            return
        following.process.send_signal(number)
        assert following.process.wait(20) == OK
        assert following.process.stderr.read() == ""


# ---- on a terminal ----

def test_colours_only_on_a_terminal(agent):
    agent.items["/v1/flows"] = [
        flow("Refused", "Dropped", "Isolated", rule=WEB), flow("Refused", "Rejected", "NoListener"),
        flow(verdict="Intercepted", reason="Intercept"), flow(verdict="Audited"), flow()]
    red, cyan, yellow = "31", "36", "33"
    with Terminal([PENSTOCK, "flows"], columns=120, environment=environment(agent)) as terminal:
        assert terminal.wait() == OK
        assert [terminal.style_of(word) for word in ("Refused", "Dropped", "Rejected")] == [red] * 3
        assert [terminal.style_of(word) for word in ("Intercepted", "Audited", "Forwarded")] == [cyan, yellow, ""]
        on_terminal = terminal.text()
    assert penstock(agent, "flows").stdout.split() == on_terminal.split(), "the same but for the colours"
    assert f"\033[{red}mDropped\033[0m" in penstock(agent, "flows", "--color", "always", NO_COLOR="1").stdout
    for words, more in ((["--color=never"], {}), ([], {"NO_COLOR": "1"}), ([], {"TERM": "dumb"}), (["-o", "json"], {})):
        with Terminal([PENSTOCK, "flows", *words], columns=120, environment=environment(agent, **more)) as terminal:
            assert terminal.wait() == OK and "\033" not in terminal.raw


def test_control_c_on_a_terminal(agent):
    with Terminal([PENSTOCK, "flows", "-f"], columns=120, environment=environment(agent)) as terminal:
        agent.say(flow("Refused", "Dropped"))
        terminal.until(lambda: terminal.style_of("Dropped") == "31")
        terminal.press("\003")
        assert terminal.wait() == OK


# ---- top ----

@pytest.fixture
def busy(agent):
    """Counters that grow with every look at them."""
    looks = [0]

    def metrics():
        looks[0] += 1
        n = looks[0]
        text = "# HELP penstock_packets_total x\n# TYPE penstock_packets_total counter\n"
        for verdict, packets in (("Forwarded", 12000), ("Intercepted", 300), ("Dropped", 40)):
            text += f'penstock_packets_total{{direction="Egress",verdict="{verdict}",reason="Policy"}} {packets * n}\n'
        return text + (
            f'penstock_bytes_total{{direction="Egress",verdict="Forwarded",reason="Policy"}} {9.8e6 * n}\n'
            'penstock_rule_hits_total{kind="NetworkPolicy",policy_namespace="shop",policy="web",direction="Ingress",'
            f'rule="a \\"b\\" {{c}}"}} {5 * n}\n'
            'penstock_rule_hits_total{kind="InterceptPolicy",policy_namespace="",policy="llm",direction="Egress",'
            f'rule="openai"}} {50 * n}\n'
            f'penstock_intercepted_connections_total{{proxy="ai-gateway",engine="ebpf"}} {50 * n}\n'
            "penstock_connections 1234\n")
    agent.metrics = metrics
    agent.status["proxies"] = [{"name": "ai-gateway", "up": True}, {"name": "waf", "up": False}]
    agent.items["/v1/alerts"] = [
        {"time": when(age), "alert": name, "severity": "critical", "workload": None, "value": 1, "threshold": 1,
         "detail": "nobody listens for waf", "since": when(age)} for age, name in ((900, "SynFlood"), (0, "ProxyDown"))]
    agent.items["/v1/connections"] = [flow(), flow(to="shop/db"), flow(source="shop/web", to="shop/db")]
    agent.items["/v1/flows"] = [flow(time=when(-3600)) for _ in range(5)] + [
        flow("Refused", "Dropped", source="shop/web", to=None, time=when(-3600)), flow(time=when(60))]
    return agent


def numbers(text, title):
    """The first number of the line that has this title."""
    return next(line for line in text.splitlines() if title in line)


def test_top_once(busy):
    for words in (["top", "--once", "--interval", "0.2"], ["top", "--interval", "0.2"]):
        assert max(map(len, penstock(busy, *words).stdout.splitlines())) <= 100
        text = penstock(busy, *words, COLUMNS="160").stdout
        assert "\033" not in text and text.count("TRAFFIC") == 1
        assert text.startswith("node-1   revision 42   engine ebpf   ready ")
        assert numbers(text, "Connections").split()[1] == "1.2k"
        # a sample more in 0.2 s or in what it took: the shares are the same
        assert numbers(text, "Forwarded").count("█") > 10 and numbers(text, "Dropped").count("▏") == 1
        assert numbers(text, "Rejected").rstrip().endswith(" 0")
        ranks = [line[:78].split(maxsplit=2)[2].strip() for line in text.splitlines() if "Policy " in line]
        assert ranks == ["InterceptPolicy llm Egress openai", 'NetworkPolicy shop/web Ingress a "b" {c}']
        workloads = [line[82:].split() for line in text.splitlines() if line[82:].rstrip().endswith(
            ("shop/chat", "shop/web", "shop/db"))]
        assert [row[-1] for row in workloads] == ["shop/web", "shop/chat", "shop/db"], "the busiest first"
        assert [row[0] for row in workloads] == ["2", "2", "2"] and workloads[1][2] == "0" and workloads[2][1] == "0"
        assert float(workloads[0][2]) > 0 and float(workloads[0][1]) > 4 * float(workloads[0][2])
        assert re.search("^● ai-gateway [0-9.]+/s   ○ waf down$", text, re.M)
        assert "ProxyDown" in text and "SynFlood" not in text, "alerts of the last five minutes"


def test_top_of_an_agent_without_feeds(busy):
    busy.items = {}
    text = penstock(busy, "top", "--once", "--interval", "0.1").stdout
    assert numbers(text, "New ").split()[1] == "-/s" and "the agent does not say" in text
    busy.problem = (403, "no")
    assert "403" in penstock(busy, "top", code=UNREACHABLE).stderr


def test_top_live(busy):
    with Terminal([PENSTOCK, "top", "--interval", "0.2"], columns=100, lines=30,
                  environment=environment(busy)) as terminal:
        terminal.until(lambda: terminal.alternate and "Forwarded" in terminal.text())
        assert not terminal.cursor_shown
        terminal.until(lambda: numbers(terminal.text(), "Packets").count("█") > 1)
        assert "VERDICTS" in numbers(terminal.text(), "TRAFFIC"), "side by side where there is room"
        assert terminal.style_of("○ waf") == "31" and len(terminal.rows()) <= 30
        for columns_, lines in ((60, 24), (140, 50), (30, 5), (100, 30)):
            terminal.resize(columns_, lines)
            terminal.until(lambda c=columns_, n=lines: len(terminal.rows()) <= n and
                           max(map(len, terminal.rows())) <= c and ("VERDICTS" in terminal.rows()[1 if n < 28 else 2]) == (c >= 76))
        terminal.resize(80, 24)  # what there is everywhere has room for all of it
        terminal.until(lambda: "ProxyDown" in terminal.text() and "waf" in terminal.text() and
                       terminal.text().count("Policy ") == 2 and max(map(len, terminal.rows())) <= 80)
        terminal.press("x")  # says nothing, does nothing
        asked = len(busy.asked)
        terminal.until(lambda: len(busy.asked) > asked + 10)
        assert "\nx" not in terminal.text()
        terminal.press("q")
        assert terminal.wait() == OK
        assert_restored(terminal)


def assert_restored(terminal):
    assert not terminal.alternate and terminal.cursor_shown and terminal.style == ""
    assert terminal.settings() == terminal.before
    assert terminal.text().replace("^C", "").strip() == "", "nothing of it stays"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_top_restores_the_terminal(busy, number):
    with Terminal([PENSTOCK, "top"], environment=environment(busy)) as terminal:
        terminal.until(lambda: "TRAFFIC" in terminal.text())
        if number == signal.SIGINT:
            terminal.press("\003")
        else:
            terminal.signal(number)
        assert terminal.wait() == OK
        assert_restored(terminal)


# As a shell does: its job is a process group of its own, in the foreground.
SHELL = """
import os, signal, sys
pid = os.fork()
if not pid:
    os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.argv[1], sys.argv[1:])
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_top_is_stopped_and_goes_on(busy):
    with Terminal([sys.executable, "-c", SHELL, PENSTOCK, "top", "--interval", "0.2"],
                  environment=environment(busy)) as terminal:
        terminal.until(lambda: "TRAFFIC" in terminal.text())
        terminal.press("\x1a")
        terminal.until(lambda: stopped(terminal.job()))
        while terminal.take(0):
            pass
        assert_restored(terminal)
        os.kill(terminal.job(), signal.SIGCONT)
        terminal.until(lambda: terminal.alternate and "TRAFFIC" in terminal.text() and not terminal.cursor_shown)
        terminal.press("q")
        assert terminal.wait() == OK
        assert_restored(terminal)


def test_top_outlives_the_agent(busy):
    with Terminal([PENSTOCK, "top", "--interval", "0.1"], environment=environment(busy)) as terminal:
        terminal.until(lambda: "TRAFFIC" in terminal.text())
        busy.stop()
        terminal.until(lambda: "cannot reach the agent" in terminal.text())
        assert terminal.style_of("cannot reach") == "31" and "ai-gateway" in terminal.text(), "what was known stays"
        busy.start()
        terminal.until(lambda: "cannot reach the agent" not in terminal.text())
        terminal.press("q")
        assert terminal.wait() == OK


# ---- a real agent ----

def test_real_traffic():
    with World("a", "b", "c") as world:
        world.put(namespace("s"), allow_from("s", "b-in", {"name": "b"}, [{"podSelector": {"matchLabels": {"name": "a"}}}],
                                             [{"protocol": "TCP", "port": 80}]))
        agent = world.running
        agent.path = agent.socket
        with Following(agent, "flows", "-f", "--protocol", "tcp") as following, \
                Client(world.a, world.b.ip4, 80) as client:
            client.hello()
            assert following.line().startswith("TIME")
            assert following.line().split()[1:] == ["Opened", "Forwarded", "s/a", "→", "s/b:80", "TCP",
                                                    "NetworkPolicy", "s/b-in", "Ingress[0]"]
            with pytest.raises(OSError):
                Client(world.c, world.b.ip6, timeout=0.1)
            assert following.line().split()[1:] == ["Refused", "Dropped", "s/c", "→", "s/b:80", "TCP",
                                                    "NetworkPolicy", "s/b-in", "isolates"]
            rows = penstock(agent, "connections", "--workload", "s/a", "--ip", world.b.ip4).stdout.splitlines()
            assert [row.split()[:5] for row in rows[1:]] == [["Forwarded", "s/a", "→", "s/b:80", "TCP"]]
            rows = penstock(agent, "flows", "--verdict", "dropped", "--tail", "1").stdout.splitlines()
            assert len(rows) == 2 and rows[1].split()[3:6] == ["s/c", "→", "s/b:80"]
            assert penstock(agent, "flows", "--workload", "s/nobody").stderr == "No flows.\n"
            text = penstock(agent, "top", "--once", "--interval", "0.2", COLUMNS="160").stdout
            assert numbers(text, "Connections").split()[1] == "1"
            assert "NetworkPolicy s/b-in Ingress 0" in text and "NetworkPolicy s/b-in Ingress isolation" in text
            assert [line[82:].split()[0] for line in text.splitlines() if line.endswith(" s/a")] == ["1"]
            with Terminal([PENSTOCK, "top", "--interval", "0.2"], environment=environment(agent)) as terminal:
                terminal.until(lambda: "isolation" in terminal.text() or "Ingress" in terminal.text())
                agent.stop()
                code, _, err = following.end()
                assert code == UNREACHABLE and "the agent at" in err
                terminal.until(lambda: "cannot reach the agent" in terminal.text())
                terminal.press("q")
                assert terminal.wait() == OK
