# SPDX-License-Identifier: Apache-2.0
"""The compiled object in the kernel: loaded by libbpf, its maps and test runs by the raw bpf(2) system call."""

import ctypes
import errno
import os
import platform
import struct

BUILD = os.environ.get("PENSTOCK_BUILD", "build")
OBJECT = os.path.join(BUILD, "bpf", "penstock.bpf.o")

MAP_LOOKUP, MAP_UPDATE, MAP_DELETE, MAP_NEXT = 1, 2, 3, 4
PROG_TEST_RUN, LINK_CREATE = 10, 28
TCX_INGRESS, TCX_EGRESS = 46, 47
PROGRAMS = ("from_workload", "to_workload", "from_network", "to_network")
NOEXIST = 1
PASS, DROP = -1, 2

BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
UNSHARE = {"x86_64": 272, "aarch64": 97}[platform.machine()]
SETNS = {"x86_64": 308, "aarch64": 268}[platform.machine()]
CLONE_NEWNET = 0x40000000

libc = ctypes.CDLL(None, use_errno=True)


def syscall(number, *arguments):
    result = libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def bpf(command, attributes):
    return syscall(BPF, command, attributes, len(attributes))


def namespace_new():
    """Moves this thread into a new network namespace; gives back a descriptor of the old one."""
    old = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    syscall(UNSHARE, CLONE_NEWNET)
    return old


def namespace_enter(descriptor):
    syscall(SETNS, descriptor, CLONE_NEWNET)


class Map:
    def __init__(self, fd, key_size, value_size, cpus):
        self.fd, self.key_size, self.value_size, self.cpus = fd, key_size, value_size, cpus

    def _attributes(self, key, value, flags=0):
        self._keep = (ctypes.create_string_buffer(key, len(key)) if key is not None else None, value)
        pointer = ctypes.addressof(self._keep[0]) if key is not None else 0
        return ctypes.create_string_buffer(
            struct.pack("=IIQQQ", self.fd, 0, pointer, ctypes.addressof(value) if value else 0, flags), 32)

    def _value(self):
        return ctypes.create_string_buffer(self.value_size * self.cpus if self.cpus else self.value_size)

    def get(self, key):
        """The value, or None; of a per-CPU map the values of all CPUs behind one another."""
        value = self._value()
        try:
            bpf(MAP_LOOKUP, self._attributes(key, value))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return value.raw

    def put(self, key, value, flags=0):
        """Of a per-CPU map the same value for each CPU."""
        assert len(key) == self.key_size and len(value) == self.value_size, "not the map's layout"
        buffer = ctypes.create_string_buffer(value * (self.cpus or 1), len(value) * (self.cpus or 1))
        bpf(MAP_UPDATE, self._attributes(key, buffer, flags))

    def delete(self, key):
        try:
            bpf(MAP_DELETE, self._attributes(key, None))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise

    def keys(self):
        found, key = [], None
        while True:
            following = ctypes.create_string_buffer(self.key_size)
            try:
                bpf(MAP_NEXT, self._attributes(key, following))
            except OSError as error:
                if error.errno == errno.ENOENT:
                    return found
                raise
            key = following.raw
            found.append(key)

    def clear(self):
        for key in self.keys():
            self.delete(key)


class Result:
    def __init__(self, action, mark, priority, duration):
        self.action, self.mark, self.priority, self.duration = action, mark, priority, duration


