"""config/setup.sh as a user: it installs nothing and asks no package manager; root is told what is missing."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder that comes first on PATH: no libraries, not root, and an apt-get that must not be called."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name, text in {
        "id": "echo 1000",
        "ldconfig": "true",
        "apt-get": f'echo "$@" >>{tmp_path}/called',
        "dnf": f'echo "$@" >>{tmp_path}/called',
    }.items():
        file = folder / name
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return folder


@pytest.mark.parametrize("word", ["run", "test"])
def test_a_user_is_told_what_is_missing_and_apt_is_not_called(word: str, programs: Path, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    env = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    if word == "test":  # what only the tests need
        env["PATH"] = str(programs)
        for name in ("bash", "grep", "dirname"):
            (programs / name).symlink_to(shutil.which(name) or "/bin/false")
    done = subprocess.run(
        [shutil.which("bash") or "bash", str(PROJECT / "config/setup.sh"), word],
        cwd=checkout,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    wanted = {"run": {"libbpf1", "libnftables1"}, "test": {"util-linux"}}[word]
    (line,) = [line for line in done.stderr.splitlines() if "are missing" in line]
    assert line.startswith("setup: these packages are missing, and only root may install them: ")
    assert wanted <= set(line.rpartition(": ")[2].split())
    assert not (tmp_path / "called").exists()
    assert list(checkout.iterdir()) == []
