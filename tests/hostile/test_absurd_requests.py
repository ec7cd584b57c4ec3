"""Attack 5: control.group's members send figures that no window, clock or file can hold; or a state file has them."""

import inspect
import json
import math
import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from smtpguard.daemon.serve.handlers import Handlers
from smtpguard.daemon.serve.requests import (
    BlockRequest,
    Request,
    UnblockRequest,
    UnfitError,
    list_arguments,
    read_request,
)
from smtpguard.errors import DecodeError
from smtpguard.model import NS
from smtpguard.state.migrations import migrate
from smtpguard.state.plausible import is_plausible
from smtpguard.state.rows import AllowanceRow
from tests.support.host import INNOCENT, SPAMMER, Host, wait_for

RULE = {"name": "burst", "count": "connections", "limit": 5, "window": "10m", "action": "block", "block": "10m"}
HUGE = 10**25
ABSURD: tuple[tuple[str, dict[str, Any]], ...] = (
    ("allow", {"user": SPAMMER[0], "for_ns": NS, "limit": -5, "window_ns": NS}),
    ("allow", {"user": SPAMMER[0], "for_ns": 60 * NS, "limit": HUGE, "window_ns": NS}),
    ("allow", {"user": SPAMMER[0], "for_ns": 60 * NS, "limit": 5, "window_ns": -NS}),
    ("allow", {"user": SPAMMER[0], "for_ns": 60 * NS, "limit": 5, "window_ns": HUGE}),
    ("allow", {"user": SPAMMER[0], "for_ns": 60 * NS, "limit": 5, "window_ns": 1}),
    ("allow", {"user": SPAMMER[0], "for_ns": 60 * NS, "limit": 5.5, "window_ns": NS}),
    ("allow", {"user": SPAMMER[0], "for_ns": -(10**30)}),
    ("allow", {"user": SPAMMER[0], "for_ns": HUGE}),
    ("allow", {"user": "x" * 60_000, "for_ns": NS}),
    ("allow", {"user": [SPAMMER[0]], "for_ns": NS}),
    ("allow", {"user": SPAMMER[0], "for_ns": 60 * NS, "reason": {"a": 1}}),
    ("block", {"user": SPAMMER[0], "for_ns": -(10**30)}),
    ("block", {"user": SPAMMER[0], "for_ns": 1.5}),
    ("block", {"user": SPAMMER[0], "for_ns": 10**300}),
    ("block", {"source": "fail2ban:x", "uid": -1, "user": SPAMMER[0], "for_ns": NS}),
    ("block", {"source": "fail2ban:x", "uid": 1 << 70, "user": SPAMMER[0], "for_ns": NS}),
    ("block", {"source": "fail2ban:x", "uid": SPAMMER[1], "at": 10**300, "for_ns": NS}),
    ("block", {"source": "fail2ban:x", "uid": SPAMMER[1], "at": -(10**300), "for_ns": NS}),
    ("block", {"source": "guard", "user": SPAMMER[0], "for_ns": NS}),
    ("block", {"user": SPAMMER[0], "for_ns": NS, "force": 1}),
    ("unblock", {"user": SPAMMER[0], "all": "yes"}),
    ("off", {"for_ns": -1}),
    ("off", {"for_ns": HUGE}),
    ("off", {"forns": 1}),
    ("nft", {"do": "flush"}),
    ("nft", {}),
    ("allow", {"user": SPAMMER[0]}),
    ("allow", {"user": SPAMMER[0], "for_ns": 32 * 86_400 * NS}),
    ("allow", {"user": SPAMMER[0], "for_ns": NS, "limit": 5}),
    ("allow", {"user": SPAMMER[0], "for_ns": NS, "window_ns": NS}),
    ("block", {"user": SPAMMER[0], "ports": []}),
    ("block", {"user": SPAMMER[0], "ports": [25, True]}),
    ("block", {"user": SPAMMER[0], "ports": 25}),
    ("status", {"user": SPAMMER[0]}),
    ("learn", {"seen": [[1, 25]]}),
    ("learn", {"seen": [[1, 25, HUGE]]}),
    ("learn", {"seen": [[-1, 25, 5]]}),
    ("learn", {"seen": [[1, 25, True]]}),
    ("learn", {"seen": [[1, 25, 5]] * 1001}),
    ("learn", {"spans": {"a": 1}}),
    ("learn", {"spans": [[-5, 5]]}),
    ("why", {"user": SPAMMER[0], "at_ns": (1 << 63) - 1}),
    ("why", {"user": SPAMMER[0], "at_ns": float(10**18)}),
)


def verbs() -> Handlers:
    names = inspect.signature(Handlers).parameters
    return Handlers(**{name: Mock() for name in names})


def shape_of(verb: str) -> type[Request]:
    shape: type[Request] = verbs().verbs[verb].shape
    return shape


@pytest.mark.parametrize(("verb", "args"), ABSURD)
def test_each_is_refused_with_what_it_may_be(verb: str, args: dict[str, Any]) -> None:
    with pytest.raises(
        DecodeError, match=r"has to be|does not know|for how long|go together|ensure, or remove"
    ) as caught:
        read_request(shape_of(verb), verb, args)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("at", [math.nan, math.inf, -math.inf])
