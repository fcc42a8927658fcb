# SPDX-License-Identifier: Apache-2.0
"""bpf(2) as far as the benchmark needs it: run a pinned program over a packet many times, or over live frames."""
import ctypes
import os
import struct

_libc = ctypes.CDLL(None, use_errno=True)
SYS_BPF = {"x86_64": 321, "aarch64": 280}[os.uname().machine]
MAP_UPDATE, OBJ_GET, TEST_RUN = 2, 7, 10
LIVE_FRAMES = 1 << 1


def bpf(command, attr):
    buffer = ctypes.create_string_buffer(bytes(attr), len(attr))
    result = _libc.syscall(SYS_BPF, command, buffer, len(attr))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"bpf({command}): {os.strerror(error)}")
    return result, buffer.raw


def obj_get(path):
    name = ctypes.create_string_buffer(path.encode())
    return bpf(OBJ_GET, struct.pack("=QII", ctypes.addressof(name), 0, 0))[0]


def map_update(fd, key, value):
    k, v = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value, len(value))
    bpf(MAP_UPDATE, struct.pack("=IIQQQ", fd, 0, ctypes.addressof(k), ctypes.addressof(v), 0))


def run_skb(fd, packet, ifindex, repeat=1, ingress_ifindex=0):
    """Returns (return value, nanoseconds a run)."""
    data = ctypes.create_string_buffer(packet, len(packet))
    # struct __sk_buff: ingress_ifindex is the 10th word, ifindex the 11th.
    context = bytearray(192)
    struct.pack_into("=II", context, 36, ingress_ifindex, ifindex)
    ctx = ctypes.create_string_buffer(bytes(context), len(context))
    attr = struct.pack("=IIIIQQIIIIQQIII", fd, 0, len(packet), 0, ctypes.addressof(data), 0, repeat, 0, len(context), 0,
                       ctypes.addressof(ctx), 0, 0, 0, 0)
    raw = bpf(TEST_RUN, attr)[1]
    retval, = struct.unpack_from("=i", raw, 4)
    duration, = struct.unpack_from("=I", raw, 36)
    return retval, duration


def run_live(fd, packet, repeat, batch=64):
    data = ctypes.create_string_buffer(packet, len(packet))
    bpf(TEST_RUN, struct.pack("=IIIIQQIIIIQQIII", fd, 0, len(packet), 0, ctypes.addressof(data), 0, repeat, 0, 0, 0, 0, 0,
                              LIVE_FRAMES, 0, batch))
