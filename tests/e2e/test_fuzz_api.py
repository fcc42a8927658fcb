# SPDX-License-Identifier: Apache-2.0
"""
Requests that nobody would send: bodies bent out of the examples and the golden inputs, and bytes that are hardly HTTP.
The agent lives, never answers 500, says of every refusal what is wrong and where, and a refused write leaves no trace.

PENSTOCK_FUZZ_SECONDS (default 3 a test) and PENSTOCK_FUZZ_SEED; the seed is printed.
"""
import copy
import glob
import gzip
import json
import os
import random
import re
import socket
import threading
import time
import urllib.parse

import pytest

from api import CLUSTER, NAMESPACED, UnixConnection
from lab import REPOSITORY
from objects import policy
from scenes import enforced

SECONDS = float(os.environ.get("PENSTOCK_FUZZ_SECONDS", "3"))
PROBLEM = "application/problem+json"
REFUSALS = {400, 404, 405, 409, 412, 413, 415, 422, 503, 507}


@pytest.fixture
def dice():
    seed = int(os.environ.get("PENSTOCK_FUZZ_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"PENSTOCK_FUZZ_SEED={seed}")
    return random.Random(seed)


# ---- what is bent ----

def corpus():
    found = []
    for path in sorted(glob.glob(f"{REPOSITORY}/api/examples/*.json") +
                       glob.glob(f"{REPOSITORY}/tests/golden/decode/*/input.json")):
        try:
            with open(path) as file:
                document = json.load(file)
        except ValueError:  # some are wrong JSON on purpose
            continue
        documents = document if isinstance(document, list) else document.get("items") or document.get("apply") or [document]
        found += [d for d in documents if isinstance(d, dict) and "kind" in d]
    assert len(found) > 50
    return found


ODD = [None, True, False, 0, -1, 1, 65535, 65536, 2 ** 31, 2 ** 53 + 1, 2 ** 63 - 1, -2 ** 63, 0.5, 80.0, 1e308, -0.0, "", " ",
       "x", "80", "-", "é", "\u202e", "\x01", "\x7f", "\U0001f600", "a" * 63, "a" * 64, "a" * 253, "a" * 254, "b" * 5000,
       "/", "a/b", "~0", "..", "%2f", "0.0.0.0/0", "::/0", "10.77.0.1", "fe80::1", "::ffff:1.2.3.4", "1.2.3.4/33", "01.2.3.4",
       "In", "Exists", "*", "TCP", "tcp", "{}", "null", [], {}, [None], [[]], [{}], {"": ""}, {"a/b~c": 1}, {"a": None}]
WORDS = ["apiVersion", "kind", "metadata", "spec", "status", "name", "namespace", "labels", "ips", "ports", "port", "matchLabels",
         "ingress", "egress", "from", "to", "endPort", "cidr", "except", "priority", "action", "", "a/b", "~", "x" * 300, "ключ"]


def places(value, found=None):
    """(container, key) of every value inside."""
    found = [] if found is None else found
    for key in (range(len(value)) if isinstance(value, list) else list(value) if isinstance(value, dict) else ()):
        found.append((value, key))
        places(value[key], found)
    return found


def odd_value(dice):
    choice = dice.random()
    if choice < 0.02:
        value = dice.choice([None, [], {}])
        for _ in range(dice.choice([3, 55, 62, 70, 200])):
            value = [value] if dice.random() < 0.5 else {"a": value}
        return value
    if choice < 0.03:
        return [copy.deepcopy(dice.choice(ODD))] * dice.choice([100, 2000])
    if choice < 0.04:
        return {f"k{n}": "v" for n in range(dice.choice([100, 3000]))}
    return copy.deepcopy(dice.choice(ODD))


def bend(dice, value):
    """One change somewhere inside."""
    container, key = dice.choice(places(value) or [({}, None)])
    if key is None:
        return
    how = dice.random()
    if how < 0.55:
        container[key] = odd_value(dice)
    elif how < 0.7:
        del container[key]
    elif how < 0.8 and isinstance(container, dict):
        container[dice.choice(WORDS)] = odd_value(dice)
    elif how < 0.9:
        other, from_key = dice.choice(places(value))
        container[key] = copy.deepcopy(other[from_key])
    elif isinstance(container, list):
        container.insert(dice.randrange(len(container) + 1), copy.deepcopy(container[key]))
    else:
        container[str(key) + dice.choice("sx \0/")] = container.pop(key)


def bent_text(dice, text):
    """The same as bytes, and perhaps no longer JSON. The second value: whether it certainly is wrong."""
    raw = text.encode("utf-8", "surrogatepass")
    how = dice.randrange(9)
    at = dice.randrange(len(raw) + 1)
    if how == 0:
        return raw[:at] + bytes([dice.randrange(256)]) + raw[at:]
    if how == 1:
        return raw[:at] + raw[at + dice.randrange(1, 9):]
    if how == 2:
        return b"\xef\xbb\xbf" + raw
    if how == 3:
        return raw + dice.choice([b"x", b"\0", b"{}", b",", b"]"])
    if how == 4:
        return raw.replace(b'"name":', b'"name":"twice","name":', 1)
    if how == 5:
        return re.sub(rb"\b\d+\b", dice.choice([b"1e999", b"-0", b"01", b"0x10", b"9" * 400, b"1.", b"NaN", b"Infinity"]), raw, count=1)
    if how == 6:
        return raw.replace(b'"', dice.choice([b"'", b'\\"', b"\xff", b'"\\u0000', b'"\\ud800']), dice.randrange(1, 4))
    if how == 7:
        return bytes(b if dice.random() > 0.01 else dice.randrange(256) for b in raw)
    return raw[:at]


# ---- what is judged ----

def loads_strictly(raw):
    """RFC 8259 in UTF-8; ValueError for anything else."""
    def constant(text):
        raise ValueError(text)
    if raw[:3] == b"\xef\xbb\xbf":
        raise ValueError("byte order mark")
    return json.loads(raw.decode("utf-8"), parse_constant=constant)


def pointer_exists(document, pointer, detail):
    """A member that is missed, or that the path would have filled in, may be pointed at too."""
    if pointer and not pointer.startswith("/"):
        return False
    tokens = [token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:]]
    for at, token in enumerate(tokens):
        if isinstance(document, dict) and token in document:
            document = document[token]
        elif isinstance(document, list) and token.isdigit() and int(token) < len(document):
            document = document[int(token)]
        else:
            last = at == len(tokens) - 1 or tokens[at:] == ["metadata", "name"]
            return not isinstance(document, list) and (last or "required" in detail)
    return True


class Judge:
    """Sends requests and looks at the answers and at what became of the state."""

    def __init__(self, agent):
        self.agent, self.seen = agent, {}
        self.connection = None
        self.note()

    def exchange(self, method, path, body=None, headers=None):
        for attempt in (0, 1):
            if not self.connection:
                self.connection = UnixConnection(self.agent.socket, timeout=30)
            try:
                self.connection.request(method, path, body=body, headers=headers or {})
                answer = self.connection.getresponse()
                return answer.status, answer.headers, answer.read()
            except OSError:
                self.connection.close()
                self.connection = None
                assert self.agent.running(), f"penstockd ended:\n{self.agent.log[-3000:]}"
                if attempt:
                    raise

    def note(self):
        status, headers, body = self.exchange("GET", "/v1/state")
        assert status == 200, body
        self.state = (headers["ETag"], body)

    def refusal(self, status, headers, body, document=None, context=None):
        assert status in REFUSALS, (status, body[:2000], context)
        assert headers["Content-Type"] == PROBLEM, (status, headers["Content-Type"], context)
        problem = json.loads(body)
        assert problem["status"] == status and problem["type"] and problem["title"] and problem["detail"], problem
        for error in problem.get("errors", ()):
            assert error["detail"], problem
            if document is not None:
                assert pointer_exists(document, error["pointer"], error["detail"]), (error, context)
        assert len(problem.get("errors", ())) <= 50
        return problem

    def write(self, method, path, body, headers, document=None, strict=True):
        """One write. strict: the body is known, as `document`, or None when it is certainly no JSON."""
        context = f"{method} {path} {headers} {body[:3000]!r}"
        status, answered, text = self.exchange(method, path, body, headers)
        self.seen[status] = self.seen.get(status, 0) + 1
        before = self.state
        if status != 200:
            problem = self.refusal(status, answered, text, document, context)
            self.note()
            assert self.state == before, f"{problem} left a trace: {context}"
            return status, problem
        assert not strict or document is not None, f"200 for what is no JSON: {context}"
        result = json.loads(text)
        self.note()
        if "dryRun" in path:
            assert self.state == before and result["dryRun"] is True, context
        elif result["revision"] == json.loads(before[1])["revision"]:
            assert json.loads(self.state[1])["items"] == json.loads(before[1])["items"], context
        else:
            assert result["revision"] == json.loads(before[1])["revision"] + 1, context
            assert json.loads(self.state[1])["revision"] == result["revision"], context
        return status, result


def resident(agent):
    with open(f"/proc/{agent.process.pid}/status") as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read())[1])


