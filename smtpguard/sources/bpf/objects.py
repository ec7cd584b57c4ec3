"""A BPF object in the kernel and its parts, over `libbpf`: programs, maps, links, ring buffers. Nothing about SMTP.

Keys and values are bytes; maps.py and its neighbours know what they mean. Everything raises BpfError.
"""

import ctypes
import errno
from collections.abc import Iterator, Mapping, Sequence
from ctypes import c_uint32, c_uint64

from smtpguard.sources.bpf.libbpf import BpfError, Library, library
from smtpguard.sources.bpf.ring_buffer import Ring

_NO_EXIST, _LOCK = 1, 4
_BATCH = 1024
_PER_CPU_TYPES = (5, 6)  # BPF_MAP_TYPE_PERCPU_HASH, BPF_MAP_TYPE_PERCPU_ARRAY


class Map:
    """One map of a loaded object, in bytes. Raises BpfError; a missing key is None or False, not an error."""

    def __init__(self, lib: Library, name: str, pointer: int) -> None:
        self._lib = lib
        self.name = name
        self.fd = lib.call("bpf_map__fd", pointer)
        self.key_bytes = lib.call("bpf_map__key_size", pointer)
        self.value_bytes = lib.call("bpf_map__value_size", pointer)
        self.max_entries = lib.call("bpf_map__max_entries", pointer)
        if lib.call("bpf_map__type", pointer) in _PER_CPU_TYPES:
            self.value_bytes = (self.value_bytes + 7 & ~7) * lib.call("libbpf_num_possible_cpus")

    def lookup(self, key: bytes, *, locked: bool = False) -> bytes | None:
        """The value of a key; None if there is none. `locked` copies it under its spin lock."""
        value = ctypes.create_string_buffer(self.value_bytes)
        name = "bpf_map_lookup_elem_flags" if locked else "bpf_map_lookup_elem"
        args: tuple[object, ...] = (self.fd, key, value, c_uint64(_LOCK)) if locked else (self.fd, key, value)
        try:
            self._lib.call(name, *args)
        except BpfError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return value.raw

    def update(self, key: bytes, value: bytes, *, locked: bool = False, create_only: bool = False) -> None:
        """Set a key's value. Raises BpfError with E2BIG when the map is full.

        Args:
            key: As many bytes as the map's keys have.
            value: As many bytes as its values have.
            locked: Copy in place, under the value's spin lock.
            create_only: Raise EEXIST instead of replacing.
        """
        if len(key) != self.key_bytes or len(value) != self.value_bytes:
            raise BpfError(errno.EINVAL, f"{self.name}: key or value of the wrong size")
        flags = (_LOCK if locked else 0) | (_NO_EXIST if create_only else 0)
        self._lib.call("bpf_map_update_elem", self.fd, key, value, flags)

    def delete(self, key: bytes) -> bool:
        """Remove a key; False if it was not there."""
        try:
            self._lib.call("bpf_map_delete_elem", self.fd, key)
        except BpfError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
        return True

    def update_many(self, entries: Mapping[bytes, bytes]) -> None:
        """Set the values of many keys; some are set where it fails. Raises BpfError, E2BIG when the map is full.

        Args:
            entries: As for `update`.
        """
        if any(len(key) != self.key_bytes or len(value) != self.value_bytes for key, value in entries.items()):
            raise BpfError(errno.EINVAL, f"{self.name}: key or value of the wrong size")
        keys, values = list(entries), b"".join(entries.values())
        done = self._run_batch("bpf_map_update_batch", len(keys), b"".join(keys), values)
        for key in keys[done:]:
            self.update(key, entries[key])

    def delete_many(self, keys: Sequence[bytes]) -> None:
        """Remove many keys, those that are there."""
        done = self._run_batch("bpf_map_delete_batch", len(keys), b"".join(keys))
        for key in keys[done:]:
            self.delete(key)

    def _run_batch(self, name: str, total: int, *arrays: bytes) -> int:
        """How many it has done: all in one call from kernel 5.6 on; before that none, and it stops at what it can't."""
        count = c_uint32(total)
        try:
            if total:
                self._lib.call(name, self.fd, *arrays, ctypes.byref(count), None)
        except BpfError as error:
            return count.value if error.errno in (errno.E2BIG, errno.ENOENT) else 0
        return total

    def keys(self) -> list[bytes]:
        """All keys. Where keys vanish meanwhile the kernel begins anew, so a key comes once but may be missed."""
        found: dict[bytes, None] = {}
        current: bytes | None = None
        following = ctypes.create_string_buffer(self.key_bytes)
        for _ in range(2 * self.max_entries):
            try:
                self._lib.call("bpf_map_get_next_key", self.fd, current, following)
            except BpfError as error:
                if error.errno == errno.ENOENT:
                    break
                raise
            current = following.raw
            found[current] = None
        return list(found)

    def read_all(self) -> list[tuple[bytes, bytes]]:
        """All keys and values of a hash, a thousand at a time (kernel 5.6; before that one by one, as `items`)."""
        found: dict[bytes, bytes] = {}
        keys = ctypes.create_string_buffer(_BATCH * self.key_bytes)
        values = ctypes.create_string_buffer(_BATCH * self.value_bytes)
        place, more = c_uint32(), False
        while True:
            count = c_uint32(_BATCH)
            begin = ctypes.byref(place) if more else None
            done = False
            try:
                self._lib.call(
                    "bpf_map_lookup_batch", self.fd, begin, ctypes.byref(place), keys, values, ctypes.byref(count), None
                )
            except BpfError as error:
                if error.errno != errno.ENOENT:
                    return list(self.items())
                done = True
            all_keys, all_values = keys.raw, values.raw
            for number in range(count.value):
                key = all_keys[number * self.key_bytes : (number + 1) * self.key_bytes]
                found[key] = all_values[number * self.value_bytes : (number + 1) * self.value_bytes]
            if done:
                return list(found.items())
            more = True

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All keys and values, without those that vanish meanwhile."""
        for key in self.keys():
            value = self.lookup(key)
            if value is not None:
                yield key, value


class Link:
    """A program attached to a cgroup; closing it, or the end of the process, detaches it."""

    def __init__(self, lib: Library, pointer: int) -> None:
        self._lib = lib
        self._pointer: int | None = pointer

    @property
    def fd(self) -> int:
        """The link's descriptor."""
        return self._lib.call("bpf_link__fd", self._pointer)

    def is_attached(self) -> bool:
        """Whether it still is: somebody may have detached the link, or removed its cgroup (bpf_link_info.cgroup)."""
        info = (c_uint64 * 16)()
        size = c_uint32(ctypes.sizeof(info))
        self._lib.call("bpf_obj_get_info_by_fd", self.fd, info, ctypes.byref(size))
        return bool(info[2])  # type, id, prog_id and a hole; then cgroup_id, 0 once detached

    def close(self) -> None:
        """Detach; may be called twice."""
        if self._pointer is not None:
            self._lib.void("bpf_link__destroy", self._pointer)
            self._pointer = None


