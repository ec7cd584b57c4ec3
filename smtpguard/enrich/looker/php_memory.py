"""Reading another process's memory within bounds: only mappings that no file system of a tenant's stands behind.

/proc/PID/maps and /proc/PID/mem (proc_pid_mem(5)). A page of a FUSE file is fetched by its server, perhaps never, so
only anonymous memory, shared anonymous memory (`/dev/zero`) and the program's own file are read. A process may swap a
mapping between our look at the list and our read: then the helper is lost, which its client survives.
"""

import bisect
import functools
import mmap
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from smtpguard.errors import DecodeError

MAX_READS = 600
"""Reads for one question: a stack of 64 frames takes some 250."""
MAX_READ = 4 << 20
MAX_REGIONS = 8192
_LINE = re.compile(
    rb"^([0-9a-f]{1,16})-([0-9a-f]{1,16}) ([r-])[w-][x-]([ps]) ([0-9a-f]+) ([0-9a-f]+:[0-9a-f]+) (\d+) *(.*)$",
    re.MULTILINE,
)
_ANONYMOUS = re.compile(rb"|\[heap\]|\[stack\]|\[anon:.*\]")
_SHARED = b"/dev/zero (deleted)"


class UnreadableError(DecodeError):
    """Memory that is not there, may not be read, or holds nothing sensible."""


class Memory(Protocol):
    """A process's memory, as tests forge it."""

    def read(self, address: int, size: int) -> bytes:
        """At least one and at most `size` bytes at an address; UnreadableError if there are none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A mapping that may be read.

    Attributes:
        start, end: Addresses, end exclusive.
        offset: Where in the file it begins.
        kind: "program", "anonymous" or "shared" (anonymous, but shared with others).
    """

    start: int
    end: int
    offset: int
    kind: str


def parse_maps(raw: bytes, program: bytes, shared_device: bytes) -> list[Region]:
    r"""The mappings that may be read, in order of address.

    Args:
        raw: /proc/PID/maps; the kernel writes newlines in paths as `\012`, so that none can forge a line.
        program: Path of the program's own file as the exe link has it.
        shared_device: Device of shared anonymous mappings, as maps writes it. (A tenant may call a file on a mount of
            their own `/dev/zero (deleted)`; it has another device.)
    """
    regions = []
    for found in _LINE.finditer(raw):
        start, end, readable, sharing, offset, device, inode, name = found.groups()
        if readable != b"r":
            continue
        if inode == b"0" and sharing == b"p" and _ANONYMOUS.fullmatch(name):
            kind = "anonymous"
        elif name == _SHARED and sharing == b"s" and device == shared_device:
            kind = "shared"
        elif name == program and sharing == b"p" and inode != b"0":
            kind = "program"
        else:
            continue
        regions.append(Region(start=int(start, 16), end=int(end, 16), offset=int(offset, 16), kind=kind))
        if len(regions) == MAX_REGIONS:
            break
    return regions


@functools.cache
def read_shared_device() -> bytes:
    """The device of shared anonymous mappings on this kernel, from one of our own."""
    with mmap.mmap(-1, mmap.PAGESIZE):
        for found in _LINE.finditer(Path("/proc/self/maps").read_bytes()):
            if found[8] == _SHARED and found[4] == b"s":
                return found[6]
    return b""


class ProcessMemory:
    """The memory of a process, through a descriptor of its /proc/PID/mem.

    Args:
        fd: The descriptor; it stays the caller's.
        regions: What may be read, in order of address.
    """

    def __init__(self, fd: int, regions: Iterable[Region]) -> None:
        self._fd = fd
        self._regions = list(regions)
        self._starts = [region.start for region in self._regions]
        self._left = MAX_READS

    def read(self, address: int, size: int) -> bytes:
        """See Memory. Can hang for ever."""
        place = bisect.bisect_right(self._starts, address) - 1
        if place < 0 or address >= self._regions[place].end:
            raise UnreadableError("not in a mapping that may be read")
        self._left -= 1
        if self._left < 0:
            raise UnreadableError("too many reads")
        try:
            data = os.pread(self._fd, min(size, self._regions[place].end - address, MAX_READ), address)
        except (OSError, OverflowError) as error:
            raise UnreadableError("the kernel does not read it") from error
        if not data:
            raise UnreadableError("the process is gone")
        return data
