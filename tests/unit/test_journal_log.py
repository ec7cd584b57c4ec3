"""The event log's lines in systemd's journal: the native protocol, as a journal of the test's own reads it."""

import array
import os
import socket
import time
from pathlib import Path

import pytest

from smtpguard.actions import journal_log
from smtpguard.actions.eventlog import EventLog
from smtpguard.actions.journal_log import MAX_WAITING, JournalLog, render_entry
from smtpguard.model import NS, Account
from tests.support.policy import connect

LINE = (
    "2026-02-18T13:39:28.123456+01:00 USER=web01 UID=1001 EVENT=EXCEEDED RULE=mx-fanout COUNT=11 PORT=25 "
    'DST=192.0.2.1 PROC="php\\x20fpm" SCRIPT="/home/web01/x\\x3dMESSAGE\\x3d.php:41" RDNS="-"'
)
ACCOUNT = Account(uid=1001, name="web01", standing="tenant")


class Journald:
    """What journald does with what it gets."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(10)

    def read(self) -> dict[str, str]:
        data, extra, *_ = self._socket.recvmsg(1 << 20, socket.CMSG_SPACE(4))
        for _level, kind, content in extra:
            assert kind == socket.SCM_RIGHTS
            (descriptor,) = array.array("i", content)
            with os.fdopen(descriptor, "rb") as file:
                file.seek(0)
                data = file.read()
                with pytest.raises(OSError, match="not permitted"):
                    os.ftruncate(descriptor, 0)  # sealed, or journald would not take it
        return dict(line.split("=", 1) for line in data.decode("ascii").splitlines())

    def close(self) -> None:
        self._socket.close()
        Path(self.path).unlink()


def wait_until(log: JournalLog, sent: int) -> None:
    deadline = time.monotonic() + 10
    while log.stats().sent < sent:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_entry_has_the_line_and_its_fields() -> None:
    fields = dict(line.split("=", 1) for line in render_entry(LINE).decode("ascii").splitlines())
    assert fields == {
        "MESSAGE": LINE,
        "PRIORITY": "5",
        "SYSLOG_IDENTIFIER": "smtpguard-events",
        "EVENT_TIME": "2026-02-18T13:39:28.123456+01:00",
        "USER_NAME": "web01",
        "USER_UID": "1001",
        "EVENT": "EXCEEDED",
        "RULE": "mx-fanout",
        "COUNT": "11",
        "PORT": "25",
        "DST": "192.0.2.1",
        "PROC": "php\\x20fpm",
        "SCRIPT": "/home/web01/x\\x3dMESSAGE\\x3d.php:41",
        "RDNS": "-",
    }
    hostile = LINE.replace("/home", "MESSAGE=x PRIORITY=0 _UID=0")
    assert b"\n_UID" not in render_entry(hostile)
    assert render_entry(hostile).count(b"\nPRIORITY=") == 1


def test_each_line_goes_to_file_and_journal(tmp_path: Path) -> None:
    journald = Journald(tmp_path / "socket")
    events = EventLog(str(tmp_path / "log" / "events.log"), journal=JournalLog(journald.path))
    events.open()
    for uid in (1001, 1002):
        account = Account(uid=uid, name=f"web{uid}", standing="tenant")
        events.write_connect(connect(1, uid=uid), account, wall_ns=NS, now_ns=NS, highest_limit=10)
    assert events.close(wall_ns=NS, timeout_s=60)
    read = [journald.read() for _ in range(2)]
    assert [(entry["EVENT"], entry["USER_UID"], entry["PRIORITY"]) for entry in read] == [
        ("CONNECT", "1001", "6"), ("CONNECT", "1002", "6")
    ]  # fmt: skip
    assert [entry["MESSAGE"] for entry in read] == (tmp_path / "log" / "events.log").read_text().splitlines()
    journald.close()


def test_what_is_too_long_for_a_datagram_goes_as_a_file(tmp_path: Path) -> None:
    journald = Journald(tmp_path / "socket")
    log = JournalLog(journald.path)
    log.open()
    long = LINE.replace("php:41", "x" * 400_000)
    log.put(long.encode())
    assert journald.read()["MESSAGE"] == long
    wait_until(log, 1)
    log.close()
    journald.close()


def test_a_journal_that_stands_still_holds_up_nobody_and_loses_nothing_within_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_log, "AGAIN_S", 0.02)
    journald = Journald(tmp_path / "socket")
    log = JournalLog(journald.path)
    log.open()
    took: list[float] = []
    for number in range(MAX_WAITING + 2_000):
        begun = time.monotonic()
        log.put(LINE.replace("COUNT=11", f"COUNT={number}").encode())
        took.append(time.monotonic() - begun)
    assert sum(sorted(took)[:-5]) < 2  # nobody reads; the five longest may have been moments without a processor
    while log.stats().error is None:
        time.sleep(0.01)
    stats = log.stats()
    assert stats.error == f"{journald.path}: takes nothing"
    assert stats.dropped > 0
    numbers = [int(journald.read()["COUNT"]) for _ in range(1_000)]
    assert numbers == list(range(1_000))
    log.close(0.1)
    journald.close()


def test_attempts_leave_half_of_the_room_to_what_matters(tmp_path: Path) -> None:
    log = JournalLog(str(tmp_path / "nobody"))
    events = EventLog(str(tmp_path / "log" / "events.log"), journal=log)
    for number in range(MAX_WAITING):
        account = Account(uid=1001 + number, name=f"web{number}", standing="tenant")
        events.write_connect(connect(1), account, wall_ns=NS, now_ns=NS, highest_limit=10)
    assert log.stats().dropped == MAX_WAITING // 2
    for _ in range(MAX_WAITING // 2):
        events.write_allow(ACCOUNT, wall_ns=NS, until_wall_ns=NS, by="admin", reason="")
    assert log.stats().dropped == MAX_WAITING // 2
    log._socket.close()


def test_a_journal_that_starts_anew_gets_what_came_meanwhile(tmp_path: Path) -> None:
    log = JournalLog(str(tmp_path / "socket"))
    log.open()
    log.put(LINE.encode())
    deadline = time.monotonic() + 10
    while log.stats().error is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert log.stats().error == f"{tmp_path}/socket: No such file or directory"
    events = EventLog(str(tmp_path / "log" / "events.log"), journal=log)
    assert events.stats().error == log.stats().error
    journald = Journald(tmp_path / "socket")
    assert journald.read()["MESSAGE"] == LINE
    wait_until(log, 1)
    assert log.stats().error is None
    journald.close()
    log.put(LINE.encode())
    log.put(LINE.encode())
    log.close(60)
    assert log.stats().dropped == 2
