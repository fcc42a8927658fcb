# SPDX-License-Identifier: Apache-2.0
"""A server that knows nothing of interception: says which process took the connection, and both its addresses.

    python3 plain_proxy.py ADDRESS PORT [--workers N] [--reuseport] [--v6only] [--uid N] [--cgroup DIRECTORY]
                           [--transparent] [--mptcp] [--udp] [--device NAME]
                           [--later-uid N --wait SECONDS]

Ends, with its workers, when standard input does.
"""
import argparse
import ctypes
import json
import os
import socket
import struct
import threading
import time

CAP_NET_BIND_SERVICE, CAP_NET_RAW = 10, 13
PR_SET_KEEPCAPS = 8
IPPROTO_MPTCP = 262
IP_TRANSPARENT, IP_RECVORIGDSTADDR = 19, 20
IPV6_RECVORIGDSTADDR, IPV6_TRANSPARENT = 74, 75


def serve(listener):
    while True:
        sock, peer = listener.accept()
        threading.Thread(target=answer, args=(sock, peer), daemon=True).start()


def answer(sock, peer):
    with sock:
        sock.sendall(json.dumps({"pid": os.getpid(), "peer": peer[:2], "local": sock.getsockname()[:2]}).encode() + b"\n")
        while data := sock.recv(65536):
            sock.sendall(data)


def original_destination(ancillary):
    for level, kind, data in ancillary:
        port = int.from_bytes(data[2:4], "big")
        if (level, kind) == (socket.IPPROTO_IP, IP_RECVORIGDSTADDR):
            return socket.inet_ntop(socket.AF_INET, data[4:8]), port
        if (level, kind) == (socket.IPPROTO_IPV6, IPV6_RECVORIGDSTADDR):
            return socket.inet_ntop(socket.AF_INET6, data[8:24]), port
    return None


def serve_datagrams(listener):
    """Each is answered from its original destination: by who took it, what it saw, and what it was sent."""
    while True:
        data, ancillary, _, peer = listener.recvmsg(65536, 256)
        local = original_destination(ancillary)
        peer = (peer[0].removeprefix("::ffff:"), peer[1])
        if local is None:
            continue
        with socket.socket(socket.AF_INET6 if ":" in local[0] else socket.AF_INET, socket.SOCK_DGRAM) as back:
            back.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            set_transparent(back)
            back.bind(local)
            said = {"pid": os.getpid(), "peer": peer, "local": local, "data": data.hex()}
            back.sendto(json.dumps(said).encode(), peer)


def set_transparent(sock):
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)


def listen(options):
    family = socket.AF_INET6 if ":" in options.address else socket.AF_INET
    kind = socket.SOCK_DGRAM if options.udp else socket.SOCK_STREAM
    listener = socket.socket(family, kind, IPPROTO_MPTCP if options.mptcp else 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if options.reuseport:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, options.v6only)
    if options.transparent:
        set_transparent(listener)
    if options.device:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, options.device.encode())
    if options.udp:  # a dual-stack socket reads both
        listener.setsockopt(socket.IPPROTO_IP, IP_RECVORIGDSTADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, 1)
    listener.bind((options.address, options.port))
    if not options.udp:
        listener.listen(128)
    return listener


def become(uid, udp):
    """UDP proxies keep what it takes to answer from other people's addresses, and from ports like 443."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_KEEPCAPS, udp, 0, 0, 0)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    if udp:
        kept = 1 << CAP_NET_RAW | 1 << CAP_NET_BIND_SERVICE
        header = struct.pack("=Ii", 0x20080522, 0)
        assert libc.capset(header, struct.pack("=6I", kept, kept, 0, 0, 0, 0)) == 0


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
    for flag in ("--reuseport", "--v6only", "--transparent", "--mptcp", "--udp"):
        parser.add_argument(flag, action="store_true")
    options = parser.parse_args()
    if options.cgroup:
        with open(f"{options.cgroup}/cgroup.procs", "w") as file:
            file.write(str(os.getpid()))
    if options.uid is not None:
        become(options.uid, options.udp)
    listener = listen(options)
    print("listens", flush=True)
    if options.later_uid is not None:
        time.sleep(options.wait)
        become(options.later_uid, options.udp)
    master = os.getpid()
    for _ in range(options.workers):
        if os.getpid() == master:
            os.fork()
    threading.Thread(target=end_with_input, daemon=True).start()
    if options.workers and os.getpid() == master:
        threading.Event().wait()
    serve_datagrams(listener) if options.udp else serve(listener)


main()
