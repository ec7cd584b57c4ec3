"""Small logs as people really keep them, each with what should come of it: as a file, packed, and by standard input."""

import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from smtpguard.cli import main

DATA = Path(__file__).parent.parent / "golden" / "data" / "audit_forms"
CASES = sorted(DATA.glob("*.log"))
RULES = "rules: [{name: busy, count: connections, limit: 60, window: 10m, action: warn}]\n"
COUNTS = ("connects", "forged", "garbled", "repeats", "probes")


@pytest.mark.parametrize("way", ["file", "gzip", "stdin"])
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_case_is_counted_right(tmp_path: Path, path: Path, way: str) -> None:
    config = tmp_path / "g.yaml"
    config.write_text(RULES)
    expected = json.loads(path.with_suffix(".expected").read_text())
    data = path.read_bytes()
    name = str(path)
    if way == "gzip":
        packed = tmp_path / "packed"
        packed.write_bytes(gzip.compress(data))
        name = str(packed)
    arguments = ["replay", "--json", "--config", str(config), "-" if way == "stdin" else name]
    result = CliRunner().invoke(main, arguments, input=data if way == "stdin" else None)
    found = json.loads(result.stdout)
    assert (result.exit_code, found["problems"], result.stderr) == (0, [], "")
    assert {name: found[name] for name in COUNTS if name in expected} == {
        name: expected[name] for name in COUNTS if name in expected
    }
    assert sum(user["destinations"] for user in found["users"]) == expected["destinations"]
    if "verdicts" in expected:
        assert len(found["verdicts"]) == expected["verdicts"]


def test_there_are_cases() -> None:
    assert len(CASES) >= 10
