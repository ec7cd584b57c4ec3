"""What tests/conftest.py promises, tried on a run within the run: failures stay small, the host is left alone."""

import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


def run_pytest(
    tmp_path: Path,
    text: str,
    *words: str,
    files: Sequence[str] = ("test_inner.py",),
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Run files of tests, all with the same text, under our conftest; the exit code and what it said."""
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    argv = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-c", os.devnull]
    done = subprocess.run(
        [*argv, "--rootdir", str(tmp_path), *words, *(str(tmp_path / name) for name in files)],
        cwd=PROJECT,
        env={**os.environ, **(environment or {})},
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
    assert [name for name in os.environ if name.startswith("SMTPGUARD_")] == ["SMTPGUARD_TEST_SEED"]
    assert "PYTHONDONTWRITEBYTECODE" not in os.environ
    assert os.path.isdir(os.environ["PYTHONPYCACHEPREFIX"])
    print("kept in", os.environ["PYTHONPYCACHEPREFIX"])
"""


def test_a_test_that_looks_at_the_hosts_own_files_fails(tmp_path: Path) -> None:
    named = {"SMTPGUARD_CONFIG": "/etc/smtpguard/smtpguard.yaml", "SMTPGUARD_SOCKET": "/run/smtpguard/control.sock"}
    named |= {"PYTHONDONTWRITEBYTECODE": "1", "SMTPGUARD_TEST_SEED": "55"}
    code, said = run_pytest(tmp_path, LOOKING, "-rA", environment=named)
    assert code == 1
    assert set(re.findall(r"(?m)^ERROR \S+::(\w+)", said)) == {"test_log", "test_state", "test_configuration"}, said
    assert "4 passed, 3 errors" in said
    kept = re.search(r"kept in (\S+)", said)
    assert kept is not None
    assert not Path(kept[1]).exists(), "bytecode is kept for the run alone"


SHARED = """
import os, time
from pathlib import Path
import pytest

FIRST, HERE = os.getpid(), Path(__file__)
BESIDE = "kernel" not in str(HERE)
PLACE = HERE.parents[2]

def wait_for_both(what):
    (PLACE / f"{HERE.stem}.{what}").touch()
    deadline = time.monotonic() + 60
    while len(list(PLACE.glob(f"*.{what}"))) < 2:
        assert time.monotonic() < deadline, "nobody is beside me"
        time.sleep(0.01)

def test_begins():
    print("seen", HERE.stem)
    if BESIDE:
        wait_for_both("begun")
    else:
        assert os.getpid() == FIRST
        assert len(list(PLACE.glob("*.ended"))) == 2, "those beside each other are over"

def test_in_the_middle(tmp_path):
    WHAT

def test_ends():
    (PLACE / f"{HERE.stem}.ended").touch()
"""
TWO_AND_ONE = ("tests/unit/test_a.py", "tests/cli/test_b.py", "tests/kernel/test_c.py")


def run_two(tmp_path: Path, what: str, *words: str) -> tuple[int, str]:
    """Two files beside each other, and a third after them, with something in the middle of each."""
    text = SHARED.replace("WHAT", what)
    return run_pytest(tmp_path, text, "--two-at-a-time", *words, files=TWO_AND_ONE)


def test_two_files_run_at_once_and_those_of_the_kernel_alone_after_them(tmp_path: Path) -> None:
    code, said = run_two(tmp_path, "pass", "--durations=0", "-vv")
    assert (code, "9 passed" in said) == (0, True), said
    for file in TWO_AND_ONE:
        assert re.search(rf"s call +{file}::test_begins", said), "how long it took"


@pytest.mark.parametrize("whose", ["==", "!="])
def test_a_failure_in_either_process_is_told_and_is_the_runs(tmp_path: Path, whose: str) -> None:
    code, said = run_two(tmp_path, f"assert not (BESIDE and os.getpid() {whose} FIRST), print('mine')")
    assert (code, "1 failed, 8 passed" in said) == (1, True), said
    assert "AssertionError: None" in said
    assert "Captured stdout call" in said


def test_warnings_of_either_process_are_told(tmp_path: Path) -> None:
    code, said = run_two(tmp_path, "import warnings; warnings.warn(f'of {HERE.stem}')")
    assert (code, "9 passed, 3 warnings" in said) == (0, True), said
    assert all(f"UserWarning: of {name}" in said for name in ("test_a", "test_b", "test_c"))


def test_x_ends_the_second_process_at_once(tmp_path: Path) -> None:
    code, said = run_two(tmp_path, "assert os.getpid() != FIRST; time.sleep(60)", "-x")
    assert (code, "stopping after 1 failures" in said) == (1, True), said
    assert not list(tmp_path.glob("*.ended"))


def test_x_ends_the_first_process_after_its_test(tmp_path: Path) -> None:
    code, said = run_two(tmp_path, "assert os.getpid() == FIRST; os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)", "-x")
    assert (code, "stopping after 1 failures" in said) == (1, True), said
    assert not list(tmp_path.glob("*.ended"))


def test_tests_of_a_process_that_dies_have_failed(tmp_path: Path) -> None:
    code, said = run_two(tmp_path, "os._exit(7) if os.getpid() != FIRST else None")
    assert code == 1
    assert len(re.findall(r"(?m)^the second process ended \(7\) before this test had$", said)) == 2, said
    assert "test_in_the_middle" in said
    assert "test_ends" in said


def test_ctrl_c_ends_both(tmp_path: Path) -> None:
    what = """
    (PLACE / f"{HERE.stem}.reached").touch()
    if HERE.stem != "test_a":
        time.sleep(60)
    wait_for_both("reached")
    os.kill(os.getppid() if os.getpid() != FIRST else FIRST, 2)
    time.sleep(60)
    """
    code, said = run_two(tmp_path, what)
    assert (code, "KeyboardInterrupt" in said) == (2, True), said
    assert not list(tmp_path.glob("test_b.ended"))


def test_what_failed_last_is_what_is_run_again(tmp_path: Path) -> None:
    cache = ("-p", "cacheprovider", "-o", f"cache_dir={tmp_path}/cache")
    code, said = run_two(tmp_path, "assert os.getpid() == FIRST", *cache)
    assert (code, "1 failed, 8 passed" in said) == (1, True), said
    code, said = run_two(tmp_path, "pass", "--lf", *cache)
    assert (code, "1 passed" in said) == (0, True), said


SLEEPING = """
import time, pytest

@pytest.fixture
def slow():
    time.sleep(0.3)
    yield
    time.sleep(0.3)

def test_sleeps(slow):
    time.sleep(0.3)
"""


def test_the_seconds_of_each_folder_are_told(tmp_path: Path) -> None:
    files = ("tests/cli/test_a.py", "tests/cli/test_b.py", "tests/e2e/test_c.py")
    _, said = run_pytest(tmp_path, SLEEPING, "--durations=0", "-vv", "--two-at-a-time", files=files)
    took: defaultdict[str, float] = defaultdict(float)
    for seconds, folder in re.findall(r"(?m)^([0-9.]+)s (?:setup|call|teardown) +tests/(\w+)/", said):
        took[folder] += float(seconds)
    assert (took["cli"] > 2 * 0.85, took["e2e"] > 0.85) == (True, True), said
    found = re.search(r"(?m)^seconds: (\w+ \d+), (\w+ \d+)$", said)
    assert found is not None, said
    told = {folder: int(seconds) for folder, seconds in map(str.split, found.groups())}
    assert all(abs(told[folder] - seconds) < 0.6 for folder, seconds in took.items()), said
    assert took[next(iter(told))] >= max(took.values()) - 0.1, "the longest first"
