"""The running daemon on audit: a verdict and a block from auditd's log, nothing left behind, silence that is said."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smtpguard.sources.audit.control import AuditControl
from tests.kernel.test_audit_source import connect, own_rules
from tests.support.audit_lab import as_user, random_uid, sole_audit
from tests.support.auditd import Auditd
from tests.support.daemon_watch import DaemonWatch, fail_with
from tests.support.host import INNOCENT, OTHER, SMTPGUARD, SPAMMER, Host, wait_for

pytestmark = pytest.mark.kernel
PORT = 2525


@pytest.fixture(scope="module")
def control() -> Iterator[AuditControl]:
    with sole_audit() as audit:
        yield audit


def left(control: AuditControl) -> tuple[int, int]:
    """Whether auditing is on, and how many rules of ours there are."""
    return control.read_status().enabled, len(own_rules(control))


@pytest.mark.parametrize("form", ["RAW", "ENRICHED"])
def test_a_spammer_is_blocked_from_the_log(control: AuditControl, tmp_path: Path, form: str) -> None:
    rule = {"name": "burst", "count": "connections", "limit": 30, "window": "10m", "action": "block", "block": "30m"}
    auditd = Auditd(tmp_path / "auditd", form=form)
    try:
        audit = {"enable": True, "uid": SPAMMER[1], "log": str(auditd.log)}
        with Host(sources=["audit-log"], audit=audit, rules=[rule]) as host:
            host.start()
            assert host.connect(SPAMMER, 30).ok == 30
            # The attempt that is the verdict: audit tells of it after the fact, so it may come through, or meet the
            # block on its way.
            host.connect(SPAMMER)
            wait_for(lambda: host.events("EXCEEDED"))
            assert host.connect(SPAMMER, 5).refused == 5
            assert host.connect(INNOCENT, 5).ok == 5
            (verdict,) = host.events("EXCEEDED")
            assert (verdict["USER"], verdict["COUNT"], verdict["SENSOR"]) == (SPAMMER[0], "31", "audit-log")
            wait_for(lambda: len(host.events("CONNECT")) >= 36)
            assert host.stop() == 0
            assert left(control) == (0, 0)
    finally:
        auditd.stop()


class Daemon:
    """`smtpguard run --dry-run` in the namespace of the host, with everything else of its own."""

    def __init__(self, folder: Path, uid: int) -> None:
        self.config = folder / "g.yaml"
        self.values: dict[str, Any] = {
            "sources": ["audit"],
            "ports": [PORT],
            "audit": {"enable": True, "uid": uid},
            "log": {"path": str(folder / "events.log")},
            "state": {"path": str(folder / "state.db")},
            "control": {"socket": str(folder / "control.sock")},
            "nft": {"table": f"smtpguard_test_{os.getpid()}"},
            "attribution": {"process": False, "php": False, "rdns": False},
        }
        self.configure()
        self.process: subprocess.Popen[str] | None = None
        self.stderr = folder / "stderr"
        self.watch = DaemonWatch()

    def start(self) -> None:
        command = [*SMTPGUARD, "run", "--dry-run", "--config", str(self.config)]
        with self.stderr.open("a") as stderr:
            self.process = subprocess.Popen(command, text=True, stderr=stderr)
        self.watch.add(self.process)
        wait_for(lambda: self.status() is not None, 30)

    def configure(self, **settings: Any) -> None:  # noqa: ANN401 - YAML values
        self.values |= settings
        self.config.write_text(json.dumps(self.values))

    def reload(self) -> str:
        command = [*SMTPGUARD, "reload", "--config", str(self.config)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def events(self) -> int | None:
        """How many its source has seen; None while it does not say so."""
        status = self.status()
        return None if status is None else int(status["events"])

    def status(self) -> dict[str, Any] | None:
        command = [*SMTPGUARD, "status", "--json", "--config", str(self.config)]
        done = subprocess.run(command, capture_output=True, check=False)
        return json.loads(done.stdout)["sources"][0] if done.returncode == 0 else None

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.watch.may_end(self.process, number)
        self.process.send_signal(number)
        return self.process.wait(10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_the_netlink_source_sees_and_leaves(control: AuditControl, tmp_path: Path, number: int) -> None:
    uid = random_uid()
    daemon = Daemon(tmp_path, uid)
    try:
        daemon.start()
        assert left(control)[0] == 1
        as_user(uid, lambda: connect(PORT, 12))
        wait_for(lambda: daemon.events() == 12)
        assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
        enabled, orphans = left(control)
        assert (enabled, orphans > 0) == (1, True)
        control.set_status(enabled=0)
        daemon.start()
        assert left(control) == (1, orphans), "those of the killed one are gone"
        assert daemon.end(number) == 0
        assert left(control) == (0, 0)
        said = daemon.stderr.read_text()
        fail_with(daemon.watch.end_all() + daemon.watch.judge_words(said), said)
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.end(signal.SIGKILL)


def test_other_ports_are_seen_after_a_reload(control: AuditControl, tmp_path: Path) -> None:
    uid = random_uid()
    daemon = Daemon(tmp_path, uid)
    try:
        daemon.start()
        as_user(uid, lambda: connect(587, 3))
        as_user(uid, lambda: connect(PORT, 1))
        wait_for(lambda: daemon.events() == 1)  # records come in order: what was before it is read, too
        daemon.configure(ports=[587])
        assert daemon.reload().startswith("Loaded. Changed: ports [2525] -> [587], ")
        as_user(uid, lambda: connect(PORT, 4))
        as_user(uid, lambda: connect(587, 5))
        wait_for(lambda: daemon.events() == 6)
        daemon.configure(ports=[587, PORT])
        daemon.reload()
        as_user(uid, lambda: connect(PORT, 2))
        wait_for(lambda: daemon.events() == 8)
        assert daemon.end() == 0
        assert left(control) == (0, 0)
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.end(signal.SIGKILL)


def test_other_ports_are_followed_in_the_log_after_a_reload(control: AuditControl, tmp_path: Path) -> None:
    # Another user than the test's before: auditd may hand on records of that one's late.
    rule = {"name": "burst", "count": "connections", "limit": 5, "window": "10m", "block": "30m"}
    auditd = Auditd(tmp_path / "auditd", form="RAW")
    try:
        audit = {"enable": True, "uid": OTHER[1], "log": str(auditd.log)}
        with Host(sources=["audit-log"], audit=audit, rules=[rule], ports=[25]) as host:
            host.start()
            assert host.connect(OTHER, 8, port=587).ok == 8
            host.configure(ports=[587])
            assert host.cli("reload").stdout == "Loaded. Changed: ports [25] -> [587].\n"
            assert host.connect(OTHER, 8, port=25).ok == 8
            host.connect(OTHER, 8, rate=20, port=587)
            wait_for(lambda: host.events("BLOCK"))
            assert host.connect(OTHER, port=587).refused == 1
            assert host.connect(OTHER, port=25).ok == 1
            assert {row["PORT"] for row in host.events("CONNECT")} == {"587"}
            assert host.stop() == 0
            assert left(control) == (0, 0)
    finally:
        auditd.stop()


def test_a_namespace_that_audit_is_not_multicast_to(control: AuditControl) -> None:
    with Host(sources=["audit"], audit={"enable": True, "uid": SPAMMER[1]}) as host:
        host.expect_errors("^no source works: the guard is blind; audit: .*multicasts to the initial")
        host.start(ready=False)
        told = "audit multicasts to the initial network namespace only"
        wait_for(lambda: told in host.stderr())
        wait_for(lambda: told in host.cli("status").stdout)
        assert host.stop() == 0
    assert left(control) == (0, 0)
