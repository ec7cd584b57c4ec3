"""Where a PHP binary keeps its globals and which version it is: from the file (elf(5)), once per file.

Only 64-bit little-endian x86-64, built without thread safety (with it the symbols don't exist). The file is root's, but
is read as if it were not: every table and count is bounded.
"""

import os
import stat
import struct
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

from smtpguard.errors import DecodeError

MAX_FILE = 128 << 20
MAX_TABLE = 8 << 20
MAX_SECTIONS = 256
_SHT_DYNSYM = 11
_EM_X86_64 = 62
_SYMBOL = 24
_HEADER = b"X-Powered-By: PHP/"
_CHUNK = 1 << 20
_NAMES = (b"sapi_globals", b"executor_globals")


@dataclass(frozen=True, slots=True, kw_only=True)
class PhpBinary:
    """What its file tells.

    Attributes:
        version: Major and minor version.
        sapi_globals, executor_globals: Addresses relative to where the file is loaded.
    """

    version: tuple[int, int]
    sapi_globals: int
    executor_globals: int


class PhpBinaries:
    """Binaries that were read, by what identifies a file; failures are remembered too.

    Args:
        remembered: How many; a host has one or two for each PHP version.
    """

    def __init__(self, *, remembered: int = 32) -> None:
        self._remembered = remembered
        self._known: OrderedDict[tuple[int, ...], PhpBinary | None] = OrderedDict()

    def read(self, fd: int) -> PhpBinary | None:
        """What the file tells; None if it is not root's alone, or no PHP that we know how to read."""
        found = os.fstat(fd)
        if not is_roots_alone(found):
            return None
        key = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if key not in self._known:
            try:
                binary = parse_binary(lambda offset, size: os.pread(fd, size, offset), found.st_size)
            except (DecodeError, OSError):
                binary = None
            self._known[key] = binary
            if len(self._known) > self._remembered:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return self._known[key]


def is_roots_alone(found: os.stat_result) -> bool:
    """Whether only root can have written the file."""
    return stat.S_ISREG(found.st_mode) and found.st_uid == 0 and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


class ReadAt(Protocol):
    """Reads a file."""

    def __call__(self, offset: int, size: int, /) -> bytes:
        """So many bytes from there, or fewer."""
        ...


def parse_binary(read: ReadAt, size: int) -> PhpBinary:
    """Version and addresses; raises DecodeError.

    Args:
        read: Bytes of the file, from an offset, at most so many.
        size: Length of the file.
    """
    if size > MAX_FILE:
        raise DecodeError("too large")
    addresses = _parse_symbols(read)
    return PhpBinary(
        version=_find_version(read, size),
        sapi_globals=addresses[0],
        executor_globals=addresses[1],
    )


def _unpack(layout: str, data: bytes) -> tuple[int, ...]:
    try:
        return struct.unpack(layout, data)
    except struct.error as error:
        raise DecodeError("cut short") from error


def _parse_symbols(read: ReadAt) -> list[int]:
    head = read(0, 64)
    if head[:6] != b"\x7fELF\x02\x01":
        raise DecodeError("not a 64-bit little-endian ELF file")
    _kind, machine = _unpack("<HH", head[16:20])
    (table,) = _unpack("<Q", head[40:48])
    entry, count = _unpack("<HH", head[58:62])
    if machine != _EM_X86_64 or entry != 64 or count > MAX_SECTIONS:
        raise DecodeError("not an x86-64 file with a sane section table")
    raw = read(table, count * 64)
    sections = [_unpack("<IIQQQQIIQQ", raw[place : place + 64]) for place in range(0, count * 64, 64)]
    for section in sections:
        if section[1] == _SHT_DYNSYM and section[6] < count:
            strings = sections[section[6]]
            return _find_symbols(_table(read, section[4], section[5]), _table(read, strings[4], strings[5]))
    raise DecodeError("no dynamic symbols")


def _table(read: ReadAt, offset: int, size: int) -> bytes:
    if size > MAX_TABLE or offset > MAX_FILE:
        raise DecodeError("an absurd table")
    return read(offset, size)


def _find_symbols(symbols: bytes, strings: bytes) -> list[int]:
    found = []
    for name in _NAMES:
        at = strings.find(b"\0" + name + b"\0") + 1
        if at == 0:
            raise DecodeError("no PHP, or one with thread safety")
        wanted = struct.pack("<I", at)
        place = symbols.find(wanted)
        while place >= 0 and place % _SYMBOL:
            place = symbols.find(wanted, place + 1)
        if place < 0:
            raise DecodeError("a name without a symbol")
        (value,) = _unpack("<Q", symbols[place + 8 : place + 16])
        if not 0 < value < 1 << 40:
            raise DecodeError("an absurd address")
        found.append(value)
    return found


def _find_version(read: ReadAt, size: int) -> tuple[int, int]:
    tail = b""
    for offset in range(0, size, _CHUNK):
        chunk = tail + read(offset, _CHUNK)
        at = chunk.find(_HEADER)
        if 0 <= at < len(chunk) - 32 or (at >= 0 and offset + _CHUNK >= size):
            numbers = chunk[at + len(_HEADER) : at + 32].split(b"\0")[0].split(b".")
            if len(numbers) >= 2 and all(number.isdigit() for number in numbers[:2]):
                return int(numbers[0]), int(numbers[1])
        tail = chunk[-64:]
    raise DecodeError("no version")
