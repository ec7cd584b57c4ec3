"""Shared by all tests: options, skips that name the capability they lack, and what keeps tests apart from the host.

No test looks at this host's own configuration, log and state: an administrator runs the tests where smtpguard runs. And
a test that fails lets go of what it opened, so that it does not take the rest with it.
"""

import atexit
import contextlib
import gc
import importlib
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections import defaultdict
from collections.abc import Callable, Generator
from pathlib import Path

import hypothesis
import pytest

from smtpguard import resources, safe_files
from smtpguard.settings import load
from tests.support.two_at_a_time import run_all

# A job in a shell's background ignores Ctrl-C, and so would every program that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Where Python may keep no bytecode beside its sources, each of a thousand programs that tests start would compile the
# guard anew, which makes a start half as slow again. What is kept here goes when the run is over.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    _kept = tempfile.mkdtemp(prefix="smtpguard-bytecode-")
    Path(_kept).chmod(0o755)  # tenants' programs read it too
    atexit.register(shutil.rmtree, _kept, ignore_errors=True)
    os.environ["PYTHONPYCACHEPREFIX"] = _kept

# A busy machine is no reason to fail: what is slow is found by `make bench`. And a run of the tests finds what a change
# breaks, by the same examples each time; what nobody has tried yet is looked for by itself, see docs/testing.md.
_TIMES = int(os.environ.get("SMTPGUARD_TEST_EXAMPLES", "0"))
hypothesis.settings.register_profile(
    "smtpguard",
    deadline=None,
    derandomize=not _TIMES,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("smtpguard")
if not _TIMES:
    # Hypothesis draws from the constants of whatever modules are loaded by then, and in which order two processes load
    # them is chance: none of these (6.131 and later).
    with contextlib.suppress(ImportError, AttributeError):
        _providers = importlib.import_module("hypothesis.internal.conjecture.providers")
        _none = _providers._local_constants
        _providers._get_local_constants = lambda: _none  # type: ignore[attr-defined]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """So many times as many examples as a property test says, where more are wanted."""
    of_tests = {getattr(item, "obj", None) for item in items}
    for test in of_tests if _TIMES else ():
        settings = getattr(test, "_hypothesis_internal_use_settings", None)
        if settings is not None:
            many = hypothesis.settings(settings, max_examples=_TIMES * settings.max_examples)
            test._hypothesis_internal_use_settings = many  # type: ignore[union-attr]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-kernel",
        action="store_true",
        help="a kernel test that can't run here fails instead of being skipped (CI)",
    )
    parser.addoption(
        "--two-at-a-time",
        action="store_true",
        help="two processes run the tests of unit, property, cli and fuzz; all others stay alone",
    )
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write what the code makes now into tests/golden instead of comparing; look at the diff before committing",
    )


HOSTS_OWN = ("/etc/smtpguard", "/var/log/smtpguard", "/var/lib/smtpguard")
"""Where an installed guard has its files."""
_LOOKS = frozenset(
    {"open", "os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rename", "os.chmod", "sqlite3.connect"}
)
_looked_at: list[str] = []


def _watch_for_looks(event: str, args: tuple[object, ...]) -> None:
    """An audit hook of Python's (PEP 578): notes what of the host's own is opened in this process."""
    if event in _LOOKS and args and isinstance(args[0], str | bytes | os.PathLike):
        path = os.fsdecode(args[0])
        if path.startswith(HOSTS_OWN):
            _looked_at.append(f"{event} {path}")


sys.addaudithook(_watch_for_looks)


@pytest.fixture(autouse=True)
def _hosts_own_files_are_left_alone() -> Generator[None]:
    """Fails a test that looks at them; programs that tests start are kept away by the laboratory and by .ci/run."""
    _looked_at.clear()
    yield
    assert _looked_at == [], "this test looked at the host's own files"


def _open_directory(path: str) -> int:
    """`safe_files._open_directory`, which goes down step by step, so that the hook does not see where it ends."""
    if path.startswith(HOSTS_OWN):
        _looked_at.append(f"read_trusted {path}")
    return _open_trusted(path)


_open_trusted = safe_files._open_directory
safe_files._open_directory = _open_directory
# Nothing of the caller's own guard: neither what their shell says, nor their configuration and data files.
for _name in [name for name in os.environ if name.startswith("SMTPGUARD_") and not name.startswith("SMTPGUARD_TEST_")]:
    del os.environ[_name]
load.SYSTEM_PATH = "/nonexistent/smtpguard.yaml"
resources.read_resource.__kwdefaults__ = {
    **(resources.read_resource.__kwdefaults__ or {}),
    "administrator": Path("/nonexistent"),
}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.excinfo is not None and not item.config.getoption("usepdb"):
        # The trace holds every local of the test, and with them its sockets and files.
        traceback.clear_frames(call.excinfo.tb)
        for frame, _ in traceback.walk_tb(call.excinfo.tb):
            _ = frame.f_locals  # up to Python 3.12 a copy stays where somebody asked for it, until one asks again
        gc.collect()
    if report.skipped and item.get_closest_marker("kernel") and item.config.getoption("--require-kernel"):
        report.outcome = "failed"
        report.longrepr = f"skipped, but --require-kernel was given: {report.longrepr}"
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture, those of a whole module too: without root they could only fail."""
    if item.get_closest_marker("kernel") and os.geteuid() != 0:
        pytest.skip("lacks root (CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_BPF)")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    return (session.config.getoption("--two-at-a-time") and run_all(session)) or None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """With --durations, what each folder took: of those that two processes share, the sum of both."""
    if terminalreporter.config.option.durations is None:
        return
    seconds: defaultdict[str, float] = defaultdict(float)
    for report in (report for reports in terminalreporter.stats.values() for report in reports):
        if isinstance(report, pytest.TestReport):
            seconds[report.nodeid.removeprefix("tests/").partition("/")[0]] += report.duration
    longest_first = sorted(seconds.items(), key=lambda each: -each[1])
    terminalreporter.write_line("seconds: " + ", ".join(f"{name} {took:.0f}" for name, took in longest_first))


@pytest.fixture
def check_golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compares a text with the file of that name below tests/golden, or writes it there with --update-golden."""

    def check(name: str, text: str) -> None:
        path = Path(__file__).parent / "golden" / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        assert text == path.read_text("utf-8"), f"differs from {path}; --update-golden if that is meant"

    return check
