"""What an administrator reads at three in the morning, word for word, each from the code that says it.

The rule: user, what, until when, then the next command; under 20 words a sentence; durations as people say them.
"""

import logging
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from click.testing import CliRunner

from smtpguard.actions.base import Reach
from smtpguard.actions.nft.difference import Difference
from smtpguard.cli import main
from smtpguard.cli.blocks import render_blocks
from smtpguard.cli.status import render_status
from smtpguard.daemon.enforce.set_comparison import render_difference
from smtpguard.daemon.record.enrichment_queue import Entry
from smtpguard.daemon.record.journal import Journal
from smtpguard.doctor.accounts import judge_mail_servers
from smtpguard.doctor.finding import ExaminedHost
from smtpguard.doctor.installation import check_configuration, judge_time
from smtpguard.errors import ConfigError, GuardError
from smtpguard.model import NS, Block, BreakerChange, Connect, Subject, Verdict
from smtpguard.policy.engine import Engine
from smtpguard.settings import MINUTE_NS, BreakerLimits, Rule, Settings
from smtpguard.settings.load import load_settings
from smtpguard.settings.on_reload import find_changes, render_changes
from smtpguard.text import render_duration
from tests.support.policy import T0, People, connect, engine_of, person
from tests.unit.test_guard import Host
from tests.unit.test_overview import Parts

SHOP = 1017
AT_S = 1_771_421_400
"""2026-02-18 13:30 UTC."""
FANOUT = Rule(
    name="mx-fanout",
    ports=frozenset({25}),
    count="networks",
    limit=10,
    window_ns=10 * MINUTE_NS,
    action="block",
    block_ns=30 * MINUTE_NS,
)
SLOW = Rule(
    name="mx-slow",
    ports=frozenset({25}),
    count="networks",
    limit=4,
    window_ns=24 * 60 * MINUTE_NS,
    action="warn",
)
PEOPLE = People([person(SHOP, "tenant", "shop17"), person(33, "shared", "www-data", reason="many sites share it")])
SCRIPT = b"/home/shop17/htdocs/wp-content/plugins/x/send.php:41"


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


class Desk:
    """A real engine and journal, and what they say in the log of the service."""

    def __init__(self, caplog: pytest.LogCaptureFixture, engine: Engine) -> None:
        caplog.set_level(logging.INFO)
        self._caplog = caplog
        self.engine = engine
        offset_ns = AT_S * NS - T0
        wall = Mock(offset_ns=offset_ns, to_wall_ns=lambda ns: ns + offset_ns)
        self.now_ns = T0
        events = Mock(next_deadline=Mock(return_value=None))
        self.journal = Journal(events, Mock(), wall, lambda: self.now_ns, looker=None, rdns=None)

    def attempt(self, number: int, *, uid: int = SHOP, script: bytes | None = SCRIPT) -> None:
        made: Connect = connect(number, uid=uid, address=bytes([198, 18, number, 25]), script=script)
        self.now_ns = made.time_ns
        decisions = self.engine.feed(made)
        self.journal.add(
            Entry(
                connect=made,
                account=PEOPLE.account(uid),
                subject=Subject(id=uid),
                verdicts=[d for d in decisions if isinstance(d, Verdict)],
                blocks=[d for d in decisions if isinstance(d, Block)],
            )
        )
        self.journal.waiting.on_time(self.now_ns)

    @property
    def said(self) -> list[str]:
        return self._caplog.messages


