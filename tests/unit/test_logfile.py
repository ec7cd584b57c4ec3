"""The file below the event log: rotation, short writes, hostile paths. Real files; only the clock is fake."""

import os
import resource
from pathlib import Path

import pytest

from smtpguard.actions import logfile
from smtpguard.actions.logfile import LogFile
from smtpguard.errors import LogError
from tests.fakes.clock import FakeClock
from tests.fakes.namespaces import run_forked


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def log(tmp_path: Path, clock: FakeClock) -> LogFile:
    file = LogFile(str(tmp_path / "log" / "events.log"), monotonic=clock.monotonic_ns)
    file.open()
    return file


def lines(log: LogFile) -> list[bytes]:
    return Path(log.path).read_bytes().split(b"\n")


def test_creates_its_directory_and_appends(log: LogFile) -> None:
    assert log.write(b"one")
    assert log.write(b"two")
    assert Path(log.path).read_bytes() == b"one\ntwo\n"
    assert Path(log.path).stat().st_mode & 0o777 == 0o640
    assert Path(log.path).parent.stat().st_mode & 0o777 == 0o750
    assert log.written == 2


def test_one_write_a_line(log: LogFile, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bytes] = []
    real = os.write

    def write(fd: int, data: bytes) -> int:
        calls.append(data)
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    log.write(b"x" * 30_000)
    assert calls == [b"x" * 30_000 + b"\n"]


@pytest.mark.parametrize("how", ["rename", "delete", "directory"])
def test_follows_its_path_within_a_second(log: LogFile, clock: FakeClock, how: str) -> None:
    path = Path(log.path)
    log.write(b"old")
    if how == "rename":
        path.rename(path.with_suffix(".1"))
    elif how == "delete":
        path.unlink()
    else:
        path.parent.rename(path.parent.with_name("moved"))
    clock.advance(1)
    assert log.write(b"new")
    assert path.read_bytes() == b"new\n"
    assert log.reopened == 1
    if how == "rename":
        assert path.with_suffix(".1").read_bytes() == b"old\n"


