"""What a tenant writes into process name, binary and directory: one line, no forged field, nobody else named."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from smtpguard.demo.lab import PEER4
from smtpguard.logline import parse_line
from tests.support import hostile
from tests.support.host import SPAMMER, Host, wait_for

pytestmark = pytest.mark.kernel

FORGED = b"x\n2026-02-18T13:39:28.123456+01:00 USER=web02 UID=61102 EVENT=EXCEEDED RULE=r COUNT=9 LIMIT=1"
FIELDS = ["PID", "PORT", "DST", "SENSOR", "RESULT", "ATTR", "PROC", "EXE", "CWD", "SCRIPT", "RDNS"]
TEXTS = {
    "spaces": b"a b  c",
    "newline": b"a\nUSER=root\nUID=0",
    "cr": b"a\rb",
    "escape": b"\x1b[2J\x1b]0;owned\x07",
    "quotes": b'"q" UID="0',
    "backslash": rb"a\x22\n\\",
    "nel": "\u0085".encode(),
    "line-separator": "\u2028x".encode(),
    "broken-utf8": b"\xff\xfe\xc3(",
    "forged-line": FORGED,
}


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host(dry_run=True, attribution={"rdns": False}) as made:
        made.start()
        yield made


@pytest.mark.parametrize("name", TEXTS)
def test_one_line_and_no_forged_field(host: Host, name: str) -> None:
    text = TEXTS[name]
    directory = host.lab.directory / f"home-{name}"
    directory.mkdir(mode=0o755)
    host.lab.directory.chmod(0o755)
    cwd = bytes(directory) + b"/" + text.replace(b"/", b"_")
    before = len(host.log_lines())
    words = [sys.executable, hostile.__file__, "--uid", str(SPAMMER[1]), "--comm", text[:15].hex(), "--cwd", cwd.hex()]
    child = host.lab.start([*words, PEER4, "25"], inside=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "connected\n"
    lines = wait_for(lambda: host.log_lines()[before:], 3)
    child.kill()
    assert len(lines) == 1, "one attempt, one line"
    assert re.fullmatch(r"[\x20-\x7e]+", lines[0])
    parsed = parse_line(lines[0])
    assert (parsed.user, parsed.uid, parsed.event) == (SPAMMER[0], SPAMMER[1], "CONNECT")
    assert parsed.fields["PROC"] == text[:15]
    assert parsed.fields["CWD"] in (cwd, None), "the directory itself, or not known; never something else"
    assert list(parsed.fields) == FIELDS


def test_diagnostics_drive_no_terminal(host: Host) -> None:
    done = host.cli("block", "\x1b[2Jnobody\n")
    assert done.returncode == 1
    assert "\x1b" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert Path(host.config).exists()
