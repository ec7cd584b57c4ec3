"""At the bounds: a full set, a full disk, a state file that is locked, damaged, newer or gone, a clock that is set.

In each the guard goes on, still stops a spammer, says what it can't do, and nothing it promised is lost.
"""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from smtpguard.clock import WallMap
from smtpguard.control.client import ask
from smtpguard.daemon.enforce.off_switch import OffSwitch
from smtpguard.daemon.record.window_saver import Keeping
from smtpguard.logline import parse_line
from smtpguard.model import NS, Allowance, Subject, Verdict
from smtpguard.settings import Rule
from smtpguard.state.file_recovery import Paths
from smtpguard.state.migrations import VERSION
from smtpguard.state.writer import StateWriter
from tests.fakes.clock import FakeClock
from tests.fakes.namespaces import enter_tmpfs, fill, run_forked
from tests.support.host import INNOCENT, OTHER, SPAMMER, Host, read_lines, wait_for
from tests.support.past import count_blocks
from tests.support.policy import block_of, connect, engine_of, only

RULE = {"name": "burst", "count": "connections", "limit": 30, "window": "10m", "action": "block", "block": "30m"}
SET_SIZE = 65_536
HOUR_NS = 3600 * NS


@pytest.fixture
def host() -> Iterator[Host]:
    with Host(rules=[RULE], breaker={"blocks": 100, "per": "10m"}, attribution={"rdns": False}) as made:
        yield made


def stops_a_spammer(host: Host) -> bool:
    outcome = host.connect(SPAMMER, 60)
    assert 30 <= outcome.ok <= 34
    return outcome.refused == 60 - outcome.ok and host.connect(INNOCENT, 5).refused == 0


def shown(host: Host, code: int = 0) -> str:
    """What `status` says; it must end with `code`."""
    done = host.cli("status")
    assert done.returncode == code, done.stdout
    return done.stdout


def is_blocked(host: Host) -> bool:
    return host.connect(SPAMMER).refused == 1


@pytest.mark.kernel
def test_a_full_set_is_told_and_bpf_holds(host: Host) -> None:
    host.expect_errors("the set blocked is full")
    host.start()
    elements = ", ".join(f"{1_000_000 + 2 * n} timeout 1h" for n in range(SET_SIZE))
    path = host.lab.directory / "many.nft"
    path.write_text(f"add element inet smtpguard blocked {{ {elements} }}\n")
    host.nft("-f", str(path))
    time.sleep(1)
    wait_for(lambda: host.cli("status").returncode == 0, 30)  # the kernel has told it of each element
    assert stops_a_spammer(host)
    # Enforced by BPF, so ready; but somebody has to know.
    wait_for(lambda: "the set blocked is full" in shown(host))
    assert is_blocked(host)
    host.nft("flush", "set", "inet", "smtpguard", "blocked")
    wait_for(lambda: "is full" not in shown(host), 30)


@pytest.mark.kernel
def test_a_full_disk_from_the_start_costs_no_line_and_no_block() -> None:
    def body() -> None:
        with Host(rules=[RULE], attribution={"rdns": False}) as host:
            small = host.lab.directory / "small"
            small.mkdir(mode=0o700)
            enter_tmpfs(small, "8m")
            host.expect_errors("No space left on device; lines are kept", "disk is full; kept in memory")
            host.configure(log={"path": f"{small}/log/events.log"}, state={"path": f"{small}/state/state.db"})
            ballast = fill(small)
            host.start()
            assert stops_a_spammer(host)
            for trouble in ("the event log can't be written", "the state can't be"):
                wait_for(lambda trouble=trouble: trouble in host.cli("status").stdout)  # type: ignore[misc]
            assert host.cli("status").returncode == 0, "it guards"
            assert is_blocked(host)
            ballast.unlink()
            wait_for(lambda: "can't be" not in host.cli("status").stdout, 30)
            log = small / "log" / "events.log"

            def users(event: str) -> list[str]:
                return [line.user for line in map(parse_line, read_lines(log)) if line.event == event]

            wait_for(lambda: users("CONNECT").count(SPAMMER[0]) == 61)
            assert users("BLOCK") == [SPAMMER[0]]
            wait_for(lambda: count_blocks(small / "state" / "state.db") == 1)
            host.stop(signal.SIGKILL)
            host.nft("flush", "ruleset")
            host.start()
            assert is_blocked(host), "it is in the state by now"

    run_forked(body)


