"""A log that is renamed, copied, cut, deleted, hidden: every line comes once."""

import os
import select
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from smtpguard.errors import SourceError
from smtpguard.sources.audit.follow import FollowedLog
from smtpguard.sources.audit.logfile import STAMP
from tests.support.descriptors import list_descriptors, wait_until_closed

LATER = 4_000_000_000
"""Stamps after any moment at which these tests run, as the stamps of new lines are."""


class Closing(Protocol):
    def close(self) -> None: ...


_opened: list[Closing] = []


@pytest.fixture(autouse=True)
def _close_all() -> Iterator[None]:
    yield
    while _opened:
        _opened.pop().close()


class Log:
    """The writer: lines with growing serials."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.serial = 0
        self.file = path.open("ab", buffering=0)
        _opened.append(self)

    def reopen(self) -> None:
        self.file.close()
        self.file = self.path.open("ab", buffering=0)

    def close(self) -> None:
        self.file.close()

    def write(self, count: int = 1) -> list[int]:
        serials = list(range(self.serial + 1, self.serial + 1 + count))
        for serial in serials:
            self.file.write(line(serial))
        self.serial = serials[-1]
        return serials


def line(serial: int) -> bytes:
    return b"type=SYSCALL msg=audit(%d.%03d:%d): arch=c000003e %s\n" % (
        LATER + serial // 1000,
        serial % 1000,
        serial,
        b"x" * (serial % 97),
    )


class Reader:
    """Reads a tail in small pieces; the serials that came since the last look."""

    def __init__(self, path: Path, *, at_end: bool = True) -> None:
        self.tail = FollowedLog(str(path), stamp=STAMP, at_end=at_end)
        _opened.append(self.tail)
        self.rest = b""

    def look(self) -> list[int]:
        room = bytearray(100)
        data = self.rest
        while count := self.tail.read(memoryview(room)):
            data += room[:count]
        *lines, self.rest = data.split(b"\n")
        return [int(text.partition(b"):")[0].rpartition(b":")[2]) for text in lines if b"):" in text]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "audit.log")


@pytest.fixture
def reader(log: Log) -> Iterator[Reader]:
    made = Reader(log.path)
    yield made
    made.tail.close()
    made.tail.close()


def renamed(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def rotate(log: Log, *, reopen: bool = True) -> None:
    """As auditd and logrotate do: .2 to .3, .1 to .2, the log to .1."""
    for number in range(8, 0, -1):
        if renamed(log.path, number).exists():
            renamed(log.path, number).rename(renamed(log.path, number + 1))
    log.path.rename(renamed(log.path, 1))
    if reopen:
        log.reopen()


def test_what_is_there_already_is_passed_over(tmp_path: Path) -> None:
    log = Log(tmp_path / "audit.log")
    old = log.write(5)
    reader, whole = Reader(log.path), Reader(log.path, at_end=False)
    new = log.write(3)
    assert (reader.look(), whole.look()) == (new, old + new)
    assert reader.look() == []


def test_a_line_in_two_pieces(log: Log, reader: Reader) -> None:
    whole = line(1)
    log.file.write(whole[:30])
    assert reader.look() == []
    log.file.write(whole[30:])
    assert reader.look() == [1]


def test_a_renamed_log_is_read_to_its_end_first(log: Log, reader: Reader) -> None:
    first = log.write(4)
    rotate(log)
    assert reader.look() == first
    second = log.write(4)
    rotate(log)
    third = log.write(2)
    assert reader.look() == second + third
    assert reader.tail.rotations == 2


def test_a_writer_that_has_not_left_the_old_file_yet(log: Log, reader: Reader) -> None:
    """logrotate renames and creates; the writer is told only then."""
    first = log.write(2)
    rotate(log, reopen=False)
    log.path.touch()
    assert reader.look() == first
    second = log.write(3)
    assert reader.look() == second
    third = log.write(1)
    log.reopen()
    fourth = log.write(2)
    assert reader.look() == third + fourth


def test_files_that_came_and_went_between_two_looks(log: Log, reader: Reader) -> None:
    expected = log.write(2)
    for _ in range(5):
        rotate(log)
        expected += log.write(3)
    rotate(log)
    assert reader.look() == expected
    assert reader.look() == []
    last = log.write(1)
    assert reader.look() == last
    rotate(log)
    assert reader.look() == []


def test_old_files_beside_it_are_not_read(tmp_path: Path) -> None:
    log = Log(tmp_path / "audit.log")
    log.write(2)
    rotate(log)
    log.write(2)
    (tmp_path / "audit.log.9.gz").write_bytes(line(10**6))
    (tmp_path / "audit.log-notes").write_bytes(b"nothing")
    (tmp_path / "other.log").write_bytes(line(10**6))
    reader = Reader(log.path)
    rotate(log)
    new = log.write(2)
    assert reader.look() == new


def test_a_deleted_log_that_is_made_anew(log: Log, reader: Reader) -> None:
    first = log.write(3)
    log.path.unlink()
    second = log.write(2)
    log.reopen()
    third = log.write(1)
    assert reader.look() == first + second + third


def test_a_log_that_is_copied_and_cut(log: Log, reader: Reader) -> None:
    first = log.write(30)
    assert reader.look() == first
    unread = log.write(3)
    shutil.copyfile(log.path, renamed(log.path, 1))
    os.truncate(log.path, 0)
    second = log.write(2)
    assert reader.look() == unread + second, "the copy has what we had not read"
    third = log.write(30)
    assert reader.look() == third
    assert reader.tail.truncations == 1
    rotate(log)
    fourth = log.write(2)
    assert reader.look() == fourth, "the copy is no file that came between"


def test_a_log_that_is_cut_and_has_grown_beyond_the_old_end(log: Log, reader: Reader) -> None:
    log.write(3)
    reader.look()
    os.truncate(log.path, 0)
    new = log.write(50)
    assert reader.look() == new


def test_a_log_that_is_cut_within_a_line(log: Log, reader: Reader) -> None:
    log.file.write(line(1)[:40])
    assert reader.look() == []
    os.truncate(log.path, 0)
    log.serial = 5
    new = log.write(2)
    assert reader.look() == new, "what was cut off does not spoil the next line"


def test_a_writer_that_does_not_append_leaves_a_hole(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    with path.open("wb", buffering=0) as file:
        reader = Reader(path)
        for serial in range(1, 500):
            file.write(line(serial))
        assert len(reader.look()) == 499
        os.truncate(path, 0)
        file.write(line(500))
        data = bytearray(1 << 20)
        count = reader.tail.read(memoryview(data))
        assert data[:count].strip(b"\0") == line(500)
        assert count < 8192, "the hole itself is not read"


def test_a_log_that_is_absent_at_first(tmp_path: Path) -> None:
    path = tmp_path / "audit" / "audit.log"
    reader = Reader(path)
    assert (reader.look(), reader.tail.is_absent) == ([], True)
    path.parent.mkdir()
    reader.tail.refresh()
    assert reader.look() == []
    log = Log(path)
    new = log.write(2)
    assert reader.look() == new
    assert not reader.tail.is_absent


def test_an_old_log_that_appears_later_is_not_read_again(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    reader = Reader(path)
    path.write_bytes(b"type=SYSCALL msg=audit(1000000000.000:1): old\n" * 100)
    assert reader.look() == []
    log = Log(path)
    new = log.write(2)
    assert reader.look() == new


def test_an_old_log_that_is_put_in_its_place_is_not_read_again(log: Log, reader: Reader) -> None:
    first = log.write(2)
    rotate(log)
    second = log.write(2)
    assert reader.look() == first + second
    renamed(log.path, 1).rename(log.path)
    assert reader.look() == []
    log.reopen()
    third = log.write(1)
    assert reader.look() == third


def test_a_directory_that_is_renamed(tmp_path: Path) -> None:
    path = tmp_path / "audit" / "audit.log"
    path.parent.mkdir()
    log = Log(path)
    reader = Reader(path)
    first = log.write(1)
    path.parent.rename(tmp_path / "moved")
    second = log.write(1)
    assert reader.look() == first + second
    path.parent.mkdir()
    reader.tail.refresh()
    third = log.write(1)
    log.reopen()
    fourth = log.write(2)
    assert reader.look() == third + fourth


def test_changes_wake(log: Log, reader: Reader) -> None:
    def woken() -> bool:
        ready = bool(select.select([reader.tail.fileno], [], [], 0)[0])
        reader.tail.drain()
        return ready

    assert not woken()
    log.write()
    assert woken()
    reader.look()
    assert not woken()
    rotate(log)
    assert woken()
    log.write()
    reader.look()
    reader.tail.drain()
    log.write()
    assert woken(), "the new file is watched"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="not a file"):
        FollowedLog(str(tmp_path), stamp=STAMP)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(SourceError, match="not a file"):
        FollowedLog(str(tmp_path / "fifo"), stamp=STAMP)


def test_descriptors_are_closed(log: Log) -> None:
    before = list_descriptors()
    reader = Reader(log.path)
    for _ in range(6):
        log.write(2)
        rotate(log)
        reader.look()
    for _ in range(3):
        log.write(2)
        rotate(log)
    reader.look()
    os.truncate(log.path, 0)
    reader.look()
    reader.tail.close()
    log.file.close()
    wait_until_closed(before)


def test_what_was_written_while_we_looked_for_the_new_file(
    log: Log, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last lines of the old file come between our reading its end and our seeing the new one."""
    expected = log.write(2)
    find = FollowedLog._find_newer

    def look_late(tail: FollowedLog, file: object) -> bool:
        if tail.rotations == 0:
            rotate(log, reopen=False)
            expected.extend(log.write(3))
            log.reopen()
            expected.extend(log.write(2))
        return find(tail, file)  # type: ignore[arg-type]

    monkeypatch.setattr(FollowedLog, "_find_newer", look_late)
    assert reader.look() == expected
