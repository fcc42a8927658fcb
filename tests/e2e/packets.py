# SPDX-License-Identifier: Apache-2.0
"""Ethernet frames built with struct: well-formed by default, with the header bytes that matter to be chosen."""
import ipaddress
import struct

ETH_P_IP, ETH_P_IPV6, ETH_P_8021Q, ETH_P_ARP = 0x0800, 0x86DD, 0x8100, 0x0806
NUMBERS = {"ICMP": 1, "TCP": 6, "UDP": 17, "GRE": 47, "ICMPv6": 58, "SCTP": 132}
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION = 0, 43, 44, 60
MAC_A, MAC_B = bytes.fromhex("02000000000a"), bytes.fromhex("02000000000b")


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def tcp(sport, dport, flags=SYN, seq=1000, ack=0, payload=b""):
    return struct.pack("!HHIIBBHHH", sport, dport, seq, ack, 5 << 4, flags, 65535, 0, 0) + payload


def udp(sport, dport, payload=b"x" * 18):
    return struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload


def sctp(sport, dport):
    return struct.pack("!HHII", sport, dport, 0, 0) + struct.pack("!BBHIIHHI", 1, 0, 20, 7, 65536, 1, 1, 9)


def icmp(kind, code=0, rest=b"\0\0\0\1", payload=b"x" * 32):
    head = struct.pack("!BBH", kind, code, 0) + rest + payload
    return head[:2] + struct.pack("!H", checksum(head)) + head[4:]


def transport(protocol, sport, dport, version=4, flags=SYN):
    """A packet that begins something: SYN, INIT, a datagram, an echo request whose identifier is sport."""
    if protocol == "TCP":
        return tcp(sport, dport, flags)
    if protocol == "UDP":
        return udp(sport, dport)
    if protocol == "SCTP":
        return sctp(sport, dport)
    if protocol == "ICMP":
        return icmp(8 if version == 4 else 128, rest=struct.pack("!HH", sport, 1))
    return b"\0\0\x08\0" + b"x" * 24  # GRE and others: no ports


def ip(source, destination, protocol, body, extensions=(), ident=1, fragment=0, ttl=64):
    """protocol: a name or number. extensions: IPv6 extension header numbers, in order. fragment: IPv4's field."""
    source, destination = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    if source.version == 4:
        number = NUMBERS.get(protocol, protocol)
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), ident, fragment, ttl, number, 0)
        head += source.packed + destination.packed
        return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body
    number = 58 if protocol == "ICMP" else NUMBERS.get(protocol, protocol)
    chain = b""
    for at, extension in enumerate(extensions):
        following = extensions[at + 1] if at + 1 < len(extensions) else number
        if extension == FRAGMENT:
            chain += struct.pack("!BBHI", following, 0, fragment, ident)
        else:
            chain += struct.pack("!BBBB", following, 0, 1, 4) + b"\0" * 4  # PadN
    first = extensions[0] if extensions else number
    return struct.pack("!IHBB", 6 << 28, len(chain) + len(body), first, ttl) + source.packed + destination.packed + \
        chain + body


def ethernet(packet, vlan=None, source=MAC_A, destination=MAC_B):
    kind = ETH_P_IP if packet[0] >> 4 == 4 else ETH_P_IPV6
    tags = struct.pack("!HH", ETH_P_8021Q, vlan) if vlan is not None else b""
    return destination + source + tags + struct.pack("!H", kind) + packet


def frame(source, destination, protocol, sport, dport, vlan=None, extensions=(), flags=SYN):
    version = ipaddress.ip_address(source).version
    body = transport(protocol, sport, dport, version, flags)
    return ethernet(ip(source, destination, protocol, body, extensions), vlan)
