"""What commands say on stderr: no wider than a terminal, with paths and what is to be typed in one piece."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from smtpguard.cli import main
from smtpguard.cli.messages import wrap_message, wrap_usage
from smtpguard.cli.tables import count_cells
from smtpguard.errors import ConfigError, EnforceError, GuardError, NoDaemonError, StateError
from tests.support.pseudo_terminal import run_in_terminal

SOCKET = "/run/smtpguard/control.sock"
LONG = "/etc/smtpguard/a/folder/with/a/name/that/is/longer/than/a/line/of/a/terminal/is/wide/and/so/on/smtpguard.yaml"
ODD = "/var/lib/smtp guard of mine/the state of it.db"
ERRORS = [
    NoDaemonError("no daemon answers", where=SOCKET, fix="start it: systemctl start smtpguard, or smtpguard run"),
    StateError("holds what no smtpguard has written, or reads it wrong: KeyError: 'a b'", where=ODD, fix="report this"),
    ConfigError("others may write it", where=LONG, fix=f"chown root {LONG}; chmod go-w {LONG}"),
    EnforceError("no", fix="install zstd, or: zstd -dc /var/log/a/b/c/d/e/f/audit.log.1.zst | smtpguard replay -"),
    GuardError("the first sentence says this. The second one is a little longer and says that, with 設設設設設 in it."),
    GuardError('No account "somebody" on this host, and none in the history', fix="see `smtpguard status -v` for more"),
]
TYPED = (
    *(SOCKET, LONG, ODD, "systemctl start smtpguard", "smtpguard run", f"chown root {LONG}", f"chmod go-w {LONG}"),
    *("zstd -dc /var/log/a/b/c/d/e/f/audit.log.1.zst | smtpguard replay -", "`smtpguard status -v`"),
)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 132, 1000])
@pytest.mark.parametrize("error", ERRORS)
def test_lines_fit_and_what_is_to_be_typed_is_in_one(error: GuardError, width: int) -> None:
    line = f"smtpguard: {error}"
    found = wrap_message(line, width, () if error.where is None else (error.where,))
    assert " ".join(piece.strip(" ") for piece in found) == line, "nothing is lost"
    assert all(any(text in piece for piece in found) for text in TYPED if text in line)
    for piece in found:
        fits = count_cells(piece) <= width
        assert fits or any(text in piece for text in TYPED) or len(piece.split()) == 1
    if count_cells(line) <= width:
        assert found == [line]


def test_what_to_do_stands_in_a_line_of_its_own() -> None:
    assert wrap_message(f"smtpguard: {ERRORS[0]}", 80) == [
        f"smtpguard: {SOCKET}: no daemon answers",
        "    (start it: systemctl start smtpguard, or smtpguard run)",
    ]


def test_a_terminal_is_asked_for_its_width_and_a_pipe_gets_the_line(tmp_path: Path) -> None:
    columns, path = 40, str(tmp_path / "no.sock")
    argv = [sys.executable, "-m", "smtpguard", "status", "--socket", path]
    piped = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert piped.stderr.count("\n") == 1
    lines = run_in_terminal(["sh", "-c", '"$@"; test $? = 3', "sh", *argv], columns)
    assert len(lines) > 1
    assert all(len(line) <= columns or path in line for line in lines)
    assert " ".join(line.strip(" ") for line in lines) == piped.stderr.rstrip("\n")
    read = ["sh", "-c", '"$@" | cat; true', "sh", *argv]
    assert run_in_terminal(read, columns) == lines, "it is stderr that counts"


def test_without_any_output_the_exit_code_says_it(tmp_path: Path) -> None:
    command = f"exec {sys.executable} -m smtpguard status --socket {tmp_path}/none >&- 2>&-"
    assert subprocess.run(["/bin/sh", "-c", command], check=False, timeout=30).returncode == 3


def test_usage_errors_are_wrapped_too() -> None:
    argv = [sys.executable, "-m", "smtpguard", "events", "--since", "the day before the day before yesterday"]
    lines = run_in_terminal(["sh", "-c", '"$@"; test $? = 2', "sh", *argv], 50)
    begin = next(at for at, line in enumerate(lines) if line.startswith("Error: Invalid value"))
    assert len(lines) > begin + 1
    assert all(len(line) <= 50 for line in lines)
    told = CliRunner().invoke(main, argv[3:])
    assert told.exit_code == 2
    assert " ".join(line.strip(" ") for line in lines[begin:]) == told.stderr.splitlines()[-1]
    assert CliRunner().invoke(main, ["nft"]).stderr.startswith("Usage: main nft"), "a help text stays what it is"


def test_other_errors_of_click_stay_what_they_are() -> None:
    error = click.exceptions.NoArgsIsHelpError(click.Context(main, info_name="smtpguard"))
    assert wrap_usage(error) is error