def written_path(document):
    """Where PUT of this object goes, whatever is wrong with it."""
    kind = document.get("kind")
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    quote = urllib.parse.quote
    name = quote(name if isinstance(name, str) and name and "\0" not in name and len(name) < 1000 else "some", safe="")
    if isinstance(kind, str) and kind in NAMESPACED:
        namespace = metadata.get("namespace") if isinstance(metadata, dict) else None
        ok = isinstance(namespace, str) and namespace and "\0" not in namespace and len(namespace) < 1000
        return f"/v1/{NAMESPACED[kind]}/{quote(namespace if ok else 'default', safe='')}/{name}"
    return f"/v1/{CLUSTER.get(kind, 'namespaces') if isinstance(kind, str) else 'namespaces'}/{name}"


def one_write(judge, dice, objects, owner="fuzz"):
    chosen = [copy.deepcopy(o) for o in dice.sample(objects, dice.choice([0, 1, 1, 1, 2, 5]))]
    for document in chosen:
        for _ in range(dice.choice([0, 1, 1, 1, 2, 6])):
            bend(dice, document)
    query, headers = {"owner": owner}, {"Content-Type": "application/json"}
    if dice.random() < 0.3:
        query["invalid"] = "quarantine"
    if dice.random() < 0.3:
        query["dryRun"] = "true"
    if dice.random() < 0.1:
        query["force"] = "true"
    how = dice.randrange(4)
    if how == 0 and chosen:
        method, path, document = "PUT", written_path(chosen[0]), chosen[0]
    elif how == 1:
        keys = [{"kind": "Pod", "namespace": "shop", "name": "cart"}, {"kind": "Node", "name": "node-1"}]
        document = {"apply": chosen, "delete": dice.sample(keys, dice.randrange(3))}
        if dice.random() < 0.3:
            bend(dice, document)
        method, path = "PATCH", "/v1/state"
    elif how == 2:
        document = {"items": chosen, "apiVersion": "v1", "kind": "List"}
        if dice.random() < 0.1:
            bend(dice, document)
        method, path = "PUT", "/v1/state"
    else:
        method, path, document = "PUT", "/v1/state", chosen
        headers["Content-Type"] = "application/x-ndjson"
        separator = dice.choice(["\n", "\r\n", "\n\n", "\n \r\n"])
        body = separator.join(json.dumps(o) for o in chosen).encode() + dice.choice([b"", b"\n"])
    if headers["Content-Type"] == "application/json":
        body = json.dumps(document, ensure_ascii=dice.random() < 0.5).encode("utf-8", "surrogatepass")
        if dice.random() < 0.25:
            body = bent_text(dice, body.decode("utf-8", "surrogatepass"))
        try:
            document = loads_strictly(body)
        except (ValueError, RecursionError):
            document = None
        strict = True
    else:
        strict = bool(chosen)
    if dice.random() < 0.2:
        headers["Content-Encoding"] = "gzip"
        body = gzip.compress(body, 1)
        cut = dice.random()
        if cut < 0.2:
            body, document, strict = body[:dice.randrange(len(body))], None, True
        elif cut < 0.3:
            body, document, strict = body + b"garbage", None, True
    return judge.write(method, path + "?" + urllib.parse.urlencode(query), body, headers, document, strict)


