"""smtpguard replay."""

import gc
import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from smtpguard.cli import main
from tests.support.audit_records import Event, log

RULES = """
rules:
  - {name: burst, count: connections, limit: 3, window: 10m, action: block, block: 30m}
  - {name: daily, count: connections, limit: 5, window: 24h, action: warn}
exempt: {uids: ["3000-3999"], users: [newsletter], destinations: [198.51.100.0/24]}
"""
HOUR = 3_600_000


@pytest.fixture(autouse=True)
def _no_other_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.delenv("SMTPGUARD_CONFIG", raising=False)
    monkeypatch.setattr("smtpguard.settings.load.SYSTEM_PATH", str(tmp_path / "none.yaml"))
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def spam(count: int, *, uid: int = 61001, start: int = 0, step: int = 1000, **changes: Any) -> list[Event]:  # noqa: ANN401
    return [
        Event(serial=uid * 1000 + start + n, pid=uid % 100_000 * 100 + n, uid=uid, millis=start + n * step, **changes)
        for n in range(count)
    ]


def write(path: Path, *lists: list[Event]) -> str:
    events = sorted((event for events in lists for event in events), key=lambda event: event.millis)
    path.write_bytes(log([line for event in events for line in event.lines()]))
    return str(path)


def run(tmp_path: Path, *args: str, rules: str = RULES) -> Result:
    config = tmp_path / "g.yaml"
    config.write_text(rules)
    return CliRunner().invoke(main, ["replay", *args, "--config", str(config)])


def answer(tmp_path: Path, *args: str, rules: str = RULES) -> dict[str, Any]:
    result = run(tmp_path, "--json", *args, rules=rules)
    assert (result.exit_code, result.stderr) == (0, "")
    value: dict[str, Any] = json.loads(result.stdout)
    return value


def test_a_block_is_what_enforcement_would_have_made(tmp_path: Path) -> None:
    found = answer(tmp_path, write(tmp_path / "a", spam(10), spam(2, uid=61002)))
    assert found["connects"] == 12
    assert [(v["rule"], v["count"], v["limit"], v["user"]) for v in found["verdicts"]] == [("burst", 4, 3, "uid:61001")]
    (block,) = found["blocks"]
    assert (block["uid"], block["rule"], block["kind"], block["refused"]) == (61001, "burst", "block", 7)
    assert block["since"] < block["until"]
    assert {(u["uid"], u["connects"], u["would_refuse"]) for u in found["users"]} == {(61001, 10, 7), (61002, 2, 0)}


def test_loopback_is_no_connect_and_everybody_else_is(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a",
        spam(1, uid=61001, address="127.9.9.9"),
        spam(1, uid=61002, address="::1"),
        spam(1, uid=61003, address="0.0.0.0"),
        spam(5, uid=3000),
        spam(5, uid=0),
        spam(5, uid=61004, address="198.51.100.7"),
        spam(1, uid=61005, euid=0),
        spam(1, uid=4294967295),
    )
    found = answer(tmp_path, path)
    assert (found["connects"], found["loopback"]) == (17, 3)
    assert found["verdicts"] == found["blocks"] == []
    rows = {user["uid"]: user for user in found["users"]}
    assert (rows[3000]["connects"], rows[3000]["standing"]) == (5, "exempt")
    assert (rows[0]["standing"], rows[61005]["as_root"], rows[None]["user"]) == ("root", 1, "-")


def test_names_are_those_of_the_record(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a",
        spam(9, uid=61001, enriched=True, user="newsletter"),
        spam(9, uid=61002, enriched=True, user="web\x1b[2J"),
        spam(1, uid=0, enriched=True, user="not-root"),
    )
    found = answer(tmp_path, path)
    assert {user["user"]: user["standing"] for user in found["users"]} == {
        "newsletter": "exempt",
        "web%1B%5B2J": "tenant",
        "not-root": "root",
    }
    assert [block["user"] for block in found["blocks"]] == ["web%1B%5B2J"]


def test_a_day_is_counted_over_rotated_files_in_any_order(tmp_path: Path) -> None:
    events = spam(6, step=3 * HOUR)
    new, old = write(tmp_path / "audit.log", events[3:]), write(tmp_path / "audit.log.1", events[:3])
    packed = tmp_path / "audit.log.1.gz"
    packed.write_bytes(gzip.compress(Path(old).read_bytes()))
    for files in ((new, old), (old, new), (str(packed), new)):
        found = answer(tmp_path, *files)
        assert [(v["rule"], v["count"], v["action"]) for v in found["verdicts"]] == [("daily", 6, "warn")]
    late = write(tmp_path / "late", spam(6, step=5 * HOUR))
    assert answer(tmp_path, late)["verdicts"] == []


def test_two_runs_say_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "a", *(spam(40, uid=61000 + n, step=777, start=n) for n in range(20)))
    first = run(tmp_path, path, "--json").stdout
    assert first == run(tmp_path, path, "--json").stdout
    assert run(tmp_path, path).stdout == run(tmp_path, path).stdout


