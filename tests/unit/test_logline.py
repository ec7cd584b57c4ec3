"""Every line of the event log, byte for byte (CONTRACT, the log), and back."""

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, timedelta, timezone

import pytest

from smtpguard.errors import DecodeError
from smtpguard.logline import (
    parse_line,
    render_allow,
    render_block,
    render_connect,
    render_exceeded,
    render_message,
    render_suppressed,
    render_time,
    render_unblock,
)
from smtpguard.model import NS, Account, Block, Connect, Message, Subject, Verdict

WALL_NS = 1_771_418_368_123_456_789
WEB01 = Account(uid=1001, name="web01", standing="tenant")
NAMELESS = Account(uid=3999, name=None, standing="tenant")
STAMP = "2026-02-18T13:39:28.123456+01:00"


@pytest.fixture(autouse=True)
def _berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        yield
    time.tzset()


def connect(**changes: object) -> Connect:
    fields: dict[str, object] = {
        "time_ns": 5 * NS,
        "uid": 1001,
        "pid": 1087389,
        "port": 587,
        "address": bytes.fromhex("2a00145040010c21000000000000006c"),
        "sensor": "bpf",
        "result": "allowed",
        "attr": "live",
        "proc": b"php-fpm",
        "exe": b"/usr/sbin/php-fpm8.2",
        "cwd": b"/home/web01/htdocs",
        "script": b"/home/web01/htdocs/wp-content/plugins/x/send.php:41",
    }
    return Connect(**(fields | changes))  # type: ignore[arg-type]


def verdict(**changes: object) -> Verdict:
    fields: dict[str, object] = {
        "time_ns": 5 * NS,
        "subject": Subject(id=1001),
        "account": WEB01,
        "rule": "mx-fanout",
        "count": 11,
        "limit": 10,
        "window_ns": 600 * NS,
        "action": "block",
        "until_ns": 1805 * NS,
        "mode": "enforce",
        "connect": connect(),
    }
    return Verdict(**(fields | changes))  # type: ignore[arg-type]


CALLER = (
    'PROC="php-fpm" EXE="/usr/sbin/php-fpm8.2" CWD="/home/web01/htdocs"'
    ' SCRIPT="/home/web01/htdocs/wp-content/plugins/x/send.php:41"'
)


def test_connect_is_the_line_of_the_contract() -> None:
    assert render_connect(connect(), WEB01, WALL_NS) == (
        f"{STAMP} USER=web01 UID=1001 EVENT=CONNECT PID=1087389 PORT=587 DST=2a00:1450:4001:c21::6c SENSOR=bpf"
        f' RESULT=allowed ATTR=live {CALLER} RDNS="-"'
    )


def test_connect_of_which_nothing_is_known() -> None:
    seen = Connect(time_ns=0, uid=3999, port=25, address=b"\xc0\x00\x02\x01", sensor="proc")
    assert render_connect(seen, NAMELESS, WALL_NS) == (
        f"{STAMP} USER=uid:3999 UID=3999 EVENT=CONNECT PID=- PORT=25 DST=192.0.2.1 SENSOR=proc RESULT=- ATTR=-"
        ' PROC="-" EXE="-" CWD="-" SCRIPT="-" RDNS="-"'
    )


def test_a_uid_of_another_namespace_is_nobodys_here() -> None:
    foreign = Account(uid=1001, name=None, standing="tenant")
    line = render_connect(connect(netns=4026532001), foreign, WALL_NS)
    assert f"{STAMP} USER=uid:1001@4026532001 UID=1001 EVENT=CONNECT " in line
    assert parse_line(line).user == "uid:1001@4026532001"
    # A subordinate uid is its owner's, in a container too.
    assert " USER=web01 UID=1001 " in render_connect(connect(netns=4026532001, uid=100_005), WEB01, WALL_NS)
    told = verdict(account=foreign, subject=Subject(id=1001, scope=7), mode="dry-run")
    assert " USER=uid:1001@7 UID=1001 " in render_exceeded(told, WALL_NS)


def test_exceeded() -> None:
    assert render_exceeded(verdict(), WALL_NS) == (
        f"{STAMP} USER=web01 UID=1001 EVENT=EXCEEDED RULE=mx-fanout COUNT=11 LIMIT=10 WINDOW=600 ACTION=block"
        " BLOCK=1800 MODE=enforce PID=1087389 PORT=587 DST=2a00:1450:4001:c21::6c SENSOR=bpf"
        f' ATTR=live {CALLER} RDNS="-"'
    )


@pytest.mark.parametrize(
    ("until_ns", "shown"), [(None, "-"), (5 * NS + 1, "1"), (6 * NS, "1"), (6 * NS + 1, "2"), (4 * NS, "0")]
)
def test_block_seconds_are_rounded_up(until_ns: int | None, shown: str) -> None:
    assert f" BLOCK={shown} MODE=" in render_exceeded(verdict(until_ns=until_ns, action="throttle"), WALL_NS)


