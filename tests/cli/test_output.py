"""What a command prints can't always be written, and Ctrl-C comes when it likes: neither ends in a traceback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from smtpguard.cli import main

SMTPGUARD = [sys.executable, "-m", "smtpguard"]


@pytest.mark.parametrize("words", [["check"], ["check", "--json"], ["check", "--help"], ["--help"], ["--version"]])
def test_a_full_disk_is_named(words: list[str], tmp_path: Path) -> None:
    config = tmp_path / "g.yaml"
    config.write_text("version: 1\n")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*SMTPGUARD, *words],
            env={**os.environ, "SMTPGUARD_CONFIG": str(config)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.stderr == "smtpguard: the output can't be written: No space left on device\n"
    assert done.returncode == 1


def test_ctrl_c_while_the_daemon_is_still_being_read(tmp_path: Path) -> None:
    """A module that takes long to read stands for a slow disk."""
    told, package = tmp_path / "told", tmp_path / "slow"
    package.mkdir()
    (package / "sitecustomize.py").write_text(
        "import sys, time, pathlib\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'smtpguard.daemon.service':\n"
        f"            pathlib.Path({str(told)!r}).touch()\n"
        "            time.sleep(30)\n"
        "sys.meta_path.insert(0, Slow())\n"
    )
    top = str(Path(__file__).resolve().parents[2])
    daemon = subprocess.Popen(
        [sys.executable, "-P", "-m", "smtpguard.daemon", "3"],
        env={**os.environ, "PYTHONPATH": f"{package}:{top}"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 20
        while not told.exists():
            assert time.monotonic() < deadline, "it never began"
            assert daemon.poll() is None, daemon.communicate()[1]
            time.sleep(0.01)
        daemon.send_signal(signal.SIGINT)
        assert daemon.communicate(timeout=20)[1] == ""
        assert daemon.returncode == 130
    finally:
        daemon.kill()
        daemon.wait()


def test_a_user_and_all_are_too_much() -> None:
    told = CliRunner().invoke(main, ["unblock", "web01", "--all"])
    assert told.exit_code == 2
    assert "Error: USER or --all, not both" in told.output


def test_a_reload_without_the_file_says_that_the_shipped_defaults_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMTPGUARD_CONFIG", raising=False)
    monkeypatch.setattr(
        "smtpguard.control.client.ask", lambda *_: {"text": "Loaded. Nothing has changed.", "config": ""}
    )
    told = CliRunner().invoke(main, ["reload"])
    assert told.stdout == "Loaded. Nothing has changed.\n"
    assert told.stderr == "smtpguard: there is no configuration file any more: the shipped defaults hold\n"
