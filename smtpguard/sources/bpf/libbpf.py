"""libbpf through ctypes: load an object, attach it by link, use its maps and ring buffers. Nothing about SMTP.

Never raises into C and never truncates a pointer: every function's types are set here. Works with libbpf.so.1 and,
told to use the same error conventions, with libbpf.so.0. See libbpf.h (libbpf.readthedocs.io) and bpf(2).
"""

import ctypes
import errno
import os
from collections import deque
from collections.abc import Iterator
from ctypes import c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p

from smtpguard.errors import GuardError, PrivilegeError, SourceError

_NO_EXIST, _LOCK = 1, 4
_PER_CPU_TYPES = (5, 6)  # BPF_MAP_TYPE_PERCPU_HASH, BPF_MAP_TYPE_PERCPU_ARRAY
_STRICT_ALL = 0xFFFFFFFF
_MAX_ERRNO = 4095
_KEPT_LINES, _KEPT_BYTES, _MAX_MESSAGE = 200, 2000, 1 << 20

_PRINT = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)
_SAMPLE = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)

_SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "libbpf_set_print": (c_void_p, [c_void_p]),
    "bpf_object__open_mem": (c_void_p, [c_char_p, c_size_t, c_void_p]),
    "bpf_object__load": (c_int, [c_void_p]),
    "bpf_object__close": (None, [c_void_p]),
    "bpf_object__next_map": (c_void_p, [c_void_p, c_void_p]),
    "bpf_object__find_map_by_name": (c_void_p, [c_void_p, c_char_p]),
    "bpf_object__find_program_by_name": (c_void_p, [c_void_p, c_char_p]),
    "bpf_program__attach_cgroup": (c_void_p, [c_void_p, c_int]),
    "bpf_program__fd": (c_int, [c_void_p]),
    "bpf_program__set_autoload": (c_int, [c_void_p, ctypes.c_bool]),
    "bpf_link__fd": (c_int, [c_void_p]),
    "bpf_link__destroy": (c_int, [c_void_p]),
    "bpf_map__fd": (c_int, [c_void_p]),
    "bpf_map__name": (c_void_p, [c_void_p]),
    "bpf_map__key_size": (c_uint32, [c_void_p]),
    "bpf_map__value_size": (c_uint32, [c_void_p]),
    "bpf_map__type": (c_uint32, [c_void_p]),
    "bpf_map__max_entries": (c_uint32, [c_void_p]),
    "bpf_map__set_max_entries": (c_int, [c_void_p, c_uint32]),
    "bpf_map__set_initial_value": (c_int, [c_void_p, c_void_p, c_size_t]),
    "bpf_map_lookup_elem": (c_int, [c_int, c_void_p, c_void_p]),
    "bpf_map_lookup_elem_flags": (c_int, [c_int, c_void_p, c_void_p, c_uint64]),
    "bpf_map_update_elem": (c_int, [c_int, c_void_p, c_void_p, c_uint64]),
    "bpf_map_delete_elem": (c_int, [c_int, c_void_p]),
    "bpf_map_get_next_key": (c_int, [c_int, c_void_p, c_void_p]),
    "bpf_obj_get_info_by_fd": (c_int, [c_int, c_void_p, c_void_p]),
    "libbpf_num_possible_cpus": (c_int, []),
    "ring_buffer__new": (c_void_p, [c_int, c_void_p, c_void_p, c_void_p]),
    "ring_buffer__epoll_fd": (c_int, [c_void_p]),
    "ring_buffer__consume": (c_int, [c_void_p]),
    "ring_buffer__free": (None, [c_void_p]),
}


class BpfError(OSError):
    """A libbpf or bpf(2) call failed; `errno` says how. Callers turn it into a GuardError that says what it means."""


