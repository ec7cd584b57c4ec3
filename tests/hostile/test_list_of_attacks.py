"""docs/threats.md: each attack has a result, and each that was mended a test that is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs/threats.md").read_text("utf-8").splitlines()
    if line.startswith("|") and not line.startswith(("|---", "| attack"))
]


def test_there_are_rows() -> None:
    assert len(ROWS) >= 28


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row[0])[:40])
def test_each_has_a_result_and_a_test_that_is_there(row: list[str]) -> None:
    _, result, where = row
    word = re.split(r"[:;, ]", result)[0]
    assert word in {"held", "mended", "accepted", "open"}
    paths = re.findall(r"`((?:tests|filters)/[^`]+)`", where)
    assert all((ROOT / path).is_file() for path in paths), paths
    assert paths or word in {"accepted", "open"}, "who says so?"
