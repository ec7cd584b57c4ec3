"""Tables and lines on a terminal: never wider than it, and whole where nobody's terminal is written to."""

import json
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from smtpguard.cli import blocks, events, incidents, main
from smtpguard.cli.status import render_status
from smtpguard.cli.tables import (
    INDENT,
    LEAST_WIDTH,
    count_cells,
    find_width,
    print_lines,
    render_table,
    shorten,
    wrap_line,
)
from smtpguard.notify.attempt import Attempt
from tests.support.pseudo_terminal import run_in_terminal
from tests.support.zone import local_zone
from tests.unit.test_hostile_columns import TEXTS
from tests.unit.test_wording import AT_S, row, status_of

_zone = local_zone("UTC")

PATH = "/home/clients/shop17.example/httpdocs/wp-content/plugins/contact-form-of-somebody/vendor/x/send.php:41"
REASON = "customer called on Monday, will clean up the site until the weekend and calls again"
BLOCKS = [
    row("shop17", 1017, refused=170),
    row("a-very-long-login-name-of-a-customer", 1018, by="fail2ban:smtpguard", ports=[25, 465, 587, 2525], why=REASON),
    row("web03", 1003, kind="allow", ports=None, by="admin", why="newsletter"),
]
EVENT = {
    "time": "2026-02-18T13:39:28.123456+01:00", "kind": "exceeded", "user": "shop17", "uid": 1017, "mode": "enforce",
    "rule": "mx-fanout", "count": 11, "limit": 10, "window": 600, "action": "block", "block": 1800,
    "dst": "2a00:1450:4001:c21::6c", "port": 25, "script": PATH,
}  # fmt: skip
NOTE = {"time": EVENT["time"], "kind": "note", "user": None, "by": "admin", "reason": "short"}
INCIDENT = {
    "id": "51bbdc18", "user": "shop17", "first": EVENT["time"], "last": EVENT["time"], "mode": "enforce", "verdicts": 3,
    "connects": 12_345, "refused": 12_300, "peak_per_minute": 999, "closed": None, "over": False,
    "rules": ["mx-fanout", "mx-burst", "submission-fanout", "hourly"],
}  # fmt: skip


def show(what: str, width: int | None) -> list[str]:
    if what == "blocks":
        return blocks.render_blocks(BLOCKS, None, now=AT_S, width=width)
    if what == "events":
        return render_table(events._HEAD, [events._row(EVENT), events._row(NOTE)], width=width)
    moments, fold = ("FIRST", "LAST"), incidents._FOLD
    return render_table(incidents._HEAD, [incidents._row(INCIDENT)], moments=moments, fold=fold, width=width)


@pytest.mark.parametrize("what", ["blocks", "events", "incidents"])
def test_no_table_is_wider_than_the_terminal_and_no_word_of_it_is_lost_at_80(what: str) -> None:
    full = show(what, None)
    assert max(map(count_cells, full)) > 120
    for width in range(LEAST_WIDTH, 250):
        lines = [line for line in show(what, width) if line not in ("REFUSED NOW", "ALLOWED MORE")]
        assert all(count_cells(line) <= width for line in lines), (width, lines)
    narrow = " ".join(show(what, 80))
    words = {word for line in full for word in line.split() if word != PATH and "+00:00" not in word}
    if what == "incidents":
        words -= {"13:39:28", "VERDICTS", "PEAK/MIN", "LAST", "MODE"}
    if what == "blocks":
        words -= {"UID", "BY", "LEFT", "a-very-long-login-name-of-a-customer"}
    assert not {word for word in words if word.rstrip(",;") not in narrow}
    assert show(what, max(map(count_cells, full))) == full, "as it is, where it fits"


def test_a_first_column_that_has_no_room_loses_its_middle() -> None:
    assert render_table(("USER", "UID", "WHAT"), [("web" * 80 + "01", "1001", "sent")], width=40) == [
        "USER",
        "webwebwebweb...ebwebwebwebwebwebwebweb01",
        "    uid: 1001; what: sent",
    ]


