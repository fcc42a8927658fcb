# SPDX-License-Identifier: Apache-2.0
"""What goes wrong around the agent: damaged and locked databases, clients of all sorts, full tables."""
import glob
import gzip
import json
import os
import resource
import socket
import sqlite3
import subprocess
import threading
import time

import pytest

from api import Refused
from lab import ALLOW, DENY, Probe
from objects import pod, policy
from scenes import enforced, eventually, member, results, serve


def databases(agent):
    directory = agent.config["state"]["directory"]
    return [path for path in glob.glob(f"{directory}/*") if os.path.isfile(path) and
            open(path, "rb").read(15) == b"SQLite format 3"]


def test_a_damaged_database_is_set_aside_and_the_tables_stay(pair):
    lab, agent = pair, pair.running
    assert enforced(lab)
    agent.stop()
    database, = databases(agent)
    for path in glob.glob(database + "-*"):
        os.unlink(path)
    with open(database, "r+b") as file:
        file.write(b"this is not a database" * 500)
    agent.start(wait=False)
    eventually(lambda: os.path.exists(agent.socket) and _alive(agent), 10)
    assert enforced(lab), "the live tables stay as they are"
    assert [p for p in glob.glob(f"{agent.config['state']['directory']}/*") if b"this is not" in open(p, "rb").read(20)], \
        "the damaged file is set aside"
    assert database in agent.log or os.path.basename(database) in agent.log
    status = agent.api.status()
    assert not status["ready"] and status["lastError"]["detail"].startswith("state: ") and status["lastError"]["time"]
    assert [one for one in status["checks"] if "PUT /v1/state" in one.get("mend", "")]
    agent.api.put_state(lab.items)
    assert enforced(lab)
    assert agent.api.status()["ready"]
    agent.api.put_state([])
    assert results(lab, lab.c, lab.b, expect=ALLOW) == [ALLOW] * 4


def test_a_damaged_database_after_a_boot_stays_said(pair):
    """Nothing is pinned: the agent is ready with nothing to enforce, and says why."""
    lab, agent = pair, pair.running
    agent.stop()
    database, = databases(agent)
    agent.uninstall()
    for path in glob.glob(database + "-*"):
        os.unlink(path)
    with open(database, "r+b") as file:
        file.write(b"this is not a database" * 500)
    agent.start()
    status = agent.api.status()
    assert status["ready"] and os.path.basename(database) in status["lastError"]["detail"]
    assert [one for one in status["checks"] if one["name"] == "agent" and one["level"] == "warning"]


def _alive(agent):
    try:
        return agent.api.request("GET", "/healthz", timeout=2).status == 200
    except OSError:
        return False


def test_a_locked_database_changes_nothing(pair):
    lab, agent = pair, pair.running
    database, = databases(agent)
    before = agent.api.state()
    holder = sqlite3.connect(database, timeout=0.2, isolation_level=None)
    try:
        holder.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        pytest.skip("the agent itself holds the lock: nobody can take it")
    answer = agent.api.request("PUT", "/v1/state", {"items": []}, timeout=60)
    assert answer.status == 503 and answer.headers["Retry-After"], answer
    assert agent.api.state() == before and enforced(lab)
    holder.execute("ROLLBACK")
    holder.close()
    agent.api.put_state([])
    assert results(lab, lab.c, lab.b, expect=ALLOW) == [ALLOW] * 4


