"""The state file: every row comes back as it was put, damage is set aside, history is bounded."""

import contextlib
import os
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smtpguard.errors import StateError
from smtpguard.model import NS, Account, Block, Connect, Subject, Verdict
from smtpguard.settings import DAY_NS, HOUR_NS
from smtpguard.state import activity, retention, statements
from smtpguard.state.activity import MAX_PLACES_PER_USER, Tally
from smtpguard.state.columns import Statement
from smtpguard.state.incident_row import IncidentRow
from smtpguard.state.migrations import MIGRATIONS, VERSION, check_version, migrate
from smtpguard.state.open_file import MAX_SET_ASIDE, open_state, set_aside
from smtpguard.state.rows import (
    AllowanceRow,
    BlockRow,
    ChangeRow,
    EscalationRow,
    FactRow,
    SwitchRow,
    VerdictRow,
    WindowRow,
)
from smtpguard.state.store import Store

NOW_NS = 1_771_418_368 * NS
HOSTILE = "we\udcff\n'; DROP TABLE blocks; --"


OFF = SwitchRow(name="off", since_ns=0, until_ns=None, by="x")


def open_store(path: Path, *, max_bytes: int = 100_000_000, boot_id: str = "boot-1") -> Store:
    return Store.open(str(path), boot_id=boot_id, wall_ns=NOW_NS, max_bytes=max_bytes, busy_s=0.05)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "state.db"


def block_row(**changes: object) -> BlockRow:
    fields: dict[str, object] = {
        "uid": 1001, "netns": None, "name": "web01", "source": "guard", "kind": "block",
        "since_ns": NOW_NS - 60 * NS, "until_ns": NOW_NS + 1740 * NS, "mode": "enforce", "rule": "mx-fanout",
        "reason": "", "level": 0, "ranges": (),
    }  # fmt: skip
    return BlockRow(**(fields | changes))  # type: ignore[arg-type]


def test_the_file_is_ours_alone(path: Path) -> None:
    open_store(path).close()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    store = open_store(path)
    store.run([statements.put(block_row(), "b")], durable=True)
    assert {p.name: oct(p.stat().st_mode & 0o777) for p in path.parent.iterdir()} == {
        "state.db": "0o600", "state.db-wal": "0o600", "state.db-shm": "0o600",
    }  # fmt: skip


def test_every_row_comes_back(path: Path) -> None:
    blocks = (
        block_row(),
        block_row(kind="throttle"),
        block_row(source="fail2ban:x"),
        block_row(name=None, rule=None, mode="dry-run"),
        block_row(name=HOSTILE, reason=HOSTILE, rule=HOSTILE, level=7, ranges=((100_000, 65_536), (200_000, 5))),
        block_row(netns=2**64 - 5),
    )
    allowance = AllowanceRow(
        uid=1, name=HOSTILE, since_ns=1, until_ns=NOW_NS + 1, by="admin", max_count=5, window_ns=9, reason=HOSTILE
    )
    switch = SwitchRow(name="off", since_ns=5, until_ns=None, by=HOSTILE)
    escalation = EscalationRow(uid=7, name=None, level=3, last_ns=99)
    window = WindowRow(uid=7, netns=None, rule=HOSTILE, data=b"\0\xff", offset_ns=-5)
    incident = IncidentRow(
        uid=7, netns=None, name=HOSTILE, first_ns=NOW_NS - 5, last_ns=NOW_NS, verdicts=1, connects=2, refused=3,
        peak_per_minute=4, destinations=5, rules=("a", HOSTILE), told_ns=6,
    )  # fmt: skip
    store = open_store(path)
    store.run(
        [
            *(statements.put(row, "boot-1") for row in blocks),
            statements.put(allowance, ""),
            statements.put(switch, ""),
            statements.put(escalation, ""),
            statements.put(window, "boot-1"),
            statements.put(incident, ""),
            statements.put_seen(7, 25, 100),
            statements.put_seen(7, 25, 50),
        ],
        durable=True,
    )
    store.close()
    loaded = open_store(path).load(NOW_NS)
    assert set(loaded.blocks) == set(blocks)
    assert loaded.allowances == (allowance,)
    assert loaded.switches == (switch,)
    assert loaded.escalation == (escalation,)
    assert loaded.windows == (window,)
    assert loaded.incidents == (incident,)
    assert loaded.seen == {(7, 25): 100}
    assert loaded.damage is None


