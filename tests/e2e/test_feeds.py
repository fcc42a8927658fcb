# SPDX-License-Identifier: Apache-2.0
"""Flows, connections and alerts over HTTP, of made-up feeds (tests/tools/server_feeds.h) instead of a kernel: parameters,
streams, readers that are slow or leave."""
import gzip
import json
import os
import resource
import signal
import time

import pytest

from test_api import Server, connect, descriptors, gone_within, head_of, problem
from test_openapi import check

KEEP = 4000
PAD = {"pad": "x" * 200}


class Feeds(Server):
    """The test server; records come from its standard input."""

    def __init__(self, directory, keep=KEEP, **options):
        reading, self.writing = os.pipe()
        super().__init__(directory, stdin=reading, keep=keep, **options)
        os.close(reading)

    def bring(self, feed, count):
        os.write(self.writing, b"%s %d\n" % (feed.encode(), count))

    def newest(self, feed):
        items = self.api.expect("GET", f"/v1/{feed}?limit=1").json["items"]
        return items[0]["number"] if items else 0

    def has(self, feed, number):
        """Waits until so many came."""
        end = time.monotonic() + 20
        while self.newest(feed) != number:
            assert time.monotonic() < end
            time.sleep(0.005)

    def stop(self, number=signal.SIGTERM):
        os.close(self.writing)
        return super().stop(number)


class Follower:
    def __init__(self, server, path, timeout=20):
        self.connection = connect(server.socket, f"GET {path} HTTP/1.0\r\n\r\n".encode(), timeout)
        self.file = self.connection.makefile("rb")
        self.head = b""
        while not self.head.endswith(b"\r\n\r\n"):
            line = self.file.readline()
            assert line, self.head
            self.head += line

    def line(self):
        text = self.file.readline()
        return json.loads(text) if text else None

    def numbers(self, count):
        return [self.line()["number"] for _ in range(count)]

    def close(self):
        self.file.close()
        self.connection.close()


@pytest.fixture
def server(tmp_path):
    running = Feeds(str(tmp_path))
    yield running
    if running.process.poll() is None:
        running.stop()


def numbers(server, path):
    return [item["number"] for item in server.api.expect("GET", path).json["items"]]


# ---- parameters, errors ----

@pytest.mark.parametrize("path, words", [
    ("flows?workload=shop", "workload namespace/name"), ("flows?workload=/cart", "workload namespace/name"),
    ("flows?workload=shop/", "workload namespace/name"), ("alerts?workload=a/b/c", "workload namespace/name"),
    ("connections?workload=", "workload namespace/name"), ("flows?workload=/*", "workload namespace/*"),
    ("flows?verdict=Allowed", "verdict Forwarded Intercepted Dropped Rejected Audited"), ("flows?verdict=", "verdict"),
    ("connections?protocol=QUIC", "protocol TCP UDP SCTP ICMP ICMPv6"), ("flows?protocol=256", "protocol"),
    ("flows?protocol=", "protocol"), ("flows?protocol=-6", "protocol"),
    ("flows?port=0", "port 1 65535"), ("flows?port=65536", "port"), ("flows?port=http", "port"), ("flows?port=", "port"),
    ("flows?ip=10.0.0.0/8", "ip IPv4 IPv6"), ("flows?ip=10.0.0", "ip"), ("flows?ip=", "ip"), ("flows?ip=fe80::1%25eth0", "ip"),
    ("flows?limit=-1", "limit number"), ("alerts?limit=ten", "limit"), ("flows?follow=1", "follow true false"),
    ("connections?follow=true", "follow"), ("alerts?verdict=Dropped", "verdict"), ("alerts?ip=10.0.0.1", "ip"),
    ("flows?port=1&port=2", "port twice"), ("flows?labelSelector=a", "labelSelector"), ("flows?owner=a", "owner"),
])
def test_a_bad_parameter_is_named_with_what_it_must_be(shared, path, words):
    detail = problem(shared.api.request("GET", f"/v1/{path}"), 400)["detail"]
    assert detail.startswith("query parameter ") and set(words.split()) <= set(detail.replace(",", "").split()), detail


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    running = Feeds(str(tmp_path_factory.mktemp("feeds")))
    yield running
    running.stop()


