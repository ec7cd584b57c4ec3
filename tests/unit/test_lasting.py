"""Threads that live as long as the process tell their mistakes and go on."""

import threading
import time
from pathlib import Path
from unittest.mock import patch

import pytest

from smtpguard.actions.eventlog import EventLog
from smtpguard.daemon.supervision import Supervision
from smtpguard.enrich.accounts.name_service import NameService
from smtpguard.enrich.reverse_dns import ReverseDns
from smtpguard.kernel import lasting_thread
from smtpguard.kernel.lasting_thread import start_lasting
from smtpguard.model import NS
from smtpguard.state.file_recovery import Keeper, Paths
from smtpguard.state.rows import SwitchRow
from smtpguard.state.writer import StateWriter


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was told of threads, by name."""
    found: list[str] = []

    def take(args: threading.ExceptHookArgs) -> None:
        assert args.thread is not None
        found.append(f"{args.thread.name}: {args.exc_value}")

    monkeypatch.setattr(threading, "excepthook", take)
    monkeypatch.setattr(lasting_thread, "FIRST_REST_S", 0.01)
    return found


def wait_for(what: list[str]) -> None:
    deadline = time.monotonic() + 10
    while not what:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_it_is_called_again_until_it_returns(told: list[str]) -> None:
    left = [ValueError("third"), ValueError("second"), ValueError("first")]

    def run() -> None:
        if left:
            raise left.pop()

    thread = start_lasting("clerk", run)
    thread.join(10)
    assert not thread.is_alive()
    assert told == ["clerk: first", "clerk: second", "clerk: third"]


def test_its_rests_grow_and_one_that_was_well_for_long_begins_anew(told: list[str]) -> None:
    times = iter([0, 1, 1, 2, 100, 200, 200])
    errors: list[Exception] = [ValueError()] * 3
    rests: list[float] = []

    def run() -> None:
        if errors:
            raise errors.pop()

    with patch.object(lasting_thread, "time") as clock:
        clock.monotonic.side_effect = lambda: next(times)
        clock.sleep.side_effect = rests.append
        lasting_thread._outlive(run)
    assert rests == [0.01, 0.02, 0.01]
    assert len(told) == 3


def test_the_event_log_counts_the_line_that_it_failed_at(tmp_path: Path, told: list[str]) -> None:
    log = EventLog(str(tmp_path / "events.log"))
    log.open()
    with patch.object(log._file, "write", side_effect=ZeroDivisionError("oops")):
        log._put("first")
        wait_for(told)
    log._put("second")
    assert log.close(wall_ns=0, timeout_s=10)
    assert (tmp_path / "events.log").read_text() == "second\n"
    assert (log.stats().dropped, told) == (1, ["event-log: oops"])


def test_the_state_loses_nothing_by_it(tmp_path: Path, told: list[str]) -> None:
    paths = Paths(path=str(tmp_path / "state.db"), keep_ns=3600 * NS, max_bytes=1 << 30, boot_id="boot")
    state = StateWriter(paths)
    state.start()
    sound, broken = Keeper.commit, [1]

    def commit(keeper: Keeper, batch: object) -> bool:
        if broken:
            broken.pop()
            raise ZeroDivisionError("oops")
        return sound(keeper, batch)  # type: ignore[arg-type]

    with patch.object(Keeper, "commit", commit):
        state.put(SwitchRow(name="off", since_ns=1, until_ns=None, by="admin"))
        assert state.flush(10)
    assert told == ["state: oops"]
    assert state.close(10)
    again = StateWriter(paths)
    assert [row.name for row in again.start().switches] == ["off"]
    again.close(10)


def test_who_waits_for_a_name_is_told_at_once(told: list[str]) -> None:
    names = NameService()
    with patch.object(names, "_ask", side_effect=ZeroDivisionError("oops")):
        begun = time.monotonic()
        event = names._request("web01")
        assert event is not None
        assert event.wait(10)
        assert time.monotonic() - begun < 5
        wait_for(told)
    assert names.failure == "by a mistake of smtpguard's own: ZeroDivisionError: oops"
    with patch.object(names, "_ask", return_value=None):
        later = names._request("web01")
        assert later is not None
        assert later.wait(10), "it can be asked again"


def test_a_resolver_that_raises_answers_that_there_is_no_name(told: list[str]) -> None:
    calls: list[str] = []

    def resolve(address: str) -> bytes | None:
        calls.append(address)
        if len(calls) == 1:
            raise ZeroDivisionError("oops")
        return b"mx.example.net"

    rdns = ReverseDns(threads=1, resolve=resolve)
    rdns.start()
    found: list[tuple[int, bytes | None]] = []
    for number in (1, 2):
        rdns.ask(bytes([192, 0, 2, number]), 1001, 0)
        deadline = time.monotonic() + 10
        while len(found) < number:
            assert time.monotonic() < deadline
            time.sleep(0.005)
            found += rdns.read(0)
    rdns.close()
    assert [name for _, name in found] == [None, b"mx.example.net"]
    assert told == ["rdns-0: oops"]


def test_what_a_thread_failed_at_is_a_trouble_for_a_while() -> None:
    now = [0]
    supervision = Supervision(lambda: now[0])
    supervision.note_thread("state", ValueError("oops"))
    supervision.note_thread("names", ValueError("oops"))
    assert supervision.troubles() == [
        (
            "the thread state has failed: ValueError: oops: blocks and windows may be stored late; "
            "it is taken up again, and its trace is in the log"
        ),
        "the thread names has failed: ValueError: oops; its trace is in the log",
    ]
    now[0] = 3600 * 10**9
    assert supervision.troubles() == []
