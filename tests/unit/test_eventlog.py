"""The event log as the daemon uses it: lines in order, a hanging disk, a flood, the end."""

import os
import threading
from pathlib import Path

import pytest

from smtpguard.actions import eventlog
from smtpguard.actions.eventlog import EventLog
from smtpguard.errors import LogError
from smtpguard.logline import LogLine, parse_line
from smtpguard.model import NS, Account, Block, Connect, Message, Subject, Verdict

WALL_NS = 1_771_418_368_123_456_000
WEB01 = Account(uid=1001, name="web01", standing="tenant")
CONNECT = Connect(time_ns=0, uid=1001, port=25, address=b"\xc0\x00\x02\x01", sensor="bpf", cwd=b"/a b\n")
VERDICT = Verdict(
    time_ns=0, subject=Subject(id=1001), account=WEB01, rule="r", count=2, limit=1, window_ns=NS, action="warn",
    until_ns=None, mode="enforce", connect=CONNECT,
)  # fmt: skip
BLOCK = Block(
    subject=Subject(id=1001), name="web01", source="admin", kind="block", since_ns=0, until_ns=NS, mode="enforce"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.log"


def parsed(path: Path) -> list[LogLine]:
    return [parse_line(line) for line in path.read_text().splitlines()]


def connect_line(log: EventLog, *, now_ns: int = 0, limit: int = 30) -> None:
    log.write_connect(CONNECT, WEB01, wall_ns=WALL_NS, now_ns=now_ns, highest_limit=limit)


def test_every_event_in_its_order(path: Path) -> None:
    log = EventLog(str(path))
    log.open()
    connect_line(log)
    log.write_exceeded(VERDICT, wall_ns=WALL_NS)
    log.write_block(BLOCK, WEB01, wall_ns=WALL_NS, until_wall_ns=WALL_NS + NS)
    log.write_unblock(BLOCK, WEB01, wall_ns=WALL_NS, by="time")
    log.write_allow(WEB01, wall_ns=WALL_NS, until_wall_ns=WALL_NS + NS, by="admin")
    log.write_message(Message(time_ns=0, uid=1001, mta="exim"), WEB01, wall_ns=WALL_NS)
    assert log.close(wall_ns=WALL_NS, timeout_s=60)
    events = ["CONNECT", "EXCEEDED", "BLOCK", "UNBLOCK", "ALLOW", "MESSAGE"]
    assert [line.event for line in parsed(path)] == events
    assert log.stats().written == 6


def test_a_flood_is_suppressed_and_told_at_the_minute_and_at_the_end(path: Path) -> None:
    log = EventLog(str(path))
    log.open()
    for _ in range(500):
        connect_line(log)
    deadline_ns = log.next_deadline()
    assert deadline_ns == 60 * NS
    log.tick(now_ns=deadline_ns, wall_ns=WALL_NS + 60 * NS)
    for _ in range(131):
        connect_line(log, now_ns=deadline_ns)
    assert log.close(wall_ns=WALL_NS + 61 * NS, timeout_s=60)
    lines = parsed(path)
    assert [line.event for line in lines] == ["CONNECT"] * 130 + ["SUPPRESSED"] + ["CONNECT"] * 130 + ["SUPPRESSED"]
    assert [line.fields["COUNT"] for line in lines if line.event == "SUPPRESSED"] == [370, 1]
    assert log.stats().suppressed == 371


def test_without_connects_only_decisions_are_written(path: Path) -> None:
    log = EventLog(str(path), connects=False)
    log.open()
    connect_line(log)
    log.write_exceeded(VERDICT, wall_ns=WALL_NS)
    assert log.close(wall_ns=WALL_NS, timeout_s=60)
    assert [line.event for line in parsed(path)] == ["EXCEEDED"]


def test_a_disk_that_hangs_holds_nobody_and_drops_connects_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventlog, "MAX_QUEUED_LINES", 100)
    hangs = threading.Event()
    reached = threading.Event()
    real = os.write

    def write(fd: int, data: bytes) -> int:
        reached.set()
        assert hangs.wait(60)
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    log = EventLog(str(path))
    log.open()
    connect_line(log, limit=10_000)
    assert reached.wait(60)
    for _ in range(1000):
        connect_line(log, limit=10_000)  # would never return if the caller wrote
    assert log.stats().waiting in (50, 51)
    assert log.stats().dropped == 950
    for _ in range(60):
        log.write_exceeded(VERDICT, wall_ns=WALL_NS)
    assert log.stats().dropped == 960
    assert not log.close(wall_ns=WALL_NS, timeout_s=0.01)
    hangs.set()
    assert log.close(wall_ns=WALL_NS, timeout_s=60)
    assert [line.event for line in parsed(path)] == ["CONNECT"] * 51 + ["EXCEEDED"] * 50


def test_sighup_moves_on_to_the_new_file(path: Path) -> None:
    log = EventLog(str(path))
    log.open()
    log.write_unblock(BLOCK, WEB01, wall_ns=WALL_NS, by="time")
    while log.stats().waiting or not log.stats().written:
        pass
    path.rename(path.with_suffix(".1"))
    log.reopen()
    log.write_unblock(BLOCK, WEB01, wall_ns=WALL_NS, by="admin")
    assert log.close(wall_ns=WALL_NS, timeout_s=60)
    assert [line.fields["BY"] for line in parsed(path.with_suffix(".1"))] == ["time"]
    assert [line.fields["BY"] for line in parsed(path)] == ["admin"]


def test_a_log_that_can_not_be_opened_says_so_and_is_harmless(path: Path) -> None:
    path.mkdir()
    log = EventLog(str(path))
    with pytest.raises(LogError):
        log.open()
    log.write_unblock(BLOCK, WEB01, wall_ns=WALL_NS, by="time")
    assert log.close(wall_ns=WALL_NS, timeout_s=60)
    assert log.stats().dropped == 1
