"""Shared by all tests: the --require-kernel switch, and skips that name the capability they lack."""

import os
from collections.abc import Generator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-kernel",
        action="store_true",
        help="a kernel test that can't run here fails instead of being skipped (CI)",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and item.get_closest_marker("kernel") and item.config.getoption("--require-kernel"):
        report.outcome = "failed"
        report.longrepr = f"skipped, but --require-kernel was given: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def _kernel_needs_root(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("kernel") and os.geteuid() != 0:
        pytest.skip("lacks root (CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_BPF)")