def test_no_moment_is_not_a_number(at: float) -> None:
    with pytest.raises(DecodeError, match="seconds since 1970"):
        read_request(shape_of("block"), "block", {"at": at})


def test_every_argument_has_a_kind() -> None:
    for verb, found in verbs().verbs.items():
        for name, (_, take) in list_arguments(found.shape).items():
            with pytest.raises(UnfitError):
                pytest.fail(f"{verb} takes any {name}: {take(object())}")


def test_what_is_checked_comes_as_it_is_meant() -> None:
    told = {"user": "web01", "for_ns": 10**20, "ports": [587, 25], "at": 7, "force": True, "reason": None}
    request = read_request(BlockRequest, "block", told)
    assert request == BlockRequest(user="web01", for_ns=10**20, ports=(587, 25), at=7.0, force=True)
    assert read_request(UnblockRequest, "unblock", {"all": True}).everybody
    assert read_request(Request, "status", {}) == Request()


def send(host: Host, line: bytes) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(10)
        client.connect(f"{host.lab.directory}/control.sock")
        client.sendall(line + b"\n")
        answer = client.makefile("rb").readline()
    found: dict[str, Any] = json.loads(answer)
    return found


@pytest.mark.kernel
def test_the_guard_lives_judges_and_starts_again() -> None:
    with Host(rules=[RULE]) as host:
        host.start()
        for verb, args in ABSURD:
            answer = send(host, json.dumps({"verb": verb, **args}).encode())
            assert answer["ok"] is False, (verb, args)
        for line in (
            b'{"verb": "allow", "user": "web01", "for_ns": NaN}',
            b'{"verb": "block", "at": 1e999}',
            b"[" * 9999,
        ):
            assert send(host, line)["ok"] is False
        status = host.cli("status", "--json")
        assert status.returncode == 0, status.stdout
        assert host.connect(INNOCENT, 3).ok == 3
        done = host.connect(SPAMMER, 12)
        assert (done.ok, done.refused) == (5, 7)
        assert host.stop() == 0
        host.start()
        assert host.connect(SPAMMER, 3).refused == 3


def put(path: Path, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(sql, values)
        connection.commit()


@pytest.mark.kernel
def test_rows_of_a_state_file_are_not_believed() -> None:
    """As an older version wrote them, or a disk."""
    later = time.time_ns() + 3600 * NS
    with Host(rules=[RULE]) as host:
        path = host.lab.directory / "state.db"
        with closing(sqlite3.connect(path)) as connection:
            migrate(connection)
        path.chmod(0o600)
        allow = (
            "INSERT INTO allowances (uid, name, since_ns, until_ns, max_count, window_ns, by, reason)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        )
        put(path, allow, INNOCENT[1], INNOCENT[0].encode(), 1, later, -5, NS, b"admin", b"")
        put(path, allow, SPAMMER[1], SPAMMER[0].encode(), 1, later, 5, -NS, b"admin", b"")
        put(path, allow, "web03", b"web03", "then", "never", None, None, b"admin", b"")
        block = (
            "INSERT INTO blocks (uid, name, source, kind, since_ns, until_ns, mode, reason, level, ranges, ports,"
            " netns, boot, ids) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, '', '[]')"
        )
        put(path, block, 0, b"root", b"admin", "block", 1, later, "enforce", b"", 0, "[]", "")
        put(path, block, -7, b"x", b"admin", "block", 1, later, "enforce", b"", 0, "[]", "")
        put(path, block, INNOCENT[1], INNOCENT[0].encode(), b"admin", "evil", 1, later, "enforce", b"", 0, "[]", "")
        put(path, block, 61103, b"web03", b"admin", "block", 1, later, "enforce", b"", 0, "[[0, 4294967295]]", "")
        put(path, block, 61999, b"", b"admin", "block", 1, later, "enforce", b"", 0, "{", "")
        put(path, block, 61990, b"x", b"admin", "block", 1, later, "enforce", b"", 0, "[]", "evil")
        put(path, block, 61991, b"x", b"admin", "block", 1, later, "enforce", b"", 0, "[]", "25,99999")
        put(path, block, 61992, b"x", b"admin", "block", 1, later, "enforce", b"", 0, "[]", "-25")
        put(path, block, 61993, b"x", b"admin", "block", 1, later, "enforce", b"", 0, "[]", "0")
        put(path, "INSERT INTO switches VALUES ('off', 'x', 'y', x'00')")
        host.start()
        assert "rows that can't be true were left out" in host.stderr()
        assert host.connect(INNOCENT, 3).ok == 3
        assert host.connect(SPAMMER, 12).ok == 5
        wait_for(lambda: host.events("BLOCK"))
        assert [row["USER"] for row in host.events("BLOCK")] == [SPAMMER[0]]
        assert host.stop() == 0


def test_an_ordinary_row_is_plausible() -> None:
    row = AllowanceRow(uid=1001, name="web01", since_ns=NS, until_ns=2 * NS, by="admin")
    assert is_plausible(row)
