"""`status --check`: one line and an exit code for whoever watches many hosts."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from smtpguard.cli import main
from smtpguard.cli.status_check import check_failure, check_status
from smtpguard.errors import NoDaemonError, PrivilegeError, UnansweredError

DAY_S = 86_400


def status(**more: Any) -> dict[str, Any]:  # noqa: ANN401 - as the guard answers
    return {
        "troubles": [],
        "ready": True,
        "mode": "enforce",
        "enforcement": [{"name": "nft", "in_step": True}, {"name": "bpf"}],
        "part_failures": {},
        "uptime": 90.4,
        "sources": [{"lost": 2}, {"lost": 1}],
        "blocks": 1,
        "throttles": 2,
        "would": 0,
        "refused": 7,
        "seen": 99,
    } | more


@pytest.mark.parametrize(
    ("given", "code", "text"),
    [
        (status(), 0, "OK - guarding"),
        (status(mode="dry-run", blocks=0, throttles=0), 0, "OK - watching, dry run: nobody is refused"),
        (status(mode="dry-run", throttles=0), 0, "OK - watching, dry run: only who was blocked by hand is refused"),
        (
            status(mode="dry-run", uptime=15 * DAY_S, blocks=0, throttles=0),
            1,
            "WARNING - dry run for 15 d: nobody is refused. Next: dry_run: false",
        ),
        (status(troubles=["SAFETY BRAKE: ... smtpguard blocks"]), 1, "WARNING - SAFETY BRAKE: ... smtpguard blocks"),
        (status(troubles=["a", "b", "c"]), 1, "WARNING - a (and 2 more: smtpguard status)"),
        (
            status(troubles=["OFF: nobody is refused. Switch on: smtpguard on"], mode="off", ready=False),
            1,
            "WARNING - OFF: nobody is refused. Switch on: smtpguard on",
        ),
        (status(part_failures={"rdns": 3}), 1, "WARNING - parts have failed 3 times. See: smtpguard status -v"),
        (
            status(troubles=["x", "BLIND: no source works"]),
            2,
            "CRITICAL - BLIND: no source works (and 1 more: smtpguard status)",
        ),
        (status(troubles=["NOT ENFORCING: nft: no"], ready=False), 2, "CRITICAL - NOT ENFORCING: nft: no"),
        (status(ready=False), 2, "CRITICAL - not ready yet. See: smtpguard status"),
        (
            status(enforcement=[{"name": "nft", "in_step": False}]),
            2,
            "CRITICAL - not enforcing what is listed. Repair: smtpguard nft ensure",
        ),
        (status(troubles=["odd | text\nin two lines"]), 1, "WARNING - odd / text in two lines"),
    ],
)
def test_one_line_says_how_it_fares(given: dict[str, Any], code: int, text: str) -> None:
    found, line = check_status(given, warn_dry_run_s=14 * DAY_S)
    told, _, data = line.partition(" | ")
    assert (found, told) == (code, f"SMTPGUARD {text}")
    assert "\n" not in line
    uptime, held = round(given["uptime"]), f"blocks={given['blocks']} throttles={given['throttles']}"
    assert data == f"{held} would=0 refused=7c seen=99c lost=3c uptime={uptime}s"


def test_who_does_not_answer_is_critical_and_what_can_not_be_asked_is_unknown() -> None:
    assert check_failure(NoDaemonError("no daemon answers"))[0] == 2
    assert check_failure(PrivilegeError("this is for root")) == (3, "SMTPGUARD UNKNOWN - this is for root")
    assert check_failure(UnansweredError("no answer"))[0] == 3


def test_a_dry_run_that_is_meant_warns_of_nothing() -> None:
    assert check_status(status(mode="dry-run", uptime=99 * DAY_S), warn_dry_run_s=0)[0] == 0


def test_the_command_exits_with_the_code(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["status", "--check", "--socket", str(tmp_path / "none.sock")])
    assert result.exit_code == 2
    assert result.stdout.startswith("SMTPGUARD CRITICAL - ")
    assert result.stdout.count("\n") == 1
    result = CliRunner().invoke(main, ["status", "--check", "--warn-dry-run", "soon", "--socket", "/none"])
    assert result.exit_code == 2
    assert "--warn-dry-run" in result.stderr