def test_what_ended_is_not_loaded(path: Path) -> None:
    store = open_store(path)
    store.run(
        [
            statements.put(block_row(until_ns=NOW_NS), ""),
            statements.put(AllowanceRow(uid=1, name="a", since_ns=0, until_ns=NOW_NS, by="x"), ""),
            statements.put(SwitchRow(name="off", since_ns=0, until_ns=NOW_NS, by="x"), ""),
        ],
        durable=True,
    )
    loaded = store.load(NOW_NS)
    assert (loaded.blocks, loaded.allowances, loaded.switches) == ((), (), ())
    assert len(store.load(NOW_NS - 1).blocks) == 1


def test_another_namespace_is_another_one_after_a_reboot(path: Path) -> None:
    store = open_store(path)
    row = block_row(netns=42)
    store.run([statements.put(row, "boot-1"), statements.put(block_row(), "boot-1")], durable=True)
    store.close()
    assert len(open_store(path, boot_id="boot-1").load(NOW_NS).blocks) == 2
    assert [r.netns for r in open_store(path, boot_id="boot-2").load(NOW_NS).blocks] == [None]


def test_blocks_keep_their_end_over_a_reboot_and_never_grow() -> None:
    block = Block(
        subject=Subject(id=1001), name="web01", source="guard", kind="block", since_ns=100 * NS, until_ns=1900 * NS,
        mode="enforce", rule="r", reason="x", level=2, ranges=((1, 2),),
    )  # fmt: skip
    row = BlockRow.of(block, NOW_NS)
    assert row.to_block(NOW_NS, NOW_NS + 200 * NS) == block
    # Rebooted 300 s after it began: event time starts anew, the end on the wall stays.
    assert row.to_block(NOW_NS + 400 * NS, NOW_NS + 400 * NS).until_ns == 1500 * NS
    # A clock set back by a year must not make a block of 30 minutes last a year.
    past_ns = NOW_NS - 365 * DAY_NS
    assert row.to_block(past_ns, past_ns).until_ns == 1800 * NS


def test_one_bad_statement_leaves_nothing_of_its_transaction(path: Path) -> None:
    store = open_store(path)
    bad = Statement(sql="INSERT INTO nowhere VALUES (1)", parameters=())
    with pytest.raises(sqlite3.OperationalError):
        store.run([statements.put(block_row(), ""), bad], durable=True)
    assert store.load(NOW_NS).blocks == ()
    store.run([statements.put(block_row(), "")], durable=True)
    assert len(store.load(NOW_NS).blocks) == 1


@pytest.mark.parametrize(
    "garbage", [b"not a database at all" * 500, os.urandom(20_000), b"SQLite format 3\0" + b"x" * 5000]
)
def test_what_is_no_database_is_set_aside_and_named(path: Path, garbage: bytes) -> None:
    path.parent.mkdir(mode=0o700)
    path.write_bytes(garbage)
    store = open_store(path)
    aside = path.with_name("state.db.corrupt-20260218T123928Z")
    assert aside.read_bytes() == garbage
    assert len(store.notes) == 1
    assert str(aside) in store.notes[0]
    store.run([statements.put(block_row(), "")], durable=True)
    assert len(store.load(NOW_NS).blocks) == 1


def test_damage_in_one_table_costs_no_other(path: Path) -> None:
    store = open_store(path)
    store.run(
        [
            statements.put(block_row(), ""),
            statements.put(SwitchRow(name="off", since_ns=0, until_ns=None, by="x"), ""),
            *(statements.put(EscalationRow(uid=n, name=f"u{n}", level=1, last_ns=1), "") for n in range(500)),
        ],
        durable=True,
    )
    store.close()
    with sqlite3.connect(path) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'escalation'").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xa5" * 4096)
    loaded = open_store(path).load(NOW_NS)
    assert loaded.damage is not None
    assert "scalation" in loaded.damage or "page" in loaded.damage.lower()
    assert loaded.blocks == (block_row(),)
    assert [s.name for s in loaded.switches] == ["off"]
    assert loaded.escalation == ()


