"""The README's first command, as an administrator types it: `make run` in a fresh clone, while mail goes out."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.support.host import SPAMMER, Host, wait_for

pytestmark = pytest.mark.kernel

_ROOT = Path(__file__).resolve().parents[2]
_NOT_CLONED = shutil.ignore_patterns(
    ".git", ".venv", ".*cache", ".hypothesis", ".benchmarks", "__pycache__", "dist", "build"
)
_DESCRIPTORS = 1024
"""What a distribution's shell has."""
RULE = {"name": "burst", "count": "connections", "limit": 30, "window": "10m", "action": "block", "block": "30m"}


def list_files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if "__pycache__" not in path.parts}


def test_make_run_watches_refuses_nobody_and_leaves_nothing(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(_ROOT, clone, ignore=_NOT_CLONED, symlinks=True)
    clone.joinpath(".venv").symlink_to(_ROOT / ".venv")  # what `make setup` makes, which takes the network
    before = list_files(clone)
    run = f'ulimit -n {_DESCRIPTORS} && exec make -s -C {clone} -o .venv/.run run RUN_ARGS="$*"'
    with Host(rules=[RULE]) as host:
        host.start(command=["setsid", "bash", "-c", run, "make"])
        host.expect_end()
        assert host.daemon is not None
        assert host.connect(SPAMMER, 200, 400).refused == 0
        (verdict,) = wait_for(lambda: host.events("EXCEEDED"))
        assert (verdict["USER"], verdict["MODE"]) == (SPAMMER[0], "dry-run")
        wait_for(lambda: len([row for row in host.events("CONNECT") if row["USER"] == SPAMMER[0]]) >= 31)
        assert host.cli("status").returncode == 0
        os.killpg(host.daemon.pid, signal.SIGINT)  # as ^C does
        assert host.daemon.wait(10) != 0, "make says that it was interrupted"
        assert "INFO stopped" in host.stderr()
        assert host.nft("list", "ruleset") == ""
    assert list_files(clone) == before
