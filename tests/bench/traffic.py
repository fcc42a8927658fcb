# SPDX-License-Identifier: Apache-2.0
"""Packets per second from one pod to another through the node, with whatever filters stands in the way."""
import json
import os
import socket
import struct
import subprocess
import time

import kernel

FLOWS = 1024
SYN, ACK = 2, 16


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xffff) + (total >> 16)
    return ~(total + (total >> 16)) & 0xffff


def ip4(source, destination, protocol, payload, ethernet):
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0, socket.inet_aton(source),
                         socket.inet_aton(destination))
    header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
    return ethernet + b"\x08\x00" + header + payload


def udp4(source, destination, sport, dport, ethernet, payload=b"x" * 18):
    return ip4(source, destination, 17, struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload, ethernet)


def tcp4(source, destination, sport, dport, ethernet, flags):
    """For programs alone: neither numbers nor checksum would please a socket."""
    return ip4(source, destination, 6, struct.pack("!HHIIBBHHH", sport, dport, 1, 1, 5 << 4, flags, 1024, 0, 0), ethernet)


def mac(space, interface):
    link, = json.loads(space.run("ip", "-j", "link", "show", "dev", interface).stdout)
    return bytes.fromhex(link["address"].replace(":", ""))


class Stream:
    """Frames from `client` to `server`, sent by an XDP program inside the client's namespace, counted at the server's interface."""

    def __init__(self, lab, client, server, port=4000):
        self.lab, self.client, self.server, self.port = lab, client, server, port
        self.pins = f"/sys/fs/bpf/{lab.prefix}-generator"
        build = os.environ.get("PENSTOCK_BUILD", "build")
        os.makedirs(self.pins)
        subprocess.run(["bpftool", "prog", "loadall", f"{build}/tests/bench/generator.bpf.o", self.pins, "pinmaps",
                        f"{self.pins}/maps"], check=True)
        # Frames from XDP are taken by the peer only where its NAPI is on; and the server must drop what it got cheaply.
        lab.node.run("ethtool", "-K", client.interface, "gro", "on")
        # The sink takes ARP too.
        lab.node.ip(f"neigh replace {server.ip4} lladdr {mac(server, 'eth0').hex(':')} dev {server.interface} nud permanent")
        server.run("tc", "qdisc", "add", "dev", "eth0", "clsact")
        server.run("tc", "filter", "add", "dev", "eth0", "ingress", "bpf", "direct-action", "pinned", f"{self.pins}/sink")
        with client.entered():
            self.program = kernel.obj_get(f"{self.pins}/generate")
            ifindex = socket.if_nametoindex("eth0")
        self.packet = udp4(client.ip4, server.ip4, 1024, port, mac(lab.node, client.interface) + mac(client, "eth0"))
        settings = kernel.obj_get(f"{self.pins}/maps/settings")
        kernel.map_update(settings, struct.pack("=I", 0), struct.pack("=II34s2x", ifindex, FLOWS, self.packet[:34]))
        os.close(settings)

    def answered(self):
        """Each flow gets an answer and speaks again: established, for whoever tracks connections."""
        ethernet = mac(self.lab.node, self.server.interface) + mac(self.server, "eth0")
        asks = [self.packet[:34] + struct.pack("!H", 1024 + f) + self.packet[36:40] + b"\0\0" + self.packet[42:] for f in range(FLOWS)]
        answers = [udp4(self.server.ip4, self.client.ip4, self.port, 1024 + f, ethernet) for f in range(FLOWS)]
        for space, frames in ((self.client, asks), (self.server, answers), (self.client, asks)):
            with space.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
                raw.bind(("eth0", 0))
                for at, frame in enumerate(frames):
                    raw.send(frame)
                    if at % 64 == 63:
                        time.sleep(0.001)
            time.sleep(0.02)

    def received(self):
        with self.server.entered():
            for line in open("/proc/thread-self/net/dev"):
                if line.strip().startswith("eth0:"):
                    return int(line.split()[2])

    def rate(self, seconds=1.0):
        """Packets per second that arrived."""
        with self.client.entered():
            before, begin = self.received(), time.monotonic()
            while time.monotonic() - begin < seconds:
                kernel.run_live(self.program, self.packet, 20000)
            time.sleep(0.01)
            return (self.received() - before) / (time.monotonic() - begin)

    def close(self):
        os.close(self.program)
        subprocess.run(["rm", "-r", self.pins], check=False)