def test_damage_that_a_look_would_not_notice_is_found(path: Path) -> None:
    store = open_store(path)
    store.run([statements.put(block_row(), ""), statements.put(OFF, "")], durable=True)
    store.close()
    with sqlite3.connect(path) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'blocks'").fetchone()
    connection.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096 + 7)  # fragmented bytes, in the header of a b-tree page
        file.write(b"\x3c")
    loaded = open_store(path).load(NOW_NS)
    assert "ragmentation" in (loaded.damage or "")
    assert loaded.blocks == ()
    assert loaded.switches == (OFF,)


def test_set_aside_files_are_bounded_and_keep_their_journals(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    for n in range(MAX_SET_ASIDE + 3):
        path.write_bytes(b"%d" % n)
        Path(f"{path}-wal").write_bytes(b"w%d" % n)
        os.utime(path, ns=(n, n))
        set_aside(str(path), wall_ns=NOW_NS, why="test")
    mains = sorted(p.read_bytes() for p in path.parent.iterdir() if not p.name.endswith("-wal"))
    journals = sorted(p.read_bytes() for p in path.parent.iterdir() if p.name.endswith("-wal"))
    assert mains == [b"3", b"4", b"5", b"6", b"7"]
    assert journals == [b"w3", b"w4", b"w5", b"w6", b"w7"]


def test_a_newer_file_is_left_alone(path: Path) -> None:
    store = open_store(path)
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = path.read_bytes()
    store = open_store(path)
    store.run([statements.put(block_row(), ""), statements.put(FactRow(name="table", value="7"), "")], durable=True)
    store.close()
    assert path.read_bytes() == before
    assert store.path == f"{path}.v{VERSION}"
    assert "newer smtpguard" in store.notes[0]
    loaded = open_store(path).load(NOW_NS)
    assert len(loaded.blocks) == 1
    assert loaded.facts == {}, "it may be of an earlier time: another table is ours by now"


def test_migrations_run_once_and_whole(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    assert migrate(connection) == len(MIGRATIONS)
    assert migrate(connection) == 0
    broken = (*MIGRATIONS, "CREATE TABLE extra (x); CREATE TABLE blocks (x)")
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, broken)
    assert check_version(connection) == len(MIGRATIONS)
    assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'extra'").fetchone() == (0,)
    assert migrate(connection, (*MIGRATIONS, "ALTER TABLE blocks ADD COLUMN note BLOB")) == 1


def test_a_lock_is_waited_for_and_named(path: Path) -> None:
    open_store(path).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StateError, match="locked") as caught:
        open_store(path)
    assert caught.value.fix is not None
    other.close()
    open_store(path).close()


@pytest.mark.parametrize("kind", ["link", "directory", "fifo"])
def test_a_path_that_is_no_plain_file_is_refused_untouched(path: Path, kind: str) -> None:
    path.parent.mkdir(mode=0o700)
    target = path.with_name("target")
    target.write_bytes(b"precious")
    if kind == "link":
        path.symlink_to(target)
    elif kind == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(StateError):
        open_state(str(path), wall_ns=NOW_NS, max_bytes=10**8)
    assert target.read_bytes() == b"precious"


def test_a_directory_that_others_write_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o1777)
    with pytest.raises(StateError, match="everybody may write"):
        open_state(str(path), wall_ns=NOW_NS, max_bytes=10**8)