class Object:
    """`constants`: what the agent writes into .rodata, by name; `entries`: map → max_entries."""

    def __init__(self, constants=None, entries=None):
        library = ctypes.CDLL("libbpf.so.1", use_errno=True)
        for name in ("bpf_object__open_file", "bpf_object__next_map", "bpf_object__find_map_by_name",
                     "bpf_object__find_program_by_name", "bpf_map__name", "bpf_map__initial_value"):
            getattr(library, name).restype = ctypes.c_void_p
        library.bpf_map__name.restype = ctypes.c_char_p
        self.library = library
        self.handle = ctypes.c_void_p(library.bpf_object__open_file(OBJECT.encode(), None))
        if not self.handle:
            raise OSError(ctypes.get_errno(), f"{OBJECT} cannot be opened")
        # Small tables load fast: the kernel allocates preallocated maps at once.
        sizes = {"ps_conn4": 1024, "ps_conn6": 1024, "ps_new4": 1024, "ps_new6": 1024}
        sizes.update(entries or {})
        for name, count in sizes.items():
            library.bpf_map__set_max_entries(self._map(name), count)
        for name, value in (constants or {}).items():
            self._constant(name, value)
        if library.bpf_object__load(self.handle):
            raise OSError(ctypes.get_errno(), f"{OBJECT} does not load")
        self.maps = {}
        self.program = {name: library.bpf_program__fd(self._program(name)) for name in PROGRAMS}

    def _map(self, name):
        found = self.library.bpf_object__find_map_by_name(self.handle, name.encode())
        assert found, f"no map {name}"
        return ctypes.c_void_p(found)

    def _program(self, name):
        found = self.library.bpf_object__find_program_by_name(self.handle, name.encode())
        assert found, f"no program {name}"
        return ctypes.c_void_p(found)

    def _constant(self, name, value):
        """Writes a constant into .rodata at the symbol's offset."""
        offset, size = symbols()[name]
        area = ctypes.c_size_t()
        data = self.library.bpf_map__initial_value(self._map(".rodata"), ctypes.byref(area))
        assert data and offset + size <= area.value
        ctypes.memmove(data + offset, value.to_bytes(size, "little"), size)

    def map(self, name):
        if name not in self.maps:
            handle = self._map(name)
            kind = self.library.bpf_map__type(handle)
            value_size = self.library.bpf_map__value_size(handle)
            per_cpu = kind in (5, 6)
            cpus = possible_cpus() if per_cpu else 0
            self.maps[name] = Map(self.library.bpf_map__fd(handle), self.library.bpf_map__key_size(handle),
                                  value_size, cpus)
        return self.maps[name]

    def run(self, name, frame, ifindex=1, ingress=0, mark=0, repeat=1, gso_size=0):
        context = bytearray(192)
        struct.pack_into("=I", context, 8, mark)
        struct.pack_into("=II", context, 36, ingress, ifindex)
        struct.pack_into("=I", context, 176, gso_size)
        data = ctypes.create_string_buffer(bytes(frame), len(frame))
        into = ctypes.create_string_buffer(bytes(context), len(context))
        out = ctypes.create_string_buffer(192)
        attributes = ctypes.create_string_buffer(struct.pack(
            "=IIIIQQIIIIQQ", self.program[name], 0, len(frame), 0, ctypes.addressof(data), 0, repeat, 0,
            len(context), 192, ctypes.addressof(into), ctypes.addressof(out)), 80)
        bpf(PROG_TEST_RUN, attributes)
        action, = struct.unpack_from("=i", attributes.raw, 4)
        duration, = struct.unpack_from("=I", attributes.raw, 36)
        return Result(action, *struct.unpack_from("=I20xI", out.raw, 8), duration)

    def attach(self, name, ifindex):
        """The link's descriptor: closing it detaches."""
        where = TCX_INGRESS if name.startswith("from") else TCX_EGRESS
        attributes = struct.pack("=IIII", self.program[name], ifindex, where, 0)
        return bpf(LINK_CREATE, ctypes.create_string_buffer(attributes.ljust(64, b"\0"), 64))

    def close(self):
        self.library.bpf_object__close(self.handle)


def possible_cpus():
    with open("/sys/devices/system/cpu/possible") as file:
        return int(file.read().strip().split("-")[-1]) + 1


def symbols():
    """name → (offset, size) of what is in .rodata."""
    with open(OBJECT, "rb") as file:
        image = file.read()
    table, = struct.unpack_from("<Q", image, 40)
    size, count, names = struct.unpack_from("<HHH", image, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", image, table + i * size) for i in range(count)]

    def text(section, offset):
        start = sections[section][4] + offset
        return image[start:image.index(b"\0", start)].decode()

    rodata = next(i for i, s in enumerate(sections) if text(names, s[0]) == ".rodata")
    found = {}
    for section in (s for s in sections if s[1] == 2):
        for at in range(section[4], section[4] + section[5], 24):
            name, _, _, index, value, length = struct.unpack_from("<IBBHQQ", image, at)
            if index == rodata:
                found[text(section[6], name)] = (value, length)
    return found
