"""`report`: a generated host's day against numbers worked out from its log; formats that agree; what it can't see."""

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from smtpguard.cli import main
from tests.support.generated_host import (
    SHARED_SUM,
    SHARERS,
    SINCE_S,
    UNTIL_S,
    GeneratedHost,
    generate_host,
    in_zone,
)

TIMES = ("--since", "2026-10-25 00:00", "--until", "2026-10-26 00:00")
COUNT_LOG = Path(__file__).parents[1] / "support" / "count_log.py"
Json = dict[str, Any]


@pytest.fixture(scope="module")
def berlin() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, in_zone(patch):
        yield


@pytest.fixture(scope="module")
def host(berlin: None, tmp_path_factory: pytest.TempPathFactory) -> GeneratedHost:
    del berlin
    return generate_host(tmp_path_factory.mktemp("host"), connects=20_000, users=300)


def run_report(host: GeneratedHost, *args: str) -> str:
    found = CliRunner().invoke(main, ["report", "--config", str(host.config), *args], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


def count_log(host: GeneratedHost) -> Json:
    command = [sys.executable, "-I", str(COUNT_LOG), str(host.log), str(SINCE_S), str(UNTIL_S)]
    counted: Json = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=120).stdout)
    return counted


def check_agreement(report: Json, log: Json) -> None:
    """Every figure of a report, to the unit."""
    users = {uid: user for user, uid in log["uids"].items()}
    assert {
        users[row["uid"]]: [row["connects"], row["refused"], row["verdicts"], row["would"]] for row in report["users"]
    } == log["users"]
    assert (report["connects"], report["user_count"]) == (
        sum(row[0] for row in log["users"].values()),
        len(log["users"]),
    )
    assert report["refused"] == sum(row[1] for row in log["users"].values())
    places = {f"{row['address']} {row['port']}": row for row in report["destinations"]}
    assert {place: [row["connects"], row["refused"]] for place, row in places.items()} == log["places"]
    assert {place: row["users"] for place, row in places.items()} == log["visitors"]
    assert {str(row["port"]): [row["connects"], row["refused"]] for row in report["ports"]} == log["ports"]
    assert {f"{row['rule']} {row['action']} {row['mode']}": row["count"] for row in report["verdicts"]} == log[
        "verdicts"
    ]
    check_scripts(report, log)
    check_times(report, log)
    blocks = report["blocks"]
    assert sum(row["since"] is not None for row in blocks) == log["ends"]["BLOCK"]
    assert sum(row["ended"] is not None for row in blocks) == log["ends"]["UNBLOCK"]


def check_scripts(report: Json, log: Json) -> None:
    assert report["unnamed"] == log["scripts"].pop("-", [0])[0]
    shared = [row for row in report["scripts"] if row["sha256"] is not None]
    if shared:
        (row,) = shared
        assert (row["sha256"], row["path_count"], row["user_count"]) == (
            SHARED_SUM,
            len(row["paths"]),
            len(row["users"]),
        )
        theirs = [log["scripts"].pop(path) for path in row["paths"]]
        assert [row["connects"], row["refused"]] == [sum(counts) for counts in zip(*theirs, strict=True)]
    assert {
        row["script"]: [row["connects"], row["refused"]] for row in report["scripts"] if row["sha256"] is None
    } == log["scripts"]


def check_times(report: Json, log: Json) -> None:
    users = {uid: user for user, uid in log["uids"].items()}
    month = [row for row in report["month"] if report["since"] <= row["at"]]
    assert sum(row["connects"] for row in month) == report["connects"] == sum(log["hours"].values())
    assert Counter(row["connects"] for row in month) == Counter(log["hours"].values())
    assert len(report["curves"]) == 12
    for curve in report["curves"]:
        assert sum(row["connects"] for row in curve["points"]) == log["users"][users[curve["uid"]]][0]
    judged = {name.split()[0] for name in log["verdicts"]}
    hourly = {f"{users[row['uid']]} 60": row["held"] for row in report["fullest"] if row["rule"] == "hourly"}
    assert judged
    assert hourly
    assert hourly.items() <= log["peaks"].items()


def test_a_day_with_25_hours_agrees_with_its_log(host: GeneratedHost) -> None:
    first, second = (run_report(host, *TIMES, "--format", "json") for _ in range(2))
    assert first == second
    report = json.loads(first)
    assert (report["since"], report["until"]) == (
        "2026-10-25T00:00:00.000000+02:00", "2026-10-26T00:00:00.000000+01:00",
    )  # fmt: skip
    assert report["watched_s"] == 24 * 3600
    (gap,) = report["blind"]
    assert (gap["since"][11:16], gap["until"][11:16]) == ("11:30", "12:30")
    check_agreement(report, count_log(host))
    (shared,) = [row for row in report["scripts"] if row["sha256"]]
    assert 1 < shared["user_count"] <= SHARERS


def test_text_and_json_agree_and_text_is_narrow(host: GeneratedHost) -> None:
    report = json.loads(run_report(host, *TIMES, "--format", "json"))
    text = run_report(host, *TIMES)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 78
    assert text.isascii()
    assert text.replace("\n", "").isprintable()
    assert f"{report['connects']} attempts by {report['user_count']} users, {report['refused']} refused." in lines
    begin = next(number for number, line in enumerate(lines) if line.startswith("USERS ("))
    shown = [re.split(r" {2,}", line) for line in lines[begin + 2 : begin + 22]]
    assert shown == [
        [row["user"], *(str(row[name]) for name in ("connects", "refused")), str(row["verdicts"] - row["would"]),
         str(row["would"])]
        for row in report["users"][:20]
    ]  # fmt: skip
    assert "Blind from 2026-10-25 11:30 +0100 to 2026-10-25 12:30 +0100 (1 h)." in text


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_million_connects_agree_with_their_log_within_3_s_and_60_mb(berlin: None, tmp_path: Path) -> None:
    del berlin
    host = generate_host(tmp_path, connects=1_080_000, users=300)
    command = [sys.executable, "-P", "-m", "smtpguard", "report", "--config", str(host.config), *TIMES, "--format"]
    for form in ("json", "text"):
        begun = time.monotonic()
        process = subprocess.Popen([*command, form], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        took_s = time.monotonic() - begun
        print(form, f"{took_s:.2f} s", usage.ru_maxrss // 1024, "MB")
        assert process.returncode == 0
        assert usage.ru_maxrss < 60 * 1024
        assert took_s < 3
        if form == "json":
            check_agreement(json.loads(output), count_log(host))
