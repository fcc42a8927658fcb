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


class Generator:
    """Frames of `client` to one UDP port, from 1,024 ports, sent by an XDP program inside the client's namespace."""

    def __init__(self, lab, client, ip, port):
        self.lab, self.client, self.port = lab, client, port
        self.pins = f"/sys/fs/bpf/{lab.prefix}-generator"
        build = os.environ.get("PENSTOCK_BUILD", "build")
        os.makedirs(self.pins)
        subprocess.run(["bpftool", "prog", "loadall", f"{build}/tests/bench/generator.bpf.o", self.pins, "pinmaps",
                        f"{self.pins}/maps"], check=True)
        # Frames from XDP are taken by the peer only where its NAPI is on.
        lab.node.run("ethtool", "-K", client.interface, "gro", "on")
        with client.entered():
            self.program = kernel.obj_get(f"{self.pins}/generate")
            ifindex = socket.if_nametoindex("eth0")
        self.packet = udp4(client.ip4, ip, 1024, port, mac(lab.node, client.interface) + mac(client, "eth0"))
        settings = kernel.obj_get(f"{self.pins}/maps/settings")
        kernel.map_update(settings, struct.pack("=I", 0), struct.pack("=II34s2x", ifindex, FLOWS, self.packet[:34]))
        os.close(settings)

    def sink(self, space, ip, interface):
        """What arrives there is dropped as cheaply as can be; ARP too."""
        self.lab.node.ip(f"neigh replace {ip} lladdr {mac(space, 'eth0').hex(':')} dev {interface} nud permanent")
        space.run("tc", "qdisc", "add", "dev", "eth0", "clsact")
        space.run("tc", "filter", "add", "dev", "eth0", "ingress", "bpf", "direct-action", "pinned", f"{self.pins}/sink")

    def asks(self, payload=b"x" * 18):
        """One frame of each flow."""
        return [self.packet[:34] + struct.pack("!H", 1024 + f) + self.packet[36:40] + b"\0\0" + payload for f in range(FLOWS)]

    @staticmethod
    def send(space, frames):
        with space.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("eth0", 0))
            for at, frame in enumerate(frames):
                raw.send(frame)
                if at % 64 == 63:
                    time.sleep(0.001)
        time.sleep(0.02)

    def received(self):
        raise NotImplementedError

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


class Stream(Generator):
    """To `server`, counted at its interface."""

    def __init__(self, lab, client, server, port=4000):
        super().__init__(lab, client, server.ip4, port)
        self.server = server
        self.sink(server, server.ip4, server.interface)

    def answered(self):
        """Each flow gets an answer and speaks again: established, for whoever tracks connections."""
        ethernet = mac(self.lab.node, self.server.interface) + mac(self.server, "eth0")
        answers = [udp4(self.server.ip4, self.client.ip4, self.port, 1024 + f, ethernet) for f in range(FLOWS)]
        for space, frames in ((self.client, self.asks()), (self.server, answers), (self.client, self.asks())):
            self.send(space, frames)

    def received(self):
        with self.server.entered():
            for line in open("/proc/thread-self/net/dev"):
                if line.strip().startswith("eth0:"):
                    return int(line.split()[2])


class Flood(Generator):
    """To an address beyond the node, taken by a proxy on it: counted as its socket has them read."""

    def __init__(self, lab, client, ip, port):
        super().__init__(lab, client, ip, port)
        self.sink(client, client.ip4, client.interface)  # nobody there wants the answers

    def answered(self):
        """The proxy answers what begins with a question mark. Each flow has had its answer, and speaks again."""
        before = self.received()
        self.send(self.client, self.asks(b"?" * 18))
        self.send(self.client, self.asks())
        if self.received() - before < 2 * FLOWS * 0.99:
            raise RuntimeError(f"the proxy has {self.received() - before} of {2 * FLOWS} datagrams")

    def received(self):
        with self.lab.node.entered(), open("/proc/thread-self/net/snmp") as file:
            names, values = [line.split() for line in file if line.startswith("Udp:")]
        return int(values[names.index("InDatagrams")])
