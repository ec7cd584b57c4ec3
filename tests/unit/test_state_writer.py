"""The thread that owns the file: coalescing, order, and every way a file can fail under it. Real files."""

import itertools
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from smtpguard.model import NS, Block, Subject
from smtpguard.settings import DAY_NS, HOUR_NS
from smtpguard.state import backlog, file_recovery, statements
from smtpguard.state.backlog import Backlog, Batch
from smtpguard.state.columns import Statement, to_signed
from smtpguard.state.file_recovery import Keeper, Paths
from smtpguard.state.incident_row import IncidentRow
from smtpguard.state.rows import AllowanceRow, BlockRow, ChangeRow, SwitchRow, WindowRow
from smtpguard.state.statements import block_key, switch_key
from smtpguard.state.store import Loaded, Store
from smtpguard.state.writer import StateWriter
from tests.fakes.clock import FakeClock

NOW_NS = 1_771_418_368 * NS
FLUSH_S = 60.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "state.db"


def paths(path: Path) -> Paths:
    return Paths(path=str(path), keep_ns=30 * DAY_NS, max_bytes=10**8, boot_id="boot")


def begin(path: Path) -> tuple[StateWriter, Loaded]:
    writer = StateWriter(paths(path), wall=lambda: NOW_NS)
    return writer, writer.start()


@pytest.fixture
def writer(path: Path) -> Iterator[StateWriter]:
    writer, _ = begin(path)
    yield writer
    writer.close()


def block(uid: int, *, source: str = "guard", name: str = "web", netns: int | None = None) -> Block:
    return Block(
        subject=Subject(id=uid, scope=netns), name=name, source=source, kind="block", since_ns=0,
        until_ns=1800 * NS, mode="enforce",
    )  # fmt: skip


def stored(path: Path) -> Loaded:
    store = Store.open(str(path), boot_id="boot", wall_ns=NOW_NS, max_bytes=10**8)
    try:
        return store.load(NOW_NS)
    finally:
        store.close()


def uids(loaded: Loaded) -> list[int]:
    return sorted(row.uid for row in loaded.blocks)


def take_away(path: Path) -> None:
    """The file itself last: the thread looks for that one, and would put a new one, with a journal, among the rest."""
    for suffix in ("-wal", "-shm", ""):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def end_blocks(writer: StateWriter, uid: int, netns: int | None = None, source: str | None = None) -> int:
    """End a user's blocks; how many there were."""
    keys = [key for key in writer.kept("blocks", uid) if key[2] == to_signed(netns)]
    keys = [key for key in keys if source is None or key[4] == source.encode()]
    for key in keys:
        writer.delete(key)
    return len(keys)


def test_what_was_put_is_there_after_a_restart(path: Path) -> None:
    writer, loaded = begin(path)
    assert loaded == Loaded(now_ns=NOW_NS)
    writer.put(BlockRow.of(block(1), NOW_NS))
    writer.put(BlockRow.of(block(2), NOW_NS))
    writer.put(BlockRow.of(block(2, source="admin"), NOW_NS))
    writer.put(BlockRow.of(block(3), NOW_NS))
    writer.delete(block_key(block(3)))
    writer.put(AllowanceRow(uid=4, name="n", since_ns=0, until_ns=NOW_NS + 1, by="admin"))
    writer.put(SwitchRow(name="off", since_ns=0, until_ns=None, by="admin"))
    writer.put_windows([WindowRow(uid=1, netns=None, rule="r", data=b"x", offset_ns=0)])
    writer.put(
        IncidentRow(
            uid=1, netns=None, name="n", first_ns=1, last_ns=NOW_NS, verdicts=1, connects=1, refused=0,
            peak_per_minute=1, destinations=1,
        )
    )  # fmt: skip
    assert writer.close(FLUSH_S)
    writer, loaded = begin(path)
    assert uids(loaded) == [1, 2, 2]
    assert loaded.live_blocks(NOW_NS)[0] == block(1)
    assert [len(x) for x in (loaded.allowances, loaded.switches, loaded.windows, loaded.incidents)] == [1, 1, 1, 1]
    writer.put_windows([WindowRow(uid=1, netns=None, rule="r", data=None, offset_ns=0)])
    writer.delete(switch_key("off"))
    writer.delete(("allowances", 4, b"n"))
    assert end_blocks(writer, 2, source="admin") == 1
    assert end_blocks(writer, 1) == 1
    assert end_blocks(writer, 1) == 0
    assert writer.close(FLUSH_S)
    loaded = stored(path)
    assert uids(loaded) == [2]
    assert (loaded.windows, loaded.switches, loaded.allowances) == ((), (), ())


