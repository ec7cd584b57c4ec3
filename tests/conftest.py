"""Shared by all tests: --require-kernel, --update-golden, and skips that name the capability they lack."""

import os
from collections.abc import Callable, Generator
from pathlib import Path

import hypothesis
import pytest

# A busy machine is no reason to fail: what is slow is found by `make bench`.
hypothesis.settings.register_profile("smtpguard", deadline=None)
hypothesis.settings.load_profile("smtpguard")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-kernel",
        action="store_true",
        help="a kernel test that can't run here fails instead of being skipped (CI)",
    )
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write what the code makes now into tests/golden instead of comparing; look at the diff before committing",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and item.get_closest_marker("kernel") and item.config.getoption("--require-kernel"):
        report.outcome = "failed"
        report.longrepr = f"skipped, but --require-kernel was given: {report.longrepr}"
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture, those of a whole module too: without root they could only fail."""
    if item.get_closest_marker("kernel") and os.geteuid() != 0:
        pytest.skip("lacks root (CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_BPF)")


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
