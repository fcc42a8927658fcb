# SPDX-License-Identifier: Apache-2.0
"""Whether the programs' stacks fit older kernels than this one: before 6.8 the verifier rounds each frame to 32 bytes."""

import struct

import pytest

import kernel

STACK, FRAMES, ROUNDED = 512, 8, 32  # MAX_BPF_STACK, MAX_CALL_FRAMES
R10 = 10
LOAD, STORES, MOVE, ADD, CALL, LOCAL = 1, (2, 3), 0xbf, 0x07, 0x85, 1


class Code:
    """Functions of an object file: how deep their frames are, and whom they call."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.data = file.read()
        at, = struct.unpack_from("<Q", self.data, 40)
        size, count, names = struct.unpack_from("<HHH", self.data, 58)
        self.sections = [struct.unpack_from("<IIQQQQIIQQ", self.data, at + size * n) for n in range(count)]
        self.names = self.sections[names]
        table = next(section for section in self.sections if section[1] == 2)
        strings = self.sections[table[6]]
        self.symbols = [struct.unpack_from("<IBBHQQ", self.data, table[4] + 24 * n) for n in range(table[5] // 24)]
        self.functions = {(symbol[3], symbol[4] // 8): (self.text(strings, symbol[0]), symbol[5] // 8)
                          for symbol in self.symbols if symbol[1] & 15 == 2}
        self.relocated = {(section[7], offset // 8): info >> 32
                          for section in self.sections if section[1] == 9
                          for offset, info in struct.iter_unpack("<QQ", self.data[section[4]:section[4] + section[5]])}
        self.depth, self.calls = {}, {}
        for (section, begin), (name, length) in self.functions.items():
            self.read(section, begin, length, name)

    def text(self, section, at):
        begin = section[4] + at
        return self.data[begin:self.data.index(b"\0", begin)].decode()

    def read(self, section, begin, length, name):
        self.depth[name], self.calls[name], pointer = 0, set(), None
        for n in range(begin, begin + length):
            code, registers, offset, value = struct.unpack_from("<BBhi", self.data, self.sections[section][4] + 8 * n)
            to, of = registers & 15, registers >> 4
            deep = 0
            if (code & 7 == LOAD and of == R10) or (code & 7 in STORES and to == R10):
                deep = -offset
            elif code == ADD and to == pointer:
                deep = -value
            pointer = to if code == MOVE and of == R10 else None
            self.depth[name] = max(self.depth[name], deep)
            if code == CALL and of == LOCAL:
                self.calls[name].add(self.called(section, n, value))

    def called(self, section, at, value):
        if (section, at) not in self.relocated:
            return self.functions[section, at + 1 + value][0]
        symbol = self.symbols[self.relocated[section, at]]
        if symbol[1] & 15 == 2:
            return self.functions[symbol[3], symbol[4] // 8][0]
        return self.functions[symbol[3], value + 1][0]

    def worst(self, name):
        """(bytes, [function, …]) of the deepest way from here."""
        below, chain = max((self.worst(called) for called in self.calls[name]), default=(0, []))
        return below + -(-max(self.depth[name], 1) // ROUNDED) * ROUNDED, [name, *chain]

    def frames(self, name):
        return 1 + max((self.frames(called) for called in self.calls[name]), default=0)


@pytest.fixture(scope="module")
def code(interfaces):
    return Code(kernel.OBJECT)


def test_the_reader_reads(code):
    assert code.depth["from_workload"] > 0 and "from_workload_unusual" in code.calls["from_workload"]
    assert code.worst("from_workload")[0] > 200 and code.frames("from_workload") > 3


def test_stack(code):
    for name in code.depth:
        size, chain = code.worst(name)
        assert size <= STACK, f"{size} bytes: " + " → ".join(f"{one} {code.depth[one]}" for one in chain)
        assert code.frames(name) <= FRAMES, name