def test_sources_and_namespaces_do_not_undo_each_other(writer: StateWriter, path: Path) -> None:
    for source, netns in itertools.product(("guard", "admin", "fail2ban:a"), (None, 77)):
        writer.put(BlockRow.of(block(1, source=source, netns=netns), NOW_NS))
    writer.delete(block_key(block(1, source="fail2ban:a")))
    assert end_blocks(writer, 1, netns=77, source="guard") == 1
    assert writer.flush(FLUSH_S)
    assert sorted((row.source, row.netns) for row in stored(path).blocks if row.netns is None) == [
        ("admin", None), ("guard", None),
    ]  # fmt: skip
    assert sorted(row.source for row in stored(path).blocks if row.netns == 77) == ["admin", "fail2ban:a"]


@pytest.mark.parametrize("what", ["block", "windows"])
def test_what_must_not_wait_is_committed_without_being_asked(
    writer: StateWriter, path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr("smtpguard.state.writer.COMMIT_NS", HOUR_NS)
    committed = threading.Event()
    real = writer._keeper.commit

    def commit(batch: Batch) -> bool:
        is_done = real(batch)
        committed.set()
        return is_done

    writer._keeper.commit = commit  # type: ignore[method-assign]
    if what == "block":
        writer.put(BlockRow.of(block(1), NOW_NS))
    else:  # they are put once a second: one more second until they are committed would be one too many
        writer.put_windows([WindowRow(uid=1, netns=None, rule="r", data=b"x", offset_ns=0)])
    assert committed.wait(FLUSH_S)
    assert [row.uid for row in (stored(path).blocks if what == "block" else stored(path).windows)] == [1]


def test_a_disk_that_hangs_holds_nobody(writer: StateWriter, path: Path) -> None:
    hangs = threading.Event()
    real = writer._keeper.commit

    def commit(batch: Batch) -> bool:
        assert hangs.wait(FLUSH_S)
        return real(batch)

    writer._keeper.commit = commit  # type: ignore[method-assign]
    for uid in range(1, 1001):
        writer.put(BlockRow.of(block(uid), NOW_NS))
    assert writer.stats().waiting == 1000
    assert not writer.flush(0.01)
    assert not writer.close(0.01)
    hangs.set()
    assert writer.close(FLUSH_S)
    assert len(stored(path).blocks) == 1000


@pytest.mark.parametrize("how", ["deleted", "replaced", "directory gone"])
def test_a_file_that_somebody_took_away_is_written_again(path: Path, how: str) -> None:
    writer, _ = begin(path)
    writer.put(BlockRow.of(block(1), NOW_NS))
    assert writer.flush(FLUSH_S)
    backup = path.with_name("backup")
    shutil.copy(path, backup)
    shutil.copy(f"{path}-wal", f"{backup}-wal")
    writer.put(BlockRow.of(block(2), NOW_NS))
    writer.delete(block_key(block(1)))
    writer.put(SwitchRow(name="off", since_ns=0, until_ns=None, by="admin"))
    assert writer.flush(FLUSH_S)
    if how == "directory gone":
        shutil.rmtree(path.parent)
    else:
        take_away(path)
        if how == "replaced":
            backup.rename(path)
            Path(f"{backup}-wal").rename(f"{path}-wal")
    writer.put(BlockRow.of(block(3), NOW_NS))
    assert writer.flush(FLUSH_S)
    loaded = stored(path)
    assert uids(loaded) == [2, 3]  # not 1, which a backup still holds
    assert [row.name for row in loaded.switches] == ["off"]
    stats = writer.stats()
    assert stats.fresh == 1
    assert "by somebody: begun anew" in stats.notes[-1]
    assert writer.close(FLUSH_S)


def test_an_idle_thread_sleeps_and_still_notices_that_its_file_is_gone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtpguard.state.writer.LOOK_NS", NS // 20)
    writer, _ = begin(path)
    writer.put(BlockRow.of(block(1), NOW_NS))
    assert writer.flush(FLUSH_S)
    writer.put_windows([])
    assert writer._given == writer._written, "nothing new is nothing to write"
    noticed = threading.Event()
    ensure = writer._keeper.ensure

    def watched() -> None:
        ensure()
        if writer.stats().fresh:
            noticed.set()

    monkeypatch.setattr(writer._keeper, "ensure", watched)
    take_away(path)
    assert noticed.wait(FLUSH_S)
    assert writer.close(FLUSH_S)
    assert uids(stored(path)) == [1]


def test_damage_while_it_runs_is_set_aside_and_nothing_kept_is_lost(path: Path) -> None:
    writer, _ = begin(path)
    writer.put(BlockRow.of(block(1), NOW_NS))
    assert writer.flush(FLUSH_S)
    writer._keeper._store._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # type: ignore[union-attr]
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (path.stat().st_size - 4096))
    writer._keeper._store._connection.execute("PRAGMA shrink_memory")  # type: ignore[union-attr]
    for n in range(3):
        writer.add(ChangeRow(time_ns=n, uid=n, name="x", event="block", by="y"))
        writer.put(BlockRow.of(block(2 + n), NOW_NS))
        writer.flush(FLUSH_S)
    assert writer.close(FLUSH_S)
    assert uids(stored(path)) == [1, 2, 3, 4]
    assert any("set aside" in note for note in writer.stats().notes)
    assert any(".corrupt-" in p.name for p in path.parent.iterdir())


