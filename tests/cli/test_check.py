"""smtpguard check."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from smtpguard.cli import main
from smtpguard.doctor.rules import can_see_outcomes
from smtpguard.resources import shipped


@pytest.fixture(autouse=True)
def _no_other_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SMTPGUARD_CONFIG", raising=False)
    monkeypatch.setattr("smtpguard.settings.load.SYSTEM_PATH", str(tmp_path / "none.yaml"))
    monkeypatch.setattr("smtpguard.doctor.rules.can_see_outcomes", lambda _: True)  # who runs this may not look


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "g.yaml"
    path.write_text(text)
    return str(path)


def test_shipped_defaults() -> None:
    result = CliRunner().invoke(main, ["check"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "shipped defaults: ok: dry run; sources auto; ports 25 465 587 2525; 11 rules",
        "note: dry run. Nothing is refused.",
    ]


def test_warnings_leave_the_code_alone(tmp_path: Path) -> None:
    path = write(tmp_path, "dry_run: false\nexempt: {users: ['a*']}\nsources: [bpf]\nports: [25]")
    result = CliRunner().invoke(main, ["check", "--config", path])
    assert result.exit_code == 0
    assert result.stdout.startswith(
        f"{path}: ok: enforcing; sources [bpf]; ports 25; 8 rules\nwarning: exempt.users 'a*': a"
    )


def test_names_that_are_not_there(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "dry_run: false\nexempt: {users: [root, nowhere], groups: [daemon, nogroup-here]}\n"
        "users: [{match: {users: [nobody-x], groups: [g-x]}, rules: {hourly: {limit: 1}}}]\n"
        "control: {group: ops-x}\nshared_users: {users: [not-here]}\n"
        "metrics: {textfile: /not-here/smtpguard.prom, users: true, group: prom-x}",
    )
    result = CliRunner().invoke(main, ["check", "--config", path])
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1:] == [
        "warning: exempt.users: there is no user 'nowhere' on this host",
        "warning: users[0].match.users: there is no user 'nobody-x' on this host",
        "warning: exempt.groups: there is no group 'nogroup-here' on this host",
        "warning: users[0].match.groups: there is no group 'g-x' on this host",
        "warning: control.group: there is no group 'ops-x' on this host",
        "warning: metrics.group: there is no group 'prom-x' on this host",
        (
            "warning: metrics.textfile: /not-here: not accessible: No such file or directory"
            " (install -d -m 0755 /not-here)"
        ),
    ]


def test_errors(tmp_path: Path) -> None:
    path = write(tmp_path, "dryrun: true\nports: [0]")
    result = CliRunner().invoke(main, ["check", "--config", path])
    assert (result.exit_code, result.stdout) == (78, "")
    assert result.stderr.splitlines() == [
        f"{path}:1: unknown key 'dryrun'; did you mean 'dry_run'?",
        f"{path}:2: ports[0]: 0 is not a port from 1 to 65535",
        "smtpguard: 2 errors",
    ]


def test_one_error_that_is_about_the_file(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["check", "--config", str(tmp_path / "x")])
    assert result.exit_code == 78
    assert result.stderr.splitlines() == [f"{tmp_path}/x: no such file, but --config names it", "smtpguard: 1 error"]


def test_all_errors_are_counted(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["check", "--config", write(tmp_path, "exempt: {users: [" + "5, " * 50 + "]}")])
    assert result.stderr.splitlines()[-1] == "smtpguard: 50 errors"


def test_json(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["check", "--json"])
    assert result.exit_code == 0
    shown = json.loads(result.stdout)
    assert (shown["ok"], shown["file"], shown["errors"], shown["dry_run"]) == (True, None, [], True)
    assert shown["rules"][0] == "mx-fanout"
    assert (shown["warnings"], shown["notes"]) == ([], ["dry run. Nothing is refused"])
    result = CliRunner().invoke(main, ["check", "--json", "--config", write(tmp_path, "ports: [0]")])
    assert result.exit_code == 78
    assert json.loads(result.stdout) == {
        "ok": False,
        "errors": [f"{tmp_path}/g.yaml:1: ports[0]: 0 is not a port from 1 to 65535"],
        "warnings": [],
    }


def test_hostile_text_does_not_reach_the_terminal(tmp_path: Path) -> None:
    path = write(tmp_path, '"\\e[2J\\u2028": 1\ncgroup: "\\e]0;x\\a"')
    result = CliRunner().invoke(main, ["check", "--config", path])
    assert result.exit_code == 78
    assert all(line.isascii() and line.isprintable() for line in result.stderr.splitlines())


BYTES = "{name: mb, count: bytes, limit: 5, window: 1h, action: warn}"


@pytest.mark.parametrize(
    ("rules", "outcomes", "code", "note"),
    [
        ("", True, 0, None),
        ("", False, 0, "note: rule volume needs the source bpf; it is not available: the rule is inactive"),
        ("", None, 0, "note: rule volume needs the source bpf; run check as root to see whether it is there"),
        (f"rules: [{BYTES}]", True, 0, None),
        (f"rules: [{BYTES}]", None, 0, None),
        (f"rules: [{BYTES}]", False, 78, None),
    ],
)
def test_a_rule_that_this_host_can_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rules: str, outcomes: bool | None, code: int, note: str | None
) -> None:
    """Nobody chose a shipped rule: without bpf it is inactive and named. One that somebody wrote is missed."""
    monkeypatch.setattr("smtpguard.doctor.rules.can_see_outcomes", lambda _: outcomes)
    path = write(tmp_path, f"dry_run: false\n{rules}")
    result = CliRunner().invoke(main, ["check", "--config", path])
    assert result.exit_code == code
    assert result.stdout.splitlines()[1:] == ([note] if note else [])
    if code:
        assert "rule mb can't be counted" in result.stderr
    shown = json.loads(CliRunner().invoke(main, ["check", "--json", "--config", path]).stdout)
    assert shown["ok"] is (code == 0)
    if not code:
        inactive = {True: [], False: ["volume"] if not rules else [], None: None}[outcomes]
        assert shown["inactive_rules"] == inactive


def test_a_copy_of_the_shipped_rules_is_nobodys_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where sources leave bpf out, the rule of bytes that was only copied is no error; one that was changed is."""
    monkeypatch.setattr("smtpguard.doctor.rules.can_see_outcomes", can_see_outcomes)
    text = (shipped("config") / "smtpguard.yaml").read_text("utf-8").replace("sources: auto  ", "sources: [nflog]")
    result = CliRunner().invoke(main, ["check", "--config", write(tmp_path, text)])
    assert result.exit_code == 0
    assert "note: rule volume needs the source bpf; it is not available: the rule is inactive" in result.stdout
    result = CliRunner().invoke(main, ["check", "--config", write(tmp_path, text.replace("200000000", "200000001"))])
    assert result.exit_code == 78
    assert "'bytes' needs the source bpf, but sources is [nflog]" in result.stderr