class BpfObject:
    """One object file, loaded into the kernel. Several of them live side by side.

    Args:
        data: The ELF file.
        name: Name for messages.
        constants: `.rodata` as it shall be, from its first byte; None leaves it as built.
        sizes: max_entries by map name, where it differs from the built one.
        autoload: Names of programs to leave out, mapped to False.
    """

    def __init__(
        self,
        data: bytes,
        name: str,
        *,
        constants: bytes | None = None,
        sizes: dict[str, int] | None = None,
        autoload: dict[str, bool] | None = None,
    ) -> None:
        self._lib = lib = library()
        self.name = name
        lib.take_log()
        self._object: int | None = lib.pointer("bpf_object__open_mem", data, len(data), None)
        try:
            for map_name, entries in (sizes or {}).items():
                lib.call("bpf_map__set_max_entries", self._find_map(map_name), entries)
            if constants is not None:
                lib.call("bpf_map__set_initial_value", self._find_section(".rodata"), constants, len(constants))
            for program, wanted in (autoload or {}).items():
                lib.call("bpf_program__set_autoload", self._find_program(program), wanted)
            lib.call("bpf_object__load", self._object)
        except BpfError as error:
            error.add_note("\n".join(lib.take_log()))
            self.close()
            raise

    def _find_map(self, name: str) -> int:
        return self._lib.pointer("bpf_object__find_map_by_name", self._object, name.encode())

    def _find_program(self, name: str) -> int:
        return self._lib.pointer("bpf_object__find_program_by_name", self._object, name.encode())

    def _find_section(self, suffix: str) -> int:
        # libbpf names it OBJECT.rodata, cut to 15 characters in some versions: the section is the only map with a dot.
        pointer = self._lib.optional("bpf_object__next_map", self._object, None)
        while pointer:
            if ctypes.string_at(self._lib.pointer("bpf_map__name", pointer)).endswith(suffix.encode()):
                return pointer
            pointer = self._lib.optional("bpf_object__next_map", self._object, pointer)
        raise BpfError(errno.ENOENT, f"{self.name}: no section {suffix}")

    def map(self, name: str) -> Map:
        """A map by its name in the source."""
        return Map(self._lib, name, self._find_map(name))

    def ring(self, name: str) -> Ring:
        """The consuming end of a ring buffer map."""
        table = self.map(name)
        return Ring(table.fd, table.max_entries)

    def attach(self, program: str, cgroup_fd: int) -> Link:
        """Attach a program to a cgroup by link: other programs there stay, and it ends with this process."""
        return Link(self._lib, self._lib.pointer("bpf_program__attach_cgroup", self._find_program(program), cgroup_fd))

    def run(self, program: str, data: bytes) -> int:
        """Run a program for packets over these bytes, once, and return what it answers."""
        descriptor = self._lib.call("bpf_program__fd", self._find_program(program))
        return self._lib.run(descriptor, data)

    def close(self) -> None:
        """Unload it; may be called twice. Links and rings are closed before by their owner."""
        if self._object is not None:
            self._lib.void("bpf_object__close", self._object)
            self._object = None