def test_a_start_on_a_partly_damaged_file_keeps_the_sound_part(path: Path) -> None:
    writer, _ = begin(path)
    writer.put(BlockRow.of(block(1), NOW_NS))
    writer.put_windows([WindowRow(uid=n, netns=None, rule="r", data=b"x" * 900, offset_ns=0) for n in range(50)])
    assert writer.close(FLUSH_S)
    with sqlite3.connect(path) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'windows'").fetchone()
    connection.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xa5" * 4096)
    writer, loaded = begin(path)
    assert uids(loaded) == [1]
    assert loaded.damage is not None
    assert writer.stats().fresh == 1
    assert writer.close(FLUSH_S)
    again = stored(path)
    assert uids(again) == [1]
    assert again.damage is None


def test_a_lock_of_another_process_delays_and_loses_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_recovery, "BUSY_S", 0.01)
    writer, _ = begin(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    writer.put(BlockRow.of(block(1), NOW_NS))
    assert not writer.flush(0.1)
    deadline = time.monotonic() + FLUSH_S
    while not writer.stats().failures:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "locked" in (writer.stats().error or "")
    other.execute("ROLLBACK")
    other.close()
    assert writer.flush(FLUSH_S)
    assert writer.stats().error is None
    assert writer.close(FLUSH_S)
    assert uids(stored(path)) == [1]


def test_a_file_locked_at_the_start_is_read_later(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_recovery, "BUSY_S", 0.01)
    first, _ = begin(path)
    first.put(BlockRow.of(block(1), NOW_NS))
    first.put(BlockRow.of(block(2), NOW_NS))
    assert first.close(FLUSH_S)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    writer, loaded = begin(path)
    assert loaded.blocks == ()
    assert "locked" in loaded.notes[0]
    assert writer.take_late() is None
    writer.put(BlockRow.of(block(3), NOW_NS))
    writer.delete(block_key(block(2)))
    other.close()
    assert writer.flush(FLUSH_S)
    late = writer.take_late()
    assert late is not None
    assert uids(late) == [1, 2]
    assert writer.take_late() is None
    assert writer.close(FLUSH_S)
    assert uids(stored(path)) == [1, 3]


def test_a_path_that_can_not_be_used_only_costs_the_state(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.mkdir()
    writer, loaded = begin(path)
    assert loaded.notes
    writer.put(BlockRow.of(block(1), NOW_NS))
    assert not writer.close(FLUSH_S)
    assert writer.stats().waiting == 1


def statement(n: int) -> Statement:
    return Statement(sql="x", parameters=(n,))


def test_the_backlog_drops_activity_first_and_blocks_only_when_full(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, bound in (("MAX_KEPT", 5), ("MAX_LATEST", 4), ("MAX_HISTORY", 3), ("MAX_ACTIVITY", 2)):
        monkeypatch.setattr(backlog, name, bound)
    waits = Backlog()
    for n in range(10):
        waits.keep(("blocks", n), statement(n))
        waits.put_latest(("windows", n), statement(n))
        waits.add_history(statement(n))
        waits.add_activity([statement(n)])
    assert waits.dropped == {"kept": 5, "latest": 6, "history": 7, "activity": 8}
    waits.forget(("blocks", 0), statement(0))
    waits.keep(("blocks", 11), statement(11))
    assert waits.dropped["kept"] == 5
    batch = waits.take()
    assert [s.parameters for s in batch.history] == [(7,), (8,), (9,)]
    assert [s.parameters for s in batch.activity] == [(0,), (1,)]
    waits.add_activity([statement(20)])
    waits.add_history(statement(20))
    waits.put_back(batch)
    assert waits.dropped == {"kept": 5, "latest": 6, "history": 8, "activity": 9}
    assert len(waits) == 6 + 4 + 3 + 2


def test_what_is_put_back_never_overtakes_what_is_newer() -> None:
    waits = Backlog()
    waits.keep(("blocks", 1), statement(1))
    batch = waits.take()
    waits.forget(("blocks", 1), statement(2))
    waits.put_back(batch)
    assert [s.parameters for s in waits.take().kept.values()] == [(2,)]
    assert waits.owned("blocks", 1) == []


def pruning_keeper(path: Path, clock: FakeClock) -> Keeper:
    clock.wall = NOW_NS
    kept = Keeper(paths(path), wall=clock.wall_ns, monotonic=clock.monotonic_ns)
    assert kept.open() is not None
    old = statements.add(ChangeRow(time_ns=NOW_NS - 20 * DAY_NS, uid=1, name="x", event="block", by="y"))
    batch = Batch(history=[old])
    assert kept.commit(batch)
    return kept


def changes(path: Path) -> int:
    with sqlite3.connect(path) as connection:
        return int(connection.execute("SELECT count(*) FROM changes").fetchone()[0])


def test_history_survives_a_clock_that_jumps_for_a_while(path: Path) -> None:
    clock = FakeClock()
    kept = pruning_keeper(path, clock)
    clock.advance(700)
    kept.prune()
    clock.step_wall(365 * DAY_NS / NS)
    for _ in range(40):
        clock.advance(60)
        kept.prune()
    clock.step_wall(-365 * DAY_NS / NS)
    for _ in range(200):
        clock.advance(60)
        kept.prune()
    assert changes(path) == 1
    clock.advance(11 * DAY_NS / NS)
    for _ in range(10):
        clock.advance(60)
        kept.prune()
    assert changes(path) == 0
    kept.close()


def test_history_survives_a_clock_that_is_wrong_at_boot(path: Path) -> None:
    clock = FakeClock()
    pruning_keeper(path, clock).close()
    clock.step_wall(365 * DAY_NS / NS)
    kept = Keeper(paths(path), wall=clock.wall_ns, monotonic=clock.monotonic_ns)
    assert kept.open() is not None
    for _ in range(9):
        clock.advance(60)
        kept.prune()
    clock.step_wall(-365 * DAY_NS / NS)
    for _ in range(100):
        clock.advance(60)
        kept.prune()
    assert changes(path) == 1
    kept.close()


def test_a_clock_that_stays_set_is_believed(path: Path) -> None:
    clock = FakeClock()
    kept = pruning_keeper(path, clock)
    clock.step_wall(365 * DAY_NS / NS)
    for _ in range(HOUR_NS * 3 // (60 * NS)):
        clock.advance(60)
        kept.prune()
    assert changes(path) == 0
    kept.close()


def test_memory_is_given_back_after_many_rows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    keeper = Keeper(paths(path), wall=lambda: NOW_NS, monotonic=lambda: 0)
    monkeypatch.setattr(file_recovery, "give_back_memory", lambda: given.append(keeper.commits))
    keeper.open()
    for n in range(10):
        rows = [statements.put_seen(uid, 25, NOW_NS) for uid in range(file_recovery.MANY_ROWS // 4)]
        assert keeper.commit(Batch(activity=rows)), n
    keeper.close()
    assert given == [4, 8]


def test_a_file_that_is_full_makes_room_and_is_written_again(path: Path) -> None:
    """More came within a minute than the tenth that regular pruning leaves free."""
    kept = replace(paths(path), max_bytes=1 << 20)
    writer = StateWriter(kept, wall=lambda: NOW_NS)
    writer.start()
    for first in range(0, 1400, 40):
        for n in range(first, first + 40):
            row = ChangeRow(time_ns=NOW_NS - 9999 + n, uid=1, name="web", event="block", by="x", reason="r" * 900)
            writer.add(row)
        assert writer.flush(FLUSH_S)
    stats = writer.stats()
    assert stats.failures > 0, "it was full"
    assert stats.failures < 20, "and not tried a thousand times a second"
    assert stats.error is None
    assert writer.close(FLUSH_S)
