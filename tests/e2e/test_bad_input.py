"""What a tired administrator meets: a typo, a broken file, no root. A clear line, its exit code, nothing half-done."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from smtpguard.cli import main

GOOD = "version: 1\ndry_run: true\n"
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nversion: 1\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("version: 1\ndry_rum: true\n", ["smtpguard.yaml:2", "dry_rum", "dry_run"]),
        ("version: 1\ndry_run: perhaps\n", ["smtpguard.yaml:2", "dry_run"]),
        ("version: 1\nrules:\n  - {name: a, count: connections, limit: 1, window: 5 fortnights}\n", [":3", "window"]),
        (
            """version: 1
rules:
  - {name: a, count: connections, limit: 1, window: 1m}
  - {name: a, count: connections, limit: 2, window: 1m}
""",
            [":4", "a"],
        ),
        ("version: 1\nblock: {verdikt: reject}\n", [":2", "verdikt", "verdict"]),
        (BOMB, ["smtpguard.yaml"]),
        ("{", ["smtpguard.yaml"]),
    ],
)
@pytest.mark.parametrize("command", ["check", "run"])
def test_a_bad_configuration_is_78_with_file_line_and_key(
    tmp_path: Path, text: str, words: list[str], command: str
) -> None:
    path = tmp_path / "smtpguard.yaml"
    path.write_text(text)
    path.chmod(0o600)
    done = CliRunner().invoke(main, [command, "--config", str(path)])
    assert done.exit_code == 78
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_others_can_write_is_78(tmp_path: Path) -> None:
    path = tmp_path / "smtpguard.yaml"
    path.write_text(GOOD)
    path.chmod(0o666)
    done = CliRunner().invoke(main, ["check", "--config", str(path)])
    assert done.exit_code == 78
    assert "chmod" in done.stderr or "writ" in done.stderr


def test_a_missing_file_that_was_named_is_78(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["run", "--config", str(tmp_path / "none.yaml")])
    assert done.exit_code == 78


def test_not_root_is_4_and_says_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "smtpguard.yaml"
    path.write_text(GOOD)
    path.chmod(0o600)
    real = os.geteuid()
    monkeypatch.setattr("smtpguard.daemon.startup.handoff.os.geteuid", lambda: real or 1)
    done = CliRunner().invoke(main, ["run", "--config", str(path)])
    assert done.exit_code == 4
    assert "root" in done.stderr
    assert "CAP_BPF" in done.stderr


@pytest.mark.parametrize("words", [["status"], ["blocks"], ["block", "root"]])
def test_no_daemon_is_3(tmp_path: Path, words: list[str]) -> None:
    path = tmp_path / "smtpguard.yaml"
    path.write_text(f"version: 1\ncontrol: {{socket: {tmp_path}/none.sock}}\n")
    path.chmod(0o600)
    done = CliRunner().invoke(main, [words[0], "--config", str(path), *words[1:]])
    assert done.exit_code == 3
    assert "smtpguard run" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["block"],
        ["block", "web01", "--for", "never"],
        ["block", "web01", "--for", "0"],
        ["block", "web01", "--uid", "7"],
        ["block", "--source", "somebody", "--uid", "7"],
        ["block", "--source", "fail2ban:x", "--uid", "seven"],
        ["unblock"],
        ["unblock", "web01", "--all"],
        ["watch", "-l", "-f", "x"],
        ["nonsense"],
        ["run", "--source", "ebpf"],
        ["watch", "--source", "ebpf"],
        ["allow", "web01"],
        ["allow", "web01", "--for", "1h", "--limit", "many"],
    ],
)
def test_wrong_usage_is_2(words: list[str]) -> None:
    assert CliRunner().invoke(main, words).exit_code == 2


def test_a_mistyped_command_is_answered_with_the_nearest() -> None:
    done = CliRunner().invoke(main, ["statsu"])
    assert done.exit_code == 2
    assert "'status'" in done.stderr
