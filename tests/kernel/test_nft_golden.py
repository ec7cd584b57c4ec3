"""Every golden ruleset is one that nft takes: `nft -c` in a namespace of its own."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.netlab import run

pytestmark = pytest.mark.kernel
GOLDEN = Path(__file__).parent.parent / "golden" / "nft"


@pytest.fixture(scope="module")
def netns() -> Iterator[str]:
    name = f"sgn-{os.urandom(3).hex()}"
    run("ip", "netns", "add", name)
    try:
        # So that changes have a table to be checked against.
        run("nsenter", f"--net=/run/netns/{name}", "nft", "-f", str(GOLDEN / "default.nft"))
        yield name
    finally:
        run("ip", "netns", "delete", name)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.nft")), ids=lambda path: path.stem)
def test_nft_takes_it(path: Path, netns: str) -> None:
    command = ["nsenter", f"--net=/run/netns/{netns}", "nft", "-c", "-f", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")
