"""Ten thousand blocks: restored at the start, ended by one command, deleted by a hand; each with its own end."""

import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from smtpguard.clock import boottime_ns
from smtpguard.control.client import ask
from smtpguard.interpreter import module_environment
from smtpguard.model import NS, Block, Subject
from smtpguard.state.file_recovery import Paths
from smtpguard.state.rows import BlockRow
from smtpguard.state.writer import StateWriter
from tests.support.host import SPAMMER, Host, wait_for

pytestmark = pytest.mark.kernel

COUNT = 10_000
FIRST = 2_000_000
CUSTOMERS = {f"c{number}": FIRST + 2 * number for number in range(COUNT)}
_ELEMENT = re.compile(r"(\d+)(?:-\d+)? timeout \S+ expires (?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+)s)?")


def fill_state(directory: Path, count: int, accounts: Mapping[str, int]) -> dict[int, int]:
    """Blocks as a guard leaves them; uid to the seconds that are left."""
    state = StateWriter(
        Paths(path=f"{directory}/state.db", keep_ns=30 * 86_400 * NS, max_bytes=500 << 20, boot_id="another")
    )
    state.start()
    now_ns = boottime_ns()
    names = {uid: name for name, uid in (*accounts.items(), SPAMMER)}
    ends = {FIRST + 2 * number: 600 + random.randrange(6_000) for number in range(count)}
    ends[SPAMMER[1]] = 3_000
    for uid, seconds in ends.items():
        state.put(
            BlockRow.of(
                Block(
                    subject=Subject(id=uid),
                    name=names.get(uid),
                    source="guard",
                    kind="block",
                    since_ns=now_ns,
                    until_ns=now_ns + seconds * NS,
                    mode="enforce",
                    rule="burst",
                ),
                time.time_ns() - now_ns,
            )
        )
    state.close(30)
    return ends


def read_ends(host: Host) -> dict[int, int]:
    return {
        int(uid): int(h or 0) * 3600 + int(m or 0) * 60 + int(s or 0)
        for uid, h, m, s in _ELEMENT.findall(host.nft("list", "set", "inet", "smtpguard", "blocked"))
    }


def read_cpu(host: Host) -> float:
    """Seconds of CPU that the daemon has used: what others do on this machine meanwhile does not count."""
    pid = ask(f"{host.lab.directory}/control.sock", "status")["status"]["pid"]
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def lose_table(host: Host) -> None:
    """As after a reboot: the kernel has nothing left of it."""
    host.lab.run(["nft", "delete", "table", "inet", "smtpguard"])


def time_starts(host: Host, count: int, *, rebooted: bool = True) -> float:
    """The median of some starts, after each of which it is stopped."""
    times = []
    for _ in range(count):
        if rebooted:
            lose_table(host)
        times.append(host.time_start())
        host.stop()
    return statistics.median(times)


class Listener:
    """What is told of nftables' transactions in the host's namespace."""

    def __init__(self, host: Host) -> None:
        script = str(Path(__file__).parent.parent / "support" / "nft_transactions.py")
        self._child = subprocess.Popen(
            host.lab.argv([sys.executable, script]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=module_environment(),
            cwd="/",
        )
        assert self._child.stdout is not None
        assert self._child.stdout.readline() == "ready\n"

    def end(self) -> list[dict[str, int]]:
        """Of each transaction, how many elements it added to which sets."""
        told, _ = self._child.communicate(timeout=60)
        transactions: list[dict[str, int]] = json.loads(told)
        return transactions


@pytest.fixture
def host() -> Iterator[Host]:
    with Host(CUSTOMERS, attribution={"process": False}) as made:
        yield made


def test_ten_thousand_blocks_come_back_at_once_and_go_at_once(host: Host) -> None:
    without = time_starts(host, 3)
    ends = fill_state(host.lab.directory, COUNT, CUSTOMERS)
    extra = time_starts(host, 3) - without
    print(f"\n{COUNT} blocks: {extra:.2f} s more than a start without ({without:.2f})")
    assert extra < 3 * 0.5
    lose_table(host)
    listener = Listener(host)
    try:
        host.start()
    finally:
        transactions = listener.end()
    filled = [added["blocked"] for added in transactions if added.get("blocked")]
    assert len(filled) == 1, f"one transaction, not {filled} elements"
    assert filled[0] >= len(ends)
    assert f"{len(ends)} blocks and throttles restored" in host.stderr()
    held = read_ends(host)
    assert held.pop(700000), "the subordinate uids of one of them"
    assert held.keys() == ends.keys()
    assert len(set(held.values())) > COUNT / 4, "each has an end of its own"
    assert [(uid, ends[uid], left) for uid, left in held.items() if not 0 <= ends[uid] - left <= 90] == []
    assert host.connect(SPAMMER).refused == 1
    host.stop()
    listener = Listener(host)
    host.start()
    assert [added for added in listener.end() if added.get("blocked")] == [], "a restart leaves alone what is in force"
    assert read_ends(host).keys() == {*ends, 700000}
    before, begun, waited = read_cpu(host), time.monotonic(), host.read_waited()
    done = ask(f"{host.lab.directory}/control.sock", "unblock", 30, all=True)
    answered = time.monotonic() - begun - (host.read_waited() - waited)
    print(f"unblock --all: answered in {answered:.2f} s, {read_cpu(host) - before:.2f} of CPU")
    assert answered < 3 * 1.0
    assert read_cpu(host) - before < 3 * 1.0
    assert len(done["freed"]) == len(ends)
    assert read_ends(host) == {}
    assert host.connect(SPAMMER).ok == 1


def test_a_set_of_thousands_emptied_by_hand_frees_them_without_a_stall_of_minutes() -> None:
    with Host(attribution={"process": False}) as host:
        fill_state(host.lab.directory, 2_000, {})  # accounts that are gone, or that only a directory knows
        host.start()
        before = read_cpu(host)
        host.nft("flush", "set", "inet", "smtpguard", "blocked")
        wait_for(lambda: ask(f"{host.lab.directory}/control.sock", "status")["status"]["blocks"] == 0)
        assert read_cpu(host) - before < 2
        assert host.connect(SPAMMER).ok == 1
