# SPDX-License-Identifier: Apache-2.0
"""A server that knows nothing of interception: says which process took the connection, and both its addresses.

    python3 plain_proxy.py ADDRESS PORT [--workers N] [--reuseport] [--v6only] [--uid N] [--cgroup DIRECTORY]
                           [--transparent] [--mptcp] [--device NAME]
                           [--later-uid N --wait SECONDS]

Ends, with its workers, when standard input does.
"""
import argparse
import json
import os
import socket
import threading
import time

IPPROTO_MPTCP = 262


def serve(listener):
    while True:
        sock, peer = listener.accept()
        threading.Thread(target=answer, args=(sock, peer), daemon=True).start()


def answer(sock, peer):
    with sock:
        sock.sendall(json.dumps({"pid": os.getpid(), "peer": peer[:2], "local": sock.getsockname()[:2]}).encode() + b"\n")
        while data := sock.recv(65536):
            sock.sendall(data)


def listen(options):
    family = socket.AF_INET6 if ":" in options.address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, IPPROTO_MPTCP if options.mptcp else 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if options.reuseport:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, options.v6only)
    if options.transparent:
        listener.setsockopt(*(socket.IPPROTO_IPV6, 75) if family == socket.AF_INET6 else (socket.IPPROTO_IP, 19), 1)
    if options.device:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, options.device.encode())
    listener.bind((options.address, options.port))
    listener.listen(128)
    return listener


def become(uid):
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def end_with_input():
    os.read(0, 1)
    os._exit(0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--uid", type=int)
    parser.add_argument("--later-uid", type=int)
    parser.add_argument("--wait", type=float, default=0)
    parser.add_argument("--cgroup")
    parser.add_argument("--device")
    for flag in ("--reuseport", "--v6only", "--transparent", "--mptcp"):
        parser.add_argument(flag, action="store_true")
    options = parser.parse_args()
    if options.cgroup:
        with open(f"{options.cgroup}/cgroup.procs", "w") as file:
            file.write(str(os.getpid()))
    if options.uid is not None:
        become(options.uid)
    listener = listen(options)
    print("listens", flush=True)
    if options.later_uid is not None:
        time.sleep(options.wait)
        become(options.later_uid)
    master = os.getpid()
    for _ in range(options.workers):
        if os.getpid() == master:
            os.fork()
    threading.Thread(target=end_with_input, daemon=True).start()
    if options.workers and os.getpid() == master:
        threading.Event().wait()
    serve(listener)


main()
