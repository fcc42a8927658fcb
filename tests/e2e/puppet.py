# SPDX-License-Identifier: Apache-2.0
"""A process of the node that does what it is told: in a cgroup of its own choice, in the node's network namespace.

    with Group("penstock-test/a") as group, Puppet(lab.node, group) as client:
        client.ask("198.51.100.9", 80)        # {"server": …, "peer": …, "local": …, "own": […]}, or an error's name
        client.send("198.51.100.9", 53)       # a datagram: what was answered, from where

Run as a program it reads calls from standard input, a line of JSON each, and answers with one.
"""
import json
import os
import socket
import subprocess
import sys
import threading
import time
import zlib

CGROUP2 = None
SO_MARK = 36


def cgroup_root():
    """Where cgroup v2 is mounted, or None."""
    global CGROUP2
    if CGROUP2 is None:
        with open("/proc/self/mountinfo") as file:
            found = [line.split() for line in file if " - cgroup2 " in line]
        CGROUP2 = next((part[4] for part in found if part[3] == "/"), "")
    return CGROUP2 or None


class Group:
    """A cgroup below the machine's root; goes with those it made above it."""

    def __init__(self, path):
        self.path, self.directory, self.made = path, f"{cgroup_root()}/{path}", []
        at = cgroup_root()
        for part in path.split("/"):
            at = f"{at}/{part}"
            if not os.path.isdir(at):
                os.mkdir(at)
                self.made.append(at)

    def join(self, pid):
        with open(f"{self.directory}/cgroup.procs", "w") as file:
            file.write(str(pid))

    def close(self):
        for directory in reversed(self.made):
            for _ in range(100):
                try:
                    os.rmdir(directory)
                    break
                except FileNotFoundError:
                    break
                except OSError:  # whoever was in it is still ending
                    time.sleep(0.02)
        self.made = []

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


class Puppet:
    def __init__(self, space, group=None):
        self.process = space.popen(sys.executable, os.path.abspath(__file__), group.directory if group else "",
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process.stdout.readline()

    def tell(self, **call):
        self.process.stdin.write(json.dumps(call) + "\n")
        self.process.stdin.flush()

    def heard(self):
        return json.loads(self.process.stdout.readline())

    def does(self, **call):
        self.tell(**call)
        return self.heard()

    def ask(self, ip, port=80, **more):
        """One TCP talk (talk.Server's), a connection of its own; `keep`: a name under which it stays open."""
        return self.does(what="ask", ip=ip, port=port, **more)

    def send(self, ip, port=80, **more):
        """One datagram and its answer. connected: False sends without connect(); `keep`: the socket stays."""
        return self.does(what="send", ip=ip, port=port, **more)

    def again(self, keep, **more):
        return self.does(what="again", keep=keep, **more)

    def close(self):
        if self.process:
            self.process.stdin.close()
            self.process.wait()
            self.process = None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


# ---- the program ----

KEPT = {}


def opened(call, kind):
    sock = socket.socket(socket.AF_INET6 if ":" in call["ip"] or call.get("mapped") else socket.AF_INET, kind)
    sock.settimeout(call.get("timeout", 2))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    if call.get("mark"):
        sock.setsockopt(socket.SOL_SOCKET, SO_MARK, call["mark"])
    if call.get("bind"):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(tuple(call["bind"]))
    return sock


def target(call):
    return ("::ffff:" + call["ip"] if call.get("mapped") else call["ip"], call["port"])


def talk(sock):
    sock.sendall(b"hello\n")
    said = b""
    while not said.endswith(b"\n"):
        part = sock.recv(4096)
        if not part:
            raise ConnectionError
        said += part
    return {**json.loads(said), "own": sock.getsockname()[:2], "mark": sock.getsockopt(socket.SOL_SOCKET, SO_MARK)}


def ask(call):
    with opened(call, socket.SOCK_STREAM) as sock:
        sock.connect(target(call))
        said = talk(sock)
        if call.get("keep"):
            KEPT[call["keep"]] = sock.dup()
    return said


def exchanged(sock, call):
    """Who answers, in its own words, and from which address that came."""
    if call.get("connected", True):
        sock.send(b"x" * call.get("size", 5))
    else:
        sock.sendto(b"x" * call.get("size", 5), target(call))
    data, source = sock.recvfrom(65536)
    return {**json.loads(data), "from": source[:2], "own": sock.getsockname()[:2]}


def send(call):
    with opened(call, socket.SOCK_DGRAM) as sock:
        if call.get("connected", True):
            sock.connect(target(call))
        said = exchanged(sock, call)
        if call.get("keep"):
            KEPT[call["keep"]] = sock.dup()
            KEPT[call["keep"]].settimeout(2)
    return said


def again(call):
    """One that was kept: an echo (TCP), another exchange (UDP), or the end of it."""
    sock = KEPT[call["keep"]]
    if call.get("end"):
        KEPT.pop(call["keep"]).close()
        return True
    if sock.type == socket.SOCK_DGRAM:
        return exchanged(sock, call)
    sock.settimeout(call.get("timeout", 2))
    sock.sendall(b"echo")
    return sock.recv(4) == b"echo"


def listen(call):
    """On a port, from now on; nobody is accepted."""
    sock = socket.create_server(("", call["port"]), backlog=64)
    KEPT["listener"] = sock
    return True


def child(call):
    """The same by a process that this one forks; executed: which then executes a program."""
    if call.get("executed"):
        call = {**call, "what": call["does"], "executed": False}
        done = subprocess.run([sys.executable, os.path.abspath(__file__), ""], input=json.dumps(call) + "\n", text=True,
                              capture_output=True)
        return json.loads(done.stdout.splitlines()[1])
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, json.dumps(answered({**call, "what": call["does"]})).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        return json.loads(file.read())


def pour(call):
    """So many megabytes there and back, both ways at once. None, or what is wrong."""
    total, sums = call["megabytes"] << 20, [0, 0]
    with opened(call, socket.SOCK_STREAM) as sock:
        sock.connect(target(call))
        talk(sock)

        def sender():
            part = os.urandom(65537)
            for at in range(0, total, len(part)):
                data = part[:total - at]
                sock.sendall(data)
                sums[0] = zlib.crc32(data, sums[0])
            sock.shutdown(socket.SHUT_WR)
        thread = threading.Thread(target=sender, daemon=True)
        thread.start()
        got = 0
        while data := sock.recv(1 << 18):
            sums[1], got = zlib.crc32(data, sums[1]), got + len(data)
        thread.join()
    return None if (got, sums[0]) == (total, sums[1]) else f"{got} bytes, sums {sums}"


DOES = {"pour": pour, "ask": ask, "send": send, "again": again, "listen": listen, "child": child}


def answered(call):
    try:
        return DOES[call["what"]](call)
    except (OSError, ValueError) as error:
        return type(error).__name__


def main():
    if sys.argv[1]:
        with open(f"{sys.argv[1]}/cgroup.procs", "w") as file:
            file.write(str(os.getpid()))
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(answered(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
