"""`report`: a generated host's day against numbers worked out from its log; formats that agree; what it can't see."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import html5lib
import pytest
from click.testing import CliRunner

from smtpguard.cli import main
from smtpguard.model import NS
from smtpguard.report.host_report import (
    Curve,
    DestinationFigures,
    FullWindow,
    Gap,
    HostReport,
    OwnFigures,
    OwnUser,
    Point,
    PortFigures,
    ProviderFigures,
    ReportedBlock,
    ScriptFigures,
    UserFigures,
    VerdictFigures,
    render_json,
)
from smtpguard.report.report_html import render_html
from smtpguard.report.report_text import render_text
from smtpguard.state import statements
from smtpguard.state.activity import Tally
from smtpguard.state.history import History
from smtpguard.state.host_history import collect_part
from smtpguard.state.host_question import HostQuestion, Part
from smtpguard.state.rows import ChangeRow
from smtpguard.state.store import Store
from tests.servers import require
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
HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e\uff21\" onload='x' {{ 7 * 7 }} javascript:x </style></title>"
MEASURE = (
    "import os, subprocess, sys; child = subprocess.Popen(sys.argv[1:]); _, status, usage = os.wait4(child.pid, 0);"
    "print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss, file=sys.stderr);"
    "sys.exit(os.waitstatus_to_exitcode(status))"
)
"""A small process between: a child's largest size begins with that of whoever forked it."""
ELEMENTS = {
    *("html", "head", "meta", "title", "style", "body", "header", "main", "section", "nav", "h1", "h2", "p", "b", "a"),
    *("div", "span", "br", "table", "caption", "thead", "tbody", "tr", "th", "td", "figure", "figcaption", "ul", "li"),
    *("svg", "rect", "path", "line", "text"),
}
ATTRIBUTES = {
    *("lang", "charset", "http-equiv", "content", "name", "class", "id", "href", "role", "aria-label", "aria-hidden"),
    *("viewBox", "preserveAspectRatio", "x", "y", "width", "height", "d", "x1", "y1", "x2", "y2", "text-anchor"),
}


@pytest.fixture(autouse=True)
def _no_own_templates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("smtpguard.report.report_html.OWN_FILES", tmp_path / "own")


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
    assert sorted(row["until"] for row in blocks if row["since"] is not None) == log["ends_at"]
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
    assert report["losses"] == {"bpf: events": 7, "history: rows": 1}
    text = run_report(host, *TIMES)
    assert "LOST: bpf: events 7, history: rows 1" in text
    assert [[row[end][11:16] for end in ("since", "until")] for row in report["off"]] == [["01:30", "01:40"]]
    assert "The guard was off, and refused nobody, from 2026-10-25 01:30 +0200 to" in text
    assert "What was lost before" not in text
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


def parse_page(page: str) -> Any:  # noqa: ANN401 - html5lib has no types
    """The page as a browser takes it; a mistake in it is an error."""
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page)


