# SPDX-License-Identifier: Apache-2.0
"""A server that knows nothing of interception: says which process took the connection, and both its addresses.

    python3 plain_proxy.py ADDRESS PORT [--workers N] [--reuseport] [--v6only] [--uid N] [--cgroup DIRECTORY]
                           [--transparent] [--device NAME]
"""
import argparse
import ctypes
import json
import os
import socket
import sys
import threading


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
    listener = socket.socket(family, socket.SOCK_STREAM)
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


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--uid", type=int)
    parser.add_argument("--cgroup")
    parser.add_argument("--device")
    for flag in ("--reuseport", "--v6only", "--transparent"):
        parser.add_argument(flag, action="store_true")
    options = parser.parse_args()
    if options.cgroup:
        with open(f"{options.cgroup}/cgroup.procs", "w") as file:
            file.write(str(os.getpid()))
    if options.uid is not None:
        os.setgroups([])
        os.setresgid(options.uid, options.uid, options.uid)
        os.setresuid(options.uid, options.uid, options.uid)
        ctypes.CDLL(None).prctl(1, 9)  # setuid has cleared PR_SET_PDEATHSIG
    listener = listen(options)
    for _ in range(options.workers):
        if os.fork() == 0:
            ctypes.CDLL(None).prctl(1, 9)
            serve(listener)
    print("listens", flush=True)
    if options.workers:
        sys.stdin.read()
    else:
        serve(listener)


main()
