"""The file of metrics of the real daemon: what is in it, when, for whom, and what it costs."""

import os
import signal
import stat
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import pytest

from smtpguard.notify.metric_families import FAMILIES, PREFIX
from tests.lived.measures import read_resident_kb
from tests.support.host import INNOCENT, OTHER, ROOT, SPAMMER, Host, wait_for
from tests.support.metrics import read_samples
from tests.support.processes import list_children, read_process

pytestmark = pytest.mark.kernel
MAILERS = 60_000
"""What the laboratory gives its first group."""
QUICK = [sys.executable, str(Path(__file__).parents[1] / "support" / "quick_metrics.py")]
Samples = dict[str, dict[tuple[str, ...], float]]
RULES = [
    {"name": "fast", "ports": [25], "count": "connections", "limit": 10, "window": "1m", "action": "block",
     "block": "5m"},
    {"name": "slow", "count": "connections", "limit": 6, "window": "1h", "action": "warn"},
]  # fmt: skip


class Metered(Host):
    """A host with a file of metrics."""

    def __init__(self, **metrics: Any) -> None:  # noqa: ANN401 - YAML values
        super().__init__(rules=RULES)
        self._metrics = metrics

    def __enter__(self) -> Self:
        super().__enter__()
        (self.lab.directory / "textfiles").mkdir(mode=0o755)
        self.configure(metrics={"textfile": str(self.path), **self._metrics})
        return self

    @property
    def path(self) -> Path:
        return self.lab.directory / "textfiles" / "smtpguard.prom"

    def read(self) -> Samples:
        return read_samples(self.path)

    def _is_newer(self, before: os.stat_result) -> bool:
        now = self.path.stat()
        return (now.st_ino, now.st_mtime_ns) != (before.st_ino, before.st_mtime_ns)

    def read_next(self) -> Samples:
        """Figures that were collected after this call: the second file from now on."""
        wait_for(self.path.exists)
        for _ in range(2):
            before = self.path.stat()
            wait_for(partial(self._is_newer, before), 20)
        return self.read()


@pytest.fixture
def host(request: pytest.FixtureRequest) -> Iterator[Metered]:
    with Metered(**getattr(request, "param", {})) as made:
        yield made


def total(samples: Samples, name: str, *labels: str) -> int:
    return round(sum(value for found, value in samples[PREFIX + name].items() if {*labels} <= {*found}))


def test_every_series_is_there_at_the_first_write_and_the_file_goes_with_the_guard(host: Metered) -> None:
    host.start()
    wait_for(host.path.exists)
    first = host.read()
    for family in FAMILIES:
        if family.name != "user_connects_total":
            name = PREFIX + family.name + ("_count" if family.kind == "histogram" else "")
            assert first[name], name
            if family.kind == "counter" and family.name != "part_failures_total":
                assert not any(first[name].values()), name
    assert first["smtpguard_start_time_seconds"][()] == pytest.approx(time.time(), abs=60)
    assert first["smtpguard_guarding"] == {(): 1}
    assert [labels[:2] for labels in first["smtpguard_build_info"]] == [("enforce", "bpf")]
    assert ("throttle", "enforce", "fast") in first["smtpguard_verdicts_total"]
    assert not any("user_connects" in name or "_created" in name for name in first)
    about = host.path.stat()
    assert (stat.S_IMODE(about.st_mode), about.st_uid) == (0o644, 0)
    # It says so once it has written.
    wait_for(lambda: f"{host.path} written " in host.cli("status", "-v").stdout)
    status = host.cli("status", "-v").stdout
    folders = f"{host.lab.directory} and {host.path.parent}"
    assert f"confinement: writes in {folders} only" in status or "this kernel has no Landlock" in status
    assert host.stop() == 0
    assert not list(host.path.parent.iterdir()), "the file has to go with the guard"


@pytest.mark.parametrize("host", [{"users": True, "group": "mailers"}], indirect=True)
def test_some_chaotic_seconds_are_counted_as_in_the_log(host: Metered) -> None:
    """A block, an unblock, the panic switch, a reload, a killed notifying process: the file says what the log says."""
    daemon = host.start(command=QUICK)
    first = host.read_next()
    start_s = first["smtpguard_start_time_seconds"]
    assert "smtpguard_user_connects_total" not in first
    about = host.path.stat()
    assert (stat.S_IMODE(about.st_mode), about.st_gid) == (0o640, MAILERS)
    seen: list[Samples] = []
    children = [
        host.begin(user, 60, rate=40, port=port) for user, port in ((SPAMMER, 25), (INNOCENT, 587), (OTHER, 25))
    ]
    children.append(host.begin(ROOT, 30, rate=30))
    wait_for(lambda: host.events("BLOCK"))
    seen.append(host.read())
    assert host.cli("unblock", SPAMMER[0]).returncode == 0
    assert host.cli("off").returncode == 0
    host.stop_signal(signal.SIGHUP)
    assert host.cli("on").returncode == 0
    (helper,) = find_helpers(daemon.pid)
    print(f"the notifying process with metrics: {read_resident_kb(helper) / 1000:.1f} MB")
    host.expect_errors("notifying process")
    os.kill(helper, signal.SIGKILL)
    children.append(host.begin(SPAMMER, 40, rate=80))
    for child in children:
        host.outcome(child)
        seen.append(host.read())
    wait_for(lambda: {*find_helpers(daemon.pid)} - {helper}, 20)
    # Figures of before wait in the socket of a process that has just been started.
    wait_for(lambda: total(host.read(), "connects_total") >= 250, 20)
    end = host.read_next()
    seen.append(end)
    # Whoever has opened 60 connections, limit 6 an hour, and not root, whom no rule counts.
    users = end["smtpguard_user_connects_total"]
    assert users == {(SPAMMER[0],): 100, (INNOCENT[0],): 60, (OTHER[0],): 60}
    assert host.stop() == 0
    logged = Counter[tuple[str, ...]]()
    suppressed = 0
    verdicts = Counter[tuple[str, ...]]()
    for row in host.events():
        if row["EVENT"] == "CONNECT":
            logged[row["PORT"], row["RESULT"], row["SENSOR"]] += 1
        elif row["EVENT"] == "SUPPRESSED":
            suppressed += int(row["COUNT"])
        elif row["EVENT"] == "EXCEEDED":
            verdicts[row["ACTION"], row["MODE"], row["RULE"]] += 1
    connects = end["smtpguard_connects_total"]
    assert sum(connects.values()) == logged.total() + suppressed == 250
    if not suppressed:
        assert {labels: count for labels, count in connects.items() if count} == logged
    assert {labels: count for labels, count in end["smtpguard_verdicts_total"].items() if count} == verdicts
    refused = total(end, "connects_total", "refused")
    assert refused > 20
    assert total(end, "refusals_total") == refused
    assert total(end, "direct_smtp_egress_findings_total") == 220  # of all but root
    blocks = sum(1 for row in host.events("BLOCK") if row["MODE"] == "enforce" and row["BY"] == "guard")
    assert 1 <= total(end, "response_seconds_count") <= blocks + 2
    for before, after in pairwise(seen):
        for name in before:
            if name.endswith(("_total", "_bucket", "_count")) and "user_connects" not in name:
                for labels, value in before[name].items():
                    assert after[name][labels] >= value, f"{name}{labels} has gone back"
        assert after["smtpguard_start_time_seconds"] == start_s


def find_helpers(daemon: int) -> list[int]:
    """The notifying processes of a daemon."""
    return [pid for pid in list_children(daemon) if b"smtpguard.notify" in read_process(pid, "cmdline")]
