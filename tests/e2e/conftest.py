"""What several end-to-end tests start from."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.programs import run
from tests.support.standstill import Standstill

PROJECT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that was built from it, as `make build` does, but without a network."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(PROJECT), cwd=out)
    return out


@pytest.fixture(scope="session")
def wheel(dist: Path) -> Path:
    """The wheel of `dist`."""
    (built,) = dist.glob("*.whl")
    return built


@pytest.fixture
def standstill() -> Iterator[Standstill]:
    """How long the machine stood still during the test: to be asked for before what has threads."""
    with Standstill() as made:
        yield made
