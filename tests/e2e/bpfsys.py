# SPDX-License-Identifier: Apache-2.0
"""bpf(2) by ctypes: open what is pinned, run a program on a packet."""
import ctypes
import os
import platform

NUMBER = {"x86_64": 321, "aarch64": 280}[platform.machine()]
OBJ_GET, PROG_TEST_RUN = 7, 10
NEXT, DROP, REDIRECT = 0xFFFFFFFF, 2, 7  # TCX_NEXT (TC_ACT_UNSPEC), TC_ACT_SHOT, TC_ACT_REDIRECT
SK_BUFF_SIZE = 192
_libc = ctypes.CDLL(None, use_errno=True)


class _TestRun(ctypes.Structure):
    _fields_ = [("prog_fd", ctypes.c_uint32), ("retval", ctypes.c_uint32), ("data_size_in", ctypes.c_uint32),
                ("data_size_out", ctypes.c_uint32), ("data_in", ctypes.c_uint64), ("data_out", ctypes.c_uint64),
                ("repeat", ctypes.c_uint32), ("duration", ctypes.c_uint32), ("ctx_size_in", ctypes.c_uint32),
                ("ctx_size_out", ctypes.c_uint32), ("ctx_in", ctypes.c_uint64), ("ctx_out", ctypes.c_uint64),
                ("flags", ctypes.c_uint32), ("cpu", ctypes.c_uint32), ("batch_size", ctypes.c_uint32),
                ("pad", ctypes.c_uint32)]


class _ObjGet(ctypes.Structure):
    _fields_ = [("pathname", ctypes.c_uint64), ("bpf_fd", ctypes.c_uint32), ("file_flags", ctypes.c_uint32)]


class SkBuff(ctypes.Structure):
    """The part of struct __sk_buff that a test run may set."""
    _fields_ = [("len", ctypes.c_uint32), ("pkt_type", ctypes.c_uint32), ("mark", ctypes.c_uint32),
                ("queue_mapping", ctypes.c_uint32), ("protocol", ctypes.c_uint32), ("vlan_present", ctypes.c_uint32),
                ("vlan_tci", ctypes.c_uint32), ("vlan_proto", ctypes.c_uint32), ("priority", ctypes.c_uint32),
                ("ingress_ifindex", ctypes.c_uint32), ("ifindex", ctypes.c_uint32),
                ("rest", ctypes.c_uint8 * (SK_BUFF_SIZE - 44))]


def _bpf(command, attr):
    result = _libc.syscall(NUMBER, command, ctypes.byref(attr), ctypes.sizeof(attr))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"bpf({command}): {os.strerror(error)}")
    return result


def open_pinned(path):
    name = ctypes.create_string_buffer(path.encode())
    return _bpf(OBJ_GET, _ObjGet(ctypes.addressof(name), 0, 0))


class Program:
    """A pinned program. run() must be called in the network namespace of the interfaces that it names."""

    def __init__(self, path):
        self.fd = open_pinned(path)
        self.context, self.attr = SkBuff(), _TestRun()
        self.out = ctypes.create_string_buffer(70000)
        self.mark = 0

    def run(self, frame, ifindex, ingress_ifindex=0, mark=0):
        """The program's return value; self.mark is what it left in the packet's mark."""
        data = ctypes.create_string_buffer(frame, len(frame))
        context, attr = self.context, self.attr
        ctypes.memset(ctypes.byref(context), 0, SK_BUFF_SIZE)
        context.ifindex, context.ingress_ifindex, context.mark = ifindex, ingress_ifindex, mark
        ctypes.memset(ctypes.byref(attr), 0, ctypes.sizeof(attr))
        attr.prog_fd, attr.repeat = self.fd, 1
        attr.data_size_in, attr.data_in = len(frame), ctypes.addressof(data)
        attr.data_size_out, attr.data_out = len(self.out), ctypes.addressof(self.out)
        attr.ctx_size_in = attr.ctx_size_out = SK_BUFF_SIZE
        attr.ctx_in = attr.ctx_out = ctypes.addressof(context)
        _bpf(PROG_TEST_RUN, attr)
        self.mark = context.mark
        return attr.retval

    def close(self):
        os.close(self.fd)