def test_at_80_columns_who_until_when_and_why_can_be_read() -> None:
    assert show("blocks", 80)[:6] == [
        "REFUSED NOW",
        "USER                                  UNTIL             REFUSED  WHY",
        "shop17                                2026-02-18 14:00  170",
        "    uid: 1017; kind: block; ports: 25; left: 30 min; by: guard",
        "    why: 11 networks in 10 min (limit 10), port 25",
        "a-very-long-login-name-of-a-customer  2026-02-18 14:00  0",
    ]
    assert blocks.render_blocks([BLOCKS[0]], None, now=AT_S, width=80) == [
        "REFUSED NOW",
        "USER    UID   KIND   PORTS  UNTIL             LEFT    BY     REFUSED  WHY",
        "shop17  1017  block  25     2026-02-18 14:00  30 min  guard  170",
        "    11 networks in 10 min (limit 10), port 25",
    ]
    assert show("events", 80) == [
        "TIME                 USER       KIND      MODE     WHAT",
        "2026-02-18 13:39:28  shop17     EXCEEDED  enforce",
        "    mx-fanout: 11 in 10 min, limit 10: block, 30 min, last to",
        "    2a00:1450:4001:c21::6c port 25 by",
        "    /home/clients/shop17.exa...ins/contact-form-of-somebody/vendor/x/send.php:41",
        "2026-02-18 13:39:28  everybody  NOTE               by admin, short",
    ]
    assert show("incidents", 80) == [
        "ID        USER    FIRST             MODE     ATTEMPTS  REFUSED  STATE    RULES",
        "51bbdc18  shop17  2026-02-18 13:39  enforce  12345     12300    goes on",
        "    last: 2026-02-18 13:39; verdicts: 3; peak/min: 999",
        "    rules: mx-fanout,mx-burst,submission-fanout,hourly",
    ]


def test_a_command_in_a_line_is_not_broken() -> None:
    watched = [{"user": "shop17", "until": "2026-02-25T13:38:01+00:00"}]
    lines = [part for line in render_status(status_of(watched=watched)) for part in wrap_line(line, 80)]
    assert max(map(count_cells, lines)) <= 80
    at = lines.index("watched: shop17: limits are halved until 2026-02-25 13:38.")
    assert lines[at + 1] == f"{INDENT}Undo: smtpguard incidents unwatch shop17"
    path = "/srv/" + "x" * 200
    fix = wrap_line(f"metrics.textfile: not writable. Fix: chown root {path}", 80, keeps_all=True)
    assert "".join(part.strip() for part in fix).endswith(path), "what is to be typed is there, whole"


def test_blanks_of_what_is_to_be_typed_stay_and_no_line_ends_amid_them() -> None:
    typed = "'/srv/two  blanks/of   some body/'"
    line = f"metrics.textfile: not writable, as users can change it. Fix: chown root {typed}"
    for width in range(LEAST_WIDTH, 100):
        for keeps_all in (False, True):
            lines = wrap_line(line, width, keeps_all=keeps_all)
            assert max(map(count_cells, lines)) <= width
            if width < len(INDENT) + len(typed):
                continue  # even a word may have to be cut
            assert all(part == part.rstrip() for part in lines)
            assert "two  blanks/of   some" in " ".join([lines[0], *(part[len(INDENT) :] for part in lines[1:])])


