"""The state on a file system that really fills up, and a lock of another process that really holds it."""

import time
from pathlib import Path

import pytest

from smtpguard.model import NS, Block, Subject
from smtpguard.settings import DAY_NS
from smtpguard.state.file_recovery import Paths
from smtpguard.state.rows import BlockRow, ChangeRow, SwitchRow
from smtpguard.state.statements import block_key
from smtpguard.state.store import Store
from smtpguard.state.writer import StateWriter
from tests.fakes.namespaces import enter_tmpfs, fill, run_forked
from tests.support.host import wait_for

pytestmark = pytest.mark.kernel


def block(uid: int) -> Block:
    return Block(
        subject=Subject(id=uid), name="web", source="guard", kind="block", since_ns=0, until_ns=3600 * NS,
        mode="enforce",
    )  # fmt: skip


def test_a_full_disk_loses_no_block(tmp_path: Path) -> None:
    def body() -> None:
        enter_tmpfs(tmp_path, "1m")
        path = str(tmp_path / "state.db")
        paths = Paths(path=path, keep_ns=30 * DAY_NS, max_bytes=10**8, boot_id="b")
        writer = StateWriter(paths)
        writer.start()
        writer.put(BlockRow.of(block(1), time.time_ns()))
        assert writer.flush(60)
        ballast = fill(tmp_path)
        for uid in range(2, 400):
            writer.put(BlockRow.of(block(uid), time.time_ns()))
            writer.add(ChangeRow(time_ns=uid, uid=uid, name="web", event="block", by="x", reason="r" * 900))
        writer.put(SwitchRow(name="off", since_ns=0, until_ns=None, by="admin"))
        writer.delete(block_key(block(1)))
        assert not writer.flush(0.5)
        wait_for(lambda: writer.stats().failures)
        stats = writer.stats()
        assert stats.failures > 0
        assert stats.error is not None
        assert stats.waiting > 0
        ballast.unlink()
        assert writer.flush(60)
        assert writer.stats().error is None
        assert writer.stats().dropped == {"kept": 0, "latest": 0, "history": 0, "activity": 0}
        assert writer.close(60)
        now_ns = time.time_ns()
        loaded = Store.open(path, boot_id="b", wall_ns=now_ns, max_bytes=10**8).load(now_ns)
        assert sorted(row.uid for row in loaded.blocks) == list(range(2, 400))
        assert [row.name for row in loaded.switches] == ["off"]

    run_forked(body)


def test_a_disk_that_is_full_at_the_start_only_costs_the_state(tmp_path: Path) -> None:
    def body() -> None:
        enter_tmpfs(tmp_path, "256k")
        ballast = fill(tmp_path)
        path = str(tmp_path / "state.db")
        writer = StateWriter(Paths(path=path, keep_ns=30 * DAY_NS, max_bytes=10**8, boot_id="b"))
        loaded = writer.start()
        assert loaded.notes
        writer.put(BlockRow.of(block(1), time.time_ns()))
        assert not writer.flush(0.2)
        ballast.unlink()
        assert writer.flush(60)
        assert writer.close(60)
        now_ns = time.time_ns()
        loaded = Store.open(path, boot_id="b", wall_ns=now_ns, max_bytes=10**8).load(now_ns)
        assert [row.uid for row in loaded.blocks] == [1]

    run_forked(body)