class Library:
    """The loaded libbpf. One per process is enough; instances of objects are independent of each other."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._dll = self._open_dll()
        for name, (restype, argtypes) in _SIGNATURES.items():
            function = getattr(self._dll, name)
            function.restype = restype
            function.argtypes = argtypes
        vsnprintf = ctypes.CDLL(None).vsnprintf
        vsnprintf.argtypes = [c_char_p, c_size_t, c_char_p, c_void_p]

        def keep(_level: int, text: bytes, arguments: int) -> int:
            # The verifier's whole log is one message, and what it says last is what matters.
            buffer = ctypes.create_string_buffer(_MAX_MESSAGE)
            vsnprintf(buffer, len(buffer), text, arguments)
            self._lines.append(buffer.value[-_KEPT_BYTES:].decode("ascii", "backslashreplace").rstrip())
            return 0

        self._print = _PRINT(keep)  # C keeps the pointer: the object must live as long as the library
        self._dll.libbpf_set_print(self._print)

    @staticmethod
    def _open_dll() -> ctypes.CDLL:
        for soname in ("libbpf.so.1", "libbpf.so.0"):
            try:
                dll = ctypes.CDLL(soname, use_errno=True)
            except OSError:
                continue
            strict = getattr(dll, "libbpf_set_strict_mode", None)
            if strict is not None:
                strict(c_uint32(_STRICT_ALL))
            return dll
        raise SourceError("libbpf is not installed", where="bpf", fix="apt install libbpf1, or dnf install libbpf")

    def call(self, name: str, *args: object) -> int:
        """Call a function that answers with a negative errno; raises BpfError."""
        result: int = getattr(self._dll, name)(*args)
        if result < 0:
            code = ctypes.get_errno() or -result
            raise BpfError(code, f"{name}: {os.strerror(code)}")
        return result

    def pointer(self, name: str, *args: object) -> int:
        """Call a function that answers with a pointer; raises BpfError for NULL and for an errno in disguise."""
        ctypes.set_errno(0)
        result: int | None = getattr(self._dll, name)(*args)
        if result is None or result > 2**64 - 1 - _MAX_ERRNO:
            code = ctypes.get_errno() or (2**64 - result if result else errno.EINVAL)
            raise BpfError(code, f"{name}: {os.strerror(code)}")
        return result

    def optional(self, name: str, *args: object) -> int | None:
        """Call a function whose NULL means "no more"."""
        result: int | None = getattr(self._dll, name)(*args)
        return result

    def void(self, name: str, *args: object) -> None:
        """Call a function whose answer says nothing."""
        getattr(self._dll, name)(*args)

    def take_log(self) -> list[str]:
        """What libbpf and the verifier said since the last call: the ends of its last messages."""
        lines = list(self._lines)
        self._lines.clear()
        return lines


_library: Library | None = None


def library() -> Library:
    """The process's libbpf, opened at first use. Raises SourceError if there is none."""
    global _library  # noqa: PLW0603 - libbpf's print callback is one per process, so is this
    if _library is None:
        _library = Library()
    return _library


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


class Ring:
    """The consuming end of one ring buffer. Bounded: a flood can't keep `consume` busy for ever."""

    def __init__(self, lib: Library, fd: int) -> None:
        self._lib = lib
        self._samples: list[bytes] = []
        self._max_samples = 0
        samples = self._samples
        string_at = ctypes.string_at

        def take(_context: int | None, data: int, size: int) -> int:
            samples.append(string_at(data, size))
            return -errno.ECANCELED if len(samples) >= self._max_samples else 0

        self._callback = _SAMPLE(take)  # must outlive the ring
        self._pointer: int | None = lib.pointer("ring_buffer__new", fd, self._callback, None, None)

    @property
    def fd(self) -> int:
        """An epoll descriptor, readable when a sample came with a wake-up."""
        return self._lib.call("ring_buffer__epoll_fd", self._pointer)

    def consume(self, max_samples: int) -> list[bytes]:
        """What is there now, at most so many samples; if it is exactly so many there may be more."""
        self._samples.clear()
        self._max_samples = max_samples
        try:
            self._lib.call("ring_buffer__consume", self._pointer)
        except BpfError as error:
            if error.errno != errno.ECANCELED:
                raise
        return self._samples.copy()

    def close(self) -> None:
        """Free it; may be called twice."""
        if self._pointer is not None:
            self._lib.void("ring_buffer__free", self._pointer)
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
        return Ring(self._lib, self.map(name).fd)

    def attach(self, program: str, cgroup_fd: int) -> Link:
        """Attach a program to a cgroup by link: other programs there stay, and it ends with this process."""
        return Link(self._lib, self._lib.pointer("bpf_program__attach_cgroup", self._find_program(program), cgroup_fd))

    def close(self) -> None:
        """Unload it; may be called twice. Links and rings are closed before by their owner."""
        if self._object is not None:
            self._lib.void("bpf_object__close", self._object)
            self._object = None


def describe(error: BpfError, what: str, *, fix: str | None = None) -> GuardError:
    """A failed call as the error a person reads: PrivilegeError where a capability lacks, else SourceError."""
    if error.errno == errno.EPERM:
        advice = "needs CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN"
        return PrivilegeError(f"{what}: {error.strerror}", where="bpf", fix=advice)
    return SourceError(f"{what}: {error.strerror}", where="bpf", fix=fix)
