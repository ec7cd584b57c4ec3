"""Which script of a PHP-FPM worker made a connection: the one that runs, or the one that just ran.

Two things are read: the worker's slot in its pool's scoreboard (sapi/fpm/fpm/fpm_scoreboard.h), which knows when a
request began and ended, and the stack of the running script. The slot decides whose event it was: a request that was
accepted after the event, or had ended before it, is innocent, whatever the worker runs by now.
"""

import contextlib
import os
import re
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from smtpguard.enrich.looker.php_binary import PhpBinaries, PhpBinary, is_roots_alone
from smtpguard.enrich.looker.php_memory import (
    MAX_READ,
    Memory,
    ProcessMemory,
    Region,
    UnreadableError,
    parse_maps,
    read_shared_device,
)
from smtpguard.enrich.looker.php_stack import LAYOUTS, Layout, Running, read_running
from smtpguard.enrich.looker.procfs import MAX_MAPS, Process
from smtpguard.enrich.looker.protocol import MAX_STACK
from smtpguard.enrich.looker.rooted_files import exists, is_path

MAX_SLOTS = 4096
_NAME = re.compile(rb"php-fpm[0-9.]*")
_MASTER = b"php-fpm: master process ("
_HEADER_BYTES, _SLOT_BYTES = 128, 1168
_SLOT = struct.Struct("<16xi12xi4xQi4xqqqq")
_SCRIPT = slice(776, 776 + 256)
_IDLE, _READING_HEADERS, _END, _FINISHED = 1, 2, 5, 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A worker's entry in the scoreboard (PHP 8.2).

    Attributes:
        requests: How many it has accepted.
        running: Whether the last one it accepted is not over.
        accepted_ns: When that was accepted, CLOCK_MONOTONIC.
        ended_ns: When it ended; meaningless while it runs.
        script: Its script; None if not told yet, or cut short.
    """

    requests: int
    running: bool
    accepted_ns: int
    ended_ns: int
    script: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PhpScript:
    """What was found.

    Attributes:
        attr: "live" if the stack was read while the request of the event ran; "slot" if only the scoreboard knows.
        script: Path, with `:LINE` from the stack; None if the worker's last request is not the event's.
        stack: `FUNCTION PATH:LINE`, innermost first.
        request: `METHOD HOST/PATH`.
        client: The visitor's address.
    """

    attr: Literal["live", "slot"]
    script: bytes | None
    stack: tuple[bytes, ...] = ()
    request: bytes | None = None
    client: bytes | None = None


def is_fpm(exe: bytes | None) -> bool:
    """Whether a binary is called like PHP-FPM's; says nothing about it being one."""
    return exe is not None and _NAME.fullmatch(exe.removesuffix(b" (deleted)").rpartition(b"/")[2]) is not None


def is_genuine(worker: Process, master: Process) -> bool:
    """Whether a worker is one: its parent is root's, runs the same binary of root's, and says it is the master.

    A tenant can call a process `php-fpm: pool x`; but can't make a process of root's run their file. Can hang for ever.
    """
    uids = master.uids()
    if uids is None or any(uids) or not master.cmdline().startswith(_MASTER):
        return False
    ours, theirs = worker.file(b"exe"), master.file(b"exe")
    if ours is None or theirs is None:
        return False
    return (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino) and is_roots_alone(ours)


def parse_slot(data: bytes) -> Slot | None:
    """One entry; None if it holds what no entry can hold."""
    if len(data) < _SCRIPT.stop:
        return None
    used, _pid, requests, stage, seconds, micros, taken, taken_micros = _SLOT.unpack_from(data)
    if used != 1 or not _IDLE <= stage <= _FINISHED or not 0 <= seconds < 1 << 33 or not 0 <= taken < 1 << 33:
        return None
    if not 0 <= micros < 1_000_000 or not 0 <= taken_micros < 1_000_000:
        return None
    script, end, _ = data[_SCRIPT].partition(b"\0")
    accepted_ns = (seconds * 1_000_000 + micros) * 1000
    return Slot(
        requests=requests,
        running=_READING_HEADERS <= stage <= _END,
        accepted_ns=accepted_ns,
        ended_ns=accepted_ns + (taken * 1_000_000 + taken_micros) * 1000,
        script=script if end and is_path(script) else None,
    )


