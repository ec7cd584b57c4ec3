"""Orders are answered when they are on the disk, and a disk that hangs holds up nobody for long."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from smtpguard.control.answer import Later
from smtpguard.daemon.serve.commits import FAILING_NS, PATIENCE_NS, Commits
from smtpguard.model import NS, Block, Subject
from smtpguard.state.file_recovery import Paths
from smtpguard.state.rows import BlockRow
from smtpguard.state.writer import StateWriter


def block(uid: int) -> Block:
    return Block(
        subject=Subject(id=uid),
        name="web",
        source="admin",
        kind="block",
        since_ns=NS,
        until_ns=10**18,
        mode="enforce",
    )


def begin(path: Path) -> StateWriter:
    path.parent.mkdir(0o700)
    writer = StateWriter(Paths(path=str(path), keep_ns=10**15, max_bytes=10**7, boot_id="b"))
    writer.start()
    return writer


def wait(later: Later) -> Any:  # noqa: ANN401
    there = threading.Event()
    later.notify(there.set)
    assert there.wait(60)
    return later.answer


def test_the_answer_comes_with_the_commit(tmp_path: Path) -> None:
    writer = begin(tmp_path / "state" / "state.db")
    commits = Commits(writer, lambda: 0)
    assert writer.flush(60)
    assert commits.answer({"text": "as before"}) == {"text": "as before"}  # there is nothing to wait for
    writer.put(BlockRow.of(block(1001), 0))
    later = commits.answer({"text": "blocked"})
    if isinstance(later, Later):
        assert wait(later) == {"text": "blocked"}
    assert writer.stats().waiting == 0
    commits.on_time(1)
    assert commits.next_deadline() is None
    assert writer.close(60)


@pytest.mark.parametrize("is_to_be_written", [True, False])
def test_the_answer_comes_when_the_limits_hold(tmp_path: Path, *, is_to_be_written: bool) -> None:
    writer = begin(tmp_path / "state" / "state.db")
    assert writer.flush(60)
    settled = [False]
    commits = Commits(writer, lambda: 0, lambda: settled[0])
    if is_to_be_written:
        writer.put(BlockRow.of(block(1001), 0))
    later = commits.answer({"text": "on"})
    assert isinstance(later, Later)
    assert writer.flush(60)
    commits.on_time(1)
    assert later.answer is None
    settled[0] = True
    for number in (2, PATIENCE_NS):
        commits.on_time(number)
        assert later.answer == {"text": "on"}
    assert commits.next_deadline() is None
    late = commits.answer({"text": "block"})
    assert late == {"text": "block"}, "as before"
    assert writer.close(60)


def test_what_is_written_after_the_limits_hold_is_answered_then() -> None:
    """From the writer's thread: the loop may have no turn for a second."""
    writer = Mock(spec_set=["stats", "when_written", "forget_waiter"])
    writer.when_written.return_value = 1
    settled = [False]
    commits = Commits(writer, lambda: 0, lambda: settled[0])
    later = commits.answer({"text": "on"})
    assert isinstance(later, Later)
    settled[0] = True
    commits.on_time(1)
    assert later.answer is None
    writer.when_written.call_args[0][0]()
    assert later.answer == {"text": "on"}
    commits.on_time(2)
    assert commits.next_deadline() is None
    writer.forget_waiter.assert_not_called()


def test_limits_that_never_hold_keep_nobody_waiting(tmp_path: Path) -> None:
    writer = begin(tmp_path / "state" / "state.db")
    assert writer.flush(60)
    commits = Commits(writer, lambda: 0, lambda: False)
    later = commits.answer({"text": "on"})
    assert isinstance(later, Later)
    commits.on_time(PATIENCE_NS)
    assert later.answer == {"text": "on"}
    assert writer.close(60)


def test_a_disk_that_hangs_is_named_in_the_answer(tmp_path: Path) -> None:
    writer = begin(tmp_path / "state" / "state.db")
    assert writer.flush(60)
    goes_on = threading.Event()
    real = writer._keeper.commit

    def commit(batch: Any) -> bool:  # noqa: ANN401
        assert goes_on.wait(60)
        return real(batch)

    writer._keeper.commit = commit  # type: ignore[method-assign]
    commits = Commits(writer, lambda: 0)
    writer.put(BlockRow.of(block(1001), 0))
    later = commits.answer({"text": "blocked"})
    assert isinstance(later, Later)
    assert later.answer is None
    assert commits.next_deadline() == PATIENCE_NS
    commits.on_time(PATIENCE_NS)
    said = wait(later)["text"]
    assert said.startswith("blocked. Not on the disk yet")
    goes_on.set()
    assert writer.close(60)
    assert later.answer == {"text": said}


def test_a_disk_that_is_known_to_fail_is_not_waited_for_long(tmp_path: Path) -> None:
    writer = begin(tmp_path / "state" / "state.db")
    assert writer.flush(60)
    real = writer._keeper.commit

    def fails(batch: Any) -> bool:  # noqa: ANN401, ARG001
        return False

    writer._keeper.commit = fails  # type: ignore[method-assign]
    stats = writer.stats()
    writer.stats = lambda: replace(stats, error="database or disk is full")  # type: ignore[method-assign]
    commits = Commits(writer, lambda: 0)
    writer.put(BlockRow.of(block(1001), 0))
    later = commits.answer({"text": "blocked"})
    assert isinstance(later, Later)
    assert commits.next_deadline() == FAILING_NS
    commits.on_time(FAILING_NS)
    assert wait(later)["text"].startswith("blocked. Not on the disk yet")
    writer._keeper.commit = real  # type: ignore[method-assign]
    assert writer.close(60)


def test_where_there_is_no_file_nobody_waits_for_it() -> None:
    state = Mock()
    state.stats.return_value.path = None
    assert Commits(state, lambda: 0).answer({"text": "done"}) == {"text": "done"}
    state.when_written.assert_not_called()