@pytest.mark.parametrize("query, wanted", [
    ("", {}),
    ("workload=shop/cart", {"workload": "shop/cart"}), ("workload=shop%2Fcart", {"workload": "shop/cart"}),
    ("workload=shop/*", {"workload": "shop/*"}), ("verdict=refused", {"verdict": "Refused"}),
    ("verdict=Dropped", {"verdict": "Dropped"}), ("verdict=INTERCEPTED", {"verdict": "Intercepted"}),
    ("protocol=tcp", {"protocol": "TCP"}), ("protocol=icmpV6", {"protocol": "ICMPv6"}),
    ("protocol=17", {"protocol": "UDP"}), ("protocol=47", {"protocol": "47"}), ("protocol=047", {"protocol": "47"}),
    ("port=1", {"port": 1}), ("port=65535", {"port": 65535}),
    ("ip=10.0.0.1", {"ip": "10.0.0.1"}), ("ip=FD00:0:0::1", {"ip": "fd00::1"}), ("ip=::ffff:10.0.0.1", {"ip": "10.0.0.1"}),
    ("limit=0", {}), ("limit=18446744073709551615", {"limit": 2**64 - 1}),
    ("workload=a/b&verdict=audited&protocol=sctp&port=9&ip=::1&limit=3",
     {"workload": "a/b", "verdict": "Audited", "protocol": "SCTP", "port": 9, "ip": "::1", "limit": 3}),
])
def test_the_filter_is_handed_on_in_the_spelling_of_records(shared, query, wanted):
    given = {"limit": 0, "port": -1, "ip": None, "workload": None, "verdict": None, "protocol": None, **wanted}
    assert shared.api.expect("GET", f"/v1/connections?{query}").json == {"items": [given]}


@pytest.mark.parametrize("path", ["/v1/flows", "/v1/connections", "/v1/alerts", "/v1/flows?follow=true", "/v1/alerts?follow=true"])
def test_without_a_data_path_it_is_503(tmp_path, path):
    running = Server(str(tmp_path))
    answer = check(running.api.request("GET", path), path.split("?")[0], "GET")
    assert problem(answer, 503) and int(answer.headers["Retry-After"]) >= 1
    running.stop()


# ---- lists ----

def test_lists(server):
    assert server.api.expect("GET", "/v1/flows").json == {"items": []}
    server.bring("flows", 12)
    server.has("flows", 12)
    assert server.api.expect("GET", "/v1/flows").json == {"items": [{"number": n, **PAD} for n in range(1, 13)]}
    assert numbers(server, "/v1/flows?limit=3") == [10, 11, 12]
    assert numbers(server, "/v1/flows?limit=2&port=5") == [5, 10]
    assert numbers(server, "/v1/flows?limit=99") == list(range(1, 13))
    assert numbers(server, "/v1/alerts") == []
    server.bring("alerts", 2)
    server.has("alerts", 2)
    assert numbers(server, "/v1/alerts") == [1, 2] and len(numbers(server, "/v1/flows")) == 12
    for path in ("/v1/flows", "/v1/connections", "/v1/alerts", "/v1/flows?follow=true"):
        head = server.api.request("HEAD", path)
        assert head.status == 200 and head.body == b"" and head.headers["Content-Type"] == "application/json"
    zipped = server.api.request("GET", "/v1/flows", headers={"Accept-Encoding": "gzip"})
    assert zipped.headers["Content-Encoding"] == "gzip" and len(json.loads(gzip.decompress(zipped.body))["items"]) == 12
    assert problem(server.api.request("POST", "/v1/flows"), 405)
    assert "/v1/flows/x" not in server.api.metrics().text
    for route, method in (("flows", "GET"), ("connections", "HEAD"), ("alerts", "GET")):
        assert server.api.metrics()("penstock_api_requests_total", route=f"/v1/{route}", method=method, code=200) > 0


def test_long_answers_that_nobody_takes_are_bounded(tmp_path):
    """A viewer must not be able to fill the node's memory."""
    server = Feeds(str(tmp_path), keep=200000)  # 44 MB an answer
    server.bring("flows", 200000)
    server.has("flows", 200000)
    standing = []
    for _ in range(2):
        standing.append(server.connect(b"GET /v1/flows HTTP/1.1\r\nHost: x\r\n\r\n"))
        assert head_of(standing[-1]).startswith(b"HTTP/1.1 200 ")
    assert problem(server.api.request("GET", "/v1/flows"), 503)
    assert problem(server.api.request("GET", "/v1/connections"), 503)["detail"].startswith("64 MiB of answers")
    follower = Follower(server, "/v1/flows?follow=true&limit=1")
    assert follower.numbers(1) == [200000]
    for connection in standing:
        connection.close()
    end = time.monotonic() + 10
    while server.api.request("GET", "/v1/flows?limit=1").status == 503:
        assert time.monotonic() < end
        time.sleep(0.01)
    server.stop()


# ---- streams ----

@pytest.mark.parametrize("feed", ["flows", "alerts"])
def test_follow(server, feed):
    other = Follower(server, f"/v1/{'alerts' if feed == 'flows' else 'flows'}?follow=true")
    empty = Follower(server, f"/v1/{feed}?follow=true")  # its head is there before anything has come
    assert b"application/x-ndjson" in empty.head and b"gzip" not in empty.head
    few = Follower(server, f"/v1/{feed}?follow=true&limit=1")
    server.bring(feed, 3)
    assert [empty.line() for _ in range(3)] == [{"number": n, **PAD} for n in (1, 2, 3)]
    assert few.numbers(3) == [1, 2, 3], "limit is for what is kept, not for what comes"
    late = Follower(server, f"/v1/{feed}?follow=true&limit=2")
    assert late.numbers(2) == [2, 3]
    fifth = Follower(server, f"/v1/{feed}?follow=true&port=5") if feed == "flows" else None
    for number in range(4, 12):
        server.bring(feed, 1)
        assert [f.numbers(1) for f in (empty, few, late)] == [[number]] * 3
    if fifth:
        assert fifth.numbers(2) == [5, 10]
    server.bring("alerts" if feed == "flows" else "flows", 1)
    assert other.numbers(1) == [1], "the other feed's news are not its"


