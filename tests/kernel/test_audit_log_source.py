"""The audit-log source with a real auditd: what comes, rotation by auditd itself, and its death."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from smtpguard.errors import SourceError
from smtpguard.settings import Settings
from smtpguard.sources.audit.control import AuditControl
from smtpguard.sources.audit.logfile import AuditLogSource
from smtpguard.sources.audit.netlink import AuditSource
from tests.kernel.test_audit_source import connect, own_rules
from tests.support.audit_lab import as_user, random_uid, read_until, sole_audit
from tests.support.auditd import Auditd

pytestmark = pytest.mark.kernel
PORT = 2525


@pytest.fixture(scope="module")
def control() -> Iterator[AuditControl]:
    with sole_audit() as audit:
        yield audit


@pytest.fixture
def uid() -> int:
    return random_uid()


@pytest.fixture
def settings(uid: int) -> Settings:
    return Settings(sources=("audit-log",), ports=frozenset({PORT}), audit_enable=True, audit_uid=uid)


@pytest.fixture(params=["RAW", "ENRICHED"])
def auditd(request: pytest.FixtureRequest, control: AuditControl, tmp_path: Path) -> Iterator[Auditd]:
    del control
    daemon = Auditd(tmp_path / "auditd", form=request.param, name="HOSTNAME" if request.param == "ENRICHED" else "NONE")
    try:
        yield daemon
    finally:
        daemon.stop()


@pytest.fixture
def source(auditd: Auditd, settings: Settings) -> Iterator[AuditLogSource]:
    made = AuditLogSource(settings, path=str(auditd.log))
    made.open()
    try:
        made.probe(5)
        yield made
    finally:
        made.close()
        made.close()


def test_connects_come_once_and_on_time(source: AuditLogSource, uid: int) -> None:
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    pid = as_user(uid, lambda: connect(PORT, 500))
    seen = read_until(source, lambda connects: len(connects) >= 500)
    assert [(c.pid, c.uid, c.port, c.sensor) for c in seen] == [(pid, uid, PORT, "audit-log")] * 500
    assert all(before - 20_000_000 <= c.time_ns <= time.clock_gettime_ns(time.CLOCK_BOOTTIME) for c in seen)
    assert (source.stats.lost, source.stats.garbled, source.stats.notes["forged"]) == (0, 0, 0)


def test_auditd_rotates_its_log(source: AuditLogSource, auditd: Auditd, uid: int) -> None:
    seen = []
    for number in range(3):
        as_user(uid, lambda: connect(PORT, 20))
        auditd.rotate()
        deadline = time.monotonic() + 5
        while not auditd.log.with_name(f"audit.log.{number + 1}").exists() and time.monotonic() < deadline:
            seen += source.read()
            time.sleep(0.01)
    as_user(uid, lambda: connect(PORT, 20))
    seen += read_until(source, lambda connects: len(connects) + len(seen) >= 80)
    assert len(seen) == 80
    assert source.stats.notes["rotations"] == 3


def test_a_killed_auditd_is_noticed(source: AuditLogSource, auditd: Auditd) -> None:
    auditd.kill()
    began = time.monotonic()
    with pytest.raises(SourceError, match="auditd has ended"):
        read_until(source, lambda _: False, seconds=10)
    assert time.monotonic() - began < 3 * 2


def test_without_auditd_nobody_writes_the_log(control: AuditControl, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "audit.log").touch()
    with pytest.raises(SourceError, match="auditd does not run"):
        AuditLogSource(settings, path=str(tmp_path / "audit.log")).open()
    assert (control.read_status().enabled, own_rules(control)) == (0, [])


def test_both_audit_sources_work_beside_each_other(source: AuditLogSource, settings: Settings, uid: int) -> None:
    beside = AuditSource(settings)
    beside.open()
    try:
        beside.probe(5)
        pid = as_user(uid, lambda: connect(PORT, 50))
        for one in (source, beside):
            # The proof of one comes to the other too, as a connect of its own.
            seen = read_until(one, lambda connects: sum(c.pid == pid for c in connects) >= 50)
            assert sum(c.pid == pid for c in seen) == 50
    finally:
        beside.close()
    as_user(uid, lambda: connect(PORT))
    assert len(read_until(source, bool)) == 1, "the other's end took nothing from us"


def test_a_log_that_auditd_does_not_write_fails_the_proof(auditd: Auditd, settings: Settings, tmp_path: Path) -> None:
    copy = tmp_path / "audit.log"
    shutil.copyfile(auditd.log, copy)
    source = AuditLogSource(settings, path=str(copy))
    source.open()
    try:
        with pytest.raises(SourceError, match="no record of it came into the log"):
            source.probe(0.3)
    finally:
        source.close()
