"""What tests/conftest.py promises, tried on a run within the run: failures stay small, the host is left alone."""

import os
import re
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def run_pytest(tmp_path: Path, text: str, *words: str, **environment: str) -> tuple[int, str]:
    """Run a file of tests under our conftest; its exit code and what it said."""
    file = tmp_path / "test_inner.py"
    file.write_text(text)
    argv = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-c", os.devnull]
    done = subprocess.run(
        [*argv, "--rootdir", str(tmp_path), *words, str(file)],
        cwd=PROJECT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


LEAKING = """
import os, socket, pytest

def count():
    return len(os.listdir("/proc/self/fd"))

BEFORE = count()

def helper(held):
    held += [socket.socket() for _ in range(300)]
    files = [open(os.devnull) for _ in range(300)]
    raise OSError("too many")

@pytest.mark.parametrize("n", range(5))
def test_fails(n):
    held = []
    helper(held)

@pytest.fixture
def broken():
    held = [socket.socket() for _ in range(300)]
    raise OSError("in the set-up")

def test_fails_in_its_set_up(broken):
    pass

def test_the_next_one_has_room():
    assert count() < BEFORE + 100
"""


def test_a_test_that_fails_lets_go_of_what_it_opened(tmp_path: Path) -> None:
    code, said = run_pytest(tmp_path, LEAKING)
    assert (code, "5 failed, 1 passed, 1 error" in said) == (1, True), said


LOOKING = """
import os, subprocess
from pathlib import Path
from smtpguard.resources import read_resource
from smtpguard.settings.load import load_settings
from smtpguard.safe_files import read_trusted

def look(path):
    try:
        Path(path).read_bytes()
    except OSError:
        pass

def test_log():
    look("/var/log/smtpguard/events.log")

def test_state():
    look("/var/lib/smtpguard/state.db")

def test_configuration():
    try:
        read_trusted("/etc/smtpguard/smtpguard.yaml", max_bytes=1 << 20)
    except FileNotFoundError:
        pass

def test_passes():
    assert load_settings(None).path is None
    assert read_resource("nft", "table.nft")
    assert not [name for name in os.environ if name.startswith("SMTPGUARD_")]
"""


def test_a_test_that_looks_at_the_hosts_own_files_fails(tmp_path: Path) -> None:
    named = {"SMTPGUARD_CONFIG": "/etc/smtpguard/smtpguard.yaml", "SMTPGUARD_SOCKET": "/run/smtpguard/control.sock"}
    code, said = run_pytest(tmp_path, LOOKING, "-rA", **named)
    assert code == 1
    assert set(re.findall(r"(?m)^ERROR \S+::(\w+)", said)) == {"test_log", "test_state", "test_configuration"}, said
    assert "4 passed, 3 errors" in said
