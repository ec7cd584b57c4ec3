"""PCRE2's just-in-time compiler as the search for SOCKADDR records: what `SockaddrSieve` finds, at half the price.

Nearly every host has the library, because grep and SELinux's need it; it is called through ctypes. Where it is missing,
or may not make code at run time (a policy against writable and executable memory), there is Python's own search. Only
`replay` uses it: a running guard reads a log too slowly for it to matter.

Functions and constants are those of pcre2.h, version 10; see pcre2api(3) and pcre2jit(3).
"""

import ctypes
import weakref
from collections.abc import Iterable
from functools import cache
from typing import Any

from smtpguard.decode.audit.sieve import SockaddrSieve

_LIBRARY = "libpcre2-8.so.0"
_JIT_COMPLETE = 1
_NO_MATCH = -1
_HEAD = rb"KADDR msg=audit\([^)\n]{1,64}+\): saddr=0(?:[2Aa]00|00[2Aa])"


def make_sieve(ports: Iterable[int]) -> "PcreSieve | None":
    """The search, if this host has what it takes; else None."""
    try:
        return PcreSieve(ports)
    except (OSError, AttributeError):
        return None


class PcreSieve:
    """The search.

    Args:
        ports: Destination ports that are wanted.

    Raises:
        OSError: There is no such library, or it can't compile.
    """

    def __init__(self, ports: Iterable[int]) -> None:
        library = _load()
        pattern = _HEAD + b"(?:" + b"|".join(_pattern_of(port) for port in sorted(ports)) + b")"
        error, where = ctypes.c_int(), ctypes.c_size_t()
        code = library.pcre2_compile_8(pattern, len(pattern), 0, ctypes.byref(error), ctypes.byref(where), None)
        if not code:
            raise OSError(f"PCRE2 refuses the pattern, error {error.value} at {where.value}")
        weakref.finalize(self, library.pcre2_code_free_8, code)
        if library.pcre2_jit_compile_8(code, _JIT_COMPLETE):
            raise OSError("PCRE2 may not make code at run time")
        self._code = code
        self._match = library.pcre2_match_8
        self._found = library.pcre2_match_data_create_8(1, None)
        weakref.finalize(self, library.pcre2_match_data_free_8, self._found)
        self._vector = library.pcre2_get_ovector_pointer_8(self._found)
        self._plain = SockaddrSieve(ports)

    def find(self, data: bytearray, start: int, stop: int) -> list[int]:
        """Offsets of the `KADDR` of records that are wanted; as SockaddrSieve.find."""
        match, code, block, vector = self._match, self._code, self._found, self._vector
        first = ctypes.c_char.from_buffer(data)  # holds the buffer in its place
        address = ctypes.addressof(first)
        places: list[int] = []
        at = start
        while (result := match(code, address, stop, at, 0, block, None)) > 0:
            places.append(vector[0])
            at = vector[1]
        if result != _NO_MATCH:  # no memory, or a limit of the library
            places += self._plain.find(data, at, stop)
        return places


@cache
def _load() -> Any:  # noqa: ANN401 - a library has the functions it has
    library = ctypes.CDLL(_LIBRARY)
    pointer, size, number, c_int = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32, ctypes.c_int
    for name, result, *arguments in (
        ("pcre2_compile_8", pointer, ctypes.c_char_p, size, number, pointer, pointer, pointer),
        ("pcre2_jit_compile_8", c_int, pointer, number),
        ("pcre2_match_data_create_8", pointer, number, pointer),
        ("pcre2_get_ovector_pointer_8", ctypes.POINTER(size), pointer),
        ("pcre2_code_free_8", None, pointer),
        ("pcre2_match_data_free_8", None, pointer),
        ("pcre2_match_8", c_int, pointer, pointer, size, size, number, pointer, pointer),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _pattern_of(port: int) -> bytes:
    """The four hex digits of a port, in any mixture of cases."""
    return "".join(f"[{digit}{digit.upper()}]" if digit.isalpha() else digit for digit in f"{port:04x}").encode()