def test_follow_over_http_1_1_is_chunked(server):
    with server.connect(b"GET /v1/flows?follow=true HTTP/1.1\r\nHost: x\r\n\r\n") as connection:
        assert b"chunked" in head_of(connection)
        server.bring("flows", 1)
        assert b'{"number":1,' in connection.recv(65536)


def test_bursts_arrive_whole_and_in_order(server):
    """News come far more often than readers are awake."""
    followers = [Follower(server, "/v1/flows?follow=true") for _ in range(4)]
    for _ in range(40):
        server.bring("flows", 90)  # 3,600 of 4,000: nothing is overwritten
    for follower in followers:
        assert follower.numbers(3600) == list(range(1, 3601))


def test_no_news_is_slept_over(server):
    """They come while the stream looks, in vain, and is about to sleep: with an ip the made-up feed takes its time."""
    follower = Follower(server, "/v1/flows?follow=true&ip=10.0.0.1")
    for number in range(1, 6):
        server.bring("flows", 1)
        assert follower.numbers(1) == [number]


def memory(server):
    with open(f"/proc/{server.process.pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))


def sanitized(server):
    with open(f"/proc/{server.process.pid}/maps") as file:
        return "libasan" in file.read()


def test_a_slow_reader_learns_what_it_lost(server):
    slow, quick = (Follower(server, "/v1/flows?follow=true") for _ in range(2))
    server.bring("flows", 1)
    assert slow.numbers(1) == quick.numbers(1) == [1]
    server.has("flows", 1)
    before, last = memory(server), 1
    for _ in range(30):  # 26 MB go by
        server.bring("flows", 3900)
        assert quick.numbers(3900) == list(range(last + 1, last + 3901))
        last += 3900
    if not sanitized(server):  # which keeps what is freed
        assert memory(server) - before < 4096, "a reader that stands still costs little"
    seen, lost = 1, 0
    while seen + lost < last:
        line = slow.line()
        if "lost" in line:
            assert line["lost"] > 0
            lost += line["lost"]
        else:
            seen += 1
            assert line["number"] == seen + lost
    assert lost > last // 2
    server.bring("flows", 1)
    assert slow.numbers(1) == quick.numbers(1) == [last + 1]


def test_readers_that_leave_are_noticed(server):
    followers = [Follower(server, f"/v1/{feed}?follow=true") for feed in ("flows", "alerts") for _ in range(30)]
    assert descriptors(server) >= 60
    standing = [Follower(server, "/v1/flows?follow=true") for _ in range(10)]
    server.bring("flows", KEEP)  # these do not read, and leave with most of it unsent
    server.has("flows", KEEP)
    for follower in followers + standing:
        follower.close()
    gone_within(server, 10)
    server.bring("flows", 1)
    assert numbers(server, "/v1/flows?limit=1") in ([KEEP], [KEEP + 1])


def test_too_many_followers_are_429(server):
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    followers = [Follower(server, f"/v1/{'flows' if n % 2 else 'alerts'}?follow=true") for n in range(256)]
    answers = [check(server.api.request("GET", f"/v1/{path}?follow=true"), f"/v1/{path}", "GET")
               for path in ("flows", "alerts", "status")]
    for answer in answers:
        assert problem(answer, 429) and int(answer.headers["Retry-After"]) >= 1
    assert numbers(server, "/v1/flows") == [], "who does not follow is not concerned"
    server.bring("flows", 2)
    assert [f.numbers(2) for f in followers[1::2]] == [[1, 2]] * 128
    for follower in followers[:3]:
        follower.close()
    end = time.monotonic() + 10
    while b" 429 " in (again := Follower(server, "/v1/alerts?follow=true")).head:
        again.close()
        assert time.monotonic() < end
        time.sleep(0.05)
    server.bring("alerts", 1)
    assert again.numbers(1) == [1]


def test_a_stop_ends_all_streams(server):
    asleep = [Follower(server, f"/v1/{feed}?follow=true") for feed in ("flows", "alerts", "status") for _ in range(5)]
    standing = Follower(server, "/v1/flows?follow=true")
    server.bring("flows", KEEP)
    assert server.stop() == 0
    for follower in asleep:
        while follower.line() is not None:
            pass
    while standing.file.readline().endswith(b"\n"):  # what was on its way, cut off anywhere
        pass