def test_a_block_ends_at_its_own_time(tmp_path: Path) -> None:
    found = answer(tmp_path, write(tmp_path / "a", spam(5), spam(5, start=2 * HOUR)))
    assert [(block["level"], block["refused"]) for block in found["blocks"]] == [(0, 2), (1, 2)]


def test_dry_run_and_newcomers_do_not_change_the_answer(tmp_path: Path) -> None:
    path = write(tmp_path / "a", spam(10))
    plain = answer(tmp_path, path)
    for dry_run in ("true", "false"):
        found = answer(tmp_path, path, rules=f"dry_run: {dry_run}\n{RULES}")
        assert (found["blocks"], found["verdicts"]) == (plain["blocks"], plain["verdicts"])
    novel = RULES.replace("exempt:", "  - {name: new, count: networks, limit: 0, window: 1m, novel: 30d}\nexempt:")
    found = answer(tmp_path, path, rules=novel)
    assert (found["verdicts"], found["rules_left_out"]) == (plain["verdicts"], ["new"])


def test_what_was_left_out_is_said(tmp_path: Path) -> None:
    events = [Event(serial=1), Event(serial=2, saddr="02000019"), Event(serial=3, exit_value=-106)]
    path = tmp_path / "a"
    path.write_bytes(log([line for event in events for line in event.lines()] + [Event(serial=9).sockaddr()]))
    found = answer(tmp_path, str(path))
    assert (found["connects"], found["garbled"], found["lost"], found["others"]) == (1, 1, 1, 1)
    assert "Left out: 1 garbled, 1 without their other half." in run(tmp_path, str(path)).stdout