def find_slot(memory: Memory, regions: list[Region], pid: int) -> tuple[int, Slot] | None:
    """A worker's entry and its address, among all shared memory of the process; None if it isn't there just once."""
    found = []
    mark = struct.pack("<i", pid)
    for region in regions:
        size = region.end - region.start
        if region.kind != "shared" or size > MAX_READ:
            continue  # opcache's is larger
        try:
            data = memory.read(region.start, size)
        except UnreadableError:
            continue
        for place in range(_HEADER_BYTES, min(len(data), MAX_SLOTS * _SLOT_BYTES), _SLOT_BYTES):
            if data[place + 32 : place + 36] == mark:
                slot = parse_slot(data[place : place + _SLOT_BYTES])
                if slot is not None:
                    found.append((region.start + place, slot))
    return found[0] if len(found) == 1 else None


def is_of_request(slot: Slot, event_ns: int) -> bool:
    """Whether an event falls into the request that a slot tells of: both sides count, or innocents are named.

    Args:
        slot: What the scoreboard says.
        event_ns: When it was, CLOCK_MONOTONIC.
    """
    return slot.accepted_ns <= event_ns and (slot.running or event_ns <= slot.ended_ns)


class FpmReader:
    """Reads workers; keeps what it learned about binaries."""

    def __init__(self) -> None:
        self._binaries = PhpBinaries()

    def read(self, worker: Process, exe: bytes, event_ns: int) -> PhpScript | None:
        """The script behind an event of a genuine worker; None if nothing can be said. Can hang for ever.

        Args:
            worker: The worker.
            exe: Its binary as the kernel names it.
            event_ns: CLOCK_BOOTTIME.
        """
        try:
            with closing(worker, b"exe") as program, closing(worker, b"mem") as memory:
                binary = self._binaries.read(program)
                layout = LAYOUTS.get(binary.version) if binary is not None else None
                if binary is None or layout is None:
                    return None
                regions = parse_maps(worker.read(b"maps", MAX_MAPS), exe, read_shared_device())
                reader = ProcessMemory(memory, regions)
                place = find_slot(reader, regions, worker.inner_pid() or worker.pid)
                if place is None:
                    return None
                address, slot = place
                if not is_of_request(slot, event_ns - read_suspended_ns()):
                    return PhpScript(attr="slot", script=None)
                running = _read_stack(reader, regions, binary, layout) if slot.running else None
                # Another request may have begun: then what was read may be its.
                if running is not None and not _is_same(slot, parse_slot(reader.read(address, _SLOT_BYTES))):
                    running = None
        except (OSError, UnreadableError):
            return None
        return judge(worker, slot, running)


def read_suspended_ns() -> int:
    """How long the machine has slept: CLOCK_BOOTTIME, which events have, less CLOCK_MONOTONIC, which FPM has."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()


def _read_stack(memory: Memory, regions: list[Region], binary: PhpBinary, layout: Layout) -> Running | None:
    base = next((region.start for region in regions if region.kind == "program" and region.offset == 0), None)
    if base is None:
        return None
    try:
        return read_running(memory, layout, base + binary.sapi_globals, base + binary.executor_globals)
    except UnreadableError:
        return None


def _is_same(before: Slot, after: Slot | None) -> bool:
    return after is not None and (before.requests, before.accepted_ns) == (after.requests, after.accepted_ns)


@contextlib.contextmanager
def closing(process: Process, name: bytes) -> Iterator[int]:
    """One of the process's files, open for a while; raises OSError if it can't be opened."""
    fd = process.open(name)
    try:
        yield fd
    finally:
        os.close(fd)


def judge(worker: Process, slot: Slot, running: Running | None) -> PhpScript | None:
    """What is believed of what was read: scripts that are there, the innermost first. Can hang for ever."""
    if running is not None:
        frames = running.frames[:MAX_STACK]
        script = next((b"%s:%d" % (frame.path, frame.line) for frame in frames if exists(worker, frame.path)), None)
        if script is None and running.entry is not None and exists(worker, running.entry):
            script = running.entry
        if script is not None:
            return PhpScript(
                attr="live",
                script=script,
                # A script that deleted itself is told here all the same.
                stack=tuple(b"%s %s:%d" % (frame.function, frame.path, frame.line) for frame in frames),
                request=running.request,
                client=running.client,
            )
    if slot.script is not None and exists(worker, slot.script):
        return PhpScript(attr="slot", script=slot.script)
    return None