def check_harmless(page: str) -> Any:  # noqa: ANN401 - as above
    """Nothing in a page can run, load or lead anywhere."""
    tree = parse_page(page)
    for element in tree.iter():
        assert re.sub(r"^\{.*\}", "", element.tag) in ELEMENTS, element.tag
        for name, value in element.attrib.items():
            assert name in ATTRIBUTES, (element.tag, name)
            assert name != "href" or re.fullmatch(r"#[a-z]+", value)
    (policy,) = [meta.get("content") for meta in tree.iter("meta") if meta.get("http-equiv")]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    (style,) = tree.iter("style")
    digest = base64.b64encode(hashlib.sha256(style.text.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}';" in policy
    return tree


def read_table(tree: Any, section: str, number: int = 0) -> list[list[str]]:  # noqa: ANN401 - as above
    """Cells of a table's rows."""
    (found,) = [element for element in tree.iter("section") if element.get("id") == section]
    body = list(found.iter("tbody"))[number]
    return [["".join(cell.itertext()) for cell in row.iter("td")] for row in body.iter("tr")]


def test_the_page_is_harmless_and_agrees_with_the_json(host: GeneratedHost) -> None:
    report = json.loads(run_report(host, *TIMES, "--format", "json"))
    tree = check_harmless(run_report(host, *TIMES, "--format", "html"))
    assert read_table(tree, "users") == [
        [row["user"], *map(str, (row["connects"], row["refused"], row["verdicts"] - row["would"], row["would"]))]
        for row in report["users"][:100]
    ]
    assert [row[:6] for row in read_table(tree, "destinations")] == [
        [str(row[name]) for name in ("connects", "refused")] + ["-", "-"] + [str(row["users"]), str(row["port"])]
        for row in report["destinations"][:100]
    ]
    assert [row[:4] for row in read_table(tree, "verdicts")] == [
        [str(row["count"]), str(row["users"]), row["rule"], row["action"]] for row in report["verdicts"]
    ]
    assert [row[2].removeprefix("at most ") for row in read_table(tree, "fullest")] == [
        str(row["held"]) for row in report["fullest"]
    ]
    assert [item.text for item in tree.iter("li")] == report["unseen"]
    assert len([svg for svg in tree.iter() if svg.get("class") == "curve"]) == 12


def hostile_report() -> HostReport:
    """Everything that is text is hostile, everything else is there."""
    counts = {"connects": 5, "refused": 2}
    many: Json = {"user": HOSTILE, "uid": 1, "rule": HOSTILE}
    point, gap = Point(at_ns=SINCE_S * NS, **counts), Gap(since_ns=SINCE_S * NS, until_ns=(SINCE_S + 7200) * NS)
    return HostReport(
        host=HOSTILE, since_ns=SINCE_S * NS, until_ns=UNTIL_S * NS, places_since_ns=0, places_until_ns=1, watched_s=9,
        messages=3, recipients=4, user_count=1, script_count=1, destination_count=1, unnamed=1,
        users=(UserFigures(user=HOSTILE, uid=1, messages=3, recipients=4, verdicts=1, would=1, **counts),),
        scripts=(
            ScriptFigures(
                script=HOSTILE, sha256=HOSTILE, paths=(HOSTILE,), path_count=2, users=(HOSTILE, HOSTILE), user_count=2,
                **counts,
            ),
        ),
        destinations=(
            DestinationFigures(
                address=HOSTILE, port=25, name=HOSTILE, provider=HOSTILE, users=1, connected=1, failed=2, error=HOSTILE,
                **counts,
            ),
        ),
        providers=(ProviderFigures(provider=HOSTILE, addresses=1, **counts),), ports=(PortFigures(port=25, **counts),),
        own_addresses=(
            OwnFigures(
                address=HOSTILE, connected=1, failed=1, user_count=9,
                users=(OwnUser(user=HOSTILE, uid=1, connected=1, failed=1, first_ns=0, last_ns=1),) * 2,
            ),
        ),
        own_count=2, own_unknown=1,
        verdicts=(
            VerdictFigures(
                rule=HOSTILE, action=HOSTILE, mode=HOSTILE, count=1, containers=0, users=1, first_ns=0, last_ns=0
            ),
        ),
        blocks=tuple(
            ReportedBlock(
                kind=HOSTILE, ports=None, by=HOSTILE, who=HOSTILE, mode=HOSTILE, since_ns=since_ns, until_ns=None,
                ended_ns=ended_ns, ended_by=HOSTILE, reason=HOSTILE, **many,
            )
            for since_ns, ended_ns in ((None, 1), (1, None))
        ),
        losses={HOSTILE: 1}, blind=(gap,), off=(gap,), blind_month=(gap,), unseen=(HOSTILE,), step=15,
        fullest=(FullWindow(count=HOSTILE, window=600, held=1, limit=2, at_most=True, **many),),
        curves=(Curve(user=HOSTILE, uid=1, points=(point,)),), month=(point,), **counts,
    )  # fmt: skip


def test_hostile_text_in_every_column_stays_text(berlin: None) -> None:
    del berlin
    report = hostile_report()
    page = render_html(report)
    check_harmless(page)
    assert "7 * 7" in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    for text in ("\n".join(render_text(report)), "".join(render_json(report))):
        assert text.isascii()
        assert text.replace("\n", "").isprintable()
    assert max(map(len, render_text(report))) <= 78


def test_hostile_names_and_scripts_come_through_the_record_as_text(berlin: None, tmp_path: Path) -> None:
    del berlin
    host = generate_host(tmp_path, connects=200, users=3)
    name, script, at_ns = "x\udcff<script>\u202e", HOSTILE.encode(), (SINCE_S + 60) * NS
    tally = Tally()
    tally.add_connect(1, wall_ns=at_ns, address=b"\1\2\3\4", port=25, script=script, refused=False)
    tally.add_outcome(1, wall_ns=at_ns, address=b"\1\2\3\4", port=25, own=None, error=HOSTILE)
    change = ChangeRow(
        time_ns=at_ns, uid=1, name=name, event="block", by=HOSTILE, until_ns=at_ns, reason=HOSTILE,
        details={"source": HOSTILE, "rule": HOSTILE, "who": HOSTILE, "mode": "enforce", "block_kind": "block"},
    )  # fmt: skip
    store = Store.open(str(host.state), boot_id="b", wall_ns=at_ns, max_bytes=10**9)
    store.run([*tally.take(), statements.add(change)], durable=False)
    store.close()
    check_harmless(run_report(host, *TIMES, "--format", "html"))
    for form in ("text", "json"):
        text = run_report(host, *TIMES, "--format", form)
        assert text.isascii()
        assert text.replace("\n", "").isprintable()
        assert "x%FF%3Cscript%3E" in text


def test_own_addresses_say_who_used_each_and_stay_bounded(
    berlin: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del berlin
    host = generate_host(tmp_path, connects=200, users=3)
    tally, second_ns = Tally(), (SINCE_S + 5400) * NS
    for uid, count in (*((2000 + number, 40 - number) for number in range(30)), (4_000_000_000, 1)):
        for error in [HOSTILE, *[None] * (count - 1)]:
            own = b"\xc6\x33\x64\x07"
            tally.add_outcome(uid, wall_ns=second_ns, address=b"\1\2\3\4", port=25, own=own, error=error)
    for number in range(250):  # a tenant may claim any number of them (IPV6_FREEBIND)
        own = b"\x20\x01" + number.to_bytes(14, "big")
        tally.add_outcome(2000 + number % 5, wall_ns=second_ns, address=b"\1\2\3\4", port=25, own=own, error=None)
    store = Store.open(str(host.state), boot_id="b", wall_ns=second_ns, max_bytes=10**9)
    store.run(tally.take(), durable=False)
    store.close()
    report = json.loads(run_report(host, *TIMES, "--format", "json"))
    first = report["own_addresses"][0]
    assert (first["address"], first["connected"], first["failed"], first["user_count"]) == ("198.51.100.7", 735, 31, 31)
    assert [(row["uid"], row["connected"], row["failed"]) for row in first["users"]] == [
        *((2000 + number, 39 - number, 1) for number in range(30)), (4_000_000_000, 0, 1),
    ]  # fmt: skip
    who = [row["user"] for row in first["users"]]
    assert first["users"][0]["first"] == "2026-10-25T01:30:00.000000+02:00"
    assert report["own_count"] == len(report["own_addresses"]) == 1 + 250
    text = run_report(host, *TIMES)
    assert "OWN ADDRESSES (20 of 251, the busiest)" in text
    assert (
        "      735      31     31  198.51.100.7\n" + 26 * " " + f"{who[0]} 40, {who[1]} 39, {who[2]} 38 and 28 more\n"
        in text
    )
    assert max(map(len, text.splitlines())) <= 78
    tree = check_harmless(run_report(host, *TIMES, "--format", "html"))
    rows = read_table(tree, "own")
    assert (len(rows), rows[0][:4]) == (100, ["735", "31", "31", "198.51.100.7"])
    assert rows[0][4].startswith(f"{who[0]} (40, 2026-10-25 01:30 to 2026-10-25 01:30), {who[1]} (39")
    assert rows[0][4].endswith(", ...")
    monkeypatch.setattr("smtpguard.state.host_history.MAX_LISTED", 3)
    report = json.loads(run_report(host, *TIMES, "--format", "json"))
    (first,) = report["own_addresses"]
    assert (len(first["users"]), first["connected"], first["user_count"], report["own_count"]) == (3, 735, 31, 251)
    assert "Of 251 own addresses the busiest 1 are listed." in report["unseen"]


def test_where_nobody_looked_it_never_says_that_nobody_sent(berlin: None, tmp_path: Path) -> None:
    del berlin
    host = generate_host(tmp_path, connects=200, users=3)
    for form in ("text", "html"):
        text = run_report(host, "--since", "2026-10-01 00:00", "--until", "2026-10-02 00:00", "--format", form)
        assert "UNKNOWN: nothing was watched in this time" in text
        assert "The record begins at 2026-10-24 22:00 +0200." in text
        assert "no attempt" not in text.lower()
    partly = run_report(host, "--since", "2026-10-24 20:00", "--until", "2026-10-24 22:30")
    assert "No attempt was seen, but 2 h were not watched." in partly
    json_partly = json.loads(
        run_report(host, "--since", "2026-10-24 20:00", "--until", "2026-10-24 22:30", "--format", "json")
    )
    assert json_partly["watched_s"] == 1800
    assert json_partly["messages"] is None
    assert "Mail handed to the local mail server (sendmail, mail()) is not counted." in json_partly["unseen"]


def test_the_fullest_windows_are_held_against_the_rules_that_hold_for_the_user(host: GeneratedHost) -> None:
    before = json.loads(run_report(host, *TIMES, "--format", "json"))["fullest"]
    first = next(row for row in before if row["rule"] == "hourly")
    config = host.config.with_name("own.yaml")
    config.write_text(
        host.config.read_text()
        + f"users:\n  - {{match: {{uids: [{first['uid']}]}}, rules: {{hourly: {{limit: {first['held'] + 1}}}}}}}\n"
        "  - {match: {uids: ['2000-2299']}, rules: {mx: {limit: 1000000}}}\n"
    )
    config.chmod(0o600)
    args = ["report", "--config", str(config), *TIMES, "--format", "json"]
    report = json.loads(CliRunner().invoke(main, args, catch_exceptions=False).stdout)
    assert report["fullest"][0] == first | {"limit": first["held"] + 1}
    others = [row for row in before if row["rule"] == "hourly" and row["uid"] != first["uid"]]
    assert others
    assert [row for row in report["fullest"] if row["rule"] == "hourly"][1 : 1 + len(others)] == others
    assert not any("of `users`" in sentence for sentence in report["unseen"])


def test_a_part_that_takes_too_long_is_named_and_a_bar_shows_how_far_it_is(
    host: GeneratedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(_socket: str, _verb: str, timeout_s: float = 0, *, part: str, **asked: Any) -> Json:  # noqa: ANN401 - JSON
        del timeout_s
        if part == "rules":
            return {"rows": [], "overrides": [[]]}
        if part in ("hours", "destinations"):
            return {"late": True}
        with History(str(host.state)) as history:
            found = collect_part(history, cast("Part", part), HostQuestion(**asked))
        return found | {"items": found.pop("rows")}

    monkeypatch.setattr("smtpguard.control.client.ask", ask)
    monkeypatch.setattr("smtpguard.cli.report_source.MAX_USERS", 10)
    report = json.loads(run_report(host, *TIMES, "--format", "json"))
    assert (report["month"], report["destinations"], report["connects"] > 0) == (None, [], True)
    assert "Not read, as it took too long: destinations, month." in report["unseen"]
    assert any("rules of all, not those of `users`" in sentence for sentence in report["unseen"])
    seconds, shown = iter(range(100)), list[str]()
    monkeypatch.setattr("smtpguard.cli.report_source.time", Mock(monotonic=lambda: next(seconds) / 2))
    monkeypatch.setattr("smtpguard.cli.report_source.click.echo", lambda text, **_: shown.append(text))
    monkeypatch.setattr("smtpguard.cli.report_source.sys", Mock(stderr=Mock(isatty=lambda: True)))
    run_report(host, *TIMES)
    assert re.fullmatch(r"\r\[#+-+\] \w+ +", shown[0])
    assert len(shown) > 5, "after a second each part is told"
    assert not shown[-1].strip(), "it is gone at the end"


def test_a_report_in_a_file_is_read_by_nobody_else(host: GeneratedHost, tmp_path: Path) -> None:
    path = tmp_path / "r.html"
    path.write_text("old")
    path.chmod(0o644)
    assert run_report(host, *TIMES, "--format", "html", "--out", str(path)) == ""
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text().endswith("</html>\n")
    done = CliRunner().invoke(main, ["report", "--config", str(host.config), "--out", "/nowhere/r"])
    assert (done.exit_code, "can't be written" in done.stderr) == (1, True)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_browser_shows_the_page_and_runs_nothing(host: GeneratedHost, berlin: None, tmp_path: Path) -> None:
    del berlin
    tree = require("chromium-headless-shell", "fonts-dejavu-core")
    program = next(
        path for path in tree.root.glob("usr/**/*headless*shell*") if path.is_file() and os.access(path, os.X_OK)
    )
    pages = {"day": run_report(host, *TIMES, "--format", "html"), "hostile": render_html(hostile_report())}
    for name, page in pages.items():
        (tmp_path / f"{name}.html").write_text(page)
        command = [
            str(program),
            "--no-sandbox",
            "--disable-gpu",
            "--virtual-time-budget=2000",
            "--window-size=1000,1600",
        ]
        picture = tmp_path / f"{name}.png"
        done = subprocess.run(
            [*command, "--enable-logging=stderr", f"--screenshot={picture}", f"file://{tmp_path}/{name}.html"],
            env=tree.environment(), capture_output=True, text=True, timeout=300, check=True,
        )  # fmt: skip
        assert picture.stat().st_size > 10_000
        assert "Content Security Policy" not in done.stderr, "the style's own sum is right, and nothing else was tried"
        assert "Uncaught" not in done.stderr


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_million_connects_agree_with_their_log_within_3_s_and_60_mb(berlin: None, tmp_path: Path) -> None:
    del berlin
    host = generate_host(tmp_path, connects=1_080_000, users=300)
    command = [sys.executable, "-c", MEASURE, sys.executable, "-P", "-m", "smtpguard", "report", "--config"]
    command += [str(host.config), *TIMES, "--format"]
    for form in ("json", "text", "html"):
        begun = time.monotonic()
        done = subprocess.run([*command, form], capture_output=True, text=True, check=True, timeout=120)
        took_s = time.monotonic() - begun
        cpu_s, peak_kb = map(float, done.stderr.split()[-2:])
        print(f"{form}: {took_s:.2f} s, {cpu_s:.2f} of the processor, {peak_kb / 1024:.0f} MB")
        assert peak_kb < 60 * 1024
        assert cpu_s < 3
        assert took_s < 9, "others may use the machine"
        if form == "json":
            check_agreement(json.loads(done.stdout), count_log(host))