def test_nothing_found_is_said(tmp_path: Path) -> None:
    path = tmp_path / "mail.log"
    path.write_text("Feb 18 not an audit log\n")
    result = run(tmp_path, str(path))
    assert (result.exit_code, result.stdout) == (1, "No SMTP connect could be read from this file.\n")
    use = "ausearch --raw where auditd runs, else journalctl _TRANSPORT=audit -o json"
    assert result.stderr == f"smtpguard: {path}: holds no audit record; use: {use}\n"
    result = run(tmp_path, str(path), "--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["connects"], found["verdicts"], found["since"]) == (1, 0, [], None)
    assert found["problems"] == [{"file": str(path), "problem": "holds no audit record", "use": use}]


def test_a_log_without_smtp_is_no_problem(tmp_path: Path) -> None:
    result = run(tmp_path, write(tmp_path / "a", [Event(port=443)]))
    assert (result.exit_code, result.stdout) == (0, "This file holds no SMTP connect that audit recorded.\n")


def test_the_same_uid_on_two_hosts_is_two_users(tmp_path: Path) -> None:
    path = write(tmp_path / "a", spam(3, node="web1"), spam(3, node="web2"), spam(1, uid=61002))
    found = answer(tmp_path, path)
    assert (found["verdicts"], found["blocks"], found["nodes"]) == ([], [], ["web1", "web2"])
    assert {(user["user"], user["node"], user["connects"]) for user in found["users"]} == {
        ("uid:61001@web1", "web1", 3),
        ("uid:61001@web2", "web2", 3),
        ("uid:61002", None, 1),
    }
    both = write(tmp_path / "a", spam(6, node="web1"), spam(6, node="web2", step=1100, enriched=True))
    found = answer(tmp_path, both)
    assert [(block["user"], block["node"], block["refused"]) for block in found["blocks"]] == [
        ("uid:61001@web1", "web1", 3),
        ("web01@web2", "web2", 3),
    ]
    assert "uid:61001@web1" in run(tmp_path, both).stdout


def test_one_host_is_not_named(tmp_path: Path) -> None:
    found = answer(tmp_path, write(tmp_path / "a", spam(5, node="web1")))
    assert [user["user"] for user in found["users"]] == ["uid:61001"]
    assert [block["user"] for block in found["blocks"]] == ["uid:61001"]


def test_accounts_of_another_host_are_not_looked_up_here(tmp_path: Path) -> None:
    rows = answer(tmp_path, write(tmp_path / "a", spam(1, uid=1, node="elsewhere"), spam(1, uid=1)))["users"]
    assert sorted(user["user"] for user in rows) == ["daemon", "uid:1@elsewhere"]


def test_a_file_beside_one_that_cannot_be_read_is_read(tmp_path: Path) -> None:
    (tmp_path / "mail.log").write_text("Feb 18 nothing\n")
    result = run(tmp_path, write(tmp_path / "a", spam(2)), str(tmp_path / "mail.log"), "--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["connects"], len(found["problems"])) == (1, 2, 1)


def test_standard_input_that_holds_nothing_is_named(tmp_path: Path) -> None:
    config = tmp_path / "g.yaml"
    config.write_text(RULES)
    result = CliRunner().invoke(main, ["replay", "-", "--json", "--config", str(config)], input=b"nothing\n")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["connects"]) == (1, 0)
    assert [(problem["file"], problem["problem"]) for problem in found["problems"]] == [("-", "holds no audit record")]


def test_standard_input(tmp_path: Path) -> None:
    config = tmp_path / "g.yaml"
    config.write_text(RULES)
    data = log([line for event in spam(2) for line in event.lines()])
    result = CliRunner().invoke(main, ["replay", "-", "--json", "--config", str(config)], input=data)
    assert json.loads(result.stdout)["connects"] == 2


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    result = run(tmp_path, str(tmp_path / "none"))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"smtpguard: {tmp_path / 'none'}: can't be read: No such file or directory\n"
    cut = tmp_path / "cut.gz"
    cut.write_bytes(gzip.compress(log(Event().lines()))[:40])
    result = run(tmp_path, str(cut))
    assert (result.exit_code, result.stderr.startswith(f"smtpguard: {cut}: is damaged or cut short")) == (1, True)


def test_without_a_file_it_is_a_usage_error() -> None:
    assert CliRunner().invoke(main, ["replay"]).exit_code == 2


@pytest.mark.parametrize(
    ("kind", "kept", "is_whole"),
    [(b"SYSCALL", 120, False), (b"SOCKADDR", -6, False), (b"SOCKADDR", -1, True), (b"SYSCALL", -1, True)],
)
def test_a_last_line_that_is_cut_is_named_beside_good_events(
    tmp_path: Path, kind: bytes, kept: int, is_whole: bool
) -> None:
    path = Path(write(tmp_path / "a", spam(5)))
    lines = path.read_bytes().splitlines(keepends=True)
    last = max(number for number, line in enumerate(lines) if line.startswith(b"type=" + kind))
    path.write_bytes(b"".join(lines[:last]) + lines[last][:kept])
    result = run(tmp_path, str(path))
    said = "" if is_whole else f"note: {path}: ends within a record, whose connection may be missing\n"
    assert (result.exit_code, result.stderr) == (0, said)
    assert "would be refused" in result.stdout


def test_a_bad_configuration_ends_it(tmp_path: Path) -> None:
    result = run(tmp_path, write(tmp_path / "a", spam(1)), rules="portz: [25]")
    assert (result.exit_code, result.stdout) == (78, "")


TEXT = """\
2026-02-18 07:33:20+00:00 to 2026-02-18 07:33:29+00:00 (9 s), rules of {config}
12 SMTP connects by 2 users; 7 of them, by 1 user, would be refused.

Verdicts:
TIME                       USER       RULE   COUNT             ACTION            AT
2026-02-18 07:33:23+00:00  uid:61001  burst  4 of 3 in 10 min  block for 30 min  port 25 of 192.0.2.1

Users:
USER       UID    CONNECTS  DESTINATIONS  VERDICTS  REFUSED  STANDING
uid:61001  61001  10        1             1         7
uid:3500   3500   2         1             0         0        exempt: exempt.uids: 3000-3999
"""


def test_people_get_two_tables(tmp_path: Path) -> None:
    result = run(tmp_path, write(tmp_path / "a", spam(10), spam(2, uid=3500)))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == TEXT.format(config=tmp_path / "g.yaml")


def test_long_tables_are_cut_unless_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a", *(spam(4, uid=61000 + n) for n in range(50)))
    short, whole = run(tmp_path, path).stdout, run(tmp_path, path, "--all").stdout
    assert "and 10 more (--all shows them)" in short
    assert "and 30 more (--all shows them)" in short
    assert "more" not in whole
    assert whole.count("uid:610") == 100


def test_destinations_are_remembered_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtpguard.cli.replay.MAX_DESTINATIONS", 3)
    monkeypatch.setattr("smtpguard.cli.replay._BATCH", 1)
    monkeypatch.setattr("smtpguard.sources.audit.replay._CHUNK_BYTES", 512)
    events = [event for n in range(20) for event in spam(1, start=n * 1000, address=f"192.0.2.{n}")]
    (user,) = answer(tmp_path, write(tmp_path / "a.log", events))["users"]
    assert user["connects"] == 20
    assert 3 <= user["destinations"] <= 6


def test_nobody_is_asked_for_names_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_keywords: object) -> None:
        raise AssertionError("a thread that would ask the host")

    monkeypatch.setattr("smtpguard.enrich.accounts.name_service.threading.Thread", refuse)
    (user,) = answer(tmp_path, write(tmp_path / "a.log", spam(2)))["users"]
    assert user["user"] == "uid:61001"


@pytest.mark.parametrize("name", ["a", "none"])
@pytest.mark.parametrize("was_on", [True, False])
def test_garbage_is_looked_for_afterwards_as_before(tmp_path: Path, name: str, *, was_on: bool) -> None:
    """Whoever runs it in a process of their own, as these tests do, keeps what they had."""
    write(tmp_path / "a", spam(10))
    before = gc.isenabled()
    try:
        gc.enable() if was_on else gc.disable()
        assert run(tmp_path, str(tmp_path / name)).exit_code == (name == "none")
        assert gc.isenabled() == was_on
    finally:
        gc.enable() if before else gc.disable()
