"""Runs programs in tests."""

import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path


def run(*argv: str, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout_s: float = 300) -> str:
    """Run a program that has to succeed, and return what it printed.

    Args:
        argv: Program and arguments.
        env: Its environment; that of the tests, without what leads Python to their modules, if None.
        cwd: Where it runs.
        timeout_s: How long it may take.
    """
    if env is None:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SMTPGUARD"))}
    done = subprocess.run(argv, env=env, cwd=cwd, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, f"{argv} ended with {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def hang(mark: str, seen: Path) -> str:
    """A shell's commands that hang with a child; the file is there once the child has the mark as its argument."""
    return f"sleep {mark} & until grep -q ^sleep /proc/$!/cmdline; do :; done; : >{seen}; wait\n"


def wait_until_gone(word: str) -> None:
    """Until no process has such an argument; one that has ended and is not reaped yet has none."""
    deadline = time.monotonic() + 10
    while found := [path for path in Path("/proc").glob("[0-9]*/cmdline") if word.encode() in _read(path).split(b"\0")]:
        assert time.monotonic() < deadline, f"still runs: {found}"
        time.sleep(0.01)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
