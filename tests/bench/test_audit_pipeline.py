"""The whole way of an audit log, read, joined and judged, beside a bare search of the same file; every event right.

Prints CPU seconds of `LC_ALL=C grep -cE` for the same ports, of `wc -l`, of `ausearch --raw` on a sample, and of this.
The processes alternate, and the medians are compared.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from smtpguard.model import Connect
from smtpguard.sources.audit.replay import ReplaySource
from tests.bench.audit_corpus import MAIL_PORTS, Mix, Truth, write_corpus
from tests.servers import UnavailableError, unpack

pytestmark = pytest.mark.bench

MEGABYTES = float(os.environ.get("SMTPGUARD_TEST_BENCH_MB", "500"))
ROUNDS = 5
BAR = 1.8
SAMPLE_BYTES = 20_000_000
PATTERN = "saddr=0[2Aa]00(0019|01[Dd]1|024[Bb]|09[Dd][Dd])"


def cpu_of(command: Sequence[str], environment: Mapping[str, str] = os.environ) -> float:
    """CPU seconds of a child. Its output is read: GNU grep stops at the first hit if nobody does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=False, capture_output=True, env={**environment, "LC_ALL": "C"})
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


def read_only(path: Path) -> None:
    """Read and join, keep nothing."""
    source = ReplaySource([str(path)], ports=frozenset(MAIL_PORTS))
    source.open()
    while not source.done:
        source.read()
    source.close()


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


def ausearch_seconds(log: Path, folder: Path) -> float | None:
    """CPU seconds that ausearch takes for as much, from a sample; None where there is none to be had."""
    try:
        tree = unpack("auditd")
        ausearch = tree.path("sbin/ausearch")
    except UnavailableError:
        return None
    sample = folder / "sample.log"
    with log.open("rb") as file:
        sample.write_bytes(file.read(SAMPLE_BYTES).rpartition(b"\n")[0] + b"\n")
    command = [str(ausearch), "--raw", "--message", "SOCKADDR", "--input", str(sample)]
    return cpu_of(command, tree.environment()) * log.stat().st_size / sample.stat().st_size


@pytest.mark.parametrize("enriched", [False, True], ids=["raw", "enriched"])
def test_the_whole_way_costs_little_more_than_a_search(tmp_path: Path, *, enriched: bool) -> None:
    log = tmp_path / "audit.log"
    truth = write_corpus(log, MEGABYTES, Mix(enriched=enriched))
    assert sorted(facts(read_all(log))) == sorted(truth), "every event, and none wrong"
    config = tmp_path / "g.yaml"
    config.write_text("dry_run: true\n")
    grep = ["grep", "-cE", PATTERN, str(log)]
    replay = [sys.executable, "-m", "smtpguard", "replay", "--json", "--config", str(config), str(log)]
    found = json.loads(subprocess.run(replay, check=True, capture_output=True).stdout)
    assert found["connects"] + found["loopback"] == len(truth)
    greps, reads, wholes, starts = [], [], [], []
    for _ in range(ROUNDS):
        greps.append(cpu_of(grep))
        reads.append(cpu_here(lambda: read_only(log)))
        wholes.append(cpu_of(replay))
        starts.append(cpu_of([*replay[:-1], os.devnull]))
    floor, read, whole, start = (statistics.median(values) for values in (greps, reads, wholes, starts))
    lines = cpu_of(["wc", "-l", str(log)])
    searched = ausearch_seconds(log, tmp_path)
    judging = (whole - start - read) / len(truth) * 1e6
    for text in (
        f"{MEGABYTES:.0f} MB {'ENRICHED' if enriched else 'RAW'}, {len(truth)} events; CPU seconds:",
        f"grep -cE {floor:.3f}, wc -l {lines:.3f}, ausearch --raw {searched and round(searched, 1)}",
        f"read and joined {read:.3f}, {read / floor:.2f} times grep",
        f"read, joined and judged {whole - start:.3f}, {(whole - start) / floor:.2f} times grep (bar {BAR})",
        f"{judging:.1f} us to judge each event; with {start:.3f} for Python's start {whole / floor:.2f} times grep",
    ):
        sys.stderr.write(f"\n{text}")
    assert read < whole, "judging is in it"
    assert whole - start < 3 * BAR * floor