def test_block_and_unblock_and_allow() -> None:
    block = Block(
        subject=Subject(id=1001), name="web01", source="fail2ban:smtpguard", kind="block", since_ns=0, until_ns=1,
        mode="enforce", reason='spam "run"\nUSER=root',
    )  # fmt: skip
    until_ns = WALL_NS + 1800 * NS
    assert render_block(block, WEB01, WALL_NS, until_ns) == (
        f"{STAMP} USER=web01 UID=1001 EVENT=BLOCK BY=fail2ban:smtpguard UNTIL=2026-02-18T14:09:28.123456+01:00"
        r' RULE=- MODE=enforce REASON="spam\x20\x22run\x22\x0aUSER=root" KIND=block PORTS=all'
    )
    assert render_block(block, WEB01, WALL_NS, until_ns, by="admin(a b)").split()[4] == r"BY=admin(a\x20b)"
    throttle = replace(block, kind="throttle", ports=(25, 587))
    assert render_unblock(throttle, WEB01, WALL_NS, by="time") == (
        f'{STAMP} USER=web01 UID=1001 EVENT=UNBLOCK BY=time REASON="-" KIND=throttle PORTS=25,587'
    )
    older = f'{STAMP} USER=web01 UID=1001 EVENT=UNBLOCK BY=time REASON="-"'
    assert parse_line(older).fields == {"BY": "time", "REASON": None}, "of before 0.2"
    assert render_allow(NAMELESS, WALL_NS, until_ns, by="admin", reason="news\udcff") == (
        f"{STAMP} USER=uid:3999 UID=3999 EVENT=ALLOW BY=admin UNTIL=2026-02-18T14:09:28.123456+01:00"
        r' REASON="news\xff"'
    )


def test_message_and_suppressed() -> None:
    mail = Message(time_ns=0, uid=1001, mta="postfix", queue_id=b"1A7D92280D2", recipients=3, size_bytes=266, pid=7)
    assert render_message(mail, WEB01, WALL_NS) == (
        f"{STAMP} USER=web01 UID=1001 EVENT=MESSAGE PID=7 MTA=postfix QID=1A7D92280D2 RCPTS=3 SIZE=266 ATTR=-"
        ' PROC="-" EXE="-" CWD="-" SCRIPT="-"'
    )
    assert render_suppressed(WEB01, WALL_NS, count=712, seconds=60) == (
        f"{STAMP} USER=web01 UID=1001 EVENT=SUPPRESSED COUNT=712 SECONDS=60"
    )


def test_time_keeps_microseconds_exactly_and_knows_both_sides_of_a_clock_change() -> None:
    assert render_time(0, UTC) == "1970-01-01T00:00:00.000000+00:00"
    assert render_time(999_999, timezone(timedelta(hours=-3, minutes=-30))) == "1969-12-31T20:30:00.000999-03:30"
    assert render_time(4_102_444_799_999_999_999, UTC) == "2099-12-31T23:59:59.999999+00:00"
    summer_ends_ns = 1_792_890_000 * NS  # 2026-10-25 01:00 UTC, 03:00 becomes 02:00
    assert render_time(summer_ends_ns - NS) == "2026-10-25T02:59:59.000000+02:00"
    assert render_time(summer_ends_ns) == "2026-10-25T02:00:00.000000+01:00"


def test_parsing_gives_back_what_was_rendered() -> None:
    line = parse_line(render_exceeded(verdict(), WALL_NS) + "\n")
    assert (line.wall_ns, line.user, line.uid, line.event) == (WALL_NS // 1000 * 1000, "web01", 1001, "EXCEEDED")
    assert line.fields == {
        "RULE": "mx-fanout", "COUNT": 11, "LIMIT": 10, "WINDOW": 600, "ACTION": "block", "BLOCK": 1800,
        "MODE": "enforce", "PID": 1087389, "PORT": 587, "DST": "2a00:1450:4001:c21::6c", "SENSOR": "bpf",
        "ATTR": "live", "PROC": b"php-fpm", "EXE": b"/usr/sbin/php-fpm8.2", "CWD": b"/home/web01/htdocs",
        "SCRIPT": b"/home/web01/htdocs/wp-content/plugins/x/send.php:41", "RDNS": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        "",
        "\n",
        "2026-02-18T13:39:28.123456+01:00",
        "2026-02-18T13:39:28.123456 USER=a UID=1 EVENT=SUPPRESSED COUNT=1 SECONDS=60",
        "2026-02-30T13:39:28.123456+01:00 USER=a UID=1 EVENT=SUPPRESSED COUNT=1 SECONDS=60",
        f"{STAMP} USER=a UID=1 EVENT=SUPPRESSED SECONDS=60 COUNT=1",
        f"{STAMP} USER=a UID=1 EVENT=SUPPRESSED COUNT=1 SECONDS=60 MORE=1",
        f"{STAMP} USER=a b UID=1 EVENT=SUPPRESSED COUNT=1 SECONDS=60",
        f"{STAMP} USER=a UID=1 EVENT=OTHER COUNT=1",
        f'{STAMP} USER=a UID=1 EVENT=UNBLOCK BY=time REASON="a b"',
        f'{STAMP} USER=a UID=1 EVENT=UNBLOCK BY=time REASON="a\\"',
        f'{STAMP} USER=a UID=1 EVENT=UNBLOCK BY=time REASON="\\xZZ"',
        f'{STAMP} USER=a UID=1 EVENT=UNBLOCK BY=time REASON="{"a" * 50_000}"',
        f"{STAMP} USER=a UID=1 EVENT=SUPPRESSED COUNT=1 SECONDS=60\n{STAMP} USER=b UID=2 EVENT=SUPPRESSED COUNT=1",
    ],
)
def test_what_is_not_ours_is_refused(line: str) -> None:
    with pytest.raises(DecodeError):
        parse_line(line)
