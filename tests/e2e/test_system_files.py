"""The unit and the rules for logrotate, judged by systemd and logrotate themselves, unpacked where they are lacking."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.servers import Unpacked, require

PROJECT = Path(__file__).resolve().parent.parent.parent


def find(program: str, package: str) -> tuple[str, dict[str, str]]:
    """A program of this machine, or of an unpacked package, and its environment."""
    here = shutil.which(program)
    if here is not None:
        return here, dict(os.environ)
    unpacked: Unpacked = require(package)
    folder = next(part for part in ("usr/sbin", "usr/bin", "sbin", "bin") if (unpacked.root / part / program).exists())
    return str(unpacked.path(f"{folder}/{program}")), unpacked.environment()


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    analyze, env = find("systemd-analyze", "systemd")
    program = tmp_path / "smtpguard"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "smtpguard.service"
    unit.write_text((PROJECT / "config/smtpguard.service").read_text().replace("/usr/bin/smtpguard", str(program)))
    argv = [analyze, "verify", "--man=no", str(unit)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    ours = [line for line in done.stderr.splitlines() if "smtpguard" in line]
    assert (done.returncode, ours) == (0, [])


def test_logrotate_renames_recreates_and_tells_the_daemon(tmp_path: Path) -> None:
    logrotate, env = find("logrotate", "logrotate")
    logs = tmp_path / "log"
    logs.mkdir(mode=0o750)
    log = logs / "events.log"
    log.write_text("one\n")
    inode = log.stat().st_ino
    told = tmp_path / "told"
    (tmp_path / "bin").mkdir()
    systemctl = tmp_path / "bin/systemctl"
    systemctl.write_text(f'#!/bin/sh\necho "$@" >> {told}\n')
    systemctl.chmod(0o755)
    rules = tmp_path / "rules"
    text = (PROJECT / "config/smtpguard.logrotate").read_text().replace("/var/log/smtpguard", str(logs))
    rules.write_text(text.replace("create 0640 root root", "create 0640"))
    rules.chmod(0o644)
    env["PATH"] = f"{tmp_path}/bin:{env['PATH']}"
    argv = [logrotate, "--force", "--state", str(tmp_path / "state"), str(rules)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (logs / "events.log.1").stat().st_ino == inode, "renamed, not copied"
    assert (logs / "events.log.1").read_text() == "one\n"
    assert log.read_text() == ""
    assert log.stat().st_mode & 0o777 == 0o640
    assert told.read_text() == "kill --kill-who=main --signal=HUP smtpguard.service\n"


def test_unit_does_not_restart_what_can_not_succeed() -> None:
    """Exit codes of the contract: 2 usage, 4 lacks privilege, 78 bad configuration."""
    unit = (PROJECT / "config/smtpguard.service").read_text()
    assert "\nRestartPreventExitStatus=2 4 78\n" in unit
    assert f"\nExecReload=/bin/kill -{signal.SIGHUP.name[3:]} $MAINPID\n" in unit


@pytest.mark.parametrize(
    "line",
    ["Type=notify", "NotifyAccess=main", "WatchdogSec=30", "Restart=always", "RestartSec=1", "StartLimitIntervalSec=0"],
)
def test_unit_has_the_guard_back_in_a_second_however_often_it_ends(line: str) -> None:
    assert f"\n{line}\n" in (PROJECT / "config/smtpguard.service").read_text()


@pytest.mark.parametrize("line", ["create 0640 root root", "missingok", "delaycompress"])
def test_shipped_rules_say(line: str) -> None:
    assert f"\n    {line}\n" in (PROJECT / "config/smtpguard.logrotate").read_text()