def test_bent_bodies(pair, dice):
    lab, agent, objects = pair, pair.running, corpus()
    judge = Judge(agent)
    end, count, warm = time.monotonic() + SECONDS, 0, 0
    while time.monotonic() < end:
        one_write(judge, dice, objects)
        count += 1
        if count == 300:
            warm = resident(agent)
        if count % 500 == 0:
            judge.exchange("PUT", "/v1/state?owner=fuzz", b'{"items":[]}', {"Content-Type": "application/json"})
            judge.note()
            assert enforced(lab), f"after {count} writes"
    print(f"{count} writes: {judge.seen}")
    print(f"resident {warm} KiB, then {resident(agent)} KiB")
    assert judge.seen[200] > count / 50 and judge.seen[422] > count / 50, "neither too wild nor too tame"
    same_after_restart(agent)
    agent.api.put_state([], owner="fuzz")
    assert enforced(lab)
    assert agent.stop() == 0


def same_after_restart(agent):
    """What was taken can be read back from the disk, all of it."""
    def everything():
        answer = agent.api.expect("GET", "/v1/state")
        return answer.body, answer.headers["ETag"], agent.api.status().get("quarantined")
    before = everything()
    agent.restart()
    assert everything() == before


def test_bent_bodies_at_once(pair, dice):
    """Writes that wait together are applied together, and each is answered for itself."""
    lab, agent, objects = pair, pair.running, corpus()
    seeds, failures, seen = [dice.random() for _ in range(6)], [], {}

    class Sender(Judge):
        def note(self):
            self.state = None

        def write(self, method, path, body, headers, document=None, strict=True):
            status, answered, text = self.exchange(method, path, body, headers)
            seen[status] = seen.get(status, 0) + 1
            if status != 200:
                self.refusal(status, answered, text, document, f"{method} {path} {body[:2000]!r}")
            else:
                assert not strict or document is not None, f"200 for what is no JSON: {body[:2000]!r}"

    def send(seed):
        sender, own = Sender(agent), random.Random(seed)
        end = time.monotonic() + SECONDS / 2
        try:
            while time.monotonic() < end and not failures:
                one_write(sender, own, objects, f"fuzz{seed}")
        except BaseException as error:  # reported below
            failures.append(error)
    threads = [threading.Thread(target=send, args=(seed,)) for seed in seeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(seen)
    assert not failures, failures
    assert seen[200] > 50 and seen[422] > 50
    same_after_restart(agent)
    for seed in seeds:
        agent.api.request("DELETE", f"/v1/owners/fuzz{seed}")
    agent.api.put_state(lab.items, force="true")
    assert enforced(lab)


# ---- bytes that are hardly HTTP ----

def talk(agent, raw, timeout=3.0, half_close=True):
    """Everything that comes back."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    got = b""
    try:
        sock.connect(agent.socket)
        sock.sendall(raw)
        if half_close:
            sock.shutdown(socket.SHUT_WR)
        while len(got) < 1 << 20:
            piece = sock.recv(65536)
            if not piece:
                break
            got += piece
    except (OSError, TimeoutError):
        pass
    finally:
        sock.close()
    return got


def statuses(got):
    return [int(code) for code in re.findall(rb"HTTP/1\.[01] (\d{3}) ", got)]


ITEMS = b'{"items":[]}'
TYPE = b"Content-Type: application/json\r\n"


def request(line, headers=b"", body=b"", length=True):
    length = b"Content-Length: %d\r\n" % len(body) if length and body else b""
    return line + b"\r\nHost: x\r\n" + headers + length + b"Connection: close\r\n\r\n" + body


def put(headers=b"", body=ITEMS, query=b"", length=True):
    return request(b"PUT /v1/state?owner=fuzz" + query + b" HTTP/1.1", TYPE + headers, body, length)


# What is sent, and what may come back; "none": the connection may just be closed.
ODD_REQUESTS = {
    "no length at all": (put(body=b"", length=False), {400, 411}),
    "length is no number": (put(b"Content-Length: x\r\n", length=False), {400, None}),
    "length is negative": (put(b"Content-Length: -1\r\n", length=False), {400, None}),
    "length is absurd": (put(b"Content-Length: 99999999999999999999999\r\n", length=False), {400, 413, None}),
    "length is 2^63": (put(b"Content-Length: 9223372036854775808\r\n", length=False), {400, 413, None}),
    "length is beyond the limit": (put(b"Content-Length: 99999999999\r\n", length=False), {413, None}),
    "two lengths": (put(b"Content-Length: 12\r\nContent-Length: 5\r\n", length=False), {400, None}),
    "length and chunks": (put(b"Content-Length: 12\r\nTransfer-Encoding: chunked\r\n",
                              b"c\r\n" + ITEMS + b"\r\n0\r\n\r\n", length=False), {400}),
    "chunks": (put(b"Transfer-Encoding: chunked\r\n", b"5\r\n{\"ite\r\n7;ext=1\r\nms\":[]}\r\n0\r\nTrailer: x\r\n\r\n",
                   length=False), {200}),
    "chunk size is no number": (put(b"Transfer-Encoding: chunked\r\n", b"zz\r\n{}\r\n0\r\n\r\n", length=False), {400, None}),
    "chunk size is absurd": (put(b"Transfer-Encoding: chunked\r\n", b"fffffffffffffffffffff\r\n{}\r\n", length=False),
                             {400, 413, None}),
    "chunks without end": (put(b"Transfer-Encoding: chunked\r\n", b"c\r\n" + ITEMS + b"\r\n", length=False), {400, None}),
    "another transfer coding": (put(b"Transfer-Encoding: gzip\r\n", length=False), {400}),
    "another content coding": (put(b"Content-Encoding: br\r\n"), {415}),
    "two content codings": (put(b"Content-Encoding: gzip, gzip\r\n"), {415}),
    "gzip that is none": (put(b"Content-Encoding: gzip\r\n"), {400}),
    "another type": (request(b"PUT /v1/state HTTP/1.1", b"Content-Type: text/plain\r\n", ITEMS), {415}),
    "another charset": (request(b"PUT /v1/state HTTP/1.1", b"Content-Type: application/json; charset=utf-16\r\n", ITEMS), {415}),
    "no host": (b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n", {200, 400}),
    "HTTP/1.0": (b"GET /healthz HTTP/1.0\r\n\r\n", {200}),
    "HTTP/0.9": (b"GET /healthz\r\n\r\n", {400, None}),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 404, 405, 505, None}),
    "HTTP/9.9": (b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n", {400, 505, None}),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100, {400, None}),
    "nothing": (b"", {None}),
    "line ends": (b"\r\n" * 100, {400, None}),
    "zeros": (b"\0" * 1000, {400, None}),
    "long path": (request(b"GET /v1/" + b"a" * 100000 + b" HTTP/1.1"), {400, 404, 414, 431, None}),
    "long query": (request(b"GET /v1/state?owner=" + b"a" * 20000 + b" HTTP/1.1"), {400, 414, None}),
    "long header": (request(b"GET /v1/state HTTP/1.1", b"X: " + b"a" * 100000 + b"\r\n"), {400, 431, None}),
    "many headers": (request(b"GET /v1/state HTTP/1.1", b"X: a\r\n" * 20000), {400, 431, None}),
    "header without colon": (request(b"GET /healthz HTTP/1.1", b"nonsense\r\n"), {200, 400, None}),
    "header with control characters": (request(b"GET /healthz HTTP/1.1", b"X: \x01\x7f\r\n"), {200, 400, None}),
    "zero in a path": (request(b"GET /v1/nodes/%00 HTTP/1.1"), {400}),
    "no UTF-8 in a path": (request(b"GET /v1/nodes/%ff%fe HTTP/1.1"), {400}),
    "raw bytes in a path": (request(b"GET /v1/nodes/\xff\xfe HTTP/1.1"), {400}),
    "half an escape": (request(b"GET /v1/nodes/%4 HTTP/1.1"), {400}),
    "dots in a path": (request(b"GET /v1/../v1/state HTTP/1.1"), {400, 404}),
    "escaped slash": (request(b"PUT /v1/nodes/a%2fb HTTP/1.1", TYPE, b'{"apiVersion":"v1","kind":"Node"}'), {422}),
    "empty name": (request(b"PUT /v1/nodes/ HTTP/1.1", TYPE, b"{}"), {404, 405}),
    "double slash": (request(b"GET //v1/state HTTP/1.1"), {404}),
    "slash at the end": (request(b"PUT /v1/state/ HTTP/1.1", TYPE, ITEMS), {404, 405}),
    "no slash": (request(b"GET v1/state HTTP/1.1"), {400, 404}),
    "HEAD": (request(b"HEAD /v1/state HTTP/1.1"), {200}),
    "HEAD of nothing": (request(b"HEAD /v1/nothing HTTP/1.1"), {404}),
    "OPTIONS": (request(b"OPTIONS /v1/state HTTP/1.1"), {405}),
    "OPTIONS of all": (request(b"OPTIONS * HTTP/1.1"), {200, 400, 404, 405}),
    "TRACE": (request(b"TRACE /v1/state HTTP/1.1"), {405}),
    "CONNECT": (request(b"CONNECT x:1 HTTP/1.1"), {400, 404, 405}),
    "POST": (request(b"POST /v1/state HTTP/1.1", TYPE, ITEMS), {405}),
    "lower case": (request(b"put /v1/state HTTP/1.1", TYPE, ITEMS), {400, 405, 501}),
    "made up": (request(b"\xff\x01GET /v1/state HTTP/1.1"), {400, 405, 501, None}),
    "unknown parameter": (put(query=b"&x=1"), {400}),
    "parameter twice": (put(query=b"&owner=fuzz"), {400}),
    "no value": (put(query=b"&dryRun"), {400}),
    "odd value": (put(query=b"&dryRun=TRUE"), {400}),
    "no escape": (put(query=b"&force=%zz"), {400}),
    "odd owner": (request(b"PUT /v1/state?owner=a%20b HTTP/1.1", TYPE, ITEMS), {400}),
    "odd term": (put(b"Penstock-Term: -1\r\n"), {400}),
    "two types": (put(TYPE), {400}),
    "two terms": (put(b"Penstock-Term: 5\r\nPenstock-Term: 6\r\n"), {400}),
    "large term": (put(b"Penstock-Term: 18446744073709551616\r\n"), {400}),
    "odd condition": (put(b"If-Match: nonsense\r\n"), {400, 412}),
    "empty condition": (put(b"If-Match:\r\n"), {400, 412}),
    "two conditions": (put(b'If-None-Match: "x"\r\nIf-None-Match: *\r\n'), {412}),
    "two conditions, one of them good": (put(b'If-None-Match: *\r\nIf-None-Match: "x"\r\n'), {412}),
    "an asterisk in a list": (put(b'If-Match: "x"\r\nIf-Match: *\r\n'), {412}),
    "limit": (request(b"GET /v1/pods?limit=-1 HTTP/1.1"), {400}),
    "continue": (request(b"GET /v1/pods?continue=zz HTTP/1.1"), {400}),
    "selector": (request(b"GET /v1/pods?labelSelector=%28%28 HTTP/1.1"), {400}),
    "range": (request(b"GET /healthz HTTP/1.1", b"Range: bytes=0-0\r\n"), {200, 206}),
    "empty body": (put(b"Content-Length: 0\r\n", b"", length=False), {400}),
    "blank lines": (request(b"PUT /v1/state?owner=fuzz HTTP/1.1", b"Content-Type: application/x-ndjson\r\n", b"\r\n\n \n"), {200, 400}),
    "expectation": (put(b"Expect: 100-continue\r\n"), {100, 200}),
    "another expectation": (put(b"Expect: miracles\r\n"), {200, 417}),
    "upgrade": (request(b"GET /healthz HTTP/1.1", b"Connection: Upgrade\r\nUpgrade: h2c\r\n"), {101, 200, 400}),
    "absolute": (request(b"GET http://x/healthz HTTP/1.1"), {200, 404}),
    "folded": (request(b"GET /healthz HTTP/1.1", b"X: a\r\n b\r\n"), {200, 400}),
    "space before the colon": (put(b"Content-Length : 12\r\n", length=False), {400}),
}


@pytest.mark.parametrize("half_close", [False, True], ids=["open", "closed"])
def test_odd_requests(lab, half_close):
    agent, wrong = lab.agent(), []
    agent.api.put_object(policy("s", "p"))
    before = agent.api.state()
    for name, (raw, may) in ODD_REQUESTS.items():
        got = talk(agent, raw, timeout=0.4, half_close=half_close)
        codes = statuses(got)
        if (not codes and None not in may and half_close is False) or any(code not in may for code in codes):
            wrong.append(f"{name}: {codes}, wanted {may}: {got[:300]!r}")
        for part in re.split(rb"(?=HTTP/1\.1 [45])", got):
            if part.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")) and PROBLEM.encode() not in part:
                wrong.append(f"{name}: not a problem: {part[:200]!r}")
        assert agent.running() and agent.api.state() == before, name
    assert not wrong, "\n".join(wrong)
