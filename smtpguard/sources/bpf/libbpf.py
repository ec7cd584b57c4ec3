"""libbpf through ctypes: the functions that `objects.py` uses, with their types. Nothing about SMTP.

Never raises into C and never truncates a pointer. Works with libbpf.so.1 and,
told to use the same error conventions, with libbpf.so.0. See libbpf.h (libbpf.readthedocs.io) and bpf(2).
"""

import contextlib
import ctypes
import errno
import os
import resource
from collections import deque
from ctypes import c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p

from smtpguard.errors import GuardError, PrivilegeError, SourceError

_STRICT_ALL = 0xFFFFFFFF
_MAX_ERRNO = 4095
_KEPT_LINES, _KEPT_BYTES, _MAX_MESSAGE = 200, 2000, 1 << 20

_PRINT = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)

_SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "libbpf_set_print": (c_void_p, [c_void_p]),
    "bpf_prog_test_run_opts": (c_int, [c_int, c_void_p]),
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
    "bpf_map_lookup_batch": (c_int, [c_int, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p]),
    "bpf_map_update_batch": (c_int, [c_int, c_char_p, c_char_p, c_void_p, c_void_p]),
    "bpf_map_delete_batch": (c_int, [c_int, c_char_p, c_void_p, c_void_p]),
    "bpf_map_update_elem": (c_int, [c_int, c_void_p, c_void_p, c_uint64]),
    "bpf_map_delete_elem": (c_int, [c_int, c_void_p]),
    "bpf_map_get_next_key": (c_int, [c_int, c_void_p, c_void_p]),
    "bpf_obj_get_info_by_fd": (c_int, [c_int, c_void_p, c_void_p]),
    "libbpf_num_possible_cpus": (c_int, []),
}


class BpfError(OSError):
    """A libbpf or bpf(2) call failed; `errno` says how. Callers turn it into a GuardError that says what it means."""


class _Run(ctypes.Structure):
    """struct bpf_test_run_opts of bpf.h."""

    _fields_ = (
        ("size", c_size_t),
        ("data_in", c_void_p),
        ("data_out", c_void_p),
        ("data_in_bytes", c_uint32),
        ("data_out_bytes", c_uint32),
        ("context", c_void_p * 2),
        ("context_bytes", c_uint32 * 2),
        ("result", c_uint32),
        ("rest", c_uint32 * 5),
    )


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
            if soname.endswith("0"):
                # Kernels before 5.11 charge maps to this limit; libbpf 1 raises it by itself.
                with contextlib.suppress(OSError, ValueError):
                    resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
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

    def run(self, descriptor: int, data: bytes) -> int:
        """Run a program for packets over these bytes, once, and return what it answers. Raises BpfError."""
        kept = ctypes.create_string_buffer(data, len(data))
        run = _Run(size=ctypes.sizeof(_Run), data_in=ctypes.addressof(kept), data_in_bytes=len(data))
        self.call("bpf_prog_test_run_opts", descriptor, ctypes.byref(run))
        return int(run.result)

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


def describe(error: BpfError, what: str, *, fix: str | None = None) -> GuardError:
    """A failed call as the error a person reads: PrivilegeError where a capability is missing, else SourceError."""
    if error.errno == errno.EPERM:
        advice = "needs CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN"
        return PrivilegeError(f"{what}: {error.strerror}", where="bpf", fix=advice)
    return SourceError(f"{what}: {error.strerror}", where="bpf", fix=fix)
