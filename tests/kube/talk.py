#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What the tests' pods run. Every line, or datagram, that a server gets it answers with "NAME PEER-ADDRESS PEER-PORT LINE".

talk.py serve NAME PORT…          a server of TCP and UDP
talk.py ask SECONDS TARGET…       asks each, ADDRESS:PORT or for UDP udp/ADDRESS:PORT; prints {TARGET: "answer" or null}
talk.py flow ADDRESS:PORT FILE    one connection that is used all the time, and new ones one after another, until FILE is there;
                                  prints {"lines": N, "opened": N, "lost": ["why", …]}
"""
import concurrent.futures
import json
import os
import socket
import socketserver
import sys
import threading
import time


class Answer(socketserver.StreamRequestHandler):
    name = ""

    def handle(self):
        for line in self.rfile:
            self.wfile.write(f"{self.name} {self.client_address[0]} {self.client_address[1]} ".encode() + line)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True


class Datagram(socketserver.BaseRequestHandler):
    def handle(self):
        line, server = self.request
        server.sendto(f"{Answer.name} {self.client_address[0]} {self.client_address[1]} ".encode() + line, self.client_address)


def serve(name, *ports):
    Answer.name = name
    for port in ports:
        threading.Thread(target=Server(("0.0.0.0", int(port)), Answer).serve_forever).start()
        threading.Thread(target=socketserver.UDPServer(("0.0.0.0", int(port)), Datagram).serve_forever).start()


def opened(target, seconds):
    address, port = target.rsplit(":", 1)
    made = socket.create_connection((address, int(port)), seconds)
    made.settimeout(seconds)
    return made, made.makefile("rwb")


def said(stream, line):
    stream.write(line.encode() + b"\n")
    stream.flush()
    answer = stream.readline().decode()
    if not answer.endswith(f" {line}\n"):
        raise OSError(f"{answer!r} to {line!r}")
    return answer.strip()


def one(target, seconds, line="?"):
    made, stream = opened(target, seconds)
    with made, stream:
        return said(stream, line)


def one_datagram(target, seconds, line="?"):
    address, port = target.rsplit(":", 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.connect((address, int(port)))
        made.settimeout(seconds)
        made.send(line.encode())
        return made.recv(1500).decode()


def ask(seconds, *targets):
    def each(target):
        try:
            protocol, _, rest = target.rpartition("/")
            return (one_datagram if protocol == "udp" else one)(rest, float(seconds))
        except OSError:
            return None

    with concurrent.futures.ThreadPoolExecutor(len(targets)) as pool:
        print(json.dumps(dict(zip(targets, pool.map(each, targets)))))


def flow(target, stop):
    done = {"lines": 0, "opened": 0, "lost": []}

    def long():
        try:
            made, stream = opened(target, 5)
            with made, stream:
                while not os.path.exists(stop):
                    said(stream, str(done["lines"]))
                    done["lines"] += 1
                    time.sleep(0.01)
        except OSError as error:
            done["lost"].append(f"the long one after {done['lines']} lines: {error}")

    thread = threading.Thread(target=long)
    thread.start()
    while not os.path.exists(stop):
        try:
            one(target, 5)
            done["opened"] += 1
        except OSError as error:
            done["lost"].append(f"a new one after {done['opened']}: {error}")
        time.sleep(0.02)
    thread.join()
    print(json.dumps(done), flush=True)


if __name__ == "__main__":
    {"serve": serve, "ask": ask, "flow": flow}[sys.argv[1]](*sys.argv[2:])
