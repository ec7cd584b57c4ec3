import bz2
import gzip
import io
import lzma
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from smtpguard.errors import SourceError
from smtpguard.model import Connect
from smtpguard.sources.audit.replay import ReplaySource
from tests.support.audit_records import Event, log

PORTS = frozenset({25, 587})


def read_all(source: ReplaySource) -> list[Connect]:
    source.open()
    out = []
    try:
        while not source.done:
            out += source.read()
    finally:
        source.close()
    return out


def pids(*paths: Path | str) -> list[int | None]:
    return [connect.pid for connect in read_all(ReplaySource([str(path) for path in paths], ports=PORTS))]


def records(*serials: int) -> bytes:
    return log([line for serial in serials for line in Event(serial=serial, pid=serial, millis=serial * 10).lines()])


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress, bz2.compress])
def test_a_file_is_read_packed_or_not(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "audit.log"
    path.write_bytes(pack(records(*range(1, 3000))))
    assert pids(path) == list(range(1, 3000))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_standard_input_is_read(pack: Callable[[bytes], bytes]) -> None:
    source = ReplaySource(["-"], ports=PORTS, stdin=io.BytesIO(pack(records(1, 2))))
    assert [connect.pid for connect in read_all(source)] == [1, 2]


def test_a_pipe_is_read(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for pack in (bytes, gzip.compress):
        writer = threading.Thread(target=fifo.write_bytes, args=(pack(records(1, 2)),))
        writer.start()
        assert pids(fifo) == [1, 2]
        writer.join()


def test_rotated_files_are_read_oldest_first_as_one_stream(tmp_path: Path) -> None:
    data = records(1, 2, 3, 4)
    cut = data.index(b"type=SOCKADDR", data.index(b":3)"))
    (tmp_path / "audit.log").write_bytes(data[cut:])
    (tmp_path / "audit.log.1").write_bytes(data[:cut])
    assert pids(tmp_path / "audit.log", tmp_path / "audit.log.1") == [1, 2, 3, 4]


def test_a_file_without_a_last_newline_does_not_spoil_the_next(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(records(1)[:-1])
    (tmp_path / "b").write_bytes(records(2))
    assert pids(tmp_path / "b", tmp_path / "a") == [1, 2]


def test_what_was_left_out_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    lines = [
        *Event(serial=1).lines(),
        *Event(serial=2, exit_value=-106).lines(),
        *Event(serial=3, saddr="02000019").lines(),
        Event(serial=4).sockaddr(),
    ]
    path.write_bytes(log(lines))
    source = ReplaySource([str(path)], ports=PORTS)
    assert len(read_all(source)) == 1
    assert (source.stats.events, source.stats.garbled, source.stats.lost) == (1, 1, 1)
    assert source.stats.notes["others"] == 1


def test_a_file_without_audit_records_is_named(tmp_path: Path) -> None:
    (tmp_path / "mail.log").write_bytes(b"nothing of the kind\n")
    (tmp_path / "empty").write_bytes(b"")
    source = ReplaySource([str(tmp_path / "mail.log"), str(tmp_path / "empty")], ports=PORTS)
    assert read_all(source) == []
    assert [(problem.file, problem.problem) for problem in source.problems] == [
        (str(tmp_path / "mail.log"), "holds no audit record"),
        (str(tmp_path / "empty"), "is empty"),
    ]


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError) as caught:
        read_all(ReplaySource([str(tmp_path / name)], ports=PORTS))
    assert caught.value.where == str(tmp_path / name)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress])
def test_a_damaged_file_is_named(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    data = bytearray(pack(records(*range(3000))))
    for cut in (slice(0, len(data) // 2), slice(0, 20)):
        path = tmp_path / "cut"
        path.write_bytes(data[cut])
        with pytest.raises(SourceError) as caught:
            read_all(ReplaySource([str(path)], ports=PORTS))
        assert caught.value.where == str(path)
    data[len(data) // 2] ^= 0xFF
    data[-9:] = bytes(9)
    path.write_bytes(data)
    with pytest.raises(SourceError):
        read_all(ReplaySource([str(path)], ports=PORTS))


def test_reading_before_opening_is_an_error() -> None:
    with pytest.raises(SourceError):
        ReplaySource(["-"], ports=PORTS).read()


def test_closing_twice_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.write_bytes(records(1))
    source = ReplaySource([str(path)], ports=PORTS)
    read_all(source)
    source.close()
