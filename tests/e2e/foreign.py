# SPDX-License-Identifier: Apache-2.0
"""Other people's BPF programs and rules on a node: they mark packets, count them, end the chain; and what CNIs, VPNs and
firewalls put into netfilter and policy routing.

    with Programs(lab) as programs:
        stamp = programs.load("stamp", mask=0x60000000, pattern=0x0a50a5a5)
        programs.tcx(stamp, "uplink", "ingress")
        assert stamp.seen == stamp.kept
"""
import ctypes
import os
import platform
import shutil
import socket
import struct

from bpfsys import NUMBER, open_pinned
from netns import BPFFS, mount_bpffs, run

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct settings {
	__u32 mask, pattern; /* bits of somebody else's, and what the rest is stamped with */
	__u64 seen, kept, set; /* IP packets; with the pattern still; with any bit of the mask */
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} cell SEC(".maps");
static inline struct settings *look(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct settings *s = bpf_map_lookup_elem(&cell, &zero);
	__u32 mark = skb->mark;

	if (!s || (skb->protocol != 0x0008 && skb->protocol != 0xdd86))
		return NULL;
	__sync_fetch_and_add(&s->seen, 1);
	if ((mark & ~s->mask) == s->pattern)
		__sync_fetch_and_add(&s->kept, 1);
	if (mark & s->mask)
		__sync_fetch_and_add(&s->set, 1);
	return s;
}
SEC("tc") int watch(struct __sk_buff *skb)
{
	look(skb);
	return -1;
}
SEC("tc") int stamp(struct __sk_buff *skb)
{
	struct settings *s = look(skb);

	if (s)
		skb->mark = (skb->mark & s->mask) | s->pattern;
	return -1;
}
SEC("tc") int ends(struct __sk_buff *skb)
{
	look(skb);
	return 0;
}
SEC("xdp") int passes(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct settings *s = bpf_map_lookup_elem(&cell, &zero);

	if (s)
		__sync_fetch_and_add(&s->seen, 1);
	return 2;
}
char LICENSE[] SEC("license") = "GPL";
"""
LINK_CREATE, MAP_LOOKUP, MAP_UPDATE = 28, 1, 2
BEFORE = 8  # BPF_F_BEFORE
SIDES = {"ingress": 46, "egress": 47}
_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command, attr):
    result = _libc.syscall(NUMBER, command, ctypes.create_string_buffer(attr), len(attr))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"bpf({command}): {os.strerror(ctypes.get_errno())}")
    return result


class Program:
    """One loaded program, with counters of its own, wherever it is attached."""

    def __init__(self, path, mask, pattern):
        self.path, self.mask, self.pattern = path, mask, pattern
        self.fd, self.cell = open_pinned(f"{path}/program"), open_pinned(f"{path}/maps/cell")
        self.clear()

    def _cell(self, command, *values):
        zero, value = ctypes.create_string_buffer(4), ctypes.create_string_buffer(struct.pack("=II3Q", *values), 32)
        _bpf(command, struct.pack("=IIQQQ", self.cell, 0, ctypes.addressof(zero), ctypes.addressof(value), 0))
        return struct.unpack("=II3Q", value.raw)[2:]

    def clear(self):
        self._cell(MAP_UPDATE, self.mask, self.pattern, 0, 0, 0)

    def counted(self):
        return self._cell(MAP_LOOKUP, 0, 0, 0, 0, 0)

    @property
    def seen(self):
        return self.counted()[0]

    @property
    def lost(self):
        """How many IP packets had not the pattern."""
        seen, kept, _ = self.counted()
        return seen - kept

    @property
    def marked(self):
        """How many had bits of the mask."""
        return self.counted()[2]

    def close(self):
        os.close(self.fd)
        os.close(self.cell)


class Programs:
    """What is attached by links goes with them; filters and XDP go with detach() or the namespace."""

    def __init__(self, lab):
        mount_bpffs()
        self.lab, self.loaded, self.links, self.others = lab, [], [], []
        self.pins = f"{BPFFS}/{lab.prefix}-foreign"
        os.makedirs(self.pins, exist_ok=True)
        self.object = f"{lab.directory}/foreign.o"
        if not os.path.exists(self.object):
            run("clang", "-O2", "-g", "-target", "bpf", f"-I/usr/include/{platform.machine()}-linux-gnu", "-xc", "-c", "-",
                "-o", self.object, input=SOURCE)

    def load(self, name, mask=0, pattern=0):
        path = f"{self.pins}/{name}-{len(self.loaded)}"
        os.makedirs(f"{path}/maps")
        run("bpftool", "prog", "loadall", self.object, path, "pinmaps", f"{path}/maps")
        os.rename(f"{path}/{name}", f"{path}/program")
        self.loaded.append(Program(path, mask, pattern))
        return self.loaded[-1]

    def tcx(self, program, interface, *sides, first=False):
        """After what is attached already, or before all of it. False: this kernel has no TCX."""
        with self.lab.node.entered():
            index = socket.if_nametoindex(interface)
            for side in sides:
                try:
                    attr = struct.pack("=IIII48x", program.fd, index, SIDES[side], BEFORE * first)
                    self.links.append(_bpf(LINK_CREATE, attr))
                except OSError:
                    return False
        return True

    def tc(self, program, interface, *sides, priority):
        # Another's qdisc may be there already.
        self.lab.node.run("tc", "qdisc", "add", "dev", interface, "clsact", check=False)
        for side in sides:
            self.lab.node.run("tc", "filter", "add", "dev", interface, side, "prio", priority, "bpf", "da", "pinned",
                              f"{program.path}/program")
            self.others.append(("tc", "filter", "del", "dev", interface, side, "prio", priority))

    def xdp(self, program, interface, mode="xdp"):
        self.lab.node.run("ip", "link", "set", "dev", interface, mode, "pinned", f"{program.path}/program")  # not `ip -n`
        self.others.append(("ip", "link", "set", "dev", interface, mode, "off"))

    def detach(self):
        for link in self.links:
            os.close(link)
        for command in self.others:
            self.lab.node.run(*command, check=False)
        self.links, self.others = [], []

    def close(self):
        self.detach()
        for program in self.loaded:
            program.close()
        shutil.rmtree(self.pins)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()
