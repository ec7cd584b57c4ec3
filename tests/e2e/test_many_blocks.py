"""Ten thousand blocks: restored at the start, ended by one command, deleted by a hand; each with its own end."""

import os
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from smtpguard.cli.client import ask
from smtpguard.clock import boottime_ns
from smtpguard.model import NS, Block, Subject
from smtpguard.state.keeper import Paths
from smtpguard.state.writer import StateWriter
from tests.support.host import SPAMMER, Host, wait_for

pytestmark = pytest.mark.kernel

COUNT = 10_000
FIRST = 2_000_000
_ELEMENT = re.compile(r"(\d+)(?:-\d+)? timeout \S+ expires (?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+)s)?")


def fill_state(directory: Path, count: int) -> dict[int, int]:
    """Blocks as a guard leaves them; uid to the seconds that are left."""
    state = StateWriter(
        Paths(path=f"{directory}/state.db", keep_ns=30 * 86_400 * NS, max_bytes=500 << 20, boot_id="another")
    )
    state.start()
    now_ns = boottime_ns()
    ends = {FIRST + 2 * number: 600 + random.randrange(6_000) for number in range(count)}
    ends[SPAMMER[1]] = 3_000
    for uid, seconds in ends.items():
        state.put_block(
            Block(
                subject=Subject(id=uid),
                name=SPAMMER[0] if uid == SPAMMER[1] else None,
                source="guard",
                kind="block",
                since_ns=now_ns,
                until_ns=now_ns + seconds * NS,
                mode="enforce",
                rule="burst",
            ),
            time.time_ns() - now_ns,
        )
    state.close(30)
    return ends


def read_ends(host: Host) -> dict[int, int]:
    return {
        int(uid): int(h or 0) * 3600 + int(m or 0) * 60 + int(s or 0)
        for uid, h, m, s in _ELEMENT.findall(host.nft("list", "set", "inet", "smtpguard", "blocked"))
    }


@pytest.fixture
def host() -> Iterator[Host]:
    with Host(attribution={"process": False}) as made:
        yield made


def read_cpu(host: Host) -> float:
    """Seconds of CPU that the daemon has used: what others do on this machine meanwhile does not count."""
    pid = ask(f"{host.lab.directory}/control.sock", "status")["status"]["pid"]
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_ten_thousand_blocks_come_back_at_once_and_go_at_once(host: Host) -> None:
    host.start()
    without = read_cpu(host)
    host.stop()
    ends = fill_state(host.lab.directory, COUNT)
    host.start()
    assert read_cpu(host) - without < 4, "state, engine, nft and bpf; of it the kernel's set is the smallest part"
    assert f"{len(ends)} blocks and throttles restored" in host.stderr()
    held = read_ends(host)
    assert held.pop(700000), "the subordinate uids of one of them"
    assert held.keys() == ends.keys()
    assert [(uid, ends[uid], left) for uid, left in held.items() if not 0 <= ends[uid] - left <= 60] == []
    assert host.connect(SPAMMER).refused == 1
    before = read_cpu(host)
    done = ask(f"{host.lab.directory}/control.sock", "unblock", all=True)
    assert read_cpu(host) - before < 3 * 1.0
    assert len(done["freed"]) == len(ends)
    assert read_ends(host) == {}
    assert host.connect(SPAMMER).ok == 1


def test_a_set_of_thousands_emptied_by_hand_frees_them_without_a_stall_of_minutes(host: Host) -> None:
    fill_state(host.lab.directory, 2_000)
    host.start()
    before = read_cpu(host)
    host.nft("flush", "set", "inet", "smtpguard", "blocked")
    wait_for(lambda: ask(f"{host.lab.directory}/control.sock", "status")["status"]["blocks"] == 0)
    assert read_cpu(host) - before < 2
    assert host.connect(SPAMMER).ok == 1
