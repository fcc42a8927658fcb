# SPDX-License-Identifier: Apache-2.0
"""An agent that says what a test wants it to say: the feeds, the status and the metrics, on a unix socket."""
import contextlib
import json
import os
import queue
import select
import socket
import socketserver
import threading
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler


def when(seconds_ago=0):
    return (datetime.now(timezone.utc) - timedelta(seconds=seconds_ago)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def rule(kind, name, direction="Ingress", index=0, rule_name="", namespace=""):
    return {"kind": kind, "namespace": namespace, "name": name, "direction": direction, "index": index,
            "ruleName": rule_name}


def flow(event="Opened", verdict="Forwarded", reason="Default", source="shop/chat", to="shop/web", ip="10.77.0.3",
         port=80, **more):
    record = {
        "time": when(), "event": event, "verdict": verdict, "reason": reason, "direction": "Egress",
        "family": "IPv6" if ":" in ip else "IPv4", "protocol": "TCP",
        "source": {"ip": "10.77.0.2", "port": 41234, "workload": source},
        "destination": {"ip": ip, "port": port, "workload": to, "names": []},
        "rule": None, "proxy": None, "revision": 7}
    record.update(more)
    return record


END = object()  # the stream ends in order
CUT = object()  # the connection breaks within a line


class Agent:
    """items: path -> records of a list. followers: what is put there goes to who follows."""

    def __init__(self, path):
        self.path = path
        self.items = {"/v1/flows": [], "/v1/connections": [], "/v1/alerts": []}
        self.status = {"node": "node-1", "ready": True, "revision": 42,
                       "engine": {"configured": "auto", "active": "ebpf", "reason": "tried, and it works"},
                       "proxies": []}
        self.metrics = ""
        self.asked = []
        self.problem = None  # (status, detail): what every call is answered with
        self.stream = queue.Queue()
        self.server, self.connections = None, []
        self.start()

    def start(self):
        agent = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self):
                agent.connections.append(self.request)
                super().setup()

            def address_string(self):
                return ""

            def log_message(self, *_):
                pass

            def do_GET(self):
                agent.answer(self)

        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True

        self.server = Server(self.path, Handler)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self):
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            os.unlink(self.path)
            self.server = None
            for connection in self.connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self.connections = []

    def say(self, *records):
        for record in records:
            self.stream.put(record)

    def answer(self, handler):
        self.asked.append(handler.path)
        path = handler.path.partition("?")[0]
        if self.problem:
            status, detail = self.problem
            self._whole(handler, json.dumps({"title": "no", "status": status, "detail": detail}), status)
        elif "follow=true" in handler.path:
            self._follow(handler, path)
        elif path == "/metrics":
            self._whole(handler, self.metrics() if callable(self.metrics) else self.metrics)
        elif path == "/v1/status":
            self._whole(handler, json.dumps(self.status))
        elif self.items.get(path) is None:
            self._whole(handler, json.dumps({"title": "Service Unavailable", "status": 503}), 503)
        else:
            self._whole(handler, json.dumps({"items": self.items[path]}))

    @staticmethod
    def _whole(handler, text, status=200):
        body = text.encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    @staticmethod
    def _gone(connection):
        return bool(select.select([connection], [], [], 0)[0])

    def _follow(self, handler, path):
        def chunk(data):
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            handler.wfile.flush()

        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        kept = "".join(json.dumps(record) + "\n" for record in self.items[path])
        if kept:
            chunk(kept.encode())
        stream = self.stream  # the next follower may get one of its own
        while not self._gone(handler.connection):
            try:
                record = stream.get(timeout=0.02)
            except queue.Empty:
                continue
            if record is END:
                chunk(b"")
                return
            if record is CUT:
                chunk(b'{"time": "2026')
                handler.close_connection = True
                return
            try:
                chunk(record if isinstance(record, bytes) else json.dumps(record).encode() + b"\n")
            except OSError:
                return  # who followed is gone