def test_a_long_word_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 10,000 letters what was left of it was counted anew for each line: 625,000 letters."""
    counted = 0

    def count(text: str) -> int:
        nonlocal counted
        counted += len(text)
        return count_cells(text)

    monkeypatch.setattr("smtpguard.cli.tables.count_cells", count)
    word = "\u00e4" * 10_000
    lines = wrap_line(word, 80, keeps_all=True)
    assert "".join(part.strip() for part in lines) == word
    assert counted < 8 * len(word)


@pytest.mark.parametrize(
    "words",
    [
        ["exempt", "uid:61003"],
        ["nft", "ensure"],
        ["nft", "remove"],
        ["notify", "test"],
        ["replay", "/dev/null"],
        ["setup", "--remove", "--root", "."],
    ],
)
def test_no_answer_is_wider_than_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(json.dumps({"version": 1, "control": {"socket": f"{tmp_path}/none.sock"}}), "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("smtpguard.cli.tables.find_width", lambda: 24)
    monkeypatch.setattr("smtpguard.cli.nft.ask_guard", lambda *_: f"table inet {'x' * 30} is in place. So it is.")
    watch = {"until": "2026-02-25T13:38:01+01:00", "allowed_until": "2026-02-19T09:00:00+01:00"}
    monkeypatch.setattr("smtpguard.control.client.ask", lambda *_, **__: {"items": [{"watch": watch}]})
    attempt = Attempt(channel="mail to root", kind="summary", is_sent=True, answer="250 2.0.0 Ok: queued as 4bXyZ1")
    monkeypatch.setattr("smtpguard.notify.attempt.send_samples", lambda *_: [attempt])
    told = CliRunner().invoke(main, [*words, "--config", str(config)])
    lines = told.stdout.splitlines()
    assert len(lines) > 1, told.output
    assert max(map(count_cells, lines)) <= 24


@pytest.mark.parametrize(
    ("text", "cells"),
    [("abc", 3), ("näh", 3), ("例え.テスト", 11), ("e\u0301", 1), ("\uff57\uff45\uff42", 6), ("\u200bx", 1), ("", 0)],
)
def test_wide_letters_take_two_cells(text: str, cells: int) -> None:
    assert count_cells(text) == cells


def test_lines_with_wide_letters_fit() -> None:
    line = "!! /etc/" + "設定" * 60 + ": line 16: " + "ファイル " * 40
    for width in range(LEAST_WIDTH, 120):
        for keeps_all in (False, True):
            assert max(map(count_cells, wrap_line(line, width, keeps_all=keeps_all))) <= width
        assert re.sub(r"\s", "", "".join(wrap_line(line, width, keeps_all=True))) == re.sub(r"\s", "", line)


def test_a_word_that_is_too_long_keeps_its_end() -> None:
    assert shorten("/home/web01/public_html/send.php:41", 20) == "/home.../send.php:41"
    assert shorten("short", 5) == "short"
    assert shorten("設定設定設定", 9) == "設...設定"


@pytest.mark.parametrize("hostile", TEXTS)
def test_hostile_text_in_a_narrow_table_drives_no_terminal(hostile: str) -> None:
    """Of the columns below a row the one with other people's words stands last: it can't be taken for another."""
    rows = [row("web01", 1001, by=hostile * 3, domain=hostile, why=f"{hostile} {'設' * 100}; by: root")]
    for width in (20, 40, 80):
        lines = blocks.render_blocks(rows, None, now=AT_S, width=width)
        assert all(line.isprintable() and count_cells(line) <= width for line in lines)
    text = "\n".join(blocks.render_blocks(rows, None, now=AT_S, width=80))
    assert text.index("why:") < text.index("by: root")


@pytest.mark.parametrize(
    ("columns", "env", "widest"),
    [(80, {}, 80), (200, {}, 137), (80, {"COLUMNS": "60"}, 60), (80, {"COLUMNS": "x"}, 80), (0, {}, 137)],
)
def test_a_real_terminal_is_asked_how_wide_it_is(columns: int, env: dict[str, str], widest: int) -> None:
    words = "word " * 25 + "last."
    code = f"from smtpguard.cli import tables; tables.print_table(('USER', 'WHAT'), [('web01', {words!r})])"
    lines = run_in_terminal([sys.executable, "-c", code], columns, env)
    assert widest - 6 < max(map(len, lines)) <= widest
    assert lines[-1].endswith("last.")


def test_whatever_is_no_terminal_gets_all(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert find_width() is None
    print_lines(["x" * 100 + " y", "a\nb"])
    assert capsys.readouterr().out == "x" * 100 + " y\na\nb\n"