@pytest.mark.parametrize(
    ("rules", "settings", "uid", "said"),
    [
        (
            [FANOUT],
            {},
            SHOP,
            (
                "shop17 BLOCKED on port 25 until 14:00: 11 networks in 10 min, limit 10 (rule mx-fanout). "
                "Script: .../send.php:41. See: smtpguard why shop17"
            ),
        ),
        (
            [FANOUT],
            {"dry_run": True},
            SHOP,
            (
                "DRY RUN, nothing refused: shop17 would be blocked on port 25 until 14:00: "
                "11 networks in 10 min, limit 10 (rule mx-fanout). Script: .../send.php:41. See: smtpguard why shop17"
            ),
        ),
        (
            [FANOUT],
            {},
            33,
            (
                "REPORT ONLY (shared user), nothing refused: www-data would be blocked on port 25 until 14:00: "
                "11 networks in 10 min, limit 10 (rule mx-fanout). Script: .../send.php:41. See: smtpguard why www-data"
            ),
        ),
        (
            [FANOUT],
            {"block_by": "fail2ban"},
            SHOP,
            (
                "shop17 over a limit on port 25, left to fail2ban: 11 networks in 10 min, limit 10 (rule mx-fanout). "
                "Script: .../send.php:41. See: smtpguard why shop17"
            ),
        ),
        (
            [SLOW],
            {},
            SHOP,
            (
                "shop17 over a limit on port 25, nothing refused: 5 networks in 24 h, limit 4 (rule mx-slow). "
                "Script: .../send.php:41. See: smtpguard why shop17"
            ),
        ),
    ],
)
def test_who_exceeds_a_limit(
    caplog: pytest.LogCaptureFixture, rules: list[Rule], settings: dict[str, Any], uid: int, said: str
) -> None:
    desk = Desk(caplog, engine_of(*rules, people=PEOPLE, **settings))
    for number in range(1, 20):
        desk.attempt(number, uid=uid)
    assert desk.said == [said]