def test_looks_at_its_path_once_a_second_at_most(
    log: LogFile, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    real = os.lstat

    def lstat(path: str) -> os.stat_result:
        looks.append(path)
        return real(path)

    monkeypatch.setattr(os, "lstat", lstat)
    for _ in range(1000):
        log.write(b"x")
        clock.advance(0.002)
    assert len(looks) == 1


def test_reopen_for_sighup(log: LogFile) -> None:
    path = Path(log.path)
    log.write(b"old")
    path.rename(path.with_suffix(".1"))
    log.reopen()
    log.write(b"new")
    assert path.read_bytes() == b"new\n"


def test_a_file_cut_in_the_middle_of_a_line_gets_its_newline_first(tmp_path: Path) -> None:
    path = tmp_path / "events.log"
    path.write_bytes(b"whole\nhal")
    log = LogFile(str(path))
    log.open()
    log.write(b"next")
    assert path.read_bytes() == b"whole\nhal\nnext\n"


class Disk:
    """os.write with a disk behind it that takes what it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room: int | None = None
        self.errno = 28
        self._real = os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, fd: int, data: bytes) -> int:
        if self.room is not None:
            if self.room == 0:
                raise OSError(self.errno, os.strerror(self.errno))
            data = data[: self.room]
            self.room -= len(data)
        return self._real(fd, data)


def refuse_to_truncate(fd: int, length: int) -> None:
    """What an append-only file answers."""
    del fd, length
    raise PermissionError(1, "Operation not permitted")


@pytest.fixture(params=["plain", "append-only"])
def attribute(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a short write can be taken back."""
    if request.param == "append-only":
        monkeypatch.setattr(os, "ftruncate", refuse_to_truncate)


@pytest.mark.usefixtures("attribute")
@pytest.mark.parametrize("errno", [28, 5, 122])
@pytest.mark.parametrize("room", range(8))
def test_a_line_is_finished_before_the_next_begins(
    log: LogFile, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, room: int, errno: int
) -> None:
    disk = Disk(monkeypatch)
    disk.room, disk.errno = room, errno
    log.write(b"one")
    log.write(b"two")
    assert log.failed > 0
    assert log.error is not None or room == 8
    disk.room = None
    clock.advance(1)
    log.write(b"three")
    assert Path(log.path).read_bytes() == b"one\ntwo\nthree\n"
    assert (log.written, log.dropped, log.waiting, log.error) == (3, 0, 0, None)


@pytest.mark.usefixtures("attribute")
@pytest.mark.parametrize("room", range(1, 9))
def test_a_line_cut_by_a_rotation_is_whole_in_the_new_file(
    log: LogFile, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    path = Path(log.path)
    disk = Disk(monkeypatch)
    disk.room = room
    log.write(b"the first")
    path.rename(path.with_suffix(".1"))
    disk.room = None
    clock.advance(1)
    log.write(b"second")
    assert path.read_bytes() == b"the first\nsecond\n"


@pytest.mark.usefixtures("attribute")
@pytest.mark.parametrize("room", range(1, 9))
def test_a_line_cut_by_copytruncate_is_whole_again(
    log: LogFile, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    disk = Disk(monkeypatch)
    disk.room = room
    log.write(b"the first")
    os.truncate(log.path, 0)
    disk.room = None
    clock.advance(1)
    log.write(b"second")
    assert lines(log) == [b"the first", b"second", b""]


@pytest.mark.parametrize("room", range(1, 13))
def test_a_full_disk_leaves_no_half_line_whatever_comes_next(
    log: LogFile, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    disk = Disk(monkeypatch)
    log.write(b"0")
    disk.room = room
    log.write(b"the first")
    log.write(b"second")
    whole = [b"0", b"the first"] if room >= 10 else [b"0"]
    assert lines(log) == [*whole, b""], "a rotation or SIGKILL would leave it for ever"


def test_sighup_in_the_middle_of_a_line_parts_it_from_the_next(
    log: LogFile, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "ftruncate", refuse_to_truncate)
    disk = Disk(monkeypatch)
    disk.room = 5
    log.write(b"the first")
    log.reopen()
    disk.room = 1  # only the parting newline fits
    clock.advance(1)
    log.retry()
    disk.room = None
    clock.advance(1)
    log.retry()
    assert lines(log) == [b"the f", b"the first", b""]


def test_the_backlog_is_bounded_and_unimportant_lines_have_half_of_it(
    log: LogFile, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logfile, "MAX_BACKLOG_LINES", 100)
    disk = Disk(monkeypatch)
    disk.room = 0
    for _ in range(500):
        log.write(b"connect", important=False)
    assert (log.waiting, log.dropped) == (50, 450)
    for _ in range(100):
        log.write(b"verdict")
    assert (log.waiting, log.dropped) == (100, 500)
    disk.room = None
    clock.advance(1)
    assert log.retry()
    assert lines(log) == [b"connect"] * 50 + [b"verdict"] * 50 + [b""]


def test_the_backlog_is_bounded_in_bytes(log: LogFile, monkeypatch: pytest.MonkeyPatch) -> None:
    Disk(monkeypatch).room = 0
    for _ in range(1000):
        log.write(b"x" * 30_000)
    assert log._backlog_bytes < 9 * 1024 * 1024
    log.close()
    assert log.dropped == 1000


def test_a_failing_disk_is_not_asked_for_every_line(log: LogFile, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    disk.room = 0
    for _ in range(1000):
        log.write(b"x")
    assert log.failed == 1


def test_a_real_short_write_by_the_size_limit_of_a_process(log: LogFile, clock: FakeClock) -> None:
    def body() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
        assert not log.write(b"sixteen bytes...")
        assert log.short == 1
        assert Path(log.path).stat().st_size == 0
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        clock.advance(1)
        assert log.write(b"next")
        assert lines(log) == [b"sixteen bytes...", b"next", b""]

    run_forked(body)


@pytest.mark.parametrize("kind", ["link", "hard link", "fifo", "directory", "foreign"])
def test_a_path_that_is_not_a_plain_file_of_ours_is_refused(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "events.log", tmp_path / "other"
    other.write_bytes(b"")
    if kind == "link":
        path.symlink_to(other)
    elif kind == "hard link":
        path.hardlink_to(other)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        if os.geteuid() != 0:
            pytest.skip("only root can give a file away")
        path.write_bytes(b"")
        os.chown(path, 61001, 61001)
    with pytest.raises(LogError, match=r"events\.log"):
        LogFile(str(path)).open()
    assert other.read_bytes() == b""


def test_a_log_that_could_not_be_opened_is_opened_later(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "events.log"
    path.mkdir()
    log = LogFile(str(path), monotonic=clock.monotonic_ns)
    with pytest.raises(LogError):
        log.open()
    assert not log.write(b"early")
    path.rmdir()
    clock.advance(2)
    assert log.write(b"later")
    assert lines(log) == [b"early", b"later", b""]


def test_a_path_that_can_not_be_opened_stays_a_trouble_without_a_line(
    log: LogFile, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A quiet host writes nothing: nothing was written again, and the trouble is not over."""
    Path(log.path).rename(log.path + ".1")
    Path(log.path).symlink_to("/dev/null")
    for _ in range(3):
        clock.advance(2)
        log.retry()
        assert log.error is not None
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    Path(log.path).unlink()
    clock.advance(2)
    assert log.write(b"one")
    assert log.error is None
    assert lines(log) == [b"one", b""]


def test_a_log_that_was_never_opened_is_not_said_to_be_written(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "log").symlink_to("/dev/null")
    file = LogFile(str(tmp_path / "log"), monotonic=clock.monotonic_ns)
    for _ in range(2):
        file.retry()
        clock.advance(2)
        assert file.error is not None
