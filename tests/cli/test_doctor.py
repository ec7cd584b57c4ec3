"""smtpguard doctor on this very host: it may find anything, but it never fails and never changes a thing."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from smtpguard import doctor
from smtpguard.cli import main
from smtpguard.doctor import CHECKS
from smtpguard.doctor.finding import Finding


def run(*args: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["doctor", *args])
    return result.exit_code, result.stdout, result.stderr


def test_one_line_a_check(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text("dry_run: false")
    code, out, _ = run("--config", str(tmp_path / "g.yaml"))
    assert code in (0, 1, 4)
    names = [line[8:26].strip() for line in out.splitlines()]
    assert set(names) >= {*CHECKS, "sources"}
    assert all(line.split()[0] in ("ok", "note", "unknown", "bad", "fatal") for line in out.splitlines())


def test_json(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text("")
    _, out, _ = run("--json", "--config", str(tmp_path / "g.yaml"))
    findings = json.loads(out)["findings"]
    assert set(findings[0]) == {"name", "level", "found", "means", "fix"}


def test_a_bad_configuration_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text("prots: [25]")
    code, out, _ = run("--config", str(tmp_path / "g.yaml"))
    assert code != 0
    assert out.startswith("fatal   configuration")
    assert "g.yaml:1: unknown key 'prots'" in out


@pytest.mark.parametrize(
    ("levels", "euid", "code"),
    [
        (["ok", "note", "unknown", "bad"], 0, 0),
        (["ok", "fatal"], 0, 1),
        (["ok"], 1000, 4),
        (["fatal"], 1000, 4),
    ],
)
def test_exit_codes(monkeypatch: pytest.MonkeyPatch, levels: list[str], euid: int, code: int) -> None:
    monkeypatch.setattr("os.geteuid", lambda: euid)
    findings = [Finding(name=level, level=level, found="x") for level in levels]  # type: ignore[arg-type]
    monkeypatch.setattr(doctor, "examine", lambda _: findings)
    assert run()[0] == code


def test_hostile_text_does_not_reach_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = Finding(name="x", level="ok", found="\x1b[2J\n\u2028", means="it's", fix="")
    monkeypatch.setattr(doctor, "examine", lambda _: [finding])
    assert run()[1] == "ok      x  \\x1b[2J\\n\\u2028. it's\n"


@pytest.mark.parametrize("width", [40, 80, 100])
def test_on_a_terminal_findings_are_not_wider_and_whole(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    fix = f"chown root {'/srv' * 40}"
    finding = Finding(name="metrics", level="bad", found="can't be written", means="nobody sees them", fix=fix)
    monkeypatch.setattr("smtpguard.doctor.examine", lambda _host: [finding])
    (told,) = run()[1].splitlines()
    assert len(told) > 150, "in a pipe one line a check"
    monkeypatch.setattr("smtpguard.cli.doctor.find_width", lambda: width)
    lines = run()[1].splitlines()
    assert max(map(len, lines)) <= width
    assert "".join("".join(lines).split()) == "".join(told.split())
