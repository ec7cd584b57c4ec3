"""The way to nftables beside others' sets, and with thousands of blocks; ratios and bars."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from smtpguard.control.client import ask
from smtpguard.interpreter import module_environment
from smtpguard.model import NS
from tests.e2e.test_foreign_sets import block, read_resident_kb, time_unblock
from tests.e2e.test_many_blocks import COUNT, CUSTOMERS, fill_state, time_starts
from tests.support.host import SPAMMER, Host

pytestmark = [pytest.mark.bench, pytest.mark.kernel]

FOREIGN = 400_000
HEALS = 9


class Foreign:
    """Somebody else's set in the host's namespace."""

    def __init__(self, host: Host, count: int, rate: int) -> None:
        program = str(Path(__file__).parent.parent / "support" / "foreign_set.py")
        self._child = subprocess.Popen(
            host.lab.argv([sys.executable, program, str(count), str(rate)]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=module_environment(),
            cwd="/",
        )
        assert self.read() == "ready"

    def read(self) -> str:
        assert self._child.stdout is not None
        return self._child.stdout.readline().strip()

    def ask(self, words: str) -> float:
        assert self._child.stdin is not None
        self._child.stdin.write(words + "\n")
        self._child.stdin.flush()
        return float(self.read())

    def close(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait(60)


@pytest.fixture
def host() -> Iterator[Host]:
    with Host(attribution={"process": False}, sources="none") as made:
        yield made


def test_beside_four_hundred_thousand_foreign_elements(host: Host) -> None:
    host.expect_errors("deletes the table again and again")
    host.start()
    alone, before = time_unblock(host), read_resident_kb(host)
    foreign = Foreign(host, FOREIGN, 20)
    try:
        beside = time_unblock(host)
        block(host)
        heals = sorted(foreign.ask(f"heal {SPAMMER[1]}") for _ in range(HEALS))
        print(f"\nheal: {heals[HEALS // 2] * 1e3:.1f} ms, worst {heals[-1] * 1e3:.1f}")
        print(f"unblock: {alone * 1e3:.1f} ms alone, {beside * 1e3:.1f} beside: {beside / alone:.2f} x")
        print(f"memory: {read_resident_kb(host) - before} kB more")
        found: list[float] = []
        bulk = threading.Thread(target=lambda: found.append(foreign.ask("bulk 50000")))
        bulk.start()
        waits = []
        while bulk.is_alive():
            begun = time.monotonic()
            ask(f"{host.lab.directory}/control.sock", "block", 60, user=SPAMMER[0], for_ns=600 * NS)
            waits.append(time.monotonic() - begun)
            time.sleep(0.01)
        bulk.join()
        print(
            f"a block beside a transaction of {found[0]:.2f} s waits {max(waits):.2f} s: the kernel takes one at a time"
        )
        assert heals[HEALS // 2] < 0.1
        assert read_resident_kb(host) - before < 3 * 1024
    finally:
        foreign.close()


def test_ten_thousand_blocks_at_the_start() -> None:
    with Host(CUSTOMERS, attribution={"process": False}) as host:
        without = time_starts(host, 5)
        kept = time_starts(host, 5, rebooted=False)
        fill_state(host.lab.directory, COUNT, CUSTOMERS)
        extra = time_starts(host, 5) - without
        print(f"\n{COUNT} blocks restored: {extra:.2f} s more than a start without ({without:.2f}); the bar is 0.5")
        again = time_starts(host, 5, rebooted=False) - kept
        print(f"{COUNT} blocks that the kernel holds still: {again:.2f} s more than a start without")
        host.start()
        begun = time.monotonic()
        ask(f"{host.lab.directory}/control.sock", "unblock", 30, all=True)
        print(f"unblock --all of them is answered after {time.monotonic() - begun:.2f} s; the bar is 1")