def test_a_database_that_is_locked_at_the_start(pair):
    lab, agent = pair, pair.running
    agent.stop()
    database, = databases(agent)
    holder = sqlite3.connect(database, isolation_level=None)
    holder.execute("PRAGMA locking_mode=EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    agent.start(wait=False)
    try:
        code = agent.process.wait(30)
        assert code != 0 and "lock" in agent.log.lower()
    except subprocess.TimeoutExpired:
        assert agent.api.request("GET", "/readyz").status == 503
    assert enforced(lab)
    holder.execute("ROLLBACK")
    holder.close()
    if agent.running():
        agent.stop()
    agent.start()
    assert enforced(lab)


def test_a_body_that_is_too_large(lab):
    agent = lab.agent(api={"bodyMax": "64KiB"})
    before = agent.api.state()
    large = json.dumps({"items": [policy("s", f"p{n}") for n in range(1000)]}).encode()
    assert agent.api.request("PUT", "/v1/state", large).status == 413
    packed = gzip.compress(large)
    assert len(packed) < 65536, "as a bomb it is small"
    answer = agent.api.request("PUT", "/v1/state", packed, headers={"Content-Encoding": "gzip"})
    assert answer.status == 413, answer
    assert agent.api.state() == before
    agent.api.put_state([policy("s", f"p{n}") for n in range(20)])


def unix(agent):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(10)
    sock.connect(agent.socket)
    return sock


def test_a_thousand_slow_clients(pair):
    lab, agent = pair, pair.running
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    slow = []
    try:
        for number in range(1000):
            sock = unix(agent)
            sock.send(b"PUT /v1/state HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 90\r\n\r\n{"
                      if number % 2 else b"GET /v1/state HT")
            slow.append(sock)
        begun = time.monotonic()
        assert agent.api.request("GET", "/healthz", timeout=5).status == 200
        assert time.monotonic() - begun < 1
        agent.api.put_object(policy("s", "b-in", {"name": "b"}, ingress=[{}]))
        assert time.monotonic() - begun < 3
        assert results(lab, lab.c, lab.b, expect=ALLOW) == [ALLOW] * 4
    finally:
        for sock in slow:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert agent.api.request("GET", "/healthz").status == 200


def test_half_a_request(pair):
    lab, agent = pair, pair.running
    before = agent.api.state()
    for cut in (0.1, 0.5, 0.99):
        body = json.dumps({"items": []}).encode()
        sock = unix(agent)
        sock.send(b"PUT /v1/state HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                  b"Content-Length: %d\r\n\r\n" % len(body) + body[:int(len(body) * cut)])
        sock.close()
    time.sleep(0.1)
    assert agent.api.state() == before and enforced(lab)


def test_a_client_that_hangs_up_does_not_stop_its_write(pair):
    lab, agent = pair, pair.running
    body = json.dumps({"items": []}).encode()
    sock = unix(agent)
    sock.send(b"PUT /v1/state HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" %
              len(body) + body)
    sock.close()
    eventually(lambda: agent.api.state()["items"] == [])
    assert results(lab, lab.c, lab.b, expect=ALLOW) == [ALLOW] * 4


def test_a_refused_write_changes_nothing(pair):
    lab, agent = pair, pair.running
    before = agent.api.state()
    bad = policy("s", "bad", ingress=[{"ports": [{"port": 70000}]}])
    answer = agent.api.request("PUT", "/v1/state", {"items": [bad]})
    assert answer.status == 422 and answer.headers["Content-Type"].startswith("application/problem+json")
    assert answer.json["errors"][0]["pointer"] == "/items/0/spec/ingress/0/ports/0/port"
    with pytest.raises(Refused):
        agent.api.put_object(bad)
    assert agent.api.state() == before and enforced(lab)


def test_a_hundred_writers_at_once(pair):
    """Each write is enforced when it is answered, and none is lost."""
    agent, failures = pair.running, []

    def write(number):
        try:
            agent.api.put_object(policy("s", f"p{number}", {"name": "nobody"}))
        except Exception as error:  # reported below
            failures.append(error)
    threads = [threading.Thread(target=write, args=(n,)) for n in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    names = {i["metadata"]["name"] for i in agent.api.state()["items"]}
    assert {f"p{n}" for n in range(100)} <= names


def test_kill_at_random_points_of_writing(pair):
    """What was answered is there after kill -9, enforced and on disk; what was not is there whole or not at all."""
    lab, agent = pair, pair.running
    opened = policy("s", "b-in", {"name": "b"}, ingress=[{}])
    closed = next(i for i in lab.items if i["kind"] == "NetworkPolicy")
    for round_number in range(3):
        answered, stopped = [None], [False]

        def write():
            number = 0
            while not stopped[0]:
                number += 1
                wanted = opened if number % 2 else closed
                try:
                    answered[0] = (agent.api.put_object(wanted)["revision"], wanted)
                except (OSError, Refused, ValueError):
                    return
        writer = threading.Thread(target=write)
        writer.start()
        eventually(lambda: answered[0])
        time.sleep(0.09 * round_number)
        agent.kill9()
        stopped[0] = True
        writer.join()
        agent.start()
        state = agent.api.state()
        assert state["revision"] >= answered[0][0], "an answered write was lost"
        have = next(i for i in state["items"] if i["kind"] == "NetworkPolicy")
        if state["revision"] == answered[0][0]:
            assert have["spec"].get("ingress") == answered[0][1]["spec"]["ingress"]
        want = [ALLOW] * 4 if have["spec"]["ingress"] == [{}] else [DENY] * 4
        assert results(lab, lab.c, lab.b) == want, "the kernel does not enforce what is stored"


def test_a_full_connection_table_is_counted_and_harms_nobody(lab):
    agent = lab.agent(datapath={"connectionsMax": 1024})
    a, b = lab.pod("a"), lab.pod("b")
    serve(lab, b)
    agent.api.put_state([member("a", a), member("b", b),
                         policy("s", "b-in", {"name": "b"}, ingress=[{"from": [{"podSelector": {}}]}])])

    with b.entered():
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("0.0.0.0", 700))
    listener.listen(4096)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    kept = []
    try:
        for _ in range(1500):
            with a.entered():
                sock = socket.create_connection((b.ip4, 700), timeout=3)
            kept += [sock, listener.accept()[0]]
            sock.send(b"x")
        metrics = agent.api.metrics()
        assert metrics("penstock_packets_total", reason="TableFull") > 0, metrics.text
        assert metrics("penstock_connections") <= 2 * 1024
        for client, server in zip(kept[::2], kept[1::2]):
            assert server.recv(10) == b"x", "a connection beyond the table still works"
            server.send(b"y")
        for client in kept[::2]:
            client.settimeout(2)
            assert client.recv(10) == b"y"
        assert [p.result for p in lab.prober.probe([Probe(a, ip, 80) for ip in b.ips])] == [ALLOW] * 2
    finally:
        for sock in kept:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_privilege_is_said_clearly(lab):
    agent = lab.agent(start=False)
    os.chmod(agent.directory, 0o777)
    done = subprocess.run(lab.node.command("setpriv", "--reuid=65534", "--clear-groups", agent.binary, "--config",
                                           agent.config_path), capture_output=True, text=True, timeout=20)
    assert done.returncode != 0
    assert any(word in done.stderr + done.stdout for word in ("privilege", "CAP_", "root", "permitted", "denied")), done


def test_a_bad_configuration_names_its_line(lab):
    agent = lab.agent(start=False)
    with open(agent.config_path, "w") as file:
        file.write("node:\n  name: x\ndatapath:\n  conectionsMax: 5\n")
    done = lab.node.run(agent.binary, "--config", agent.config_path, check=False)
    assert done.returncode != 0
    assert f"{agent.config_path}:4: datapath.conectionsMax: " in done.stderr + done.stdout, done


def test_what_does_not_fit_is_refused_whole(pair):
    """More source networks than the table has room for: 507 with what is needed and what there is, and nothing changed."""
    lab, agent = pair, pair.running
    before = agent.api.state()
    sources = [f"172.{16 + n // 65536}.{n // 256 % 256}.{n % 256}/32" for n in range(17000)]
    large = member("large", lab.a, allowedSources=sources)
    large["spec"]["ips"] = ["10.77.99.99"]
    answer = agent.api.request("PUT", "/v1/state", {"items": lab.items + [large]}, timeout=60)
    assert answer.status == 507, answer
    assert "16384" in answer.text and "17000" in answer.text, answer
    assert agent.api.state() == before and enforced(lab)
    large["spec"]["allowedSources"] = sources[:16000]
    agent.api.put_state(lab.items + [large])
    assert enforced(lab)


def test_a_state_that_does_not_fit_after_a_restart_can_be_replaced(lab):
    """The node got the name of one with more pods than the tables hold: nothing is enforced, until somebody says better."""
    agent = lab.agent(node={"name": "small"})
    agent.api.put_state([pod("s", f"p{i}", [f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}"], "large") for i in range(256, 256 + 16500)])
    agent.stop()
    agent.config["node"]["name"] = "large"
    agent.write_config()
    agent.start(wait=False)

    def told():
        try:
            return "room for" in agent.api.request("GET", "/readyz").text
        except (FileNotFoundError, ConnectionRefusedError):
            return False  # it has not begun to listen
    eventually(told)
    assert agent.api.request("PUT", "/v1/namespaces/a", {"apiVersion": "v1", "kind": "Namespace"}).status == 503
    revision = agent.api.put_state([pod("s", "only", ["10.0.1.0"], "large")])["revision"]
    assert revision == 2 and agent.api.request("GET", "/readyz").status == 200


def test_a_kernel_without_types_is_said_clearly(lab):
    agent = lab.agent(start=False)
    os.makedirs(f"{lab.directory}/empty")
    said = lab.node.run("unshare", "--mount", "sh", "-c", f"mount --bind {lab.directory}/empty /sys/kernel/btf && "
                        f"exec {agent.binary} --config {agent.config_path}", check=False)
    assert said.returncode == 1 and "CONFIG_DEBUG_INFO_BTF" in said.stderr
    assert not os.path.exists(agent.pins) and not os.path.exists(agent.socket)