HOLDER = """
import sqlite3, sys
held = sqlite3.connect(sys.argv[1], isolation_level=None)
if sys.argv[2] == "all":
    held.execute("PRAGMA locking_mode = EXCLUSIVE")
held.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Another process holds the lock of writers, or of all."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), what], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        try:
            yield
        finally:
            holder.kill()


@pytest.mark.kernel
def test_who_was_freed_while_the_file_was_locked_is_not_brought_back(host: Host) -> None:
    jail = ("--source", "fail2ban:smtpguard")
    host.expect_errors("database is locked .*kept in memory")
    host.start()
    assert host.cli("block", SPAMMER[0], "--for", "1h").returncode == 0
    for user in (INNOCENT, OTHER):
        assert host.cli("block", *jail, "--uid", str(user[1]), "--for", "1h", "--", user[0]).returncode == 0
    assert host.cli("block", OTHER[0], "--for", "1h").returncode == 0
    host.stop()
    host.nft("delete", "table", "inet", "smtpguard")
    with locked(host.lab.directory / "state.db", "all"):
        # Without a daemon the file can't be changed now, and that is no success.
        done = host.cli("unblock", SPAMMER[0])
        assert (done.returncode, "the state file could not be read" in done.stderr) == (1, True)
        host.start()
        assert "locked" in shown(host)
        assert host.cli("unblock", SPAMMER[0]).returncode == 0
        for user in (INNOCENT, OTHER):
            assert host.cli("unblock", *jail, "--uid", str(user[1]), "--", user[0]).returncode == 0
    rows = wait_for(lambda: json.loads(host.cli("blocks", "--json").stdout), 30)
    assert [(row["user"], row["by"]) for row in rows] == [(OTHER[0], "admin")]


@pytest.mark.kernel
@pytest.mark.long
def test_unblock_all_while_the_file_is_locked_is_for_everybody_in_it(host: Host) -> None:
    host.expect_errors("database is locked .*kept in memory")
    host.start()
    for user in (SPAMMER, OTHER):
        assert host.cli("block", user[0], "--for", "1h").returncode == 0
    host.stop()
    with locked(host.lab.directory / "state.db", "all"):
        host.start()
        assert host.cli("unblock", "--all").returncode == 0
        assert host.cli("block", SPAMMER[0], "--for", "1h").returncode == 0
    wait_for(lambda: "could be read at last" in host.stderr(), 30)
    rows = json.loads(host.cli("blocks", "--json").stdout)
    assert [(row["user"], row["by"]) for row in rows] == [(SPAMMER[0], "admin")]
    host.stop()
    host.nft("delete", "table", "inet", "smtpguard")
    host.start()
    rows = json.loads(host.cli("blocks", "--json").stdout)
    assert [(row["user"], row["by"]) for row in rows] == [(SPAMMER[0], "admin")], "the newer one is in the state"


@pytest.mark.kernel
def test_a_file_locked_at_the_start_is_taken_when_it_is_free(host: Host) -> None:
    host.expect_errors("database is locked .*kept in memory")
    host.start()
    assert host.cli("block", SPAMMER[0], "--for", "1h").returncode == 0
    assert host.cli("block", INNOCENT[0], "--for", "1h").returncode == 0
    assert host.cli("allow", "web03", "--for", "1h").returncode == 0
    host.stop()
    host.nft("delete", "table", "inet", "smtpguard")
    with locked(host.lab.directory / "state.db", "all"):
        host.start()
        assert "the state can't be written" in shown(host)
        assert "locked" in shown(host)
        assert not is_blocked(host), "nobody can know of it"
        assert host.cli("unblock", INNOCENT[0]).returncode == 0
    # Asked, not tried: more than thirty attempts would make a block of their own.
    wait_for(lambda: SPAMMER[0] in host.cli("blocks").stdout, 20)
    wait_for(lambda: str(SPAMMER[1]) in host.nft("list", "set", "inet", "smtpguard", "blocked"))
    assert is_blocked(host)
    assert "web03" in host.cli("blocks").stdout
    assert host.connect(INNOCENT).refused == 0, "a person freed them meanwhile"
    wait_for(lambda: "can't be" not in shown(host))
    wait_for(lambda: count_blocks(host.lab.directory / "state.db") == 1)
    host.stop(signal.SIGKILL)
    host.start()
    assert is_blocked(host)
    assert host.connect(INNOCENT).refused == 0


@pytest.mark.kernel
def test_a_file_locked_meanwhile_delays_and_loses_nothing(host: Host) -> None:
    host.expect_errors("database is locked; kept in memory")
    host.start()
    with locked(host.lab.directory / "state.db", "writers"):
        assert stops_a_spammer(host)
        wait_for(lambda: "the state can't be written" in shown(host))
        assert is_blocked(host)
    wait_for(lambda: "can't be" not in shown(host), 30)
    host.stop(signal.SIGKILL)
    host.nft("flush", "ruleset")
    host.start()
    assert is_blocked(host)


@pytest.mark.kernel
@pytest.mark.parametrize("how", ["garbage", "newer", "empty"])
def test_a_file_that_is_no_good_at_the_start(host: Host, how: str) -> None:
    path = host.lab.directory / "state.db"
    host.start()
    assert host.cli("block", SPAMMER[0], "--for", "1h").returncode == 0
    host.stop()
    if how == "newer":
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version = 999")
    else:
        path.write_bytes(b"garbage" * 10_000 if how == "garbage" else b"")
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    host.start()
    assert is_blocked(host), "the kernel still knew"
    assert host.cli("unblock", SPAMMER[0]).returncode == 0
    assert stops_a_spammer(host)
    said = {"garbage": "set aside as", "newer": "newer smtpguard", "empty": ""}[how]
    assert said in host.stderr()
    assert said in shown(host)
    written = path.with_name(f"{path.name}.v{VERSION}") if how == "newer" else path
    wait_for(lambda: count_blocks(written) == 1)
    host.stop(signal.SIGKILL)
    host.nft("flush", "ruleset")
    host.start()
    assert is_blocked(host)
    if how == "newer":
        with contextlib.closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (999,), "left alone"


@pytest.mark.kernel
@pytest.mark.parametrize("what", ["file", "directory"])
def test_a_file_deleted_under_us_is_written_again(host: Host, what: str) -> None:
    home = host.lab.directory / "state"
    host.configure(state={"path": f"{home}/state.db"})
    host.start()
    assert host.cli("block", SPAMMER[0], "--for", "1h").returncode == 0
    wait_for((home / "state.db").exists)
    host.stop_signal(signal.SIGSTOP)  # all of it at once, before it is written to again
    if what == "directory":
        shutil.rmtree(home)
    else:
        for path in home.iterdir():
            path.unlink()
    host.stop_signal(signal.SIGCONT)
    assert host.connect(INNOCENT).ok == 1, "something to write"
    wait_for(lambda: "begun anew" in shown(host), 10)
    wait_for(lambda: count_blocks(home / "state.db") == 1)  # it is begun first, then written
    host.stop(signal.SIGKILL)
    host.nft("flush", "ruleset")
    host.start()
    assert is_blocked(host)


def read_resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


MEMORY_MB = 600
"""Bound for 100,000 users with a window each and 1,000,000 destinations; 40 MB is for a thousand users."""


def test_a_hundred_thousand_users_and_a_million_destinations() -> None:
    """The memory has its bound, what is beyond is dropped and counted, and the user who floods pays for it."""

    def body() -> None:
        fanout = Rule(
            name="fanout", ports=frozenset({587}), count="destinations", limit=2_000_000, window_ns=HOUR_NS,
            action="throttle",
        )  # fmt: skip
        few = Rule(
            name="few", ports=frozenset({25}), count="connections", limit=5, window_ns=HOUR_NS, action="block",
            block_ns=HOUR_NS,
        )  # fmt: skip
        engine = engine_of(fanout, few)
        before_mb = read_resident_mb()
        for uid in range(1, 100_001):
            engine.feed(connect(uid / 1000, uid=uid))
        users_mb = read_resident_mb() - before_mb
        for number in range(1_001_000):  # ten users share the million
            address = (0x0B00_0000 + number).to_bytes(4, "big")
            engine.feed(connect(101 + number / 1e6, port=587, uid=200_000 + number % 10, address=address))
        grown_mb = read_resident_mb() - before_mb
        stats = engine.stats()
        print(f"100,000 users: {users_mb:.0f} MB; and 1,001,000 destinations: {grown_mb:.0f} MB; {stats}", flush=True)
        assert grown_mb < MEMORY_MB
        assert stats.subjects == 100_010
        assert stats.keys <= 1_200_000, "room for a million, and a fair share for those who came when it was taken"
        assert stats.dropped > 0, "what is beyond is dropped, counted and shown"
        found = [bool(only(Verdict, engine.feed(connect(103 + n, uid=7)))) for n in range(5)]
        assert found == [False] * 4 + [True], "the window of somebody else lost nothing"

    run_forked(body)


@pytest.mark.parametrize("step_s", [-86_400, -0.5, 0.5, 86_400])
def test_a_block_and_a_pass_last_as_long_as_was_asked_whoever_sets_the_clock(tmp_path: Path, step_s: float) -> None:
    """Through the wall map, the state and back: stored again at a step, both end when they should."""
    clock = FakeClock()
    path = str(tmp_path / "state" / "state.db")

    def begin() -> StateWriter:
        return StateWriter(Paths(path=path, keep_ns=HOUR_NS, max_bytes=10**8, boot_id="b"), wall=clock.wall_ns)

    wall = WallMap(clock)
    engine = engine_of()
    state = begin()
    state.start()
    keeping = Keeping(engine, state, wall, clock.boot_ns)
    until_ns = clock.boot_ns() + HOUR_NS
    subject = Subject(id=1001)
    engine.tick(clock.boot_ns())
    engine.commands.allow(Allowance(subject=Subject(id=1002), name="u1002", since_ns=0, until_ns=until_ns, by="admin"))
    engine.commands.add_block(replace(block_of("guard"), subject=subject, since_ns=0, until_ns=until_ns), force=True)
    keeping.clock_was_set()
    clock.advance(60)
    clock.step_wall(step_s)
    assert abs(wall.refresh()) == abs(step_s) * NS
    keeping.clock_was_set()
    assert state.close(60)
    loaded = begin().start()
    (block,) = loaded.live_blocks(WallMap(clock).offset_ns)
    (row,) = loaded.allowances
    assert block.until_ns == until_ns
    assert row.until_ns - wall.offset_ns == until_ns


class Follower:
    """As much of enforcement as the panic switch needs."""

    def refresh(self, reason: str) -> bool:
        return reason == "off"


@pytest.mark.parametrize("step_s", [-86_400, -5, 5, 86_400])
def test_off_lasts_as_long_as_was_asked_whoever_sets_the_clock(tmp_path: Path, step_s: float) -> None:
    clock = FakeClock()

    def begin() -> tuple[StateWriter, OffSwitch, WallMap]:
        path = str(tmp_path / "state" / "state.db")
        state = StateWriter(Paths(path=path, keep_ns=HOUR_NS, max_bytes=10**8, boot_id="b"), wall=clock.wall_ns)
        loaded = state.start()
        wall = WallMap(clock)
        switch = OffSwitch(engine_of(), Follower(), state, wall, clock.boot_ns)
        for row in loaded.switches:
            switch.restore(row)
        return state, switch, wall

    state, switch, wall = begin()
    switch.switch_off(HOUR_NS, by="root")
    clock.advance(60)
    clock.step_wall(step_s)
    assert wall.refresh()
    switch.clock_was_set()
    switch.on_time(clock.boot_ns())
    assert switch.is_off
    assert state.close(60)
    state, switch, _ = begin()
    clock.advance(3600 - 60 - 1)
    switch.on_time(clock.boot_ns())
    assert switch.is_off, "a second is left"
    clock.advance(1.1)
    switch.on_time(clock.boot_ns())
    assert not switch.is_off
    assert state.close(60)


@pytest.mark.kernel
@pytest.mark.long  # tests/unit/test_guard.py and test_watches.py have its short form
def test_what_people_said_while_the_file_was_locked_is_newer_than_all_it_held() -> None:
    names = {f"web1{n}": 61110 + n for n in range(5)}
    unallowed, allowed, unwatched, watched, blocked = names
    with Host(names, rules=[RULE], attribution={"rdns": False}) as host:
        host.expect_errors("database is locked .*kept in memory")
        control = f"{host.lab.directory}/control.sock"
        host.start()
        for user in (unallowed, blocked):
            assert host.cli("allow", user, "--for", "1h").returncode == 0
        for user in (unwatched, watched):
            ask(control, "halve", user=user, for_ns=HOUR_NS)
        assert host.connect((allowed, names[allowed]), 60).refused
        wait_for(lambda: count_blocks(host.lab.directory / "state.db") == 1)
        assert host.cli("off").returncode == 0
        host.stop()
        with locked(host.lab.directory / "state.db", "all"):
            host.start()
            assert "ON." in host.cli("on").stdout, "nobody can know that it is on already"
            assert host.cli("allow", unallowed, "--end").returncode == 0
            assert host.cli("allow", allowed, "--for", "1h").returncode == 0
            assert host.cli("block", blocked, "--for", "1h").returncode == 0
            ask(control, "halve", user=unwatched)
            ask(control, "halve", user=SPAMMER[0], for_ns=HOUR_NS)
        wait_for(lambda: "could be read at last" in host.stderr(), 30)

        def check() -> None:
            assert "OFF" not in shown(host)
            found = ask(control, "blocks")
            held = {(row["user"], row["kind"]) for row in found["items"]}
            assert held == {(allowed, "allow"), (blocked, "allow"), (blocked, "block")}, found
            assert {row["user"] for row in found["watched"]} == {watched, SPAMMER[0]}

        check()
        wait_for(lambda: "can't be" not in shown(host))
        host.stop()
        host.start()
        check()
