"""SIGKILL at any moment: what was promised is in the file, with its original end."""

import os
import random
import select
import signal
import struct
import time
from pathlib import Path

import pytest

from smtpguard.model import NS, Block, Subject
from smtpguard.settings import DAY_NS
from smtpguard.state.file_recovery import Paths
from smtpguard.state.rows import BlockRow, ChangeRow, SwitchRow, WindowRow
from smtpguard.state.statements import block_key
from smtpguard.state.store import Loaded, Store
from smtpguard.state.writer import StateWriter

pytestmark = pytest.mark.kernel

ROUNDS = 25


def block(uid: int, until_ns: int) -> Block:
    return Block(
        subject=Subject(id=uid), name=f"web{uid}", source="guard", kind="block", since_ns=until_ns - 3600 * NS,
        until_ns=until_ns, mode="enforce",
    )  # fmt: skip


def write_until_killed(path: str, first: int, promises: int) -> None:
    """Put blocks, end every third again, and promise each number only when it is in the file."""
    writer = StateWriter(Paths(path=path, keep_ns=30 * DAY_NS, max_bytes=10**8, boot_id="b"))
    writer.start()
    for uid in range(first, first + 100_000):
        writer.put(BlockRow.of(block(uid, 10**18 + uid), 10**18))
        writer.put_windows([WindowRow(uid=uid, netns=None, rule="r", data=bytes(900), offset_ns=0)])
        writer.add(ChangeRow(time_ns=uid, uid=uid, name="x", event="block", by="y", reason="r" * 200))
        if uid % 3 == 0:
            writer.delete(block_key(block(uid, 0)))
        if uid == first:
            writer.put(SwitchRow(name="off", since_ns=0, until_ns=None, by=f"{first}"))
        if uid % 5 == 0:
            assert writer.flush(60)
            os.write(promises, struct.pack("I", uid))


def run_and_kill(path: str, first: int, pause_s: float, *, at_work: bool) -> int:
    """Returns the last number that was promised, or the one before the first.

    Args:
        path: The file.
        first: The first number.
        pause_s: After how long it is killed: the moment is what varies.
        at_work: Counted from its first promise on, not from its start.
    """
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read_fd)
            write_until_killed(path, first, write_fd)
        finally:
            os._exit(1)
    os.close(write_fd)
    if at_work:
        assert select.select([read_fd], [], [], 60)[0], "it promises nothing"
    time.sleep(pause_s)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with os.fdopen(read_fd, "rb") as pipe:
        told = pipe.read()
    numbers = struct.unpack(f"{len(told) // 4}I", told[: len(told) // 4 * 4])
    return numbers[-1] if numbers else first - 1


def load(path: str) -> tuple[Loaded, str]:
    store = Store.open(path, boot_id="b", wall_ns=10**18, max_bytes=10**8)
    loaded = store.load(10**18)
    verdict = store._connection.execute("PRAGMA integrity_check").fetchone()[0]
    store.close()
    return loaded, verdict


def test_no_promised_block_is_lost_and_none_comes_back(tmp_path: Path) -> None:
    path = str(tmp_path / "state.db")
    chance = random.Random(4)
    first = 1
    promised: dict[int, int] = {}
    ended: set[int] = set()
    kills_in_work = 0
    for number in range(ROUNDS):
        at_work = number % 3 > 0
        last = run_and_kill(path, first, chance.uniform(0, 0.15 if at_work else 0.25), at_work=at_work)
        kills_in_work += last >= first
        promised.update({uid: 2 * 10**18 + uid for uid in range(first, last + 1) if uid % 3})
        ended.update(uid for uid in range(first, last + 1) if uid % 3 == 0)
        loaded, verdict = load(path)
        assert verdict == "ok"
        assert loaded.damage is None
        assert loaded.notes == ()
        found = {row.uid: row.until_ns for row in loaded.blocks}
        missing = {uid: end for uid, end in promised.items() if found.get(uid) != end}
        assert missing == {}
        assert ended.isdisjoint(found)  # one whose end was not promised may be there, from an earlier run too
        first = max(found, default=0) + 1000
    assert kills_in_work > ROUNDS // 2
    assert [row.name for row in loaded.switches] == ["off"]
