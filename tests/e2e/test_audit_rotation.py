"""The audit-log source under rotation, at 5,000 events a second: no event is lost, none comes twice.

A writer process appends whole events as auditd does; a second thread of the test rotates its log under it. What a
copytruncate loses is what was written between the end of the copying and the truncation; it is measured and printed.
"""

import os
import select
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from smtpguard.settings import Settings
from smtpguard.sources.audit.logfile import AuditLogSource
from tests.support.audit_records import Event
from tests.support.host import wait_for

RATE = 5000
SECONDS = 4.5
BATCH = 10


def write_events(path: Path, reopen: int, quiet: int) -> None:
    """The writer: until told to be quiet; after a byte on `reopen` it opens the log anew, as on a signal."""
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    serial = 0
    began = time.monotonic()
    while not select.select([quiet], [], [], 0)[0]:
        if select.select([reopen], [], [], 0)[0]:
            os.read(reopen, 1)
            os.close(log)
            log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        now = time.time_ns()
        for _ in range(BATCH):
            serial += 1
            event = Event(serial=serial, pid=serial, uid=61001, port=25 if serial % 2 else 443)
            stamp = f"audit({now // 10**9}.{now // 10**6 % 1000:03d}:{serial})"
            text = "\n".join(event.lines()).replace(event.stamp, stamp) + "\n"
            # One write of all records, as auditd's line buffer would make several: a reader must not depend on it.
            data = text.encode()
            cut = serial * 37 % len(data)
            os.write(log, data[:cut])
            os.write(log, data[cut:])
        ahead = serial / RATE - (time.monotonic() - began)
        if ahead > 0:
            time.sleep(ahead)
    sys.stderr.flush()
    path.with_name("last").write_text(str(serial))


def rename(path: Path) -> None:
    for number in range(7, 0, -1):
        old = path.with_name(f"{path.name}.{number}")
        if old.exists():
            old.rename(path.with_name(f"{path.name}.{number + 1}"))
    path.rename(path.with_name(f"{path.name}.1"))


class Rotator(threading.Thread):
    """Five renames (two in a breath, one with the new file made before the writer knows), two copies, a deletion."""

    def __init__(self, path: Path, reopen: int, writer: int, source: AuditLogSource) -> None:
        super().__init__()
        self.path, self.reopen, self.writer, self.source = path, reopen, writer, source
        self.copies: list[int] = []
        self.error: BaseException | None = None

    def tell(self) -> None:
        os.write(self.reopen, b"x")

    def run(self) -> None:
        try:
            for step in (self.plain, self.copy, self.early, self.deleted, self.twice, self.copy, self.plain):
                time.sleep(SECONDS / 9)
                wait_for(self.is_followed)  # what is deleted before that is in no file any more
                step()
        except BaseException as error:  # noqa: BLE001 - the test raises it
            self.error = error

    def is_followed(self) -> bool:
        """Whether the writer has made the file that there is now, or we have, and the source has opened it."""
        tail = self.source._tail
        present = None if tail is None else tail._present
        if present is None or not self.path.exists():
            return False
        status = self.path.stat()
        return present.identity == (status.st_dev, status.st_ino)

    def plain(self) -> None:
        rename(self.path)
        self.tell()

    def early(self) -> None:
        rename(self.path)
        self.path.touch()
        time.sleep(0.05)
        self.tell()

    def twice(self) -> None:
        for _ in range(2):
            rename(self.path)
            self.tell()
            while not (self.path.exists() and self.path.stat().st_size):
                time.sleep(0.0005)

    def deleted(self) -> None:
        self.path.unlink()
        self.tell()

    def copy(self) -> None:
        copy = self.path.with_name(f"{self.path.name}.copy{len(self.copies)}")
        shutil.copyfile(self.path, copy)
        os.kill(self.writer, signal.SIGSTOP)  # what it writes between a look and the truncation nobody would know
        try:
            os.waitid(os.P_PID, self.writer, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            self.copies.append(self.path.stat().st_size - copy.stat().st_size)
            os.truncate(self.path, 0)
        finally:
            os.kill(self.writer, signal.SIGCONT)


def follow(source: AuditLogSource, enough: Callable[[], bool], pause_s: float) -> Counter[int]:
    """Serve the source as the daemon's loop does: woken by its descriptor, or polled. With pauses, a busy daemon."""
    seen: Counter[int] = Counter()
    quiet_since = None
    while True:
        for connect in source.read():
            seen[connect.pid or 0] += 1
        poll_ns = source.next_poll_ns() or 0
        wait_s = max(0.0, min(0.2, (poll_ns - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) / 1e9))
        ready = select.select(source.filenos(), [], [], wait_s)[0]
        time.sleep(pause_s)
        if not enough() or ready:
            quiet_since = None
        elif quiet_since is None:
            quiet_since = time.monotonic()
        elif time.monotonic() - quiet_since > 0.5:
            return seen


@pytest.mark.parametrize("pause_s", [0.0, 0.15], ids=["quick", "slow reader"])
def test_rotation_under_load(tmp_path: Path, pause_s: float) -> None:
    path = tmp_path / "audit.log"
    path.touch()
    reopen, quiet = os.pipe(), os.pipe()
    writer = os.fork()
    if writer == 0:
        code = 1
        try:
            write_events(path, reopen[0], quiet[0])
            code = 0
        finally:
            os._exit(code)
    source = AuditLogSource(Settings(ports=frozenset({25})), path=str(path), alone=True)
    source.open()
    rotator = Rotator(path, reopen[1], writer, source)
    rotator.start()
    ended = False

    def enough() -> bool:
        nonlocal ended
        if not ended and not rotator.is_alive():
            time.sleep(SECONDS / 9)
            os.write(quiet[1], b"x")
            os.waitpid(writer, 0)
            ended = True
        return ended

    try:
        seen = follow(source, enough, pause_s)
    finally:
        source.close()
        for descriptor in (*reopen, *quiet):
            os.close(descriptor)
    assert rotator.error is None
    last = int((tmp_path / "last").read_text())
    first = min(seen)
    wanted = set(range(first, last + 1, 2)) if first % 2 else set()
    missing, twice = wanted - set(seen), [pid for pid, count in seen.items() if count > 1]
    sys.stderr.write(
        f"\n{len(wanted)} connects at {last / SECONDS:.0f} events/s; {source.stats.notes['rotations']} rotations, "
        f"{source.stats.notes['truncations']} truncations; lost {len(missing)} (copytruncate left gaps of "
        f"{rotator.copies} bytes), twice {len(twice)}\n"
    )
    assert twice == []
    # Every event that is missing was in no file any more: two copies, each with a gap of so many bytes, and up to two
    # events that were cut at the ends of a gap.
    assert len(missing) <= sum(gap / 300 + 4 for gap in rotator.copies)
    assert source.stats.notes["truncations"] == 2
    assert source.stats.garbled <= 2 * len(rotator.copies)
