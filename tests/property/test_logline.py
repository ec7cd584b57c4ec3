"""Whatever a tenant puts into any field: one line, the event's fields and no other, and the same bytes back."""

import re
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from smtpguard.logline import (
    MAX_LINE_BYTES,
    LogLine,
    parse_line,
    render_block,
    render_connect,
    render_exceeded,
    render_message,
    render_unblock,
)
from smtpguard.model import Account, Block, Connect, Message, Subject, Verdict
from smtpguard.text import MAX_FIELD_BYTES, to_bytes

FORGED = '2026-02-18T13:39:28.123456+01:00 USER=root UID=0 EVENT=BLOCK BY=x UNTIL=y RULE=- MODE=enforce REASON="-"'
hostile_text = st.one_of(
    st.text(),
    st.text(alphabet=st.sampled_from(' "\\=\n\r\x1b\x00\x85\u2028\udcff\ud800x2-ABCUSERID')),
    st.sampled_from(["\n" + FORGED, '" UID=0 EVENT=EXCEEDED', "\\x0a", "\x1b[2J", '-"', "a\u0085b\u2028c"]),
)
hostile = st.one_of(st.none(), st.binary(max_size=1100), hostile_text.map(to_bytes))
wall = st.integers(0, 4_000_000_000_000_000_000)
numbers = st.integers(0, 2**63)
maybe_number = st.one_of(st.none(), st.integers(0, 2**22))
accounts = st.builds(
    Account, uid=st.integers(0, 2**32 - 2), name=st.one_of(st.none(), hostile_text), standing=st.just("tenant")
)
addresses = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))
attrs = st.sampled_from([None, "live", "slot", "guess"])
connects = st.builds(
    Connect, time_ns=numbers, uid=st.just(1001), port=st.integers(0, 65535), address=addresses, sensor=hostile_text,
    pid=maybe_number, result=st.sampled_from([None, "allowed", "refused"]), attr=attrs,
    proc=hostile, exe=hostile, cwd=hostile, script=hostile, rdns=hostile, user=hostile,
)  # fmt: skip
messages = st.builds(
    Message, time_ns=numbers, uid=st.just(1001), mta=hostile_text, queue_id=hostile, recipients=maybe_number,
    size_bytes=maybe_number, pid=maybe_number, attr=attrs, proc=hostile, exe=hostile, cwd=hostile, script=hostile,
)  # fmt: skip


def kept(value: bytes | None) -> bytes | None:
    """What a reader gets back of a quoted value."""
    if value is None or value == b"-":
        return None
    return value if len(value) <= MAX_FIELD_BYTES else value[:MAX_FIELD_BYTES] + b"..."


def checked(line: str, account: Account, wall_ns: int, event: str) -> LogLine:
    assert re.fullmatch(r"[\x20-\x7e]+", line)
    assert len(line) <= MAX_LINE_BYTES
    assert len(line.splitlines()) == 1
    parsed = parse_line(line)
    assert (parsed.wall_ns, parsed.uid, parsed.event) == (wall_ns // 1000 * 1000, account.uid, event)
    # What awk, cut and a shell loop see: as many words as the event has fields.
    words = line.split(" ")
    assert [word.partition("=")[0] for word in words[1:]] == ["USER", "UID", "EVENT", *parsed.fields]
    assert words[1] == f"USER={parsed.user}"
    return parsed


@given(connects, accounts, wall)
def test_connect(connect: Connect, account: Account, wall_ns: int) -> None:
    fields = checked(render_connect(connect, account, wall_ns), account, wall_ns, "CONNECT").fields
    assert (fields["PID"], fields["PORT"], fields["RESULT"]) == (connect.pid, connect.port, connect.result)
    values = [kept(value) for value in (connect.proc, connect.exe, connect.cwd, connect.script, connect.rdns)]
    assert [fields[key] for key in ("PROC", "EXE", "CWD", "SCRIPT", "RDNS")] == values


@given(connects, accounts, wall, hostile_text, st.sampled_from(["warn", "throttle", "block"]))
def test_exceeded(
    connect: Connect, account: Account, wall_ns: int, rule: str, action: Literal["warn", "throttle", "block"]
) -> None:
    verdict = Verdict(
        time_ns=connect.time_ns, subject=Subject(id=account.uid), account=account, rule=rule, count=3, limit=2,
        window_ns=1, action=action, until_ns=None, mode="dry-run", connect=connect,
    )  # fmt: skip
    fields = checked(render_exceeded(verdict, wall_ns), account, wall_ns, "EXCEEDED").fields
    assert (fields["COUNT"], fields["LIMIT"], fields["ACTION"], fields["MODE"]) == (3, 2, action, "dry-run")
    assert (fields["CWD"], fields["RDNS"]) == (kept(connect.cwd), kept(connect.rdns))


@given(accounts, wall, hostile_text, hostile_text, hostile_text)
def test_block_and_unblock(account: Account, wall_ns: int, rule: str, by: str, reason: str) -> None:
    block = Block(
        subject=Subject(id=account.uid), name=account.name, source=by, kind="block", since_ns=0, until_ns=1,
        mode="enforce", rule=rule, reason=reason,
    )  # fmt: skip
    fields = checked(render_block(block, account, wall_ns, wall_ns), account, wall_ns, "BLOCK").fields
    assert (fields["UNTIL"], fields["REASON"]) == (wall_ns // 1000 * 1000, kept(to_bytes(reason) or None))
    assert (fields["KIND"], fields["PORTS"]) == ("block", "all")
    checked(render_unblock(block, account, wall_ns, by=by, reason=reason), account, wall_ns, "UNBLOCK")


@given(messages, accounts, wall)
def test_message(message: Message, account: Account, wall_ns: int) -> None:
    fields = checked(render_message(message, account, wall_ns), account, wall_ns, "MESSAGE").fields
    assert (fields["RCPTS"], fields["SIZE"]) == (message.recipients, message.size_bytes)
    assert fields["SCRIPT"] == kept(message.script)