def test_an_incident_is_told_again_only_where_it_grows_worse(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(caplog, engine_of(SLOW, FANOUT, people=PEOPLE))
    for number in range(1, 20):
        desk.attempt(number)
    assert [line.split(":")[0] for line in desk.said] == [
        "shop17 over a limit on port 25, nothing refused",
        "shop17 BLOCKED on port 25 until 14",
    ]
    desk.now_ns += 3600 * NS
    desk.journal.on_time(desk.now_ns)
    assert desk.said[2] == (
        "shop17: incident over after 6 s (rules: mx-slow, mx-fanout). "
        "15 attempts, 0 refused, at most 15 a minute, 15 destinations."
    )


def test_the_safety_brake(caplog: pytest.LogCaptureFixture) -> None:
    host = Host(breaker=BreakerLimits(blocks=3, per_ns=10 * MINUTE_NS))
    host.execution.act([BreakerChange(tripped=True, blocks=4, mode="enforce", time_ns=1)])
    host.execution.act([BreakerChange(tripped=False, blocks=0, mode="enforce", time_ns=2)])
    host.execution.act([BreakerChange(tripped=True, blocks=4, mode="dry-run", time_ns=3)])
    brake = (
        "SAFETY BRAKE: 4 users blocked in 10 min, more than 3. Further users are only slowed down. "
        "Wrong limit? smtpguard blocks. Stop all: smtpguard off"
    )
    assert caplog.messages == [
        brake,
        "Safety brake released: new offenders are blocked again.",
        f"DRY RUN, nothing refused. {brake}",
    ]


def test_why_somebody_is_refused() -> None:
    engine = engine_of(FANOUT, people=PEOPLE)
    softened = engine_of(FANOUT, people=PEOPLE, breaker=BreakerLimits(blocks=0))
    for held in (engine, softened):
        for number in range(1, 20):
            held.feed(connect(number, uid=SHOP, address=bytes([198, 18, number, 25])))
    why = "11 networks in 10 min (limit 10), port 25"
    assert [block.reason for block in engine.blocks()] == [why]
    assert [block.reason for block in softened.blocks()] == [f"{why} (throttled, not blocked: safety brake)"]


def test_nobody_hears_that_whom_a_dry_run_let_pass_may_send_again() -> None:
    host = Host(dry_run=True)
    host.guard.take([connect(number) for number in range(1, 20)])
    assert [block.mode for block in host.engine.blocks()] == ["dry-run"]
    assert host.ask("unblock", user="u1001") == "Nothing of u1001 was refused (dry run). All counters are back to 0."
    host.guard.take([connect(number) for number in range(21, 40)])
    host.ask("block", user="u1002")
    assert host.ask("unblock", all=True) == (
        "u1002 may send again. Nothing of u1001 was refused (dry run). All counters are back to 0."
    )


def test_the_attempt_over_an_exact_limit_is_refused_as_those_after_it_are() -> None:
    """The kernel refuses it, and it is a verdict: `status` and `blocks` count it, as `incidents` and `report` do."""
    host = Host()
    host.enforcement.credits.is_known.return_value = False
    limit = host.guard.settings.rules[0].limit
    host.guard.take([connect(number, result="allowed") for number in range(limit)])
    over = connect(limit, result="refused", refused_by="credit", rule=0)
    host.guard.take([over, connect(limit + 1, result="refused", refused_by="block")])
    (block,) = host.engine.blocks()
    assert (host.execution.refused[block.subject], host.execution.refused_sum) == (2, 2)
    host.guard.take([connect(limit + 2, result="refused"), connect(limit + 3, uid=0, result="refused")])
    assert host.execution.refused_sum == 3, "another program's doing is not ours, but for whom a block is in force"


def test_an_unblock_does_not_take_back_that_attempts_were_refused() -> None:
    """A counter of `status --check` that goes back is a wrong rate in every graph."""
    host = Host()
    host.guard.take([connect(number) for number in range(1, 20)])
    host.guard.take([connect(number, result="refused", refused_by="block") for number in range(21, 26)])
    before = host.execution.refused_sum
    assert before == host.execution.refused.total() >= 5
    host.ask("unblock", user="u1001")
    assert (host.execution.refused.total(), host.execution.refused_sum) == (0, before)


def test_what_a_person_hears_who_unblocks_or_allows() -> None:
    host = Host()
    hour_ns = 3600 * NS
    host.ask("block", user="u1001")
    assert host.ask("unblock", user="u1001") == "u1001 may send again. All counters are back to 0."
    assert host.ask("unblock", user="u1001") == (
        "u1001 is not blocked by smtpguard. If mail still fails: smtpguard why u1001"
    )
    assert host.ask("unblock", all=True) == "Nobody is blocked by smtpguard."
    host.wall.offset_ns = AT_S * NS - T0
    assert host.ask("allow", user="u1003", for_ns=hour_ns) == (
        "u1003 may open 10 times the connections that each rule allows until 2026-02-18 14:30:00+00:00. "
        "Rules on networks of port 25 still apply (--everything lifts them, too)"
    )
    assert host.ask("allow", user="u1003", end=True) == "Allowance of u1003 removed. Normal limits apply now."
    with pytest.raises(GuardError) as caught:
        host.ask("unblock", user="newsletter")
    assert str(caught.value) == 'No account "newsletter" on this host. Give a login name, or uid:N.'


def test_an_allowance_that_is_too_long_is_told_in_days() -> None:
    with pytest.raises(GuardError) as caught:
        Host().ask("allow", user="u1001", for_ns=40 * 86_400 * NS)
    assert str(caught.value) == "allow: --for is 40 d, and has to be more than nothing and at most 31 days"


def row(user: str, uid: int, **more: object) -> dict[str, Any]:
    usual = {"kind": "block", "ports": [25], "until": AT_S + 1800, "by": "guard", "mode": "enforce", "refused": 0}
    return {"user": user, "uid": uid, "why": "11 networks in 10 min (limit 10), port 25", **usual, **more}


def test_blocks_lists_who_is_refused_apart_from_who_would_be() -> None:
    rows = [
        row("shop17", 1017, refused=169),
        row("web02", 1002, mode="dry-run"),
        row("web03", 1003, kind="allow", ports=None, by="admin", why="newsletter"),
    ]
    assert render_blocks(rows, None, now=AT_S) == [
        "REFUSED NOW",
        "USER    UID   KIND   PORTS  UNTIL                      LEFT    BY     REFUSED  WHY",
        (
            "shop17  1017  block  25     2026-02-18 14:00:00+00:00  30 min  guard  169      "
            "11 networks in 10 min (limit 10), port 25"
        ),
        "WOULD BE REFUSED (dry run)",
        "USER   UID   KIND   PORTS  UNTIL                      LEFT    BY     REFUSED  WHY",
        (
            "web02  1002  block  25     2026-02-18 14:00:00+00:00  30 min  guard  0        "
            "11 networks in 10 min (limit 10), port 25"
        ),
        "ALLOWED MORE",
        "USER   UID   KIND   PORTS  UNTIL                      LEFT    BY     REFUSED  WHY",
        "web03  1003  allow  all    2026-02-18 14:00:00+00:00  30 min  admin  0        newsletter",
    ]
    assert render_blocks([], None, now=AT_S) == ["Nobody is blocked, throttled or allowed."]
    watched = {"user": "web04", "uid": 1004, "until": "2026-02-25T13:38:01.5+00:00", "by": "admin", "reason": "cleaned"}
    assert render_blocks([], None, [watched], now=AT_S) == [
        "Nobody is blocked, throttled or allowed.",
        "WATCHED (limits are halved; end: smtpguard incidents unwatch USER)",
        "USER   UID   UNTIL             BY     WHY",
        "web04  1004  2026-02-25 13:38  admin  cleaned",
    ]
    assert render_blocks(rows[:1], {"until": AT_S + 60}, now=AT_S)[:2] == [
        "OFF until 2026-02-18 13:31:00+00:00: nobody is refused. What is suspended holds again after `smtpguard on`.",
        "SUSPENDED (off)",
    ]


def status_of(**more: object) -> dict[str, Any]:
    sources = [
        {"name": name, "state": state, "why": "", "restarts": 0, "events": 60, "lost": 0, "garbled": 0, "notes": {}}
        for name, state in (("bpf", "leads"), *((name, "standby") for name in ("nflog", "audit", "audit-log", "proc")))
    ]
    usual: dict[str, Any] = {
        "version": "0.1.0",
        "pid": 4711,
        "uptime": 7500,
        "mode": "enforce",
        "off_until": None,
        "troubles": [],
        "sources": sources,
        "enforcement": [
            {"name": "nft", "state": "table inet smtpguard is in place, in sync with the list (checked 20:50)"},
            {"name": "bpf", "state": "enforcing"},
        ],
        "blocks": 0,
        "throttles": 0,
        "would": 1,
        "refused": 30,
        "cap": None,
        "capped": [],
        "not_recorded": [],
        "script_names": {"asked": 200, "answered": 198, "off": ""},
        "limits": {"exact": ["mx-fanout"], "judged": {}},
        "notes": [],
        "parts": {"windows": "1 users, 0 times", "inactive": "rules as shipped that need the source bpf: volume"},
    }
    return {**usual, **more}


def test_status_in_words() -> None:
    assert render_status(status_of(troubles=["OFF: nobody is refused. Switch on: smtpguard on"])) == [
        "!! OFF: nobody is refused. Switch on: smtpguard on",
        "smtpguard 0.1.0: enforcing; up 2 h 5 min, pid 4711",
        "refused now: 0 blocked, 0 throttled. Dry run: 1 user would be.",
        "refused attempts: 30",
        "watching with: bpf (ready: nflog, audit, audit-log, proc)",
        "kernel (nft): table inet smtpguard is in place, in sync with the list (checked 20:50)",
        "kernel (bpf): enforcing",
        "script names: working, 99% answered",
        "exact limits: mx-fanout",
        "inactive: rules as shipped that need the source bpf: volume",
    ]
    off = render_status(status_of(mode="off", off_until=AT_S, blocks=2))
    assert off[:3] == [
        "smtpguard 0.1.0: OFF: nobody is refused; up 2 h 5 min, pid 4711",
        "off until 2026-02-18 13:30:00+00:00. Switch on: smtpguard on",
        "refused now: nobody. Suspended: 2 blocked, 0 throttled.",
    ]
    by_hand = "smtpguard 0.1.0: dry run: only who was blocked by hand is refused; up 2 h 5 min, pid 4711"
    assert render_status(status_of(mode="dry-run", blocks=1))[0] == by_hand
    judged = {"exact": [], "judged": {"volume": "what its sessions send in a second: each tells once a second"}}
    assert (
        "not exact: rule volume: beyond its limit what its sessions send in a second: each tells once a second"
        in render_status(status_of(limits=judged))
    )
    counters = render_status(status_of(), verbose=True)
    assert counters[-3:] == [
        "  source audit-log standby: 60 seen, 0 lost, 0 garbled",
        "  source proc standby: 60 seen, 0 lost, 0 garbled",
        "  windows: 1 users, 0 times",
    ]


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        (None, "off (attribution.process)"),
        ({"asked": 0, "answered": 0, "off": ""}, "working"),
        ({"asked": 50, "answered": 3, "off": ""}, "working, 6% answered (of a fast burst only some are asked)"),
        ({"asked": 9, "answered": 0, "off": "too many hang"}, "not working: too many hang"),
    ],
)
def test_how_script_names_are_told(figures: dict[str, Any] | None, said: str) -> None:
    assert f"script names: {said}" in render_status(status_of(script_names=figures))