def history(store: Store, table: str) -> int:
    return int(store._connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608


def prune_all(store: Store, keep_ns: int, now_ns: int = NOW_NS) -> int:
    steps = 0
    while store.prune(now_ns, keep_ns):
        steps += 1
        assert steps < 10_000
    return steps


def test_old_history_goes_in_small_steps_and_running_blocks_stay(path: Path) -> None:
    store = open_store(path)
    old_ns = NOW_NS - 31 * DAY_NS
    rows = [statements.put(block_row(since_ns=old_ns), "")]
    for n in range(5000):
        wall_ns = old_ns if n % 2 else NOW_NS - DAY_NS
        verdict = Verdict(
            time_ns=wall_ns, subject=Subject(id=n), account=Account(uid=n, name="x", standing="tenant"), rule="r",
            count=1, limit=0, window_ns=1, action="warn", until_ns=None, mode="enforce",
            connect=Connect(time_ns=0, uid=n, port=25, address=b"\0\0\0\0", sensor="bpf"),
        )  # fmt: skip
        rows += [
            statements.add(VerdictRow.of(verdict, 0)),
            statements.add(ChangeRow(time_ns=wall_ns, uid=n, name="x", event="block", by="y")),
            statements.put_seen(n, 25, wall_ns),
        ]
        tally = Tally()
        tally.add_connect(n, wall_ns=wall_ns, address=b"\1\2\3\4", port=25, script=None, refused=False)
        rows += tally.take()
    store.run(rows, durable=False)
    assert prune_all(store, 30 * DAY_NS) == 2
    tables = ("verdicts", "changes", "seen", "minutes", "destinations")
    assert [history(store, table) for table in tables] == [2500] * 5
    assert history(store, "blocks") == 1


def test_what_rules_ask_of_the_past_outlives_a_short_history(path: Path) -> None:
    store = open_store(path)
    old_ns = NOW_NS - 29 * DAY_NS
    escalation = EscalationRow(uid=1, name="web01", level=2, last_ns=old_ns)
    change = ChangeRow(time_ns=old_ns, uid=1, name="x", event="block", by="y")
    store.run(
        [statements.put_seen(1, 25, old_ns), statements.put(escalation, ""), statements.add(change)], durable=False
    )
    prune_all(store, DAY_NS)
    assert [history(store, table) for table in ("seen", "escalation", "changes")] == [1, 1, 0]


def test_own_addresses_of_one_user_are_bounded(path: Path) -> None:
    store = open_store(path)
    hour = NOW_NS // HOUR_NS
    rows = [
        statements.add_own_address(hour, uid, n.to_bytes(16, "big"), connected=n, failed=0, first_ns=n, last_ns=n)
        for uid, many in ((1, 2000), (2, 5))
        for n in range(many)
    ]
    store.run(rows, durable=False)
    prune_all(store, DAY_NS)
    kept = store._connection.execute("SELECT uid, count(*), min(connected) FROM own_addresses GROUP BY uid").fetchall()
    assert kept == [(1, retention.MAX_OWN_ADDRESSES_PER_DAY, 464), (2, 5, 0)]


def test_the_tally_keeps_hours_apart_and_what_became_of_connections(path: Path) -> None:
    tally = Tally()
    edge = (NOW_NS // HOUR_NS + 1) * HOUR_NS
    for wall_ns in (edge - 1, edge, edge - 2):
        tally.add_connect(
            1, wall_ns=wall_ns, address=b"\1\2\3\4", port=25, script=None, refused=False, is_counted=False
        )
    told: list[tuple[int, str | None]] = [(2, None), (5, "timed out"), (4, "refused by the other side")]
    for wall_ns, error in told:
        tally.add_outcome(1, wall_ns=edge + wall_ns, address=b"\1\2\3\4", port=25, own=b"\5" * 4, error=error)
    store = open_store(path)
    store.run(tally.take(), durable=False)
    read = store._connection.execute
    assert read("SELECT hour, connects, first_ns FROM destinations ORDER BY hour").fetchall() == [
        (edge // HOUR_NS - 1, 2, edge - 2), (edge // HOUR_NS, 1, edge),
    ]  # fmt: skip
    assert read("SELECT connected, failed, error FROM outcomes").fetchall() == [(1, 2, "timed out")]
    own = read("SELECT address, connected, failed, first_ns - ?, last_ns - ? FROM own_addresses", [edge] * 2)
    assert own.fetchall() == [(b"\5" * 4, 1, 2, 2, 5)]
    assert history(store, "seen") == 0, "who went where nothing counts is new all the same"


def test_what_is_taken_early_adds_up_to_the_same(path: Path) -> None:
    """A thousand users that begin within a second: their sums are handed over before it is over."""
    whole, cut = Tally(), Tally()
    rows: list[Statement] = []
    times_early = 0
    for n in range(9000):
        uid, address, wall_ns = n % 1000, bytes([10, 0, n % 7, n % 5]), NOW_NS + n * 200_000
        for tally in (whole, cut):
            tally.add_connect(uid, wall_ns=wall_ns, address=address, port=25, script=b"/x", refused=n % 3 == 0)
            tally.add_outcome(uid, wall_ns=wall_ns, address=address, port=25, own=b"\5" * 4, error=None)
        if cut.held >= cut.many:
            rows += cut.take_early()
            times_early += 1
    assert 2 <= times_early <= 5
    kept = []
    for name, statements_ in (("whole", whole.take()), ("cut", [*rows, *cut.take()])):
        store = open_store(path.with_name(name))
        store.run(statements_, durable=False)
        tables = ("minutes", "destinations", "outcomes", "own_addresses", "seen")
        read = store._connection.execute
        kept.append([sorted(read(f"SELECT * FROM {table}").fetchall()) for table in tables])  # noqa: S608 - our own
    assert kept[0] == kept[1]
    assert (whole.dropped, cut.dropped) == (0, 0)


def test_a_crowd_of_new_users_is_taken_as_early_each_time() -> None:
    """Nobody has two rows of one place then; where many have, the next time is later."""
    tally = Tally()

    def go(uid: int, first: int, many: int) -> None:
        for n in range(first, first + many):
            tally.add_connect(uid, wall_ns=NOW_NS, address=n.to_bytes(4, "big"), port=25, script=None, refused=False)
            if tally.held >= tally.many:
                tally.take_early()

    for uid in range(1000):
        go(uid, 0, 8)
        assert tally.held < activity.MANY
    assert tally.many == activity.MANY
    go(0, 8, activity.MAX_FEW)
    for uid in range(1000, 1100):
        go(uid, 0, 8)
    assert tally.many == activity.LATER * activity.MANY, "one of them used much of their share"
    tally.take()
    assert tally.many == activity.MANY
    for uid in (*range(100), *range(100)):
        go(uid, 0, 8)
    assert tally.many == activity.LATER * activity.MANY, "all of them were taken before"


def test_what_is_taken_early_stays_used_of_a_users_share() -> None:
    tally = Tally()

    def go(first: int, many: int) -> None:
        for n in range(first, first + many):
            place: dict[str, Any] = {"wall_ns": NOW_NS, "address": n.to_bytes(4, "big"), "port": 25}
            tally.add_connect(1, **place, script=None, refused=False)
            tally.add_outcome(1, **place, own=None, error=None)

    go(0, 400)
    tally.take_early()
    go(400, 200)
    assert tally.dropped == 2 * 100
    tally.take()
    go(600, 500)
    assert tally.dropped == 2 * 100, "written: everybody has their whole share again"


def test_the_file_stays_within_its_bound_and_keeps_what_matters(path: Path) -> None:
    bound = 2_000_000
    store = open_store(path, max_bytes=bound)
    store.run([statements.put(block_row(), "")], durable=True)
    stored = 0
    for n in range(60):
        changes = [
            statements.add(
                ChangeRow(time_ns=NOW_NS - DAY_NS + n, uid=n, name="x", event="block", by="y", reason="r" * 500)
            )
            for _ in range(200)
        ]
        try:
            store.run(changes, durable=False)
            stored += 200
        except sqlite3.OperationalError as full:
            assert "full" in str(full)  # noqa: PT017 - most rounds pass
            prune_all(store, 30 * DAY_NS)
        else:
            store.prune(NOW_NS, 30 * DAY_NS)
    prune_all(store, 30 * DAY_NS)
    assert stored > 8000
    assert 0 < history(store, "changes") < stored
    assert store.size_bytes() <= bound * 0.9
    assert path.stat().st_size <= bound + 4096
    assert len(store.load(NOW_NS).blocks) == 1
    newest = store._connection.execute("SELECT max(uid), min(uid) FROM changes").fetchone()
    assert newest[0] == 59
    assert newest[1] > 0


def test_one_users_places_cost_no_other_user_his(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "MAX_DESTINATIONS_PER_DAY", 50)
    store = open_store(path)
    rows = [
        statements.add_destination(
            NOW_NS // HOUR_NS - n % 2, uid, n.to_bytes(4, "big"), 25, b"", first_ns=n, last_ns=n, connects=n, refused=0
        )
        for uid, places in ((1, 3000), (2, 40))
        for n in range(places)
    ]
    store.run(rows, durable=False)
    prune_all(store, 30 * DAY_NS)
    found = store._connection.execute("SELECT uid, count(*), min(connects) FROM destinations GROUP BY uid").fetchall()
    assert found == [(1, 50, 2950), (2, 40, 0)]


def test_the_tally_sums_up_and_is_bounded(path: Path) -> None:
    tally = Tally()
    for n in range(2000):
        tally.add_connect(
            1, wall_ns=NOW_NS + n, address=(n % 1000).to_bytes(4, "big"), port=25, script=b"/a" * 999, refused=n >= 1500
        )
    tally.add_connect(2, wall_ns=NOW_NS, address=b"\1\2\3\4", port=587, script=b"/x", refused=False)
    tally.add_message(2, wall_ns=NOW_NS, recipients=30)
    rows = tally.take()
    assert tally.take() == []
    assert tally.dropped == 1000
    store = open_store(path)
    store.run([*rows, *rows], durable=False)
    read = store._connection.execute
    assert read("SELECT uid, connects, refused, messages, recipients FROM minutes ORDER BY uid").fetchall() == [
        (1, 4000, 1000, 0, 0), (2, 2, 0, 2, 60),
    ]  # fmt: skip
    assert read("SELECT uid, count(*), max(length(script)) FROM destinations GROUP BY uid").fetchall() == [
        (1, MAX_PLACES_PER_USER, 512), (2, 1, 2),
    ]  # fmt: skip
    assert store.load(NOW_NS).seen == {(1, 25): NOW_NS + 1499, (2, 587): NOW_NS}, "refused ones are not seen"


def test_evidence_is_json_and_bounded() -> None:
    verdict = Verdict(
        time_ns=0, subject=Subject(id=1), account=Account(uid=1, name=None, standing="tenant"), rule="r", count=1,
        limit=0, window_ns=1, action="warn", until_ns=None, mode="enforce",
        connect=Connect(time_ns=0, uid=1, port=25, address=b"\0\0\0\0", sensor="bpf", script=b'/x\n"\xff'),
    )  # fmt: skip
    row = VerdictRow.of(verdict, 0, {"scripts": {"a": 1}})
    assert row.evidence["connect"]["script"] == r"/x\x0a\x22\xff"
    huge = VerdictRow.of(verdict, 0, {"stack": "x" * 100_000})
    assert len(str(statements.add(huge).parameters[-1])) < 100


def test_places_of_days_stand_in_hours_after_a_migration(tmp_path: Path) -> None:
    day = NOW_NS // DAY_NS
    with contextlib.closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as connection:
        migrate(connection, MIGRATIONS[:6])
        for n, first_ns in ((day - 1, (day - 1) * DAY_NS), (day, NOW_NS)):
            place = (n, 1, b"\1\2\3\4", 25, b"/a", first_ns, NOW_NS, 7, 1)
            connection.execute("INSERT INTO destinations VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", place)
            connection.execute("INSERT INTO outcomes VALUES (?, 1, ?, 25, 5, 1, 'x', 1)", (n, b"\1\2\3\4"))
        migrate(connection)
        places = connection.execute("SELECT hour, connects FROM destinations ORDER BY hour").fetchall()
        assert places == [((day - 1) * 24, 7), (NOW_NS // HOUR_NS, 7)]
        assert connection.execute("SELECT hour FROM outcomes ORDER BY hour").fetchall() == [
            ((day - 1) * 24,), (day * 24,),
        ]  # fmt: skip


def test_blocks_of_before_there_were_ports_refuse_all(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        migrate(connection, MIGRATIONS[:3])
        row = (1001, 0, b"web01", b"guard", "block", 5, NOW_NS + NS, "enforce", b"mx", b"", 2, "[]", "", '["a"]')
        connection.execute("INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    store = open_store(path)
    (old,) = store.load(NOW_NS).blocks
    assert (old.ports, old.since_ns, old.level, old.ids) == (None, 5, 2, ("a",))
    store.run([statements.put(replace(old, ports=(25, 587), since_ns=6), "boot-1")], durable=True)
    assert {(row.ports, row.since_ns) for row in store.load(NOW_NS).blocks} == {(None, 5), ((25, 587), 6)}
    store.run([statements.delete(statements.key_of(old))], durable=True)
    assert [row.ports for row in store.load(NOW_NS).blocks] == [(25, 587)]
    store.close()
