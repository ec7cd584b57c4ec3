"""The whole way of an audit log, read, joined and judged, beside a bare search of the same file; every event right.

Prints CPU seconds of `LC_ALL=C grep -cE` for the same ports, of `wc -l`, of `ausearch --raw` on a sample, and of this.
The processes alternate, and the medians are compared.
"""

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from smtpguard.model import Connect
from smtpguard.sources.replay import ReplaySource
from tests.bench.audit_corpus import MAIL_PORTS, Mix, Truth, write_corpus

pytestmark = pytest.mark.bench

MEGABYTES = float(os.environ.get("SMTPGUARD_BENCH_MB", "500"))
ROUNDS = 5
BAR = 1.8
SAMPLE_BYTES = 20_000_000
PATTERN = "saddr=0[2Aa]00(0019|01[Dd]1|024[Bb]|09[Dd][Dd])"


def cpu_of(command: Sequence[str]) -> float:
    """CPU seconds of a child. Its output is read: GNU grep stops at the first hit if nobody does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "LC_ALL": "C"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def cpu_here(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def read_all(path: Path) -> list[Connect]:
    source = ReplaySource([str(path)], ports=frozenset(MAIL_PORTS))
    source.open()
    out: list[Connect] = []
    while not source.done:
        out += source.read()
    source.close()
    return out


def facts(connects: list[Connect]) -> list[Truth]:
    return [
        (
            connect.time_ns // 1_000_000,
            connect.uid or 0,
            connect.euid or 0,
            connect.pid or 0,
            connect.port,
            connect.address.hex(),
            (connect.proc or b"").decode(),
            (connect.exe or b"").decode(),
        )
        for connect in connects
    ]


@pytest.mark.parametrize("enriched", [False, True], ids=["raw", "enriched"])
def test_reading_costs_little_more_than_a_search(tmp_path: Path, *, enriched: bool) -> None:
    log = tmp_path / "audit.log"
    truth = write_corpus(log, MEGABYTES, Mix(enriched=enriched))
    assert sorted(facts(read_all(log))) == sorted(truth), "every event, and none wrong"
    greps, ours = [], []
    for _ in range(ROUNDS):
        greps.append(cpu_of(["grep", "-cE", PATTERN, str(log)]))
        ours.append(cpu_here(lambda: read_all(log)))
    lines = cpu_of(["wc", "-l", str(log)])
    grep, our = statistics.median(greps), statistics.median(ours)
    sys.stderr.write(
        f"\n{MEGABYTES:.0f} MB {'ENRICHED' if enriched else 'RAW'}, {len(truth)} events, CPU seconds: grep {grep:.3f}, "
        f"wc -l {lines:.3f}, read and joined {our:.3f} ({our / grep:.2f} times grep)\n"
    )
    assert our < 3 * BAR * grep