def test_the_kernel_lacks_who_is_listed() -> None:
    names = {1001: "web01", 1002: "web02"}
    difference = Difference(missing=((1001, 1001), (1002, 1002)))
    assert render_difference(Reach("block", None), difference, lambda uid: names[uid]) == (
        "2 blocked users are missing in the kernel: web01, web02. Repair: smtpguard nft ensure"
    )
    parts = Parts()
    status = parts.overview
    parts.enforcement.comparison.differences = ("2 blocked users are missing in the kernel: web01, web02.",)
    assert status.troubles() == ["OUT OF SYNC: 2 blocked users are missing in the kernel: web01, web02."]
    parts.enforcement.comparison.differences = ()
    parts.engine.is_tripped.return_value = True
    assert status.troubles() == [
        "SAFETY BRAKE: users over a limit are only slowed down. Wrong limit? smtpguard blocks",
    ]


def test_a_table_that_was_removed_by_command_is_a_trouble() -> None:
    parts = Parts(dry_run=False)
    parts.enforcement.healing = False
    assert parts.overview.troubles() == [
        "NOT ENFORCING: the table was removed by `nft remove`. Put it back: smtpguard nft ensure"
    ]
    assert Parts(dry_run=True).overview.troubles() == []


@pytest.mark.parametrize(("up", "said"), [(True, "enforcing"), (False, "reporting only")])
def test_what_the_kernel_does(up: bool, said: str) -> None:
    parts = Parts()
    parts.enforcement.is_refusing.return_value = up
    assert parts.means.list_means()[1] == {"name": "bpf", "state": said}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x: 1\nbad: [", '2: not valid YAML near "bad: ["; a bracket is not closed?'),
        ("x: 1\nbad: [1,\n  2\ny: 3\n", '2: not valid YAML near "bad: [1,"; a bracket is not closed?'),
        ("x: 'abc\ny: 1\n", '1: not valid YAML near "x: \'abc"; a quote is not closed?'),
        ("foo:\n\tbar: 3\n", '2: not valid YAML near "bar: 3"; a tab? Indent with blanks'),
        (
            "a: b: c",
            '1: not valid YAML near "a: b: c"; wrong indentation, or text with a colon that needs quotes?',
        ),
        (
            "rules: [{name: r, count: recipients, limit: 1, window: 1m}]",
            (
                "1: rules[0].count: recipients is not supported in version 0.1. "
                "Use connections, destinations or networks."
            ),
        ),
        (
            "rules: [{name: r, count: mails, limit: 1, window: 1m}]",
            (
                "1: rules[0].count: 'mails' is not one of connections, destinations, networks, failures, bytes, "
                "messages, recipients; mails are not counted in this version: use connections, destinations or networks"
            ),
        ),
        ("ports: ['25']", "1: ports[0]: '25' is not a port from 1 to 65535 (take the quotes away)"),
        (
            "users: [{match: {users: [2000]}, rules: {mx-burst: {limit: 3}}}]",
            (
                "1: users[0].match.users[0]: 2000 is not a name "
                "(a uid? Then `uids: [2000]`; a login of digits goes in quotes)"
            ),
        ),
        (
            "dry_run: true\ndry_run: false\nports: [0]",
            (
                "2: dry_run is given twice, first in line 1 (keep one)\n"
                "FILE:3: ports[0]: 0 is not a port from 1 to 65535"
            ),
        ),
    ],
)
def test_what_is_wrong_with_a_configuration(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(str(path))
    assert str(caught.value).replace(str(path), "FILE") == f"FILE:{said}"


def test_help_says_what_a_command_does_for_its_reader() -> None:
    shown = CliRunner().invoke(main, ["--help"], terminal_width=120).stdout
    said = {line.split()[0]: " ".join(line.split()[1:]) for line in shown.splitlines() if line.startswith("  ")}
    assert said["status"] == "Show whether smtpguard is working."
    assert said["exempt"] == "Exit 0 if the user is exempt."
    assert said["unblock"] == "Let a user send again."
    assert "Show whether smtpguard is working:" in CliRunner().invoke(main, ["status", "--help"]).stdout


def test_a_reload_says_what_is_different_from_now_on() -> None:
    hourly = Rule(name="hourly", count="connections", limit=1000, window_ns=60 * MINUTE_NS, action="warn")
    before = Settings(dry_run=True, rules=(hourly,))
    after = Settings(dry_run=False, rules=(replace(hourly, limit=300),))
    changed = "dry_run true -> false (users are refused from now on), rules.hourly.limit 1000 -> 300"
    assert render_changes(find_changes(before, after)) == f"Loaded. Changed: {changed}."


def test_a_reload_of_a_broken_file_says_what_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text("bad: [")
    done = CliRunner().invoke(main, ["reload", "--config", str(path)])
    assert done.exit_code == 78
    assert done.stderr == (
        f'smtpguard: {path}:1: not valid YAML near "bad: ["; a bracket is not closed?\n'
        "The old configuration stays active.\n"
    )


def check(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "g.yaml"
    path.write_text(text)
    done = CliRunner().invoke(main, ["check", "--config", str(path)])
    assert done.exit_code == 0
    blind = "note: rule volume needs the source bpf; run check as root to see whether it is there"
    said = done.stdout.splitlines()[1:]
    return said if os.geteuid() == 0 else [line for line in said if line != blind]


def test_what_check_warns_of(tmp_path: Path) -> None:
    assert check(tmp_path, "exempt: {users: ['web*']}\n") == [
        (
            "warning: exempt.users 'web*': a customer who picks a login such as web99 would never be limited. "
            "Use a group or uids."
        ),
        "note: dry run. Nothing is refused.",
    ]
    rule = "name: a, count: connections, limit: 3, window: 1m, action: throttle, block: 2h"
    assert check(tmp_path, f"dry_run: false\nrules: [{{{rule}}}]\n") == [
        "warning: rule a: `block: 2h` is never used, as `action` is throttle, not block",
    ]


def test_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [
        *check_configuration(ExaminedHost(Settings())),
        judge_mail_servers(["mail", "list"]),
        judge_time(is_kept=False),
    ]
    monkeypatch.setattr("smtpguard.doctor.examine", lambda _: findings)
    assert CliRunner().invoke(main, ["doctor"]).stdout.splitlines() == [
        "note    configuration  shipped defaults: dry run (normal for the first days). Next: smtpguard blocks",
        "ok      mail servers   never blocked (mail server accounts): mail, list",
        "note    time           No time sync (chrony, timesyncd) found. Log times may be wrong. Install chrony.",
    ]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (0.2, "200 ms"),
        (57, "57 s"),
        (90, "1 min 30 s"),
        (600, "10 min"),
        (3600, "1 h"),
        (3899, "1 h 5 min"),
        (86_400, "24 h"),
        (31 * 86_400, "31 d"),
        (180_000, "2 d 2 h"),
        (-5, "0 s"),
    ],
)
def test_a_duration(seconds: float, shown: str) -> None:
    assert render_duration(seconds) == shown
