"""The lines of `watch`: columns that scripts read, and text that drives no terminal."""

import json
import re
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from smtpguard.cli.watch_formats import Format, render_watch
from smtpguard.model import NS, Account, Connect

WEB = Account(uid=1001, name="web01", standing="tenant")


def connect(**changes: object) -> Connect:
    values: dict[str, object] = {
        "time_ns": 1,
        "uid": 1001,
        "pid": 1087389,
        "port": 587,
        "address": bytes.fromhex("2a00145040010c21000000000000006c"),
        "sensor": "bpf",
        "proc": b"php-fpm",
        "cwd": b"/home/web01/htdocs",
        **changes,
    }
    return Connect(**values)  # type: ignore[arg-type]


def test_classic_has_the_known_columns() -> None:
    line = render_watch("classic", connect(), WEB, 1771418368 * NS)
    found = re.fullmatch(
        r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] USER=(.{33}) PID=(.{8}) PROC=(.{25}) PORT=(.{5}) DST=(.{40}) CWD=(.*)",
        line,
    )
    assert found is not None
    assert [part.rstrip() for part in found.groups()] == [
        "web01",
        "1087389",
        "php-fpm",
        "587",
        "2a00:1450:4001:c21::6c",
        "/home/web01/htdocs",
    ]


def test_what_is_not_known_is_a_dash() -> None:
    line = render_watch("classic", connect(pid=None, proc=None, cwd=None), WEB, 0)
    assert "PID=-        PROC=-" in line
    assert line.endswith("CWD=-")
    assert json.loads(render_watch("json", connect(pid=None), WEB, 0))["pid"] is None


@given(st.binary(max_size=200), st.binary(max_size=200), st.sampled_from(get_args(Format)))
def test_hostile_text_is_one_printable_line(proc: bytes, cwd: bytes, form: str) -> None:
    line = render_watch(form, connect(proc=proc, cwd=cwd), WEB, NS)  # type: ignore[arg-type]
    assert re.fullmatch(r"[\x20-\x7e]+", line)
    if form == "json":
        assert json.loads(line)["user"] == "web01"
